/* fuzz_ltx_index.c - the page index and the frames it points to on any bytes; then the merge of that file, which must
 * give a file that decodes. */
#include "ltx/dec.h"
#include "ltx/merge.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fz_src *src = NULL, *merged = NULL;
	struct fz_buf out = {0};
	struct fz_buf_sink sink;
	struct ltx_merge_result r;
	struct ltx_index ix;
	uint8_t *page = malloc(65536);

	if (!page || fz_src_mem(&src, data, size, NULL) < 0)
		abort();
	if (ltx_index_read(&ix, src, 0, size, NULL) == 0)
		for (uint32_t i = 0; i < ix.n; i++) {
			const struct ltx_index_entry *e = &ix.e[i];

			if (ltx_index_find(&ix, e->pgno) != e || e->off_bytes + e->frame_bytes > size)
				abort();
			if (ltx_frame_decode(data + e->off_bytes, e->frame_bytes, e->pgno, ix.header.page_size, page,
			                     NULL) < 0)
				continue;
		}
	ltx_index_fini(&ix);
	fz_buf_sink_init(&sink, &out);
	if (ltx_merge_array(&(struct ltx_merge_input){src, 0, size}, 1, &sink.sink, &r, NULL) == 0) {
		uint64_t bytes;

		if (fz_src_mem(&merged, out.data, out.size, NULL) < 0 ||
		    ltx_dec_verify(merged, 0, NULL, NULL, &bytes, NULL, NULL) < 0 || bytes != r.file_bytes)
			abort();
	}
	fz_buf_fini(&out);
	fz_src_close(merged);
	fz_src_close(src);
	free(page);
	return 0;
}
