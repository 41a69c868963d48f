/* prune.c - `fazt prune`: retention now. A living worker does it itself, between what its lanes do; otherwise this command does. */
#include "cmd/prune.h"

#include "cmd/args.h"
#include "cmd/cmd.h"

#include "base/clock.h"
#include "cmd/ask.h"
#include "cmd/progress.h"
#include "cmd/quote.h"
#include "cmd/stores.h"
#include "cmd/worker.h"
#include "primary/prune.h"
#include "primary/ship.h"
#include "replica/plan.h"

#include <cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define TELL_NS UINT64_C(100000000)

/* ---- one result, as JSON ----------------------------------------------------------------------------------------- */

static cJSON *result_of(const char *target, const struct primary_prune *p, const struct fz_err *err)
{
	cJSON *o = cJSON_CreateObject(), *lost;
	char when[FZ_TIME_SIZE];

	cJSON_AddStringToObject(o, "target", target);
	cJSON_AddStringToObject(o, "name", p->database);
	if (err) {
		cJSON_AddNumberToObject(o, "code", -err->code);
		cJSON_AddStringToObject(o, "error", err->text);
	}
	cJSON_AddBoolToObject(o, "dry_run", p->dry_run);
	cJSON_AddBoolToObject(o, "append_only", p->conf->append_only);
	cJSON_AddNumberToObject(o, "objects", (double)p->objects);
	cJSON_AddNumberToObject(o, "bytes", (double)p->bytes);
	cJSON_AddNumberToObject(o, "deleted", (double)p->deleted);
	cJSON_AddNumberToObject(o, "kept_objects", (double)p->kept_objects);
	cJSON_AddNumberToObject(o, "kept_bytes", (double)p->kept_bytes);
	cJSON_AddNumberToObject(o, "n_lost", (double)p->n_lost);
	lost = cJSON_AddArrayToObject(o, "lost");
	for (size_t i = 0; i < p->n_lost && i < PRIMARY_PRUNE_LOSSES; i++) {
		const struct primary_prune_loss *l = &p->lost[i];
		cJSON *e = cJSON_CreateObject();

		cJSON_AddStringToObject(e, "lineage", l->lineage);
		cJSON_AddNumberToObject(e, "first_txid", (double)l->first_txid);
		cJSON_AddNumberToObject(e, "last_txid", (double)l->last_txid);
		cJSON_AddStringToObject(e, "first_time", fz_format_time(when, l->first_ms));
		cJSON_AddStringToObject(e, "last_time", fz_format_time(when, l->last_ms));
		cJSON_AddItemToArray(lost, e);
	}
	return o;
}

/* ---- the worker's side ------------------------------------------------------------------------------------------- */

struct watch {
	struct primary_prune_watch w; /* first */
	struct cmd_control *control;
	uint64_t next_ns;
	cJSON *list;
};

static void tell(const struct primary_prune *p)
{
	cJSON *o = cJSON_CreateObject();

	cJSON_AddNumberToObject(o, "deleted", (double)p->deleted);
	cJSON_AddNumberToObject(o, "objects", (double)p->objects);
	cmd_control_tell(o);
}

static bool stop(struct primary_prune_watch *w, const struct primary_prune *p)
{
	struct watch *watch = (struct watch *)w;
	uint64_t now = fz_mono_ns();

	if (now >= watch->next_ns) {
		watch->next_ns = now + TELL_NS;
		tell(p);
	}
	return cmd_control_gone(watch->control);
}

static void told(struct primary_prune_watch *w, const char *target, const struct primary_prune *p,
                 const struct fz_err *err)
{
	cJSON_AddItemToArray(((struct watch *)w)->list, result_of(target, p, err));
	tell(p);
}

