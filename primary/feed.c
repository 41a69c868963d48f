#include "primary/feed.h"

#include "base/clock.h"
#include "base/cursor.h"
#include "base/log.h"
#include "ltx/offer.h"
#include "ltx/recut.h"
#include "primary/feedpriv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define MS_NS        UINT64_C(1000000)
#define RETRY_MS     1000
#define RETRY_MAX_MS 60000
#define GAPS         8 /* looks at a log that is being folded or squashed */

struct primary_feed *primary_feed_new(uint32_t id, const struct ltx_log_info *info)
{
	struct primary_feed *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	f->id = id;
	memcpy(f->name, info->name, sizeof(f->name));
	memcpy(f->lineage, info->lineage, sizeof(f->lineage));
	pthread_mutex_init(&f->mu, NULL);
	return f;
}

void primary_feed_drop_file(struct primary_feed *f)
{
	fz_src_close(f->src);
	f->src = NULL;
	f->preparing = false;
}

void primary_feed_free(struct primary_feed *f)
{
	if (!f)
		return;
	primary_feed_drop_file(f);
	pthread_mutex_destroy(&f->mu);
	free(f);
}

/* ---- what goes wrong with one database ---- */

int primary_feed_fail(struct primary_feed *f, struct ltx_log *log, const struct ltx_log_info *info,
                      const struct fz_err *why)
{
	struct ltx_log_info now;
	int64_t ms = RETRY_MS;
	bool tell;

	primary_feed_drop_file(f);
	ltx_log_info(log, &now);
	if (now.epoch != info->epoch || now.tail_txid < info->tail_txid || (why->code == -FZ_EGAP && f->gaps++ < GAPS))
		return 1;
	for (unsigned i = 0; i < f->failures && ms < RETRY_MAX_MS; i++)
		ms *= 2;
	f->failures++;
	f->retry_ns = fz_mono_ns() + (uint64_t)ms * MS_NS;
	pthread_mutex_lock(&f->mu);
	tell = f->err.code != why->code;
	f->state = PRIMARY_FEED_FAILED;
	f->err = *why;
	pthread_mutex_unlock(&f->mu);
	if (tell) {
		struct fz_err e = *why;

		fz_err_prefix(&e, "%s", fz_log_db(f->name));
		fz_log_err("a replica waits for what cannot be sent", &e);
	}
	return 0;
}

static void works(struct primary_feed *f)
{
	if (!f->failures)
		return;
	f->failures = 0;
	pthread_mutex_lock(&f->mu);
	f->err.code = 0;
	pthread_mutex_unlock(&f->mu);
}

int64_t primary_feed_retry_ms(const struct primary_feed *f, uint64_t now_ns)
{
	if (f->state != PRIMARY_FEED_FAILED) /* written by this thread only */
		return -1;
	return f->retry_ns > now_ns ? (int64_t)((f->retry_ns - now_ns) / MS_NS) + 1 : 0;
}

/* ---- DB ---- */

static int announce(struct primary_feed *f, const struct ltx_log_info *info, struct fz_buf *out, struct fz_err *err)
{
	struct ltx_wire_msg m = {.type = LTX_WIRE_DB};
	struct ltx_wire_db *d = &m.db;
	int rc;

	bool caught_up = f->state == PRIMARY_FEED_DIVERGED && f->ahead && info->tail_txid >= f->sent_txid;
	/* on a host that hands on: the replica goes by where an ended one ends */
	bool grown = info->ended_ms && info->tail_txid != f->told.tail_txid;

	if (f->announced && !caught_up && !grown && f->told.epoch == info->epoch &&
	    f->told.epoch_txid == info->epoch_txid && f->told.base_txid == info->base_txid &&
	    f->told.ended_ms == info->ended_ms)
		return 0;
	d->id = f->id;
	memcpy(d->name, f->name, sizeof(d->name));
	memcpy(d->lineage, f->lineage, sizeof(d->lineage));
	d->epoch = info->epoch;
	d->epoch_txid = info->epoch_txid;
	d->epoch_checksum = info->epoch_checksum;
	d->base_txid = info->base_txid;
	d->first_txid = info->first_txid;
	d->tail_txid = info->tail_txid;
	d->tail_checksum = info->tail_checksum;
	d->created_ms = info->created_ms;
	d->ended_ms = info->ended_ms;
	d->page_size = info->page_size;
	rc = ltx_wire_put(out, &m, err);
	if (rc < 0)
		return rc;
	f->doubt |= f->announced && f->told.epoch != info->epoch;
	f->told = *d;
	f->announced = true;
	f->ahead = f->ahead && info->tail_txid < f->sent_txid;
	return 0;
}

