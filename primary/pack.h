/* pack.h - cut the next pack out of a local log: LTX files are copied as they are, an index follows (ltx/pack.h). */
#ifndef FZ_PRIMARY_PACK_H
#define FZ_PRIMARY_PACK_H

#include "base/io.h"
#include "ltx/name.h"

struct ltx_log;

struct primary_pack_limit {
	uint64_t max_txid;    /* nothing above it */
	uint64_t max_bytes;   /* ends before the file that would exceed it; a single larger one is taken alone */
	uint32_t max_entries; /* the index is held in memory: 48 bytes each */
	int64_t window_ms; /* ends where a window of this length ends (level 1 then holds whole packs); 0 = does not */
	int64_t before_ms; /* nothing committed at or after it; 0 = no such end */
	uint64_t coarse_txid; /* of what begins at or below it only single transactions; 0 = ranges as well */
};
struct primary_pack_result {
	uint64_t min_txid, max_txid, post_checksum;
	int64_t first_ms, last_ms;
	uint64_t plain_bytes, entries;
	bool more; /* it ended because of max_bytes or max_entries */
};
/* Packs from_txid and what follows into sink. At least one file; -FZ_EGAP when the log does not hold from_txid as the
 * start of a file (pruned, or merged into a range that began earlier, or that limit leaves out); -FZ_ENOTFOUND when limit
 * leaves nothing. */
int primary_pack_build(struct ltx_log *log, uint64_t from_txid, const struct primary_pack_limit *limit,
                       struct fz_sink *sink, struct primary_pack_result *out, struct fz_err *err) FZ_MUST_CHECK;
/* name's range, times and checksum from the result. */
void primary_pack_name(struct ltx_name *name, const struct primary_pack_result *r);

#endif
