#include "cmd/args.h"
#include "cmd/cmd.h"

#include "base/clock.h"
#include "cmd/source_arg.h"
#include "replica/source.h"

#include <cJSON.h>
#include <stdio.h>
#include <unistd.h>

/* JSON: one array, one commit a line, so that both a parser and line tools can read it. */
static int print_commit(const struct replica_commit *c, bool json, bool first, struct fz_err *err)
{
	char when[FZ_TIME_SIZE], checksum[17];
	cJSON *o;
	char *text;

	fz_format_time(when, c->time_ms);
	if (!json) {
		if (c->min_txid < c->txid) /* only the last of a merged range can be restored */
			printf("%-10llu %s %8u pages %10llu bytes  (%llu..%llu merged)\n", (unsigned long long)c->txid,
			       when, c->pages, (unsigned long long)c->size_bytes, (unsigned long long)c->min_txid,
			       (unsigned long long)c->txid);
		else
			printf("%-10llu %s %8u pages %10llu bytes\n", (unsigned long long)c->txid, when, c->pages,
			       (unsigned long long)c->size_bytes);
		return 0;
	}
	o = cJSON_CreateObject();
	snprintf(checksum, sizeof(checksum), "%016llx", (unsigned long long)c->checksum);
	cJSON_AddNumberToObject(o, "txid", (double)c->txid);
	cJSON_AddNumberToObject(o, "min_txid", (double)c->min_txid);
	cJSON_AddStringToObject(o, "time", when);
	cJSON_AddNumberToObject(o, "time_ms", (double)c->time_ms);
	cJSON_AddNumberToObject(o, "pages", c->pages);
	cJSON_AddNumberToObject(o, "bytes", (double)c->size_bytes);
	cJSON_AddNumberToObject(o, "database_pages", c->commit);
	if (c->checksum) /* known without reading the transaction: of the last one of an object or of the log */
		cJSON_AddStringToObject(o, "checksum", checksum);
	cJSON_AddStringToObject(o, "lineage", c->lineage);
	cJSON_AddNumberToObject(o, "epoch", c->epoch);
	text = cJSON_PrintUnformatted(o);
	cJSON_Delete(o);
	if (!text)
		return fz_fail(err, FZ_EINTERNAL, "out of memory");
	printf("%s%s", first ? "[\n" : ",\n", text);
	cJSON_free(text);
	return 0;
}

/* Prints the commits of the source at hand; *printed counts. */
static int list(struct cmd_source *s, bool json, unsigned long long *printed, struct fz_err *err)
{
	struct replica_commits *commits = NULL;
	struct replica_commit c;
	int rc = replica_commits_open(&commits, s->source, err);

	while (rc >= 0 && (rc = replica_commits_next(commits, &c, err)) == 1) {
		rc = print_commit(&c, json, *printed == 0, err);
		(*printed)++;
	}
	replica_commits_close(commits);
	if (json && *printed)
		printf("\n]\n");
	if (rc == 0 && *printed == 0)
		rc = fz_fail(err, FZ_ENOCOMMIT, "%s holds no commit", s->label);
	return rc;
}

int cmd_log(int argc, char **argv)
{
	const char *config = NULL, *identity = NULL;
	bool json = false;
	const struct cmd_opt opts[] = {
	        {"json", 'j', NULL, "print a JSON array, one commit a line", &json, NULL, NULL},
	        {"identity",  'i', "KEY", "identity of an encrypted store (without it: what names tell)", NULL,
	         &identity, NULL},
	        {"config", 'c', "FILE", "configuration instead of " CMD_CONF_DEFAULT, NULL, &config, NULL},
	        {0 },
	};
	const struct cmd_spec spec = {
	        "log",
	        "[options] SOURCE",
	        "Lists every commit that can be restored, oldest first: TXID, time, changed "
	        "pages, bytes. SOURCE is a store URL\n"
	        "with the database's path (dir:/backup/app.db), NAME/DATABASE with a target of "
	        "the configuration, or DIR/DATABASE\n"
	        "of a mount.",
	        "fazt log /var/lib/app/app.db\nfazt log --json dir:/backup/app.db | jq '.[-1].txid'\n",
	        1,
	        1,
	        opts};
	unsigned long long printed = 0;
	struct fz_err err = {0};
	struct cmd_source s;
	char **args;
	int n, rc = cmd_args(&spec, argc, argv, &args, &n, &err);

	if (rc == CMD_ARGS_HELP)
		return CMD_EXIT_OK;
	if (rc == 0) {
		rc = cmd_source_open(&s, args[0], identity, config, &err);
		if (rc == 0) {
			do
				rc = list(&s, json, &printed, &err);
			while (rc < 0 && !printed && cmd_source_next(&s, &err));
			cmd_source_close(&s);
		}
	}
	return rc < 0 ? cmd_report(spec.name, &err) : CMD_EXIT_OK;
}