/* ---- from the replica ---- */

bool primary_feed_held(struct primary_feed *f, const struct ltx_wire_mark *m)
{
	bool wake;

	pthread_mutex_lock(&f->mu);
	wake = !f->holds;
	f->holds = true;
	f->held_txid = m->txid;
	f->held_checksum = m->value;
	pthread_mutex_unlock(&f->mu);
	return wake;
}

/* ---- window ---- */

static void mark(struct primary_feed *f, uint64_t window_bytes)
{
	uint64_t before = f->n_marks > 1 ? f->marks[f->n_marks - 2].bytes : f->durable_bytes;
	unsigned at = f->n_marks;

	if (at && (at == PRIMARY_FEED_MARKS || f->marks[at - 1].bytes - before < window_bytes / 8))
		at--; /* the last one moves on */
	f->marks[at].txid = f->sent_txid;
	f->marks[at].bytes = f->sent_bytes;
	f->n_marks = at + 1;
}

static bool window_shut(struct primary_feed *f, uint64_t window_bytes)
{
	unsigned done = 0;
	bool shut;

	pthread_mutex_lock(&f->mu);
	while (done < f->n_marks && f->marks[done].txid <= f->durable)
		f->durable_bytes = f->marks[done++].bytes;
	f->n_marks -= done;
	memmove(f->marks, f->marks + done, f->n_marks * sizeof(f->marks[0]));
	shut = f->shut = f->sent_bytes - f->durable_bytes >= window_bytes;
	pthread_mutex_unlock(&f->mu);
	return shut;
}

bool primary_feed_ack(struct primary_feed *f, const struct ltx_wire_ack *a)
{
	bool wake = false;

	pthread_mutex_lock(&f->mu);
	f->received = a->received;
	f->applied = a->applied;
	if (!f->wanted &&
	    a->durable > f->durable) { /* wanted: is that this history? It says itself where its disk is */
		f->durable = a->durable;
		wake = f->shut;
		f->shut = false;
	}
	pthread_mutex_unlock(&f->mu);
	return wake;
}

uint64_t primary_feed_durable(struct primary_feed *f)
{
	uint64_t txid;

	pthread_mutex_lock(&f->mu);
	txid = f->state == PRIMARY_FEED_DIVERGED ? 0 : f->durable;
	pthread_mutex_unlock(&f->mu);
	return txid;
}

bool primary_feed_has(struct primary_feed *f, uint64_t txid, uint64_t checksum)
{
	bool has;

	pthread_mutex_lock(&f->mu);
	has = f->state == PRIMARY_FEED_STREAM &&
	      (f->durable >= txid || (f->held_txid == txid && f->held_checksum == checksum));
	pthread_mutex_unlock(&f->mu);
	return has;
}

bool primary_feed_under_way(struct primary_feed *f)
{
	bool is;

	if (f->state != PRIMARY_FEED_STREAM)
		return false;
	pthread_mutex_lock(&f->mu);
	is = f->src || f->durable < f->sent_txid || (f->prep.txid && f->held_txid != f->prep.txid);
	pthread_mutex_unlock(&f->mu);
	return is;
}

/* ---- FILE, DATA ---- */

int primary_feed_trailer(struct fz_src *src, struct ltx_trailer *out, struct fz_err *err)
{
	uint8_t raw[LTX_TRAILER_SIZE];
	int rc = src->size_bytes < sizeof(raw)
	                 ? fz_fail(err, FZ_ECORRUPT, "an LTX file of %" PRIu64 " bytes in the log", src->size_bytes)
	                 : fz_src_read(src, src->size_bytes - sizeof(raw), raw, sizeof(raw), err);

	if (rc == 0)
		*out = (struct ltx_trailer){fz_be64(raw), fz_be64(raw + 8)};
	return rc;
}

