/* frame.h - what encoder, decoder, index and merge share about the inside of an LTX file: the parts that a caller of
 * ltx.h never needs. A page frame is u32 pgno, u16 flags, [u32 payload bytes when flag bit 0 is set], payload. */
#ifndef FZ_LTX_FRAME_H
#define FZ_LTX_FRAME_H

#include "base/io.h"
#include "ltx/ltx.h"

#include <lz4.h>

#define LTX_NO_CHECKSUM      0x2u /* header flag */
#define LTX_FRAME_HEAD       6
#define LTX_FRAME_HEAD_BLOCK 10  /* with the size word */
#define LTX_FRAME_BLOCK      0x1 /* frame flag: size word and raw LZ4 block, otherwise one LZ4 frame */
#define LTX_INDEX_ENTRY_MAX  30  /* three uvarints */
#define LTX_INDEX_FOOT       24  /* u64 index length and the trailer */
/* header, zero frame header, index of one zero byte, its length, trailer */
#define LTX_FILE_MIN (LTX_HEADER_SIZE + LTX_FRAME_HEAD + 1 + LTX_INDEX_FOOT)
/* No frame is longer: an LZ4 frame adds at most 19 bytes of head, 8 a block and 8 at its end to what a block needs. */
#define LTX_FRAME_MAX(page_size) (LTX_FRAME_HEAD_BLOCK + LZ4_COMPRESSBOUND(page_size) + 64)

/* Checks what an encoder is given and a parser has read. -FZ_ECORRUPT, -FZ_EVERSION. */
int ltx_header_check(const struct ltx_header *h, struct fz_err *err) FZ_MUST_CHECK;
int ltx_post_check(uint64_t post_checksum, const struct ltx_header *h, struct fz_err *err) FZ_MUST_CHECK;
int ltx_trailer_get(struct ltx_trailer *t, const uint8_t in[static LTX_TRAILER_SIZE], const struct ltx_header *h,
                    struct fz_err *err) FZ_MUST_CHECK;

/* How many pages a database of commit pages stores: the lock page has no content. */
static inline uint32_t ltx_stored_pages(uint32_t commit, uint32_t page_size)
{
	return commit - (commit >= ltx_lock_page(page_size));
}

struct ltx_frame {
	uint32_t pgno;
	uint32_t head_bytes;  /* 6 or 10: what the file checksum covers */
	uint32_t frame_bytes; /* with the head */
	const uint8_t *lz4;   /* raw LZ4 block inside the input; NULL when the payload is an LZ4 frame */
	uint32_t lz4_bytes;
};
/* Parses and decompresses the frame at in, of which avail bytes are at hand (LTX_FRAME_MAX of them, or all to the end
 * of the file). *dctx, an LZ4F_dctx, is made at the first LZ4 frame and reused: LZ4F_freeDecompressionContext() it. A
 * frame of pgno 0 is no frame: -FZ_ECORRUPT. */
struct LZ4F_dctx_s;
int ltx_frame_parse(struct ltx_frame *f, const uint8_t *in, size_t avail, uint32_t page_size, uint8_t *page,
                    struct LZ4F_dctx_s **dctx, struct fz_err *err) FZ_MUST_CHECK;

/* The page index, entry by entry, in the caller's buffer: no allocation, whatever the file's size. */
struct ltx_index_entry;
struct ltx_index_iter {
	struct ltx_header header;
	struct ltx_trailer trailer;
	struct fz_src *src;
	uint64_t off_bytes; /* of the file in src */
	uint64_t index_off; /* in the file: first byte of the index */
	uint64_t pos, end;  /* next byte of the index, the byte after its closing 0 */
	uint64_t next_off;  /* where the next frame must begin: frames lie back to back */
	uint32_t prev_pgno, n;
	uint8_t *buf; /* holds [buf_off, buf_off + buf_bytes) of the file */
	size_t buf_cap, buf_bytes;
	uint64_t buf_off;
};
/* Reads header, trailer and where the index lies. buf: at least 1024 bytes, borrowed. A file that fits is read once. */
int ltx_index_iter_init(struct ltx_index_iter *it, struct fz_src *src, uint64_t off_bytes, uint64_t size_bytes,
                        uint8_t *buf, size_t buf_cap, struct fz_err *err) FZ_MUST_CHECK;
/* 1 and the next entry; 0 at the end, when order, bounds, a snapshot's completeness and the fit of the frames between
 * header and index have been checked; or a negative code. */
int ltx_index_iter_next(struct ltx_index_iter *it, struct ltx_index_entry *e, struct fz_err *err) FZ_MUST_CHECK;

#endif
