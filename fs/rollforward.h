/* rollforward.h - the log is ahead of the database (a power cut took what SQLite had not synced, but the log or a store has
 * it): find the transaction at which the database stands, and bring it forward. What was shipped stays a prefix of, or
 * equal to, what the database holds. */
#ifndef FZ_FS_ROLLFORWARD_H
#define FZ_FS_ROLLFORWARD_H

#include "fs/db.h"

/* Plays a hot journal back, as SQLite would, and removes it. */
int fs_rollforward_journal(struct fs_db *db, struct fz_err *err) FZ_MUST_CHECK;
/* The newest TXID of the log whose state the database (with the WAL that counts) provably has: 1 and *txid, 0 = none.
 * At most max_entries LTX files of the log are read.
 * Proof: every page touched since, page by page, and the database checksum over all. */
int fs_rollforward_find(struct fs_db *db, size_t max_entries, uint64_t *txid, struct fz_err *err) FZ_MUST_CHECK;
/* From the state at txid to the log's tail: writes pages into the database file, syncs, removes -wal, -shm, -journal.
 * Interrupted, it is repeated at the next start (ltx_sums_head.rolling_txid). */
int fs_rollforward_run(struct fs_db *db, uint64_t txid, struct fz_err *err) FZ_MUST_CHECK;
/* Removes name + suffix beside the database; not being there is fine. */
int fs_rollforward_unlink(struct fs_db *db, const char *suffix, struct fz_err *err) FZ_MUST_CHECK;

#endif
