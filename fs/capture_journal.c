/* capture_journal.c - what is committed in rollback mode becomes transactions of the log.
 *
 * WHICH PAGES  Written through: every write of the database is told and marks its blocks before it is carried out; marks
 *              are compared with the checksum table, so that what was written and rolled back is no change.
 *              Passed through (the file was empty or in WAL mode when it was opened): the journal tells them, see
 *              journal_pages.c; without one (MEMORY, OFF) all pages are compared.
 * WHEN         A transaction is committed when its journal is unlinked, truncated or zeroed. It is in the log as prepared
 *              before that and committed after it: a death in between is decided by the journal, as SQLite does it.
 * (1) At a journal's end the database file holds the outcome, be it commit or rollback: the difference is the judge.
 * (2) A staged transaction whose database is touched again (rolled back, or written on) is taken back and built anew.
 * Held by tests/unit/test_fs_capture.c: every_commit, existing. */
#include "fs/capture_journal.h"

#include "base/clock.h"
#include "fs/baseline.h"
#include "fs/capture_priv.h"
#include "fs/journal_pages.h"
#include "fs/sweep.h"

#include <errno.h>

static int list_dirty(struct fs_db *db, struct fs_pages *list, const struct fs_db_head *h, struct fz_err *err)
{
	uint32_t next = 1;
	uint64_t block = 0;
	int rc = 0;

	while (rc == 0 && fs_dirty_next(db->dirty, block, &block)) {
		uint64_t first = block * FS_DIRTY_BLOCK / h->page_size + 1;
		uint64_t last = (block * FS_DIRTY_BLOCK + FS_DIRTY_BLOCK - 1) / h->page_size + 1;

		for (uint64_t p = first < next ? next : first; p <= last && p <= h->pages && rc == 0; p++)
			rc = fs_pages_add(list, (uint32_t)p, 0, err);
		if (last >= next)
			next = (uint32_t)(last < h->pages ? last + 1 : h->pages + 1);
		block++;
	}
	return rc;
}

static int list_all(struct fs_pages *list, const struct fs_db_head *h, struct fz_err *err)
{
	int rc = 0;

	for (uint32_t p = 1; p <= h->pages && p && rc == 0; p++)
		rc = fs_pages_add(list, p, 0, err);
	return rc;
}

enum how { COMMITTED, PREPARED, OFFERED };

/* 1 appended, 0 nothing changed. */
static int append(struct fs_db *db, enum how how, struct fz_err *err)
{
	struct ltx_sums_head *head = ltx_sums_head(db->sums);
	struct fs_scratch *sc;
	struct fs_db_head h;
	struct fs_txn t;
	bool all;
	int rc;

	rc = fs_db_read_head(db, &h, err);
	if (rc < 0)
		return rc;
	if (!h.page_size || !h.pages) {
		db->rb.whole |= how != OFFERED; /* emptied; whatever comes next is compared in full */
		return 0;
	}
	if (how != OFFERED) {
		db->rb.counter = h.counter;
		head->seen_mtime_ns = h.mtime_ns; /* before the pages are read: what is written later shows */
	}
	all = db->rb.whole || h.page_size != head->page_size || (db->passthrough && !db->rb.listed);
	if (!all && fs_dirty_empty(db->dirty) && h.pages == head->commit)
		return 0;
	sc = fs_scratch_get(db->c, err);
	if (!sc)
		return -ENOMEM;
	sc->buf_n = 0;
	if (all)
		rc = list_all(&sc->pages, &h, err);
	else
		rc = list_dirty(db, &sc->pages, &h, err);
	if (rc == 0) {
		fs_pages_sort(&sc->pages, h.pages, ltx_lock_page(h.page_size));
		t = (struct fs_txn){.page_size = h.page_size,
		                    .commit = h.pages,
		                    .commits = 1,
		                    .only_changed = true,
		                    .prepared = how == PREPARED};
		rc = how == OFFERED ? fs_txn_offer(db, sc, &t, &db->offer, err) : fs_txn_append(db, sc, &t, err);
	}
	fs_scratch_put(db->c, sc);
	if (rc < 0 && how != OFFERED)
		ltx_sums_head(db->sums)->seen_mtime_ns = 0;
	return rc;
}

