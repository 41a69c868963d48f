/* followstatus.c - how far this replica is, as JSON. Figures are copied under the lock; logs are asked without. */
#include "base/clock.h"
#include "ltx/log.h"
#include "replica/applier.h"
#include "replica/followpriv.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WALK 4096 /* entries that are added up; beyond it lag_bytes is a lower bound */

struct view {
	char name[LTX_WIRE_NAME], lineage[17];
	enum replica_followdb_state state;
	bool ended, agreed;
	uint32_t epoch;
	uint64_t received, durable, applied, primary, held;
	int64_t behind_ms;
	struct fz_err err;
	/* from the log */
	uint64_t lag_bytes;
	int64_t lag_ms;
};

static void copy_db(struct view *v, const struct replica_followdb *db, bool applier)
{
	memcpy(v->name, db->name, sizeof(v->name));
	memcpy(v->lineage, db->lineage, sizeof(v->lineage));
	v->state = db->state;
	v->ended = db->ended;
	v->epoch = db->epoch;
	v->agreed = db->agreed;
	v->received = db->received;
	v->durable = db->durable;
	v->applied = applier ? db->applied : db->durable;
	v->primary = db->primary_txid > db->received ? db->primary_txid : db->received;
	v->behind_ms = db->behind_ms;
	v->held = db->held_txid;
	v->err = db->err;
}

/* What is here and not yet shown: since when, and how much. */
static void look_at_log(struct view *v, struct ltx_log *log, int64_t now_ms)
{
	struct ltx_log_entry e;
	int64_t oldest_ms = v->behind_ms;
	uint64_t at = v->applied;

	for (int i = 0; i < WALK && at < v->received && ltx_log_find(log, at + 1, &e, NULL) == 0; i++) {
		if (i == 0 && (!oldest_ms || e.e.time_ms < oldest_ms))
			oldest_ms = e.e.time_ms;
		v->lag_bytes += e.e.size_bytes;
		at = e.e.max_txid;
	}
	if (oldest_ms && now_ms > oldest_ms)
		v->lag_ms = now_ms - oldest_ms;
}

static void look_at_logs(struct replica_followset *s, struct view *v, size_t n, int64_t now_ms)
{
	struct ltx_log *log;

	for (size_t i = 0; (log = ltx_logset_at(s->logs, i)); i++) {
		struct ltx_log_info info;

		ltx_log_info(log, &info);
		for (size_t k = 0; k < n; k++)
			if (strcmp(v[k].lineage, info.lineage) == 0)
				look_at_log(&v[k], log, now_ms);
		ltx_log_put(log);
	}
}

void replica_followset_add_error(struct cJSON *o, const struct fz_err *err)
{
	cJSON_AddItemToObject(o, "last_error", err->code ? cJSON_CreateString(err->text) : cJSON_CreateNull());
}

static cJSON *show(const struct view *v)
{
	cJSON *o = cJSON_CreateObject();

	cJSON_AddStringToObject(o, "name", v->name);
	cJSON_AddStringToObject(o, "lineage", v->lineage);
	cJSON_AddNumberToObject(o, "epoch", v->epoch);
	cJSON_AddNumberToObject(o, "received_txid", (double)v->received);
	cJSON_AddNumberToObject(o, "durable_txid", (double)v->durable);
	cJSON_AddNumberToObject(o, "applied_txid", (double)v->applied);
	cJSON_AddNumberToObject(o, "primary_txid", (double)v->primary);
	cJSON_AddNumberToObject(o, "held_txid", (double)v->held);
	cJSON_AddNumberToObject(o, "lag_ms", (double)v->lag_ms);
	cJSON_AddNumberToObject(o, "lag_txns", (double)(v->primary > v->applied ? v->primary - v->applied : 0));
	cJSON_AddNumberToObject(o, "lag_bytes", (double)v->lag_bytes);
	cJSON_AddBoolToObject(o, "agreed", v->agreed);
	cJSON_AddBoolToObject(o, "diverged", v->state == REPLICA_FOLLOWDB_DIVERGED);
	if (v->state == REPLICA_FOLLOWDB_LENT)
		cJSON_AddStringToObject(o, "source", "store"); /* a gap, for now */
	replica_followset_add_error(o, &v->err);
	return o;
}

int replica_followset_status(struct replica_followset *s, struct cJSON *object, int64_t silent_ms)
{
	int64_t now_ms = fz_now_ms();
	struct view *v;
	cJSON *list;
	size_t n = 0;

	pthread_mutex_lock(&s->env.mu);
	v = calloc(s->n_dbs + 1, sizeof(*v));
	for (size_t i = 0; v && i < s->n_dbs; i++)
		if (!s->dbs[i]->ended && !replica_followset_excluded(s, s->dbs[i]->name))
			copy_db(&v[n++], s->dbs[i], s->applier != NULL);
	pthread_mutex_unlock(&s->env.mu);
	if (!v)
		return -ENOMEM;
	for (size_t i = 0; s->applier && i < n; i++) {
		struct replica_applied a;

		if (replica_applier_get(s->applier, v[i].lineage, &a))
			v[i].applied = a.state.txid;
	}
	look_at_logs(s, v, n, now_ms);
	list = cJSON_AddArrayToObject(object, "databases");
	for (size_t i = 0; list && i < n; i++) {
		if (v[i].lag_ms < silent_ms) /* nobody knows what the primary has done since */
			v[i].lag_ms = silent_ms;
		cJSON_AddItemToArray(list, show(&v[i]));
	}
	free(v);
	return list ? 0 : -ENOMEM;
}

int replica_follow_status(struct replica_follow *f, struct cJSON *object)
{
	int64_t silent_ms;

	pthread_mutex_lock(&f->set.env.mu);
	silent_ms = f->connected || !f->heard_ms ? 0 : fz_now_ms() - f->heard_ms;
	cJSON_AddStringToObject(object, "primary", f->primary);
	cJSON_AddBoolToObject(object, "connected", f->connected);
	cJSON_AddNumberToObject(object, "since_ms", (double)f->since_ms);
	replica_followset_add_error(object, &f->err);
	cJSON_AddNumberToObject(object, "reconnects", (double)f->reconnects);
	cJSON_AddNumberToObject(object, "bytes_in", (double)f->bytes_in);
	if (f->others.files)
		cJSON_AddNumberToObject(object, "other_files", (double)f->others.files);
	if (f->others.files)
		cJSON_AddStringToObject(object, "other_file", f->others.example);
	pthread_mutex_unlock(&f->set.env.mu);
	return replica_followset_status(&f->set, object, silent_ms);
}
