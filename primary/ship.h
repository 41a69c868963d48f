/* ship.h - carry every commit of every log to every target: packs at an interval or size, levels, snapshots, retention.
 * Two threads a target (packs; levels, snapshots and retention), each with its own cursor per database; no secret key is
 * ever needed and the store is never read back (but listed, and claims are read). What must survive a restart lies in
 * the state directory under ship/<target>/. */
#ifndef FZ_PRIMARY_SHIP_H
#define FZ_PRIMARY_SHIP_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct cJSON;
struct ltx_log;
struct fz_store;
struct ltx_logset;
struct ltx_log_info;
struct ltx_age_recipient;
struct primary_ship;

struct primary_target_conf {
	const char *name;                           /* for status; NULL = the URL */
	struct fz_store *store;                     /* owned from primary_ship_start() on */
	const struct ltx_age_recipient *recipients; /* none = plain objects (encrypt = none was written) */
	size_t n_recipients;
	int64_t ship_interval_ms;           /* 0 = 1000 */
	uint64_t ship_bytes;                /* a pack goes at once when it is this large; 0 = 4 MiB */
	int64_t minute_ms, hour_ms, day_ms; /* length of the levels; 0 = 60 s, 1 h, 1 d (tests shorten them) */
	int64_t snapshot_interval_ms;       /* 0 = 1 d; also when the log since the snapshot exceeds the database */
	/* retention: how long each is kept; 0 = default (1 d, 7 d, 30 d, 365 d); -1 = for ever */
	int64_t keep_commits_ms, keep_minutes_ms, keep_hours_ms, keep_days_ms;
	uint64_t keep_bytes;         /* limit over all databases of the target; 0 = none */
	int64_t delete_grace_ms;     /* superseded objects live on so long for running restores; 0 = 1 h */
	uint64_t requests_per_month; /* 0 = no limit: stretches intervals before it is exceeded */
	bool append_only;            /* never delete */
	/* A database whose last claim is another writer's is claimed all the same, once for each value and name of a database, also over
	 * restarts: a later claim of another writer's stands. 0 = not. */
	uint64_t take_over; /* whatever that writer did */
	uint32_t promoted;  /* this host was promoted in that epoch: unless the claim is of a promotion since */
};
struct primary_retain_conf;
/* The tiers of a target, defaults filled in. */
void primary_target_retain(const struct primary_target_conf *c, struct primary_retain_conf *out);
struct primary_ship_conf {
	const struct primary_target_conf *targets;
	size_t n_targets;
	int statefd;             /* borrowed */
	struct ltx_logset *logs; /* borrowed; must outlive primary_ship_stop() */
	const char *writer;      /* this host's name, written into claims */
};
int primary_ship_start(struct primary_ship **out, const struct primary_ship_conf *conf,
                       struct fz_err *err) FZ_MUST_CHECK;
/* Returns 0 once every target durably holds every commit that was in the logs at the call; -FZ_ETIMEOUT or the target's
 * error otherwise. timeout_ms < 0 = for ever. */
int primary_ship_sync(struct primary_ship *s, int64_t timeout_ms, struct fz_err *err) FZ_MUST_CHECK;
/* The TXID up to which every target holds the database of that lineage: what the log may prune. */
uint64_t primary_ship_position(struct primary_ship *s, const char *lineage);
/* The TXID up to which no target needs the log of that lineage: it holds that, and so do its levels that are made from the
 * log (packs of a minute and an hour, merged minutes). */
uint64_t primary_ship_settled(struct primary_ship *s, const char *lineage);
/* Whether every target that may be written knows that the database of that lineage, deleted or renamed, has ended. */
bool primary_ship_told_end(struct primary_ship *s, const struct ltx_log_info *info);
/* Adds one object per target to the array: name, url, encrypted, state ("ok" | "retrying" | "fenced" | "failed"),
 * lag_seconds (age of the oldest commit it does not hold), lag_bytes, lag_txns, last_error, last_success_ms, requests,
 * bytes_out, bytes_in, retries, uploads: {pack, level, snapshot}, requests_by_kind: {put, get, list, delete}, errors: {"FZ-1303": 2} (each
 * failed attempt), conditional_put, ship_interval_ms (as stretched by requests_per_month), requests_per_month,
 * databases: [{name, lineage, epoch, txid, lag_seconds, lag_bytes, lag_txns, last_error}]. */
int primary_ship_status(struct primary_ship *s, struct cJSON *array);
/* Adds one object per target: name, complete, tiers: [{kind, from_ms, to_ms, count}] (primary/tiers.h): what it can bring back of this
 * log's database, by its last listing and what was shipped since. Not complete: older commits lie before a hole, or nothing was listed
 * since the start; that is then done soon, by the target's own thread, with one request. */
int primary_ship_history(struct primary_ship *s, struct ltx_log *log, struct cJSON *array);
/* Stops the threads; running requests are cancelled after grace_ms. */
void primary_ship_stop(struct primary_ship *s, int64_t grace_ms);

#endif
