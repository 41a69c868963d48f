/* prune.h - the worker's answer to `fazt prune`: {"name"?, "dry_run"} -> pruned: [{target, name, objects, bytes, deleted, kept_objects,
 * kept_bytes, lost: [{lineage, first_txid, last_txid, first_time, last_time}], error?, code?}]. */
#ifndef FZ_CMD_PRUNE_H
#define FZ_CMD_PRUNE_H

#include "base/err.h"

struct cJSON;
struct cmd_serving;

int cmd_prune_answer(struct cmd_serving *w, const struct cJSON *request, struct cJSON *answer,
                     struct fz_err *err) FZ_MUST_CHECK;

#endif
