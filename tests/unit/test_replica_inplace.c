/* replica_inplace beside real SQLite connections of other processes. Each SQLite connection lives in a child process of
 * its own, as applications do; this process uses none on the same file. */
#include "replica/inplace.h"

#include "base/clock.h"
#include "base/file.h"
#include "tests/unit/walindex_make.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[] = "/tmp/fazt-inplace-XXXXXX";
static char live[64], restored[64], other[64];

/* ---- before the n-th call that opens or changes a file a symbolic link takes the place of the database's directory ---- */
static long swap_at = -1;
static char swapped[40], link_there[40];

static void maybe_swap(void)
{
	if (swap_at >= 0 && swap_at-- == 0)
		(void)syscall(SYS_renameat2, AT_FDCWD, swapped, AT_FDCWD, link_there, RENAME_EXCHANGE);
}
static int swap_and_open(int dirfd, const char *path, int flags, va_list args)
{
	mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;

	maybe_swap();
	return (int)syscall(SYS_openat, dirfd, path, flags, mode);
}
int open64(const char *path, int flags, ...)
{
	va_list args;
	int fd;

	va_start(args, flags);
	fd = swap_and_open(AT_FDCWD, path, flags, args);
	va_end(args);
	return fd;
}
int openat64(int dirfd, const char *path, int flags, ...)
{
	va_list args;
	int fd;

	va_start(args, flags);
	fd = swap_and_open(dirfd, path, flags, args);
	va_end(args);
	return fd;
}

/* ---- the n-th call that changes a file is the last one of this process ---- */
static long kill_at = -1;

static void maybe_die(void)
{
	maybe_swap();
	if (kill_at >= 0 && kill_at-- == 0)
		kill(getpid(), SIGKILL);
}
ssize_t pwrite64(int fd, const void *p, size_t n, off64_t off)
{
	if (kill_at == 0 && n > 64) { /* torn: half of it reaches the file */
		(void)syscall(SYS_pwrite64, fd, p, n / 2, off);
		kill(getpid(), SIGKILL);
	}
	maybe_die();
	return syscall(SYS_pwrite64, fd, p, n, off);
}
int fdatasync(int fd)
{
	maybe_die();
	return (int)syscall(SYS_fdatasync, fd);
}
int fsync(int fd)
{
	maybe_die();
	return (int)syscall(SYS_fsync, fd);
}
int ftruncate64(int fd, off64_t n)
{
	maybe_die();
	return (int)syscall(SYS_ftruncate, fd, n);
}
int unlink(const char *path)
{
	maybe_die();
	return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}
int unlinkat(int dirfd, const char *path, int flags)
{
	maybe_die();
	return (int)syscall(SYS_unlinkat, dirfd, path, flags);
}

/* ---- SQLite in children ---- */
struct conn { /* a process with one connection; one line of SQL in, one line of result out */
	pid_t pid;
	int to, from;
};

static void serve(const char *path, int in, int out)
{
	FILE *f = fdopen(in, "r");
	char *line = NULL;
	size_t cap = 0;
	sqlite3 *db;

	if (sqlite3_open(path, &db) != SQLITE_OK)
		_exit(9);
	sqlite3_busy_timeout(db, 20000);
	while (getline(&line, &cap, f) > 0) {
		char res[1024] = "ok";
		sqlite3_stmt *st = NULL;
		const char *sql = line;
		int rc = SQLITE_OK;

		while (rc == SQLITE_OK && *sql && *sql != '\n') {
			rc = sqlite3_prepare_v2(db, sql, -1, &st, &sql);
			while (rc == SQLITE_OK && st && (rc = sqlite3_step(st)) == SQLITE_ROW) {
				const unsigned char *t = sqlite3_column_text(st, 0);

				snprintf(res, sizeof(res), "%s", t ? (const char *)t : "null");
				rc = SQLITE_OK;
			}
			if (rc == SQLITE_DONE)
				rc = SQLITE_OK;
			if (rc != SQLITE_OK)
				snprintf(res, sizeof(res), "error %d: %s", rc, sqlite3_errmsg(db));
			sqlite3_finalize(st);
		}
		strcat(res, "\n");
		if (write(out, res, strlen(res)) < 0)
			break;
	}
	sqlite3_close(db);
	_exit(0);
}

