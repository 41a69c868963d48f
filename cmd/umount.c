#include "cmd/args.h"
#include "cmd/ask.h"
#include "cmd/cmd.h"

#include "base/clock.h"
#include "base/file.h"
#include "fs/inuse.h"

#include <cJSON.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define GONE_MS                                                                                                        \
	60000 /* capture, the targets' grace and umount(2) take less; so does an answer that waits for no target */
#define AGENT_MS 2000

/* Waits for a process that is not our child to end. */
static void wait_process(int pid, int timeout_ms)
{
	struct pollfd p = {.events = POLLIN};

	p.fd = pid > 1 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
	if (p.fd >= 0)
		(void)!poll(&p, 1, timeout_ms);
	fz_close(&p.fd);
}

static int remove_dead(const struct cmd_where *w, struct fz_err *err)
{
	pid_t pid;
	int status;

	if (umount2(w->dir, UMOUNT_NOFOLLOW) == 0)
		return 0;
	if (errno != EPERM)
		return fz_fail_errno(err, errno, "%s is a dead mount and cannot be unmounted", w->dir);
	pid = fork();
	if (pid == 0) {
		execlp("fusermount3", "fusermount3", "-u", "--", w->dir, (char *)NULL);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0 || !WIFEXITED(status) || WEXITSTATUS(status))
		return fz_fail_errno(err, EPERM, "%s is a dead mount and cannot be unmounted", w->dir);
	return 0;
}

/* What the supervisor would do: nobody may have a file open, the worker finishes its work and ends, and with it the
 * connection; then the mount can go. */
static int without_supervisor(const struct cmd_where *w, pid_t worker, struct fz_err *err)
{
	uint64_t end = fz_mono_ns() + AGENT_MS * UINT64_C(1000000);
	char who[512];

	while (fs_inuse_find(w->dir, &worker, 1, who, sizeof(who))) {
		if (fz_mono_ns() >= end)
			return fz_fail(err, FZ_EBUSY, "%s", who);
		(void)!poll(NULL, 0, 20); /* the agent is just ending */
	}
	if (worker <= 1 || kill(worker, SIGTERM) < 0)
		return fz_fail_errno(err, errno, "cannot stop the worker of %s", w->dir);
	wait_process(worker, GONE_MS);
	return remove_dead(w, err);
}

static int unmount(const char *dir, bool wait, bool force, int64_t timeout_ms, struct fz_err *err)
{
	cJSON *request = cmd_request("umount"), *answer = NULL;
	struct fz_err why = {0};
	struct cmd_where w;
	int rc;

	cJSON_AddBoolToObject(request, "wait", wait);
	cJSON_AddBoolToObject(request, "force", force);
	cJSON_AddNumberToObject(request, "timeout_ms", (double)timeout_ms);
	rc = cmd_ask(dir, request, timeout_ms >= 0 ? timeout_ms + 30000 : wait ? -1 : GONE_MS, &w, &answer, err);
	if (rc == -FZ_ENOTMOUNTED && w.fazt)
		return 0; /* it was there when we came, and went while we asked */
	if (rc == -ENOENT || rc == -ECONNREFUSED || rc == -EPIPE) {
		if (!cmd_where_dead(w.dir))
			return fz_err_prefix(err,
			                     "%s is mounted but its worker does not answer (its log says why; SIGTERM "
			                     "to its supervisor unmounts it when nobody has a file open)",
			                     w.dir);
		rc = remove_dead(&w, err);
		if (rc == 0)
			fprintf(stderr,
			        "fazt umount: the mount on %s was dead and has been removed; what was committed is in "
			        "its "
			        "files, and the next mount captures it\n",
			        w.dir);
		return rc;
	}
	if (rc == 0 && cJSON_IsTrue(cJSON_GetObjectItem(answer, "orphan")))
		rc = without_supervisor(&w, cJSON_GetObjectItem(answer, "pid")->valueint, err);
	else if (rc == 0)
		rc = cmd_where_wait_gone(&w, GONE_MS, &why);
	if (rc < 0 && why.code)
		*err = why;
	if (rc == 0)
		wait_process(cJSON_IsNumber(cJSON_GetObjectItem(answer, "supervisor_pid"))
		                     ? cJSON_GetObjectItem(answer, "supervisor_pid")->valueint
		                     : 0,
		             GONE_MS);
	cJSON_Delete(answer);
	return rc;
}

int cmd_umount(int argc, char **argv)
{
	const char *timeout = NULL;
	bool wait = false, force = false;
	const struct cmd_opt opts[] = {
	        {"wait", 'w', NULL, "first wait until every target holds every commit", &wait, NULL, NULL},
	        {"timeout",  0, "S", "with --wait: give up after S seconds, and stay mounted", NULL, &timeout, NULL},
	        {"force", 0, NULL, "unmount even when the local log cannot take what was committed last", &force, NULL,
	         NULL},
	        {0 },
	};
	const struct cmd_spec spec = {
	        "umount",
	        "[--wait] [--timeout S] [--force] DIR",
	        "Stops serving DIR: everything captured is in the local log first. Refuses while "
	        "a program has a file of DIR\n"
	        "open, and names it. Also removes a mount whose processes were killed. With --force the "
	        "next mount compares the\n"
	        "databases with their logs, and captures the difference as one transaction.",
	        "fazt umount --wait /var/lib/app\n",
	        1,
	        1,
	        opts};
	struct fz_err err = {0};
	int64_t ms = -1;
	char **args;
	int n, rc = cmd_args(&spec, argc, argv, &args, &n, &err);

	if (rc == 0)
		rc = cmd_timeout(timeout, -1, &ms, &err);
	if (rc == 0)
		rc = unmount(args[0], wait, force, ms, &err);
	return rc < 0 ? cmd_report(spec.name, &err) : CMD_EXIT_OK;
}
