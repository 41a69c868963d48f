#include "cmd/history.h"

#include "cmd/worker.h"
#include "ltx/log.h"
#include "primary/ship.h"

#include <cJSON.h>
#include <errno.h>
#include <string.h>

static void add_tier(cJSON *tiers, const char *kind, int64_t from_ms, int64_t to_ms, uint64_t count)
{
	cJSON *o;

	if (!count || from_ms <= 0)
		return;
	o = cJSON_CreateObject();
	cJSON_AddStringToObject(o, "kind", kind);
	cJSON_AddNumberToObject(o, "from_ms", (double)from_ms);
	cJSON_AddNumberToObject(o, "to_ms", (double)to_ms);
	cJSON_AddNumberToObject(o, "count", (double)count);
	cJSON_AddItemToArray(tiers, o);
}

static void add_log(cJSON *sources, struct ltx_log *log, const struct ltx_log_info *info)
{
	cJSON *o = cJSON_CreateObject(), *tiers;
	struct ltx_log_entry e;

	cJSON_AddStringToObject(o, "name", "log");
	cJSON_AddBoolToObject(o, "complete", true);
	tiers = cJSON_AddArrayToObject(o, "tiers");
	if (info->base_txid && ltx_log_find(log, info->base_txid, &e, NULL) == 0)
		add_tier(tiers, "snapshots", e.e.time_ms, e.e.time_ms, 1);
	if (info->first_txid && ltx_log_find(log, info->first_txid, &e, NULL) == 0)
		add_tier(tiers, "commits", e.e.time_ms, info->tail_time_ms, info->entries);
	cJSON_AddItemToArray(sources, o);
}

int cmd_history_answer(struct cmd_serving *w, const char *name, cJSON *answer, struct fz_err *err)
{
	struct ltx_log_info info;
	struct ltx_log *log = NULL;
	cJSON *sources;
	int rc = ltx_logset_get(w->logs, name, false, &log, err);

	if (rc < 0)
		return rc;
	ltx_log_info(log, &info);
	cJSON_AddStringToObject(answer, "database", info.name);
	sources = cJSON_AddArrayToObject(answer, "sources");
	add_log(sources, log, &info);
	if (w->ship && primary_ship_history(w->ship, log, sources) < 0)
		rc = fz_fail_errno(err, ENOMEM, "history");
	ltx_log_put(log);
	return rc < 0 ? rc : 0;
}
