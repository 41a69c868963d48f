#include "replica/followdb.h"

#include "base/clock.h"
#include "base/log.h"
#include "replica/followdbpriv.h"
#include "replica/incoming.h"
#include "replica/leaving.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MS_NS        UINT64_C(1000000)
#define RETRY_MS     1000
#define RETRY_MAX_MS 60000

/* ---- life ---- */

struct replica_followdb *replica_followdb_new(struct replica_followenv *env, const struct ltx_wire_db *d)
{
	struct replica_followdb *db = calloc(1, sizeof(*db));

	if (!db)
		return NULL;
	db->env = env;
	memcpy(db->name, d->name, sizeof(db->name));
	memcpy(db->lineage, d->lineage, sizeof(db->lineage));
	replica_held_init(&db->held);
	return db;
}

void replica_followdb_enter(struct replica_followdb *db, enum replica_followdb_state state)
{
	pthread_mutex_lock(&db->env->mu);
	db->state = state;
	pthread_mutex_unlock(&db->env->mu);
}

/* Gives up what is being received. A base stays in its part unless it turned out to be bad. */
void replica_followdb_drop_file(struct replica_followdb *db, bool keep)
{
	if (db->sink)
		ltx_log_abort(db->log);
	db->sink = NULL;
	replica_incoming_close(db->in, keep && db->base);
	db->in = NULL;
	if (db->receive == REPLICA_RECEIVE_MEMORY)
		db->env->memory_bytes -= db->file.size_bytes;
	fz_buf_fini(&db->memory);
	db->receive = REPLICA_RECEIVE_NOTHING;
}

void replica_followdb_close(struct replica_followdb *db)
{
	replica_followdb_drop_file(db, true);
	replica_held_fini(&db->held);
	ltx_log_put(db->log);
	db->log = NULL;
	db->db.id = 0;
	db->dirty = db->ack_due = db->held_due = db->lent = false;
	if (db->state != REPLICA_FOLLOWDB_DIVERGED || db->ended)
		replica_followdb_enter(db, REPLICA_FOLLOWDB_IDLE);
}

void replica_followdb_free(struct replica_followdb *db)
{
	if (!db)
		return;
	replica_followdb_close(db);
	free(db);
}

/* Reads again what the log holds. */
void replica_followdb_look_at_log(struct replica_followdb *db, bool durable)
{
	struct ltx_log_info info;

	ltx_log_info(db->log, &info);
	db->tail_txid = info.tail_txid;
	db->tail_checksum = info.tail_checksum;
	pthread_mutex_lock(&db->env->mu);
	db->epoch = info.epoch;
	db->ended = info.ended_ms != 0;
	db->received = info.tail_txid;
	if (durable)
		db->durable = info.tail_txid;
	pthread_mutex_unlock(&db->env->mu);
}

void replica_followdb_note_held(struct replica_followdb *db)
{
	uint64_t checksum, txid = replica_held_txid(&db->held, &checksum);

	pthread_mutex_lock(&db->env->mu);
	db->held_txid = txid;
	pthread_mutex_unlock(&db->env->mu);
}

int replica_followdb_open(struct replica_followdb *db, struct ltx_log *log, struct fz_err *err)
{
	struct ltx_log_info info;
	int rc = 0;

	ltx_log_info(log, &info);
	if (info.tail_txid != db->tail_txid || info.tail_checksum != db->tail_checksum)
		db->steps = 0; /* somebody else has appended to it: that is in no branch */
	db->log = log;
	if (ltx_log_prepared(log, NULL, NULL)) /* killed between file and head: the primary has it */
		rc = ltx_log_drop_prepared(log, err);
	if (rc == 0)
		rc = ltx_log_follow(log, err);
	if (rc == 0)
		rc = replica_held_load(&db->held, log, &db->env->dec, err);
	if (rc >= 0)
		rc = ltx_log_sync(log, err);
	if (rc < 0) {
		ltx_log_put(log);
		db->log = NULL;
		return rc;
	}
	replica_followdb_look_at_log(db, true);
	replica_followdb_note_held(db);
	return 0;
}

/* ---- trouble ---- */

void replica_followdb_fail(struct replica_followdb *db, const struct fz_err *why)
{
	int64_t ms = RETRY_MS;

	replica_followdb_drop_file(db, true);
	for (unsigned i = 0; i < db->failures && ms < RETRY_MAX_MS; i++)
		ms *= 2;
	db->failures++;
	db->retry_ns = fz_mono_ns() + (uint64_t)ms * MS_NS;
	pthread_mutex_lock(&db->env->mu);
	db->state = REPLICA_FOLLOWDB_FAILED;
	db->err = *why;
	pthread_mutex_unlock(&db->env->mu);
	if (db->told != why->code) {
		struct fz_err e = *why;

		fz_err_prefix(&e, "%s", fz_log_db(db->name));
		fz_log_err("following waits", &e);
	}
	db->told = why->code;
}

