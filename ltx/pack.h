/* pack.h - several LTX files back to back with an index at the end, so that a ranged read fetches one transaction.
 * docs/formats.md "Pack": LTX files | entries of 48 bytes each | trailer 24 bytes:
 *   entry   u64 min txid, u64 max txid, i64 unix ms, u64 offset, u64 length, u32 pages, u32 commit
 *   trailer u64 number of entries, u64 CRC-64 of the entries, 8 bytes "FZPACK01"
 * The trailer stands at the very end: read 24 bytes, then 48 * n before them. All big-endian. */
#ifndef FZ_LTX_PACK_H
#define FZ_LTX_PACK_H

#include "base/io.h"
#include "ltx/ltx.h"

#define LTX_PACK_ENTRY_SIZE   48
#define LTX_PACK_TRAILER_SIZE 24

struct ltx_pack_entry {
	uint64_t min_txid, max_txid;
	int64_t time_ms;
	uint64_t off_bytes, size_bytes;
	uint32_t pages;  /* page frames in the file */
	uint32_t commit; /* database size after it, pages */
};
/* The 48 bytes; what they say is not checked. */
void ltx_pack_entry_put(uint8_t out[static LTX_PACK_ENTRY_SIZE], const struct ltx_pack_entry *e);
void ltx_pack_entry_get(struct ltx_pack_entry *e, const uint8_t in[static LTX_PACK_ENTRY_SIZE]);

struct ltx_pack_index {
	struct ltx_pack_entry *e; /* ascending txid */
	uint64_t n;
};

/* Writing: copy each LTX file into the sink yourself, note it here, then finish. e->off_bytes is not looked at: files
 * lie back to back from byte 0. -FZ_ECORRUPT when e does not continue what was noted before. */
struct ltx_pack_writer {
	struct fz_buf entries;
	uint64_t off_bytes; /* where the next file starts */
};
int ltx_pack_note(struct ltx_pack_writer *w, const struct ltx_pack_entry *e, struct fz_err *err) FZ_MUST_CHECK;
/* Appends index and trailer to the sink. */
int ltx_pack_finish(struct ltx_pack_writer *w, struct fz_sink *sink, struct fz_err *err) FZ_MUST_CHECK;
void ltx_pack_writer_fini(struct ltx_pack_writer *w);

/* Reads and checks the index (ranges inside the object, ascending, contiguous txids): -FZ_ECORRUPT. */
int ltx_pack_index_read(struct ltx_pack_index *out, struct fz_src *src, struct fz_err *err) FZ_MUST_CHECK;
void ltx_pack_index_fini(struct ltx_pack_index *ix);

#endif
