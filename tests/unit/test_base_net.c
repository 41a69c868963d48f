/* test_base_net.c - addresses, listening, connecting, and transfers with a deadline, on the loopback interface. */
#include "base/net.h"

#include "base/clock.h"
#include "tests/unit/ok.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N(a)   (sizeof(a) / sizeof((a)[0]))
#define MINUTE (fz_mono_ns() + UINT64_C(60) * 1000000000) /* never reached */
#define SOON   (fz_mono_ns() + UINT64_C(20) * 1000000)    /* always reached */

static struct fz_err err;

#define OK(call) OK_OR(call, err)

static void assert_says(const char *part)
{
	if (!strstr(err.text, part))
		fail_msg("'%s' does not say '%s'", err.text, part);
}

static void addresses(void **state)
{
	static const struct {
		const char *text, *host, *port; /* host NULL: refused */
	} cases[] = {
	        {"db1.example.com:7070", "db1.example.com", "7070" },
	        {"10.0.0.2:1",           "10.0.0.2",        "1"    },
	        {":7070",                "",                "7070" },
	        {"*:7070",               "*",               "7070" },
	        {"a:0",                  "a",               "0"    },
	        {"a:65535",              "a",               "65535"},
	        {"a:00080",              "a",               "80"   },
	        {"[::1]:7070",           "::1",             "7070" },
	        {"[::]:0",               "::",              "0"    },
	        {"[fe80::1%eth0]:7",     "fe80::1%eth0",    "7"    },
	        {"[2001:db8::5:6]:443",  "2001:db8::5:6",   "443"  },
	        {"",	             NULL,              NULL   },
	        {"host",                 NULL,              NULL   },
	        {"host:",                NULL,              NULL   },
	        {":",                    NULL,              NULL   },
	        {"host:65536",           NULL,              NULL   },
	        {"host:000080",          NULL,              NULL   },
	        {"host:-1",              NULL,              NULL   },
	        {"host:+1",              NULL,              NULL   },
	        {"host: 1",              NULL,              NULL   },
	        {"host:1 ",              NULL,              NULL   },
	        {"host:0x10",            NULL,              NULL   },
	        {"host:http",            NULL,              NULL   },
	        {"ho st:1",              NULL,              NULL   },
	        {"host\n:1",             NULL,              NULL   },
	        {"::1:7070",             NULL,              NULL   },
	        {"::1",                  NULL,              NULL   },
	        {"[::1]",                NULL,              NULL   },
	        {"[::1]7070",            NULL,              NULL   },
	        {"[::1:7070",            NULL,              NULL   },
	        {"[]:7070",              NULL,              NULL   },
	        {"[[::1]]:7070",         NULL,              NULL   },
	        {"h]:7070",              NULL,              NULL   },
	        {"http://host:80",       NULL,              NULL   },
	};
	char host[256], port[8], longest[256 + 8];

	for (size_t i = 0; i < N(cases); i++) {
		int rc = fz_net_split(cases[i].text, host, port, &err);

		if (rc != (cases[i].host ? 0 : -FZ_EUSAGE))
			fail_msg("'%s': %d", cases[i].text, rc);
		if (cases[i].host) {
			assert_string_equal(host, cases[i].host);
			assert_string_equal(port, cases[i].port);
		} else {
			assert_says("HOST:PORT");
		}
	}
	memset(longest, 'h', sizeof(longest));
	strcpy(longest + 255, ":1");
	OK(fz_net_split(longest, host, port, &err));
	assert_int_equal(strlen(host), 255);
	strcpy(longest + 256, ":1");
	assert_int_equal(fz_net_split(longest, host, port, &err), -FZ_EUSAGE);
}

static int option(int fd, int level, int name)
{
	socklen_t n = sizeof(int);
	int v = -1;

	assert_int_equal(getsockopt(fd, level, name, &v, &n), 0);
	return v;
}

static void assert_set_up(int fd)
{
	assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	assert_int_equal(option(fd, IPPROTO_TCP, TCP_NODELAY), 1);
	assert_int_equal(option(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
	assert_true(option(fd, IPPROTO_TCP, TCP_KEEPIDLE) <= 10);
	assert_int_equal(option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT), FZ_NET_DEAD_MS);
}

static int accept_one(int fd, char peer[static FZ_NET_ADDR])
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	assert_int_equal(poll(&p, 1, 60000), 1);
	return OK(fz_net_accept(fd, peer, &err));
}

