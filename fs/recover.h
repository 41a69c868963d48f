/* recover.h - what is true at the start, before anything is served (design "Capture" 8). */
#ifndef FZ_FS_RECOVER_H
#define FZ_FS_RECOVER_H

#include "fs/db.h"

/* For a database with a log, nobody having it open: decides the prepared transaction, plays back a hot journal, takes the
 * WAL by SQLite's recovery rule, and brings log and database together. Afterwards it is LIVE, LOST (to be compared) or
 * ENDED (the file is gone). Requires db->mu. */
int fs_recover_start(struct fs_db *db, struct fz_err *err) FZ_MUST_CHECK;
/* After a worker's death under applications that live on: nothing is played back, the table catches up with the log. */
int fs_recover_resume(struct fs_db *db, struct fz_err *err) FZ_MUST_CHECK;
/* Its second half, once all files are open again (c->settled; before that it does nothing): finds out by the file's mtime
 * whether something was written that no event will end any more. Requires db->mu; repeating it is harmless. */
void fs_recover_settle(struct fs_db *db);
/* The clean marker at an orderly end. */
int fs_recover_mark_clean(struct fs_db *db, struct fz_err *err) FZ_MUST_CHECK;

#endif
