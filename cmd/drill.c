#include "cmd/drill.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "cmd/ask.h"
#include "cmd/source_arg.h"
#include "cmd/problems.h"
#include "cmd/worker.h"
#include "ltx/log.h"
#include "replica/restore.h"
#include "store/url.h"

#include <cJSON.h>
#include <errno.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_NAME  "drills"
#define FILE_MAX   (4u << 20)
#define DRILLS_MAX 4096
#define TELL_MS    5000

/* ---- the command's side ----------------------------------------------------------------------------------------- */

/* A store that does not answer proves nothing, either way. */
static const char *result_of(int rc)
{
	return rc >= 0 ? "ok" : fz_err_exit(rc) == 4 || rc == -FZ_EGAP || rc == -FZ_ENOTFOUND ? "failed" : "error";
}

static cJSON *report(const struct cmd_source *s, const struct replica_verify_result *r, bool full, int rc,
                     const struct fz_err *err)
{
	cJSON *o = cmd_request("drill");

	cJSON_AddStringToObject(o, s->is_log ? "live" : "store", s->is_log ? s->live : s->label);
	cJSON_AddStringToObject(o, "result", result_of(rc));
	cJSON_AddBoolToObject(o, "full", full);
	cJSON_AddBoolToObject(o, "structure_only", r->structure_only);
	cJSON_AddNumberToObject(o, "txid", (double)r->last.txid);
	cJSON_AddNumberToObject(o, "commit_ms", (double)r->last.time_ms);
	cJSON_AddStringToObject(o, "error", rc < 0 ? err->text : "");
	return o;
}

void cmd_drill_tell(const struct cmd_source *s, const struct replica_verify_result *r, bool full, int rc,
                    const struct fz_err *err)
{
	FILE *mounts = setmntent("/proc/self/mounts", "r");
	cJSON *o = report(s, r, full, rc, err);
	struct mntent *m;

	while (mounts && o && (m = getmntent(mounts))) {
		struct cmd_where w = {.mounted = true, .fazt = true};
		const char *user = hasmntopt(m, "user_id");
		struct fz_err why = {0};
		cJSON *answer = NULL;

		if (strcmp(m->mnt_type, "fuse.fazt") || strlen(m->mnt_dir) >= sizeof(w.dir))
			continue;
		strcpy(w.dir, m->mnt_dir);
		w.uid = user && strchr(user, '=') ? (unsigned)strtoul(strchr(user, '=') + 1, NULL, 10) : 0;
		if (cmd_control_call(&w, o, TELL_MS, &answer, NULL, &why) < 0)
			fz_debug("%s was not told: %s", w.dir, why.text);
		cJSON_Delete(answer);
	}
	if (mounts)
		endmntent(mounts);
	cJSON_Delete(o);
}

/* ---- the worker's side ------------------------------------------------------------------------------------------ */

void cmd_drills_open(struct cmd_drills *d, int statefd)
{
	struct fz_buf text = {0};
	struct fz_err err = {0};
	int rc = fz_read_file(statefd, FILE_NAME, FILE_MAX, &text, &err);

	pthread_mutex_init(&d->mu, NULL);
	d->list = rc == 0 ? cJSON_ParseWithLength(fz_buf_str(&text), text.size) : NULL;
	if (rc < 0 && rc != -ENOENT)
		fz_log_err("what was verified before is not known", &err);
	else if (rc == 0 && !cJSON_IsArray(d->list))
		fz_warn("what was verified before is not known: " FILE_NAME " in the state directory is damaged");
	if (!cJSON_IsArray(d->list)) {
		cJSON_Delete(d->list);
		d->list = cJSON_CreateArray();
	}
	fz_buf_fini(&text);
}

void cmd_drills_close(struct cmd_drills *d)
{
	if (d->list)
		pthread_mutex_destroy(&d->mu);
	cJSON_Delete(d->list);
	d->list = NULL;
}

static bool same(const char *a, const char *b)
{
	return !a || !b || !strcmp(a, b); /* what one does not say, it may mean */
}

/* Does the store of url lie below the target's? *database = the rest. */
static bool below(const char *target_url, const char *url, char *database, size_t cap)
{
	struct store_url t = {0}, u = {0};
	const char *base, *path;
	bool yes = false;
	size_t n;

	if (store_url_parse(&t, target_url, NULL) == 0 && store_url_parse(&u, url, NULL) == 0 && t.kind == u.kind &&
	    same(t.bucket, u.bucket) && same(t.endpoint, u.endpoint)) {
		base = t.kind == STORE_DIR ? t.path : t.prefix;
		path = u.kind == STORE_DIR ? u.path : u.prefix;
		n = strlen(base);
		if (!strncmp(base, path, n) && (!n || path[n] == '/')) {
			path += n + (n > 0);
			yes = *path && strlen(path) < cap;
			if (yes)
				strcpy(database, path);
		}
	}
	store_url_fini(&t);
	store_url_fini(&u);
	return yes;
}

static const char *name_of(const struct cmd_target *t)
{
	return t->name && *t->name != '#' ? t->name : t->url; /* "#1": cmd/config_format.c */
}

/* Which of this mount's places it was; NULL: none. */
static const char *place_of(const struct cmd_serving *w, const cJSON *request, char *database, size_t cap)
{
	const char *live = cmd_text(request, "live"), *store = cmd_text(request, "store");
	size_t n = strlen(w->dir);

	if (*live) {
		if (strncmp(live, w->dir, n) || live[n] != '/' || strlen(live + n + 1) >= cap)
			return NULL;
		strcpy(database, live + n + 1);
		return "log";
	}
	for (size_t i = 0; *store && i < w->conf.n_targets; i++) {
		const struct cmd_target *t = &w->conf.targets[i];

		if (below(t->url, store, database, cap))
			return name_of(t);
	}
	return NULL;
}

