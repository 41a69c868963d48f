/* followfile.c - what comes of one database: a file in memory or in a part, verified whole, then into the log. */
#include "replica/followdbpriv.h"

#include "base/clock.h"
#include "base/log.h"
#include "ltx/dec.h"
#include "replica/incoming.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define MS_NS        UINT64_C(1000000)
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

/* ---- into the log ---- */

static void took(struct replica_followdb *db, uint64_t txid, uint64_t checksum)
{
	replica_held_drop(&db->held);
	replica_followdb_note_held(db);
	db->tail_txid = txid;
	db->tail_checksum = checksum;
	db->dirty = true;
	db->steps = 0;
	replica_followdb_works(db);
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
	int rc = replica_held_verify(&db->env->dec, &m->src, h, t, pages, err);

	if (rc < 0)
		return rc;
	if (h->min_txid != db->file.min_txid || h->max_txid != db->file.max_txid)
		return fz_fail(err, FZ_EORDER,
		               "the file holds TXIDs %" PRIu64 "-%" PRIu64 ", announced were %" PRIu64 "-%" PRIu64,
		               h->min_txid, h->max_txid, db->file.min_txid, db->file.max_txid);
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
	rc = replica_followdb_take_epoch(db, err);
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
	struct ltx_log_info info;
	char id[64];
	int rc = 0;

	replica_incoming_close(db->in, true);
	db->in = NULL;
	/* The primary has folded the time in which another epoch began, so nobody can tell any more whether all that is here is
	 * part of it: what this host may have committed alone is not dropped. */
	ltx_log_info(db->log, &info);
	if (db->tail_txid && db->epoch < db->db.epoch && !db->steps)
		rc = ltx_log_branch(db->log, info.base_txid, id, sizeof(id), err);
	if (rc < 0)
		return rc;
	db->steps += db->steps == 0; /* once, also when the rest is tried again */
	rc = replica_followdb_take_epoch(db, err);
	if (rc == 0)
		rc = ltx_log_install_base(db->log, REPLICA_INCOMING_BASE, err);
	if (rc < 0)
		return rc;
	replica_followdb_look_at_log(db, false);
	took(db, db->tail_txid, db->tail_checksum);
	fz_info("%s: got its base, the database at TXID %" PRIu64, fz_log_db(db->name), db->tail_txid);
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
		replica_followdb_drop_file(db, false); /* from scratch */
	while (rc == 1) {
		rc = db->base ? install(db, &err) : copy_some(db, &err);
		if (rc == 1) {
			replica_followdb_drop_file(db, false);
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

/* ---- FILE, DATA ---- */

/* Why the announced file is not taken; 1 = it is, 0 = skipped, negative = this database's problem. */
static int accept(struct replica_followdb *db, const struct ltx_wire_file *file, struct fz_err *err)
{
	db->base = file->min_txid == 1 && (db->tail_txid || file->max_txid > 1 || file->size_bytes > FILE_BYTES);
	if (db->state != REPLICA_FOLLOWDB_WANTED && db->state != REPLICA_FOLLOWDB_STREAM)
		return 0;
	if (db->base ? file->max_txid > db->tail_txid : file->min_txid == db->tail_txid + 1)
		return 1;
	if (db->state == REPLICA_FOLLOWDB_WANTED ||
	    (!db->base && file->max_txid <= db->tail_txid)) /* of an earlier stream */
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
	replica_followdb_drop_file(db, true);
	db->file = *file;
	db->got_bytes = file->off_bytes;
	db->receive = REPLICA_RECEIVE_SKIP;
	rc = accept(db, file, &why);
	if (rc == 0)
		return 0;
	if (rc > 0 && file->off_bytes && !db->base)
		return fz_fail(err, FZ_ECORRUPT, "a file that is no base cannot be gone on with");
	if (rc > 0) {
		replica_followdb_enter(db, REPLICA_FOLLOWDB_STREAM);
		if (db->primary_txid < file->max_txid)
			replica_followdb_note_primary(db, file->max_txid);
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

/* ---- PREPARED, COMMIT, ABORT ---- */

/* What is wrong with it is no reason to stop following: it is not acknowledged, that is all. */
static void not_held(struct replica_followdb *db, struct fz_err *why)
{
	replica_held_drop(&db->held);
	replica_followdb_note_held(db);
	fz_err_prefix(why, "%s: TXID %" PRIu64 " is not held", db->name, db->file.max_txid);
	fz_debug("%s", fz_log_why(why));
}

static void set_durable(struct replica_followdb *db, uint64_t txid)
{
	if (txid == db->durable)
		return;
	pthread_mutex_lock(&db->env->mu);
	db->durable = txid;
	pthread_mutex_unlock(&db->env->mu);
	db->ack_due = true;
}

int replica_followdb_prepared(struct replica_followdb *db, const struct ltx_wire_file *file, struct fz_err *err)
{
	uint64_t durable = db->durable;
	struct fz_err why = {0};

	if (file->off_bytes || file->min_txid != file->max_txid)
		return fz_fail(err, FZ_ECORRUPT, "what is in doubt is one transaction, from its first byte on");
	if (db->receive == REPLICA_RECEIVE_PART && db->got_bytes == db->file.size_bytes)
		(void)replica_followdb_work(db, UINT64_C(3600000) * MS_NS);
	replica_followdb_drop_file(db, true);
	db->file = *file;
	db->got_bytes = 0;
	db->base = false;
	db->receive = REPLICA_RECEIVE_SKIP;
	if ((db->state != REPLICA_FOLLOWDB_WANTED && db->state != REPLICA_FOLLOWDB_STREAM) ||
	    file->min_txid != db->tail_txid + 1)
		return 0; /* of an earlier stream */
	if (replica_held_begin(&db->held, db->log, &durable, &why) < 0)
		not_held(db, &why);
	else
		db->receive = REPLICA_RECEIVE_HELD;
	set_durable(db, durable);
	return 0;
}

static void receive_held(struct replica_followdb *db, const uint8_t *bytes, size_t n)
{
	uint64_t durable = db->durable;
	struct fz_err why = {0};
	int rc = replica_held_write(&db->held, db->got_bytes - n, bytes, n, &why);

	if (rc == 0 && db->got_bytes < db->file.size_bytes)
		return;
	if (rc == 0)
		rc = replica_held_end(&db->held, db->log, db->file.size_bytes, &db->env->dec, &durable, &why);
	set_durable(db, durable);
	if (rc == 0) {
		db->held_due = true;
		replica_followdb_note_held(db);
	} else {
		not_held(db, &why);
	}
	db->receive = db->got_bytes < db->file.size_bytes ? REPLICA_RECEIVE_SKIP : REPLICA_RECEIVE_NOTHING;
}

void replica_followdb_commit(struct replica_followdb *db, uint64_t txid)
{
	uint64_t held, checksum = 0;
	struct fz_err why = {0};

	if (db->state != REPLICA_FOLLOWDB_WANTED && db->state != REPLICA_FOLLOWDB_STREAM)
		return;
	held = replica_held_txid(&db->held, &checksum);
	replica_followdb_drop_file(db, true);
	if (db->state == REPLICA_FOLLOWDB_WANTED && held != txid)
		return; /* of an earlier stream */
	if (replica_followdb_take_epoch(db, &why) < 0 || replica_held_commit(&db->held, db->log, txid, &why) < 0) {
		replica_followdb_fail(db, &why);
		return;
	}
	replica_followdb_enter(db, REPLICA_FOLLOWDB_STREAM);
	took(db, txid, checksum);
}

void replica_followdb_abort(struct replica_followdb *db, uint64_t txid)
{
	uint64_t checksum;

	if (replica_held_txid(&db->held, &checksum) == txid)
		replica_held_drop(&db->held);
	replica_followdb_note_held(db);
}

/* What came is all of it, in one piece. */
static void take_whole(struct replica_followdb *db, const uint8_t *bytes, size_t n)
{
	struct fz_err why = {0};
	int rc = take(db, bytes, n, &why);

	replica_followdb_drop_file(db, false);
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
	case REPLICA_RECEIVE_HELD:
		receive_held(db, bytes, n);
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
