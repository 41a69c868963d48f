/* capture_vfs.h - drives a struct fs_capture with a real SQLite and no FUSE: SQLite's own table of system calls (xSetSystemCall
 * of the unix VFS) and fsync/fdatasync are replaced, and tell exactly what a mount would be asked: CREATE, OPEN (first
 * handle), RELEASE (last one), SETATTR(size), FSYNC, UNLINK, and WRITE where a file is served write-through. Included by one
 * test program; single mount, any number of threads. */
#ifndef CAPTURE_VFS_H
#define CAPTURE_VFS_H

#include "fs/capture.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

struct vfs_node {
	struct vfs_node *next;
	char path[512]; /* below the root */
	struct fs_file *file;
	enum fs_mode mode;
	int fd, handles;
	bool unlinked;
};
static struct {
	struct fs_capture *_Atomic c;
	char root[256];
	pthread_mutex_t mu;
	struct vfs_node *nodes;
	struct vfs_node *_Atomic by_fd[65536];
	unsigned long events[16];
	/* SIGKILL at the n-th event of this kind, after before() (0) or after the operation (1) */
	enum fs_event_op kill_op;
	const char *kill_suffix;
	unsigned kill_nth;
	int kill_after;
	void (*at_write)(void); /* called once, when the next WRITE is about to be told */
} vfs = {.mu = PTHREAD_MUTEX_INITIALIZER};

static const char *vfs_rel(const char *path)
{
	size_t n = strlen(vfs.root);

	return vfs.c && n && !strncmp(path, vfs.root, n) && path[n] == '/' ? path + n + 1 : NULL;
}

static struct vfs_node *vfs_node_of(int fd)
{
	/* without vfs.mu: the capture syncs its log (fdatasync above) under its own locks */
	return vfs.c && fd >= 0 && fd < 65536 ? atomic_load(&vfs.by_fd[fd]) : NULL;
}

static struct fs_event vfs_event(enum fs_event_op op, struct vfs_node *n, const char *path)
{
	vfs.events[op]++;
	return (struct fs_event){.op = op, .file = n ? n->file : NULL, .path = n ? n->path : path};
}

static void vfs_maybe_kill(const struct fs_event *ev, int after)
{
	const char *path = ev->path ? ev->path : "";
	size_t n = strlen(path), k = vfs.kill_suffix ? strlen(vfs.kill_suffix) : 0;

	if (vfs.kill_nth && ev->op == vfs.kill_op && after == vfs.kill_after && n >= k &&
	    !strcmp(path + n - k, vfs.kill_suffix) && --vfs.kill_nth == 0)
		kill(getpid(), SIGKILL);
}

static void vfs_before(struct fs_event *ev)
{
	fs_capture_before(vfs.c, ev);
	vfs_maybe_kill(ev, 0);
}

static void vfs_after(struct fs_event *ev, int rc)
{
	vfs_maybe_kill(ev, 1);
	fs_capture_after(vfs.c, ev, rc);
}

static struct vfs_node *vfs_find(const char *rel)
{
	for (struct vfs_node *n = vfs.nodes; n; n = n->next)
		if (!n->unlinked && !strcmp(n->path, rel))
			return n;
	return NULL;
}

static int vfs_open(const char *path, int flags, int mode)
{
	const char *rel = vfs_rel(path);
	struct fs_event ev = {0};
	struct vfs_node *n;
	struct stat st;
	bool existed;
	int fd;

	if (!rel)
		return open(path, flags, mode);
	existed = stat(path, &st) == 0;
	if (existed && !S_ISREG(st.st_mode))
		return open(path, flags, mode);
	if (!existed && flags & O_CREAT) {
		ev = vfs_event(FS_EV_CREATE, NULL, rel);
		vfs_before(&ev);
	}
	fd = open(path, flags, mode);
	if (ev.path)
		vfs_after(&ev, fd < 0 ? -errno : 0);
	if (fd < 0)
		return fd;
	pthread_mutex_lock(&vfs.mu);
	n = vfs_find(rel);
	if (!n) {
		struct fz_err err = {0};

		n = calloc(1, sizeof(*n));
		snprintf(n->path, sizeof(n->path), "%s", rel);
		n->fd = open(path, O_RDWR | O_CLOEXEC);
		n->mode = FS_MODE_ANY;
		if (n->fd < 0 || fs_capture_file_open(vfs.c, rel, n->fd, !existed, &n->mode, &n->file, &err) < 0) {
			fprintf(stderr, "open %s: %s\n", rel, err.text);
			abort();
		}
		n->next = vfs.nodes;
		vfs.nodes = n;
	}
	n->handles++;
	vfs.by_fd[fd] = n;
	pthread_mutex_unlock(&vfs.mu);
	return fd;
}

static int vfs_close(int fd)
{
	struct vfs_node *n = vfs_node_of(fd);
	int rc;

	pthread_mutex_lock(&vfs.mu);
	if (fd >= 0 && fd < 65536)
		vfs.by_fd[fd] = NULL;
	rc = close(fd);
	if (n && --n->handles == 0) {
		for (struct vfs_node **at = &vfs.nodes; *at; at = &(*at)->next)
			if (*at == n) {
				*at = n->next;
				break;
			}
		fs_capture_file_close(n->file);
		close(n->fd);
		free(n);
	}
	pthread_mutex_unlock(&vfs.mu);
	return rc;
}

static int vfs_ftruncate(int fd, off_t size)
{
	struct vfs_node *n = vfs_node_of(fd);
	struct fs_event ev;
	int rc;

	if (!n)
		return ftruncate(fd, size);
	ev = vfs_event(FS_EV_TRUNCATE, n, NULL);
	ev.size_bytes = (uint64_t)size;
	vfs_before(&ev);
	rc = ftruncate(fd, size);
	vfs_after(&ev, rc < 0 ? -errno : 0);
	return rc;
}

