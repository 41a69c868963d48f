#include "base/net.h"

#include "base/clock.h"
#include "base/file.h"

#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HOST     256
#define PORT     8
#define BACKLOG  64
#define EXPECTED "expected HOST:PORT, [IPv6]:PORT or :PORT"

static int parse_port(const char *text, const char *from, char port[static PORT], struct fz_err *err)
{
	size_t n = strlen(from);
	long v = n >= 1 && n <= 5 && strspn(from, "0123456789") == n ? strtol(from, NULL, 10) : -1;

	if (v < 0 || v > 65535)
		return fz_fail(err, FZ_EUSAGE, "%.280s: %s, where the port is a number up to 65535", text, EXPECTED);
	snprintf(port, PORT, "%ld", v);
	return 0;
}

int fz_net_split(const char *text, char host[static HOST], char port[static PORT], struct fz_err *err)
{
	const char *from = text, *end, *after;
	size_t n;

	if (text[0] == '[') {
		from = text + 1;
		end = strchr(from, ']');
		if (!end || end == from || end[1] != ':')
			return fz_fail(err, FZ_EUSAGE, "%.280s: %s", text, EXPECTED);
		after = end + 2;
	} else {
		end = strchr(text, ':');
		if (!end)
			return fz_fail(err, FZ_EUSAGE, "%.280s: there is no port, %s", text, EXPECTED);
		if (strchr(end + 1, ':'))
			return fz_fail(err, FZ_EUSAGE, "%.280s: %s (brackets around an IPv6 address)", text, EXPECTED);
		after = end + 1;
	}
	n = (size_t)(end - from);
	if (n >= HOST)
		return fz_fail(err, FZ_EUSAGE, "the host's name has more than %d bytes, %s", HOST - 1, EXPECTED);
	for (size_t i = 0; i < n; i++) /* a blank is a slip of the pen, and a name server would be asked for it */
		if ((unsigned char)from[i] <= ' ' || from[i] == 0x7f || from[i] == '[' || from[i] == ']')
			return fz_fail(err, FZ_EUSAGE, "%.280s: %s", text, EXPECTED);
	memcpy(host, from, n);
	host[n] = 0;
	return parse_port(text, after, port, err);
}

static int resolve(const char *text, const char *host, const char *port, int flags, struct addrinfo **out,
                   struct fz_err *err)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | flags};
	int rc = getaddrinfo(host, port, &hints, out);

	if (rc == 0)
		return 0;
	if (rc == EAI_MEMORY)
		return fz_fail_errno(err, ENOMEM, "resolving %s", text);
	return fz_fail(err, FZ_EPEER, "%s: the name %s has no address: %s", text, host,
	               rc == EAI_SYSTEM ? strerror(errno) : gai_strerror(rc));
}

/* Descriptors of connections: small messages leave at once, and a peer that is gone without a word is noticed. */
static void set_options(int fd)
{
	static const struct {
		int level, name, value;
	} options[] = {
	        {IPPROTO_TCP, TCP_NODELAY,      1             },
                {SOL_SOCKET,  SO_KEEPALIVE,     1             },
	        {IPPROTO_TCP, TCP_KEEPIDLE,     5             },
                {IPPROTO_TCP, TCP_KEEPINTVL,    3             },
	        {IPPROTO_TCP, TCP_KEEPCNT,      4             },
                {IPPROTO_TCP, TCP_USER_TIMEOUT, FZ_NET_DEAD_MS},
	};

	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
		(void)setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof(int)); /* a hint */
}

/* "1.2.3.4:5", "[::1]:5"; an IPv4 address that came in over an IPv6 socket is shown as IPv4. */
static int format(const struct sockaddr_storage *a, char out[static FZ_NET_ADDR])
{
	struct sockaddr_in v4 = {.sin_family = AF_INET};
	const struct sockaddr *sa = (const void *)a;
	socklen_t n = a->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(v4);
	char host[64], port[PORT];

	if (a->ss_family == AF_INET6) {
		const struct sockaddr_in6 *v6 = (const void *)a;

		if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) {
			memcpy(&v4.sin_addr, v6->sin6_addr.s6_addr + 12, 4);
			v4.sin_port = v6->sin6_port;
			sa = (const void *)&v4;
			n = sizeof(v4);
		}
	}
	if (getnameinfo(sa, n, host, sizeof(host), port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		return -EAFNOSUPPORT;
	snprintf(out, FZ_NET_ADDR, sa->sa_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
	return 0;
}

static int listen_one(const struct addrinfo *a, bool any)
{
	int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1, only = !any, saved;

	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) == 0 &&
	    (a->ai_family != AF_INET6 || setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof(only)) == 0) &&
	    bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
		return fd;
	saved = errno;
	fz_close(&fd);
	return -saved;
}

