#include "fs/db.h"

#include "base/clock.h"
#include "base/cursor.h"
#include "base/file.h"
#include "base/log.h"
#include "fs/capture_priv.h"
#include "fs/sweep.h"
#include "ltx/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NOTE_EVERY_NS UINT64_C(60000000000)

struct fs_db *fs_db_new(struct fs_capture *c, const char *name)
{
	struct fs_db *db = calloc(1, sizeof(*db));

	if (!db)
		return NULL;
	db->name = strdup(name);
	if (!db->name) {
		free(db);
		return NULL;
	}
	db->c = c;
	db->fd = db->shm_fd = db->wal.fd = db->rb.fd = -1;
	db->refs = 1;
	fs_pages_init(&db->rb.pages, c ? c->conf.statefd : -1);
	pthread_mutex_init(&db->mu, NULL);
	return db;
}

void fs_db_detach_log(struct fs_db *db)
{
	ltx_sums_close(db->sums);
	fs_dirty_close(db->dirty);
	ltx_log_put(db->log);
	db->sums = NULL;
	db->dirty = NULL;
	db->log = NULL;
}

void fs_db_free(struct fs_db *db)
{
	if (!db)
		return;
	fs_sweep_abort(db);
	fs_db_detach_log(db);
	fz_close(&db->fd);
	fz_close(&db->wal.fd);
	fs_pages_fini(&db->rb.pages);
	pthread_mutex_destroy(&db->mu);
	free(db->name);
	free(db);
}

int fs_db_attach_log(struct fs_db *db, bool create, struct fz_err *err)
{
	struct ltx_log_info info;
	int rc;

	if (db->log)
		return 0;
	rc = ltx_logset_get(db->c->conf.logs, db->name, create, &db->log, err);
	if (rc < 0)
		return rc;
	rc = ltx_sums_open(&db->sums, ltx_log_dirfd(db->log), err);
	if (rc == 0)
		rc = fs_dirty_open(&db->dirty, ltx_log_dirfd(db->log), "fs-dirty", err);
	if (rc == 0 && unlinkat(ltx_log_dirfd(db->log), LTX_LOG_APPLIED, 0) < 0 && errno != ENOENT)
		rc = fz_fail_errno(err, errno, "%s: removing what it was as a replica", db->name);
	if (rc < 0) {
		fs_db_detach_log(db);
		return rc;
	}
	ltx_log_info(db->log, &info);
	db->tail_ms = info.tail_time_ms;
	if (!info.tail_txid) /* a new log: all that the table will ever stand for is of this boot */
		ltx_sums_boot_id(ltx_sums_head(db->sums)->boot_id);
	return 0;
}

int fs_db_fd(struct fs_db *db, struct fz_err *err)
{
	if (db->fd >= 0)
		return 0;
	db->fd = fz_open_below(db->c->conf.rootfd, db->name, O_RDONLY | O_NONBLOCK, 0);
	if (db->fd >= 0)
		return 0;
	/* a link, or a file, where it or its directory was: what that leads to is another one */
	return errno == ENOENT || errno == ELOOP || errno == ENOTDIR
	               ? fz_fail(err, FZ_ENOTFOUND, "%s is not there", db->name)
	               : fz_fail_errno(err, errno, "cannot open %s", db->name);
}

int fs_db_read_head(struct fs_db *db, struct fs_db_head *h, struct fz_err *err)
{
	uint8_t b[100];
	struct stat st;
	ssize_t n;
	int rc = fs_db_fd(db, err);

	*h = (struct fs_db_head){0};
	if (rc < 0)
		return rc;
	n = fz_pread(db->fd, b, sizeof(b), 0);
	if (n < 0 || fstat(db->fd, &st) < 0)
		return fz_fail_errno(err, n < 0 ? (int)-n : errno, "cannot read %s", db->name);
	h->file_bytes = (uint64_t)st.st_size;
	h->mtime_ns = st.st_mtim.tv_sec * INT64_C(1000000000) + st.st_mtim.tv_nsec;
	if (n == sizeof(b) && !memcmp(b, "SQLite format 3", 16)) {
		h->page_size = (uint32_t)(b[16] << 8 | b[17]);
		if (h->page_size == 1)
			h->page_size = 65536;
		if (!ltx_page_size_ok(h->page_size))
			h->page_size = 0;
		h->wal = b[18] == 2 || b[19] == 2;
	}
	if (!h->page_size && db->opaque) {
		/* pages without a readable header: the WAL, the journal or the past tell their size */
		h->page_size = db->wal.known ? db->wal.h.page_size : db->sums ? ltx_sums_head(db->sums)->page_size : 0;
		if (!h->page_size && h->file_bytes)
			h->page_size = h->file_bytes % 4096 == 0 ? 4096 : h->file_bytes % 1024 == 0 ? 1024 : 512;
		h->pages = h->page_size ? (uint32_t)(h->file_bytes / h->page_size) : 0;
		return 0;
	}
	if (!h->page_size)
		return 0;
	h->counter = fz_be32(b + 24);
	h->pages = (uint32_t)((h->file_bytes + h->page_size - 1) / h->page_size); /* as SQLite rounds */
	/* The file is cut only after the journal's end: the header knows the size of the commit (fileformat2.html, 1.3.7).
	 * It is never larger than the file: a header that says so is damaged, and SQLite refuses it. */
	if (!memcmp(b + 24, b + 92, 4) && fz_be32(b + 28) &&
	    fz_be32(b + 28) < h->pages) /* more than the file holds is damage */
		h->pages = fz_be32(b + 28);
	return 0;
}

