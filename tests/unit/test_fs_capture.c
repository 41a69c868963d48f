/* Real SQLite drives the capture: every journal mode, synchronous level and page size, and what else applications do. */
#include "capture_world.h"

#include <cjson/cJSON.h>
#include <sched.h>
#include <sys/socket.h>

/* ---- every commit, over the table ---- */

static const char *const modes[] = {"wal", "delete", "truncate", "persist", "memory", "off"};
static const char *const syncs[] = {"off", "normal", "full"};

static void workload(sqlite3 *db, struct history *h, unsigned seed)
{
	sql(db, "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b BLOB)");
	note(h, db);
	sql(db, "CREATE INDEX i ON t(a)");
	note(h, db);
	for (int i = 0; i < 30; i++) {
		sql(db, "INSERT INTO t(a, b) VALUES(%d, randomblob(%d))", i, (int)(seed % 700) + i * 37);
		note(h, db);
	}
	sql(db, "BEGIN; INSERT INTO t(a,b) SELECT a + 100, randomblob(900) FROM t; UPDATE t SET b = zeroblob(10) WHERE "
	        "id %% 3 = 0; COMMIT");
	note(h, db);
	sql(db, "BEGIN; INSERT INTO t(a,b) VALUES(1, randomblob(50000)); ROLLBACK");
	note(h, db);
	sql(db, "DELETE FROM t WHERE id %% 2");
	note(h, db);
	/* spill, take back a part, commit */
	sql(db,
	    "PRAGMA cache_size = 5; BEGIN; INSERT INTO t(a,b) SELECT a, randomblob(2000) FROM t; SAVEPOINT s;"
	    "INSERT INTO t(a,b) SELECT a + 1, randomblob(3000) FROM t; ROLLBACK TO s; UPDATE t SET a = a + 1; COMMIT");
	note(h, db);
	sql(db, "DELETE FROM t WHERE id > 20");
	note(h, db);
	for (int i = 0; i < 10; i++) {
		sql(db, "UPDATE t SET b = randomblob(%d) WHERE id = %d", 100 + i, 2 * i);
		note(h, db);
	}
	sql(db, "INSERT INTO t(a,b) VALUES(7, randomblob(200000))");
	note(h, db);
	sql(db, "DELETE FROM t WHERE a = 7");
	note(h, db);
	sql(db, "VACUUM");
	note(h, db);
	sql(db, "INSERT INTO t(a,b) VALUES(8, randomblob(100000))");
	note(h, db);
}

/* The log has every commit, before the last connection is closed and afterwards. */
static void finish(struct world *w, sqlite3 *db, const struct history *h)
{
	sync_all(w);
	assert_int_equal(check_log(w->logs, "a.db", h), h->n);
	sqlite3_close(db);
	check_log(w->logs, "a.db", h);
	end_world(w);
}

static void every_commit(void **state)
{
	static const int sizes[] = {512, 1024, 4096, 65536};

	for (int pass = 0; pass < 2; pass++)
		for (size_t m = 0; m < 6; m++)
			for (size_t s = 0; s < 3; s++)
				for (size_t z = 0; z < 4; z++) {
					struct history *h = new_history();
					struct world w;
					sqlite3 *db;

					/* without a lock or an event nothing tells one commit from the next */
					if (s == 0 && m >= 3)
						goto next;
					make_world(&w, pass == 0);
					db = open_db(&w, "a.db");
					sql(db, "PRAGMA page_size = %d; PRAGMA synchronous = %s", sizes[z], syncs[s]);
					sql(db, "PRAGMA journal_mode = %s", modes[m]);
					note(h, db);
					workload(db, h, (unsigned)(m * 7 + s * 3 + z));
					finish(&w, db, h);
				next:
					free_history(h);
				}
}

/* A database in rollback mode that exists: opened again it is served write-through, and its writes are told. */
static void reopened(void **state)
{
	for (size_t m = 1; m < 6; m++)
		for (size_t sy = 1; sy < 3; sy++) {
			struct history *h = new_history();
			struct world w;
			sqlite3 *db;

			make_world(&w, true);
			db = open_db(&w, "a.db");
			sql(db, "PRAGMA page_size = 1024; CREATE TABLE x(a)");
			note(h, db);
			sqlite3_close(db);
			db = open_db(&w, "a.db");
			sql(db, "PRAGMA journal_mode = %s; PRAGMA synchronous = %s", modes[m], syncs[sy]);
			workload(db, h, 5);
			assert_true(vfs.events[FS_EV_WRITE] > 100);
			sync_all(&w);
			check_log(w.logs, "a.db", h);
			sqlite3_close(db);
			check_log(w.logs, "a.db", h);
			end_world(&w);
			free_history(h);
		}
}

/* Busy is an answer as well. */
static void checkpoint(sqlite3 *db, const char *kind)
{
	char q[64];

	snprintf(q, sizeof(q), "PRAGMA wal_checkpoint(%s)", kind);
	sqlite3_exec(db, q, NULL, NULL, NULL);
}

