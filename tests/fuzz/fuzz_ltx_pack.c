/* fuzz_ltx_pack.c - the index of a pack on any bytes: what it returns lies inside the object and ascends. */
#include "ltx/pack.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ltx_pack_index ix;
	struct fz_src *src = NULL;

	if (fz_src_mem(&src, data, size, NULL) < 0)
		abort();
	if (ltx_pack_index_read(&ix, src, NULL) == 0)
		for (uint64_t i = 0; i < ix.n; i++)
			if (ix.e[i].off_bytes + ix.e[i].size_bytes > size || ix.e[i].max_txid < ix.e[i].min_txid ||
			    (i && ix.e[i].min_txid <= ix.e[i - 1].max_txid))
				abort();
	ltx_pack_index_fini(&ix);
	fz_src_close(src);
	return 0;
}
