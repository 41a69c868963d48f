#include "fs/ops.h"

#include "base/file.h"
#include "base/log.h"
#include "fs/open.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Logs what is no ordinary answer to an application and turns it into an errno for the reply. */
static int told(int rc, const struct fz_err *err)
{
	if (rc <= -1000 || rc == -EIO || rc == -ENOMEM)
		fz_log_err("request", err);
	return rc;
}

static int before(struct fs_session *s, struct fs_event *ev)
{
	return ev->file || ev->path ? fs_capture_before(s->capture, ev) : 0;
}
static void after(struct fs_session *s, struct fs_event *ev, int rc)
{
	if (ev->file || ev->path)
		fs_capture_after(s->capture, ev, rc);
}

/* Runs op between before() and after(). */
#define EVENT(s, ev, rc, op)                                                                                           \
	do {                                                                                                           \
		rc = before(s, &(ev));                                                                                 \
		if (rc == 0) {                                                                                         \
			rc = (op) < 0 ? -errno : 0;                                                                    \
			after(s, &(ev), rc);                                                                           \
		}                                                                                                      \
	} while (0)

static int truncate_open(struct fs_session *s, struct fs_open *o, uint64_t size)
{
	struct fs_event ev = {.op = FS_EV_TRUNCATE, .file = o->file, .size_bytes = size, .pid = fs_self->pid};
	int rc;

	EVENT(s, ev, rc, ftruncate(o->fd, (off_t)size));
	return rc;
}

/* ---- open, create, release ---- */

/* A database that comes from another host is not written to; but what a former worker has opened stays open. *fixed: it is such a
 * database, and this handle will never write. */
static int may_open(struct fs_session *s, uint64_t node, int flags, bool *fixed)
{
	char path[PATH_MAX];
	struct fs_result r;
	int rc;

	*fixed = false;
	if (!fs_capture_guards(s->capture) || fs_path(s, node, path) < 0)
		return 0;
	*fixed = (flags & O_ACCMODE) == O_RDONLY && fs_capture_protects(s->capture, path);
	rc = fs_capture_may_open(s->capture, path, flags, fs_self->pid);
	if (rc < 0 && fs_self->resent && fs_redo_find(s->sh, fs_self->unique, &r))
		rc = 0;
	return rc;
}

static int do_open(struct fs_session *s, uint64_t node, struct fuse_file_info *fi)
{
	bool fixed;
	int rc = may_open(s, node, fi->flags, &fixed);
	struct fz_err err = {0};
	struct fs_open *o;

	if (rc < 0)
		return rc;
	o = fs_open_get(s, node, true);
	if (!o)
		return -ENOMEM;
	pthread_mutex_lock(&o->mu);
	rc = told(fs_open_start(s, o, -1, false, &err), &err);
	if (rc == 0 && !o->writable && (fi->flags & O_ACCMODE) != O_RDONLY)
		rc = -EROFS;
	if (rc == 0)
		rc = fs_open_count(s, o, FS_REDO_OPEN, +1, fixed);
	pthread_mutex_unlock(&o->mu);
	if (rc == 0 && (fi->flags & O_TRUNC)) {
		rc = truncate_open(s, o, 0);
		if (rc < 0) { /* the kernel sends no RELEASE for an open that failed */
			pthread_mutex_lock(&o->mu);
			fs_table_lock(&s->tab);
			struct fs_cell *n = fs_node_get_locked(&s->tab, node);
			if (n && n->nopen)
				n->nopen--;
			fs_table_unlock(&s->tab);
			pthread_mutex_unlock(&o->mu);
		}
	}
	if (rc == 0)
		fs_open_reply(s, o, fixed, fi);
	fs_open_put(s, o);
	return rc;
}

void fs_op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	int rc;

	if (fs_virtual_is(ino)) {
		fs_vop_open(req, ino, fi);
		return;
	}
	rc = do_open(fs_session_of(req), ino, fi);
	if (rc < 0)
		fuse_reply_err(req, fz_err_errno(rc));
	else
		fuse_reply_open(req, fi);
}

