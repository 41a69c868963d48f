/* retain.h - what a target may forget. The decision is pure: a listing in, keep or not out; execution is apart.
 *
 * TERMS   required: kept for its own sake. provider of position p: an object after which a restore stands at p.
 * An increment is required while its tier lasts. Tiers: packs (every commit), minutes, hours, days. A pack that levels 1
 * and 2 cover is superseded at once. An object that the next tier does not cover stands in for it, and lasts as long.
 * Snapshots: all within the first tier, then one a day, one in 7 days, one in 30. The newest state of a living database
 * is always required.
 * (1) For each required object the chain back to a snapshot (or to TXID 1) is kept too, whatever its age.
 * (2) What is neither required nor in such a chain may go, once it was seen so for delete_grace_ms: a running restore
 *     that planned before still finds it. Dependents go before what they rest on.
 * (3) The size limit makes the oldest go earlier, never what is younger than the first tier, never (1).
 *                                                                       held by: tests/unit/test_primary_retain.c */
#ifndef FZ_PRIMARY_RETAIN_H
#define FZ_PRIMARY_RETAIN_H

#include "ltx/name.h"
#include "primary/tiers.h"
#include "store/store.h"

struct fz_store;

struct primary_retain_conf {
	int64_t keep_ms[4]; /* commits, minutes, hours, days; -1 = for ever */
	int64_t day_ms;
	int64_t delete_grace_ms;
	bool append_only;
};
struct primary_retain_object {
	struct ltx_name name;
	uint64_t size_bytes;
	char *key;     /* whole key, borrowed */
	bool required; /* out */
};
/* Sorts v and sets required. living: the lineage that is written now, NULL = none. cut_age_ms: with the size limit,
 * nothing older is required (0 = no such cut). Returns the bytes of what stays. */
uint64_t primary_retain_decide(struct primary_retain_object *v, size_t n, const struct primary_retain_conf *c,
                               const char *living, int64_t now_ms, int64_t cut_age_ms);
/* Can the listing (sorted by primary_retain_decide) restore txid of that lineage? */
bool primary_retain_reaches(struct primary_retain_object *v, size_t n, const char *lineage, uint64_t txid);
/* Ages for the size limit, longest first: PRIMARY_RETAIN_CUTS of them; [0] = 0, no cut. */
#define PRIMARY_RETAIN_CUTS 24
int64_t primary_retain_cut_age(const struct primary_retain_conf *c, unsigned i);

/* What was found superfluous, and since when; in memory, since losing it only delays. */
struct primary_condemned {
	struct primary_condemned_key {
		uint64_t hash; /* of the key */
		int64_t since_ms;
	} * v;
	size_t n;
};
void primary_condemned_fini(struct primary_condemned *c);

struct primary_retain_run {
	struct fz_store *store;
	const char *database;
	const struct primary_retain_conf *conf;
	const char *lineage; /* the newest one of this name */
	bool ended;          /* its database is gone: its newest state may go with its tier */
	uint64_t held_txid;  /* what the target must be able to restore of it; 0 = nothing */
	unsigned cut;        /* index of primary_retain_cut_age() */
	bool may_delete;     /* false: judge only */
	/* out */
	uint64_t kept_bytes[PRIMARY_RETAIN_CUTS]; /* with each cut; filled when want_cuts */
	bool want_cuts;
	uint64_t deleted;
	bool hole;                  /* held_txid cannot be restored any more: objects vanished */
	bool pending;               /* something waits for its grace to pass */
	struct primary_tiers tiers; /* of lineage: what stays */
};
/* One LIST: the objects of a database, with nothing decided yet. What has no such name is not ours, and left out. *v (the caller's; NULL on
 * failure) points into l, which is the caller's to free in any case. */
int primary_retain_list(struct fz_store *store, const char *database, struct fz_store_list *l,
                        struct primary_retain_object **v, size_t *n, struct fz_err *err) FZ_MUST_CHECK;
/* One LIST, the decision, and DELETEs of what was condemned long enough. */
int primary_retain_run(struct primary_retain_run *r, struct primary_condemned *condemned, int64_t now_ms,
                       struct fz_err *err) FZ_MUST_CHECK;

#endif
