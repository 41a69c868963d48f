/* logto.h - where the processes of a mount log to: journald or stderr in the foreground, else a file of bounded size.
 *
 * The file may lie in the state directory, which the mount hides, or elsewhere below it: so its directory is opened before the mount
 * is there, and handed on (FS_FD_LOGDIR). Whether that is there tells worker and agent that they log to a file. */
#ifndef FZ_CMD_LOGTO_H
#define FZ_CMD_LOGTO_H

#include "cmd/config.h"

#include <limits.h>
#include <sys/types.h>

struct cmd_logto {
	char path[PATH_MAX]; /* "" = stderr */
	char name[NAME_MAX + 1];
	int dirfd, fd; /* -1 = none; dirfd -1 with fd: no file that could be moved (/dev/stderr) */
	off_t start;   /* size of the file before */
};

/* Opens the file of the configuration, or fazt.log in statefd, which is state_dir; nothing in the foreground without log_file. */
int cmd_logto_open(struct cmd_logto *l, const struct cmd_conf *c, int statefd, const char *state_dir, bool foreground,
                   struct fz_err *err) FZ_MUST_CHECK;
/* This process, who, logs there from now on. l stays open for as long as it does. */
int cmd_logto_use(struct cmd_logto *l, const char *who, const struct cmd_conf *c, struct fz_err *err) FZ_MUST_CHECK;
void cmd_logto_close(struct cmd_logto *l);
/* Copies the file's error lines since the start to stderr, for the one who waits at the terminal. */
void cmd_logto_show_errors(const struct cmd_logto *l);

/* In a worker, an agent, or a supervisor that goes on: level and form of the configuration (NULL: of the snapshot in the state directory), and
 * the file in dirfd (FS_FD_LOGDIR; borrowed for ever; stderr where nothing is open there). Says what does not work and goes on. */
void cmd_logto_child(const char *who, int statefd, int dirfd, const struct cmd_conf *c);

#endif
