/* log.c - append to the local log of one database, and sync it.
 *
 * TERMS   head: the committed TXID in the mapped file. tail: the newest committed transaction, what readers see.
 *         A file is whole when it decodes, its file checksum is right, and it continues the chain.
 * ORDER OF WRITES of one transaction: (a) its bytes into the segment, (b) its index entry, (c) head. So
 * (1) SIGKILL anywhere: the page cache keeps all writes in order. Files up to head are whole; beyond head there is at
 *     most one whole file (killed between a and c, or prepared), and perhaps a torn one. The whole one is reported as
 *     prepared: it was not acknowledged, and the capture knows from SQLite's files whether it came to be.
 * (2) Power cut: any subset of the writes since the last sync may be on disk. ltx_log_sync() writes segments first, then
 *     the index of closed ones, then the directory, then head: so whatever it acknowledged is whole.
 * (3) Nothing is appended after a prepared file before it is confirmed or dropped. So of several whole files beyond a
 *     head that was left behind by a power cut, all but the last are known to have been committed: tail is the one
 *     before the last, and the last counts as prepared. (Hence a sync with a prepared transaction needs no sync of
 *     head: one flush for each FULL commit in rollback mode instead of two.)
 * (4) A head beyond the last whole file (head reached the disk, the file did not) is set back to it.
 * (5) What was dropped must not rise again: dropping a prepared transaction, truncating and a failed commit sync the
 *     shorter segment before they return.
 * (6) An abort leaves at most a torn tail: the last write of an encoder (the trailer) is in memory until commit.
 * (7) A log that follows (ltx_log_follow(), a mark in head that is on disk before the first append) holds nothing prepared:
 *     all whole files are committed, wherever head is. So a sync of it is that of its segment; head follows with each new
 *     segment. The next open for writing takes the mark away before anything else can be appended.
 * Held by tests/unit/test_ltx_logcrash.c: kill_at_every_byte (1, 6), sigkill (1), power_cut (2, 3, 4),
 * dropped_stays_dropped (5), a_full_disk_takes_nothing_away (5), a_follower_keeps_what_is_whole (7). */
#include "ltx/log.h"

#include "base/array.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "ltx/logpriv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- segments in the list ---------------------------------------------------------------------------------------- */

struct ltx_seg *ltx_log_seg_locked(struct ltx_log *log, uint64_t txid)
{
	size_t lo = 0, hi = log->n_segs;

