/* serverpriv.h - the server's own struct, for server.c and serverstatus.c. */
#ifndef FZ_PRIMARY_SERVERPRIV_H
#define FZ_PRIMARY_SERVERPRIV_H

#include "base/worker.h"
#include "primary/accept.h"

struct primary_peer;

struct primary_seat {                 /* one for each follower */
	struct primary_peer *peer;    /* NULL = was never here */
	struct primary_peer *leaving; /* its place was taken; freed once its threads have ended */
};
struct primary_server {
	const struct primary_follower *followers;
	struct ltx_logset *logs;
	struct primary_server_events *events;
	uint64_t window_bytes;
	uint8_t secret[LTX_NOISE_KEY];
	int listen_fd, cancel_fd;
	struct fz_worker worker;
	struct primary_accept accept; /* link-accept */

	pthread_mutex_t mu;
	pthread_cond_t cond; /* a replica has got further */
	/* mu */
	struct ltx_wire_hello hello;
	struct primary_seat *v; /* as the followers; n of them */
	size_t n;
	unsigned waiters;
	bool stopping;
};

#endif
