/* walapply.h - write one transaction into a live WAL database beside SQLite's own readers and writers, without SQLite.
 *
 * TERMS    wal-index: the `-shm` file, 32 KiB regions of (page number by frame, hash table), the first with two copies of
 *          the header and the checkpoint info. mxFrame: last committed frame. Source: wal.c of SQLite; walformat.html.
 * (1) The caller holds SHARED on the database for as long as it is attached: else the last SQLite connection to close
 *     deletes WAL and wal-index.
 * (2) Frames and index entries go beyond mxFrame only, under WRITE: no reader looks there.
 * (3) The header is published last: copy 1, barrier, copy 0. A kill before it leaves the old state, after it the new one;
 *     between the copies, whoever comes next recovers from the WAL, whose frames are synced by then: the new state.
 * (4) The WAL is restarted only by who holds CKPT as well (replica_wal_hold()): without it a concurrent checkpoint of SQLite
 *     before 3.51.3 can take frames of the new generation for the old one's. Who merely writes never restarts it.
 * Held by tests/unit/test_replica_inplace.c, tests/unit/test_replica_apply.c. Not thread-safe. */
#ifndef FZ_REPLICA_WALAPPLY_H
#define FZ_REPLICA_WALAPPLY_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct replica_wal;

/* dbfd: the database, SHARED lock held, header with WAL bytes; borrowed. shm_fd: the wal-index, which may hold its writer's lock
 * already; owned, also on failure; -1: it is opened. path: its path, resolved, below dirfd. WAL and
 * wal-index are made with the database's mode and owner. */
int replica_wal_attach(struct replica_wal **out, int dbfd, int shm_fd, int dirfd, const char *path, uint32_t page_size,
                       uint64_t deadline_ns, struct fz_err *err) FZ_MUST_CHECK;
void replica_wal_detach(struct replica_wal *w); /* NULL is fine; gives up an unfinished transaction */
/* Takes the writer's lock and the current view; recovers the index if nobody did. -FZ_EBUSY at the deadline. */
int replica_wal_begin(struct replica_wal *w, uint64_t deadline_ns, struct fz_err *err) FZ_MUST_CHECK;
uint32_t replica_wal_pages(const struct replica_wal *w); /* of the database in the current view */
/* The page in the current view (page_size bytes); zeros past the end. */
int replica_wal_read(struct replica_wal *w, uint32_t pgno, uint8_t *page, struct fz_err *err) FZ_MUST_CHECK;
/* Adds a page to the transaction: each page once, any order; page is copied. */
int replica_wal_write(struct replica_wal *w, uint32_t pgno, const uint8_t *page, struct fz_err *err) FZ_MUST_CHECK;
/* Gives up the transaction under way: nobody has seen it. */
void replica_wal_abort(struct replica_wal *w);
/* Syncs (unless lazy), publishes, releases the writer's lock. pages: size of the database after it. Since a commit needs a frame, one
 * without pages writes the first as it is. */
int replica_wal_commit(struct replica_wal *w, uint32_t pages, struct fz_err *err) FZ_MUST_CHECK;

/* ---- for who applies for good: WRITE and CKPT are held until detach, so no other connection writes or checkpoints ---- */
/* Takes both and the current view; the page size is then the WAL's, where it holds any frame. lazy: a commit does not sync.
 * -FZ_EBUSY. */
int replica_wal_hold(struct replica_wal *w, bool lazy, uint64_t deadline_ns, struct fz_err *err) FZ_MUST_CHECK;
uint32_t replica_wal_page_size(const struct replica_wal *w);
uint32_t replica_wal_frames(const struct replica_wal *w); /* mxFrame */
/* Where the current view ends: the salts of this generation and the header of its last frame. Frames are 0 after a restart. */
int replica_wal_end(struct replica_wal *w, uint32_t *frame, uint32_t salt[static 2], uint8_t header[static 24],
                    struct fz_err *err) FZ_MUST_CHECK;
uint32_t replica_wal_backfilled(const struct replica_wal *w); /* frames that are in the database file */
/* Between transactions: the next frame starts a new generation. 1 (also when it does already); 0 when frames are not backfilled
 * or readers rely on them. A file larger than keep_bytes is cut. */
int replica_wal_restart(struct replica_wal *w, uint64_t keep_bytes, struct fz_err *err) FZ_MUST_CHECK;
/* Another page size from the next frame on: after a restart only, and the next transaction holds every page. */
int replica_wal_resize(struct replica_wal *w, uint32_t page_size, struct fz_err *err) FZ_MUST_CHECK;
int replica_wal_sync(struct replica_wal *w, struct fz_err *err) FZ_MUST_CHECK;

#endif
