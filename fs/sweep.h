/* sweep.h - a large database is compared with the log in the background (or read for the first time), while it is written:
 * what changes meanwhile is noted, and read again at one consistent instant at the end. */
#ifndef FZ_FS_SWEEP_H
#define FZ_FS_SWEEP_H

#include "fs/db.h"

/* In the keeper: from the first page to the end. Takes db->mu itself, only in short pieces but for the last. 0: it is LIVE
 * again, or waits for an instant (db->sweep stays, fs_sweep_finish() ends it); -ECANCELED: the capture ends. */
int fs_sweep_run(struct fs_db *db, struct fz_err *err) FZ_MUST_CHECK;
/* Notes what is new in the WAL; before SQLite overwrites it (barrier) this must have been called. Requires db->mu. */
int fs_sweep_follow(struct fs_db *db, bool barrier, struct fz_err *err) FZ_MUST_CHECK;
/* Notes a write to the database file. Requires db->mu. */
int fs_sweep_note_write(struct fs_db *db, uint64_t off_bytes, uint64_t len_bytes, struct fz_err *err) FZ_MUST_CHECK;
/* This is a consistent instant: ends the sweep if it has read everything. 1 = a transaction was appended. Requires
 * db->mu. */
int fs_sweep_finish(struct fs_db *db, struct fz_err *err) FZ_MUST_CHECK;
void fs_sweep_abort(struct fs_db *db);

#endif