static int put_file(const struct primary_feed *f, const struct ltx_pack_entry *e, uint64_t off_bytes,
                    struct fz_buf *out, struct fz_err *err)
{
	struct ltx_wire_msg m = {.type = f->preparing ? LTX_WIRE_PREPARED : LTX_WIRE_FILE};

	m.file.id = f->id;
	m.file.min_txid = e->min_txid;
	m.file.max_txid = e->max_txid;
	m.file.size_bytes = e->size_bytes;
	m.file.off_bytes = off_bytes;
	m.file.sent_ms = fz_now_ms();
	return ltx_wire_put(out, &m, err);
}

static int put_data(const struct primary_feed *f, const uint8_t *bytes, size_t n, struct fz_buf *out,
                    struct fz_err *err)
{
	struct ltx_wire_msg m = {.type = LTX_WIRE_DATA};

	m.data.id = f->id;
	m.data.bytes = bytes;
	m.data.n = (uint32_t)n;
	return ltx_wire_put(out, &m, err);
}

/* The next piece of the file that is under way. */
static int send_piece(struct primary_feed *f, struct ltx_log *log, const struct ltx_log_info *info,
                      uint64_t window_bytes, uint8_t *chunk, struct fz_buf *out, struct fz_err *err)
{
	uint64_t left = f->file.size_bytes - f->off_bytes;
	size_t n = left < LTX_WIRE_CHUNK ? (size_t)left : LTX_WIRE_CHUNK;
	struct ltx_trailer t = {0};
	struct fz_err why = {0};
	int rc = fz_src_read(f->src, f->off_bytes, chunk, n, &why);

	if (rc == 0 && n == left)
		rc = primary_feed_trailer(f->src, &t, &why);
	if (rc < 0 && f->preparing) { /* dropped meanwhile */
		primary_feed_drop_file(f);
		return 0;
	}
	if (rc < 0)
		return primary_feed_fail(f, log, info, &why);
	rc = n ? put_data(f, chunk, n, out, err) : 0;
	if (rc < 0)
		return rc;
	f->off_bytes += n;
	if (f->preparing) {
		if (n == left) {
			f->prep.txid = f->file.max_txid;
			primary_feed_drop_file(f);
		}
		return 1;
	}
	f->sent_bytes += n;
	if (n == left) {
		f->sent_txid = f->file.max_txid;
		f->sent_checksum = t.post_checksum;
		works(f);
		primary_feed_drop_file(f);
		mark(f, window_bytes);
	}
	return 1;
}

/* A file that goes in pieces: large, the base, or what remains of a merged range. */
static int begin_file(struct primary_feed *f, struct ltx_log *log, const struct ltx_log_entry *e, struct fz_buf *out,
                      struct fz_err *why, struct fz_err *err)
{
	uint64_t from = 0;
	bool rest = e->seg && e->e.min_txid <= f->sent_txid;
	struct fz_src *src = NULL;
	int rc = ltx_log_src(log, e, &src, why);

	if (rc == 0 && rest)
		rc = ltx_recut(src, ltx_log_dirfd(log), f->sent_txid, f->sent_checksum, &f->src, why);
	else
		f->src = src;
	if (rest)
		fz_src_close(src);
	if (rc < 0)
		return rc;
	f->file = e->e;
	f->file.size_bytes = f->src->size_bytes;
	if (rest)
		f->file.min_txid = f->sent_txid + 1;
	if (!e->seg && e->e.max_txid == f->want_base_txid && f->want_base_offset <= f->file.size_bytes)
		from = f->want_base_offset;
	f->want_base_txid = 0;
	f->off_bytes = from;
	rc = put_file(f, &f->file, from, out, err);
	return rc < 0 ? rc : 1;
}

/* As many whole transactions as one piece holds. */
static int send_run(struct primary_feed *f, struct ltx_log *log, const struct ltx_log_entry *e, int n, uint8_t *chunk,
                    struct fz_buf *out, struct fz_err *why, struct fz_err *err)
{
	struct fz_src *src = NULL;
	size_t bytes = 0, at = 0;
	int k = 0, rc;

