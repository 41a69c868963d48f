/* target.h - private to primary: one target, its databases, and the two lanes that work for it.
 *
 * The fast lane ships packs, the slow one levels, snapshots and retention, so that no snapshot of many GB delays a
 * commit. They meet in the cursor.
 *   fast: cursor.txid, checksum, held_txid, the level 0 spool file
 *   slow: cursor.levels, the other spool and plain files, condemned
 * A gap (the log no longer holds what comes next) is found by the fast lane and healed by the slow one: as soon as the
 * snapshot lies in the spool it moves cursor.txid to its end, and the fast lane goes on while it is uploaded.
 * LOCKS  outermost first: claim_mu (around requests for claims), save_mu (around writing a cursor), mu (everything
 *        below "under mu"; never held during a request or a write). */
#ifndef FZ_PRIMARY_TARGET_H
#define FZ_PRIMARY_TARGET_H

#include "base/worker.h"
#include "ltx/log.h"
#include "primary/budget.h"
#include "primary/claim.h"
#include "primary/cursor.h"
#include "primary/retain.h"
#include "primary/ship.h"
#include "primary/spool.h"
#include "store/store.h"

enum primary_state { PRIMARY_OK, PRIMARY_RETRYING, PRIMARY_FAILED };
enum primary_lane { PRIMARY_FAST, PRIMARY_SLOW, PRIMARY_LANES };

/* What stands in the way of one lane. Each lane ends only its own: while packs go out and a snapshot finds no room, the
 * one does not call the other's trouble over, tell it anew each second, and reset its backoff. */
struct primary_trouble {
	enum primary_state state;
	struct fz_err err; /* code 0 = fine */
	unsigned failures; /* one after the other */
	uint64_t retry_ns; /* nothing is tried before */
};

struct primary_db {
	char name[512];
	char lineage[17];
	int64_t created_ms;
	char *dir; /* below the state directory */

	/* under mu */
	struct primary_cursor cur;
	uint64_t tail_txid, db_bytes; /* of the log, when it was last looked at */
	bool ended;
	bool gap;             /* the fast lane waits for a snapshot */
	uint64_t merged_txns; /* of the log, as last seen */
	uint64_t coarse_txid; /* up to here the log may be coarser than what was shipped: db.c (4) */
	bool fenced;
	uint64_t claim_ns;  /* when ownership was last seen; 0 = must be looked at */
	uint64_t want_txid; /* to be shipped without waiting for the interval */
	uint64_t since_ns;  /* unshipped commits were first seen; 0 = none */
	uint64_t
	        behind_txid; /* cur.held_txid as last seen, and since when something is missing above it (0 = nothing): */
	int64_t behind_ms;   /* the lag where the log has merged the commits themselves */
	struct primary_trouble trouble[PRIMARY_LANES]; /* of this database alone */
	bool slow_busy;
	unsigned pins;       /* somebody else works with it (prune.c): it is not closed */
	bool news;           /* something was put since the listing was last judged */
	int64_t judge_at_ms; /* a follow-up of the last judgement; 0 = none */
	unsigned missing;    /* passes that did not see its log */
	bool in_logs;        /* seen in the pass that is under way */
	uint64_t kept_bytes[PRIMARY_RETAIN_CUTS];
	struct primary_tiers tiers; /* when the listing was last judged */

	/* fast lane */
	struct ltx_name spooled; /* level 0 object that waits for its acknowledgement; max_txid 0 = none */
	uint64_t spooled_merged; /* merged_txns of the log before it was built; UINT64_MAX = by an earlier worker */
	/* slow lane */
	struct primary_condemned condemned;
	struct ltx_name slow_spooled;
};

struct primary_ship {
	struct ltx_logset *logs;
	struct primary_target **targets;
	size_t n;
	pthread_mutex_t mu;
	pthread_cond_t cond; /* CLOCK_MONOTONIC: something moved at some target */
	uint64_t moves;      /* under mu, as cond */
};

struct primary_target {
	struct primary_ship *ship;
	struct primary_target_conf conf; /* defaults filled in; strings and recipients are own copies */
	struct primary_levels_conf levels;
	struct primary_retain_conf retain;
	struct fz_store *store;
	int statefd;
	char id[17], dir[40]; /* "ship/<id>" */
	char writer[256], writer_id[PRIMARY_WRITER_ID_SIZE];
	struct fz_worker fast, slow;
	volatile bool cancel; /* merges end; written atomically */

