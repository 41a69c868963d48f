/* replica_restore against copies of the database taken at each commit. */
#include "replica/restore.h"

#include "base/clock.h"
#include "tests/unit/replica_make.h"

#include <errno.h>
#include <sys/stat.h>

static char out_path[96];

static void same(struct hist *h, uint64_t txid)
{
	const struct hist_commit *c = &h->c[txid];
	struct fz_buf b = {0};
	struct fz_err err = {0};

	assert_int_equal(fz_read_file(AT_FDCWD, out_path, 1 << 30, &b, &err), 0);
	assert_int_equal(b.size, (size_t)c->commit * h->db.page_size);
	assert_memory_equal(b.data, c->copy, b.size);
	fz_buf_fini(&b);
	assert_int_equal(unlink(out_path), 0);
}

static int restore(struct hist *h, const struct replica_restore_conf *base, struct replica_restore_result *r,
                   struct fz_err *err)
{
	struct replica_restore_conf conf = *base;
	struct replica_source *s;
	int rc;

	snprintf(out_path, sizeof(out_path), "%s/out.db", h->dir);
	conf.output = out_path;
	s = hist_source(h, true);
	rc = replica_restore(s, &conf, r, err);
	replica_source_close(s);
	if (rc < 0 && !conf.dry_run)
		assert_int_equal(access(out_path, F_OK), -1);
	return rc;
}

static void expect(struct hist *h, const struct replica_restore_conf *conf, uint64_t txid)
{
	struct replica_restore_result r;
	struct fz_err err = {0};
	int rc = restore(h, conf, &r, &err);

	if (rc < 0)
		print_error("%s\n", err.text);
	assert_int_equal(rc, 0);
	assert_int_equal(r.commit.txid, txid);
	assert_int_equal(r.commit.time_ms, h->c[txid].time_ms);
	assert_int_equal(r.commit.checksum, h->c[txid].post);
	assert_int_equal(r.pages, h->c[txid].commit);
	assert_true(r.fetched_bytes > 0);
	same(h, txid);
}

#define TXID(t)                                                                                                        \
	&(struct replica_restore_conf)                                                                                 \
	{                                                                                                              \
		.when = REPLICA_TXID, .txid = (t)                                                                      \
	}
#define AT(ms)                                                                                                         \
	&(struct replica_restore_conf)                                                                                 \
	{                                                                                                              \
		.when = REPLICA_AT, .at_ms = (ms)                                                                      \
	}
#define LATEST                                                                                                         \
	&(struct replica_restore_conf)                                                                                 \
	{                                                                                                              \
		.when = REPLICA_LATEST                                                                                 \
	}

static const struct shape {
	const char *name;
	uint32_t page_size, cap;
	bool encrypt;
} shapes[] = {
        {"512",            512,   200,  false},
        {"4096",           4096,  150,  false},
        {"4096 age",       4096,  150,  true },
        {"65536 age",      65536, 60,   true },
        {"1024 large age", 1024,  6000, true },
};

/* Levels as they come to be: old commits in merged files, then packs of minutes, then packs as shipped; snapshots between.
 * 1..40 day, 41..70 hour, 71..90 minute; packs 61..100 (minute level), 101..110, 111..120; snapshots at 1, 50 and 95. */
static void levels(struct hist *h)
{
	hist_commits(h, 120);
	hist_claim(h, 1, 1, 0);
	hist_pack(h, LTX_L_PACK, 1, 1, NULL);
	hist_merged(h, LTX_L_DAY, 2, 40, NULL);
	hist_merged(h, LTX_L_HOUR, 41, 70, NULL);
	hist_merged(h, LTX_L_MINUTE, 71, 90, NULL);
	hist_pack(h, LTX_L_PACK_MINUTE, 61, 100, NULL);
	hist_pack(h, LTX_L_PACK, 101, 110, NULL);
	hist_pack(h, LTX_L_PACK, 111, 120, NULL);
	hist_merged(h, LTX_L_SNAPSHOT, 1, 50, NULL);
	hist_merged(h, LTX_L_SNAPSHOT, 1, 95, NULL);
}

