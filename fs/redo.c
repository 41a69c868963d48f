#include "fs/redo.h"

#include "base/file.h"
#include "base/log.h"
#include "fs/crashpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void fs_redo_begin(struct fs_slot *slot, const struct fs_intent *want)
{
	struct fs_intent *in = &slot->intent;

	in->nopen = want->nopen;
	in->nfixed = want->nfixed;
	in->rename_flags = want->rename_flags;
	in->loss = want->loss;
	in->unique = want->unique;
	in->parent = want->parent;
	in->parent2 = want->parent2;
	in->node = want->node;
	in->node2 = want->node2;
	in->dev = want->dev;
	in->ino = want->ino;
	strcpy(in->name, want->name);
	strcpy(in->name2, want->name2);
	atomic_store_explicit(&in->op, want->op, memory_order_release);
	FS_CRASHPOINT(redo_begun);
}

static void put_result(struct fs_shared *sh, const struct fs_intent *in, uint64_t node)
{
	struct fs_result *r = &sh->ring[atomic_fetch_add(&sh->ring_next, 1) % FS_RING];

	atomic_store_explicit(&r->unique, 0, memory_order_release);
	atomic_signal_fence(memory_order_seq_cst);
	r->node = node;
	r->op = in->op;
	r->rc = 0;
	atomic_store_explicit(&r->unique, in->unique, memory_order_release);
}

void fs_redo_end(struct fs_shared *sh, struct fs_slot *slot, int rc, uint64_t node)
{
	FS_CRASHPOINT(redo_applied);
	if (rc == 0)
		put_result(sh, &slot->intent, node);
	FS_CRASHPOINT(redo_noted);
	atomic_store_explicit(&slot->intent.op, FS_REDO_NONE, memory_order_release);
	FS_CRASHPOINT(redo_ended);
}

bool fs_redo_find(struct fs_shared *sh, uint64_t unique, struct fs_result *out)
{
	for (unsigned i = 0; i < FS_RING; i++)
		if (atomic_load_explicit(&sh->ring[i].unique, memory_order_acquire) == unique) {
			out->unique = unique;
			out->node = sh->ring[i].node;
			out->op = sh->ring[i].op;
			out->rc = sh->ring[i].rc;
			return true;
		}
	return false;
}

static void take_name(struct fs_table *t, const struct fs_cell *n, uint64_t parent, const char *name)
{
	if (fs_node_child_locked(t, parent, name) == n)
		fs_node_unname_locked(t, parent, name);
}

void fs_redo_unlinked_locked(struct fs_table *t, uint64_t node, uint64_t parent, const char *name, enum fs_loss loss)
{
	struct fs_cell *n = fs_node_get_locked(t, node);

	if (!n)
		return;
	take_name(t, n, parent, name);
	if (loss == FS_LOSS_HIDDEN)
		n->flags |= FS_CELL_HIDDEN;
	if (loss == FS_LOSS_GONE)
		fs_node_set_dead_locked(t, n, true);
	fs_node_forget_locked(t, node, 0);
}

int fs_redo_renamed_locked(struct fs_table *t, const struct fs_intent *in)
{
	struct fs_cell *n = fs_node_get_locked(t, in->node),
	               *other = in->node2 ? fs_node_get_locked(t, in->node2) : NULL;
	int rc;

	if (!in->node) { /* the table did not know what was renamed */
		if (other && !(in->rename_flags & RENAME_EXCHANGE))
			fs_redo_unlinked_locked(t, in->node2, in->parent2, in->name2, (enum fs_loss)in->loss);
		return 0;
	}
	if (!n)
		return -ESTALE;
	if (in->rename_flags & RENAME_EXCHANGE) {
		fs_node_unname_locked(t, in->parent, in->name);
		fs_node_unname_locked(t, in->parent2, in->name2);
		rc = other ? fs_node_name_locked(t, other, in->parent, in->name) : 0;
		return rc < 0 ? rc : fs_node_name_locked(t, n, in->parent2, in->name2);
	}
	if (other)
		fs_redo_unlinked_locked(t, in->node2, in->parent2, in->name2, (enum fs_loss)in->loss);
	take_name(t, n, in->parent, in->name);
	return fs_node_name_locked(t, n, in->parent2, in->name2);
}

