/* target.h - which commit is meant: latest, at a time, or a TXID, over all lives of a database's name.
 *
 * latest: the newest lineage's newest commit. time: the last commit at or before it, looked for in the newest lineage that
 * has one that old. TXID: each lineage counts from 1, so it is ambiguous: the newest lineage that has it. */
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
int replica_target_store(struct replica_source *s, struct replica_catalog *c, const struct replica_restore_conf *conf,
                         struct replica_meter *m, struct replica_target *t, struct replica_plan *plan,
                         struct fz_err *err) FZ_MUST_CHECK;
/* What the listing, and the index of the last pack, tell about a plan's target without fetching pages. */
int replica_target_describe(struct replica_source *s, const struct replica_plan *plan, struct replica_meter *m,
                            struct replica_commit *out, struct fz_err *err) FZ_MUST_CHECK;
/* The restored database has a wrong checksum and each piece looked right: reads every file of the plan in full to find
 * the one that lies. err then names it; NULL (err untouched) when none does. */
struct replica_object *replica_target_culprit(struct replica_source *s, const struct replica_plan *plan,
                                              struct replica_meter *m, struct fz_err *err);
/* In the local logs: which of them (*i) and the LTX file that ends at the commit. */
int replica_target_log(const struct replica_logs *logs, const struct replica_restore_conf *conf, size_t *i,
                       struct ltx_log_entry *e, struct fz_err *err) FZ_MUST_CHECK;

#endif
