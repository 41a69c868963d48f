/* entries.c - the worker's answer to `fazt events`: what the logs hold beyond the positions that were asked for. */
#include "cmd/worker.h"

#include "ltx/log.h"

#include <cJSON.h>

#define AT_ONCE 500 /* entries of a database; the rest with the next question */

static cJSON *entry(const struct ltx_pack_entry *e)
{
	cJSON *o = cJSON_CreateObject();

	cJSON_AddNumberToObject(o, "min_txid", (double)e->min_txid);
	cJSON_AddNumberToObject(o, "txid", (double)e->max_txid);
	cJSON_AddNumberToObject(o, "time_ms", (double)e->time_ms);
	cJSON_AddNumberToObject(o, "pages", e->pages);
	cJSON_AddNumberToObject(o, "bytes", (double)e->size_bytes);
	return o;
}

static void add_entries(cJSON *list, struct ltx_log *log, uint64_t after, uint64_t tail)
{
	struct ltx_log_entry e[LTX_LOG_RUN];
	int n = 0;

	for (int sum = 0; after < tail && sum < AT_ONCE; sum += n) {
		n = ltx_log_find_run(log, after + 1, e, LTX_LOG_RUN, NULL);
		if (n <= 0)
			break;
		for (int i = 0; i < n; i++)
			cJSON_AddItemToArray(list, entry(&e[i].e));
		after = e[n - 1].e.max_txid;
	}
}

void cmd_entries_answer(struct cmd_serving *w, const struct cJSON *request, struct cJSON *answer)
{
	const cJSON *after = cJSON_GetObjectItem(request, "after"), *v;
	cJSON *list = cJSON_AddArrayToObject(answer, "databases");
	struct ltx_log *log;

	for (size_t i = 0; (log = ltx_logset_at(w->logs, i)); i++) {
		cJSON *o = cJSON_CreateObject();
		struct ltx_log_info info;

		ltx_log_info(log, &info);
		cJSON_AddStringToObject(o, "name", info.name);
		cJSON_AddStringToObject(o, "lineage", info.lineage);
		cJSON_AddNumberToObject(o, "epoch", info.epoch);
		cJSON_AddNumberToObject(o, "created_ms", (double)info.created_ms);
		cJSON_AddNumberToObject(o, "ended_ms", (double)info.ended_ms);
		cJSON_AddNumberToObject(o, "tail_txid", (double)info.tail_txid);
		v = cJSON_GetObjectItem(after, info.lineage);
		if (cJSON_IsNumber(v))
			add_entries(cJSON_AddArrayToObject(o, "entries"), log, (uint64_t)v->valuedouble,
			            info.tail_txid);
		cJSON_AddItemToArray(list, o);
		ltx_log_put(log);
	}
}
