/* pages.h - the indexes of history, read in windows whatever their size: the page index of an LTX file (page -> frame)
 * and the index of a pack (TXID -> LTX file). Lengths and offsets are checked against the file before use. */
#ifndef FZ_REPLICA_PAGES_H
#define FZ_REPLICA_PAGES_H

#include "base/io.h"
#include "ltx/dec.h"
#include "ltx/pack.h"

/* Page index of the LTX file that fills [off, off + size) of src; src is borrowed. Zeroed = closed. An open one can be
 * opened again (memory is kept). */
struct replica_pages {
	struct ltx_header header;
	struct ltx_trailer trailer;
	struct fz_src *src;
	uint64_t off_bytes;  /* of the file in src */
	uint64_t at, end;    /* index bytes not yet in the window, as offsets in the file */
	uint64_t frames_end; /* where the frames end, in the file */
	uint64_t prev_end;   /* where the previous entry's frame ended */
	uint32_t prev_pgno;
	struct fz_buf window;
	size_t used;
};
int replica_pages_open(struct replica_pages *p, struct fz_src *src, uint64_t off_bytes, uint64_t size_bytes,
                       struct fz_err *err) FZ_MUST_CHECK;
/* Next entry, page numbers and offsets ascending: 1, 0 at the end, or a negative code. */
int replica_pages_next(struct replica_pages *p, struct ltx_index_entry *e, struct fz_err *err) FZ_MUST_CHECK;
void replica_pages_fini(struct replica_pages *p);

/* Index of a pack. */
struct replica_packix {
	struct fz_src *src;   /* borrowed */
	uint64_t n;           /* entries */
	uint64_t entries_off; /* where they stand = end of the LTX files */
	uint64_t first, have; /* entries in the window */
	struct fz_buf window;
};
/* check: also compares the CRC of all entries (reads all of them). A small index is always checked. */
int replica_packix_open(struct replica_packix *ix, struct fz_src *src, bool check, struct fz_err *err) FZ_MUST_CHECK;
int replica_packix_get(struct replica_packix *ix, uint64_t i, struct ltx_pack_entry *e,
                       struct fz_err *err) FZ_MUST_CHECK;
/* Number of leading entries with max_txid <= txid and time_ms <= at_ms (both ascend). */
int replica_packix_count(struct replica_packix *ix, uint64_t txid, int64_t at_ms, uint64_t *n,
                         struct fz_err *err) FZ_MUST_CHECK;
void replica_packix_fini(struct replica_packix *ix);

#endif
