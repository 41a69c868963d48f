/* branch.h - history that another primary does not share: kept below branches/ in the state directory (ltx_log_branch()),
 * listed by `fazt branches`, and a SOURCE of log, restore and verify as DIR/DB@BRANCH. */
#ifndef FZ_CMD_BRANCH_H
#define FZ_CMD_BRANCH_H

#include "base/err.h"

#include <stdint.h>

struct cmd_branch {
	char id[64];        /* "epoch2-1042" */
	char dir[128];      /* below branches/ */
	char name[512];     /* the database */
	uint32_t epoch;     /* of its last transactions */
	uint64_t from_txid; /* what is shared ends here */
	uint64_t tail_txid;
	int64_t tail_time_ms;
};
/* Calls fn for each, until it returns other than 0, which is returned. */
int cmd_branch_each(int statefd, int (*fn)(const struct cmd_branch *b, void *arg), void *arg,
                    struct fz_err *err) FZ_MUST_CHECK;
/* The state directory of the branch id of that database: a descriptor; -FZ_ENOTFOUND. */
int cmd_branch_open(int statefd, const char *name, const char *id, struct fz_err *err) FZ_MUST_CHECK;

#endif
