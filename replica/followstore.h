/* followstore.h - a replica that follows a store instead of a primary: looks there for what its logs lack, takes it as it
 * lies there (packs of single transactions, else merged files, else a snapshot), verifies it and makes it durable in the logs, as
 * replica/follow.h does with what a primary sends. A database ends when the store says
 * so (a mark beside its claims), or when another lineage of that name is claimed.
 *
 * THREADS  one: `follow-store`. Every interval it makes one LIST for each database (its packs, or its claims) and at times one for
 *          each directory above them; what is new is fetched at once. A store that is away is asked again after the interval.
 * PAUSE    the logs have one writer: while this follower is paused another one (the link) may have them. pause() returns once nothing is touched
 *          any more, without waiting for the store. */
#ifndef FZ_REPLICA_FOLLOWSTORE_H
#define FZ_REPLICA_FOLLOWSTORE_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct cJSON;
struct fz_store;
struct ltx_age_identities;
struct ltx_logset;
struct replica_applier;
struct replica_follow_events;
struct replica_followstore;
struct ltx_wire_db;

struct replica_followstore_conf {
	struct fz_store *store;               /* owned, also on failure; its prefix holds the databases */
	const struct ltx_age_identities *ids; /* borrowed; NULL: only what is not encrypted can be read */
	struct ltx_logset *logs;              /* borrowed */
	struct replica_applier *applier;      /* borrowed; NULL in tests: durable counts as applied */
	struct replica_follow_events *events; /* borrowed, may be NULL: database, and peer with the highest epoch */
	const char *const *exclude;           /* borrowed: fnmatch patterns of databases that are not followed */
	size_t n_exclude;
	int64_t interval_ms; /* 0 = 5 s */
	int64_t still_ms;    /* a gap that nothing comes for is given back; 0 = 20 s */
	bool paused;         /* begins so: until _resume() */
};
int replica_followstore_start(struct replica_followstore **out, const struct replica_followstore_conf *conf,
                              struct fz_err *err) FZ_MUST_CHECK;
void replica_followstore_stop(struct replica_followstore *f);
/* Any thread. Nothing is written to the logs from the return on. */
void replica_followstore_pause(struct replica_followstore *f);
/* Any thread. It goes on after delay_ms, unless it is paused again before. */
void replica_followstore_resume(struct replica_followstore *f, int64_t delay_ms);
/* Any thread, while it is paused: the log of that database is its alone until filling() says no more: then all that the store has of
 * this life and epoch is in it, or the store cannot give it. wake_fd, an eventfd, is written to at that moment; borrowed until the
 * next resume(). -ENOMEM. */
int replica_followstore_fill(struct replica_followstore *f, const struct ltx_wire_db *d, int wake_fd,
                             struct fz_err *err) FZ_MUST_CHECK;
/* To be asked now and then: it ends what has stood still for still_ms. */
bool replica_followstore_filling(struct replica_followstore *f, const char *lineage);
/* The store, without anything secret. Borrowed. */
const char *replica_followstore_url(const struct replica_followstore *f);
/* Adds to the object: store (URL), connected (the last look succeeded), since_ms, last_error, looks, bytes_in, and databases as
 * replica_follow_status() does; primary_txid is the newest TXID in the store, lag_ms counts from commit times. */
int replica_followstore_status(struct replica_followstore *f, struct cJSON *object);

#endif
