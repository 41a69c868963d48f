/* redo.h - operations that cannot be repeated, made repeatable: what the kernel re-sends after a worker's death gets the
 * answer it would have got.
 *
 * An operation runs as: fs_redo_begin() writes the intent into the thread's slot, the backing file system is changed, the
 * table is changed, fs_redo_end() puts the result into the ring and clears the intent. The next worker looks at each open
 * intent before it serves: by the names' inode numbers it sees whether the change happened; if so the table is brought to
 * the state after it and the result goes into the ring, else the table to the state before, and the request runs again.
 * Results of failed operations are not kept: failing changed nothing.
 * Held by: tests/unit/test_fs_redo.c, tests/e2e/passthrough.sh (kills at every crash point). */
#ifndef FZ_FS_REDO_H
#define FZ_FS_REDO_H

#include "fs/node.h"

/* Fills the slot's intent from *want (all but op is copied first). */
void fs_redo_begin(struct fs_slot *slot, const struct fs_intent *want);
/* rc 0: result {node} goes to the ring. Then the intent is cleared. */
void fs_redo_end(struct fs_shared *sh, struct fs_slot *slot, int rc, uint64_t node);
/* The result of a request that a former worker finished; false: it did not. */
bool fs_redo_find(struct fs_shared *sh, uint64_t unique, struct fs_result *out);

/* What becomes of an inode that loses a name. */
enum fs_loss {
	FS_LOSS_NAME = 0,   /* it has others */
	FS_LOSS_HIDDEN = 1, /* open: it lives on as hidden file */
	FS_LOSS_GONE = 2,   /* it is gone */
};
/* The table after an unlink or rmdir, and after a rename (in: as for the intent; replaced nodes lose a name as in->loss). */
void fs_redo_unlinked_locked(struct fs_table *t, uint64_t node, uint64_t parent, const char *name, enum fs_loss loss);
int fs_redo_renamed_locked(struct fs_table *t, const struct fs_intent *in) FZ_MUST_CHECK;

/* Settles every open intent of the former worker. rootfd: the backing root. */
int fs_redo_all(struct fs_table *t, int rootfd, struct fz_err *err) FZ_MUST_CHECK;

#endif
