#include "replica/inplace.h"

#include "base/clock.h"
#include "base/cursor.h"
#include "base/file.h"
#include "ltx/ltx.h"
#include "replica/lock.h"
#include "replica/opendb.h"
#include "replica/rollback.h"
#include "replica/walapply.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* offsets in page 1 */
#define P1_PAGE_SIZE 16
#define P1_MODE      18 /* two bytes: 1 rollback, 2 WAL */
#define P1_CHANGE    24
#define P1_PAGES     28
#define P1_SCHEMA    40
#define P1_VALID_FOR 92

#define PIECE_MS 50 /* a wait for a lock looks so often whether it is cancelled */

struct job {
	const char *restored, *live;
	int rfd, dbfd, dirfd;
	const char *path;          /* its last element is the name in dirfd: WAL and journal are named after it */
	char *resolved;            /* path where the caller gave no directory */
	uint32_t page_size, pages; /* of the restored file */
	uint64_t deadline_ns;
	const volatile bool *cancel;         /* NULL = none */
	uint8_t *want, *have;                /* a page each */
	struct replica_inplace_guard *guard; /* NULL = none */
	struct replica_inplace_result *result;
};

static int header_of(int fd, const char *path, uint32_t *page_size, uint64_t *size, uint8_t head[static 100],
                     struct fz_err *err)
{
	struct stat st;
	ssize_t n;

	if (fstat(fd, &st) < 0)
		return fz_fail_errno(err, errno, "reading %s", path);
	*size = (uint64_t)st.st_size;
	*page_size = 0;
	if (!st.st_size)
		return 0;
	n = fz_pread(fd, head, 100, 0);
	if (n < 0)
		return fz_fail_errno(err, (int)-n, "reading %s", path);
	if (n < 100 || memcmp(head, "SQLite format 3", 16))
		return fz_fail(err, FZ_EUSAGE, "%s is no plain SQLite database: restore it into a file instead", path);
	*page_size = fz_be16(head + P1_PAGE_SIZE);
	if (*page_size == 1)
		*page_size = 65536;
	if (!ltx_page_size_ok(*page_size))
		return fz_fail(err, FZ_ECORRUPT, "%s: page size %u", path, *page_size);
	return 0;
}

static bool cancelled(const struct job *j)
{
	return j->cancel && *j->cancel;
}

/* The end of a piece of waiting. */
static uint64_t soon(const struct job *j)
{
	uint64_t at = fz_mono_ns() + PIECE_MS * UINT64_C(1000000);

	return at < j->deadline_ns ? at : j->deadline_ns;
}

/* The writer's lock is held, nothing is written yet. */
static int locked(struct job *j, struct fz_err *err)
{
	if (cancelled(j))
		return fz_fail(err, ECANCELED, "interrupted");
	return j->guard ? j->guard->locked(j->guard, err) : 0;
}

/* Lets SQLite itself play back a hot journal. Before our own descriptors exist: its POSIX locks and ours must not meet
 * in one process. No checkpoint: that is the applications' business. -EAGAIN: try again, as after success. */
static int play_back(struct job *j, struct fz_err *err)
{
	sqlite3 *db = NULL;
	int rc = -EAGAIN;

	if (replica_opendb(&db, &j->dirfd, j->path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX) == SQLITE_OK) {
		sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
		sqlite3_busy_timeout(db, PIECE_MS);
	}
	if (sqlite3_exec(db, "SELECT count(*) FROM sqlite_master", NULL, NULL, NULL) != SQLITE_OK &&
	    sqlite3_errcode(db) != SQLITE_BUSY)
		rc = fz_fail(err, FZ_ECORRUPT, "playing back the journal of %s: %s", j->live, sqlite3_errmsg(db));
	sqlite3_close(db);
	return rc;
}

static int read_want(struct job *j, uint32_t pgno, struct fz_err *err)
{
	ssize_t n = fz_pread(j->rfd, j->want, j->page_size, (off_t)(pgno - 1) * j->page_size);

	if (n == (ssize_t)j->page_size)
		return 0;
	return n < 0 ? fz_fail_errno(err, (int)-n, "reading %s", j->restored)
	             : fz_fail(err, FZ_ETRUNCATED, "%s ends inside page %u", j->restored, pgno);
}

static uint32_t above(const uint8_t *a, const uint8_t *b, unsigned off)
{
	uint32_t x = fz_be32(a + off), y = fz_be32(b + off);

	return (x > y ? x : y) + 1;
}

/* Page 1 as it will be: the live journal mode stays; schema cookie and change counter move above every value that any
 * connection may have seen, so that all drop their caches and parse the schema anew. */
static void forward(struct job *j, const uint8_t *live_page1, bool live_empty)
{
	uint32_t change = above(j->want, live_page1, P1_CHANGE);

	if (!live_empty)
		memcpy(j->want + P1_MODE, live_page1 + P1_MODE, 2);
	else
		memset(j->want + P1_MODE, 1, 2); /* an empty file is in rollback mode */
	fz_put32(j->want + P1_SCHEMA, above(j->want, live_page1, P1_SCHEMA));
	fz_put32(j->want + P1_CHANGE, change);
	fz_put32(j->want + P1_VALID_FOR, change);
	fz_put32(j->want + P1_PAGES, j->pages);
}

