#include "replica/target.h"

#include "base/clock.h"
#include "ltx/dec.h"
#include "replica/pages.h"

#include <stdio.h>
#include <string.h>

/* Was there a commit above txid with time <= at_ms that only objects which cannot be read tell of? Names stay true: one that
 * begins right above txid, and later than at_ms, says no. */
static bool hidden(const struct replica_catalog *c, const struct replica_lineage *l, uint64_t txid, int64_t at_ms)
{
	bool yes = false;

	for (size_t i = l->first; i < l->first + l->n; i++) {
		const struct replica_object *o = &c->objects[i];

		if (!ltx_level_is_pack(o->name.level) || o->usable_max <= txid)
			continue;
		if (o->name.min_txid == txid + 1 && o->name.first_ms > at_ms)
			return false;
		yes = yes || (o->bad && o->name.first_ms <= at_ms);
	}
	return yes;
}

/* Newest TXID of the lineage with time <= at_ms; 0 = none that old. A pack whose index decides and cannot be read is what *blame
 * names: without it the caller asks again. While nothing else tells what that pack held, it stays a failure (-FZ_EGAP): the commit before
 * it is not the one that was asked for. */
static int txid_at(struct replica_source *s, struct replica_catalog *c, struct replica_lineage *l, int64_t at_ms,
                   struct replica_meter *m, uint64_t *txid, struct replica_object **blame, struct fz_err *err)
{
	struct replica_packix ix = {0};
	struct replica_object *look;
	struct fz_src *src = NULL;
	struct ltx_pack_entry e;
	char key[LTX_NAME_MAX];
	bool lost = false;
	uint64_t n = 0;
	int rc = 0;

	*txid = replica_plan_at(c, l, at_ms, &look);
	if (look) {
		rc = replica_object_open(s, look, m, &src, err);
		if (rc == 0)
			rc = replica_packix_open(&ix, src, false, err);
		if (rc == 0)
			rc = replica_packix_count(&ix, look->usable_max, at_ms, &n, err);
		if (rc == 0 && n)
			rc = replica_packix_get(&ix, n - 1, &e, err);
		if (rc == 0 && n && e.max_txid > *txid)
			*txid = e.max_txid;
	}
	if (rc == 0)
		lost = hidden(c, l, *txid, at_ms);
	if (lost && n < ix.n) { /* unless the next commit stands there by itself, and is later */
		rc = replica_packix_get(&ix, n, &e, err);
		if (rc == 0 && e.min_txid == *txid + 1 && e.max_txid == e.min_txid && e.max_txid <= look->usable_max)
			lost = e.time_ms <= at_ms;
	}
	replica_packix_fini(&ix);
	fz_src_close(src);
	if (rc < 0) {
		if (!strstr(err->text, replica_object_key(key, look)))
			fz_err_prefix(err, "%s", key);
		*blame = look;
	} else if (lost) {
		rc = fz_fail(err, FZ_EGAP, "which commit was the last one then stands only where it cannot be read");
	}
	return rc;
}

/* l: the life of the database that was there then; NULL = none was. */
static int none_that_old(const struct replica_catalog *c, const struct replica_lineage *l,
                         const struct replica_restore_conf *conf, struct fz_err *err)
{
	const struct replica_object *o = l ? replica_plan_oldest(c, l) : NULL;
	char asked[FZ_TIME_SIZE], oldest[FZ_TIME_SIZE], life[48] = "";

	for (size_t i = 0; !l && !o && i < c->n_lineages; i++)
		o = replica_plan_oldest(c, &c->lineages[i]);
	fz_format_time(asked, conf->at_ms);
	if (l && c->n_lineages > 1) /* what is older and listed is another database */
		snprintf(life, sizeof(life), " in lineage %s", l->id);
	if (!o)
		return fz_fail(err, FZ_ENOCOMMIT, "there is no commit at or before %s%s", asked, life);
	return fz_fail(err, FZ_ENOCOMMIT,
	               "there is no commit at or before %s%s: the oldest restorable one is of about %s", asked, life,
	               fz_format_time(oldest, o->name.last_ms));
}

/* Was that life there at at_ms, with a commit? Whoever wrote it had claimed it then, and its first commit is not known to be later. */
static bool lived(const struct replica_catalog *c, const struct replica_lineage *l, int64_t at_ms)
{
	bool claimed = false;

	for (size_t i = 0; i < c->n_claims; i++)
		claimed = claimed || (c->claims[i].time_ms && c->claims[i].time_ms <= at_ms &&
		                      !strcmp(c->claims[i].lineage, l->id));
	for (size_t i = l->first; i < l->first + l->n; i++) {
		const struct ltx_name *n = &c->objects[i].name;

		if (c->objects[i].usable_max && n->min_txid == 1 && n->first_ms > at_ms &&
		    (n->max_txid == 1 || ltx_level_is_pack(n->level)))
			return false;
	}
	return claimed;
}

