/* plan.h - which objects bring a database to one commit. Pure: a catalog in, steps out, no store is asked.
 *
 * A plan is the newest usable snapshot at or below the target, then at each step the object that begins at or before the
 * next TXID and reaches furthest without passing the target: fewest objects, by the exchange argument of interval
 * covering (an object that reaches less can be continued only by objects that also continue the one that reaches more).
 * A pack can be used in part, as its index tells; a merged file only whole. */
#ifndef FZ_REPLICA_PLAN_H
#define FZ_REPLICA_PLAN_H

#include "replica/catalog.h"

struct replica_step {
	struct replica_object *object;
	uint64_t from_txid, to_txid; /* what it has to bring; from may lie above the object's first TXID */
};
struct replica_plan {
	struct replica_step *steps; /* oldest first; steps[0] is a snapshot or a file that starts at TXID 1 */
	size_t n;
	const struct replica_lineage *lineage;
	uint64_t txid, bytes; /* target; sizes of all objects */
};

/* -FZ_ENOCOMMIT: older than everything kept, newer than everything shipped, or inside a merged range. -FZ_EGAP. On
 * failure plan->txid is the newest restorable TXID below (0 = none): no older snapshot leads further, see above. */
int replica_plan_make(struct replica_plan *plan, const struct replica_catalog *c, const struct replica_lineage *l,
                      uint64_t txid, struct fz_err *err) FZ_MUST_CHECK;
void replica_plan_fini(struct replica_plan *plan);

/* The newest TXID that the lineage's names offer; 0 = none. */
uint64_t replica_plan_newest(const struct replica_catalog *c, const struct replica_lineage *l);
/* The newest TXID whose commit time is certainly <= at_ms (0 = none) and, in *look, the pack that may hold newer ones
 * that old: its index decides. NULL = no need. */
uint64_t replica_plan_at(const struct replica_catalog *c, const struct replica_lineage *l, int64_t at_ms,
                         struct replica_object **look);
/* Oldest restorable commit (max TXID of the oldest snapshot); NULL = none. */
const struct replica_object *replica_plan_oldest(const struct replica_catalog *c, const struct replica_lineage *l);

/* The object that continues the lineage after cur (0 = from the start) in the finest detail kept; NULL at the end. *gap:
 * TXID cur + 1 is in no object, and what is returned is a later snapshot. */
struct replica_object *replica_plan_next(const struct replica_catalog *c, const struct replica_lineage *l, uint64_t cur,
                                         bool *gap);
/* What a log that ends at cur (0 = empty) takes next as it lies there: a pack that has cur + 1, else a merged file that
 * begins right there, else, of the log's own epoch, one whose range the log's end lies in (ltx/recut.h), else a snapshot that takes the place of the log. An empty log begins with the newest snapshot. NULL: nothing is newer, or, with
 * *gap, none of these is there. */
struct replica_object *replica_plan_follow(const struct replica_catalog *c, const struct replica_lineage *l,
                                           uint64_t cur, uint32_t epoch, bool *gap);

#endif
