/* ackstate.h - does a commit wait for replicas? One database's state; pure.
 *
 *   IN STEP   each commit waits until n replicas hold it. One that they do not hold in time ->
 *   DEGRADED  (policy `degrade` only) no commit waits; they are counted. Once n replicas have caught up (they hold durably what was in the log
 *             a fifth of a second ago at most) -> IN STEP
 * Held by tests/unit/test_primary_ackstate.c. */
#ifndef FZ_PRIMARY_ACKSTATE_H
#define FZ_PRIMARY_ACKSTATE_H

#include <stdbool.h>
#include <stdint.h>

#define PRIMARY_ACKSTATE_LAG_NS UINT64_C(200000000)

struct primary_ackstate {
	bool degraded;
	int64_t since_ms;            /* of this time */
	uint64_t commits, total;     /* that were not waited for: this time, ever */
	uint64_t mark_txid, mark_ns; /* the log's end at some time since it is degraded */
};

/* A commit was not held in time. tail: of the log. */
void primary_ackstate_late(struct primary_ackstate *s, uint64_t tail, int64_t now_ms, uint64_t now_ns);
/* In step? Looks whether replicas have caught up; have: n of them are connected, and hold all up to durable. */
bool primary_ackstate_look(struct primary_ackstate *s, bool have, uint64_t durable, uint64_t tail, uint64_t now_ns);
/* A commit goes on without having waited. */
void primary_ackstate_pass(struct primary_ackstate *s);

#endif
