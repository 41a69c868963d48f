#include "cmd/bench.h"

#include "base/clock.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROW_BYTES 104
#define READ_ROWS 100000
#define BULK_ROWS 200000 /* a second asked for, twice that at most */
#define FSYNCS    51
#define CHILD_MS  100 /* between two looks whether to stop */

const struct cmd_bench_work cmd_bench_works[] = {
        {"WAL/NORMAL, one-row transactions/s",            BENCH_TXN,       "WAL",      "NORMAL"},
        {"WAL/FULL, one-row transactions/s",              BENCH_TXN,       "WAL",      "FULL"  },
        {"DELETE/NORMAL, one-row transactions/s",         BENCH_TXN,       "DELETE",   "NORMAL"},
        {"TRUNCATE/NORMAL, one-row transactions/s",       BENCH_TXN,       "TRUNCATE", "NORMAL"},
        {"bulk insert in one WAL transaction, rows/s",    BENCH_BULK,      "WAL",      "NORMAL"},
        {"autocommit point reads/s, WAL",                 BENCH_READ,      "WAL",      "NORMAL"},
        {"the same, nothing written since it was opened", BENCH_READ_ONLY, "WAL",      "NORMAL"},
        {"autocommit point reads/s, DELETE",              BENCH_READ,      "DELETE",   "NORMAL"},
};
const size_t cmd_bench_n_works = sizeof(cmd_bench_works) / sizeof(cmd_bench_works[0]);

/* What the child tells: err.code 0 and the rate. */
struct result {
	double rate;
	struct fz_err err;
};

struct app {
	sqlite3 *db;
	uint64_t seed;
	struct fz_err *err;
};

static double now(void)
{
	return (double)fz_mono_ns() / 1e9;
}

static uint64_t rnd(struct app *a)
{
	a->seed ^= a->seed << 13;
	a->seed ^= a->seed >> 7;
	a->seed ^= a->seed << 17;
	return a->seed;
}

static int failed(struct app *a, const char *what)
{
	return fz_fail(a->err, EIO, "SQLite: %s: %s", what, sqlite3_errmsg(a->db));
}