/* Puts back what an unlink or rename that did not happen has taken from the table. */
static int restore_name(struct fs_table *t, uint64_t node, uint64_t parent, const char *name, uint32_t loss)
{
	struct fs_cell *n = node ? fs_node_get_locked(t, node) : NULL;

	if (!n)
		return 0;
	if (loss == FS_LOSS_HIDDEN)
		n->flags &= (uint8_t)~FS_CELL_HIDDEN;
	if (loss == FS_LOSS_GONE)
		fs_node_set_dead_locked(t, n, false);
	return fs_node_name_locked(t, n, parent, name);
}

static bool stat_name(struct fs_table *t, int rootfd, uint64_t parent, const char *name, struct stat *st)
{
	char path[PATH_MAX];

	return fs_node_child_path_locked(t, parent, name, path) == 0 &&
	       fstatat(rootfd, path, st, AT_SYMLINK_NOFOLLOW) == 0;
}

static void drop_hidden(int rootfd, uint64_t node)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), FS_HIDDEN_DIR "/%llu", (unsigned long long)node);
	fd = fz_open_parent(rootfd, path, O_PATH);
	(void)unlinkat(fd, basename(path), 0);
	fz_close(&fd);
}

/* Settles one intent; *done tells whether its operation happened. Needs mu. */
static int settle(struct fs_table *t, int rootfd, struct fs_intent *in, bool *done)
{
	struct fs_cell *n = fs_node_get_locked(t, in->node);
	struct stat st;
	int rc = 0;

	*done = false;
	switch (atomic_load(&in->op)) {
	case FS_REDO_CREATE:
		*done = stat_name(t, rootfd, in->parent, in->name, &st);
		if (!*done)
			return 0;
		if (!n)
			n = fs_node_add_locked(t, in->node, &st, in->nopen);
		return n ? fs_node_name_locked(t, n, in->parent, in->name) : -ENOMEM;
	case FS_REDO_LINK:
		*done = stat_name(t, rootfd, in->parent, in->name, &st);
		return *done && n ? fs_node_name_locked(t, n, in->parent, in->name) : 0;
	case FS_REDO_UNLINK:
		*done = !stat_name(t, rootfd, in->parent, in->name, &st);
		if (!*done)
			return restore_name(t, in->node, in->parent, in->name, in->loss);
		fs_redo_unlinked_locked(t, in->node, in->parent, in->name, (enum fs_loss)in->loss);
		return 0;
	case FS_REDO_RENAME:
		*done = stat_name(t, rootfd, in->parent2, in->name2, &st) && st.st_ino == in->ino &&
		        st.st_dev == in->dev;
		if (*done)
			return fs_redo_renamed_locked(t, in);
		rc = restore_name(t, in->node, in->parent, in->name, FS_LOSS_NAME);
		if (rc == 0)
			rc = restore_name(t, in->node2, in->parent2, in->name2, in->loss);
		if (in->node2 && in->loss == FS_LOSS_HIDDEN)
			drop_hidden(rootfd, in->node2); /* the spare link made for the replaced file */
		return rc;
	case FS_REDO_OPEN:
	case FS_REDO_RELEASE:
		*done = true;
		if (n) {
			n->nopen = in->nopen;
			n->nfixed = in->nfixed;
		}
		return 0;
	default:
		return 0;
	}
}

int fs_redo_all(struct fs_table *t, int rootfd, struct fz_err *err)
{
	int rc = 0;

	pthread_mutex_lock(&t->mu);
	/* Renames first: the others' paths may lead through a renamed directory. */
	for (int pass = 0; pass < 2; pass++)
		for (unsigned i = 0; i < FS_SLOTS; i++) {
			struct fs_intent *in = &t->sh->slots[i].intent;
			bool done;

			if (in->op == FS_REDO_NONE || (in->op == FS_REDO_RENAME) != (pass == 0))
				continue;
			rc = settle(t, rootfd, in, &done);
			if (rc < 0) {
				rc = fz_fail(err, rc, "cannot settle what the former worker did to %s", in->name);
				goto out;
			}
			fz_debug("operation %u on %s %s", in->op, in->name, done ? "had happened" : "had not happened");
			if (done)
				put_result(t->sh, in, in->node);
			in->op = FS_REDO_NONE;
		}
out:
	pthread_mutex_unlock(&t->mu);
	return rc;
}