int cmd_prune_answer(struct cmd_serving *w, const struct cJSON *request, struct cJSON *answer, struct fz_err *err)
{
	struct watch watch = {
	        .w = {told, stop},
                  .control = w->control, .list = cJSON_AddArrayToObject(answer, "pruned")
        };

	if (!w->ship)
		return fz_fail(err, FZ_EUSAGE, "%s ships to no target: there is nothing to prune", w->dir);
	return primary_ship_prune(w->ship, cJSON_GetStringValue(cJSON_GetObjectItem(request, "name")),
	                          cJSON_IsTrue(cJSON_GetObjectItem(request, "dry_run")), &watch.w, err);
}

/* ---- the command's side ------------------------------------------------------------------------------------------ */

struct alone {
	struct primary_prune_watch w; /* first */
	struct cmd_progress p;
};

struct asking {
	struct cmd_control_listener l; /* first */
	struct cmd_progress *p;
};

static void worker_told(struct cmd_control_listener *l, const cJSON *progress)
{
	struct cmd_progress *shown = ((struct asking *)l)->p;

	shown->objects = (uint64_t)cmd_number(progress, "deleted");
	shown->of_objects = (uint64_t)cmd_number(progress, "objects");
	cmd_progress_tick(shown, 0, 0);
}

static bool between(struct primary_prune_watch *w, const struct primary_prune *p)
{
	struct cmd_progress *shown = &((struct alone *)w)->p;

	shown->objects = p->deleted;
	shown->of_objects = p->objects;
	cmd_progress_tick(shown, 0, 0);
	return cmd_interrupted(NULL) < 0;
}

static void retention_of(const struct cmd_target *t, struct primary_retain_conf *out)
{
	struct primary_target_conf c = {.day_ms = t->day_ms,
	                                .keep_commits_ms = t->keep_commits_ms,
	                                .keep_minutes_ms = t->keep_minutes_ms,
	                                .keep_hours_ms = t->keep_hours_ms,
	                                .keep_days_ms = t->keep_days_ms,
	                                .delete_grace_ms = t->delete_grace_ms};

	primary_target_retain(&c, out);
}

struct facts {
	char lineage[17];
	bool ended, known;
	uint64_t held_txid;
};

/* What the claims and names say: which life is the newest, whether it lives, and how far it can be restored. */
static int facts_of(const struct cmd_stores_at *at, const char *name, struct facts *f, struct fz_err *err)
{
	struct replica_catalog c = {0};
	struct replica_plan plan = {0};
	struct fz_buf below = {0};
	int rc;

	memset(f, 0, sizeof(*f));
	rc = fz_buf_addf(&below, "%s/", name) < 0 ? fz_fail_errno(err, ENOMEM, "reading a store") : 0;
	if (rc == 0)
		rc = replica_catalog_load_at(&c, at->store, fz_buf_str(&below), err);
	if (rc == 0 && c.n_lineages) {
		const struct replica_lineage *l = &c.lineages[c.n_lineages - 1];

		memcpy(f->lineage, l->id, sizeof(f->lineage));
		f->known = true;
		f->ended = l->ended_ms != 0;
		f->held_txid = replica_plan_newest(&c, l);
		rc = f->held_txid ? replica_plan_make(&plan, &c, l, f->held_txid, err) : 0;
		if (rc == -FZ_EGAP || rc == -FZ_ENOCOMMIT)
			rc = fz_fail(err, FZ_EGAP,
			             "%s in %s: its newest state cannot be restored, so nothing is deleted", name,
			             at->label);
		replica_plan_fini(&plan);
	}
	replica_catalog_fini(&c);
	fz_buf_fini(&below);
	return rc;
}