static int exec(struct app *a, const char *sql)
{
	return sqlite3_exec(a->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : failed(a, sql);
}

static int insert(struct app *a, sqlite3_stmt *s, int64_t id)
{
	uint64_t row[ROW_BYTES / 8];
	int rc;

	for (size_t i = 0; i < ROW_BYTES / 8; i++)
		row[i] = rnd(a);
	sqlite3_bind_int64(s, 1, id);
	sqlite3_bind_blob(s, 2, row, sizeof(row), SQLITE_TRANSIENT);
	rc = sqlite3_step(s);
	sqlite3_reset(s);
	return rc == SQLITE_DONE ? 0 : failed(a, "insert");
}

static int transactions(struct app *a, sqlite3_stmt *s, double seconds, double *rate)
{
	double start = now(), end = start + seconds;
	int64_t n = 0, first = (int64_t)(start * 1e6);
	int rc = 0;

	while (rc == 0 && now() < end)
		rc = insert(a, s, first + n++);
	*rate = (double)n / (now() - start);
	return rc;
}

static int bulk(struct app *a, sqlite3_stmt *s, double seconds, double *rate)
{
	int64_t rows = (int64_t)(BULK_ROWS * (seconds > 2 ? 2 : seconds)), first;
	double start = now();
	int rc = exec(a, "BEGIN");

	first = (int64_t)(start * 1e6);
	for (int64_t i = 0; rc == 0 && i < rows; i++)
		rc = insert(a, s, first + i);
	if (rc == 0)
		rc = exec(a, "COMMIT");
	*rate = (double)rows / (now() - start);
	return rc;
}

static int open_db(struct app *a, const struct cmd_bench_work *w, const char *path)
{
	char sql[100];
	int rc = 0;

	if (sqlite3_open(path, &a->db) != SQLITE_OK)
		return failed(a, path);
	sqlite3_busy_timeout(a->db, 10000);
	snprintf(sql, sizeof(sql), "PRAGMA journal_mode=%s; PRAGMA synchronous=%s", w->journal, w->sync);
	rc = exec(a, sql);
	return rc < 0 ? rc : exec(a, "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v BLOB)");
}

static int close_db(struct app *a)
{
	int rc = sqlite3_close(a->db) == SQLITE_OK ? 0 : failed(a, "close");

	a->db = NULL;
	return rc;
}

static int prepare(struct app *a, const char *sql, sqlite3_stmt **s)
{
	return sqlite3_prepare_v2(a->db, sql, -1, s, NULL) == SQLITE_OK ? 0 : failed(a, sql);
}

/* By a connection of its own, which leaves no WAL behind. */
static int fill(struct app *a, const struct cmd_bench_work *w, const char *path, int64_t rows)
{
	sqlite3_stmt *s = NULL;
	int rc = open_db(a, w, path);

	if (rc == 0)
		rc = prepare(a, "INSERT OR IGNORE INTO t(id, v) VALUES (?1, ?2)", &s);
	if (rc == 0)
		rc = exec(a, "BEGIN");
	for (int64_t i = 0; rc == 0 && i < rows; i++)
		rc = insert(a, s, i);
	if (rc == 0)
		rc = exec(a, "COMMIT");
	sqlite3_finalize(s);
	return rc < 0 ? rc : close_db(a);
}

/* While its WAL is empty SQLite asks for the file's size at each read transaction: so with a commit before, and without. */
static int point_reads(struct app *a, double seconds, uint64_t rows, bool write, double *rate)
{
	sqlite3_stmt *s = NULL;
	double start, end;
	long n = 0;
	int rc = write ? exec(a, "UPDATE t SET v = randomblob(104) WHERE id = 0") : 0;

	if (rc == 0)
		rc = prepare(a, "SELECT length(v) FROM t WHERE id = ?1", &s);
	start = now();
	for (end = start + seconds; rc == 0 && now() < end;)
		for (int i = 0; rc == 0 && i < 64; i++, n++) {
			sqlite3_bind_int64(s, 1, (int64_t)(rnd(a) % rows));
			if (sqlite3_step(s) != SQLITE_ROW)
				rc = failed(a, "read");
			sqlite3_reset(s);
		}
	*rate = (double)n / (now() - start);
	sqlite3_finalize(s);
	return rc;
}

static int work(const struct cmd_bench_work *w, const char *path, double seconds, struct result *r)
{
	struct app a = {.seed = 88172645463325252u, .err = &r->err};
	bool reads = w->kind == BENCH_READ || w->kind == BENCH_READ_ONLY;
	sqlite3_stmt *s = NULL;
	uint64_t rows = (uint64_t)(READ_ROWS * (seconds < 1 ? seconds : 1));
	int rc = reads ? fill(&a, w, path, (int64_t)rows) : 0;

	if (rc == 0)
		rc = open_db(&a, w, path);
	if (rc == 0 && reads)
		rc = point_reads(&a, seconds, rows, w->kind == BENCH_READ, &r->rate);
	if (rc == 0 && !reads)
		rc = prepare(&a, "INSERT INTO t(id, v) VALUES (?1, ?2)", &s);
	if (rc == 0 && !reads)
		rc = w->kind == BENCH_TXN ? transactions(&a, s, seconds, &r->rate) : bulk(&a, s, seconds, &r->rate);
	sqlite3_finalize(s);
	return rc < 0 ? rc : close_db(&a);
}

static void child(const struct cmd_bench_work *w, const char *path, double seconds, uid_t uid, gid_t gid, int out,
                  pid_t parent)
{
	struct result r = {0};

	if (geteuid() == 0 && uid && (setgroups(0, NULL) < 0 || setgid(gid) < 0 || setuid(uid) < 0))
		fz_fail_errno(&r.err, errno, "becoming user %u", (unsigned)uid);
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* after the change of user, which clears it */
	if (getppid() != parent)
		_exit(1);
	if (r.err.code == 0 && work(w, path, seconds, &r) == 0)
		r.err.code = 0;
	_exit(fz_write(out, &r, sizeof(r)) < 0);
}

int cmd_bench_run(const struct cmd_bench_work *w, const char *path, double seconds, uid_t uid, gid_t gid,
                  const volatile int *stop, double *per_second, struct fz_err *err)
{
	int fds[2] = {-1, -1}, status = 0, rc = 0;
	struct result r = {0};
	pid_t pid, parent = getpid();
	struct pollfd p;

	if (pipe2(fds, O_CLOEXEC) < 0 || (pid = fork()) < 0) {
		rc = fz_fail_errno(err, errno, "starting a child");
		goto out;
	}
	if (pid == 0) {
		fz_close(&fds[0]);
		child(w, path, seconds, uid, gid, fds[1], parent);
	}
	fz_close(&fds[1]);
	p = (struct pollfd){.fd = fds[0], .events = POLLIN};
	while (poll(&p, 1, CHILD_MS) <= 0)
		if (*stop)
			kill(pid, SIGKILL); /* its end closes the pipe */
	if (read(fds[0], &r, sizeof(r)) != (ssize_t)sizeof(r))
		rc = *stop ? fz_fail(err, ECANCELED, "interrupted") : fz_fail(err, FZ_EINTERNAL, "the child died");
	else if (r.err.code) {
		*err = r.err;
		rc = r.err.code;
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
	}
	*per_second = r.rate;
out:
	fz_close(&fds[0]);
	fz_close(&fds[1]);
	return rc;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double cmd_bench_median(double *v, size_t n)
{
	qsort(v, n, sizeof(*v), by_value);
	return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

int cmd_bench_fsync(const char *dir, double *us, struct fz_err *err)
{
	double took[FSYNCS];
	char block[4096], path[PATH_MAX + 32];
	int fd, rc = 0;

	memset(block, 'x', sizeof(block));
	snprintf(path, sizeof(path), "%s/fsync", dir);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return fz_fail_errno(err, errno, "%s", path);
	rc = fz_pwrite(fd, block, sizeof(block), 0);
	if (rc == 0 && fsync(fd) < 0)
		rc = -errno;
	for (size_t i = 0; rc == 0 && i < FSYNCS; i++) {
		uint64_t start = fz_mono_ns();

		rc = fz_pwrite(fd, block, sizeof(block), 0);
		if (rc == 0 && fdatasync(fd) < 0)
			rc = -errno;
		took[i] = (double)(fz_mono_ns() - start) / 1e3;
	}
	fz_close(&fd);
	(void)unlink(path);
	if (rc < 0)
		return fz_fail_errno(err, rc, "%s", path);
	*us = cmd_bench_median(took, FSYNCS);
	return 0;
}
