#include "fs/scrub.h"

#include "fs/capture_wal.h"

int64_t fs_scrub_step(struct fs_db *db, uint32_t *next, uint64_t max_bytes, uint64_t *differences, struct fz_err *err)
{
	*next = 0;
	return 0;
}
