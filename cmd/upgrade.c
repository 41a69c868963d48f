/* upgrade.c - `fazt upgrade DIR`: has the processes of a mount become what is installed, and waits until they are. */
#include "cmd/args.h"
#include "cmd/ask.h"
#include "cmd/cmd.h"

#include "base/clock.h"
#include "cmd/control.h"

#include <cJSON.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#define UPGRADE_MS 60000 /* the worker finishes, the next one starts */
#define REFUSE_MS  25000 /* the supervisor waits for less when it looks at what is installed */
#define LOOK_MS    20

struct serving {
	int worker, supervisor;
	char version[64];
};

static int who_serves(const struct cmd_where *w, struct serving *out, struct fz_err *err)
{
	cJSON *request = cmd_request("status"), *answer = NULL;
	int rc = cmd_control_call(w, request, UPGRADE_MS, &answer, NULL, err);
	const char *version = cJSON_GetStringValue(cJSON_GetObjectItem(answer, "version"));

	*out = (struct serving){0};
	if (rc == 0) {
		out->worker = (int)cJSON_GetNumberValue(cJSON_GetObjectItem(answer, "worker_pid"));
		out->supervisor = (int)cJSON_GetNumberValue(cJSON_GetObjectItem(answer, "supervisor_pid"));
		snprintf(out->version, sizeof(out->version), "%s", version ? version : "?");
	}
	cJSON_Delete(request);
	cJSON_Delete(answer);
	return rc;
}

static int upgrade(const char *dir, struct fz_err *err)
{
	struct serving was, is;
	uint64_t start = fz_mono_ns();
	struct cmd_where w;
	int rc = cmd_where_find(&w, dir, err);

	if (rc == 0 && !w.fazt)
		rc = fz_fail(err, FZ_ENOTMOUNTED, "%s is not mounted by fazt", w.dir);
	if (rc == 0)
		rc = who_serves(&w, &was, err);
	if (rc == 0 && was.supervisor <= 1)
		rc = fz_fail(err, FZ_ENOTMOUNTED, "the supervisor of %s is gone", w.dir);
	if (rc == 0 && kill(was.supervisor, SIGUSR2) < 0)
		rc = fz_fail_errno(err, errno, "telling the supervisor (process %d)", was.supervisor);
	for (is = was; rc == 0 && is.worker == was.worker; rc = who_serves(&w, &is, err)) {
		if (fz_mono_ns() - start > REFUSE_MS * UINT64_C(1000000))
			return fz_fail(err, FZ_EVERSION,
			               "what is installed cannot go on with this mount, so nothing was changed: the "
			               "log says why");
		(void)!poll(NULL, 0, LOOK_MS);
	}
	if (rc == 0 && strcmp(was.version, is.version) != 0)
		printf("%s: fazt %s serves, instead of %s\n", w.dir, is.version, was.version);
	else if (rc == 0)
		printf("%s: fazt %s serves\n", w.dir, is.version);
	return rc;
}

int cmd_upgrade(int argc, char **argv)
{
	const struct cmd_opt opts[] = {{0}};
	const struct cmd_spec spec = {
	        "upgrade",
	        "DIR",
	        "Has the processes of a mount become the fazt that is installed now, where they were started from. "
	        "Applications keep\n"
	        "their open files and locks, and see a pause of milliseconds. What cannot go on with the mount is "
	        "refused\n"
	        "and changes nothing.",
	        "fazt upgrade /var/lib/app\n",
	        1,
	        1,
	        opts};
	struct fz_err err = {0};
	char **args;
	int n, rc = cmd_args(&spec, argc, argv, &args, &n, &err);

	if (rc == 0)
		rc = upgrade(args[0], &err);
	return rc < 0 ? cmd_report(spec.name, &err) : CMD_EXIT_OK;
}
