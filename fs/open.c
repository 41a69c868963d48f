#include "fs/open.h"

#include "base/file.h"
#include "base/log.h"
#include "fs/backing.h"
#include "fs/super_client.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static struct fs_open **shard(struct fs_session *s, uint64_t node)
{
	return &s->open[node % FS_OPEN_SHARDS];
}

struct fs_open *fs_open_get(struct fs_session *s, uint64_t node, bool make)
{
	struct fs_open *o;

	fs_table_lock(&s->tab);
	for (o = *shard(s, node); o && o->node != node; o = o->next)
		;
	if (!o && make && (o = calloc(1, sizeof(*o)))) {
		o->node = node;
		o->fd = -1;
		pthread_mutex_init(&o->mu, NULL);
		o->next = *shard(s, node);
		*shard(s, node) = o;
	}
	if (o)
		o->users++;
	fs_table_unlock(&s->tab);
	return o;
}

static uint32_t nopen_locked(struct fs_session *s, uint64_t node)
{
	struct fs_cell *n = fs_node_get_locked(&s->tab, node);

	return n ? n->nopen : 0;
}

static void remove_hidden(struct fs_session *s, uint64_t node)
{
	struct fs_spot at;
	char path[64];
	int rc;

	snprintf(path, sizeof(path), FS_HIDDEN_DIR "/%llu", (unsigned long long)node);
	rc = fs_spot_open(&at, s->rootfd, path);
	if (rc == 0 && unlinkat(at.dirfd, at.name, 0) < 0)
		rc = -errno;
	fs_spot_close(&at);
	if (rc < 0 && rc != -ENOENT)
		fz_warn("cannot remove %s: %s", path, fz_strerror(rc));
}

/* The node's last handle is gone: what the table still holds for it. */
static void settle_closed(struct fs_session *s, uint64_t node)
{
	struct fs_cell *n;
	int32_t id = 0;
	bool hidden = false;

	fs_table_lock(&s->tab);
	n = fs_node_get_locked(&s->tab, node);
	if (n) {
		id = n->backing_id;
		hidden = n->flags & FS_CELL_HIDDEN;
	}
	fs_table_unlock(&s->tab);
	/* Closing an id twice, after a death in between, is harmless; forgetting one is not. */
	if (id)
		fs_backing_close(s->fusefd, id);
	if (hidden) {
		fs_table_lock(&s->tab);
		n = fs_node_get_locked(&s->tab, node);
		if (n && !fs_node_has_name_locked(&s->tab, n)) /* before its inode number can be used again */
			fs_node_set_dead_locked(&s->tab, n, true);
		fs_table_unlock(&s->tab);
		remove_hidden(s, node);
	}
	fs_table_lock(&s->tab);
	n = fs_node_get_locked(&s->tab, node);
	if (n) {
		n->backing_id = 0;
		n->fs_mode = FS_MODE_ANY;
		n->flags &= (uint8_t)~FS_CELL_HIDDEN;
		fs_node_forget_locked(&s->tab, node, 0);
	}
	fs_table_unlock(&s->tab);
}

static void stop_using(struct fs_open *o)
{
	if (o->file)
		fs_capture_file_close(o->file);
	o->file = NULL;
	fz_close(&o->fd);
}

/* The last user of a file that is not open any more. Needs o->mu. */
static void end_use(struct fs_session *s, struct fs_open *o)
{
	struct stat st;
	bool gone_db =
	        o->file && fs_capture_file_role(o->file) == FS_ROLE_DB && fstat(o->fd, &st) == 0 && st.st_nlink <= 1;

	stop_using(o);
	settle_closed(s, o->node);
	if (gone_db)
		fs_super_sweep();
}

void fs_open_put(struct fs_session *s, struct fs_open *o)
{
	bool last, freed = false;

	if (!o)
		return;
	fs_table_lock(&s->tab);
	if (o->users > 1 || nopen_locked(s, o->node)) {
		o->users--;
		fs_table_unlock(&s->tab);
		return;
	}
	fs_table_unlock(&s->tab);

	pthread_mutex_lock(&o->mu);
	fs_table_lock(&s->tab);
	/* From here on a new user finds it closed, and opens it again once we are through with mu. */
	last = o->users == 1 && !nopen_locked(s, o->node) && o->live;
	if (last)
		o->live = false;
	fs_table_unlock(&s->tab);
	if (last)
		end_use(s, o);
	fs_table_lock(&s->tab);
	if (--o->users == 0 && !nopen_locked(s, o->node) && !o->live) {
		struct fs_open **p = shard(s, o->node);

		while (*p != o)
			p = &(*p)->next;
		*p = o->next;
		freed = true;
	}
	fs_table_unlock(&s->tab);
	pthread_mutex_unlock(&o->mu);
	if (freed) {
		pthread_mutex_destroy(&o->mu);
		free(o);
	}
}

