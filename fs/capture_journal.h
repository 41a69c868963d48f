/* capture_journal.h - what is committed in rollback mode becomes transactions of the log. */
#ifndef FZ_FS_CAPTURE_JOURNAL_H
#define FZ_FS_CAPTURE_JOURNAL_H

#include "fs/txn.h"

/* The pages that changed since the last capture, as the database file stands now. All require db->mu. */

/* Passed through: while the journal still has its header, the pages it tells are marked. */
int fs_rollback_list(struct fs_db *db, struct fz_err *err) FZ_MUST_CHECK;
/* Passed through, something was written: does the header say that a transaction was committed since the last capture, or
 * its mtime that somebody wrote who keeps no change counter (cp)? */
bool fs_rollback_moved(struct fs_db *db);
/* FSYNC of the database under a hot journal: append as prepared (the application waits for its own fsync meanwhile). */
int fs_rollback_stage(struct fs_db *db, struct fz_err *err) FZ_MUST_CHECK;
/* The same for a database that is passed through, whose transaction is staged only at its journal's end: what there is now is
 * offered to replicas as db->offer. 1, or 0: nothing has changed. */
int fs_rollback_offer(struct fs_db *db, struct fz_err *err) FZ_MUST_CHECK;
/* Before the journal's end (unlink, truncate): what is not staged yet, or was touched since, is. */
int fs_rollback_end_before(struct fs_db *db, struct fz_err *err) FZ_MUST_CHECK;
/* After it: committed, if it succeeded. */
int fs_rollback_end_after(struct fs_db *db, bool ok, struct fz_err *err) FZ_MUST_CHECK;
/* This is a committed state: a journal's header zeroed, an FSYNC without a journal, a lock held, no handle open. */
int fs_rollback_capture(struct fs_db *db, struct fz_err *err) FZ_MUST_CHECK;
/* A write to the database was told (dirty), or something happened to it without being told (inotify). */
int fs_rollback_note_write(struct fs_db *db, uint64_t off, uint64_t len, struct fz_err *err) FZ_MUST_CHECK;
void fs_rollback_note_loose(struct fs_db *db);

#endif
