/* agent.c - both ends of the talk between worker and agent: fixed-size messages over SEQPACKET, one request at a time.
 *
 * A request carries a number and its answer the same, so that an answer that comes after its time-out is not taken for the
 * next one's. The worker waits with a limit for another reason too: the agent's request to the mount is served by the
 * worker's own threads, and may need what the caller holds; then the time-out breaks the circle. */
#include "fs/agent.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "fs/locks.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SHM_BYTES 136
#define KEEP_MS   100 /* a -shm that was asked for stays open this long */
#define ANSWER_MS 500 /* beyond what was asked to wait */

enum op { /* what it meant once it always means: a worker may be newer than its agent */
	  OP_SHM = 1,
	  OP_LOCK,
	  OP_UNLOCK,
	  OP_FENCE,
	  OP_BECOME,
	  OP_PIN,
	  OP_ARM, /* "soft hard" for a path; answered with struct fs_deadman_state */
	  OP_UNFENCE,
	  OP_WORKER /* another worker has begun; not answered */
};
struct request {
	uint64_t number;
	int32_t op, wait_ms;
	char path[4096];
};
struct answer {
	uint64_t number;
	int32_t rc;
	uint8_t data[SHM_BYTES];
};
struct fs_agent {
	int fd;
	pthread_mutex_t mu; /* one request at a time; guards all below */
	uint64_t number;
	bool replicas; /* it has become a replica's agent: another worker talks to it, in another way */
};

/* ---- the worker's end ---- */

