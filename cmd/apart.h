/* apart.h - what the worker reads and writes must not lie in the directory that it serves: it would wait for its own answer. */
#ifndef FZ_CMD_APART_H
#define FZ_CMD_APART_H

#include "cmd/config.h"

/* For commands: a worker that resolved the path would ask itself (cmd/alertsend.c has another way). dir as in struct cmd_where. -FZ_ECONFIG when
 * what, a path or the URL of a store (NULL = not set), lies in dir or is dir, as much of it as exists, with links followed. */
int cmd_apart_one(const char *key, const char *what, const char *dir, struct fz_err *err) FZ_MUST_CHECK;
/* The same for the first key whose place lies in dir: targets and other stores that are directories, and files that the worker opens. The
 * state directory is opened before the mount lies over it. */
int cmd_apart_check(const struct cmd_conf *c, const char *dir, struct fz_err *err) FZ_MUST_CHECK;

#endif