/* The age beyond which the size limit of the target lets nothing stay for its own sake. */
static int cut_of(const struct cmd_stores_at *at, const struct primary_retain_conf *conf, char **names, size_t n,
                  unsigned *cut, struct fz_err *err)
{
	uint64_t sum[PRIMARY_RETAIN_CUTS] = {0};
	int rc = 0;

	*cut = 0;
	for (size_t i = 0; rc == 0 && at->target->keep_bytes && i < n; i++) {
		struct primary_condemned none = {0};
		struct facts f;
		struct primary_retain_run r = {
		        .store = at->store, .database = names[i], .conf = conf, .want_cuts = true};

		rc = facts_of(at, names[i], &f, err);
		r.lineage = f.lineage;
		r.ended = f.ended;
		if (rc == 0)
			rc = primary_retain_run(&r, &none, fz_now_ms(), err);
		primary_condemned_fini(&none);
		for (unsigned k = 0; k < PRIMARY_RETAIN_CUTS; k++)
			sum[k] += r.kept_bytes[k];
	}
	while (at->target->keep_bytes && *cut + 1 < PRIMARY_RETAIN_CUTS && sum[*cut] > at->target->keep_bytes)
		(*cut)++;
	return rc;
}

static int prune_store(const struct cmd_stores *s, const struct cmd_stores_at *at, bool dry_run, struct alone *alone,
                       cJSON *list, struct fz_err *err)
{
	struct primary_retain_conf conf;
	struct cmd_stores all = *s;
	char **names = NULL;
	unsigned cut = 0;
	size_t n = 0;
	int rc;

	if (!at->target)
		return fz_fail(
		        err, FZ_ECONFIG,
		        "no target of the configuration has the URL %s: how long it keeps what is not known here",
		        at->label);
	retention_of(at->target, &conf);
	all.database[0] = 0;
	rc = cmd_stores_databases(&all, at, &names, &n, err);
	if (rc == 0)
		rc = cut_of(at, &conf, names, n, &cut, err);
	for (size_t i = 0; rc == 0 && i < n; i++) {
		struct primary_prune p = {.store = at->store,
		                          .database = names[i],
		                          .conf = &conf,
		                          .cut = cut,
		                          .dry_run = dry_run,
		                          .watch = &alone->w};
		struct fz_err why = {0};
		struct facts f;

		if (*s->database && strcmp(s->database, names[i]) != 0)
			continue;
		rc = facts_of(at, names[i], &f, &why);
		if (rc == 0 && f.known) {
			p.lineage = f.lineage;
			p.ended = f.ended;
			p.held_txid = f.held_txid;
			rc = primary_prune_run(&p, fz_now_ms(), &why);
		}
		cJSON_AddItemToArray(list, result_of(at->label, &p, rc < 0 ? &why : NULL));
		rc = rc == -ECANCELED ? fz_fail(err, ECANCELED, "interrupted") : 0;
	}
	cmd_stores_free(names, n);
	return rc;
}

static void print_one(const cJSON *o, bool dry_run)
{
	const char *name = cJSON_GetStringValue(cJSON_GetObjectItem(o, "name"));
	const char *target = cJSON_GetStringValue(cJSON_GetObjectItem(o, "target"));
	bool kept_all = !dry_run && cJSON_IsTrue(cJSON_GetObjectItem(o, "append_only"));
	const cJSON *l;

	cmd_print("%s in %s: ", name, target);
	if (cJSON_GetObjectItem(o, "error")) {
		cmd_print("%s\n", cJSON_GetStringValue(cJSON_GetObjectItem(o, "error")));
		return;
	}
	cmd_print("%.0f objects, %.0f bytes %s; %.0f objects, %.0f bytes stay\n", cmd_number(o, "objects"),
	          cmd_number(o, "bytes"),
	          dry_run    ? "would be deleted"
	          : kept_all ? "are superfluous, and stay since the target is append_only"
	                     : "were deleted",
	          cmd_number(o, "kept_objects"), cmd_number(o, "kept_bytes"));
	cJSON_ArrayForEach (l, cJSON_GetObjectItem(o, "lost")) {
		cmd_print("  commits %.0f to %.0f (%s to %s) %s be restored one by one\n", cmd_number(l, "first_txid"),
		          cmd_number(l, "last_txid"), cJSON_GetStringValue(cJSON_GetObjectItem(l, "first_time")),
		          cJSON_GetStringValue(cJSON_GetObjectItem(l, "last_time")),
		          dry_run || kept_all ? "could no longer" : "can no longer");
	}
	if (cmd_number(o, "n_lost") > PRIMARY_PRUNE_LOSSES)
		cmd_print("  and %.0f ranges more\n", cmd_number(o, "n_lost") - PRIMARY_PRUNE_LOSSES);
}

