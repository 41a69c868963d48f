/* log_make.h - a log in a directory of its own, fed with real LTX files of a small database, for the tests of the log.
 * It keeps the account of what the log must hold: the checksum after each TXID. */
#ifndef FZ_TESTS_LOG_MAKE_H
#define FZ_TESTS_LOG_MAKE_H

#include "base/cursor.h"
#include "base/file.h"
#include "ltx/dec.h"
#include "ltx/enc.h"
#include "ltx/log.h"
#include "ltx/logpriv.h"
#include "ltx/merge.h"
#include "tests/unit/ok.h"
#include "tests/unit/tmp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE  512
#define PAGES 8
#define MAXTX 4096

/* A small database, and the log it is captured into. */
struct fix {
	char dir[160];
	int dirfd;
	struct ltx_logset_conf conf;
	struct ltx_log *log;
	struct ltx_enc *enc;
	uint8_t page[PAGES][PAGE];
	uint64_t sum[MAXTX]; /* database checksum after each TXID */
	uint64_t salt;       /* another history */
	struct fz_err err;
};

#define OK(call) OK_OR(call, f->err)

static inline uint64_t db_sum(struct fix *f)
{
	uint64_t sum = LTX_EMPTY_DB;

	for (uint32_t i = 0; i < PAGES; i++)
		sum = LTX_FLAG | (sum ^ ltx_page_checksum(i + 1, f->page[i], PAGE));
	return sum;
}

static inline void fill(uint8_t *p, size_t n, uint64_t seed)
{
	for (size_t i = 0; i < n; i++) {
		seed = seed * 6364136223846793005u + 1442695040888963407u;
		p[i] = i % 4 ? 0 : (uint8_t)(seed >> 56); /* compressible, like pages are */
	}
}

static inline struct ltx_header header(struct fix *f, uint64_t txid)
{
	return (struct ltx_header){.page_size = PAGE,
	                           .commit = PAGES,
	                           .min_txid = txid,
	                           .max_txid = txid,
	                           .time_ms = 1000000 + (int64_t)txid * 10,
	                           .pre_checksum = txid > 1 ? f->sum[txid - 1] : 0};
}

/* Writes transaction txid through the sink up to its end; TXID 1 holds every page, the others one or two. */
static inline void encode(struct fix *f, struct fz_sink *sink, uint64_t txid, struct ltx_trailer *t, uint64_t *bytes,
                          uint32_t *pages)
{
	struct ltx_header h = header(f, txid);

	OK(ltx_enc_begin(f->enc, sink, &h, &f->err));
	for (uint32_t i = 0; i < PAGES; i++) {
		if (txid > 1 && i != txid % PAGES && !(i == PAGES - 1 && txid % 3 == 0))
			continue;
		fill(f->page[i], PAGE, txid * 100 + i + f->salt);
		OK(ltx_enc_page(f->enc, i + 1, f->page[i], &f->err));
	}
	f->sum[txid] = db_sum(f);
	OK(ltx_enc_end(f->enc, f->sum[txid], t, bytes, &f->err));
	*pages = ltx_enc_pages(f->enc);
}

static inline void append(struct fix *f, uint64_t txid, bool prepared)
{
	struct ltx_header h = header(f, txid);
	struct ltx_trailer t;
	struct fz_sink *sink;
	uint64_t bytes;
	uint32_t pages;

	OK(ltx_log_begin(f->log, &h, &sink, &f->err));
	encode(f, sink, txid, &t, &bytes, &pages);
	OK(ltx_log_commit(f->log, bytes, pages, &t, prepared, &f->err));
}

static inline void append_many(struct fix *f, uint64_t first, uint64_t last)
{
	for (uint64_t i = first; i <= last; i++)
		append(f, i, false);
}

static inline void reopen_at(struct fix *f, int dirfd)
{
	ltx_log_close(f->log);
	f->log = NULL;
	OK(ltx_log_open(&f->log, dup(dirfd), &f->conf, NULL, &f->err));
}

/* The log's tail is txid, and everything from the base on reads back right. */
static inline void check(struct fix *f, struct ltx_log *log, uint64_t tail)
{
	struct ltx_log_info info;
	uint64_t next;

	ltx_log_info(log, &info);
	assert_int_equal(info.tail_txid, tail);
	assert_int_equal(info.tail_checksum, tail ? f->sum[tail] : LTX_EMPTY_DB);
	for (next = 1; next <= tail;) {
		struct ltx_log_entry e;
		struct ltx_trailer t;
		struct ltx_header h;
		struct fz_src *src;
		uint64_t bytes;
		uint32_t pages;

		OK(ltx_log_find(log, next, &e, &f->err));
		assert_int_equal(e.e.min_txid, e.seg ? next : 1);
		OK(ltx_log_src(log, &e, &src, &f->err));
		OK(ltx_dec_verify(src, 0, &h, &t, &bytes, &pages, &f->err));
		assert_int_equal(src->size_bytes, bytes);
		assert_int_equal(h.max_txid, e.e.max_txid);
		assert_int_equal(h.time_ms, e.e.time_ms);
		assert_int_equal(pages, e.e.pages);
		assert_int_equal(h.commit, e.e.commit);
		assert_int_equal(t.post_checksum, f->sum[h.max_txid]);
		fz_src_close(src);
		next = e.e.max_txid + 1;
	}
	assert_int_equal(ltx_log_find(log, tail + 1, &(struct ltx_log_entry){0}, &f->err), -FZ_ENOTFOUND);
}

static inline int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	assert_non_null(tmp_make(f->dir, sizeof(f->dir), "fz-log"));
	f->dirfd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	OK(ltx_enc_open(&f->enc, &f->err));
	OK(ltx_log_make(f->dirfd, "app.db", "0123456789abcdef", 0, &f->err));
	OK(ltx_log_open(&f->log, dup(f->dirfd), &f->conf, NULL, &f->err));
	*state = f;
	return 0;
}

static inline int teardown(void **state)
{
	struct fix *f = *state;

	ltx_log_close(f->log);
	ltx_enc_close(f->enc);
	close(f->dirfd);
	OK(fz_remove_tree(AT_FDCWD, f->dir, &f->err));
	free(f);
	return 0;
}

static inline void set_head(struct fix *f, int dirfd, uint64_t txid, uint64_t synced, bool at_home)
{
	struct ltx_head h = {0};

	OK(ltx_head_open(&h, dirfd, true, &f->err));
	ltx_head_set_txid(&h, txid);
	ltx_head_set_synced(&h, synced);
	ltx_head_set_home(&h, at_home ? ltx_head_home(dirfd) : 0);
	ltx_head_close(&h);
}

#endif
