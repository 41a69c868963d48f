#include "fs/txn.h"

#include "base/clock.h"
#include "fs/capture_priv.h"
#include "fs/capture_wal.h"
#include "ltx/dec.h"
#include "ltx/offer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define BOUND_STEP (16u << 20)

struct fs_scratch *fs_scratch_get(struct fs_capture *c, struct fz_err *err)
{
	struct fs_scratch *sc;

	pthread_mutex_lock(&c->mu);
	sc = c->free_scratch;
	if (sc)
		c->free_scratch = sc->next;
	pthread_mutex_unlock(&c->mu);
	if (sc) {
		sc->next = NULL;
		sc->buf_n = 0;
		return sc;
	}
	sc = calloc(1, sizeof(*sc));
	if (!sc) {
		fz_fail(err, -ENOMEM, "no memory");
		return NULL;
	}
	fs_pages_init(&sc->pages, c->conf.statefd);
	fs_pages_init(&sc->index, c->conf.statefd);
	sc->page = malloc(65536);
	sc->buf = malloc(FS_FRAME_BUFFER + LTX_WAL_FRAME_SIZE + 65536);
	if (!sc->page || !sc->buf || ltx_enc_open(&sc->enc, err) < 0) {
		fz_fail(err, -ENOMEM, "no memory");
		fs_scratch_free(sc);
		return NULL;
	}
	return sc;
}

void fs_scratch_put(struct fs_capture *c, struct fs_scratch *sc)
{
	if (!sc)
		return;
	fs_pages_reset(&sc->pages);
	fs_pages_reset(&sc->index);
	pthread_mutex_lock(&c->mu);
	sc->next = c->free_scratch;
	c->free_scratch = sc;
	pthread_mutex_unlock(&c->mu);
}

void fs_scratch_free(struct fs_scratch *sc)
{
	if (!sc)
		return;
	ltx_enc_close(sc->enc);
	fs_pages_fini(&sc->pages);
	fs_pages_fini(&sc->index);
	free(sc->page);
	free(sc->buf);
	free(sc);
}

/* Reads a page and fills in its sum. */
static int page_data(struct fs_db *db, struct fs_scratch *sc, const struct fs_txn *t, struct fs_page *p,
                     const uint8_t **data, struct fz_err *err)
{
	uint32_t page_size = t->page_size;
	uint64_t sum;
	size_t frame_bytes = LTX_WAL_FRAME_SIZE + (size_t)page_size;

	if (p->frame && p->frame >= sc->buf_frame && p->frame - sc->buf_frame < sc->buf_n) {
		*data = sc->buf + (p->frame - sc->buf_frame) * frame_bytes + LTX_WAL_FRAME_SIZE;
	} else {
		int rc = fs_db_read_page(db, page_size, p->pgno, p->frame, sc->page, err);

		if (rc < 0)
			return rc;
		*data = sc->page;
	}
	sum = ltx_page_checksum(p->pgno, *data, page_size);
	if (t->check && !p->frame && p->sum && p->sum != sum)
		return fz_fail(err, -EAGAIN, "%s: page %u changes while it is compared", db->name, p->pgno);
	p->sum = sum;
	return 0;
}

/* A growing database holds pages that were never written (allocated, then free again): they are part of it, with what
 * SQLite would read there. */
static int fill_gaps(struct fs_db *db, struct fs_scratch *sc, const struct fs_txn *t, uint32_t old, struct fz_err *err)
{
	uint32_t lock = ltx_lock_page(t->page_size), have = 0, want = t->commit - old;
	size_t n = sc->pages.n, i;
	int rc = 0;

	if (lock > old && lock <= t->commit)
		want--;
	for (i = n; i > 0 && sc->pages.e[i - 1].pgno > old; i--)
		have++;
	if (have == want)
		return 0;
	if (t->wal_to) {
		rc = fs_wal_index(db, &sc->index, t->wal_to, err);
		if (rc < 0)
			return rc;
	}
	for (uint32_t pgno = old + 1; pgno <= t->commit && rc == 0; pgno++) {
		const struct fs_page *f;

		while (i < n && sc->pages.e[i].pgno < pgno)
			i++;
		if (pgno == lock || (i < n && sc->pages.e[i].pgno == pgno))
			continue;
		f = t->wal_to ? fs_pages_find(&sc->index, pgno) : NULL;
		rc = fs_pages_add(&sc->pages, pgno, f ? f->frame : 0, err);
	}
	fs_pages_sort(&sc->pages, t->commit, lock);
	return rc;
}

