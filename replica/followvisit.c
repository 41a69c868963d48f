/* followvisit.c - what a store has of one database beyond its log. */
#include "base/clock.h"
#include "ltx/log.h"
#include "replica/follow.h"
#include "replica/followstorepriv.h"
#include "replica/plan.h"
#include "store/store.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define REPLANS 64

/* Of the store, not of one database: there is no use in asking on. */
bool replica_followvisit_of_store(int rc)
{
	switch (rc) {
	case -ECANCELED:
	case -ENOMEM:
	case -FZ_ENET:
	case -FZ_ETIMEOUT:
	case -FZ_EAUTH:
	case -FZ_ESTORE:
		return true;
	default:
		return false;
	}
}

static int fail_db(struct replica_followstore *f, struct replica_followdb *db, struct fz_err *why)
{
	int rc = replica_followstore_hand(f, NULL);

	if (rc < 0)
		return rc;
	replica_followdb_fail(db, why);
	replica_followstore_let_go(f);
	return 0;
}

/* How far behind: the oldest commit that is there and not here. */
static void note_behind(struct replica_followdb *db, const struct replica_object *o)
{
	pthread_mutex_lock(&db->env->mu);
	if (db->primary_txid > db->received)
		db->behind_ms = o->name.min_txid > db->received ? o->name.first_ms : o->name.last_ms;
	pthread_mutex_unlock(&db->env->mu);
}

/* All that the catalog has beyond the log. 1 = done, 0 = the catalog is not enough, negative: as replica_followtake_object(). */
static int take_all(struct replica_followstore *f, const struct replica_place *p, struct replica_followdb *db,
                    const struct replica_catalog *c, const struct replica_lineage *l, struct fz_err *err)
{
	struct replica_standing s = {0};
	uint64_t before;
	int rc = replica_followstore_standing(f, db, &s, err);

	for (unsigned i = 0; rc == 0 && s.state != REPLICA_FOLLOWDB_FAILED; i++) {
		struct replica_object *o;
		bool gap;

		before = s.tail_txid;
		o = replica_plan_follow(c, l, before, s.epoch, &gap);
		if (gap)
			(void)fz_fail(err, FZ_EGAP,
			              "TXID %" PRIu64 " is in no object of the store that continues the log",
			              before + 1);
		if (!o)
			return gap ? 0 : 1;
		note_behind(db, o);
		rc = replica_followtake_object(f, p, db, o, err);
		if (replica_followvisit_of_store(rc) || (rc < 0 && rc != -FZ_ENOTFOUND && rc != -FZ_EGAP))
			return rc;
		if (replica_followstore_standing(f, db, &s, err) < 0)
			return -ECANCELED;
		if (s.tail_txid > before)
			i = 0;
		else if (s.state != REPLICA_FOLLOWDB_FAILED && i > REPLANS)
			return fz_fail(err, FZ_EGAP, "no plan for TXID %" PRIu64 " held", before + 1);
		else
			o->bad = true; /* repacked or expired meanwhile, or it promised more than it has */
		rc = 0;
	}
	return rc < 0 ? rc : 1;
}

static const struct replica_claim *newest_claim(const struct replica_catalog *c)
{
	const struct replica_claim *best = NULL;

	for (size_t i = 0; i < c->n_claims; i++)
		if (!best || c->claims[i].n > best->n)
			best = &c->claims[i];
	return best;
}

static void describe(struct ltx_wire_db *d, const struct replica_place *p, const struct replica_catalog *c,
                     const struct replica_lineage *l, const struct replica_claim *claim)
{
	*d = (struct ltx_wire_db){.id = 1, .epoch = c->objects[l->first + l->n - 1].name.epoch};
	snprintf(d->name, sizeof(d->name), "%s", p->path);
	memcpy(d->lineage, l->id, sizeof(d->lineage));
	if (claim) {
		d->epoch = claim->epoch;
		d->epoch_txid = claim->base_txid;
		d->epoch_checksum = claim->base_checksum;
		d->ended_ms = claim->ended_ms;
	}
	d->tail_txid = replica_plan_newest(c, l);
	for (size_t i = l->first; i < l->first + l->n; i++)
		if (c->objects[i].name.max_txid == d->tail_txid && c->objects[i].usable_max == d->tail_txid)
			d->tail_checksum = c->objects[i].name.post_checksum;
}

