/* fuzz_ltx_logidx.c - what may lie in a log's directory after a crash: index, segment and meta with any bytes. The
 * input is u8 what | u16 index bytes | index | segment; opening it must end in a log whose every entry can be read, or
 * in an error. */
#include "base/cursor.h"
#include "base/file.h"
#include "ltx/log.h"
#include "ltx/logpriv.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[] = "/tmp/fz-fuzz-log-XXXXXX";

static void cleanup(void)
{
	if (fz_remove_tree(AT_FDCWD, dir, NULL) < 0)
		perror(dir);
}

static void put(int dirfd, const char *name, const void *data, size_t n)
{
	int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || fz_pwrite(fd, data, n, 0) < 0)
		abort();
	close(fd);
}

static void walk(struct ltx_log *log)
{
	struct ltx_log_info info;
	struct ltx_log_entry e;

	ltx_log_info(log, &info);
	for (uint64_t next = info.first_txid; next && next <= info.tail_txid; next = e.e.max_txid + 1) {
		struct fz_src *src;
		uint8_t byte;

		if (ltx_log_find(log, next, &e, NULL) < 0 || ltx_log_src(log, &e, &src, NULL) < 0)
			break;
		if (fz_src_read(src, src->size_bytes - 1, &byte, 1, NULL) < 0)
			byte = 0; /* an index that lies about a segment it fits */
		fz_src_close(src);
	}
	if (ltx_log_find_time(log, info.tail_time_ms, &e, NULL) == 0 && e.e.max_txid > info.tail_txid && !e.seg)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int dirfd = -1;
	struct ltx_head head = {0};
	struct fz_cur c = fz_cur(data, size);
	struct ltx_log *log;
	unsigned what = fz_cur_u8(&c);
	size_t idx_bytes = fz_cur_be16(&c), left;
	const uint8_t *idx, *seg;

	if (dirfd < 0) {
		if (!mkdtemp(dir) || (dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0 ||
		    ltx_log_make(dirfd, "a", "0123456789abcdef", 0, NULL) < 0)
			abort();
		atexit(cleanup);
	}
	idx = fz_cur_bytes(&c, idx_bytes);
	left = fz_cur_left(&c);
	seg = fz_cur_bytes(&c, left);
	if (!idx || !seg)
		return 0;
	put(dirfd, "0000000000000001.idx", idx, idx_bytes);
	put(dirfd, "0000000000000001.seg", seg, left);
	if (ltx_head_open(&head, dirfd, true, NULL) < 0)
		abort();
	ltx_head_set_txid(&head, what >> 3);
	ltx_head_set_synced(&head, what & 4 ? what >> 4 : 0);
	ltx_head_set_home(&head, what & 2 ? ltx_head_home(dirfd) : 0);
	ltx_head_close(&head);
	if (ltx_log_open(&log, dup(dirfd), &(struct ltx_logset_conf){.readonly = what & 1}, NULL, NULL) == 0) {
		walk(log);
		ltx_log_close(log);
	}
	return 0;
}
