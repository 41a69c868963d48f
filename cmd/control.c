/* control.c - the server. THREADS (1 to 32): each accepts, answers one request, closes; whoever takes the last idle one's place starts the next,
 * since an answer may take as long as a target is away. A client that says nothing is dropped after a few seconds, and one that has gone
 * keeps no thread that asks cmd_control_gone(). */
#include "cmd/control.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/sendfd.h"
#include "base/worker.h"

#include <cJSON.h>
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define THREADS_MAX     32
#define REQUEST_MAX     65536
#define REQUEST_WAIT_MS 5000
#define ANSWER_WAIT_MS  10000

struct cmd_control {
	struct cmd_control_handler *handler;
	int listenfd, stopfd;
	ino_t inode; /* of the socket's file: only ours is removed */
	atomic_bool stopping;
	pthread_mutex_t mu;
	unsigned n, idle; /* under mu: threads, and those that answer nobody */
	struct fz_worker threads[THREADS_MAX];
	char path[108];
};

/* Whom this thread answers. */
static _Thread_local struct {
	int fd; /* valid while serving */
	bool serving, listens;
} client;

/* One line up to '\n', within the deadline and the size. */
static int read_line(struct cmd_control *c, int fd, struct fz_buf *line)
{
	uint64_t end = fz_mono_ns() + REQUEST_WAIT_MS * UINT64_C(1000000);

	for (;;) {
		struct pollfd p[2] = {
		        {.fd = fd,        .events = POLLIN},
                        {.fd = c->stopfd, .events = POLLIN}
                };
		uint64_t now = fz_mono_ns();
		uint8_t *to;
		ssize_t n;

		if (now >= end)
			return -ETIMEDOUT;
		if (poll(p, 2, (int)((end - now) / 1000000 + 1)) < 0 && errno != EINTR)
			return -errno;
		if (p[1].revents && !(p[0].revents & POLLIN))
			return -ECANCELED;
		if (!p[0].revents)
			continue;
		to = fz_buf_room(line, 4096);
		if (!to)
			return -ENOMEM;
		n = recv(fd, to, 4096, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EPIPE;
		line->size += (size_t)n;
		if (memchr(to, '\n', (size_t)n))
			return 0;
		if (line->size > REQUEST_MAX)
			return -EMSGSIZE;
	}
}

static int write_answer(int fd, const char *text, size_t size, int pass_fd)
{
	uint64_t end = fz_mono_ns() + ANSWER_WAIT_MS * UINT64_C(1000000);
	union fz_sendfd control;

	while (size) {
		struct iovec iov = {(void *)text, size};
		struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
		struct pollfd p = {.fd = fd, .events = POLLOUT};
		ssize_t n;

		fz_sendfd(&m, &control, pass_fd);
		n = sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		if (n > 0) {
			pass_fd = -1;
			text += n;
			size -= (size_t)n;
			continue;
		}
		if (fz_mono_ns() >= end)
			return -ETIMEDOUT;
		(void)!poll(&p, 1, 1000);
	}
	return 0;
}

static void serve_one(struct cmd_control *c, int fd)
{
	struct fz_buf line = {0};
	struct fz_err err = {0};
	cJSON *request = NULL, *answer = cJSON_CreateObject();
	struct ucred peer = {.uid = (uid_t)-1};
	socklen_t len = sizeof(peer);
	char *text = NULL;
	int pass_fd = -1, rc;

	if (!answer)
		goto out;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 || (peer.uid != 0 && peer.uid != geteuid()))
		goto out; /* the socket's mode keeps others out already */
	rc = read_line(c, fd, &line);
	if (rc < 0 && rc != -EMSGSIZE)
		goto out;
	request = rc == 0 ? cJSON_ParseWithLength((char *)line.data, line.size) : NULL;
	client.fd = fd;
	client.serving = true;
	client.listens = cJSON_IsTrue(cJSON_GetObjectItem(request, "progress"));
	if (!cJSON_IsObject(request))
		rc = fz_fail(&err, FZ_EUSAGE, "the request is no JSON object of at most %d bytes", REQUEST_MAX);
	else
		rc = c->handler->answer(c->handler, request, answer, &pass_fd, &err);
	cJSON_AddBoolToObject(answer, "ok", rc >= 0);
	if (rc < 0) {
		cJSON_AddNumberToObject(answer, "code", -rc);
		cJSON_AddStringToObject(answer, "error", err.text[0] ? err.text : fz_strerror(rc));
	}
	text = cJSON_PrintUnformatted(answer);
	if (!text)
		goto out;
	text[strlen(text)] = '\n'; /* in place of the NUL: the size goes along */
	rc = write_answer(fd, text, strcspn(text, "\n") + 1, rc >= 0 ? pass_fd : -1);
	if (rc < 0)
		fz_debug("control: the answer was not taken: %s", strerror(-rc));
out:
	client.serving = false;
	cJSON_free(text);
	cJSON_Delete(request);
	cJSON_Delete(answer);
	fz_buf_fini(&line);
}

static void run(void *arg);

/* One more, unless there are enough. Needs mu. */
static int add_thread(struct cmd_control *c, struct fz_err *err)
{
	int rc = 0;

	if (c->n < THREADS_MAX && !atomic_load(&c->stopping) &&
	    (rc = fz_worker_start(&c->threads[c->n], "control", run, c, err)) == 0) {
		c->n++;
		c->idle++;
	}
	return rc;
}

