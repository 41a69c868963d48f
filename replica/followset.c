#include "replica/followset.h"

#include "base/clock.h"
#include "base/log.h"
#include "ltx/dec.h"
#include "replica/applier.h"
#include "replica/follow.h"
#include "replica/leaving.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#define HOLD_MS 5000

void replica_followset_init(struct replica_followset *s)
{
	pthread_mutex_init(&s->env.mu, NULL);
}

void replica_followset_fini(struct replica_followset *s)
{
	for (size_t i = 0; i < s->n_dbs; i++)
		replica_followdb_free(s->dbs[i]);
	free(s->dbs);
	s->dbs = NULL;
	s->n_dbs = 0;
	ltx_dec_close(s->env.dec);
	s->env.dec = NULL;
	pthread_mutex_destroy(&s->env.mu);
}

bool replica_followset_excluded(const struct replica_followset *s, const char *name)
{
	for (size_t i = 0; i < s->n_exclude; i++)
		if (fnmatch(s->exclude[i], name, 0) == 0)
			return true;
	return false;
}

static struct replica_followdb *find(struct replica_followset *s, const char *lineage)
{
	for (size_t i = 0; i < s->n_dbs; i++)
		if (strcmp(s->dbs[i]->lineage, lineage) == 0)
			return s->dbs[i];
	return NULL;
}

struct replica_followdb *replica_followset_get(struct replica_followset *s, const struct ltx_wire_db *d)
{
	struct replica_followdb *db = find(s, d->lineage), **v;

	if (db)
		return db;
	db = replica_followdb_new(&s->env, d);
	pthread_mutex_lock(&s->env.mu);
	v = db ? reallocarray(s->dbs, s->n_dbs + 1, sizeof(struct replica_followdb *)) : NULL;
	if (v) {
		s->dbs = v;
		s->dbs[s->n_dbs++] = db;
	}
	pthread_mutex_unlock(&s->env.mu);
	if (!v) {
		replica_followdb_free(db);
		return NULL;
	}
	return db;
}

void replica_followset_post(struct replica_followset *s, struct replica_followdb *db)
{
	struct fz_err err;

	if (s->applier && !db->ended && db->durable &&
	    replica_applier_post(s->applier, db->name, db->lineage, db->durable, &err) < 0)
		fz_log_err(fz_log_db(db->name), &err);
}

static void tell_database(struct replica_followset *s, const char *name, const char *lineage, bool ended)
{
	if (s->events && s->events->database)
		s->events->database(s->events, name, lineage, ended);
}

/* The lineage has come to its end on the primary: the database goes away here too. Its log stays, and still takes what
 * the primary has of it. */
static int end_log(struct replica_followset *s, struct ltx_log *log, int64_t ended_ms, struct fz_err *err)
{
	struct ltx_log_info info;
	int rc;

	ltx_log_info(log, &info);
	if (info.ended_ms)
		return 0;
	rc = replica_note(log, REPLICA_LEAVING, err);
	if (rc == 0)
		rc = ltx_log_set_ended(log, ended_ms, err);
	if (rc < 0)
		return rc;
	fz_info("%s: the primary has deleted it; its log stays (lineage %s)", info.name, info.lineage);
	tell_database(s, info.name, info.lineage, true);
	return 0;
}

/* The log has come to an end in a history that may never have had all of it: whatever is here alone stays, as a branch does. */
static int keep(struct replica_followset *s, struct ltx_log *log, struct fz_err *err)
{
	struct ltx_log_info info;
	struct replica_followdb *db;
	char id[64];

	ltx_log_info(log, &info);
	db = find(s, info.lineage);
	if (db && db->log && replica_followdb_give_up(db))
		replica_followset_post(s, db);
	return info.tail_txid ? ltx_log_branch(log, info.base_txid, id, sizeof(id), err) : 0;
}

static void set_ended(struct replica_followset *s, struct replica_followdb *db, bool ended)
{
	pthread_mutex_lock(&s->env.mu);
	db->ended = ended;
	pthread_mutex_unlock(&s->env.mu);
}

int replica_followset_end_older(struct replica_followset *s, const struct replica_followdb *db, struct fz_err *err)
{
	struct replica_followdb *older;
	struct ltx_log_info info;
	struct ltx_log *log = NULL;
	int rc = ltx_logset_get(s->logs, db->name, false, &log, NULL);

	if (rc == -FZ_ENOTFOUND)
		return 0;
	if (rc < 0)
		return fz_fail(err, -rc, "the log of %s cannot be opened", db->name);
	ltx_log_info(log, &info);
	if (strcmp(info.lineage, db->lineage) != 0) {
		if (info.epoch != db->db.epoch)
			rc = keep(s, log, err);
		if (rc == 0)
			rc = end_log(s, log, fz_now_ms(), err);
		older = find(s, info.lineage);
		if (rc == 0 && older) {
			set_ended(s, older, true);
			if (older->log) { /* what still comes of it is not wanted */
				(void)replica_followdb_give_up(older);
				replica_followdb_close(older);
			}
		}
	}
	ltx_log_put(log);
	return rc;
}

/* It was deleted in a history that is none any more: another host has begun an epoch without having heard of that. */
static int revive(struct replica_followset *s, struct replica_followdb *db, struct fz_err *err)
{
	int rc = replica_followset_end_older(s, db, err);

	if (rc == 0)
		rc = ltx_log_set_ended(db->log, 0, err);
	if (rc < 0)
		return rc;
	set_ended(s, db, false);
	fz_warn("%s: it was deleted in an epoch that the primary does not know: it is here again (lineage %s)",
	        fz_log_db(db->name), db->lineage);
	return 0;
}

