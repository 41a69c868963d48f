#include "fs/keeper.h"

#include "base/log.h"
#include "fs/baseline.h"
#include "fs/capture_journal.h"
#include "fs/capture_priv.h"
#include "fs/capture_wal.h"
#include "fs/scrub.h"

#include <errno.h>

#define RETRY_MS 1000

/* Tries to bring a LOST database back. Returns true when it is still LOST. */
static bool retry(struct fs_db *db)
{
	struct fz_err err = {0};
	struct fs_db_head h;
	bool large;
	int rc = 0;

	pthread_mutex_lock(&db->mu);
	large = db->state == FS_DB_LOST && fs_db_read_head(db, &h, &err) == 0 && h.file_bytes > FS_SMALL_BYTES;
	if (db->state == FS_DB_LOST && !large && (fs_db_in_wal(db) || !db->open_db) && !fs_db_journal_hot(db))
		rc = fs_baseline_now(db, &err);
	pthread_mutex_unlock(&db->mu);
	if (large)
		rc = fs_baseline_sweep(db, &err);
	if (rc < 0 && rc != -EAGAIN && rc != -FZ_ENOTFOUND && rc != -ECANCELED) {
		pthread_mutex_lock(&db->mu);
		fs_db_note_error(db, &err);
		pthread_mutex_unlock(&db->mu);
	}
	pthread_mutex_lock(&db->mu);
	large = db->state == FS_DB_LOST;
	pthread_mutex_unlock(&db->mu);
	return large;
}

void fs_keeper_run(void *arg)
{
	struct fs_capture *c = arg;
	int64_t wait_ms = 0;

	while (fz_worker_wait(&c->keeper, wait_ms)) {
		struct fs_db *db;

		wait_ms = -1;
		if (c->conf.resume && !atomic_load(&c->settled)) {
			wait_ms = 100;
			continue;
		}
		for (size_t i = 0; (db = fs_registry_at(c, i)); i++) {
			if (retry(db))
				wait_ms = RETRY_MS;
			fs_registry_put(db);
		}
	}
}
