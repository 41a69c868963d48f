/* open.h - backing files that the kernel has open: one struct fs_open per node, whatever the number of handles.
 *
 * LIFE     get() counts a user; the object lives while it has users or the node is open. Whoever drops the last user of a
 *          node that is not open any more closes the file: capture's struct fs_file, the descriptor, the backing id, the
 *          hidden name. mu is held for opening, closing and counting OPENs, never over a barrier. */
#ifndef FZ_FS_OPEN_H
#define FZ_FS_OPEN_H

#include "fs/ops.h"

struct fs_open {
	uint64_t node;
	struct fs_open *next; /* in its shard; tab.mu */
	unsigned users;       /* tab.mu */
	pthread_mutex_t mu;
	/* Set under mu and tab.mu once the fields below are, cleared under both only while its one user closes it. So
	 * whoever got a user and then sees it set may read them without a lock until put(): a stat, a read, a write. */
	atomic_bool live;
	bool writable;
	enum fs_mode mode;
	int fd;
	struct fs_file *file; /* NULL: hidden before this worker started */
};

/* make: also when the node is not open. NULL: not open (or no memory). */
struct fs_open *fs_open_get(struct fs_session *s, uint64_t node, bool make);
void fs_open_put(struct fs_session *s, struct fs_open *o);
/* Opens the backing file unless it is open. fd: a descriptor to use (owned from here on) or -1. Needs o->mu. */
int fs_open_start(struct fs_session *s, struct fs_open *o, int fd, bool created, struct fz_err *err) FZ_MUST_CHECK;
/* Sets the node's count of handles, so that a repeated OPEN or RELEASE counts once. fixed: see struct fs_cell. Needs o->mu. */
int fs_open_count(struct fs_session *s, struct fs_open *o, enum fs_redo_op op, int delta, bool fixed) FZ_MUST_CHECK;
/* Fills the handle and the flags of an OPEN or CREATE reply. */
void fs_open_reply(struct fs_session *s, struct fs_open *o, bool fixed, struct fuse_file_info *fi);
/* A new worker: opens again what applications have open, ends what the former one left half closed. */
int fs_open_resume(struct fs_session *s, struct fz_err *err) FZ_MUST_CHECK;
/* Stops using all files without telling the kernel: the next worker goes on. */
void fs_open_abandon(struct fs_session *s);

#endif
