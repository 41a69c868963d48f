#include "replica/followdb.h"

#include "base/clock.h"
#include "base/log.h"
#include "ltx/dec.h"
#include "replica/incoming.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MS_NS        UINT64_C(1000000)
#define RETRY_MS     1000
#define RETRY_MAX_MS 60000
#define FILE_BYTES   (UINT64_C(8) << 20)  /* received in memory up to here */
#define MEMORY_BYTES (UINT64_C(32) << 20) /* all databases together */
#define COPY_BYTES   (256 * 1024)

/* A source over bytes that are at hand already. */
struct mem {
	struct fz_src src;
	const uint8_t *data;
};

static int mem_read(struct fz_src *src, uint64_t off, void *data, size_t n, struct fz_err *err)
{
	(void)err; /* fz_src_read() has checked the range */
	memcpy(data, ((struct mem *)src)->data + off, n);
	return 0;
}

/* ---- life ---- */

struct replica_followdb *replica_followdb_new(struct replica_followenv *env, const struct ltx_wire_db *d)
{
	struct replica_followdb *db = calloc(1, sizeof(*db));

	if (!db)
		return NULL;
	db->env = env;
	memcpy(db->name, d->name, sizeof(db->name));
	memcpy(db->lineage, d->lineage, sizeof(db->lineage));
	return db;
}

static void set_state(struct replica_followdb *db, enum replica_followdb_state state)
{
	pthread_mutex_lock(&db->env->mu);
	db->state = state;
	pthread_mutex_unlock(&db->env->mu);
}

/* Gives up what is being received. A base stays in its part unless it turned out to be bad. */
static void drop_file(struct replica_followdb *db, bool keep)
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
	drop_file(db, true);
	ltx_log_put(db->log);
	db->log = NULL;
	db->db.id = 0;
	db->dirty = db->ack_due = db->lent = false;
	if (db->state != REPLICA_FOLLOWDB_DIVERGED)
		set_state(db, REPLICA_FOLLOWDB_IDLE);
}

void replica_followdb_free(struct replica_followdb *db)
{
	if (!db)
		return;
	replica_followdb_close(db);
	free(db);
}

/* Reads again what the log holds. */
static void look_at_log(struct replica_followdb *db, bool durable)
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

int replica_followdb_open(struct replica_followdb *db, struct ltx_log *log, struct fz_err *err)
{
	int rc = 0;

	db->log = log;
	if (ltx_log_prepared(log, NULL, NULL)) /* killed between file and head: the primary has it */
		rc = ltx_log_drop_prepared(log, err);
	if (rc == 0)
		rc = ltx_log_follow(log, err);
	if (rc == 0)
		rc = ltx_log_sync(log, err);
	if (rc < 0) {
		ltx_log_put(log);
		db->log = NULL;
		return rc;
	}
	look_at_log(db, true);
	return 0;
}

/* ---- trouble ---- */

void replica_followdb_fail(struct replica_followdb *db, const struct fz_err *why)
{
	int64_t ms = RETRY_MS;

	drop_file(db, true);
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

		fz_err_prefix(&e, "%s", db->name);
		fz_log_err("following waits", &e);
	}
	db->told = why->code;
}

static void works(struct replica_followdb *db)
{
	if (!db->failures && !db->told)
		return;
	if (db->told)
		fz_info("%s: is followed again", db->name);
	db->failures = 0;
	db->told = 0;
	pthread_mutex_lock(&db->env->mu);
	db->err.code = 0;
	pthread_mutex_unlock(&db->env->mu);
}

