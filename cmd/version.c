#include "cmd/args.h"
#include "cmd/cmd.h"

#include <cJSON.h>
#include <curl/curl.h>
#define FUSE_USE_VERSION 312
#include <fuse_lowlevel.h>
#include <sodium.h>
#include <sqlite3.h>
#include <stdio.h>

int cmd_version(int argc, char **argv)
{
	bool libs = false;
	const struct cmd_opt opts[] = {
	        {"libraries", 0, NULL, "also the libraries it runs with", &libs, NULL, NULL},
	        {0      },
	};
	const struct cmd_spec spec = {"version", "[--libraries]", "Prints the version of fazt.", "fazt version\n", 0, 0,
	                              opts};
	struct fz_err err = {0};
	char **args;
	int n, rc = cmd_args(&spec, argc, argv, &args, &n, &err);

	if (rc == CMD_ARGS_HELP)
		return CMD_EXIT_OK;
	if (rc < 0)
		return cmd_report(spec.name, &err);
	printf("fazt %s\n", FZ_VERSION);
	if (libs)
		printf("libfuse %s\nsqlite %s\n%s\nlibsodium %s\n", fuse_pkgversion(), sqlite3_libversion(),
		       curl_version(), sodium_version_string());
	return CMD_EXIT_OK;
}
