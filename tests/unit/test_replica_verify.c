/* replica_verify: silent on what is whole, and it names what is not. The database is one that SQLite wrote, so that
 * integrity_check means something. */
#include "replica/restore.h"

#include "tests/unit/replica_make.h"

#include <sqlite3.h>

static int verify(struct hist *h, bool key, bool full, struct replica_verify_result *r, struct fz_err *err)
{
	struct replica_source *s = NULL;
	int rc;

	assert_int_equal(replica_source_store(&s, h->store, key ? &h->ids : NULL, err), 0);
	hist_store(h);
	rc = replica_verify(s, &(struct replica_verify_conf){.full = full, .tmp_dir = h->dir}, r, err);
	replica_source_close(s);
	return rc;
}

static void shape(struct hist *h, char key[5][LTX_NAME_MAX])
{
	hist_commits(h, 60);
	hist_claim(h, 1, 1, 0);
	hist_merged(h, LTX_L_SNAPSHOT, 1, 10, key[0]);
	hist_merged(h, LTX_L_HOUR, 11, 40, key[1]);
	hist_pack(h, LTX_L_PACK_MINUTE, 31, 50, key[2]);
	hist_pack(h, LTX_L_PACK, 51, 60, key[3]);
	hist_merged(h, LTX_L_SNAPSHOT, 1, 45, key[4]);
}

static void test_whole(void **state)
{
	(void)state;
	for (int encrypt = 0; encrypt < 2; encrypt++) {
		char key[5][LTX_NAME_MAX];
		struct replica_verify_result r;
		struct fz_err err = {0};
		struct hist h;

		hist_init(&h, 1024, 90, encrypt);
		assert_int_equal(verify(&h, true, false, &r, &err), -FZ_ENOTFOUND);
		shape(&h, key);
		if (verify(&h, true, true, &r, &err) < 0)
			fail_msg("%s", err.text);
		assert_false(r.structure_only);
		assert_int_equal(r.objects, 5);
		assert_int_equal(r.first.txid, 10);
		assert_int_equal(r.last.txid, 60);
		assert_int_equal(r.last.checksum, h.c[60].post);
		assert_int_equal(r.commits, 1 + 1 + 20); /* the snapshot, the hour, 41 to 60 */
		if (encrypt) {
			assert_int_equal(verify(&h, false, true, &r, &err), 0);
			assert_true(r.structure_only);
			assert_int_equal(r.objects, 5);
			assert_int_equal(r.last.txid, 60);
		}
		assert_int_equal(r.n_gaps, 0);
		/* a hole that a later snapshot covers: told, and what is around it verified */
		hist_remove(&h, key[1]);
		for (int ids = !encrypt; ids < 2; ids++) {
			if (verify(&h, ids, ids, &r, &err) < 0)
				fail_msg("%s", err.text);
			assert_int_equal(r.structure_only, !ids);
			assert_int_equal(r.n_gaps, 1);
			assert_string_equal(r.gaps[0].lineage, HIST_LIN);
			assert_int_equal(r.gaps[0].after, 10);
			assert_int_equal(r.gaps[0].before, 45);
			assert_int_equal(r.objects, 4);
			assert_int_equal(r.last.txid, 60);
			if (ids)
				assert_int_equal(r.commits, 1 + 1 + 15);
		}
		hist_damage(&h, key[4], -30); /* the snapshot that covers it */
		assert_true(verify(&h, true, false, &r, &err) < 0);
		assert_int_equal(fz_err_exit(err.code), 4);
		hist_damage(&h, key[4], -30);
		hist_damage(&h, key[2], 200); /* what lies within it, and what comes after */
		assert_true(verify(&h, true, false, &r, &err) < 0);
		hist_damage(&h, key[2], 200);
		/* without it the newest state is out of reach */
		hist_remove(&h, key[4]);
		for (int ids = !encrypt; ids < 2; ids++) {
			assert_int_equal(verify(&h, ids, false, &r, &err), -FZ_EGAP);
			assert_non_null(strstr(err.text, "TXID 11 "));
			assert_int_equal(fz_err_exit(err.code), 4);
		}
		/* nor is anything within reach without a start */
		hist_remove(&h, key[0]);
		assert_int_equal(verify(&h, true, false, &r, &err), -FZ_EGAP);
		hist_fini(&h);
	}
}