static bool is_any(const struct addrinfo *a)
{
	return a->ai_family == AF_INET6 &&
	       IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *)(const void *)a->ai_addr)->sin6_addr);
}

int fz_net_listen(const char *text, struct fz_err *err)
{
	char host[HOST], port[PORT];
	struct addrinfo *list = NULL;
	int rc = fz_net_split(text, host, port, err);
	bool all;

	if (rc < 0)
		return rc;
	all = !host[0] || !strcmp(host, "*");
	/* "::" takes both kinds; a kernel without IPv6 has the other one */
	rc = resolve(text, all ? "::" : host, port, AI_PASSIVE, &list, err);
	if (rc < 0)
		return rc;
	rc = -EADDRNOTAVAIL;
	for (struct addrinfo *a = list; a && rc < 0; a = a->ai_next)
		rc = listen_one(a, is_any(a));
	freeaddrinfo(list);
	if (all && (rc == -EAFNOSUPPORT || rc == -EADDRNOTAVAIL)) {
		rc = resolve(text, "0.0.0.0", port, AI_PASSIVE, &list, err);
		if (rc < 0)
			return rc;
		rc = listen_one(list, false);
		freeaddrinfo(list);
	}
	if (rc >= 0)
		return rc;
	switch (-rc) {
	case EADDRINUSE:
		return fz_fail(err, EADDRINUSE, "cannot listen on %s: another program does; choose another port", text);
	case EADDRNOTAVAIL:
		return fz_fail(err, EADDRNOTAVAIL, "cannot listen on %s: this host has no such address (see `ip addr`)",
		               text);
	case EACCES:
		return fz_fail(err, EACCES, "cannot listen on %s: ports below 1024 are for root; choose a higher one",
		               text);
	default:
		return fz_fail_errno(err, -rc, "cannot listen on %s", text);
	}
}

/* Waits until fd is ready: 0; -FZ_ETIMEOUT, -ECANCELED, -errno, without a sentence. */
static int wait_ready(int fd, short events, uint64_t deadline_ns, int cancel_fd)
{
	struct pollfd p[2] = {
	        {.fd = fd,        .events = events},
                {.fd = cancel_fd, .events = POLLIN}
        };

	for (;;) {
		uint64_t now = fz_mono_ns();
		uint64_t left_ms = deadline_ns > now ? (deadline_ns - now + 999999) / 1000000 : 0;
		int n = poll(p, cancel_fd >= 0 ? 2 : 1, left_ms > INT_MAX ? INT_MAX : (int)left_ms);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n <= 0) {
			if (n == 0 && fz_mono_ns() >= deadline_ns)
				return -FZ_ETIMEOUT;
			continue;
		}
		if (p[1].revents)
			return -ECANCELED;
		if (p[0].revents)
			return 0;
	}
}

static int connect_one(const struct addrinfo *a, uint64_t deadline_ns, int cancel_fd)
{
	int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), rc = 0, failed = 0;
	socklen_t n = sizeof(failed);

	if (fd < 0)
		return -errno;
	set_options(fd);
	if (connect(fd, a->ai_addr, a->ai_addrlen) < 0) {
		rc = errno == EINPROGRESS || errno == EINTR ? wait_ready(fd, POLLOUT, deadline_ns, cancel_fd) : -errno;
		if (rc == 0 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &n) < 0)
			rc = -errno;
		else if (rc == 0)
			rc = -failed;
	}
	if (rc == 0)
		return fd;
	fz_close(&fd);
	return rc;
}

int fz_net_connect(const char *text, int timeout_ms, int cancel_fd, struct fz_err *err)
{
	uint64_t deadline_ns = fz_mono_ns() + (timeout_ms > 0 ? (uint64_t)timeout_ms : 0) * 1000000;
	char host[HOST], port[PORT];
	struct addrinfo *list = NULL;
	unsigned left = 0;
	int telling = 0, rc = fz_net_split(text, host, port, err);

	if (rc < 0)
		return rc;
	if (!host[0] || !strcmp(host, "*") || !strcmp(port, "0"))
		return fz_fail(err, FZ_EUSAGE, "%s: a connection needs a host and a port: HOST:PORT or [IPv6]:PORT",
		               text);
	rc = resolve(text, host, port, 0, &list, err);
	if (rc < 0)
		return rc;
	for (struct addrinfo *a = list; a; a = a->ai_next)
		left++;
	/* an address that swallows packets gets its share of the time, not all of it */
	rc = -FZ_ETIMEOUT;
	for (struct addrinfo *a = list; a && rc < 0 && rc != -ECANCELED; a = a->ai_next, left--) {
		uint64_t now = fz_mono_ns();

		rc = connect_one(a, now >= deadline_ns ? now : now + (deadline_ns - now) / left, cancel_fd);
		/* "no route" to the kind of address that this host lacks says less than what the other one said */
		if (rc < 0 && (!telling || telling == -ENETUNREACH || telling == -EAFNOSUPPORT || rc == -ECANCELED))
			telling = rc;
	}
	freeaddrinfo(list);
	if (rc >= 0)
		return rc;
	switch (-telling) {
	case ECANCELED:
		return fz_fail(err, ECANCELED, "connecting to %s was given up", text);
	case FZ_ETIMEOUT:
	case ETIMEDOUT:
		return fz_fail(err, FZ_ETIMEOUT,
		               "no answer from %s within %d ms: is the host up, and does a firewall drop the port?",
		               text, timeout_ms);
	case ECONNREFUSED:
		return fz_fail(err, FZ_EPEER, "%s refuses the connection: nothing listens there (fazt mount --listen)",
		               text);
	default:
		return fz_fail(err, FZ_EPEER, "cannot reach %s: %s", text, strerror(-telling));
	}
}

