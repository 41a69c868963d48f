/* Any bytes as a WAL followed by a wal-index header. */
#include "ltx/wal.h"
#include "ltx/walindex.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t index[LTX_WALINDEX_SIZE] = {0};
	struct ltx_wal_header h;
	struct ltx_walindex x;
	uint32_t sum[2];

	memcpy(index, data, size < sizeof(index) ? size : sizeof(index));
	if (ltx_walindex_get(&x, index) && x.page_size < 512)
		__builtin_trap();
	if (size < LTX_WAL_HEADER_SIZE || ltx_wal_header_get(&h, data, NULL) < 0)
		return 0;
	memcpy(sum, h.sum, sizeof(sum));
	for (uint64_t i = 1; i <= ltx_wal_frames(h.page_size, size); i++)
		if (!ltx_wal_frame_ok(&h, data + ltx_wal_frame_off(h.page_size, (uint32_t)i), sum))
			break;
	return 0;
}
