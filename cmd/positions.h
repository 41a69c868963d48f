/* positions.h - keeps the virtual files below .fazt (fs/virtual.h) true: where each database stands on this host. A thread of
 * its own follows the logs (or, on a replica, what is applied), at most every few ms; a reader gets the exact text of its
 * moment, so that whoever reads its position on the primary after a commit finds that commit in it. */
#ifndef FZ_CMD_POSITIONS_H
#define FZ_CMD_POSITIONS_H

#include "base/worker.h"
#include "fs/virtual.h"

struct cmd_link;
struct fs_capture;
struct ltx_logset;

struct cmd_positions {
	/* set by the caller, borrowed */
	struct fs_virtual *files;
	struct ltx_logset *logs;
	struct fs_capture *capture;
	struct cmd_link *link;
	/* its own */
	struct fs_virtual_events events;
	struct fz_worker worker;
	struct cmd_position *known; /* what was said last, by lineage; the thread's */
	size_t n_known;
};
/* Before the mount serves: everything that is known now is said at once. */
int cmd_positions_start(struct cmd_positions *p, struct fz_err *err) FZ_MUST_CHECK;
/* A replica has applied something. Any thread; never blocks. */
void cmd_positions_kick(struct cmd_positions *p);
/* Before logs, link and capture go. Safe when it was never started. */
void cmd_positions_stop(struct cmd_positions *p);

#endif
