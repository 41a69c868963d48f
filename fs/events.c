/* events.c - what is about to happen to a file, and what did: which of it is a barrier, the end of a transaction, or a name
 * that now means another database. */
#include "base/file.h"
#include "base/log.h"
#include "fs/ack.h"
#include "fs/baseline.h"
#include "fs/capture_journal.h"
#include "fs/capture_priv.h"
#include "fs/capture_wal.h"
#include "fs/guard.h"
#include "fs/recover.h"
#include "ltx/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* What an event concerns. */
struct target {
	struct fs_db *db; /* counted */
	enum fs_role role;
};

static struct target target_of(struct fs_capture *c, const struct fs_event *ev)
{
	struct target t = {NULL, FS_ROLE_OTHER};

	if (ev->file && !(ev->op == FS_EV_UNLINK && ev->path)) { /* an open file may have several names */
		pthread_mutex_lock(&c->mu);
		if (ev->file->db) {
			t.role = ev->file->role;
			t.db = ev->file->db;
			t.db->refs++;
		}
		pthread_mutex_unlock(&c->mu);
	} else if (ev->path) {
		size_t len;
		char *base;

		t.role = fs_registry_split(ev->path, &len);
		base = strndup(ev->path, len);
		t.db = base ? fs_registry_get(c, base, false) : NULL;
		free(base);
	}
	return t;
}

static bool journal_zeroed(const struct fs_db *db)
{
	uint8_t h[8];

	return db->rb.fd >= 0 &&
	       (fz_pread(db->rb.fd, h, sizeof(h), 0) != sizeof(h) || !ltx_journal_is_hot(h, sizeof(h)));
}

/* A failure to keep what SQLite is about to overwrite: the application goes on, the log continues by a compare. */
static void barrier(struct fs_db *db)
{
	struct fz_err err = {0};

	if (fs_wal_pass(db, FS_WAL_BARRIER, &err) < 0) {
		fs_db_note_error(db, &err);
		if (db->state == FS_DB_LIVE)
			fs_db_lose(db, "a transaction could not be kept in time");
	}
}

static void failed(struct fs_db *db, const struct fz_err *err)
{
	fs_db_note_error(db, err);
	if (db->state == FS_DB_LIVE)
		fs_db_lose(db, "a transaction could not be kept");
}

/* By cp for example. The marks outlive this worker, and tell of the holes that nobody will write. */
static void written_anew(struct fs_db *db)
{
	struct ltx_sums_head *head = db->sums ? ltx_sums_head(db->sums) : NULL;
	struct fz_err err = {0};

	db->rb.whole = true;
	if (fs_rollback_note_write(db, 0, head ? (uint64_t)head->commit * head->page_size : 0, &err) < 0)
		failed(db, &err);
}

/* The same under a WAL: SQLite never does that. Its end is not told either (poll.c looks); a worker that takes over
 * compares. */
static void written_anew_in_wal(struct fs_db *db)
{
	db->foreign = true;
	db->foreign_ns = 0;
	if (db->sums)
		ltx_sums_head(db->sums)->unsure = 2;
	fs_poll_kick(db);
}

/* The log, beside the application's own fsync. */
static void sync_beside(struct fs_db *db, struct fs_event *ev)
{
	struct fz_err err = {0};
	struct ltx_log *log;

	if (ltx_logset_get(db->c->conf.logs, db->name, false, &log, &err) == 0)
		ev->priv = fs_syncer_begin(&db->c->syncer, log);
}

static void before_database(struct fs_db *db, struct fs_event *ev)
{
	struct fz_err err = {0};
	int rc = 0;

	switch (ev->op) {
	case FS_EV_WRITE:
		rc = fs_rollback_note_write(db, ev->off_bytes, ev->len_bytes, &err);
		if (rc < 0)
			db->rb.whole = true;
		if (db->rb.loose || db->foreign)
			fs_poll_later(db);
		rc = 0;
		break;
	case FS_EV_TRUNCATE:
		if (fs_db_in_wal(db))
			barrier(db);
		if (ev->size_bytes == 0 && fs_db_in_wal(db))
			written_anew_in_wal(db);
		else if (ev->size_bytes == 0)
			written_anew(db);
		break;
	case FS_EV_FSYNC:
		if (db->state != FS_DB_LIVE)
			break;
		if (fs_db_in_wal(db)) { /* of a checkpoint: capture_wal.c (5) */
			sync_beside(db, ev);
			break;
		}
		if (db->rb.fd < 0 || journal_zeroed(db))
			break;
		/* passed through: what is written after this is not told, so it is staged at the journal's end only; but
		 * PERSIST shows its end when the header is gone already */
		rc = db->passthrough ? fs_rollback_list(db, &err) : fs_rollback_stage(db, &err);
		if (rc == 0 && db->rb.staged)
			sync_beside(db, ev);
		break;
	case FS_EV_UNLINK:
	case FS_EV_RENAME:
		if (fs_db_in_wal(db))
			barrier(db);
		break;
	default:
		break;
	}
	if (rc < 0)
		failed(db, &err);
}