static struct conn conn_open(const char *path)
{
	int a[2], b[2];
	struct conn c;

	assert_int_equal(pipe2(a, O_CLOEXEC), 0);
	assert_int_equal(pipe2(b, O_CLOEXEC), 0);
	c.pid = fork();
	assert_true(c.pid >= 0);
	if (!c.pid) {
		for (int fd = 3; fd < 64; fd++) /* else a sibling would keep our pipes open */
			if (fd != a[0] && fd != b[1])
				close(fd);
		serve(path, a[0], b[1]);
	}
	close(a[0]);
	close(b[1]);
	c.to = a[1];
	c.from = b[0];
	return c;
}

static char *ask(struct conn *c, const char *sql)
{
	static char res[4][1100];
	static unsigned turn;
	char *r = res[turn++ % 4];
	size_t n = 0;

	assert_int_equal(write(c->to, sql, strlen(sql)), (ssize_t)strlen(sql));
	assert_int_equal(write(c->to, "\n", 1), 1);
	while (n < 1099 && read(c->from, r + n, 1) == 1 && r[n] != '\n')
		n++;
	r[n] = 0;
	return r;
}
#define ASK(c, sql, want) assert_string_equal(ask(c, sql), want)

static void conn_close(struct conn *c, int sig)
{
	int st;

	if (sig)
		kill(c->pid, sig);
	close(c->to);
	close(c->from);
	assert_int_equal(waitpid(c->pid, &st, 0), c->pid);
	c->pid = 0;
}

static void sql(const char *path, const char *text, const char *want)
{
	struct conn c = conn_open(path);

	ASK(&c, text, want);
	conn_close(&c, 0);
}

static int setup(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/fazt-inplace-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(live, sizeof(live), "%s/live.db", dir);
	snprintf(restored, sizeof(restored), "%s/restored.db", dir);
	snprintf(other, sizeof(other), "%s/other.db", dir);
	return 0;
}

static int teardown(void **state)
{
	struct fz_err err;

	(void)state;
	return fz_remove_tree(AT_FDCWD, dir, &err);
}

#define FILL(tag, n)                                                                                                   \
	"INSERT INTO t SELECT value, '" tag                                                                            \
	"', hex(randomblob(60)) FROM (WITH RECURSIVE c(value) AS (SELECT 1 UNION ALL "                                 \
	"SELECT value+1 FROM c WHERE value<" #n ") SELECT value FROM c)"
#define DIGEST "SELECT count(*)||':'||total(length(v))||':'||min(tag)||':'||max(tag) FROM t"

/* State "old" in the live database, a copy of it in `restored`, then the live one moves on. */
static void make(const char *mode, unsigned page_size)
{
	struct conn c = conn_open(live);
	char text[256];

	snprintf(text, sizeof(text), "PRAGMA page_size=%u; PRAGMA journal_mode=%s", page_size, mode);
	ask(&c, text);
	ASK(&c, "CREATE TABLE t(id INTEGER PRIMARY KEY, tag TEXT, v TEXT)", "ok");
	ASK(&c, FILL("old", 300), "ok");
	ASK(&c, "PRAGMA user_version=7", "ok");
	/* as a restore would give it: the same pages, whatever journal mode the header says */
	snprintf(text, sizeof(text), "VACUUM INTO '%s'", restored);
	ASK(&c, text, "ok");
	ASK(&c, "DELETE FROM t WHERE id%3=0; UPDATE t SET tag='new'", "ok");
	ASK(&c, "CREATE TABLE later(x); INSERT INTO later VALUES(1)", "ok");
	ASK(&c, "INSERT INTO t SELECT id+1000, tag, v FROM t", "ok");
	ASK(&c, "CREATE INDEX ti ON t(v); PRAGMA user_version=8", "ok");
	conn_close(&c, 0);
}

