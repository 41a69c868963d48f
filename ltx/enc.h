/* enc.h - write one LTX file into a sink, page by page. */
#ifndef FZ_LTX_ENC_H
#define FZ_LTX_ENC_H

#include "base/io.h"
#include "ltx/ltx.h"

struct ltx_enc;

/* Heap: 100 KiB or so, and about 3 bytes for each page of the file. sink is borrowed until close. h is copied and
 * checked (commit > 0, page size, TXIDs, pre_checksum). An encoder can be used for many files: ltx_enc_begin() again
 * after ltx_enc_end() (buffers are kept; the hot path of capture). */
int ltx_enc_open(struct ltx_enc **out, struct fz_err *err) FZ_MUST_CHECK;
void ltx_enc_close(struct ltx_enc *e);
int ltx_enc_begin(struct ltx_enc *e, struct fz_sink *sink, const struct ltx_header *h,
                  struct fz_err *err) FZ_MUST_CHECK;
/* Pages strictly ascending, <= commit, never the lock page; a snapshot needs every page. -FZ_EORDER otherwise.
 * data: page_size bytes. */
int ltx_enc_page(struct ltx_enc *e, uint32_t pgno, const void *data, struct fz_err *err) FZ_MUST_CHECK;
/* The same with the raw LZ4 block already at hand (merge, repack): data is what lz4 decompresses to. */
int ltx_enc_page_lz4(struct ltx_enc *e, uint32_t pgno, const void *data, const void *lz4, uint32_t lz4_bytes,
                     struct fz_err *err) FZ_MUST_CHECK;
/* Writes end mark, index, trailer. *trailer and *file_bytes (both may be NULL) tell what was written. */
int ltx_enc_end(struct ltx_enc *e, uint64_t post_checksum, struct ltx_trailer *trailer, uint64_t *file_bytes,
                struct fz_err *err) FZ_MUST_CHECK;
uint32_t ltx_enc_pages(const struct ltx_enc *e); /* pages written into the current or last file */

#endif
