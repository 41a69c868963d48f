#include "cmd/args.h"
#include "cmd/ask.h"
#include "cmd/cmd.h"

#include <cJSON.h>
#include <stdbool.h>
#include <stdio.h>

static const char *text_of(const cJSON *o, const char *key)
{
	const cJSON *v = cJSON_GetObjectItem(o, key);

	return cJSON_IsString(v) ? v->valuestring : "";
}

static double number_of(const cJSON *o, const char *key)
{
	const cJSON *v = cJSON_GetObjectItem(o, key);

	return cJSON_IsNumber(v) ? v->valuedouble : 0;
}

static void print_status(const cJSON *s)
{
	const cJSON *o, *d;

	printf("%s: %s\n", text_of(s, "dir"),
	       cJSON_IsTrue(cJSON_GetObjectItem(s, "healthy")) ? "all well" : "NOT well");
	printf("  worker %.0f since %s, %.0f restarts, %s\n", number_of(s, "worker_pid"), text_of(s, "worker_started"),
	       number_of(s, "restarts"),
	       cJSON_IsTrue(cJSON_GetObjectItem(s, "passthrough")) ? "kernel passthrough" : "no kernel passthrough");
	cJSON_ArrayForEach (o, cJSON_GetObjectItem(s, "databases")) {
		printf("  database %s: txid %.0f, %s, checksum %s, %s\n", text_of(o, "name"), number_of(o, "txid"),
		       text_of(o, "time"), text_of(o, "checksum"), text_of(o, "journal_mode"));
	}
	cJSON_ArrayForEach (o, cJSON_GetObjectItem(s, "targets")) {
		const char *error = text_of(o, "last_error");

		printf("  target %s: %s, %s, lag %.1f s, %.0f bytes%s%s\n", text_of(o, "name"), text_of(o, "state"),
		       cJSON_IsTrue(cJSON_GetObjectItem(o, "encrypted")) ? "encrypted" : "not encrypted",
		       number_of(o, "lag_seconds"), number_of(o, "lag_bytes"), *error ? ", last error: " : "", error);
		cJSON_ArrayForEach (d, cJSON_GetObjectItem(o, "databases")) {
			printf("    %s: txid %.0f\n", text_of(d, "name"), number_of(d, "txid"));
		}
	}
	cJSON_ArrayForEach (o, cJSON_GetObjectItem(s, "problems")) {
		printf("  problem: %s\n", cJSON_GetStringValue(o));
	}
	cJSON_ArrayForEach (o, cJSON_GetObjectItem(s, "notes")) {
		printf("  note: %s\n", cJSON_GetStringValue(o));
	}
}

int cmd_status(int argc, char **argv)
{
	bool json = false;
	const struct cmd_opt opts[] = {
	        {"json", 'j', NULL, "print JSON", &json, NULL, NULL},
	        {0 },
	};
	const struct cmd_spec spec = {
	        "status",
	        "[--json] DIR",
	        "Shows where databases and targets stand. Exit code 0: all well; 1: something is wrong (a target "
	        "failed, is\n"
	        "fenced or lags more than its lag_max, or capture reports an error).",
	        "fazt status /var/lib/app\nfazt status --json /var/lib/app | jq '.targets[].lag_seconds'\n",
	        1,
	        1,
	        opts};
	cJSON *answer = NULL;
	struct fz_err err = {0};
	struct cmd_where w;
	char **args;
	bool well;
	int n, rc = cmd_args(&spec, argc, argv, &args, &n, &err);

	if (rc == CMD_ARGS_HELP)
		return CMD_EXIT_OK;
	if (rc == 0)
		rc = cmd_ask(args[0], cmd_request("status"), 30000, &w, &answer, &err);
	if (rc < 0)
		return cmd_report(spec.name, &err);
	cJSON_DeleteItemFromObject(answer, "ok");
	well = cJSON_IsTrue(cJSON_GetObjectItem(answer, "healthy"));
	if (json)
		cmd_print_json(answer);
	else
		print_status(answer);
	cJSON_Delete(answer);
	return well ? CMD_EXIT_OK : CMD_EXIT_FAILED;
}