/* ---- WAL mode ---- */
static int into_wal(struct job *j, struct fz_err *err)
{
	struct replica_wal *w = NULL;
	uint32_t changed = 0, live;
	int rc;

	rc = replica_wal_attach(&w, j->dbfd, -1, j->dirfd, basename(j->path), j->page_size, soon(j), err);
	if (rc == 0)
		rc = replica_wal_begin(w, soon(j), err);
	if (rc == -FZ_EBUSY)
		rc = -EAGAIN;
	if (rc == 0)
		rc = locked(j, err);
	if (rc < 0)
		goto out;
	live = replica_wal_pages(w);
	for (uint32_t p = 1; rc == 0 && p <= j->pages; p++) {
		if (p == ltx_lock_page(j->page_size))
			continue;
		rc = read_want(j, p, err);
		if (rc == 0)
			rc = replica_wal_read(w, p, j->have, err);
		if (rc < 0)
			break;
		if (p == 1)
			forward(j, j->have, false);
		if (p <= live && !memcmp(j->want, j->have, j->page_size))
			continue;
		rc = replica_wal_write(w, p, j->want, err);
		changed++;
	}
	if (rc == 0)
		rc = replica_wal_commit(w, j->pages, err);
	if (rc == 0)
		*j->result = (struct replica_inplace_result){changed, j->pages, true};
out:
	replica_wal_detach(w);
	return rc;
}

/* ---- rollback mode ---- */
static int read_have(struct job *j, uint32_t pgno, struct fz_err *err)
{
	ssize_t n = fz_pread(j->dbfd, j->have, j->page_size, (off_t)(pgno - 1) * j->page_size);

	if (n < 0)
		return fz_fail_errno(err, (int)-n, "reading page %u of %s", pgno, j->live);
	memset(j->have + n, 0, j->page_size - (size_t)n);
	return 0;
}

static int save_old(struct job *j, struct replica_rollback *r, uint8_t *changed, uint32_t *n, uint8_t *page1,
                    struct fz_err *err)
{
	uint32_t last = j->pages > r->old_pages ? j->pages : r->old_pages;
	int rc = 0;

	for (uint32_t p = 1; rc == 0 && p <= last; p++) {
		bool differs = true;

		if (p == ltx_lock_page(j->page_size))
			continue;
		if (p <= r->old_pages)
			rc = read_have(j, p, err);
		if (rc == 0 && p <= j->pages)
			rc = read_want(j, p, err);
		if (rc < 0)
			break;
		if (p == 1) {
			if (!r->old_pages)
				memset(j->have, 0, j->page_size);
			forward(j, j->have, !r->old_pages);
			memcpy(page1, j->want, j->page_size);
		} else if (p <= r->old_pages && p <= j->pages) {
			differs = memcmp(j->want, j->have, j->page_size) != 0;
		}
		if (!differs)
			continue;
		if (p <= j->pages) {
			changed[p / 8] |= (uint8_t)(1u << p % 8);
			(*n)++;
		}
		if (p <= r->old_pages)
			rc = replica_rollback_save(r, p, j->have, err);
	}
	return rc;
}

static int into_rollback(struct job *j, struct fz_err *err)
{
	struct replica_rollback r = {.jfd = -1};
	uint8_t *changed = calloc((size_t)j->pages / 8 + 1, 1), *page1 = malloc(j->page_size);
	uint32_t n = 0;
	int rc;

	rc = replica_rollback_begin(&r, j->dbfd, j->dirfd, j->path, j->page_size, j->deadline_ns, err);
	if (rc == 0 && (!changed || !page1))
		rc = fz_fail_errno(err, ENOMEM, "restoring %s", j->live);
	r.cancel = j->cancel;
	if (rc == 0)
		rc = locked(j, err);
	if (rc == 0)
		rc = save_old(j, &r, changed, &n, page1, err);
	if (rc == 0)
		rc = replica_rollback_exclusive(&r, err);
	for (uint32_t p = 1; rc == 0 && p <= j->pages; p++) {
		const uint8_t *data = p == 1 ? page1 : j->want;

		if (!(changed[p / 8] & (1u << p % 8)))
			continue;
		if (p > 1)
			rc = read_want(j, p, err);
		if (rc == 0)
			rc = fz_pwrite(j->dbfd, data, j->page_size, (off_t)(p - 1) * j->page_size);
		if (rc < 0)
			rc = fz_fail_errno(err, -rc, "writing page %u of %s", p, j->live);
	}
	if (rc == 0)
		rc = replica_rollback_commit(&r, j->pages, err);
	if (rc == 0)
		*j->result = (struct replica_inplace_result){n, j->pages, false};
	replica_rollback_end(&r);
	free(changed);
	free(page1);
	return rc;
}