void replica_followdb_works(struct replica_followdb *db)
{
	if (!db->failures && !db->told)
		return;
	if (db->told)
		fz_info("%s: is followed again", fz_log_db(db->name));
	db->failures = 0;
	db->told = 0;
	pthread_mutex_lock(&db->env->mu);
	db->err.code = 0;
	pthread_mutex_unlock(&db->env->mu);
}

void replica_followdb_diverged(struct replica_followdb *db)
{
	struct fz_err err = {0};

	replica_followdb_drop_file(db, true);
	(void)fz_fail(&err, FZ_EORDER,
	              "its history here (epoch %u, up to TXID %" PRIu64
	              ") is not the primary's (epoch %u, up to TXID %" PRIu64
	              "). Nothing here is overwritten: this database is not followed until that is resolved",
	              db->epoch, db->tail_txid, db->db.epoch, db->db.tail_txid);
	pthread_mutex_lock(&db->env->mu);
	db->state = REPLICA_FOLLOWDB_DIVERGED;
	db->agreed = false;
	db->err = err;
	pthread_mutex_unlock(&db->env->mu);
	if (db->told != err.code) {
		struct fz_err e = err;

		fz_err_prefix(&e, "%s", fz_log_db(db->name));
		fz_log_err("diverged", &e);
	}
	db->told = err.code;
}

static void agree(struct replica_followdb *db, bool yes)
{
	pthread_mutex_lock(&db->env->mu);
	db->agreed = yes;
	pthread_mutex_unlock(&db->env->mu);
}

/* Where that epoch began is not in this log: more than one epoch has passed since the histories went apart, so only the primary can tell
 * what they share. Asked from ever further back; all there was is in the branch. The epoch stays the old one until something is taken. */
static int step_back(struct replica_followdb *db, struct fz_err *err)
{
	struct ltx_log_entry e;
	struct ltx_log_info info;
	uint64_t back = UINT64_C(1) << (db->steps < 32 ? db->steps : 32), to;
	char id[64];
	int rc = 0;

	ltx_log_info(db->log, &info);
	to = db->tail_txid > back ? db->tail_txid - back : 0;
	if (to < info.base_txid)
		to = info.base_txid;
	if (to > info.base_txid) {
		rc = ltx_log_find(db->log, to, &e, err);
		if (rc < 0)
			return rc;
		if (e.e.max_txid != to)
			to = e.e.min_txid - 1;
	}
	if (to >= db->tail_txid)
		return fz_fail(err, FZ_EORDER, "the log does not go back to where the histories agree");
	replica_followdb_drop_file(db, false);
	replica_held_forget(&db->held, ltx_log_dirfd(db->log));
	if (!db->steps)
		rc = ltx_log_branch(db->log, to, id, sizeof(id), err);
	if (rc == 0)
		rc = ltx_log_truncate(db->log, to, err);
	if (rc == 0)
		rc = ltx_log_sync(db->log, err);
	replica_followdb_look_at_log(db, rc == 0);
	if (rc == 0)
		db->steps++;
	return rc < 0 ? rc : 1;
}

int replica_followdb_branch(struct replica_followdb *db, struct fz_err *err)
{
	const struct ltx_pos start = {db->db.epoch, db->db.epoch_txid, db->db.epoch_checksum};
	uint64_t from = start.txid, checksum = LTX_EMPTY_DB;
	struct ltx_log_info info;
	char id[64];
	int rc;

	if (db->db.epoch <= db->epoch)
		return fz_fail(err, FZ_EORDER, "the primary's epoch %u is not above ours (%u)", db->db.epoch,
		               db->epoch);
	ltx_log_info(db->log, &info);
	if (from >= db->tail_txid || from < info.base_txid ||
	    (from && ltx_log_checksum_at(db->log, from, &checksum, NULL) < 0) || checksum != start.checksum)
		return step_back(db, err);
	replica_followdb_drop_file(db, false);
	replica_held_forget(&db->held, ltx_log_dirfd(db->log));
	rc = db->steps ? 0 : ltx_log_branch(db->log, from, id, sizeof(id), err); /* with the first step all of it */
	if (rc == 0)
		rc = ltx_log_truncate(db->log, from, err);
	if (rc == 0)
		rc = ltx_log_set_epoch_at(db->log, &start, err);
	if (rc == 0)
		rc = ltx_log_sync(db->log, err);
	replica_followdb_look_at_log(db, rc == 0);
	if (rc < 0)
		return rc;
	replica_note_done(db->log, REPLICA_UNSETTLED);
	db->steps = 0;
	agree(db, true);
	replica_followdb_works(db);
	return 0;
}

/* ---- position ---- */

