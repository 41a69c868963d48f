#include "replica/checkpoint.h"

#include "base/file.h"
#include "base/log.h"
#include "ltx/wal.h"
#include "replica/lock.h"
#include "replica/walpriv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RUN_BYTES (256 * 1024)

struct item {
	uint32_t pgno, frame;
};
struct replica_checkpoint {
	struct replica_wal *w;
	int dbfd, walfd;
	uint32_t page_size, safe;
	uint32_t end; /* the last frame when it began: the WAL is synced to there, since the position's floor says so */
	uint64_t cut_bytes; /* size of the database; 0 = more frames follow: not to be cut */
	struct item *items; /* ascending pages, each with its newest frame <= safe */
	size_t n;
};

static int by_page(const void *a, const void *b)
{
	const struct item *x = a, *y = b;

	if (x->pgno != y->pgno)
		return x->pgno < y->pgno ? -1 : 1;
	return x->frame < y->frame ? -1 : x->frame > y->frame;
}

/* The frames backfilled + 1 .. safe, and of each page the newest. */
static int list(struct replica_checkpoint *c, uint32_t first, uint32_t pages, struct fz_err *err)
{
	size_t n = 0;

	c->items = calloc(c->safe - first + 1, sizeof(*c->items));
	if (!c->items)
		return fz_fail_errno(err, ENOMEM, "listing the frames of a checkpoint");
	for (uint32_t f = first; f <= c->safe; f++) {
		uint32_t pgno;
		int rc = replica_walindex_page(&c->w->x, f, &pgno, err);

		if (rc < 0)
			return rc;
		if (pgno <= pages)
			c->items[n++] = (struct item){pgno, f};
	}
	qsort(c->items, n, sizeof(*c->items), by_page);
	for (size_t i = 0; i < n; i++)
		if (i + 1 == n || c->items[i + 1].pgno != c->items[i].pgno)
			c->items[c->n++] = c->items[i];
	return 0;
}

static uint32_t safe_frame(struct replica_wal *w)
{
	volatile struct replica_walindex_info *info = replica_walindex_info(&w->x);
	uint32_t safe = w->x.h.mx_frame;

	for (int i = 1; i < 5; i++) {
		uint32_t mark = __atomic_load_n(&info->mark[i], __ATOMIC_SEQ_CST);

		if (safe <= mark)
			continue;
		if (replica_lock(w->x.fd, F_WRLCK, REPLICA_SHM_READ(i), 1, 0) < 0) {
			safe = mark; /* in use: that snapshot ends here */
			continue;
		}
		__atomic_store_n(&info->mark[i], i == 1 ? safe : UINT32_MAX, __ATOMIC_SEQ_CST);
		(void)replica_lock(w->x.fd, F_UNLCK, REPLICA_SHM_READ(i), 1, 0);
	}
	return safe;
}

int replica_checkpoint_start(struct replica_checkpoint **out, struct replica_wal *w, struct fz_err *err)
{
	volatile struct replica_walindex_info *info = replica_walindex_info(&w->x);
	uint32_t first = info->backfill + 1, mx = w->x.h.mx_frame;
	struct replica_checkpoint *c;
	int rc;

	FZ_ASSERT(w->held && !w->writing);
	*out = NULL;
	if (first > mx)
		return 0;
	c = calloc(1, sizeof(*c));
	if (!c)
		return fz_fail_errno(err, ENOMEM, "starting a checkpoint");
	*c = (struct replica_checkpoint){.dbfd = w->dbfd, .walfd = w->walfd, .page_size = w->page_size, .end = mx};
	c->safe = safe_frame(w);
	rc = c->safe < first ? -EAGAIN : replica_lock(w->x.fd, F_WRLCK, REPLICA_SHM_READ(0), 1, 0);
	if (rc < 0) {
		free(c);
		return rc == -EAGAIN ? 0 : fz_fail_errno(err, -rc, "locking the wal-index");
	}
	c->w = w; /* from here on READ0 is held */
	rc = list(c, first, w->x.h.pages, err);
	if (rc < 0) {
		replica_checkpoint_finish(c, false);
		return rc;
	}
	if (c->safe == mx)
		c->cut_bytes = (uint64_t)w->x.h.pages * w->page_size;
	info->backfill_attempted = c->safe;
	__sync_synchronize();
	*out = c;
	return 1;
}

int replica_checkpoint_copy(struct replica_checkpoint *c, struct fz_err *err)
{
	uint32_t max = RUN_BYTES / c->page_size, n = 0;
	uint8_t *run = malloc(RUN_BYTES);
	int rc = 0;

	if (!run)
		return fz_fail_errno(err, ENOMEM, "copying a checkpoint");
	/* the thread that appends must not wait for it */
	rc = fz_sync_part(c->walfd, 0, ltx_wal_frame_off(c->page_size, c->end + 1));
	if (rc < 0)
		rc = fz_fail_errno(err, -rc, "syncing the WAL");
	for (size_t i = 0; rc == 0 && i < c->n; i++) {
		off_t off = (off_t)ltx_wal_frame_off(c->page_size, c->items[i].frame) + LTX_WAL_FRAME_SIZE;
		ssize_t got = fz_pread(c->walfd, run + (size_t)n * c->page_size, c->page_size, off);

		if (got != (ssize_t)c->page_size) {
			rc = got < 0 ? fz_fail_errno(err, (int)-got, "reading frame %u of the WAL", c->items[i].frame)
			             : fz_fail(err, FZ_ETRUNCATED, "the WAL ends in frame %u", c->items[i].frame);
			break;
		}
		if (++n < max && i + 1 < c->n && c->items[i + 1].pgno == c->items[i].pgno + 1)
			continue;
		rc = fz_pwrite(c->dbfd, run, (size_t)n * c->page_size, (off_t)(c->items[i].pgno - n) * c->page_size);
		if (rc < 0)
			rc = fz_fail_errno(err, -rc, "writing pages up to %u into the database", c->items[i].pgno);
		n = 0;
	}
	if (rc == 0 && c->cut_bytes && ftruncate(c->dbfd, (off_t)c->cut_bytes) < 0)
		rc = fz_fail_errno(err, errno, "cutting the database");
	if (rc == 0 && fdatasync(c->dbfd) < 0)
		rc = fz_fail_errno(err, errno, "syncing the database");
	free(run);
	return rc;
}

void replica_checkpoint_finish(struct replica_checkpoint *c, bool copied)
{
	if (!c)
		return;
	if (copied)
		__atomic_store_n(&replica_walindex_info(&c->w->x)->backfill, c->safe, __ATOMIC_SEQ_CST);
	(void)replica_lock(c->w->x.fd, F_UNLCK, REPLICA_SHM_READ(0), 1, 0);
	free(c->items);
	free(c);
}
