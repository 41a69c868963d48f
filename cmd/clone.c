/* clone.c - `fazt clone SOURCE DIR/NAME`: a restore into a mount, where it begins a life of its own. */
#include "cmd/args.h"
#include "cmd/cmd.h"

#include "base/clock.h"
#include "cmd/ask.h"
#include "cmd/fetch.h"
#include "cmd/place.h"
#include "cmd/progress.h"
#include "cmd/quote.h"

#include <cJSON.h>
#include <stdio.h>

struct cloning {
	const char *identity, *config;
	struct cmd_moment moment;
	bool json, progress;
	struct replica_restore_conf conf;
	struct replica_restore_result result;
	struct cmd_place place;
};

static void print_result(const struct cloning *c, const char *label)
{
	const struct replica_commit *k = &c->result.commit;
	char when[FZ_TIME_SIZE];
	cJSON *o;

	fz_format_time(when, k->time_ms);
	if (!c->json) {
		cmd_print("commit %llu of %s\n  from %s\n  %s: %u pages of %u bytes", (unsigned long long)k->txid, when,
		          label, c->place.path, c->result.pages, c->result.page_size);
		if (c->place.captured)
			cmd_print(", captured as commit %llu of lineage %s\n", (unsigned long long)c->place.txid,
			          c->place.lineage);
		else
			cmd_print("; the configuration excludes it: nothing of it is captured\n");
		return;
	}
	o = cmd_fetch_json(label, &c->result);
	cJSON_AddStringToObject(o, "output", c->place.path);
	cJSON_AddNumberToObject(o, "page_size", c->result.page_size);
	cJSON_AddNumberToObject(o, "pages", c->result.pages);
	cJSON_AddBoolToObject(o, "captured", c->place.captured);
	cJSON_AddStringToObject(o, "lineage", c->place.lineage);
	cJSON_AddNumberToObject(o, "new_txid", (double)c->place.txid);
	cmd_print_json(o);
	cJSON_Delete(o);
}

static int clone_it(struct cloning *c, const char *source, const char *to, struct fz_err *err)
{
	struct cmd_progress p;
	struct cmd_source s;
	int rc = cmd_place_find(&c->place, to, err);

	if (rc < 0)
		return rc;
	rc = cmd_source_open(&s, source, c->identity, c->config, err);
	if (rc < 0) {
		cmd_place_close(&c->place);
		return rc;
	}
	cmd_progress_begin(&p, "cloning", c->progress, c->json);
	c->conf.output = c->place.path;
	c->conf.cancel = cmd_interruptible();
	rc = cmd_fetch(&s, &c->conf, &p, &c->result, err);
	if (rc == 0)
		rc = cmd_place_settle(&c->place, err);
	if (rc == 0)
		print_result(c, cmd_fetch_label(&s, &c->result));
	cmd_source_close(&s);
	cmd_place_close(&c->place);
	return rc;
}

int cmd_clone(int argc, char **argv)
{
	struct cloning c = {0};
	const struct cmd_opt opts[] = {
	        {"at",    'a', "TIME", "as it was after the last commit at or before TIME", NULL, &c.moment.at, NULL},
	        {"txid", 0, "N", "as it was after commit N", NULL, &c.moment.txid, NULL},
	        {"latest",   0, NULL, "as it was after the newest commit (default)", &c.moment.latest, NULL, NULL},
	        CMD_OPT_IDENTITY(&c.identity),
	        CMD_OPT_PROGRESS(&c.progress),
	        CMD_OPT_JSON(&c.json),
	        CMD_OPT_CONFIG(&c.config),
	        {0  },
	};
	const struct cmd_spec spec = {
	        "clone",
	        "[options] SOURCE DIR/NAME",
	        "Makes a writable copy of a database below a mount: as it is, or was after any commit. SOURCE is as in "
	        "`fazt restore`.\n"
	        "The copy has a history of its own, captured from its first commit, and appears when it is whole and "
	        "verified; a file\n"
	        "that is there is never replaced. Owner and mode are the live database's, or else the directory's "
	        "owner "
	        "and 0600.",
	        "fazt clone /var/lib/app/app.db /var/lib/app/staging.db\n"
	        "fazt clone --at \"10 minutes ago\" /var/lib/app/app.db /var/lib/app/before.db\n"
	        "fazt clone 's3://bucket/app/app.db?region=eu-central-1' -i backup.key /var/lib/test/app.db\n",
	        2,
	        2,
	        opts};
	struct fz_err err = {0};
	char **args;
	int n, rc = cmd_args(&spec, argc, argv, &args, &n, &err);

	if (rc == 0)
		rc = cmd_moment_read(&c.moment, &c.conf, &err);
	if (rc == 0)
		rc = clone_it(&c, args[0], args[1], &err);
	return rc < 0 ? cmd_report(spec.name, &err) : CMD_EXIT_OK;
}