static void must(int64_t wait_ms, struct replica_inplace_result *r)
{
	struct fz_err err = {0};
	int rc = replica_inplace(restored, live, wait_ms, r, &err);

	if (rc < 0)
		print_error("%s\n", err.text);
	assert_int_equal(rc, 0);
}

/* ---- the wal-index must be what SQLite's own recovery builds from the same WAL ---- */
static uint8_t *slurp(const char *path, const char *suffix, size_t *n)
{
	struct fz_buf b = {0};
	struct fz_err err;
	char p[128];

	snprintf(p, sizeof(p), "%s%s", path, suffix);
	if (fz_read_file(AT_FDCWD, p, 64 << 20, &b, &err) < 0)
		fail_msg("%s", err.text);
	*n = b.size;
	assert_non_null(fz_buf_room(&b, 65536));
	memset(b.data + b.size, 0, 65536);
	return b.data;
}

static void index_is_sqlites(void)
{
	size_t n, m;
	uint8_t *db = slurp(live, "", &n), *wal, *ours = slurp(live, "-shm", &m), *theirs;
	struct fz_err err;
	struct conn c;
	char p[128];

	assert_int_equal(fz_write_file(AT_FDCWD, other, db, n, 0600, &err), 0);
	wal = slurp(live, "-wal", &n);
	snprintf(p, sizeof(p), "%s-wal", other);
	assert_int_equal(fz_write_file(AT_FDCWD, p, wal, n, 0600, &err), 0);
	snprintf(p, sizeof(p), "%s-shm", other);
	(void)unlink(p);
	c = conn_open(other);
	ask(&c, "SELECT count(*) FROM sqlite_master");
	theirs = slurp(other, "-shm", &n);
	assert_memory_equal(ours, ours + 48, 48);
	assert_memory_equal(ours + 12, theirs + 12, 28); /* but iChange and the sum over it */
	assert_true(walindex_u32(ours + 16) > 0);
	for (uint32_t pg = 1; pg <= walindex_u32(ours + 20) + 50; pg++)
		assert_int_equal(walindex_lookup(ours, pg, walindex_u32(ours + 16)),
		                 walindex_lookup(theirs, pg, walindex_u32(theirs + 16)));
	conn_close(&c, 0);
	free(db);
	free(wal);
	free(ours);
	free(theirs);
}

static const struct mode {
	const char *name;
	unsigned page_size;
	bool wal;
} modes[] = {
        {"WAL",      4096,  true },
        {"WAL",      512,   true },
        {"WAL",      65536, true },
        {"DELETE",   4096,  false},
        {"TRUNCATE", 1024,  false},
        {"PERSIST",  4096,  false},
        {"MEMORY",   8192,  false},
        {"DELETE",   65536, false},
        {"DELETE",   512,   false},
};

