/* doctor.c - `fazt doctor [DIR]`: looks at a host and its mounts, and says what is wrong, why that matters and what to do. */
#include "cmd/doctor.h"

#include "base/file.h"
#include "cmd/args.h"
#include "cmd/ask.h"
#include "cmd/cmd.h"
#include "cmd/control.h"
#include "cmd/given.h"
#include "cmd/harden.h"
#include "cmd/lint.h"
#include "cmd/quote.h"
#include "cmd/state.h"

#include <cJSON.h>
#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timex.h>
#include <unistd.h>

#define ANSWER_MS 5000

const char *cmd_doctor_text(const cJSON *o, const char *key)
{
	const char *v = cJSON_GetStringValue(cJSON_GetObjectItem(o, key));

	return v ? v : "";
}

double cmd_doctor_number(const cJSON *o, const char *key)
{
	const cJSON *v = cJSON_GetObjectItem(o, key);

	return cJSON_IsNumber(v) ? v->valuedouble : 0;
}

void cmd_doctor_host(struct cmd_doctor *d, const char *dir)
{
	struct cmd_probe_kernel *k = &d->kernel;
	struct timex tx = {0};

	if (geteuid() != 0)
		cmd_find(d->findings, FZD_NOT_ROOT, "", dir,
		         "not root: kernel, keys and other processes were not looked at");
	else
		cmd_probe_kernel(dir, k);
	if (geteuid() != 0) {
		/* said */
	} else if (!k->device) {
		cmd_find(d->findings, FZD_NO_FUSE, "", NULL, "%s", k->err.text);
	} else if (!k->mounts) {
		cmd_find(d->findings, FZD_NO_MOUNT, "", NULL, "%s", k->err.text);
	} else {
		if (!k->passthrough)
			cmd_find(d->findings, FZD_NO_PASSTHROUGH, "", NULL, "Linux %s has no FUSE passthrough",
			         k->release);
		if (!k->resend)
			cmd_find(d->findings, FZD_NO_RESEND, "", NULL, "Linux %s cannot resend FUSE requests",
			         k->release);
	}
	if (!getpwnam(CMD_HARDEN_USER))
		cmd_find(d->findings, FZD_NO_USER, "", NULL, "there is no user " CMD_HARDEN_USER);
	if (adjtimex(&tx) == TIME_ERROR || (tx.status & STA_UNSYNC))
		cmd_find(d->findings, FZD_NTP, "", NULL, "the clock is not kept by NTP, as far as the kernel knows");
}

static void look_at(struct cmd_doctor *d, const struct cmd_where *all, size_t n)
{
	cJSON *request = cmd_request("status");
	struct fz_err err = {0};
	int rc;

	d->statefd = -1;
	d->status = NULL;
	cmd_conf_init(&d->conf);
	snprintf(d->state, sizeof(d->state), "%.4000s/.fazt", d->w.dir);
	if (cmd_where_dead(d->w.dir)) {
		cmd_find(d->findings, FZD_DEAD, d->w.dir, NULL, "a dead mount");
		goto out;
	}
	rc = cmd_control_call(&d->w, request, ANSWER_MS, &d->status, NULL, &err);
	if (rc == 0)
		rc = cmd_state_open(&d->w, NULL, &d->statefd, &err);
	if (rc < 0) {
		if (rc == -EACCES || rc == -EPERM)
			cmd_find(d->findings, FZD_NOT_ROOT, d->w.dir, NULL, "%s", err.text);
		else
			cmd_find(d->findings, FZD_NO_ANSWER, d->w.dir, d->state, "%s", err.text);
		goto out;
	}
	snprintf(d->state, sizeof(d->state), "%s", cmd_doctor_text(d->status, "state_dir"));
	if (cmd_state_snapshot(&d->conf, d->statefd, &err) < 0)
		cmd_find(d->findings, FZD_CONFIG, d->w.dir, NULL, "%s", err.text);
	cmd_doctor_mount(d);
	cmd_doctor_files(d);
	cmd_doctor_around(d);
	cmd_doctor_targets(d, all, n);
out:
	cJSON_Delete(request);
	cJSON_Delete(d->status);
	cmd_conf_fini(&d->conf);
	fz_close(&d->statefd);
}

