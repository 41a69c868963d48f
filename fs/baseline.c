/* baseline.c - compare all pages of a database with the table at one consistent instant.
 *
 * WAL     The state at frame m is: for each page the newest frame <= m, else the database file. The file is read without
 *         a lock: (1) pages without a frame are read from the file, (2) then the view is taken again at m' >= m, and pages
 *         that have a frame there are taken from it. A checkpoint can have brought only frames <= m' into what (1) read,
 *         so the result is the state at m'. The encoder reads the pages again and must find the same sums; otherwise
 *         everything is repeated. A new generation in between: repeated as well.
 * ROLLBACK the caller vouches for the instant (end of a journal, no handle open, a SHARED lock). */
#include "fs/baseline.h"

#include "base/clock.h"
#include "base/log.h"
#include "fs/capture_journal.h"
#include "fs/capture_priv.h"
#include "fs/capture_wal.h"
#include "fs/sweep.h"

#include <errno.h>
#include <string.h>

#define TRIES    20
#define RETRY_NS 1000000000ull

static int read_changed(struct fs_db *db, struct fs_scratch *sc, uint32_t page_size, uint32_t commit, bool full,
                        struct fz_err *err)
{
	uint32_t lock = ltx_lock_page(page_size);
	size_t at = 0;
	int rc = 0;

	for (uint32_t pgno = 1; pgno <= commit && rc == 0; pgno++) {
		uint64_t sum;

		if (pgno == lock)
			continue;
		while (at < sc->index.n && sc->index.e[at].pgno < pgno)
			at++;
		if (at < sc->index.n && sc->index.e[at].pgno == pgno) {
			rc = fs_pages_add(&sc->pages, pgno, sc->index.e[at].frame, err);
			continue;
		}
		rc = fs_db_read_page(db, page_size, pgno, 0, sc->page, err);
		if (rc < 0)
			break;
		sum = ltx_page_checksum(pgno, sc->page, page_size);
		if (!full && sum == ltx_sums_get(db->sums, pgno))
			continue;
		rc = fs_pages_add(&sc->pages, pgno, 0, err);
		if (rc == 0)
			sc->pages.e[sc->pages.n - 1].sum = sum;
	}
	return rc;
}

/* One try. 1 appended, 0 equal; -EAGAIN: something moved. */
static int compare(struct fs_db *db, struct fs_scratch *sc, bool full, struct fz_err *err)
{
	uint32_t frame, frame2, commit, commit2, salt[2];
	uint8_t last[LTX_WAL_FRAME_SIZE];
	struct fs_db_head h;
	struct fs_txn t;
	int rc;

	fs_pages_reset(&sc->pages);
	rc = fs_db_read_head(db, &h, err);
	if (rc < 0)
		return rc;
	rc = fs_wal_view(db, &sc->index, &frame, &commit, err);
	if (rc < 0)
		return rc;
	memcpy(salt, db->wal.h.salt, sizeof(salt));
	if (frame)
		h.page_size = db->wal.h.page_size;
	else
		commit = h.pages;
	if (!h.page_size)
		return fz_fail(err, FZ_ENOTFOUND, "%s is no SQLite database", db->name);
	if (!commit)
		return 0;
	if (ltx_sums_head(db->sums)->page_size != h.page_size)
		full = true;
	rc = read_changed(db, sc, h.page_size, commit, full, err);
	if (rc < 0)
		return rc;
	if (fs_db_in_wal(db)) {
		rc = fs_wal_view(db, &sc->index, &frame2, &commit2, err);
		if (rc < 0)
			return rc;
		if (memcmp(salt, db->wal.h.salt, sizeof(salt)) || frame2 < frame || (frame2 && !frame))
			return fz_fail(err, -EAGAIN, "%s: a new WAL began during the compare", db->name);
		for (size_t i = 0; frame2 > frame && i < sc->index.n; i++) {
			rc = fs_pages_add(&sc->pages, sc->index.e[i].pgno, sc->index.e[i].frame, err);
			if (rc < 0)
				return rc;
		}
		if (frame2)
			commit = commit2;
		frame = frame2;
	}
	fs_pages_sort(&sc->pages, commit, ltx_lock_page(h.page_size));
	t = (struct fs_txn){.page_size = h.page_size,
	                    .commit = commit,
	                    .commits = 1,
	                    .wal_from = frame ? 1 : 0,
	                    .wal_to = frame,
	                    .only_changed = !full,
	                    .full = full,
	                    .check = true};
	sc->buf_n = 0;
	if (frame) {
		rc = fs_wal_read_frame(db, frame, last, err);
		if (rc < 0)
			return rc;
		t.last_frame = last;
	}
	rc = fs_txn_append(db, sc, &t, err);
	if (rc >= 0) {
		fs_wal_set_position(db, frame);
		db->rb.counter = h.counter;
		ltx_sums_head(db->sums)->seen_mtime_ns = h.mtime_ns;
	}
	return rc;
}

