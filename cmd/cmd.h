/* cmd.h - the subcommands of `fazt`: one function each in cmd/<name>.c, one table in cmd/main.c.
 * Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 not found, 4 verification failed, 5 time is up
 * (`fazt wait`). */
#ifndef FZ_CMD_CMD_H
#define FZ_CMD_CMD_H

#include "base/err.h"

enum cmd_exit {
	CMD_EXIT_OK = 0,
	CMD_EXIT_FAILED = 1,
	CMD_EXIT_USAGE = 2,
	CMD_EXIT_NOT_FOUND = 3,
	CMD_EXIT_VERIFY = 4,
	CMD_EXIT_TIME = 5
};

struct cmd_command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *help; /* NULL = not for people */
};
extern const struct cmd_command cmd_commands[]; /* cmd/main.c; ends with name == NULL */

/* Each takes argv[0] = its own name and returns the exit code. */
int cmd_migrate(int argc, char **argv);
int cmd_mount(int argc, char **argv);
int cmd_run(int argc, char **argv);
int cmd_umount(int argc, char **argv);
int cmd_sync(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_log(int argc, char **argv);
int cmd_restore(int argc, char **argv);
int cmd_import(int argc, char **argv);
int cmd_export(int argc, char **argv);
int cmd_clone(int argc, char **argv);
int cmd_verify(int argc, char **argv);
int cmd_prune(int argc, char **argv);
int cmd_rekey(int argc, char **argv);
int cmd_drop(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_init(int argc, char **argv);
int cmd_keygen(int argc, char **argv);
int cmd_alert(int argc, char **argv);
int cmd_branches(int argc, char **argv);
int cmd_events(int argc, char **argv);
int cmd_handoff(int argc, char **argv);
int cmd_promote(int argc, char **argv);
int cmd_reload(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_tune(int argc, char **argv);
int cmd_config(int argc, char **argv);
int cmd_upgrade(int argc, char **argv);
int cmd_wait(int argc, char **argv);
int cmd_top(int argc, char **argv);
int cmd_complete(int argc, char **argv);
int cmd_version(int argc, char **argv);
#define CMD_ALIVE_MS 10000 /* a former worker or agent is gone by then (fs/alive.h) */
/* Started by the supervisor only: the other two processes of a mount. */
int cmd_worker(int argc, char **argv);
int cmd_agent(int argc, char **argv);
/* What a supervisor becomes in an upgrade (cmd/resume.c). */
int cmd_resume(int argc, char **argv);

/* Prints "fazt NAME: what happened (FZ-1203)" and what to do about it to stderr; returns the exit code of err->code. */
int cmd_report(const char *name, const struct fz_err *err);
/* What a user can do about a code of base/err.h, one sentence; NULL when there is nothing general to say. */
const char *cmd_remedy(int code);

#endif