/* The life that this host follows must be one that the store knows: else the store is what is behind. */
static int check_life(struct replica_followstore *f, const struct replica_catalog *c, const struct ltx_wire_db *d,
                      struct fz_err *err)
{
	struct ltx_log_info info;
	struct ltx_log *log;
	bool known = false;

	if (ltx_logset_get(f->set.logs, d->name, false, &log, NULL) < 0)
		return 0;
	ltx_log_info(log, &info);
	ltx_log_put(log);
	for (size_t i = 0; i < c->n_claims; i++)
		known = known || !strcmp(c->claims[i].lineage, info.lineage);
	for (size_t i = 0; i < c->n_lineages; i++)
		known = known || !strcmp(c->lineages[i].id, info.lineage);
	return known ? 0
	             : fz_fail(err, FZ_EORDER,
	                       "the store does not know the database of that name that is here (lineage %s): it waits "
	                       "until that is there",
	                       info.lineage);
}

/* ---- another epoch ---- */

struct agreement {
	uint64_t txid, checksum; /* the highest point that both histories have for certain */
	bool differs;            /* and above it they have none, up to the log's end */
};

static void compare(struct agreement *a, struct ltx_log *log, uint64_t tail, uint64_t txid, uint64_t checksum)
{
	uint64_t here;

	if (txid > tail || txid <= a->txid || ltx_log_checksum_at(log, txid, &here, NULL) < 0)
		return;
	if (here != checksum)
		a->differs = true;
	else
		*a = (struct agreement){txid, checksum, a->differs};
}

/* Compares what names and claims tell, and, where they do not reach the log's end, what the pack tells that does. */
static int agree(struct replica_followstore *f, const struct replica_place *p, struct replica_followdb *db,
                 const struct replica_catalog *c, const struct replica_lineage *l, struct agreement *a,
                 struct fz_err *err)
{
	const struct replica_object *pack = NULL;
	struct replica_standing s;
	uint64_t checksum;
	int rc = replica_followstore_hand(f, err);

	*a = (struct agreement){.checksum = LTX_EMPTY_DB};
	if (rc < 0)
		return rc;
	s = (struct replica_standing){.tail_txid = db->tail_txid, .tail_checksum = db->tail_checksum};
	for (size_t i = l->first; i < l->first + l->n; i++) {
		const struct replica_object *o = &c->objects[i];

		if (o->bad || !o->usable_max)
			continue;
		if (o->usable_max == o->name.max_txid)
			compare(a, db->log, s.tail_txid, o->name.max_txid, o->name.post_checksum);
		if (ltx_level_is_pack(o->name.level) && o->name.min_txid <= s.tail_txid && o->usable_max > s.tail_txid)
			pack = o;
	}
	for (size_t i = 0; i < c->n_claims; i++)
		if (!strcmp(c->claims[i].lineage, l->id) && c->claims[i].base_txid)
			compare(a, db->log, s.tail_txid, c->claims[i].base_txid, c->claims[i].base_checksum);
	replica_followstore_let_go(f);
	if (a->differs || a->txid == s.tail_txid || !pack)
		return 0;
	rc = replica_followtake_checksum(f, p, pack, s.tail_txid, &checksum, err);
	if (rc == -FZ_ENOTFOUND)
		return 0;
	a->differs = rc == 0 && checksum != s.tail_checksum;
	return rc;
}

/* The store is of a higher epoch than the log. What is here and not there becomes a branch; otherwise the new epoch goes on where the log
 * ends: its claim says only from where on its writer ships. 1 = go on. */
static int enter_epoch(struct replica_followstore *f, const struct replica_place *p, struct replica_followdb *db,
                       const struct replica_catalog *c, const struct replica_lineage *l, struct fz_err *err)
{
	struct ltx_wire_want want;
	struct agreement a;
	int rc = agree(f, p, db, c, l, &a, err);

	if (rc == 0)
		rc = replica_followstore_hand(f, err);
	if (rc < 0)
		return rc;
	rc = 1;
	if (a.differs) {
		db->db.epoch_txid = a.txid;
		db->db.epoch_checksum = a.checksum;
		rc = replica_followset_part(&f->set, db);
	} else if (db->db.epoch_txid < db->tail_txid) {
		db->db.epoch_txid = db->tail_txid;
		db->db.epoch_checksum = db->tail_checksum;
	}
	if (rc)
		replica_followdb_want(db, &want);
	replica_followstore_let_go(f);
	return rc;
}

