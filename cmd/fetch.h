/* fetch.h - the moment that restore, export and clone are asked for, and bringing it from the first place that has it. */
#ifndef FZ_CMD_FETCH_H
#define FZ_CMD_FETCH_H

#include "cmd/source_arg.h"
#include "replica/restore.h"

struct cJSON;
struct cmd_progress;

struct cmd_moment {
	const char *at, *txid; /* of --at, --txid; NULL = not given */
	bool latest;
};
/* At most one of them; fills when, at_ms and txid. -FZ_EUSAGE. */
int cmd_moment_read(const struct cmd_moment *m, struct replica_restore_conf *conf, struct fz_err *err) FZ_MUST_CHECK;
/* replica_restore() of one place after the other: the local log, then the stores. p may be NULL. */
int cmd_fetch(struct cmd_source *s, struct replica_restore_conf *conf, struct cmd_progress *p,
              struct replica_restore_result *result, struct fz_err *err) FZ_MUST_CHECK;
/* The same into the live database, as one new transaction (replica/inplace.h): by way of a copy in $TMPDIR or /var/tmp, that has no name.
 * dir: the directory of live, where the caller has it open (cmd/place.h); NULL = it is looked up. guard may be NULL. */
struct replica_inplace_guard;
struct replica_inplace_result;
int cmd_fetch_in_place(struct cmd_source *s, struct replica_restore_conf *conf, struct cmd_progress *p,
                       const char *live, const int *dir, struct replica_inplace_guard *guard,
                       struct replica_restore_result *result, struct replica_inplace_result *placed,
                       struct fz_err *err) FZ_MUST_CHECK;
/* A complete database file into the live one, unless interrupted before the writer's lock was there. dir and guard as above. */
int cmd_in_place(const char *restored, const char *live, const int *dir, struct replica_inplace_guard *guard,
                 struct replica_inplace_result *placed, struct fz_err *err) FZ_MUST_CHECK;
/* Where it came from, for people: valid after cmd_fetch(). */
const char *cmd_fetch_label(const struct cmd_source *s, const struct replica_restore_result *result);
/* What was fetched, as the JSON of each of them begins: source (label), txid, time, time_ms. The caller deletes it. */
struct cJSON *cmd_fetch_json(const char *label, const struct replica_restore_result *result);

#endif
