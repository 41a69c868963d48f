/* follow.h - a replica's end of the link: connects to the primary, takes what the local logs lack, makes it durable there,
 * lets it be applied (replica/applier.h), and says how far it is.
 *
 * THREADS  one: `follow`. It connects with jittered backoff (100 ms to 10 s), finds a dead peer by pings (3 s), and never waits for an
 *          apply. What several messages brought is synced once, then posted and acknowledged.
 * STATE    the logs are the state: a position is (epoch, TXID, checksum). A base under way is "follow-base.part" in the log's
 *          directory, so that a lost connection goes on where it was. */
#ifndef FZ_REPLICA_FOLLOW_H
#define FZ_REPLICA_FOLLOW_H

#include "base/err.h"
#include "ltx/wire.h"

struct cJSON;
struct ltx_logset;
struct replica_applier;
struct replica_follow;
struct replica_followstore;

struct replica_follow_events { /* called by the follow thread, without locks */
	/* The set of databases that are followed has changed (name appeared, ended = gone). */
	void (*database)(struct replica_follow_events *ev, const char *name, const char *lineage, bool ended);
	/* The primary hands over: everything is durable here, and nobody commits there any more. May be NULL. */
	void (*handoff)(struct replica_follow_events *ev);
	/* The peer's HELLO or ROLE: who is the primary, its epoch. */
	void (*peer)(struct replica_follow_events *ev, const struct ltx_wire_hello *h);
};
struct replica_follow_conf {
	const char *primary; /* HOST:PORT */
	uint8_t primary_key[LTX_NOISE_KEY];
	uint8_t secret[LTX_NOISE_KEY];        /* own identity; wiped at stop */
	struct ltx_wire_hello hello;          /* what this host says about itself */
	struct ltx_logset *logs;              /* borrowed */
	struct replica_applier *applier;      /* borrowed; NULL in tests: durable counts as applied */
	struct replica_follow_events *events; /* borrowed, may be NULL */
	/* Borrowed, may be NULL: takes over while the primary is away, and brings what the primary's log no longer has. */
	struct replica_followstore *store;
	const char *const *exclude; /* borrowed: fnmatch patterns of databases that are not followed */
	size_t n_exclude;
	uint8_t version; /* tests: speak this version first; 0 = LTX_WIRE_VERSION */
};
int replica_follow_start(struct replica_follow **out, const struct replica_follow_conf *conf,
                         struct fz_err *err) FZ_MUST_CHECK;
void replica_follow_stop(struct replica_follow *f);
/* The applier says that a database has got further: an ACK goes out. Any thread; never blocks. */
void replica_follow_applied(struct replica_follow *f);
/* Adds to the object: primary, connected, since_ms, last_error, reconnects, bytes_in, other_files and
 * other_file (of the primary: they do not come along), and databases: [{name, lineage, epoch, received_txid,
 * durable_txid, applied_txid, primary_txid, held_txid, lag_ms, lag_txns, lag_bytes, agreed, last_error}].
 * agreed: what is here is known to be part of the primary's history; else a TXID here may be another one there. */
int replica_follow_status(struct replica_follow *f, struct cJSON *object);

#endif
