#include "ltx/offer.h"

#include "base/file.h"
#include "ltx/logpriv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MEMORY_BYTES (1u << 20) /* beyond: in a file without a name */

/* Counted: a sender may still read what was replaced. */
struct ltx_offered {
	atomic_int refs;
	struct ltx_offer o;
	struct fz_buf memory;
	int fd; /* -1 = all of it is in memory */
};
struct ltx_offer_sink {
	struct fz_sink sink;
	struct ltx_log *log;
	struct ltx_offered *making;
	uint64_t spilled_bytes;
};

static void put(struct ltx_offered *x)
{
	if (!x || atomic_fetch_sub(&x->refs, 1) > 1)
		return;
	fz_buf_fini(&x->memory);
	fz_close(&x->fd);
	free(x);
}

/* ---- writer ---- */

static int spill(struct ltx_offer_sink *s, struct fz_err *err)
{
	struct ltx_offered *x = s->making;
	int rc;

	if (x->fd < 0)
		x->fd = openat(s->log->dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (x->fd < 0)
		return fz_fail_errno(err, errno, "a temporary file for a large transaction");
	rc = fz_pwrite(x->fd, x->memory.data, x->memory.size, (off_t)s->spilled_bytes);
	if (rc < 0)
		return fz_fail_errno(err, -rc, "writing a large transaction");
	s->spilled_bytes += x->memory.size;
	fz_buf_reset(&x->memory);
	return 0;
}

static int sink_write(struct fz_sink *sink, const void *data, size_t n, struct fz_err *err)
{
	struct ltx_offer_sink *s = (struct ltx_offer_sink *)sink;
	int rc = 0;

	if (s->making->memory.size && s->making->memory.size + n > MEMORY_BYTES)
		rc = spill(s, err);
	if (rc == 0 && fz_buf_add(&s->making->memory, data, n) < 0)
		rc = fz_fail_errno(err, ENOMEM, "offering a transaction");
	return rc;
}

int ltx_log_offer_begin(struct ltx_log *log, const struct ltx_header *h, struct fz_sink **sink, struct fz_err *err)
{
	struct ltx_offered *x;

	if (log->readonly || log->in_begin || log->prepared || log->offering)
		return fz_fail(err, FZ_EORDER, "a transaction is already open in the log");
	if (h->min_txid != log->tail + 1 || h->max_txid < h->min_txid || h->flags ||
	    h->pre_checksum != (log->tail ? log->tail_checksum : 0))
		return fz_fail(err, FZ_EORDER, "what is offered does not follow the log");
	log->offering = calloc(1, sizeof(*log->offering));
	x = calloc(1, sizeof(*x));
	if (!log->offering || !x) {
		free(x);
		free(log->offering);
		log->offering = NULL;
		return fz_fail_errno(err, ENOMEM, "offering a transaction");
	}
	x->refs = 1;
	x->fd = -1;
	x->o.header = *h;
	log->offering->sink.write = sink_write;
	log->offering->log = log;
	log->offering->making = x;
	*sink = &log->offering->sink;
	return 0;
}

void ltx_log_offer_abort(struct ltx_log *log)
{
	if (!log->offering)
		return;
	put(log->offering->making);
	free(log->offering);
	log->offering = NULL;
}

int ltx_log_offer_end(struct ltx_log *log, uint64_t file_bytes, const struct ltx_trailer *t, struct fz_err *err)
{
	struct ltx_offer_sink *s = log->offering;
	struct ltx_offered *x = s ? s->making : NULL, *old;
	int rc = 0;

	if (!s)
		return fz_fail(err, FZ_EINTERNAL, "an offer ends that was not begun");
	if (x->fd >= 0 && x->memory.size)
		rc = spill(s, err);
	if (rc == 0 && file_bytes != s->spilled_bytes + x->memory.size)
		rc = fz_fail(err, FZ_EINTERNAL, "an offer is incomplete");
	if (rc < 0) {
		ltx_log_offer_abort(log);
		return rc;
	}
	x->o.trailer = *t;
	x->o.size_bytes = file_bytes;
	free(s);
	log->offering = NULL;
	pthread_mutex_lock(&log->mu);
	old = log->offer;
	log->offer = x;
	ltx_logset_changed(log->set);
	pthread_mutex_unlock(&log->mu);
	put(old);
	return 0;
}

void ltx_log_offer_prepared(struct ltx_log *log)
{
	pthread_mutex_lock(&log->mu);
	if (log->prepared && !log->prep_offered) {
		log->prep_offered = true;
		ltx_logset_changed(log->set);
	}
	pthread_mutex_unlock(&log->mu);
}

void ltx_log_withdraw(struct ltx_log *log)
{
	struct ltx_offered *old;

	pthread_mutex_lock(&log->mu);
	old = log->offer;
	log->offer = NULL;
	if (old || log->prep_offered)
		ltx_logset_changed(log->set);
	log->prep_offered = false;
	pthread_mutex_unlock(&log->mu);
	put(old);
}

void ltx_log_offer_expire(struct ltx_log *log)
{
	struct ltx_offered *old = log->offer; /* changed by the writer only */

	if (!old)
		return;
	pthread_mutex_lock(&log->mu);
	log->offer = NULL;
	pthread_mutex_unlock(&log->mu);
	put(old);
}

void ltx_log_offer_fini(struct ltx_log *log)
{
	ltx_log_offer_abort(log);
	put(log->offer);
	log->offer = NULL;
}

/* ---- readers ---- */

struct offer_src {
	struct fz_src src;
	struct ltx_offered *x;
};

static int offer_read(struct fz_src *src, uint64_t off, void *data, size_t n, struct fz_err *err)
{
	struct ltx_offered *x = ((struct offer_src *)src)->x;
	ssize_t got;

	if (x->fd < 0) {
		memcpy(data, x->memory.data + off, n);
		return 0;
	}
	got = fz_pread(x->fd, data, n, (off_t)off);
	if (got < 0)
		return fz_fail_errno(err, (int)-got, "reading a large transaction");
	return (size_t)got == n ? 0 : fz_fail(err, FZ_ETRUNCATED, "a large transaction ends early");
}

static void offer_close(struct fz_src *src)
{
	put(((struct offer_src *)src)->x);
	free(src);
}

static bool open_offer_locked(struct ltx_log *log, struct fz_src **src)
{
	struct offer_src *s = calloc(1, sizeof(*s));

	if (!s)
		return false;
	atomic_fetch_add(&log->offer->refs, 1);
	s->x = log->offer;
	s->src = (struct fz_src){offer_read, offer_close, log->offer->o.size_bytes};
	*src = &s->src;
	return true;
}

static bool open_prepared_locked(struct ltx_log *log, struct fz_src **src)
{
	struct ltx_segfile *f = NULL;

	if (ltx_log_segfile_locked(log, &log->segs[log->n_segs - 1], &f, NULL) < 0)
		return false;
	return ltx_log_segfile_src(f, log->prep_entry.off_bytes, log->prep_entry.size_bytes, src, NULL) == 0;
}

bool ltx_log_offered(struct ltx_log *log, struct ltx_offer *out, struct fz_src **src)
{
	const struct ltx_offered *x;
	bool is = false;

	pthread_mutex_lock(&log->mu);
	x = log->offer;
	if (log->prepared && log->prep_offered) {
		*out = (struct ltx_offer){log->prep_header, log->prep_trailer, log->prep_entry.size_bytes};
		is = !src || open_prepared_locked(log, src);
	} else if (x && x->o.header.min_txid == log->tail + 1 &&
	           x->o.header.pre_checksum == (log->tail ? log->tail_checksum : 0)) {
		*out = x->o;
		is = !src || open_offer_locked(log, src);
	}
	pthread_mutex_unlock(&log->mu);
	return is;
}
