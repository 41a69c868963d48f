#include "fs/ack.h"

#include "base/clock.h"
#include "fs/capture_journal.h"
#include "fs/capture_priv.h"
#include "fs/capture_wal.h"
#include "ltx/offer.h"

#include <errno.h>
#include <string.h>

/* ---- what is offered ---- */

static void offer_wal(struct fs_db *db, struct fs_event *ev)
{
	struct fz_err err = {0};
	int rc = fs_wal_offer(db, &err);

	ev->ack.unready = rc < 0;
	if (rc < 0 && rc != -EAGAIN)
		fs_db_note_error(db, &err);
	if (rc > 0) {
		ev->ack.txid = db->offer.txid;
		ev->ack.checksum = db->offer.checksum;
	}
}

static void offer_journal(struct fs_db *db, struct fs_event *ev)
{
	struct fz_err err = {0};
	int rc;

	if (db->rb.staged && !db->rb.touched) {
		ltx_log_offer_prepared(db->log);
		ev->ack.txid = db->rb.txid;
		ev->ack.checksum = db->rb.checksum;
		return;
	}
	rc = db->passthrough ? fs_rollback_offer(db, &err) : 0;
	if (rc < 0)
		fs_db_note_error(db, &err);
	if (rc > 0) {
		ev->ack.txid = db->offer.txid;
		ev->ack.checksum = db->offer.checksum;
	}
}

void fs_ack_offer(struct fs_db *db, enum fs_role role, struct fs_event *ev)
{
	ev->ack.unready = false;
	ev->ack.txid = 0;
	if (db->state == FS_DB_ENDED)
		return;
	if (role == FS_ROLE_WAL)
		offer_wal(db, ev);
	else if (role == FS_ROLE_DB && !fs_db_in_wal(db) && db->state == FS_DB_LIVE && fs_db_journal_hot(db))
		offer_journal(db, ev);
}

/* ---- waiting ---- */

static int ask(struct fs_db *db, struct fs_ack *what)
{
	struct fs_acks *a = db->c->conf.acks;
	struct ltx_log_info info = {0};
	int rc;

	what->name = db->name;
	what->stop = &db->c->interrupted;
	what->lineage = "";
	if (!what->unready && ltx_logset_get(db->c->conf.logs, db->name, false, &what->log, NULL) < 0)
		return 0; /* deleted or renamed meanwhile: nothing of it is committed any more */
	if (what->log) {
		ltx_log_info(what->log, &info);
		what->lineage = info.lineage;
	}
	rc = a->wait(a, what);
	ltx_log_put(what->log);
	what->log = NULL;
	return rc;
}

static void note_acked(struct fs_db *db, uint64_t txid, uint64_t checksum)
{
	pthread_mutex_lock(&db->mu);
	db->acked_txid = txid;
	db->acked_checksum = checksum;
	pthread_mutex_unlock(&db->mu);
}

void fs_ack_over(struct fs_db *db)
{
	if (!db->offer.txid || !db->log)
		return;
	ltx_log_withdraw(db->log);
	db->offer.txid = 0;
}

static void withdraw(struct fs_db *db)
{
	pthread_mutex_lock(&db->mu);
	if (db->log)
		ltx_log_withdraw(db->log);
	db->offer.txid = 0;
	pthread_mutex_unlock(&db->mu);
}

int fs_ack_wait_offer(struct fs_db *db, enum fs_role role, struct fs_event *ev)
{
	uint64_t since_ns = fz_mono_ns();
	int rc = 0;

	while (ev->ack.unready) {
		struct fs_ack what = {.unready = true, .since_ns = since_ns, .pid = ev->pid};

		rc = ask(db, &what);
		if (rc != -EAGAIN)
			return rc;
		pthread_mutex_lock(&db->mu);
		fs_ack_offer(db, role, ev);
		pthread_mutex_unlock(&db->mu);
	}
	if (ev->ack.txid) {
		struct fs_ack what = {
		        .txid = ev->ack.txid, .checksum = ev->ack.checksum, .since_ns = since_ns, .pid = ev->pid};

		rc = ask(db, &what);
		if (rc == 0)
			note_acked(db, ev->ack.txid, ev->ack.checksum);
		else if (rc != -ECANCELED)
			withdraw(db);
	}
	return rc;
}

int fs_ack_wait_commit(struct fs_db *db, const struct fs_event *ev, bool bounded)
{
	struct fs_ack what = {.committed = true, .bounded = bounded, .pid = ev->pid};
	const struct ltx_sums_head *head;
	bool due = false;

	pthread_mutex_lock(&db->mu);
	head = db->sums ? ltx_sums_head(db->sums) : NULL;
	if (head && !fs_db_in_wal(db)) { /* of a WAL it may be another one's commit */
		what.txid = head->txid;
		what.checksum = head->checksum;
		due = head->txid > ev->ack.tail &&
		      (db->acked_txid != head->txid || db->acked_checksum != head->checksum);
	}
	pthread_mutex_unlock(&db->mu);
	return due ? ask(db, &what) : 0;
}