	while (k < n && e[k].e.size_bytes <= LTX_WIRE_CHUNK - bytes)
		bytes += e[k++].e.size_bytes;
	rc = ltx_log_src_range(log, &e[0], &e[k - 1], &src, why);
	if (rc == 0 && src->size_bytes != bytes)
		rc = fz_fail(why, FZ_ECORRUPT, "entries of the log do not lie back to back");
	if (rc == 0)
		rc = fz_src_read(src, 0, chunk, bytes, why);
	fz_src_close(src);
	if (rc < 0)
		return rc;
	for (int i = 0; i < k; i++) {
		rc = put_file(f, &e[i].e, 0, out, err);
		if (rc == 0)
			rc = put_data(f, chunk + at, (size_t)e[i].e.size_bytes, out, err);
		if (rc < 0)
			return rc;
		at += (size_t)e[i].e.size_bytes;
	}
	if (bytes >= LTX_TRAILER_SIZE)
		f->sent_checksum = fz_be64(chunk + bytes - LTX_TRAILER_SIZE);
	f->sent_txid = e[k - 1].e.max_txid;
	f->sent_bytes += bytes;
	works(f);
	return 1;
}

static int send_next(struct primary_feed *f, struct ltx_log *log, const struct ltx_log_info *info,
                     uint64_t window_bytes, uint8_t *chunk, struct fz_buf *out, struct fz_err *err)
{
	struct ltx_log_entry e[LTX_LOG_RUN];
	struct fz_err why = {0};
	int n, rc;

	if (f->src)
		return send_piece(f, log, info, window_bytes, chunk, out, err);
	if (f->sent_txid >= info->tail_txid || window_shut(f, window_bytes))
		return 0;
	err->code = 0;
	rc = n = ltx_log_find_run(log, f->sent_txid + 1, e, LTX_LOG_RUN, &why);
	if (n > 0 && e[0].seg && e[0].e.min_txid == f->sent_txid + 1 && e[0].e.size_bytes <= LTX_WIRE_CHUNK) {
		rc = send_run(f, log, e, n, chunk, out, &why, err);
		if (rc > 0)
			mark(f, window_bytes);
	} else if (n > 0) {
		rc = begin_file(f, log, e, out, &why, err);
		if (rc > 0)
			rc = send_piece(f, log, info, window_bytes, chunk, out, err);
	}
	if (rc >= 0) {
		f->gaps = 0;
		return rc;
	}
	if (err->code) /* of the connection */
		return rc;
	return primary_feed_fail(f, log, info, &why);
}

/* ---- PREPARED, COMMIT, ABORT ---- */

static int put_mark(const struct primary_feed *f, enum ltx_wire_type type, struct fz_buf *out, struct fz_err *err)
{
	struct ltx_wire_msg m = {.type = type};

	m.mark.id = f->id;
	m.mark.txid = f->prep.txid;
	return ltx_wire_put(out, &m, err);
}

/* The log holds, under that TXID, the very file that the replica has got. */
static bool is_committed(struct primary_feed *f, struct ltx_log *log)
{
	struct ltx_log_entry e;
	struct ltx_trailer t = {0};
	struct fz_src *src = NULL;
	int rc = f->sent_txid + 1 == f->prep.txid ? ltx_log_find(log, f->prep.txid, &e, NULL) : -1;

	if (rc == 0 && (!e.seg || e.e.min_txid != f->prep.txid || e.e.max_txid != f->prep.txid))
		rc = -1;
	if (rc == 0)
		rc = ltx_log_src(log, &e, &src, NULL);
	if (rc == 0)
		rc = primary_feed_trailer(src, &t, NULL);
	fz_src_close(src);
	return rc == 0 && t.file_checksum == f->prep.trailer.file_checksum &&
	       t.post_checksum == f->prep.trailer.post_checksum;
}

/* What became of the transaction that the replica holds in doubt. */
static int decide(struct primary_feed *f, struct ltx_log *log, const struct ltx_log_info *info, struct fz_buf *out,
                  struct fz_err *err)
{
	struct ltx_offer o;
	int rc = 0;