static uint32_t page1(off_t off)
{
	int fd = open(live, O_RDONLY);
	uint8_t b[4];

	assert_int_equal(pread(fd, b, 4, off), 4);
	close(fd);
	return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

/* Connections that were open before see the restored state, keep their snapshot while they read, and can write after. */
static void test_open_connections(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		const struct mode *m = &modes[i];
		struct replica_inplace_result r;
		struct conn idle, reader;
		char set[64];

		make(m->name, m->page_size);
		idle = conn_open(live);
		reader = conn_open(live);
		snprintf(set, sizeof(set), "PRAGMA journal_mode=%s", m->name);
		ask(&idle, set);
		ASK(&idle, "SELECT count(*) FROM later", "1"); /* its schema is cached now */
		if (m->wal) {
			ASK(&idle, "UPDATE t SET v='x' WHERE id=1", "ok"); /* frames in the WAL */
			ASK(&reader, "BEGIN; SELECT count(*) FROM t", "400");
		}
		{
			/* no connection may ever take the new state for one that it knows: both counters move on */
			int cookie = atoi(ask(&idle, "PRAGMA schema_version"));
			uint32_t change = page1(24);

			must(5000, &r);
			assert_true(atoi(ask(&idle, "PRAGMA schema_version")) > cookie);
			if (!m->wal) {
				assert_true(page1(24) > change);
				assert_int_equal(page1(92), page1(24));
			}
		}
		assert_int_equal(r.wal, m->wal);
		if (m->wal) {
			index_is_sqlites();
			ASK(&reader, "SELECT count(*) FROM t", "400"); /* its snapshot stays */
			ASK(&reader, "COMMIT", "ok");
		}
		ASK(&reader, DIGEST, "300:36000.0:old:old");
		ASK(&idle, DIGEST, "300:36000.0:old:old");
		ASK(&idle, "SELECT count(*) FROM later", "error 1: no such table: later");
		ASK(&idle, "PRAGMA user_version", "7");
		ASK(&idle,
		    "INSERT INTO t VALUES(9999,'old','"
		    "y"
		    "'); CREATE TABLE again(x)",
		    "ok");
		ASK(&reader, "SELECT count(*) FROM t", "301");
		ASK(&reader, "SELECT count(*) FROM again", "0");
		ASK(&reader, "PRAGMA integrity_check", "ok");
		ASK(&idle, "PRAGMA integrity_check", "ok");
		conn_close(&idle, 0);
		conn_close(&reader, 0);
		sql(live, "PRAGMA integrity_check", "ok");
		{
			struct stat st;
			char p[80];

			snprintf(p, sizeof(p), "%s-journal", live);
			if (strcmp(m->name, "PERSIST") && strcmp(m->name, "TRUNCATE"))
				assert_int_not_equal(stat(p, &st), 0);
		}
		teardown(NULL);
		setup(NULL);
	}
}

/* Nobody has it open: the WAL's index does not exist, or is a leftover. */
static void test_nobody_there(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		struct replica_inplace_result r;

		make(modes[i].name, modes[i].page_size);
		must(1000, &r);
		sql(live, DIGEST, "300:36000.0:old:old");
		must(1000, &r); /* again: only page 1 moves */
		assert_int_equal(r.changed_pages, 1);
		sql(live, "PRAGMA integrity_check", "ok");
		sql(live, DIGEST, "300:36000.0:old:old");
		teardown(NULL);
		setup(NULL);
	}
}

/* An application that died leaves frames in the WAL, or a hot journal: both count before the restore does. */
static void test_after_a_crash(void **state)
{
	struct replica_inplace_result r;
	struct conn c;

	(void)state;
	make("WAL", 4096);
	c = conn_open(live);
	ASK(&c, "INSERT INTO later VALUES(2); SELECT count(*) FROM later", "2");
	conn_close(&c, SIGKILL);
	must(2000, &r);
	sql(live, DIGEST, "300:36000.0:old:old");
	sql(live, "PRAGMA integrity_check", "ok");
	teardown(NULL);
	setup(NULL);

	make("DELETE", 4096);
	c = conn_open(live);
	ask(&c, "PRAGMA cache_size=5");
	ASK(&c, "BEGIN; UPDATE t SET v=hex(randomblob(900))", "ok"); /* spills: the database is half written */
	conn_close(&c, SIGKILL);
	{
		char p[80];

		snprintf(p, sizeof(p), "%s-journal", live);
		assert_int_equal(access(p, F_OK), 0);
	}
	must(2000, &r);
	sql(live, DIGEST, "300:36000.0:old:old");
	sql(live, "PRAGMA integrity_check", "ok");
}