/* The file that the next mount would be given. */
static void look_at_config(struct cmd_doctor *d)
{
	const char *file = getenv("FAZT_CONFIG");
	cJSON *errors = cJSON_CreateArray(), *warnings = cJSON_CreateArray();
	struct fz_err err = {0};
	struct cmd_conf c;
	const cJSON *o;

	file = file && *file ? file : CMD_CONF_DEFAULT;
	if (access(file, F_OK) == 0) {
		if (cmd_lint(&c, file, environ, errors, warnings, &err) < 0)
			cmd_find(d->findings, FZD_CONFIG, "", file, "%s", err.text);
		cmd_conf_fini(&c);
	}
	cJSON_ArrayForEach (o, errors)
		cmd_find(d->findings, FZD_CONFIG, "", file, "%s", cmd_doctor_text(o, "text"));
	cJSON_ArrayForEach (o, warnings)
		cmd_find(d->findings, FZD_CONFIG_SENSE, "", file, "%s", cmd_doctor_text(o, "text"));
	cJSON_Delete(errors);
	cJSON_Delete(warnings);
}

/* A mount that does not answer must not be asked where it is: its name in the mount table is enough. */
static int find(struct cmd_doctor *d, const char *dir, const struct cmd_where *all, size_t n, struct fz_err *err)
{
	char cwd[PATH_MAX] = "", path[2 * PATH_MAX];
	size_t len;

	if (*dir != '/' && !getcwd(cwd, sizeof(cwd)))
		return fz_fail_errno(err, errno, "current directory");
	snprintf(path, sizeof(path), "%s%s%s", cwd, *cwd && strcmp(cwd, "/") != 0 ? "/" : "", dir);
	len = strlen(path);
	while (len > 1 && path[len - 1] == '/')
		path[--len] = 0;
	for (size_t i = 0; i < n; i++)
		if (!strcmp(all[i].dir, path)) {
			d->w = all[i];
			return 0;
		}
	return cmd_where_find(&d->w, dir, err);
}

static void not_mounted(struct cmd_doctor *d)
{
	char unit[CMD_UNIT_SIZE];
	struct fz_buf command = {0};
	int rc = 0;

	if (cmd_state_open(&d->w, NULL, &d->statefd, NULL) < 0)
		d->statefd = -1; /* never mounted, or not for us to see */
	cmd_where_unit(d->w.dir, "fazt@", ".service", unit);
	if (*unit && cmd_doctor_enabled(unit))
		rc = fz_buf_addf(&command, "systemctl start '%s'", unit);
	else
		cmd_given_command(d->statefd, d->w.dir, &command);
	cmd_find(d->findings, FZD_NOT_MOUNTED, d->w.dir, rc < 0 ? NULL : fz_buf_str(&command), "not mounted by fazt");
	fz_buf_fini(&command);
	fz_close(&d->statefd);
}

static int examine(struct cmd_doctor *d, const char *dir, cJSON *looked_at, struct fz_err *err)
{
	struct cmd_where *all = NULL;
	size_t n = 0;
	int rc = cmd_where_all(&all, &n, err);

	if (rc == 0 && dir)
		rc = find(d, dir, all, n, err);
	if (rc < 0)
		goto out;
	cmd_doctor_host(d, dir && !d->w.fazt ? d->w.dir : NULL);
	cJSON_AddItemToArray(looked_at, cJSON_CreateString("this host"));
	look_at_config(d);
	for (size_t i = 0; i < n; i++) {
		if (dir && strcmp(all[i].dir, d->w.dir) != 0)
			continue;
		d->w = all[i];
		cJSON_AddItemToArray(looked_at, cJSON_CreateString(d->w.dir));
		look_at(d, all, n);
	}
	if (dir && !d->w.fazt) {
		cJSON_AddItemToArray(looked_at, cJSON_CreateString(d->w.dir));
		not_mounted(d);
	}
out:
	free(all);
	return rc;
}

