/* herald.h - a host that took over tells its former primary so, until that has heard it: the former primary may be running,
 * cut off, or come back in a week, and must stop taking commits as soon as it can be reached.
 *
 * One thread, `herald`: calls the former primary as a replica does, says HELLO as a primary of a higher epoch, and ends once the other
 * end says an epoch that is not lower than ours (it has heard, or knows more). Between calls it waits 1 to 10 s. */
#ifndef FZ_REPLICA_HERALD_H
#define FZ_REPLICA_HERALD_H

#include "base/err.h"
#include "ltx/wire.h"

struct replica_herald;

struct replica_herald_conf {
	const char *to; /* HOST:PORT of the former primary */
	uint8_t key[LTX_NOISE_KEY], secret[LTX_NOISE_KEY];
	struct ltx_wire_hello hello;
};
int replica_herald_start(struct replica_herald **out, const struct replica_herald_conf *conf,
                         struct fz_err *err) FZ_MUST_CHECK;
/* True once the former primary has heard. */
bool replica_herald_done(struct replica_herald *h);
void replica_herald_stop(struct replica_herald *h); /* NULL is fine */

#endif
