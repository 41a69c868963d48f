/* Real SQLite drives the capture. The oracle: after every commit the test takes SQLite's own view of the database
 * (sqlite3_serialize); the log must hold exactly one transaction for each, and rebuilding the log page by page must give
 * exactly that view, with the chain of checksums unbroken. */
#include "base/file.h"
#include "base/log.h"
#include "fs/agent.h"
#include "fs/capture.h"
#include "ltx/dec.h"
#include "ltx/log.h"

#include "capture_vfs.h"

#include <cjson/cJSON.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <cmocka.h>

struct view {
	uint64_t sum;
	uint32_t pages;
};
struct world {
	char dir[64], root[128], state[128];
	int rootfd, statefd;
	struct ltx_logset *logs;
	struct fs_capture *c;
	struct fs_capture_conf conf;
	struct fs_agent *agent;
	pthread_t agent_thread;
	int agent_fd;
};
/* What SQLite showed after each commit of one database. */
struct history {
	struct view v[4096];
	size_t n;
};

static void ok(int rc, const struct fz_err *err)
{
	if (rc < 0)
		fail_msg("%s", err->text);
}

static void start(struct world *w, bool passthrough)
{
	struct fz_err err = {0};

	w->rootfd = open(w->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	w->statefd = open(w->state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(w->rootfd >= 0 && w->statefd >= 0);
	ok(ltx_logset_open(&w->logs, w->statefd, &(struct ltx_logset_conf){0}, &err), &err);
	w->conf.rootfd = w->rootfd;
	w->conf.statefd = w->statefd;
	w->conf.logs = w->logs;
	w->conf.passthrough = passthrough;
	w->conf.scrub_bytes_per_s = UINT64_MAX;
	ok(fs_capture_open(&w->c, &w->conf, &err), &err);
	vfs_attach(w->c, w->root);
}

static void stop(struct world *w)
{
	struct fz_err err = {0};

	vfs_attach(NULL, "");
	ok(fs_capture_close(w->c, &err), &err);
	ltx_logset_close(w->logs);
	fz_close(&w->rootfd);
	fz_close(&w->statefd);
	w->c = NULL;
}

static void make_world(struct world *w, bool passthrough)
{
	*w = (struct world){0};
	strcpy(w->dir, "/tmp/fz-capture-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	snprintf(w->root, sizeof(w->root), "%s/root", w->dir);
	snprintf(w->state, sizeof(w->state), "%s/state", w->dir);
	assert_int_equal(mkdir(w->root, 0700), 0);
	assert_int_equal(mkdir(w->state, 0700), 0);
	start(w, passthrough);
}

static void end_world(struct world *w)
{
	struct fz_err err = {0};

	if (w->c)
		stop(w);
	ok(fz_remove_tree(AT_FDCWD, w->dir, &err), &err);
}

static sqlite3 *open_db(struct world *w, const char *name)
{
	char path[512];
	sqlite3 *db;

	snprintf(path, sizeof(path), "%s/%s", w->root, name);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	sqlite3_busy_timeout(db, 5000);
	return db;
}

static void sql(sqlite3 *db, const char *fmt, ...)
{
	va_list ap;
	char *q, *msg = NULL;

	va_start(ap, fmt);
	q = sqlite3_vmprintf(fmt, ap);
	va_end(ap);
	if (sqlite3_exec(db, q, NULL, NULL, &msg) != SQLITE_OK)
		fail_msg("%s: %s", q, msg);
	sqlite3_free(q);
}

static struct view view_of(sqlite3 *db, const char *schema)
{
	sqlite3_int64 size = 0;
	unsigned char *b = sqlite3_serialize(db, schema, &size, 0);
	struct view v = {LTX_EMPTY_DB, 0};
	uint32_t ps;

	if (!b || size < 100) {
		sqlite3_free(b);
		return v;
	}
	ps = (uint32_t)(b[16] << 8 | b[17]);
	ps = ps == 1 ? 65536 : ps;
	v.pages = (uint32_t)(size / ps);
	for (uint32_t p = 1; p <= v.pages; p++)
		if (p != ltx_lock_page(ps))
			v.sum = LTX_FLAG | (v.sum ^ ltx_page_checksum(p, b + (size_t)(p - 1) * ps, ps));
	sqlite3_free(b);
	return v;
}

/* Notes the state if it is a new one. */
static void note_schema(struct history *h, sqlite3 *db, const char *schema)
{
	struct view v = view_of(db, schema);

	if (v.pages && (!h->n || h->v[h->n - 1].sum != v.sum)) {
		assert_true(h->n < 4096);
		h->v[h->n++] = v;
	}
}

/* Through a connection of its own: the writer's cache may hold free pages that it never wrote. */
static void note(struct history *h, sqlite3 *db)
{
	sqlite3 *r;

	assert_int_equal(sqlite3_open(sqlite3_db_filename(db, "main"), &r), SQLITE_OK);
	note_schema(h, r, "main");
	sqlite3_close(r);
}

/* Rebuilds every state of the log; returns the number of LTX files. Checks each against what SQLite showed. */
static uint64_t check_log(struct ltx_logset *logs, const char *name, const struct history *h)
{
	struct ltx_log *log = NULL;
	struct ltx_log_info info;
	struct fz_err err = {0};
	uint8_t *image = NULL;
	uint32_t ps = 0, cap = 0;
	uint64_t files = 0, post = 0;

	ok(ltx_logset_get(logs, name, false, &log, &err), &err);
	ltx_log_info(log, &info);
	if (info.tail_txid != h->n)
		fail_msg("%s: %llu transactions in the log, SQLite made %zu", name, (unsigned long long)info.tail_txid,
			 h->n);
	for (uint64_t txid = 1; txid <= info.tail_txid;) {
		struct ltx_log_entry e;
		struct fz_src *src = NULL;
		struct ltx_dec *d = NULL;
		const struct ltx_header *hd;
		const uint8_t *data;
		uint64_t sum = LTX_EMPTY_DB, bytes;
		uint32_t pgno;
		int rc;

		ok(ltx_log_find(log, txid, &e, &err), &err);
		ok(ltx_log_src(log, &e, &src, &err), &err);
		ok(ltx_dec_open(&d, src, 0, &err), &err);
		hd = ltx_dec_header(d);
		assert_int_equal(hd->min_txid, txid);
		assert_int_equal(hd->pre_checksum, post);
		if (ps != hd->page_size) {
			free(image);
			image = NULL;
			ps = hd->page_size;
			cap = 0;
		}
		if (hd->commit > cap) {
			image = realloc(image, (size_t)hd->commit * ps);
			memset(image + (size_t)cap * ps, 0xee, (size_t)(hd->commit - cap) * ps);
			cap = hd->commit;
		}
		while ((rc = ltx_dec_page(d, &pgno, &data, &err)) > 0)
			memcpy(image + (size_t)(pgno - 1) * ps, data, ps);
		ok(rc, &err);
		for (pgno = 1; pgno <= hd->commit; pgno++)
			if (pgno != ltx_lock_page(ps))
				sum = LTX_FLAG | (sum ^ ltx_page_checksum(pgno, image + (size_t)(pgno - 1) * ps, ps));
		post = ltx_dec_end(d, &bytes)->post_checksum;
		if (hd->commit != h->v[hd->max_txid - 1].pages || sum != h->v[hd->max_txid - 1].sum)
			fail_msg("%s: TXID %llu is not what SQLite showed (%u pages, SQLite %u)", name,
				 (unsigned long long)hd->max_txid, hd->commit, h->v[hd->max_txid - 1].pages);
		assert_int_equal(sum, post);
		txid = hd->max_txid + 1;
		if (hd->commit < cap) /* what lies beyond is gone */
			memset(image + (size_t)hd->commit * ps, 0xee, (size_t)(cap - hd->commit) * ps);
		ltx_dec_close(d);
		fz_src_close(src);
		files++;
	}
	free(image);
	ltx_log_put(log);
	return files;
}

static void sync_all(struct world *w)
{
	struct fz_err err = {0};

	ok(fs_capture_sync(w->c, NULL, &err), &err);
}

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
	sql(db, "BEGIN; INSERT INTO t(a,b) SELECT a + 100, randomblob(900) FROM t; UPDATE t SET b = zeroblob(10) WHERE id %% 3 = 0; COMMIT");
	note(h, db);
	sql(db, "BEGIN; INSERT INTO t(a,b) VALUES(1, randomblob(50000)); ROLLBACK");
	note(h, db);
	sql(db, "DELETE FROM t WHERE id %% 2");
	note(h, db);
	/* spill, take back a part, commit */
	sql(db, "PRAGMA cache_size = 5; BEGIN; INSERT INTO t(a,b) SELECT a, randomblob(2000) FROM t; SAVEPOINT s;"
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

static void every_commit(void **state)
{
	static const int sizes[] = {512, 1024, 4096, 65536};

	for (int pass = 0; pass < 2; pass++)
		for (size_t m = 0; m < 6; m++)
			for (size_t s = 0; s < 3; s++)
				for (size_t z = 0; z < 4; z++) {
					struct history *h = calloc(1, sizeof(*h));
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
					sync_all(&w);
					print_message("%s %s %s %d\n", pass ? "write-through" : "passthrough", modes[m],
						      syncs[s], sizes[z]);
					assert_int_equal(check_log(w.logs, "a.db", h), h->n);
					sqlite3_close(db);
					check_log(w.logs, "a.db", h);
					end_world(&w);
next:
					free(h);
				}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_commit),
	};

	fz_log_init("test", FZ_LOG_WARN);
	vfs_install();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