/* A WAL begins, and the file was written in a way that no event ended: that is what the WAL goes on from. */
static void before_first_frame(struct fs_db *db)
{
	struct fz_err err = {0};

	if (db->state == FS_DB_LIVE && !fs_db_in_wal(db) && !fs_db_journal_hot(db) &&
	    (db->rb.loose || db->rb.whole || (db->passthrough && fs_rollback_moved(db))) &&
	    fs_rollback_capture(db, &err) < 0)
		failed(db, &err);
}

/* Its last commit came while a worker was dying, or before it was known: a state of its own, before there is another. Who
 * makes a journal has RESERVED and has written nothing yet; a WAL that is made holds nothing; who writes to one has not
 * published it. Also what was empty when it was opened, and was made a database without SQLite (test_fs_capture: filled). */
static void catch_up(struct fs_db *db)
{
	struct fz_err err = {0};
	struct fs_db_head h;
	int rc;

	if (db->state == FS_DB_CANDIDATE && fs_db_read_head(db, &h, NULL) == 0 && h.page_size)
		fs_db_lose(db, "not seen before");
	if (db->state != FS_DB_LOST || fs_db_journal_hot(db))
		return;
	rc = fs_baseline_now(db, &err);
	if (rc < 0 && rc != -EAGAIN && rc != -FZ_ENOTFOUND)
		fs_db_note_error(db, &err);
}

static void before_wal(struct fs_db *db, const struct fs_event *ev)
{
	switch (ev->op) {
	case FS_EV_TRUNCATE:
	case FS_EV_RENAME:
		barrier(db);
		break;
	case FS_EV_UNLINK:
		barrier(db);
		fs_wal_checkpointed(db);
		break;
	case FS_EV_CREATE:
		before_first_frame(db);
		catch_up(db);
		break;
	case FS_EV_WRITE:
		catch_up(db);
		break;
	default:
		break;
	}
}

static bool ends_journal(const struct fs_event *ev)
{
	return ev->op == FS_EV_UNLINK || ev->op == FS_EV_RENAME || (ev->op == FS_EV_TRUNCATE && ev->size_bytes == 0);
}

static void before_journal(struct fs_db *db, const struct fs_event *ev)
{
	struct fz_err err = {0};

	if (ends_journal(ev) && fs_rollback_end_before(db, &err) < 0)
		failed(db, &err);
	if (ev->op == FS_EV_CREATE)
		catch_up(db);
}

static void before_shm(struct fs_db *db, const struct fs_event *ev)
{
	if (ev->op == FS_EV_TRUNCATE || ev->op == FS_EV_UNLINK)
		barrier(db);
}

static void dispatch_before(struct fs_db *db, enum fs_role role, struct fs_event *ev)
{
	if (role == FS_ROLE_SHM && ev->op == FS_EV_WRITE)
		return; /* the kernel writes mapped pages back, perhaps because the agent, asked under mu, opens it */
	if (role == FS_ROLE_WAL && ev->op == FS_EV_WRITE && !atomic_exchange(&db->catch_up, false))
		return;
	/* an FSYNC of the WAL costs the application nothing but the fsync: no waiting for a capture under way */
	if (role == FS_ROLE_WAL && ev->op == FS_EV_FSYNC)
		atomic_fetch_add(&db->wal_syncing, 1); /* in doubt until it has succeeded */
	if (role == FS_ROLE_WAL && ev->op == FS_EV_FSYNC && !db->c->conf.acks)
		return;
	pthread_mutex_lock(&db->mu);
	fs_recover_settle(db);
	ev->ack.tail = db->sums ? ltx_sums_head(db->sums)->txid : 0;
	ev->ack.syncs = db->rb.journal_syncs > 0;
	if (db->state != FS_DB_ENDED) {
		if (role == FS_ROLE_DB)
			before_database(db, ev);
		else if (role == FS_ROLE_WAL)
			before_wal(db, ev);
		else if (role == FS_ROLE_JOURNAL)
			before_journal(db, ev);
		else if (role == FS_ROLE_SHM)
			before_shm(db, ev);
	}
	if (ev->op == FS_EV_FSYNC && db->c->conf.acks)
		fs_ack_offer(db, role, ev);
	pthread_mutex_unlock(&db->mu);
}

/* ---- after ---- */