/* Checkpoints of all kinds between the commits, small WALs, a second writer, a reader that stays. */
static void restarts(void **state)
{
	static const char *const kinds[] = {"PASSIVE", "FULL", "RESTART", "TRUNCATE"};
	struct history *h = new_history();
	struct world w;
	sqlite3 *a, *b, *r = NULL;

	make_world(&w, true);
	a = open_db(&w, "a.db");
	sql(a, "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 7; PRAGMA journal_size_limit = 20000");
	note(h, a);
	sql(a, "CREATE TABLE t(id INTEGER PRIMARY KEY, b)");
	note(h, a);
	b = open_db(&w, "a.db");
	sql(b, "PRAGMA wal_autocheckpoint = 1000");
	sqlite3_busy_timeout(a, 0);
	sqlite3_busy_timeout(b, 0);
	for (int i = 0; i < 400; i++) {
		sql(i % 3 ? a : b, "INSERT OR REPLACE INTO t VALUES(%d, randomblob(%d))", i % 90, (i * 331) % 5000);
		note(h, a);
		if (i % 50 == 20) {
			r = open_db(&w, "a.db");
			sql(r, "BEGIN; SELECT count(*) FROM t");
		}
		if (i % 50 == 35)
			sqlite3_close(r);
		if (i % 11 == 0)
			checkpoint(b, kinds[i / 11 % 4]);
		if (i % 40 == 39) { /* the last connection takes the WAL away */
			sqlite3_close(a);
			sqlite3_close(b);
			a = open_db(&w, "a.db");
			b = open_db(&w, "a.db");
			sql(a, "PRAGMA wal_autocheckpoint = 7");
		}
	}
	sync_all(&w);
	assert_int_equal(check_log(w.logs, "a.db", h), h->n);
	sqlite3_close(a);
	sqlite3_close(b);
	end_world(&w);
	free_history(h);
}

/* A checkpoint may be all that a power cut leaves of the WAL: the log is durable as soon as the database is. */
static void checkpoint_syncs(void **state)
{
	for (size_t s = 1; s < 3; s++) {
		struct ltx_log_info info;
		struct fz_err err = {0};
		struct ltx_log *log;
		struct world w;
		sqlite3 *db;

		make_world(&w, true);
		db = open_db(&w, "a.db");
		sql(db,
		    "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; PRAGMA synchronous = %s; CREATE TABLE "
		    "t(a)",
		    syncs[s]);
		for (int round = 0; round < 3; round++) {
			for (int i = 0; i < 20; i++)
				sql(db, "INSERT INTO t VALUES(%d)", i);
			checkpoint(db, round == 1 ? "PASSIVE" : "RESTART");
			assert_int_equal(ltx_logset_get(w.logs, "a.db", false, &log, &err), 0);
			ltx_log_info(log, &info);
			ltx_log_put(log);
			assert_true(info.tail_txid >= 20u * (round + 1));
			assert_int_equal(info.synced_txid, info.tail_txid);
		}
		sqlite3_close(db);
		end_world(&w);
	}
}

/* A transaction that spilled and was rolled back leaves what it wrote in pages that were free: no journal has them. */
static void free_leaves(void **state)
{
	for (size_t m = 1; m < 4; m++)
		for (int vacuum = 0; vacuum < 3; vacuum += 2) {
			struct history *h = new_history();
			struct world w;
			sqlite3 *db;

			make_world(&w, true);
			db = open_db(&w, "a.db");
			sql(db,
			    "PRAGMA page_size = 1024; PRAGMA auto_vacuum = %d; PRAGMA journal_mode = %s; PRAGMA "
			    "cache_size = 5",
			    vacuum, modes[m]);
			note(h, db);
			sql(db, "CREATE TABLE t(a INTEGER PRIMARY KEY, b)");
			note(h, db);
			sql(db, "WITH RECURSIVE c(x) AS (VALUES(1) UNION ALL SELECT x+1 FROM c WHERE x < 4000)"
			        "INSERT INTO t SELECT x, randomblob(900) FROM c");
			note(h, db);
			sql(db, "DELETE FROM t");
			note(h, db);
			for (int i = 0; i < 3; i++) {
				sql(db, "BEGIN; WITH RECURSIVE c(x) AS (VALUES(1) UNION ALL SELECT x+1 FROM c WHERE x "
				        "< 600)"
				        "INSERT INTO t(b) SELECT randomblob(900) FROM c; ROLLBACK");
				note(h, db);
				sql(db, "INSERT INTO t(b) VALUES(randomblob(3000))");
				note(h, db);
			}
			finish(&w, db, h);
			free_history(h);
		}
}

/* Open, commit, close, with nothing in between. */
static void short_lives(void **state)
{
	struct history *h = new_history();
	struct world w;

	make_world(&w, true);
	for (int i = 0; i < 120; i++) {
		sqlite3 *db = open_db(&w, "a.db");

		if (i % 30 == 0)
			sql(db, "PRAGMA journal_mode = %s", i / 30 % 2 ? "DELETE" : "WAL");
		sql(db, "CREATE TABLE IF NOT EXISTS t(a); INSERT INTO t VALUES(randomblob(3000))");
		sqlite3_close(db);
		h->n = 0;
		note_offline(&w, h, "a.db");
		sync_all(&w);
		{
			struct ltx_log *log;
			struct ltx_log_info info;
			struct fz_err err = {0};

			ok(ltx_logset_get(w.logs, "a.db", false, &log, &err), &err);
			ltx_log_info(log, &info);
			assert_int_equal(info.tail_checksum, h->v[0].sum);
			ltx_log_put(log);
		}
	}
	end_world(&w);
	free_history(h);
}

/* One connection, no -shm: the frames are the truth. */
static void exclusive(void **state)
{
	for (int pass = 0; pass < 2; pass++) {
		struct history *h = new_history();
		struct world w;
		sqlite3 *db;

		make_world(&w, true);
		db = open_db(&w, "a.db");
		sql(db, "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = %s", pass ? "DELETE" : "WAL");
		note_schema(h, db, "main");
		sql(db, "PRAGMA wal_autocheckpoint = 20; CREATE TABLE t(a)");
		note_schema(h, db, "main");
		for (int i = 0; i < 100; i++) {
			sql(db, "INSERT INTO t VALUES(randomblob(%d))", i * 50);
			note_schema(h, db, "main");
		}
		finish(&w, db, h);
		free_history(h);
	}
}

