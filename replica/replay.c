#include "replica/replay.h"

#include "base/cursor.h"
#include "base/file.h"
#include "base/worker.h"
#include "ltx/dec.h"
#include "ltx/log.h"
#include "ltx/sums.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RUN_BYTES  (256 * 1024)
#define PUSH_BYTES (UINT64_C(16) << 20) /* goes to the disk while more is written, so that the last sync is short */

struct out { /* neighbouring pages are written at once */
	int fd;
	uint8_t *run;
	uint32_t first, n; /* pages in the run */
	struct {
		struct fz_worker worker;
		atomic_bool done;
		int rc;
		uint64_t from, to; /* what it syncs */
	} push;
};

static void push(void *arg)
{
	struct out *o = arg;

	o->push.rc = fz_sync_part(o->fd, o->push.from, o->push.to - o->push.from);
	atomic_store(&o->push.done, true);
}

static int end_push(struct out *o, struct fz_err *err)
{
	fz_worker_stop(&o->push.worker);
	return o->push.rc < 0 ? fz_fail_errno(err, -o->push.rc, "syncing the database") : 0;
}

/* Everything below `to` is written. One at a time: a disk that is slower than we are gets larger pieces. */
static int push_upto(struct out *o, uint64_t to, struct fz_err *err)
{
	int rc;

	if (to < o->push.to + PUSH_BYTES || (o->push.worker.started && !atomic_load(&o->push.done)))
		return 0;
	rc = end_push(o, err);
	if (rc < 0)
		return rc;
	o->push.from = o->push.to;
	o->push.to = to;
	atomic_store(&o->push.done, false);
	return fz_worker_start(&o->push.worker, "apply-push", push, o, err);
}

static int flush(struct out *o, uint32_t page_size, struct fz_err *err)
{
	uint64_t end = (uint64_t)(o->first - 1 + o->n) * page_size;
	int rc = o->n ? fz_pwrite(o->fd, o->run, (size_t)o->n * page_size, (off_t)(o->first - 1) * page_size) : 0;

	o->n = 0;
	return rc < 0 ? fz_fail_errno(err, -rc, "writing pages from %u on", o->first) : push_upto(o, end, err);
}

static int put(struct out *o, uint32_t pgno, const uint8_t *page, uint32_t page_size, struct fz_err *err)
{
	uint8_t *p;

	if (o->n && (pgno != o->first + o->n || (o->n + 1) * page_size > RUN_BYTES)) {
		int rc = flush(o, page_size, err);

		if (rc < 0)
			return rc;
	}
	if (!o->n)
		o->first = pgno;
	p = o->run + (size_t)o->n++ * page_size;
	memcpy(p, page, page_size);
	if (pgno == 1)
		memset(p + 18, 2, 2);
	return 0;
}

static int one(const struct replica_replay *r, struct ltx_dec *d, struct out *o, struct fz_err *err)
{
	const struct ltx_header *h = ltx_dec_header(d);
	struct ltx_sums_head *head = ltx_sums_head(r->sums);
	const uint8_t *page;
	uint32_t pgno;
	int rc;

	if (ltx_is_snapshot(h) ||
	    h->page_size != head->page_size) { /* holds every page: what was before counts for nothing */
		ltx_sums_clear_pages(r->sums);
		if (o->run && ftruncate(o->fd, 0) < 0)
			return fz_fail_errno(err, errno, "writing the database");
	}
	rc = ltx_sums_room(r->sums, h->commit, err);
	head = ltx_sums_head(r->sums);
	while (rc == 0 && (rc = ltx_dec_page(d, &pgno, &page, err)) == 1) {
		ltx_sums_set(r->sums, pgno, ltx_page_checksum(pgno, page, h->page_size));
		rc = o->run ? put(o, pgno, page, h->page_size, err) : 0;
		if (rc == 0 && r->cancel && __atomic_load_n(r->cancel, __ATOMIC_RELAXED))
			rc = fz_fail(err, -ECANCELED, "stopped");
	}
	if (rc == 0 && o->run)
		rc = flush(o, h->page_size, err);
	if (rc < 0)
		return rc;
	for (uint32_t p = h->commit + 1; p <= head->commit; p++)
		ltx_sums_set(r->sums, p, 0);
	if (o->run && ftruncate(o->fd, (off_t)h->commit * h->page_size) < 0)
		return fz_fail_errno(err, errno, "writing the database");
	head->commit = h->commit;
	head->page_size = h->page_size;
	head->checksum = ltx_dec_end(d, NULL)->post_checksum;
	__atomic_store_n(&head->txid, h->max_txid, __ATOMIC_RELEASE);
	return 0;
}

