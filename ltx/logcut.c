/* logcut.c - cut off the end of the local log at start. Newest first, so that whatever a crash leaves is a log that
 * ends somewhere in between. */
#include "ltx/logpriv.h"

#include <errno.h>
#include <inttypes.h>
#include <unistd.h>

/* Where the cut falls into a segment that a branch shares: what stays of it, as files of the log's own, while nothing has changed
 * yet and a full disk changes nothing. 1 = made, 0 = none is needed. */
static int make_shorter(struct ltx_log *log, uint64_t txid, struct fz_err *err)
{
	char seg[LTX_SEG_NAME_SIZE], idx[LTX_SEG_NAME_SIZE];
	struct ltx_segfile *f = NULL;
	struct ltx_seg *s, at = {0};
	struct ltx_pack_entry e;
	uint64_t i;
	int rc = 0;

	pthread_mutex_lock(&log->mu);
	s = ltx_log_seg_locked(log, txid);
	if (s && s->n && s->min <= txid && txid < s->max) {
		at = *s;
		rc = ltx_log_segfile_locked(log, s, &f, err);
	}
	pthread_mutex_unlock(&log->mu);
	if (rc < 0 || !f)
		return rc;
	if (!ltx_segfile_shared(f)) {
		ltx_segfile_put(f);
		return 0;
	}
	rc = ltx_segfile_find(f, at.n, at.min, txid, &e, &i, err);
	ltx_segfile_put(f);
	if (rc == 0)
		rc = ltx_log_copy_file(log->dirfd, log->dirfd, ltx_seg_name(seg, at.min, ".seg"), LTX_LOG_TMP_SEG,
		                       e.off_bytes + e.size_bytes, err);
	if (rc == 0)
		rc = ltx_log_copy_file(log->dirfd, log->dirfd, ltx_seg_name(idx, at.min, ".idx"), LTX_LOG_TMP_IDX,
		                       (i + 1) * LTX_PACK_ENTRY_SIZE, err);
	if (rc < 0)
		ltx_log_drop_tmp_seg(log);
	return rc < 0 ? rc : 1;
}

/* Cuts the last segment down to what ends at txid. */
static int shorten_last(struct ltx_log *log, uint64_t txid, bool shorter, struct fz_err *err)
{
	struct ltx_seg *s = &log->segs[log->n_segs - 1];
	struct ltx_segfile *f = NULL;
	struct ltx_pack_entry e;
	uint64_t i;
	int rc;

	pthread_mutex_lock(&log->mu);
	rc = ltx_log_segfile_locked(log, s, &f, err);
	pthread_mutex_unlock(&log->mu);
	if (rc == 0)
		rc = ltx_segfile_find(f, s->n, s->min, txid, &e, &i, err);
	if (rc == 0 && shorter) {
		pthread_mutex_lock(&log->mu);
		rc = ltx_log_swap_seg_locked(log, s, err);
		pthread_mutex_unlock(&log->mu);
	} else if (rc == 0 && (ftruncate(f->fd, (off_t)(e.off_bytes + e.size_bytes)) < 0 || fsync(f->fd) < 0 ||
	                       ftruncate(f->idx_fd, (off_t)((i + 1) * LTX_PACK_ENTRY_SIZE)) < 0)) {
		rc = fz_fail_errno(err, errno, "shortening the log");
	}
	if (rc == 0) {
		pthread_mutex_lock(&log->mu);
		s->n = i + 1;
		s->bytes = e.off_bytes + e.size_bytes;
		s->max = txid;
		pthread_mutex_unlock(&log->mu);
	}
	ltx_segfile_put(f);
	return rc;
}

static void set_tail(struct ltx_log *log, uint64_t txid, uint64_t checksum)
{
	pthread_mutex_lock(&log->mu);
	log->tail = txid;
	log->tail_checksum = checksum;
	pthread_mutex_unlock(&log->mu);
}

static int truncate_to(struct ltx_log *log, uint64_t txid, struct fz_err *err)
{
	uint64_t checksum = LTX_EMPTY_DB, old = log->tail, old_checksum = log->tail_checksum;
	bool shorter;
	int rc;

	if (log->readonly || log->in_begin || log->prepared)
		return fz_fail(err, FZ_EORDER, "the log cannot be truncated now");
	if (txid >= log->tail)
		return 0;
	if (txid < log->base.e.max_txid)
		return fz_fail(err, FZ_EGAP, "TXID %" PRIu64 " is older than the log's base", txid);
	rc = txid ? ltx_log_checksum_at(log, txid, &checksum, err) : 0; /* it must end an entry */
	if (rc == 0)
		rc = make_shorter(log, txid, err);
	if (rc < 0)
		return rc;
	shorter = rc == 1;
	rc = 0;
	set_tail(log, txid, checksum); /* before anything goes: what is missing is cut off then, not damaged */
	if (log->synced > txid) {      /* or the next open would miss what was synced */
		ltx_head_set_synced(&log->head, txid);
		rc = ltx_head_sync(&log->head, err);
		pthread_mutex_lock(&log->mu);
		log->synced = txid;
		pthread_mutex_unlock(&log->mu);
	}
	ltx_segfile_put(log->w.f);
	log->w.f = NULL;
	while (rc == 0 && log->n_segs && log->segs[log->n_segs - 1].min > txid) {
		uint64_t min = log->segs[log->n_segs - 1].min;

		pthread_mutex_lock(&log->mu);
		ltx_log_drop_seg_locked(log, log->n_segs - 1);
		pthread_mutex_unlock(&log->mu);
		ltx_log_unlink_seg(log, min);
	}
	if (rc == 0 && log->n_segs && log->segs[log->n_segs - 1].max > txid)
		rc = shorten_last(log, txid, shorter, err);
	if (rc == 0 && fsync(log->dirfd) < 0)
		rc = fz_fail_errno(err, errno, "shortening the log");
	if (rc == 0) {
		ltx_head_set_txid(&log->head, txid);
		rc = ltx_head_sync(&log->head, err);
	}
	if (rc == 0) {
		pthread_mutex_lock(&log->mu);
		rc = ltx_log_find_tail_locked(log, err);
		ltx_log_changed_locked(log);
		pthread_mutex_unlock(&log->mu);
	}
	if (rc < 0) {
		ltx_log_drop_tmp_seg(log);
		set_tail(log, old, old_checksum);
		log->broken = true;
	}
	return rc;
}

int ltx_log_truncate(struct ltx_log *log, uint64_t txid, struct fz_err *err)
{
	int rc;

	pthread_mutex_lock(&log->maint);
	rc = truncate_to(log, txid, err);
	pthread_mutex_unlock(&log->maint);
	return rc;
}
