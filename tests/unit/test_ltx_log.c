/* test_ltx_log.c - the local log of one database: append, prepare, sync, read, prune; and what is left of it after a
 * SIGKILL or a power cut. The transactions are real LTX files; each test keeps its own account of what the log must
 * hold (checksum after each TXID) and compares. */
#include "base/cursor.h"
#include "base/file.h"
#include "ltx/dec.h"
#include "ltx/enc.h"
#include "ltx/log.h"
#include "ltx/logpriv.h"
#include "ltx/merge.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE  512
#define PAGES 8
#define MAXTX 4096

/* A small database, and the log it is captured into. */
struct fix {
	char dir[64];
	int dirfd;
	struct ltx_logset_conf conf;
	struct ltx_log *log;
	struct ltx_enc *enc;
	uint8_t page[PAGES][PAGE];
	uint64_t sum[MAXTX]; /* database checksum after each TXID */
	struct fz_err err;
};

#define OK(call)                                                                                                       \
	do {                                                                                                           \
		int rc_ = (call);                                                                                      \
		if (rc_ < 0)                                                                                           \
			fail_msg("%s: %s (%d)", #call, f->err.text, rc_);                                              \
	} while (0)

static uint64_t db_sum(struct fix *f)
{
	uint64_t sum = LTX_EMPTY_DB;

	for (uint32_t i = 0; i < PAGES; i++)
		sum = LTX_FLAG | (sum ^ ltx_page_checksum(i + 1, f->page[i], PAGE));
	return sum;
}

static void fill(uint8_t *p, size_t n, uint64_t seed)
{
	for (size_t i = 0; i < n; i++) {
		seed = seed * 6364136223846793005u + 1442695040888963407u;
		p[i] = i % 4 ? 0 : (uint8_t)(seed >> 56); /* compressible, like pages are */
	}
}

static struct ltx_header header(struct fix *f, uint64_t txid)
{
	return (struct ltx_header){.page_size = PAGE,
	                           .commit = PAGES,
	                           .min_txid = txid,
	                           .max_txid = txid,
	                           .time_ms = 1000000 + (int64_t)txid * 10,
	                           .pre_checksum = txid > 1 ? f->sum[txid - 1] : 0};
}

/* Writes transaction txid through the sink up to its end; TXID 1 holds every page, the others one or two. */
static void encode(struct fix *f, struct fz_sink *sink, uint64_t txid, struct ltx_trailer *t, uint64_t *bytes,
                   uint32_t *pages)
{
	struct ltx_header h = header(f, txid);

	OK(ltx_enc_begin(f->enc, sink, &h, &f->err));
	for (uint32_t i = 0; i < PAGES; i++) {
		if (txid > 1 && i != txid % PAGES && !(i == PAGES - 1 && txid % 3 == 0))
			continue;
		fill(f->page[i], PAGE, txid * 100 + i);
		OK(ltx_enc_page(f->enc, i + 1, f->page[i], &f->err));
	}
	f->sum[txid] = db_sum(f);
	OK(ltx_enc_end(f->enc, f->sum[txid], t, bytes, &f->err));
	*pages = ltx_enc_pages(f->enc);
}

static void append(struct fix *f, uint64_t txid, bool prepared)
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

static void append_many(struct fix *f, uint64_t first, uint64_t last)
{
	for (uint64_t i = first; i <= last; i++)
		append(f, i, false);
}

static void reopen_at(struct fix *f, int dirfd)
{
	ltx_log_close(f->log);
	f->log = NULL;
	OK(ltx_log_open(&f->log, dup(dirfd), &f->conf, NULL, &f->err));
}

/* The log's tail is txid, and everything from the base on reads back right. */
static void check(struct fix *f, struct ltx_log *log, uint64_t tail)
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

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	snprintf(f->dir, sizeof(f->dir), "/tmp/fz-log-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	f->dirfd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	OK(ltx_enc_open(&f->enc, &f->err));
	OK(ltx_log_make(f->dirfd, "app.db", "0123456789abcdef", &f->err));
	OK(ltx_log_open(&f->log, dup(f->dirfd), &f->conf, NULL, &f->err));
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	ltx_log_close(f->log);
	ltx_enc_close(f->enc);
	close(f->dirfd);
	OK(fz_remove_tree(AT_FDCWD, f->dir, &f->err));
	free(f);
	return 0;
}

static void append_and_read(void **state)
{
	struct fix *f = *state;
	struct ltx_log_info info;

	check(f, f->log, 0);
	append_many(f, 1, 50);
	check(f, f->log, 50);
	ltx_log_info(f->log, &info);
	assert_string_equal(info.name, "app.db");
	assert_string_equal(info.lineage, "0123456789abcdef");
	assert_int_equal(info.first_txid, 1);
	assert_int_equal(info.page_size, PAGE);
	assert_int_equal(info.commit, PAGES);
	assert_int_equal(info.tail_time_ms, 1000500);
	reopen_at(f, f->dirfd);
	check(f, f->log, 50);
	append_many(f, 51, 60);
	check(f, f->log, 60);
}

static void wrong_order_is_refused(void **state)
{
	struct fix *f = *state;
	struct ltx_header h;
	struct fz_sink *sink;

	append_many(f, 1, 3);
	h = header(f, 5);
	assert_int_equal(ltx_log_begin(f->log, &h, &sink, &f->err), -FZ_EORDER);
	h = header(f, 3);
	assert_int_equal(ltx_log_begin(f->log, &h, &sink, &f->err), -FZ_EORDER);
	h = header(f, 4);
	h.pre_checksum ^= 1;
	assert_int_equal(ltx_log_begin(f->log, &h, &sink, &f->err), -FZ_EORDER);
	append(f, 4, true);
	h = header(f, 5);
	assert_int_equal(ltx_log_begin(f->log, &h, &sink, &f->err), -FZ_EORDER); /* behind a prepared one */
	OK(ltx_log_confirm(f->log, &f->err));
	assert_int_equal(ltx_log_confirm(f->log, &f->err), -FZ_EORDER);
	append(f, 5, false);
	check(f, f->log, 5);
}

static void segments_roll(void **state)
{
	struct fix *f = *state;
	struct ltx_log_entry e;

	f->conf.segment_bytes = 2000;
	reopen_at(f, f->dirfd);
	append_many(f, 1, 200);
	assert_true(f->log->n_segs > 10);
	check(f, f->log, 200);
	reopen_at(f, f->dirfd);
	check(f, f->log, 200);
	for (uint64_t i = 1; i <= 200; i++) {
		OK(ltx_log_find_time(f->log, 1000000 + (int64_t)i * 10 + 9, &e, &f->err));
		assert_int_equal(e.e.max_txid, i);
	}
	assert_int_equal(ltx_log_find_time(f->log, 1000009, &e, &f->err), -FZ_ENOCOMMIT);
}

/* Larger than the buffer: goes to the segment before its commit; an abort takes it back. */
static void large_transactions(void **state)
{
	struct fix *f = *state;
	struct ltx_header h = {.page_size = 65536, .commit = 100, .min_txid = 1, .max_txid = 1, .time_ms = 5};
	static uint8_t page[65536];
	struct ltx_log_entry e;
	struct ltx_trailer t;
	struct fz_sink *sink;
	struct fz_src *src;
	struct stat st;
	uint64_t bytes;
	uint32_t pages;

	for (int round = 0; round < 2; round++) {
		uint64_t sum = LTX_EMPTY_DB, seed = 1;

		OK(ltx_log_begin(f->log, &h, &sink, &f->err));
		OK(ltx_enc_begin(f->enc, sink, &h, &f->err));
		for (uint32_t i = 1; i <= 100; i++) {
			for (size_t k = 0; k < sizeof(page); k++)
				page[k] = (uint8_t)((seed = seed * 6364136223846793005u + i) >> 56);
			sum = LTX_FLAG | (sum ^ ltx_page_checksum(i, page, 65536));
			OK(ltx_enc_page(f->enc, i, page, &f->err));
		}
		OK(ltx_enc_end(f->enc, sum, &t, &bytes, &f->err));
		f->sum[1] = sum;
		OK(fstatat(f->dirfd, "0000000000000001.seg", &st, 0));
		assert_true(st.st_size > 4 << 20 && (uint64_t)st.st_size < bytes);
		assert_true(f->log->sink.buf.cap <= 4u << 20);
		if (round == 0) {
			ltx_log_abort(f->log);
			OK(fstatat(f->dirfd, "0000000000000001.seg", &st, 0));
			assert_int_equal(st.st_size, 0);
			check(f, f->log, 0);
		}
	}
	OK(ltx_log_commit(f->log, bytes, 100, &t, false, &f->err));
	OK(ltx_log_find(f->log, 1, &e, &f->err));
	OK(ltx_log_src(f->log, &e, &src, &f->err));
	OK(ltx_dec_verify(src, 0, &h, &t, &bytes, &pages, &f->err));
	assert_int_equal(pages, 100);
	fz_src_close(src);
}

static void prepared_is_invisible(void **state)
{
	struct fix *f = *state;
	struct ltx_trailer t;
	struct ltx_header h;

	append_many(f, 1, 2);
	append(f, 3, true);
	check(f, f->log, 2);
	assert_true(ltx_log_prepared(f->log, &h, &t));
	assert_int_equal(h.min_txid, 3);
	assert_int_equal(t.post_checksum, f->sum[3]);
	reopen_at(f, f->dirfd); /* like a SIGKILL */
	check(f, f->log, 2);
	assert_true(ltx_log_prepared(f->log, &h, &t));
	assert_int_equal(t.post_checksum, f->sum[3]);
	OK(ltx_log_confirm(f->log, &f->err));
	assert_false(ltx_log_prepared(f->log, NULL, NULL));
	check(f, f->log, 3);
	append(f, 4, true);
	reopen_at(f, f->dirfd);
	OK(ltx_log_drop_prepared(f->log, &f->err));
	check(f, f->log, 3);
	reopen_at(f, f->dirfd);
	assert_false(ltx_log_prepared(f->log, NULL, NULL));
	append_many(f, 4, 6);
	check(f, f->log, 6);
}

/* ---- crash models ------------------------------------------------------------------------------------------------ */

static void copy_file(struct fix *f, int from, int to, const char *name, uint64_t max_bytes)
{
	struct fz_buf b = {0};
	int fd;

	OK(fz_read_file(from, name, SIZE_MAX, &b, &f->err));
	fd = openat(to, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	OK(fz_pwrite(fd, b.data, b.size < max_bytes ? b.size : max_bytes, 0));
	close(fd);
	fz_buf_fini(&b);
}

static int fresh_dir(struct fix *f, const char *name)
{
	int fd;

	OK(fz_remove_tree(f->dirfd, name, &f->err));
	OK(mkdirat(f->dirfd, name, 0700));
	fd = openat(f->dirfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void set_head(struct fix *f, int dirfd, uint64_t txid, uint64_t synced, bool at_home)
{
	struct ltx_head h = {0};

	OK(ltx_head_open(&h, dirfd, true, &f->err));
	ltx_head_set_txid(&h, txid);
	ltx_head_set_synced(&h, synced);
	ltx_head_set_home(&h, at_home ? ltx_head_home(dirfd) : 0);
	ltx_head_close(&h);
}

/* log.c (1): six are committed, the seventh was being written: its segment bytes are there up to any length, its index
 * entry up to any length once the segment is whole. With the right home (short way) and without (long way). */
static void kill_at_every_byte(void **state)
{
	struct fix *f = *state;
	uint64_t start, end;
	struct stat st;
	int tmp;

	append_many(f, 1, 6);
	OK(fstatat(f->dirfd, "0000000000000001.seg", &st, 0));
	start = (uint64_t)st.st_size;
	append(f, 7, false);
	OK(fstatat(f->dirfd, "0000000000000001.seg", &st, 0));
	end = (uint64_t)st.st_size;
	for (int home = 0; home < 2; home++) {
		for (uint64_t at = start; at <= end + LTX_PACK_ENTRY_SIZE; at++) {
			uint64_t idx = 6 * LTX_PACK_ENTRY_SIZE + (at > end ? at - end : 0);

			tmp = fresh_dir(f, "crash");
			copy_file(f, f->dirfd, tmp, "meta", UINT64_MAX);
			copy_file(f, f->dirfd, tmp, "head", UINT64_MAX);
			copy_file(f, f->dirfd, tmp, "0000000000000001.seg", at);
			copy_file(f, f->dirfd, tmp, "0000000000000001.idx", idx);
			set_head(f, tmp, 6, home ? 3 : 0, home);
			reopen_at(f, tmp);
			check(f, f->log, 6);
			assert_int_equal(ltx_log_prepared(f->log, NULL, NULL), at >= end);
			if (at % 50 == 0) { /* and it goes on */
				if (at >= end)
					OK(ltx_log_drop_prepared(f->log, &f->err));
				append_many(f, 7, 9);
				reopen_at(f, tmp);
				check(f, f->log, 9);
			}
			close(tmp);
		}
	}
}

/* log.c (2, 3, 4): 40 transactions in many segments, 20 of them synced. Each case damages what came later. */
static void power_cut(void **state)
{
	struct fix *f = *state;
	uint64_t seed = 7;

	f->conf.segment_bytes = 1500;
	reopen_at(f, f->dirfd);
	append_many(f, 1, 20);
	OK(ltx_log_sync(f->log, &f->err));
	append_many(f, 21, 40);
	for (int round = 0; round < 600; round++) {
		uint64_t first_bad = 41; /* first TXID whose bytes were lost */
		uint64_t head, want;
		int tmp = fresh_dir(f, "crash");
		bool prepared;

		seed = seed * 6364136223846793005u + 1442695040888963407u;
		head = 20 + (seed >> 40) % 21; /* any value it had since may be on disk */
		copy_file(f, f->dirfd, tmp, "meta", UINT64_MAX);
		copy_file(f, f->dirfd, tmp, "head", UINT64_MAX);
		for (size_t i = 0; i < f->log->n_segs; i++) {
			struct ltx_seg *s = &f->log->segs[i];
			char seg[LTX_SEG_NAME_SIZE], idx[LTX_SEG_NAME_SIZE];
			uint64_t r = (seed >> 10) * (i + 3) * 2654435761u >> 7;
			struct fz_buf b = {0};
			int fd;

			ltx_seg_name(seg, s->min, ".seg");
			ltx_seg_name(idx, s->min, ".idx");
			copy_file(f, f->dirfd, tmp, seg, UINT64_MAX);
			copy_file(f, f->dirfd, tmp, idx, UINT64_MAX);
			if (s->min <= 20 && s->max > 20) { /* synced in part: its index may be anything */
				if (r & 1)
					copy_file(f, f->dirfd, tmp, idx, r % (s->n * LTX_PACK_ENTRY_SIZE));
				continue;
			}
			if (s->max <= 20)
				continue;
			switch (r % 6) {
			case 0: /* lost as a whole */
				OK(unlinkat(tmp, seg, 0));
				if (s->min < first_bad)
					first_bad = s->min;
				break;
			case 1: /* cut */
				copy_file(f, f->dirfd, tmp, seg, r % s->bytes);
				for (uint64_t t = s->min; t <= s->max; t++) {
					struct ltx_log_entry e;

					OK(ltx_log_find(f->log, t, &e, &f->err));
					if (e.e.off_bytes + e.e.size_bytes > r % s->bytes) {
						if (t < first_bad)
							first_bad = t;
						break;
					}
				}
				break;
			case 2: /* other bytes in it */
				OK(fz_read_file(tmp, seg, SIZE_MAX, &b, &f->err));
				b.data[r % s->bytes] ^= 0x55;
				fd = openat(tmp, seg, O_WRONLY | O_CLOEXEC);
				OK(fz_pwrite(fd, b.data, b.size, 0));
				close(fd);
				fz_buf_fini(&b);
				first_bad = 0; /* found below by decoding */
				break;
			case 3: /* index lost */
				OK(unlinkat(tmp, idx, 0));
				break;
			case 4: /* index of zeros */
				memset(fz_buf_room(&b, 4096), 0, 4096);
				fd = openat(tmp, idx, O_WRONLY | O_CLOEXEC | O_TRUNC);
				OK(fz_pwrite(fd, b.data, s->n * LTX_PACK_ENTRY_SIZE, 0));
				close(fd);
				fz_buf_fini(&b);
				break;
			}
			if (first_bad == 0) {
				struct fz_src *src;
				uint64_t off = 0, t;

				fd = openat(tmp, seg, O_RDONLY | O_CLOEXEC);
				OK(fz_src_fd(&src, fd, 0, s->bytes, true, &f->err));
				for (t = s->min; t <= s->max; t++) {
					uint64_t bytes;
					uint32_t pages;

					if (ltx_dec_verify(src, off, &(struct ltx_header){0}, &(struct ltx_trailer){0},
					                   &bytes, &pages, NULL) < 0)
						break;
					off += bytes;
				}
				assert_true(t <= s->max); /* the damage must be seen */
				first_bad = t;
				fz_src_close(src);
			}
			if (first_bad <= s->max) {
				/* what follows a loss does not matter: leave it whole, it must not rise again */
				for (size_t k = i + 1; k < f->log->n_segs; k++) {
					copy_file(f, f->dirfd, tmp, ltx_seg_name(seg, f->log->segs[k].min, ".seg"),
					          UINT64_MAX);
					copy_file(f, f->dirfd, tmp, ltx_seg_name(idx, f->log->segs[k].min, ".idx"),
					          UINT64_MAX);
				}
				break;
			}
		}
		set_head(f, tmp, head, 20, false);
		/* whole: 1 .. first_bad - 1. All up to head are committed; beyond it all but the last are, too */
		prepared = first_bad - 1 > head;
		want = first_bad - 1 <= head ? first_bad - 1 : first_bad - 2;
		{
			struct fix g = *f;

			g.log = NULL;
			assert_int_equal(ltx_log_open(&g.log, dup(tmp), &g.conf, NULL, &g.err), 0);
			check(&g, g.log, want);
			assert_true(want >= 20);
			assert_int_equal(ltx_log_prepared(g.log, NULL, NULL), prepared);
			assert_int_equal(ltx_head_txid(&g.log->head), want);
			ltx_log_close(g.log);
			/* the second open, now at home, finds the same */
			assert_int_equal(ltx_log_open(&g.log, dup(tmp), &g.conf, NULL, &g.err), 0);
			check(&g, g.log, want);
			assert_int_equal(ltx_log_prepared(g.log, NULL, NULL), prepared);
			ltx_log_close(g.log);
		}
		close(tmp);
	}
}

/* What had been synced and is not there any more is damage, not a torn tail: the log says so and is left alone. */
static void synced_loss_is_an_error(void **state)
{
	struct fix *f = *state;
	struct fz_buf b = {0};
	struct ltx_log *log;
	int tmp = fresh_dir(f, "crash"), fd;
	struct stat st;

	append_many(f, 1, 10);
	OK(ltx_log_sync(f->log, &f->err));
	OK(fz_read_file(f->dirfd, "0000000000000001.seg", SIZE_MAX, &b, &f->err));
	b.data[b.size / 2] ^= 1;
	copy_file(f, f->dirfd, tmp, "meta", UINT64_MAX);
	copy_file(f, f->dirfd, tmp, "head", UINT64_MAX);
	set_head(f, tmp, 10, 10, false);
	fd = openat(tmp, "0000000000000001.seg", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	OK(fz_pwrite(fd, b.data, b.size, 0));
	assert_int_equal(ltx_log_open(&log, dup(tmp), &f->conf, NULL, &f->err), -FZ_ECORRUPT);
	OK(fstat(fd, &st));
	assert_int_equal(st.st_size, b.size);
	close(fd);
	close(tmp);
	fz_buf_fini(&b);
}

/* log.c (5): after a drop the bytes are gone from the file, not just from memory. */
static void dropped_stays_dropped(void **state)
{
	struct fix *f = *state;
	struct stat before, after;

	append_many(f, 1, 3);
	OK(fstatat(f->dirfd, "0000000000000001.seg", &before, 0));
	append(f, 4, true);
	OK(ltx_log_sync(f->log, &f->err));
	OK(ltx_log_drop_prepared(f->log, &f->err));
	OK(fstatat(f->dirfd, "0000000000000001.seg", &after, 0));
	assert_int_equal(before.st_size, after.st_size);
	set_head(f, f->dirfd, 3, 3, false);
	reopen_at(f, f->dirfd);
	assert_false(ltx_log_prepared(f->log, NULL, NULL));
	check(f, f->log, 3);
}

/* ---- sync -------------------------------------------------------------------------------------------------------- */

static void sync_moves_synced(void **state)
{
	struct fix *f = *state;
	struct ltx_log_info info;
	uint64_t seq;

	f->conf.segment_bytes = 1500;
	reopen_at(f, f->dirfd);
	append_many(f, 1, 30);
	ltx_log_info(f->log, &info);
	assert_int_equal(info.synced_txid, 0);
	OK(ltx_log_sync(f->log, &f->err));
	ltx_log_info(f->log, &info);
	assert_int_equal(info.synced_txid, 30);
	assert_int_equal(ltx_head_synced(&f->log->head), 30);
	for (size_t i = 0; i < f->log->n_segs; i++)
		assert_false(f->log->segs[i].dirty);
	seq = f->log->synced_seq;
	OK(ltx_log_sync(f->log, &f->err)); /* nothing new: nothing done */
	assert_int_equal(seq, f->log->synced_seq);
	append(f, 31, true);
	OK(ltx_log_sync(f->log, &f->err));
	ltx_log_info(f->log, &info);
	assert_int_equal(info.synced_txid, 30);
	OK(ltx_log_confirm(f->log, &f->err));
	OK(ltx_log_sync(f->log, &f->err));
	ltx_log_info(f->log, &info);
	assert_int_equal(info.synced_txid, 31);
}

/* ---- bounding ---------------------------------------------------------------------------------------------------- */

static uint64_t list_files(struct fix *f, const char *suffix)
{
	DIR *d = opendir(f->dir);
	struct dirent *e;
	uint64_t n = 0;

	while ((e = readdir(d))) {
		size_t len = strlen(e->d_name), k = strlen(suffix);

		n += len > k && !strcmp(e->d_name + len - k, suffix);
	}
	closedir(d);
	return n;
}

static void fold_makes_a_base(void **state)
{
	struct fix *f = *state;
	struct ltx_log_info info;
	struct ltx_log_entry e, old;
	struct fz_src *src, *early;
	uint8_t byte;

	f->conf.segment_bytes = 1500;
	reopen_at(f, f->dirfd);
	append_many(f, 1, 100);
	OK(ltx_log_find(f->log, 5, &old, &f->err));
	OK(ltx_log_src(f->log, &old, &early, &f->err));
	OK(ltx_log_fold(f->log, 60, NULL, &f->err));
	ltx_log_info(f->log, &info);
	assert_int_equal(info.base_txid, 60);
	assert_int_equal(info.first_txid, 61);
	OK(ltx_log_find(f->log, 60, &e, &f->err));
	assert_int_equal(e.seg, 0);
	OK(fz_src_read(early, early->size_bytes - 1, &byte, 1, &f->err)); /* opened before: still readable */
	fz_src_close(early);
	assert_int_equal(ltx_log_src(f->log, &old, &src, &f->err), -FZ_EGAP);
	check(f, f->log, 100);
	reopen_at(f, f->dirfd);
	check(f, f->log, 100);
	OK(ltx_log_fold(f->log, 0, NULL, &f->err)); /* all of it */
	check(f, f->log, 100);
	assert_int_equal(list_files(f, ".ltx"), 1);
	append_many(f, 101, 120);
	check(f, f->log, 120);
	set_head(f, f->dirfd, 120, 0, false);
	reopen_at(f, f->dirfd);
	check(f, f->log, 120);
	OK(ltx_log_fold(f->log, 110, NULL, &f->err));
	assert_int_equal(ltx_log_fold(f->log, 105, NULL, &f->err), -FZ_EGAP);
	assert_int_equal(ltx_log_find_time(f->log, 1001000, &e, &f->err), -FZ_ENOCOMMIT);
	OK(ltx_log_find_time(f->log, 1001101, &e, &f->err));
	assert_int_equal(e.seg, 0);
	OK(ltx_log_find_time(f->log, 1001111, &e, &f->err));
	assert_int_equal(e.e.max_txid, 111);
}

static void baseline_then_jump(void **state)
{
	struct fix *f = *state;
	struct ltx_header h;
	struct fz_fd_sink sink;
	struct ltx_trailer t;
	uint64_t bytes, at[] = {7, 30};

	for (int round = 0; round < 2; round++) { /* into the empty log, then ahead of its tail */
		int fd = openat(f->dirfd, "fs-new", O_RDWR | O_CREAT | O_CLOEXEC, 0600);

		h = header(f, 1);
		h.max_txid = at[round];
		fz_fd_sink_init(&sink, fd, 0);
		OK(ltx_enc_begin(f->enc, &sink.sink, &h, &f->err));
		for (uint32_t i = 0; i < PAGES; i++) {
			fill(f->page[i], PAGE, at[round] * 1000 + i);
			OK(ltx_enc_page(f->enc, i + 1, f->page[i], &f->err));
		}
		f->sum[at[round]] = db_sum(f);
		OK(ltx_enc_end(f->enc, db_sum(f), &t, &bytes, &f->err));
		OK(fz_fd_sink_flush(&sink, &f->err));
		fz_fd_sink_fini(&sink);
		close(fd);
		OK(ltx_log_install_base(f->log, "fs-new", &f->err));
		check(f, f->log, at[round]);
		append_many(f, at[round] + 1, at[round] + 9);
		check(f, f->log, at[round] + 9);
		reopen_at(f, f->dirfd);
		check(f, f->log, at[round] + 9);
	}
	assert_int_equal(list_files(f, ".ltx"), 1);
	assert_int_equal(list_files(f, ".seg"), 1);
}

/* A base that does not continue what the log says of that moment is refused. */
static void wrong_base_is_refused(void **state)
{
	struct fix *f = *state;
	struct fz_buf b = {0};
	int fd;

	append_many(f, 1, 10);
	OK(ltx_log_fold(f->log, 4, NULL, &f->err));
	OK(fz_read_file(f->dirfd, "base-0000000000000004.ltx", SIZE_MAX, &b, &f->err));
	fz_put64(b.data + 24, 6); /* says TXID 6 with the content of 4 */
	fd = openat(f->dirfd, "fs-new", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	OK(fz_pwrite(fd, b.data, b.size, 0));
	close(fd);
	fz_buf_fini(&b);
	assert_int_equal(ltx_log_install_base(f->log, "fs-new", &f->err), -FZ_ECHECKSUM);
	check(f, f->log, 10);
}

static void squash_gives_up_detail(void **state)
{
	struct fix *f = *state;
	struct ltx_log_entry old, e;
	struct ltx_log_info info;
	struct fz_src *src;
	char idx[LTX_SEG_NAME_SIZE];

	f->conf.segment_bytes = 1500;
	reopen_at(f, f->dirfd);
	append_many(f, 1, 100);
	OK(ltx_log_find(f->log, 50, &old, &f->err));
	OK(ltx_log_squash(f->log, 1, 60, &f->err));
	check(f, f->log, 100);
	assert_int_equal(ltx_log_src(f->log, &old, &src, &f->err), -FZ_EGAP);
	ltx_log_info(f->log, &info);
	assert_true(info.merged_txns > 30);
	OK(ltx_log_find(f->log, 100, &e, &f->err));
	assert_int_equal(e.e.min_txid, 100);
	/* killed between the two renames: there is no index */
	OK(unlinkat(f->dirfd, ltx_seg_name(idx, f->log->segs[1].min, ".idx"), 0));
	reopen_at(f, f->dirfd);
	check(f, f->log, 100);
	OK(ltx_log_fold(f->log, f->log->segs[2].max, NULL, &f->err));
	check(f, f->log, 100);
}

static void truncate_drops_the_end(void **state)
{
	struct fix *f = *state;
	static const uint64_t cuts[] = {95, 61, 60, 12, 1, 0};

	f->conf.segment_bytes = 1500;
	reopen_at(f, f->dirfd);
	append_many(f, 1, 100);
	OK(ltx_log_sync(f->log, &f->err));
	for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
		OK(ltx_log_truncate(f->log, cuts[i], &f->err));
		check(f, f->log, cuts[i]);
		reopen_at(f, f->dirfd);
		check(f, f->log, cuts[i]);
		assert_false(ltx_log_prepared(f->log, NULL, NULL));
	}
	append_many(f, 1, 5);
	check(f, f->log, 5);
}

static void snapshot_of_any_moment(void **state)
{
	struct fix *f = *state;

	f->conf.segment_bytes = 1500;
	reopen_at(f, f->dirfd);
	append_many(f, 1, 40);
	OK(ltx_log_fold(f->log, 10, NULL, &f->err));
	for (uint64_t t = 10; t <= 40; t += 5) {
		struct ltx_merge_result r;
		struct fz_buf_sink sink;
		struct fz_buf b = {0};

		fz_buf_sink_init(&sink, &b);
		OK(ltx_log_snapshot(f->log, t == 40 ? 0 : t, &sink.sink, &r, NULL, &f->err));
		assert_int_equal(r.header.min_txid, 1);
		assert_int_equal(r.header.max_txid, t);
		assert_int_equal(r.trailer.post_checksum, f->sum[t]);
		assert_int_equal(r.pages, PAGES);
		fz_buf_fini(&b);
	}
}

/* ---- other threads and processes --------------------------------------------------------------------------------- */

struct reader {
	struct fix *f;
	uint64_t until;
	pthread_t thread;
	_Atomic int failed;
};

static void *read_along(void *arg)
{
	struct reader *r = arg;
	uint64_t next = 1;

	while (next <= r->until) {
		uint64_t tail = ltx_log_wait(r->f->log, next - 1, -1);

		while (next <= tail && next <= r->until) {
			struct ltx_log_entry e;
			struct ltx_trailer t;
			struct ltx_header h;
			struct fz_src *src;
			uint64_t bytes;
			uint32_t pages;
			int rc = ltx_log_find(r->f->log, next, &e, NULL);

			if (rc == 0)
				rc = ltx_log_src(r->f->log, &e, &src, NULL);
			if (rc == -FZ_EGAP)
				continue; /* folded or squashed: look again */
			if (rc == 0) {
				rc = ltx_dec_verify(src, 0, &h, &t, &bytes, &pages, NULL);
				fz_src_close(src);
			}
			if (rc < 0) {
				atomic_store(&r->failed, rc);
				return NULL;
			}
			next = e.e.max_txid + 1;
		}
	}
	return NULL;
}

static void *sync_along(void *arg)
{
	struct reader *r = arg;

	while (ltx_log_wait(r->f->log, r->until - 1, 0) < r->until)
		if (ltx_log_sync(r->f->log, NULL) < 0)
			atomic_store(&r->failed, -EIO);
	return NULL;
}

static void *bound_along(void *arg)
{
	struct reader *r = arg;
	uint64_t tail;

	while ((tail = ltx_log_wait(r->f->log, r->until - 1, 0)) < r->until) {
		int rc = tail > 300 ? ltx_log_squash(r->f->log, tail - 300, tail - 100, NULL) : 0;
		struct ltx_log_entry e;

		if (rc == 0 && tail > 600 && (rc = ltx_log_find(r->f->log, tail - 500, &e, NULL)) == 0 && e.seg)
			rc = ltx_log_fold(r->f->log, e.e.max_txid, NULL, NULL);
		if (rc < 0)
			atomic_store(&r->failed, rc);
	}
	return NULL;
}

static void readers_syncers_and_folds_while_appending(void **state)
{
	struct fix *f = *state;
	void *(*run[])(void *) = {read_along, read_along, sync_along, sync_along, bound_along};
	struct reader r[5];

	f->conf.segment_bytes = 4000;
	reopen_at(f, f->dirfd);
	for (size_t i = 0; i < 5; i++) {
		r[i] = (struct reader){.f = f, .until = 3000};
		assert_int_equal(pthread_create(&r[i].thread, NULL, run[i], &r[i]), 0);
	}
	append_many(f, 1, 3000);
	for (size_t i = 0; i < 5; i++) {
		pthread_join(r[i].thread, NULL);
		assert_int_equal(r[i].failed, 0);
	}
	check(f, f->log, 3000);
	reopen_at(f, f->dirfd);
	check(f, f->log, 3000);
}

/* Another process reads while this one appends, folds and squashes; then it is killed in the middle of it all. */
static void readonly_process(void **state)
{
	struct fix *f = *state;
	struct ltx_logset_conf ro = {.readonly = true};
	int status;
	pid_t pid;

	f->conf.segment_bytes = 4000;
	reopen_at(f, f->dirfd);
	append_many(f, 1, 10);
	pid = fork();
	if (pid == 0) {
		struct ltx_log *log;
		uint64_t next = 1;

		if (ltx_log_open(&log, dup(f->dirfd), &ro, NULL, NULL) < 0)
			_exit(10);
		while (next <= 1500) {
			struct ltx_log_entry e;
			struct fz_src *src;
			uint64_t bytes;
			uint32_t pages;
			int rc;

			if (ltx_log_wait(log, next - 1, 20000) < next)
				_exit(11);
			rc = ltx_log_find(log, next, &e, NULL);
			if (rc == 0)
				rc = ltx_log_src(log, &e, &src, NULL);
			if (rc == -FZ_EGAP)
				continue;
			if (rc < 0)
				_exit(12);
			if (ltx_dec_verify(src, 0, &(struct ltx_header){0}, &(struct ltx_trailer){0}, &bytes, &pages,
			                   NULL) < 0)
				_exit(13);
			fz_src_close(src);
			next = e.e.max_txid + 1;
		}
		ltx_log_close(log);
		_exit(0);
	}
	for (uint64_t i = 11; i <= 1500; i++) {
		append(f, i, false);
		if (i % 400 == 0)
			OK(ltx_log_fold(f->log, i - 250, NULL, &f->err));
		if (i % 150 == 0)
			OK(ltx_log_squash(f->log, i - 140, i - 50, &f->err));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* A real SIGKILL: the child appends and says on a pipe what is committed; what it said must be there. */
static void sigkill(void **state)
{
	struct fix *f = *state;

	f->conf.segment_bytes = 3000;
	for (int round = 0; round < 20; round++) {
		struct ltx_log_info info;
		uint64_t said = 0, v;
		int p[2], status;
		pid_t pid;

		reopen_at(f, f->dirfd);
		ltx_log_info(f->log, &info);
		if (ltx_log_prepared(f->log, NULL, NULL))
			OK(ltx_log_drop_prepared(f->log, &f->err));
		assert_int_equal(pipe(p), 0);
		pid = fork();
		if (pid == 0) {
			close(p[0]);
			for (uint64_t i = info.tail_txid + 1; i < MAXTX - 10; i++) {
				append(f, i, i % 2);
				if (i % 2)
					OK(ltx_log_confirm(f->log, &f->err));
				if (write(p[1], &i, sizeof(i)) != sizeof(i))
					_exit(1);
				if (i % 64 == 0)
					OK(ltx_log_fold(f->log, i - 20, NULL, &f->err));
			}
			_exit(0);
		}
		close(p[1]);
		for (int n = 0; n < 40 + round * 3 && read(p[0], &v, sizeof(v)) == sizeof(v); n++)
			said = v;
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		while (read(p[0], &v, sizeof(v)) == sizeof(v))
			said = v;
		close(p[0]);
		/* the account of the child is lost with it: replay what it did */
		reopen_at(f, f->dirfd);
		{
			struct ltx_log_info now;

			ltx_log_info(f->log, &now);
			assert_true(now.tail_txid >= said && now.tail_txid <= said + 1);
			for (uint64_t i = info.tail_txid + 1; i <= now.tail_txid; i++) {
				struct ltx_trailer t;
				struct fz_buf b = {0};
				struct fz_buf_sink s;
				uint64_t bytes;
				uint32_t pages;

				fz_buf_sink_init(&s, &b);
				encode(f, &s.sink, i, &t, &bytes, &pages);
				fz_buf_fini(&b);
			}
			check(f, f->log, now.tail_txid);
		}
	}
}

static void *wait_for_ever(void *arg)
{
	ltx_log_wait(arg, 1000, -1);
	return NULL;
}

static void waiting_ends(void **state)
{
	struct fix *f = *state;
	pthread_t t;

	assert_int_equal(ltx_log_wait(f->log, 0, 1), 0);
	append(f, 1, false);
	assert_int_equal(ltx_log_wait(f->log, 0, -1), 1);
	assert_int_equal(pthread_create(&t, NULL, wait_for_ever, f->log), 0);
	while (pthread_tryjoin_np(t, NULL) == EBUSY)
		ltx_log_wake(f->log);
}

static void meta_survives(void **state)
{
	struct fix *f = *state;
	struct ltx_log_info info;

	OK(ltx_log_set_epoch(f->log, 7, &f->err));
	OK(ltx_log_set_ended(f->log, 123456, &f->err));
	reopen_at(f, f->dirfd);
	ltx_log_info(f->log, &info);
	assert_int_equal(info.epoch, 7);
	assert_int_equal(info.ended_ms, 123456);
	assert_true(info.created_ms > 0);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	        T(append_and_read),
	        T(wrong_order_is_refused),
	        T(segments_roll),
	        T(large_transactions),
	        T(prepared_is_invisible),
	        T(kill_at_every_byte),
	        T(power_cut),
	        T(synced_loss_is_an_error),
	        T(dropped_stays_dropped),
	        T(sync_moves_synced),
	        T(fold_makes_a_base),
	        T(baseline_then_jump),
	        T(wrong_base_is_refused),
	        T(squash_gives_up_detail),
	        T(truncate_drops_the_end),
	        T(snapshot_of_any_moment),
	        T(readers_syncers_and_folds_while_appending),
	        T(readonly_process),
	        T(sigkill),
	        T(waiting_ends),
	        T(meta_survives),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