static void test_every_commit(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		static const uint64_t some[] = {1,  40, 50,  70,  71,  72,  89,  90,  91, 94,
		                                95, 96, 100, 101, 105, 110, 111, 119, 120};
		struct hist h;

		hist_init(&h, shapes[i].page_size, shapes[i].cap, shapes[i].encrypt);
		levels(&h);
		for (size_t k = 0; k < sizeof(some) / sizeof(some[0]); k++)
			expect(&h, TXID(some[k]), some[k]);
		expect(&h, LATEST, 120);
		expect(&h, AT(h.c[120].time_ms + 5000), 120);
		expect(&h, AT(h.c[105].time_ms), 105);
		expect(&h, AT(h.c[100].time_ms), 100);
		expect(&h, AT(h.c[66].time_ms),
		       50); /* a pack has it, but 51 to 60 lie in the hour only, which ends later */
		expect(&h, AT(h.c[60].time_ms), 50); /* inside the hour: the snapshot is the last one before */
		expect(&h, AT(h.c[39].time_ms), 1);
		hist_fini(&h);
	}
}

static void test_refusals(void **state)
{
	struct replica_restore_result r;
	struct fz_err err = {0};
	struct hist h;

	(void)state;
	hist_init(&h, 4096, 50, false);
	assert_int_equal(restore(&h, LATEST, &r, &err), -FZ_ENOTFOUND);
	levels(&h);
	assert_int_equal(restore(&h, TXID(121), &r, &err), -FZ_ENOCOMMIT);
	assert_int_equal(restore(&h, TXID(0), &r, &err), -FZ_ENOCOMMIT);
	assert_int_equal(restore(&h, TXID(20), &r, &err), -FZ_ENOCOMMIT);
	assert_non_null(strstr(err.text, "restore 1 or 40"));
	assert_int_equal(restore(&h, AT(h.c[1].time_ms - 1), &r, &err), -FZ_ENOCOMMIT);
	assert_int_equal(fz_err_exit(err.code), 3);
	hist_fini(&h);

	/* a hole */
	hist_init(&h, 4096, 50, false);
	hist_commits(&h, 30);
	hist_pack(&h, LTX_L_PACK, 1, 10, NULL);
	hist_pack(&h, LTX_L_PACK, 21, 30, NULL);
	expect(&h, TXID(10), 10);
	assert_int_equal(restore(&h, LATEST, &r, &err), -FZ_EGAP);
	assert_non_null(strstr(err.text, "restorable up to 10"));
	hist_fini(&h);
}

/* What exists is kept, unless told otherwise; what SQLite would apply to the new file counts as existing. */
static void test_output(void **state)
{
	struct replica_restore_conf conf = {.when = REPLICA_LATEST};
	struct replica_restore_result r;
	struct replica_source *s;
	struct fz_err err = {0};
	struct hist h;
	struct stat st;
	char wal[128];
	int fd;

	(void)state;
	hist_init(&h, 4096, 50, true);
	hist_commits(&h, 5);
	hist_pack(&h, LTX_L_PACK, 1, 5, NULL);
	snprintf(out_path, sizeof(out_path), "%s/out.db", h.dir);
	snprintf(wal, sizeof(wal), "%s-wal", out_path);
	conf.output = out_path;
	s = hist_source(&h, true);
	assert_int_equal(fz_write_file(AT_FDCWD, out_path, "mine", 4, 0640, &err), 0);
	assert_int_equal(replica_restore(s, &conf, &r, &err), -FZ_EEXISTS);
	assert_int_equal(stat(out_path, &st), 0);
	assert_int_equal(st.st_size, 4);
	conf.force = true;
	assert_int_equal(chmod(out_path, 0640), 0);
	fd = open(out_path, O_RDWR);
	{ /* an application in WAL mode or in a transaction */
		struct flock l = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 0x40000002, .l_len = 510};

		assert_int_equal(fcntl(fd, F_OFD_SETLK, &l), 0);
		assert_int_equal(replica_restore(s, &conf, &r, &err), -FZ_EBUSY);
		close(fd);
	}
	assert_int_equal(fz_write_file(AT_FDCWD, wal, "stale", 5, 0644, &err), 0);
	assert_int_equal(replica_restore(s, &conf, &r, &err), 0);
	assert_int_equal(stat(out_path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0640);
	assert_int_equal(access(wal, F_OK), -1);
	same(&h, 5);
	conf.force = false;
	assert_int_equal(fz_write_file(AT_FDCWD, wal, "stale", 5, 0644, &err), 0);
	assert_int_equal(replica_restore(s, &conf, &r, &err), -FZ_EEXISTS);
	assert_int_equal(unlink(wal), 0);
	conf.output = "/nonexistent/x";
	assert_int_equal(replica_restore(s, &conf, &r, &err), -ENOENT);
	conf.output = NULL;
	assert_int_equal(replica_restore(s, &conf, &r, &err), -FZ_EUSAGE);
	conf.verify_only = true;
	assert_int_equal(replica_restore(s, &conf, &r, &err), 0);
	assert_int_equal(r.commit.txid, 5);
	conf.verify_only = false;
	conf.dry_run = true;
	conf.when = REPLICA_TXID;
	conf.txid = 3;
	assert_int_equal(replica_restore(s, &conf, &r, &err), 0);
	assert_int_equal(r.commit.txid, 3);
	assert_int_equal(r.commit.time_ms, h.c[3].time_ms);
	assert_int_equal(r.objects, 1);
	replica_source_close(s);
	s = hist_source(&h, false);
	conf = (struct replica_restore_conf){.when = REPLICA_LATEST, .output = out_path};
	assert_int_equal(replica_restore(s, &conf, &r, &err), -FZ_ENOKEY);
	replica_source_close(s);
	assert_int_equal(access(out_path, F_OK), -1);
	hist_fini(&h);
}

