#include "base/notify.h"

#include "base/file.h"
#include "base/sendfd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define LISTEN_START 3
#define WAIT_S       3

bool fz_notify_wanted(void)
{
	const char *path = getenv("NOTIFY_SOCKET");

	return path && (*path == '/' || *path == '@') && path[1];
}

/* It is said again soon, so that a manager that does not read loses nothing by it. */
static bool is_repeated(const char *text)
{
	static const char *const words[] = {"STATUS=", "WATCHDOG=", "EXTEND_TIMEOUT_USEC="};

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (!strncmp(text, words[i], strlen(words[i])))
			return true;
	return false;
}

static int notify(const char *text, int fd)
{
	static const struct timeval wait = {.tv_sec = WAIT_S};
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	struct iovec iov = {(void *)(uintptr_t)text, strlen(text)};
	union fz_sendfd control;
	struct msghdr h = {.msg_name = &to, .msg_iov = &iov, .msg_iovlen = 1};
	size_t n = path ? strlen(path) : 0;
	int sock, rc = 0;

	if (!fz_notify_wanted())
		return 0;
	if (n >= sizeof(to.sun_path))
		return -ENAMETOOLONG;
	memcpy(to.sun_path, path, n);
	if (*path == '@') /* Linux's abstract names */
		to.sun_path[0] = 0;
	h.msg_namelen = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
	fz_sendfd(&h, &control, fd);
	sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (sock < 0)
		return -errno;
	if (setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait)) < 0)
		rc = -errno;
	while (rc == 0 && sendmsg(sock, &h, MSG_NOSIGNAL | (is_repeated(text) ? MSG_DONTWAIT : 0)) < 0)
		if (errno != EINTR) {
			rc = -errno;
			break;
		}
	fz_close(&sock);
	return rc;
}

int fz_notify(const char *text)
{
	return notify(text, -1);
}

int fz_notify_keep(const char *name, int fd)
{
	char text[96];

	snprintf(text, sizeof(text), "FDSTORE=1\nFDPOLL=0\nFDNAME=%.*s", FZ_LISTEN_NAME - 1, name);
	return notify(text, fd);
}

int fz_notify_forget(const char *name)
{
	char text[96];

	snprintf(text, sizeof(text), "FDSTOREREMOVE=1\nFDNAME=%.*s", FZ_LISTEN_NAME - 1, name);
	return notify(text, -1);
}

/* A variable that is a whole number and nothing else; 0 when it is not. */
static unsigned long long number_of(const char *variable)
{
	const char *text = getenv(variable);
	char *end = NULL;
	unsigned long long v;

	if (!text || *text < '0' || *text > '9')
		return 0;
	errno = 0;
	v = strtoull(text, &end, 10);
	return errno || *end ? 0 : v;
}

static bool meant_for_us(const char *variable)
{
	return number_of(variable) == (unsigned long long)getpid();
}

uint64_t fz_notify_watchdog_us(void)
{
	return getenv("WATCHDOG_PID") && !meant_for_us("WATCHDOG_PID") ? 0 : number_of("WATCHDOG_USEC");
}

size_t fz_listen_take(struct fz_listen_fd *out, size_t max)
{
	const char *names = getenv("LISTEN_FDNAMES");
	unsigned long long n = meant_for_us("LISTEN_PID") ? number_of("LISTEN_FDS") : 0;
	size_t taken = 0;

	for (int fd = LISTEN_START; n && fd < LISTEN_START + 4096 && fd < LISTEN_START + (int)n; fd++) {
		size_t len = names ? strcspn(names, ":") : 0;

		if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
			/* not open: nothing to take */
		} else if (taken == max) {
			close(fd);
		} else {
			out[taken].fd = fd;
			snprintf(out[taken].name, sizeof(out[taken].name), "%.*s",
			         (int)(len < FZ_LISTEN_NAME ? len : FZ_LISTEN_NAME - 1), names ? names : "");
			taken++;
		}
		if (names)
			names = names[len] ? names + len + 1 : NULL;
	}
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	return taken;
}
