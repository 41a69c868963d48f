/* logread.c - find transactions in the local log and open sources over them. Readers take log->mu for a lookup in the
 * list of segments only; index and data are read without it, through counted descriptors, so that neither an append
 * nor a prune waits for them. */
#include "ltx/logpriv.h"

#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Readonly: when what was found has moved since (pruned, squashed), one look at the directory tells where to. */
static int refresh_locked(struct ltx_log *log, struct fz_err *err)
{
	return log->readonly ? ltx_log_refresh_locked(log, err) : 0;
}

/* out[0] is entry i of n: what follows it in the segment, with one read. Returns how many there are now. */
static int read_on(struct ltx_segfile *f, uint64_t i, uint64_t n, struct ltx_log_entry *out, size_t cap)
{
	uint8_t raw[LTX_LOG_RUN * LTX_PACK_ENTRY_SIZE];
	size_t want = cap < LTX_LOG_RUN ? cap : LTX_LOG_RUN, k;
	ssize_t got;

	if (f->idx_fd < 0)
		return 1;
	want = n - i < want ? (size_t)(n - i) : want;
	got = fz_pread(f->idx_fd, raw, want * LTX_PACK_ENTRY_SIZE, (off_t)(i * LTX_PACK_ENTRY_SIZE));
	for (k = 1; got > 0 && k < (size_t)got / LTX_PACK_ENTRY_SIZE; k++) {
		out[k].seg = out[0].seg;
		if (ltx_seg_entry_get(&out[k].e, raw + k * LTX_PACK_ENTRY_SIZE, NULL) < 0 ||
		    out[k].e.min_txid != out[k - 1].e.max_txid + 1)
			break;
	}
	return (int)k;
}

static int find_once(struct ltx_log *log, uint64_t txid, struct ltx_log_entry *out, size_t cap, struct fz_err *err)
{
	struct ltx_segfile *f = NULL;
	uint64_t n = 0, min = 0, i;
	struct ltx_seg *s;
	int rc = 0;

	pthread_mutex_lock(&log->mu);
	if (txid > log->tail)
		rc = refresh_locked(log, err);
	if (rc < 0) {
		pthread_mutex_unlock(&log->mu);
		return rc;
	}
	if (txid > log->tail) {
		rc = fz_fail(err, FZ_ENOTFOUND, "TXID %" PRIu64 " is not in the log yet (tail %" PRIu64 ")", txid,
		             log->tail);
	} else if (txid <= log->base.e.max_txid && txid > 0) {
		*out = (struct ltx_log_entry){.e = log->base.e, .seg = 0};
		pthread_mutex_unlock(&log->mu);
		return 1;
	} else {
		s = ltx_log_seg_locked(log, txid);
		if (s) {
			n = s->n;
			min = s->min;
			rc = ltx_log_segfile_locked(log, s, &f, err);
		} else {
			rc = fz_fail(err, FZ_EGAP, "TXID %" PRIu64 " is no longer in the log", txid);
		}
	}
	pthread_mutex_unlock(&log->mu);
	if (rc < 0)
		return rc;
	rc = ltx_segfile_find(f, n, min, txid, &out->e, &i, err);
	out->seg = min;
	if (rc == 0)
		rc = cap > 1 ? read_on(f, i, n, out, cap) : 1;
	ltx_segfile_put(f);
	return rc;
}

/* A reader of another process that meets a change of the writer (fold, squash) looks once more. */
static bool look_again(struct ltx_log *log, int rc)
{
	bool again = false;

	if (!log->readonly || (rc != -ENOENT && rc != -FZ_ECORRUPT && rc != -FZ_ENOTFOUND && rc != -FZ_EGAP))
		return false;
	pthread_mutex_lock(&log->mu);
	again = ltx_log_reload_locked(log, NULL) == 0;
	pthread_mutex_unlock(&log->mu);
	return again;
}

int ltx_log_find_run(struct ltx_log *log, uint64_t txid, struct ltx_log_entry *out, size_t cap, struct fz_err *err)
{
	int rc = find_once(log, txid, out, cap, err);

	return rc < 0 && look_again(log, rc) ? find_once(log, txid, out, cap, err) : rc;
}

int ltx_log_find(struct ltx_log *log, uint64_t txid, struct ltx_log_entry *out, struct fz_err *err)
{
	int rc = ltx_log_find_run(log, txid, out, 1, err);

	return rc < 0 ? rc : 0;
}

