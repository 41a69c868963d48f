#include "primary/retain.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct primary_retain_object obj;

/* Objects of one lineage, epoch and level, ascending by (min, max). */
struct group {
	obj *v;
	size_t n;
};

static int place_cmp(const obj *a, const obj *b)
{
	int c = strcmp(a->name.lineage, b->name.lineage);

	if (c)
		return c;
	if (a->name.epoch != b->name.epoch)
		return a->name.epoch < b->name.epoch ? -1 : 1;
	return a->name.level - b->name.level;
}

static int by_place(const void *pa, const void *pb)
{
	const obj *a = pa, *b = pb;
	int c = place_cmp(a, b);

	if (c)
		return c;
	if (a->name.min_txid != b->name.min_txid)
		return a->name.min_txid < b->name.min_txid ? -1 : 1;
	return a->name.max_txid < b->name.max_txid ? -1 : a->name.max_txid > b->name.max_txid;
}

/* Index of the first object that is not before (bound 0) or is after (bound 1) want's group. */
static size_t group_bound(const obj *v, size_t n, const obj *want, int bound)
{
	size_t lo = 0, hi = n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (place_cmp(&v[mid], want) < bound)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static struct group find_group(obj *v, size_t n, const char *lineage, uint32_t epoch, int level)
{
	obj want = {
	        .name = {.epoch = epoch, .level = level}
        };
	size_t from, to;

	memcpy(want.name.lineage, lineage, sizeof(want.name.lineage));
	from = group_bound(v, n, &want, 0);
	to = group_bound(v, n, &want, 1);
	return (struct group){v + from, to - from};
}

/* Number of objects with min <= txid. */
static size_t upto(const struct group *g, uint64_t txid)
{
	size_t lo = 0, hi = g->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (g->v[mid].name.min_txid <= txid)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Objects of a level hardly overlap (a pack that was cut anew after a lost cursor): looking back so far is enough, and
 * what is not seen errs towards keeping. */
#define LOOK_BACK 16

/* ---- providers --------------------------------------------------------------------------------------------------- */

static bool provides(const obj *o, uint64_t p)
{
	if (ltx_level_is_pack(o->name.level))
		return o->name.min_txid <= p && p <= o->name.max_txid;
	return o->name.max_txid == p;
}

static obj *provider_in(obj *v, size_t n, const char *lineage, uint32_t epoch, int level, uint64_t p, bool required)
{
	struct group g = find_group(v, n, lineage, epoch, level);

	if (level == LTX_L_SNAPSHOT) { /* all start at 1: ascending by max */
		for (size_t i = 0; i < g.n; i++)
			if (g.v[i].name.max_txid == p && (!required || g.v[i].required))
				return &g.v[i];
		return NULL;
	}
	for (size_t i = upto(&g, p), k = 0; i > 0 && k < LOOK_BACK; i--, k++)
		if (provides(&g.v[i - 1], p) && (!required || g.v[i - 1].required))
			return &g.v[i - 1];
	return NULL;
}

static obj *provider(obj *v, size_t n, const char *lineage, uint32_t epoch, uint64_t p, bool required)
{
	static const int order[] = {LTX_L_SNAPSHOT,  LTX_L_DAY,         LTX_L_HOUR, LTX_L_MINUTE,
	                            LTX_L_PACK_HOUR, LTX_L_PACK_MINUTE, LTX_L_PACK};

	for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
		obj *o = provider_in(v, n, lineage, epoch, order[i], p, required);

		if (o)
			return o;
	}
	return NULL;
}

/* Requires something that provides position p for epoch: from the same epoch, else the best of each older one (which of
 * them is the base is written in claims, which are not read here). */
static bool require(obj *v, size_t n, const char *lineage, uint32_t epoch, uint64_t p)
{
	bool any = false;
	obj *o;

	if (provider(v, n, lineage, epoch, p, true))
		return true;
	o = provider(v, n, lineage, epoch, p, false);
	if (o) {
		o->required = true;
		return true;
	}
	for (size_t i = 0; i < n; i++) { /* each older epoch once: epochs are sorted within the lineage */
		if (strcmp(v[i].name.lineage, lineage) != 0 || v[i].name.epoch >= epoch ||
		    (i > 0 && v[i - 1].name.epoch == v[i].name.epoch && strcmp(v[i - 1].name.lineage, lineage) == 0))
			continue;
		o = provider(v, n, lineage, v[i].name.epoch, p, false);
		if (o)
			any = o->required = true;
	}
	return any;
}

/* What o rests on. */
static void require_base(obj *v, size_t n, const obj *o)
{
	const struct ltx_name *m = &o->name;

	if (m->min_txid == 1 || require(v, n, m->lineage, m->epoch, m->min_txid - 1))
		return;
	/* a pack that a snapshot inside it makes usable from there on */
	if (ltx_level_is_pack(m->level)) {
		struct group g = find_group(v, n, m->lineage, m->epoch, LTX_L_SNAPSHOT);

		for (size_t i = 0; i < g.n; i++)
			if (g.v[i].name.max_txid >= m->min_txid && g.v[i].name.max_txid < m->max_txid) {
				g.v[i].required = true;
				return;
			}
	}
}

/* ---- tiers ------------------------------------------------------------------------------------------------------- */

/* Do the objects of these levels together hold all of o? */
static bool covered(obj *v, size_t n, const obj *o, int first_level, int last_level)
{
	uint64_t next = o->name.min_txid;
	bool moved = true;

	while (moved && next <= o->name.max_txid) {
		moved = false;
		for (int l = first_level; l <= last_level; l++) {
			struct group g = find_group(v, n, o->name.lineage, o->name.epoch, l);

			for (size_t i = upto(&g, next), k = 0; i > 0 && k < LOOK_BACK; i--, k++)
				if (g.v[i - 1].name.max_txid >= next) {
					next = g.v[i - 1].name.max_txid + 1;
					moved = true;
					break;
				}
		}
	}
	return next > o->name.max_txid;
}

static int64_t longer(int64_t a, int64_t b)
{
	return a < 0 || b < 0 ? -1 : a > b ? a : b;
}

/* How long o is required, by its tier and those it stands in for; 0 = it is superseded. */
static int64_t lasts_ms(obj *v, size_t n, const obj *o, const struct primary_retain_conf *c)
{
	int level = o->name.level;
	int64_t keep;

	if (level < LTX_L_PACK_HOUR && covered(v, n, o, level + 1, LTX_L_PACK_HOUR))
		return 0;
	if (ltx_level_is_pack(level)) {
		keep = c->keep_ms[0];
		level = LTX_L_PACK_HOUR;
	} else {
		keep = c->keep_ms[level - LTX_L_MINUTE + 1];
	}
	for (int l = level + 1; l <= LTX_L_DAY && !covered(v, n, o, l, l); l++)
		keep = longer(keep, c->keep_ms[l - LTX_L_MINUTE + 1]);
	return keep;
}

static bool lasts(int64_t keep_ms, int64_t last_ms, int64_t now_ms)
{
	return keep_ms < 0 || (keep_ms > 0 && last_ms >= now_ms - keep_ms);
}

/* The highest merged level that starts right after a snapshot: what it is still good for when the packs are gone. */
static int alignment(obj *v, size_t n, const obj *s)
{
	for (int l = LTX_L_DAY; l >= LTX_L_MINUTE; l--) {
		struct group g = find_group(v, n, s->name.lineage, s->name.epoch, l);
		size_t i = upto(&g, s->name.max_txid + 1);

		if (i > 0 && g.v[i - 1].name.min_txid == s->name.max_txid + 1)
			return l;
	}
	return 0;
}

/* One snapshot for each stretch of time, the best aligned, the newest of these. g: ascending. */
static void thin_snapshots(obj *v, size_t n, struct group g, const struct primary_retain_conf *c, int64_t now_ms,
                           int64_t cut_age_ms)
{
	obj *best = NULL;
	int64_t best_slot = -1;
	int best_alignment = -1;

	for (size_t i = 0; i < g.n; i++) {
		obj *s = &g.v[i];
		int64_t t = s->name.last_ms, slot, step = 30 * c->day_ms;
		int a;

		if (cut_age_ms && t < now_ms - cut_age_ms)
			continue;
		if (lasts(c->keep_ms[0], t, now_ms)) {
			s->required = true;
			continue;
		}
		if (!lasts(c->keep_ms[3], t, now_ms))
			continue;
		if (lasts(c->keep_ms[1], t, now_ms))
			step = c->day_ms;
		else if (lasts(c->keep_ms[2], t, now_ms))
			step = 7 * c->day_ms;
		/* the step is part of the slot, so that a stretch does not mix two of them */
		slot = t / step * 64 + (step == c->day_ms ? 2 : step == 7 * c->day_ms ? 1 : 0);
		a = alignment(v, n, s);
		if (slot != best_slot) {
			if (best)
				best->required = true;
			best_slot = slot;
			best = NULL;
		}
		if (!best || a >= best_alignment) {
			best = s;
			best_alignment = a;
		}
	}
	if (best)
		best->required = true;
}

static int by_min_descending(const void *pa, const void *pb)
{
	const obj *a = *(obj *const *)pa, *b = *(obj *const *)pb;

	return a->name.min_txid < b->name.min_txid ? 1 : a->name.min_txid > b->name.min_txid ? -1 : 0;
}

uint64_t primary_retain_decide(struct primary_retain_object *v, size_t n, const struct primary_retain_conf *c,
                               const char *living, int64_t now_ms, int64_t cut_age_ms)
{
	obj *newest = NULL;
	uint64_t bytes = 0;
	obj **order;

	if (n > 1)
		qsort(v, n, sizeof(*v), by_place);
	for (size_t i = 0; i < n; i++)
		v[i].required = false;
	for (size_t i = 0; i < n; i++) {
		obj *o = &v[i];

		if (living && strcmp(o->name.lineage, living) == 0 &&
		    (!newest || o->name.epoch > newest->name.epoch ||
		     (o->name.epoch == newest->name.epoch && o->name.max_txid >= newest->name.max_txid)))
			newest = o;
		if (o->name.level == LTX_L_SNAPSHOT) {
			if (i == 0 || place_cmp(&v[i - 1], o) != 0)
				thin_snapshots(v, n, find_group(v, n, o->name.lineage, o->name.epoch, LTX_L_SNAPSHOT),
				               c, now_ms, cut_age_ms);
		} else if (!cut_age_ms || o->name.last_ms >= now_ms - cut_age_ms) {
			o->required = lasts(lasts_ms(v, n, o, c), o->name.last_ms, now_ms);
		}
	}
	if (newest)
		newest->required = true;
	/* What required ones rest on starts earlier than they do: from the largest min down, one pass sees all. */
	order = malloc((n ? n : 1) * sizeof(obj *));
	if (!order) { /* without the means to prove that something may go, everything stays */
		for (size_t i = 0; i < n; i++)
			v[i].required = true;
	} else {
		for (size_t i = 0; i < n; i++)
			order[i] = &v[i];
		qsort(order, n, sizeof(*order), by_min_descending);
		for (size_t i = 0; i < n; i++)
			if (order[i]->required)
				require_base(v, n, order[i]);
		free(order);
	}
	for (size_t i = 0; i < n; i++)
		bytes += v[i].required ? v[i].size_bytes : 0;
	return bytes;
}

/* ---- reach ------------------------------------------------------------------------------------------------------- */

/* From position p on, following what reaches furthest, but not beyond txid unless it is a pack. */
static bool walk(obj *v, size_t n, const char *lineage, uint32_t epoch, uint64_t p, uint64_t txid)
{
	while (p < txid) {
		uint64_t best = p;

		for (size_t at = 0; at < n; at++) { /* the groups of this lineage up to epoch */
			struct group g;

			if (strcmp(v[at].name.lineage, lineage) != 0 || v[at].name.epoch > epoch)
				continue;
			g = find_group(v, n, lineage, v[at].name.epoch, v[at].name.level);
			at = (size_t)(g.v - v) + g.n - 1;
			for (size_t i = upto(&g, p + 1), k = 0; i > 0 && k < LOOK_BACK; i--, k++) {
				const struct ltx_name *m = &g.v[i - 1].name;
				bool pack = ltx_level_is_pack(m->level);
				uint64_t to = pack && m->max_txid > txid ? txid : m->max_txid;

				if ((pack || m->min_txid == p + 1) && to <= txid && to > best)
					best = to;
			}
		}
		if (best == p)
			return false;
		p = best;
	}
	return true;
}

bool primary_retain_reaches(struct primary_retain_object *v, size_t n, const char *lineage, uint64_t txid)
{
	uint32_t epoch = 0;

	for (size_t i = 0; i < n; i++)
		if (strcmp(v[i].name.lineage, lineage) == 0)
			epoch = v[i].name.epoch;
	for (size_t i = n; i-- > 0;) { /* newest snapshots first */
		const struct ltx_name *m = &v[i].name;

		if (strcmp(m->lineage, lineage) == 0 && m->level == LTX_L_SNAPSHOT && m->max_txid <= txid &&
		    walk(v, n, lineage, epoch, m->max_txid, txid))
			return true;
	}
	return walk(v, n, lineage, epoch, 0, txid);
}

/* ---- execution --------------------------------------------------------------------------------------------------- */

int64_t primary_retain_cut_age(const struct primary_retain_conf *c, unsigned i)
{
	/* 0 none, then from 1.5^22 times the first tier (years, by default) down to once that */
	double age = (double)c->keep_ms[0];

	if (i == 0 || c->keep_ms[0] < 0)
		return 0;
	for (unsigned k = i + 1; k < PRIMARY_RETAIN_CUTS; k++)
		age *= 1.5;
	return age < 9e15 ? (int64_t)age : INT64_C(9000000000000000);
}

void primary_condemned_fini(struct primary_condemned *c)
{
	free(c->v);
	c->v = NULL;
	c->n = 0;
}

/* Keeps what is still superfluous, with the time it was first seen so. */
static int condemn(struct primary_condemned *c, const obj *v, size_t n, int64_t now_ms, struct fz_err *err)
{
	struct primary_condemned fresh = {0};
	size_t count = 0;

	for (size_t i = 0; i < n; i++)
		count += !v[i].required;
	fresh.v = malloc((count ? count : 1) * sizeof(*fresh.v));
	if (!fresh.v)
		return fz_fail_errno(err, ENOMEM, "retention");
	for (size_t i = 0; i < n; i++) {
		struct primary_condemned_key k = {ltx_crc64(0, v[i].key, strlen(v[i].key)), now_ms};

		if (v[i].required)
			continue;
		for (size_t j = 0; j < c->n; j++)
			if (c->v[j].hash == k.hash && c->v[j].since_ms <= now_ms)
				k.since_ms = c->v[j].since_ms;
		fresh.v[fresh.n++] = k;
	}
	primary_condemned_fini(c);
	*c = fresh;
	return 0;
}

static int by_newest(const void *pa, const void *pb)
{
	const obj *a = *(obj *const *)pa, *b = *(obj *const *)pb;

	return a->name.max_txid < b->name.max_txid ? 1 : a->name.max_txid > b->name.max_txid ? -1 : 0;
}

/* Deletes what was condemned long enough, dependents before what they rest on. c is in the order of v. */
static int execute(struct primary_retain_run *r, const struct primary_condemned *c, obj *v, size_t n, int64_t now_ms,
                   struct fz_err *err)
{
	obj **gone = malloc((n ? n : 1) * sizeof(obj *));
	const char **keys = malloc((n ? n : 1) * sizeof(*keys));
	size_t count = 0, at = 0, failed = 0;
	int rc = gone && keys ? 0 : fz_fail_errno(err, ENOMEM, "retention");

	for (size_t i = 0; rc == 0 && i < n; i++) {
		if (v[i].required)
			continue;
		if (r->may_delete && c->v[at].since_ms <= now_ms - r->conf->delete_grace_ms)
			gone[count++] = &v[i];
		else
			r->pending = true;
		at++;
	}
	if (rc == 0 && count > 0) {
		qsort(gone, count, sizeof(*gone), by_newest);
		for (size_t i = 0; i < count; i++)
			keys[i] = gone[i]->key;
		rc = fz_store_delete(r->store, keys, count, &failed, err);
		r->deleted = count - failed;
	}
	free(keys);
	free(gone);
	return rc;
}

int primary_retain_list(struct fz_store *store, const char *database, struct fz_store_list *l, obj **v, size_t *n,
                        struct fz_err *err)
{
	struct fz_buf prefix = {0};
	int rc = fz_buf_addf(&prefix, "%s/", database) < 0 ? fz_fail_errno(err, ENOMEM, "retention") : 0;

	*v = NULL;
	*n = 0;
	if (rc == 0)
		rc = fz_store_list(store, fz_buf_str(&prefix), NULL, false, l, err);
	if (rc == 0) {
		*v = calloc(l->n ? l->n : 1, sizeof(**v));
		rc = *v ? 0 : fz_fail_errno(err, ENOMEM, "retention");
	}
	for (size_t i = 0; rc == 0 && i < l->n; i++)
		if (ltx_name_get(&(*v)[*n].name, l->v[i].key + prefix.size) == 0) {
			(*v)[*n].size_bytes = l->v[i].size_bytes;
			(*v)[(*n)++].key = l->v[i].key;
		}
	fz_buf_fini(&prefix);
	return rc;
}

int primary_retain_run(struct primary_retain_run *r, struct primary_condemned *condemned, int64_t now_ms,
                       struct fz_err *err)
{
	struct fz_store_list l = {0};
	const char *living = r->ended ? NULL : r->lineage;
	obj *v = NULL;
	size_t n = 0;
	int rc;

	r->deleted = 0;
	r->hole = r->pending = false;
	rc = primary_retain_list(r->store, r->database, &l, &v, &n, err);
	if (rc < 0)
		goto out;
	for (unsigned i = 0; r->want_cuts && i < PRIMARY_RETAIN_CUTS; i++)
		r->kept_bytes[i] =
		        primary_retain_decide(v, n, r->conf, living, now_ms, primary_retain_cut_age(r->conf, i));
	primary_retain_decide(v, n, r->conf, living, now_ms, primary_retain_cut_age(r->conf, r->cut));
	primary_tiers_sum(&r->tiers, v, n, r->lineage);
	if (r->held_txid)
		r->hole = !primary_retain_reaches(v, n, r->lineage, r->held_txid);
	if (r->conf->append_only || r->hole) /* with a hole nothing is certain: heal first */
		goto out;
	rc = condemn(condemned, v, n, now_ms, err);
	if (rc == 0)
		rc = execute(r, condemned, v, n, now_ms, err);
out:
	free(v);
	fz_store_list_fini(&l);
	return rc;
}
