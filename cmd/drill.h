/* drill.h - restore drills: what `fazt verify` found out about the backups of a mount, by hand or from a timer. The command tells every
 * mount on this machine, and the one whose log or target it was remembers it, so that status and metrics know the last commit that was proven
 * to be restorable, and when. Kept in <state>/drills, JSON, replaced atomically. */
#ifndef FZ_CMD_DRILL_H
#define FZ_CMD_DRILL_H

#include "base/err.h"

#include <pthread.h>
#include <stdbool.h>

struct cJSON;
struct cmd_serving;
struct cmd_source;
struct replica_verify_result;

/* ---- the command's side ---- */
/* rc: of replica_verify(), err its reason. Nobody who listens is no failure. */
void cmd_drill_tell(const struct cmd_source *s, const struct replica_verify_result *r, bool full, int rc,
                    const struct fz_err *err);

/* ---- the worker's side ---- */
struct cmd_drills {
	pthread_mutex_t mu;
	struct cJSON *list; /* mu: one object for each target and database */
};
/* What the state directory has; what cannot be read is told and given up. */
void cmd_drills_open(struct cmd_drills *d, int statefd);
void cmd_drills_close(struct cmd_drills *d);
/* The request {"cmd": "drill"}. answer: "known", false when it is not of this mount. */
int cmd_drill_answer(struct cmd_serving *w, const struct cJSON *request, struct cJSON *answer,
                     struct fz_err *err) FZ_MUST_CHECK;
/* drills: [{target (its name, or "log"), database, time_ms (of the last that came to a result), ok, full, structure_only, error,
 * runs: {ok, failed, error}, proven_txid, proven_time_ms (of that commit), proven_at_ms}]; and a problem for each that failed, while the
 * database lives and the target is configured. */
void cmd_drills_status(struct cmd_serving *w, struct cJSON *answer);

#endif