/* A header of the wal-index that is torn, as by a kill between its two copies: the next writer recovers. */
static void test_torn_index(void **state)
{
	struct replica_inplace_result r;
	struct conn c;
	uint8_t b;
	char p[80];
	int fd;

	(void)state;
	make("WAL", 4096);
	c = conn_open(live);
	ASK(&c, "UPDATE t SET v='x' WHERE id=1; INSERT INTO later VALUES(2); SELECT count(*) FROM later", "2");
	snprintf(p, sizeof(p), "%s-shm", live);
	fd = open(p, O_RDWR);
	assert_int_equal(pread(fd, &b, 1, 16), 1);
	b ^= 1;
	assert_int_equal(pwrite(fd, &b, 1, 16), 1);
	close(fd);
	must(2000, &r);
	index_is_sqlites();
	ASK(&c, DIGEST, "300:36000.0:old:old");
	ASK(&c, "INSERT INTO t VALUES(7777,'old',''); PRAGMA integrity_check", "ok");
	conn_close(&c, 0);
}

/* More frames than the first regions of the wal-index hold, before and by the restore; then a checkpoint of it all. */
static void test_many_frames(void **state)
{
	struct replica_inplace_result r;
	struct conn c, reader;

	(void)state;
	make("WAL", 512);
	c = conn_open(other);
	ask(&c, "PRAGMA page_size=512");
	ASK(&c, "CREATE TABLE t(id INTEGER PRIMARY KEY, tag TEXT, v TEXT)", "ok");
	ASK(&c, FILL("old", 20000), "ok");
	(void)unlink(restored);
	{
		char text[128];

		snprintf(text, sizeof(text), "VACUUM INTO '%s'", restored);
		ASK(&c, text, "ok");
	}
	conn_close(&c, 0);
	(void)unlink(other);
	c = conn_open(live);
	ask(&c, "PRAGMA wal_autocheckpoint=0");
	for (int i = 0; i < 5; i++)
		ASK(&c, "INSERT INTO t SELECT NULL, 'new', hex(randomblob(400)) FROM t WHERE id<1500", "ok");
	reader = conn_open(live);
	ask(&reader, "BEGIN; SELECT count(*) FROM t");
	must(5000, &r);
	assert_true(r.changed_pages > 4200);
	index_is_sqlites();
	ASK(&c, DIGEST, "20000:2400000.0:old:old");
	ASK(&c, "INSERT INTO t SELECT NULL, 'old', hex(randomblob(60)) FROM t", "ok");
	index_is_sqlites();
	ASK(&reader, "SELECT max(tag) FROM t", "new");
	ASK(&reader, "COMMIT", "ok");
	ASK(&reader, DIGEST, "40000:4800000.0:old:old");
	ASK(&c, "PRAGMA wal_checkpoint(TRUNCATE)", "0");
	must(5000, &r); /* into an empty WAL */
	index_is_sqlites();
	ASK(&reader, DIGEST, "20000:2400000.0:old:old");
	ASK(&c, "PRAGMA wal_checkpoint(TRUNCATE)", "0");
	ASK(&c, "PRAGMA integrity_check", "ok");
	ASK(&reader, "PRAGMA integrity_check", "ok");
	conn_close(&c, 0);
	conn_close(&reader, 0);
}

static void test_busy(void **state)
{
	static const char *const names[] = {"WAL", "DELETE"};

	(void)state;
	for (int i = 0; i < 2; i++) {
		struct replica_inplace_result r;
		struct fz_err err = {0};
		struct conn c;

		make(names[i], 4096);
		c = conn_open(live);
		ASK(&c, "BEGIN IMMEDIATE; INSERT INTO later VALUES(2)", "ok");
		assert_int_equal(replica_inplace(restored, live, 30, &r, &err), -FZ_EBUSY);
		ASK(&c, "COMMIT; SELECT count(*) FROM later", "2");
		if (i == 1) { /* in rollback mode a reader is in the way too, and is left alone */
			ASK(&c, "BEGIN; SELECT count(*) FROM t", "400");
			assert_int_equal(replica_inplace(restored, live, 30, &r, &err), -FZ_EBUSY);
			ASK(&c, "SELECT count(*) FROM later", "2");
			ASK(&c, "COMMIT", "ok");
		}
		must(2000, &r);
		ASK(&c, DIGEST, "300:36000.0:old:old");
		conn_close(&c, 0);
		teardown(NULL);
		setup(NULL);
	}
}