/* A connection over loopback: one[0] called one[1]. */
static void connected(int one[2])
{
	char at[FZ_NET_ADDR], peer[FZ_NET_ADDR], local[FZ_NET_ADDR];
	int fd = OK(fz_net_listen("127.0.0.1:0", &err));

	OK(fz_net_local(fd, at, &err));
	assert_int_equal(strncmp(at, "127.0.0.1:", 10), 0);
	assert_string_not_equal(at, "127.0.0.1:0");
	one[0] = OK(fz_net_connect(at, 60000, -1, &err));
	one[1] = accept_one(fd, peer);
	OK(fz_net_local(one[0], local, &err));
	assert_string_equal(peer, local);
	close(fd);
}

static void a_connection(void **state)
{
	char peer[FZ_NET_ADDR], got[16];
	int one[2], fd;

	connected(one);
	assert_set_up(one[0]);
	assert_set_up(one[1]);
	OK(fz_net_write(one[0], "hello, primary", 14, MINUTE, -1, &err));
	OK(fz_net_read(one[1], got, 5, MINUTE, -1, &err));
	assert_memory_equal(got, "hello", 5);
	OK(fz_net_read(one[1], got, 9, 0, -1, &err)); /* what is there already needs no time */
	assert_memory_equal(got, ", primary", 9);
	OK(fz_net_read(one[1], got, 0, 0, -1, &err));
	OK(fz_net_write(one[1], "x", 1, UINT64_MAX, -1, &err));
	OK(fz_net_read(one[0], got, 1, UINT64_MAX, -1, &err));
	close(one[0]);
	close(one[1]);
	fd = OK(fz_net_listen("127.0.0.1:0", &err));
	assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	assert_int_equal(fz_net_accept(fd, peer, &err), -EAGAIN);
	close(fd);
}

/* All addresses: IPv4 arrives, and is shown as such. */
static void any_address(void **state)
{
	static const char *const any[] = {":0", "*:0"};

	for (size_t i = 0; i < N(any); i++) {
		char at[FZ_NET_ADDR], to[FZ_NET_ADDR], peer[FZ_NET_ADDR], local[FZ_NET_ADDR];
		int fd = OK(fz_net_listen(any[i], &err)), c, s;

		OK(fz_net_local(fd, at, &err));
		snprintf(to, sizeof(to), "127.0.0.1:%s", strrchr(at, ':') + 1);
		c = OK(fz_net_connect(to, 60000, -1, &err));
		s = accept_one(fd, peer);
		OK(fz_net_local(c, local, &err));
		assert_string_equal(peer, local);
		snprintf(to, sizeof(to), "localhost:%s", strrchr(at, ':') + 1);
		close(c);
		c = OK(fz_net_connect(to, 60000, -1, &err));
		close(c);
		close(s);
		close(fd);
	}
}

static bool has_ipv6(void)
{
	struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool yes = fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0;

	if (fd >= 0)
		close(fd);
	return yes;
}

static void ipv6(void **state)
{
	char at[FZ_NET_ADDR], to[FZ_NET_ADDR], peer[FZ_NET_ADDR], local[FZ_NET_ADDR];
	int fd = fz_net_listen("[::1]:0", &err), c;

	if (!has_ipv6()) { /* then it says so */
		assert_true(fd == -EADDRNOTAVAIL || fd == -EAFNOSUPPORT);
		assert_says("[::1]:0");
		return;
	}
	OK(fd);
	OK(fz_net_local(fd, at, &err));
	assert_int_equal(strncmp(at, "[::1]:", 6), 0);
	c = OK(fz_net_connect(at, 60000, -1, &err));
	close(accept_one(fd, peer));
	OK(fz_net_local(c, local, &err));
	assert_string_equal(peer, local);
	close(c);
	assert_int_equal(option(fd, IPPROTO_IPV6, IPV6_V6ONLY), 1);
	snprintf(to, sizeof(to), "127.0.0.1:%s", strrchr(at, ':') + 1);
	close(fd);

	fd = OK(fz_net_listen("[::]:0", &err)); /* written out, it is the any address, too */
	assert_int_equal(option(fd, IPPROTO_IPV6, IPV6_V6ONLY), 0);
	close(fd);
}

