/* baseline.h - a database whose state the log does not know is compared page by page, and the difference (all of it, the
 * first time) becomes one transaction. Small ones at once; large ones in the background, following what is written
 * meanwhile: nothing waits for it. */
#ifndef FZ_FS_BASELINE_H
#define FZ_FS_BASELINE_H

#include "fs/txn.h"

/* Brings a LOST database back to LIVE if it is small (FS_SMALL_BYTES) and this is a consistent instant (WAL: always;
 * rollback: the caller says so by calling), else leaves it to the keeper. Requires db->mu. Returns 1 when a transaction was
 * appended, 0 when not (look at db->state), or a negative code; -FZ_ENOTFOUND: it is no database. */
int fs_baseline_now(struct fs_db *db, struct fz_err *err) FZ_MUST_CHECK;
/* LOST in WAL mode: what is new in the WAL is noted for the compare. As fs_wal_pass(). */
int64_t fs_baseline_follow(struct fs_db *db, bool barrier, struct fz_err *err) FZ_MUST_CHECK;
/* LOST no longer: the log's tail is the database (appended: by a transaction made just now). Requires db->mu. */
void fs_baseline_done(struct fs_db *db, bool first, bool appended);

#endif
