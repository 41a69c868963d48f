#include "fs/guard.h"

#include "base/file.h"
#include "base/log.h"
#include "fs/capture_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BUCKETS   1024
#define LET_GO_MS 100

struct entry {
	struct entry *next;
	bool database, attached;
	unsigned below; /* protected databases in this directory, however deep */
	size_t len;
	char path[];
};
struct fs_guard {
	atomic_uint count;   /* protected databases */
	pthread_rwlock_t mu; /* guards all below */
	struct entry *by_path[BUCKETS];
	int pid, pidfd; /* trusted; 0 and -1 = nobody */
};

int fs_guard_open(struct fs_guard **out, struct fz_err *err)
{
	struct fs_guard *g = calloc(1, sizeof(*g));

	if (!g)
		return fz_fail(err, -ENOMEM, "no memory");
	pthread_rwlock_init(&g->mu, NULL);
	g->pidfd = -1;
	*out = g;
	return 0;
}

void fs_guard_close(struct fs_guard *g)
{
	if (!g)
		return;
	for (unsigned i = 0; i < BUCKETS; i++)
		while (g->by_path[i]) {
			struct entry *e = g->by_path[i];

			g->by_path[i] = e->next;
			free(e);
		}
	fz_close(&g->pidfd);
	pthread_rwlock_destroy(&g->mu);
	free(g);
}

/* ---- paths ---- */

static struct entry **slot(struct fs_guard *g, const char *path, size_t len)
{
	uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */

	for (size_t i = 0; i < len; i++)
		h = (h ^ (uint8_t)path[i]) * 0x100000001b3u;
	return &g->by_path[(h ^ h >> 32) % BUCKETS];
}

static struct entry *find_locked(struct fs_guard *g, const char *path, size_t len)
{
	struct entry *e = *slot(g, path, len);

	while (e && (e->len != len || memcmp(e->path, path, len) != 0))
		e = e->next;
	return e;
}

static struct entry *make_locked(struct fs_guard *g, const char *path, size_t len)
{
	struct entry *e = find_locked(g, path, len), **at = slot(g, path, len);

	if (e)
		return e;
	e = calloc(1, sizeof(*e) + len + 1);
	if (!e)
		return NULL;
	memcpy(e->path, path, len);
	e->len = len;
	e->next = *at;
	*at = e;
	return e;
}

static void drop_unused_locked(struct fs_guard *g, const char *path, size_t len)
{
	for (struct entry **at = slot(g, path, len); *at; at = &(*at)->next) {
		struct entry *e = *at;

		if (e->len != len || memcmp(e->path, path, len) != 0)
			continue;
		if (!e->database && !e->below) {
			*at = e->next;
			free(e);
		}
		return;
	}
}

/* The length of the directory part of path[0..len), 0 = none. */
static size_t parent(const char *path, size_t len)
{
	while (len && path[len - 1] != '/')
		len--;
	return len ? len - 1 : 0;
}

static int add_locked(struct fs_guard *g, const char *name, size_t len)
{
	struct entry *e;

	/* all memory first, so that a failure leaves no half */
	for (size_t n = len; n; n = parent(name, n))
		if (!make_locked(g, name, n)) {
			for (n = len; n; n = parent(name, n))
				drop_unused_locked(g, name, n);
			return -ENOMEM;
		}
	e = find_locked(g, name, len);
	if (e->database)
		return 0;
	e->database = true;
	for (size_t n = parent(name, len); n; n = parent(name, n))
		find_locked(g, name, n)->below++;
	atomic_fetch_add(&g->count, 1);
	return 0;
}

static void remove_locked(struct fs_guard *g, const char *name, size_t len)
{
	struct entry *e = find_locked(g, name, len);

	if (!e || !e->database)
		return;
	e->database = e->attached = false;
	drop_unused_locked(g, name, len);
	for (size_t n = parent(name, len); n; n = parent(name, n)) {
		find_locked(g, name, n)->below--;
		drop_unused_locked(g, name, n);
	}
	atomic_fetch_sub(&g->count, 1);
}

int fs_guard_protect(struct fs_guard *g, const char *name, bool on, struct fz_err *err)
{
	size_t len = strlen(name);
	int rc = 0;

	pthread_rwlock_wrlock(&g->mu);
	if (on)
		rc = add_locked(g, name, len);
	else
		remove_locked(g, name, len);
	pthread_rwlock_unlock(&g->mu);
	return rc < 0 ? fz_fail(err, rc, "no memory") : 0;
}

bool fs_guard_idle(const struct fs_guard *g)
{
	return atomic_load(&g->count) == 0;
}

void fs_guard_attached(struct fs_guard *g, const char *name, bool on)
{
	struct entry *e;

	pthread_rwlock_wrlock(&g->mu);
	e = find_locked(g, name, strlen(name));
	if (e && e->database)
		e->attached = on;
	pthread_rwlock_unlock(&g->mu);
}

/* What path is of a protected database: OTHER when it is none of it. held: the trusted process is attached. */
static enum fs_role role_of_locked(struct fs_guard *g, const char *path, bool *held)
{
	size_t len = strlen(path), base_len;
	enum fs_role role = FS_ROLE_DB;
	struct entry *e;

	e = find_locked(g, path, len); /* first: a database may be called "x-wal" */
	if (!e || !e->database) {
		role = fs_registry_split(path, &base_len);
		e = find_locked(g, path, base_len);
	}
	*held = e && e->database && e->attached;
	return e && e->database ? role : FS_ROLE_OTHER;
}

static enum fs_role role_of(struct fs_guard *g, const char *path)
{
	enum fs_role role;
	bool held;

