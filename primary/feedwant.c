/* feedwant.c - from where a replica wants to go on, and whether what it holds is part of this history. */
#include "primary/feedpriv.h"

#include "base/log.h"

#include <inttypes.h>

/* Whether what the replica holds is part of this history: 0, 1 = it is not and *why says so, negative = the log cannot be read. Where
 * the log has given up that detail (in the base, inside a merged range) an older epoch is believed up to where it ended; what
 * follows has checksums of its own. */
static int judge(struct ltx_log *log, const struct ltx_log_info *info, const struct ltx_wire_want *w,
                 struct fz_err *why)
{
	struct ltx_log_entry e;
	struct ltx_trailer t = {0};
	struct fz_src *src = NULL;
	uint64_t checksum = 0;
	int rc;

	if (w->txid == 0)
		return 0;
	if (w->epoch > info->epoch)
		return fz_fail(why, FZ_EFENCED,
		               "the replica knows epoch %u of this database, this host is at epoch %u: another host "
		               "has "
		               "become its primary since",
		               w->epoch, info->epoch),
		       1;
	if (w->txid > info->tail_txid)
		return fz_fail(why, FZ_EORDER,
		               "the replica is at TXID %" PRIu64 ", this host's history ends at %" PRIu64
		               ": the replica holds transactions that this host does not have",
		               w->txid, info->tail_txid),
		       1;
	rc = ltx_log_find(log, w->txid, &e, why);
	if (rc == 0 && e.e.max_txid == w->txid) {
		rc = ltx_log_src(log, &e, &src, why);
		if (rc == 0)
			rc = primary_feed_trailer(src, &t, why);
		checksum = t.post_checksum;
		fz_src_close(src);
	} else if (rc == 0) {
		if (w->epoch == info->epoch || w->txid < info->epoch_txid)
			return 0;
		checksum = w->txid == info->epoch_txid ? info->epoch_checksum : ~w->checksum;
	}
	if (rc == 0 && checksum != w->checksum)
		return fz_fail(why, FZ_ECHECKSUM,
		               "the replica's transaction %" PRIu64 " is another one than this host's: their histories "
		               "went apart before it",
		               w->txid),
		       1;
	return rc;
}

/* It names the position, so that the replica can tell whether it still stands there: it may have gone back, and asked again, meanwhile. */
static int diverged(struct primary_feed *f, const struct ltx_log_info *info, const struct ltx_wire_want *w,
                    const struct fz_err *why, struct fz_buf *out, struct fz_err *err)
{
	struct ltx_wire_msg m = {.type = LTX_WIRE_DIVERGED};
	bool tell;

	m.mark.id = f->id;
	m.mark.txid = w->txid;
	m.mark.value = w->checksum;
	f->ahead = w->txid > info->tail_txid;
	pthread_mutex_lock(&f->mu);
	tell = f->state != PRIMARY_FEED_DIVERGED;
	f->state = PRIMARY_FEED_DIVERGED;
	f->err = *why;
	pthread_mutex_unlock(&f->mu);
	if (tell) {
		struct fz_err e = *why;

		fz_err_prefix(&e, "%s", fz_log_db(f->name));
		fz_log_err("a replica has diverged", &e);
	}
	return ltx_wire_put(out, &m, err);
}

int primary_feed_take_want(struct primary_feed *f, struct ltx_log *log, const struct ltx_log_info *info,
                           struct fz_buf *out, struct fz_err *err)
{
	struct fz_err why = {0};
	struct ltx_wire_want w;
	bool is;
	int rc;

	pthread_mutex_lock(&f->mu);
	is = f->wanted;
	w = f->want;
	f->wanted = false;
	pthread_mutex_unlock(&f->mu);
	if (!is)
		return 0;
	primary_feed_drop_file(f);
	f->prep.txid = 0;
	f->sent_txid = w.txid;
	f->sent_checksum = w.checksum;
	f->doubt = false;
	f->want_base_txid = w.base_txid;
	f->want_base_offset = w.base_offset;
	f->sent_bytes = f->durable_bytes = f->n_marks = 0;
	rc = judge(log, info, &w, &why);
	if (rc > 0)
		return diverged(f, info, &w, &why, out, err);
	pthread_mutex_lock(&f->mu);
	f->received = f->durable = w.txid; /* it asks only from where its disk is */
	if (f->applied > w.txid)
		f->applied = w.txid;
	pthread_mutex_unlock(&f->mu);
	if (rc < 0) { /* asked again once the log can be read */
		pthread_mutex_lock(&f->mu);
		if (!f->wanted)
			f->want = w;
		f->wanted = true;
		pthread_mutex_unlock(&f->mu);
		return primary_feed_fail(f, log, info, &why);
	}
	f->gaps = 0;
	pthread_mutex_lock(&f->mu);
	f->state = PRIMARY_FEED_STREAM;
	f->err.code = 0;
	pthread_mutex_unlock(&f->mu);
	f->stands = true;
	return 0;
}

int primary_feed_look_back(struct primary_feed *f, struct ltx_log *log, const struct ltx_log_info *info,
                           struct fz_buf *out, struct fz_err *err)
{
	const struct ltx_wire_want w = {.epoch = info->epoch, .txid = f->sent_txid, .checksum = f->sent_checksum};
	struct fz_err why = {0};
	int rc;

	if (!f->doubt || f->state != PRIMARY_FEED_STREAM)
		return 0;
	primary_feed_drop_file(f); /* what is under way may be what was cut off */
	rc = judge(log, info, &w, &why);
	if (rc < 0) /* looked at again */
		return primary_feed_fail(f, log, info, &why);
	f->doubt = false;
	return rc == 0 ? 0 : diverged(f, info, &w, &why, out, err);
}

bool primary_feed_want(struct primary_feed *f, const struct ltx_wire_want *w)
{
	pthread_mutex_lock(&f->mu);
	f->want = *w;
	f->wanted = true;
	f->holds = false; /* it says so again */
	f->held_txid = 0;
	pthread_mutex_unlock(&f->mu);
	return true;
}
