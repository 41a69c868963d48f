/* followpriv.h - the follower's own struct, for follow.c and followstatus.c. */
#ifndef FZ_REPLICA_FOLLOWPRIV_H
#define FZ_REPLICA_FOLLOWPRIV_H

#include "base/worker.h"
#include "replica/follow.h"
#include "replica/followset.h"

struct replica_follow {
	char *primary;
	uint8_t primary_key[LTX_NOISE_KEY], secret[LTX_NOISE_KEY];
	struct ltx_wire_hello hello;
	uint8_t version;
	struct replica_followstore *store;
	struct fz_worker worker;
	int cancel_fd, wake_fd; /* eventfds: stop; the applier has got further */
	atomic_bool stop;

	/* follow thread */
	int fd;
	struct {
		struct ltx_noise_cipher cipher;
		struct fz_buf plain, sealed;
		size_t sent;       /* of sealed */
		uint64_t since_ns; /* when the socket last took something */
	} out;
	struct {
		struct ltx_noise_cipher cipher;
		struct fz_buf sealed, plain;
	} in;
	uint64_t heard_ns, said_ns;
	bool ask_applied, ack_due;
	struct replica_followdb **ids; /* of this connection, by id - 1; borrowed from dbs */
	size_t n_ids, cap_ids;

	struct replica_followset set; /* its env.mu guards what follows, for writing */
	bool connected, has_peer;
	struct ltx_wire_hello peer;
	struct ltx_wire_others others; /* files 0: none is known */
	int64_t since_ms, heard_ms;
	struct fz_err err;
	uint64_t reconnects, bytes_in;
};

#endif
