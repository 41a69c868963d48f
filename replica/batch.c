#include "replica/batch.h"

#include "ltx/dec.h"
#include "ltx/frame.h"
#include "ltx/log.h"
#include "ltx/sums.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define BATCH_BYTES (8u << 20)
#define KEEP_BYTES  (1u << 20)

static void reset(struct replica_batch *b, const struct ltx_sums_head *head)
{
	b->min_txid = head->txid + 1;
	b->max_txid = head->txid;
	b->checksum = head->checksum;
	b->transactions = 0;
	b->page_size = head->page_size;
	b->commit = head->commit;
	b->all = false;
	b->low = UINT32_MAX;
	b->n = b->next = 0;
	if (b->n_slots)
		memset(b->slot, 0, b->n_slots * sizeof(*b->slot));
	fz_buf_reset(&b->data);
	fz_src_close(b->big);
	b->big = NULL;
}

void replica_batch_trim(struct replica_batch *b)
{
	b->n = b->next = 0;
	fz_src_close(b->big);
	b->big = NULL;
	if (b->data.cap > KEEP_BYTES)
		fz_buf_fini(&b->data);
	if (b->cap > KEEP_BYTES / sizeof(*b->page)) {
		free(b->page);
		free(b->slot);
		b->page = NULL;
		b->slot = NULL;
		b->cap = b->n_slots = 0;
	}
}

void replica_batch_fini(struct replica_batch *b)
{
	fz_src_close(b->big);
	ltx_dec_close(b->dec);
	fz_buf_fini(&b->data);
	free(b->page);
	free(b->slot);
	*b = (struct replica_batch){0};
}

/* ---- pages by number ---- */
static uint32_t *slot_of(const struct replica_batch *b, uint32_t pgno)
{
	uint32_t mask = b->n_slots - 1, k = pgno * 2654435761u & mask;

	while (b->slot[k] && b->page[b->slot[k] - 1].pgno != pgno)
		k = (k + 1) & mask;
	return &b->slot[k];
}

static struct replica_batch_page *find(const struct replica_batch *b, uint32_t pgno)
{
	uint32_t s = b->n_slots ? *slot_of(b, pgno) : 0;

	return s ? &b->page[s - 1] : NULL;
}

static int grow(struct replica_batch *b, struct fz_err *err)
{
	uint32_t cap = b->cap ? 2 * b->cap : 64;
	struct replica_batch_page *page = realloc(b->page, cap * sizeof(*page));
	uint32_t *slot = calloc(2 * (size_t)cap, sizeof(*slot));

	if (page)
		b->page = page;
	if (!page || !slot) {
		free(slot);
		return fz_fail_errno(err, ENOMEM, "collecting transactions");
	}
	free(b->slot);
	b->slot = slot;
	b->cap = cap;
	b->n_slots = 2 * cap;
	for (uint32_t i = 0; i < b->n; i++)
		*slot_of(b, b->page[i].pgno) = i + 1;
	return 0;
}

static uint64_t old_sum(const struct replica_batch *b, const struct ltx_sums *sums, uint32_t pgno)
{
	const struct replica_batch_page *p = find(b, pgno);

	if (p)
		return p->sum;
	return b->all || pgno > b->low ? 0 : ltx_sums_get(sums, pgno);
}

static int add_page(struct replica_batch *b, const struct ltx_sums *sums, uint32_t pgno, const uint8_t *data, bool keep,
                    uint64_t *checksum, struct fz_err *err)
{
	uint64_t sum = ltx_page_checksum(pgno, data, b->page_size);
	struct replica_batch_page *p = find(b, pgno);
	int rc;

	*checksum = ltx_db_checksum_swap(*checksum, old_sum(b, sums, pgno), sum);
	if (!p) {
		rc = b->n == b->cap ? grow(b, err) : 0;
		if (rc == 0 && keep && !fz_buf_room(&b->data, b->page_size))
			rc = fz_fail_errno(err, ENOMEM, "collecting transactions");
		if (rc < 0)
			return rc;
		p = &b->page[b->n];
		*p = (struct replica_batch_page){.pgno = pgno, .at = b->n};
		*slot_of(b, pgno) = ++b->n;
		if (keep)
			b->data.size += b->page_size;
	}
	p->sum = sum;
	if (keep)
		memcpy(b->data.data + (size_t)p->at * b->page_size, data, b->page_size);
	return 0;
}