int fz_net_accept(int fd, char peer[static FZ_NET_ADDR], struct fz_err *err)
{
	struct sockaddr_storage a = {0};
	socklen_t n = sizeof(a);
	int c = accept4(fd, (struct sockaddr *)&a, &n, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (c < 0) {
		switch (errno) {
		case EAGAIN:
		case EINTR:
		case ECONNABORTED: /* what was wrong with the one that came: accept(2) lists them */
		case EPROTO:
		case ENETDOWN:
		case ENOPROTOOPT:
		case EHOSTDOWN:
		case ENONET:
		case EHOSTUNREACH:
		case EOPNOTSUPP:
		case ENETUNREACH:
		case EPERM:
			return fz_fail(err, EAGAIN, "nobody has connected");
		default:
			return fz_fail_errno(err, errno, "cannot accept a connection");
		}
	}
	set_options(c);
	if (format(&a, peer) < 0)
		snprintf(peer, FZ_NET_ADDR, "?");
	return c;
}

int fz_net_local(int fd, char out[static FZ_NET_ADDR], struct fz_err *err)
{
	struct sockaddr_storage a = {0};
	socklen_t n = sizeof(a);
	int rc;

	if (getsockname(fd, (struct sockaddr *)&a, &n) < 0)
		return fz_fail_errno(err, errno, "the address of a socket");
	rc = format(&a, out);
	return rc < 0 ? fz_fail_errno(err, -rc, "the address of a socket") : 0;
}

static int fail_transfer(int rc, const char *doing, struct fz_err *err)
{
	switch (-rc) {
	case FZ_ETIMEOUT:
		return fz_fail(err, FZ_ETIMEOUT, "the peer took too long: the time for %s is over", doing);
	case ECANCELED:
		return fz_fail(err, ECANCELED, "%s was given up", doing);
	case EPIPE:
	case ECONNRESET:
	case ECONNABORTED:
		return fz_fail(err, ECONNRESET, "the peer has closed the connection");
	case ETIMEDOUT:
	case EHOSTUNREACH:
	case ENETUNREACH:
	case ENETDOWN:
		return fz_fail(err, ECONNRESET, "the connection is lost: %s", strerror(-rc));
	default:
		return fz_fail_errno(err, -rc, "%s", doing);
	}
}

int fz_net_read(int fd, void *data, size_t n, uint64_t deadline_ns, int cancel_fd, struct fz_err *err)
{
	uint8_t *p = data;

	while (n) {
		ssize_t got = recv(fd, p, n, 0);
		int rc = got < 0 ? -errno : 0;

		if (got > 0) {
			p += got;
			n -= (size_t)got;
			continue;
		}
		if (got == 0)
			rc = -ECONNRESET;
		if (rc == -EAGAIN)
			rc = wait_ready(fd, POLLIN, deadline_ns, cancel_fd);
		if (rc < 0 && rc != -EINTR)
			return fail_transfer(rc, "reading from the peer", err);
	}
	return 0;
}

int fz_net_write(int fd, const void *data, size_t n, uint64_t deadline_ns, int cancel_fd, struct fz_err *err)
{
	const uint8_t *p = data;

	while (n) {
		ssize_t put = send(fd, p, n, MSG_NOSIGNAL);
		int rc = put < 0 ? -errno : 0;

		if (put >= 0) {
			p += put;
			n -= (size_t)put;
			continue;
		}
		if (rc == -EAGAIN)
			rc = wait_ready(fd, POLLOUT, deadline_ns, cancel_fd);
		if (rc < 0 && rc != -EINTR)
			return fail_transfer(rc, "writing to the peer", err);
	}
	return 0;
}