void replica_followdb_diverged(struct replica_followdb *db, uint64_t agreed_txid)
{
	struct fz_err err = {0};

	drop_file(db, true);
	(void)fz_fail(&err, FZ_EORDER,
	              "its history here (epoch %u, up to TXID %" PRIu64
	              ") is not the primary's (epoch %u, up to TXID %" PRIu64
	              "); they can have been the same up to TXID %" PRIu64
	              " at most. Nothing here is overwritten: this database is not followed until that is resolved",
	              db->epoch, db->tail_txid, db->db.epoch, db->db.tail_txid, agreed_txid);
	pthread_mutex_lock(&db->env->mu);
	db->state = REPLICA_FOLLOWDB_DIVERGED;
	db->err = err;
	pthread_mutex_unlock(&db->env->mu);
	if (db->told != err.code) {
		struct fz_err e = err;

		fz_err_prefix(&e, "%s", db->name);
		fz_log_err("diverged", &e);
	}
	db->told = err.code;
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
	drop_file(db, false);
	if (!db->steps)
		rc = ltx_log_branch(db->log, to, id, sizeof(id), err);
	if (rc == 0)
		rc = ltx_log_truncate(db->log, to, err);
	if (rc == 0)
		rc = ltx_log_sync(db->log, err);
	look_at_log(db, rc == 0);
	if (rc == 0)
		db->steps++;
	return rc < 0 ? rc : 1;
}

int replica_followdb_branch(struct replica_followdb *db, struct fz_err *err)
{
	const struct ltx_pos start = {db->db.epoch, db->db.epoch_txid, db->db.epoch_checksum};
	uint64_t from = start.txid, checksum = LTX_EMPTY_DB;
	char id[64];
	int rc;

	if (db->db.epoch <= db->epoch)
		return fz_fail(err, FZ_EORDER, "the primary's epoch %u is not above ours (%u)", db->db.epoch,
		               db->epoch);
	if (from >= db->tail_txid || (from && ltx_log_checksum_at(db->log, from, &checksum, NULL) < 0) ||
	    checksum != start.checksum)
		return step_back(db, err);
	drop_file(db, false);
	rc = ltx_log_branch(db->log, from, id, sizeof(id), err);
	if (rc == 0)
		rc = ltx_log_truncate(db->log, from, err);
	if (rc == 0)
		rc = ltx_log_set_epoch_at(db->log, &start, err);
	if (rc == 0)
		rc = ltx_log_sync(db->log, err);
	look_at_log(db, rc == 0);
	if (rc == 0)
		works(db);
	return rc;
}

/* ---- position ---- */

void replica_followdb_want(struct replica_followdb *db, struct ltx_wire_want *out)
{
	*out = (struct ltx_wire_want){.id = db->db.id,
	                              .epoch = db->epoch,
	                              .txid = db->tail_txid,
	                              .checksum = db->tail_txid ? db->tail_checksum : 0};
	replica_incoming_look(ltx_log_dirfd(db->log), &out->base_txid, &out->base_offset);
	if (out->base_txid && out->base_txid <= db->tail_txid) {
		unlinkat(ltx_log_dirfd(db->log), REPLICA_INCOMING_BASE, 0);
		out->base_txid = out->base_offset = 0;
	}
	set_state(db, REPLICA_FOLLOWDB_WANTED);
}

bool replica_followdb_lend(struct replica_followdb *db)
{
	uint64_t base_txid, base_offset;

	replica_incoming_look(ltx_log_dirfd(db->log), &base_txid, &base_offset);
	if (db->lent || db->tail_txid >= db->db.base_txid || base_txid == db->db.base_txid)
		return false;
	drop_file(db, true);
	ltx_log_put(db->log);
	db->log = NULL;
	db->lent = true;
	set_state(db, REPLICA_FOLLOWDB_LENT);
	return true;
}

/* What is in the log is part of the primary's history, so its epoch is ours. */
static int take_epoch(struct replica_followdb *db, struct fz_err *err)
{
	struct ltx_pos start = {db->db.epoch, db->db.epoch_txid, db->db.epoch_checksum};
	int rc;

	if (db->epoch > db->db.epoch || (db->epoch == db->db.epoch && (db->tail_txid || !start.txid)))
		return 0;
	rc = ltx_log_set_epoch_at(db->log, &start, err);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&db->env->mu);
	db->epoch = db->db.epoch;
	pthread_mutex_unlock(&db->env->mu);
	return 0;
}

