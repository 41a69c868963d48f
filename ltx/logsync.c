/* logsync.c - make the local log survive a power cut. The order (segments, indexes of closed ones, directory, head) is
 * what log.c (2) and (3) rest on. Callers that come while one syncs wait for it, and one of them syncs for all of them. */
#include "ltx/logpriv.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* Syncs what was dirty when it was called, one segment after the other; mu is held on entry and exit, not while the
 * disk works. */
static int sync_all_locked(struct ltx_log *log, struct fz_err *err)
{
	uint64_t last = log->tail + 1, done = 0;
	bool dir = log->dir_dirty;
	bool head = log->head_dirty && !log->prepared; /* (3) in log.c's head */
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < log->n_segs; i++) {
		struct ltx_seg *s = &log->segs[i];
		bool closed = i + 1 < log->n_segs;
		struct ltx_segfile *f;

		if (!s->dirty || s->min <= done || s->min > last)
			continue;
		done = s->min;
		s->dirty = false;
		f = NULL;
		if (s->f)
			f = ltx_segfile_get(s->f);
		else
			rc = ltx_segfile_open(&f, log->dirfd, s->min, true, err);
		pthread_mutex_unlock(&log->mu);
		if (rc == 0 && (fdatasync(f->fd) < 0 || (closed && fdatasync(f->idx_fd) < 0)))
			rc = fz_fail_errno(err, errno, "syncing the log");
		ltx_segfile_put(f);
		pthread_mutex_lock(&log->mu);
		log->n_syncs += closed ? 2 : 1;
		i = SIZE_MAX; /* the list may have changed: look again, `done` keeps us going forward */
	}
	if (rc == 0 && dir) {
		log->dir_dirty = false;
		pthread_mutex_unlock(&log->mu);
		if (fsync(log->dirfd) < 0)
			rc = fz_fail_errno(err, errno, "syncing the log's directory");
		pthread_mutex_lock(&log->mu);
		log->n_syncs++;
	}
	if (rc == 0 && head)
		ltx_head_set_synced(&log->head, last - 1);
	if (rc == 0 && head && (dir || !ltx_head_follows(&log->head))) { /* (7) */
		log->head_dirty = false;
		pthread_mutex_unlock(&log->mu);
		rc = ltx_head_sync(&log->head, err);
		pthread_mutex_lock(&log->mu);
		log->n_syncs++;
	}
	return rc;
}

int ltx_log_follow(struct ltx_log *log, struct fz_err *err)
{
	int rc = 0;

	if (log->readonly || log->in_begin || log->prepared)
		return fz_fail(err, FZ_EORDER, "the log of %s cannot follow now", log->meta.name);
	if (ltx_head_follows(&log->head))
		return 0;
	ltx_head_set_follows(&log->head, true);
	rc = ltx_head_sync(&log->head, err);
	if (rc < 0)
		ltx_head_set_follows(&log->head, false);
	return rc;
}

int ltx_log_sync(struct ltx_log *log, struct fz_err *err)
{
	uint64_t want;
	int rc = 0;

	if (log->readonly)
		return 0;
	pthread_mutex_lock(&log->mu);
	want = log->seq;
	while (rc == 0 && log->synced_seq < want) {
		uint64_t seq = log->seq, tail = log->tail;

		if (log->sync_error) {
			rc = fz_fail_errno(err, log->sync_error, "an earlier sync of the log of %s failed",
			                   log->meta.name);
		} else if (log->syncing) {
			pthread_cond_wait(&log->cond, &log->mu);
		} else {
			log->syncing = true;
			rc = sync_all_locked(log, err);
			log->syncing = false;
			if (rc == 0) {
				log->synced_seq = seq;
				if (tail > log->synced)
					log->synced = tail;
			} else {
				log->sync_error = rc > -FZ_EUSAGE ? -rc : EIO;
			}
			pthread_cond_broadcast(&log->cond);
		}
	}
	pthread_mutex_unlock(&log->mu);
	return rc;
}
