#include "cmd/args.h"
#include "cmd/ask.h"
#include "cmd/branch.h"
#include "cmd/cmd.h"
#include "cmd/config.h"
#include "cmd/quote.h"
#include "cmd/state.h"

#include "base/clock.h"
#include "base/file.h"

#include <cJSON.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>

static int list(const struct cmd_branch *b, void *arg)
{
	cJSON *o = cJSON_CreateObject();
	char when[FZ_TIME_SIZE];

	cJSON_AddStringToObject(o, "database", b->name);
	cJSON_AddStringToObject(o, "branch", b->id);
	cJSON_AddNumberToObject(o, "epoch", b->epoch);
	cJSON_AddNumberToObject(o, "from_txid", (double)b->from_txid);
	cJSON_AddNumberToObject(o, "txid", (double)b->tail_txid);
	cJSON_AddStringToObject(o, "time", fz_format_time(when, b->tail_time_ms));
	cJSON_AddItemToArray(arg, o);
	return 0;
}

static void print(const cJSON *all)
{
	const cJSON *o;

	cJSON_ArrayForEach (o, all) {
		cmd_print("%s@%s  transactions %.0f to %.0f, last %s\n",
		          cJSON_GetStringValue(cJSON_GetObjectItem(o, "database")),
		          cJSON_GetStringValue(cJSON_GetObjectItem(o, "branch")),
		          cJSON_GetNumberValue(cJSON_GetObjectItem(o, "from_txid")) + 1,
		          cJSON_GetNumberValue(cJSON_GetObjectItem(o, "txid")),
		          cJSON_GetStringValue(cJSON_GetObjectItem(o, "time")));
	}
	if (!cJSON_GetArraySize(all))
		cmd_print("no branches\n");
}

int cmd_branches(int argc, char **argv)
{
	bool json = false;
	const struct cmd_opt opts[] = {
	        CMD_OPT_JSON(&json),
	        {0},
	};
	const struct cmd_spec spec = {"branches",
	                              "[--json] DIR",
	                              "Lists what this host had committed and another primary never got: kept aside "
	                              "when this host began to follow "
	                              "it.\n"
	                              "DIR/DATABASE@BRANCH is a SOURCE for log, restore and verify.",
	                              "fazt branches /var/lib/app\n"
	                              "fazt restore /var/lib/app/app.db@epoch1-1042 -o lost.db\n",
	                              1,
	                              1,
	                              opts};
	cJSON *all = cJSON_CreateArray();
	struct fz_err err = {0};
	struct cmd_conf conf;
	struct cmd_where w;
	int n, fd = -1, rc;
	char **args;

	cmd_conf_init(&conf);
	rc = cmd_args(&spec, argc, argv, &args, &n, &err);
	if (rc == 0)
		rc = cmd_conf_load(&conf, NULL, &err);
	if (rc == 0)
		rc = cmd_where_find(&w, args[0], &err);
	if (rc == 0)
		rc = cmd_state_find(&w, &conf, NULL, &fd, &err);
	if (rc == 0)
		rc = cmd_branch_each(fd, list, all, &err);
	if (rc == 0 && json)
		cmd_print_json(all);
	else if (rc == 0)
		print(all);
	fz_close(&fd);
	cmd_conf_fini(&conf);
	cJSON_Delete(all);
	if (rc == CMD_ARGS_HELP)
		return CMD_EXIT_OK;
	return rc < 0 ? cmd_report(spec.name, &err) : CMD_EXIT_OK;
}