/* Opens the log and compares it with what the store has. *db: NULL when nothing of it is followed. */
static int attend(struct replica_followstore *f, struct replica_place *p, const struct replica_catalog *c,
                  const struct ltx_wire_db *d, struct replica_followdb **out, struct fz_err *err)
{
	struct replica_followdb *db;
	struct ltx_wire_want want;
	struct fz_err why = {0};
	bool asked;
	int rc = replica_followstore_hand(f, err);

	*out = NULL;
	if (rc < 0)
		return rc;
	db = replica_followset_get(&f->set, d);
	p->db = db;
	if (!db) {
		rc = fz_fail_errno(err, ENOMEM, "following %s", d->name);
		goto out;
	}
	if (db->state == REPLICA_FOLLOWDB_FAILED && fz_mono_ns() < db->retry_ns)
		goto out;
	db->db = *d;
	rc = check_life(f, c, d, &why);
	if (rc == 0 &&
	    d->ended_ms) /* it may have come and gone while this host was away, and what was before it is here */
		rc = replica_followset_end_older(&f->set, db, &why);
	if (rc == 0)
		rc = replica_followset_attend(&f->set, db, &asked, &why);
	if (rc == 0 && db->log && db->epoch > d->epoch)
		rc = fz_fail(&why, FZ_EORDER,
		             "what is here is of epoch %u, the store's of %u: it waits until that is there", db->epoch,
		             d->epoch);
	if (rc < 0) {
		replica_followdb_fail(db, &why);
		rc = 0;
		goto out;
	}
	if (db->log) {
		replica_followdb_want(db, &want);
		*out = db;
	}
out:
	replica_followstore_let_go(f);
	return rc;
}

static void tell_epoch(struct replica_followstore *f, uint32_t epoch)
{
	struct ltx_wire_hello h = {.role = LTX_WIRE_PRIMARY, .epoch = epoch};

	if (epoch <= f->epoch)
		return;
	f->epoch = epoch;
	if (f->set.events && f->set.events->peer)
		f->set.events->peer(f->set.events, &h);
}

static void know(struct replica_place *p, const struct ltx_wire_db *d, const struct replica_claim *claim)
{
	p->epoch = d->epoch;
	p->claim_n = claim ? claim->n : 0;
	p->ended = d->ended_ms != 0;
	memcpy(p->lineage, d->lineage, sizeof(p->lineage));
	p->seen_ms = fz_now_ms();
}

/* It has ended, and all of it is here. */
static void leave(struct replica_followstore *f, struct replica_followdb *db)
{
	if (replica_followstore_hand(f, NULL) < 0)
		return;
	(void)replica_followdb_sync(db);
	replica_followdb_close(db);
	replica_followstore_let_go(f);
}

/* Everything that is known of a database, from one listing. */
int replica_followvisit_full(struct replica_followstore *f, struct replica_place *p, struct fz_err *err)
{
	char below[LTX_WIRE_NAME + 1];
	const struct replica_lineage *l = NULL;
	const struct replica_claim *claim;
	struct replica_followdb *db = NULL;
	struct replica_catalog c = {0};
	struct replica_standing s;
	struct fz_err why = {0};
	struct ltx_wire_db d;
	int rc;

	snprintf(below, sizeof(below), "%s/", p->path);
	rc = replica_catalog_load_at(&c, f->store, below, err);
	claim = rc == 0 ? newest_claim(&c) : NULL;
	for (size_t i = 0; i < c.n_lineages; i++) /* without claims the newest is the last */
		if (!claim || !strcmp(c.lineages[i].id, claim->lineage))
			l = &c.lineages[i];
	if (rc < 0 || !l) /* claimed, and nothing has come yet */
		goto out;
	describe(&d, p, &c, l, claim);
	if (f->fill.name[0] && (strcmp(d.lineage, f->fill.lineage) != 0 || d.epoch != f->fill.epoch)) {
		rc = fz_fail(err, FZ_EORDER, "lineage %s, epoch %u is there, the primary is at lineage %s, epoch %u",
		             d.lineage, d.epoch, f->fill.lineage, f->fill.epoch);
		goto out;
	}
	tell_epoch(f, d.epoch);
	rc = attend(f, p, &c, &d, &db, err);
	if (rc == 0 && !db && d.ended_ms && replica_followstore_standing(f, p->db, &s, err) == 0 &&
	    s.state != REPLICA_FOLLOWDB_FAILED) { /* there is nothing here that has to end */
		know(p, &d, claim);
		p->full = false;
	}
	if (rc < 0 || !db)
		goto out;
	rc = replica_followstore_standing(f, db, &s, err);
	if (rc == 0)
		rc = s.tail_txid && s.epoch < d.epoch ? enter_epoch(f, p, db, &c, l, &why) : 1;
	if (rc == 0)
		goto out;
	if (rc > 0)
		rc = take_all(f, p, db, &c, l, &why);
	if (replica_followvisit_of_store(rc)) {
		*err = why;
		goto out;
	}
	rc = rc == 1 ? 0 : fail_db(f, db, &why);
	p->full = rc < 0 || replica_followstore_standing(f, db, &s, NULL) < 0 || s.state == REPLICA_FOLLOWDB_FAILED ||
	          s.epoch < d.epoch;
	know(p, &d, claim);
	if (p->ended && !p->full)
		leave(f, db);
out:
	replica_catalog_fini(&c);
	return rc;
}