static void after_database(struct fs_db *db, const struct fs_event *ev, int rc)
{
	struct fz_err err = {0};

	if (rc < 0)
		return;
	/* no journal: MEMORY or OFF; the application waits, so what it synced is what it commits */
	if ((ev->op == FS_EV_FSYNC || (ev->op == FS_EV_TRUNCATE && db->opaque)) && !fs_db_in_wal(db) &&
	    !fs_db_journal_hot(db) && fs_rollback_capture(db, &err) < 0)
		failed(db, &err);
}

static void after_wal(struct fs_db *db, const struct fs_event *ev, int rc)
{
	switch (ev->op) {
	case FS_EV_UNLINK:
	case FS_EV_RENAME:
		if (rc == 0)
			fs_db_close_wal(db);
		if (rc == 0 && db->foreign) {
			db->foreign = false;
			db->rb.whole = true;
			fs_rollback_note_loose(db);
			fs_poll_later(db);
		}
		break;
	case FS_EV_TRUNCATE:
		if (rc == 0 && ev->size_bytes < LTX_WAL_HEADER_SIZE)
			db->wal.known = false;
		break;
	default:
		break;
	}
}

/* At FULL SQLite acknowledges a commit whose journal may rise again after a power cut: only EXTRA syncs the directory. Who
 * asked for FULL has synced the journal twice (pager.c, syncJournal), and gets what FULL promises.
 * Held by tests/e2e/powerloss.py. */
static void keep_unlink(struct fs_db *db)
{
	struct fz_err err = {0};

	if (db->rb.journal_syncs >= 2 && fz_sync_parent(db->c->conf.rootfd, db->name, &err) < 0)
		fs_db_note_error(db, &err);
}

static void after_journal(struct fs_db *db, const struct fs_event *ev, int rc)
{
	struct fz_err err = {0};
	int r = 0;

	db->rb.journal_syncs += ev->op == FS_EV_FSYNC;
	if (ends_journal(ev)) {
		r = fs_rollback_end_after(db, rc == 0, &err);
		if (rc == 0 && ev->op == FS_EV_UNLINK)
			keep_unlink(db);
		db->rb.journal_syncs = 0;
		if (rc == 0)
			fs_ack_over(db);
	} else if (ev->op == FS_EV_FSYNC || ev->op == FS_EV_TRUNCATE || ev->op == FS_EV_WRITE) {
		if (ev->op == FS_EV_WRITE && ev->off_bytes >= sizeof(uint64_t))
			return;
		if (!journal_zeroed(db)) {
			db->rb.hot = true;
		} else if (db->rb.hot || !db->passthrough) {
			/* PERSIST: the header is gone, so the transaction is committed whatever the fsync said. (In a write-
			 * through database an FSYNC before the first header finds nothing dirty.) */
			db->rb.hot = false;
			r = fs_rollback_capture(db, &err);
			fs_ack_over(db);
		}
	}
	if (r < 0)
		failed(db, &err);
}

/* The agent may still hold it for a moment; whoever opens the database next makes another. */
static void forget_shm(struct fs_db *db)
{
	struct fs_capture *c = db->c;

	pthread_mutex_lock(&c->mu);
	for (struct fs_file *f = c->files; f; f = f->next)
		if (f->db == db && f->role == FS_ROLE_SHM && !f->gone) {
			f->gone = true;
			db->open_shm--;
		}
	pthread_mutex_unlock(&c->mu);
	db->shm_fd = -1;
}

static void after_shm(struct fs_db *db, const struct fs_event *ev, int rc)
{
	if (rc == 0 && ev->op == FS_EV_UNLINK && !db->c->conf.passthrough)
		forget_shm(db);
	if (rc < 0 || ev->op != FS_EV_TRUNCATE || ev->size_bytes >= 4096 || !db->sums)
		return;
	db->wal.recheck = true; /* recovery follows: does it keep what is captured? */
	ltx_sums_head(db->sums)->recheck = 1;
}

static void dispatch_after(struct fs_db *db, enum fs_role role, const struct fs_event *ev, int rc)
{
	if (role == FS_ROLE_WAL && (ev->op == FS_EV_WRITE || ev->op == FS_EV_FSYNC)) {
		if (ev->op == FS_EV_FSYNC)
			atomic_fetch_sub(&db->wal_syncing, 1);
		fs_poll_kick(db); /* the header follows */
		return;
	}
	if (role == FS_ROLE_SHM && ev->op == FS_EV_WRITE)
		return;
	pthread_mutex_lock(&db->mu);
	if (db->state != FS_DB_ENDED) {
		if (role == FS_ROLE_DB)
			after_database(db, ev, rc);
		else if (role == FS_ROLE_WAL)
			after_wal(db, ev, rc);
		else if (role == FS_ROLE_JOURNAL)
			after_journal(db, ev, rc);
		else if (role == FS_ROLE_SHM)
			after_shm(db, ev, rc);
	}
	pthread_mutex_unlock(&db->mu);
}

