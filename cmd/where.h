/* where.h - which directory a user means, and whether it is mounted. */
#ifndef FZ_CMD_WHERE_H
#define FZ_CMD_WHERE_H

#include "base/err.h"

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

struct cmd_where {
	char dir[PATH_MAX]; /* absolute, without symbolic links */
	bool mounted;       /* something is mounted exactly there */
	bool fazt;          /* and it is fazt */
	unsigned uid;       /* who mounted it */
};
/* Works on a dead mount (ENOTCONN) too. -ENOENT, -ENOTDIR. */
int cmd_where_find(struct cmd_where *w, const char *arg, struct fz_err *err) FZ_MUST_CHECK;
/* Looks at the mount table again. */
int cmd_where_refresh(struct cmd_where *w, struct fz_err *err) FZ_MUST_CHECK;
/* Waits until the mount is gone from the table: 0, or -FZ_ETIMEOUT. */
int cmd_where_wait_gone(struct cmd_where *w, int64_t timeout_ms, struct fz_err *err) FZ_MUST_CHECK;

#endif
