/* run.h - an application beside its mount: `fazt run` is its parent, and a container's first process. */
#ifndef FZ_CMD_RUN_H
#define FZ_CMD_RUN_H

#include "base/err.h"

#include <limits.h>
#include <stdint.h>
#include <sys/types.h>

struct cmd_spec;

struct cmd_run {
	char *const *command; /* of the application, ends with NULL */
	const char *exe;      /* this program, to unmount when the supervisor is gone */
	const char *dir;      /* absolute; the three are set before cmd_run_application() */
	int64_t stop_grace_ms;
	pid_t supervisor;   /* this process's child */
	int sigfd;          /* -1 before cmd_run_init() */
	int interrupted;    /* the signal that came before the mount served; 0 = none */
	char cwd[PATH_MAX]; /* where the application starts; it may lie below the mount */
	pid_t app, unmounter;
	int status; /* the application's, as wait(2) gives it */
	int why;    /* errno of what kept it from starting; 0 = it started */
};
/* Before anything is forked: signals come through sigfd from here on, orphans become this process's children, and the
 * working directory is no longer one that is in use. */
int cmd_run_init(struct cmd_run *r, struct fz_err *err) FZ_MUST_CHECK;
/* In a child: what cmd_run_init() changed is as it was. */
void cmd_run_undo(const struct cmd_run *r);
/* Waits until fd can be read. A signal that should end the application ends the supervisor instead, and is noted. */
void cmd_run_wait(struct cmd_run *r, int fd);
/* The mount serves: starts the application, forwards signals, reaps, and unmounts when it has ended. Returns its exit code,
 * 128 + n when signal n ended it, 126 or 127 when it could not be started, 1 when the mount ended first. */
int cmd_run_application(struct cmd_run *r);
void cmd_run_fini(struct cmd_run *r);

/* cmd/mount.c: `fazt mount` as spec tells; with run, beside an application. Returns the exit code. */
int cmd_mount_as(const struct cmd_spec *as, struct cmd_run *run, int argc, char **argv);

#endif
