/* followset.h - the databases that a replica follows, whoever brings their transactions (replica/follow.h: a primary,
 * replica/followstore.h: a store): their logs, who is told, what may be applied.
 *
 * LOCKS  the owner's thread owns everything; env.mu for what status shows. Never two owners at a time for one set of logs. */
#ifndef FZ_REPLICA_FOLLOWSET_H
#define FZ_REPLICA_FOLLOWSET_H

#include "replica/followdb.h"

struct cJSON;
struct ltx_logset;
struct replica_applier;
struct replica_follow_events;

struct replica_followset {
	struct ltx_logset *logs;              /* borrowed, as the next two */
	struct replica_applier *applier;      /* NULL: durable counts as applied */
	struct replica_follow_events *events; /* may be NULL */
	const char *const *exclude;           /* fnmatch patterns of paths that are not followed; borrowed */
	size_t n_exclude;
	struct replica_followenv env;
	struct replica_followdb **dbs; /* all that were ever followed; env.mu for writing */
	size_t n_dbs;
};

void replica_followset_init(struct replica_followset *s);
void replica_followset_fini(struct replica_followset *s);
bool replica_followset_excluded(const struct replica_followset *s, const char *name);
/* The database of d's lineage, made when it is new. NULL: no memory. */
struct replica_followdb *replica_followset_get(struct replica_followset *s, const struct ltx_wire_db *d);
/* What is known about a database (db->db) is new, or a try after a failure: its log is there then, unless nothing is to be followed. An older
 * life of that name ends. *want: its stream has to be asked for. */
int replica_followset_attend(struct replica_followset *s, struct replica_followdb *db, bool *want,
                             struct fz_err *err) FZ_MUST_CHECK;
/* A database of db's name and another lineage goes away: what is known is newer. */
int replica_followset_end_older(struct replica_followset *s, const struct replica_followdb *db,
                                struct fz_err *err) FZ_MUST_CHECK;
/* What is durable may be applied. */
void replica_followset_post(struct replica_followset *s, struct replica_followdb *db);
/* Asks the applier how far it is. */
void replica_followset_look(struct replica_followset *s, struct replica_followdb *db);
/* What this host has beyond db->db's epoch becomes a branch (replica_followdb_branch); nothing applies it meanwhile. false: it did not,
 * and the database waits: FAILED or DIVERGED. */
bool replica_followset_part(struct replica_followset *s, struct replica_followdb *db);
/* Adds `last_error`: its text, or null. */
void replica_followset_add_error(struct cJSON *object, const struct fz_err *err);
/* Adds `databases` to the object; silent_ms: since when nobody knows what is new. */
int replica_followset_status(struct replica_followset *s, struct cJSON *object, int64_t silent_ms) FZ_MUST_CHECK;

#endif