static void note_primary(struct replica_followdb *db, uint64_t txid)
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
	note_primary(db, db->db.tail_txid);
	if (db->tail_txid && db->tail_txid == db->db.tail_txid && db->tail_checksum == db->db.tail_checksum) {
		int rc = take_epoch(db, err);

		if (rc == 0)
			works(db);
		return rc;
	}
	return 0;
}

/* ---- into the log ---- */

static void took(struct replica_followdb *db, uint64_t txid, uint64_t checksum)
{
	db->tail_txid = txid;
	db->tail_checksum = checksum;
	db->dirty = true;
	db->steps = 0;
	works(db);
	pthread_mutex_lock(&db->env->mu);
	db->received = txid;
	if (db->primary_txid < txid)
		db->primary_txid = txid;
	if (db->primary_txid == txid)
		db->behind_ms = 0;
	pthread_mutex_unlock(&db->env->mu);
}

/* All of a small file: every check, nothing appended before the last one. */
static int verify(struct replica_followdb *db, struct mem *m, struct ltx_header *h, struct ltx_trailer *t,
                  uint32_t *pages, struct fz_err *err)
{
	struct ltx_dec **dec = &db->env->dec;
	uint64_t sum = LTX_EMPTY_DB, bytes = 0;
	const uint8_t *page = NULL;
	uint32_t pgno = 0;
	int rc = *dec ? ltx_dec_reopen(*dec, &m->src, 0, err) : ltx_dec_open(dec, &m->src, 0, err);

	*pages = 0;
	if (rc < 0)
		return rc;
	*h = *ltx_dec_header(*dec);
	while ((rc = ltx_dec_page(*dec, &pgno, &page, err)) == 1) {
		++*pages;
		if (ltx_is_snapshot(h))
			sum = ltx_db_checksum_swap(sum, 0, ltx_page_checksum(pgno, page, h->page_size));
	}
	if (rc < 0)
		return rc;
	*t = *ltx_dec_end(*dec, &bytes);
	if (bytes != m->src.size_bytes)
		return fz_fail(err, FZ_ECORRUPT, "the file has %" PRIu64 " bytes, announced were %" PRIu64, bytes,
		               m->src.size_bytes);
	if (h->min_txid != db->file.min_txid || h->max_txid != db->file.max_txid || h->flags)
		return fz_fail(err, FZ_EORDER,
		               "the file holds TXIDs %" PRIu64 "-%" PRIu64 ", announced were %" PRIu64 "-%" PRIu64,
		               h->min_txid, h->max_txid, db->file.min_txid, db->file.max_txid);
	if (ltx_is_snapshot(h) && sum != t->post_checksum)
		return fz_fail(err, FZ_ECHECKSUM, "the transaction's pages have another checksum than it says");
	return 0;
}

/* What the log begins with, whoever verified it: the file goes on exactly where the log ends. */
static int begin(struct replica_followdb *db, const struct ltx_header *h, struct fz_sink **sink, struct fz_err *err)
{
	int rc;

	/* before the epoch is taken: it says that what is here is part of that history */
	if (db->tail_txid && h->pre_checksum != db->tail_checksum)
		return fz_fail(err, FZ_ECHECKSUM,
		               "transaction %" PRIu64 " builds on another database than the one here", h->min_txid);
	rc = take_epoch(db, err);
	if (rc < 0)
		return rc;
	return ltx_log_begin(db->log, h, sink, err);
}

static int take(struct replica_followdb *db, const uint8_t *bytes, size_t n, struct fz_err *err)
{
	struct mem m = {
	        .src = {.read_at = mem_read, .size_bytes = n},
                  .data = bytes
        };
	struct fz_sink *sink = NULL;
	struct ltx_header h;
	struct ltx_trailer t;
	uint32_t pages;
	int rc = verify(db, &m, &h, &t, &pages, err);

	if (rc == 0)
		rc = begin(db, &h, &sink, err);
	if (rc < 0)
		return fz_err_prefix(err, "TXID %" PRIu64, db->file.max_txid);
	rc = fz_sink_write(sink, bytes, n, err);
	if (rc == 0)
		rc = ltx_log_commit(db->log, n, pages, &t, false, err);
	else
		ltx_log_abort(db->log);
	if (rc == 0)
		took(db, h.max_txid, t.post_checksum);
	return rc;
}

