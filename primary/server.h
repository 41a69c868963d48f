/* server.h - the primary's end of the link: listens, lets in whom the configuration lists, streams to each replica what it lacks
 * of each database, and knows how far each is.
 *
 * THREADS  `link-accept`; for each replica that has proven its key `peer-send` and `peer-recv`. Before that a connection costs a slot of a fixed
 *          table (16, 5 s each), two messages on the accept thread's stack, and nothing else.
 * SENDING  a peer's databases take turns by LTX_WIRE_CHUNK, so a base on its way delays no other database's commit; a database has
 *          at most window_bytes under way that the replica has not made durable. Nothing is buffered beside one chunk a database: the log is
 *          read when it is sent. Committed transactions are sent as soon as the log has them, synced or not (design 7). */
#ifndef FZ_PRIMARY_SERVER_H
#define FZ_PRIMARY_SERVER_H

#include "base/err.h"
#include "ltx/wire.h"

struct cJSON;
struct ltx_logset;
struct primary_server;

struct primary_follower { /* who may follow */
	uint8_t key[LTX_NOISE_KEY];
	const char *name;             /* for status; NULL = the key */
	const char *const *databases; /* fnmatch patterns; none = all */
	size_t n_databases;
};
struct primary_server_events { /* called by a peer's thread, without locks */
	/* A peer that may follow everything said HELLO or ROLE with a higher epoch than ours: we are superseded. */
	void (*superseded)(struct primary_server_events *ev, const uint8_t key[static LTX_NOISE_KEY],
	                   const struct ltx_wire_hello *h);
	/* What there is beside databases; false: nothing (yet), asked again each second. May be NULL. */
	bool (*others)(struct primary_server_events *ev, struct ltx_wire_others *out);
};
struct primary_server_conf {
	const char *listen; /* ADDR:PORT */
	uint8_t secret[LTX_NOISE_KEY];
	const struct primary_follower *followers; /* borrowed */
	size_t n_followers;
	struct ltx_wire_hello hello;
	struct ltx_logset *logs;              /* borrowed */
	struct primary_server_events *events; /* borrowed, may be NULL */
	uint64_t window_bytes;                /* 0 = 4 MiB */
};
int primary_server_start(struct primary_server **out, const struct primary_server_conf *conf,
                         struct fz_err *err) FZ_MUST_CHECK;
void primary_server_stop(struct primary_server *s);
/* Where it listens ("127.0.0.1:41234"). */
int primary_server_address(struct primary_server *s, char out[static 280], struct fz_err *err) FZ_MUST_CHECK;
/* Our role or epoch has changed: every peer is told. */
void primary_server_announce(struct primary_server *s, const struct ltx_wire_hello *h);
/* Returns 0 once n replicas hold the lineage durably up to txid; -FZ_ETIMEOUT. */
int primary_server_wait(struct primary_server *s, const char *lineage, uint64_t txid, unsigned n, int64_t timeout_ms,
                        struct fz_err *err) FZ_MUST_CHECK;
/* How many replicas have that transaction durably, in their logs or in doubt (checksum: of the database after it). Waits until there are n,
 * but no longer than until_ns (fz_mono_ns()); ends early when the server stops. */
unsigned primary_server_holders(struct primary_server *s, const char *lineage, uint64_t txid, uint64_t checksum,
                                unsigned n, uint64_t until_ns);
/* True when n replicas are connected that take transactions in doubt; *txid: all of these n hold the log durably up to there. */
bool primary_server_durable(struct primary_server *s, const char *lineage, unsigned n, uint64_t *txid);
/* Hands this host's place to a follower (its name, key or host), which must be connected: waits until it holds durably all that is in the
 * logs now; tell: and then says so. -FZ_ENOTFOUND: no such follower is connected; -FZ_ETIMEOUT. */
int primary_server_handoff(struct primary_server *s, const char *who, bool tell, int64_t timeout_ms,
                           struct fz_err *err) FZ_MUST_CHECK;
/* How far the log of a lineage may be folded without taking from a replica what it is about to read: the lowest TXID that
 * one which is connected, or was within the last hour, holds durably. 0 = a base is on its way; UINT64_MAX = nobody reads it. */
uint64_t primary_server_floor(struct primary_server *s, const char *lineage);
/* Adds one object a replica: name, key, host, address, connected, since_ms, lag_ms, bytes_out, last_error, databases: [{name, lineage,
 * received_txid, durable_txid, applied_txid, lag_ms, lag_txns, lag_bytes}]. Followers that are not connected are listed too. */
int primary_server_status(struct primary_server *s, struct cJSON *array);

#endif