static int checksum_once(struct ltx_log *log, uint64_t txid, uint64_t *out, struct fz_err *err)
{
	struct ltx_segfile *f = NULL;
	struct ltx_pack_entry e;
	struct ltx_trailer t;
	struct ltx_seg *s;
	uint64_t n = 0, min = 0, i;
	int rc;

	pthread_mutex_lock(&log->mu);
	s = ltx_log_seg_locked(log, txid);
	if (s) {
		n = s->n;
		min = s->min;
		rc = ltx_log_segfile_locked(log, s, &f, err);
	} else if (txid == log->base.e.max_txid) {
		*out = log->base.checksum;
		pthread_mutex_unlock(&log->mu);
		return 0;
	} else {
		rc = fz_fail(err, FZ_EGAP, "TXID %" PRIu64 " is not in the log", txid);
	}
	pthread_mutex_unlock(&log->mu);
	if (rc == 0)
		rc = ltx_segfile_find(f, n, min, txid, &e, &i, err);
	if (rc == 0 && e.max_txid != txid)
		rc = fz_fail(err, FZ_EORDER, "TXID %" PRIu64 " lies inside a merged range", txid);
	if (rc == 0)
		rc = ltx_segfile_ends(f, &e, NULL, &t, err);
	if (rc == 0)
		*out = t.post_checksum;
	ltx_segfile_put(f);
	return rc;
}

int ltx_log_checksum_at(struct ltx_log *log, uint64_t txid, uint64_t *out, struct fz_err *err)
{
	int rc = checksum_once(log, txid, out, err);

	return rc < 0 && look_again(log, rc) ? checksum_once(log, txid, out, err) : rc;
}

/* The last of the first n entries with time_ms <= at_ms: 1, or 0 when the first is later already. */
static int find_time_in(struct ltx_segfile *f, uint64_t n, int64_t at_ms, struct ltx_pack_entry *out,
                        struct fz_err *err)
{
	uint64_t lo = 0, hi = n; /* lo entries are known to be early enough */
	int rc;

	while (lo < hi) {
		uint64_t mid = lo + (hi - lo) / 2;
		struct ltx_pack_entry e;

		rc = ltx_segfile_entry(f, mid, &e, err);
		if (rc < 0)
			return rc;
		if (e.time_ms <= at_ms) {
			*out = e;
			lo = mid + 1;
		} else {
			hi = mid;
		}
	}
	return lo > 0;
}

static int find_time_once(struct ltx_log *log, int64_t at_ms, struct ltx_log_entry *out, struct fz_err *err)
{
	uint64_t below = UINT64_MAX; /* segments with a smaller name are still to be looked at */
	int rc = 0;

	pthread_mutex_lock(&log->mu);
	rc = refresh_locked(log, err);
	while (rc == 0) {
		struct ltx_segfile *f = NULL;
		struct ltx_seg *s = NULL;
		uint64_t n;

		for (size_t i = log->n_segs; i > 0 && !s; i--)
			if (log->segs[i - 1].min < below && log->segs[i - 1].n &&
			    log->segs[i - 1].max > log->base.e.max_txid)
				s = &log->segs[i - 1];
		if (!s)
			break;
		below = s->min;
		n = s->n;
		rc = ltx_log_segfile_locked(log, s, &f, err);
		pthread_mutex_unlock(&log->mu);
		if (rc == 0)
			rc = find_time_in(f, n, at_ms, &out->e, err);
		ltx_segfile_put(f);
		pthread_mutex_lock(&log->mu);
		if (rc > 0 && out->e.max_txid <= log->base.e.max_txid)
			break; /* what the base covers is only found through the base */
		if (rc > 0) {
			out->seg = below;
			pthread_mutex_unlock(&log->mu);
			return 0;
		}
	}
	if (rc >= 0 && log->base.e.max_txid && log->base.e.time_ms <= at_ms) {
		*out = (struct ltx_log_entry){.e = log->base.e, .seg = 0};
		rc = 0;
	} else if (rc >= 0) {
		rc = fz_fail(err, FZ_ENOCOMMIT, "the log holds no commit that old");
	}
	pthread_mutex_unlock(&log->mu);
	return rc;
}

int ltx_log_find_time(struct ltx_log *log, int64_t at_ms, struct ltx_log_entry *out, struct fz_err *err)
{
	int rc = find_time_once(log, at_ms, out, err);

	return rc < 0 && look_again(log, rc) ? find_time_once(log, at_ms, out, err) : rc;
}

