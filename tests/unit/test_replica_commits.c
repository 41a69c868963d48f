/* What can be restored, from the store, the local log, and both; and restoring from the log. */
#include "replica/source.h"

#include "ltx/log.h"
#include "ltx/logmeta.h"
#include "replica/restore.h"
#include "tests/unit/replica_make.h"

#include <errno.h>

/* "min-max min-max ..." of all commits; details are compared with the history on the way. */
static void list(struct hist *h, struct replica_source *s, bool detailed, const char *want)
{
	struct replica_commits *c = NULL;
	struct replica_commit k;
	struct fz_err err = {0};
	struct fz_buf got = {0};
	int rc;

	rc = replica_commits_open(&c, s, &err);
	if (rc < 0)
		fail_msg("%s", err.text);
	while ((rc = replica_commits_next(c, &k, &err)) == 1) {
		assert_int_equal(
		        fz_buf_addf(&got, "%llu-%llu ", (unsigned long long)k.min_txid, (unsigned long long)k.txid), 0);
		assert_int_equal(k.time_ms, h->c[k.txid].time_ms);
		assert_true(k.size_bytes > 0);
		assert_true(!k.checksum || k.checksum == h->c[k.txid].post);
		if (detailed && k.min_txid == k.txid) {
			assert_int_equal(k.pages, h->c[k.txid].pages);
			assert_int_equal(k.commit, h->c[k.txid].commit);
			assert_int_equal(k.size_bytes, h->c[k.txid].size);
		}
	}
	if (rc < 0)
		fail_msg("%s", err.text);
	assert_string_equal(fz_buf_str(&got), want);
	fz_buf_fini(&got);
	replica_commits_close(c);
}

static void test_store(void **state)
{
	(void)state;
	for (int encrypt = 0; encrypt < 2; encrypt++) {
		struct replica_source *s;
		struct hist h;

		hist_init(&h, 4096, 30, encrypt);
		hist_commits(&h, 30);
		hist_claim(&h, 1, 1, 0);
		hist_claim(&h, 2, 2, 24);
		hist_pack(&h, LTX_L_PACK, 1, 3, NULL);
		hist_merged(&h, LTX_L_HOUR, 4, 9, NULL);
		hist_merged(&h, LTX_L_MINUTE, 4, 6, NULL);
		hist_merged(&h, LTX_L_MINUTE, 7, 9, NULL);
		hist_merged(&h, LTX_L_SNAPSHOT, 1, 8, NULL);
		hist_pack(&h, LTX_L_PACK_MINUTE, 8, 14, NULL);
		hist_pack(&h, LTX_L_PACK, 13, 20, NULL);
		hist_pack(&h, LTX_L_PACK, 21, 27, NULL);
		h.epoch = 2;
		hist_pack(&h, LTX_L_PACK, 25, 30, NULL);
		s = hist_source(&h, true);
		list(&h, s, true,
		     "1-1 2-2 3-3 4-6 7-8 9-9 10-10 11-11 12-12 13-13 14-14 15-15 16-16 17-17 18-18 19-19 20-20 21-21 "
		     "22-22 "
		     "23-23 24-24 25-25 26-26 27-27 28-28 29-29 30-30 ");
		replica_source_close(s);
		if (encrypt) { /* without a key the names give ranges; the fenced part's time cannot be told */
			struct replica_commits *c = NULL;
			struct replica_commit k;
			struct fz_err err = {0};
			uint64_t next = 1;

			s = hist_source(&h, false);
			assert_int_equal(replica_commits_open(&c, s, &err), 0);
			while (replica_commits_next(c, &k, &err) == 1) {
				assert_int_equal(k.min_txid, next);
				assert_int_equal(k.pages, 0);
				next = k.txid + 1;
			}
			assert_int_equal(next, 31);
			replica_commits_close(c);
			replica_source_close(s);
		}
		hist_fini(&h);
	}
}