/* The files of one run lie back to back. */
static int run(const struct replica_replay *r, const struct ltx_log_entry *e, size_t n, struct ltx_dec **d,
               struct out *o, struct fz_err *err)
{
	struct fz_src *src = NULL;
	int rc = ltx_log_src_range(r->log, &e[0], &e[n - 1], &src, err);

	if (rc == 0)
		rc = *d ? ltx_dec_reopen(*d, src, 0, err) : ltx_dec_open(d, src, 0, err);
	for (size_t i = 0; rc >= 0 && i < n; i++) {
		rc = one(r, *d, o, err);
		if (rc == 0 && i + 1 < n)
			rc = ltx_dec_next(*d, err);
	}
	fz_src_close(src);
	return rc < 0 ? rc : 0;
}

int replica_replay(const struct replica_replay *r, struct fz_err *err)
{
	struct ltx_log_entry e[LTX_LOG_RUN];
	struct out o = {.fd = r->fd};
	struct ltx_dec *d = NULL;
	struct ltx_log_info info;
	uint64_t total;
	int rc = 0, tries = 0;

	if (r->fd >= 0) {
		o.run = malloc(RUN_BYTES);
		if (!o.run)
			return fz_fail_errno(err, ENOMEM, "writing the database");
	}
	while (rc == 0 && ltx_sums_head(r->sums)->txid < r->txid) {
		uint64_t at = ltx_sums_head(r->sums)->txid + 1;
		int n;

		n = rc = ltx_log_find_run(r->log, at, e, LTX_LOG_RUN, err);
		while (n > 1 && e[n - 1].e.min_txid > r->txid)
			n--;
		if (rc > 0)
			rc = run(r, e, (size_t)n, &d, &o, err);
		if (rc == -FZ_EGAP && tries++ < 5)
			rc = 0; /* folded or merged meanwhile: find again */
	}
	if (rc == 0)
		rc = end_push(&o, err);
	fz_worker_stop(&o.push.worker);
	ltx_log_info(r->log, &info);
	if (rc == 0 && !ltx_sums_head(r->sums)->txid)
		rc = fz_fail(err, FZ_ENOTFOUND, "the log of %s is empty", info.name);
	if (rc == 0) {
		total = ltx_sums_total(r->sums);
		if (total != ltx_sums_head(r->sums)->checksum) {
			rc = fz_fail(err, FZ_ECHECKSUM,
			             "%s: TXID %" PRIu64 " has checksum %016" PRIx64 ", the log says %016" PRIx64,
			             info.name, ltx_sums_head(r->sums)->txid, total, ltx_sums_head(r->sums)->checksum);
			ltx_sums_clear(r->sums);
		}
	}
	ltx_dec_close(d);
	free(o.run);
	return rc;
}

int replica_replay_checksum(struct ltx_log *log, uint64_t txid, uint64_t *out, struct fz_err *err)
{
	uint8_t tail[LTX_TRAILER_SIZE];
	struct ltx_log_entry e;
	struct fz_src *src = NULL;
	int rc;

	if (!txid)
		return fz_fail(err, FZ_EGAP, "no TXID");
	rc = ltx_log_find(log, txid, &e, err);
	if (rc == 0 && e.e.max_txid != txid)
		rc = fz_fail(err, FZ_EGAP, "TXID %" PRIu64 " was merged with others in the log", txid);
	if (rc == 0)
		rc = ltx_log_src(log, &e, &src, err);
	if (rc == 0)
		rc = fz_src_read(src, src->size_bytes - sizeof(tail), tail, sizeof(tail), err);
	if (rc == 0)
		*out = fz_be64(tail);
	fz_src_close(src);
	return rc;
}