	while (lo < hi) { /* the last one with min <= txid */
		size_t mid = lo + (hi - lo) / 2;

		if (log->segs[mid].min <= txid)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo && txid <= log->segs[lo - 1].max ? &log->segs[lo - 1] : NULL;
}

int ltx_log_segfile_locked(struct ltx_log *log, struct ltx_seg *s, struct ltx_segfile **out, struct fz_err *err)
{
	size_t at = (size_t)(s - log->segs);
	int rc = 0;

	if (!s->f) {
		rc = ltx_segfile_open(&s->f, log->dirfd, s->min, !log->readonly, err);
		if (rc < 0)
			return rc;
		if (at + 1 < log->n_segs) { /* one closed segment stays open: readers go through them in order */
			if (log->cached < log->n_segs && log->cached != at && !log->segs[log->cached].dirty) {
				ltx_segfile_put(log->segs[log->cached].f);
				log->segs[log->cached].f = NULL;
			}
			log->cached = at;
		}
	}
	*out = ltx_segfile_get(s->f);
	return rc;
}

int ltx_log_add_seg_locked(struct ltx_log *log, const struct ltx_seg *s, struct fz_err *err)
{
	if (!fz_array_room(log->segs, log->n_segs, log->cap_segs))
		return fz_fail_errno(err, ENOMEM, "listing log segments");
	log->segs[log->n_segs++] = *s;
	return 0;
}

void ltx_log_drop_seg_locked(struct ltx_log *log, size_t i)
{
	ltx_segfile_put(log->segs[i].f);
	log->n_segs--;
	for (size_t k = i; k < log->n_segs; k++)
		log->segs[k] = log->segs[k + 1];
	if (log->cached == i)
		log->cached = SIZE_MAX;
	else if (log->cached != SIZE_MAX && log->cached > i)
		log->cached--;
}

void ltx_log_unlink_seg(struct ltx_log *log, uint64_t min)
{
	char name[LTX_SEG_NAME_SIZE];

	/* the segment last: an index alone is litter, a segment alone is whole */
	unlinkat(log->dirfd, ltx_seg_name(name, min, ".idx"), 0);
	unlinkat(log->dirfd, ltx_seg_name(name, min, ".seg"), 0);
}

/* Between the steps the segment has no index, never a wrong one: open decodes it then. Under mu, so that no reader opens the one with
 * the other. */
int ltx_log_swap_seg_locked(struct ltx_log *log, struct ltx_seg *s, struct fz_err *err)
{
	char seg[LTX_SEG_NAME_SIZE], idx[LTX_SEG_NAME_SIZE];

	ltx_seg_name(seg, s->min, ".seg");
	ltx_seg_name(idx, s->min, ".idx");
	if ((unlinkat(log->dirfd, idx, 0) < 0 && errno != ENOENT) || fsync(log->dirfd) < 0 ||
	    renameat(log->dirfd, LTX_LOG_TMP_SEG, log->dirfd, seg) < 0 ||
	    renameat(log->dirfd, LTX_LOG_TMP_IDX, log->dirfd, idx) < 0)
		return fz_fail_errno(err, errno, "replacing a log segment");
	ltx_segfile_put(s->f);
	s->f = NULL;
	if (log->cached == (size_t)(s - log->segs))
		log->cached = SIZE_MAX;
	return 0;
}

void ltx_log_drop_tmp_seg(struct ltx_log *log)
{
	unlinkat(log->dirfd, LTX_LOG_TMP_SEG, 0); /* or the next open does it */
	unlinkat(log->dirfd, LTX_LOG_TMP_IDX, 0);
}

void ltx_log_changed_locked(struct ltx_log *log)
{
	pthread_cond_broadcast(&log->cond);
	ltx_logset_changed(log->set);
}

/* ---- append ------------------------------------------------------------------------------------------------------ */

static int spill(struct ltx_log_sink *s, struct fz_err *err)
{
	struct ltx_log *log = s->log;
	int rc = fz_pwrite(log->w.f->fd, s->buf.data, s->buf.size, (off_t)(log->w.bytes + s->spilled_bytes));

	if (rc < 0)
		return fz_fail_errno(err, -rc, "appending %zu bytes to the log", s->buf.size);
	s->spilled_bytes += s->buf.size;
	fz_buf_reset(&s->buf);
	return 0;
}

static int sink_write(struct fz_sink *sink, const void *data, size_t n, struct fz_err *err)
{
	struct ltx_log_sink *s = (struct ltx_log_sink *)sink;

	if (s->failed)
		return fz_fail(err, -s->failed, "the log took no more bytes");
	if (s->buf.size && s->buf.size + n > LTX_LOG_BUFFER_BYTES)
		s->failed = spill(s, err);
	if (!s->failed && fz_buf_add(&s->buf, data, n) < 0)
		s->failed = fz_fail_errno(err, ENOMEM, "buffering %zu bytes", n);
	return s->failed;
}

static int start_segment(struct ltx_log *log, struct fz_err *err)
{
	struct ltx_segfile *f = NULL;
	struct ltx_seg *last;
	uint64_t covered = 0;
	int rc;

	rc = ltx_segfile_create(&f, log->dirfd, log->tail + 1, err);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&log->mu);
	last = log->n_segs ? &log->segs[log->n_segs - 1] : NULL;
	if (last && (last->n == 0 || last->max <= log->base.e.max_txid)) {
		if (last->min != log->tail + 1)
			covered = last->min;
		ltx_log_drop_seg_locked(log, log->n_segs - 1);
	} else if (last) { /* from now on closed: synced once more, with its index */
		last->dirty = true;
		ltx_segfile_put(last->f);
		last->f = NULL;
	}
	rc = ltx_log_add_seg_locked(log, &(struct ltx_seg){.min = log->tail + 1, .max = log->tail, .f = f}, err);
	if (rc == 0) {
		log->dir_dirty = true;
		log->roll = false;
		ltx_segfile_put(log->w.f);
		log->w.f = ltx_segfile_get(f);
		log->w.min = log->tail + 1;
		log->w.n = log->w.bytes = 0;
	} else {
		ltx_segfile_put(f);
	}
	pthread_mutex_unlock(&log->mu);
	if (covered)
		ltx_log_unlink_seg(log, covered);
	return rc;
}

/* Makes the last segment ready for writing; where a branch shares it, another one. */
static int open_last(struct ltx_log *log, struct fz_err *err)
{
	struct ltx_seg *s;
	int rc;

	if (log->w.f)
		return 0;
	pthread_mutex_lock(&log->mu);
	s = &log->segs[log->n_segs - 1];
	rc = ltx_log_segfile_locked(log, s, &log->w.f, err);
	log->w.min = s->min;
	log->w.n = s->n;
	log->w.bytes = s->bytes;
	pthread_mutex_unlock(&log->mu);
	if (rc == 0 && ltx_segfile_shared(log->w.f)) {
		ltx_segfile_put(log->w.f);
		log->w.f = NULL;
		return start_segment(log, err);
	}
	return rc;
}