/* The verified part becomes the base, or is copied into the log, a bit at a time. Returns 2 while there is more. */
static int install(struct replica_followdb *db, struct fz_err *err)
{
	int rc;

	replica_incoming_close(db->in, true);
	db->in = NULL;
	rc = take_epoch(db, err);
	if (rc == 0)
		rc = ltx_log_install_base(db->log, REPLICA_INCOMING_BASE, err);
	if (rc < 0)
		return rc;
	look_at_log(db, false);
	took(db, db->tail_txid, db->tail_checksum);
	fz_info("%s: got its base, the database at TXID %" PRIu64, db->name, db->tail_txid);
	return 1;
}

static int copy_some(struct replica_followdb *db, struct fz_err *err)
{
	const struct ltx_header *h = replica_incoming_header(db->in);
	const struct ltx_trailer *t = replica_incoming_trailer(db->in);
	uint64_t left = db->file.size_bytes - db->copied_bytes;
	size_t n = left < COPY_BYTES ? (size_t)left : COPY_BYTES;
	uint8_t *room;
	int rc = 0;

	if (!db->sink) {
		db->copied_bytes = 0;
		rc = begin(db, h, &db->sink, err);
		return rc < 0 ? rc : 2;
	}
	room = fz_buf_room(&db->memory, COPY_BYTES);
	if (!room)
		return fz_fail_errno(err, ENOMEM, "copying a transaction into the log");
	rc = replica_incoming_read(db->in, db->copied_bytes, room, n, err);
	if (rc == 0)
		rc = fz_sink_write(db->sink, room, n, err);
	if (rc < 0)
		return rc;
	db->copied_bytes += n;
	if (n < left)
		return 2;
	db->sink = NULL; /* committed or aborted now */
	rc = ltx_log_commit(db->log, db->file.size_bytes, replica_incoming_pages(db->in), t, false, err);
	if (rc < 0)
		return rc;
	took(db, h->max_txid, t->post_checksum);
	return 1;
}

bool replica_followdb_work(struct replica_followdb *db, uint64_t budget_ns)
{
	uint64_t end_ns = fz_mono_ns() + budget_ns;
	struct fz_err err = {0};
	int rc;

	if (db->receive != REPLICA_RECEIVE_PART)
		return false;
	rc = replica_incoming_step(db->in, budget_ns, &err);
	if (rc < 0)
		drop_file(db, false); /* from scratch */
	while (rc == 1) {
		rc = db->base ? install(db, &err) : copy_some(db, &err);
		if (rc == 1) {
			drop_file(db, false);
			return false;
		}
		if (rc == 2 && fz_mono_ns() < end_ns)
			rc = 1;
	}
	if (rc < 0) {
		fz_err_prefix(&err, "TXID %" PRIu64, db->file.max_txid);
		replica_followdb_fail(db, &err);
	}
	return rc == 2;
}

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

void replica_followdb_applied(struct replica_followdb *db, uint64_t txid)
{
	if (txid == db->applied)
		return;
	pthread_mutex_lock(&db->env->mu);
	db->applied = txid;
	pthread_mutex_unlock(&db->env->mu);
	db->ack_due = true;
}

/* ---- FILE, DATA ---- */

/* Why the announced file is not taken; 1 = it is, 0 = skipped, negative = this database's problem. */
static int accept(struct replica_followdb *db, const struct ltx_wire_file *file, struct fz_err *err)
{
	db->base = file->min_txid == 1 && (db->tail_txid || file->max_txid > 1 || file->size_bytes > FILE_BYTES);
	if (db->state != REPLICA_FOLLOWDB_WANTED && db->state != REPLICA_FOLLOWDB_STREAM)
		return 0;
	if (db->base ? file->max_txid > db->tail_txid : file->min_txid == db->tail_txid + 1)
		return 1;
	if (db->state == REPLICA_FOLLOWDB_WANTED) /* of an earlier stream */
		return 0;
	return fz_fail(err, FZ_EORDER, "TXIDs %" PRIu64 "-%" PRIu64 " came where %" PRIu64 " was next", file->min_txid,
	               file->max_txid, db->tail_txid + 1);
}