/* SQLite leaves frames without checksums when a transaction that has spilled goes back to a savepoint: commits all the same. */
static void blank_frames(void **state)
{
	struct history *h = new_history();
	struct world w;
	sqlite3 *db;

	make_world(&w, true);
	db = open_db(&w, "a.db");
	sql(db, "PRAGMA page_size = 512; PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA cache_size "
	        "= 5");
	note_schema(h, db, "main");
	sql(db, "PRAGMA wal_autocheckpoint = 0; CREATE TABLE t(id INTEGER PRIMARY KEY, a, b)");
	note_schema(h, db, "main");
	sql(db, "CREATE INDEX i ON t(a)");
	for (int i = 0; i < 20; i++) {
		note_schema(h, db, "main");
		sql(db,
		    "BEGIN; INSERT INTO t(a, b) VALUES(random(), randomblob(3000)); INSERT INTO t(a, b) "
		    "VALUES(random(), "
		    "randomblob(2000)); SAVEPOINT s; INSERT INTO t(a, b) SELECT random(), randomblob(2900) FROM t;"
		    "UPDATE t SET a = random(); ROLLBACK TO s; RELEASE s; UPDATE t SET a = random() WHERE id %% 3 = "
		    "%d; COMMIT",
		    i % 3);
		note_schema(h, db, "main");
		sql(db, "INSERT INTO t(a) VALUES(%d)", i);
		note_schema(h, db, "main");
	}
	finish(&w, db, h);
	free_history(h);
}

/* A commit over two databases. */
static void attached(void **state)
{
	for (size_t m = 0; m < 4; m++) {
		struct history *h = new_history(), *g = new_history();
		char path[256];
		struct world w;
		sqlite3 *db, *o;

		make_world(&w, true);
		db = open_db(&w, "a.db");
		snprintf(path, sizeof(path), "%s/b.db", w.root);
		sql(db, "ATTACH '%s' AS b; PRAGMA main.journal_mode = %s; PRAGMA b.journal_mode = %s", path, modes[m],
		    modes[m]);
		o = open_db(&w, "b.db");
		note(h, db);
		note(g, o);
		sql(db, "CREATE TABLE t(a)");
		note(h, db);
		sql(db, "CREATE TABLE b.t(a)");
		note(g, o);
		for (int i = 0; i < 40; i++) {
			sql(db,
			    "BEGIN; INSERT INTO t VALUES(randomblob(3000)); INSERT INTO b.t VALUES(randomblob(2000)); "
			    "COMMIT");
			note(h, db);
			note(g, o);
		}
		sync_all(&w);
		assert_int_equal(check_log(w.logs, "a.db", h), h->n);
		assert_int_equal(check_log(w.logs, "b.db", g), g->n);
		sqlite3_close(db);
		sqlite3_close(o);
		end_world(&w);
		free_history(h);
		free_history(g);
	}
}

/* New page sizes, auto_vacuum, changes between WAL and rollback. */
static void shapes(void **state)
{
	for (int av = 0; av < 3; av++) {
		struct history *h = new_history();
		struct world w;
		sqlite3 *db;

		make_world(&w, true);
		db = open_db(&w, "a.db");
		sql(db, "PRAGMA auto_vacuum = %d", av);
		note(h, db);
		sql(db, "CREATE TABLE t(id INTEGER PRIMARY KEY, b)");
		note(h, db);
		for (int round = 0; round < 6; round++) {
			sql(db, "PRAGMA journal_mode = %s", round % 2 ? "WAL" : "TRUNCATE");
			note(h, db);
			for (int i = 0; i < 12; i++) {
				sql(db, "INSERT INTO t(b) VALUES(randomblob(%d))", i * 900);
				note(h, db);
			}
			sql(db, "DELETE FROM t WHERE id %% 4");
			note(h, db);
			sql(db, "PRAGMA incremental_vacuum(3)");
			note(h, db);
			sql(db, "PRAGMA journal_mode = DELETE");
			note(h, db);
			sql(db, "PRAGMA page_size = %d; VACUUM", 512 << round);
			note(h, db);
		}
		sync_all(&w);
		assert_int_equal(check_log(w.logs, "a.db", h), h->n);
		sqlite3_close(db);
		end_world(&w);
		free_history(h);
	}
}

/* A database that was there before. */
static void existing(void **state)
{
	for (size_t m = 0; m < 2; m++)
		for (int pass = 0; pass < 2; pass++) {
			struct history *h = new_history();
			struct world w;
			sqlite3 *db;

			make_dirs(&w);
			db = open_db(&w, "a.db");
			sql(db, "PRAGMA journal_mode = %s; CREATE TABLE t(a)", modes[m]);
			for (int i = 0; i < 50; i++)
				sql(db, "INSERT INTO t VALUES(randomblob(3000))");
			note(h, db);
			sqlite3_close(db);
			start(&w, pass);
			db = open_db(&w, "a.db");
			for (int i = 0; i < 20; i++) {
				sql(db, "INSERT INTO t VALUES(randomblob(3000))");
				note(h, db);
			}
			sync_all(&w);
			assert_int_equal(check_log(w.logs, "a.db", h), h->n);
			sqlite3_close(db);
			end_world(&w);
			free_history(h);
		}
}