/* An object that is gone or damaged is planned around while another one holds the same; otherwise it is named. */
static void test_alternatives(void **state)
{
	(void)state;
	for (int encrypt = 0; encrypt < 2; encrypt++) {
		for (int how = 0; how < 4; how++) {
			struct replica_restore_result r;
			struct fz_err err = {0};
			char merged[LTX_NAME_MAX], pack[LTX_NAME_MAX];
			struct hist h;
			int rc;

			hist_init(&h, 4096, 80, encrypt);
			hist_commits(&h, 60);
			hist_merged(&h, LTX_L_SNAPSHOT, 1, 10, NULL);
			hist_merged(&h, LTX_L_MINUTE, 11, 60, merged);
			hist_pack(&h, LTX_L_PACK, 11, 60, pack);
			expect(&h, LATEST, 60);
			if (how == 0)
				hist_remove(&h, merged);
			else /* content, somewhere in the middle, index */
				hist_damage(&h, merged, how == 1 ? 2000 : how == 2 ? -5000 : -30);
			expect(&h, LATEST, 60);
			if (how == 0)
				hist_remove(&h, pack);
			else
				hist_damage(&h, pack, how == 1 ? -2424 - 100 : how == 2 ? -2424 - 300 : -60);
			if (how == 0) { /* nothing tells that there was more */
				expect(&h, LATEST, 10);
				hist_fini(&h);
				continue;
			}
			rc = restore(&h, LATEST, &r, &err);
			if (rc == 0)
				fail_msg("encrypt %d, how %d: nothing noticed", encrypt, how);
			assert_int_equal(fz_err_exit(rc), 4);
			if (!strstr(err.text, merged) && !strstr(err.text, pack))
				fail_msg("how %d: no object named: %s", how, err.text);
			hist_fini(&h);
		}
	}
}

