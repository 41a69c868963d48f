/* keeper.c - one thread, woken when there is something: compares what is LOST, scrubs at a bounded rate, keeps the log within
 * its limit (first detail of old transactions is given up: squash; then the log is folded into its base). An idle mount
 * does not wake it but once a day. */
#include "fs/keeper.h"

#include "base/clock.h"
#include "base/log.h"
#include "fs/baseline.h"
#include "fs/capture_journal.h"
#include "fs/capture_priv.h"
#include "fs/capture_wal.h"
#include "fs/discover.h"
#include "fs/scrub.h"
#include "fs/sweep.h"

#include <errno.h>

#define RETRY_MS    1000
#define DAY_MS      (24 * 3600 * 1000)
#define SCRUB_BYTES (1u << 20) /* at once, under db->mu */
#define BUSY_MS     5000

static void note(struct fs_db *db, const struct fz_err *err)
{
	pthread_mutex_lock(&db->mu);
	fs_db_note_error(db, err);
	pthread_mutex_unlock(&db->mu);
}

/* Tries to bring a LOST database back. Returns true when it is still LOST. */
static bool retry(struct fs_db *db)
{
	struct fz_err err = {0};
	struct fs_db_head h;
	bool large, lost;
	int rc = 0;

	pthread_mutex_lock(&db->mu);
	lost = db->state == FS_DB_LOST;
	large = lost && (db->sweep || (fs_db_read_head(db, &h, &err) == 0 && h.file_bytes > db->c->conf.small_bytes));
	if (lost && !large && (fs_db_in_wal(db) || !db->open_db) && !fs_db_journal_hot(db))
		rc = fs_baseline_now(db, &err);
	pthread_mutex_unlock(&db->mu);
	if (large)
		rc = fs_sweep_run(db, &err);
	if (rc < 0 && rc != -EAGAIN && rc != -FZ_ENOTFOUND && rc != -ECANCELED)
		note(db, &err);
	pthread_mutex_lock(&db->mu);
	lost = db->state == FS_DB_LOST;
	pthread_mutex_unlock(&db->mu);
	return lost;
}

/* One piece of the scrub. Returns ms until the next, -1 = nothing to do. */
static int64_t scrub(struct fs_db *db)
{
	uint64_t rate = db->c->conf.scrub_bytes_per_s, differences = 0;
	struct fz_err err = {0};
	bool wanted;
	uint32_t next;
	int64_t n;

	if (rate == UINT64_MAX)
		return -1;
	pthread_mutex_lock(&db->mu);
	wanted = db->state == FS_DB_LIVE && db->log && db->scrub_wanted;
	next = db->scrub_next ? (uint32_t)db->scrub_next : 1;
	pthread_mutex_unlock(&db->mu);
	if (!wanted)
		return -1;
	n = fs_scrub_step(db, &next, SCRUB_BYTES, &differences, &err);
	if (n < 0 && n != -FZ_EBUSY)
		note(db, &err);
	if (n < 0)
		return BUSY_MS;
	pthread_mutex_lock(&db->mu);
	db->scrub_next = next;
	if (!next && db->sums) {
		db->scrub_wanted = false;
		db->scrub_done_txid = ltx_sums_head(db->sums)->txid;
	}
	pthread_mutex_unlock(&db->mu);
	return next ? (int64_t)(SCRUB_BYTES * UINT64_C(1000) / rate) + 1 : -1;
}

/* The log beyond its limit: told, and made smaller without asking anyone. */
static void bound(struct fs_db *db)
{
	uint64_t max = db->c->conf.log_max_bytes;
	struct ltx_log *log = NULL;
	struct ltx_log_info info;
	struct fz_err err = {0};
	int rc = 0;

	pthread_mutex_lock(&db->mu);
	if (db->log && db->state != FS_DB_ENDED && ltx_logset_get(db->c->conf.logs, db->name, false, &log, &err) < 0)
		log = NULL;
	pthread_mutex_unlock(&db->mu);
	if (!log)
		return;
	ltx_log_info(log, &info);
	if (info.log_bytes > max && info.tail_txid > info.first_txid) {
		fz_warn("%s: its log has reached %llu bytes: old transactions are merged", fz_log_db(db->name),
		        (unsigned long long)info.log_bytes);
		rc = ltx_log_squash(log, info.first_txid, info.tail_txid, &err); /* the log counts what it merges */
		ltx_log_info(log, &info);
		if (rc == 0 && info.log_bytes > max / 2 && !fz_worker_stopping(&db->c->keeper)) {
			rc = ltx_log_fold(log, info.tail_txid, &db->c->cancel, &err);
			if (rc == 0) {
				pthread_mutex_lock(&db->mu);
				db->merged += info.entries - (info.base_txid == 0); /* the newest of them is the base */
				pthread_mutex_unlock(&db->mu);
			}
		}
	}
	if (rc < 0 && rc != -ECANCELED)
		note(db, &err);
	ltx_log_put(log);
}

void fs_keeper_run(void *arg)
{
	struct fs_capture *c = arg;
	uint64_t day_ns = fz_mono_ns();
	int64_t wait_ms = 0;

	while (fz_worker_wait(&c->keeper, wait_ms)) {
		bool day = fz_mono_ns() - day_ns > (uint64_t)DAY_MS * 1000000;
		struct fs_db *db;

		wait_ms = DAY_MS;
		if (c->conf.resume && !atomic_load(&c->settled)) {
			wait_ms = 100;
			continue;
		}
		fs_discover(c);
		if (day)
			day_ns = fz_mono_ns();
		for (db = NULL; !fz_worker_stopping(&c->keeper) && (db = fs_registry_next(c, db));) {
			int64_t ms;

			pthread_mutex_lock(&db->mu);
			if (day && db->sums && db->scrub_done_txid != ltx_sums_head(db->sums)->txid)
				db->scrub_wanted = true;
			pthread_mutex_unlock(&db->mu);
			if (retry(db) && wait_ms > RETRY_MS)
				wait_ms = RETRY_MS;
			ms = scrub(db);
			if (ms >= 0 && ms < wait_ms)
				wait_ms = ms;
			bound(db);
		}
		fs_registry_put(db);
	}
}