/* ---- names ---- */

static void after_name(struct fs_capture *c, const struct fs_event *ev, const struct target *t)
{
	if (ev->op == FS_EV_UNLINK && t->db && t->role == FS_ROLE_DB && !ev->other)
		fs_names_end(t->db);
	if (ev->op == FS_EV_UNLINK && ev->path && ev->other)
		fs_names_moved(c, ev->path, ev->other);
	if (ev->op == FS_EV_RENAME && ev->path2 && ev->other)
		fs_names_moved(c, ev->path2, ev->other);
	if (ev->op == FS_EV_RENAME && ev->path && ev->path2)
		fs_names_renamed(c, ev->path, ev->path2, ev->exchange);
	if (ev->op == FS_EV_LINK && ev->path && ev->path2)
		fs_names_linked(c, ev->path, ev->path2);
}

static int refused(struct fs_capture *c, const struct fs_event *ev)
{
	int rc;

	if (fs_guard_idle(c->guard))
		return 0;
	if (ev->op != FS_EV_TRUNCATE || !ev->file)
		return fs_guard_event(c->guard, ev);
	pthread_mutex_lock(&c->mu);
	rc = fs_guard_may_cut(c->guard, ev->file->path, ev->size_bytes, ev->pid);
	pthread_mutex_unlock(&c->mu);
	return rc;
}

/* What this event has committed without having been in doubt before. At synchronous=OFF nothing is waited for. */
static int wait_committed(struct fs_db *db, enum fs_role role, const struct fs_event *ev)
{
	if (ev->op == FS_EV_FSYNC && (role == FS_ROLE_DB || role == FS_ROLE_JOURNAL))
		return fs_ack_wait_commit(db, ev, false);
	if (role == FS_ROLE_JOURNAL && ends_journal(ev) && ev->ack.syncs)
		(void)fs_ack_wait_commit(db, ev, true);
	return 0;
}

/* Its log ends, or its WAL is about to be another's: what is visible so far was committed under this name. */
static void before_moved(struct fs_db *db)
{
	pthread_mutex_lock(&db->mu);
	fs_recover_settle(db);
	if (db->state != FS_DB_ENDED && fs_db_in_wal(db))
		barrier(db);
	pthread_mutex_unlock(&db->mu);
}

/* What a rename replaces or exchanges is about to leave its WAL, or a WAL its database; and a directory takes along all
 * below it. */
static void before_renamed(struct fs_capture *c, const struct fs_event *ev)
{
	struct fs_event of = {.op = FS_EV_RENAME, .path = ev->path2};
	struct target t = target_of(c, &of);
	struct fs_db *db = NULL;

	if (t.db)
		before_moved(t.db);
	fs_registry_put(t.db);
	while ((db = fs_registry_next(c, db)))
		if (fs_registry_below(db->name, ev->path) || fs_registry_below(db->name, ev->path2))
			before_moved(db);
}

int fs_capture_before(struct fs_capture *c, struct fs_event *ev)
{
	struct target t;
	int rc = refused(c, ev);

	if (rc < 0)
		return rc;
	t = target_of(c, ev);
	atomic_store(&c->settled, true);
	rc = fs_lapse_event(c, ev, t.role, t.db);
	if (t.db && rc == 0)
		dispatch_before(t.db, t.role, ev);
	if (rc == 0 && ev->op == FS_EV_RENAME && ev->path2)
		before_renamed(c, ev);
	fs_registry_put(t.db);
	return rc;
}

void fs_capture_after(struct fs_capture *c, struct fs_event *ev, int rc)
{
	struct target t = target_of(c, ev);
	struct fz_err err = {0};

	if (ev->priv && fs_syncer_wait(&c->syncer, ev->priv, &err) < 0)
		fz_log_err(t.db ? fz_log_db(t.db->name) : "log", &err);
	ev->priv = NULL;
	if (t.db && c->conf.acks && ev->op == FS_EV_FSYNC && rc == 0)
		ev->verdict = fs_ack_wait_offer(t.db, t.role, ev);
	if (t.db)
		dispatch_after(t.db, t.role, ev, ev->verdict < 0 ? ev->verdict : rc);
	if (t.db && c->conf.acks && rc == 0 && ev->verdict == 0)
		ev->verdict = wait_committed(t.db, t.role, ev);
	if (rc == 0 && (ev->op == FS_EV_UNLINK || ev->op == FS_EV_RENAME || ev->op == FS_EV_LINK))
		after_name(c, ev, &t);
	fs_registry_put(t.db);
}