static void listening_fails(void **state)
{
	static const struct {
		const char *text, *says;
		int want;
	} cases[] = {
	        {"192.0.2.1:0", "no such address", -EADDRNOTAVAIL}, /* TEST-NET-1: nobody has it */
	        {"a..b:7070",   "a..b",            -FZ_EPEER     }, /* no name: nobody is asked */
	        {"7070",        "HOST:PORT",       -FZ_EUSAGE    },
	};
	char at[FZ_NET_ADDR], peer[FZ_NET_ADDR];
	int fd, c;

	for (size_t i = 0; i < N(cases); i++) {
		assert_int_equal(fz_net_listen(cases[i].text, &err), cases[i].want);
		assert_says(cases[i].says);
	}
	fd = OK(fz_net_listen("127.0.0.1:0", &err));
	OK(fz_net_local(fd, at, &err));
	assert_int_equal(fz_net_listen(at, &err), -EADDRINUSE);
	assert_says("another port");
	c = OK(fz_net_connect(at, 60000, -1, &err));
	close(accept_one(fd, peer)); /* the first to close keeps the port in TIME_WAIT */
	assert_int_equal(fz_net_read(c, peer, 1, MINUTE, -1, &err), -ECONNRESET);
	close(c);
	close(fd);
	fd = OK(fz_net_listen(at, &err)); /* at once after a restart */
	close(fd);
}

/* A port that is taken but where nobody listens. */
static int bound_only(char at[static FZ_NET_ADDR])
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	OK(fz_net_local(fd, at, &err));
	return fd;
}