/* One flipped byte, anywhere in any object. */
static void test_flips(void **state)
{
	(void)state;
	for (int encrypt = 0; encrypt < 2; encrypt++) {
		char key[5][LTX_NAME_MAX];
		struct fz_err err = {0};
		struct hist h;

		hist_init(&h, 1024, 90, encrypt);
		shape(&h, key);
		for (int o = 0; o < 5; o++) {
			char path[8192];
			long size, at;
			int fd;

			snprintf(path, sizeof(path), "%s/app.db/%s", h.dir, key[o]);
			fd = open(path, O_RDONLY);
			size = (long)lseek(fd, 0, SEEK_END);
			close(fd);
			for (int i = 0; i < 12; i++) {
				struct replica_verify_result r;
				int rc;

				at = i == 0   ? 0
				     : i == 1 ? size - 1
				     : i == 2 ? size - 20
				              : (long)make_rnd(&h.db, (uint32_t)size);
				hist_damage(&h, key[o], at);
				rc = verify(&h, true, false, &r, &err);
				if (rc == 0)
					fail_msg("byte %ld of %ld of %s flipped: not noticed", at, size, key[o]);
				if (!strstr(err.text, key[o]))
					fail_msg("%s: not named: %s", key[o], err.text);
				hist_damage(&h, key[o], at); /* flips it back */
			}
		}
		{
			struct replica_verify_result r;

			assert_int_equal(verify(&h, true, false, &r, &err), 0);
		}
		hist_fini(&h);
	}
}

/* Files that are right by themselves, and wrong together: an object of another history under a name of this one. */
static void test_wrong_history(void **state)
{
	struct replica_verify_result r;
	char key[5][LTX_NAME_MAX];
	struct fz_err err = {0};
	struct hist h, o;

	(void)state;
	hist_init(&h, 1024, 90, false);
	shape(&h, key);
	hist_init(&o, 1024, 90, false);
	o.db.rnd = 4711;
	hist_commits(&o, 60);
	fz_store_close(o.store);
	strcpy(o.url, h.url);
	hist_store(&o);
	hist_remove(&h, key[3]);
	for (int i = 51; i <= 60; i++)
		o.c[i].post = h.c[i].post;
	hist_pack(&o, LTX_L_PACK, 51, 60, NULL);
	assert_int_equal(verify(&h, true, false, &r, &err), -FZ_ECHECKSUM);
	assert_non_null(strstr(err.text, key[3]));
	hist_fini(&o);
	hist_fini(&h);
}

/* Each file by itself, and the pages in the end, are right: only the chain is not. */
static void test_chain(void **state)
{
	struct replica_restore_conf conf = {.when = REPLICA_LATEST, .verify_only = true};
	struct replica_restore_result rr;
	struct replica_verify_result r;
	struct replica_source *s = NULL;
	struct fz_err err = {0};
	struct hist h;

	(void)state;
	hist_init(&h, 1024, 90, false);
	hist_commits(&h, 5);
	hist_commit_off_chain(&h);
	hist_pack(&h, LTX_L_PACK, 1, 6, NULL);
	assert_int_equal(verify(&h, true, false, &r, &err), -FZ_ECHECKSUM);
	assert_non_null(strstr(err.text, "TXID 6 starts"));
	assert_int_equal(replica_source_store(&s, h.store, &h.ids, &err), 0);
	hist_store(&h);
	assert_int_equal(replica_restore(s, &conf, &rr, &err), -FZ_ECHECKSUM);
	replica_source_close(s);
	hist_fini(&h);
}

/* Pages as SQLite wrote them; then a database that has the right checksum and is not sound. */
static void test_full(void **state)
{
	char path[96];
	struct replica_verify_result r;
	struct fz_buf b = {0};
	struct fz_err err = {0};
	struct hist h;
	sqlite3 *db;

	(void)state;
	hist_init(&h, 4096, 200, true);
	snprintf(path, sizeof(path), "%s/made.db", h.dir);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(
	        sqlite3_exec(db,
	                     "PRAGMA journal_mode=WAL; CREATE TABLE t(a PRIMARY KEY, b); INSERT INTO t SELECT value, "
	                     "hex(randomblob(50)) FROM (WITH RECURSIVE c(value) AS (SELECT 1 UNION ALL SELECT value+1 "
	                     "FROM c WHERE value<900) SELECT value FROM c); PRAGMA wal_checkpoint(TRUNCATE)",
	                     NULL, NULL, NULL),
	        SQLITE_OK);
	sqlite3_close(db);
	assert_int_equal(fz_read_file(AT_FDCWD, path, 1 << 20, &b, &err), 0);
	make_resize(&h.db, (uint32_t)(b.size / 4096));
	memcpy(h.db.pages, b.data, b.size);
	hist_commit(&h);
	h.db.dirty[h.db.commit] = 1;
	hist_commit(&h);
	hist_pack(&h, LTX_L_PACK, 1, 2, NULL);
	if (verify(&h, true, true, &r, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(r.commits, 2);
	memset(make_page(&h.db, 3), 0xee, 4096);
	h.db.dirty[3] = 1;
	hist_commit(&h);
	hist_pack(&h, LTX_L_PACK, 3, 3, NULL);
	assert_int_equal(verify(&h, true, false, &r, &err), 0);
	assert_int_equal(verify(&h, true, true, &r, &err), -FZ_EVERIFY);
	assert_int_equal(fz_err_exit(err.code), 4);
	fz_buf_fini(&b);
	hist_fini(&h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_whole), cmocka_unit_test(test_flips), cmocka_unit_test(test_wrong_history),
	        cmocka_unit_test(test_chain), cmocka_unit_test(test_full),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
