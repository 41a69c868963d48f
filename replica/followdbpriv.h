/* followdbpriv.h - one database on a replica, between followdb.c (log, position, trouble) and followfile.c (what comes). */
#ifndef FZ_REPLICA_FOLLOWDBPRIV_H
#define FZ_REPLICA_FOLLOWDBPRIV_H

#include "replica/followdb.h"

void replica_followdb_enter(struct replica_followdb *db, enum replica_followdb_state to);
/* Gives up what is being received. A base stays in its part (keep) unless it turned out to be bad. */
void replica_followdb_drop_file(struct replica_followdb *db, bool keep);
/* Reads again what the log holds. */
void replica_followdb_look_at_log(struct replica_followdb *db, bool durable);
void replica_followdb_note_held(struct replica_followdb *db); /* for status: what is held has changed */
/* Whatever was wrong is over. */
void replica_followdb_works(struct replica_followdb *db);
/* What is in the log is part of the primary's history, so its epoch is ours. */
int replica_followdb_take_epoch(struct replica_followdb *db, struct fz_err *err) FZ_MUST_CHECK;
void replica_followdb_note_primary(struct replica_followdb *db, uint64_t txid);

#endif
