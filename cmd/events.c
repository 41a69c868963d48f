/* events.c - `fazt events`: one JSON line for each transaction, role change and problem, as they come.
 *
 * The worker is asked what its logs hold beyond what was seen, and once a second for role and problems. Nothing of the mount is held
 * open meanwhile. Ends when the mount does, or nobody reads any more. */
#include "cmd/args.h"
#include "cmd/ask.h"
#include "cmd/cmd.h"

#include "base/clock.h"

#include <cJSON.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_MS 20
#define ASK_MS  1000

struct seen {
	char lineage[17];
	uint64_t txid;
	bool ended;
};
struct watch {
	struct seen *v;
	size_t n;
	bool started; /* what is found from now on is new */
	char role[16];
	uint32_t epoch;
	cJSON *problems; /* as they were told */
};

static bool put(cJSON *o)
{
	char *text = cJSON_PrintUnformatted(o);
	bool ok = text && printf("%s\n", text) > 0 && fflush(stdout) == 0;

	cJSON_free(text);
	cJSON_Delete(o);
	return ok;
}

static cJSON *event(const char *what, int64_t time_ms)
{
	cJSON *o = cJSON_CreateObject();
	char when[FZ_TIME_SIZE];

	cJSON_AddStringToObject(o, "event", what);
	cJSON_AddStringToObject(o, "time", fz_format_time(when, time_ms));
	return o;
}

static struct seen *seen(struct watch *w, const char *lineage)
{
	struct seen *v;

	for (size_t i = 0; i < w->n; i++)
		if (!strcmp(w->v[i].lineage, lineage))
			return &w->v[i];
	v = reallocarray(w->v, w->n + 1, sizeof(*v));
	if (!v)
		return NULL;
	w->v = v;
	v += w->n++;
	*v = (struct seen){.txid = 0};
	snprintf(v->lineage, sizeof(v->lineage), "%s", lineage);
	return v;
}

static double number_of(const cJSON *o, const char *key)
{
	const cJSON *v = cJSON_GetObjectItem(o, key);

	return cJSON_IsNumber(v) ? v->valuedouble : 0;
}

/* What the logs hold beyond what was seen. */
static cJSON *question(const struct watch *w)
{
	cJSON *o = cmd_request("entries"), *after = cJSON_AddObjectToObject(o, "after");

	for (size_t i = 0; i < w->n; i++)
		cJSON_AddNumberToObject(after, w->v[i].lineage, (double)w->v[i].txid);
	return o;
}

/* False when nobody reads. */
static bool transactions(const cJSON *d, const char *name, struct seen *s)
{
	const cJSON *e;

	cJSON_ArrayForEach (e, cJSON_GetObjectItem(d, "entries")) {
		cJSON *o = event("transaction", (int64_t)number_of(e, "time_ms"));

		cJSON_AddStringToObject(o, "database", name);
		cJSON_AddNumberToObject(o, "epoch", number_of(d, "epoch"));
		cJSON_AddNumberToObject(o, "txid", number_of(e, "txid"));
		if (number_of(e, "min_txid") < number_of(e, "txid"))
			cJSON_AddNumberToObject(o, "min_txid", number_of(e, "min_txid"));
		cJSON_AddNumberToObject(o, "pages", number_of(e, "pages"));
		cJSON_AddNumberToObject(o, "bytes", number_of(e, "bytes"));
		s->txid = (uint64_t)number_of(e, "txid");
		if (!put(o))
			return false;
	}
	return true;
}

static bool look_at(struct watch *w, const cJSON *d)
{
	const char *name = cJSON_GetStringValue(cJSON_GetObjectItem(d, "name"));
	const char *lineage = cJSON_GetStringValue(cJSON_GetObjectItem(d, "lineage"));
	bool ended = number_of(d, "ended_ms") > 0, ok = true;
	size_t known = w->n;
	struct seen *s = name && lineage ? seen(w, lineage) : NULL;

	if (!s)
		return true;
	if (!w->started) {
		s->txid = (uint64_t)number_of(d, "tail_txid");
		s->ended = ended;
		return true;
	}
	if (w->n > known && !ended) {
		cJSON *o = event("database", (int64_t)number_of(d, "created_ms"));

		cJSON_AddStringToObject(o, "database", name);
		cJSON_AddStringToObject(o, "lineage", lineage);
		ok = put(o);
	}
	if (ok)
		ok = transactions(d, name, s);
	if (ok && ended && !s->ended) {
		cJSON *o = event("ended", (int64_t)number_of(d, "ended_ms"));

		s->ended = true;
		cJSON_AddStringToObject(o, "database", name);
		ok = put(o);
	}
	return ok;
}

