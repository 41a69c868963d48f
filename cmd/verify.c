#include "cmd/args.h"
#include "cmd/cmd.h"
#include "cmd/progress.h"

#include "base/clock.h"
#include "base/file.h"
#include "cmd/ask.h"
#include "cmd/drill.h"
#include "cmd/quote.h"
#include "cmd/source_arg.h"
#include "cmd/state.h"
#include "replica/restore.h"

#include <cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/* The worker compares the real pages with its table, under a lock. */
static int verify_live(const char *dir, bool json, struct fz_err *err)
{
	cJSON *answer = NULL;
	struct cmd_where w;
	int rc = cmd_ask(dir, cmd_request("verify"), -1, &w, &answer, err);

	if (rc < 0)
		return rc;
	cJSON_DeleteItemFromObject(answer, "ok");
	if (json)
		cmd_print_json(answer);
	else
		cmd_print("%s: %.0f databases, %.0f pages compared, %.0f differ, %.0f databases were too busy\n", w.dir,
		          cmd_number(answer, "databases"), cmd_number(answer, "pages"),
		          cmd_number(answer, "differences"), cmd_number(answer, "busy"));
	if (cmd_number(answer, "differences") > 0)
		rc = fz_fail(err, FZ_EVERIFY, "%.0f pages differed from the table; they were captured now",
		             cmd_number(answer, "differences"));
	else if (cmd_number(answer, "busy") > 0)
		rc = fz_fail(err, FZ_EBUSY, "%.0f databases could not be compared in time", cmd_number(answer, "busy"));
	cJSON_Delete(answer);
	return rc;
}

static void print_gaps(const struct replica_verify_result *r, cJSON *o)
{
	uint64_t n = r->n_gaps < REPLICA_GAPS_MAX ? r->n_gaps : REPLICA_GAPS_MAX;
	cJSON *list = o ? cJSON_AddArrayToObject(o, "gaps") : NULL;

	for (uint64_t i = 0; i < n; i++) {
		const struct replica_gap *g = &r->gaps[i];

		if (list) {
			cJSON *e = cJSON_CreateObject();

			cJSON_AddStringToObject(e, "lineage", g->lineage);
			cJSON_AddNumberToObject(e, "after", (double)g->after);
			cJSON_AddNumberToObject(e, "before", (double)g->before);
			cJSON_AddItemToArray(list, e);
		} else {
			cmd_print("  gap: the commits after txid %llu and before txid %llu cannot be restored\n",
			          (unsigned long long)g->after, (unsigned long long)g->before);
		}
	}
	if (!o && r->n_gaps > n)
		cmd_print("  and %llu more gaps\n", (unsigned long long)(r->n_gaps - n));
}

static void print_result(const struct replica_verify_result *r, const char *label, bool full, bool json)
{
	char first[FZ_TIME_SIZE], last[FZ_TIME_SIZE];
	cJSON *o;

	fz_format_time(first, r->first.time_ms);
	fz_format_time(last, r->last.time_ms);
	if (json) {
		o = cJSON_CreateObject();
		cJSON_AddStringToObject(o, "source", label);
		cJSON_AddBoolToObject(o, "structure_only", r->structure_only);
		cJSON_AddBoolToObject(o, "integrity_check", full && !r->structure_only);
		cJSON_AddNumberToObject(o, "objects", (double)r->objects);
		cJSON_AddNumberToObject(o, "commits", (double)r->commits);
		cJSON_AddNumberToObject(o, "bytes", (double)r->bytes);
		cJSON_AddNumberToObject(o, "first_txid", (double)r->first.txid);
		cJSON_AddStringToObject(o, "first_time", first);
		cJSON_AddNumberToObject(o, "last_txid", (double)r->last.txid);
		cJSON_AddStringToObject(o, "last_time", last);
		print_gaps(r, o);
		cmd_print_json(o);
		cJSON_Delete(o);
		return;
	}
	cmd_print("%s: %s\n  %llu objects, %llu bytes, %llu commits\n  txid %llu of %s to txid %llu of %s\n", label,
	          r->structure_only ? "structure only is in order (no identity was given: contents were not read)"
	          : full            ? "every checksum and SQLite's integrity_check are in order"
	                            : "every checksum is in order",
	          (unsigned long long)r->objects, (unsigned long long)r->bytes, (unsigned long long)r->commits,
	          (unsigned long long)r->first.txid, first, (unsigned long long)r->last.txid, last);
	print_gaps(r, NULL);
}

struct verifying {
	const char *identity, *config;
	bool full, json, strict, progress;
};

/* s is open, and closed here. */
static int verify_one(struct cmd_source *s, const struct verifying *v, struct fz_err *err)
{
	struct cmd_progress p;
	struct replica_verify_conf conf = {.full = v->full, .cancel = cmd_interruptible()};
	struct replica_verify_result r = {0};
	int rc;

	cmd_progress_begin(&p, "verifying", v->progress, v->json);
	conf.progress = p.on ? &p.bytes : NULL;
	rc = replica_verify(s->source, &conf, &r, err);
	cmd_progress_end(&p);
	if (rc == 0)
		print_result(&r, s->label, v->full, v->json);
	if (rc == 0 && v->strict && r.n_gaps)
		rc = fz_fail(err, FZ_EGAP, "%s has %llu gap%s in its history (--strict)", s->label,
		             (unsigned long long)r.n_gaps, r.n_gaps == 1 ? "" : "s");
	if (rc != -ECANCELED)
		cmd_drill_tell(s, &r, v->full, rc, err);
	cmd_source_close(s);
	return rc;
}

