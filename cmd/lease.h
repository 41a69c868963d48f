/* lease.h - failover = auto: the lease in the store (primary/lease.h), held by the primary, taken by a replica when it has run out.
 *
 * THREADS  `lease` talks to the store: renews every third of the duration, or looks every fifth. `warden` (a primary's) never does: every
 *          twentieth it tells the agent's switch (fs/deadman.h) and the capture (fs_capture_lapse()) until when commits may be accepted,
 *          and has new databases pinned. Without word from the agent the lease is not renewed. What neither can do, being stuck or
 *          dead, the clock does: the agent locks by itself.
 * TIMES    of a lease of D, from before the last renewal: D/3 the next one, 3/4 D fenced, 7/8 D who still writes is killed; D it ends;
 *          a replica takes it 5/4 D after it saw the renewal, at the earliest. */
#ifndef FZ_CMD_LEASE_H
#define FZ_CMD_LEASE_H

#include "base/worker.h"
#include "cmd/config.h"
#include "fs/deadman.h"
#include "primary/lease.h"

#include <stdatomic.h>

struct cJSON;
struct cmd_serving;

struct cmd_lease {
	bool on; /* failover = auto; all calls do nothing without it */
	struct cmd_serving *w;
	char *url; /* of the witness, without secrets */
	struct fz_worker thread, warden;
	pthread_mutex_t io; /* one at a time uses `lease`, over requests */
	struct primary_lease lease;
	bool found;         /* io: how it stands has been logged */
	char stood_for[33]; /* io: the version of the lease for which this host is a candidate, since stood_ns */
	uint64_t stood_ns;
	uint64_t mine_ns; /* io: since when a replica has had the lease; 0 = it has not */

	pthread_mutex_t mu;        /* inside io; guards all below */
	struct primary_lease seen; /* as it was when the last request was answered */
	uint64_t until_ns;
	int64_t renewed_ms; /* fz_now_ms() of the last renewal */
	struct fz_err trouble, agent_trouble;
	uint64_t agent_ns; /* the agent last said that it is armed */
	unsigned yield;    /* a command changes the role: the threads leave lease and locks alone */
	/* the warden's own */
	struct fs_deadman_state agent;
	int agent_fd;       /* pidfd */
	atomic_bool fenced; /* the locks of all databases were asked for; a handoff that failed sets it too */
	uint64_t pinned_ns;
};

/* failover, lease and witness fit together; -FZ_ECONFIG. */
int cmd_lease_check(const struct cmd_conf *c, struct fz_err *err) FZ_MUST_CHECK;
void cmd_lease_init(struct cmd_lease *l, struct cmd_serving *w);
/* Before anything is served: a primary accepts nothing from here on until it has its lease. */
int cmd_lease_open(struct cmd_lease *l, struct fz_err *err) FZ_MUST_CHECK;
/* The threads. After the link, which they may set in motion. */
int cmd_lease_start(struct cmd_lease *l, struct fz_err *err) FZ_MUST_CHECK;
void cmd_lease_stop(struct cmd_lease *l); /* the threads end; what asks from now on is refused */
void cmd_lease_fini(struct cmd_lease *l);

/* A replica is about to become the primary: the lease is ours afterwards, and *epoch (in: the lowest that will do) is what it says. Not
 * forced: -FZ_EBUSY while another's may be in force. Forced: taken at once, and then waited for until the other one's has run out. */
int cmd_lease_acquire(struct cmd_lease *l, bool force, uint32_t *epoch, struct fz_err *err) FZ_MUST_CHECK;
/* The threads leave lease and locks alone, or no longer. Counted. */
void cmd_lease_yield(struct cmd_lease *l, bool on);
/* For that follower (its key, name or host); yielded, and everything is fenced. */
int cmd_lease_release(struct cmd_lease *l, const char *follower, struct fz_err *err) FZ_MUST_CHECK;
/* Adds the object `lease`, and what is wrong with it. */
void cmd_lease_status(struct cmd_lease *l, struct cJSON *answer);

#endif
