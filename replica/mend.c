/* mend.c - compare what readers see with the table of sums, and write what differs from the log: one WAL transaction. The wanted
 * pages are looked for in the log from the newest file back to the base, through the page indexes. */
#include "replica/applypriv.h"

#include "ltx/dec.h"
#include "ltx/frame.h"
#include "ltx/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define INDEX_BYTES (64 * 1024)

struct want {
	uint8_t *bits; /* page first + i */
	uint32_t first, last, n;
};

static bool wanted(const struct want *w, uint32_t pgno)
{
	return pgno >= w->first && pgno <= w->last && w->bits[(pgno - w->first) / 8] & 1u << (pgno - w->first) % 8;
}

/* Checksums ignore what the primary's page 1 says about its journal mode: 1, 1 is what it says outside WAL mode. */
static bool page_ok(const struct replica_apply *a, uint32_t pgno, uint8_t *page)
{
	uint32_t page_size = replica_wal_page_size(a->wal);
	uint64_t sum = ltx_sums_get(a->sums, pgno);
	bool ok = ltx_page_checksum(pgno, page, page_size) == sum;

	if (!ok && pgno == 1 && page[REPLICA_P1_MODE] == 2 && page[REPLICA_P1_MODE + 1] == 2) {
		memset(page + REPLICA_P1_MODE, 1, 2);
		ok = ltx_page_checksum(pgno, page, page_size) == sum;
	}
	return ok;
}

/* What lies beyond the end is no part of the database, even where a frame of the WAL still has it: checkpoints leave it out, and readers
 * do not look there (test_back_to_larger). */
static int compare(struct replica_apply *a, struct want *w, bool all, struct fz_err *err)
{
	uint32_t lock_page = ltx_lock_page(replica_wal_page_size(a->wal)), end = replica_wal_pages(a->wal);
	int rc = 0;

	w->bits = calloc((size_t)(w->last - w->first) / 8 + 1, 1);
	if (!w->bits)
		return fz_fail_errno(err, ENOMEM, "comparing %s", a->name);
	for (uint32_t p = w->first; rc == 0 && p <= w->last; p++) {
		bool there = !all && p <= end;

		if (p == lock_page)
			continue;
		if (there)
			rc = replica_wal_read(a->wal, p, a->page, err);
		if (rc == 0 && (!there || !page_ok(a, p, a->page))) {
			w->bits[(p - w->first) / 8] |= (uint8_t)(1u << (p - w->first) % 8);
			w->n++;
		}
	}
	return rc;
}

/* What one file of the log has of the wanted pages. */
static int take(struct replica_apply *a, struct want *w, const struct ltx_log_entry *e, uint8_t *buf,
                struct fz_err *err)
{
	uint32_t page_size = replica_wal_page_size(a->wal);
	struct ltx_index_iter it = {0};
	struct ltx_index_entry x;
	struct fz_src *src = NULL;
	struct fz_buf frame = {0};
	uint8_t *page = malloc(page_size);
	int rc = page ? ltx_log_src(a->conf.log, e, &src, err) : fz_fail_errno(err, ENOMEM, "mending %s", a->name);

