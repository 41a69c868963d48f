/* followdb.h - one database on a replica: what its log holds (followdb.c), what is on its way, and how that gets into the log
 * (followfile.c).
 *
 * STATES   IDLE     not on this connection, or nothing is wanted of it
 *          WANTED   WANT was said; what still comes of an earlier stream is skipped until the file that answers
 *          STREAM   files follow one another
 *          DIVERGED the primary's history is another one: nothing is taken, the log stays as it is
 *          LENT     the store's follower fills a gap of it (replica/followstore.h), which has the log until then
 *          FAILED   something of this database alone is wrong (a damaged file, a full disk): wanted again from retry_ns on
 * A FILE is received in memory, or, when it is large or a base, into a part (replica/incoming.h) that work() verifies and moves into
 * the log bit by bit, so that no file holds up another database. Nothing reaches the log that was not verified whole, in
 * order, and on top of the log's own checksum.
 * LOCKS    the follow thread owns everything; what status shows is changed under env->mu. */
#ifndef FZ_REPLICA_FOLLOWDB_H
#define FZ_REPLICA_FOLLOWDB_H

#include "ltx/log.h"
#include "ltx/wire.h"
#include "replica/held.h"

#include <pthread.h>

struct ltx_dec;
struct replica_incoming;

struct replica_followenv { /* what the databases of one link share */
	pthread_mutex_t mu;
	struct ltx_dec *dec;   /* reused for each small file */
	uint64_t memory_bytes; /* of files that are being received in memory, all databases together */
};

enum replica_followdb_state {
	REPLICA_FOLLOWDB_IDLE,
	REPLICA_FOLLOWDB_WANTED,
	REPLICA_FOLLOWDB_STREAM,
	REPLICA_FOLLOWDB_DIVERGED,
	REPLICA_FOLLOWDB_LENT,
	REPLICA_FOLLOWDB_FAILED,
};

struct replica_followdb {
	struct replica_followenv *env;
	char name[LTX_WIRE_NAME], lineage[17];
	struct ltx_log *log;               /* counted; NULL while it is not needed */
	struct ltx_wire_db db;             /* as the primary said last; id 0 = not on this connection */
	uint64_t tail_txid, tail_checksum; /* of the log; nobody else appends to it */
	enum {
		REPLICA_RECEIVE_NOTHING,
		REPLICA_RECEIVE_SKIP,
		REPLICA_RECEIVE_MEMORY,
		REPLICA_RECEIVE_PART,
		REPLICA_RECEIVE_HELD
	} receive;
	struct ltx_wire_file file;
	uint64_t got_bytes;
	struct fz_buf memory;
	struct replica_incoming *in;
	bool base;            /* what is in the part becomes the log's base */
	struct fz_sink *sink; /* a verified part is being copied into the log */
	uint64_t copied_bytes;
	bool dirty; /* has transactions that are not synced */
	bool ack_due, seen;
	bool lent; /* the store was asked on this connection */
	struct replica_held held;
	bool held_due;  /* to be said */
	unsigned steps; /* back in the log, since the primary's epochs begin where it has nothing */
	unsigned failures;
	uint64_t retry_ns;
	int told; /* code of the error that was logged last */

	/* env->mu for writing; status reads */
	enum replica_followdb_state state;
	bool ended;
	bool agreed; /* the log is part of the primary's history, as far as this connection has told */
	uint32_t epoch;
	uint64_t received, durable, applied, primary_txid;
	uint64_t held_txid; /* in doubt, and durable here; 0 = none */
	int64_t behind_ms;  /* since when something of the primary is missing here; 0 = nothing is */
	struct fz_err err;
};

struct replica_followdb *replica_followdb_new(struct replica_followenv *env, const struct ltx_wire_db *d);
void replica_followdb_free(struct replica_followdb *db);
/* Takes over log (counted, also on failure) and puts it right for appending: what a crash left in doubt goes, the rest is
 * synced. */
int replica_followdb_open(struct replica_followdb *db, struct ltx_log *log, struct fz_err *err) FZ_MUST_CHECK;
/* The connection is gone, or nothing more is wanted: the log is put, a base stays in its part. */
void replica_followdb_close(struct replica_followdb *db);
/* What the primary's log begins with is beyond this one's end, and nothing of its base is here: whoever can fill the gap may have the
 * log. Once for each connection; false = it cannot be lent. */
bool replica_followdb_lend(struct replica_followdb *db);
/* What to ask for; the state is WANTED then. */
void replica_followdb_want(struct replica_followdb *db, struct ltx_wire_want *out);
/* The primary has said something about it (db->db is that): the position in its history. */
int replica_followdb_told(struct replica_followdb *db, struct fz_err *err) FZ_MUST_CHECK;
/* Another connection: whether the log is part of the primary's history is to be told again. */
void replica_followdb_doubt(struct replica_followdb *db);
/* This database alone has a problem: told once, tried again later. */
void replica_followdb_fail(struct replica_followdb *db, const struct fz_err *why);
/* The log ends at that position. */
bool replica_followdb_stands(const struct replica_followdb *db, const struct ltx_wire_mark *at);
/* The primary's history is another one than this log's. */
void replica_followdb_diverged(struct replica_followdb *db);
/* A primary of a higher epoch took over at a point of this log: what lies beyond it is kept as a branch and cut off. Nothing may be
 * applying the log. 1: it is not known yet which point that is, the primary is to be asked about the log's new end. -FZ_EORDER
 * when the two share nothing that is in the log: then it stays as it is. */
int replica_followdb_branch(struct replica_followdb *db, struct fz_err *err) FZ_MUST_CHECK;

/* FILE and DATA. Negative: the peer breaks the protocol, the connection ends. Any other problem is this database's. */
int replica_followdb_file(struct replica_followdb *db, const struct ltx_wire_file *file,
                          struct fz_err *err) FZ_MUST_CHECK;
int replica_followdb_data(struct replica_followdb *db, const uint8_t *bytes, size_t n,
                          struct fz_err *err) FZ_MUST_CHECK;
/* PREPARED (its DATA come as those of a file), COMMIT, ABORT: the same. */
int replica_followdb_prepared(struct replica_followdb *db, const struct ltx_wire_file *file,
                              struct fz_err *err) FZ_MUST_CHECK;
void replica_followdb_commit(struct replica_followdb *db, uint64_t txid);
void replica_followdb_abort(struct replica_followdb *db, uint64_t txid);
/* Some of what a part needs, for budget_ns at most. Returns whether there is more to do at once. */
bool replica_followdb_work(struct replica_followdb *db, uint64_t budget_ns);
/* It has ended, all of it is here, and the primary has been told. */
bool replica_followdb_complete(const struct replica_followdb *db);
/* What is coming is not wanted: as sync() then. */
bool replica_followdb_give_up(struct replica_followdb *db);
/* Makes durable what was taken. Returns whether the durable position has moved. */
bool replica_followdb_sync(struct replica_followdb *db);
/* Applied up to txid, as the agent says; moved: an ACK is due. */
void replica_followdb_applied(struct replica_followdb *db, uint64_t txid);

#endif