/* Frames of an application that died between the frame and the wal-index: SQLite ignores them, so must the log. */
static void phantom(void **state)
{
	struct history *h = new_history();
	char path[256], wal[256], copy[256], copy_wal[256];
	struct fz_err err = {0};
	struct fz_buf b = {0};
	struct world w;
	struct stat st;
	sqlite3 *db, *other;
	int fd;

	make_world(&w, true);
	db = open_db(&w, "a.db");
	sql(db, "PRAGMA journal_mode = WAL");
	note(h, db);
	sql(db, "CREATE TABLE t(a)");
	note(h, db);
	sql(db, "INSERT INTO t VALUES(1)");
	note(h, db);
	snprintf(path, sizeof(path), "%s/a.db", w.root);
	snprintf(wal, sizeof(wal), "%s/a.db-wal", w.root);
	snprintf(copy, sizeof(copy), "%s/c.db", w.dir);
	snprintf(copy_wal, sizeof(copy_wal), "%s/c.db-wal", w.dir);
	copy_file(path, copy);
	copy_file(wal, copy_wal);
	assert_int_equal(stat(wal, &st), 0);
	assert_int_equal(sqlite3_open(copy, &other), SQLITE_OK);
	sql(other, "INSERT INTO t VALUES('never committed here')");
	ok(fz_read_file(AT_FDCWD, copy_wal, 1u << 30, &b, &err), &err);
	assert_true((off_t)b.size > st.st_size);
	sqlite3_close(other);
	fd = open(wal, O_WRONLY);
	assert_int_equal(fz_pwrite(fd, b.data + st.st_size, b.size - (size_t)st.st_size, st.st_size), 0);
	close(fd);
	sync_all(&w);
	check_log(w.logs, "a.db", h);
	sql(db, "INSERT INTO t VALUES(2)");
	note(h, db);
	sync_all(&w);
	check_log(w.logs, "a.db", h);
	sqlite3_close(db); /* the WAL goes: the phantom must not come back by it */
	check_log(w.logs, "a.db", h);
	fz_buf_fini(&b);
	end_world(&w);
	free_history(h);
}

/* Many commits while the capture thread alone follows. */
static void *writer(void *arg)
{
	sqlite3 *db = open_db(arg, "a.db");

	for (int i = 0; i < 1500; i++)
		sql(db, "INSERT INTO t VALUES(randomblob(100))");
	sqlite3_close(db);
	return NULL;
}

static void busy(void **state)
{
	struct history *h = new_history();
	struct ltx_log_info info;
	struct fz_err err = {0};
	struct ltx_log *log;
	pthread_t t[2];
	struct world w;
	sqlite3 *db;

	make_world(&w, true);
	db = open_db(&w, "a.db");
	sql(db, "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; CREATE TABLE t(a)");
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&t[i], NULL, writer, &w), 0);
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	sync_all(&w);
	note(h, db);
	ok(ltx_logset_get(w.logs, "a.db", false, &log, &err), &err);
	ltx_log_info(log, &info);
	assert_int_equal(info.tail_txid, 2 + 3000);
	assert_int_equal(info.tail_checksum, h->v[0].sum);
	ltx_log_put(log);
	sqlite3_close(db);
	end_world(&w);
	free_history(h);
}

static size_t count_logs(struct world *w, const char *name, bool ended)
{
	struct ltx_log *log;
	size_t n = 0;

	for (size_t i = 0; (log = ltx_logset_at(w->logs, i)); i++) {
		struct ltx_log_info info;

		ltx_log_info(log, &info);
		n += !strcmp(info.name, name) && !info.ended_ms == !ended;
		ltx_log_put(log);
	}
	return n;
}

/* Deleted and made again, renamed over, copied in. */
static void names(void **state)
{
	struct history *h = new_history();
	char a[256], b[256];
	struct world w;
	sqlite3 *db;
	int fd;
	struct fz_buf buf = {0};
	struct fz_err err = {0};

	make_world(&w, true);
	snprintf(a, sizeof(a), "%s/app.db", w.root);
	snprintf(b, sizeof(b), "%s/new.db", w.root);
	db = open_db(&w, "app.db");
	sql(db, "CREATE TABLE t(a); INSERT INTO t VALUES(1)");
	sqlite3_close(db);
	assert_int_equal(vfs_unlink(a), 0);
	assert_int_equal(count_logs(&w, "app.db", true), 1);
	assert_int_equal(count_logs(&w, "app.db", false), 0);
	db = open_db(&w, "app.db");
	sql(db, "PRAGMA journal_mode = WAL");
	note(h, db);
	sql(db, "CREATE TABLE t(a)");
	note(h, db);
	sync_all(&w);
	check_log(w.logs, "app.db", h);
	sqlite3_close(db);
	/* write new.db, then rename it over app.db */
	db = open_db(&w, "new.db");
	sql(db, "CREATE TABLE u(a); INSERT INTO u VALUES(randomblob(9000))");
	sqlite3_close(db);
	assert_int_equal(vfs_rename(b, a), 0);
	assert_int_equal(count_logs(&w, "app.db", true), 2);
	assert_int_equal(count_logs(&w, "app.db", false), 1);
	assert_int_equal(count_logs(&w, "new.db", true), 1);
	h->n = 0;
	note_offline(&w, h, "app.db");
	check_log(w.logs, "app.db", h);
	db = open_db(&w, "app.db");
	sql(db, "INSERT INTO u VALUES(3)");
	note(h, db);
	check_log(w.logs, "app.db", h);
	sqlite3_close(db);
	/* cp app.db copy.db */
	ok(fz_read_file(AT_FDCWD, a, 1u << 30, &buf, &err), &err);
	snprintf(b, sizeof(b), "%s/copy.db", w.root);
	fd = vfs_open(b, O_RDWR | O_CREAT, 0600);
	assert_int_equal(vfs_pwrite(fd, buf.data, buf.size, 0), buf.size);
	vfs_close(fd);
	h->v[0] = h->v[h->n - 1];
	h->n = 1;
	check_log(w.logs, "copy.db", h);
	/* cp over a known one */
	db = open_db(&w, "copy.db");
	sql(db, "INSERT INTO u VALUES(randomblob(30000))");
	note(h, db);
	sqlite3_close(db);
	fd = vfs_open(b, O_RDWR, 0600);
	assert_int_equal(vfs_ftruncate(fd, 0), 0);
	assert_int_equal(vfs_pwrite(fd, buf.data, buf.size, 0), buf.size);
	vfs_close(fd);
	h->v[h->n++] = h->v[0];
	check_log(w.logs, "copy.db", h);
	fz_buf_fini(&buf);
	end_world(&w);
	free_history(h);
}

