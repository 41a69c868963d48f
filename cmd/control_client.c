#include "cmd/control.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/file.h"

#include <cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define ANSWER_MAX  (64u << 20)
#define REPLACED_MS 5000 /* a new worker answers within this */
#define RETRY_MS    20
#define TOLD        "{\"progress\":"

bool cmd_control_path(char *out, size_t cap, const char *dir, unsigned uid, unsigned which)
{
	const char *xdg = getenv("XDG_RUNTIME_DIR");
	unsigned char hash[8];
	char hex[17];

	crypto_generichash(hash, sizeof(hash), (const unsigned char *)dir, strlen(dir), NULL, 0);
	sodium_bin2hex(hex, sizeof(hex), hash, sizeof(hash));
	if (uid == 0) {
		if (which > 0)
			return false;
		snprintf(out, cap, "/run/fazt/%s.sock", hex);
		return true;
	}
	if (uid != geteuid() || !xdg || *xdg != '/')
		xdg = NULL;
	if (xdg && which-- == 0) {
		snprintf(out, cap, "%s/fazt/%s.sock", xdg, hex);
		return true;
	}
	if (!xdg && which-- == 0)
		snprintf(out, cap, "/run/user/%u/fazt/%s.sock", uid, hex);
	else if (which == 0)
		snprintf(out, cap, "/tmp/fazt-%u/%s.sock", uid, hex);
	else
		return false;
	return true;
}

int cmd_control_mkdir(const char *path, struct fz_err *err)
{
	char dir[108];
	struct stat st;
	char *slash;

	snprintf(dir, sizeof(dir), "%s", path);
	slash = strrchr(dir, '/');
	if (!slash || slash == dir)
		return fz_fail(err, FZ_EUSAGE, "'%s' is no path for a socket", path);
	*slash = 0;
	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return fz_fail_errno(err, errno, "cannot create %s for the control socket", dir);
	if (lstat(dir, &st) < 0)
		return fz_fail_errno(err, errno, "%s", dir);
	/* root's is as good as ours: a worker may have another name than its files (cmd/harden.h) */
	if (!S_ISDIR(st.st_mode) || (st.st_uid != geteuid() && st.st_uid != 0) || (st.st_mode & 022))
		return fz_fail_errno(err, EPERM, "%s must be a directory of user %d that others cannot write", dir,
		                     (int)geteuid());
	return 0;
}

static int send_all(int fd, const char *text)
{
	size_t left = strlen(text);

	while (left) {
		ssize_t n = send(fd, text, left, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		text += n;
		left -= (size_t)n;
	}
	return 0;
}

/* Takes what is only told out of b. Is the answer there? */
static bool answered(struct fz_buf *b, struct cmd_control_listener *l)
{
	const uint8_t *end;

	while ((end = memchr(b->data, '\n', b->size))) {
		size_t n = (size_t)(end - b->data) + 1;
		cJSON *o;

		if (n < sizeof(TOLD) || memcmp(b->data, TOLD, sizeof(TOLD) - 1) != 0)
			return true;
		o = cJSON_ParseWithLength((const char *)b->data, n);
		if (l && o)
			l->told(l, cJSON_GetObjectItem(o, "progress"));
		cJSON_Delete(o);
		memmove(b->data, b->data + n, b->size - n);
		b->size -= n;
	}
	return false;
}

/* Reads up to the end of the answer; keeps one descriptor that comes along. */
static int receive(int sock, int64_t timeout_ms, struct cmd_control_listener *l, struct fz_buf *b, int *fd)
{
	uint64_t end = fz_mono_ns() + (uint64_t)(timeout_ms < 0 ? 0 : timeout_ms) * 1000000;

	for (;;) {
		union {
			char space[CMSG_SPACE(sizeof(int))];
			struct cmsghdr align;
		} control;
		uint8_t *to = fz_buf_room(b, 65536);
		struct iovec iov = {to, 65536};
		struct msghdr m = {.msg_iov = &iov,
		                   .msg_iovlen = 1,
		                   .msg_control = control.space,
		                   .msg_controllen = sizeof(control.space)};
		struct pollfd p = {.fd = sock, .events = POLLIN};
		uint64_t now = fz_mono_ns();
		struct cmsghdr *h;
		ssize_t n;

		if (!to)
			return -ENOMEM;
		if (timeout_ms >= 0 && now >= end)
			return -ETIMEDOUT;
		n = poll(&p, 1, timeout_ms < 0 ? -1 : (int)((end - now) / 1000000 + 1));
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n <= 0)
			continue;
		n = recvmsg(sock, &m, MSG_CMSG_CLOEXEC);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		h = CMSG_FIRSTHDR(&m);
		if (h && h->cmsg_level == SOL_SOCKET && h->cmsg_type == SCM_RIGHTS &&
		    h->cmsg_len == CMSG_LEN(sizeof(int))) {
			fz_close(fd);
			memcpy(fd, CMSG_DATA(h), sizeof(int));
		}
		if (n == 0)
			return -EPIPE;
		b->size += (size_t)n;
		if (memchr(to, '\n', (size_t)n) && answered(b, l))
			return 0;
		if (b->size > ANSWER_MAX)
			return -EMSGSIZE;
	}
}