/* The history as a local log: appended as capture does it. */
static void fill_log(struct hist *h, int state_fd, uint64_t from, uint64_t to)
{
	struct ltx_logset *set = NULL;
	struct ltx_logset_conf conf = {.segment_bytes = 65536};
	struct ltx_log *log = NULL;
	struct ltx_log_info info;
	struct fz_err err = {0};

	assert_int_equal(ltx_logset_open(&set, state_fd, &conf, &err), 0);
	assert_int_equal(ltx_logset_get(set, "app.db", true, &log, &err), 0);
	ltx_log_info(log, &info);
	strcpy(h->lineage, info.lineage);
	for (uint64_t t = from; t <= to; t++) {
		const uint8_t *file = h->bytes.data + h->c[t].off;
		struct ltx_header hd;
		struct ltx_trailer tr;
		struct fz_sink *sink;
		struct fz_src *src = NULL;
		uint64_t bytes;
		uint32_t pages;

		assert_int_equal(ltx_header_get(&hd, file, &err), 0);
		assert_int_equal(fz_src_mem(&src, file, h->c[t].size, &err), 0);
		assert_int_equal(ltx_dec_verify(src, 0, &hd, &tr, &bytes, &pages, &err), 0);
		fz_src_close(src);
		if (ltx_log_begin(log, &hd, &sink, &err) < 0)
			fail_msg("%s", err.text);
		assert_int_equal(fz_sink_write(sink, file, h->c[t].size, &err), 0);
		assert_int_equal(ltx_log_commit(log, bytes, pages, &tr, false, &err), 0);
	}
	assert_int_equal(ltx_log_sync(log, &err), 0);
	ltx_log_put(log);
	ltx_logset_close(set);
}

static void fold(int state_fd, uint64_t txid)
{
	struct ltx_logset *set = NULL;
	struct ltx_logset_conf conf = {.segment_bytes = 65536};
	struct ltx_log *log = NULL;
	struct fz_err err = {0};

	assert_int_equal(ltx_logset_open(&set, state_fd, &conf, &err), 0);
	assert_int_equal(ltx_logset_get(set, "app.db", false, &log, &err), 0);
	if (ltx_log_fold(log, txid, NULL, &err) < 0)
		fail_msg("%s", err.text);
	ltx_log_put(log);
	ltx_logset_close(set);
}

static void restored(struct hist *h, struct replica_source *s, enum replica_when when, int64_t at, uint64_t txid,
                     uint64_t want, bool local)
{
	char path[96];
	struct replica_restore_conf conf = {.when = when, .at_ms = at, .txid = txid, .output = path};
	struct replica_restore_result r;
	struct fz_err err = {0};
	struct fz_buf b = {0};

	snprintf(path, sizeof(path), "%s/out.db", h->dir);
	if (replica_restore(s, &conf, &r, &err) < 0)
		fail_msg("TXID %llu: %s", (unsigned long long)want, err.text);
	assert_int_equal(r.commit.txid, want);
	assert_int_equal(r.fetched_bytes == 0, local);
	assert_string_equal(r.commit.lineage, h->lineage);
	assert_int_equal(fz_read_file(AT_FDCWD, path, 1 << 30, &b, &err), 0);
	assert_int_equal(b.size, (size_t)h->c[want].commit * h->db.page_size);
	assert_memory_equal(b.data, h->c[want].copy, b.size);
	fz_buf_fini(&b);
	assert_int_equal(unlink(path), 0);
}

