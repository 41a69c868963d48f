/* dial.h - call the primary: connect, agree on a version, prove both keys. */
#ifndef FZ_REPLICA_DIAL_H
#define FZ_REPLICA_DIAL_H

#include "ltx/wire.h"

struct replica_dial {
	const char *primary; /* HOST:PORT, borrowed as the keys */
	const uint8_t *primary_key, *secret;
	uint8_t version; /* spoken first; the primary may answer with another one that this host speaks */
	int cancel_fd;
	/* result */
	int fd; /* non-blocking, the caller's; -1 when it failed */
	struct ltx_noise_cipher send, receive;
	bool met; /* somebody answered: if it failed, then for a reason that does not go away by itself soon */
};
/* -FZ_EPEER, -FZ_ETIMEOUT: not reached. -FZ_EDENIED: one of the keys is wrong. -FZ_EVERSION. -FZ_ECORRUPT: no fazt listens there.
 * -ECANCELED. Takes 10 s at most, and what the resolver takes. */
int replica_dial(struct replica_dial *d, struct fz_err *err) FZ_MUST_CHECK;

#endif