	if (!f->prep.txid || f->src)
		return 0;
	if (info->tail_txid >= f->prep.txid) {
		if (is_committed(f, log)) {
			rc = put_mark(f, LTX_WIRE_COMMIT, out, err);
			f->sent_txid = f->prep.txid;
			f->sent_checksum = f->prep.trailer.post_checksum;
		}
		f->prep.txid = 0; /* else a FILE takes its place */
	} else if (!ltx_log_offered(log, &o, NULL)) {
		rc = put_mark(f, LTX_WIRE_ABORT, out, err);
		f->prep.txid = 0;
	} else if (o.trailer.post_checksum != f->prep.trailer.post_checksum) {
		f->prep.txid = 0; /* the next PREPARED takes its place */
	}
	return rc;
}

/* To a replica that has everything: what is in doubt. */
static int prepare(struct primary_feed *f, struct ltx_log *log, const struct ltx_log_info *info, uint8_t *chunk,
                   struct fz_buf *out, struct fz_err *err)
{
	struct ltx_offer o, again;
	struct fz_src *src = NULL;
	bool takes, has;
	int rc = 0;

	pthread_mutex_lock(&f->mu);
	takes = f->holds;
	pthread_mutex_unlock(&f->mu);
	if (!takes || f->prep.txid || f->src || !ltx_log_offered(log, &o, &src))
		return 0;
	if (o.header.min_txid != f->sent_txid + 1 || (f->sent_txid && o.header.pre_checksum != f->sent_checksum)) {
		fz_src_close(src); /* the log has moved on: sent first */
		return 0;
	}
	pthread_mutex_lock(&f->mu);
	has = f->held_txid == o.header.max_txid && f->held_checksum == o.trailer.post_checksum;
	pthread_mutex_unlock(&f->mu);
	f->src = src;
	f->preparing = true;
	f->off_bytes = 0;
	f->file = (struct ltx_pack_entry){
	        .min_txid = o.header.min_txid, .max_txid = o.header.max_txid, .size_bytes = o.size_bytes};
	f->prep.trailer = o.trailer;
	if (has) { /* since before it connected; perhaps with another time in it, so a FILE follows and no COMMIT */
		f->prep.txid = o.header.max_txid;
		f->prep.trailer.file_checksum = 0;
		primary_feed_drop_file(f);
		return 0;
	}
	if (o.size_bytes <= LTX_WIRE_CHUNK) { /* read before it is announced: it may be dropped meanwhile */
		rc = fz_src_read(src, 0, chunk, (size_t)o.size_bytes, NULL);
		if (rc < 0 || !ltx_log_offered(log, &again, NULL) ||
		    again.trailer.file_checksum != o.trailer.file_checksum) {
			primary_feed_drop_file(f);
			return 0;
		}
	}
	rc = put_file(f, &f->file, 0, out, err);
	return rc < 0 ? rc : send_piece(f, log, info, 0, chunk, out, err);
}

int primary_feed_turn(struct primary_feed *f, struct ltx_log *log, const struct ltx_log_info *info,
                      uint64_t window_bytes, uint8_t *chunk, struct fz_buf *out, struct fz_err *err)
{
	struct fz_err why = {0};
	int rc;

	if (f->state == PRIMARY_FEED_FAILED) { /* its error stays until something was read */
		if (fz_mono_ns() < f->retry_ns)
			return 0;
		pthread_mutex_lock(&f->mu);
		f->state = f->announced ? PRIMARY_FEED_STREAM : PRIMARY_FEED_IDLE;
		pthread_mutex_unlock(&f->mu);
	}
	rc = announce(f, info, out, &why);
	if (rc < 0)
		return primary_feed_fail(f, log, info, &why);
	rc = primary_feed_take_want(f, log, info, out, err);
	if (rc == 0)
		rc = primary_feed_look_back(f, log, info, out, err);
	if (rc)
		return rc;
	if (f->state != PRIMARY_FEED_STREAM)
		return 0;
	rc = decide(f, log, info, out, err);
	if (rc == 0)
		rc = send_next(f, log, info, window_bytes, chunk, out, err);
	if (rc == 0 && f->sent_txid == info->tail_txid)
		rc = prepare(f, log, info, chunk, out, err);
	return rc;
}
