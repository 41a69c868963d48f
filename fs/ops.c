#include "fs/ops.h"

#include "base/file.h"
#include "base/log.h"
#include "fs/open.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/statvfs.h>
#include <unistd.h>

__thread struct fs_thread *fs_self;

bool fs_repeated(struct fs_session *s, enum fs_redo_op op, uint64_t *node)
{
	struct fs_result r;

	if (!fs_self->resent || !fs_redo_find(s->sh, fs_self->unique, &r) || r.op != op)
		return false;
	atomic_fetch_add(&s->n_repeated, 1);
	if (node)
		*node = r.node;
	return true;
}

struct fs_intent fs_intent_for(enum fs_redo_op op, uint64_t parent, const char *name, uint64_t node)
{
	struct fs_intent in;

	memset(&in, 0, sizeof(in));
	in.op = op;
	in.unique = fs_self->unique;
	in.parent = parent;
	in.node = node;
	strncpy(in.name, name, sizeof(in.name) - 1);
	return in;
}

int fs_root_open(struct fs_session *s, const char *path, int flags, mode_t mode)
{
	int fd = fz_open_below(s->rootfd, path, flags, mode);

	return fd < 0 ? -errno : fd;
}

int fs_spot_open(struct fs_spot *at, int rootfd, const char *path)
{
	at->dirfd = fz_open_parent(rootfd, path, O_PATH);
	at->name = basename(path);
	return at->dirfd < 0 ? -errno : 0;
}

void fs_spot_close(struct fs_spot *at)
{
	fz_close(&at->dirfd);
}

int fs_path(struct fs_session *s, uint64_t node, char path[static PATH_MAX])
{
	int rc;

	fs_table_lock(&s->tab);
	rc = fs_node_path_locked(&s->tab, node, path);
	fs_table_unlock(&s->tab);
	return rc;
}

int fs_child_path(struct fs_session *s, uint64_t parent, const char *name, char path[static PATH_MAX])
{
	int rc;

	fs_table_lock(&s->tab);
	rc = fs_node_child_path_locked(&s->tab, parent, name, path);
	fs_table_unlock(&s->tab);
	return rc;
}

bool fs_is_state(uint64_t parent, const char *name)
{
	return parent == FUSE_ROOT_ID && strcmp(name, ".fazt") == 0;
}

int fs_may_name(uint64_t parent, const char *name)
{
	return fs_virtual_is(parent) || fs_is_state(parent, name) ? -EROFS : 0;
}

/* The spare name of a hidden file does not count: its application removed the last. */
static void as_unlinked(struct stat *st)
{
	if (st->st_nlink)
		st->st_nlink--;
}

int fs_node_stat(struct fs_session *s, uint64_t node, struct stat *st)
{
	struct fs_open *o = fs_open_get(s, node, false);
	char path[PATH_MAX];
	struct fs_cell *n;
	bool hidden = false, dead = false;
	int rc = 0;

	memset(st, 0, sizeof(*st));
	fs_table_lock(&s->tab);
	n = fs_node_get_locked(&s->tab, node);
	if (n) {
		hidden = n->flags & FS_CELL_HIDDEN;
		dead = (n->flags & FS_CELL_DEAD) &&
		       !fs_node_has_name_locked(&s->tab, n); /* else it is going, or stays */
		st->st_mode = n->mode;
		st->st_uid = n->uid;
		st->st_gid = n->gid;
		st->st_ino = n->ino;
	}
	fs_table_unlock(&s->tab);
	if (o && o->live) {
		rc = fstat(o->fd, st) < 0 ? -errno : 0;
	} else if (!n) {
		rc = -ESTALE;
	} else if (dead) {
		rc = 0; /* somebody's working directory, or an O_PATH descriptor: what it was last */
	} else {
		pthread_rwlock_rdlock(&s->tab.ns);
		rc = fs_path(s, node, path);
		if (rc == 0 && fstatat(s->rootfd, path, st, AT_SYMLINK_NOFOLLOW) < 0)
			rc = -errno;
		pthread_rwlock_unlock(&s->tab.ns);
	}
	fs_open_put(s, o);
	if (rc == 0 && hidden)
		as_unlinked(st);
	if (rc == 0 && node == FUSE_ROOT_ID && st->st_nlink > 2)
		st->st_nlink--; /* .fazt */
	return rc;
}

