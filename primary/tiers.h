/* tiers.h - which moments of a database a target can bring back, summed up from a listing that was judged (primary/retain.h). Pure.
 *
 * Every commit of a pack is a moment; of any other object the last one alone is. An object that retention lets go of counts no more.
 *                                                                          held by: tests/unit/test_primary_tiers.c */
#ifndef FZ_PRIMARY_TIERS_H
#define FZ_PRIMARY_TIERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct primary_retain_object;

enum primary_tier {
	PRIMARY_TIER_COMMITS,
	PRIMARY_TIER_MINUTES,
	PRIMARY_TIER_HOURS,
	PRIMARY_TIER_DAYS,
	PRIMARY_TIER_SNAPSHOTS,
	PRIMARY_TIERS
};
struct primary_tier_span {
	int64_t from_ms, to_ms; /* commit times of the oldest and the newest moment */
	uint64_t count;         /* 0 = there is none; of commits that the log had merged before: more than there are */
};
struct primary_tiers {
	int64_t at_ms; /* when it was listed; 0 = never, and nothing else is set. The caller's. */
	struct primary_tier_span v[PRIMARY_TIERS];
	uint64_t last_txid; /* of v[PRIMARY_TIER_COMMITS] */
	bool holes;         /* there are older commits, before a hole: v[PRIMARY_TIER_COMMITS] is what follows it */
	bool partial;       /* no memory: no commits were summed up */
};
/* v: sorted and with required set, as primary_retain_decide() leaves it. */
void primary_tiers_sum(struct primary_tiers *out, const struct primary_retain_object *v, size_t n, const char *lineage);
const char *primary_tier_name(enum primary_tier tier); /* "commits", "minutes", "hours", "days", "snapshots" */

#endif