/* The n-th call of the store fails: the restore fails cleanly, or gets round it. */
static void test_store_faults(void **state)
{
	static const int codes[] = {-FZ_ENET, -FZ_ENOTFOUND};

	(void)state;
	for (size_t c = 0; c < 2; c++) {
		bool fired = true;
		struct hist h;

		hist_init(&h, 4096, 80, true);
		levels(&h);
		snprintf(out_path, sizeof(out_path), "%s/out.db", h.dir);
		for (uint64_t n = 1; fired; n++) {
			struct replica_restore_conf conf = {
			        .when = REPLICA_AT, .at_ms = h.c[115].time_ms, .output = out_path};
			struct replica_restore_result r;
			struct replica_source *s = NULL;
			struct fz_store *faulty = NULL;
			struct fz_err err = {0};
			int rc;

			fired = false;
			assert_int_equal(fz_store_fault(&faulty, h.store, n, codes[c], false, &fired, &err), 0);
			assert_int_equal(replica_source_store(&s, faulty, &h.ids, &err), 0);
			rc = replica_restore(s, &conf, &r, &err);
			if (rc == 0) {
				assert_int_equal(r.commit.txid, 115); /* never the commit before */
				same(&h, 115);
			} else {
				assert_true(fired);
				assert_int_equal(access(out_path, F_OK), -1);
				if (codes[c] == -FZ_ENET)
					assert_int_equal(rc, -FZ_ENET);
			}
			replica_source_close(s);
			hist_store(&h);
			assert_true(n < 200);
		}
		hist_fini(&h);
	}
}

/* A moment whose commit stands in a pack that cannot be read: no commit before it is taken, and no older life of the database. */
static void test_unreadable_moment(void **state)
{
	(void)state;
	for (int encrypt = 0; encrypt < 2; encrypt++) {
		char pack[LTX_NAME_MAX], newest[LTX_NAME_MAX];
		struct replica_restore_result r;
		struct fz_err err = {0};
		struct hist h, young;

		hist_init(&h, 4096, 80, encrypt);
		hist_commits(&h, 120);
		hist_claim(&h, 1, 1, 0);
		hist_merged(&h, LTX_L_SNAPSHOT, 1, 95, NULL);
		hist_pack(&h, LTX_L_PACK, 96, 110, NULL);
		hist_pack(&h, LTX_L_PACK, 111, 120, pack);
		hist_damage(&h, pack, -60);
		assert_true(restore(&h, AT(h.c[115].time_ms), &r, &err) < 0);
		assert_int_equal(fz_err_exit(err.code), 4);
		if (!strstr(err.text, pack))
			fail_msg("no object named: %s", err.text);
		assert_true(restore(&h, AT(h.c[120].time_ms + 9), &r, &err) < 0);
		expect(&h, AT(h.c[110].time_ms), 110); /* what comes before it is as good as ever */
		expect(&h, TXID(110), 110);
		/* the same commits in another pack, together with others, and up to the middle */
		hist_pack(&h, LTX_L_PACK_MINUTE, 101, 113, NULL);
		expect(&h, AT(h.c[112].time_ms), 112);
		assert_true(restore(&h, AT(h.c[113].time_ms), &r, &err) < 0);
		assert_true(restore(&h, AT(h.c[115].time_ms), &r, &err) < 0);
		hist_pack(&h, LTX_L_PACK_HOUR, 91, 120, NULL);
		expect(&h, AT(h.c[113].time_ms), 113);
		expect(&h, AT(h.c[115].time_ms), 115);
		expect(&h, AT(h.c[120].time_ms + 9), 120);

		/* a new life, of which only that pack was shipped */
		hist_init(&young, 4096, 40, encrypt);
		hist_commits(&young, 150);
		strcpy(young.lineage, "0000000000000001");
		young.id = h.id;
		fz_store_close(young.store);
		strcpy(young.url, h.url);
		hist_store(&young);
		hist_claim(&young, 2, 1, 0);
		for (int i = 1; i <= 150; i++) /* names and index only; the files keep their own */
			young.c[i].time_ms += 1000;
		hist_pack(&young, LTX_L_PACK, 1, 150, newest);
		assert_int_equal(restore(&young, AT(young.c[115].time_ms), &r, &err), 0);
		same(&young, 115);
		hist_damage(&h, newest, -60);
		assert_true(restore(&young, AT(young.c[115].time_ms), &r, &err) < 0);
		assert_int_equal(fz_err_exit(err.code), 4);
		if (!strstr(err.text, newest))
			fail_msg("no object named: %s", err.text);
		expect(&h, AT(h.c[115].time_ms), 115); /* before that life began */
		hist_fini(&young);
		hist_fini(&h);
	}
}

