/* touched.h - which tables each commit of a history wrote: the database is rebuilt commit by commit in a temporary file
 * without a name, and SQLite's own dbstat tells which b-tree owned each changed page before and after.
 *
 * A table is named when the content of a page of it, or of an index on it, changed, came or went. Free pages and page 1's
 * file header belong to no table; page 1 beyond it is the root of sqlite_schema. A merged range is compared as a whole.
 * COST     the history is read once; a b-tree is walked again when a commit may have moved pages into or out of it, all
 *          of them when the schema changed
 * MEMORY   8 bytes a page at most, a few buffers */
#ifndef FZ_REPLICA_TOUCHED_H
#define FZ_REPLICA_TOUCHED_H

#include "replica/source.h"

struct replica_touched;
/* tmp_dir: where the database is rebuilt. -FZ_EUSAGE: this SQLite has no dbstat. */
int replica_touched_open(struct replica_touched **out, const char *tmp_dir, struct fz_err *err) FZ_MUST_CHECK;
void replica_touched_close(struct replica_touched *t); /* NULL is fine */
/* For each commit right after replica_commits_next() gave it as *k, none left out. 1: *names (n of them, sorted, borrowed
 * until the next call) wrote; 0: cannot be told (a first snapshot, no key, a gap, not a database to SQLite): *why says so. */
int replica_touched_next(struct replica_touched *t, struct replica_commits *c, const struct replica_commit *k,
                         const char *const **names, size_t *n, struct fz_err *why) FZ_MUST_CHECK;

#endif