static void test_refused(void **state)
{
	struct replica_inplace_result r;
	struct fz_err err = {0};

	(void)state;
	make("DELETE", 4096);
	sql(restored, "PRAGMA page_size=8192; VACUUM; SELECT 1", "1");
	assert_int_equal(replica_inplace(restored, live, 30, &r, &err), -FZ_EUSAGE);
	assert_non_null(strstr(err.text, "8192"));
	sql(live, "SELECT count(*) FROM later", "1");
	assert_int_equal(truncate(restored, 4097), 0);
	assert_true(replica_inplace(restored, live, 30, &r, &err) < 0);
	assert_int_equal(replica_inplace("/nonexistent", live, 30, &r, &err), -ENOENT);
	assert_int_equal(replica_inplace(restored, "/nonexistent", 30, &r, &err), -ENOENT);
}

/* An empty live file (the application created it and wrote nothing) takes everything. */
static void test_empty_live(void **state)
{
	struct replica_inplace_result r;

	(void)state;
	make("WAL", 4096);
	(void)unlink(live);
	close(open(live, O_CREAT | O_RDWR, 0644));
	must(1000, &r);
	sql(live, DIGEST, "300:36000.0:old:old");
	sql(live, "PRAGMA integrity_check", "ok");
}

/* Killed at each call that changes a file: what SQLite then opens is the old state or the new one, whole. */
static void test_killed_anywhere(void **state)
{
	static const struct mode kills[] = {
	        {"WAL",    4096, true },
	        {"DELETE", 4096, false},
	        {"WAL",    512,  true },
	};

	(void)state;
	for (size_t k = 0; k < sizeof(kills) / sizeof(kills[0]); k++) {
		bool old_seen = false, new_seen = false, finished = false;
		struct conn keeper = {0};

		for (long n = 0; !finished; n++) {
			struct replica_inplace_result r;
			struct fz_err err;
			pid_t pid;
			char got[1100];
			int st;

			make(kills[k].name, kills[k].page_size);
			if (n %
			    2) { /* every second time somebody else is attached, so that no one discards the index */
				keeper = conn_open(live);
				ask(&keeper, "SELECT count(*) FROM later");
			}
			pid = fork();
			if (!pid) {
				kill_at = n;
				_exit(replica_inplace(restored, live, 2000, &r, &err) == 0 ? 0 : 1);
			}
			assert_int_equal(waitpid(pid, &st, 0), pid);
			finished = WIFEXITED(st);
			if (finished)
				assert_int_equal(WEXITSTATUS(st), 0);
			{
				struct conn c = conn_open(live);

				ASK(&c, "PRAGMA integrity_check", "ok");
				strcpy(got, ask(&c, DIGEST));
				if (!strcmp(got, "300:36000.0:old:old"))
					new_seen = true;
				else if (!strcmp(got, "400:48000.0:new:new"))
					old_seen = true;
				else
					fail_msg("killed at call %ld of %s: %s", n, kills[k].name, got);
				assert_false(finished && got[0] != '3');
				ASK(&c, "INSERT INTO t VALUES(5555,'z','z'); SELECT count(*) FROM t WHERE tag='z'",
				    "1");
				ASK(&c, "PRAGMA integrity_check", "ok");
				conn_close(&c, 0);
			}
			if (n % 2) {
				ASK(&keeper, "PRAGMA integrity_check", "ok");
				ASK(&keeper, "SELECT count(*) FROM t WHERE tag='z'", "1");
				conn_close(&keeper, 0);
			}
			teardown(NULL);
			setup(NULL);
		}
		assert_true(old_seen && new_seen);
	}
}

/* A directory in which nothing may change: one file in it, and what that holds. */
static uint8_t *all_of(const char *path, size_t *n)
{
	struct dirent *e;
	unsigned files = 0;
	DIR *d = opendir(path);

	assert_non_null(d);
	while ((e = readdir(d)))
		files += e->d_name[0] != '.';
	closedir(d);
	assert_int_equal(files, 1);
	return slurp(path, "/live.db", n);
}

