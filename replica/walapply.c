#include "replica/walapply.h"

#include "replica/walpriv.h"

#include "base/cursor.h"
#include "base/file.h"
#include "base/log.h"
#include "ltx/wal.h"
#include "replica/lock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define WAL_VERSION 3007000
#define BATCH_BYTES (1024 * 1024)

static int open_beside(int dirfd, const char *path, const char *suffix, const struct stat *db, struct fz_err *err)
{
	char *p;
	int fd;

	if (asprintf(&p, "%s%s", path, suffix) < 0)
		return fz_fail_errno(err, ENOMEM, "opening %s%s", path, suffix);
	fd = fz_open_like(dirfd, p, db, err); /* as SQLite does it */
	free(p);
	return fd;
}

static int buffers(struct replica_wal *w, uint32_t page_size, struct fz_err *err)
{
	uint32_t max = BATCH_BYTES / page_size;
	uint8_t *batch = malloc((size_t)max * (LTX_WAL_FRAME_SIZE + page_size)), *last = malloc(page_size);
	uint32_t *pgno = calloc(max, sizeof(*pgno));

	if (!batch || !last || !pgno) {
		free(batch);
		free(last);
		free(pgno);
		return fz_fail_errno(err, ENOMEM, "attaching to a WAL");
	}
	free(w->batch);
	free(w->batch_pgno);
	free(w->last);
	w->batch = batch;
	w->batch_pgno = pgno;
	w->batch_max = max;
	w->last = last;
	w->page_size = page_size;
	return 0;
}

int replica_wal_attach(struct replica_wal **out, int dbfd, int shm_fd, int dirfd, const char *path, uint32_t page_size,
                       uint64_t deadline_ns, struct fz_err *err)
{
	struct replica_wal *w = calloc(1, sizeof(*w));
	struct stat st;
	int rc = 0;

	if (!w) {
		fz_close(&shm_fd);
		return fz_fail_errno(err, ENOMEM, "attaching to %s", path);
	}
	w->dbfd = dbfd;
	w->walfd = w->x.fd = -1;
	rc = buffers(w, page_size, err);
	if (rc == 0 && fstat(dbfd, &st) < 0)
		rc = fz_fail_errno(err, errno, "attaching to %s", path);
	if (rc == 0)
		rc = w->walfd = open_beside(dirfd, path, "-wal", &st, err);
	if (rc >= 0 && shm_fd < 0)
		rc = shm_fd = open_beside(dirfd, path, "-shm", &st, err);
	if (rc >= 0) {
		rc = shm_fd;
		shm_fd = -1;
	}
	fz_close(&shm_fd);
	if (rc >= 0)
		rc = replica_walindex_open(&w->x, rc, page_size, deadline_ns, err);
	if (rc < 0) {
		replica_wal_detach(w);
		return rc;
	}
	*out = w;
	return 0;
}

static void end(struct replica_wal *w)
{
	if (w->writing && !w->held)
		(void)replica_lock(w->x.fd, F_UNLCK, REPLICA_SHM_WRITE, 1, 0);
	w->writing = false;
	w->batch_n = 0;
	w->last_pgno = 0;
}

void replica_wal_abort(struct replica_wal *w)
{
	if (w->writing && w->x.indexed > w->x.h.mx_frame)
		replica_walindex_cleanup(&w->x);
	end(w);
}

void replica_wal_detach(struct replica_wal *w)
{
	if (!w)
		return;
	replica_wal_abort(w);
	replica_walindex_close(&w->x);
	fz_close(&w->walfd);
	free(w->batch);
	free(w->batch_pgno);
	free(w->last);
	free(w);
}

/* ---- transaction ---- */
static int pages_of_file(struct replica_wal *w, struct fz_err *err)
{
	struct stat st;

	if (fstat(w->dbfd, &st) < 0)
		return fz_fail_errno(err, errno, "reading the size of the database");
	w->x.h.pages = (uint32_t)((st.st_size + w->page_size - 1) / w->page_size);
	return 0;
}

int replica_wal_begin(struct replica_wal *w, uint64_t deadline_ns, struct fz_err *err)
{
	int rc = 0;

	if (!w->held)
		rc = replica_lock(w->x.fd, F_WRLCK, REPLICA_SHM_WRITE, 1, deadline_ns);
	if (rc < 0)
		return rc == -EAGAIN ? fz_fail(err, FZ_EBUSY, "the database is being written by an application")
		                     : fz_fail_errno(err, -rc, "locking the wal-index");
	w->writing = true;
	if (!w->held)
		rc = replica_walindex_read(&w->x, w->walfd, deadline_ns, err);
	if (rc == 0 && !w->x.h.mx_frame && !w->held)
		rc = pages_of_file(w, err);
	if (rc < 0) {
		end(w);
		return rc;
	}
	w->frame = w->x.h.mx_frame;
	memcpy(w->sum, w->x.h.frame_sum, sizeof(w->sum));
	return 0;
}

