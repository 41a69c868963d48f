/* test_ltx_logcrash.c - what is left of the local log after a SIGKILL, a power cut, a full disk (log.c, invariants 1-6). */
#include "tests/unit/log_make.h"

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
			OK(fstatat(tmp, "0000000000000001.seg", &st, 0));
			assert_int_equal(st.st_size, at >= end ? end : start); /* the torn tail is gone */
			if (at % 50 == 0) {                                    /* and it goes on */
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

/* log.c (7): one flush a sync; whatever a power cut leaves of head and index, all whole files were committed. Opened again, the
 * log is an ordinary one, where the last file beyond head is prepared. */
static void a_follower_keeps_what_is_whole(void **state)
{
	struct fix *f = *state;
	struct ltx_log_info before, after;
	struct ltx_header h;
	struct ltx_trailer t;
	struct fz_sink *sink;
	uint64_t bytes;
	uint32_t pages;

	append_many(f, 1, 5);
	OK(ltx_log_follow(f->log, &f->err));
	append_many(f, 6, 8);
	OK(ltx_log_sync(f->log, &f->err));
	ltx_log_info(f->log, &before);
	append_many(f, 9, 10);
	OK(ltx_log_sync(f->log, &f->err));
	ltx_log_info(f->log, &after);
	assert_int_equal(after.syncs - before.syncs, 1);
	assert_int_equal(after.synced_txid, 10);
	for (uint64_t head = 5; head <= 10; head++) {
		int tmp = fresh_dir(f, "crash");

		copy_file(f, f->dirfd, tmp, "meta", UINT64_MAX);
		copy_file(f, f->dirfd, tmp, "head", UINT64_MAX);
		copy_file(f, f->dirfd, tmp, "0000000000000001.seg", UINT64_MAX);
		copy_file(f, f->dirfd, tmp, "0000000000000001.idx", head * LTX_PACK_ENTRY_SIZE);
		set_head(f, tmp, head, 5, false);
		{
			struct fix g = *f;

			g.log = NULL;
			g.conf.readonly = true;
			OK(ltx_log_open(&g.log, dup(tmp), &g.conf, NULL, &g.err));
			check(&g, g.log, 10);
			ltx_log_close(g.log);
			g.conf.readonly = false;
			OK(ltx_log_open(&g.log, dup(tmp), &g.conf, NULL, &g.err));
			check(&g, g.log, 10);
			assert_false(ltx_log_prepared(g.log, NULL, NULL));
			ltx_log_close(g.log);
			set_head(f, tmp, 9, 5, false);
			OK(ltx_log_open(&g.log, dup(tmp), &g.conf, NULL, &g.err));
			assert_true(ltx_log_prepared(g.log, NULL, NULL));
			assert_int_equal(ltx_log_follow(g.log, &g.err), -FZ_EORDER);
			ltx_log_close(g.log);
		}
		close(tmp);
	}
	h = header(f, 11);
	OK(ltx_log_begin(f->log, &h, &sink, &f->err));
	encode(f, sink, 11, &t, &bytes, &pages);
	assert_int_equal(ltx_log_commit(f->log, bytes, pages, &t, true, &f->err), -FZ_EINTERNAL);
	check(f, f->log, 10);
}

/* The disk is full at any moment of an append, small or large, prepared or not: it fails, the tail has not moved, and
 * once there is room the same transaction goes in. RLIMIT_FSIZE plays the full disk. */
static void a_full_disk_takes_nothing_away(void **state)
{
	struct fix *f = *state;
	struct rlimit old, small;
	uint64_t tail = 5, failed = 0;
	struct stat st;

	append_many(f, 1, 5);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	signal(SIGXFSZ, SIG_IGN);
	for (uint64_t room = 0; room < 1300; room += 13) {
		struct ltx_header h = header(f, tail + 1);
		struct ltx_trailer t;
		struct fz_sink *sink;
		uint64_t bytes;
		uint32_t pages;
		int rc;

		OK(fstatat(f->dirfd, "0000000000000001.seg", &st, 0));
		small = old;
		small.rlim_cur = (uint64_t)st.st_size + room;
		assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
		OK(ltx_log_begin(f->log, &h, &sink, &f->err));
		encode(f, sink, tail + 1, &t, &bytes, &pages);
		rc = ltx_log_commit(f->log, bytes, pages, &t, room % 2, &f->err);
		assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
		assert_int_equal(rc, bytes > room ? -EFBIG : 0);
		failed += rc < 0;
		if (rc == 0 && room % 2)
			OK(ltx_log_confirm(f->log, &f->err));
		if (rc == 0)
			tail++;
		if (room % 5 == 0)
			check(f, f->log, tail);
	}
	assert_in_range(failed, 10, 90);
	reopen_at(f, f->dirfd);
	assert_false(ltx_log_prepared(f->log, NULL, NULL));
	check(f, f->log, tail);
}

static void copy_all(struct fix *f, int to)
{
	DIR *d = opendir(f->dir);
	struct dirent *e;

	while ((e = readdir(d)))
		if (e->d_type == DT_REG)
			copy_file(f, f->dirfd, to, e->d_name, UINT64_MAX);
	closedir(d);
}

/* Killed or cut off between the steps of a fold: the new base is in place, nothing else has happened yet; then every
 * prefix of the removals. */
static void fold_interrupted(void **state)
{
	struct fix *f = *state;
	uint64_t mins[64];
	size_t n = 0;
	int before, tmp;

	f->conf.segment_bytes = 1500;
	reopen_at(f, f->dirfd);
	append_many(f, 1, 60);
	OK(ltx_log_fold(f->log, 12, NULL, &f->err));
	append_many(f, 61, 80);
	before = fresh_dir(f, "before");
	copy_all(f, before);
	for (size_t i = 0; i < f->log->n_segs && f->log->segs[i].max <= 50; i++)
		mins[n++] = f->log->segs[i].min;
	OK(ltx_log_fold(f->log, 50, NULL, &f->err));
	copy_file(f, f->dirfd, before, "base-0000000000000032.ltx", UINT64_MAX);
	for (int home = 0; home < 2; home++) {
		for (size_t steps = 0; steps < 2 + 2 * n; steps++) {
			char from[192], to[128], name[LTX_SEG_NAME_SIZE];
			struct dirent *e;
			DIR *d;

			tmp = fresh_dir(f, "crash");
			snprintf(from, sizeof(from), "%s/before", f->dir);
			d = opendir(from);
			while ((e = readdir(d)))
				if (e->d_type == DT_REG)
					copy_file(f, before, tmp, e->d_name, UINT64_MAX);
			closedir(d);
			if (steps > 0)
				OK(unlinkat(tmp, "base-000000000000000c.ltx", 0));
			for (size_t k = 1; k < steps; k++) {
				snprintf(to, sizeof(to), "%s",
				         ltx_seg_name(name, mins[(k - 1) / 2], k % 2 ? ".idx" : ".seg"));
				OK(unlinkat(tmp, to, 0));
			}
			set_head(f, tmp, 80, 70, home);
			reopen_at(f, tmp);
			check(f, f->log, 80);
			append_many(f, 81, 83);
			check(f, f->log, 83);
			reopen_at(f, tmp);
			check(f, f->log, 83);
			assert_int_equal(faccessat(tmp, "base-000000000000000c.ltx", F_OK, 0), -1);
			close(tmp);
		}
	}
	close(before);
}

/* A power cut in a squash on a file system that keeps no order: new segment and old index, or the other way round. */
static void squash_interrupted(void **state)
{
	struct fix *f = *state;
	char seg[LTX_SEG_NAME_SIZE], idx[LTX_SEG_NAME_SIZE];
	int before, tmp;
	uint64_t min;

	f->conf.segment_bytes = 1500;
	reopen_at(f, f->dirfd);
	append_many(f, 1, 60);
	before = fresh_dir(f, "before");
	copy_all(f, before);
	min = f->log->segs[2].min;
	ltx_seg_name(seg, min, ".seg");
	ltx_seg_name(idx, min, ".idx");
	OK(ltx_log_squash(f->log, min, f->log->segs[2].max, &f->err));
	for (int which = 0; which < 2; which++) {
		tmp = fresh_dir(f, "crash");
		copy_all(f, tmp);
		copy_file(f, before, tmp, which ? seg : idx, UINT64_MAX);
		set_head(f, tmp, 60, 60, false);
		reopen_at(f, tmp);
		check(f, f->log, 60);
		reopen_at(f, f->dirfd);
		close(tmp);
	}
	close(before);
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

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	        T(kill_at_every_byte),
	        T(power_cut),
	        T(synced_loss_is_an_error),
	        T(dropped_stays_dropped),
	        T(a_follower_keeps_what_is_whole),
	        T(a_full_disk_takes_nothing_away),
	        T(fold_interrupted),
	        T(squash_interrupted),
	        T(sigkill),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