/* Epochs: what the older one holds beyond the base of the newer one was written by a fenced writer. */
static void test_epochs(void **state)
{
	struct hist h, fenced;
	struct fz_err err = {0};
	struct replica_restore_result r;

	(void)state;
	hist_init(&h, 4096, 60, false);
	hist_commits(&h, 20);
	hist_claim(&h, 1, 1, 0);
	hist_claim(&h, 2, 2, 12);
	hist_pack(&h, LTX_L_PACK, 1, 10, NULL);
	h.epoch = 2;
	hist_pack(&h, LTX_L_PACK, 13, 20, NULL);
	/* the fenced writer shares TXIDs 1..12 and went its own way from 13 on */
	hist_init(&fenced, 4096, 60, false);
	hist_commits(&fenced, 12);
	make_change(&fenced.db, 2);
	hist_commit(&fenced);
	make_change(&fenced.db, 3);
	hist_commit(&fenced);
	fz_store_close(fenced.store);
	strcpy(fenced.url, h.url);
	hist_store(&fenced);
	hist_pack(&fenced, LTX_L_PACK, 11, 14, NULL);
	hist_merged(&fenced, LTX_L_MINUTE, 11, 14, NULL);
	hist_merged(&fenced, LTX_L_SNAPSHOT, 1, 14, NULL);
	expect(&h, TXID(12), 12);
	expect(&h, TXID(14), 14);
	expect(&h, LATEST, 20);
	expect(&h, AT(h.c[13].time_ms), 13);
	hist_fini(&fenced);
	hist_fini(&h);

	/* a new lineage: a TXID alone means the newest life that has it */
	hist_init(&h, 4096, 60, false);
	hist_commits(&h, 20);
	hist_claim(&h, 1, 1, 0);
	hist_pack(&h, LTX_L_PACK, 1, 20, NULL);
	hist_init(&fenced, 512, 40, false);
	hist_commits(&fenced, 6);
	for (int i = 1; i <= 6; i++)
		fenced.c[i].time_ms = h.c[20].time_ms + 1000 + i; /* names only; the files keep their own */
	strcpy(fenced.lineage, "0000000000000001");
	fz_store_close(fenced.store);
	strcpy(fenced.url, h.url);
	hist_store(&fenced);
	hist_pack(&fenced, LTX_L_PACK, 1, 6, NULL);
	hist_claim(&fenced, 2, 1, 0);
	expect(&h, TXID(9), 9);
	expect(&h, AT(h.c[20].time_ms + 500), 20);
	assert_int_equal(restore(&fenced, TXID(3), &r, &err), 0);
	same(&fenced, 3);
	assert_int_equal(restore(&fenced, LATEST, &r, &err), 0);
	same(&fenced, 6);
	assert_string_equal(r.commit.lineage, "0000000000000001");
	assert_int_equal(restore(&fenced, AT(h.c[20].time_ms + 1003), &r, &err), 0);
	same(&fenced, 3);
	hist_fini(&fenced);
	hist_fini(&h);
}

/* A range merged before it was shipped: a pack whose files are ranges. */
static void test_pack_of_ranges(void **state)
{
	struct replica_restore_result r;
	struct fz_err err = {0};
	struct ltx_merge_input in[5];
	struct ltx_merge_result mr;
	struct ltx_pack_writer w = {0};
	struct fz_buf out = {0};
	struct fz_buf_sink sink;
	struct fz_src *src = NULL;
	struct ltx_name n;
	struct hist h;

	(void)state;
	hist_init(&h, 4096, 60, false);
	hist_commits(&h, 20);
	hist_pack(&h, LTX_L_PACK, 1, 10, NULL);
	fz_buf_sink_init(&sink, &out);
	assert_int_equal(fz_src_mem(&src, h.bytes.data, h.bytes.size, &err), 0);
	for (int k = 0; k < 2; k++) {
		struct ltx_pack_entry e = {.min_txid = 11 + k * 5u, .max_txid = 15 + k * 5u, .off_bytes = out.size};

		for (int i = 0; i < 5; i++)
			in[i] = (struct ltx_merge_input){src, h.c[11 + k * 5 + i].off, h.c[11 + k * 5 + i].size};
		assert_int_equal(ltx_merge_array(in, 5, &sink.sink, &mr, &err), 0);
		e.size_bytes = mr.file_bytes;
		e.pages = mr.pages;
		e.commit = mr.header.commit;
		e.time_ms = mr.header.time_ms;
		assert_int_equal(ltx_pack_note(&w, &e, &err), 0);
	}
	assert_int_equal(ltx_pack_finish(&w, &sink.sink, &err), 0);
	ltx_pack_writer_fini(&w);
	fz_src_close(src);
	n = hist_name(&h, LTX_L_PACK, 11, 20);
	hist_put_bytes(&h, &n, &out, NULL);
	fz_buf_fini(&out);
	expect(&h, LATEST, 20);
	expect(&h, TXID(15), 15);
	expect(&h, AT(h.c[18].time_ms), 15);
	assert_int_equal(restore(&h, TXID(13), &r, &err), -FZ_ENOCOMMIT);
	hist_fini(&h);
}

