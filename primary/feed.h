/* feed.h - one database on its way to one replica: where the replica stands, what it is sent next, how much is under way.
 *
 * STATES   IDLE     announced; the replica has not asked for it (or no longer: it has all of an ended one)
 *          STREAM   next() sends what follows sent_txid, a base when the log no longer has that
 *          DIVERGED what the replica holds is not this history: nothing is sent until it asks from somewhere else
 *          FAILED   the log could not be read: tried again from retry_ns on
 * A WANT brings any state to STREAM or DIVERGED.
 *
 * IN DOUBT A replica that has everything is also sent what the log offers (ltx/offer.h): PREPARED. When that very file is committed,
 *          COMMIT stands for it; else ABORT, or another PREPARED or FILE, which take its place.
 * WINDOW   A file is begun only while less than window_bytes of what was sent is not yet durable at the replica. One that is begun
 *          is sent to its end: TCP holds it back, and the replica spools what is large. What is durable is known as a
 *          TXID, so marks (TXID, bytes sent until then) translate it, at a granularity of an eighth of the window.
 * LOCKS    mu guards what both of the peer's threads touch; the rest is the sender's. */
#ifndef FZ_PRIMARY_FEED_H
#define FZ_PRIMARY_FEED_H

#include "ltx/log.h"
#include "ltx/wire.h"

#include <pthread.h>

#define PRIMARY_FEED_MARKS 16

enum primary_feed_state { PRIMARY_FEED_IDLE, PRIMARY_FEED_STREAM, PRIMARY_FEED_DIVERGED, PRIMARY_FEED_FAILED };

struct primary_feed {
	uint32_t id; /* counts up from 1 on a connection */
	char name[LTX_WIRE_NAME], lineage[17];

	/* sender */
	bool announced, seen;
	bool stands; /* a WANT was good: whoever waits for what is durable is to look; the caller of turn() clears it */
	bool doubt;  /* another epoch has begun: is what was sent still part of this history? */
	bool ahead;  /* DIVERGED because it has more than this log, which may get there yet */
	struct ltx_wire_db told;           /* the DB message that was sent last */
	uint64_t sent_txid, sent_checksum; /* the replica is there, once all of that has arrived */
	struct ltx_pack_entry file;        /* under way from src at off_bytes */
	struct fz_src *src;
	uint64_t off_bytes;
	uint64_t want_base_txid, want_base_offset; /* what the replica has of that base already */
	uint64_t sent_bytes, durable_bytes;
	struct {
		uint64_t txid, bytes;
	} marks[PRIMARY_FEED_MARKS]; /* ascending; the first n_marks */
	unsigned n_marks, failures, gaps;
	uint64_t retry_ns;
	bool preparing; /* src is a transaction in doubt: PREPARED was said instead of FILE */
	struct {
		uint64_t txid; /* 0 = the replica has been sent none that is still in doubt */
		struct ltx_trailer trailer;
	} prep;

	pthread_mutex_t mu;
	/* mu */
	enum primary_feed_state state;
	bool wanted; /* `want` is new */
	struct ltx_wire_want want;
	bool shut; /* the sender waits for the window */
	uint64_t received, durable, applied;
	bool holds;                        /* the replica takes transactions in doubt */
	uint64_t held_txid, held_checksum; /* it has this one, durably */
	struct fz_err err;                 /* of DIVERGED and FAILED */
};

struct primary_feed *primary_feed_new(uint32_t id, const struct ltx_log_info *info); /* NULL: no memory */
void primary_feed_free(struct primary_feed *f);

/* ---- sender ---- */
/* One turn: appends messages of about LTX_WIRE_CHUNK bytes at most to out. info: of
 * the log, just now. chunk: LTX_WIRE_CHUNK bytes of scratch. Returns 1
 * when more may be sent at once, 0 when the log, an ack or a want must change first, a negative code when the connection
 * cannot go on. What is wrong with this database alone is told, kept in err, and holds up no other. */
int primary_feed_turn(struct primary_feed *f, struct ltx_log *log, const struct ltx_log_info *info,
                      uint64_t window_bytes, uint8_t *chunk, struct fz_buf *out, struct fz_err *err) FZ_MUST_CHECK;
/* ms until a failed one is tried again; -1 = it has not failed. */
int64_t primary_feed_retry_ms(const struct primary_feed *f, uint64_t now_ns);

/* The replica has something to make durable. */
bool primary_feed_under_way(struct primary_feed *f);

/* ---- receiver; all return whether the sender must be woken ---- */
bool primary_feed_want(struct primary_feed *f, const struct ltx_wire_want *w);
bool primary_feed_ack(struct primary_feed *f, const struct ltx_wire_ack *a);
bool primary_feed_held(struct primary_feed *f, const struct ltx_wire_mark *m);

/* Any thread: the TXID that is durable at the replica on this history. */
uint64_t primary_feed_durable(struct primary_feed *f);
/* Any thread: the replica has that transaction durably, in its log or in doubt (checksum: of the database after it). */
bool primary_feed_has(struct primary_feed *f, uint64_t txid, uint64_t checksum);

#endif