static void clean(struct fs_db *db)
{
	fs_dirty_clear(db->dirty);
	ltx_sums_head(db->sums)->unsure = 0;
	db->rb.loose = db->rb.touched = db->rb.hot = db->rb.listed = false;
	if (ltx_sums_head(db->sums)->txid)
		db->rb.whole = false;
}

/* A candidate becomes a database with its first committed content. */
static int promote(struct fs_db *db, struct fz_err *err)
{
	struct fs_db_head h;
	int rc;

	if (db->state != FS_DB_CANDIDATE)
		return 0;
	rc = fs_db_read_head(db, &h, err);
	if (rc < 0 || !h.page_size || !h.pages)
		return rc;
	db->state = FS_DB_LOST;
	return 0;
}

int fs_rollback_list(struct fs_db *db, struct fz_err *err)
{
	int rc;

	if (db->state != FS_DB_LIVE || fs_db_in_wal(db) || !db->passthrough)
		return 0;
	rc = fs_journal_pages_mark(db, err);
	db->rb.listed = rc > 0 || (rc == 0 && db->rb.listed);
	return rc < 0 ? rc : 0;
}

bool fs_rollback_moved(struct fs_db *db)
{
	struct fs_db_head h;

	return db->rb.whole || fs_db_read_head(db, &h, NULL) < 0 || h.counter != db->rb.counter ||
	       (db->sums && (h.page_size != ltx_sums_head(db->sums)->page_size ||
	                     h.mtime_ns != ltx_sums_head(db->sums)->seen_mtime_ns));
}

int fs_rollback_stage(struct fs_db *db, struct fz_err *err)
{
	int rc = 0;

	if (db->state != FS_DB_LIVE || fs_db_in_wal(db))
		return 0;
	if (db->rb.staged && !db->rb.touched)
		return 0;
	if (db->rb.staged)
		rc = fs_txn_drop(db, err);
	if (rc == 0 && db->passthrough)
		rc = fs_rollback_list(db, err);
	if (rc == 0)
		rc = append(db, PREPARED, err);
	db->rb.touched = false;
	return rc < 0 ? rc : 0;
}

int fs_rollback_offer(struct fs_db *db, struct fz_err *err)
{
	if (db->state != FS_DB_LIVE || fs_db_in_wal(db) || db->rb.staged)
		return 0;
	return append(db, OFFERED, err);
}

int fs_rollback_end_before(struct fs_db *db, struct fz_err *err)
{
	if (fs_db_in_wal(db))
		return 0;
	return fs_rollback_stage(db, err);
}

int fs_rollback_end_after(struct fs_db *db, bool ok, struct fz_err *err)
{
	int rc = 0;

	if (!ok || fs_db_in_wal(db))
		return 0; /* the journal is still there: SQLite will roll back, or end it again */
	if (db->state == FS_DB_LIVE) {
		if (db->rb.staged)
			rc = fs_txn_confirm(db, err);
		if (rc == 0)
			clean(db);
		return rc;
	}
	return fs_rollback_capture(db, err);
}

int fs_rollback_capture(struct fs_db *db, struct fz_err *err)
{
	int rc = promote(db, err);

	if (rc < 0 || fs_db_in_wal(db))
		return rc;
	if (db->state == FS_DB_LOST) {
		rc = fs_baseline_now(db, err);
		return rc == -FZ_ENOTFOUND ? 0 : rc < 0 ? rc : 0;
	}
	if (db->state != FS_DB_LIVE)
		return 0;
	if (db->rb.staged) {
		if (db->rb.touched)
			rc = fs_txn_drop(db, err);
		else
			rc = fs_txn_confirm(db, err);
	}
	if (rc == 0)
		rc = append(db, COMMITTED, err);
	if (rc >= 0)
		clean(db);
	return rc < 0 ? rc : 0;
}

int fs_rollback_note_write(struct fs_db *db, uint64_t off, uint64_t len, struct fz_err *err)
{
	if (db->state == FS_DB_ENDED || fs_db_in_wal(db))
		return 0;
	fs_rollback_note_loose(db);
	if (db->sweep)
		return fs_sweep_note_write(db, off, len, err);
	return db->dirty ? fs_dirty_mark(db->dirty, off, len, err) : 0;
}

void fs_rollback_note_loose(struct fs_db *db)
{
	db->rb.touched = true;
	db->rb.loose = true;
	db->rb.loose_ns = fz_mono_ns();
}
