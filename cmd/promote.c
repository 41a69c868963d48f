#include "cmd/args.h"
#include "cmd/ask.h"
#include "cmd/cmd.h"

#include <cJSON.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

int cmd_change_role(const char *dir, struct cJSON *request, int64_t timeout_ms, const char *role, struct cmd_where *w,
                    struct cJSON **answer, struct fz_err *err)
{
	int rc = cmd_ask(dir, request, timeout_ms, w, answer, err);
	bool done = false;

	while (rc == 0 && !done) {
		cJSON *status = NULL;
		const char *is;

		rc = cmd_ask(dir, cmd_request("status"), 30000, w, &status, err);
		is = cJSON_GetStringValue(cJSON_GetObjectItem(status, "role"));
		done = is && !strcmp(is, role);
		cJSON_Delete(status);
		if (rc == 0 && !done)
			(void)!poll(NULL, 0, 2);
	}
	return rc;
}

int cmd_promote(int argc, char **argv)
{
	bool force = false, json = false;
	const struct cmd_opt opts[] = {
	        {"force", 'f', NULL, "although the primary is alive, or holds what never arrived here", &force, NULL,
	         NULL},
	        CMD_OPT_JSON(&json),
	        {0  },
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

	if (rc == 0) {
		request = cmd_request("promote");
		cJSON_AddBoolToObject(request, "force", force);
		rc = cmd_change_role(args[0], request, 60000, "primary", &w, &answer, &err);
	}
	if (rc == 0 && json)
		cmd_print_json(answer);
	else if (rc == 0)
		printf("%s is the primary (epoch %.0f)\n", w.dir,
		       cJSON_GetNumberValue(cJSON_GetObjectItem(answer, "epoch")));
	cJSON_Delete(answer);
	return rc < 0 ? cmd_report(spec.name, &err) : CMD_EXIT_OK;
}
