/* status.c - what a target holds and what it lacks, as JSON. */
#include "primary/target.h"

#include "base/clock.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WALK_BYTES (UINT64_C(256) << 20) /* beyond it lag_bytes is a lower bound */

/* Copied under the lock, shown without it. */
struct view {
	char name[512], lineage[17];
	uint32_t epoch;
	uint64_t held_txid;
	int64_t behind_ms; /* since when; 0 = unknown */
	bool fenced;
	struct fz_err err;
	/* from the log */
	uint64_t tail_txid, lag_bytes, lag_txns;
	int64_t oldest_ms; /* time of the oldest commit that is not held; 0 = none */
};

static int64_t age_ms(int64_t then_ms, int64_t now_ms)
{
	return then_ms > 0 && now_ms > then_ms ? now_ms - then_ms : 0;
}

static void look_at_log(struct view *v, struct ltx_log *log)
{
	struct ltx_log_info info;
	struct ltx_log_entry e;

	ltx_log_info(log, &info);
	v->tail_txid = info.tail_txid;
	if (v->held_txid >= info.tail_txid)
		return;
	v->lag_txns = info.tail_txid - v->held_txid;
	v->oldest_ms = info.created_ms; /* when the log no longer knows that commit: not later than it */
	if (ltx_log_find(log, v->held_txid + 1, &e, NULL) == 0) {
		v->oldest_ms = e.e.time_ms;
		v->lag_bytes = primary_log_bytes(log, e.e.min_txid - 1, info.tail_txid, WALK_BYTES);
	} else {
		v->lag_bytes = info.log_bytes;
	}
	/* folded or merged: the time is that of its last commit, and grows as more is folded */
	if (v->behind_ms && v->behind_ms < v->oldest_ms)
		v->oldest_ms = v->behind_ms;
}

static cJSON *show_db(const struct view *v, int64_t now_ms)
{
	cJSON *o = cJSON_CreateObject();

	cJSON_AddStringToObject(o, "name", v->name);
	cJSON_AddStringToObject(o, "lineage", v->lineage);
	cJSON_AddNumberToObject(o, "epoch", v->epoch);
	cJSON_AddNumberToObject(o, "txid", (double)v->held_txid);
	cJSON_AddNumberToObject(o, "lag_seconds", (double)age_ms(v->oldest_ms, now_ms) / 1000);
	cJSON_AddNumberToObject(o, "lag_bytes", (double)v->lag_bytes);
	cJSON_AddNumberToObject(o, "lag_txns", (double)v->lag_txns);
	cJSON_AddStringToObject(o, "last_error", v->err.code ? v->err.text : "");
	return o;
}

static void add_errors(cJSON *o, struct fz_tally *t)
{
	char name[16];
	uint64_t n;
	int code;

	for (size_t i = 0; (code = fz_tally_at(t, i, &n)) != 0; i++) {
		cJSON *there;

		snprintf(name, sizeof(name), "FZ-%d", code);
		there = cJSON_GetObjectItem(o, name);
		if (there)
			cJSON_SetNumberValue(there, there->valuedouble + (double)n);
		else
			cJSON_AddNumberToObject(o, name, (double)n);
	}
}

/* What was done since the start. */
static void show_counts(struct primary_target *t, const struct fz_store_stats *st, cJSON *o)
{
	static const char *const kinds[FZ_STORE_KINDS] = {"put", "get", "list", "delete"};
	uint64_t uploads[LTX_L_SNAPSHOT + 1], levels = 0;
	cJSON *list;

	pthread_mutex_lock(&t->mu);
	memcpy(uploads, t->uploads, sizeof(uploads));
	pthread_mutex_unlock(&t->mu);
	for (int l = LTX_L_PACK_MINUTE; l < PRIMARY_LEVELS; l++)
		levels += uploads[l];
	list = cJSON_AddObjectToObject(o, "uploads");
	cJSON_AddNumberToObject(list, "pack", (double)uploads[LTX_L_PACK]);
	cJSON_AddNumberToObject(list, "level", (double)levels);
	cJSON_AddNumberToObject(list, "snapshot", (double)uploads[LTX_L_SNAPSHOT]);
	list = cJSON_AddObjectToObject(o, "requests_by_kind");
	for (int k = 0; k < FZ_STORE_KINDS; k++)
		cJSON_AddNumberToObject(list, kinds[k], (double)st->kind[k]);
	cJSON_AddNumberToObject(o, "retries", (double)st->retries);
	cJSON_AddNumberToObject(o, "bytes_in", (double)st->bytes_in);
	list = cJSON_AddObjectToObject(o, "errors");
	add_errors(list, fz_store_errors(t->store));
	add_errors(list, &t->errors);
}

