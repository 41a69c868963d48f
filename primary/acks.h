/* acks.h - commits that wait for replicas: how many, how long, and what happens when they do not answer.
 *
 * Each database has a state of its own (ackstate.h). Whoever waits is a thread that serves a request: PRIMARY_ACKS_WAITERS of them at most, so that
 * others are left; of one database never more than one or two. Thread-safe.
 * LOCKS  acks.mu alone; the server's are taken without it. Held by tests/unit/test_primary_acks.c, tests/e2e/ack.py. */
#ifndef FZ_PRIMARY_ACKS_H
#define FZ_PRIMARY_ACKS_H

#include "base/err.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define PRIMARY_ACKS_WAITERS 128

struct cJSON;
struct ltx_log;
struct ltx_logset;
struct primary_acks;
struct primary_server;

struct primary_acks_conf {
	unsigned n;         /* replicas, at least 1 */
	int64_t timeout_ms; /* 0 = 2 s */
	bool wait; /* policy when none answers: a commit waits on; else it goes on, and the state is degraded */
};
int primary_acks_open(struct primary_acks **out, const struct primary_acks_conf *conf,
                      struct fz_err *err) FZ_MUST_CHECK;
void primary_acks_close(struct primary_acks *a); /* nobody may wait */
/* The server of the link, once it is there; until then nobody holds anything. */
void primary_acks_serve(struct primary_acks *a, struct primary_server *server);
/* Another host is the primary, or may be: commits that wait, and all that come, fail. Or no longer. */
void primary_acks_refuse(struct primary_acks *a, bool on);

struct primary_acks_want {
	struct ltx_log *log; /* NULL: nothing can be sent yet; -EAGAIN after a moment, while it is to be waited for */
	const char *name, *lineage;
	uint64_t txid, checksum;
	bool committed;    /* else it has been decided, without an answer of ours, once the log has it */
	bool bounded;      /* never beyond the time limit */
	uint64_t since_ns; /* 0 = now: when it began to wait */
	int pid; /* whose commit it is; 0 = not known. -EINTR once it was killed: the kernel does not let it die before */
	const atomic_bool *stop;
};
/* 0: replicas hold it, or it goes on without. -EIO: the commit must fail. -ECANCELED: stop. -EINTR: see pid. */
int primary_acks_wait(struct primary_acks *a, const struct primary_acks_want *w);
/* Adds: replicas, policy, timeout_ms, degraded (any database), since_ms, degraded_commits, waiting, and databases: [{name, degraded, since_ms,
 * degraded_commits, unacknowledged_commits (ever), waiting, waiting_ms}] of those that have waited.
 * logs (may be NULL): looks whether replicas have caught up meanwhile. */
int primary_acks_status(struct primary_acks *a, struct ltx_logset *logs, struct cJSON *object);

#endif
