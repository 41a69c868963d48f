/* applier.h - both ends of the talk between the worker of a replica and its agent, which applies transactions to the mount
 * (replica/apply.h): the worker says how far each log may be applied, the agent says how far it is. One SEQPACKET socket
 * pair (FS_FD_AGENT); messages of fixed layout; nothing waits for an answer but replica_applier_hold() and _detach(). The agent reads
 * the logs itself from the state directory, read-only, one thread for each database, so that none delays another; an agent
 * that dies is replaced by the supervisor, and the worker says everything again. */
#ifndef FZ_REPLICA_APPLIER_H
#define FZ_REPLICA_APPLIER_H

#include "replica/apply.h"

#include <stdbool.h>
#include <stdint.h>

struct replica_applier;

struct replica_applied { /* what the agent last said about a lineage */
	char name[512], lineage[17];
	struct replica_apply_state state;
	struct fz_err err; /* code 0 = none: why it does not go on; it tries again by itself */
};
struct replica_applier_events {
	/* Called by the reading thread, without locks, whenever a state changes. */
	void (*applied)(struct replica_applier_events *ev, const struct replica_applied *a);
	/* The agent has said hello (again): its pid, which may write what is protected. Before anything is posted to it. May be
	 * NULL, as any of these. */
	void (*hello)(struct replica_applier_events *ev, int pid);
	/* A database that was to be removed is gone. */
	void (*removed)(struct replica_applier_events *ev, const char *name, const char *lineage);
};

/* ---- the worker's end; thread-safe ---- */
/* fd is owned. events borrowed. Starts a thread that reads. Knows the agent's pid (SCM_CREDENTIALS) for fs_capture_trust(). */
int replica_applier_open(struct replica_applier **out, int fd, struct replica_applier_events *events,
                         struct fz_err *err) FZ_MUST_CHECK;
void replica_applier_close(struct replica_applier *a);
/* The agent's process: 0 until it has said hello. */
int replica_applier_pid(struct replica_applier *a);
/* The database may be applied up to txid, which is durable in its log. Attaches it first when it is new. Never blocks. */
int replica_applier_post(struct replica_applier *a, const char *name, const char *lineage, uint64_t txid,
                         struct fz_err *err) FZ_MUST_CHECK;
/* The database has ended: it goes from the mount as soon as the agent can do that, and what is posted under its name comes after that.
 * Never blocks; tried until events->removed(). */
int replica_applier_remove(struct replica_applier *a, const char *name, const char *lineage,
                           struct fz_err *err) FZ_MUST_CHECK;
/* Nothing more is applied of that lineage until the next post, which begins with replica_apply_rewind(): its log is about to be cut. Waits
 * for the answer. */
int replica_applier_hold(struct replica_applier *a, const char *name, const char *lineage, int wait_ms,
                         struct fz_err *err) FZ_MUST_CHECK;
/* Waits for what is to be removed, brings everything into the database files (checkpoint) and lets all locks go: before the host becomes a primary. What readers hold
 * in a WAL stays there, and is as visible as before. Nothing is attached again before it is posted again. */
int replica_applier_detach(struct replica_applier *a, int wait_ms, struct fz_err *err) FZ_MUST_CHECK;
/* The last state of a lineage; false when the agent has not told any. */
bool replica_applier_get(struct replica_applier *a, const char *lineage, struct replica_applied *out);

/* ---- the agent's process: runs until sock is closed ----
 * fences: of databases that it has fenced already; borrowed, and held until the end. */
int replica_applier_serve(int sock, int mountfd, int statefd, struct replica_fence *fences,
                          struct fz_err *err) FZ_MUST_CHECK;

#endif
