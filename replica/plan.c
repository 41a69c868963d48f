#include "replica/plan.h"

#include "base/array.h"
#include "base/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* How far o brings a database without passing txid; 0 = not at all. */
static uint64_t reach(const struct replica_object *o, uint64_t txid)
{
	uint64_t max = o->usable_max;

	if (o->bad || !max)
		return 0;
	if (!ltx_level_is_pack(o->name.level))
		return max <= txid ? max : 0;
	if (o->reach && o->reach < max)
		max = o->reach;
	return max < txid ? max : txid;
}

/* A file that needs nothing before it. A pack that starts at TXID 1 does too: its first file is a snapshot. */
static bool starts(const struct replica_object *o)
{
	return o->name.min_txid == 1;
}

static int push(struct replica_plan *p, size_t *cap, struct replica_object *o, uint64_t from, uint64_t to,
                struct fz_err *err)
{
	if (!fz_array_room(p->steps, p->n, *cap))
		return fz_fail_errno(err, ENOMEM, "planning a restore");
	p->steps[p->n++] = (struct replica_step){o, from, to};
	p->bytes += o->size_bytes;
	return 0;
}

/* Same reach: the later epoch, then the merged file (fewer bytes), then the smaller one. */
static bool better(const struct replica_object *a, const struct replica_object *b)
{
	if (!b)
		return true;
	if (ltx_level_is_pack(a->name.level) != ltx_level_is_pack(b->name.level))
		return !ltx_level_is_pack(a->name.level);
	if (a->name.epoch != b->name.epoch)
		return a->name.epoch > b->name.epoch;
	return a->size_bytes < b->size_bytes;
}

static struct replica_object *furthest(const struct replica_catalog *c, const struct replica_lineage *l, uint64_t cur,
                                       uint64_t txid, uint64_t *to)
{
	struct replica_object *best = NULL;

	*to = cur;
	for (size_t i = l->first; i < l->first + l->n; i++) {
		struct replica_object *o = &c->objects[i];
		uint64_t r = reach(o, txid);

		/* before the first file (cur = 0) only a file that needs nothing can stand */
		if (r <= cur || (cur ? o->name.min_txid > cur + 1 : !starts(o)))
			continue;
		if (r > *to || (r == *to && better(o, best))) {
			best = o;
			*to = r;
		}
	}
	return best;
}

static int explain(const struct replica_catalog *c, const struct replica_lineage *l, uint64_t cur, uint64_t txid,
                   struct fz_err *err)
{
	const struct replica_object *oldest = replica_plan_oldest(c, l);
	uint64_t newest = replica_plan_newest(c, l);

	if (txid > newest)
		return fz_fail(err, FZ_ENOCOMMIT, "TXID %llu is newer than the newest one here, %llu",
		               (unsigned long long)txid, (unsigned long long)newest);
	if (cur == 0 && oldest)
		return fz_fail(err, FZ_ENOCOMMIT, "TXID %llu is older than the oldest restorable commit, %llu",
		               (unsigned long long)txid, (unsigned long long)oldest->usable_max);
	if (cur == 0)
		return fz_fail(err, FZ_EGAP, "lineage %s has no snapshot to start from", l->id);
	for (size_t i = l->first; i < l->first + l->n; i++) {
		const struct replica_object *o = &c->objects[i];

		if (!o->bad && o->usable_max > txid && o->name.min_txid <= cur + 1)
			return fz_fail(err, FZ_ENOCOMMIT,
			               "TXID %llu is kept only as part of %llu to %llu: restore %llu or %llu",
			               (unsigned long long)txid, (unsigned long long)o->name.min_txid,
			               (unsigned long long)o->usable_max, (unsigned long long)cur,
			               (unsigned long long)o->usable_max);
	}
	return fz_fail(err, FZ_EGAP, "TXID %llu of lineage %s is in no object: restorable up to %llu",
	               (unsigned long long)cur + 1, l->id, (unsigned long long)cur);
}

int replica_plan_make(struct replica_plan *plan, const struct replica_catalog *c, const struct replica_lineage *l,
                      uint64_t txid, struct fz_err *err)
{
	struct replica_object *snap = NULL;
	uint64_t cur = 0, to;
	size_t cap = 0;
	int rc = 0;

	*plan = (struct replica_plan){.lineage = l, .txid = txid};
	for (size_t i = l->first; i < l->first + l->n; i++) {
		struct replica_object *o = &c->objects[i];
		uint64_t r = reach(o, txid);

		if (!starts(o) || ltx_level_is_pack(o->name.level) || r < 1)
			continue;
		if (r > cur || (r == cur && better(o, snap))) {
			snap = o;
			cur = r;
		}
	}
	if (snap)
		rc = push(plan, &cap, snap, 1, cur, err);
	while (rc == 0 && cur < txid) {
		struct replica_object *o = furthest(c, l, cur, txid, &to);

		if (!o) {
			rc = explain(c, l, cur, txid, err);
			break;
		}
		rc = push(plan, &cap, o, cur + 1, to, err);
		cur = to;
	}
	if (rc == 0 && !plan->n)
		rc = fz_fail(err, FZ_ENOCOMMIT, "TXIDs start at 1");
	if (rc < 0) {
		replica_plan_fini(plan);
		plan->txid = cur;
	}
	return rc;
}