uint32_t replica_wal_pages(const struct replica_wal *w)
{
	return w->x.h.pages;
}

int replica_wal_read(struct replica_wal *w, uint32_t pgno, uint8_t *page, struct fz_err *err)
{
	uint32_t frame;
	ssize_t n;
	int rc = replica_walindex_find(&w->x, pgno, w->x.h.mx_frame, &frame, err);

	if (rc < 0)
		return rc;
	if (frame)
		n = fz_pread(w->walfd, page, w->page_size,
		             (off_t)ltx_wal_frame_off(w->page_size, frame) + LTX_WAL_FRAME_SIZE);
	else
		n = fz_pread(w->dbfd, page, w->page_size, (off_t)(pgno - 1) * w->page_size);
	if (n < 0)
		return fz_fail_errno(err, (int)-n, "reading page %u", pgno);
	if (frame && (uint32_t)n < w->page_size)
		return fz_fail(err, FZ_ETRUNCATED, "the WAL ends inside frame %u", frame);
	memset(page + n, 0, w->page_size - (size_t)n);
	return 0;
}

/* A WAL without frames gets a header of a new generation, so that nothing that lies behind it can ever be valid. */
static int new_generation(struct replica_wal *w, struct fz_err *err)
{
	uint8_t head[LTX_WAL_HEADER_SIZE], old[LTX_WAL_HEADER_SIZE];
	struct ltx_wal_header wh;
	struct fz_err ignored;
	uint32_t seq = 0;
	int rc;

	if (fz_pread(w->walfd, old, sizeof(old), 0) == sizeof(old) && ltx_wal_header_get(&wh, old, &ignored) == 0)
		seq = wh.sequence + 1;
	fz_put32(w->x.h.salt, fz_be32(w->x.h.salt) + 1);
	if (getrandom(w->x.h.salt + 4, 4, 0) != 4)
		return fz_fail_errno(err, errno, "getrandom");
	fz_put32(head, 0x377f0682); /* little-endian checksums */
	fz_put32(head + 4, WAL_VERSION);
	fz_put32(head + 8, w->page_size);
	fz_put32(head + 12, seq);
	memcpy(head + 16, w->x.h.salt, 8);
	w->x.h.big_endian = 0;
	w->sum[0] = w->sum[1] = 0;
	ltx_wal_sum(false, head, 24, w->sum);
	fz_put32(head + 24, w->sum[0]);
	fz_put32(head + 28, w->sum[1]);
	rc = fz_pwrite(w->walfd, head, sizeof(head), 0);
	if (rc == 0)
		rc = fz_sync_part(w->walfd, 0, sizeof(head));
	return rc < 0 ? fz_fail_errno(err, -rc, "writing the header of the WAL") : 0;
}

static int flush(struct replica_wal *w, struct fz_err *err)
{
	uint32_t first = w->frame - w->batch_n + 1;
	int rc;

	if (!w->batch_n)
		return 0;
	rc = fz_pwrite(w->walfd, w->batch, (size_t)w->batch_n * (LTX_WAL_FRAME_SIZE + w->page_size),
	               (off_t)ltx_wal_frame_off(w->page_size, first));
	if (rc < 0)
		return fz_fail_errno(err, -rc, "writing %u frames into the WAL", w->batch_n);
	for (uint32_t i = 0; rc == 0 && i < w->batch_n; i++)
		rc = replica_walindex_append(&w->x, w->batch_pgno[i], err);
	w->batch_n = 0;
	return rc;
}

/* Moves the page that waits into the batch, as commit frame when pages > 0. */
static int push_last(struct replica_wal *w, uint32_t pages, struct fz_err *err)
{
	uint8_t *f;
	int rc = 0;

	if (w->batch_n == w->batch_max)
		rc = flush(w, err);
	if (rc == 0 && w->frame == 0 && !w->x.h.mx_frame)
		rc = new_generation(w, err);
	if (rc < 0)
		return rc;
	f = w->batch + (size_t)w->batch_n * (LTX_WAL_FRAME_SIZE + w->page_size);
	fz_put32(f, w->last_pgno);
	fz_put32(f + 4, pages);
	memcpy(f + 8, w->x.h.salt, 8);
	memcpy(f + LTX_WAL_FRAME_SIZE, w->last, w->page_size);
	ltx_wal_sum(w->x.h.big_endian, f, 8, w->sum);
	ltx_wal_sum(w->x.h.big_endian, f + LTX_WAL_FRAME_SIZE, w->page_size, w->sum);
	fz_put32(f + 16, w->sum[0]);
	fz_put32(f + 20, w->sum[1]);
	w->batch_pgno[w->batch_n++] = w->last_pgno;
	w->frame++;
	w->last_pgno = 0;
	return 0;
}