/* A file was empty when it was opened, and becomes a database by what somebody else than SQLite writes through that handle: that is the
 * first state. */
static void filled(void **state)
{
	for (size_t m = 0; m < 2; m++) {
		struct history *h = new_history();
		char from[256], path[256];
		struct fz_buf buf = {0};
		struct fz_err err = {0};
		struct world w;
		sqlite3 *db;
		int fd;

		make_world(&w, true);
		snprintf(from, sizeof(from), "%s/made.db", w.dir);
		snprintf(path, sizeof(path), "%s/a.db", w.root);
		assert_int_equal(sqlite3_open(from, &db), SQLITE_OK);
		sql(db, "PRAGMA journal_mode = %s; CREATE TABLE t(a)", modes[m]);
		sqlite3_close(db);
		ok(fz_read_file(AT_FDCWD, from, 1u << 30, &buf, &err), &err);
		fd = vfs_open(path, O_RDWR | O_CREAT, 0600);
		assert_int_equal(vfs_pwrite(fd, buf.data, buf.size, 0), buf.size);
		db = open_db(&w, "a.db");
		note_schema(h, db, "main");
		for (int i = 0; i < 3; i++) {
			sql(db, "INSERT INTO t VALUES(%d)", i);
			note(h, db);
		}
		sync_all(&w);
		check_log(w.logs, "a.db", h);
		sqlite3_close(db);
		vfs_close(fd);
		check_log(w.logs, "a.db", h);
		fz_buf_fini(&buf);
		end_world(&w);
		free_history(h);
	}
}

/* A file is renamed over a database whose last commit is in its WAL alone, and in doubt still: it was committed. */
static void replaced(void **state)
{
	struct history *h = new_history();
	struct ltx_log_info info = {0};
	struct ltx_log *log;
	char a[256], b[256];
	struct world w;
	sqlite3 *db, *o;

	make_world(&w, true);
	snprintf(a, sizeof(a), "%s/app.db", w.root);
	snprintf(b, sizeof(b), "%s/new.db", w.root);
	o = open_db(&w, "new.db");
	sql(o, "CREATE TABLE u(a)");
	sqlite3_close(o);
	db = open_db(&w, "app.db");
	sql(db, "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; CREATE TABLE t(a)");
	sync_all(&w);
	sql(db, "INSERT INTO t VALUES(1)");
	assert_int_equal(vfs_rename(b, a), 0);
	note(h, db);
	for (size_t i = 0; (log = ltx_logset_at(w.logs, i)); i++) {
		ltx_log_info(log, &info);
		ltx_log_put(log);
		if (!strcmp(info.name, "app.db") && info.ended_ms)
			break;
	}
	assert_true(info.ended_ms);
	assert_true(info.tail_checksum == h->v[0].sum);
	sqlite3_close(db);
	end_world(&w);
	free_history(h);
}

static bool live(struct world *w, const char *name)
{
	cJSON *a = cJSON_CreateArray(), *o;
	bool is = false;

	assert_int_equal(fs_capture_status(w->c, a), 0);
	cJSON_ArrayForEach (o, a) {
		if (!strcmp(cJSON_GetStringValue(cJSON_GetObjectItem(o, "name")), name))
			is = strcmp(cJSON_GetStringValue(cJSON_GetObjectItem(o, "capture")), "baseline") != 0;
	}
	cJSON_Delete(a);
	return is;
}

/* The last commit before a directory is renamed is in the WAL alone, and in doubt still: it is of the name that the database had. */
static void moved_with_directory(void **state)
{
	struct history *h = new_history();
	struct ltx_log_info info = {0};
	struct ltx_log *log;
	char from[256], to[256];
	struct world w;
	sqlite3 *db;

	make_world(&w, true);
	snprintf(from, sizeof(from), "%s/from", w.root);
	snprintf(to, sizeof(to), "%s/to", w.root);
	assert_int_equal(mkdir(from, 0700), 0);
	db = open_db(&w, "from/m.db");
	sql(db, "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; CREATE TABLE t(a)");
	sync_all(&w);
	sql(db, "INSERT INTO t VALUES(1)");
	note_schema(h, db, "main");
	assert_int_equal(vfs_rename(from, to), 0);
	log = ltx_logset_at(w.logs, 0);
	assert_non_null(log);
	ltx_log_info(log, &info);
	ltx_log_put(log);
	assert_string_equal(info.name, "from/m.db");
	assert_true(info.ended_ms);
	assert_true(info.tail_checksum == h->v[0].sum);
	sql(db, "INSERT INTO t VALUES(2)");
	note_schema(h, db, "main");
	sync_all(&w);
	check_log(w.logs, "to/m.db", h);
	sqlite3_close(db);
	end_world(&w);
	free_history(h);
}