static int ready(struct ltx_log *log, struct fz_err *err)
{
	bool fresh;

	pthread_mutex_lock(&log->mu);
	fresh = log->n_segs == 0 || log->roll || log->segs[log->n_segs - 1].bytes >= log->segment_bytes ||
	        log->segs[log->n_segs - 1].max != log->tail;
	pthread_mutex_unlock(&log->mu);
	return fresh ? start_segment(log, err) : open_last(log, err);
}

int ltx_log_begin(struct ltx_log *log, const struct ltx_header *h, struct fz_sink **sink, struct fz_err *err)
{
	int rc;

	if (log->readonly)
		return fz_fail(err, FZ_EINTERNAL, "this log was opened for reading");
	if (log->broken)
		return fz_fail_errno(err, EIO, "the log of %s is damaged since a failed write", log->meta.name);
	if (log->in_begin || log->prepared)
		return fz_fail(err, FZ_EORDER, "a transaction is already open in the log");
	if (h->min_txid != log->tail + 1 || h->max_txid < h->min_txid)
		return fz_fail(err, FZ_EORDER, "TXID %" PRIu64 " does not follow %" PRIu64, h->min_txid, log->tail);
	if (h->flags || h->pre_checksum != (log->tail ? log->tail_checksum : 0))
		return fz_fail(err, FZ_EORDER, "TXID %" PRIu64 ": pre-checksum is not the log's", h->min_txid);
	rc = ready(log, err);
	if (rc < 0)
		return rc;
	log->cur = *h;
	log->in_begin = true;
	log->sink.sink.write = sink_write;
	log->sink.log = log;
	log->sink.spilled_bytes = 0;
	log->sink.failed = 0;
	fz_buf_reset(&log->sink.buf);
	*sink = &log->sink.sink;
	return 0;
}

/* Back to what was committed; durable when `sync`: a whole file that was not committed must not come back (5). */
static int cut_back(struct ltx_log *log, bool sync, struct fz_err *err)
{
	if (ftruncate(log->w.f->fd, (off_t)log->w.bytes) < 0 ||
	    ftruncate(log->w.f->idx_fd, (off_t)(log->w.n * LTX_PACK_ENTRY_SIZE)) < 0 ||
	    (sync && fsync(log->w.f->fd) < 0)) {
		log->broken = true;
		return fz_fail_errno(err, errno, "cannot take back a transaction in the log of %s", log->meta.name);
	}
	return 0;
}

static void end_sink(struct ltx_log *log)
{
	log->in_begin = false;
	if (log->sink.buf.cap > 2 * LTX_LOG_BUFFER_BYTES) /* one huge write must not stay in memory */
		fz_buf_fini(&log->sink.buf);
}

void ltx_log_abort(struct ltx_log *log)
{
	struct fz_err err;

	if (!log->in_begin)
		return;
	if (log->sink.spilled_bytes && cut_back(log, false, &err) < 0)
		fz_log_err("log", &err);
	end_sink(log);
}

/* Makes entry e, whose bytes and index entry are written, the tail. */
static void publish_locked(struct ltx_log *log, const struct ltx_pack_entry *e, const struct ltx_header *h,
                           const struct ltx_trailer *t)
{
	struct ltx_seg *last = &log->segs[log->n_segs - 1];

	last->n = ++log->w.n;
	last->bytes = log->w.bytes = e->off_bytes + e->size_bytes;
	last->max = e->max_txid;
	log->tail = e->max_txid;
	log->tail_checksum = t->post_checksum;
	log->tail_header = *h;
	log->added_txns += e->max_txid - e->min_txid + 1;
	log->added_pages += e->pages;
	log->added_bytes += e->size_bytes;
	ltx_head_set_txid(&log->head, e->max_txid);
	log->head_dirty = true;
}

int ltx_log_commit(struct ltx_log *log, uint64_t file_bytes, uint32_t pages, const struct ltx_trailer *t, bool prepared,
                   struct fz_err *err)
{
	struct ltx_log_sink *s = &log->sink;
	struct ltx_pack_entry e;
	int rc;