int cmd_control_call_at(const char *path, const struct cJSON *request, int64_t timeout_ms,
                        struct cmd_control_listener *l, struct cJSON **answer, int *fd, struct fz_err *err)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	char *text = cJSON_PrintUnformatted(request);
	struct fz_buf b = {0};
	cJSON *got = NULL, *code, *why;
	int sock = -1, passed = -1, rc = -ENOMEM;

	*answer = NULL;
	if (!text)
		goto out;
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (sock < 0 || connect(sock, (struct sockaddr *)&a, sizeof(a)) < 0) {
		rc = fz_fail_errno(err, errno, "cannot reach the worker at %s", path);
		goto out;
	}
	rc = send_all(sock, text);
	if (rc == 0)
		rc = send_all(sock, "\n");
	if (rc == 0)
		rc = receive(sock, timeout_ms, l, &b, &passed);
	if (rc == -ETIMEDOUT) {
		rc = fz_fail(err, FZ_ETIMEOUT, "the worker did not answer in %lld ms", (long long)timeout_ms);
		goto out;
	}
	if (rc < 0) {
		rc = fz_fail_errno(err, rc == -ECONNRESET ? EPIPE : -rc, "the worker gave no answer");
		goto out;
	}
	got = cJSON_ParseWithLength((char *)b.data, b.size);
	if (!cJSON_IsObject(got)) {
		rc = fz_fail(err, FZ_EINTERNAL, "the worker's answer is no JSON object");
		goto out;
	}
	if (!cJSON_IsTrue(cJSON_GetObjectItem(got, "ok"))) {
		code = cJSON_GetObjectItem(got, "code");
		why = cJSON_GetObjectItem(got, "error");
		rc = cJSON_IsNumber(code) && code->valueint > 0 ? -code->valueint : -FZ_EINTERNAL;
		if (err) {
			err->code = rc;
			snprintf(err->text, sizeof(err->text), "%s",
			         cJSON_IsString(why) ? why->valuestring : fz_strerror(rc));
		}
		goto out;
	}
	*answer = got;
	got = NULL;
	if (fd) {
		*fd = passed;
		passed = -1;
	}
out:
	cJSON_Delete(got);
	cJSON_free(text);
	fz_buf_fini(&b);
	fz_close(&passed);
	fz_close(&sock);
	return rc;
}

int cmd_control_call(const struct cmd_where *w, const struct cJSON *request, int64_t timeout_ms, struct cJSON **answer,
                     int *fd, struct fz_err *err)
{
	return cmd_control_follow(w, request, timeout_ms, NULL, answer, fd, err);
}

int cmd_control_follow(const struct cmd_where *w, const struct cJSON *request, int64_t timeout_ms,
                       struct cmd_control_listener *l, struct cJSON **answer, int *fd, struct fz_err *err)
{
	struct cmd_where now = *w;
	uint64_t give_up = fz_mono_ns() + REPLACED_MS * UINT64_C(1000000);
	char path[108];
	int rc = 0;

	if (fd)
		*fd = -1;
	*answer = NULL;
	for (;;) {
		if (!now.fazt)
			return fz_fail(err, FZ_ENOTMOUNTED, "%s is not mounted by fazt", w->dir);
		for (unsigned i = 0; cmd_control_path(path, sizeof(path), w->dir, w->uid, i); i++) {
			rc = cmd_control_call_at(path, request, timeout_ms, l, answer, fd, err);
			if (rc != -ENOENT && rc != -ECONNREFUSED)
				break;
		}
		/* Nobody there, or gone in the middle: a worker is being replaced, or the mount ends. */
		if (rc != -ENOENT && rc != -ECONNREFUSED && rc != -EPIPE && rc != -ECANCELED)
			return rc;
		if (fz_mono_ns() > give_up)
			return rc;
		poll(NULL, 0, RETRY_MS);
		rc = cmd_where_refresh(&now, err);
		if (rc < 0)
			return rc;
	}
}