/* What the agent sees of the mount: a -shm (the same file) by the names that the kernel has been told of. */
static struct {
	char root[180], seen[200];
} moving;

static void show_shm(const char *name)
{
	char shm[256], seen[256];

	snprintf(shm, sizeof(shm), "%s/%s-shm", moving.root, name);
	snprintf(seen, sizeof(seen), "%s/%s-shm", moving.seen, name);
	assert_int_equal(link(shm, seen), 0);
}

static void show_new_shm(void)
{
	show_shm("to/m.db");
}

static pid_t begin_moving(struct world *w)
{
	static const char *const dirs[] = {"", "/from", "/to"};
	struct fs_fence *fences;
	struct fz_err err = {0};
	char path[256];
	int sock[2];
	pid_t pid;

	make_dirs(w);
	snprintf(moving.root, sizeof(moving.root), "%s", w->root);
	snprintf(moving.seen, sizeof(moving.seen), "%s/seen", w->dir);
	for (size_t i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "%s%s", moving.seen, dirs[i]);
		assert_int_equal(mkdir(path, 0700), 0);
	}
	snprintf(path, sizeof(path), "%s/from", w->root);
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sock), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		close(sock[0]);
		_exit(fs_agent_serve(sock[1], open(moving.seen, O_RDONLY | O_DIRECTORY), &fences, &err) < 0);
	}
	close(sock[1]);
	ok(fs_agent_open(&w->conf.agent, sock[0], &err), &err);
	start(w, false);
	return pid;
}

static void end_moving(struct world *w, pid_t pid)
{
	stop(w);
	fs_agent_close(w->conf.agent);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	end_world(w);
}

static void move(const char *end)
{
	char from[256], to[256];

	snprintf(from, sizeof(from), "%s/from%s", moving.root, end);
	snprintf(to, sizeof(to), "%s/to%s", moving.root, end);
	assert_int_equal(vfs_rename(from, to), 0);
}

/* Without passthrough a -shm cannot be looked at by its new name before the rename is answered, and the application may commit as soon
 * as it is: what there was before, and each of these commits, is a state of its own. */
static void moved_before_agent_sees(void **state)
{
	for (int i = 0; i < 8; i++) { /* the keeper looks when it likes */
		struct history *h = new_history();
		bool whole = i % 2;
		char to[256];
		struct world w;
		sqlite3 *db;
		pid_t pid = begin_moving(&w);

		db = open_db(&w, "from/m.db");
		sql(db, "PRAGMA journal_mode = WAL; CREATE TABLE t(a)");
		show_shm("from/m.db");
		sql(db, "PRAGMA wal_checkpoint(TRUNCATE)");
		if (!whole) /* until its WAL follows, the database file alone */
			note_schema(h, db, "main");
		sql(db, "INSERT INTO t VALUES('in the WAL')");
		note_schema(h, db, "main");
		if (whole) {
			move("");
		} else {
			snprintf(to, sizeof(to), "%s/to", w.root);
			assert_int_equal(mkdir(to, 0700), 0);
			move("/m.db");
			move("/m.db-shm");
			move("/m.db-wal");
		}
		sync_all(&w); /* who looks before it is answered finds nothing */
		assert_false(live(&w, "to/m.db"));
		vfs.at_write = show_new_shm;
		for (int k = 0; k < 5; k++) {
			sql(db, "INSERT INTO t VALUES(%d)", k);
			note_schema(h, db, "main");
		}
		assert_null(vfs.at_write);
		sync_all(&w);
		assert_int_equal(check_log(w.logs, "to/m.db", h), h->n);
		sqlite3_close(db);
		check_log(w.logs, "to/m.db", h);
		end_moving(&w, pid);
		free_history(h);
	}
}

/* Too large to be compared at once: read in the background, written to meanwhile. */
static void large(void **state)
{
	for (size_t m = 0; m < 2; m++)
		for (int again = 0; again < 2; again++) {
			struct history *h = new_history();
			struct world w;
			sqlite3 *db, *o;
			int i = 0;

			make_dirs(&w);
			db = open_db(&w, "a.db");
			sql(db, "PRAGMA journal_mode = %s; CREATE TABLE t(id INTEGER PRIMARY KEY, b)", modes[m]);
			sql(db, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 6000) "
			        "INSERT INTO t SELECT i, randomblob(3000) FROM n");
			sqlite3_close(db);
			if (again) { /* known, then changed elsewhere */
				start(&w, true);
				db = open_db(&w, "a.db");
				sqlite3_close(db);
				while (!live(&w, "a.db"))
					sched_yield();
				stop(&w);
				db = open_db(&w, "a.db");
				sql(db, "UPDATE t SET b = randomblob(2900) WHERE id %% 2");
				sqlite3_close(db);
			}
			w.conf.small_bytes = 4096;
			start(&w, true);
			db = open_db(&w, "a.db");
			o = open_db(&w, "a.db");
			sql(db, "PRAGMA wal_autocheckpoint = 50; PRAGMA synchronous = NORMAL");
			while (!live(&w, "a.db") || i < 50) {
				sql(i % 2 ? db : o, "UPDATE t SET b = randomblob(2800) WHERE id = %d",
				    (i * 37) % 6000 + 1);
				i++;
			}
			for (int k = 0; k < 20; k++)
				sql(db, "INSERT INTO t(b) VALUES(randomblob(5000))");
			sync_all(&w);
			note(h, db);
			check_states(w.logs, "a.db", h, true);
			sqlite3_close(db);
			sqlite3_close(o);
			stop(&w);
			w.conf.clean_only = true;
			start(&w, true);
			check_states(w.logs, "a.db", h, true);
			end_world(&w);
			free_history(h);
		}
}

