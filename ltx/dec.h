/* dec.h - read one LTX file: in order with every check, or single pages through its index. Reads both page encodings
 * (raw LZ4 block, one LZ4 frame a page). Never trusts a length. */
#ifndef FZ_LTX_DEC_H
#define FZ_LTX_DEC_H

#include "base/io.h"
#include "ltx/ltx.h"

struct ltx_dec;

/* In order. src borrowed; the file starts at off_bytes of src (LTX files may stand back to back: ltx_dec_end() tells
 * where this one ended). Reads ahead in blocks of at most 256 KiB, holds one page. */
int ltx_dec_open(struct ltx_dec **out, struct fz_src *src, uint64_t off_bytes, struct fz_err *err) FZ_MUST_CHECK;
void ltx_dec_close(struct ltx_dec *d);
const struct ltx_header *ltx_dec_header(const struct ltx_dec *d);
/* Next page: 1 and *pgno, *data (borrowed until the next call), 0 at the end of the pages (index, trailer, order,
 * completeness of a snapshot and file checksum have then been checked), or a negative code. */
int ltx_dec_page(struct ltx_dec *d, uint32_t *pgno, const uint8_t **data, struct fz_err *err) FZ_MUST_CHECK;
/* After the last page. file_bytes = length of this LTX file. */
const struct ltx_trailer *ltx_dec_end(const struct ltx_dec *d, uint64_t *file_bytes);
/* After the last page: goes on with the file that follows in src, keeping buffers and what was read ahead. 1, 0 when
 * src ends here (only ltx_dec_close() is left then), or a negative code. */
int ltx_dec_next(struct ltx_dec *d, struct fz_err *err) FZ_MUST_CHECK;
/* At any time: turns to another file, keeping the buffers (256 KiB). After a failure d can be reopened again. */
int ltx_dec_reopen(struct ltx_dec *d, struct fz_src *src, uint64_t off_bytes, struct fz_err *err) FZ_MUST_CHECK;
/* Runs to the end and checks everything but the database checksum, and that as well in a snapshot. h, t, file_bytes and
 * pages may be NULL. */
int ltx_dec_verify(struct fz_src *src, uint64_t off_bytes, struct ltx_header *h, struct ltx_trailer *t,
                   uint64_t *file_bytes, uint32_t *pages, struct fz_err *err) FZ_MUST_CHECK;

/* Random access: the page index of the LTX file that fills [off, off+size) of src. */
struct ltx_index_entry {
	uint32_t pgno;
	uint64_t off_bytes;   /* in the file, of the frame header */
	uint32_t frame_bytes; /* with headers */
};
struct ltx_index {
	struct ltx_header header;
	struct ltx_trailer trailer;
	struct ltx_index_entry *e; /* ascending pgno */
	uint32_t n;
};
int ltx_index_read(struct ltx_index *out, struct fz_src *src, uint64_t off_bytes, uint64_t size_bytes,
                   struct fz_err *err) FZ_MUST_CHECK;
void ltx_index_fini(struct ltx_index *ix);
/* NULL when the file does not hold pgno. */
const struct ltx_index_entry *ltx_index_find(const struct ltx_index *ix, uint32_t pgno);
/* Decodes one frame (frame_bytes at frame) into page (page_size bytes). */
int ltx_frame_decode(const uint8_t *frame, size_t frame_bytes, uint32_t pgno, uint32_t page_size, uint8_t *page,
                     struct fz_err *err) FZ_MUST_CHECK;

#endif