static void print(const struct cmd_doctor *d, const cJSON *looked_at)
{
	static const char *const order[] = {"problem", "warning", "note"};
	const cJSON *o;

	printf("looked at");
	cJSON_ArrayForEach (o, looked_at)
		printf("%s %s", o == looked_at->child ? "" : ",", cJSON_GetStringValue(o));
	printf("\n");
	for (size_t i = 0; i < 3; i++)
		cJSON_ArrayForEach (o, d->findings) {
			if (strcmp(cmd_doctor_text(o, "gravity"), order[i]) != 0)
				continue;
			printf("\n%s  %s: %s%s%s\n        why: %s\n        do:  %s\n", cmd_doctor_text(o, "code"),
			       cmd_doctor_text(o, "gravity"), cmd_doctor_text(o, "where"),
			       *cmd_doctor_text(o, "where") ? ": " : "", cmd_doctor_text(o, "what"),
			       cmd_doctor_text(o, "why"), cmd_doctor_text(o, "command"));
		}
	if (!cJSON_GetArraySize(d->findings))
		printf("nothing was found\n");
	else
		printf("\n%d problem(s), %d warning(s), %d note(s)\n", cmd_findings(d->findings, CMD_PROBLEM),
		       cmd_findings(d->findings, CMD_WARNING), cmd_findings(d->findings, CMD_NOTE));
}

int cmd_doctor(int argc, char **argv)
{
	struct cmd_doctor d = {.statefd = -1};
	bool json = false, strict = false;
	const struct cmd_opt opts[] = {
	        CMD_OPT_JSON(&json),
	        {"strict", 0, NULL, "fail for warnings too", &strict, NULL, NULL},
	        {"no-probe",    0, NULL, "write nothing into the targets' stores", &d.no_probe, NULL, NULL},
	        {0},
	};
	const struct cmd_spec spec = {"doctor",
	                              "[--json] [--strict] [--no-probe] [DIR]",
	                              "Looks at this host and a mount (without DIR: all mounts): kernel, clock, "
	                              "worker, databases, state directory, "
	                              "keys,\n"
	                              "configuration, unit, who goes around the mount; and tries each target's store. "
	                              "Each finding has a code "
	                              "(docs/errors.md), a\n"
	                              "reason and a command. Exit code 0: no problem; 1: there is one.",
	                              "fazt doctor\nfazt doctor --json /var/lib/app | jq -r '.findings[].code'\n",
	                              0,
	                              1,
	                              opts};
	cJSON *looked_at = cJSON_CreateArray();
	struct fz_err err = {0};
	int code = CMD_EXIT_OK, n, rc;
	char **args;

	d.findings = cJSON_CreateArray();
	rc = cmd_args(&spec, argc, argv, &args, &n, &err);
	if (rc == CMD_ARGS_HELP)
		goto out;
	if (rc == 0)
		rc = examine(&d, n ? args[0] : NULL, looked_at, &err);
	if (rc < 0) {
		code = cmd_report(spec.name, &err);
		goto out;
	}
	if (cmd_findings(d.findings, CMD_PROBLEM) || (strict && cmd_findings(d.findings, CMD_WARNING)))
		code = CMD_EXIT_FAILED;
	if (json) {
		cJSON *o = cJSON_CreateObject();

		cJSON_AddItemToObject(o, "looked_at", cJSON_Duplicate(looked_at, true));
		cJSON_AddItemToObject(o, "findings", cJSON_Duplicate(d.findings, true));
		cJSON_AddBoolToObject(o, "healthy", cmd_findings(d.findings, CMD_PROBLEM) == 0);
		cmd_print_json(o);
		cJSON_Delete(o);
	} else {
		cmd_quote_all(looked_at);
		cmd_quote_all(d.findings);
		print(&d, looked_at);
	}
out:
	cJSON_Delete(looked_at);
	cJSON_Delete(d.findings);
	return code;
}
