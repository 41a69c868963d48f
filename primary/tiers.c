#include "primary/tiers.h"

#include "primary/retain.h"

#include <stdlib.h>
#include <string.h>

static void widen(struct primary_tier_span *s, int64_t from_ms, int64_t to_ms)
{
	if (!s->count || from_ms < s->from_ms)
		s->from_ms = from_ms;
	if (!s->count || to_ms > s->to_ms)
		s->to_ms = to_ms;
}

static int by_min(const void *pa, const void *pb)
{
	const struct ltx_name *a = *(const struct ltx_name *const *)pa, *b = *(const struct ltx_name *const *)pb;

	return a->min_txid < b->min_txid ? -1 : a->min_txid > b->min_txid;
}

/* Packs overlap where a level holds the same commits again: each counts once. The newest run without a hole is told. */
static void sum_commits(struct primary_tiers *out, const struct ltx_name **packs, size_t n)
{
	struct primary_tier_span run = {.count = 0};
	uint64_t next = 0;

	qsort(packs, n, sizeof(const struct ltx_name *), by_min);
	for (size_t i = 0; i < n; i++) {
		const struct ltx_name *p = packs[i];

		if (run.count && p->min_txid > next) {
			out->holes = true;
			run = (struct primary_tier_span){.count = 0};
		}
		widen(&run, p->first_ms, p->last_ms);
		if (!run.count)
			next = p->min_txid;
		if (p->max_txid >= next) {
			run.count += p->max_txid + 1 - next;
			next = p->max_txid + 1;
		}
	}
	out->v[PRIMARY_TIER_COMMITS] = run;
	out->last_txid = run.count ? next - 1 : 0;
}

void primary_tiers_sum(struct primary_tiers *out, const struct primary_retain_object *v, size_t n, const char *lineage)
{
	const struct ltx_name **packs = malloc((n ? n : 1) * sizeof(const struct ltx_name *));
	size_t n_packs = 0;

	*out = (struct primary_tiers){.partial = !packs};
	for (size_t i = 0; i < n; i++) {
		const struct ltx_name *o = &v[i].name;
		enum primary_tier tier = o->level == LTX_L_MINUTE ? PRIMARY_TIER_MINUTES
		                         : o->level == LTX_L_HOUR ? PRIMARY_TIER_HOURS
		                         : o->level == LTX_L_DAY  ? PRIMARY_TIER_DAYS
		                                                  : PRIMARY_TIER_SNAPSHOTS;

		if (!v[i].required || strcmp(o->lineage, lineage) != 0)
			continue;
		if (ltx_level_is_pack(o->level)) {
			if (packs)
				packs[n_packs++] = o;
			continue;
		}
		widen(&out->v[tier], o->last_ms, o->last_ms);
		out->v[tier].count++;
	}
	if (packs)
		sum_commits(out, packs, n_packs);
	free(packs);
}

const char *primary_tier_name(enum primary_tier tier)
{
	static const char *const names[PRIMARY_TIERS] = {"commits", "minutes", "hours", "days", "snapshots"};

	return tier < PRIMARY_TIERS ? names[tier] : "";
}