/* ---- files ---- */
static int bad(struct fz_err *err, int code, const struct ltx_header *h, const char *what, uint64_t is, uint64_t want)
{
	return fz_fail(err, code, "TXID %" PRIu64 ": %s is %016" PRIx64 ", it must be %016" PRIx64, h->max_txid, what,
	               is, want);
}

/* One file, of which the decoder has read the header. */
static int add_file(struct replica_batch *b, const struct ltx_sums *sums, const struct ltx_log_entry *e, bool keep,
                    struct fz_err *err)
{
	const struct ltx_header *h = ltx_dec_header(b->dec);
	uint64_t checksum = b->checksum, post;
	uint32_t old_commit = b->commit, pgno, pages = 0;
	const uint8_t *data;
	int rc;

	if (h->min_txid != e->e.min_txid || h->max_txid != e->e.max_txid || (h->flags & LTX_NO_CHECKSUM))
		return fz_fail(err, FZ_ECORRUPT, "the log's file of TXID %" PRIu64 " is another one", e->e.max_txid);
	/* a merged range may begin below: then its pages lead to the right state all the same, as the post-checksum proves */
	if (h->min_txid == b->max_txid + 1 && h->pre_checksum != b->checksum)
		return bad(err, FZ_ECHECKSUM, h, "the checksum before", h->pre_checksum, b->checksum);
	if (h->page_size != b->page_size || ltx_is_snapshot(h)) {
		b->all = true;
		b->page_size = h->page_size;
		old_commit = 0;
		checksum = LTX_EMPTY_DB;
	}
	while ((rc = ltx_dec_page(b->dec, &pgno, &data, err)) == 1) {
		rc = add_page(b, sums, pgno, data, keep, &checksum, err);
		if (rc < 0)
			return rc;
		pages++;
	}
	if (rc < 0)
		return rc;
	if (b->all && !b->transactions && pages != ltx_stored_pages(h->commit, h->page_size))
		return fz_fail(err, FZ_ECORRUPT, "TXID %" PRIu64 " changes the page size and holds %u pages of %u",
		               h->max_txid, pages, h->commit);
	for (uint32_t p = h->commit + 1; p <= old_commit; p++) {
		struct replica_batch_page *cut = find(b, p);

		checksum = ltx_db_checksum_swap(checksum, old_sum(b, sums, p), 0);
		if (cut)
			cut->sum = 0;
	}
	post = ltx_dec_end(b->dec, NULL)->post_checksum;
	if (checksum != post)
		return bad(err, FZ_ECHECKSUM, h, "the checksum after", checksum, post);
	if (h->commit < b->low)
		b->low = h->commit;
	b->commit = h->commit;
	b->checksum = checksum;
	b->max_txid = h->max_txid;
	b->transactions++;
	return 0;
}

/* May this file join what was collected? Its header has been read. */
static bool fits(const struct replica_batch *b, const struct ltx_log_entry *e, uint64_t *bytes)
{
	const struct ltx_header *h = ltx_dec_header(b->dec);

	*bytes = (uint64_t)e->e.pages * h->page_size;
	if (!b->transactions)
		return true;
	return h->page_size == b->page_size && !b->all && !ltx_is_snapshot(h) && b->data.size + *bytes <= BATCH_BYTES;
}

static int open_dec(struct replica_batch *b, struct fz_src *src, struct fz_err *err)
{
	return b->dec ? ltx_dec_reopen(b->dec, src, 0, err) : ltx_dec_open(&b->dec, src, 0, err);
}

/* 1: go on with the next run; 0: the batch is full. */
static int add_run(struct replica_batch *b, struct ltx_log *log, const struct ltx_sums *sums,
                   const struct ltx_log_entry *e, size_t n, struct fz_err *err)
{
	struct fz_src *src = NULL;
	uint64_t bytes;
	int rc = ltx_log_src_range(log, &e[0], &e[n - 1], &src, err), more = 1;

	if (rc == 0)
		rc = open_dec(b, src, err);
	for (size_t i = 0; rc >= 0 && i < n; i++) {
		if (!fits(b, &e[i], &bytes)) {
			more = 0;
			break;
		}
		rc = add_file(b, sums, &e[i], bytes <= BATCH_BYTES, err);
		if (rc == 0 && bytes > BATCH_BYTES) {
			b->big_checksum = ltx_dec_end(b->dec, NULL)->file_checksum;
			rc = ltx_log_src(log, &e[i], &b->big, err);
			more = 0;
			break;
		}
		if (rc == 0 && i + 1 < n)
			rc = ltx_dec_next(b->dec, err);
	}
	fz_src_close(src);
	return rc < 0 ? rc : more;
}