/* The scrub finds what nobody told, captures it, and otherwise nothing. */
static void scrubbed(void **state)
{
	for (size_t m = 0; m < 2; m++) {
		struct history *h = new_history();
		struct fs_scrub_result r;
		struct fz_err err = {0};
		pthread_t t;
		struct world w;
		char path[256];
		sqlite3 *db;
		int fd;

		make_world(&w, true);
		db = open_db(&w, "a.db");
		sql(db, "PRAGMA journal_mode = %s; CREATE TABLE t(a)", modes[m]);
		sqlite3_close(db);
		db = open_db(&w, "a.db");
		for (int i = 0; i < 100; i++)
			sql(db, "INSERT INTO t VALUES(randomblob(3000))");
		sql(db, "PRAGMA wal_checkpoint(TRUNCATE)");
		ok(fs_capture_scrub(w.c, "a.db", &r, &err), &err);
		assert_int_equal(r.differences, 0);
		assert_int_equal(r.busy, 0);
		assert_true(r.pages > 70);
		snprintf(path, sizeof(path), "%s/a.db", w.root);
		fd = open(path, O_RDWR);
		assert_int_equal(fz_pwrite(fd, "bitrot", 6, 20 * 4096 + 100), 0);
		close(fd);
		ok(fs_capture_scrub(w.c, NULL, &r, &err), &err);
		assert_int_equal(r.differences, 1);
		note(h, db);
		check_states(w.logs, "a.db", h, true);
		if (!m) { /* while somebody writes and checkpoints: still nothing */
			assert_int_equal(pthread_create(&t, NULL, writer, &w), 0);
			for (int i = 0; i < 20; i++) {
				ok(fs_capture_scrub(w.c, "a.db", &r, &err), &err);
				assert_int_equal(r.differences, 0);
			}
			pthread_join(t, NULL);
			sync_all(&w);
			h->n = 0;
			note(h, db);
			check_states(w.logs, "a.db", h, true);
		}
		sqlite3_close(db);
		end_world(&w);
		free_history(h);
	}
}

/* How far it was applied while this host was a replica means nothing once commits are captured here. */
static void applied_before(void **state)
{
	struct fz_err err = {0};
	struct ltx_log *log;
	struct world w;
	sqlite3 *db;
	int fd;

	make_world(&w, true);
	db = open_db(&w, "a.db");
	sql(db, "CREATE TABLE x(a)");
	sqlite3_close(db);
	ok(ltx_logset_get(w.logs, "a.db", false, &log, &err), &err);
	fd = openat(ltx_log_dirfd(log), LTX_LOG_APPLIED, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	fz_close(&fd);
	ltx_log_put(log);
	stop(&w);
	start(&w, true);
	ok(ltx_logset_get(w.logs, "a.db", false, &log, &err), &err);
	assert_int_equal(faccessat(ltx_log_dirfd(log), LTX_LOG_APPLIED, F_OK, 0), -1);
	ltx_log_put(log);
	end_world(&w);
}

/* Nothing tells the end of a transaction: once it is quiet, the agent's SHARED lock makes the instant. */
static void quiet(void **state)
{
	for (int again = 0; again < 2; again++)
		for (size_t m = 3; m < 6; m++) {
			struct history *h = new_history();
			struct fz_err err = {0};
			struct fs_agent *agent;
			struct world w;
			int sock[2];
			sqlite3 *db;
			pid_t pid;

			make_dirs(&w);
			assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sock), 0);
			pid = fork();
			if (!pid) {
				struct fs_fence *fences;

				close(sock[0]);
				_exit(fs_agent_serve(sock[1], open(w.root, O_RDONLY | O_DIRECTORY), &fences, &err) < 0);
			}
			close(sock[1]);
			ok(fs_agent_open(&agent, sock[0], &err), &err);
			w.conf.agent = agent;
			start(&w, true);
			if (again) { /* it exists: written through */
				db = open_db(&w, "a.db");
				sql(db, "CREATE TABLE t(a)");
				sqlite3_close(db);
			}
			db = open_db(&w, "a.db");
			sql(db, "PRAGMA synchronous = OFF; PRAGMA journal_mode = %s; CREATE TABLE IF NOT EXISTS t(a)",
			    modes[m]);
			for (int i = 0; i < 30; i++) {
				sql(db, "INSERT INTO t VALUES(randomblob(4000))");
				if (i % 10 != 9)
					continue;
				h->n = 0;
				note(h, db);
				for (;;) {
					struct ltx_log_info info = {0};
					struct ltx_log *log;

					if (ltx_logset_get(w.logs, "a.db", false, &log, &err) == 0) {
						ltx_log_info(log, &info);
						ltx_log_put(log);
					}
					if (info.tail_checksum == h->v[0].sum)
						break;
					sched_yield();
				}
			}
			check_states(w.logs, "a.db", h, true);
			sqlite3_close(db);
			stop(&w);
			fs_agent_close(agent);
			assert_int_equal(waitpid(pid, NULL, 0), pid);
			end_world(&w);
			free_history(h);
		}
}

