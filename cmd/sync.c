#include "cmd/args.h"
#include "cmd/ask.h"
#include "cmd/cmd.h"

#include <cJSON.h>
#include <stdbool.h>

int cmd_sync(int argc, char **argv)
{
	const char *timeout = NULL;
	bool wait = false;
	const struct cmd_opt opts[] = {
	        {"wait", 'w', NULL, "return when every target holds every commit made before the call", &wait, NULL,
	         NULL},
	        {"timeout",  0, "S", "give up after S seconds (or 500ms, 10m, 2h) with exit code 1", NULL, &timeout,
	         NULL},
	        {0},
	};
	const struct cmd_spec spec = {"sync",
	                              "[--wait] [--timeout S] DIR",
	                              "Captures what is committed and syncs the local log. With --wait, ships at once "
	                              "and waits for the targets.",
	                              "fazt sync --wait --timeout 30 /var/lib/app\n",
	                              1,
	                              1,
	                              opts};
	cJSON *request, *answer = NULL;
	struct fz_err err = {0};
	struct cmd_where w;
	int64_t ms = -1;
	char **args;
	int n, rc = cmd_args(&spec, argc, argv, &args, &n, &err);

	if (rc == 0)
		rc = cmd_timeout(timeout, -1, &ms, &err);
	if (rc == 0) {
		request = cmd_request("sync");
		cJSON_AddBoolToObject(request, "wait", wait);
		cJSON_AddNumberToObject(request, "timeout_ms", (double)ms);
		/* The worker keeps the time; it gets a little longer to say so. */
		rc = cmd_ask(args[0], request, ms < 0 ? -1 : ms + 10000, &w, &answer, &err);
	}
	cJSON_Delete(answer);
	return rc < 0 ? cmd_report(spec.name, &err) : CMD_EXIT_OK;
}
