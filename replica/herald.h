/* herald.h - a host that took over, or follows one that did, tells whom it followed before so, until that has heard it: the former
 * primary may be running, cut off, or come back in a week, and must stop taking commits as soon as it can be reached.
 *
 * One thread, `herald`: calls the former primary as a replica does, says HELLO as a primary of a higher epoch, and ends once the other
 * end says an epoch that is not lower than ours (it has heard, or knows more). Between calls it waits 1 to 10 s. */
#ifndef FZ_REPLICA_HERALD_H
#define FZ_REPLICA_HERALD_H

#include "base/err.h"
#include "ltx/wire.h"

struct replica_herald;

struct replica_herald_events { /* called by the thread, as its last act but one, without locks */
	void (*heard)(struct replica_herald_events *ev, const uint8_t key[static LTX_NOISE_KEY]);
};
struct replica_herald_conf {
	const char *to;                       /* HOST:PORT of the former primary */
	struct replica_herald_events *events; /* borrowed, may be NULL */
	uint8_t key[LTX_NOISE_KEY], secret[LTX_NOISE_KEY];
	struct ltx_wire_hello hello; /* role: LTX_WIRE_PRIMARY, also of a replica that leads to one */
};
int replica_herald_start(struct replica_herald **out, const struct replica_herald_conf *conf,
                         struct fz_err *err) FZ_MUST_CHECK;
void replica_herald_stop(struct replica_herald *h); /* NULL is fine */

#endif