/* Makes the file and its node; *fd is open read-write. -EEXIST. */
static int make_file(struct fs_session *s, fuse_req_t req, uint64_t parent, const char *name, mode_t mode,
                     uint64_t *node, int *fd)
{
	struct fs_intent in = fs_intent_for(FS_REDO_CREATE, parent, name, fs_node_new_id(&s->tab));
	struct fs_event ev = {.op = FS_EV_CREATE, .pid = fs_self->pid};
	char path[PATH_MAX];
	struct fs_cell *n;
	struct stat st;
	int rc;

	rc = fs_child_path(s, parent, name, path);
	if (rc < 0)
		return rc;
	ev.path = path;
	rc = fs_capture_before(s->capture, &ev);
	if (rc < 0)
		return rc;
	pthread_rwlock_rdlock(&s->tab.ns);
	rc = fs_child_path(s, parent, name, path);
	if (rc == 0 && fstatat(s->rootfd, path, &st, AT_SYMLINK_NOFOLLOW) == 0)
		rc = -EEXIST; /* seen before the intent: what exists afterwards is ours */
	if (rc == 0) {
		in.nopen = 1;
		fs_redo_begin(fs_self->slot, &in);
		fs_become_caller(req);
		*fd = fs_root_open(s, path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, mode);
		fs_become_root(req);
		FS_CRASHPOINT(create_made);
		rc = *fd < 0 ? *fd : fstat(*fd, &st) < 0 ? -errno : 0;
		if (rc == 0) {
			fs_table_lock(&s->tab);
			n = fs_node_add_locked(&s->tab, in.node, &st, in.nopen);
			rc = n ? fs_node_name_locked(&s->tab, n, parent, name) : -ENOMEM;
			fs_table_unlock(&s->tab);
		}
		fs_redo_end(s->sh, fs_self->slot, rc, in.node);
		*node = in.node;
	}
	pthread_rwlock_unlock(&s->tab.ns);
	fs_capture_after(s->capture, &ev, rc);
	return rc;
}

static int do_create(struct fs_session *s, fuse_req_t req, uint64_t parent, const char *name, mode_t mode,
                     struct fuse_entry_param *e, struct fuse_file_info *fi)
{
	struct fz_err err = {0};
	struct fs_open *o;
	struct stat st;
	uint64_t node = 0;
	bool created = true;
	int fd = -1, rc = 0;

	rc = fs_may_name(parent, name);
	if (rc < 0)
		return rc;
	if (!fs_repeated(s, FS_REDO_CREATE, &node)) {
		rc = make_file(s, req, parent, name, mode, &node, &fd);
		if (rc == -EEXIST && !(fi->flags & O_EXCL)) {
			rc = fs_lookup(s, parent, name, &node, &st);
			if (rc == 0 && !S_ISREG(st.st_mode))
				rc = -EEXIST;
			if (rc == 0)
				rc = do_open(s, node, fi);
			return rc == 0 ? fs_entry(s, node, NULL, e) : rc;
		}
		if (rc < 0)
			return rc;
	} else {
		created = false;
	}
	o = fs_open_get(s, node, true);
	if (!o) {
		fz_close(&fd);
		return -ENOMEM;
	}
	pthread_mutex_lock(&o->mu);
	rc = told(fs_open_start(s, o, fd, created, &err), &err);
	pthread_mutex_unlock(&o->mu);
	if (rc == 0) {
		fs_open_reply(s, o, false, fi);
		rc = fs_entry(s, node, NULL, e);
	}
	if (rc < 0) {
		fs_table_lock(&s->tab);
		struct fs_cell *n = fs_node_get_locked(&s->tab, node);
		if (n && n->nopen)
			n->nopen--;
		fs_table_unlock(&s->tab);
	}
	fs_open_put(s, o);
	return rc;
}

void fs_op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct fuse_entry_param e;
	int rc = do_create(fs_session_of(req), req, parent, name, mode, &e, fi);

	if (rc < 0)
		fuse_reply_err(req, fz_err_errno(rc));
	else
		fuse_reply_create(req, &e, fi);
}

static int do_release(struct fs_session *s, uint64_t node, bool fixed)
{
	struct fs_open *o = fs_open_get(s, node, true);

	if (!o)
		return -ENOMEM;
	pthread_mutex_lock(&o->mu);
	if (fs_open_count(s, o, FS_REDO_RELEASE, -1, fixed) < 0)
		fz_debug("release of node %llu, which is not open", (unsigned long long)node);
	pthread_mutex_unlock(&o->mu);
	fs_open_put(s, o);
	return 0;
}

void fs_op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if (fs_virtual_is(ino)) {
		fs_vop_release(req, fi);
		return;
	}
	do_release(fs_session_of(req), ino, fi->fh & FS_FH_FIXED);
	fuse_reply_err(req, 0);
}

/* ---- data ---- */

void fs_op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct fs_session *s = fs_session_of(req);
	struct fs_open *o;
	ssize_t n;

	if (size > FS_MAX_WRITE)
		size = FS_MAX_WRITE;
	if (fs_virtual_is(ino)) {
		fs_vop_read(req, ino, size, off, fi);
		return;
	}
	o = fs_open_get(s, ino, false);
	n = o && o->live ? fz_pread(o->fd, fs_self->out, size, off) : -EIO;
	fs_open_put(s, o);
	if (n < 0)
		fuse_reply_err(req, (int)-n);
	else
		fuse_reply_buf(req, (char *)fs_self->out, (size_t)n);
}