/* Whoever owns the directory above puts a link to a place of somebody else there, at any moment: all goes on in the directory that was
 * opened, also what SQLite does, and nothing in that place. */
static void test_swapped_anywhere(void **state)
{
	static const struct swap {
		const char *mode;
		bool killed; /* an application left its journal, or its WAL */
	} swaps[] = {
	        {"WAL",    false},
	        {"WAL",    true },
	        {"DELETE", false},
	        {"DELETE", true },
	};
	char secret[40], victim[64];
	struct fz_err err = {0};

	(void)state;
	for (size_t k = 0; k < sizeof(swaps) / sizeof(swaps[0]); k++) {
		bool finished = false;
		long n;

		for (n = 0; !finished; n++) {
			size_t before_bytes, after_bytes;
			uint8_t *before, *after;
			struct conn c;
			pid_t pid;
			int st, dirfd;

			snprintf(swapped, sizeof(swapped), "%s/app", dir);
			snprintf(link_there, sizeof(link_there), "%s/link", dir);
			snprintf(secret, sizeof(secret), "%s/secret", dir);
			snprintf(victim, sizeof(victim), "%s/live.db", secret);
			snprintf(live, sizeof(live), "%s/live.db", swapped);
			assert_int_equal(mkdir(swapped, 0700) + mkdir(secret, 0700) + symlink(secret, link_there), 0);
			make(swaps[k].mode, 4096);
			sql(victim, "CREATE TABLE victim(x); SELECT count(*) FROM victim", "0");
			before = all_of(secret, &before_bytes);
			if (swaps[k].killed) {
				c = conn_open(live);
				ask(&c, "PRAGMA cache_size=5");
				ASK(&c, "BEGIN; UPDATE t SET v=hex(randomblob(900))", "ok");
				conn_close(&c, SIGKILL);
			}
			dirfd = open(swapped, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
			assert_true(dirfd >= 0);
			pid = fork();
			if (!pid) {
				struct replica_inplace_result r;
				int rc;

				swap_at = n;
				rc = replica_inplace_guarded(restored, live, &dirfd, 2000, NULL, NULL, &r, &err);
				if (rc < 0)
					print_error("%s, swapped at %ld: %s\n", swaps[k].mode, n, err.text);
				_exit(rc < 0 ? 1 : swap_at >= 0 ? 2 : 0);
			}
			assert_int_equal(waitpid(pid, &st, 0), pid);
			assert_true(WIFEXITED(st) && WEXITSTATUS(st) != 1);
			finished = WEXITSTATUS(st) == 2;
			close(dirfd);
			after = all_of(secret, &after_bytes);
			assert_int_equal(before_bytes, after_bytes);
			assert_memory_equal(before, after, after_bytes);
			free(before);
			free(after);
			snprintf(live, sizeof(live), "%s/live.db", finished ? swapped : link_there);
			sql(live, DIGEST, "300:36000.0:old:old");
			sql(live, "PRAGMA integrity_check", "ok");
			teardown(NULL);
			setup(NULL);
		}
		assert_true(n > 6);
	}
}

/* Links in the place of what belongs to the database are followed neither by SQLite nor by us. */
static void test_links_beside(void **state)
{
	static const struct beside {
		const char *mode, *suffix;
	} beside[] = {
	        {"WAL",    "-wal"    },
	        {"WAL",    "-shm"    },
	        {"DELETE", "-journal"},
	        {"DELETE", ""        },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(beside) / sizeof(beside[0]); i++) {
		struct replica_inplace_result r;
		char secret[40], name[80];
		struct fz_err err = {0};
		struct stat st;
		int dirfd;

		make(beside[i].mode, 4096);
		snprintf(secret, sizeof(secret), "%s/secret", dir);
		snprintf(name, sizeof(name), "%s%s", live, beside[i].suffix);
		assert_true(rename(name, secret) == 0 || errno == ENOENT);
		assert_int_equal(symlink(secret, name), 0);
		dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		assert_true(replica_inplace_guarded(restored, live, &dirfd, 100, NULL, NULL, &r, &err) < 0);
		close(dirfd);
		assert_true(*beside[i].suffix ? stat(secret, &st) < 0 : stat(secret, &st) == 0);
		teardown(NULL);
		setup(NULL);
	}
}

/* Readers and a writer at full speed while states change place under them: never a mixture. */
static void test_busy_neighbours(void **state)
{
	static const struct mode both[] = {
	        {"WAL",    4096, true },
	        {"DELETE", 4096, false},
	};

	(void)state;
	for (size_t k = 0; k < 2; k++) {
		struct replica_inplace_result r;
		pid_t pid[3];
		char b[64];
		int st, stop[2];

		make(both[k].name, both[k].page_size);
		assert_int_equal(pipe2(stop, O_NONBLOCK), 0);
		for (int i = 0; i < 3; i++) {
			pid[i] = fork();
			if (pid[i])
				continue;
			/* 0, 1: readers; 2: a writer that retags all rows in one transaction and adds one */
			sqlite3 *db;
			char c;
			long rounds = 0;

			close(stop[1]);
			if (sqlite3_open(live, &db) != SQLITE_OK)
				_exit(2);
			sqlite3_busy_timeout(db, 20000);
			/* the writer checkpoints and restarts the WAL all the time */
			sqlite3_exec(db, i == 2 ? "PRAGMA wal_autocheckpoint=5" : "PRAGMA wal_autocheckpoint=0", NULL,
			             NULL, NULL);
			while (read(stop[0], &c, 1) < 0 || rounds < 3) {
				sqlite3_stmt *q = NULL;
				int rc;

				rounds++;
				if (i == 2) {
					rc = sqlite3_exec(
					        db,
					        "UPDATE t SET tag='w'||(abs(random())%1000)||'x' WHERE 0; "
					        "BEGIN IMMEDIATE; UPDATE t SET tag=(SELECT max(tag) FROM t)||'+' "
					        "WHERE length(tag)<40; UPDATE t SET tag='w'; COMMIT",
					        NULL, NULL, NULL);
					if (rc != SQLITE_OK && rc != SQLITE_BUSY)
						_exit(3);
					if (rc == SQLITE_BUSY)
						sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
					continue;
				}
				rc = sqlite3_prepare_v2(db, "SELECT count(DISTINCT tag), count(*) FROM t NOT INDEXED",
				                        -1, &q, NULL);
				if (rc == SQLITE_OK)
					rc = sqlite3_step(q);
				if (rc == SQLITE_ROW && sqlite3_column_int(q, 0) != 1)
					_exit(4);
				if (rc == SQLITE_ROW && sqlite3_column_int(q, 1) != 300 &&
				    sqlite3_column_int(q, 1) != 400)
					_exit(5);
				if (rc != SQLITE_ROW && rc != SQLITE_BUSY)
					_exit(6);
				sqlite3_finalize(q);
			}
			sqlite3_close(db);
			_exit(0);
		}
		close(stop[0]);
		for (int i = 0; i < 30; i++)
			must(20000, &r);
		close(stop[1]);
		for (int i = 0; i < 3; i++) {
			assert_int_equal(waitpid(pid[i], &st, 0), pid[i]);
			assert_true(WIFEXITED(st));
			assert_int_equal(WEXITSTATUS(st), 0);
		}
		must(2000, &r);
		snprintf(b, sizeof(b), "300:36000.0:old:old");
		sql(live, DIGEST, b);
		sql(live, "PRAGMA integrity_check", "ok");
		teardown(NULL);
		setup(NULL);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(test_open_connections, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_nobody_there, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_after_a_crash, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_torn_index, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_many_frames, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_busy, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_empty_live, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_killed_anywhere, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_swapped_anywhere, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_links_beside, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_busy_neighbours, setup, teardown),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