/* The primary says that it has ended. What it says of the end may tell already that it never had all of it; of another epoch the answer to
 * WANT will tell. */
static int end(struct replica_followset *s, struct replica_followdb *db, bool *want, struct fz_err *err)
{
	const struct ltx_wire_db *d = &db->db;
	bool other = d->tail_txid == db->tail_txid && d->tail_checksum && d->tail_checksum != db->tail_checksum;
	bool alone = db->tail_txid &&
	             (d->epoch < db->epoch || (d->epoch == db->epoch && (d->tail_txid < db->tail_txid || other)));
	int rc = alone ? keep(s, db->log, err) : 0;

	if (rc == 0 && db->tail_txid && d->epoch > db->epoch)
		rc = replica_note(db->log, REPLICA_UNSETTLED, err);
	if (rc == 0)
		rc = end_log(s, db->log, d->ended_ms, err);
	if (rc < 0)
		return rc;
	set_ended(s, db, true);
	if (alone) {
		*want = false;
		replica_followdb_close(db);
	}
	return 0;
}

int replica_followset_attend(struct replica_followset *s, struct replica_followdb *db, bool *want, struct fz_err *err)
{
	bool opened = !db->log, revived;
	struct ltx_log *log;
	int rc;

	*want = false;
	if (opened) {
		log = ltx_logset_find(s->logs, db->lineage);
		if (!log && db->db.ended_ms)
			return 0; /* it came and went while this host was away */
		if (!log) {
			rc = replica_followset_end_older(s, db, err);
			if (rc == 0)
				rc = ltx_logset_adopt(s->logs, db->name, db->lineage, db->db.epoch, &log, err);
			if (rc < 0)
				return rc;
		}
		rc = replica_followdb_open(db, log, err);
		if (rc < 0)
			return rc;
	}
	revived = db->ended && !db->db.ended_ms && db->db.epoch > db->epoch;
	/* there is nothing to follow any more, once all of it is here, and known to be part of that history */
	if (opened && db->ended && !revived && db->epoch >= db->db.epoch && db->tail_txid >= db->db.tail_txid) {
		if (db->epoch == db->db.epoch)
			replica_note_done(db->log, REPLICA_UNSETTLED);
		replica_followdb_close(db);
		return 0;
	}
	if (opened && db->ended && !revived && db->tail_txid && db->epoch < db->db.epoch) {
		rc = replica_note(db->log, REPLICA_UNSETTLED, err);
		if (rc < 0)
			return rc;
	}
	if (revived) {
		rc = revive(s, db, err);
		if (rc < 0)
			return rc;
	}
	if (opened || revived) {
		if ((!db->seen || revived) && !db->db.ended_ms)
			tell_database(s, db->name, db->lineage, false);
		db->seen = true;
		replica_followset_post(s, db);
		*want = true;
	}
	if (db->state == REPLICA_FOLLOWDB_FAILED) {
		rc = ltx_log_sync(db->log, err); /* WANT says what is durable */
		if (rc < 0)
			return rc;
		*want = true;
	}
	/* It was asked while it parted ways itself, and tells now where the new epoch began; or it was behind, and is not any more. */
	if (db->state == REPLICA_FOLLOWDB_DIVERGED &&
	    (db->db.epoch > db->epoch || (db->db.epoch == db->epoch && db->db.tail_txid >= db->tail_txid)))
		*want = true;
	rc = replica_followdb_told(db, err);
	return rc == 0 && db->db.ended_ms && !db->ended ? end(s, db, want, err) : rc;
}

void replica_followset_look(struct replica_followset *s, struct replica_followdb *db)
{
	struct replica_applied a;

	if (s->applier && replica_applier_get(s->applier, db->lineage, &a))
		replica_followdb_applied(db, a.state.txid);
}

/* It has ended, and nothing of it will come any more. */
static void part_ended(struct replica_followset *s, struct replica_followdb *db)
{
	struct fz_err why = {0};

	if (keep(s, db->log, &why) < 0) {
		replica_followdb_fail(db, &why);
		return;
	}
	replica_note_done(db->log, REPLICA_UNSETTLED);
	replica_followdb_close(db);
}

bool replica_followset_part(struct replica_followset *s, struct replica_followdb *db)
{
	struct fz_err why = {0};
	int rc = 0;

	if (db->ended && db->db.epoch <= db->epoch) {
		part_ended(s, db);
		return false;
	}
	if (s->applier && db->db.epoch > db->epoch)
		rc = replica_applier_hold(s->applier, db->name, db->lineage, HOLD_MS, &why);
	if (rc < 0) {
		replica_followdb_fail(db, &why);
		return false;
	}
	if (db->db.epoch > db->epoch)
		replica_followdb_applied(db, 0); /* until the agent says what is shown of the new history */
	rc = replica_followdb_branch(db, &why);
	if (rc <= 0)
		replica_followset_post(s, db);
	if (rc >= 0) /* 1: asked from further back; what readers see does not change until something comes */
		return true;
	if (rc != -FZ_EORDER)
		replica_followdb_fail(db, &why);
	else if (db->ended)
		part_ended(s, db);
	else
		replica_followdb_diverged(db);
	return false;
}
