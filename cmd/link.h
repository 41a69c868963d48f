/* link.h - from the configuration to the links between hosts: a server for whoever may follow this host, and on a
 * replica the follower of another one with what applies its transactions. */
#ifndef FZ_CMD_LINK_H
#define FZ_CMD_LINK_H

#include "cmd/ack.h"
#include "cmd/config.h"
#include "cmd/positions.h"
#include "cmd/role.h"
#include "primary/server.h"
#include "replica/applier.h"
#include "ltx/age.h"
#include "replica/follow.h"
#include "replica/followstore.h"
#include "replica/herald.h"

#include <pthread.h>

struct cJSON;
struct fs_capture;

struct cmd_link {
	/* borrowed, set by the caller */
	int statefd;
	const struct cmd_conf *conf;
	struct ltx_logset *logs;
	struct fs_capture *capture;
	atomic_bool detaching; /* the agent lets go of the databases: what it says about them is old */
	struct cmd_role role;  /* under mu while it follows */
	bool handing; /* the promotion that is under way is one that the primary asked for: nothing is in doubt */
	/* owned */
	struct cmd_ack ack;
	struct cmd_positions positions;
	struct replica_applier_events applier_events;
	struct replica_follow_events follow_events;
	struct primary_server_events server_events;
	struct replica_applier *applier;
	struct replica_herald *heralds[CMD_ROLE_FORMERS];
	struct replica_herald_events herald_events;
	bool turning;             /* mu: this host's role is being changed, for good; the file is that change's alone */
	struct fz_worker demoter; /* a host of a higher epoch has spoken: runs on_superseded() once */
	uint8_t superior_key[32];
	struct ltx_wire_hello superior; /* mu */
	struct fz_worker promoter;      /* the primary hands over, or its lease has run out: runs on_promote() */
	atomic_bool promoter_idle;      /* that has failed, and may be tried again */
	void (*on_superseded)(struct cmd_link *l), (*on_promote)(struct cmd_link *l); /* set by the caller */
	pthread_mutex_t mu; /* follow: what applies tells it, and may still do so while it stops */
	struct replica_follow *follow;
	struct replica_followstore *store; /* mu, as follow */
	struct ltx_age_identities follow_ids;
	struct primary_server *server;
	struct primary_follower *followers;
	size_t n_followers;
};

/* cmd/linkconf.c: keys, addresses and what belongs together: the host's key is readable (0600) and none of those that backups are encrypted
 * for; -FZ_ECONFIG, -FZ_EKEYFILE. */
int cmd_link_check(const struct cmd_conf *c, struct fz_err *err) FZ_MUST_CHECK;
/* The host's key; wipe it. -FZ_ECONFIG when none is configured. */
int cmd_link_secret(const struct cmd_conf *c, uint8_t out[static 32], struct fz_err *err) FZ_MUST_CHECK;
/* Who may follow: c->followers.n of them. */
int cmd_link_followers(const struct cmd_conf *c, struct primary_follower **out, struct fz_err *err) FZ_MUST_CHECK;
void cmd_link_followers_free(struct primary_follower *v, size_t n);
/* Listens, when the configuration says so. */
int cmd_link_serve(struct cmd_link *l, struct fz_err *err) FZ_MUST_CHECK;
/* A replica: the agent applies (agent_fd is owned), the follower follows. */
int cmd_link_apply(struct cmd_link *l, int agent_fd, struct fz_err *err) FZ_MUST_CHECK;
int cmd_link_follow(struct cmd_link *l, struct fz_err *err) FZ_MUST_CHECK;
/* All that the logs hold is made durable, and shall be applied. */
int cmd_link_post(struct cmd_link *l, struct fz_err *err) FZ_MUST_CHECK;
void cmd_link_init(struct cmd_link *l);
/* The caller is about to change the role; false = another change is under way. Ends with this process. */
bool cmd_link_turn(struct cmd_link *l);
void cmd_link_turn_not(struct cmd_link *l); /* it comes to nothing */
/* What this host says about itself. Under mu while it follows. */
void cmd_link_hello(const struct cmd_link *l, struct ltx_wire_hello *h);
/* A host of a higher epoch has spoken. */
bool cmd_link_superseded(struct cmd_link *l);
/* Another host is the primary of a higher epoch: becomes its replica, in a thread of its own. key: its public key. */
void cmd_link_supersede(struct cmd_link *l, const uint8_t key[static 32], const struct ltx_wire_hello *h);
/* This host takes over, in a thread of its own, unless one is at it. handing: the primary has asked for it. */
void cmd_link_promote(struct cmd_link *l, bool handing);
/* For the demoter: waits; true when it shall end. */
bool cmd_link_ending(struct cmd_link *l, int64_t ms);
/* The store that is followed, alone or behind the link (cmd/linkstore.c). */
int cmd_link_check_store(const struct cmd_conf *c, struct fz_err *err) FZ_MUST_CHECK;
int cmd_link_follow_store(struct cmd_link *l, struct fz_err *err) FZ_MUST_CHECK;
void cmd_link_unfollow_store(struct cmd_link *l);
/* What status calls `following`, of whoever follows at this moment; source says which. Returns whether the primary is connected. */
bool cmd_link_following(struct cmd_link *l, struct cJSON *o);
/* Nothing comes in any more; what has come goes on to be applied. */
void cmd_link_unfollow(struct cmd_link *l);
/* Stops all that was started, in order. */
void cmd_link_stop(struct cmd_link *l);
/* connected, and databases: [{name, txid, primary_txid}]: what this host shows, and what is known to be there. */
void cmd_link_positions(struct cmd_link *l, struct cJSON *answer);
/* "HOST:PORT\n" of the primary, or this host's name when it is that itself. */
void cmd_link_primary(struct cmd_link *l, char *out, size_t cap);
/* ms that a replicated database is behind, at least; 0 on a primary. */
int64_t cmd_link_lag(struct cmd_link *l, const char *name);
/* role, epoch, primary (address), link_address, `not_told` (former primaries that have not heard yet), and a list `replicas`; on a replica also `following` and the databases. */
void cmd_link_status(struct cmd_link *l, struct cJSON *answer);

#endif
