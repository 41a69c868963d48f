/* What is true after a crash: of the worker and the applications (SIGKILL, at chosen points), of the machine (files set
 * back to an older state, as un-synced writes are lost), and after somebody worked on the files without the mount. */
#include "capture_world.h"

#include "ltx/sums.h"

static const char *const modes[] = {"wal", "delete", "truncate", "persist", "memory", "off"};

static void in_root(char out[static 256], const struct world *w, const char *name)
{
	snprintf(out, 256, "%s/%s", w->root, name);
}

static struct ltx_log_info info_of(struct world *w, const char *name)
{
	struct ltx_log *log = NULL;
	struct ltx_log_info info;
	struct fz_err err = {0};

	ok(ltx_logset_get(w->logs, name, false, &log, &err), &err);
	ltx_log_info(log, &info);
	ltx_log_put(log);
	return info;
}

/* The table of a log that nobody has open. */
static struct ltx_sums *table_of(struct world *w, const char *name)
{
	struct ltx_logset *set = NULL;
	struct ltx_log *log = NULL;
	struct ltx_sums *s = NULL;
	struct fz_err err = {0};
	int fd = open(w->state, O_RDONLY | O_DIRECTORY);

	ok(ltx_logset_open(&set, fd, &(struct ltx_logset_conf){.readonly = true}, &err), &err);
	ok(ltx_logset_get(set, name, false, &log, &err), &err);
	ok(ltx_sums_open(&s, ltx_log_dirfd(log), &err), &err);
	ltx_log_put(log);
	ltx_logset_close(set);
	close(fd);
	return s;
}

/* As if the machine had been started anew. */
static void other_boot(struct world *w, const char *name)
{
	struct ltx_sums *s = table_of(w, name);

	strcpy(ltx_sums_head(s)->boot_id, "another");
	ltx_sums_close(s);
}

static const char *app_mode;
static int app_stop;

static sqlite3 *run_app(struct world *w, struct history *h)
{
	sqlite3 *db = open_db(w, "a.db");

	sql(db, "PRAGMA journal_mode = %s; PRAGMA synchronous = FULL", app_mode);
	note(h, db);
	sql(db, "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, b)");
	note(h, db);
	for (int i = 0; i < app_stop; i++) {
		sql(db, "INSERT INTO t(b) VALUES(randomblob(%d))", 500 + i * 40);
		note(h, db);
	}
	return db;
}

/* Leaves everything open: killed afterwards. */
static void app(struct world *w, struct history *h)
{
	run_app(w, h);
}

static void app_again(struct world *w, struct history *h)
{
	sqlite3 *db = run_app(w, h);

	sync_all(w);
	check_log(w->logs, "a.db", h);
	sqlite3_close(db);
	check_log(w->logs, "a.db", h);
}

/* Killed between two commits, again and again; nothing is lost and nothing doubled. */
static void killed_between(void **state)
{
	for (size_t m = 0; m < 6; m++)
		for (int pass = 0; pass < 2; pass++) {
			struct history *h = new_history();
			struct world w;

			make_dirs(&w);
			app_mode = modes[m];
			for (int round = 0; round < 4; round++) {
				app_stop = 3 + round;
				run_and_kill(&w, pass, app, h);
			}
			start(&w, pass);
			app_again(&w, h);
			end_world(&w);
			free_history(h);
		}
}

static enum fs_event_op kill_op;
static const char *kill_suffix;
static int kill_after;

static void app_killed_at(struct world *w, struct history *h)
{
	sqlite3 *db;

	app(w, h);
	vfs.kill_op = kill_op;
	vfs.kill_suffix = kill_suffix;
	vfs.kill_after = kill_after;
	vfs.kill_nth = 1;
	db = open_db(w, "a.db");
	sql(db, "PRAGMA synchronous = FULL; PRAGMA cache_size = 4; PRAGMA journal_mode = %s", app_mode);
	sql(db, "INSERT INTO t(b) SELECT randomblob(4000) FROM t, t LIMIT 40");
	fail_msg("not killed");
}