/* ---- sources ----------------------------------------------------------------------------------------------------- */

struct seg_src {
	struct fz_src src;
	struct ltx_segfile *f;
	uint64_t off;
};

static int seg_src_read(struct fz_src *src, uint64_t off, void *data, size_t n, struct fz_err *err)
{
	struct seg_src *s = (struct seg_src *)src;
	ssize_t got = fz_pread(s->f->fd, data, n, (off_t)(s->off + off));

	if (got < 0)
		return fz_fail_errno(err, (int)-got, "reading the log");
	if ((size_t)got < n)
		return fz_fail(err, FZ_ETRUNCATED, "log segment ends early");
	return 0;
}

static void seg_src_close(struct fz_src *src)
{
	struct seg_src *s = (struct seg_src *)src;

	ltx_segfile_put(s->f);
	free(s);
}

int ltx_log_segfile_src(struct ltx_segfile *f, uint64_t off_bytes, uint64_t size_bytes, struct fz_src **out,
                        struct fz_err *err)
{
	struct seg_src *s = calloc(1, sizeof(*s));

	if (!s) {
		ltx_segfile_put(f);
		return fz_fail_errno(err, ENOMEM, "opening a source");
	}
	*s = (struct seg_src){
	        {seg_src_read, seg_src_close, size_bytes},
                f, off_bytes
        };
	*out = &s->src;
	return 0;
}

static int gone(const struct ltx_log_entry *e, struct fz_err *err)
{
	return fz_fail(err, FZ_EGAP, "TXID %" PRIu64 " was pruned or merged in the log meanwhile", e->e.min_txid);
}

static int base_src(struct ltx_log *log, const struct ltx_log_entry *e, struct fz_src **out, struct fz_err *err)
{
	char name[64];
	int fd, rc;

	snprintf(name, sizeof(name), "base-%016" PRIx64 ".ltx", e->e.max_txid);
	fd = openat(log->dirfd, name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? gone(e, err) : fz_fail_errno(err, errno, "cannot open %s", name);
	rc = fz_src_fd(out, fd, 0, e->e.size_bytes, true, err);
	if (rc < 0)
		fz_close(&fd);
	return rc;
}

static int src_once(struct ltx_log *log, const struct ltx_log_entry *first, const struct ltx_log_entry *last,
                    struct fz_src **out, struct fz_err *err)
{
	uint64_t size = last->e.off_bytes + last->e.size_bytes - first->e.off_bytes, n = 0, i;
	struct ltx_segfile *f = NULL;
	struct ltx_pack_entry e;
	struct ltx_seg *seg;
	int rc = 0;

	if (first->seg != last->seg || last->e.off_bytes < first->e.off_bytes)
		return fz_fail(err, FZ_EINTERNAL, "a source covers one segment");
	if (first->seg == 0)
		return base_src(log, first, out, err);
	pthread_mutex_lock(&log->mu);
	seg = ltx_log_seg_locked(log, last->e.max_txid);
	if (!seg || seg->min != first->seg) {
		rc = gone(first, err);
	} else {
		n = seg->n;
		rc = ltx_log_segfile_locked(log, seg, &f, err);
	}
	pthread_mutex_unlock(&log->mu);
	if (rc == -ENOENT)
		rc = gone(first, err);
	if (rc < 0)
		return rc;
	/* a squash gives the segment new content under the old name */
	rc = ltx_segfile_find(f, n, first->seg, last->e.max_txid, &e, &i, err);
	if (rc < 0 || e.off_bytes != last->e.off_bytes || e.size_bytes != last->e.size_bytes) {
		ltx_segfile_put(f);
		return gone(first, err);
	}
	return ltx_log_segfile_src(f, first->e.off_bytes, size, out, err);
}

int ltx_log_src_range(struct ltx_log *log, const struct ltx_log_entry *first, const struct ltx_log_entry *last,
                      struct fz_src **out, struct fz_err *err)
{
	int rc = src_once(log, first, last, out, err);

	return rc < 0 && look_again(log, rc) ? src_once(log, first, last, out, err) : rc;
}

int ltx_log_src(struct ltx_log *log, const struct ltx_log_entry *e, struct fz_src **out, struct fz_err *err)
{
	return ltx_log_src_range(log, e, e, out, err);
}