	pthread_rwlock_rdlock(&g->mu);
	role = role_of_locked(g, path, &held);
	pthread_rwlock_unlock(&g->mu);
	return role;
}

static bool is_above(struct fs_guard *g, const char *path)
{
	struct entry *e;
	bool yes;

	pthread_rwlock_rdlock(&g->mu);
	e = find_locked(g, path, strlen(path));
	yes = e && e->below;
	pthread_rwlock_unlock(&g->mu);
	return yes;
}

bool fs_guard_protects(struct fs_guard *g, const char *path)
{
	return !fs_guard_idle(g) && role_of(g, path) != FS_ROLE_OTHER;
}

bool fs_guard_is_database(struct fs_guard *g, const char *path)
{
	return !fs_guard_idle(g) && role_of(g, path) == FS_ROLE_DB;
}

/* ---- processes ---- */

void fs_guard_trust(struct fs_guard *g, int pid)
{
	int fd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;

	if (pid > 0 && fd < 0)
		fz_warn("process %d cannot be trusted: %s", pid, fz_strerror(-errno));
	pthread_rwlock_wrlock(&g->mu);
	fz_close(&g->pidfd);
	g->pidfd = fd;
	g->pid = fd >= 0 ? pid : 0;
	for (unsigned i = 0; i < BUCKETS; i++)
		for (struct entry *e = g->by_path[i]; e; e = e->next)
			e->attached = false;
	pthread_rwlock_unlock(&g->mu);
}

/* Else its number may be another's by now. */
static bool alive_locked(const struct fs_guard *g)
{
	struct pollfd p = {g->pidfd, POLLIN, 0};

	return g->pid && poll(&p, 1, 0) == 0;
}

/* The kernel names the thread that asks. Whether it belongs to the process is asked without /proc, which may hide it
 * (hidepid) from a worker that has few capabilities: signal 0 goes to a thread of that group or nowhere. */
static bool trusted(struct fs_guard *g, int pid)
{
	bool yes = false;

	pthread_rwlock_rdlock(&g->mu);
	if (pid > 0 && alive_locked(g))
		yes = pid == g->pid || syscall(SYS_tgkill, g->pid, pid, 0) == 0 || errno == EPERM;
	pthread_rwlock_unlock(&g->mu);
	return yes;
}

bool fs_guard_trusts(struct fs_guard *g, int pid)
{
	return trusted(g, pid);
}

static int judge(struct fs_guard *g, int pid)
{
	return trusted(g, pid) ? 0 : -EROFS;
}

/* ---- what may be done ---- */

int fs_guard_may_open(struct fs_guard *g, const char *path, int flags, int pid)
{
	enum fs_role role;

	if (fs_guard_idle(g) || ((flags & O_ACCMODE) == O_RDONLY && !(flags & O_TRUNC)))
		return 0;
	role = role_of(g, path);
	if (role == FS_ROLE_OTHER || (role == FS_ROLE_SHM && !(flags & O_TRUNC)))
		return 0;
	return judge(g, pid);
}

int fs_guard_may_alter(struct fs_guard *g, const char *path, int pid)
{
	return fs_guard_protects(g, path) ? judge(g, pid) : 0;
}

static enum fs_role role_now(struct fs_guard *g, const char *path, bool *held)
{
	enum fs_role role;

	pthread_rwlock_rdlock(&g->mu);
	role = role_of_locked(g, path, held);
	*held = *held && alive_locked(g);
	pthread_rwlock_unlock(&g->mu);
	return role;
}

/* A reader begins a -shm anew once it has the lock that says it is alone (sqlite3: os_unix.c, unixLockSharedMemory()). A process
 * that dies lets go of its locks a moment before its pidfd tells, and one that detaches before it says so: whoever comes in between
 * is not refused (that would be SQLITE_IOERR_SHMOPEN), he waits. */
int fs_guard_may_cut(struct fs_guard *g, const char *path, uint64_t size_bytes, int pid)
{
	enum fs_role role;
	bool held;

	if (fs_guard_idle(g))
		return 0;
	role = role_now(g, path, &held);
	if (role == FS_ROLE_OTHER || judge(g, pid) == 0)
		return 0;
	if (role != FS_ROLE_SHM || size_bytes > 3)
		return -EROFS;
	for (int ms = 0; held && ms < LET_GO_MS; ms++) {
		(void)!poll(NULL, 0, 1);
		role = role_now(g, path, &held);
	}
	return held && role != FS_ROLE_OTHER ? -EROFS : 0;
}

int fs_guard_may_make(struct fs_guard *g, const char *path, bool dir, int pid)
{
	return fs_guard_protects(g, path) || (!dir && !fs_guard_idle(g) && is_above(g, path)) ? judge(g, pid) : 0;
}

int fs_guard_may_name(struct fs_guard *g, const char *path, int pid)
{
	return fs_guard_may_make(g, path, false, pid);
}

int fs_guard_event(struct fs_guard *g, const struct fs_event *ev)
{
	int rc = 0;

	if (fs_guard_idle(g) || !ev->path)
		return 0;
	switch (ev->op) {
	case FS_EV_CREATE:
		return fs_guard_may_make(g, ev->path, ev->dir, ev->pid);
	case FS_EV_TRUNCATE:
		return fs_guard_may_cut(g, ev->path, ev->size_bytes, ev->pid);
	case FS_EV_UNLINK:
		return fs_guard_may_name(g, ev->path, ev->pid);
	case FS_EV_RENAME:
	case FS_EV_LINK:
		rc = fs_guard_may_name(g, ev->path, ev->pid);
		return rc < 0 ? rc : fs_guard_may_name(g, ev->path2, ev->pid);
	default:
		return 0;
	}
}
