#include "cmd/args.h"
#include "cmd/ask.h"
#include "cmd/cmd.h"

#include <cJSON.h>
#include <stdio.h>

int cmd_handoff(int argc, char **argv)
{
	const struct cmd_opt opts[] = {{0}};
	const struct cmd_spec spec = {
	        "handoff",
	        "DIR FOLLOWER",
	        "Lets a replica take this primary's place without losing a commit: writers wait while "
	        "the last ones travel, then\n"
	        "the replica is the primary, and this host follows it. FOLLOWER is its key, or its "
	        "host's name as `fazt status` shows it.",
	        "fazt handoff /var/lib/app db2\n",
	        2,
	        2,
	        opts};
	cJSON *request, *answer = NULL;
	struct fz_err err = {0};
	struct cmd_where w;
	char **args;
	int n, rc = cmd_args(&spec, argc, argv, &args, &n, &err);

	if (rc == 0) {
		request = cmd_request("handoff");
		cJSON_AddStringToObject(request, "follower", args[1]);
		rc = cmd_change_role(args[0], request, 90000, "replica", &w, &answer, &err);
	}
	if (rc == 0)
		printf("%s follows %s\n", w.dir, args[1]);
	cJSON_Delete(answer);
	return rc < 0 ? cmd_report(spec.name, &err) : CMD_EXIT_OK;
}
