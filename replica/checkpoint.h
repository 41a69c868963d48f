/* checkpoint.h - copy what the WAL holds into the database file, in three steps, so that the part that takes long can run in
 * another thread while transactions are appended (replica/walapply.h, WRITE and CKPT held).
 *
 * (1) Only frames that no reader's snapshot ends before are copied: `safe`, from the read marks. READ0 is held exclusively from
 *     start to finish: nobody reads the database file alone meanwhile.
 * (2) The WAL is synced before a byte of the database is written, the database before the frames count as backfilled: a power
 *     cut leaves a WAL that mends whatever was half written.
 * (3) Frames beyond `safe` may be appended meanwhile: they are not looked at, and the file is cut to the size of the database only
 *     if there were none at the start.
 * Source: walCheckpoint() in wal.c of SQLite. Held by tests/unit/test_replica_apply.c. */
#ifndef FZ_REPLICA_CHECKPOINT_H
#define FZ_REPLICA_CHECKPOINT_H

#include "replica/walapply.h"

struct replica_checkpoint;

/* Between transactions. 1: *out has something to copy; 0: nothing has (all is backfilled, or readers hold the rest). */
int replica_checkpoint_start(struct replica_checkpoint **out, struct replica_wal *w, struct fz_err *err) FZ_MUST_CHECK;
/* Copies and syncs. Any thread; touches nothing of w but the two descriptors. */
int replica_checkpoint_copy(struct replica_checkpoint *c, struct fz_err *err) FZ_MUST_CHECK;
/* In the thread of w, between transactions: when copied, the frames count as backfilled. Frees c; NULL is fine. */
void replica_checkpoint_finish(struct replica_checkpoint *c, bool copied);

#endif
