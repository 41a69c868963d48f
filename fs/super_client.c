#include "fs/super_client.h"

#include "fs/shared.h"

#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

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

static int lost(struct fz_err *err)
{
	return fz_fail(err, FZ_ENOTMOUNTED, "the supervisor is not there");
}

static int put_locked(enum fs_msg_type type, const char *text)
{
	size_t n = text ? strlen(text) : 0;

	if (sock < 0)
		return -ENOTCONN;
	m.type = type;
	m.id = ++next_id;
	m.code = 0;
	if (n >= sizeof(m.text))
		return -ENAMETOOLONG;
	m.len = (uint32_t)n;
	if (n)
		memcpy(m.text, text, n);
	while (send(sock, &m, FS_MSG_HEAD + n, MSG_NOSIGNAL) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

static void tell(enum fs_msg_type type, const char *text)
{
	pthread_mutex_lock(&mu);
	(void)put_locked(type, text); /* without a supervisor nobody needs to know */
	pthread_mutex_unlock(&mu);
}

static int ask(enum fs_msg_type type, const char *text, struct fz_err *err)
{
	ssize_t n;
	int rc;

	pthread_mutex_lock(&mu);
	if (put_locked(type, text) < 0) {
		rc = lost(err);
		goto out;
	}
	do {
		n = recv(sock, &m, sizeof(m), 0);
	} while ((n < 0 && errno == EINTR) ||
	         (n >= (ssize_t)FS_MSG_HEAD && (m.type != FS_MSG_REPLY || m.id != next_id)));
	if (n < (ssize_t)FS_MSG_HEAD || n != (ssize_t)(FS_MSG_HEAD + m.len)) {
		rc = lost(err);
		goto out;
	}
	rc = m.code ? fz_fail(err, m.code <= -1000 ? -m.code : m.code, "%.*s", (int)m.len, m.text) : 0;
out:
	pthread_mutex_unlock(&mu);
	return rc;
}

int fs_super_lock_database(const char *path, struct fz_err *err)
{
	return ask(FS_MSG_LOCK, path, err);
}
void fs_super_sweep(void)
{
	tell(FS_MSG_SWEEP, NULL);
}
void fs_super_ready(void)
{
	tell(FS_MSG_READY, NULL);
}
void fs_super_failed(const struct fz_err *why)
{
	tell(FS_MSG_FAILED, why->text);
}
int fs_super_umount(struct fz_err *err)
{
	return ask(FS_MSG_UMOUNT, NULL, err);
}