void replica_plan_fini(struct replica_plan *plan)
{
	free(plan->steps);
	plan->steps = NULL;
	plan->n = 0;
}

uint64_t replica_plan_newest(const struct replica_catalog *c, const struct replica_lineage *l)
{
	uint64_t newest = 0;

	for (size_t i = l->first; i < l->first + l->n; i++)
		if (!c->objects[i].bad && c->objects[i].usable_max > newest)
			newest = c->objects[i].usable_max;
	return newest;
}

uint64_t replica_plan_at(const struct replica_catalog *c, const struct replica_lineage *l, int64_t at_ms,
                         struct replica_object **look)
{
	uint64_t best = 0;

	*look = NULL;
	for (size_t i = l->first; i < l->first + l->n; i++) {
		const struct replica_object *o = &c->objects[i];

		if (!o->bad && o->usable_max == o->name.max_txid && o->name.last_ms <= at_ms && o->usable_max > best)
			best = o->usable_max;
	}
	for (size_t i = l->first; i < l->first + l->n; i++) {
		struct replica_object *o = &c->objects[i];

		/* name.last_ms is the time of max_txid: says nothing about a pack of which only a part counts */
		if (o->bad || !ltx_level_is_pack(o->name.level) || o->usable_max <= best || o->name.first_ms > at_ms)
			continue;
		if (!*look || o->name.min_txid > (*look)->name.min_txid ||
		    (o->name.min_txid == (*look)->name.min_txid && o->size_bytes < (*look)->size_bytes))
			*look = o;
	}
	return best;
}

const struct replica_object *replica_plan_oldest(const struct replica_catalog *c, const struct replica_lineage *l)
{
	const struct replica_object *best = NULL;

	for (size_t i = l->first; i < l->first + l->n; i++) {
		const struct replica_object *o = &c->objects[i];

		if (!o->bad && o->usable_max && starts(o) && (!best || o->usable_max < best->usable_max))
			best = o;
	}
	return best;
}

struct replica_object *replica_plan_next(const struct replica_catalog *c, const struct replica_lineage *l, uint64_t cur,
                                         bool *gap)
{
	struct replica_object *pack = NULL, *merged = NULL;
	bool covered = false;

	for (size_t i = l->first; i < l->first + l->n; i++) {
		struct replica_object *o = &c->objects[i];
		uint64_t r = reach(o, UINT64_MAX);

		if (r <= cur || (cur ? o->name.min_txid > cur + 1 : !starts(o)))
			continue;
		if (ltx_level_is_pack(o->name.level)) {
			if (!pack || r > reach(pack, UINT64_MAX))
				pack = o;
			continue;
		}
		/* a snapshot far ahead holds everything, but says nothing about the commits before it */
		covered = covered || !starts(o) || r == cur + 1;
		if (!merged || r < reach(merged, UINT64_MAX) ||
		    (r == reach(merged, UINT64_MAX) && o->name.min_txid > merged->name.min_txid))
			merged = o;
	}
	*gap = !pack && merged && !covered && cur;
	return pack ? pack : merged;
}

struct replica_object *replica_plan_follow(const struct replica_catalog *c, const struct replica_lineage *l,
                                           uint64_t cur, uint32_t epoch, bool *gap)
{
	struct replica_object *pack = NULL, *merged = NULL, *around = NULL, *snap = NULL;
	bool newer = false;

	for (size_t i = l->first; i < l->first + l->n; i++) {
		struct replica_object *o = &c->objects[i];
		uint64_t r = reach(o, UINT64_MAX);

		newer = newer || (!o->bad && o->usable_max > cur);
		if (r <= cur)
			continue;
		if (ltx_level_is_pack(o->name.level)) {
			if (o->name.min_txid <= cur + 1 && (!pack || r > reach(pack, UINT64_MAX)))
				pack = o;
		} else if (starts(o)) {
			if (!snap || r > snap->usable_max || (r == snap->usable_max && better(o, snap)))
				snap = o;
		} else if (o->name.min_txid == cur + 1 && (!merged || r < merged->usable_max)) {
			merged = o;
		} else if (o->name.min_txid <= cur && o->name.epoch == epoch && (!around || r < around->usable_max)) {
			around = o;
		}
	}
	*gap = false;
	if (!cur && snap)
		return snap;
	if (pack || merged || around)
		return pack ? pack : merged ? merged : around;
	*gap = newer && !snap;
	return snap;
}
