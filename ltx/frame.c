#include "ltx/frame.h"

#include "base/cursor.h"
#include "ltx/dec.h"

#include <lz4frame.h>

#define LZ4_FRAME_MAGIC 0x184d2204u /* little-endian in the file */

/* One LZ4 frame that decompresses to exactly page_size bytes; returns its length. LZ4F_decompress() would skip a
 * "skippable" frame and call that a success, hence the look at the magic. */
static int64_t unpack_lz4_frame(const uint8_t *in, size_t avail, uint32_t page_size, uint8_t *page, LZ4F_dctx **dctx)
{
	size_t used = 0, filled = 0, hint = 1;

	if (avail < 4 ||
	    ((uint32_t)in[3] << 24 | (uint32_t)in[2] << 16 | (uint32_t)in[1] << 8 | in[0]) != LZ4_FRAME_MAGIC)
		return -1;
	if (!*dctx && LZ4F_isError(LZ4F_createDecompressionContext(dctx, LZ4F_VERSION))) {
		*dctx = NULL;
		return -1;
	}
	LZ4F_resetDecompressionContext(*dctx);
	while (hint != 0) {
		size_t src = avail - used, dst = page_size - filled;

		hint = LZ4F_decompress(*dctx, page + filled, &dst, in + used, &src, NULL);
		if (LZ4F_isError(hint) || (hint != 0 && src == 0 && dst == 0))
			return -1;
		used += src;
		filled += dst;
	}
	return filled == page_size ? (int64_t)used : -1;
}

int ltx_frame_parse(struct ltx_frame *f, const uint8_t *in, size_t avail, uint32_t page_size, uint8_t *page,
                    struct LZ4F_dctx_s **dctx, struct fz_err *err)
{
	struct fz_cur c = fz_cur(in, avail);
	uint16_t flags;
	int64_t n;

	*f = (struct ltx_frame){.pgno = fz_cur_be32(&c), .head_bytes = LTX_FRAME_HEAD};
	flags = fz_cur_be16(&c);
	if (fz_cur_ok(&c) && (f->pgno == 0 || flags & ~LTX_FRAME_BLOCK))
		return fz_fail(err, FZ_ECORRUPT, "page %u: frame with flags 0x%04x", f->pgno, flags);
	if (flags & LTX_FRAME_BLOCK) {
		f->head_bytes = LTX_FRAME_HEAD_BLOCK;
		f->lz4_bytes = fz_cur_be32(&c);
		if (f->lz4_bytes > (uint32_t)LZ4_COMPRESSBOUND(page_size))
			return fz_fail(err, FZ_ECORRUPT, "page %u: LZ4 block of %u bytes", f->pgno, f->lz4_bytes);
		f->lz4 = fz_cur_bytes(&c, f->lz4_bytes);
	}
	if (!fz_cur_ok(&c))
		return fz_fail(err, FZ_ETRUNCATED, "LTX file ends inside a page frame");
	if (f->lz4) {
		n = LZ4_decompress_safe((const char *)f->lz4, (char *)page, (int)f->lz4_bytes, (int)page_size);
		if (n != (int64_t)page_size)
			return fz_fail(err, FZ_ECORRUPT, "page %u: bad LZ4 block", f->pgno);
		f->frame_bytes = f->head_bytes + f->lz4_bytes;
		return 0;
	}
	n = unpack_lz4_frame(c.p, fz_cur_left(&c), page_size, page, dctx);
	if (n < 0)
		return fz_fail(err, FZ_ECORRUPT, "page %u: bad LZ4 frame", f->pgno);
	f->frame_bytes = f->head_bytes + (uint32_t)n;
	return 0;
}

int ltx_frame_decode(const uint8_t *frame, size_t frame_bytes, uint32_t pgno, uint32_t page_size, uint8_t *page,
                     struct fz_err *err)
{
	LZ4F_dctx *dctx = NULL;
	struct ltx_frame f;
	int rc;

	if (!ltx_page_size_ok(page_size))
		return fz_fail(err, FZ_ECORRUPT, "page size %u", page_size);
	rc = ltx_frame_parse(&f, frame, frame_bytes, page_size, page, &dctx, err);
	LZ4F_freeDecompressionContext(dctx);
	if (rc == 0 && (f.pgno != pgno || f.frame_bytes != frame_bytes))
		rc = fz_fail(err, FZ_ECORRUPT, "the index says page %u in %zu bytes, the frame says page %u in %u",
		             pgno, frame_bytes, f.pgno, f.frame_bytes);
	return rc;
}