/* The worker is replaced under a connection that lives on and commits meanwhile. */
static void resumed(void **state)
{
	for (size_t m = 0; m < 4; m++)
		for (int inside = 0; inside < 2; inside++) {
			struct history *h = new_history();
			struct fz_err err = {0};
			struct world w;
			sqlite3 *db;

			make_world(&w, true);
			db = open_db(&w, "a.db");
			sql(db, "PRAGMA journal_mode = %s; PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = 5",
			    modes[m]);
			note(h, db);
			sql(db, "CREATE TABLE t(id INTEGER PRIMARY KEY, b)");
			note(h, db);
			for (int round = 0; round < 4; round++) {
				for (int i = 0; i < 5; i++) {
					sql(db, "INSERT INTO t(b) VALUES(randomblob(3000))");
					note(h, db);
				}
				if (inside)
					sql(db, "BEGIN; INSERT INTO t(b) SELECT randomblob(4000) FROM t");
				vfs_attach(NULL, "");
				ok(fs_capture_close(w.c, &err), &err);
				if (!m &&
				    !inside) { /* nothing but memory and the WAL is touched: no request waits for a worker */
					sql(db, "INSERT INTO t(b) VALUES(randomblob(2000))");
					note(h, db);
				}
				w.conf.resume = true;
				ok(fs_capture_open(&w.c, &w.conf, &err), &err);
				vfs_resume(w.c, w.root);
				if (inside) {
					sql(db, "INSERT INTO t(b) VALUES(randomblob(100)); COMMIT");
					note(h, db);
				}
			}
			sql(db, "UPDATE t SET b = 1");
			note(h, db);
			sync_all(&w);
			check_log(w.logs, "a.db", h);
			sqlite3_close(db);
			check_log(w.logs, "a.db", h);
			end_world(&w);
			free_history(h);
		}
}

static uint64_t tail_of(struct world *w, const char *name)
{
	struct ltx_log_info info = {0};
	struct ltx_log *log = NULL;
	struct fz_err err = {0};

	ok(ltx_logset_get(w->logs, name, false, &log, &err), &err);
	ltx_log_info(log, &info);
	ltx_log_put(log);
	return info.tail_txid;
}

/* The worker is replaced while a commit waits for its FSYNC: its frames are in the WAL, and not published. However long the next
 * worker takes to open the files again, they do not count before their writer says so. */
static void held(void **state)
{
	struct history *h = new_history();
	struct fz_err err = {0};
	uint8_t was[96], is[96];
	char path[4200];
	uint64_t tail;
	struct world w;
	sqlite3 *db;
	int shm;

	make_world(&w, true);
	db = open_db(&w, "a.db");
	sql(db, "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0");
	note(h, db);
	sql(db, "CREATE TABLE t(id INTEGER PRIMARY KEY, b)");
	note(h, db);
	sync_all(&w);
	tail = tail_of(&w, "a.db");
	vfs_attach(NULL, "");
	ok(fs_capture_close(w.c, &err), &err);
	snprintf(path, sizeof(path), "%s/a.db-shm", w.root);
	shm = open(path, O_RDWR | O_CLOEXEC);
	assert_int_equal(pread(shm, was, sizeof(was), 0), sizeof(was));
	sql(db, "INSERT INTO t(b) VALUES(randomblob(3000))");
	note(h, db);
	assert_int_equal(pread(shm, is, sizeof(is), 0), sizeof(is));
	assert_memory_not_equal(was, is, sizeof(is));
	assert_int_equal(pwrite(shm, was, sizeof(was), 0), sizeof(was));
	w.conf.resume = w.conf.held = true;
	ok(fs_capture_open(&w.c, &w.conf, &err), &err);
	vfs_resume_some(w.c, w.root, false);
	usleep(300000); /* for who looks too early */
	assert_int_equal(tail_of(&w, "a.db"), tail);
	vfs_resume_some(w.c, w.root, true);
	fs_capture_release(w.c);
	sync_all(&w);
	assert_int_equal(tail_of(&w, "a.db"), tail);
	assert_int_equal(pwrite(shm, is, sizeof(is), 0), sizeof(is));
	sync_all(&w);
	assert_int_equal(tail_of(&w, "a.db"), tail + 1);
	check_log(w.logs, "a.db", h);
	sqlite3_close(db);
	close(shm);
	end_world(&w);
	free_history(h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(every_commit),
	        cmocka_unit_test(reopened),
	        cmocka_unit_test(restarts),
	        cmocka_unit_test(short_lives),
	        cmocka_unit_test(exclusive),
	        cmocka_unit_test(attached),
	        cmocka_unit_test(shapes),
	        cmocka_unit_test(existing),
	        cmocka_unit_test(phantom),
	        cmocka_unit_test(busy),
	        cmocka_unit_test(names),
	        cmocka_unit_test(filled),
	        cmocka_unit_test(replaced),
	        cmocka_unit_test(moved_with_directory),
	        cmocka_unit_test(moved_before_agent_sees),
	        cmocka_unit_test(large),
	        cmocka_unit_test(scrubbed),
	        cmocka_unit_test(quiet),
	        cmocka_unit_test(resumed),
	        cmocka_unit_test(held),
	        cmocka_unit_test(blank_frames),
	        cmocka_unit_test(checkpoint_syncs),
	        cmocka_unit_test(free_leaves),
	        cmocka_unit_test(applied_before),
	};

	fz_log_init("test", getenv("DBG") ? FZ_LOG_DEBUG : FZ_LOG_WARN);
	vfs_install();
	cmocka_set_test_filter(getenv("ONLY"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
