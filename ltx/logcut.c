/* logcut.c - cut off the end of the local log at start. Newest first, so that whatever a crash leaves is a log that
 * ends somewhere in between. */
#include "ltx/logpriv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

/* By shorter files of the log's own: these are a branch's too. An index alone is never there with another segment (squash_one() in logfold.c). */
static int replace_last(struct ltx_log *log, struct ltx_seg *s, uint64_t bytes, uint64_t idx_bytes, struct fz_err *err)
{
	static const char tmp_seg[] = "log-tmp-seg", tmp_idx[] = "log-tmp-idx";
	char seg[LTX_SEG_NAME_SIZE], idx[LTX_SEG_NAME_SIZE];
	int rc;

	ltx_seg_name(seg, s->min, ".seg");
	ltx_seg_name(idx, s->min, ".idx");
	rc = ltx_log_copy_file(log->dirfd, log->dirfd, seg, tmp_seg, bytes, err);
	if (rc == 0)
		rc = ltx_log_copy_file(log->dirfd, log->dirfd, idx, tmp_idx, idx_bytes, err);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&log->mu);
	if (unlinkat(log->dirfd, idx, 0) < 0 || fsync(log->dirfd) < 0 ||
	    renameat(log->dirfd, tmp_seg, log->dirfd, seg) < 0 || renameat(log->dirfd, tmp_idx, log->dirfd, idx) < 0)
		rc = fz_fail_errno(err, errno, "replacing a log segment");
	ltx_segfile_put(s->f); /* whoever reads from the old one goes on */
	s->f = NULL;
	pthread_mutex_unlock(&log->mu);
	return rc;
}

/* Cuts the last segment down to what ends at txid. */
static int shorten_last(struct ltx_log *log, uint64_t txid, struct fz_err *err)
{
	struct ltx_seg *s = &log->segs[log->n_segs - 1];
	struct ltx_segfile *f = NULL;
	struct ltx_pack_entry e;
	uint64_t i;
	bool shared;
	int rc;

	pthread_mutex_lock(&log->mu);
	rc = ltx_log_segfile_locked(log, s, &f, err);
	pthread_mutex_unlock(&log->mu);
	if (rc == 0)
		rc = ltx_segfile_find(f, s->n, s->min, txid, &e, &i, err);
	shared = rc == 0 && ltx_segfile_shared(f);
	if (shared)
		rc = replace_last(log, s, e.off_bytes + e.size_bytes, (i + 1) * LTX_PACK_ENTRY_SIZE, err);
	if (rc == 0 && !shared &&
	    (ftruncate(f->fd, (off_t)(e.off_bytes + e.size_bytes)) < 0 || fsync(f->fd) < 0 ||
	     ftruncate(f->idx_fd, (off_t)((i + 1) * LTX_PACK_ENTRY_SIZE)) < 0))
		rc = fz_fail_errno(err, errno, "shortening the log");
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
	int rc;

	if (log->readonly || log->in_begin || log->prepared)
		return fz_fail(err, FZ_EORDER, "the log cannot be truncated now");
	if (txid >= log->tail)
		return 0;
	if (txid < log->base.e.max_txid)
		return fz_fail(err, FZ_EGAP, "TXID %" PRIu64 " is older than the log's base", txid);
	rc = txid ? ltx_log_checksum_at(log, txid, &checksum, err) : 0; /* it must end an entry */
	if (rc < 0)
		return rc;
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
		rc = shorten_last(log, txid, err);
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