static void test_log(void **state)
{
	struct replica_source *s = NULL, *st, *both = NULL;
	struct replica_verify_result v;
	struct replica_restore_result r;
	struct fz_err err = {0};
	char want[4096] = "", path[96];
	const volatile bool yes = true;
	struct hist h;
	int fd;

	(void)state;
	hist_init(&h, 4096, 60, true);
	snprintf(path, sizeof(path), "%s/state", h.dir);
	assert_int_equal(fz_mkdirs(AT_FDCWD, path, 0700, &err), 0);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(replica_source_log(&s, fd, "app.db", &err), 0);
	{
		struct replica_restore_conf conf = {.when = REPLICA_LATEST, .verify_only = true};

		assert_int_equal(replica_restore(s, &conf, &r, &err), -FZ_ENOTFOUND);
	}
	hist_commits(&h, 100);
	fill_log(&h, fd, 1, 60);
	restored(&h, s, REPLICA_LATEST, 0, 0, 60, true);
	fill_log(&h, fd, 61, 100); /* the same source sees what was appended since */
	for (int i = 1; i <= 100; i++)
		snprintf(want + strlen(want), 16, "%d-%d ", i, i);
	list(&h, s, true, want);
	restored(&h, s, REPLICA_LATEST, 0, 0, 100, true);
	restored(&h, s, REPLICA_TXID, 0, 1, 1, true);
	restored(&h, s, REPLICA_TXID, 0, 57, 57, true);
	{
		struct replica_restore_conf conf = {.when = REPLICA_LATEST, .verify_only = true, .cancel = &yes};

		assert_int_equal(replica_restore(s, &conf, &r, &err), -ECANCELED);
		assert_int_equal(r.pages, 0); /* the walk ended, not what comes after it */
	}
	restored(&h, s, REPLICA_AT, h.c[33].time_ms, 0, 33, true);
	assert_int_equal(replica_verify(s, &(struct replica_verify_conf){.full = true}, &v, &err), 0);
	assert_int_equal(v.commits, 100);
	assert_int_equal(v.last.checksum, h.c[100].post);

	/* the log is folded up to 50: it begins there, and the store has what was before */
	fold(fd, 50);
	want[0] = 0;
	snprintf(want, sizeof(want), "1-50 ");
	for (int i = 51; i <= 100; i++)
		snprintf(want + strlen(want), 16, "%d-%d ", i, i);
	list(&h, s, true, want);
	restored(&h, s, REPLICA_TXID, 0, 50, 50, true);
	restored(&h, s, REPLICA_AT, h.c[70].time_ms, 0, 70, true);
	hist_claim(&h, 1, 1, 0);
	hist_pack(&h, LTX_L_PACK, 1, 90, NULL);
	st = hist_source(&h, true);
	assert_int_equal(replica_source_join(s, st, &both, &err), 0);
	want[0] = 0;
	for (int i = 1; i <= 100; i++)
		snprintf(want + strlen(want), 16, "%d-%d ", i, i);
	list(&h, both, true, want);
	restored(&h, both, REPLICA_TXID, 0, 30, 30, false);
	restored(&h, both, REPLICA_AT, h.c[30].time_ms, 0, 30, false);
	restored(&h, both, REPLICA_TXID, 0, 60, 60, true);
	restored(&h, both, REPLICA_LATEST, 0, 0, 100, true);
	assert_int_equal(replica_verify(both, &(struct replica_verify_conf){.full = false}, &v, &err), 0);
	assert_int_equal(v.last.txid, 100); /* the log, not the store */
	{
		struct replica_restore_conf conf = {.when = REPLICA_TXID, .txid = 101, .verify_only = true};

		assert_int_equal(replica_restore(both, &conf, &r, &err), -FZ_ENOCOMMIT);
		conf.txid = 30;
		assert_int_equal(replica_restore(both, &conf, &r, &err), 0);
		assert_false(r.from_log);
		/* the store goes away: the log does what it can */
		hist_hide(&h, true);
		conf.txid = 60;
		assert_int_equal(replica_restore(both, &conf, &r, &err), 0);
		assert_true(r.from_log);
		conf.txid = 30;
		assert_int_equal(replica_restore(both, &conf, &r, &err), -FZ_ENOCOMMIT);
	}
	want[0] = 0;
	snprintf(want, sizeof(want), "1-50 ");
	for (int i = 51; i <= 100; i++)
		snprintf(want + strlen(want), 16, "%d-%d ", i, i);
	list(&h, both, true, want);
	hist_hide(&h, false);
	replica_source_close(both);
	close(fd);
	hist_fini(&h);
}

/* As if that life had begun at, and, unless 0, been deleted at: the history's times are not of today. */
static void date(int state_fd, const char *lineage, int64_t created_ms, int64_t ended_ms)
{
	struct ltx_log *log = NULL;
	struct ltx_log_meta m;
	struct fz_err err = {0};
	int fd;

	assert_int_equal(ltx_log_open_lineage(&log, state_fd, lineage, &err), 0);
	fd = fcntl(ltx_log_dirfd(log), F_DUPFD_CLOEXEC, 0);
	ltx_log_put(log);
	assert_int_equal(ltx_log_meta_read(&m, fd, &err), 0);
	m.created_ms = created_ms;
	m.ended_ms = ended_ms;
	assert_int_equal(ltx_log_meta_write(&m, fd, &err), 0);
	close(fd);
}

/* What a restore that drops the pages takes: its TXID, or a negative code. *from: the lineage that has it, or had it. */
static int64_t taken(struct replica_source *s, const struct replica_restore_conf *base, char from[static 17])
{
	struct replica_restore_conf conf = *base;
	struct replica_restore_result r;
	struct fz_err err = {0};
	int rc;

	conf.verify_only = true;
	rc = replica_restore(s, &conf, &r, &err);
	memcpy(from, r.commit.lineage, 17);
	return rc < 0 ? rc : (int64_t)r.commit.txid;
}