	if (rc == 0)
		rc = ltx_index_iter_init(&it, src, 0, src->size_bytes, buf, INDEX_BYTES, err);
	if (rc == 0 && it.header.page_size != page_size)
		rc = fz_fail(err, FZ_ECORRUPT, "%s: the log misses %u pages before TXID %" PRIu64, a->name, w->n,
		             e->e.max_txid);
	while (rc == 0 && w->n && (rc = ltx_index_iter_next(&it, &x, err)) == 1) {
		rc = 0;
		if (!wanted(w, x.pgno))
			continue;
		fz_buf_reset(&frame);
		if (x.frame_bytes > LTX_FRAME_MAX(page_size) || !fz_buf_room(&frame, x.frame_bytes))
			rc = fz_fail(err, FZ_ECORRUPT, "%s: page %u in the log has %u bytes", a->name, x.pgno,
			             x.frame_bytes);
		if (rc == 0)
			rc = fz_src_read(src, x.off_bytes, frame.data, x.frame_bytes, err);
		if (rc == 0)
			rc = ltx_frame_decode(frame.data, x.frame_bytes, x.pgno, page_size, page, err);
		if (rc == 0 && ltx_page_checksum(x.pgno, page, page_size) != ltx_sums_get(a->sums, x.pgno))
			rc = fz_fail(err, FZ_ECHECKSUM, "%s: page %u in the log at TXID %" PRIu64 " is damaged",
			             a->name, x.pgno, e->e.max_txid);
		if (rc == 0)
			rc = replica_apply_page(a, x.pgno, page, err);
		if (rc == 0) {
			w->bits[(x.pgno - w->first) / 8] &= (uint8_t) ~(1u << (x.pgno - w->first) % 8);
			w->n--;
		}
	}
	fz_src_close(src);
	fz_buf_fini(&frame);
	free(page);
	return rc;
}

/* Inside a transaction. */
static int fetch(struct replica_apply *a, struct want *w, struct fz_err *err)
{
	uint64_t txid = ltx_sums_head(a->sums)->txid;
	uint8_t *buf = malloc(INDEX_BYTES);
	int rc = buf ? 0 : fz_fail_errno(err, ENOMEM, "mending %s", a->name), tries = 0;

	while (rc == 0 && w->n && txid) {
		struct ltx_log_entry e;

		rc = ltx_log_find(a->conf.log, txid, &e, err);
		if (rc == 0)
			rc = take(a, w, &e, buf, err);
		if (rc == -FZ_EGAP && tries++ < 5) {
			rc = 0; /* folded or merged meanwhile: find again */
			continue;
		}
		if (rc == 0)
			txid = e.seg ? e.e.min_txid - 1 : 0;
	}
	if (rc == 0 && w->n)
		rc = fz_fail(err, FZ_EGAP, "%s: the log lacks %u pages", a->name, w->n);
	free(buf);
	return rc;
}

static int write_all(struct replica_apply *a, struct want *w, struct fz_err *err)
{
	uint32_t commit = ltx_sums_head(a->sums)->commit;
	int rc;

	rc = replica_backfill_restart(a, err);
	if (rc >= 0)
		rc = replica_wal_begin(a->wal, 0, err);
	if (rc == 0)
		rc = fetch(a, w, err);
	if (rc == 0)
		rc = replica_wal_commit(a->wal, commit, err);
	if (rc < 0)
		replica_wal_abort(a->wal);
	return rc;
}

int replica_mend_slice(struct replica_apply *a, uint32_t first, uint32_t last, struct fz_err *err)
{
	struct want w = {.first = first, .last = last};
	uint32_t n;
	int rc = compare(a, &w, false, err);

	n = w.n;
	if (rc == 0 && n)
		rc = write_all(a, &w, err);
	free(w.bits);
	return rc < 0 ? rc : (int)n;
}

int replica_mend_all(struct replica_apply *a, struct fz_err *err)
{
	const struct ltx_sums_head *head = ltx_sums_head(a->sums);
	struct want w = {.first = 1, .last = head->commit};
	bool all = head->page_size != replica_wal_page_size(a->wal);
	uint32_t n;
	int rc = all ? replica_apply_resize(a, head->page_size, err) : 0;

	/* whatever a reader may have seen, and whatever a recovery makes of an unfinished try: known again at the end only */
	if (rc == 0)
		rc = replica_position_void(a->pos, err);
	if (rc == 0)
		rc = compare(a, &w, all, err);
	n = w.n;
	if (rc == 0 && (n || replica_wal_pages(a->wal) != head->commit))
		rc = write_all(a, &w, err);
	free(w.bits);
	if (rc < 0)
		return rc;
	if (n) {
		a->st.differences++;
		a->st.repaired_pages += n;
	}
	replica_position_reach(a->pos, head->txid);
	replica_apply_arrived(a);
	return 0;
}
