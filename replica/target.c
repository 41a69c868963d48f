#include "replica/target.h"

#include "base/clock.h"
#include "base/log.h"
#include "ltx/dec.h"
#include "replica/pages.h"

#include <string.h>

/* Newest TXID of the lineage with time <= at_ms; 0 = none that old. Packs that cannot be read are planned without. */
static int txid_at(struct replica_source *s, struct replica_catalog *c, struct replica_lineage *l, int64_t at_ms,
                   struct replica_meter *m, uint64_t *txid, struct fz_err *err)
{
	struct replica_object *look;
	int rc;

	for (;;) {
		struct replica_packix ix = {0};
		struct fz_src *src = NULL;
		struct ltx_pack_entry e;
		uint64_t n = 0;

		*txid = replica_plan_at(c, l, at_ms, &look);
		if (!look)
			return 0;
		rc = replica_object_open(s, look, m, &src, err);
		if (rc == 0)
			rc = replica_packix_open(&ix, src, false, err);
		if (rc == 0)
			rc = replica_packix_count(&ix, look->usable_max, at_ms, &n, err);
		if (rc == 0 && n)
			rc = replica_packix_get(&ix, n - 1, &e, err);
		replica_packix_fini(&ix);
		fz_src_close(src);
		if (rc == 0) {
			if (n && e.max_txid > *txid)
				*txid = e.max_txid;
			return 0;
		}
		if (rc != -FZ_ENOTFOUND && rc != -FZ_ECORRUPT && rc != -FZ_ECHECKSUM && rc != -FZ_ECRYPT &&
		    rc != -FZ_ETRUNCATED)
			return rc;
		fz_warn("%s: trying without it", err->text);
		look->bad = true;
	}
}

static int none_that_old(const struct replica_catalog *c, const struct replica_restore_conf *conf, struct fz_err *err)
{
	const struct replica_object *o = NULL;
	char asked[FZ_TIME_SIZE], oldest[FZ_TIME_SIZE];

	for (size_t i = 0; !o && i < c->n_lineages; i++)
		o = replica_plan_oldest(c, &c->lineages[i]);
	fz_format_time(asked, conf->at_ms);
	if (!o)
		return fz_fail(err, FZ_ENOCOMMIT, "there is no commit at or before %s", asked);
	return fz_fail(err, FZ_ENOCOMMIT,
	               "there is no commit at or before %s: the oldest restorable one is of about %s", asked,
	               fz_format_time(oldest, o->name.last_ms));
}

int replica_target_store(struct replica_source *s, struct replica_catalog *c, const struct replica_restore_conf *conf,
                         struct replica_meter *m, struct replica_target *t, struct replica_plan *plan,
                         struct fz_err *err)
{
	struct fz_err first = {0};
	int rc = 0;

	for (size_t i = c->n_lineages; i; i--) {
		struct replica_lineage *l = &c->lineages[i - 1];
		uint64_t txid = conf->txid;

		if (t->lineage[0]) {
			if (strcmp(t->lineage, l->id))
				continue;
			return replica_plan_make(plan, c, l, t->txid, err);
		}
		if (conf->when == REPLICA_LATEST)
			txid = replica_plan_newest(c, l);
		else if (conf->when == REPLICA_AT)
			rc = txid_at(s, c, l, conf->at_ms, m, &txid, err);
		if (rc < 0)
			return rc;
		if (!txid)
			continue;
		rc = replica_plan_make(plan, c, l, txid, err);
		if (rc == -FZ_ENOCOMMIT && conf->when == REPLICA_AT && plan->txid) {
			/* that commit is kept only as part of a range that ends later: the last restorable one before it */
			txid = plan->txid;
			rc = replica_plan_make(plan, c, l, txid, err);
		}
		if (rc == 0) {
			memcpy(t->lineage, l->id, sizeof(t->lineage));
			t->txid = txid;
			return 0;
		}
		/* an older life may have it; what the newest said is what is told if not */
		if (!first.code)
			first = *err;
		if (rc != -FZ_ENOCOMMIT)
			break;
		rc = 0;
	}
	if (first.code && conf->when == REPLICA_AT && first.code == -FZ_ENOCOMMIT)
		return none_that_old(c, conf, err);
	if (first.code) {
		*err = first;
		return first.code;
	}
	if (conf->when == REPLICA_AT)
		return none_that_old(c, conf, err);
	return fz_fail(err, FZ_ENOCOMMIT, "nothing has been shipped yet that could be restored");
}