/* Returns 1 when there may be more at once, 0, or the reason to end. */
static int look(struct watch *w, const char *dir, bool *reads, struct fz_err *err)
{
	struct cmd_where where;
	cJSON *answer = NULL;
	bool more = false;
	const cJSON *d;
	int rc = cmd_ask(dir, question(w), 30000, &where, &answer, err);

	if (rc < 0)
		return rc;
	cJSON_ArrayForEach (d, cJSON_GetObjectItem(answer, "databases")) {
		size_t known = w->n;

		*reads = *reads && look_at(w, d);
		more |= w->n > known || cJSON_GetArraySize(cJSON_GetObjectItem(d, "entries")) > 0;
	}
	cJSON_Delete(answer);
	return more;
}

static bool told(const cJSON *list, const char *text)
{
	const cJSON *p;

	cJSON_ArrayForEach (p, list) {
		if (!strcmp(cJSON_GetStringValue(p), text))
			return true;
	}
	return false;
}

/* Role and problems: 0, or the reason to end. */
static int ask(struct watch *w, const char *dir, bool *reads, struct fz_err *err)
{
	struct cmd_where where;
	cJSON *answer = NULL, *problems, *p;
	const char *role;
	uint32_t epoch;
	int rc = cmd_ask(dir, cmd_request("status"), 30000, &where, &answer, err);

	if (rc < 0)
		return rc;
	role = cJSON_GetStringValue(cJSON_GetObjectItem(answer, "role"));
	epoch = (uint32_t)cJSON_GetNumberValue(cJSON_GetObjectItem(answer, "epoch"));
	if (role && (strcmp(role, w->role) || epoch != w->epoch)) {
		cJSON *o = event("role", fz_now_ms());

		snprintf(w->role, sizeof(w->role), "%s", role);
		w->epoch = epoch;
		cJSON_AddStringToObject(o, "role", role);
		cJSON_AddNumberToObject(o, "epoch", epoch);
		*reads = put(o);
	}
	problems = cJSON_DetachItemFromObject(answer, "problems");
	cJSON_ArrayForEach (p, problems) {
		const char *text = cJSON_GetStringValue(p);

		if (*reads && text && !told(w->problems, text)) {
			cJSON *o = event("problem", fz_now_ms());

			cJSON_AddStringToObject(o, "text", text);
			*reads = put(o);
		}
	}
	cJSON_Delete(w->problems);
	w->problems = problems;
	cJSON_Delete(answer);
	return 0;
}

static int watch(struct watch *w, const char *dir, struct fz_err *err)
{
	uint64_t next_ns = 0;
	bool reads = true;
	int rc = 0;

	while (rc >= 0 && reads) {
		rc = look(w, dir, &reads, err);
		w->started = true;
		if (rc >= 0 && reads)
			(void)!poll(NULL, 0, rc ? 0 : LOOK_MS);
		if (rc >= 0 && reads && fz_mono_ns() >= next_ns) {
			rc = ask(w, dir, &reads, err);
			next_ns = fz_mono_ns() + ASK_MS * UINT64_C(1000000);
		}
	}
	return rc == -FZ_ENOTMOUNTED ? 0 : rc; /* the mount has ended, and so do its events */
}

int cmd_events(int argc, char **argv)
{
	const struct cmd_opt opts[] = {{0}};
	const struct cmd_spec spec = {
	        "events",
	        "DIR",
	        "Prints one JSON line for each transaction, new or deleted database, change of role and "
	        "problem from now on, until\n"
	        "the mount ends.",
	        "fazt events /var/lib/app | jq -r 'select(.event == \"problem\") | .text'\n",
	        1,
	        1,
	        opts};
	struct watch w = {0};
	struct fz_err err = {0};
	int n, rc;
	char **args;

	rc = cmd_args(&spec, argc, argv, &args, &n, &err);
	if (rc == CMD_ARGS_HELP)
		return CMD_EXIT_OK;
	if (rc == 0)
		rc = watch(&w, args[0], &err);
	free(w.v);
	cJSON_Delete(w.problems);
	return rc < 0 ? cmd_report(spec.name, &err) : CMD_EXIT_OK;
}