int fs_db_read_page(struct fs_db *db, uint32_t page_size, uint32_t pgno, uint32_t frame, uint8_t *out,
                    struct fz_err *err)
{
	ssize_t n;

	if (frame) {
		n = fz_pread(db->wal.fd, out, page_size,
		             (off_t)(ltx_wal_frame_off(page_size, frame) + LTX_WAL_FRAME_SIZE));
		if (n == (ssize_t)page_size)
			return 0;
		return n < 0 ? fz_fail_errno(err, (int)-n, "%s-wal: cannot read frame %u", db->name, frame)
		             : fz_fail(err, FZ_ETRUNCATED, "%s-wal ends before frame %u", db->name, frame);
	}
	n = fz_pread(db->fd, out, page_size, (off_t)(pgno - 1) * page_size);
	if (n < 0)
		return fz_fail_errno(err, (int)-n, "%s: cannot read page %u", db->name, pgno);
	memset(out + n, 0, page_size - (size_t)n);
	return 0;
}

int fs_db_open_journal(const struct fs_db *db)
{
	char path[4200];

	if (snprintf(path, sizeof(path), "%s-journal", db->name) >= (int)sizeof(path))
		return -1;
	return fz_open_below(db->c->conf.rootfd, path, O_RDONLY, 0);
}

bool fs_db_journal_hot(struct fs_db *db)
{
	char path[4200], super[LTX_JOURNAL_SUPER_MAX];
	uint8_t h[LTX_JOURNAL_HEADER_SIZE];
	struct fz_src *src = NULL;
	const char *base, *slash;
	struct stat st;
	bool hot = false;
	int fd = fs_db_open_journal(db);

	if (fd < 0)
		return false;
	if (fz_pread(fd, h, sizeof(h), 0) != sizeof(h) || !ltx_journal_is_hot(h, sizeof(h)) || fstat(fd, &st) < 0)
		goto out;
	hot = true;
	if (fz_src_fd(&src, fd, 0, (uint64_t)st.st_size, false, NULL) < 0 || ltx_journal_super(src, super, NULL) < 0 ||
	    !super[0])
		goto out;
	/* SQLite wrote its absolute path below the mount: the super-journal stands beside one of the databases, and its name
	 * is unique. Look beside this one and at the path's tail below the root. */
	base = strrchr(super, '/');
	base = base ? base + 1 : super;
	slash = strrchr(db->name, '/');
	hot = snprintf(path, sizeof(path), "%.*s%s", slash ? (int)(slash + 1 - db->name) : 0, db->name, base) <
	              (int)sizeof(path) &&
	      fstatat(db->c->conf.rootfd, path, &st, AT_SYMLINK_NOFOLLOW) == 0;
	for (const char *p = super; !hot && *p; p++)
		if (*p == '/' && p[1])
			hot = fstatat(db->c->conf.rootfd, p + 1, &st, AT_SYMLINK_NOFOLLOW) == 0;
out:
	fz_src_close(src);
	fz_close(&fd);
	return hot;
}

void fs_db_lose(struct fs_db *db, const char *why)
{
	if (db->state == FS_DB_LIVE)
		fz_warn("%s: %s: all pages are compared", fz_log_db(db->name), why);
	if (db->state != FS_DB_ENDED)
		db->state = FS_DB_LOST;
	atomic_store(&db->catch_up, true);
	snprintf(db->lost_why, sizeof(db->lost_why), "%s", why);
	if (db->sums && !ltx_sums_head(db->sums)->unsure)
		ltx_sums_head(db->sums)->unsure = 1;
}

void fs_db_note_error(struct fs_db *db, const struct fz_err *err)
{
	uint64_t now = fz_mono_ns();

	fz_tally_add(&db->errors, err->code);
	/* the same again and again is told once; the same with other numbers once a minute */
	if (!db->last_error[0] || db->last_error_code != err->code ||
	    (strcmp(db->last_error, err->text) && now - db->last_error_ns > NOTE_EVERY_NS)) {
		fz_log_err(fz_log_db(db->name), err);
		db->last_error_ns = now;
	}
	db->last_error_code = err->code;
	snprintf(db->last_error, sizeof(db->last_error), "%s", err->text);
}

void fs_db_close_wal(struct fs_db *db)
{
	fz_close(&db->wal.fd);
	db->wal = (struct fs_wal){.fd = -1};
}

void fs_db_end(struct fs_db *db)
{
	struct fz_err err = {0};

	if (db->state == FS_DB_ENDED)
		return;
	if (db->log) {
		if (db->rb.staged && fs_txn_drop(db, &err) < 0)
			fs_db_note_error(db, &err);
		if (ltx_log_set_ended(db->log, fz_now_ms(), &err) < 0)
			fs_db_note_error(db, &err);
	}
	fs_sweep_abort(db);
	db->state = FS_DB_ENDED;
	if (!db->sweep)
		fs_db_detach_log(db);
	fs_db_close_wal(db);
	fz_close(&db->fd);
}
