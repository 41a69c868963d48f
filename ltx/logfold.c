/* logfold.c - bound the local log: fold transactions into its base, squash those of a segment into one. Every step on disk leaves what logopen.c accepts. Appends go on meanwhile: these work on closed files, and
 * log->maint lets only one of them at a time into the directory. */
#include "ltx/logpriv.h"

#include "base/file.h"
#include "base/log.h"
#include "ltx/merge.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- merge input: base and the transactions of a list of segments ------------------------------------------------ */

struct part {
	struct ltx_segfile *f;
	struct fz_src *src;
	uint64_t first_input; /* number of its first entry among all inputs */
	uint64_t skip;        /* entries the base covers already */
	uint64_t n;
};
struct inputs {
	struct ltx_merge_list list;
	struct ltx_merge_input base; /* src NULL = none */
	struct part *v;
	size_t n;
};

static int inputs_get(struct ltx_merge_list *l, uint64_t i, struct ltx_merge_input *out, struct fz_err *err)
{
	struct inputs *in = (struct inputs *)l;
	size_t lo = 0, hi = in->n;
	struct ltx_pack_entry e;
	int rc;

	if (in->base.src && i == 0) {
		*out = in->base;
		return 0;
	}
	while (hi - lo > 1) {
		size_t mid = lo + (hi - lo) / 2;

		if (in->v[mid].first_input <= i)
			lo = mid;
		else
			hi = mid;
	}
	rc = ltx_segfile_entry(in->v[lo].f, in->v[lo].skip + i - in->v[lo].first_input, &e, err);
	if (rc == 0)
		*out = (struct ltx_merge_input){in->v[lo].src, e.off_bytes, e.size_bytes};
	return rc;
}

static void inputs_fini(struct inputs *in)
{
	fz_src_close(in->base.src);
	for (size_t i = 0; i < in->n; i++) {
		fz_src_close(in->v[i].src);
		ltx_segfile_put(in->v[i].f);
	}
	free(in->v);
}

/* Adds the entries of segment s that lie in [first, last]; last must be the end of one. mu held. */
static int add_part_locked(struct ltx_log *log, struct inputs *in, struct ltx_seg *s, uint64_t first, uint64_t last,
                           struct fz_err *err)
{
	struct part *p = &in->v[in->n];
	struct ltx_pack_entry e;
	uint64_t at;
	int rc;

	memset(p, 0, sizeof(*p));
	if (s->f)
		p->f = ltx_segfile_get(s->f);
	else if ((rc = ltx_segfile_open(&p->f, log->dirfd, s->min, !log->readonly, err)) < 0)
		return rc;
	in->n++;
	p->first_input = in->list.n;
	p->n = s->n;
	if (first > s->min) {
		rc = ltx_segfile_find(p->f, s->n, s->min, first, &e, &at, err);
		if (rc < 0)
			return rc;
		if (e.min_txid != first)
			return fz_fail(err, FZ_EORDER, "TXID %" PRIu64 " lies inside a merged range", first);
		p->skip = at;
	}
	if (last < s->max) {
		rc = ltx_segfile_find(p->f, s->n, s->min, last, &e, &at, err);
		if (rc < 0)
			return rc;
		if (e.max_txid != last)
			return fz_fail(err, FZ_EORDER, "TXID %" PRIu64 " lies inside a merged range", last);
		p->n = at + 1;
	}
	p->n -= p->skip;
	in->list.n += p->n;
	return fz_src_fd(&p->src, p->f->fd, 0, s->bytes, false, err);
}

/* Base and everything after it up to txid. */
static int inputs_snapshot(struct ltx_log *log, struct inputs *in, uint64_t *txid, struct fz_err *err)
{
	uint64_t from;
	int rc = 0;

	*in = (struct inputs){.list.get = inputs_get};
	pthread_mutex_lock(&log->mu);
	if (log->readonly)
		rc = ltx_log_refresh_locked(log, err);
	if (*txid == 0)
		*txid = log->tail;
	from = log->base.e.max_txid + 1;
	if (rc == 0 && (*txid == 0 || *txid > log->tail))
		rc = fz_fail(err, FZ_ENOTFOUND, "TXID %" PRIu64 " is not in the log", *txid);
	else if (rc == 0 && *txid < from - 1)
		rc = fz_fail(err, FZ_EGAP, "TXID %" PRIu64 " is older than the log's base", *txid);
	if (rc == 0 && from > 1) {
		struct ltx_log_entry b = {.e = log->base.e};

		rc = ltx_log_src(log, &b, &in->base.src, err);
		in->base.size_bytes = log->base.e.size_bytes;
		in->list.n = 1;
	}
	in->v = calloc(log->n_segs + 1, sizeof(*in->v));
	if (!in->v)
		rc = fz_fail_errno(err, ENOMEM, "merging the log");
	for (size_t i = 0; rc == 0 && i < log->n_segs; i++) {
		struct ltx_seg *s = &log->segs[i];

		if (s->n && s->max >= from && s->min <= *txid)
			rc = add_part_locked(log, in, s, from, *txid, err);
	}
	pthread_mutex_unlock(&log->mu);
	return rc;
}