int replica_target_store(struct replica_source *s, struct replica_catalog *c, const struct replica_restore_conf *conf,
                         struct replica_meter *m, struct replica_target *t, struct replica_plan *plan,
                         struct replica_object **blame, struct fz_err *err)
{
	bool at = conf->when == REPLICA_AT;
	struct fz_err first = {0};
	int rc = 0;

	for (size_t i = c->n_lineages; i; i--) {
		struct replica_lineage *l = &c->lineages[i - 1];
		uint64_t txid = conf->txid;

		if (conf->lineage[0] && strcmp(conf->lineage, l->id))
			continue;
		if (t->lineage[0]) {
			if (strcmp(t->lineage, l->id))
				continue;
			return replica_plan_make(plan, c, l, t->txid, err);
		}
		if (conf->when == REPLICA_LATEST)
			txid = replica_plan_newest(c, l);
		else if (at)
			rc = txid_at(s, c, l, conf->at_ms, m, &txid, blame, err);
		if (rc < 0)
			return rc;
		if (!txid && at && (conf->lineage[0] || lived(c, l, conf->at_ms)))
			return none_that_old(c, l, conf, err);
		if (!txid)
			continue;
		rc = replica_plan_make(plan, c, l, txid, err);
		if (rc == -FZ_ENOCOMMIT && at && plan->txid) {
			/* that commit is kept only as part of a range that ends later: the last restorable one before it */
			txid = plan->txid;
			rc = replica_plan_make(plan, c, l, txid, err);
		}
		if (rc == 0) {
			memcpy(t->lineage, l->id, sizeof(t->lineage));
			t->txid = txid;
			return 0;
		}
		if (rc == -FZ_ENOCOMMIT && at)
			return none_that_old(c, l, conf, err);
		if (rc == -FZ_ENOCOMMIT && txid <= replica_plan_newest(c, l))
			return rc; /* this life had it */
		/* an older life may have it; what the newest said is what is told if not */
		if (!first.code)
			first = *err;
		if (rc != -FZ_ENOCOMMIT)
			break;
		rc = 0;
	}
	if (first.code) {
		*err = first;
		return first.code;
	}
	if (conf->lineage[0])
		return fz_fail(err, FZ_ENOCOMMIT, "nothing of lineage %s has been shipped there", conf->lineage);
	if (at)
		return none_that_old(c, NULL, conf, err);
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

/* Did that life of the database have what is asked for? */
static bool had(struct ltx_log *log, const struct ltx_log_info *info, const struct replica_restore_conf *conf)
{
	struct ltx_log_entry e;

	if (conf->when == REPLICA_LATEST)
		return true;
	if (conf->when == REPLICA_TXID)
		return conf->txid <= info->tail_txid;
	if (ltx_log_find(log, 1, &e, NULL) == 0 && e.e.max_txid == 1) /* it still begins with its first commit */
		return e.e.time_ms <= conf->at_ms;
	return info->created_ms <= conf->at_ms;
}

int replica_target_log(const struct replica_logs *logs, const struct replica_restore_conf *conf,
                       struct replica_log_target *t, struct fz_err *err)
{
	struct ltx_log_entry *e = &t->entry, next;
	struct fz_err first = {0};

	memset(t, 0, sizeof(*t));
	for (size_t k = logs->n; k; k--) {
		struct ltx_log *log = logs->v[k - 1];
		struct ltx_log_info info;
		uint64_t txid = conf->txid;
		int rc;

		ltx_log_info(log, &info);
		if (conf->lineage[0] && strcmp(conf->lineage, info.lineage))
			continue;
		if (conf->when == REPLICA_AT) {
			rc = ltx_log_find_time(log, conf->at_ms, e, err);
			t->coarse = rc == 0 && ltx_log_find(log, e->e.max_txid + 1, &next, NULL) == 0 &&
			            next.e.min_txid < next.e.max_txid;
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
		if (rc == 0 || had(log, &info, conf)) {
			t->log = log;
			memcpy(t->lineage, info.lineage, sizeof(t->lineage));
			return rc;
		}
		if (!first.code)
			first = *err;
		if (rc != -FZ_ENOCOMMIT)
			return rc;
	}
	if (!first.code)
		return fz_fail(err, FZ_ENOCOMMIT, "the local log has nothing of lineage %s", conf->lineage);
	*err = first;
	return first.code;
}
