/* ops_dir.c - names: found, made, and gone. */
#include "fs/ops.h"

#include "base/file.h"
#include "base/log.h"
#include "fs/open.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- names to nodes ---- */

static bool same_inode(const struct fs_cell *n, const struct stat *st)
{
	return n->ino == st->st_ino && n->dev == st->st_dev && ((n->mode ^ st->st_mode) & S_IFMT) == 0;
}

/* The node of what lies at parent/name, made when it is new. */
int fs_lookup(struct fs_session *s, uint64_t parent, const char *name, uint64_t *node, struct stat *st)
{
	char path[PATH_MAX];
	struct fs_cell *n;
	int rc;

	pthread_rwlock_rdlock(&s->tab.ns);
	rc = fs_child_path(s, parent, name, path);
	if (rc == 0 && fstatat(s->rootfd, path, st, AT_SYMLINK_NOFOLLOW) < 0)
		rc = -errno;
	if (rc < 0)
		goto out;
	fs_table_lock(&s->tab);
	n = fs_node_child_locked(&s->tab, parent, name);
	if (!n || (n->flags & FS_CELL_DEAD) || !same_inode(n, st)) {
		n = fs_node_by_ino_locked(&s->tab, st->st_dev, st->st_ino);
		if (!n || !same_inode(n, st))
			n = fs_node_add_locked(&s->tab, fs_node_new_id(&s->tab), st, 0);
		rc = n ? fs_node_name_locked(&s->tab, n, parent, name) : -ENOMEM;
	}
	if (rc == 0)
		*node = n->id;
	fs_table_unlock(&s->tab);
out:
	pthread_rwlock_unlock(&s->tab.ns);
	return rc;
}

void fs_op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fs_session *s = fs_session_of(req);
	struct fuse_entry_param e = {0};
	struct stat st;
	uint64_t node = 0;
	int rc;

	if (fs_virtual_is(parent) || fs_is_state(parent, name)) {
		fs_vop_lookup(req, parent, name);
		return;
	}
	rc = fs_lookup(s, parent, name, &node, &st);
	if (rc == 0)
		rc = fs_entry(s, node, &st, &e);
	if (rc ==
	    -ENOENT) { /* ino 0: the kernel remembers that there is nothing (SQLite asks for a journal each time) */
		memset(&e, 0, sizeof(e));
		e.entry_timeout = FS_TIMEOUT_S;
		rc = 0;
	}
	fs_reply_entry_or_err(req, rc, &e);
}

static void do_forget(struct fs_session *s, uint64_t node, uint64_t count)
{
	if (fs_virtual_is(node))
		return;
	fs_table_lock(&s->tab);
	fs_node_forget_locked(&s->tab, node, count);
	fs_table_unlock(&s->tab);
}

void fs_op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count)
{
	do_forget(fs_session_of(req), ino, count);
	fuse_reply_none(req);
}

void fs_op_forget_multi(fuse_req_t req, size_t n, struct fuse_forget_data *f)
{
	for (size_t i = 0; i < n; i++)
		do_forget(fs_session_of(req), f[i].ino, f[i].nlookup);
	fuse_reply_none(req);
}

/* ---- names ---- */

static int linked(const struct fs_spot *from, const struct fs_spot *to, unsigned flags)
{
	return linkat(from->dirfd, from->name, to->dirfd, to->name, (int)flags);
}

static int renamed(const struct fs_spot *from, const struct fs_spot *to, unsigned flags)
{
	return renameat2(from->dirfd, from->name, to->dirfd, to->name, flags);
}

static int move(struct fs_session *s, int (*how)(const struct fs_spot *, const struct fs_spot *, unsigned),
                const char *from, const char *to, unsigned flags)
{
	struct fs_spot a = {.dirfd = -1}, b = {.dirfd = -1};
	int rc = fs_spot_open(&a, s->rootfd, from);

	if (rc == 0)
		rc = fs_spot_open(&b, s->rootfd, to);
	if (rc == 0 && how(&a, &b, flags) < 0)
		rc = -errno;
	fs_spot_close(&a);
	fs_spot_close(&b);
	return rc;
}