static int collect(struct replica_batch *b, struct ltx_log *log, const struct ltx_sums *sums, uint64_t txid,
                   uint64_t max_txns, struct fz_err *err)
{
	struct ltx_log_entry e[LTX_LOG_RUN];
	int rc = 1, n;

	while (rc == 1 && b->max_txid < txid && b->transactions < max_txns) {
		uint64_t left = max_txns - b->transactions;

		n = rc =
		        ltx_log_find_run(log, b->max_txid + 1, e, left < LTX_LOG_RUN ? (size_t)left : LTX_LOG_RUN, err);
		if (rc == -FZ_ENOTFOUND)
			return 0;
		if (rc < 0)
			return rc;
		if (e[0].seg == 0)
			return fz_fail(err, FZ_EGAP, "the log starts at TXID %" PRIu64, e[0].e.max_txid);
		while (n && e[n - 1].e.max_txid > txid)
			n--;
		if (!n)
			return 0;
		rc = add_run(b, log, sums, e, (size_t)n, err);
	}
	return rc < 0 ? rc : 0;
}

int replica_batch_collect(struct replica_batch *b, struct ltx_log *log, struct ltx_sums *sums, uint64_t txid,
                          uint64_t max_txns, struct fz_err *err)
{
	int rc = 0;

	for (int tries = 0; tries < 5; tries++) {
		uint64_t good;

		reset(b, ltx_sums_head(sums));
		rc = collect(b, log, sums, txid, max_txns, err);
		if (rc == 0 && !b->transactions)
			return 0;
		if (rc == 0)
			rc = ltx_sums_room(sums, b->commit, err);
		if (rc == 0)
			return 1;
		if (rc == -FZ_EGAP && ltx_log_find(log, b->max_txid + 1, &(struct ltx_log_entry){0}, NULL) == 0)
			continue; /* folded or merged meanwhile: find again. A gap that stays is told below */
		if (!b->transactions)
			break;
		/* pages of the file that is at fault may be among the others: once more, up to the one before it */
		good = b->max_txid;
		txid = good < txid ? good : txid;
	}
	return rc;
}

int replica_batch_next(struct replica_batch *b, uint32_t *pgno, const uint8_t **data, struct fz_err *err)
{
	int rc;

	if (b->big) {
		rc = b->next ? 0 : open_dec(b, b->big, err);
		b->next = 1;
		if (rc == 0)
			rc = ltx_dec_page(b->dec, pgno, data, err);
		if (rc == 0 && ltx_dec_end(b->dec, NULL)->file_checksum != b->big_checksum)
			rc = fz_fail(err, FZ_ECHECKSUM, "TXID %" PRIu64 " is not what it was a moment ago",
			             b->max_txid);
		return rc;
	}
	for (; b->next < b->n; b->next++) {
		const struct replica_batch_page *p = &b->page[b->next];

		if (!p->sum || p->pgno > b->commit)
			continue;
		*pgno = p->pgno;
		*data = b->data.data + (size_t)p->at * b->page_size;
		b->next++;
		return 1;
	}
	return 0;
}

void replica_batch_settle(const struct replica_batch *b, struct ltx_sums *sums)
{
	struct ltx_sums_head *head = ltx_sums_head(sums);
	uint32_t old_commit = head->commit;

	if (b->all) {
		ltx_sums_clear_pages(sums);
		old_commit = 0;
	}
	if (b->low < old_commit)
		for (uint32_t p = b->low + 1; p <= old_commit; p++)
			ltx_sums_set(sums, p, 0);
	for (uint32_t i = 0; i < b->n; i++)
		if (b->page[i].pgno <= b->commit)
			ltx_sums_set(sums, b->page[i].pgno, b->page[i].sum);
	head->page_size = b->page_size;
	head->commit = b->commit;
	head->checksum = b->checksum;
	__atomic_store_n(&head->txid, b->max_txid, __ATOMIC_RELEASE);
}
