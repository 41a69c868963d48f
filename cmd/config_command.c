/* config_command.c - `fazt config check`. */
#include "cmd/args.h"
#include "cmd/ask.h"
#include "cmd/change.h"
#include "cmd/cmd.h"
#include "cmd/lint.h"

#include <cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The configuration in effect, without secrets. */
static int print_effective(const struct cmd_conf *c, struct fz_err *err)
{
	struct fz_buf text = {0};
	int rc = cmd_conf_format(c, &text, err);
	bool hidden = false;

	for (const char *p = fz_buf_str(&text); rc == 0 && *p;) {
		size_t n = strcspn(p, "\n"), key = strcspn(p, " ");
		char name[64];

		if (*p != ' ') { /* of a value that goes on all lines are hidden */
			snprintf(name, sizeof(name), "%.*s", (int)(key < n ? key : n), p);
			hidden = cmd_change_secret(name);
			if (hidden)
				printf("# %s is set\n", name);
		}
		if (!hidden)
			printf("%.*s\n", (int)n, p);
		p += n + (p[n] == '\n');
	}
	if (text.data)
		explicit_bzero(text.data, text.size);
	fz_buf_fini(&text);
	return rc;
}

static void print_list(const cJSON *list, const char *what)
{
	const cJSON *o;

	cJSON_ArrayForEach (o, list)
		fprintf(stderr, "%s: %s\n", what, cJSON_GetStringValue(cJSON_GetObjectItem(o, "text")));
}

static void print_json(const char *file, cJSON *errors, cJSON *warnings)
{
	cJSON *o = cJSON_CreateObject();

	cJSON_AddStringToObject(o, "file", file);
	cJSON_AddBoolToObject(o, "valid", cJSON_GetArraySize(errors) == 0);
	cJSON_AddItemToObject(o, "errors", cJSON_Duplicate(errors, true));
	cJSON_AddItemToObject(o, "warnings", cJSON_Duplicate(warnings, true));
	cmd_print_json(o);
	cJSON_Delete(o);
}

int cmd_config(int argc, char **argv)
{
	bool print = false, json = false, strict = false;
	const struct cmd_opt opts[] = {
	        {"print", 'p', NULL, "print the configuration in effect: file, then FAZT_* (no secrets)", &print, NULL,
	         NULL},
	        CMD_OPT_JSON(&json),
	        {"strict",   0, NULL, "fail when there are warnings too", &strict, NULL, NULL},
	        {0},
	};
	const struct cmd_spec spec = {"config",
	                              "check [--print] [--json] [--strict] [FILE]",
	                              "Checks a configuration file (" CMD_CONF_DEFAULT
	                              ") as a mount would: every wrong line with its number, key files\n"
	                              "and their modes, recipients, URLs; and warns of settings that contradict each "
	                              "other or have no effect. "
	                              "Asks no store: `fazt\n"
	                              "doctor` does. Exit code 0: it can be mounted with; 2: it cannot.",
	                              "fazt config check\nfazt config check --print /etc/fazt/app.conf\n",
	                              1,
	                              2,
	                              opts};
	cJSON *errors = cJSON_CreateArray(), *warnings = cJSON_CreateArray();
	const char *file = getenv("FAZT_CONFIG");
	struct fz_err err = {0};
	struct cmd_conf c;
	char **args;
	int n, n_errors = 0, rc = cmd_args(&spec, argc, argv, &args, &n, &err);

	cmd_conf_init(&c);
	if (rc == CMD_ARGS_HELP)
		goto out;
	if (rc == 0 && strcmp(args[0], "check") != 0)
		rc = fz_fail(&err, FZ_EUSAGE, "there is no `fazt config %s`: fazt config check", args[0]);
	if (rc < 0)
		goto out;
	file = n > 1 ? args[1] : file && *file ? file : CMD_CONF_DEFAULT;
	rc = cmd_lint(&c, file, environ, errors, warnings, &err);
	if (rc < 0)
		goto out;
	n_errors = cJSON_GetArraySize(errors);
	if (strict)
		n_errors += cJSON_GetArraySize(warnings);
	if (json) {
		print_json(file, errors, warnings);
	} else {
		print_list(errors, "error");
		print_list(warnings, "warning");
	}
	if (n_errors)
		rc = fz_fail(&err, FZ_ECONFIG, "%s: %d error%s, %d warning%s", file, cJSON_GetArraySize(errors),
		             cJSON_GetArraySize(errors) == 1 ? "" : "s", cJSON_GetArraySize(warnings),
		             cJSON_GetArraySize(warnings) == 1 ? "" : "s");
	else if (print && !json)
		rc = print_effective(&c, &err);
	else if (!json)
		printf("%s can be mounted with\n", file);
out:
	cmd_conf_fini(&c);
	cJSON_Delete(errors);
	cJSON_Delete(warnings);
	return rc < 0 ? cmd_report(spec.name, &err) : CMD_EXIT_OK;
}