static int remove_name(struct fs_session *s, const char *path, int flags)
{
	struct fs_spot at;
	int rc = fs_spot_open(&at, s->rootfd, path);

	if (rc == 0 && unlinkat(at.dirfd, at.name, flags) < 0)
		rc = -errno;
	fs_spot_close(&at);
	return rc;
}

/* ---- new names ---- */

struct make {
	mode_t mode; /* S_IFDIR: mkdir; S_IFLNK: symlink; else mknod */
	dev_t rdev;
	const char *target;
};

static int make_at(struct fs_session *s, const char *path, const struct make *m)
{
	struct fs_spot at;
	int rc = fs_spot_open(&at, s->rootfd, path);

	if (rc < 0)
		return rc;
	if (S_ISDIR(m->mode))
		rc = mkdirat(at.dirfd, at.name, m->mode & 07777);
	else if (S_ISLNK(m->mode))
		rc = symlinkat(m->target, at.dirfd, at.name);
	else
		rc = mknodat(at.dirfd, at.name, m->mode, m->rdev);
	rc = rc < 0 ? -errno : 0;
	fs_spot_close(&at);
	return rc;
}

static int do_make(struct fs_session *s, fuse_req_t req, uint64_t parent, const char *name, const struct make *m,
                   struct fuse_entry_param *e)
{
	struct fs_intent in = fs_intent_for(FS_REDO_CREATE, parent, name, 0);
	struct fs_event ev = {.op = FS_EV_CREATE, .pid = fs_self->pid, .dir = S_ISDIR(m->mode)};
	char path[PATH_MAX];
	struct fs_cell *n;
	struct stat st;
	int rc;

	rc = fs_may_name(parent, name);
	if (rc < 0)
		return rc;
	if (fs_repeated(s, FS_REDO_CREATE, &in.node))
		return fs_entry(s, in.node, NULL, e);
	rc = fs_child_path(s, parent, name, path);
	if (rc < 0)
		return rc;
	ev.path = path;
	rc = fs_capture_before(s->capture, &ev);
	if (rc < 0)
		return rc;
	in.node = fs_node_new_id(&s->tab);
	pthread_rwlock_rdlock(&s->tab.ns);
	rc = fs_child_path(s, parent, name, path);
	if (rc == 0 && fstatat(s->rootfd, path, &st, AT_SYMLINK_NOFOLLOW) == 0)
		rc = -EEXIST;
	if (rc == 0) {
		fs_redo_begin(fs_self->slot, &in);
		fs_become_caller(req);
		rc = make_at(s, path, m);
		fs_become_root(req);
		FS_CRASHPOINT(make_made);
		if (rc == 0 && fstatat(s->rootfd, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
			rc = -errno;
		if (rc == 0) {
			fs_table_lock(&s->tab);
			n = fs_node_add_locked(&s->tab, in.node, &st, 0);
			rc = n ? fs_node_name_locked(&s->tab, n, parent, name) : -ENOMEM;
			fs_table_unlock(&s->tab);
		}
		fs_redo_end(s->sh, fs_self->slot, rc, in.node);
	}
	pthread_rwlock_unlock(&s->tab.ns);
	fs_capture_after(s->capture, &ev, rc);
	return rc < 0 ? rc : fs_entry(s, in.node, &st, e);
}

static void op_make(fuse_req_t req, uint64_t parent, const char *name, const struct make *m)
{
	struct fuse_entry_param e;
	int rc = do_make(fs_session_of(req), req, parent, name, m, &e);

	fs_reply_entry_or_err(req, rc, &e);
}

void fs_op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	struct make m = {.mode = mode, .rdev = rdev};

	op_make(req, parent, name, &m);
}
void fs_op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	struct make m = {.mode = S_IFDIR | (mode & 07777)};

	op_make(req, parent, name, &m);
}
void fs_op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	struct make m = {.mode = S_IFLNK, .target = target};

	op_make(req, parent, name, &m);
}

