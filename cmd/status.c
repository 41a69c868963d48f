#include "cmd/args.h"
#include "cmd/ask.h"
#include "cmd/cmd.h"
#include "cmd/quote.h"

#include <cJSON.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static bool is(const cJSON *o, const char *key)
{
	return cJSON_IsTrue(cJSON_GetObjectItem(o, key));
}

static void print_lag(const cJSON *o)
{
	printf("lag %.0f ms, %.0f transactions, %.0f bytes", cmd_number(o, "lag_ms"), cmd_number(o, "lag_txns"),
	       cmd_number(o, "lag_bytes"));
	if (*cmd_text(o, "last_error"))
		printf(", last error: %s", cmd_text(o, "last_error"));
	printf("\n");
}

/* Role, whom it follows and who follows it, lease and acknowledgements: nothing for a mount without any of it. */
static void print_link(const cJSON *s)
{
	const cJSON *f = cJSON_GetObjectItem(s, "following"), *replicas = cJSON_GetObjectItem(s, "replicas");
	const cJSON *lease = cJSON_GetObjectItem(s, "lease"), *ack = cJSON_GetObjectItem(s, "ack"), *o, *d;
	const char *at = cmd_text(s, "link_address");

	if (!f && !*at && !lease)
		return;
	printf("  %s, epoch %.0f%s%s\n", cmd_text(s, "role"), cmd_number(s, "epoch"), *at ? ", listens on " : "", at);
	if (f && !strcmp(cmd_text(f, "source"), "store"))
		printf("  follows the store %s\n", cmd_text(f, "store"));
	else if (f)
		printf("  follows %s: %s%s%s\n", cmd_text(f, "primary"),
		       is(f, "connected") ? "connected" : "NOT connected", *cmd_text(f, "last_error") ? ": " : "",
		       cmd_text(f, "last_error"));
	cJSON_ArrayForEach (d, cJSON_GetObjectItem(f, "databases")) {
		printf("    %s: txid %.0f applied, ", cmd_text(d, "name"), cmd_number(d, "applied_txid"));
		print_lag(d);
	}
	cJSON_ArrayForEach (o, replicas) {
		printf("  replica %s at %s (%s): %s%s%s\n", cmd_text(o, "host"), cmd_text(o, "address"),
		       cmd_text(o, "name"), is(o, "connected") ? "connected" : "NOT connected",
		       *cmd_text(o, "last_error") ? ": " : "", cmd_text(o, "last_error"));
		cJSON_ArrayForEach (d, cJSON_GetObjectItem(o, "databases")) {
			printf("    %s: txid %.0f received, %.0f durable, %.0f applied, ", cmd_text(d, "name"),
			       cmd_number(d, "received_txid"), cmd_number(d, "durable_txid"),
			       cmd_number(d, "applied_txid"));
			print_lag(d);
		}
	}
	if (strcmp(cmd_text(ack, "mode"), "local") != 0)
		printf("  FULL commits wait for replicas: ack = %s\n", cmd_text(ack, "mode"));
	if (lease)
		printf("  lease: %s, held by %s, %.1f s left\n", cmd_text(lease, "state"), cmd_text(lease, "holder"),
		       cmd_number(lease, "remaining_ms") / 1000);
}

static void print_status(const cJSON *s)
{
	const cJSON *o, *d;

	printf("%s: %s\n", cmd_text(s, "dir"),
	       cJSON_IsTrue(cJSON_GetObjectItem(s, "healthy")) ? "all well" : "NOT well");
	printf("  worker %.0f since %s, %.0f restarts, %s\n", cmd_number(s, "worker_pid"),
	       cmd_text(s, "worker_started"), cmd_number(s, "restarts"),
	       cJSON_IsTrue(cJSON_GetObjectItem(s, "passthrough")) ? "kernel passthrough" : "no kernel passthrough");
	cJSON_ArrayForEach (o, cJSON_GetObjectItem(s, "databases")) {
		printf("  database %s: txid %.0f, %s, checksum %s, %s\n", cmd_text(o, "name"), cmd_number(o, "txid"),
		       cmd_text(o, "time"), cmd_text(o, "checksum"), cmd_text(o, "journal_mode"));
	}
	print_link(s);
	cJSON_ArrayForEach (o, cJSON_GetObjectItem(s, "targets")) {
		const char *error = cmd_text(o, "last_error");

		printf("  target %s: %s, %s, lag %.1f s, %.0f bytes%s%s\n", cmd_text(o, "name"), cmd_text(o, "state"),
		       cJSON_IsTrue(cJSON_GetObjectItem(o, "encrypted")) ? "encrypted" : "not encrypted",
		       cmd_number(o, "lag_seconds"), cmd_number(o, "lag_bytes"), *error ? ", last error: " : "", error);
		cJSON_ArrayForEach (d, cJSON_GetObjectItem(o, "databases")) {
			const char *why = cmd_text(d, "last_error");

			printf("    %s: txid %.0f%s%s\n", cmd_text(d, "name"), cmd_number(d, "txid"), *why ? ", " : "",
			       why);
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
	        CMD_OPT_JSON(&json),
	        {0},
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
	if (json) {
		cmd_print_json(answer);
	} else {
		cmd_quote_all(answer);
		print_status(answer);
	}
	cJSON_Delete(answer);
	return well ? CMD_EXIT_OK : CMD_EXIT_FAILED;
}
