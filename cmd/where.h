/* where.h - which directory a user means, and whether it is mounted. */
#ifndef FZ_CMD_WHERE_H
#define FZ_CMD_WHERE_H

#include "base/err.h"

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cmd_where {
	char dir[PATH_MAX]; /* absolute, without symbolic links */
	bool mounted;       /* something is mounted exactly there */
	bool fazt;          /* and it is fazt */
	unsigned uid;       /* who mounted it */
};
/* Works on a mount that is dead (ENOTCONN), or does not answer. -ENOENT, -ENOTDIR. */
int cmd_where_find(struct cmd_where *w, const char *arg, struct fz_err *err) FZ_MUST_CHECK;
/* Every mount of fazt that this process sees, each once, heap; *n of them. */
int cmd_where_all(struct cmd_where **out, size_t *n, struct fz_err *err) FZ_MUST_CHECK;
/* Looks at the mount table again. */
int cmd_where_refresh(struct cmd_where *w, struct fz_err *err) FZ_MUST_CHECK;
/* The name of a systemd unit for a directory: "fazt@", "/var/lib/my-app", ".service" -> "fazt@var-lib-my\\x2dapp.service", as
 * systemd-escape --path does it. "" when that is too long for a unit's name (255 bytes). */
#define CMD_UNIT_SIZE 256
void cmd_where_unit(const char *dir, const char *before, const char *after, char out[static CMD_UNIT_SIZE]);
/* Waits until the mount is gone from the table: 0, or -FZ_ETIMEOUT. */
int cmd_where_wait_gone(struct cmd_where *w, int64_t timeout_ms, struct fz_err *err) FZ_MUST_CHECK;
/* True when the kernel has given the connection up: nobody holds /dev/fuse any more. Attributes are cached and would be
 * answered all the same, statvfs() never is. A child asks, since the question hangs while somebody holds /dev/fuse and
 * does not answer; at most 3 s. */
bool cmd_where_dead(const char *dir);

#endif
