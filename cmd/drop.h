/* drop.h - the worker's part of `fazt drop`: {"name"} -> removed: number of local logs, branches: number of branches. The logs of that name, all
 * ended, and what the targets' lanes keep for them go. -FZ_EEXISTS: a database of that name lives. */
#ifndef FZ_CMD_DROP_H
#define FZ_CMD_DROP_H

#include "base/err.h"

struct cJSON;
struct cmd_serving;

int cmd_drop_answer(struct cmd_serving *w, const struct cJSON *request, struct cJSON *answer,
                    struct fz_err *err) FZ_MUST_CHECK;

#endif
