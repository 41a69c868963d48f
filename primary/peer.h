/* peer.h - one replica that has proven its key: its connection, its two threads and what is known of its databases.
 *
 * A peer lives in the server's table from the end of the handshake until another connection of the same follower takes
 * its place, also when its connection has ended: status shows how far it was.
 * LOCKS  server mu -> peer mu -> feed mu. What a thread owns alone is marked with its name. */
#ifndef FZ_PRIMARY_PEER_H
#define FZ_PRIMARY_PEER_H

#include "base/net.h"
#include "base/worker.h"
#include "primary/server.h"

struct primary_feed;

struct primary_peer_conf {                       /* what the handshake has found out; borrowed for the call */
	const struct primary_follower *follower; /* for ever */
	struct ltx_logset *logs;
	struct primary_server *server;
	int fd; /* owned, also on failure */
	const char *address;
	struct ltx_noise_cipher send, receive;
	struct ltx_wire_hello hello; /* the replica's */
	uint64_t window_bytes;
};

struct primary_peer {
	const struct primary_follower *follower;
	struct ltx_logset *logs;
	struct primary_server *server;
	uint64_t window_bytes;
	char address[FZ_NET_ADDR];
	int64_t since_ms;
	int fd, cancel_fd; /* cancel_fd: an eventfd that ends every wait for the socket */
	struct fz_worker sender, receiver;
	atomic_bool stop;
	atomic_int running; /* threads; with the last one the connection is closed */
	_Atomic uint64_t heard_ns;
	_Atomic uint64_t bytes_out;

	struct { /* peer-send */
		struct ltx_noise_cipher cipher;
		struct fz_buf plain, sealed;
		uint64_t said_ns, asked_ns;
		bool told_others; /* OTHERS went out, or never will */
		uint8_t chunk[LTX_WIRE_CHUNK];
	} out;
	struct { /* peer-recv */
		struct ltx_noise_cipher cipher;
		struct fz_buf sealed, plain;
	} in;

	pthread_mutex_t mu;
	/* mu */
	struct ltx_wire_hello hello;
	struct primary_feed **feeds; /* by id - 1; the array grows by the sender, feeds stay where they are */
	size_t n_feeds, cap_feeds;
	bool pong_due, role_due, handoff_due, under_way;
	uint64_t pong;
	int64_t ended_ms; /* 0 = connected */
	struct fz_err err;
};

int primary_peer_start(struct primary_peer **out, const struct primary_peer_conf *conf,
                       struct fz_err *err) FZ_MUST_CHECK;
/* Ends the connection; returns at once. Any thread; why may be NULL. The first reason is kept. */
void primary_peer_end(struct primary_peer *p, const struct fz_err *why);
/* Both threads have ended: free() will not wait. */
bool primary_peer_done(struct primary_peer *p);
void primary_peer_free(struct primary_peer *p);
/* All is yours: a HANDOFF goes out. */
void primary_peer_tell_handoff(struct primary_peer *p);
/* It answers to that name, key or host, and is connected. */
bool primary_peer_is(struct primary_peer *p, const char *who);
/* Our role or epoch has changed: a ROLE goes out. */
void primary_peer_tell_role(struct primary_peer *p);
/* The TXID up to which this replica holds the lineage durably; 0 = nothing is known. */
uint64_t primary_peer_durable(struct primary_peer *p, const char *lineage);
/* It has that transaction durably, in its log or in doubt, and is connected. */
bool primary_peer_has(struct primary_peer *p, const char *lineage, uint64_t txid, uint64_t checksum);
/* It is connected and takes transactions in doubt; *txid: it holds the log durably up to there. */
bool primary_peer_keeps(struct primary_peer *p, const char *lineage, uint64_t *txid);
/* The same for one that is connected, or was at since_ms; UINT64_MAX = it does not read that lineage. */
uint64_t primary_peer_reads_from(struct primary_peer *p, const char *lineage, int64_t since_ms);

/* peerfeed.c: one round over all logs, a turn for each database. Returns 1 when more may be sent at once, 0 when not: then
 * *wait_ms is shortened to when a failed log is tried again. */
int primary_peer_round(struct primary_peer *p, int64_t *wait_ms, struct fz_err *err) FZ_MUST_CHECK;
/* Seals and writes what waits in out.plain. */
int primary_peer_flush(struct primary_peer *p, struct fz_err *err) FZ_MUST_CHECK;

/* server.c, for the peer's threads */
void primary_server_hello(struct primary_server *s, struct ltx_wire_hello *out);
void primary_server_heard_role(struct primary_server *s, struct primary_peer *p, const struct ltx_wire_hello *h);
bool primary_server_others(struct primary_server *s, struct ltx_wire_others *out);
void primary_server_acked(struct primary_server *s); /* wakes primary_server_wait() */

#endif
