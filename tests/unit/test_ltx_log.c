/* test_ltx_log.c - the local log of one database: append, prepare, sync, read, bound; readers in other threads and
 * processes. What a crash leaves of it: test_ltx_logcrash.c. */
#include "tests/unit/log_make.h"

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
	assert_int_equal(info.entries, 40);
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

/* Capture that fell behind appends a range as one file. */
static void merged_range_is_appended(void **state)
{
	struct fix *f = *state;
	struct ltx_log_entry e, run[64];
	struct ltx_header h;
	struct ltx_trailer t;
	struct fz_sink *sink;
	uint64_t bytes;

	append_many(f, 1, 2);
	h = header(f, 3);
	h.max_txid = 9;
	OK(ltx_log_begin(f->log, &h, &sink, &f->err));
	OK(ltx_enc_begin(f->enc, sink, &h, &f->err));
	fill(f->page[4], PAGE, 99);
	OK(ltx_enc_page(f->enc, 5, f->page[4], &f->err));
	f->sum[9] = db_sum(f);
	OK(ltx_enc_end(f->enc, f->sum[9], &t, &bytes, &f->err));
	OK(ltx_log_commit(f->log, bytes, 1, &t, false, &f->err));
	append_many(f, 10, 14);
	check(f, f->log, 14);
	for (uint64_t i = 3; i <= 9; i++) {
		OK(ltx_log_find(f->log, i, &e, &f->err));
		assert_int_equal(e.e.min_txid, 3);
	}
	assert_int_equal(ltx_log_find_run(f->log, 2, run, 64, &f->err), 7); /* 2, 3 to 9, 10 ... 14 */
	assert_int_equal(run[1].e.max_txid, 9);
	assert_int_equal(run[6].e.min_txid, 14);
	assert_int_equal(run[6].seg, run[0].seg);
	assert_int_equal(ltx_log_find_run(f->log, 5, run, 2, &f->err), 2);
	assert_int_equal(run[1].e.min_txid, 10);
	assert_int_equal(ltx_log_find_run(f->log, 14, run, 64, &f->err), 1);
	assert_int_equal(ltx_log_find_run(f->log, 15, run, 64, &f->err), -FZ_ENOTFOUND);
	assert_int_equal(ltx_log_truncate(f->log, 5, &f->err), -FZ_EORDER);
	check(f, f->log, 14);
	OK(ltx_log_fold(f->log, 6, NULL, &f->err)); /* up to 2: 6 lies inside */
	check(f, f->log, 14);
	OK(ltx_log_find(f->log, 2, &e, &f->err));
	assert_int_equal(e.seg, 0);
	OK(ltx_log_find(f->log, 3, &e, &f->err));
	assert_int_not_equal(e.seg, 0);
	reopen_at(f, f->dirfd);
	check(f, f->log, 14);
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

/* What a reader of another process knows of the segments may be of before a squash, and no commit comes that would tell it. */
static void readonly_after_squash(void **state)
{
	struct fix *f = *state;
	struct ltx_logset_conf ro = {.readonly = true};
	struct ltx_log *log, *other;
	struct ltx_log_entry e;
	uint64_t here, there;
	struct fz_src *src;

	f->conf.segment_bytes = 4000;
	reopen_at(f, f->dirfd);
	append_many(f, 1, 200);
	OK(ltx_log_open(&log, dup(f->dirfd), &ro, NULL, &f->err));
	OK(ltx_log_squash(f->log, 50, 150, &f->err));
	OK(ltx_log_checksum_at(f->log, 200, &there, &f->err));
	OK(ltx_log_checksum_at(log, 200, &here, &f->err));
	assert_int_equal(here, there);
	OK(ltx_log_open(&other, dup(f->dirfd), &ro, NULL, &f->err));
	OK(ltx_log_squash(f->log, 151, 190, &f->err));
	for (uint64_t next = 151; next <= 190; next = e.e.max_txid + 1) {
		OK(ltx_log_find(f->log, next, &e, &f->err));
		OK(ltx_log_checksum_at(f->log, e.e.max_txid, &there, &f->err));
		OK(ltx_log_checksum_at(other, e.e.max_txid, &here, &f->err));
		assert_int_equal(here, there);
	}
	ltx_log_close(other);
	for (uint64_t next = 1; next <= 200; next = e.e.max_txid + 1) {
		OK(ltx_log_find(log, next, &e, &f->err));
		OK(ltx_log_src(log, &e, &src, &f->err));
		fz_src_close(src);
	}
	ltx_log_close(log);
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

	const struct ltx_pos start = {9, 41, LTX_FLAG | 0x1234};

	OK(ltx_log_set_epoch(f->log, 7, &f->err));
	reopen_at(f, f->dirfd);
	ltx_log_info(f->log, &info);
	assert_int_equal(info.epoch, 7);
	assert_int_equal(info.epoch_txid, info.tail_txid);
	assert_true(info.epoch_checksum == info.tail_checksum);
	OK(ltx_log_set_epoch_at(f->log, &start, &f->err));
	OK(ltx_log_set_ended(f->log, 123456, &f->err));
	reopen_at(f, f->dirfd);
	ltx_log_info(f->log, &info);
	assert_int_equal(info.epoch, 9);
	assert_int_equal(info.epoch_txid, 41);
	assert_true(info.epoch_checksum == start.checksum);
	assert_int_equal(info.ended_ms, 123456);
	assert_true(info.created_ms > 0);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	        T(append_and_read),        T(wrong_order_is_refused),
	        T(segments_roll),          T(large_transactions),
	        T(prepared_is_invisible),  T(sync_moves_synced),
	        T(fold_makes_a_base),      T(merged_range_is_appended),
	        T(baseline_then_jump),     T(wrong_base_is_refused),
	        T(squash_gives_up_detail), T(truncate_drops_the_end),
	        T(snapshot_of_any_moment), T(readers_syncers_and_folds_while_appending),
	        T(readonly_process),       T(readonly_after_squash),
	        T(waiting_ends),           T(meta_survives),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
