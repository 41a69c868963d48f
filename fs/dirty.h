/* dirty.h - which parts of a database were written since it was last captured: a bitmap of 4 KiB blocks with a summary
 * above it, mapped. A mapped file survives the worker: it is marked before the write is carried out, so that the next
 * worker knows. Not thread-safe: guarded by the database's mutex. */
#ifndef FZ_FS_DIRTY_H
#define FZ_FS_DIRTY_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define FS_DIRTY_BLOCK 4096u

struct fs_dirty;

/* dirfd, name: the mapped file, made or taken over with its marks; dirfd -1 = memory only. */
int fs_dirty_open(struct fs_dirty **out, int dirfd, const char *name, struct fz_err *err) FZ_MUST_CHECK;
void fs_dirty_close(struct fs_dirty *d);
int fs_dirty_mark(struct fs_dirty *d, uint64_t off_bytes, uint64_t len_bytes, struct fz_err *err) FZ_MUST_CHECK;
/* The first marked block at or after block: true and *found. */
bool fs_dirty_next(const struct fs_dirty *d, uint64_t block, uint64_t *found);
bool fs_dirty_empty(const struct fs_dirty *d);
void fs_dirty_clear(struct fs_dirty *d);

#endif
