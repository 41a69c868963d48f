/* history.h - which moments of a database can be restored, from where, and how closely they lie: what this host knows of it without
 * asking a store. Of the local log the commits it holds and its base; of a target what was listed when it was last judged what it
 * may forget, and what was shipped since. */
#ifndef FZ_CMD_HISTORY_H
#define FZ_CMD_HISTORY_H

#include "base/err.h"

struct cJSON;
struct cmd_serving;

/* Fills answer with what cmd/http.h says of /api/history. -FZ_ENOTFOUND. */
int cmd_history_answer(struct cmd_serving *w, const char *name, struct cJSON *answer, struct fz_err *err) FZ_MUST_CHECK;

#endif