static ssize_t do_write(struct fs_session *s, uint64_t node, const char *data, size_t size, off_t off)
{
	struct fs_event ev = {.op = FS_EV_WRITE, .off_bytes = (uint64_t)off, .len_bytes = size, .pid = fs_self->pid};
	struct fs_open *o = fs_open_get(s, node, false);
	ssize_t n;
	int rc = -EIO;

	if (!o || !o->live)
		goto out;
	ev.file = o->file;
	rc = before(s, &ev);
	if (rc < 0)
		goto out;
	n = pwrite(o->fd, data, size, off); /* a short write is the application's to continue */
	rc = n < 0 ? -errno : (int)n;
	FS_CRASHPOINT(written);
	after(s, &ev, n < 0 ? rc : 0);
out:
	fs_open_put(s, o);
	return rc;
}

void fs_op_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t off, struct fuse_file_info *fi)
{
	ssize_t n = do_write(fs_session_of(req), ino, data, size, off);

	if (n < 0)
		fuse_reply_err(req, fz_err_errno((int)n));
	else
		fuse_reply_write(req, (size_t)n);
}

static int do_fsync(struct fs_session *s, uint64_t node, int datasync)
{
	struct fs_event ev = {.op = FS_EV_FSYNC, .pid = fs_self->pid};
	struct fs_open *o = fs_open_get(s, node, false);
	int rc = -EIO;

	if (o && o->live) {
		ev.file = o->file;
		EVENT(s, ev, rc, datasync ? fdatasync(o->fd) : fsync(o->fd));
		fs_self->abandoned = ev.verdict == -ECANCELED;
		rc = rc == 0 ? ev.verdict : rc;
		atomic_fetch_add_explicit(&s->n_fsync, 1, memory_order_relaxed);
	}
	fs_open_put(s, o);
	return rc;
}

void fs_op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	fs_reply_rc(req, do_fsync(fs_session_of(req), ino, datasync));
}

static int do_fallocate(struct fs_session *s, uint64_t node, int mode, off_t off, off_t len)
{
	struct fs_open *o = fs_open_get(s, node, false);
	struct fs_event ev = {
	        .op = FS_EV_WRITE, .off_bytes = (uint64_t)off, .len_bytes = (uint64_t)len, .pid = fs_self->pid};
	struct stat st;
	int rc = -EIO;

	if (o && o->live && fstat(o->fd, &st) == 0) {
		ev.file = o->file;
		if (!(mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))) {
			ev.op = FS_EV_TRUNCATE;
			ev.size_bytes = (uint64_t)st.st_size;
			if (!(mode & FALLOC_FL_KEEP_SIZE) && off + len > st.st_size)
				ev.size_bytes = (uint64_t)(off + len);
		}
		EVENT(s, ev, rc, fallocate(o->fd, mode, off, len));
	}
	fs_open_put(s, o);
	return rc;
}

void fs_op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len, struct fuse_file_info *fi)
{
	fs_reply_rc(req, do_fallocate(fs_session_of(req), ino, mode, off, len));
}

/* ---- attributes ---- */

static int truncate_path(struct fs_session *s, uint64_t node, uint64_t size)
{
	struct fs_event ev = {.op = FS_EV_TRUNCATE, .size_bytes = size, .pid = fs_self->pid};
	char path[PATH_MAX];
	int fd = -1, rc;

	rc = fs_path(s, node, path);
	if (rc < 0)
		return rc;
	ev.path = path;
	rc = fs_capture_before(s->capture, &ev);
	if (rc < 0)
		return rc;
	pthread_rwlock_rdlock(&s->tab.ns);
	rc = fs_path(s, node, path);
	if (rc == 0) {
		fd = fs_root_open(s, path, O_WRONLY | O_NOFOLLOW | O_NONBLOCK, 0);
		rc = fd < 0 ? fd : ftruncate(fd, (off_t)size) < 0 ? -errno : 0;
	}
	pthread_rwlock_unlock(&s->tab.ns);
	fz_close(&fd);
	fs_capture_after(s->capture, &ev, rc);
	return rc;
}

static int set_size(struct fs_session *s, uint64_t node, uint64_t size)
{
	struct fs_open *o = fs_open_get(s, node, false);
	int rc = o && o->live ? truncate_open(s, o, size) : truncate_path(s, node, size);

	fs_open_put(s, o);
	return rc;
}

static void pick_time(struct timespec *out, const struct timespec *in, int set, int want, int now)
{
	*out = (struct timespec){0, set & now ? UTIME_NOW : UTIME_OMIT};
	if ((set & want) && !(set & now))
		*out = *in;
}