int fs_agent_open(struct fs_agent **out, int fd, struct fz_err *err)
{
	struct fs_agent *a = calloc(1, sizeof(*a));

	if (!a) {
		fz_close(&fd);
		return fz_fail(err, -ENOMEM, "no memory");
	}
	a->fd = fd;
	a->number = fz_mono_ns(); /* a former worker's answers may still lie in the socket */
	pthread_mutex_init(&a->mu, NULL);
	/* an agent that outlived a worker lets go of what it held for that one */
	if (send(fd, &(struct request){.op = OP_WORKER}, offsetof(struct request, path) + 1,
	         MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		fz_debug("the agent is not told of this worker: %s", fz_strerror(-errno));
	*out = a;
	return 0;
}

void fs_agent_close(struct fs_agent *a)
{
	if (!a)
		return;
	fz_close(&a->fd);
	pthread_mutex_destroy(&a->mu);
	free(a);
}

void fs_agent_dismiss(struct fs_agent *a)
{
	if (a)
		shutdown(a->fd, SHUT_RDWR);
}

static int receive(struct fs_agent *a, struct answer *ans, int wait_ms, struct fz_err *err)
{
	uint64_t end = fz_mono_ns() + (uint64_t)(wait_ms + ANSWER_MS) * 1000000;

	for (;;) {
		uint64_t now = fz_mono_ns();
		struct pollfd p = {a->fd, POLLIN, 0};
		ssize_t n;

		if (now >= end || poll(&p, 1, (int)((end - now) / 1000000) + 1) == 0)
			return fz_fail(err, FZ_ETIMEOUT, "the agent does not answer");
		n = recv(a->fd, ans, sizeof(*ans), MSG_DONTWAIT);
		if (n == 0)
			return fz_fail(err, FZ_ETIMEOUT, "the agent has gone");
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return fz_fail_errno(err, errno, "cannot hear the agent");
		if (n == sizeof(*ans) && ans->number == a->number)
			return 0;
	}
}

static int ask(struct fs_agent *a, enum op op, const char *path, int wait_ms, struct answer *ans, struct fz_err *err)
{
	struct request r = {.op = op, .wait_ms = wait_ms};
	size_t n = strlen(path);
	int rc = 0;

	if (n >= sizeof(r.path))
		return fz_fail(err, -ENAMETOOLONG, "path too long");
	memcpy(r.path, path, n + 1);
	pthread_mutex_lock(&a->mu);
	r.number = ++a->number;
	if (a->replicas)
		rc = fz_fail(err, FZ_ETIMEOUT, "the agent serves a replica now");
	else if (send(a->fd, &r, offsetof(struct request, path) + n + 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		rc = fz_fail_errno(err, errno, "cannot reach the agent");
	else
		rc = receive(a, ans, wait_ms, err);
	a->replicas |= op == OP_BECOME && rc == 0 && ans->rc == 0;
	pthread_mutex_unlock(&a->mu);
	if (rc == 0 && ans->rc < 0)
		rc = fz_fail(err, ans->rc, "%s: agent: %s", path, fz_strerror(ans->rc));
	return rc;
}

int fs_agent_shm(struct fs_agent *a, const char *db_path, uint8_t out[static SHM_BYTES], struct fz_err *err)
{
	struct answer ans;
	int rc = ask(a, OP_SHM, db_path, 0, &ans, err);

	if (rc == 0)
		memcpy(out, ans.data, SHM_BYTES);
	return rc;
}

int fs_agent_lock(struct fs_agent *a, const char *db_path, bool take, int wait_ms, struct fz_err *err)
{
	struct answer ans;

	return ask(a, take ? OP_LOCK : OP_UNLOCK, db_path, wait_ms, &ans, err);
}

int fs_agent_fence(struct fs_agent *a, const char *db_path, int wait_ms, struct fz_err *err)
{
	struct answer ans;

	return ask(a, OP_FENCE, db_path, wait_ms, &ans, err);
}

int fs_agent_pin(struct fs_agent *a, const char *db_path, struct fz_err *err)
{
	struct answer ans;

	return ask(a, OP_PIN, db_path, 0, &ans, err);
}

int fs_agent_arm(struct fs_agent *a, uint64_t soft_ns, uint64_t hard_ns, struct fs_deadman_state *out,
                 struct fz_err *err)
{
	struct answer ans;
	char text[64];
	int rc;

	_Static_assert(sizeof(*out) <= sizeof(ans.data), "it fits");
	snprintf(text, sizeof(text), "%" PRIu64 " %" PRIu64, soft_ns, hard_ns);
	rc = ask(a, OP_ARM, text, 0, &ans, err);
	if (rc == 0)
		memcpy(out, ans.data, sizeof(*out));
	return rc;
}

int fs_agent_unfence(struct fs_agent *a, struct fz_err *err)
{
	struct answer ans;

	return ask(a, OP_UNFENCE, "", 0, &ans, err);
}

int fs_agent_become_replica(struct fs_agent *a, struct fz_err *err)
{
	struct answer ans;

	return ask(a, OP_BECOME, "", 0, &ans, err);
}

/* ---- the agent's end ---- */

struct held {
	struct held *next;
	int fd;
	char path[];
};

/* A -shm stays open for a while: opening and closing it each time costs the application the pages it has mapped (the
 * kernel writes them back at a close). An open one costs no request, since its pages and attributes are cached. */
struct shm {
	struct shm *next;
	int fd;
	uint64_t ino, used_ns;
	char path[];
};

static void close_shm(struct shm **at)
{
	struct shm *m = *at;

	*at = m->next;
	fz_close(&m->fd);
	free(m);
}

/* Closes what was not asked for lately; returns how long to wait for the next, -1 = for ever. */
static int close_unused(struct shm **list)
{
	uint64_t now = fz_mono_ns();

	for (struct shm **at = list; *at;)
		if (now - (*at)->used_ns >= KEEP_MS * 1000000ull)
			close_shm(at);
		else
			at = &(*at)->next;
	return *list ? KEEP_MS : -1;
}

static int read_shm(struct shm **list, int mountfd, const char *path, uint8_t out[static SHM_BYTES])
{
	char name[4200];
	struct statx st;
	struct shm **at, *m;
	ssize_t n;

	snprintf(name, sizeof(name), "%s-shm", path);
	for (at = list; *at && strcmp((*at)->path, path) != 0; at = &(*at)->next)
		;
	if (statx(mountfd, name, AT_SYMLINK_NOFOLLOW | AT_STATX_DONT_SYNC, STATX_INO, &st) < 0) {
		n = errno == ENOENT ? -FZ_ENOTFOUND : -errno;
		if (*at)
			close_shm(at);
		return (int)n;
	}
	if (*at && (*at)->ino != st.stx_ino) /* deleted and made anew */
		close_shm(at);
	if (!*at || strcmp((*at)->path, path) != 0) {
		m = malloc(sizeof(*m) + strlen(path) + 1);
		if (!m)
			return -ENOMEM;
		strcpy(m->path, path);
		m->ino = st.stx_ino;
		m->fd = fz_open_below(mountfd, name, O_RDONLY, 0);
		if (m->fd < 0) {
			n = errno == ENOENT ? -FZ_ENOTFOUND : -errno;
			free(m);
			return (int)n;
		}
		m->next = *list;
		*list = m;
	} else {
		m = *at;
	}
	m->used_ns = fz_mono_ns();
	n = fz_pread(m->fd, out, SHM_BYTES, 0);
	if (n < 0)
		return (int)n;
	memset(out + n, 0, SHM_BYTES - (size_t)n);
	return 0;
}

static void drop(struct held **list, const char *path)
{
	for (struct held **at = list; *at; at = &(*at)->next)
		if (!path || !strcmp((*at)->path, path)) {
			struct held *h = *at;

			*at = h->next;
			fz_close(&h->fd);
			free(h);
			return;
		}
}

static int take(struct held **list, int mountfd, const char *path, int wait_ms)
{
	uint64_t end = fz_mono_ns() + (uint64_t)(wait_ms > 0 ? wait_ms : 0) * 1000000;
	struct held *h;
	int rc;

	drop(list, path); /* of a worker that died */
	h = malloc(sizeof(*h) + strlen(path) + 1);
	if (!h)
		return -ENOMEM;
	strcpy(h->path, path);
	h->fd = fz_open_below(mountfd, path, O_RDONLY, 0);
	if (h->fd < 0) {
		rc = errno == ENOENT ? -FZ_ENOTFOUND : -errno;
		free(h);
		return rc;
	}
	while ((rc = fs_lock_shared(h->fd)) == -EAGAIN && fz_mono_ns() < end)
		nanosleep(&(struct timespec){.tv_nsec = 300000}, NULL);
	if (rc < 0) {
		fz_close(&h->fd);
		free(h);
		return rc == -EAGAIN || rc == -EACCES ? -FZ_EBUSY : rc;
	}
	h->next = *list;
	*list = h;
	return 0;
}

/* ---- the lease ---- */

/* The -shm of a database is pinned while it is open: by whom does not matter, an application opens it before it commits. */
static int pin(struct fs_deadman *d, int mountfd, const char *path)
{
	char name[4200];
	struct statx st;
	int fd = -1, rc;

	snprintf(name, sizeof(name), "%s-shm", path);
	rc = statx(mountfd, name, AT_SYMLINK_NOFOLLOW | AT_STATX_DONT_SYNC, STATX_INO, &st) < 0 ? -errno : 0;
	if (rc == 0 && fs_deadman_has(d, path, st.stx_ino))
		return 0;
	if (rc == 0) {
		fd = fz_open_below(mountfd, name, O_RDWR, 0);
		rc = fd < 0 ? -errno : 0;
	}
	if (rc < 0 && rc != -ENOENT)
		return rc;
	return fs_deadman_pin(d, path, fd, NULL);
}

static int arm(struct fs_deadman *d, const char *text, uint8_t out[static SHM_BYTES])
{
	struct fs_deadman_state now;
	uint64_t soft, hard;

	if (sscanf(text, "%" SCNu64 " %" SCNu64, &soft, &hard) != 2)
		return -FZ_EUSAGE;
	fs_deadman_arm(d, soft, hard);
	fs_deadman_get(d, &now);
	memcpy(out, &now, sizeof(now));
	return 0;
}

struct serving {
	int mountfd;
	struct fs_fence *fenced;
	struct held *list;
	struct shm *shms;
	struct fs_deadman *deadman; /* NULL until a lease is spoken of */
};

static int need_deadman(struct serving *v)
{
	return v->deadman ? 0 : fs_deadman_open(&v->deadman, NULL);
}

static int carry_out(struct serving *v, const struct request *r, uint8_t data[static SHM_BYTES])
{
	int rc = 0;

	switch ((enum op)r->op) {
	case OP_SHM:
		return read_shm(&v->shms, v->mountfd, r->path, data);
	case OP_LOCK:
		return take(&v->list, v->mountfd, r->path, r->wait_ms);
	case OP_UNLOCK:
		drop(&v->list, r->path);
		return 0;
	case OP_FENCE:
		return fs_fence_take(&v->fenced, v->deadman, v->mountfd, r->path, r->wait_ms);
	case OP_PIN:
		rc = need_deadman(v);
		return rc < 0 ? rc : pin(v->deadman, v->mountfd, r->path);
	case OP_ARM:
		rc = need_deadman(v);
		return rc < 0 ? rc : arm(v->deadman, r->path, data);
	case OP_UNFENCE:
		fs_fence_free(v->fenced);
		v->fenced = NULL;
		if (v->deadman)
			fs_deadman_unshare(v->deadman);
		return 0;
	case OP_WORKER:
		while (v->list)
			drop(&v->list, NULL);
		return 0;
	case OP_BECOME:
		return 1;
	}
	return -FZ_EUSAGE;
}

int fs_agent_serve(int sock, int mountfd, struct fs_fence **fences, struct fz_err *err)
{
	struct serving v = {.mountfd = mountfd};
	int rc = 0;

	while (rc == 0) {
		struct request r;
		struct answer ans = {0};
		struct pollfd p = {sock, POLLIN, 0};
		ssize_t n;

		if (v.shms && poll(&p, 1, close_unused(&v.shms)) == 0)
			continue;
		n = recv(sock, &r, sizeof(r), 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			rc = fz_fail_errno(err, errno, "cannot hear the worker");
		if (n <= 0)
			break;
		if ((size_t)n <= offsetof(struct request, path) || ((char *)&r)[n - 1])
			continue;
		ans.number = r.number;
		ans.rc = carry_out(&v, &r, ans.data);
		if (ans.rc == 1) {
			ans.rc = 0;
			rc = 1;
		}
		if (r.op != OP_WORKER && send(sock, &ans, sizeof(ans), MSG_NOSIGNAL) < 0 && errno != EPIPE &&
		    errno != EAGAIN)
			fz_warn("agent: cannot answer: %s", fz_strerror(-errno));
	}
	if (rc != 1) {
		fs_fence_free(v.fenced);
		v.fenced = NULL;
	}
	*fences = v.fenced;
	fs_deadman_close(v.deadman); /* the fences have their own descriptors of what it shared */
	while (v.list)
		drop(&v.list, NULL);
	while (v.shms)
		close_shm(&v.shms);
	return rc;
}
