#include "cmd/args.h"
#include "cmd/cmd.h"

#include "base/clock.h"
#include "cmd/ask.h"
#include "cmd/fetch.h"
#include "cmd/progress.h"
#include "cmd/quote.h"
#include "replica/inplace.h"

#include <cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the command ------------------------------------------------------------------------------------------------ */

struct restoring {
	const char *identity, *config, *output;
	struct cmd_moment moment;
	bool force, dry_run, json, in_place, progress;
	struct replica_restore_conf conf;
	struct replica_restore_result result;
	struct replica_inplace_result placed;
};

static void print_result(const struct restoring *r, const char *label, const char *output)
{
	const struct replica_commit *c = &r->result.commit;
	char when[FZ_TIME_SIZE], checksum[17];
	cJSON *o;

	fz_format_time(when, c->time_ms);
	snprintf(checksum, sizeof(checksum), "%016llx", (unsigned long long)c->checksum);
	if (r->json) {
		o = cmd_fetch_json(label, &r->result);
		cJSON_AddNumberToObject(o, "distance_ms", (double)r->result.distance_ms);
		cJSON_AddStringToObject(o, "checksum", checksum);
		cJSON_AddStringToObject(o, "lineage", c->lineage);
		cJSON_AddNumberToObject(o, "epoch", c->epoch);
		cJSON_AddNumberToObject(o, "page_size", r->result.page_size);
		cJSON_AddNumberToObject(o, "pages", r->result.pages);
		cJSON_AddNumberToObject(o, "objects", (double)r->result.objects);
		cJSON_AddNumberToObject(o, "fetched_bytes", (double)r->result.fetched_bytes);
		cJSON_AddNumberToObject(o, "elapsed_ms", (double)r->result.elapsed_ms);
		cJSON_AddBoolToObject(o, "dry_run", r->dry_run);
		cJSON_AddBoolToObject(o, "in_place", r->in_place);
		if (r->in_place && !r->dry_run)
			cJSON_AddNumberToObject(o, "changed_pages", r->placed.changed_pages);
		if (output)
			cJSON_AddStringToObject(o, "output", output);
		cmd_print_json(o);
		cJSON_Delete(o);
		return;
	}
	cmd_print("commit %llu of %s", (unsigned long long)c->txid, when);
	if (r->moment.at)
		cmd_print(", %.3f s before the asked moment", (double)r->result.distance_ms / 1000);
	cmd_print("\n  from %s: %llu objects, %llu bytes\n", label, (unsigned long long)r->result.objects,
	          (unsigned long long)r->result.fetched_bytes);
	if (r->dry_run)
		cmd_print("  nothing was written (--dry-run)\n");
	else if (r->in_place)
		cmd_print("  %s is back, as one new transaction: %u of %u pages changed\n", output,
		          r->placed.changed_pages, r->placed.pages);
	else
		cmd_print("  %s: %u pages of %u bytes, checksum %s verified, %.1f s\n", output, r->result.pages,
		          r->result.page_size, checksum, (double)r->result.elapsed_ms / 1000);
}

static int fetch(struct cmd_source *s, struct restoring *r, struct fz_err *err)
{
	struct cmd_progress p;

	cmd_progress_begin(&p, "restoring", r->progress, r->json);
	return cmd_fetch(s, &r->conf, &p, &r->result, err);
}

static int restore_in_place(struct cmd_source *s, struct restoring *r, const char *live, struct fz_err *err)
{
	struct cmd_progress p;

	cmd_progress_begin(&p, "restoring", r->progress, r->json);
	return cmd_fetch_in_place(s, &r->conf, &p, live, NULL, NULL, &r->result, &r->placed, err);
}

static int restore_it(struct restoring *r, const char *source, struct fz_err *err)
{
	struct cmd_source s;
	const char *output;
	int rc = cmd_source_open(&s, source, r->identity, r->config, err);

	if (rc < 0)
		return rc;
	output = r->output;
	r->conf.cancel = cmd_interruptible();
	r->conf.force = r->force;
	r->conf.dry_run = r->dry_run;
	if (r->in_place && !output)
		output = s.live;
	if (r->in_place && !*output)
		rc = fz_fail(err, FZ_EUSAGE,
		             "--in-place needs the live database: SOURCE = DIR/DATABASE, or -o DIR/DATABASE");
	else if (r->in_place && !r->dry_run)
		rc = restore_in_place(&s, r, output, err);
	else {
		r->conf.output = r->dry_run ? NULL : output;
		rc = fetch(&s, r, err);
	}
	if (rc == 0)
		print_result(r, cmd_fetch_label(&s, &r->result), output);
	cmd_source_close(&s);
	return rc;
}

int cmd_restore(int argc, char **argv)
{
	struct restoring r = {0};
	const struct cmd_opt opts[] = {
	        {"at",    'a', "TIME",
	         "the last commit at or before TIME: RFC 3339, \"2026-11-20 23:14\", \"10 minutes ago\"", NULL,
	         &r.moment.at, NULL},
	        {"txid", 0, "N", "commit N, as `fazt log` shows it", NULL, &r.moment.txid, NULL},
	        {"latest",   0, NULL, "the newest commit (default)", &r.moment.latest, NULL, NULL},
	        {"output",   'o', "FILE", "write the database there", NULL, &r.output, NULL},
	        {"force",  0, NULL, "replace an existing FILE", &r.force, NULL, NULL},
	        {"in-place",    0, NULL, "bring the mounted database back while applications have it open", &r.in_place,
	         NULL, NULL},
	        CMD_OPT_IDENTITY(&r.identity),
	        {"dry-run",   'n', NULL, "only tell which commit it would take", &r.dry_run, NULL, NULL},
	        CMD_OPT_JSON(&r.json),
	        CMD_OPT_PROGRESS(&r.progress),
	        CMD_OPT_CONFIG(&r.config),
	        {0  },
	};
	const struct cmd_spec spec = {
	        "restore",
	        "SOURCE [options] -o FILE",
	        "Brings a database back as it was after one commit, and prints which commit it took. SOURCE is a store "
	        "URL with\n"
	        "the database's path (dir:/backup/app.db, s3://bucket/prefix/app.db?...), NAME/DATABASE with a target "
	        "of the\n"
	        "configuration, or DIR/DATABASE of a mount: then its own log is used before the targets. Every "
	        "checksum is\n"
	        "verified before FILE appears; outside of mounts only you can read a new one.\n"
	        "Exit code 3: there is no such database, or no commit that old.",
	        "fazt restore dir:/backup/app.db -i backup.key --at \"10 minutes ago\" -o app.db\n"
	        "fazt restore /var/lib/app/app.db --at 2026-11-20T23:14:29Z -o /tmp/app.db\n"
	        "fazt restore --in-place /var/lib/app/app.db --txid 4711\n",
	        1,
	        1,
	        opts};
	struct fz_err err = {0};
	char **args;
	int n, rc = cmd_args(&spec, argc, argv, &args, &n, &err);

	if (rc == 0)
		rc = cmd_moment_read(&r.moment, &r.conf, &err);
	if (rc == 0 && !r.output && !r.in_place && !r.dry_run)
		rc = fz_fail(&err, FZ_EUSAGE, "-o FILE is missing (or --in-place, or --dry-run)");
	if (rc == 0)
		rc = restore_it(&r, args[0], &err);
	return rc < 0 ? cmd_report(spec.name, &err) : CMD_EXIT_OK;
}