static cJSON *show_target(struct primary_target *t)
{
	static const char *const states[] = {"ok", "retrying", "failed"};
	cJSON *o = cJSON_CreateObject(), *dbs = cJSON_CreateArray();
	const struct primary_trouble *whole;
	struct fz_store_stats st;
	struct ltx_log *log;
	struct fz_err err;
	const char *state;
	uint64_t lag_bytes = 0, lag_txns = 0;
	int64_t now = fz_now_ms(), oldest = 0, interval, success;
	bool fenced = false, retrying = false;

	pthread_mutex_lock(&t->mu);
	whole = primary_trouble_worse(t->trouble);
	err = whole->err.code ? whole->err : t->open_err;
	state = states[whole->state];
	interval = t->interval_ms;
	success = t->last_success_ms;
	pthread_mutex_unlock(&t->mu);
	for (size_t i = 0; (log = ltx_logset_at(t->ship->logs, i)); i++) {
		struct view v = {.held_txid = 0};
		const struct primary_db *db;
		struct ltx_log_info info;

		ltx_log_info(log, &info);
		memcpy(v.name, info.name, sizeof(v.name));
		memcpy(v.lineage, info.lineage, sizeof(v.lineage));
		v.epoch = info.epoch;
		pthread_mutex_lock(&t->mu);
		db = primary_target_db_locked(t, info.lineage, i);
		if (db) {
			v.held_txid = db->cur.held_txid;
			v.behind_ms = db->behind_ms;
			v.fenced = db->fenced;
			v.err = primary_trouble_worse(db->trouble)->err;
		}
		pthread_mutex_unlock(&t->mu);
		look_at_log(&v, log);
		ltx_log_put(log);
		lag_bytes += v.lag_bytes;
		lag_txns += v.lag_txns;
		if (v.oldest_ms && (!oldest || v.oldest_ms < oldest))
			oldest = v.oldest_ms;
		fenced |= v.fenced;
		retrying |= v.err.code != 0;
		if (!err.code && v.err.code) {
			err = v.err;
			fz_err_prefix(&err, "%s", v.name);
		}
		cJSON_AddItemToArray(dbs, show_db(&v, now));
	}
	if (fenced)
		state = "fenced";
	else if (retrying && strcmp(state, "ok") == 0)
		state = "retrying";
	fz_store_stats(t->store, &st);
	if (!err.code && st.trouble.code) {
		err = st.trouble;
		state = strcmp(state, "ok") == 0 ? "retrying" : state;
	}
	cJSON_AddStringToObject(o, "name", t->conf.name ? t->conf.name : fz_store_url(t->store));
	cJSON_AddStringToObject(o, "url", fz_store_url(t->store));
	cJSON_AddBoolToObject(o, "encrypted", t->conf.n_recipients > 0);
	cJSON_AddStringToObject(o, "state", state);
	cJSON_AddNumberToObject(o, "lag_seconds", (double)age_ms(oldest, now) / 1000);
	cJSON_AddNumberToObject(o, "lag_bytes", (double)lag_bytes);
	cJSON_AddNumberToObject(o, "lag_txns", (double)lag_txns);
	cJSON_AddStringToObject(o, "last_error", err.code ? err.text : "");
	cJSON_AddNumberToObject(o, "last_success_ms", (double)success);
	cJSON_AddNumberToObject(o, "requests", (double)st.requests);
	cJSON_AddNumberToObject(o, "bytes_out", (double)st.bytes_out);
	show_counts(t, &st, o);
	cJSON_AddStringToObject(o, "conditional_put", st.conditional_put);
	cJSON_AddNumberToObject(o, "ship_interval_ms", (double)interval);
	cJSON_AddNumberToObject(o, "requests_per_month", (double)t->conf.requests_per_month);
	cJSON_AddItemToObject(o, "databases", dbs);
	return o;
}

int primary_ship_status(struct primary_ship *s, struct cJSON *array)
{
	for (size_t i = 0; i < s->n; i++)
		if (!cJSON_AddItemToArray(array, show_target(s->targets[i])))
			return -1;
	return 0;
}
