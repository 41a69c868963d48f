/* ack.h - `ack = replica`: from the configuration to commits that wait for replicas (fs/ack.h, primary/acks.h), and what a replica that takes
 * over does with what it holds. */
#ifndef FZ_CMD_ACK_H
#define FZ_CMD_ACK_H

#include "cmd/config.h"
#include "fs/ack.h"

struct cJSON;
struct cmd_link;
struct primary_acks;

struct cmd_ack {
	struct fs_acks hook;       /* first */
	struct primary_acks *acks; /* NULL: commits wait for nobody */
};

/* "local" (0), "replica" (1), "N replicas". false: none of these. */
bool cmd_ack_parse(const char *text, unsigned *n);
/* Enough hosts may follow. -FZ_ECONFIG. */
int cmd_ack_check(const struct cmd_conf *c, struct fz_err *err) FZ_MUST_CHECK;
/* On a primary, before the capture, which gets &l->ack.hook when l->ack.acks is there. */
int cmd_ack_open(struct cmd_link *l, struct fz_err *err) FZ_MUST_CHECK;
void cmd_ack_close(struct cmd_link *l);
/* The lease has run out: a commit that waits for replicas holds the lock that the fence needs, so it fails; or it is back. */
void cmd_ack_lapse(struct cmd_link *l, bool on);
/* Adds `ack`: {mode: "local"} or {mode: "replica", ... as primary_acks_status()}. */
void cmd_ack_status(struct cmd_link *l, struct cJSON *answer);
/* A replica takes over, nobody follows any more: what it holds in doubt is the last transaction of each log. drop: it is not, since the
 * primary hands over. */
int cmd_ack_settle(struct cmd_link *l, bool drop, struct fz_err *err) FZ_MUST_CHECK;

#endif
