/* apply_world.h - a primary whose commits become LTX, and a replica's mount (an ordinary directory) beside it, for the tests of
 * applying. The primary is a real SQLite database, compared page by page after each commit. Readers of the replica are child
 * processes with SQLite, which this process never uses on the replica's files: each read must see one TXID, whole, and
 * none that is older than what that process has seen.
 *
 * The database: kv(k, h, v), and meta with the TXID, the number of rows and a sum over all of them. */
#ifndef FZ_TESTS_APPLY_WORLD_H
#define FZ_TESTS_APPLY_WORLD_H

#include "base/clock.h"
#include "base/cursor.h"
#include "base/file.h"
#include "ltx/enc.h"
#include "ltx/log.h"
#include "ltx/logpriv.h"
#include "ltx/sums.h"
#include "replica/apply.h"
#include "tests/unit/tmp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORLD_READERS 4

struct world_reader {
	pid_t pid;
	int stop; /* closing it ends the child */
	volatile struct world_seen {
		uint64_t reads, last, states;
		uint64_t held; /* a snapshot that a long reader holds */
		char wrong[200];
	} * seen; /* shared */
};
struct world {
	struct world *in; /* shares its directories and logs */
	const char *name;
	char dir[160], primary[200], mount[200], db[300];
	int mountfd, statefd;
	struct ltx_logset *logs;   /* the worker's */
	struct ltx_logset *rologs; /* the agent's */
	struct ltx_log *log, *ro;
	struct ltx_enc *enc;
	sqlite3 *sql;
	uint8_t *image; /* of the primary's file */
	size_t image_bytes;
	uint32_t page_size;
	uint64_t txid, checksum;
	uint64_t rnd;
	struct world_reader r[WORLD_READERS];
	struct fz_err err;
};