int replica_target_describe(struct replica_source *s, const struct replica_plan *plan, struct replica_meter *m,
                            struct replica_commit *out, struct fz_err *err)
{
	const struct replica_step *last = &plan->steps[plan->n - 1];
	struct replica_object *o = last->object;
	struct replica_packix ix = {0};
	struct fz_src *src = NULL;
	struct ltx_pack_entry e;
	uint64_t n = 0;
	int rc = 0;

	memcpy(out->lineage, plan->lineage->id, sizeof(out->lineage));
	out->epoch = o->name.epoch;
	out->min_txid = o->name.min_txid;
	out->txid = plan->txid;
	if (!ltx_level_is_pack(o->name.level)) {
		out->time_ms = o->name.last_ms;
		out->size_bytes = o->size_bytes;
		out->checksum = o->name.post_checksum;
		return 0;
	}
	rc = replica_object_open(s, o, m, &src, err);
	if (rc == 0)
		rc = replica_packix_open(&ix, src, false, err);
	if (rc == 0)
		rc = replica_packix_count(&ix, plan->txid, INT64_MAX, &n, err);
	if (rc == 0 && n)
		rc = replica_packix_get(&ix, n - 1, &e, err);
	if (rc == 0 && (!n || e.max_txid != plan->txid)) {
		o->reach = n ? e.max_txid : 0;
		o->bad = !n;
		rc = fz_fail(err, FZ_EORDER, "TXID %llu is kept there only as part of a range",
		             (unsigned long long)plan->txid);
	}
	if (rc == 0) {
		out->min_txid = e.min_txid;
		out->time_ms = e.time_ms;
		out->pages = e.pages;
		out->commit = e.commit;
		out->size_bytes = e.size_bytes;
		out->checksum = e.max_txid == o->name.max_txid ? o->name.post_checksum : 0;
	}
	replica_packix_fini(&ix);
	fz_src_close(src);
	return rc;
}

struct replica_object *replica_target_culprit(struct replica_source *s, const struct replica_plan *plan,
                                              struct replica_meter *m, struct fz_err *err)
{
	for (size_t i = plan->n; i; i--) {
		struct replica_object *o = plan->steps[i - 1].object;
		bool pack = ltx_level_is_pack(o->name.level);
		uint64_t off = 0, end = 0, bytes;
		struct replica_packix ix = {0};
		struct fz_src *src = NULL;
		struct fz_err why = {0};
		struct ltx_header h;
		struct ltx_trailer t;
		uint32_t pages;
		int rc;

		rc = replica_object_open(s, o, m, &src, &why);
		if (rc == 0 && pack)
			rc = replica_packix_open(&ix, src, true, &why);
		if (rc == 0)
			end = pack ? ix.entries_off : src->size_bytes;
		while (rc == 0 && off < end) {
			rc = ltx_dec_verify(src, off, &h, &t, &bytes, &pages, &why);
			off += rc == 0 ? bytes : 0;
		}
		replica_packix_fini(&ix);
		fz_src_close(src);
		if (rc < 0) {
			char key[LTX_NAME_MAX];

			if (!strstr(why.text, replica_object_key(key, o)))
				fz_err_prefix(&why, "%s", key);
			err->code = -FZ_ECHECKSUM;
			memcpy(err->text, why.text, sizeof(err->text));
			return o;
		}
	}
	return NULL;
}

int replica_target_log(const struct replica_logs *logs, const struct replica_restore_conf *conf, size_t *i,
                       struct ltx_log_entry *e, struct fz_err *err)
{
	struct fz_err first = {0};

	for (size_t k = logs->n; k; k--) {
		struct ltx_log *log = logs->v[k - 1];
		struct ltx_log_info info;
		uint64_t txid = conf->txid;
		int rc;

		ltx_log_info(log, &info);
		if (conf->when == REPLICA_AT) {
			rc = ltx_log_find_time(log, conf->at_ms, e, err);
		} else {
			if (conf->when == REPLICA_LATEST)
				txid = info.tail_txid;
			rc = ltx_log_find(log, txid, e, err);
			if (rc == 0 && e->e.max_txid != txid)
				rc = fz_fail(err, FZ_ENOCOMMIT, "TXID %llu is kept only as part of %llu to %llu",
				             (unsigned long long)txid, (unsigned long long)e->e.min_txid,
				             (unsigned long long)e->e.max_txid);
			else if (rc == -FZ_ENOTFOUND || rc == -FZ_EGAP)
				rc = fz_fail(err, FZ_ENOCOMMIT, "TXID %llu is not in the local log (up to %llu)",
				             (unsigned long long)txid, (unsigned long long)info.tail_txid);
		}
		if (rc == 0) {
			*i = k - 1;
			return 0;
		}
		if (!first.code)
			first = *err;
		if (rc != -FZ_ENOCOMMIT)
			return rc;
	}
	*err = first;
	return first.code;
}