static int do_link(struct fs_session *s, uint64_t node, uint64_t parent, const char *name, struct fuse_entry_param *e)
{
	struct fs_intent in = fs_intent_for(FS_REDO_LINK, parent, name, node);
	struct fs_event ev = {.op = FS_EV_LINK, .pid = fs_self->pid};
	char from[PATH_MAX], to[PATH_MAX];
	struct fs_cell *n;
	struct stat st;
	int rc;

	rc = fs_may_name(parent, name);
	if (rc < 0)
		return rc;
	if (fs_repeated(s, FS_REDO_LINK, NULL))
		return fs_entry(s, node, NULL, e);
	fs_table_lock(&s->tab);
	n = fs_node_get_locked(&s->tab, node);
	rc = !n || !fs_node_has_name_locked(&s->tab, n) ? -ENOENT : 0;
	fs_table_unlock(&s->tab);
	if (rc == 0)
		rc = fs_path(s, node, from);
	if (rc == 0)
		rc = fs_child_path(s, parent, name, to);
	if (rc < 0)
		return rc;
	ev.path = from;
	ev.path2 = to;
	rc = fs_capture_before(s->capture, &ev);
	if (rc < 0)
		return rc;
	pthread_rwlock_rdlock(&s->tab.ns);
	rc = fs_path(s, node, from);
	if (rc == 0)
		rc = fs_child_path(s, parent, name, to);
	if (rc == 0 && fstatat(s->rootfd, to, &st, AT_SYMLINK_NOFOLLOW) == 0)
		rc = -EEXIST;
	if (rc == 0) {
		fs_redo_begin(fs_self->slot, &in);
		rc = move(s, linked, from, to, 0);
		FS_CRASHPOINT(link_made);
		if (rc == 0) {
			fs_table_lock(&s->tab);
			n = fs_node_get_locked(&s->tab, node);
			rc = n ? fs_node_name_locked(&s->tab, n, parent, name) : -ESTALE;
			fs_table_unlock(&s->tab);
		}
		fs_redo_end(s->sh, fs_self->slot, rc, node);
	}
	pthread_rwlock_unlock(&s->tab.ns);
	fs_capture_after(s->capture, &ev, rc);
	return rc < 0 ? rc : fs_entry(s, node, NULL, e);
}

void fs_op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param e;
	int rc = do_link(fs_session_of(req), ino, parent, name, &e);

	fs_reply_entry_or_err(req, rc, &e);
}

/* ---- names that go ---- */

static void hidden_path(char path[static 64], uint64_t node)
{
	snprintf(path, 64, FS_HIDDEN_DIR "/%llu", (unsigned long long)node);
}

/* The node at parent/name, if the table knows it as this inode; 0. */
static uint64_t known(struct fs_session *s, uint64_t parent, const char *name, const struct stat *st)
{
	uint64_t node;
	struct fs_cell *n;

	fs_table_lock(&s->tab);
	n = fs_node_child_locked(&s->tab, parent, name);
	node = n && same_inode(n, st) ? n->id : 0;
	fs_table_unlock(&s->tab);
	return node;
}

/* What becomes of the inode when it loses this name; an inode that goes is taken out of the index first, since its
 * number may be used again before we are back from the kernel. */
static enum fs_loss prepare_loss(struct fs_session *s, uint64_t node, uint64_t parent, const char *name,
                                 const struct stat *st)
{
	enum fs_loss loss = FS_LOSS_NAME;
	struct fs_cell *n;

	fs_table_lock(&s->tab);
	n = fs_node_get_locked(&s->tab, node);
	if (n && S_ISDIR(st->st_mode)) {
		loss = FS_LOSS_GONE;
	} else if (n && (n->flags & FS_CELL_HIDDEN)) {
		loss = FS_LOSS_NAME; /* lives on under its hidden name already */
	} else if (n && n->nopen && st->st_dev == s->hidden_dev &&
	           !fs_node_has_other_name_locked(&s->tab, n, parent, name)) {
		loss = FS_LOSS_HIDDEN;
	} else if (n && st->st_nlink == 1) {
		loss = FS_LOSS_GONE;
	}
	if (n && loss == FS_LOSS_GONE) {
		n->mode = st->st_mode;
		n->uid = st->st_uid;
		n->gid = st->st_gid;
		fs_node_set_dead_locked(&s->tab, n, true);
	}
	fs_table_unlock(&s->tab);
	return loss;
}

