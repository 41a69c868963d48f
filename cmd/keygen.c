#include "cmd/args.h"
#include "cmd/cmd.h"
#include "ltx/age.h"

#include <stdio.h>

int cmd_keygen(int argc, char **argv)
{
	const char *file = NULL;
	const struct cmd_opt opts[] = {
	        {"output", 'o', "KEY", "file for the identity (made 0600, never overwritten)", NULL, &file, NULL},
	        {0  },
	};
	const struct cmd_spec spec = {"keygen",
	                              "-o KEY",
	                              "Makes an age identity (X25519) and prints its recipient. The recipient is "
	                              "public: it goes to `fazt mount\n"
	                              "--recipient`. The identity is secret and is all that can read the backups: keep "
	                              "it away from this machine.",
	                              "fazt keygen -o backup.key\nage -d -i backup.key object.ltx.age > object.ltx\n",
	                              0,
	                              0,
	                              opts};
	char text[LTX_AGE_RECIPIENT_SIZE];
	struct ltx_age_recipient r;
	struct fz_err err = {0};
	char **args;
	int n, rc = cmd_args(&spec, argc, argv, &args, &n, &err);

	if (rc == CMD_ARGS_HELP)
		return CMD_EXIT_OK;
	if (rc == 0 && !file)
		rc = fz_fail(&err, FZ_EUSAGE, "an argument is missing: fazt keygen -o KEY");
	if (rc == 0)
		rc = ltx_age_keygen(file, &r, &err);
	if (rc < 0)
		return cmd_report(spec.name, &err);
	printf("%s\n", ltx_age_recipient_format(text, &r));
	return CMD_EXIT_OK;
}