	pthread_mutex_t claim_mu, save_mu, mu;
	/* under mu */
	struct primary_db **dbs;
	size_t n_dbs, cap_dbs;
	bool force;  /* ship what is in the logs now */
	bool nudged; /* the slow lane wants the fast one to look */
	bool stop;   /* lanes end */
	bool fast_done;
	struct primary_trouble trouble[PRIMARY_LANES]; /* of the whole store */
	struct fz_err open_err;                        /* a database's cursor cannot be opened */
	int64_t last_success_ms;
	uint64_t uploads[LTX_L_SNAPSHOT + 1]; /* acknowledged objects, by level */
	struct fz_tally errors;               /* what failed here; what the store failed, its own tally has */
	struct primary_budget budget;
	uint64_t counted;    /* requests of the store that the budget has seen */
	int64_t interval_ms; /* as stretched by the budget */
	unsigned cut;        /* for the size limit */
	bool cut_told, disk_told;
};

/* ---- db.c */
/* Opens (creating the ship directory) what is known of the log's database; litter of a killed worker is removed. */
int primary_db_open(struct primary_db **out, struct primary_target *t, const struct ltx_log_info *info,
                    struct fz_err *err) FZ_MUST_CHECK;
void primary_db_close(struct primary_db *db);
int primary_db_dirfd(struct primary_target *t, struct primary_db *db, struct fz_err *err);
int primary_db_save(struct primary_target *t, struct primary_db *db);
/* The right to write, looked at again at most once a minute. Handles new epochs. -FZ_EFENCED. *asked = the store failed
 * (in this and the next): errors of the target, not of the database. */
int primary_db_claim(struct primary_target *t, struct primary_db *db, struct ltx_log *log, bool *asked,
                     struct fz_err *err) FZ_MUST_CHECK;
/* The database has ended, and this target has not been told. t->mu. */
bool primary_db_ends_locked(const struct primary_db *db, const struct ltx_log_info *info);
int primary_db_put(struct primary_target *t, struct primary_db *db, const struct ltx_name *name, struct fz_src *src,
                   bool *asked, struct fz_err *err) FZ_MUST_CHECK;
/* Ships one pack, or tells that the database has ended when all is there: 1 = one went out, 0 = nothing to do, or an error. */
int primary_db_ship(struct primary_target *t, struct primary_db *db, struct ltx_log *log, bool *asked,
                    struct fz_err *err) FZ_MUST_CHECK;
/* merged_txns as the log has it, or had it when what is acknowledged now was built. t->mu. */
void primary_db_merged_locked(struct primary_db *db, uint64_t merged_txns);
/* Commit time of the file that starts at txid; -1 when the log does not tell. */
int64_t primary_db_time(struct ltx_log *log, uint64_t txid);

/* ---- maintain.c: one step of the slow lane: 1 = something was done, 0 = nothing due for *wait_ms (-1 = for ever) */
int primary_maintain(struct primary_target *t, struct primary_db *db, struct ltx_log *log, bool *asked, bool *stored,
                     struct fz_err *err) FZ_MUST_CHECK;
bool primary_maintain_due(struct primary_target *t, struct primary_db *db, int64_t now_ms, int64_t *wait_ms);

/* ---- lane.c */
/* Bytes of the log above txid; stops counting beyond limit where the ends lie in different segments. */
uint64_t primary_log_bytes(struct ltx_log *log, uint64_t txid, uint64_t tail, uint64_t limit);
void primary_lane_fast(void *target);
void primary_lane_slow(void *target);
struct primary_db *primary_target_db_locked(struct primary_target *t, const char *lineage, size_t hint);
/* stored: something new lies in the store; otherwise the lane moved on without a word. */
void primary_target_ok(struct primary_target *t, struct primary_db *db, enum primary_lane lane, bool stored);
void primary_target_fail(struct primary_target *t, struct primary_db *db, enum primary_lane lane, bool asked,
                         const struct fz_err *err);
/* The worse of both lanes' troubles; under t->mu. */
const struct primary_trouble *primary_trouble_worse(const struct primary_trouble v[static PRIMARY_LANES]);

#endif