int replica_wal_write(struct replica_wal *w, uint32_t pgno, const uint8_t *page, struct fz_err *err)
{
	int rc = w->last_pgno ? push_last(w, 0, err) : 0;

	if (rc == 0) {
		memcpy(w->last, page, w->page_size);
		w->last_pgno = pgno;
	}
	return rc;
}

int replica_wal_commit(struct replica_wal *w, uint32_t pages, struct fz_err *err)
{
	int rc = w->last_pgno ? 0 : replica_wal_read(w, 1, w->last, err);

	if (rc == 0 && !w->last_pgno)
		w->last_pgno = 1;
	if (rc == 0)
		rc = push_last(w, pages, err);
	if (rc == 0)
		rc = flush(w, err);
	if (rc == 0 && !w->lazy)
		rc = replica_wal_sync(w, err);
	if (rc < 0)
		return rc;
	w->x.h.page_size = replica_walindex_size_put(w->page_size);
	w->x.h.mx_frame = w->frame;
	w->x.h.pages = pages;
	memcpy(w->x.h.frame_sum, w->sum, sizeof(w->sum));
	w->x.h.change++;
	replica_walindex_publish(&w->x);
	end(w);
	return 0;
}

/* ---- for who holds the locks for good ---- */
int replica_wal_hold(struct replica_wal *w, bool lazy, uint64_t deadline_ns, struct fz_err *err)
{
	uint32_t page_size = w->page_size;
	int rc = replica_lock(w->x.fd, F_WRLCK, REPLICA_SHM_WRITE, 2, deadline_ns); /* WRITE and CKPT are neighbours */

	if (rc < 0)
		return rc == -EAGAIN ? fz_fail(err, FZ_EBUSY, "an application writes or checkpoints the database")
		                     : fz_fail_errno(err, -rc, "locking the wal-index");
	w->held = w->x.held = true;
	w->lazy = lazy;
	rc = replica_walindex_read(&w->x, w->walfd, deadline_ns, err);
	if (rc == 0 && !w->x.h.mx_frame)
		w->x.page_size = page_size; /* a WAL that counts for nothing does not tell */
	if (rc == 0 && w->x.page_size != page_size)
		rc = buffers(w, w->x.page_size, err);
	if (rc == 0 && !w->x.h.mx_frame && !w->x.h.pages)
		rc = pages_of_file(w, err); /* as readers take it */
	return rc;
}

uint32_t replica_wal_page_size(const struct replica_wal *w)
{
	return w->page_size;
}

uint32_t replica_wal_frames(const struct replica_wal *w)
{
	return w->x.h.mx_frame;
}

uint32_t replica_wal_backfilled(const struct replica_wal *w)
{
	return replica_walindex_info((struct replica_walindex *)&w->x)->backfill;
}

int replica_wal_sync(struct replica_wal *w, struct fz_err *err)
{
	return fdatasync(w->walfd) < 0 ? fz_fail_errno(err, errno, "syncing the WAL") : 0;
}

int replica_wal_restart(struct replica_wal *w, uint64_t keep_bytes, struct fz_err *err)
{
	struct stat st;
	int rc;

	FZ_ASSERT(w->held && !w->writing);
	if (replica_wal_backfilled(w) != w->x.h.mx_frame)
		return 0;
	rc = w->x.h.mx_frame ? replica_walindex_restart(&w->x, err) : 1;
	/* nobody reads the file now: whoever comes finds no frame in the index until the next is published */
	if (rc > 0 && fstat(w->walfd, &st) == 0 && (uint64_t)st.st_size > keep_bytes && ftruncate(w->walfd, 0) < 0)
		rc = fz_fail_errno(err, errno, "cutting the WAL");
	return rc;
}

int replica_wal_resize(struct replica_wal *w, uint32_t page_size, struct fz_err *err)
{
	int rc;

	FZ_ASSERT(w->held && !w->writing && !w->x.h.mx_frame);
	rc = buffers(w, page_size, err);
	if (rc == 0)
		w->x.page_size = page_size;
	return rc;
}

int replica_wal_end(struct replica_wal *w, uint32_t *frame, uint32_t salt[static 2], uint8_t header[static 24],
                    struct fz_err *err)
{
	ssize_t n = LTX_WAL_FRAME_SIZE;

	*frame = w->x.h.mx_frame;
	salt[0] = fz_be32(w->x.h.salt);
	salt[1] = fz_be32(w->x.h.salt + 4);
	memset(header, 0, LTX_WAL_FRAME_SIZE);
	if (*frame)
		n = fz_pread(w->walfd, header, LTX_WAL_FRAME_SIZE, (off_t)ltx_wal_frame_off(w->page_size, *frame));
	if (n < 0)
		return fz_fail_errno(err, (int)-n, "reading the last frame of the WAL");
	return n == LTX_WAL_FRAME_SIZE ? 0 : fz_fail(err, FZ_ETRUNCATED, "the WAL ends inside frame %u", *frame);
}