#define AT(ms)                                                                                                         \
	&(struct replica_restore_conf)                                                                                 \
	{                                                                                                              \
		.when = REPLICA_AT, .at_ms = (ms)                                                                      \
	}
#define NTH(t)                                                                                                         \
	&(struct replica_restore_conf)                                                                                 \
	{                                                                                                              \
		.when = REPLICA_TXID, .txid = (t)                                                                      \
	}

/* A name that was used twice, and the second life's log is folded: what it had and no longer tells is not taken from the first. */
static void test_lives(void **state)
{
	struct replica_restore_conf of;
	struct replica_source *s = NULL, *st, *both = NULL;
	struct hist h, old;
	struct fz_err err = {0};
	char path[96], from[17];
	int fd;

	(void)state;
	hist_init(&h, 4096, 60, false);
	hist_init(&old, 512, 40, false);
	snprintf(path, sizeof(path), "%s/state", h.dir);
	assert_int_equal(fz_mkdirs(AT_FDCWD, path, 0700, &err), 0);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	hist_commits(&old, 10);
	fill_log(&old, fd, 1, 10);
	date(fd, old.lineage, 1, old.c[10].time_ms);
	hist_commits(&h, 20);
	fill_log(&h, fd, 1, 20);
	assert_string_not_equal(h.lineage, old.lineage);
	/* its commits 1 to 10 are said to be older: none of these is asked for by time */
	date(fd, h.lineage, h.c[10].time_ms, 0);
	assert_int_equal(replica_source_log(&s, fd, "app.db", &err), 0);
	assert_int_equal(taken(s, AT(h.c[12].time_ms), from), 12);
	assert_string_equal(from, h.lineage);

	fold(fd, 15);
	assert_int_equal(taken(s, AT(h.c[12].time_ms), from), -FZ_ENOCOMMIT);
	assert_string_equal(from, h.lineage);
	assert_int_equal(taken(s, NTH(5), from), -FZ_ENOCOMMIT);
	assert_string_equal(from, h.lineage);
	assert_int_equal(taken(s, AT(h.c[16].time_ms), from), 16);
	assert_int_equal(taken(s, NTH(15), from), 15);
	assert_string_equal(from, h.lineage);
	/* before the second life, and when it is said which one is meant, the first has it */
	assert_int_equal(taken(s, AT(old.c[9].time_ms), from), 9);
	assert_string_equal(from, old.lineage);
	of = *NTH(5);
	memcpy(of.lineage, old.lineage, sizeof(of.lineage));
	assert_int_equal(taken(s, &of, from), 5);
	assert_string_equal(from, old.lineage);
	memcpy(of.lineage, "00000000000000ff", sizeof(of.lineage));
	assert_int_equal(taken(s, &of, from), -FZ_ENOCOMMIT);

	/* a store that has both, the second one up to 4 only: no answer either */
	fz_store_close(old.store);
	strcpy(old.url, h.url);
	hist_store(&old);
	hist_claim_at(&old, 1, 1, 1);
	hist_pack(&old, LTX_L_PACK, 1, 10, NULL);
	hist_claim_at(&h, 2, 1, h.c[10].time_ms);
	hist_pack(&h, LTX_L_PACK, 1, 4, NULL);
	st = hist_source(&h, true);
	assert_int_equal(replica_source_join(s, st, &both, &err), 0);
	assert_int_equal(taken(both, NTH(5), from), -FZ_ENOCOMMIT);
	assert_string_equal(from, h.lineage);
	/* then with all of it */
	hist_pack(&h, LTX_L_PACK, 5, 20, NULL);
	restored(&h, both, REPLICA_TXID, 0, 5, 5, false);
	restored(&h, both, REPLICA_AT, h.c[12].time_ms, 0, 12, false);
	replica_source_close(both);
	close(fd);
	hist_fini(&old);
	hist_fini(&h);
}

