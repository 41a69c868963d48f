/* test_fs_ack.c - which commits wait for replicas, and for what: real SQLite on the capture, and somebody in the replicas' place who takes
 * down what is asked of him. Whatever a commit waits for is exactly what it makes of the database, and nobody sees it before. */
#include "capture_world.h"
#include "fs/ack.h"
#include "ltx/offer.h"

struct asked {
	struct fs_acks hook; /* first */
	unsigned n, committed, bounded;
	uint64_t txid, checksum;
	int answer;
	bool offered; /* what was asked for was offered, whole, under that TXID and checksum */
	sqlite3 *reader;
	uint64_t seen; /* by the reader meanwhile */
};

static int take_down(struct fs_acks *hook, const struct fs_ack *what)
{
	struct asked *a = (struct asked *)(void *)hook;
	struct fz_src *src = NULL;
	struct ltx_offer o;

	assert_false(what->unready);
	a->n++;
	a->committed += what->committed;
	a->bounded += what->bounded;
	a->txid = what->txid;
	a->checksum = what->checksum;
	if (!what->committed) {
		struct ltx_header h;
		struct ltx_trailer t;

		a->offered = ltx_log_offered(what->log, &o, &src) &&
		             ltx_dec_verify(src, 0, &h, &t, &(uint64_t){0}, NULL, NULL) == 0 &&
		             h.max_txid == what->txid && t.post_checksum == what->checksum;
		fz_src_close(src);
	}
	if (a->reader)
		a->seen = view_of(a->reader, "main").sum;
	return a->answer;
}

static void tail(struct world *w, struct ltx_log_info *info)
{
	struct fz_err err = {0};
	struct ltx_log *log;

	sync_all(w);
	ok(ltx_logset_get(w->logs, "a.db", false, &log, &err), &err);
	ltx_log_info(log, info);
	ltx_log_put(log);
}

static const struct row {
	const char *journal, *sync, *locking;
	bool waits;     /* each commit, exactly once */
	bool committed; /* for what is in the log already */
} rows[] = {
        {"wal",      "full",   "normal",    true,  false},
        {"wal",      "extra",  "normal",    true,  false},
        {"wal",      "full",   "exclusive", true,  false},
        {"wal",      "normal", "normal",    false, false},
        {"wal",      "off",    "normal",    false, false},
        {"delete",   "full",   "normal",    true,  false},
        {"delete",   "normal", "normal",    true,  false},
        {"delete",   "off",    "normal",    false, false},
        {"truncate", "full",   "normal",    true,  false},
        {"persist",  "full",   "normal",    true,  false},
        {"persist",  "full",   "exclusive", true,  false},
        {"memory",   "full",   "normal",    true,  true },
        {"off",      "full",   "normal",    true,  true },
};

static void which_commits(void **state)
{
	for (size_t i = 0; i < 2 * sizeof(rows) / sizeof(rows[0]); i++) {
		const struct row *r = &rows[i / 2];
		struct history *h = new_history();
		struct asked a = {.hook.wait = take_down};
		struct ltx_log_info info;
		struct world w;
		sqlite3 *db;

		make_dirs(&w);
		w.conf.acks = &a.hook;
		start(&w, i % 2);
		db = open_db(&w, "a.db");
		sql(db,
		    "PRAGMA locking_mode = %s; PRAGMA synchronous = %s; PRAGMA journal_mode = %s; CREATE TABLE t(v)",
		    r->locking, r->sync, r->journal);
		sql(db, "INSERT INTO t VALUES (0)"); /* its log is there now */
		tail(&w, &info);
		for (int k = 1; k < 12; k++) {
			uint64_t before = info.tail_txid;
			unsigned asked = a.n;

			a.offered = false;
			sql(db, "INSERT INTO t VALUES (randomblob(%d))", k * 1000);
			tail(&w, &info);
			assert_int_equal(info.tail_txid, before + 1);
			if (a.n - asked != (r->waits ? 1 : 0))
				fail_msg("%s %s %s, commit %d: asked %u times", r->journal, r->sync, r->locking, k,
				         a.n - asked);
			if (!r->waits)
				continue;
			assert_int_equal(a.txid, info.tail_txid);
			assert_int_equal(a.checksum, info.tail_checksum);
			assert_int_equal(a.offered, !r->committed);
		}
		if (r->waits)
			assert_true(r->committed ? a.committed >= 11 : a.committed <= 2);
		sql(db, "BEGIN; INSERT INTO t VALUES (1); ROLLBACK");
		sqlite3_close(db);
		tail(&w, &info);
		end_world(&w);
		free_history(h);
	}
}

/* Nobody sees what waits; a reader does not wait. */
static void not_visible(void **state)
{
	struct asked a = {.hook.wait = take_down};
	struct world w;
	sqlite3 *db;

	make_dirs(&w);
	w.conf.acks = &a.hook;
	start(&w, true);
	db = open_db(&w, "a.db");
	sql(db, "PRAGMA journal_mode = wal; PRAGMA synchronous = full; CREATE TABLE t(v)");
	a.reader = open_db(&w, "a.db");
	for (int i = 0; i < 5; i++) {
		struct view before = view_of(a.reader, "main");

		sql(db, "INSERT INTO t VALUES (randomblob(3000))");
		assert_int_equal(a.seen, before.sum);
		assert_int_equal(view_of(a.reader, "main").sum, a.checksum);
	}
	sqlite3_close(a.reader);
	a.reader = NULL;
	sqlite3_close(db);
	end_world(&w);
}

/* What may not be committed is not: an error for the application, no transaction in the log, and it goes on. */
static void refused(void **state)
{
	static const char *const journals[] = {"wal", "delete", "persist"};

	for (size_t i = 0; i < 6; i++) {
		struct history *h = new_history();
		struct asked a = {.hook.wait = take_down};
		struct ltx_log_info before, after;
		struct world w;
		sqlite3 *db;

		make_dirs(&w);
		w.conf.acks = &a.hook;
		start(&w, i % 2);
		db = open_db(&w, "a.db");
		sql(db, "PRAGMA synchronous = full; PRAGMA journal_mode = %s; CREATE TABLE t(v)", journals[i / 2]);
		note(h, db);
		tail(&w, &before);
		a.answer = -EIO;
		assert_int_equal(sqlite3_exec(db, "INSERT INTO t VALUES (randomblob(9000))", NULL, NULL, NULL),
		                 SQLITE_IOERR);
		a.answer = 0;
		if (!sqlite3_get_autocommit(db))
			sql(db, "ROLLBACK");
		tail(&w, &after);
		assert_int_equal(after.tail_checksum, before.tail_checksum);
		sql(db, "INSERT INTO t VALUES (2)");
		note(h, db);
		sync_all(&w);
		check_states(w.logs, "a.db", h, true);
		sqlite3_close(db);
		end_world(&w);
		free_history(h);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(which_commits),
	        cmocka_unit_test(not_visible),
	        cmocka_unit_test(refused),
	};

	vfs_install();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
