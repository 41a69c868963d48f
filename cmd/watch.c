#include "cmd/watch.h"

#include "base/clock.h"
#include "cmd/ask.h"

#include <cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct cmd_seen {
	char lineage[17];
	uint64_t txid;
	bool ended;
};

static void put(struct cmd_watch *w, cJSON *o)
{
	if (w->deaf)
		cJSON_Delete(o);
	else
		w->deaf = !w->put(w, o);
}

static cJSON *event(const char *what, int64_t time_ms)
{
	cJSON *o = cJSON_CreateObject();
	char when[FZ_TIME_SIZE];

	cJSON_AddStringToObject(o, "event", what);
	cJSON_AddStringToObject(o, "time", fz_format_time(when, time_ms));
	return o;
}

static struct cmd_seen *seen(struct cmd_watch *w, const char *lineage)
{
	struct cmd_seen *v;

	for (size_t i = 0; i < w->n_seen; i++)
		if (!strcmp(w->seen[i].lineage, lineage))
			return &w->seen[i];
	v = reallocarray(w->seen, w->n_seen + 1, sizeof(*v));
	if (!v)
		return NULL;
	w->seen = v;
	v += w->n_seen++;
	*v = (struct cmd_seen){.txid = 0};
	snprintf(v->lineage, sizeof(v->lineage), "%s", lineage);
	return v;
}

cJSON *cmd_watch_question(const struct cmd_watch *w)
{
	cJSON *o = cmd_request("entries"), *after = cJSON_AddObjectToObject(o, "after");

	for (size_t i = 0; i < w->n_seen; i++)
		cJSON_AddNumberToObject(after, w->seen[i].lineage, (double)w->seen[i].txid);
	return o;
}

static void transactions(struct cmd_watch *w, const cJSON *d, const char *name, struct cmd_seen *s)
{
	const cJSON *e;

	cJSON_ArrayForEach (e, cJSON_GetObjectItem(d, "entries")) {
		cJSON *o = event("transaction", (int64_t)cmd_number(e, "time_ms"));

		cJSON_AddStringToObject(o, "database", name);
		cJSON_AddNumberToObject(o, "epoch", cmd_number(d, "epoch"));
		cJSON_AddNumberToObject(o, "txid", cmd_number(e, "txid"));
		if (cmd_number(e, "min_txid") < cmd_number(e, "txid"))
			cJSON_AddNumberToObject(o, "min_txid", cmd_number(e, "min_txid"));
		cJSON_AddNumberToObject(o, "pages", cmd_number(e, "pages"));
		cJSON_AddNumberToObject(o, "bytes", cmd_number(e, "bytes"));
		s->txid = (uint64_t)cmd_number(e, "txid");
		put(w, o);
	}
}

static void look_at(struct cmd_watch *w, const cJSON *d)
{
	const char *name = cJSON_GetStringValue(cJSON_GetObjectItem(d, "name"));
	const char *lineage = cJSON_GetStringValue(cJSON_GetObjectItem(d, "lineage"));
	bool ended = cmd_number(d, "ended_ms") > 0;
	size_t known = w->n_seen;
	struct cmd_seen *s = name && lineage ? seen(w, lineage) : NULL;

	if (!s)
		return;
	if (!w->started) {
		s->txid = (uint64_t)cmd_number(d, "tail_txid");
		s->ended = ended;
		return;
	}
	if (w->n_seen > known && !ended) {
		cJSON *o = event("database", (int64_t)cmd_number(d, "created_ms"));

		cJSON_AddStringToObject(o, "database", name);
		cJSON_AddStringToObject(o, "lineage", lineage);
		put(w, o);
	}
	transactions(w, d, name, s);
	if (ended && !s->ended) {
		cJSON *o = event("ended", (int64_t)cmd_number(d, "ended_ms"));

		s->ended = true;
		cJSON_AddStringToObject(o, "database", name);
		put(w, o);
	}
}

bool cmd_watch_entries(struct cmd_watch *w, const cJSON *answer)
{
	bool more = false;
	const cJSON *d;

	cJSON_ArrayForEach (d, cJSON_GetObjectItem(answer, "databases")) {
		size_t known = w->n_seen;

		look_at(w, d);
		more |= w->n_seen > known || cJSON_GetArraySize(cJSON_GetObjectItem(d, "entries")) > 0;
	}
	w->started = true;
	return more;
}

/* By what it is about: the sentence has numbers, which change. */
static bool told(const cJSON *list, const cJSON *problem)
{
	const cJSON *p;

	cJSON_ArrayForEach (p, list) {
		if (!strcmp(cmd_text(p, "kind"), cmd_text(problem, "kind")) &&
		    !strcmp(cmd_text(p, "about"), cmd_text(problem, "about")))
			return true;
	}
	return false;
}

void cmd_watch_status(struct cmd_watch *w, const cJSON *status)
{
	const char *role = cJSON_GetStringValue(cJSON_GetObjectItem(status, "role"));
	uint32_t epoch = (uint32_t)cmd_number(status, "epoch");
	const cJSON *problems = cJSON_GetObjectItem(status, "alerts"), *p;

	if (role && (strcmp(role, w->role) || epoch != w->epoch)) {
		cJSON *o = event("role", fz_now_ms());

		snprintf(w->role, sizeof(w->role), "%s", role);
		w->epoch = epoch;
		cJSON_AddStringToObject(o, "role", role);
		cJSON_AddNumberToObject(o, "epoch", epoch);
		put(w, o);
	}
	cJSON_ArrayForEach (p, problems) {
		if (!told(w->problems, p)) {
			cJSON *o = event("problem", fz_now_ms());

			cJSON_AddStringToObject(o, "kind", cmd_text(p, "kind"));
			cJSON_AddStringToObject(o, "about", cmd_text(p, "about"));
			cJSON_AddStringToObject(o, "text", cmd_text(p, "text"));
			put(w, o);
		}
	}
	cJSON_Delete(w->problems);
	w->problems = cJSON_Duplicate(problems, true);
}

void cmd_watch_fini(struct cmd_watch *w)
{
	bool (*keep)(struct cmd_watch *, cJSON *) = w->put;

	free(w->seen);
	cJSON_Delete(w->problems);
	*w = (struct cmd_watch){.put = keep};
}