/* Killed at each step of a commit in rollback mode: the journal decides, and the log says the same. */
static void killed_at(void **state)
{
	static const struct {
		const char *mode;
		enum fs_event_op op;
		const char *suffix;
		int after;
		bool kept;
	} t[] = {
	        {"delete",   FS_EV_FSYNC,    "-journal", 1, false},
	        {"delete",   FS_EV_FSYNC,    ".db",      0, false},
	        {"delete",   FS_EV_FSYNC,    ".db",      1, false},
	        {"delete",   FS_EV_UNLINK,   "-journal", 0, false},
	        {"delete",   FS_EV_UNLINK,   "-journal", 1, true },
	        {"truncate", FS_EV_TRUNCATE, "-journal", 0, false},
	        {"truncate", FS_EV_TRUNCATE, "-journal", 1, true },
	        {"persist",  FS_EV_FSYNC,    ".db",      1, false},
	        {"wal",      FS_EV_FSYNC,    "-wal",     0, true },
	        {"wal",      FS_EV_FSYNC,    "-wal",     1, true },
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++)
		for (int pass = 0; pass < 2; pass++) {
			struct history *h = new_history();
			struct world w;
			size_t n;

			make_dirs(&w);
			app_mode = t[i].mode;
			app_stop = 5;
			kill_op = t[i].op;
			kill_suffix = t[i].suffix;
			kill_after = t[i].after;
			/* once before, so that the database is in rollback mode when it is opened: written through */
			run_and_kill(&w, pass, app, h);
			run_and_kill(&w, pass, app_killed_at, h);
			n = h->n;
			start(&w, pass);
			assert_int_equal(info_of(&w, "a.db").tail_txid, n + t[i].kept);
			note_offline(&w, h, "a.db");
			assert_int_equal(h->n, n + t[i].kept);
			check_log(w.logs, "a.db", h);
			app_again(&w, h);
			end_world(&w);
			free_history(h);
		}
}

/* A clean end: the next start reads nothing. Anything else: it does. */
static void clean_marker(void **state)
{
	for (size_t m = 0; m < 2; m++) {
		struct history *h = new_history();
		struct fz_err err = {0};
		struct world w;
		char path[256];
		sqlite3 *db;

		make_world(&w, true);
		db = open_db(&w, "a.db");
		sql(db, "PRAGMA journal_mode = %s; CREATE TABLE t(a)", modes[m]);
		sqlite3_close(db);
		stop(&w);
		w.conf.clean_only = true;
		start(&w, true);
		db = open_db(&w, "a.db");
		h->n = 0;
		note(h, db);
		sql(db, "INSERT INTO t VALUES(1)");
		sqlite3_close(db);
		stop(&w);
		start(&w, true);
		stop(&w);
		in_root(path, &w, "a.db");
		assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
		sql(db, "INSERT INTO t VALUES(2)");
		sqlite3_close(db);
		w.conf.clean_only = false;
		start(&w, true);
		ok(fs_capture_sync(w.c, NULL, &err), &err);
		h->n = 0;
		note_offline(&w, h, "a.db");
		assert_int_equal(info_of(&w, "a.db").tail_checksum, h->v[0].sum);
		assert_int_equal(info_of(&w, "a.db").epoch, 0);
		end_world(&w);
		free_history(h);
	}
}

static void app_synced(struct world *w, struct history *h)
{
	run_app(w, h);
	sync_all(w);
}

/* A power cut took un-synced commits that the log (and perhaps a store) has: the database is brought forward. */
static void brought_forward(void **state)
{
	for (size_t m = 0; m < 3; m++)
		for (int mid = 0; mid < 2; mid++) {
			struct history *h = new_history();
			char db_path[256], wal[256], keep[256], keep_wal[256];
			struct world w;

			make_dirs(&w);
			in_root(db_path, &w, "a.db");
			in_root(wal, &w, "a.db-wal");
			snprintf(keep, sizeof(keep), "%s/k.db", w.dir);
			snprintf(keep_wal, sizeof(keep_wal), "%s/k.db-wal", w.dir);
			app_mode = modes[m];
			app_stop = mid ? 4 : 1;
			run_and_kill(&w, true, app_synced, h);
			copy_file(db_path, keep);
			copy_file(wal, keep_wal);
			app_stop = 7;
			run_and_kill(&w, true, app_synced, h);
			copy_file(keep, db_path);
			copy_file(keep_wal, wal);
			other_boot(&w, "a.db");
			start(&w, true);
			assert_int_equal(info_of(&w, "a.db").tail_txid, h->n);
			assert_int_equal(info_of(&w, "a.db").epoch, 0);
			{
				size_t n = h->n;

				note_offline(&w, h, "a.db"); /* nothing new: it is what the log ends with */
				assert_int_equal(h->n, n);
			}
			check_log(w.logs, "a.db", h);
			app_again(&w, h);
			end_world(&w);
			free_history(h);
		}
}