int replica_followdb_file(struct replica_followdb *db, const struct ltx_wire_file *file, struct fz_err *err)
{
	struct fz_err why = {0};
	int rc;

	/* A part that is all here comes first. The primary's window lets little follow it, so it is small. */
	if (db->receive == REPLICA_RECEIVE_PART && db->got_bytes == db->file.size_bytes)
		(void)replica_followdb_work(db, UINT64_C(3600000) * MS_NS);
	drop_file(db, true);
	db->file = *file;
	db->got_bytes = file->off_bytes;
	db->receive = REPLICA_RECEIVE_SKIP;
	rc = accept(db, file, &why);
	if (rc == 0)
		return 0;
	if (rc > 0 && file->off_bytes && !db->base)
		return fz_fail(err, FZ_ECORRUPT, "a file that is no base cannot be gone on with");
	if (rc > 0) {
		set_state(db, REPLICA_FOLLOWDB_STREAM);
		if (db->primary_txid < file->max_txid)
			note_primary(db, file->max_txid);
		if (!db->base && file->size_bytes <= FILE_BYTES &&
		    db->env->memory_bytes + file->size_bytes <= MEMORY_BYTES) {
			db->env->memory_bytes += file->size_bytes;
			db->receive = REPLICA_RECEIVE_MEMORY;
			return 0;
		}
		rc = replica_incoming_open(&db->in, ltx_log_dirfd(db->log),
		                           db->base ? REPLICA_INCOMING_BASE : REPLICA_INCOMING_FILE, file, &why);
		if (rc == 0)
			db->receive = REPLICA_RECEIVE_PART;
	}
	if (rc < 0) {
		replica_followdb_fail(db, &why);
		db->receive = REPLICA_RECEIVE_SKIP;
	}
	return 0;
}

/* What came is all of it, in one piece. */
static void take_whole(struct replica_followdb *db, const uint8_t *bytes, size_t n)
{
	struct fz_err why = {0};
	int rc = take(db, bytes, n, &why);

	drop_file(db, false);
	if (rc < 0)
		replica_followdb_fail(db, &why);
}

int replica_followdb_data(struct replica_followdb *db, const uint8_t *bytes, size_t n, struct fz_err *err)
{
	uint64_t left = db->file.size_bytes - db->got_bytes;
	struct fz_err why = {0};
	int rc = 0;

	if (db->receive == REPLICA_RECEIVE_NOTHING && db->state != REPLICA_FOLLOWDB_STREAM)
		return 0; /* the rest of what failed or is not wanted */
	if (db->receive == REPLICA_RECEIVE_NOTHING || n > left)
		return fz_fail(err, FZ_ECORRUPT, "%s: bytes that belong to no file", db->name);
	db->got_bytes += n;
	switch (db->receive) {
	case REPLICA_RECEIVE_MEMORY:
		if (n == db->file.size_bytes) {
			take_whole(db, bytes, n);
			break;
		}
		if (fz_buf_add(&db->memory, bytes, n) < 0)
			rc = fz_fail_errno(&why, ENOMEM, "receiving a transaction");
		else if (n == left)
			take_whole(db, db->memory.data, db->memory.size);
		break;
	case REPLICA_RECEIVE_PART:
		rc = replica_incoming_write(db->in, bytes, n, &why);
		break;
	case REPLICA_RECEIVE_SKIP:
		if (n == left)
			db->receive = REPLICA_RECEIVE_NOTHING;
		break;
	case REPLICA_RECEIVE_NOTHING:
		break;
	}
	if (rc < 0)
		replica_followdb_fail(db, &why);
	return 0;
}