static int open_backing(struct fs_session *s, struct fs_open *o, char path[static PATH_MAX])
{
	int fd, rc;

	pthread_rwlock_rdlock(&s->tab.ns);
	rc = fs_path(s, o->node, path);
	if (rc < 0) {
		pthread_rwlock_unlock(&s->tab.ns);
		return rc;
	}
	o->writable = true;
	fd = fs_root_open(s, path, O_RDWR | O_NOFOLLOW | O_NONBLOCK, 0);
	if (fd == -EROFS || fd == -EACCES || fd == -EPERM || fd == -ETXTBSY) {
		o->writable = false;
		fd = fs_root_open(s, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
	}
	pthread_rwlock_unlock(&s->tab.ns);
	return fd;
}

/* Registers the file with the kernel and notes the id where the next worker finds it. */
static int32_t make_backing_id(struct fs_session *s, struct fs_open *o)
{
	struct fs_cell *n;
	int32_t id;

	pthread_mutex_lock(&s->backing_mu);
	id = fs_backing_open(s->fusefd, o->fd);
	if (id > 0) {
		FS_CRASHPOINT(backing_opened);
		fs_table_lock(&s->tab);
		n = fs_node_get_locked(&s->tab, o->node);
		if (n)
			n->backing_id = id;
		fs_table_unlock(&s->tab);
		s->sh->last_backing_id = id;
	}
	pthread_mutex_unlock(&s->backing_mu);
	return id;
}

static void lock_database(const char *path)
{
	struct fz_err why;

	if (fs_super_lock_database(path, &why) == -FZ_EBUSY)
		fz_log_err("a database of the mount", &why);
}

int fs_open_start(struct fs_session *s, struct fs_open *o, int fd, bool created, struct fz_err *err)
{
	char path[PATH_MAX];
	enum fs_mode mode = FS_MODE_ANY;
	int32_t backing_id = 0;
	struct fs_cell *n;
	struct stat st;
	bool resumed;
	int rc;

	if (o->live) {
		fz_close(&fd);
		if (o->file && fs_path(s, o->node, path) == 0 && fs_capture_file_again(o->file, path))
			lock_database(path);
		return 0;
	}
	if (fd >= 0) {
		o->writable = true;
		rc = fs_path(s, o->node, path);
		if (rc < 0) {
			fz_close(&fd);
			return fz_fail(err, rc, "a new file is gone");
		}
	} else {
		fd = open_backing(s, o, path);
		if (fd < 0)
			return fz_fail(err, fd, "cannot open a file");
	}
	o->fd = fd;
	fs_table_lock(&s->tab);
	n = fs_node_get_locked(&s->tab, o->node);
	if (!n || fstat(fd, &st) < 0 || n->ino != st.st_ino || !S_ISREG(st.st_mode)) {
		fs_table_unlock(&s->tab);
		rc = fz_fail(err, -ESTALE, "%s was replaced behind the mount's back", path);
		goto out;
	}
	if (n->nopen && n->fs_mode)
		mode = (enum fs_mode)n->fs_mode;
	backing_id = n->backing_id;
	fs_table_unlock(&s->tab);

	/* a hidden file too: nobody's, until it is opened by another name that it may have */
	rc = fs_capture_file_open(s->capture, path, fd, created, &mode, &o->file, err);
	if (rc < 0)
		goto out;
	if (mode == FS_MODE_PASSTHROUGH && !backing_id && make_backing_id(s, o) <= 0) {
		/* A file system that the kernel cannot pass through to (stacked too deep): the slow way. */
		mode = FS_MODE_WRITE_THROUGH;
		if (o->file) {
			fs_capture_file_close(o->file);
			o->file = NULL;
			rc = fs_capture_file_open(s->capture, path, fd, created, &mode, &o->file, err);
			if (rc < 0)
				goto out;
		}
	}
	/* ns is not held while files are captured; from here on a rename tells the capture */
	if (o->file && fs_path(s, o->node, path) == 0)
		fs_capture_file_at(o->file, path);
	if (o->file && fs_capture_file_role(o->file) == FS_ROLE_DB)
		lock_database(path);
	if (mode == FS_MODE_ANY)
		mode = FS_MODE_WRITE_THROUGH;
	fs_table_lock(&s->tab);
	n = fs_node_get_locked(&s->tab, o->node);
	if (n)
		n->fs_mode = (uint8_t)mode;
	o->mode = mode;
	o->live = true;
	fs_table_unlock(&s->tab);
	return 0;
out:
	stop_using(o);
	fs_table_lock(&s->tab);
	resumed = nopen_locked(s, o->node) != 0;
	fs_table_unlock(&s->tab);
	if (!resumed) /* else the kernel still uses the mode and the backing id */
		settle_closed(s, o->node);
	return rc;
}

int fs_open_count(struct fs_session *s, struct fs_open *o, enum fs_redo_op op, int delta, bool fixed)
{
	struct fs_intent in = fs_intent_for(op, 0, "", o->node);
	struct fs_cell *n;

	if (fs_repeated(s, op, NULL))
		return 0;
	fs_table_lock(&s->tab);
	n = fs_node_get_locked(&s->tab, o->node);
	if (!n || (delta < 0 && n->nopen == 0)) {
		fs_table_unlock(&s->tab);
		return -ESTALE;
	}
	in.nopen = n->nopen + (uint32_t)delta;
	in.nfixed = n->nfixed;
	if (fixed && (delta > 0 || n->nfixed))
		in.nfixed += (uint32_t)delta;
	if (in.nfixed > in.nopen)
		in.nfixed = in.nopen;
	fs_redo_begin(fs_self->slot, &in);
	n->nopen = in.nopen;
	n->nfixed = in.nfixed;
	fs_redo_end(s->sh, fs_self->slot, 0, o->node);
	fs_table_unlock(&s->tab);
	return 0;
}

void fs_open_reply(struct fs_session *s, struct fs_open *o, bool fixed, struct fuse_file_info *fi)
{
	fi->fh = o->node | (fixed ? FS_FH_FIXED : 0);
	if (o->mode == FS_MODE_PASSTHROUGH) {
		fs_table_lock(&s->tab);
		struct fs_cell *n = fs_node_get_locked(&s->tab, o->node);
		fs_self->backing_id = n ? n->backing_id : 0;
		fs_table_unlock(&s->tab);
#if FS_NATIVE_PASSTHROUGH
		fi->backing_id = fs_self->backing_id;
#endif
		return; /* the kernel refuses keep_cache together with passthrough */
	}
	fi->keep_cache = 1;
}

int fs_open_resume(struct fs_session *s, struct fz_err *err)
{
	uint64_t *ids;
	uint32_t n = 0, cells = s->sh->cells;
	struct fz_err why;
	int rc = 0;

	ids = malloc(sizeof(*ids) * (cells + 1));
	if (!ids)
		return fz_fail(err, -ENOMEM, "no memory");
	fs_table_lock(&s->tab);
	for (uint32_t i = 0; i < cells; i++) {
		struct fs_cell *c = (struct fs_cell *)(void *)((uint8_t *)s->sh + FS_CELL_OFF) + i;

		if (c->id && c->node == c->id && (c->nopen || c->backing_id || (c->flags & FS_CELL_HIDDEN)))
			ids[n++] = c->id;
	}
	fs_table_unlock(&s->tab);
	for (uint32_t i = 0; i < n; i++) {
		struct fs_open *o;
		uint32_t nopen;

		fs_table_lock(&s->tab);
		nopen = nopen_locked(s, ids[i]);
		fs_table_unlock(&s->tab);
		if (!nopen) {
			settle_closed(s, ids[i]);
			continue;
		}
		o = fs_open_get(s, ids[i], true);
		if (!o) {
			rc = fz_fail(err, -ENOMEM, "no memory");
			break;
		}
		pthread_mutex_lock(&o->mu);
		if (fs_open_start(s, o, -1, false, &why) < 0)
			fz_log_err("an open file could not be opened again", &why);
		pthread_mutex_unlock(&o->mu);
		fs_open_put(s, o);
	}
	free(ids);
	return rc;
}

void fs_open_abandon(struct fs_session *s)
{
	for (unsigned i = 0; i < FS_OPEN_SHARDS; i++)
		while (s->open[i]) {
			struct fs_open *o = s->open[i];

			s->open[i] = o->next;
			stop_using(o);
			pthread_mutex_destroy(&o->mu);
			free(o);
		}
}
