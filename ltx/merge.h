/* merge.h - many consecutive LTX files into one: the newest page wins, pages beyond the final commit drop, the last
 * timestamp stays, pre_checksum is the first file's and post_checksum the last one's. One mechanism for compaction
 * levels, snapshots (base + log), folding the local log and restore.
 *
 * MEMORY is bounded whatever the inputs' number and size: a table of (page -> newest frame) for a window of page
 * numbers at a time (4 MiB of table), indexes re-read for each window; each page frame that survives is read once and
 * its LZ4 block is copied, not compressed again. To this come 0.7 MiB of buffers and the encoder's 3 bytes a page. */
#ifndef FZ_LTX_MERGE_H
#define FZ_LTX_MERGE_H

#include "base/io.h"
#include "ltx/ltx.h"

struct ltx_merge_input {
	struct fz_src *src; /* borrowed; the LTX file fills [off, off + size) */
	uint64_t off_bytes, size_bytes;
};
struct ltx_merge_result {
	struct ltx_header header;
	struct ltx_trailer trailer;
	uint64_t file_bytes;
	uint32_t pages;
};
/* The inputs, oldest first, asked for by number so that 300,000 of them need no array: returns 0 or a negative code. */
struct ltx_merge_list {
	int (*get)(struct ltx_merge_list *l, uint64_t i, struct ltx_merge_input *out, struct fz_err *err);
	uint64_t n;
};
/* get() is asked for 0, 1, 2, ... (again for each window) and then for single inputs in any order; a source need not
 * outlive the next get(). A result that is a snapshot is compared with the last post_checksum; for any other the file
 * checksum of each input is checked: -FZ_ECHECKSUM. On failure what the sink has got is worth nothing.
 * Checks contiguity (min <= previous max + 1, max > previous max), equal page size from the last page-size change on
 * (a file that changes the page size holds every page: what is older counts for nothing), and that each pre_checksum is
 * the previous post_checksum. -FZ_EGAP, -FZ_ECORRUPT. cancel may be NULL; when it becomes true: -ECANCELED. */
int ltx_merge(struct ltx_merge_list *inputs, struct fz_sink *out, struct ltx_merge_result *result,
              const volatile bool *cancel, struct fz_err *err) FZ_MUST_CHECK;
/* The same for an array. */
int ltx_merge_array(const struct ltx_merge_input *inputs, uint64_t n, struct fz_sink *out,
                    struct ltx_merge_result *result, struct fz_err *err) FZ_MUST_CHECK;

#endif