static void undo_loss(struct fs_session *s, uint64_t node, enum fs_loss loss)
{
	struct fs_cell *n;

	if (!node || loss != FS_LOSS_GONE)
		return;
	fs_table_lock(&s->tab);
	n = fs_node_get_locked(&s->tab, node);
	if (n)
		fs_node_set_dead_locked(&s->tab, n, false);
	fs_table_unlock(&s->tab);
}

static int remove_at(struct fs_session *s, const char *path, bool dir, uint64_t node, enum fs_loss loss)
{
	char hidden[64];

	if (loss != FS_LOSS_HIDDEN)
		return remove_name(s, path, dir ? AT_REMOVEDIR : 0);
	hidden_path(hidden, node);
	return move(s, renamed, path, hidden, 0);
}

/* The name that is left to what lost one, told to the capture. */
static void note_other(struct fs_session *s, struct fs_event *ev, const struct fs_intent *in, uint64_t node,
                       char path[static PATH_MAX])
{
	struct fs_cell *n;

	if (!node || in->loss != FS_LOSS_NAME)
		return;
	fs_table_lock(&s->tab);
	n = fs_node_get_locked(&s->tab, node);
	if (n && fs_node_has_name_locked(&s->tab, n) && fs_node_path_locked(&s->tab, node, path) == 0)
		ev->other = path;
	fs_table_unlock(&s->tab);
}

static int do_unlink(struct fs_session *s, uint64_t parent, const char *name, bool dir)
{
	struct fs_intent in = fs_intent_for(FS_REDO_UNLINK, parent, name, 0);
	struct fs_event ev = {.op = FS_EV_UNLINK, .pid = fs_self->pid};
	struct fs_open *o = NULL;
	char path[PATH_MAX], other[PATH_MAX];
	struct stat st;
	int rc;

	rc = fs_may_name(parent, name);
	if (rc < 0)
		return rc;
	if (fs_repeated(s, FS_REDO_UNLINK, NULL))
		return 0;
	rc = fs_child_path(s, parent, name, path);
	if (rc == 0 && fstatat(s->rootfd, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
		rc = -errno;
	if (rc < 0)
		return rc;
	in.node = known(s, parent, name, &st);
	if (in.node && S_ISREG(st.st_mode)) /* made if need be: an OPEN must not slip in between */
		o = fs_open_get(s, in.node, true);
	ev.path = path;
	ev.file = o && o->live ? o->file : NULL;
	rc = dir ? fs_capture_may_remove_dir(s->capture, path, ev.pid) : fs_capture_before(s->capture, &ev);
	if (rc < 0)
		goto out;
	if (o)
		pthread_mutex_lock(&o->mu); /* no OPEN, no RELEASE meanwhile */
	pthread_rwlock_rdlock(&s->tab.ns);
	rc = fs_child_path(s, parent, name, path);
	if (rc == 0) {
		in.loss = in.node ? prepare_loss(s, in.node, parent, name, &st) : FS_LOSS_NAME;
		in.dev = st.st_dev;
		in.ino = st.st_ino;
		fs_redo_begin(fs_self->slot, &in);
		rc = remove_at(s, path, dir, in.node, (enum fs_loss)in.loss);
		FS_CRASHPOINT(unlink_done);
		if (rc < 0) {
			undo_loss(s, in.node, (enum fs_loss)in.loss);
		} else {
			fs_table_lock(&s->tab);
			fs_redo_unlinked_locked(&s->tab, in.node, parent, name, (enum fs_loss)in.loss);
			fs_table_unlock(&s->tab);
		}
		fs_redo_end(s->sh, fs_self->slot, rc, in.node);
	}
	pthread_rwlock_unlock(&s->tab.ns);
	if (o)
		pthread_mutex_unlock(&o->mu);
	if (rc == 0)
		note_other(s, &ev, &in, in.node, other);
	if (!dir)
		fs_capture_after(s->capture, &ev, rc);
out:
	fs_open_put(s, o);
	return rc;
}

void fs_op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	fs_reply_rc(req, do_unlink(fs_session_of(req), parent, name, false));
}
void fs_op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	fs_reply_rc(req, do_unlink(fs_session_of(req), parent, name, true));
}

