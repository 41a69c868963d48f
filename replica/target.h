/* target.h - which commit is meant: latest, at a time, or a TXID, over all lives of a database's name.
 *
 * latest: the newest lineage's newest commit. time: the last commit at or before it, looked for in the newest lineage that
 * has one that old. TXID: each lineage counts from 1, so it is ambiguous: the newest lineage that has it. "Has" means that the
 * database was there then, or came to that TXID: where its detail is given up (merged, pruned, not shipped), an older
 * lineage is another database and no answer. */
#ifndef FZ_REPLICA_TARGET_H
#define FZ_REPLICA_TARGET_H

#include "ltx/log.h"
#include "replica/origin.h"
#include "replica/plan.h"
#include "replica/restore.h"

/* Once found it stays, also over a new listing, so that a restore means one commit from start to end. */
struct replica_target {
	char lineage[17]; /* "" = not found yet */
	uint64_t txid;
};
/* On failure *blame may name the object whose index should have told it: mark it bad, and ask again. -FZ_EGAP: objects so marked held
 * what was asked for, and no other one does. */
int replica_target_store(struct replica_source *s, struct replica_catalog *c, const struct replica_restore_conf *conf,
                         struct replica_meter *m, struct replica_target *t, struct replica_plan *plan,
                         struct replica_object **blame, struct fz_err *err) FZ_MUST_CHECK;
/* What the listing, and the index of the last pack, tell about a plan's target without fetching pages. */
int replica_target_describe(struct replica_source *s, const struct replica_plan *plan, struct replica_meter *m,
                            struct replica_commit *out, struct fz_err *err) FZ_MUST_CHECK;
/* The restored database has a wrong checksum and each piece looked right: reads every file of the plan in full to find
 * the one that lies. err then names it; NULL (err untouched) when none does. */
struct replica_object *replica_target_culprit(struct replica_source *s, const struct replica_plan *plan,
                                              struct replica_meter *m, struct fz_err *err);
/* In the local logs. lineage is told on failure too: the life that had it, though the log does not; "" = none is known. */
struct replica_log_target {
	struct ltx_log *log; /* borrowed */
	char lineage[17];
	struct ltx_log_entry entry; /* the LTX file that ends at the commit */
	bool coarse; /* REPLICA_AT: what comes next is a merged range. Later commits may be in it that are old enough */
};
int replica_target_log(const struct replica_logs *logs, const struct replica_restore_conf *conf,
                       struct replica_log_target *t, struct fz_err *err) FZ_MUST_CHECK;

#endif
