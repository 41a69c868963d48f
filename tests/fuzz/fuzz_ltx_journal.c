/* Any bytes as a rollback journal. */
#include "ltx/journal.h"
#include "ltx/ltx.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char super[LTX_JOURNAL_SUPER_MAX];
	struct fz_src *src = NULL;
	struct ltx_journal j;
	const uint8_t *page;
	uint32_t pgno;

	if (fz_src_mem(&src, data, size, NULL) < 0)
		return 0;
	if (ltx_journal_super(src, super, NULL) < 0)
		__builtin_trap(); /* reading memory does not fail */
	for (int i = 0; i < 2; i++) {
		if (ltx_journal_open(&j, src, 4096, NULL) < 0)
			break;
		j.unsynced = i;
		while (ltx_journal_next(&j, &pgno, &page, NULL) > 0)
			if (!pgno || pgno == ltx_lock_page(j.page_size))
				__builtin_trap();
		ltx_journal_close(&j);
	}
	fz_src_close(src);
	return 0;
}
