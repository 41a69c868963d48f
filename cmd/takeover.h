/* takeover.h - a host changes its role while it serves: what is done before worker and agent start anew as the other. */
#ifndef FZ_CMD_TAKEOVER_H
#define FZ_CMD_TAKEOVER_H

#include "cmd/worker.h"

/* `fazt promote`: this replica becomes the primary. Refused (-FZ_EBUSY) when the primary is connected or known to hold more, unless forced;
 * the answer lists what would be lost (`behind`: [{name, txns}]). On success the epoch is raised and the processes of
 * the new role are on their way; answer: epoch. */
int cmd_promote_answer(struct cmd_serving *w, bool force, struct cJSON *answer, struct fz_err *err) FZ_MUST_CHECK;

/* A worker's start: what a promotion that died left to do, so that every log begins the epoch that the role file names. Before the logs are
 * used. Tried again by the next start when it fails (a full disk). */
int cmd_promote_finish(struct cmd_serving *w, struct fz_err *err) FZ_MUST_CHECK;

/* `fazt handoff`: no application commits any more, the follower gets the rest and takes over, and this host follows it. When it does not, this
 * host goes on as the primary. */
int cmd_handoff_answer(struct cmd_serving *w, const char *follower, struct fz_err *err) FZ_MUST_CHECK;
/* Another host is the primary of a higher epoch, or leads to it: this one stops taking commits, keeps what it has, and follows it. A
 * replica follows it too, instead of whom it followed (cmd/herald.h). Called by the link's own thread; goes on until it is done. */
void cmd_demote(struct cmd_serving *w, const uint8_t key[static 32], const struct ltx_wire_hello *h);

#endif
