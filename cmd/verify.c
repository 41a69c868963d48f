#include "cmd/args.h"
#include "cmd/cmd.h"

#include "base/clock.h"
#include "cmd/ask.h"
#include "cmd/source_arg.h"
#include "replica/restore.h"

#include <cJSON.h>
#include <stdio.h>
#include <stdlib.h>

static double number_of(const cJSON *o, const char *key)
{
	const cJSON *v = cJSON_GetObjectItem(o, key);

	return cJSON_IsNumber(v) ? v->valuedouble : 0;
}

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
		printf("%s: %.0f databases, %.0f pages compared, %.0f differ, %.0f databases were too busy\n", w.dir,
		       number_of(answer, "databases"), number_of(answer, "pages"), number_of(answer, "differences"),
		       number_of(answer, "busy"));
	if (number_of(answer, "differences") > 0)
		rc = fz_fail(err, FZ_EVERIFY, "%.0f pages differed from the table; they were captured now",
		             number_of(answer, "differences"));
	else if (number_of(answer, "busy") > 0)
		rc = fz_fail(err, FZ_EBUSY, "%.0f databases could not be compared in time", number_of(answer, "busy"));
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
			printf("  gap: the commits after txid %llu and before txid %llu cannot be restored\n",
			       (unsigned long long)g->after, (unsigned long long)g->before);
		}
	}
	if (!o && r->n_gaps > n)
		printf("  and %llu more gaps\n", (unsigned long long)(r->n_gaps - n));
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
	printf("%s: %s\n  %llu objects, %llu bytes, %llu commits\n  txid %llu of %s to txid %llu of %s\n", label,
	       r->structure_only ? "structure only is in order (no identity was given: contents were not read)"
	       : full            ? "every checksum and SQLite's integrity_check are in order"
	                         : "every checksum is in order",
	       (unsigned long long)r->objects, (unsigned long long)r->bytes, (unsigned long long)r->commits,
	       (unsigned long long)r->first.txid, first, (unsigned long long)r->last.txid, last);
	print_gaps(r, NULL);
}

static int verify_source(const char *arg, const char *identity, const char *config, bool full, bool json, bool strict,
                         struct fz_err *err)
{
	const char *tmp = getenv("TMPDIR");
	struct replica_verify_result r = {0};
	struct cmd_source s;
	int rc = cmd_source_open(&s, arg, identity, config, err);

	if (rc < 0)
		return rc;
	rc = replica_verify(s.source, full, tmp && *tmp == '/' ? tmp : "/var/tmp", &r, err);
	if (rc == 0)
		print_result(&r, s.label, full, json);
	if (rc == 0 && strict && r.n_gaps)
		rc = fz_fail(err, FZ_EGAP, "%s has %llu gap%s in its history (--strict)", s.label,
		             (unsigned long long)r.n_gaps, r.n_gaps == 1 ? "" : "s");
	cmd_source_close(&s);
	return rc;
}

int cmd_verify(int argc, char **argv)
{
	const char *config = NULL, *identity = NULL;
	bool json = false, full = false, live = false, strict = false;
	const struct cmd_opt opts[] = {
	        {"identity", 'i', "KEY", "identity that decrypts the backup (without it: structure only)", NULL,
	         &identity, NULL},
	        {"full",     0, NULL, "also restore the last commit and run SQLite's integrity_check", &full, NULL, NULL},
	        {"strict",      0, NULL, "a gap in the history is a failure, also where a later snapshot covers it", &strict,
	         NULL, NULL},
	        {"live",      0, NULL, "compare the pages of a mount with its checksums: fazt verify --live DIR", &live,
	         NULL, NULL},
	        {"json",     'j', NULL, "print JSON", &json, NULL, NULL},
	        {"config",      'c', "FILE", "configuration instead of " CMD_CONF_DEFAULT, NULL, &config, NULL},
	        {0    },
	};
	const struct cmd_spec spec = {
	        "verify",
	        "[options] SOURCE | --live DIR",
	        "Reads every object of SOURCE and compares every checksum, from the first restorable commit to the "
	        "last. SOURCE\n"
	        "is as in `fazt restore`. Gaps (commits that were never shipped, before a later snapshot) are listed. "
	        "Exit "
	        "code 4:\n"
	        "something is damaged, or the newest state cannot be reached.",
	        "fazt verify dir:/backup/app.db -i backup.key\nfazt verify --full offsite/app.db -i backup.key\n"
	        "fazt verify --live /var/lib/app\n",
	        1,
	        1,
	        opts};
	struct fz_err err = {0};
	char **args;
	int n, rc = cmd_args(&spec, argc, argv, &args, &n, &err);

	if (rc == CMD_ARGS_HELP)
		return CMD_EXIT_OK;
	if (rc == 0 && live && (full || identity || strict))
		rc = fz_fail(&err, FZ_EUSAGE,
		             "--live reads the mount itself: --full, --strict and -i do not go with it");
	if (rc == 0)
		rc = live ? verify_live(args[0], json, &err)
		          : verify_source(args[0], identity, config, full, json, strict, &err);
	return rc < 0 ? cmd_report(spec.name, &err) : CMD_EXIT_OK;
}