	if (!log->in_begin || (prepared && ltx_head_follows(&log->head))) {
		ltx_log_abort(log);
		return fz_fail(err, FZ_EINTERNAL,
		               prepared ? "nothing is prepared in a log that follows" : "commit without begin");
	}
	if (s->failed || s->spilled_bytes + s->buf.size != file_bytes) {
		ltx_log_abort(log);
		return fz_fail(err, s->failed ? -s->failed : FZ_EINTERNAL, "transaction is incomplete in the log");
	}
	e = (struct ltx_pack_entry){.min_txid = log->cur.min_txid,
	                            .max_txid = log->cur.max_txid,
	                            .time_ms = log->cur.time_ms,
	                            .off_bytes = log->w.bytes,
	                            .size_bytes = file_bytes,
	                            .pages = pages,
	                            .commit = log->cur.commit};
	rc = spill(s, err);
	if (rc == 0)
		rc = ltx_segfile_put_entry(log->w.f, log->w.n, &e, err);
	end_sink(log);
	if (rc < 0) {
		if (cut_back(log, true, NULL) < 0)
			fz_error("log of %s: a failed append could not be taken back", fz_log_db(log->meta.name));
		return rc;
	}
	pthread_mutex_lock(&log->mu);
	log->segs[log->n_segs - 1].dirty = true;
	log->seq++;
	if (prepared) {
		log->prepared = true;
		log->prep_header = log->cur;
		log->prep_trailer = *t;
		log->prep_entry = e;
		log->prep_offered = false;
	} else {
		publish_locked(log, &e, &log->cur, t);
		ltx_log_changed_locked(log);
	}
	pthread_mutex_unlock(&log->mu);
	if (!prepared)
		ltx_log_offer_expire(log);
	return 0;
}

bool ltx_log_prepared(struct ltx_log *log, struct ltx_header *h, struct ltx_trailer *t)
{
	bool is;

	pthread_mutex_lock(&log->mu);
	is = log->prepared;
	if (is && h)
		*h = log->prep_header;
	if (is && t)
		*t = log->prep_trailer;
	pthread_mutex_unlock(&log->mu);
	return is;
}

int ltx_log_confirm(struct ltx_log *log, struct fz_err *err)
{
	int rc;

	if (log->readonly || !log->prepared)
		return fz_fail(err, FZ_EORDER, "no prepared transaction in the log");
	rc = open_last(log, err);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&log->mu);
	log->prepared = false;
	log->seq++;
	publish_locked(log, &log->prep_entry, &log->prep_header, &log->prep_trailer);
	ltx_log_changed_locked(log);
	pthread_mutex_unlock(&log->mu);
	return 0;
}

int ltx_log_drop_prepared(struct ltx_log *log, struct fz_err *err)
{
	int rc;

	if (log->readonly || log->broken || !log->prepared)
		return fz_fail(err, FZ_EORDER, "no prepared transaction that can be dropped");
	rc = open_last(log, err);
	if (rc == 0 && log->head_dirty) /* once nothing follows it, the file before must not count as prepared (3) */
		rc = ltx_head_sync(&log->head, err);
	if (rc == 0)
		rc = cut_back(log, true, err);
	if (rc == 0) {
		pthread_mutex_lock(&log->mu);
		log->prepared = false;
		pthread_mutex_unlock(&log->mu);
	}
	return rc;
}

/* ---- the rest ---------------------------------------------------------------------------------------------------- */

void ltx_log_info(struct ltx_log *log, struct ltx_log_info *out)
{
	struct ltx_log_info i = {0};

	pthread_mutex_lock(&log->mu);
	if (log->readonly && ltx_log_refresh_locked(log, NULL) < 0)
		fz_debug("log of %s: could not be read again", fz_log_db(log->meta.name));
	memcpy(i.name, log->meta.name, sizeof(i.name));
	memcpy(i.lineage, log->meta.lineage, sizeof(i.lineage));
	i.epoch = log->meta.epoch;
	i.epoch_txid = log->meta.epoch_txid;
	i.epoch_checksum = log->meta.epoch_checksum;
	i.created_ms = log->meta.created_ms;
	i.ended_ms = log->meta.ended_ms;
	i.page_size = log->tail_header.page_size;
	i.commit = log->tail_header.commit;
	i.tail_time_ms = log->tail_header.time_ms;
	i.base_txid = log->base.e.max_txid;
	i.base_bytes = log->base.e.size_bytes;
	i.tail_txid = log->tail;
	i.synced_txid = log->synced;
	i.tail_checksum = log->tail_checksum;
	i.merged_txns = log->merged_txns;
	i.added_txns = log->added_txns;
	i.added_pages = log->added_pages;
	i.added_bytes = log->added_bytes;
	i.syncs = log->n_syncs;
	for (size_t k = 0; k < log->n_segs; k++) {
		i.log_bytes += log->segs[k].bytes + log->segs[k].n * LTX_PACK_ENTRY_SIZE;
		if (log->segs[k].max > i.base_txid) /* the base may end within a segment */
			i.entries += log->segs[k].max - i.base_txid < log->segs[k].n ? log->segs[k].max - i.base_txid
			                                                             : log->segs[k].n;
		if (!i.first_txid && log->segs[k].n && log->segs[k].max > i.base_txid)
			i.first_txid = log->segs[k].min > i.base_txid ? log->segs[k].min : i.base_txid + 1;
	}
	if (log->prepared)
		i.log_bytes += log->prep_entry.size_bytes;
	pthread_mutex_unlock(&log->mu);
	*out = i;
}