/* Is there a claim that is not known, or has the known one ended? */
int replica_followvisit_claims(struct replica_followstore *f, struct replica_place *p, struct fz_err *err)
{
	char prefix[LTX_WIRE_NAME + 8], after[LTX_WIRE_NAME + 24];
	struct fz_store_list list = {0};
	int rc;

	snprintf(prefix, sizeof(prefix), "%s/claim/", p->path);
	snprintf(after, sizeof(after), "%s%08x", prefix, p->claim_n);
	rc = fz_store_list(f->store, prefix, after, false, &list, err);
	for (size_t i = 0; rc == 0 && i < list.n; i++) {
		const char *n = list.v[i].key + strlen(prefix);

		p->full = p->full ||
		          (strspn(n, "0123456789abcdef") == 8 && (!n[8] || (!p->ended && !strcmp(n + 8, "-ended"))));
	}
	fz_store_list_fini(&list);
	return rc;
}

/* Packs that begin behind the log's end. */
int replica_followvisit_packs(struct replica_followstore *f, struct replica_place *p, struct fz_err *err)
{
	char prefix[LTX_WIRE_NAME + 40], after[LTX_WIRE_NAME + 64];
	struct replica_followdb *db = p->db;
	struct fz_store_list list = {0};
	struct replica_catalog c = {0};
	struct replica_standing s;
	struct fz_err why = {0};
	uint64_t newest;
	int rc = replica_followstore_standing(f, db, &s, err);

	if (rc < 0)
		return rc;

	snprintf(prefix, sizeof(prefix), "%s/%s/%08x/%d/", p->path, p->lineage, p->epoch, LTX_L_PACK);
	snprintf(after, sizeof(after), "%s%016" PRIx64 "~", prefix, s.tail_txid);
	rc = fz_store_list(f->store, prefix, after, false, &list, err);
	for (size_t i = 0; rc == 0 && i < list.n; i++)
		rc = replica_catalog_add(&c, list.v[i].key + strlen(p->path) + 1, list.v[i].size_bytes, err);
	if (rc == 0)
		rc = replica_catalog_finish(&c, err);
	if (rc < 0 || !c.n_lineages)
		goto out;
	newest = replica_plan_newest(&c, &c.lineages[0]);
	rc = replica_followstore_hand(f, err);
	if (rc < 0)
		goto out;
	db->db.tail_txid = newest;
	db->db.tail_checksum = 0;
	rc = replica_followdb_told(db, err);
	replica_followstore_let_go(f);
	if (rc == 0)
		rc = take_all(f, p, db, &c, &c.lineages[0], &why);
	if (rc == 0) /* something between is gone */
		p->full = true;
	else if (rc < 0 && !replica_followvisit_of_store(rc))
		rc = fail_db(f, db, &why);
	else if (rc < 0)
		*err = why;
	else
		rc = 0;
out:
	if (rc < 0 || replica_followstore_standing(f, db, &s, NULL) < 0 || s.state == REPLICA_FOLLOWDB_FAILED)
		p->full = true;
	replica_catalog_fini(&c);
	fz_store_list_fini(&list);
	return rc;
}