/* The rename itself, with ns held exclusively: no path changes while it runs. */
static int rename_locked(struct fs_session *s, struct fs_intent *in, const struct stat *target, char *from, char *to)
{
	char hidden[64];
	int rc;

	rc = fs_child_path(s, in->parent, in->name, from);
	if (rc == 0)
		rc = fs_child_path(s, in->parent2, in->name2, to);
	if (rc < 0)
		return rc;
	if (in->node2 && !(in->rename_flags & RENAME_EXCHANGE))
		in->loss = prepare_loss(s, in->node2, in->parent2, in->name2, target);
	fs_redo_begin(fs_self->slot, in);
	if (in->loss == FS_LOSS_HIDDEN) { /* a second name first, so that the replacement stays atomic */
		hidden_path(hidden, in->node2);
		rc = move(s, linked, to, hidden, 0);
		FS_CRASHPOINT(rename_linked);
	}
	if (rc == 0) {
		rc = move(s, renamed, from, to, in->rename_flags);
		if (rc < 0 && in->loss == FS_LOSS_HIDDEN)
			(void)remove_name(s, hidden, 0);
	}
	FS_CRASHPOINT(rename_done);
	if (rc < 0) {
		undo_loss(s, in->node2, (enum fs_loss)in->loss);
	} else {
		fs_table_lock(&s->tab);
		if (fs_redo_renamed_locked(&s->tab, in) < 0)
			fz_warn("the node table could not follow the rename of %s", from);
		fs_table_unlock(&s->tab);
	}
	fs_redo_end(s->sh, fs_self->slot, rc, in->node);
	return rc;
}

static int do_rename(struct fs_session *s, uint64_t parent, const char *name, uint64_t parent2, const char *name2,
                     unsigned flags)
{
	struct fs_intent in = fs_intent_for(FS_REDO_RENAME, parent, name, 0);
	struct fs_event ev = {.op = FS_EV_RENAME, .pid = fs_self->pid, .exchange = flags & RENAME_EXCHANGE};
	char from[PATH_MAX], to[PATH_MAX], other[PATH_MAX];
	struct stat st, target = {0};
	struct fs_open *o = NULL;
	bool exists;
	int rc;

	if (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE))
		return -EINVAL;
	rc = fs_may_name(parent, name);
	if (rc == 0)
		rc = fs_may_name(parent2, name2);
	if (rc < 0)
		return rc;
	if (fs_repeated(s, FS_REDO_RENAME, NULL))
		return 0;
	rc = fs_child_path(s, parent, name, from);
	if (rc == 0)
		rc = fs_child_path(s, parent2, name2, to);
	if (rc == 0 && fstatat(s->rootfd, from, &st, AT_SYMLINK_NOFOLLOW) < 0)
		rc = -errno;
	if (rc < 0)
		return rc;
	exists = fstatat(s->rootfd, to, &target, AT_SYMLINK_NOFOLLOW) == 0;
	in.parent2 = parent2;
	strncpy(in.name2, name2, sizeof(in.name2) - 1);
	in.rename_flags = flags;
	in.node = known(s, parent, name, &st);
	in.node2 = exists ? known(s, parent2, name2, &target) : 0;
	in.dev = st.st_dev;
	in.ino = st.st_ino;
	if (in.node2 && S_ISREG(target.st_mode))
		o = fs_open_get(s, in.node2, true);
	ev.path = from;
	ev.path2 = to;
	rc = fs_capture_before(s->capture, &ev);
	if (rc < 0)
		goto out;
	if (o)
		pthread_mutex_lock(&o->mu);
	pthread_rwlock_wrlock(&s->tab.ns);
	rc = rename_locked(s, &in, &target, from, to);
	pthread_rwlock_unlock(&s->tab.ns);
	if (o)
		pthread_mutex_unlock(&o->mu);
	if (rc == 0 && !ev.exchange)
		note_other(s, &ev, &in, in.node2, other);
	fs_capture_after(s->capture, &ev, rc);
out:
	fs_open_put(s, o);
	return rc;
}

void fs_op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t parent2, const char *name2,
                  unsigned flags)
{
	fs_reply_rc(req, do_rename(fs_session_of(req), parent, name, parent2, name2, flags));
}