static uint64_t tail_checksum(const struct replica_followdb *db)
{
	return db->tail_txid ? db->tail_checksum : 0;
}

bool replica_followdb_stands(const struct replica_followdb *db, const struct ltx_wire_mark *at)
{
	return at->txid == db->tail_txid && at->value == tail_checksum(db);
}

void replica_followdb_want(struct replica_followdb *db, struct ltx_wire_want *out)
{
	*out = (struct ltx_wire_want){
	        .id = db->db.id, .epoch = db->epoch, .txid = db->tail_txid, .checksum = tail_checksum(db)};
	replica_incoming_look(ltx_log_dirfd(db->log), &out->base_txid, &out->base_offset);
	if (out->base_txid && out->base_txid <= db->tail_txid) {
		unlinkat(ltx_log_dirfd(db->log), REPLICA_INCOMING_BASE, 0);
		out->base_txid = out->base_offset = 0;
	}
	db->held_due = true;
	replica_followdb_enter(db, REPLICA_FOLLOWDB_WANTED);
}

bool replica_followdb_lend(struct replica_followdb *db)
{
	uint64_t base_txid, base_offset;

	replica_incoming_look(ltx_log_dirfd(db->log), &base_txid, &base_offset);
	if (db->lent || db->tail_txid >= db->db.base_txid || base_txid == db->db.base_txid)
		return false;
	replica_followdb_drop_file(db, true);
	ltx_log_put(db->log);
	db->log = NULL;
	db->lent = true;
	replica_followdb_enter(db, REPLICA_FOLLOWDB_LENT);
	return true;
}

/* What is in the log is part of the primary's history, so its epoch is ours. */
int replica_followdb_take_epoch(struct replica_followdb *db, struct fz_err *err)
{
	struct ltx_pos start = {db->db.epoch, db->db.epoch_txid, db->db.epoch_checksum};
	int rc;

	if (db->epoch < db->db.epoch || (db->epoch == db->db.epoch && !db->tail_txid && start.txid)) {
		rc = ltx_log_set_epoch_at(db->log, &start, err);
		if (rc < 0)
			return rc;
		replica_note_done(db->log, REPLICA_UNSETTLED);
	}
	pthread_mutex_lock(&db->env->mu);
	if (db->epoch < db->db.epoch)
		db->epoch = db->db.epoch;
	pthread_mutex_unlock(&db->env->mu);
	agree(db, true);
	return 0;
}

void replica_followdb_doubt(struct replica_followdb *db)
{
	agree(db, false);
}

void replica_followdb_note_primary(struct replica_followdb *db, uint64_t txid)
{
	pthread_mutex_lock(&db->env->mu);
	db->primary_txid = txid;
	if (txid <= db->received)
		db->behind_ms = 0;
	else if (!db->behind_ms)
		db->behind_ms = fz_now_ms();
	pthread_mutex_unlock(&db->env->mu);
}

int replica_followdb_told(struct replica_followdb *db, struct fz_err *err)
{
	replica_followdb_note_primary(db, db->db.tail_txid);
	if (db->tail_txid && db->tail_txid == db->db.tail_txid && db->tail_checksum == db->db.tail_checksum) {
		int rc = replica_followdb_take_epoch(db, err);

		if (rc == 0)
			replica_followdb_works(db);
		return rc;
	}
	agree(db, db->epoch >= db->db.epoch && db->state != REPLICA_FOLLOWDB_DIVERGED);
	return 0;
}

/* ---- progress ---- */

bool replica_followdb_sync(struct replica_followdb *db)
{
	struct fz_err err = {0};

	if (!db->dirty)
		return false;
	db->dirty = false;
	if (ltx_log_sync(db->log, &err) < 0) {
		replica_followdb_fail(db, &err);
		return false;
	}
	pthread_mutex_lock(&db->env->mu);
	db->durable = db->received;
	pthread_mutex_unlock(&db->env->mu);
	db->ack_due = true;
	return true;
}

bool replica_followdb_complete(const struct replica_followdb *db)
{
	return db->log && db->ended && db->db.ended_ms && db->epoch >= db->db.epoch &&
	       db->tail_txid == db->db.tail_txid && db->state != REPLICA_FOLLOWDB_FAILED &&
	       db->receive == REPLICA_RECEIVE_NOTHING && !db->dirty && !db->ack_due && !db->held_due;
}

bool replica_followdb_give_up(struct replica_followdb *db)
{
	replica_followdb_drop_file(db, true);
	return replica_followdb_sync(db);
}

void replica_followdb_applied(struct replica_followdb *db, uint64_t txid)
{
	if (txid == db->applied)
		return;
	pthread_mutex_lock(&db->env->mu);
	db->applied = txid;
	pthread_mutex_unlock(&db->env->mu);
	db->ack_due = true;
}
