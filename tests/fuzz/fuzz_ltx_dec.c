/* fuzz_ltx_dec.c - the LTX decoder on any bytes: files back to back, to the first error. */
#include "ltx/dec.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fz_src *src = NULL;
	struct ltx_dec *d = NULL;
	const uint8_t *page;
	volatile uint8_t last;
	uint64_t bytes, sum = 0;
	uint32_t pgno, prev;
	int rc;

	if (fz_src_mem(&src, data, size, NULL) < 0)
		return 0;
	rc = ltx_dec_open(&d, src, 0, NULL);
	while (rc >= 0) {
		prev = 0;
		while ((rc = ltx_dec_page(d, &pgno, &page, NULL)) == 1) {
			if (pgno <= prev || pgno > ltx_dec_header(d)->commit)
				abort();
			last = page[ltx_dec_header(d)->page_size - 1];
			prev = pgno;
		}
		if (rc < 0)
			break;
		ltx_dec_end(d, &bytes);
		sum += bytes;
		if (sum > size)
			abort();
		rc = ltx_dec_next(d, NULL);
		if (rc == 0)
			break;
	}
	(void)last;
	ltx_dec_close(d);
	fz_src_close(src);
	return 0;
}