/* A listener that accepts no more: its queue is full, and what comes is dropped without a word. */
struct mute {
	int fd, fill[8];
	char at[FZ_NET_ADDR];
};
static void mute_open(struct mute *m)
{
	struct sockaddr_in a;
	socklen_t n = sizeof(a);

	m->fd = bound_only(m->at);
	assert_int_equal(listen(m->fd, 0), 0);
	assert_int_equal(getsockname(m->fd, (struct sockaddr *)&a, &n), 0);
	for (size_t i = 0; i < N(m->fill); i++) {
		m->fill[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		assert_true(connect(m->fill[i], (struct sockaddr *)&a, sizeof(a)) == 0 || errno == EINPROGRESS);
	}
}
static void mute_close(struct mute *m)
{
	for (size_t i = 0; i < N(m->fill); i++)
		close(m->fill[i]);
	close(m->fd);
}

static void *write_byte(void *arg)
{
	assert_int_equal(write(*(int *)arg, "x", 1), 1);
	return NULL;
}

static void connecting_fails(void **state)
{
	static const struct {
		const char *text, *says;
		int want;
	} cases[] = {
	        {":7070",     "needs a host", -FZ_EUSAGE},
                {"*:7070",    "needs a host", -FZ_EUSAGE},
	        {"host:0",    "port",         -FZ_EUSAGE},
                {"host",      "HOST:PORT",    -FZ_EUSAGE},
	        {"a..b:7070", "no address",   -FZ_EPEER },
	};
	char at[FZ_NET_ADDR];
	struct mute m;
	pthread_t t;
	int fd, cancel[2];

	for (size_t i = 0; i < N(cases); i++) {
		assert_int_equal(fz_net_connect(cases[i].text, 60000, -1, &err), cases[i].want);
		assert_says(cases[i].says);
	}
	fd = bound_only(at);
	assert_int_equal(fz_net_connect(at, 60000, -1, &err), -FZ_EPEER);
	assert_says("refuses");
	assert_says(at);
	assert_says("--listen");
	close(fd);

	mute_open(&m);
	assert_int_equal(fz_net_connect(m.at, 20, -1, &err), -FZ_ETIMEOUT);
	assert_says("firewall");
	assert_int_equal(fz_net_connect(m.at, 0, -1, &err), -FZ_ETIMEOUT);
	assert_int_equal(fz_net_connect(m.at, -1, -1, &err), -FZ_ETIMEOUT);
	assert_int_equal(pipe2(cancel, O_CLOEXEC), 0);
	assert_int_equal(pthread_create(&t, NULL, write_byte, &cancel[1]), 0);
	assert_int_equal(fz_net_connect(m.at, 600000, cancel[0], &err), -ECANCELED);
	pthread_join(t, NULL);
	assert_int_equal(fz_net_connect(m.at, 600000, cancel[0], &err), -ECANCELED); /* still readable */
	close(cancel[0]);
	close(cancel[1]);
	mute_close(&m);
}

/* A name with two addresses, of which the first refuses. */
static void tries_each_address(void **state)
{
	char at[FZ_NET_ADDR], to[FZ_NET_ADDR], peer[FZ_NET_ADDR];
	int fd = OK(fz_net_listen("127.0.0.1:0", &err)), c;

	OK(fz_net_local(fd, at, &err));
	snprintf(to, sizeof(to), "localhost:%s",
	         strrchr(at, ':') + 1); /* ::1 as well, on most hosts, and nobody there */
	c = OK(fz_net_connect(to, 60000, -1, &err));
	close(accept_one(fd, peer));
	close(c);
	close(fd);
}

static void reading_fails(void **state)
{
	struct linger hard = {.l_onoff = 1};
	int one[2], cancel[2];
	char got[16];

	connected(one);
	assert_int_equal(fz_net_read(one[0], got, 1, SOON, -1, &err), -FZ_ETIMEOUT);
	assert_int_equal(fz_net_read(one[0], got, 1, 0, -1, &err), -FZ_ETIMEOUT);
	assert_int_equal(pipe2(cancel, O_CLOEXEC), 0);
	write_byte(&cancel[1]);
	assert_int_equal(fz_net_read(one[0], got, 1, MINUTE, cancel[0], &err), -ECANCELED);
	close(cancel[1]); /* the other end's death is readable, too */
	assert_int_equal(read(cancel[0], got, 1), 1);
	assert_int_equal(fz_net_read(one[0], got, 1, UINT64_MAX, cancel[0], &err), -ECANCELED);
	close(cancel[0]);
	OK(fz_net_write(one[1], "abc", 3, MINUTE, -1, &err));
	close(one[1]);
	assert_int_equal(fz_net_read(one[0], got, 4, MINUTE, -1, &err), -ECONNRESET); /* three came */
	assert_says("closed");
	close(one[0]);

	connected(one);
	setsockopt(one[1], SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
	close(one[1]);
	assert_int_equal(fz_net_read(one[0], got, 1, MINUTE, -1, &err), -ECONNRESET);
	close(one[0]);
}

static void writing_fails(void **state)
{
	static char block[1 << 20];
	struct linger hard = {.l_onoff = 1};
	int one[2], cancel[2], rc;

	connected(one);
	do /* until the kernel takes no more */
		rc = fz_net_write(one[0], block, sizeof(block), SOON, -1, &err);
	while (rc == 0);
	assert_int_equal(rc, -FZ_ETIMEOUT);
	assert_int_equal(pipe2(cancel, O_CLOEXEC), 0);
	write_byte(&cancel[1]);
	assert_int_equal(fz_net_write(one[0], block, sizeof(block), MINUTE, cancel[0], &err), -ECANCELED);
	close(cancel[0]);
	close(cancel[1]);
	setsockopt(one[1], SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
	close(one[1]);
	for (int i = 0; i < 2; i++) /* once by ECONNRESET, then by EPIPE; SIGPIPE would end this test */
		assert_int_equal(fz_net_write(one[0], block, 1, MINUTE, -1, &err), -ECONNRESET);
	close(one[0]);
}

#define MUCH (8u << 20)
struct reader {
	int fd, rc;
	uint8_t *bytes;
};
static void *read_much(void *arg)
{
	struct reader *r = arg;

	r->rc = fz_net_read(r->fd, r->bytes, MUCH, MINUTE, -1, NULL);
	return NULL;
}

/* More than any socket buffer: both ends wait for each other, again and again. */
static void much(void **state)
{
	uint8_t *bytes = malloc(MUCH);
	struct reader r = {.bytes = malloc(MUCH)};
	pthread_t t;
	int one[2];

	for (size_t i = 0; i < MUCH; i++)
		bytes[i] = (uint8_t)(i * 7 + (i >> 8));
	connected(one);
	r.fd = one[1];
	assert_int_equal(pthread_create(&t, NULL, read_much, &r), 0);
	OK(fz_net_write(one[0], bytes, MUCH, MINUTE, -1, &err));
	pthread_join(t, NULL);
	assert_int_equal(r.rc, 0);
	assert_memory_equal(r.bytes, bytes, MUCH);
	close(one[0]);
	close(one[1]);
	free(bytes);
	free(r.bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(addresses),          cmocka_unit_test(a_connection),
	        cmocka_unit_test(any_address),        cmocka_unit_test(ipv6),
	        cmocka_unit_test(listening_fails),    cmocka_unit_test(connecting_fails),
	        cmocka_unit_test(tries_each_address), cmocka_unit_test(reading_fails),
	        cmocka_unit_test(writing_fails),      cmocka_unit_test(much),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