static int verify_source(const char *arg, const struct verifying *v, struct fz_err *err)
{
	struct cmd_source s;
	int rc = cmd_source_open(&s, arg, v->identity, v->config, err);

	return rc < 0 ? rc : verify_one(&s, v, err);
}

static int count_targets(const struct cmd_where *w, const char *config, size_t *n, struct fz_err *err)
{
	struct cmd_conf conf;
	int fd = -1, rc;

	cmd_conf_init(&conf);
	rc = cmd_conf_load(&conf, config, err);
	if (rc == 0)
		rc = cmd_state_find(w, &conf, config, &fd, err);
	*n = rc == 0 ? conf.n_targets : 0;
	if (rc == 0 && !*n)
		rc = fz_fail(err, FZ_ENOTFOUND, "%s ships to no target: there is no backup to verify", w->dir);
	cmd_conf_fini(&conf);
	fz_close(&fd);
	return rc;
}

/* Every database of a mount in every target; goes on after a failure, and returns the first one. */
static int verify_all(const char *dir, const struct verifying *v, struct fz_err *err)
{
	cJSON *answer = NULL;
	const cJSON *d;
	size_t targets = 0;
	struct cmd_where w;
	int rc = cmd_ask(dir, cmd_request("status"), -1, &w, &answer, err), n = 0, bad = 0;

	if (rc < 0)
		return rc;
	rc = count_targets(&w, v->config, &targets, err);
	cJSON_ArrayForEach (d, cJSON_GetObjectItem(answer, "databases")) {
		const char *name = cJSON_GetStringValue(cJSON_GetObjectItem(d, "name"));
		char arg[PATH_MAX + 512];

		snprintf(arg, sizeof(arg), "%s/%s", w.dir, name ? name : "");
		for (size_t i = 0; i < targets; i++, n++) {
			struct fz_err why = {0};
			struct cmd_source s;
			int one = cmd_source_open_target(&s, arg, i, v->identity, v->config, &why);

			if (one == 0)
				one = verify_one(&s, v, &why);
			fflush(stdout);
			if (one < 0)
				bad++;
			if (one < 0 && rc == 0) {
				rc = one;
				*err = why;
			} else if (one < 0) {
				(void)cmd_report("verify", &why);
			}
		}
	}
	cJSON_Delete(answer);
	if (rc < 0 && bad > 1)
		fz_err_prefix(err, "%d of %d backups are not in order; the first", bad, n);
	return rc;
}

int cmd_verify(int argc, char **argv)
{
	struct verifying v = {0};
	bool live = false, all = false;
	const struct cmd_opt opts[] = {
	        {"identity", 'i', "KEY", "identity that decrypts the backup (without it: structure only)", NULL,
	         &v.identity, NULL},
	        {"full",     0, NULL, "also restore the last commit and run SQLite's integrity_check", &v.full, NULL, NULL},
	        {"strict",      0, NULL, "a gap in the history is a failure, also where a later snapshot covers it",
	         &v.strict, NULL, NULL},
	        {"live",      0, NULL, "compare the pages of a mount with its checksums: fazt verify --live DIR", &live,
	         NULL, NULL},
	        {"all",     'a', NULL, "every database of a mount, in every target: fazt verify --all DIR", &all, NULL,
	         NULL},
	        CMD_OPT_JSON(&v.json),
	        CMD_OPT_PROGRESS(&v.progress),
	        CMD_OPT_CONFIG(&v.config),
	        {0     },
	};
	const struct cmd_spec spec = {
	        "verify",
	        "[options] SOURCE | --all DIR | --live DIR",
	        "Reads every object of SOURCE and compares every checksum, from the first restorable commit to the "
	        "last. SOURCE\n"
	        "is as in `fazt restore`. Gaps (commits that were never shipped, before a later snapshot) are listed. "
	        "Exit "
	        "code 4:\n"
	        "something is damaged, or the newest state cannot be reached.",
	        "fazt verify dir:/backup/app.db -i backup.key\nfazt verify --full offsite/app.db -i backup.key\n"
	        "fazt verify --all --full /var/lib/app\nfazt verify --live /var/lib/app\n",
	        1,
	        1,
	        opts};
	struct fz_err err = {0};
	char **args;
	int n, rc = cmd_args(&spec, argc, argv, &args, &n, &err);

	if (rc == 0 && live && (v.full || v.identity || v.strict || all))
		rc = fz_fail(&err, FZ_EUSAGE,
		             "--live reads the mount itself: --all, --full, --strict and -i do not go with it");
	if (rc == 0)
		rc = live  ? verify_live(args[0], v.json, &err)
		     : all ? verify_all(args[0], &v, &err)
		           : verify_source(args[0], &v, &err);
	return rc < 0 ? cmd_report(spec.name, &err) : CMD_EXIT_OK;
}
