#include "cmd/args.h"
#include "cmd/ask.h"
#include "cmd/cmd.h"

#include <cJSON.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

int cmd_wait_role(const char *dir, const char *wanted, struct fz_err *err)
{
	struct cmd_where w;
	cJSON *answer = NULL;

	for (;;) {
		const char *role;
		bool done;
		int rc = cmd_ask(dir, cmd_request("status"), 30000, &w, &answer, err);

		if (rc < 0)
			return rc;
		role = cJSON_GetStringValue(cJSON_GetObjectItem(answer, "role"));
		done = role && !strcmp(role, wanted);
		cJSON_Delete(answer);
		if (done)
			return 0;
		(void)!poll(NULL, 0, 2);
	}
}

int cmd_promote(int argc, char **argv)
{
	bool force = false, json = false;
	const struct cmd_opt opts[] = {
	        {"force", 'f', NULL, "although the primary is alive, or holds what never arrived here", &force, NULL,
	         NULL},
	        {"json",   'j', NULL, "print JSON", &json, NULL, NULL},
	        {0},
	};
	const struct cmd_spec spec = {
	        "promote",
	        "[--force] DIR",
	        "Makes the replica mounted on DIR the primary. Connections that applications open "
	        "from then on can write; older ones\n"
	        "stay read-only until they reopen. Refuses when it would lose something, and says "
	        "what.",
	        "fazt promote /var/lib/app\n",
	        1,
	        1,
	        opts};
	cJSON *request, *answer = NULL;
	struct fz_err err = {0};
	struct cmd_where w;
	char **args;
	int n, rc = cmd_args(&spec, argc, argv, &args, &n, &err);

	if (rc == CMD_ARGS_HELP)
		return CMD_EXIT_OK;
	if (rc == 0) {
		request = cmd_request("promote");
		cJSON_AddBoolToObject(request, "force", force);
		rc = cmd_ask(args[0], request, 60000, &w, &answer, &err);
	}
	if (rc == 0)
		rc = cmd_wait_role(args[0], "primary", &err);
	if (rc == 0 && json)
		cmd_print_json(answer);
	else if (rc == 0)
		printf("%s is the primary (epoch %.0f)\n", w.dir,
		       cJSON_GetNumberValue(cJSON_GetObjectItem(answer, "epoch")));
	cJSON_Delete(answer);
	return rc < 0 ? cmd_report(spec.name, &err) : CMD_EXIT_OK;
}