/* The same told by a store alone: retention has given up what the newest life had then. */
static void test_lives_in_store(void **state)
{
	struct replica_source *s;
	struct hist h, old;
	char from[17];

	(void)state;
	hist_init(&h, 4096, 60, false);
	hist_init(&old, 512, 40, false);
	strcpy(old.lineage, "0000000000000001");
	fz_store_close(old.store);
	strcpy(old.url, h.url);
	hist_store(&old);
	hist_commits(&old, 10);
	hist_claim_at(&old, 1, 1, 1);
	hist_pack(&old, LTX_L_PACK, 1, 10, NULL);
	hist_commits(&h, 20);
	hist_claim_at(&h, 2, 1, h.c[11].time_ms);
	hist_merged(&h, LTX_L_SNAPSHOT, 1, 15, NULL);
	hist_pack(&h, LTX_L_PACK, 16, 20, NULL);
	s = hist_source(&h, true);
	assert_int_equal(taken(s, NTH(5), from), -FZ_ENOCOMMIT);
	assert_int_equal(taken(s, AT(h.c[12].time_ms), from), -FZ_ENOCOMMIT);
	assert_int_equal(taken(s, AT(h.c[10].time_ms), from), 10); /* that life was not there yet */
	assert_string_equal(from, old.lineage);
	assert_int_equal(taken(s, NTH(16), from), 16);
	assert_string_equal(from, h.lineage);
	replica_source_close(s);
	hist_fini(&old);
	hist_fini(&h);
}

/* A moment inside of what the local log has merged: the store still tells those commits apart. */
static void test_squashed(void **state)
{
	struct replica_source *s = NULL, *st, *both = NULL;
	struct ltx_logset_conf conf = {.segment_bytes = 65536};
	struct ltx_logset *set = NULL;
	struct ltx_log *log = NULL;
	struct ltx_log_entry e;
	struct fz_err err = {0};
	char path[96], pack[LTX_NAME_MAX], from[17];
	struct hist h;
	uint64_t k;
	int fd;

	(void)state;
	hist_init(&h, 4096, 60, false);
	snprintf(path, sizeof(path), "%s/state", h.dir);
	assert_int_equal(fz_mkdirs(AT_FDCWD, path, 0700, &err), 0);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	hist_commits(&h, 100);
	fill_log(&h, fd, 1, 100);
	assert_int_equal(ltx_logset_open(&set, fd, &conf, &err), 0);
	assert_int_equal(ltx_logset_get(set, "app.db", false, &log, &err), 0);
	assert_int_equal(ltx_log_squash(log, 1, 100, &err), 0);
	assert_int_equal(ltx_log_find(log, 50, &e, &err), 0);
	assert_true(e.e.min_txid > 2 && e.e.min_txid < e.e.max_txid);
	k = e.e.max_txid - 1;
	ltx_log_put(log);
	ltx_logset_close(set);

	assert_int_equal(replica_source_log(&s, fd, "app.db", &err), 0);
	assert_int_equal(taken(s, AT(h.c[k].time_ms), from), e.e.min_txid - 1);
	st = hist_source(&h, true);
	assert_int_equal(replica_source_join(s, st, &both, &err), 0);
	assert_int_equal(taken(both, AT(h.c[k].time_ms), from), e.e.min_txid - 1); /* nothing was shipped yet */
	hist_claim(&h, 1, 1, 0);
	hist_pack(&h, LTX_L_PACK, 1, e.e.min_txid - 2, NULL);
	assert_int_equal(taken(both, AT(h.c[k].time_ms), from), e.e.min_txid - 1); /* the store is behind the log */
	hist_pack(&h, LTX_L_PACK, e.e.min_txid - 1, 100, pack);
	restored(&h, both, REPLICA_AT, h.c[k].time_ms, 0, k, false);
	restored(&h, both, REPLICA_AT, h.c[e.e.max_txid].time_ms, 0, e.e.max_txid, false); /* another range follows */
	restored(&h, both, REPLICA_AT, h.c[100].time_ms, 0, 100, true);
	hist_hide(&h, true);
	assert_int_equal(taken(both, AT(h.c[k].time_ms), from), e.e.min_txid - 1);
	hist_hide(&h, false);
	hist_damage(&h, pack, -60);
	assert_int_equal(taken(both, AT(h.c[k].time_ms), from), -FZ_ECHECKSUM);
	assert_string_equal(from, h.lineage);
	replica_source_close(both);
	close(fd);
	hist_fini(&h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_store),          cmocka_unit_test(test_log),      cmocka_unit_test(test_lives),
	        cmocka_unit_test(test_lives_in_store), cmocka_unit_test(test_squashed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