/* Every result was told; the first that failed decides the exit code. */
static int first_failure(const cJSON *list, struct fz_err *err)
{
	const cJSON *o;

	cJSON_ArrayForEach (o, list) {
		if (cJSON_GetObjectItem(o, "error"))
			return fz_fail(err, (int)cmd_number(o, "code"), "%s",
			               cJSON_GetStringValue(cJSON_GetObjectItem(o, "error")));
	}
	return 0;
}

static int prune_it(const char *arg, const char *config, bool dry_run, bool json, bool progress, struct fz_err *err)
{
	struct alone alone = {
	        .w = {NULL, between}
        };
	struct asking asking = {{worker_told}, &alone.p};
	cJSON *answer = NULL, *list = NULL;
	struct cmd_stores s;
	struct cmd_where w;
	int rc = cmd_stores_open(&s, arg, config, err), failed;

	if (rc < 0)
		return rc;
	cmd_progress_begin(&alone.p, "pruning", progress, json);
	if (s.w.fazt) {
		cJSON *request = cmd_request("prune");

		cJSON_AddBoolToObject(request, "dry_run", dry_run);
		if (*s.database)
			cJSON_AddStringToObject(request, "name", s.database);
		rc = cmd_ask_following(s.w.dir, request, -1, &asking.l, &w, &answer, err);
		list = cJSON_DetachItemFromObject(answer, "pruned");
		cJSON_Delete(answer);
	} else {
		(void)cmd_interruptible();
		list = cJSON_CreateArray();
		for (size_t i = 0; rc == 0 && i < s.n; i++)
			rc = prune_store(&s, &s.v[i], dry_run, &alone, list, err);
	}
	cmd_progress_end(&alone.p);
	if (rc == 0 && *s.database && !cJSON_GetArraySize(list))
		rc = fz_fail(err, FZ_ENOTFOUND, "there is no database %s", s.database);
	if (json && list) {
		cmd_print_json(list);
	} else {
		const cJSON *o;

		cJSON_ArrayForEach (o, list) {
			print_one(o, dry_run);
		}
	}
	failed = rc == 0 ? first_failure(list, err) : rc;
	cJSON_Delete(list);
	cmd_stores_close(&s);
	return failed;
}

int cmd_prune(int argc, char **argv)
{
	const char *config = NULL;
	bool dry_run = false, json = false, progress = false;
	const struct cmd_opt opts[] = {
	        {"dry-run", 'n', NULL, "only tell what would be deleted, and what could not be restored any more",
	         &dry_run, NULL, NULL},
	        CMD_OPT_PROGRESS(&progress),
	        CMD_OPT_JSON(&json),
	        CMD_OPT_CONFIG(&config),
	        {0    },
	};
	const struct cmd_spec spec = {
	        "prune",
	        "[options] DIR | DIR/DATABASE | NAME[/DATABASE] | URL",
	        "Deletes now what the retention of the targets (keep_commits, keep_minutes, ..., keep_bytes) does not "
	        "ask "
	        "for, and says\n"
	        "how much that is and which commits can no longer be restored one by one. What is kept can always be "
	        "restored. A mount\n"
	        "does it itself; of a store (a target of the configuration by its name or URL) this command does, also "
	        "where the target\n"
	        "is append_only.",
	        "fazt prune --dry-run /var/lib/app\n"
	        "fazt prune /var/lib/app/app.db\n"
	        "fazt prune --config trusted-host.conf offsite/app.db\n",
	        1,
	        1,
	        opts};
	struct fz_err err = {0};
	char **args;
	int n, rc = cmd_args(&spec, argc, argv, &args, &n, &err);

	if (rc == 0)
		rc = prune_it(args[0], config, dry_run, json, progress, &err);
	return rc < 0 ? cmd_report(spec.name, &err) : CMD_EXIT_OK;
}
