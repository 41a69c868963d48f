#include "primary/ackstate.h"

void primary_ackstate_pass(struct primary_ackstate *s)
{
	s->commits++;
	s->total++;
}

void primary_ackstate_late(struct primary_ackstate *s, uint64_t tail, int64_t now_ms, uint64_t now_ns)
{
	if (!s->degraded) {
		s->degraded = true;
		s->since_ms = now_ms;
		s->commits = 0;
		s->mark_txid = tail;
		s->mark_ns = now_ns;
	}
	primary_ackstate_pass(s);
}

bool primary_ackstate_look(struct primary_ackstate *s, bool have, uint64_t durable, uint64_t tail, uint64_t now_ns)
{
	for (int i = 0; s->degraded && i < 2; i++) {
		if (!have || durable < s->mark_txid)
			return false;
		if (now_ns - s->mark_ns <= PRIMARY_ACKSTATE_LAG_NS) {
			s->degraded = false;
			break;
		}
		s->mark_txid = tail; /* it took long: and what is there now? */
		s->mark_ns = now_ns;
	}
	return !s->degraded;
}