/* Keeps the pages that differ from the table. */
static int keep_changed(struct fs_db *db, struct fs_scratch *sc, const struct fs_txn *t, struct fz_err *err)
{
	size_t n = 0;

	for (size_t i = 0; i < sc->pages.n; i++) {
		struct fs_page p = sc->pages.e[i];
		const uint8_t *data;
		int rc = page_data(db, sc, t, &p, &data, err);

		if (rc < 0)
			return rc;
		if (p.sum != ltx_sums_get(db->sums, p.pgno))
			sc->pages.e[n++] = p;
	}
	sc->pages.n = n;
	return 0;
}

static int encode(struct fs_db *db, struct fs_scratch *sc, const struct fs_txn *t, const struct ltx_header *h,
                  struct fz_sink *sink, struct ltx_trailer *trailer, uint64_t *bytes, struct fz_err *err)
{
	struct ltx_sums_head *head = ltx_sums_head(db->sums);
	uint64_t post = t->full ? 0 : head->checksum;
	int rc;

	rc = ltx_enc_begin(sc->enc, sink, h, err);
	for (size_t i = 0; i < sc->pages.n && rc == 0; i++) {
		struct fs_page *p = &sc->pages.e[i];
		const uint8_t *data;

		rc = page_data(db, sc, t, p, &data, err);
		if (rc < 0)
			break;
		post ^= p->sum ^ (t->full ? 0 : ltx_sums_get(db->sums, p->pgno));
		rc = ltx_enc_page(sc->enc, p->pgno, data, err);
	}
	if (!t->full)
		for (uint32_t pgno = t->commit + 1; pgno <= head->commit; pgno++)
			post ^= ltx_sums_get(db->sums, pgno);
	if (rc == 0)
		rc = ltx_enc_end(sc->enc, LTX_FLAG | post, trailer, bytes, err);
	return rc;
}

static void apply_sums(struct fs_db *db, const struct fs_pages *pages, uint32_t page_size, uint32_t commit, bool full,
                       uint64_t checksum, uint64_t txid)
{
	struct ltx_sums_head *head = ltx_sums_head(db->sums);

	if (full)
		ltx_sums_clear_pages(db->sums);
	for (size_t i = 0; i < pages->n; i++)
		ltx_sums_set(db->sums, pages->e[i].pgno, pages->e[i].sum);
	for (uint32_t pgno = commit + 1; pgno <= head->commit; pgno++)
		ltx_sums_set(db->sums, pgno, 0);
	head->page_size = page_size;
	head->commit = commit;
	head->checksum = checksum;
	atomic_thread_fence(memory_order_release);
	head->txid = txid;
}

int64_t fs_txn_wal_time(const struct fs_db *db)
{
	int64_t now = fz_now_ms(), written;
	struct timespec tick;
	struct stat st;

	if (fstat(db->wal.fd, &st) < 0 || clock_getres(CLOCK_REALTIME_COARSE, &tick) < 0)
		return now;
	written = (int64_t)st.st_mtim.tv_sec * 1000 + (st.st_mtim.tv_nsec + tick.tv_nsec) / 1000000;
	if (written > now)
		written = now;
	/* the file's clock ticks, and on a busy machine late */
	return written > db->wal.looked_ms ? written : db->wal.looked_ms;
}

/* Completes t and the list of pages, and makes the header. 1, or 0: nothing has changed. */
static int arrange(struct fs_db *db, struct fs_scratch *sc, struct fs_txn *t, struct ltx_header *h, struct fz_err *err)
{
	struct ltx_sums_head *head = ltx_sums_head(db->sums);
	int rc;

	*h = (struct ltx_header){.page_size = t->page_size,
	                         .commit = t->commit,
	                         .min_txid = head->txid + 1,
	                         .max_txid = head->txid + t->commits,
	                         .pre_checksum = head->txid ? head->checksum : 0};
	if (head->page_size && head->page_size != t->page_size)
		t->full = true;
	rc = ltx_sums_room(db->sums, t->commit, err);
	if (rc < 0)
		return rc;
	head = ltx_sums_head(db->sums); /* may have moved */
	if (t->full || t->commit > head->commit) {
		rc = fill_gaps(db, sc, t, t->full ? 0 : head->commit, err);
		if (rc < 0)
			return rc;
	}
	if (t->only_changed && !t->full) {
		rc = keep_changed(db, sc, t, err);
		if (rc < 0)
			return rc;
		if (!sc->pages.n && t->commit == head->commit)
			return 0;
	}
	h->time_ms = t->time_ms ? t->time_ms : t->wal_from ? fs_txn_wal_time(db) : fz_now_ms();
	if (h->time_ms < db->tail_ms)
		h->time_ms = db->tail_ms;
	if (t->wal_to) {
		h->wal_offset = (int64_t)ltx_wal_frame_off(t->page_size, t->wal_from);
		h->wal_size = (int64_t)(t->wal_to - t->wal_from + 1) * (LTX_WAL_FRAME_SIZE + (int64_t)t->page_size);
		h->wal_salt1 = db->wal.h.salt[0];
		h->wal_salt2 = db->wal.h.salt[1];
	}
	return 1;
}

