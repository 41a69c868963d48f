/* journal_pages.h - which pages a transaction in rollback mode may have changed, told by its journal: for a database that is
 * passed through, whose writes are not told. */
#ifndef FZ_FS_JOURNAL_PAGES_H
#define FZ_FS_JOURNAL_PAGES_H

#include "fs/db.h"

/* Marks them in db->dirty: the pages in the journal, and what was a leaf of the free list before (SQLite reuses those without
 * journalling them); growth shows by itself. 1 = all are marked; 0 = the journal does not tell (none, or damaged): compare
 * everything. Requires db->mu and an unfinished journal in db->rb.fd. */
int fs_journal_pages_mark(struct fs_db *db, struct fz_err *err) FZ_MUST_CHECK;

#endif