/* More than 1 GiB: the lock page is a hole. All pages but a few are zero, so that the history stays small. */
static void test_lock_page(void **state)
{
	struct ltx_header hd = {.page_size = 65536, .min_txid = 1, .max_txid = 1, .time_ms = 5};
	uint32_t lock = ltx_lock_page(65536);
	uint64_t sum = LTX_FLAG, bytes;
	static uint8_t page[65536], got[65536];
	struct replica_restore_result r;
	struct fz_buf out = {0};
	struct fz_buf_sink sink;
	struct ltx_enc *e = NULL;
	struct fz_err err = {0};
	struct ltx_name n;
	struct hist h;
	struct stat st;
	int fd;

	(void)state;
	hist_init(&h, 65536, 4, true);
	hd.commit = lock + 3;
	fz_buf_sink_init(&sink, &out);
	assert_int_equal(ltx_enc_open(&e, &err), 0);
	assert_int_equal(ltx_enc_begin(e, &sink.sink, &hd, &err), 0);
	for (uint32_t p = 1; p <= hd.commit; p++) {
		if (p == lock)
			continue;
		page[7] = p > lock || p == 1 ? (uint8_t)p : 0;
		sum ^= ltx_page_checksum(p, page, 65536) & ~LTX_FLAG;
		assert_int_equal(ltx_enc_page(e, p, page, &err), 0);
	}
	assert_int_equal(ltx_enc_end(e, sum, NULL, &bytes, &err), 0);
	ltx_enc_close(e);
	h.c[1].post = sum;
	h.c[1].time_ms = 5;
	n = hist_name(&h, LTX_L_SNAPSHOT, 1, 1);
	hist_put_bytes(&h, &n, &out, NULL);
	fz_buf_fini(&out);
	assert_int_equal(restore(&h, LATEST, &r, &err), 0);
	assert_int_equal(stat(out_path, &st), 0);
	assert_int_equal(st.st_size, (off_t)hd.commit * 65536);
	assert_true(st.st_blocks < 2048); /* sparse */
	fd = open(out_path, O_RDONLY);
	for (uint32_t p = lock - 1; p <= hd.commit; p++) {
		assert_int_equal(pread(fd, got, 65536, (off_t)(p - 1) * 65536), 65536);
		assert_int_equal(got[7], p > lock ? (uint8_t)p : 0);
	}
	close(fd);
	hist_fini(&h);
}

static void test_cancel(void **state)
{
	volatile bool cancel = true;
	struct replica_restore_result r;
	struct fz_err err = {0};
	struct hist h;

	(void)state;
	hist_init(&h, 4096, 50, false);
	levels(&h);
	assert_int_equal(
	        restore(&h, &(struct replica_restore_conf){.when = REPLICA_LATEST, .cancel = &cancel}, &r, &err),
	        -ECANCELED);
	hist_fini(&h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_every_commit),   cmocka_unit_test(test_refusals),
	        cmocka_unit_test(test_output),         cmocka_unit_test(test_alternatives),
	        cmocka_unit_test(test_store_faults),   cmocka_unit_test(test_epochs),
	        cmocka_unit_test(test_pack_of_ranges), cmocka_unit_test(test_lock_page),
	        cmocka_unit_test(test_cancel),         cmocka_unit_test(test_unreadable_moment),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
