/* export.c - `fazt export SOURCE FILE`: what the log has is copied, so no application is kept from anything. */
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
#include <string.h>

struct exporting {
	const char *identity, *config;
	struct cmd_moment moment;
	bool json, progress, force;
	struct replica_restore_conf conf;
	struct replica_restore_result result;
};

/* The newest commit of a database that is mounted is one that was made before the call, not the last that happens to be in the log. */
static int catch_up(const struct cmd_source *s, struct fz_err *err)
{
	size_t n = strlen(s->live), tail = strlen(s->database) + 1;
	struct cmd_where w;
	char dir[PATH_MAX];

	if (n < tail)
		return 0;
	snprintf(dir, sizeof(dir), "%.*s", (int)(n - tail), s->live);
	if (cmd_where_find(&w, *dir ? dir : "/", NULL) < 0 || !w.fazt)
		return 0;
	return cmd_place_capture(w.dir, err);
}

static void print_result(const struct exporting *e, const char *label, const char *output)
{
	const struct replica_commit *k = &e->result.commit;
	char when[FZ_TIME_SIZE], checksum[17];
	cJSON *o;

	fz_format_time(when, k->time_ms);
	snprintf(checksum, sizeof(checksum), "%016llx", (unsigned long long)k->checksum);
	if (!e->json) {
		cmd_print("commit %llu of %s\n  from %s\n  %s: %u pages of %u bytes, checksum %s verified\n",
		          (unsigned long long)k->txid, when, label, output, e->result.pages, e->result.page_size,
		          checksum);
		return;
	}
	o = cmd_fetch_json(label, &e->result);
	cJSON_AddStringToObject(o, "checksum", checksum);
	cJSON_AddStringToObject(o, "output", output);
	cJSON_AddNumberToObject(o, "page_size", e->result.page_size);
	cJSON_AddNumberToObject(o, "pages", e->result.pages);
	cmd_print_json(o);
	cJSON_Delete(o);
}

static int export_it(struct exporting *e, const char *source, const char *output, struct fz_err *err)
{
	struct cmd_progress p;
	struct cmd_source s;
	int rc = cmd_source_open(&s, source, e->identity, e->config, err);

	if (rc < 0)
		return rc;
	if (e->conf.when == REPLICA_LATEST && *s.live)
		rc = catch_up(&s, err);
	cmd_progress_begin(&p, "exporting", e->progress, e->json);
	e->conf.output = output;
	e->conf.force = e->force;
	e->conf.cancel = cmd_interruptible();
	if (rc == 0)
		rc = cmd_fetch(&s, &e->conf, &p, &e->result, err);
	if (rc == 0)
		print_result(e, cmd_fetch_label(&s, &e->result), output);
	cmd_source_close(&s);
	return rc;
}

int cmd_export(int argc, char **argv)
{
	struct exporting e = {0};
	const struct cmd_opt opts[] = {
	        {"at",    'a', "TIME", "as it was after the last commit at or before TIME", NULL, &e.moment.at, NULL},
	        {"txid", 0, "N", "as it was after commit N", NULL, &e.moment.txid, NULL},
	        {"latest",   0, NULL, "as it is (default)", &e.moment.latest, NULL, NULL},
	        {"force",   0, NULL, "replace an existing FILE", &e.force, NULL, NULL},
	        CMD_OPT_IDENTITY(&e.identity),
	        CMD_OPT_PROGRESS(&e.progress),
	        CMD_OPT_JSON(&e.json),
	        CMD_OPT_CONFIG(&e.config),
	        {0 },
	};
	const struct cmd_spec spec = {
	        "export",
	        "[options] SOURCE FILE",
	        "Writes a consistent copy of a database to FILE, as it is or was after any commit, without disturbing "
	        "the applications\n"
	        "that use it. SOURCE is as in `fazt restore`: of a mount (DIR/DATABASE) all that was committed before "
	        "the call is in it.\n"
	        "FILE appears when it is whole and verified; a new one only you can read.",
	        "fazt export /var/lib/app/app.db /media/usb/app.db\n"
	        "fazt export --at 2026-11-20T23:14:29Z /var/lib/app/app.db /tmp/then.db\n"
	        "fazt export dir:/backup/app.db -i backup.key app.db\n",
	        2,
	        2,
	        opts};
	struct fz_err err = {0};
	char **args;
	int n, rc = cmd_args(&spec, argc, argv, &args, &n, &err);

	if (rc == 0)
		rc = cmd_moment_read(&e.moment, &e.conf, &err);
	if (rc == 0)
		rc = export_it(&e, args[0], args[1], &err);
	return rc < 0 ? cmd_report(spec.name, &err) : CMD_EXIT_OK;
}
