/* scrub.h - compares the real pages with the checksum table: the chain of checksums proves the log, not the capture. */
#ifndef FZ_FS_SCRUB_H
#define FZ_FS_SCRUB_H

#include "fs/txn.h"

/* Compares pages [*next, ...) for at most max_bytes; *next = 0 at the end of a pass. Differences become a new transaction.
 * Takes db->mu. Returns the pages compared, or a negative code; -FZ_EBUSY: no consistent instant now. */
int64_t fs_scrub_step(struct fs_db *db, uint32_t *next, uint64_t max_bytes, uint64_t *differences,
                      struct fz_err *err) FZ_MUST_CHECK;

#endif
