/* lease_priv.h - what cmd/lease.c (the thread that talks to the store), cmd/lease_warden.c, cmd/lease_command.c and cmd/lease_conf.c share. */
#ifndef FZ_CMD_LEASE_PRIV_H
#define FZ_CMD_LEASE_PRIV_H

#include "cmd/lease.h"
#include "cmd/worker.h"

#define MS_NS UINT64_C(1000000)

int64_t cmd_lease_duration_ms(const struct cmd_conf *c);
/* The store that holds it. Each request has a third of the duration: then the next one is due. */
int cmd_lease_witness(const struct cmd_conf *c, struct fz_store **out, struct fz_err *err) FZ_MUST_CHECK;
bool cmd_lease_is_replica(struct cmd_lease *l);
/* A command is at work, or a demotion at its last step. */
bool cmd_lease_yielded(struct cmd_lease *l);
/* After each use of l->lease, with l->io held: what status, the warden and the other thread may know. */
void cmd_lease_publish(struct cmd_lease *l, int rc, const struct fz_err *err);
void cmd_lease_warden(void *lease);

#endif
