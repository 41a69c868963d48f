#include "fs/super_client.h"

#include "base/sendfd.h"
#include "fs/shared.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define RESTART_MS 5000 /* it answers at once, unless it is too old to know the question */

static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER; /* one question at a time; guards all below */
static int sock = -1;
static uint32_t next_id;
static struct fs_msg m;

void fs_super_init(int fd)
{
	pthread_mutex_lock(&mu);
	sock = fd;
	pthread_mutex_unlock(&mu);
}

/* Sends m, with a descriptor when fd >= 0. */
static int send_locked(size_t bytes, int fd)
{
	struct iovec iov = {&m, bytes};
	union fz_sendfd control;
	struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1};

	fz_sendfd(&h, &control, fd);
	while (sendmsg(sock, &h, MSG_NOSIGNAL) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

static int put_locked(enum fs_msg_type type, int code, const char *text, int fd)
{
	size_t n = text ? strlen(text) : 0;

	if (sock < 0)
		return -ENOTCONN;
	m.type = type;
	m.id = ++next_id;
	m.code = code;
	if (n >= sizeof(m.text))
		return -ENAMETOOLONG;
	m.len = (uint32_t)n;
	if (n)
		memcpy(m.text, text, n);
	return send_locked(FS_MSG_HEAD + n, fd);
}

static void tell(enum fs_msg_type type, int code, const char *text)
{
	pthread_mutex_lock(&mu);
	(void)put_locked(type, code, text, -1); /* without a supervisor nobody needs to know */
	pthread_mutex_unlock(&mu);
}

/* The answer's code; its text is in m. -FZ_ENOTMOUNTED: nobody answers; -FZ_ETIMEOUT: not within wait_ms (-1 = for ever). */
static int ask_locked(enum fs_msg_type type, const char *text, int fd, int wait_ms)
{
	struct pollfd p = {sock, POLLIN, 0};
	ssize_t n;

	if (put_locked(type, 0, text, fd) < 0)
		return -FZ_ENOTMOUNTED;
	do {
		if (wait_ms >= 0 && poll(&p, 1, wait_ms) == 0) {
			m.len = 0;
			return -FZ_ETIMEOUT;
		}
		n = recv(sock, &m, sizeof(m), 0);
	} while ((n < 0 && errno == EINTR) ||
	         (n >= (ssize_t)FS_MSG_HEAD && (m.type != FS_MSG_REPLY || m.id != next_id)));
	if (n < (ssize_t)FS_MSG_HEAD || n != (ssize_t)(FS_MSG_HEAD + m.len)) {
		m.len = 0;
		return -FZ_ENOTMOUNTED;
	}
	return m.code;
}

static int ask(enum fs_msg_type type, const char *text, int wait_ms, struct fz_err *err)
{
	int rc;

	pthread_mutex_lock(&mu);
	rc = ask_locked(type, text, -1, wait_ms);
	if (rc == -FZ_ENOTMOUNTED)
		fz_fail(err, FZ_ENOTMOUNTED, "the supervisor is not there");
	else if (rc == -FZ_ETIMEOUT)
		fz_fail(err, FZ_ETIMEOUT, "the supervisor does not answer: unmount and mount again");
	else if (rc < 0)
		fz_fail(err, rc <= -1000 ? -rc : rc, "%.*s", (int)m.len, m.text);
	pthread_mutex_unlock(&mu);
	return rc;
}

int32_t fs_super_backing_open(int fd)
{
	int rc;

	pthread_mutex_lock(&mu);
	rc = ask_locked(FS_MSG_BACKING_OPEN, NULL, fd, -1);
	pthread_mutex_unlock(&mu);
	return rc;
}

void fs_super_backing_close(int32_t id)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", id);
	tell(FS_MSG_BACKING_CLOSE, 0, text);
}

int fs_super_lock_database(const char *path, struct fz_err *err)
{
	return ask(FS_MSG_LOCK, path, -1, err);
}
void fs_super_sweep(void)
{
	tell(FS_MSG_SWEEP, 0, NULL);
}
void fs_super_ready(void)
{
	tell(FS_MSG_READY, 0, NULL);
}
void fs_super_failed(const struct fz_err *why)
{
	tell(FS_MSG_FAILED, why->code, why->text);
}
int fs_super_umount(struct fz_err *err)
{
	return ask(FS_MSG_UMOUNT, NULL, -1, err);
}
int fs_super_restart(bool keep_agent, struct fz_err *err)
{
	return ask(FS_MSG_RESTART, keep_agent ? "keep" : NULL, RESTART_MS, err);
}

static void tell_keep(const char *text)
{
	pthread_mutex_lock(&mu);
	(void)put_locked(FS_MSG_KEEP_AGENT, 0, text, -1);
	pthread_mutex_unlock(&mu);
}

void fs_super_keep_agent(bool late)
{
	tell_keep(late ? "late" : NULL);
}

void fs_super_drop_agent(void)
{
	tell_keep("no");
}

uint64_t fs_super_report_ms(void)
{
	const char *ms = getenv(FS_REPORT_ENV);

	return ms ? strtoull(ms, NULL, 10) : 0;
}

void fs_super_report(const char *line)
{
	tell(FS_MSG_REPORT, 0, line);
}
