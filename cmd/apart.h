/* apart.h - what the worker reads and writes must not lie in the directory that it serves: it would wait for its own answer. */
#ifndef FZ_CMD_APART_H
#define FZ_CMD_APART_H

#include "cmd/config.h"

/* True when path, or as much of it as exists, lies in dir or is dir, with links followed. dir as in struct cmd_where. For commands: a
 * worker that resolved the path would ask itself (cmd/alertsend.c has another way). */
bool cmd_apart_within(const char *path, const char *dir);
/* -FZ_ECONFIG, and the first key whose place lies in dir: targets and other stores that are directories, and files that the worker opens. The
 * state directory is opened before the mount lies over it. */
int cmd_apart_check(const struct cmd_conf *c, const char *dir, struct fz_err *err) FZ_MUST_CHECK;

#endif