static void took_one(struct cmd_control *c)
{
	pthread_mutex_lock(&c->mu);
	if (--c->idle == 0 && add_thread(c, NULL) < 0)
		fz_debug("control: no thread for who comes next");
	pthread_mutex_unlock(&c->mu);
}

static void idle_again(struct cmd_control *c)
{
	pthread_mutex_lock(&c->mu);
	c->idle++;
	pthread_mutex_unlock(&c->mu);
}

static void run(void *arg)
{
	struct cmd_control *c = arg;
	struct pollfd p[2] = {
	        {.fd = c->listenfd, .events = POLLIN},
                {.fd = c->stopfd,   .events = POLLIN}
        };

	while (!atomic_load(&c->stopping)) {
		int fd;

		if (poll(p, 2, -1) < 0 && errno != EINTR)
			break;
		if (p[1].revents)
			break;
		fd = accept4(c->listenfd, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			continue; /* another thread was faster */
		took_one(c);
		serve_one(c, fd);
		fz_close(&fd);
		idle_again(c);
	}
}

/* Binds beside the final name and renames: a client finds the old or the new socket, never none. */
static int bind_socket(struct cmd_control *c, struct fz_err *err)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	struct stat st;
	mode_t old;
	int rc;

	if (snprintf(a.sun_path, sizeof(a.sun_path), "%s.%d", c->path, (int)getpid()) >= (int)sizeof(a.sun_path))
		return fz_fail_errno(err, ENAMETOOLONG, "control socket %s", c->path);
	c->listenfd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (c->listenfd < 0)
		return fz_fail_errno(err, errno, "control socket");
	unlink(a.sun_path);
	old = umask(0177);
	rc = bind(c->listenfd, (struct sockaddr *)&a, sizeof(a));
	umask(old);
	if (rc < 0 || listen(c->listenfd, 64) < 0 || stat(a.sun_path, &st) < 0 || rename(a.sun_path, c->path) < 0) {
		rc = fz_fail_errno(err, errno, "control socket %s", a.sun_path);
		unlink(a.sun_path);
		return rc;
	}
	c->inode = st.st_ino;
	return 0;
}

int cmd_control_start(struct cmd_control **out, const char *path, struct cmd_control_handler *handler,
                      struct fz_err *err)
{
	struct cmd_control *c = calloc(1, sizeof(*c));
	int rc;

	if (!c)
		return fz_fail_errno(err, ENOMEM, "control socket");
	c->listenfd = c->stopfd = -1;
	c->handler = handler;
	pthread_mutex_init(&c->mu, NULL);
	if (snprintf(c->path, sizeof(c->path), "%s", path) >= (int)sizeof(c->path)) {
		rc = fz_fail_errno(err, ENAMETOOLONG, "control socket %s", path);
		goto out;
	}
	c->stopfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rc = c->stopfd < 0 ? fz_fail_errno(err, errno, "eventfd") : cmd_control_mkdir(path, err);
	if (rc == 0)
		rc = bind_socket(c, err);
	*out = c; /* before the threads: what they answer looks at it */
	if (rc == 0) {
		pthread_mutex_lock(&c->mu);
		rc = add_thread(c, err);
		pthread_mutex_unlock(&c->mu);
	}
	if (rc == 0)
		return 0;
out:
	*out = NULL;
	cmd_control_stop(c);
	return rc;
}

bool cmd_control_stopping(const struct cmd_control *c)
{
	return c && atomic_load(&c->stopping);
}

bool cmd_control_gone(const struct cmd_control *c)
{
	struct pollfd p = {.fd = client.fd}; /* who only writes no more is there: POLLHUP is both directions */

	return cmd_control_stopping(c) || (client.serving && poll(&p, 1, 0) > 0 && p.revents);
}

int cmd_control_unfinished(const struct cmd_control *c, struct fz_err *err)
{
	return fz_fail(err, ECANCELED, cmd_control_stopping(c) ? "the worker is stopping" : "who asked is gone");
}

void cmd_control_tell(struct cJSON *progress)
{
	cJSON *o = cJSON_CreateObject();
	char *text;

	if (!cJSON_AddItemToObject(o, "progress", progress))
		cJSON_Delete(progress);
	text = client.serving && client.listens ? cJSON_PrintUnformatted(o) : NULL;
	if (text) {
		size_t n = strlen(text);

		text[n] = '\n';
		if (write_answer(client.fd, text, n + 1, -1) < 0)
			client.listens = false;
	}
	cJSON_free(text);
	cJSON_Delete(o);
}

void cmd_control_stop(struct cmd_control *c)
{
	struct stat st;

	if (!c)
		return;
	pthread_mutex_lock(&c->mu);
	atomic_store(&c->stopping, true); /* from here on no thread is added */
	pthread_mutex_unlock(&c->mu);
	if (c->stopfd >= 0)
		(void)!write(c->stopfd, &(uint64_t){1}, sizeof(uint64_t));
	for (unsigned i = 0; i < c->n; i++)
		fz_worker_stop(&c->threads[i]);
	if (c->inode && stat(c->path, &st) == 0 && st.st_ino == c->inode)
		unlink(c->path);
	fz_close(&c->listenfd);
	fz_close(&c->stopfd);
	pthread_mutex_destroy(&c->mu);
	free(c);
}