static cJSON *entry_locked(struct cmd_drills *d, const char *target, const char *database)
{
	cJSON *o;

	cJSON_ArrayForEach (o, d->list) {
		if (!strcmp(cmd_text(o, "target"), target) && !strcmp(cmd_text(o, "database"), database))
			return o;
	}
	if (cJSON_GetArraySize(d->list) >= DRILLS_MAX)
		cJSON_DeleteItemFromArray(d->list, 0);
	o = cJSON_CreateObject();
	cJSON_AddStringToObject(o, "target", target);
	cJSON_AddStringToObject(o, "database", database);
	cJSON_AddItemToObject(o, "runs", cJSON_Parse("{\"ok\":0,\"failed\":0,\"error\":0}"));
	cJSON_AddItemToArray(d->list, o);
	return o;
}

static void set(cJSON *o, const char *key, cJSON *v)
{
	cJSON_DeleteItemFromObject(o, key);
	cJSON_AddItemToObject(o, key, v);
}

static void take_locked(cJSON *o, const cJSON *request)
{
	static const char *const copied[] = {"full", "structure_only", "error"};
	const char *result = cmd_text(request, "result");
	cJSON *runs = cJSON_GetObjectItem(o, "runs");
	double now = (double)fz_now_ms();

	set(runs, result, cJSON_CreateNumber(cmd_number(runs, result) + 1));
	set(o, "error", cJSON_CreateString(cmd_text(request, "error")));
	if (!strcmp(result, "error"))
		return;
	set(o, "time_ms", cJSON_CreateNumber(now));
	set(o, "ok", cJSON_CreateBool(!strcmp(result, "ok")));
	for (size_t i = 0; i < sizeof(copied) / sizeof(copied[0]); i++)
		set(o, copied[i], cJSON_Duplicate(cJSON_GetObjectItem(request, copied[i]), true));
	if (strcmp(result, "ok") || cJSON_IsTrue(cJSON_GetObjectItem(request, "structure_only")))
		return;
	set(o, "proven_txid", cJSON_CreateNumber(cmd_number(request, "txid")));
	set(o, "proven_time_ms", cJSON_CreateNumber(cmd_number(request, "commit_ms")));
	set(o, "proven_at_ms", cJSON_CreateNumber(now));
}

static int save_locked(struct cmd_drills *d, int statefd, struct fz_err *err)
{
	char *text = cJSON_PrintUnformatted(d->list);
	int rc = text ? fz_write_file(statefd, FILE_NAME, text, strlen(text), 0600, err)
	              : fz_fail_errno(err, ENOMEM, "noting what was verified");

	cJSON_free(text);
	return rc;
}

int cmd_drill_answer(struct cmd_serving *w, const cJSON *request, cJSON *answer, struct fz_err *err)
{
	const char *result = cmd_text(request, "result"), *target;
	struct ltx_log *log = NULL;
	char database[512];
	int rc;

	if (strcmp(result, "ok") && strcmp(result, "failed") && strcmp(result, "error"))
		return fz_fail(err, FZ_EUSAGE, "there is no result '%.20s' of a drill", result);
	target = place_of(w, request, database, sizeof(database));
	if (target && ltx_logset_get(w->logs, database, false, &log, NULL) < 0)
		target = NULL;
	ltx_log_put(log);
	cJSON_AddBoolToObject(answer, "known", target != NULL);
	if (!target)
		return 0;
	pthread_mutex_lock(&w->drills.mu);
	take_locked(entry_locked(&w->drills, target, database), request);
	rc = save_locked(&w->drills, w->statefd, err);
	pthread_mutex_unlock(&w->drills.mu);
	if (!strcmp(result, "ok"))
		fz_info("%s in %s was verified up to txid %.0f", database, target, cmd_number(request, "txid"));
	else
		fz_warn("verifying %s in %s: %s", database, target, cmd_text(request, "error"));
	return rc;
}

/* What was found wrong counts while that backup is of interest. */
static bool counts(struct cmd_serving *w, const cJSON *o)
{
	const char *target = cmd_text(o, "target");
	struct ltx_log *log = NULL;
	bool known = !strcmp(target, "log");

	for (size_t i = 0; !known && i < w->conf.n_targets; i++)
		known = !strcmp(target, name_of(&w->conf.targets[i]));
	if (!known || ltx_logset_get(w->logs, cmd_text(o, "database"), false, &log, NULL) < 0)
		return false;
	ltx_log_put(log);
	return true;
}

void cmd_drills_status(struct cmd_serving *w, cJSON *answer)
{
	const cJSON *o;

	pthread_mutex_lock(&w->drills.mu);
	cJSON_AddItemToObject(answer, "drills", cJSON_Duplicate(w->drills.list, true));
	cJSON_ArrayForEach (o, w->drills.list) {
		if (cJSON_IsFalse(cJSON_GetObjectItem(o, "ok")) && counts(w, o))
			cmd_problem(answer, "verify", cmd_text(o, "database"), "the last verify of %s in %s failed: %s",
			            cmd_text(o, "database"), cmd_text(o, "target"), cmd_text(o, "error"));
	}
	pthread_mutex_unlock(&w->drills.mu);
}
