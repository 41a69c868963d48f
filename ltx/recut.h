/* recut.h - the rest of a merged range for a log that ends inside of it. */
#ifndef FZ_LTX_RECUT_H
#define FZ_LTX_RECUT_H

#include "base/io.h"

/* src is an LTX file of a range min..max with min <= txid < max, and the log ends at (txid, checksum) of the same history. The pages of the
 * range hold all that changed after txid as well, so the same pages as txid+1..max on that checksum are a right transaction. Makes
 * it in an unnamed file of the directory. src, dirfd: borrowed for the call. (*out)->size_bytes is its length; the caller closes it. */
int ltx_recut(struct fz_src *src, int dirfd, uint64_t txid, uint64_t checksum, struct fz_src **out,
              struct fz_err *err) FZ_MUST_CHECK;

#endif