static int vfs_unlink(const char *path)
{
	const char *rel = vfs_rel(path);
	struct fs_event ev;
	struct vfs_node *n;
	int rc;

	if (!rel)
		return unlink(path);
	pthread_mutex_lock(&vfs.mu);
	n = vfs_find(rel);
	pthread_mutex_unlock(&vfs.mu);
	ev = vfs_event(FS_EV_UNLINK, n, rel);
	vfs_before(&ev);
	rc = unlink(path);
	if (rc == 0 && n)
		n->unlinked = true;
	vfs_after(&ev, rc < 0 ? -errno : 0);
	return rc;
}

static ssize_t vfs_pwrite(int fd, const void *data, size_t len, off_t off)
{
	struct vfs_node *n = vfs_node_of(fd);
	struct fs_event ev;
	ssize_t rc;

	if (!n || n->mode == FS_MODE_PASSTHROUGH)
		return pwrite(fd, data, len, off);
	ev = vfs_event(FS_EV_WRITE, n, NULL);
	ev.off_bytes = (uint64_t)off;
	ev.len_bytes = len;
	if (vfs.at_write)
		vfs.at_write();
	vfs.at_write = NULL;
	vfs_before(&ev);
	rc = pwrite(fd, data, len, off);
	vfs_after(&ev, rc < 0 ? -errno : 0);
	return rc;
}

static ssize_t vfs_write(int fd, const void *data, size_t len)
{
	off_t at = lseek(fd, 0, SEEK_CUR);
	ssize_t rc;

	if (!vfs_node_of(fd))
		return write(fd, data, len);
	rc = vfs_pwrite(fd, data, len, at);
	if (rc > 0)
		lseek(fd, rc, SEEK_CUR);
	return rc;
}

static int vfs_sync(int fd, long call)
{
	struct vfs_node *n = vfs_node_of(fd);
	struct fs_event ev;
	int rc;

	if (!n)
		return (int)syscall(call, fd);
	ev = vfs_event(FS_EV_FSYNC, n, NULL);
	vfs_before(&ev);
	rc = (int)syscall(call, fd);
	vfs_after(&ev, rc < 0 ? -errno : 0);
	if (rc == 0 && ev.verdict < 0) { /* as fs/ops_file.c answers */
		errno = -ev.verdict;
		rc = -1;
	}
	return rc;
}

/* libsqlite3 calls these through its symbol table: the program's own come first. */
int fdatasync(int fd)
{
	return vfs_sync(fd, SYS_fdatasync);
}
int fsync(int fd)
{
	return vfs_sync(fd, SYS_fsync);
}

static inline int vfs_rename(const char *from, const char *to)
{
	struct vfs_node *a, *b;
	struct fs_event ev;
	int rc;

	pthread_mutex_lock(&vfs.mu);
	a = vfs_find(vfs_rel(from));
	b = vfs_find(vfs_rel(to));
	pthread_mutex_unlock(&vfs.mu);
	ev = vfs_event(FS_EV_RENAME, a, vfs_rel(from));
	ev.path2 = vfs_rel(to);
	vfs_before(&ev);
	rc = rename(from, to);
	if (rc == 0 && b)
		b->unlinked = true;
	vfs_after(&ev, rc < 0 ? -errno : 0);
	if (rc == 0 && a)
		snprintf(a->path, sizeof(a->path), "%s", vfs_rel(to));
	return rc;
}

static void vfs_install(void)
{
	static const struct {
		const char *name;
		sqlite3_syscall_ptr fn;
	} t[] = {
	        {"open",      (sqlite3_syscall_ptr)vfs_open     },
                {"close",     (sqlite3_syscall_ptr)vfs_close    },
	        {"ftruncate", (sqlite3_syscall_ptr)vfs_ftruncate},
                {"unlink",    (sqlite3_syscall_ptr)vfs_unlink   },
	        {"pwrite",    (sqlite3_syscall_ptr)vfs_pwrite   },
                {"pwrite64",  (sqlite3_syscall_ptr)vfs_pwrite   },
	        {"write",     (sqlite3_syscall_ptr)vfs_write    },
	};
	sqlite3_vfs *v = sqlite3_vfs_find("unix");

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++)
		if (v->xSetSystemCall(v, t[i].name, t[i].fn) != SQLITE_OK && strcmp(t[i].name, "pwrite64"))
			abort();
}

/* A new worker under applications that live on: every node that the kernel has open is opened again, in its mode. */
static inline void vfs_resume_some(struct fs_capture *c, const char *root, bool shm)
{
	vfs.c = c;
	snprintf(vfs.root, sizeof(vfs.root), "%s", root);
	for (struct vfs_node *n = vfs.nodes; n; n = n->next) {
		struct fz_err err = {0};
		size_t len = strlen(n->path);

		if ((len > 4 && !strcmp(n->path + len - 4, "-shm")) != shm)
			continue;
		if (fs_capture_file_open(c, n->path, n->fd, false, &n->mode, &n->file, &err) < 0) {
			fprintf(stderr, "open %s: %s\n", n->path, err.text);
			abort();
		}
	}
}

static inline void vfs_resume(struct fs_capture *c, const char *root)
{
	vfs_resume_some(c, root, false);
	vfs_resume_some(c, root, true);
}

/* Starts and ends telling. */
static void vfs_attach(struct fs_capture *c, const char *root)
{
	vfs.c = c;
	snprintf(vfs.root, sizeof(vfs.root), "%s", root);
	memset(vfs.events, 0, sizeof(vfs.events));
}

#endif
