/* pages.h - the pages of one transaction: page number, where its newest content lies, its checksum. A list of any length in
 * little memory: beyond 64 Ki entries it lives in an unlinked, mapped temporary file of the state directory. */
#ifndef FZ_FS_PAGES_H
#define FZ_FS_PAGES_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct fs_page {
	uint32_t pgno;
	uint32_t frame; /* of the WAL; 0 = the database file */
	uint64_t sum;   /* page checksum, filled in by whoever reads the page */
};
struct fs_pages {
	struct fs_page *e;
	size_t n, cap;
	int dirfd; /* borrowed: where a temporary file may be made */
	int fd;    /* -1 while on the heap */
};

void fs_pages_init(struct fs_pages *p, int dirfd);
int fs_pages_add(struct fs_pages *p, uint32_t pgno, uint32_t frame, struct fz_err *err) FZ_MUST_CHECK;
/* Ascending page numbers; of equal ones the highest frame stays. Pages above max_pgno and `skip` (0 = none) are dropped. */
void fs_pages_sort(struct fs_pages *p, uint32_t max_pgno, uint32_t skip);
/* Ascending page numbers, then frames; nothing is dropped. */
void fs_pages_order(struct fs_pages *p);
/* In a sorted list; NULL when absent. */
const struct fs_page *fs_pages_find(const struct fs_pages *p, uint32_t pgno);
void fs_pages_reset(struct fs_pages *p); /* n = 0; a temporary file is given up */
void fs_pages_fini(struct fs_pages *p);

#endif
