#include "replica/backup.h"

#include "base/clock.h"
#include "base/cursor.h"
#include "base/file.h"
#include "replica/opendb.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define STEP_PAGES 512
#define RESTARTS   3

/* offsets in page 1 */
#define P1_PAGE_SIZE 16
#define P1_MODE      18

/* How long locks are waited for. */
struct patience {
	uint64_t deadline_ns;
	const volatile bool *cancel; /* NULL = none */
};

static bool cancelled(const struct patience *p)
{
	return p->cancel && *p->cancel;
}

static int wait_on(void *arg, int times)
{
	const struct patience *p = arg;

	if (cancelled(p) || fz_mono_ns() >= p->deadline_ns)
		return 0;
	nanosleep(&(struct timespec){0, 5000000}, NULL);
	return 1;
}

static int look(const char *file, const int *dir, struct replica_backup_result *r, struct fz_err *err)
{
	int fd = dir ? openat(*dir, basename(file), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)
	             : open(file, O_RDONLY | O_CLOEXEC);
	uint8_t head[100];
	ssize_t n;

	if (fd < 0)
		return fz_fail_errno(err, errno, "cannot open %s", file);
	n = fz_pread(fd, head, sizeof(head), 0);
	fz_close(&fd);
	if (n < 0)
		return fz_fail_errno(err, (int)-n, "reading %s", file);
	if (n < (ssize_t)sizeof(head) || memcmp(head, "SQLite format 3", 16) != 0)
		return fz_fail(err, FZ_EUSAGE, "%s is %s", file, n ? "no plain SQLite database" : "empty");
	r->page_size = fz_be16(head + P1_PAGE_SIZE);
	if (r->page_size == 1)
		r->page_size = 65536;
	return 0;
}

static int sqlite_fail(sqlite3 *db, int code, const char *file, struct fz_err *err)
{
	switch (code & 0xff) {
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return fz_fail(err, FZ_EBUSY, "%s is locked by an application", file);
	case SQLITE_FULL:
		return fz_fail(err, ENOSPC, "no room for the copy of %s", file);
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		return fz_fail(err, FZ_ECORRUPT, "%s: %s", file, sqlite3_errmsg(db));
	case SQLITE_NOMEM:
		return fz_fail(err, ENOMEM, "reading %s", file);
	default:
		return fz_fail(err, EIO, "%s: %s", file, db ? sqlite3_errmsg(db) : sqlite3_errstr(code));
	}
}

/* For writing where that is allowed: a journal that a killed application left is played back, as by every application that comes. Only
 * the -shm is written otherwise; no checkpoint. */
static int open_source(sqlite3 **db, const char *file, const int *dir, struct patience *wait,
                       struct replica_backup_result *r, struct fz_err *err)
{
	sqlite3_stmt *st = NULL;
	int rc = replica_opendb(db, dir, file, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX);

	if (rc != SQLITE_OK) {
		sqlite3_close(*db);
		rc = replica_opendb(db, dir, file, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX);
	}
	if (rc == SQLITE_OK) {
		sqlite3_db_config(*db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
		sqlite3_busy_handler(*db, wait_on, wait);
		rc = sqlite3_prepare_v2(*db, "PRAGMA journal_mode", -1, &st, NULL);
	}
	if (rc == SQLITE_OK)
		rc = sqlite3_step(st) == SQLITE_ROW ? SQLITE_OK : sqlite3_errcode(*db);
	if (rc == SQLITE_OK)
		r->wal = !sqlite3_stricmp((const char *)sqlite3_column_text(st, 0), "wal");
	sqlite3_finalize(st);
	return rc == SQLITE_OK ? 0 : sqlite_fail(*db, rc, file, err);
}

static int hold(sqlite3 *db)
{
	return sqlite3_exec(db, "BEGIN; SELECT count(*) FROM sqlite_master", NULL, NULL, NULL);
}

static int copy_pages(sqlite3 *from, sqlite3 *to, const char *file, const struct patience *wait,
                      struct replica_progress *p, struct replica_backup_result *r, struct fz_err *err)
{
	sqlite3_backup *b = sqlite3_backup_init(to, "main", from, "main");
	int rc = b ? r->wal ? hold(from) : SQLITE_OK : sqlite3_errcode(to), left = 0;
	unsigned restarts = 0;

	while (rc == SQLITE_OK) {
		uint64_t all, done;

		if (cancelled(wait)) {
			sqlite3_backup_finish(b);
			return fz_fail(err, ECANCELED, "interrupted");
		}
		rc = sqlite3_backup_step(b, STEP_PAGES);
		if ((rc == SQLITE_BUSY || rc == SQLITE_LOCKED) && fz_mono_ns() < wait->deadline_ns) {
			nanosleep(&(struct timespec){0, 20000000}, NULL);
			rc = SQLITE_OK;
			continue;
		}
		all = (uint64_t)sqlite3_backup_pagecount(b);
		done = all - (uint64_t)sqlite3_backup_remaining(b);
		if (p)
			p->tick(p, done * r->page_size, all * r->page_size);
		if (rc == SQLITE_OK && left && sqlite3_backup_remaining(b) >= left && ++restarts == RESTARTS)
			rc = hold(from); /* it would never end beside this writer */
		left = sqlite3_backup_remaining(b);
		r->pages = (uint32_t)all;
	}
	if (b)
		sqlite3_backup_finish(b);
	return rc == SQLITE_DONE ? 0 : sqlite_fail(rc == SQLITE_FULL ? to : from, rc, file, err);
}

/* The copy begins its life in the journal mode of the file. */
static int set_mode(const char *copy, bool wal, struct fz_err *err)
{
	uint8_t mode[2] = {wal ? 2 : 1, wal ? 2 : 1};
	int fd = open(copy, O_RDWR | O_CLOEXEC), rc;

	rc = fd < 0 ? -errno : fz_pwrite(fd, mode, sizeof(mode), P1_MODE);
	fz_close(&fd);
	return rc < 0 ? fz_fail_errno(err, -rc, "writing %s", copy) : 0;
}

int replica_backup(const char *file, const int *dir, const char *copy, int64_t wait_ms, struct replica_progress *p,
                   const volatile bool *cancel, struct replica_backup_result *result, struct fz_err *err)
{
	struct patience wait = {fz_mono_ns() + (uint64_t)(wait_ms > 0 ? wait_ms : 0) * 1000000u, cancel};
	sqlite3 *from = NULL, *to = NULL;
	int rc;

	memset(result, 0, sizeof(*result));
	rc = look(file, dir, result, err);
	if (rc == 0)
		rc = open_source(&from, file, dir, &wait, result, err);
	if (rc == 0 &&
	    (sqlite3_open_v2(copy, &to, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK ||
	     sqlite3_exec(to, "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA locking_mode=EXCLUSIVE", NULL,
	                  NULL, NULL) != SQLITE_OK))
		rc = sqlite_fail(to, sqlite3_errcode(to), copy, err);
	if (rc == 0)
		rc = copy_pages(from, to, file, &wait, p, result, err);
	if (rc == -FZ_EBUSY && cancelled(&wait))
		rc = fz_fail(err, ECANCELED, "interrupted");
	sqlite3_close(to);
	sqlite3_close(from);
	if (rc == 0)
		rc = replica_integrity(copy, cancel, err);
	if (rc == -FZ_EVERIFY || rc == -FZ_ECORRUPT)
		fz_err_prefix(err, "%s is damaged", file);
	if (rc == 0)
		rc = set_mode(copy, result->wal, err);
	return rc;
}
