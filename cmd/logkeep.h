/* logkeep.h - the thread that keeps the local logs small in ordinary work, once every target holds what they hold. (Beyond
 * log_max, with a target that is away, fs/keeper.h gives up detail instead.)
 *
 * A living log keeps log_keep (1 h) of single transactions, and more where there is room: what is older, and needed neither
 * for packs nor levels of any target, is folded into the base when that frees more than 64 MiB and more than the base has,
 * so that at most as much is written again as an application wrote. Without targets the log is all there is: nothing
 * is folded before log_max.
 * An ended log (its database was deleted or renamed) is removed log_keep after its end when every target holds it, and
 * at once when it is one of more than 64 (an application that makes and deletes databases all the time); without targets 30
 * days after it. Its objects in the stores stay. */
#ifndef FZ_CMD_LOGKEEP_H
#define FZ_CMD_LOGKEEP_H

#include "base/worker.h"

struct ltx_logset;
struct cmd_link;
struct primary_ship;

struct cmd_logkeep {
	struct ltx_logset *logs;   /* borrowed */
	struct primary_ship *ship; /* borrowed; NULL = no targets */
	struct cmd_link *link;     /* borrowed; NULL = none: what replicas read, and on a replica what is applied */
	int64_t keep_ms;           /* 0 = 1 h */
	uint64_t worth_bytes;      /* 0 = 64 MiB */
	unsigned crowd;            /* ended logs that may wait for log_keep; 0 = 64 */
	struct fz_worker worker;
	volatile bool cancel; /* read and written atomically */
};
/* k's fields up to worth_bytes are set, the rest is zero. */
int cmd_logkeep_start(struct cmd_logkeep *k, struct fz_err *err) FZ_MUST_CHECK;
/* Before ship and logs go. Safe when it was never started. */
void cmd_logkeep_stop(struct cmd_logkeep *k);
/* One look at all logs, as the thread does: how many were folded or removed. */
unsigned cmd_logkeep_pass(struct cmd_logkeep *k, int64_t now_ms);

#endif