/* One try: -FZ_EORDER when a hot journal must be played back first, -EAGAIN while others hold a lock. */
static int attempt(struct job *j, struct fz_err *err)
{
	uint8_t head[100];
	uint32_t page_size;
	uint64_t size;
	struct stat st;
	int rc;

	j->dbfd = openat(j->dirfd, basename(j->path), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (j->dbfd < 0 || fstat(j->dbfd, &st) < 0)
		return fz_fail_errno(err, errno, "cannot open %s", j->live);
	if (!S_ISREG(st.st_mode))
		return fz_fail(err, FZ_EUSAGE, "%s is not a regular file", j->live);
	rc = replica_lock_shared(j->dbfd, soon(j));
	if (rc < 0)
		return rc == -EAGAIN ? rc : fz_fail_errno(err, -rc, "locking %s", j->live);
	rc = replica_rollback_hot(j->dbfd, j->dirfd, j->path, err);
	if (rc)
		return rc < 0 ? rc : -FZ_EORDER;
	/* SHARED is held: neither journal mode nor page size can change from here on */
	rc = header_of(j->dbfd, j->live, &page_size, &size, head, err);
	if (rc < 0)
		return rc;
	if (page_size && page_size != j->page_size)
		return fz_fail(
		        err, FZ_EUSAGE,
		        "%s has pages of %u bytes now and had %u then: stop the application and restore into the file",
		        j->live, page_size, j->page_size);
	return page_size && head[P1_MODE + 1] == 2 ? into_wal(j, err) : into_rollback(j, err);
}

int replica_inplace(const char *restored, const char *live, int64_t wait_ms, struct replica_inplace_result *result,
                    struct fz_err *err)
{
	return replica_inplace_guarded(restored, live, NULL, wait_ms, NULL, NULL, result, err);
}

static int open_dir(struct job *j, const int *dir, struct fz_err *err)
{
	char *slash;

	if (dir) {
		j->path = j->live;
		j->dirfd = fcntl(*dir, F_DUPFD_CLOEXEC, 0);
	} else if ((j->path = j->resolved = realpath(j->live, NULL)) && (slash = strrchr(j->resolved, '/'))) {
		*slash = 0;
		j->dirfd = open(*j->resolved ? j->resolved : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		*slash = '/';
	}
	return j->dirfd < 0 ? fz_fail_errno(err, errno, "cannot open %s", j->live) : 0;
}

int replica_inplace_guarded(const char *restored, const char *live, const int *dir, int64_t wait_ms,
                            const volatile bool *cancel, struct replica_inplace_guard *guard,
                            struct replica_inplace_result *result, struct fz_err *err)
{
	struct job j = {.restored = restored,
	                .live = live,
	                .rfd = -1,
	                .dbfd = -1,
	                .dirfd = -1,
	                .cancel = cancel,
	                .guard = guard,
	                .result = result};
	uint8_t head[100];
	uint64_t size;
	int rc;

	memset(result, 0, sizeof(*result));
	j.deadline_ns = fz_mono_ns() + (uint64_t)(wait_ms > 0 ? wait_ms : 0) * 1000000u;
	rc = open_dir(&j, dir, err);
	if (rc < 0)
		goto out;
	j.rfd = open(restored, O_RDONLY | O_CLOEXEC);
	if (j.rfd < 0) {
		rc = fz_fail_errno(err, errno, "cannot open %s", restored);
		goto out;
	}
	rc = header_of(j.rfd, restored, &j.page_size, &size, head, err);
	if (rc == 0 && (!size || size % j.page_size || size / j.page_size > UINT32_MAX - 1))
		rc = fz_fail(err, FZ_EUSAGE, "%s is no complete database", restored);
	if (rc < 0)
		goto out;
	j.pages = (uint32_t)(size / j.page_size);
	j.want = malloc(j.page_size);
	j.have = malloc(j.page_size);
	if (!j.want || !j.have) {
		rc = fz_fail_errno(err, ENOMEM, "restoring %s", live);
		goto out;
	}
	for (;;) {
		bool late = fz_mono_ns() >= j.deadline_ns;

		rc = attempt(&j, err);
		fz_close(&j.dbfd);
		if (rc == -FZ_EORDER)
			rc = play_back(&j, err);
		if (rc != -EAGAIN || cancelled(&j) || late)
			break;
		nanosleep(&(struct timespec){0, (long)(50000 + fz_mono_ns() / 64 % 200000)}, NULL);
	}
	if ((rc == -EAGAIN || rc == -FZ_EBUSY) && cancelled(&j))
		rc = fz_fail(err, ECANCELED, "interrupted");
	else if (rc == -EAGAIN)
		rc = fz_fail(err, FZ_EBUSY, "%s is locked by an application", live);
out:
	fz_close(&j.dbfd);
	fz_close(&j.rfd);
	fz_close(&j.dirfd);
	free(j.resolved);
	free(j.want);
	free(j.have);
	return rc;
}