/* A descriptor to change the node's attributes through: an O_PATH one where the file is not open, so that a symbolic link
 * is never followed. -ENOENT: a directory that was removed and still is somebody's. */
static int attr_fd(struct fs_session *s, uint64_t node)
{
	struct fs_open *o = fs_open_get(s, node, false);
	char path[PATH_MAX];
	struct fs_cell *n;
	int fd;

	if (o && o->live) {
		fd = fcntl(o->fd, F_DUPFD_CLOEXEC, 0);
		fd = fd < 0 ? -errno : fd;
	} else {
		pthread_rwlock_rdlock(&s->tab.ns);
		fs_table_lock(&s->tab);
		n = fs_node_get_locked(&s->tab, node);
		fd = n && (n->flags & FS_CELL_DEAD) ? -ENOENT : fs_node_path_locked(&s->tab, node, path);
		fs_table_unlock(&s->tab);
		if (fd == 0)
			fd = fs_root_open(s, path, O_PATH | O_NOFOLLOW, 0);
		pthread_rwlock_unlock(&s->tab.ns);
	}
	fs_open_put(s, o);
	return fd;
}

static void set_dead(struct fs_session *s, uint64_t node, const struct stat *a, int set)
{
	struct fs_cell *n;

	fs_table_lock(&s->tab);
	n = fs_node_get_locked(&s->tab, node);
	if (n && (set & FUSE_SET_ATTR_MODE))
		n->mode = (n->mode & S_IFMT) | (a->st_mode & 07777);
	if (n && (set & FUSE_SET_ATTR_UID))
		n->uid = a->st_uid;
	if (n && (set & FUSE_SET_ATTR_GID))
		n->gid = a->st_gid;
	fs_table_unlock(&s->tab);
}

static int may_alter(struct fs_session *s, uint64_t node)
{
	char path[PATH_MAX];

	if (!fs_capture_guards(s->capture) || fs_path(s, node, path) < 0)
		return 0;
	return fs_capture_may_alter(s->capture, path, fs_self->pid);
}

/* Owner, mode, times. */
static int set_rest(struct fs_session *s, uint64_t node, const struct stat *a, int set)
{
	int fd, rc = may_alter(s, node);
	struct timespec t[2];
	char proc[64];

	if (rc < 0)
		return rc;
	fd = attr_fd(s, node);
	if (fd == -ENOENT) {
		set_dead(s, node, a, set);
		return 0;
	}
	if (fd < 0)
		return fd;
	if (set & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) {
		uid_t uid = set & FUSE_SET_ATTR_UID ? a->st_uid : (uid_t)-1;
		gid_t gid = set & FUSE_SET_ATTR_GID ? a->st_gid : (gid_t)-1;

		rc = fchownat(fd, "", uid, gid, AT_EMPTY_PATH) < 0 ? -errno : 0;
	}
	if (rc == 0 && (set & FUSE_SET_ATTR_MODE)) { /* after the owner, since a chown clears set-id bits */
		snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
		rc = chmod(proc, a->st_mode & 07777) < 0 ? -errno : 0;
	}
	if (rc == 0 &&
	    (set & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_ATIME_NOW | FUSE_SET_ATTR_MTIME_NOW))) {
		pick_time(&t[0], &a->st_atim, set, FUSE_SET_ATTR_ATIME, FUSE_SET_ATTR_ATIME_NOW);
		pick_time(&t[1], &a->st_mtim, set, FUSE_SET_ATTR_MTIME, FUSE_SET_ATTR_MTIME_NOW);
		rc = utimensat(fd, "", t, AT_EMPTY_PATH) < 0 ? -errno : 0;
	}
	fz_close(&fd);
	return rc;
}

static int do_setattr(struct fs_session *s, uint64_t node, const struct stat *a, int set, struct stat *out)
{
	const int rest = FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID | FUSE_SET_ATTR_ATIME |
	                 FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_ATIME_NOW | FUSE_SET_ATTR_MTIME_NOW;
	int rc = fs_virtual_is(node) ? -EROFS : 0;

	if (rc == 0 && (set & FUSE_SET_ATTR_SIZE))
		rc = set_size(s, node, (uint64_t)a->st_size);
	if (rc == 0 && (set & rest))
		rc = set_rest(s, node, a, set);
	return rc < 0 ? rc : fs_node_stat(s, node, out);
}

void fs_op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int set, struct fuse_file_info *fi)
{
	struct stat st;
	int rc = do_setattr(fs_session_of(req), ino, attr, set, &st);

	if (rc < 0)
		fuse_reply_err(req, fz_err_errno(rc));
	else
		fuse_reply_attr(req, &st, FS_TIMEOUT_S);
}
