/* followstorepriv.h - the store's follower, for followstore.c (places, the thread), followfill.c (gaps, while it is paused),
 * followvisit.c (one database) and followtake.c (one object into the log). */
#ifndef FZ_REPLICA_FOLLOWSTOREPRIV_H
#define FZ_REPLICA_FOLLOWSTOREPRIV_H

#include "base/worker.h"
#include "replica/followset.h"
#include "replica/followstore.h"
#include "replica/origin.h"

#define REPLICA_RUN_BYTES                                                                                              \
	(1024 * 1024) /* fetched at once: a small object, neighbours in a pack, a piece of a large file */

struct replica_place {
	char *path; /* "" = the store's prefix; without a slash at its end */
	bool database, full;
	bool ended; /* the database is gone: only another claim can bring it back */
	unsigned visits;
	char lineage[17];
	uint32_t epoch, claim_n;
	int64_t seen_ms;
	struct replica_followdb *db; /* borrowed of the set */
};

struct replica_fill {
	char name[LTX_WIRE_NAME], lineage[17];
	uint32_t epoch;
};

struct replica_followstore {
	struct fz_store *store;
	const struct ltx_age_identities *ids;
	int64_t interval_ms, still_ms;
	struct fz_worker worker;

	pthread_mutex_t hand;
	bool paused;                         /* hand */
	uint64_t turns, resume_ns;           /* hand; turns: pauses so far */
	struct replica_fill *fills;          /* hand; waiting, or the first one under way */
	size_t n_fills;                      /* hand */
	bool filling;                        /* hand: the thread has the first one's log, though it is paused */
	int fill_fd;                         /* hand */
	uint64_t hands, hands_seen, seen_ns; /* hand: how often it was taken; as somebody saw it, and when */
	struct replica_followset set;

	/* thread */
	struct replica_place *places;
	size_t n_places;
	uint64_t turn; /* what was f->turns when this look began */
	uint32_t epoch;
	struct replica_fill fill; /* under way; name empty: none */
	struct replica_meter meter;
	struct fz_buf buf;
	int told; /* code of the error that was logged last */

	/* set.env.mu */
	bool connected;
	int64_t since_ms, looked_ms;
	uint64_t looks;
	struct fz_err err;
};

/* The hand, for the thread. -ECANCELED: somebody else has the logs, or had them since this look began. */
int replica_followstore_hand(struct replica_followstore *f, struct fz_err *err) FZ_MUST_CHECK;
void replica_followstore_let_go(struct replica_followstore *f);
/* The place of that path, made when it is new: its index, or -ENOMEM. */
int replica_followstore_place(struct replica_followstore *f, const char *path, size_t n,
                              struct fz_err *err) FZ_MUST_CHECK;
/* One gap, when one waits. Returns whether the follower is paused, so that there is nothing else to do. */
bool replica_followfill_waits_locked(const struct replica_followstore *f);
bool replica_followfill_run(struct replica_followstore *f);
/* Nothing is filled any more; the hand is held. */
void replica_followfill_forget_locked(struct replica_followstore *f);
/* No log is open any more; the hand is held. */
void replica_followstore_close_locked(struct replica_followstore *f);
/* Where a database stands; -ECANCELED as above. */
struct replica_standing {
	uint64_t tail_txid, tail_checksum;
	uint32_t epoch;
	enum replica_followdb_state state;
	bool open, waits; /* its log is open; it failed, and is not tried again yet */
};
int replica_followstore_standing(struct replica_followstore *f, const struct replica_followdb *db,
                                 struct replica_standing *out, struct fz_err *err) FZ_MUST_CHECK;

/* What an object has beyond the log's end goes into the log. Negative: the store's fault or the object's; what is wrong with the log or with what
 * came is in db->state. -FZ_EGAP: what comes next does not begin there. */
int replica_followtake_object(struct replica_followstore *f, const struct replica_place *p, struct replica_followdb *db,
                              const struct replica_object *o, struct fz_err *err) FZ_MUST_CHECK;

/* The checksum after txid as a pack says it. -FZ_ENOTFOUND when no transaction there ends at txid. */
int replica_followtake_checksum(struct replica_followstore *f, const struct replica_place *p,
                                const struct replica_object *o, uint64_t txid, uint64_t *out,
                                struct fz_err *err) FZ_MUST_CHECK;

/* One look at a database: from a full listing, or what is new. *full is kept in the place: the next look has to be one. */
int replica_followvisit_full(struct replica_followstore *f, struct replica_place *p, struct fz_err *err) FZ_MUST_CHECK;
int replica_followvisit_claims(struct replica_followstore *f, struct replica_place *p,
                               struct fz_err *err) FZ_MUST_CHECK;
int replica_followvisit_packs(struct replica_followstore *f, struct replica_place *p, struct fz_err *err) FZ_MUST_CHECK;
/* The code is of the store, not of one database: there is no use in asking on. */
bool replica_followvisit_of_store(int rc);

#endif