int ltx_log_snapshot(struct ltx_log *log, uint64_t txid, struct fz_sink *sink, struct ltx_merge_result *result,
                     const volatile bool *cancel, struct fz_err *err)
{
	struct inputs in;
	int rc = inputs_snapshot(log, &in, &txid, err);

	if (rc == 0)
		rc = ltx_merge(&in.list, sink, result, cancel, err);
	inputs_fini(&in);
	return rc;
}

/* ---- base -------------------------------------------------------------------------------------------------------- */

/* Unlinks the segments that the base covers, oldest first. The last one stays for appends; the next begin replaces it. */
static void prune(struct ltx_log *log)
{
	for (;;) {
		uint64_t min = 0;

		pthread_mutex_lock(&log->mu);
		if (log->n_segs > 1 && log->segs[1].min - 1 <= log->base.e.max_txid) {
			min = log->segs[0].min;
			ltx_log_drop_seg_locked(log, 0);
		} else if (log->n_segs && log->segs[0].n && log->segs[0].max <= log->base.e.max_txid) {
			log->roll = true;
		}
		pthread_mutex_unlock(&log->mu);
		if (!min)
			break;
		ltx_log_unlink_seg(log, min);
	}
}

static int install_base(struct ltx_log *log, const char *tmp_name, struct fz_err *err)
{
	struct ltx_log_base b = {0}, old;
	char name[64];
	uint64_t checksum = 0, tail;
	int fd = -1, rc;

	if (log->readonly)
		return fz_fail(err, FZ_EINTERNAL, "this log was opened for reading");
	rc = ltx_log_base_read(&b, log->dirfd, tmp_name, err);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&log->mu);
	old = log->base;
	tail = log->tail;
	if (b.e.max_txid <= old.e.max_txid || (b.e.max_txid > tail && (log->prepared || log->in_begin)))
		rc = fz_fail(err, FZ_EORDER, "a base at TXID %" PRIu64 " does not fit this log", b.e.max_txid);
	pthread_mutex_unlock(&log->mu);
	if (rc == 0 && b.e.max_txid <= tail) {
		rc = ltx_log_checksum_at(log, b.e.max_txid, &checksum, err);
		if (rc == 0 && checksum != b.checksum)
			rc = fz_fail(err, FZ_ECHECKSUM, "the new base differs from the log at TXID %" PRIu64,
			             b.e.max_txid);
	}
	if (rc < 0)
		return rc;
	fd = openat(log->dirfd, tmp_name, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fsync(fd) < 0)
		rc = fz_fail_errno(err, errno, "syncing the new base");
	fz_close(&fd);
	snprintf(name, sizeof(name), "base-%016" PRIx64 ".ltx", b.e.max_txid);
	if (rc == 0 && renameat(log->dirfd, tmp_name, log->dirfd, name) < 0)
		rc = fz_fail_errno(err, errno, "installing the new base");
	if (rc == 0 && fsync(log->dirfd) < 0)
		rc = fz_fail_errno(err, errno, "installing the new base");
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&log->mu);
	log->base = b;
	if (b.e.max_txid > log->tail) {
		log->tail = b.e.max_txid;
		log->tail_checksum = b.checksum;
		log->tail_header = (struct ltx_header){.page_size = b.page_size,
		                                       .commit = b.e.commit,
		                                       .min_txid = 1,
		                                       .max_txid = b.e.max_txid,
		                                       .time_ms = b.e.time_ms};
		ltx_head_set_txid(&log->head, log->tail);
		log->head_dirty = true;
		log->seq++;
	}
	ltx_log_changed_locked(log);
	pthread_mutex_unlock(&log->mu);
	if (old.e.max_txid) {
		snprintf(name, sizeof(name), "base-%016" PRIx64 ".ltx", old.e.max_txid);
		unlinkat(log->dirfd, name, 0);
	}
	prune(log);
	return 0;
}

int ltx_log_install_base(struct ltx_log *log, const char *tmp_name, struct fz_err *err)
{
	int rc;

	pthread_mutex_lock(&log->maint);
	rc = install_base(log, tmp_name, err);
	pthread_mutex_unlock(&log->maint);
	return rc;
}

/* Merges into a temporary file of the log's directory, synced. */
static int merge_to_file(struct ltx_log *log, struct inputs *in, const char *tmp, struct ltx_merge_result *r,
                         const volatile bool *cancel, struct fz_err *err)
{
	struct fz_fd_sink sink;
	int fd = openat(log->dirfd, tmp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), rc;

	if (fd < 0)
		return fz_fail_errno(err, errno, "cannot create %s", tmp);
	fz_fd_sink_init(&sink, fd, 0);
	rc = ltx_merge(&in->list, &sink.sink, r, cancel, err);
	if (rc == 0)
		rc = fz_fd_sink_flush(&sink, err);
	if (rc == 0 && fsync(fd) < 0)
		rc = fz_fail_errno(err, errno, "syncing %s", tmp);
	fz_fd_sink_fini(&sink);
	fz_close(&fd);
	if (rc < 0)
		unlinkat(log->dirfd, tmp, 0);
	return rc;
}

