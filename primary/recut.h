/* recut.h - the rest of a merged range for a replica that stands inside it. */
#ifndef FZ_PRIMARY_RECUT_H
#define FZ_PRIMARY_RECUT_H

#include "ltx/log.h"

/* Entry e of the log is a range min..max with min <= txid < max, and the replica is at (txid, checksum). The pages of the
 * range hold all that changed after txid as well, so the same pages as txid+1..max on that checksum are a right transaction. Makes
 * it in an unnamed file of the log's directory. *out->size_bytes is its length; the caller closes it. */
int primary_recut(struct ltx_log *log, const struct ltx_log_entry *e, uint64_t txid, uint64_t checksum,
                  struct fz_src **out, struct fz_err *err) FZ_MUST_CHECK;

#endif