void fs_baseline_done(struct fs_db *db, bool first, bool appended)
{
	db->state = FS_DB_LIVE;
	ltx_sums_head(db->sums)->unsure = 0;
	fs_dirty_clear(db->dirty);
	db->rb.loose = db->rb.whole = db->rb.listed = false;
	db->last_error[0] = 0;
	if (!first)
		db->resyncs++;
	if (!first)
		fz_info("%s: compared with the log: %s", fz_log_db(db->name),
		        appended ? "the difference is one new transaction" : "no difference");
}

int fs_baseline_now(struct fs_db *db, struct fz_err *err)
{
	struct fs_scratch *sc = NULL;
	struct fs_db_head h;
	bool first, full;
	int rc;

	if (db->state != FS_DB_LOST)
		return 0;
	if (db->sweep)
		return fs_db_in_wal(db) ? 0 : fs_sweep_finish(db, err);
	rc = fs_db_read_head(db, &h, err);
	if (rc < 0)
		return rc;
	if (h.wal && !fs_db_in_wal(db)) {
		rc = fs_wal_find(db, err); /* left behind by an application that died */
		if (rc < 0)
			return rc;
	}
	if (!h.page_size && !fs_db_in_wal(db))
		return fz_fail(err, FZ_ENOTFOUND, "%s is no SQLite database", db->name);
	if (h.file_bytes > db->c->conf.small_bytes) {
		fz_worker_kick(&db->c->keeper);
		return 0;
	}
	rc = fs_db_attach_log(db, true, err);
	if (rc < 0)
		return rc;
	if (db->rb.staged) {
		rc = fs_txn_drop(db, err);
		if (rc < 0)
			return rc;
	}
	rc = fs_txn_replay_sums(db, err);
	if (rc < 0)
		fs_db_note_error(db, err);
	full = rc < 0;
	first = !ltx_sums_head(db->sums)->txid;
	if (full)
		rc = fs_txn_adopt_tail(db, err);
	sc = rc < 0 && !full ? NULL : fs_scratch_get(db->c, err);
	if (!sc)
		return -ENOMEM;
	for (int i = 0; i < TRIES; i++) {
		rc = compare(db, sc, full || first, err);
		if (rc != -EAGAIN)
			break;
	}
	fs_scratch_put(db->c, sc);
	if (rc >= 0 && ltx_sums_head(db->sums)->txid)
		fs_baseline_done(db, first, rc);
	return rc;
}

int64_t fs_baseline_follow(struct fs_db *db, bool barrier, struct fz_err *err)
{
	uint64_t now = fz_mono_ns();
	int rc;

	if (db->sweep)
		return fs_sweep_follow(db, barrier, err);
	if (!barrier && now < db->retry_ns)
		return 0;
	rc = fs_baseline_now(db, err);
	if (rc < 0)
		db->retry_ns = now + RETRY_NS;
	return rc == -EAGAIN || rc == -FZ_ENOTFOUND ? 0 : rc;
}