#define WOK(call)                                                                                                      \
	do {                                                                                                           \
		int rc_ = (call);                                                                                      \
		if (rc_ < 0)                                                                                           \
			fail_msg("%s: %s (%d)", #call, w->err.text, rc_);                                              \
	} while (0)

/* The end of a child: nothing is run or looked for any more, also not what a fork took along of other threads. */
static inline void world_exit(int code) __attribute__((noreturn));
static inline void world_exit(int code)
{
	for (;;)
		syscall(SYS_exit_group, code);
}

static inline uint64_t world_rnd(struct world *w, uint64_t below)
{
	w->rnd = w->rnd * 6364136223846793005u + 1442695040888963407u;
	return (w->rnd >> 33) % below;
}

static inline void world_sql(struct world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static inline void world_sql(struct world *w, const char *fmt, ...)
{
	char *text = NULL, *msg = NULL;
	va_list ap;

	va_start(ap, fmt);
	assert_true(vasprintf(&text, fmt, ap) >= 0);
	va_end(ap);
	if (sqlite3_exec(w->sql, text, NULL, NULL, &msg) != SQLITE_OK)
		fail_msg("%s: %s", text, msg ? msg : "?");
	free(text);
}

static inline char *world_path(char *out, size_t cap, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static inline char *world_path(char *out, size_t cap, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(out, cap, fmt, ap);
	va_end(ap);
	assert_true(n > 0 && (size_t)n < cap);
	return out;
}

/* What differs from the image becomes the next transaction. */
static inline void world_capture(struct world *w)
{
	struct ltx_header h = {.min_txid = w->txid + 1, .max_txid = w->txid + 1, .time_ms = fz_now_ms()};
	uint8_t *now = NULL, head[100];
	uint32_t page_size, n, pages = 0;
	uint64_t bytes = 0, sum = LTX_EMPTY_DB;
	struct ltx_trailer t;
	struct fz_sink *sink;
	struct stat st;
	int fd = open(w->primary, O_RDONLY | O_CLOEXEC);
	bool all;

	assert_int_equal(fstat(fd, &st), 0);
	now = malloc((size_t)st.st_size + 1);
	assert_int_equal(fz_pread(fd, now, (size_t)st.st_size, 0), st.st_size);
	memcpy(head, now, 100);
	page_size = fz_be16(head + 16) == 1 ? 65536 : fz_be16(head + 16);
	n = (uint32_t)((size_t)st.st_size / page_size);
	all = page_size != w->page_size;
	h.page_size = page_size;
	h.commit = n;
	h.pre_checksum = w->txid ? w->checksum : 0;
	WOK(ltx_log_begin(w->log, &h, &sink, &w->err));
	WOK(ltx_enc_begin(w->enc, sink, &h, &w->err));
	for (uint32_t p = 1; p <= n; p++) {
		size_t off = (size_t)(p - 1) * page_size;

		if (p == ltx_lock_page(page_size))
			continue;
		sum = ltx_db_checksum_swap(sum, 0, ltx_page_checksum(p, now + off, page_size));
		if (!all && off + page_size <= w->image_bytes && !memcmp(now + off, w->image + off, page_size))
			continue;
		WOK(ltx_enc_page(w->enc, p, now + off, &w->err));
	}
	WOK(ltx_enc_end(w->enc, sum, &t, &bytes, &w->err));
	pages = ltx_enc_pages(w->enc);
	WOK(ltx_log_commit(w->log, bytes, pages, &t, false, &w->err));
	close(fd);
	free(w->image);
	w->image = now;
	w->image_bytes = (size_t)st.st_size;
	w->page_size = page_size;
	w->checksum = sum;
	w->txid++;
}

static inline void world_close_transaction(struct world *w)
{
	world_sql(w,
	          "UPDATE meta SET txid=%llu, n=(SELECT count(*) FROM kv), s=(SELECT coalesce(sum(h+length(v)),0) FROM "
	          "kv); COMMIT",
	          (unsigned long long)w->txid + 1);
	sqlite3_wal_checkpoint_v2(w->sql, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
	world_capture(w);
}

/* One transaction: one row, or many, now and then one that shrinks the file. */
static inline void world_commit(struct world *w, bool small)
{
	unsigned what = small ? 0 : (unsigned)world_rnd(w, 10);

	world_sql(w, "BEGIN IMMEDIATE");
	if (what < 6)
		world_sql(w, "INSERT OR REPLACE INTO kv VALUES(%llu, %llu, randomblob(%llu))",
		          (unsigned long long)world_rnd(w, 500), (unsigned long long)world_rnd(w, 1000000),
		          (unsigned long long)world_rnd(w, 300));
	else if (what < 8)
		world_sql(w,
		          "INSERT INTO kv SELECT %llu+value, value*7, randomblob(200) FROM (WITH RECURSIVE c(value) AS "
		          "(SELECT 1 UNION "
		          "ALL SELECT value+1 FROM c WHERE value<%llu) SELECT value FROM c)",
		          (unsigned long long)w->txid * 1000000 + 1000000, (unsigned long long)world_rnd(w, 300) + 2);
	else if (what < 9)
		world_sql(w, "DELETE FROM kv WHERE k%%7=%llu", (unsigned long long)world_rnd(w, 7));
	else
		world_sql(w, "DELETE FROM kv WHERE k>500 AND k%%3<2; PRAGMA incremental_vacuum");
	world_close_transaction(w);
}

static inline void world_commits(struct world *w, unsigned n, bool small)
{
	while (n--)
		world_commit(w, small);
}

static inline void world_vacuum(struct world *w, uint32_t page_size)
{
	world_sql(w, "PRAGMA journal_mode=DELETE; PRAGMA page_size=%u; VACUUM", page_size);
	world_sql(w, "BEGIN IMMEDIATE");
	world_close_transaction(w);
}

static inline void world_logs(struct world *w)
{
	struct ltx_logset_conf ro = {.readonly = true};

	WOK(ltx_logset_open(&w->rologs, w->statefd, &ro, &w->err));
	WOK(ltx_logset_get(w->rologs, w->name, false, &w->ro, &w->err));
}

static inline void world_init_more(struct world *w, struct world *in, const char *name, uint32_t page_size,
                                   const char *mode, uint64_t seed)
{
	char text[256];

	memset(w, 0, sizeof(*w));
	w->rnd = seed;
	w->in = in;
	w->name = name;
	if (in) {
		memcpy(w->dir, in->dir, sizeof(w->dir));
		w->mountfd = dup(in->mountfd);
		w->statefd = dup(in->statefd);
		w->logs = in->logs;
	} else {
		assert_non_null(tmp_make(w->dir, sizeof(w->dir), "fz-apply"));
		world_path(text, sizeof(text), "%s/mount", w->dir);
		assert_int_equal(mkdir(text, 0755), 0);
		w->mountfd = open(text, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		world_path(text, sizeof(text), "%s/state", w->dir);
		assert_int_equal(mkdir(text, 0700), 0);
		w->statefd = open(text, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		WOK(ltx_logset_open(&w->logs, w->statefd, NULL, &w->err));
	}
	world_path(w->primary, sizeof(w->primary), "%s/primary-%u.db", w->dir, (unsigned)seed);
	world_path(w->mount, sizeof(w->mount), "%s/mount", w->dir);
	world_path(w->db, sizeof(w->db), "%s/%s", w->mount, name);
	WOK(ltx_logset_get(w->logs, name, true, &w->log, &w->err));
	WOK(ltx_enc_open(&w->enc, &w->err));
	assert_int_equal(sqlite3_open(w->primary, &w->sql), SQLITE_OK);
	world_sql(w, "PRAGMA page_size=%u; PRAGMA auto_vacuum=2; PRAGMA synchronous=OFF; PRAGMA journal_mode=%s",
	          page_size, mode);
	world_sql(w, "BEGIN IMMEDIATE; CREATE TABLE kv(k INTEGER PRIMARY KEY, h INTEGER, v BLOB);"
	             "CREATE TABLE meta(txid INTEGER, n INTEGER, s INTEGER); INSERT INTO meta VALUES(0,0,0)");
	world_close_transaction(w);
	world_logs(w);
}

static inline void world_init_in(struct world *w, uint32_t page_size, const char *mode, uint64_t seed)
{
	world_init_more(w, NULL, "app.db", page_size, mode, seed);
}

static inline void world_reader_stop(struct world *w, unsigned i);
static inline void world_fini(struct world *w)
{
	for (unsigned i = 0; i < WORLD_READERS; i++)
		if (w->r[i].pid > 0)
			world_reader_stop(w, i);
	sqlite3_close(w->sql);
	ltx_log_put(w->ro);
	ltx_logset_close(w->rologs);
	ltx_enc_close(w->enc);
	ltx_log_put(w->log);
	free(w->image);
	close(w->mountfd);
	close(w->statefd);
	if (w->in)
		return;
	ltx_logset_close(w->logs);
	WOK(fz_remove_tree(AT_FDCWD, w->dir, &w->err));
}

/* ---- readers ---- */
static inline void world_wrong(volatile struct world_seen *s, const char *fmt, ...)
        __attribute__((format(printf, 2, 3)));
static inline void world_wrong(volatile struct world_seen *s, const char *fmt, ...)
{
	va_list ap;

	if (s->wrong[0])
		return;
	va_start(ap, fmt);
	vsnprintf((char *)(uintptr_t)s->wrong, sizeof(s->wrong), fmt, ap);
	va_end(ap);
}

/* One read of everything in one statement: the TXID, or 0 when something was wrong. */
static inline uint64_t world_read(sqlite3 *db, sqlite3_stmt *st, volatile struct world_seen *s)
{
	uint64_t txid = 0;
	int rc = sqlite3_step(st);

	if (rc != SQLITE_ROW) {
		world_wrong(s, "read after TXID %llu: error %d: %s", (unsigned long long)s->last,
		            sqlite3_extended_errcode(db), sqlite3_errmsg(db));
	} else if (sqlite3_column_int64(st, 1) != sqlite3_column_int64(st, 3) ||
	           sqlite3_column_int64(st, 2) != sqlite3_column_int64(st, 4)) {
		world_wrong(s, "TXID %lld: %lld rows for %lld, sum %lld for %lld", sqlite3_column_int64(st, 0),
		            sqlite3_column_int64(st, 3), sqlite3_column_int64(st, 1), sqlite3_column_int64(st, 4),
		            sqlite3_column_int64(st, 2));
	} else {
		txid = (uint64_t)sqlite3_column_int64(st, 0);
	}
	sqlite3_reset(st);
	return txid;
}

#define WORLD_QUERY                                                                                                    \
	"SELECT (SELECT txid FROM meta), (SELECT n FROM meta), (SELECT s FROM meta), count(*), "                       \
	"coalesce(sum(h+length(v)),0) FROM kv"

#define WORLD_POINT_QUERY "SELECT txid, 0, 0, 0, 0 FROM meta, kv WHERE k=1+abs(random())%10000"

enum world_kind {
	WORLD_SHORT = 0,
	WORLD_LONG = 1,   /* holds snapshots for some ms, and looks that they do not move */
	WORLD_OPENER = 2, /* a new connection for each read */
	WORLD_HOLD = 4,   /* one snapshot for ever, until SIGUSR1 */
	WORLD_MMAP = 8,
	WORLD_POINT = 32,   /* one row by its key and the TXID: for measuring */
	WORLD_PATIENT = 16, /* waits for a recovery, as after a kill it may have to */
};

static volatile sig_atomic_t world_let_go;
static inline void world_usr1(int sig)
{
	(void)sig;
	world_let_go = 1;
}

static inline void world_reader_run(struct world *w, int stop, volatile struct world_seen *s, int kind)
{
	struct pollfd p = {stop, POLLIN, 0};
	sqlite3_stmt *st = NULL;
	sqlite3 *db = NULL;
	unsigned seed = (unsigned)getpid();

	signal(SIGUSR1, world_usr1);
	while (!s->wrong[0] && poll(&p, 1, 0) == 0) {
		uint64_t txid;

		if (!db) {
			int rc = sqlite3_open_v2(w->db, &db, SQLITE_OPEN_READWRITE, NULL);

			/* SQLite that closes a connection tries for EXCLUSIVE, and whoever opens just then meets that */
			sqlite3_busy_timeout(db, 20000);
			if (rc == SQLITE_OK && kind & WORLD_MMAP)
				sqlite3_exec(db, "PRAGMA mmap_size=100000000", NULL, NULL, NULL);
			if (rc == SQLITE_OK)
				rc = sqlite3_prepare_v2(db, kind & WORLD_POINT ? WORLD_POINT_QUERY : WORLD_QUERY, -1,
				                        &st, NULL);
			sqlite3_busy_timeout(db, kind & (WORLD_PATIENT | WORLD_OPENER) ? 20000 : 0);
			if (rc != SQLITE_OK) {
				world_wrong(s, "open: error %d: %s", sqlite3_extended_errcode(db), sqlite3_errmsg(db));
				break;
			}
		}
		if (kind & (WORLD_LONG | WORLD_HOLD))
			sqlite3_exec(db, "BEGIN", NULL, NULL, NULL);
		txid = world_read(db, st, s);
		if (!txid)
			break;
		if (txid < s->last)
			world_wrong(s, "went back from TXID %llu to %llu", (unsigned long long)s->last,
			            (unsigned long long)txid);
		s->states += txid != s->last;
		s->last = txid;
		__atomic_fetch_add(&s->reads, 1, __ATOMIC_SEQ_CST);
		if (kind & (WORLD_LONG | WORLD_HOLD)) {
			s->held = txid;
			for (int i = 0; (kind & WORLD_HOLD && !world_let_go && poll(&p, 1, 0) == 0) || i < 3; i++) {
				usleep(kind & WORLD_HOLD ? 1000 : (unsigned)rand_r(&seed) % 4000);
				if (world_read(db, st, s) != txid)
					world_wrong(s, "the snapshot of TXID %llu moved", (unsigned long long)txid);
			}
			s->held = 0;
			if (sqlite3_exec(db, "COMMIT", NULL, NULL, NULL) != SQLITE_OK)
				world_wrong(s, "end of a read: %s", sqlite3_errmsg(db));
			kind &= ~WORLD_HOLD;
		}
		if (kind & WORLD_OPENER) {
			sqlite3_finalize(st);
			sqlite3_close(db);
			db = NULL;
		}
	}
	if (db) {
		sqlite3_finalize(st);
		sqlite3_close(db);
	}
	world_exit(0);
}

static inline void world_reader_start(struct world *w, unsigned i, int kind)
{
	struct world_reader *r = &w->r[i];
	int p[2];

	assert_true(r->pid <= 0);
	r->seen = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(r->seen != MAP_FAILED);
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	r->pid = fork();
	assert_true(r->pid >= 0);
	if (!r->pid) {
		for (int fd = 3; fd < 256; fd++) /* locks of this process live in descriptors */
			if (fd != p[0])
				close(fd);
		world_reader_run(w, p[0], r->seen, kind);
	}
	close(p[0]);
	r->stop = p[1];
}

static inline void world_reader_check(struct world *w, unsigned i)
{
	if (w->r[i].seen->wrong[0])
		fail_msg("reader %u: %s", i, (const char *)(uintptr_t)w->r[i].seen->wrong);
}

static inline void world_reader_wait(struct world *w, unsigned i, uint64_t reads)
{
	uint64_t from = w->r[i].seen->reads;

	while (w->r[i].seen->reads < from + reads && !w->r[i].seen->wrong[0])
		usleep(500);
	world_reader_check(w, i);
}

static inline void world_reader_stop(struct world *w, unsigned i)
{
	struct world_reader *r = &w->r[i];
	char wrong[200];
	int st;

	close(r->stop);
	assert_int_equal(waitpid(r->pid, &st, 0), r->pid);
	r->pid = 0;
	memcpy(wrong, (const char *)(uintptr_t)r->seen->wrong, sizeof(wrong));
	munmap((void *)(uintptr_t)r->seen, 4096);
	if (wrong[0])
		fail_msg("reader %u: %s", i, wrong);
	assert_true(WIFEXITED(st) && WEXITSTATUS(st) == 0);
}

/* ---- judging ---- */

/* A command in a child process with a connection of its own; its first column, or "error ...". */
static inline void world_ask(struct world *w, const char *path, int flags, const char *sql, char *out, size_t cap)
{
	int p[2], st;
	ssize_t n;
	pid_t pid;

	(void)w;
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		char res[1024] = "ok";
		sqlite3_stmt *s = NULL;
		sqlite3 *db;
		int rc;

		for (int fd = 3; fd < 256; fd++)
			if (fd != p[1])
				close(fd);
		rc = sqlite3_open_v2(path, &db, flags, NULL);
		while (rc == SQLITE_OK && *sql) {
			rc = sqlite3_prepare_v2(db, sql, -1, &s, &sql);
			while (rc == SQLITE_OK && s && (rc = sqlite3_step(s)) == SQLITE_ROW) {
				const unsigned char *t = sqlite3_column_text(s, 0);

				snprintf(res, sizeof(res), "%s", t ? (const char *)t : "null");
				rc = SQLITE_OK;
			}
			rc = rc == SQLITE_DONE ? SQLITE_OK : rc;
			if (rc != SQLITE_OK)
				snprintf(res, sizeof(res), "error %d: %s", rc, sqlite3_errmsg(db));
			sqlite3_finalize(s);
		}
		if (write(p[1], res, strlen(res)) < 0)
			world_exit(1);
		sqlite3_close(db);
		world_exit(0);
	}
	close(p[1]);
	n = read(p[0], out, cap - 1);
	out[n > 0 ? n : 0] = 0;
	close(p[0]);
	assert_int_equal(waitpid(pid, &st, 0), pid);
}

/* The replica's file, with all of the WAL copied into it, is the primary's but for the journal mode. */
static inline void world_same(struct world *w)
{
	struct fz_buf b = {0};

	WOK(fz_read_file(AT_FDCWD, w->db, (size_t)1 << 31, &b, &w->err));
	assert_int_equal(b.size, w->image_bytes);
	assert_int_equal(b.data[18], 2);
	assert_int_equal(b.data[19], 2);
	memcpy(b.data + 18, w->image + 18, 2);
	for (size_t i = 0; i < b.size; i += w->page_size)
		if (memcmp(b.data + i, w->image + i, w->page_size) != 0)
			fail_msg("page %zu differs", i / w->page_size + 1);
	fz_buf_fini(&b);
}

/* What a new connection sees now. */
static inline uint64_t world_visible(struct world *w)
{
	char res[256];

	world_ask(w, w->db, SQLITE_OPEN_READWRITE, "PRAGMA busy_timeout=20000; PRAGMA integrity_check", res,
	          sizeof(res));
	assert_string_equal(res, "ok");
	world_ask(w, w->db, SQLITE_OPEN_READWRITE,
	          "PRAGMA busy_timeout=20000; SELECT CASE WHEN n=(SELECT count(*) FROM kv) AND "
	          "s=(SELECT coalesce(sum(h+length(v)),0) FROM kv) THEN txid ELSE 'torn' END FROM meta",
	          res, sizeof(res));
	assert_true(res[0] >= '0' && res[0] <= '9');
	return strtoull(res, NULL, 10);
}

#endif