int fs_entry(struct fs_session *s, uint64_t node, const struct stat *st, struct fuse_entry_param *e)
{
	struct fs_cell *n;
	int rc = 0;

	memset(e, 0, sizeof(*e));
	if (st)
		e->attr = *st;
	else
		rc = fs_node_stat(s, node, &e->attr);
	if (rc < 0)
		return rc;
	/* Counted before the kernel hears of it: after a death the count may be too high, never too low. */
	fs_table_lock(&s->tab);
	n = fs_node_get_locked(&s->tab, node);
	if (n)
		n->nlookup++;
	else
		rc = -ESTALE;
	if (n && st && (n->flags & FS_CELL_HIDDEN))
		as_unlinked(&e->attr);
	fs_table_unlock(&s->tab);
	e->ino = node;
	e->attr_timeout = FS_TIMEOUT_S;
	e->entry_timeout = FS_TIMEOUT_S;
	return rc;
}

void fs_reply_entry_or_err(fuse_req_t req, int rc, const struct fuse_entry_param *e)
{
	if (rc < 0)
		fuse_reply_err(req, fz_err_errno(rc));
	else
		fuse_reply_entry(req, e);
}

void fs_reply_rc(fuse_req_t req, int rc)
{
	fuse_reply_err(req, rc < 0 ? fz_err_errno(rc) : 0);
}

void fs_become_caller(fuse_req_t req)
{
	const struct fuse_ctx *c = fuse_req_ctx(req);

	if (c->uid == 0 && c->gid == 0)
		return;
	setfsgid(c->gid);
	setfsuid(c->uid);
}

void fs_become_root(fuse_req_t req)
{
	const struct fuse_ctx *c = fuse_req_ctx(req);

	if (c->uid == 0 && c->gid == 0)
		return;
	setfsuid(0);
	setfsgid(0);
}

static void op_init(void *userdata, struct fuse_conn_info *c)
{
	struct fs_session *s = userdata;

	c->max_write = FS_MAX_WRITE;
	c->max_background = 64;
	c->congestion_threshold = 48;
	c->time_gran = 1;
	/* Nothing changes behind the kernel's back, so its caches need no guessing; data is copied, never spliced: a
	 * pipe dies with the worker. */
#if FS_NATIVE_PASSTHROUGH
	static const uint64_t want = FUSE_CAP_ASYNC_READ | FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_PARALLEL_DIROPS |
	                             FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_ASYNC_DIO;

	for (unsigned bit = 0; bit < 63; bit++)
		fuse_unset_feature_flag(c, 1ull << bit);
	for (unsigned bit = 0; bit < 63; bit++)
		if (want >> bit & 1)
			fuse_set_feature_flag(c, 1ull << bit);
	if (s->passthrough) {
		s->passthrough = fuse_set_feature_flag(c, FUSE_CAP_PASSTHROUGH);
		c->max_backing_stack_depth = 1;
	}
#else
	c->want = c->capable & (FUSE_CAP_ASYNC_READ | FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_PARALLEL_DIROPS |
	                        FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_ASYNC_DIO);
#endif
	(void)s;
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st;
	int rc;

	if (fs_virtual_is(ino)) {
		fs_vop_getattr(req, ino);
		return;
	}
	rc = fs_node_stat(fs_session_of(req), ino, &st);
	if (rc < 0)
		fuse_reply_err(req, -rc);
	else
		fuse_reply_attr(req, &st, FS_TIMEOUT_S);
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct statvfs v;

	if (fstatvfs(fs_session_of(req)->rootfd, &v) < 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_statfs(req, &v);
}

/* Refused once: the kernel never asks again. SQLite opens files without any, and each open would cost a request. */
static void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	fuse_reply_err(req, ENOSYS);
}
static void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	fuse_reply_err(req, ENOSYS);
}

/* No getlk, setlk, flock: locks stay in the kernel and survive a worker. No write_buf (splice). What is missing answers
 * ENOSYS, and the kernel does without: access (default_permissions), setxattr, listxattr, lseek, copy_file_range, ioctl. */
const struct fuse_lowlevel_ops fs_ops = {
        .init = op_init,
        .lookup = fs_op_lookup,
        .forget = fs_op_forget,
        .forget_multi = fs_op_forget_multi,
        .getattr = op_getattr,
        .setattr = fs_op_setattr,
        .readlink = fs_op_readlink,
        .mknod = fs_op_mknod,
        .mkdir = fs_op_mkdir,
        .unlink = fs_op_unlink,
        .rmdir = fs_op_rmdir,
        .symlink = fs_op_symlink,
        .rename = fs_op_rename,
        .link = fs_op_link,
        .create = fs_op_create,
        .open = fs_op_open,
        .read = fs_op_read,
        .write = fs_op_write,
        .flush = op_flush,
        .release = fs_op_release,
        .fsync = fs_op_fsync,
        .opendir = fs_op_opendir,
        .readdir = fs_op_readdir,
        .fsyncdir = fs_op_fsyncdir,
        .statfs = op_statfs,
        .getxattr = op_getxattr,
        .fallocate = fs_op_fallocate,
        .poll = fs_op_poll,
};
