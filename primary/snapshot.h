/* snapshot.h - the merged objects: one LTX per minute, hour and day, and snapshots of the whole database.
 *
 * The store is never read back. A minute is merged from the local log; an hour and a day from the plain files of the
 * level below, which lie in the spool directory until then, else from the log when it still reaches back. Plain files
 * of one database are bounded by PRIMARY_PLAIN_MAX or the size of the database, whichever is larger: beyond that the
 * oldest go, and the level above heals itself with a snapshot if the log is no help either. */
#ifndef FZ_PRIMARY_SNAPSHOT_H
#define FZ_PRIMARY_SNAPSHOT_H

#include "ltx/age.h"
#include "ltx/name.h"

struct ltx_log;

#define PRIMARY_PLAIN_MAX     (UINT64_C(64) << 20)
#define PRIMARY_MERGE_ENTRIES 262144 /* transactions merged from the log at once: 4 bytes of memory each */

/* The files in a ship directory and whom they are encrypted for; all borrowed. */
struct primary_place {
	int dirfd;
	const struct ltx_age_recipient *recipients;
	size_t n_recipients;
	const volatile bool *cancel;
};
/* Builds level 3..5 from from_txid (committed at first_ms) up to the last transaction before end_ms, at most max_txid.
 * *name (lineage, epoch and level are given) tells the range, which may end earlier when there is too much for one
 * merge. The object is then in the spool. -FZ_EGAP: neither plain files nor the log hold it. */
int primary_merged_build(struct ltx_log *log, const struct primary_place *at, uint64_t from_txid, int64_t first_ms,
                         int64_t end_ms, uint64_t max_txid, struct ltx_name *name, struct fz_err *err) FZ_MUST_CHECK;
/* Drops the plain files of the level below that end at or before name: it was acknowledged. Keeps the rest in bounds. */
void primary_plain_tidy(const struct primary_place *at, const struct ltx_name *name, uint64_t db_bytes);
/* Builds a snapshot at txid, or at the last synced transaction when the log cannot give that one any more. */
int primary_snapshot_build(struct ltx_log *log, const struct primary_place *at, uint64_t txid, struct ltx_name *name,
                           struct fz_err *err) FZ_MUST_CHECK;

#endif
