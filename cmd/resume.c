#include "cmd/resume.h"

#include "base/file.h"
#include "base/log.h"
#include "cmd/ask.h"
#include "cmd/cmd.h"
#include "cmd/control.h"
#include "cmd/logto.h"
#include "cmd/worker.h"
#include "fs/estate.h"
#include "fs/supervisor.h"

#include <cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define ANSWER_MS 10000

/* The directory that was mounted over, without asking the mount. */
static int path_of(int fd, char *out, size_t cap, struct fz_err *err)
{
	char link[40];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, out, cap - 1);
	if (n <= 0)
		return fz_fail_errno(err, errno, "%s", link);
	out[n] = 0;
	return 0;
}

static int go_on(struct fs_estate *e, struct fz_err *err)
{
	char dir[PATH_MAX], exe[PATH_MAX];
	const char *worker[] = {exe, "worker", dir, NULL};
	const char *agent[] = {exe, "agent", dir, NULL};
	const char *reload[] = {exe, "reload", dir, NULL};
	struct fs_supervisor_conf conf = {.dir = dir,
	                                  .worker_argv = worker,
	                                  .agent_argv = agent,
	                                  .reload_argv = reload,
	                                  .estate = e,
	                                  .ready_fd = -1};
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	int lockfd = -1, rc;

	if (n <= 0)
		return fz_fail_errno(err, errno, "/proc/self/exe");
	exe[n] = 0;
	rc = path_of(e->root, dir, sizeof(dir), err);
	if (rc < 0)
		return rc;
	cmd_logto_child("supervisor", e->state, e->logdir, NULL);
	lockfd = openat(e->state, "conf.lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600); /* as cmd/mount.c */
	if (lockfd < 0 || fz_lock(lockfd) < 0)
		rc = fz_fail(err, FZ_EBUSY, "another fazt uses the state directory of %s", dir);
	if (rc == 0)
		rc = fs_supervisor_run(&conf, err);
	fz_log_flush(1);
	if (rc < 0)
		fz_log_err("supervisor", err);
	fz_close(&lockfd);
	return rc;
}

bool cmd_resume_left(int *rc, struct fz_err *err)
{
	struct fs_estate e;

	if (!fs_estate_take(&e))
		return false;
	*rc = go_on(&e, err);
	fs_estate_close(&e);
	return true;
}

/* ---- an orphan ---- */

int cmd_resume_answer(struct cmd_serving *w, const char *part, int *pass_fd, struct fz_err *err)
{
	if (!fs_session_orphan(w->session))
		return fz_fail(err, FZ_EBUSY, "this mount has a supervisor");
	*pass_fd = part ? fs_estate_of_worker(part) : -1;
	return *pass_fd < 0 ? fz_fail(err, FZ_ENOTFOUND, "there is no such descriptor") : 0;
}

static int number(const struct cmd_where *w, const char *key, int64_t timeout_ms)
{
	cJSON *request = cmd_request("status"), *answer = NULL;
	int n = -1;

	if (cmd_control_call(w, request, timeout_ms, &answer, NULL, NULL) == 0)
		n = (int)cJSON_GetNumberValue(cJSON_GetObjectItem(answer, key));
	cJSON_Delete(request);
	cJSON_Delete(answer);
	return n;
}

static int collect(const struct cmd_where *w, struct fs_estate *e, struct fz_err *err)
{
	const char *name;
	bool must;
	int rc = 0;

	fs_estate_init(e);
	e->unkept = true;
	for (size_t i = 0; rc == 0 && (name = fs_estate_name(i, &must)); i++) {
		cJSON *request = cmd_request("estate"), *answer = NULL;
		int fd = -1;

		cJSON_AddStringToObject(request, "part", name);
		rc = cmd_control_call(w, request, ANSWER_MS, &answer, &fd, err);
		if (rc == 0 && fd < 0)
			rc = fz_fail(err, FZ_EINTERNAL, "the worker of %s gave no '%s'", w->dir, name);
		if (rc == 0)
			fs_estate_add(e, name, fd);
		else if (rc == -FZ_ENOTFOUND && !must)
			rc = 0;
		cJSON_Delete(request);
		cJSON_Delete(answer);
	}
	return rc;
}

/* Until the child's worker answers. */
static int wait_for_child(const struct cmd_where *w, pid_t child, struct fz_err *err)
{
	int status;

	while (number(w, "supervisor_pid", ANSWER_MS) != child) {
		if (waitpid(child, &status, WNOHANG) == child)
			return fz_fail(err, FZ_EINTERNAL, "the new supervisor of %s ended at once: its log says why",
			               w->dir);
		(void)!poll(NULL, 0, 20);
	}
	printf("fazt serves %s: its worker had lost its supervisor, and has one again\n", w->dir);
	return 0;
}

bool cmd_resume_orphan(const struct cmd_where *w, bool foreground, int *rc, struct fz_err *err)
{
	struct fs_estate e;
	pid_t child = 0;

	if (number(w, "supervisor_pid", ANSWER_MS) != 0)
		return false;
	*rc = collect(w, &e, err);
	if (*rc == 0 && !foreground) {
		fflush(stdout);
		child = fork();
		if (child < 0)
			*rc = fz_fail_errno(err, errno, "fork");
		if (child == 0) {
			int null = open("/dev/null", O_RDWR | O_CLOEXEC);

			unsetenv("NOTIFY_SOCKET");
			setsid();
			if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(null, 2) < 0)
				_exit(CMD_EXIT_FAILED);
			_exit(go_on(&e, err) < 0 ? CMD_EXIT_FAILED : CMD_EXIT_OK);
		}
	}
	if (*rc == 0)
		*rc = child ? 0 : go_on(&e, err);
	fs_estate_close(&e); /* before it is waited for: who holds /dev/fuse keeps a dead mount alive */
	if (*rc == 0 && child)
		*rc = wait_for_child(w, child, err);
	return true;
}

int cmd_resume(int argc, char **argv)
{
	struct fz_err err = {0};
	int rc = 0;

	if (argc != 2 || !cmd_resume_left(&rc, &err)) {
		fprintf(stderr, "fazt resume: is started by the supervisor of a mount only\n");
		return CMD_EXIT_USAGE;
	}
	return rc < 0 ? fz_err_exit(err.code) : CMD_EXIT_OK;
}