/* The one that was offered just before: the same bytes, so replicas that hold them need not get them again. */
static bool was_offered(const struct fs_db *db, const struct fs_txn *t)
{
	return db->offer.txid && db->offer.txid == ltx_sums_head(db->sums)->txid + 1 && t->commits == 1 &&
	       db->offer.wal_to == t->wal_to &&
	       (!t->wal_to || (t->last_frame && !memcmp(t->last_frame, db->offer.last_frame, LTX_WAL_FRAME_SIZE)));
}

int fs_txn_offer(struct fs_db *db, struct fs_scratch *sc, const struct fs_txn *in, struct fs_offer *out,
                 struct fz_err *err)
{
	struct ltx_trailer trailer;
	struct fs_txn t = *in;
	struct ltx_header h;
	struct fz_sink *sink;
	uint64_t bytes;
	int rc = arrange(db, sc, &t, &h, err);

	if (rc <= 0)
		return rc;
	rc = ltx_log_offer_begin(db->log, &h, &sink, err);
	if (rc < 0)
		return rc;
	rc = encode(db, sc, &t, &h, sink, &trailer, &bytes, err);
	if (rc == 0)
		rc = ltx_log_offer_end(db->log, bytes, &trailer, err);
	else
		ltx_log_offer_abort(db->log);
	if (rc < 0)
		return rc;
	*out = (struct fs_offer){
	        .txid = h.max_txid, .checksum = trailer.post_checksum, .time_ms = h.time_ms, .wal_to = t.wal_to};
	if (t.last_frame)
		memcpy(out->last_frame, t.last_frame, sizeof(out->last_frame));
	return 1;
}

const int64_t fs_delay_ms[FS_DELAYS] = {5, 10, 25, 50, 100, 250, 1000, 10000};

/* The tail was just committed to the log. Its time is that of the commit, or a tick of the kernel's clock before. */
static void note_delay(struct fs_db *db)
{
	int64_t ms = fz_now_ms() - db->tail_ms;
	size_t i = 0;

	if (ms < 0) /* commits of the same millisecond come one after the other in the log */
		ms = 0;
	while (i < FS_DELAYS && ms > fs_delay_ms[i])
		i++;
	db->delay.n[i]++;
	db->delay.sum_ms += ms;
}

int fs_txn_append(struct fs_db *db, struct fs_scratch *sc, const struct fs_txn *in, struct fz_err *err)
{
	struct ltx_trailer trailer;
	struct fs_txn t = *in;
	struct ltx_header h;
	struct fz_sink *sink;
	uint64_t bytes;
	int rc;

	if (was_offered(db, &t))
		t.time_ms = db->offer.time_ms;
	rc = arrange(db, sc, &t, &h, err);
	if (rc <= 0)
		return rc;
	rc = ltx_log_begin(db->log, &h, &sink, err);
	if (rc < 0)
		return rc;
	rc = encode(db, sc, &t, &h, sink, &trailer, &bytes, err);
	if (rc < 0) {
		ltx_log_abort(db->log);
		return rc;
	}
	rc = ltx_log_commit(db->log, bytes, ltx_enc_pages(sc->enc), &trailer, t.prepared, err);
	if (rc < 0)
		return rc;
	db->tail_ms = h.time_ms;
	/* A death from here on leaves head->txid behind the log: the entry is applied again, and brings its position. */
	if (t.last_frame)
		fs_wal_set_frame(db, t.wal_to, t.last_frame);
	if (t.prepared) {
		/* the pages go to the staged transaction, its old (reset) list becomes scratch */
		struct fs_pages old = db->rb.pages;

		db->rb.pages = sc->pages;
		sc->pages = old;
		fs_pages_reset(&sc->pages);
		db->rb.page_size = t.page_size;
		db->rb.commit = t.commit;
		db->rb.checksum = trailer.post_checksum;
		db->rb.txid = h.max_txid;
		db->rb.staged = true;
		db->rb.touched = false;
		db->rb.full = t.full;
	} else {
		apply_sums(db, &sc->pages, t.page_size, t.commit, t.full, trailer.post_checksum, h.max_txid);
		db->merged += t.commits - 1;
		note_delay(db);
	}
	db->grown_bytes += bytes;
	if (db->grown_bytes > BOUND_STEP ||
	    db->grown_bytes > db->c->conf.log_max_bytes / 4) { /* the keeper looks at the log's limit */
		db->grown_bytes = 0;
		fz_worker_kick(&db->c->keeper);
	}
	return 1;
}