/* Log and database went apart: another history, another epoch, and TXIDs go on. */
static void apart(void **state)
{
	struct history *h = new_history();
	char path[256], keep[256];
	struct world w;
	sqlite3 *db;

	make_dirs(&w);
	app_mode = "delete";
	app_stop = 4;
	run_and_kill(&w, true, app, h);
	in_root(path, &w, "a.db");
	snprintf(keep, sizeof(keep), "%s/k.db", w.dir);
	copy_file(path, keep);
	run_and_kill(&w, true, app, h);
	copy_file(keep, path);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	sql(db, "INSERT INTO t(b) VALUES('elsewhere')");
	sqlite3_close(db);
	other_boot(&w, "a.db");
	start(&w, true);
	sync_all(&w);
	note_offline(&w, h, "a.db");
	assert_int_equal(info_of(&w, "a.db").epoch, 1);
	check_log(w.logs, "a.db", h);
	app_again(&w, h);
	end_world(&w);
	free_history(h);
}

/* The table is a cache: lost or damaged, it is built anew. */
static void table_lost(void **state)
{
	for (int damage = 0; damage < 2; damage++) {
		struct history *h = new_history();
		struct ltx_sums *s;
		struct world w;

		make_dirs(&w);
		app_mode = "delete";
		app_stop = 5;
		run_and_kill(&w, true, app, h);
		s = table_of(&w, "a.db");
		if (damage)
			ltx_sums_set(s, 2, ltx_sums_get(s, 2) ^ 1);
		else
			ltx_sums_clear(s);
		ltx_sums_close(s);
		other_boot(&w, "a.db");
		start(&w, true);
		app_again(&w, h);
		end_world(&w);
		free_history(h);
	}
}

/* Much was committed while nobody followed: it is one range, and the next commits are single again. */
static void fell_behind(void **state)
{
	struct history *h = new_history();
	struct ltx_log_info info;
	struct world w;
	char path[256];
	sqlite3 *db;
	uint64_t before;

	make_dirs(&w);
	app_mode = "wal";
	app_stop = 5;
	run_and_kill(&w, true, app, h);
	before = h->n;
	in_root(path, &w, "a.db");
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	sql(db, "PRAGMA wal_autocheckpoint = 0");
	for (int i = 0; i < 700; i++)
		sql(db, "INSERT INTO t(b) VALUES(randomblob(100000))");
	if (!fork()) /* its death leaves the WAL as it is; here the connection is only forgotten */
		_exit(0);
	wait(NULL);
	start(&w, true);
	sync_all(&w);
	info = info_of(&w, "a.db");
	assert_int_equal(info.tail_txid, before + 700);
	h->n = 0;
	note_offline(&w, h, "a.db");
	assert_int_equal(info.tail_checksum, h->v[0].sum);
	sqlite3_close(db);
	end_world(&w);
	free_history(h);
}

/* Deleted while it was not mounted: its log has ended. */
static void deleted(void **state)
{
	struct history *h = new_history();
	struct ltx_log *log = NULL;
	struct world w;
	char path[256];

	make_dirs(&w);
	app_mode = "delete";
	app_stop = 2;
	run_and_kill(&w, true, app, h);
	in_root(path, &w, "a.db");
	assert_int_equal(unlink(path), 0);
	start(&w, true);
	assert_int_equal(ltx_logset_get(w.logs, "a.db", false, &log, NULL), -FZ_ENOTFOUND);
	end_world(&w);
	free_history(h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(killed_between),  cmocka_unit_test(killed_at), cmocka_unit_test(clean_marker),
	        cmocka_unit_test(brought_forward), cmocka_unit_test(apart),     cmocka_unit_test(table_lost),
	        cmocka_unit_test(fell_behind),     cmocka_unit_test(deleted),
	};

	fz_log_init("test", getenv("DBG") ? FZ_LOG_DEBUG : FZ_LOG_WARN);
	vfs_install();
	cmocka_set_test_filter(getenv("ONLY"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