int ltx_log_fold(struct ltx_log *log, uint64_t txid, const volatile bool *cancel, struct fz_err *err)
{
	static const char tmp[] = "log-tmp-base";
	struct ltx_log_entry e;
	struct ltx_merge_result r;
	struct inputs in;
	int rc;

	if (log->readonly)
		return fz_fail(err, FZ_EINTERNAL, "this log was opened for reading");
	pthread_mutex_lock(&log->maint);
	if (txid && ltx_log_find(log, txid, &e, NULL) == 0 && e.seg && e.e.max_txid > txid) {
		txid = e.e.min_txid - 1; /* inside a merged range: up to the one before */
		if (txid == 0) {
			pthread_mutex_unlock(&log->maint);
			return 0;
		}
	}
	rc = inputs_snapshot(log, &in, &txid, err);
	if (rc == 0 && (in.list.n > 1 || !in.base.src)) {
		rc = merge_to_file(log, &in, tmp, &r, cancel, err);
		if (rc == 0)
			rc = install_base(log, tmp, err);
		if (rc < 0)
			unlinkat(log->dirfd, tmp, 0);
	}
	inputs_fini(&in);
	pthread_mutex_unlock(&log->maint);
	return rc;
}

uint64_t ltx_log_bytes_upto(struct ltx_log *log, uint64_t txid)
{
	uint64_t sum = 0;

	pthread_mutex_lock(&log->mu);
	for (size_t i = 0; i < log->n_segs && log->segs[i].max <= txid; i++)
		sum += log->segs[i].bytes;
	pthread_mutex_unlock(&log->mu);
	return sum;
}

/* ---- squash ------------------------------------------------------------------------------------------------------ */

/* Replaces segment min by one that holds a single file. */
static int squash_one(struct ltx_log *log, uint64_t min, struct fz_err *err)
{
	struct inputs in = {.list.get = inputs_get};
	struct part one = {0};
	struct ltx_merge_result r;
	uint8_t raw[LTX_PACK_ENTRY_SIZE];
	struct ltx_pack_entry e;
	struct ltx_seg *s;
	uint64_t old_n = 0;
	int rc;

	in.v = &one;
	pthread_mutex_lock(&log->mu);
	s = ltx_log_seg_locked(log, min);
	if (!s)
		rc = fz_fail(err, FZ_EINTERNAL, "the segment to squash is gone");
	else
		rc = add_part_locked(log, &in, s, s->min, s->max, err);
	old_n = s ? s->n : 0;
	pthread_mutex_unlock(&log->mu);
	if (rc == 0)
		rc = merge_to_file(log, &in, LTX_LOG_TMP_SEG, &r, NULL, err);
	fz_src_close(one.src);
	ltx_segfile_put(one.f);
	if (rc < 0)
		return rc;
	e = (struct ltx_pack_entry){.min_txid = r.header.min_txid,
	                            .max_txid = r.header.max_txid,
	                            .time_ms = r.header.time_ms,
	                            .size_bytes = r.file_bytes,
	                            .pages = r.pages,
	                            .commit = r.header.commit};
	ltx_pack_entry_put(raw, &e);
	rc = fz_write_file(log->dirfd, LTX_LOG_TMP_IDX, raw, sizeof(raw), 0600, err);
	pthread_mutex_lock(&log->mu);
	s = ltx_log_seg_locked(log, min);
	if (rc == 0)
		rc = s ? ltx_log_swap_seg_locked(log, s, err)
		       : fz_fail(err, FZ_EINTERNAL, "the segment to squash is gone");
	if (rc == 0) {
		s->n = 1;
		s->bytes = r.file_bytes;
		s->dirty = true;
		log->dir_dirty = true;
		log->seq++;
		log->merged_txns += old_n - 1;
		ltx_log_changed_locked(log);
	}
	pthread_mutex_unlock(&log->mu);
	if (rc < 0)
		ltx_log_drop_tmp_seg(log);
	return rc;
}

int ltx_log_squash(struct ltx_log *log, uint64_t first_txid, uint64_t last_txid, struct fz_err *err)
{
	uint64_t after = 0;
	int rc;

	if (log->readonly)
		return fz_fail(err, FZ_EINTERNAL, "this log was opened for reading");
	/* A merged range must lie below the head on disk, or a power cut would take it for a prepared transaction. */
	rc = ltx_log_sync(log, err);
	pthread_mutex_lock(&log->maint);
	while (rc == 0) {
		uint64_t min = 0;

		pthread_mutex_lock(&log->mu);
		for (size_t i = 0; i + 1 < log->n_segs && !min; i++) {
			struct ltx_seg *s = &log->segs[i];

			if (s->min > after && s->min >= first_txid && s->max <= last_txid && s->n > 1 &&
			    s->min > log->base.e.max_txid)
				min = s->min;
		}
		pthread_mutex_unlock(&log->mu);
		if (!min)
			break;
		after = min;
		rc = squash_one(log, min, err);
	}
	pthread_mutex_unlock(&log->maint);
	return rc;
}