int fs_txn_confirm(struct fs_db *db, struct fz_err *err)
{
	int rc = ltx_log_confirm(db->log, err);

	if (rc < 0)
		return rc;
	apply_sums(db, &db->rb.pages, db->rb.page_size, db->rb.commit, db->rb.full, db->rb.checksum, db->rb.txid);
	fs_pages_reset(&db->rb.pages);
	db->rb.staged = false;
	note_delay(db);
	return 0;
}

int fs_txn_drop(struct fs_db *db, struct fz_err *err)
{
	fs_pages_reset(&db->rb.pages);
	db->rb.staged = false;
	return ltx_log_drop_prepared(db->log, err);
}

static int replay_entry(struct fs_db *db, const struct ltx_log_entry *e, struct fz_err *err)
{
	struct ltx_sums_head *head = ltx_sums_head(db->sums);
	const struct ltx_header *h;
	struct ltx_dec *d = NULL;
	struct fz_src *src = NULL;
	const uint8_t *data;
	uint32_t pgno;
	uint64_t bytes;
	int rc;

	rc = ltx_log_src(db->log, e, &src, err);
	if (rc == 0)
		rc = ltx_dec_open(&d, src, 0, err);
	if (rc < 0)
		goto out;
	h = ltx_dec_header(d);
	if (h->min_txid == 1 || h->page_size != head->page_size)
		ltx_sums_clear_pages(db->sums);
	rc = ltx_sums_room(db->sums, h->commit, err);
	if (rc < 0)
		goto out;
	head = ltx_sums_head(db->sums);
	while ((rc = ltx_dec_page(d, &pgno, &data, err)) > 0)
		ltx_sums_set(db->sums, pgno, ltx_page_checksum(pgno, data, h->page_size));
	if (rc < 0)
		goto out;
	for (pgno = h->commit + 1; pgno <= head->commit; pgno++)
		ltx_sums_set(db->sums, pgno, 0);
	head->page_size = h->page_size;
	head->commit = h->commit;
	head->checksum = ltx_dec_end(d, &bytes)->post_checksum;
	if (h->wal_size > 0) {
		head->pos_salt[0] = h->wal_salt1;
		head->pos_salt[1] = h->wal_salt2;
		head->pos_frame = (uint32_t)ltx_wal_frames(h->page_size, (uint64_t)(h->wal_offset + h->wal_size));
		memset(head->last_frame, 0, sizeof(head->last_frame));
	}
	head->txid = h->max_txid;
out:
	ltx_dec_close(d);
	fz_src_close(src);
	return rc;
}

int fs_txn_replay_sums(struct fs_db *db, struct fz_err *err)
{
	struct ltx_sums_head *head = ltx_sums_head(db->sums);
	struct ltx_log_info info;

	ltx_log_info(db->log, &info);
	if (head->txid > info.tail_txid)
		ltx_sums_clear(db->sums);
	while (head->txid < info.tail_txid) {
		struct ltx_log_entry e;
		uint64_t at = head->txid + 1;
		int rc;

		if (at < info.first_txid && info.base_txid)
			at = 1; /* older than the segments: begin at the base */
		rc = ltx_log_find(db->log, at, &e, err);
		if (rc == 0)
			rc = replay_entry(db, &e, err);
		if (rc < 0)
			return rc;
	}
	return 0;
}

int fs_txn_adopt_tail(struct fs_db *db, struct fz_err *err)
{
	struct ltx_sums_head *head;
	struct ltx_log_info info;
	int rc;

	ltx_log_info(db->log, &info);
	ltx_sums_clear(db->sums);
	rc = ltx_sums_room(db->sums, info.commit, err);
	head = ltx_sums_head(db->sums);
	head->page_size = info.page_size;
	head->commit = info.commit;
	head->checksum = info.tail_checksum;
	head->txid = info.tail_txid;
	return rc;
}