uint64_t ltx_log_wait(struct ltx_log *log, uint64_t txid, int64_t timeout_ms)
{
	struct timespec until;
	uint64_t end_ns = timeout_ms < 0 ? UINT64_MAX : fz_mono_ns() + (uint64_t)timeout_ms * 1000000;
	uint64_t wakes, tail;

	pthread_mutex_lock(&log->mu);
	wakes = log->wakes;
	for (;;) {
		uint64_t next_ns = end_ns;

		if (log->readonly) { /* another process appends: nobody signals us */
			next_ns = fz_mono_ns() + 20 * 1000000;
			if (ltx_log_refresh_locked(log, NULL) < 0)
				fz_debug("log of %s: could not be read again", fz_log_db(log->meta.name));
		}
		if (log->tail > txid || log->wakes != wakes || log->wake_pending || fz_mono_ns() >= end_ns)
			break;
		if (next_ns > end_ns)
			next_ns = end_ns;
		if (next_ns == UINT64_MAX) {
			pthread_cond_wait(&log->cond, &log->mu);
			continue;
		}
		until.tv_sec = (time_t)(next_ns / 1000000000);
		until.tv_nsec = (long)(next_ns % 1000000000);
		pthread_cond_timedwait(&log->cond, &log->mu, &until);
	}
	tail = log->tail;
	log->wake_pending = false;
	pthread_mutex_unlock(&log->mu);
	return tail;
}

void ltx_log_wake(struct ltx_log *log)
{
	pthread_mutex_lock(&log->mu);
	log->wakes++;
	log->wake_pending = true;
	pthread_cond_broadcast(&log->cond);
	pthread_mutex_unlock(&log->mu);
}

int ltx_log_dirfd(struct ltx_log *log)
{
	return log->dirfd;
}

static int change_meta(struct ltx_log *log, const struct ltx_pos *epoch, const int64_t *ended_ms, struct fz_err *err)
{
	struct ltx_log_meta m;
	int rc;

	pthread_mutex_lock(&log->maint);
	pthread_mutex_lock(&log->mu);
	m = log->meta;
	m.page_size = log->tail_header.page_size;
	pthread_mutex_unlock(&log->mu);
	if (epoch) {
		m.epoch = epoch->epoch;
		m.epoch_txid = epoch->txid;
		m.epoch_checksum = epoch->checksum;
	}
	if (ended_ms)
		m.ended_ms = *ended_ms;
	rc = log->readonly ? fz_fail(err, FZ_EINTERNAL, "this log was opened for reading")
	                   : ltx_log_meta_write(&m, log->dirfd, err);
	if (rc == 0) {
		pthread_mutex_lock(&log->mu);
		log->meta.page_size = m.page_size; /* name and lineage never change: they are read without mu */
		log->meta.epoch = m.epoch;
		log->meta.epoch_txid = m.epoch_txid;
		log->meta.epoch_checksum = m.epoch_checksum;
		log->meta.ended_ms = m.ended_ms;
		ltx_log_changed_locked(log);
		pthread_mutex_unlock(&log->mu);
	}
	pthread_mutex_unlock(&log->maint);
	return rc;
}

int ltx_log_set_epoch(struct ltx_log *log, uint32_t epoch, struct fz_err *err)
{
	struct ltx_log_info info;

	ltx_log_info(log, &info);
	return ltx_log_set_epoch_at(log, &(struct ltx_pos){epoch, info.tail_txid, info.tail_checksum}, err);
}

int ltx_log_set_epoch_at(struct ltx_log *log, const struct ltx_pos *start, struct fz_err *err)
{
	return change_meta(log, start, NULL, err);
}

int ltx_log_set_ended(struct ltx_log *log, int64_t ms, struct fz_err *err)
{
	if (!log->in_begin) /* nothing is appended any more */
		fz_buf_fini(&log->sink.buf);
	return change_meta(log, NULL, &ms, err);
}
