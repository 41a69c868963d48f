/* scrub.c - compare real pages with the table, a piece at a time, each at a consistent instant of its own.
 *
 * WAL       Everything visible is captured first, so the table stands for frame m. A page is its newest frame <= m, else the
 *           file, which may already hold a newer frame (a checkpoint brings it before we see it): a page that differs is
 *           looked at again after the next capture, until nothing moved in between.
 * ROLLBACK  Written through and nothing dirty: under db->mu no write can begin. Passed through: under a SHARED lock, or with
 *           no handle open, and what was committed is captured first. */
#include "fs/scrub.h"

#include "base/log.h"
#include "fs/agent.h"
#include "fs/capture_journal.h"
#include "fs/capture_priv.h"
#include "fs/capture_wal.h"

#include <errno.h>

#define TRIES   8
#define WAIT_MS 5

/* Leaves in sc->pages those that differ from the table. */
static int compare(struct fs_db *db, struct fs_scratch *sc, struct fz_err *err)
{
	uint32_t page_size = ltx_sums_head(db->sums)->page_size;
	size_t n = 0;

	for (size_t i = 0; i < sc->pages.n; i++) {
		struct fs_page p = sc->pages.e[i];
		const struct fs_page *f = fs_pages_find(&sc->index, p.pgno);
		int rc;

		p.frame = f ? f->frame : 0;
		rc = fs_db_read_page(db, page_size, p.pgno, p.frame, sc->page, err);
		if (rc < 0)
			return rc;
		p.sum = ltx_page_checksum(p.pgno, sc->page, page_size);
		if (p.sum != ltx_sums_get(db->sums, p.pgno))
			sc->pages.e[n++] = p;
	}
	sc->pages.n = n;
	return 0;
}

static int compare_wal(struct fs_db *db, struct fs_scratch *sc, struct fz_err *err)
{
	int rc = -FZ_EBUSY;

	for (int i = 0; i < TRIES; i++) {
		uint64_t txid = ltx_sums_head(db->sums)->txid;
		uint32_t frame = db->wal.frame;
		int64_t n;

		rc = fs_wal_index(db, &sc->index, db->wal.known ? frame : 0, err);
		if (rc == 0)
			rc = compare(db, sc, err);
		if (rc < 0)
			return rc;
		if (!sc->pages.n)
			return 0;
		n = fs_wal_pass(db, FS_WAL_BARRIER, err);
		if (n < 0)
			return (int)n;
		if (db->state != FS_DB_LIVE)
			return -FZ_EBUSY;
		if (i && txid == ltx_sums_head(db->sums)->txid && frame == db->wal.frame)
			return 0; /* the same twice, and nothing moved */
		rc = -FZ_EBUSY;
	}
	return rc;
}

/* A difference nobody told of: capture it, say so. */
static int take(struct fs_db *db, struct fs_scratch *sc, uint64_t *differences, struct fz_err *err)
{
	struct ltx_sums_head *head = ltx_sums_head(db->sums);
	uint8_t last[LTX_WAL_FRAME_SIZE];
	struct fs_txn t = {.page_size = head->page_size, .commit = head->commit, .commits = 1, .only_changed = true};
	size_t n = sc->pages.n;
	int rc = 0;

	fz_error("%s: %zu pages (first: %u) are not what was captured; they become a new transaction",
	         fz_log_db(db->name), n, sc->pages.e[0].pgno);
	if (fs_db_in_wal(db) && db->wal.known && db->wal.frame) {
		rc = fs_wal_read_frame(db, db->wal.frame, last, err);
		t.wal_from = t.wal_to = db->wal.frame;
		t.last_frame = last;
	}
	sc->buf_n = 0;
	if (rc == 0)
		rc = fs_txn_append(db, sc, &t, err);
	if (rc < 0)
		return rc;
	db->scrub_found += n;
	*differences += n;
	return 0;
}

/* Requires db->mu; instant: rollback mode is at one. */
static int64_t step(struct fs_db *db, uint32_t *next, uint64_t max_bytes, bool instant, uint64_t *differences,
                    struct fz_err *err)
{
	struct ltx_sums_head *head;
	uint64_t pages = 0;
	struct fs_scratch *sc;
	uint32_t lock;
	int rc;

	if (!db->log)
		return *next = 0;
	if (db->state == FS_DB_LIVE && fs_db_in_wal(db)) {
		int64_t n = fs_wal_pass(db, FS_WAL_BARRIER, err);

		if (n < 0)
			return n;
	} else if (db->state == FS_DB_LIVE && instant && (db->passthrough || db->rb.loose)) {
		rc = fs_rollback_capture(db, err);
		if (rc < 0)
			return rc;
	}
	if (db->state != FS_DB_LIVE || db->rb.staged ||
	    (!fs_db_in_wal(db) && (fs_db_journal_hot(db) || !fs_dirty_empty(db->dirty) ||
	                           (!instant && (db->passthrough || db->rb.loose))))) {
		*next = 0;
		return fz_fail(err, FZ_EBUSY, "%s: in use, not compared", db->name);
	}
	head = ltx_sums_head(db->sums);
	rc = fs_db_fd(db, err);
	if (rc < 0)
		return rc;
	sc = fs_scratch_get(db->c, err);
	if (!sc)
		return -ENOMEM;
	lock = ltx_lock_page(head->page_size ? head->page_size : 4096);
	for (; rc == 0 && *next <= head->commit && pages * head->page_size < max_bytes; (*next)++, pages++)
		if (*next != lock)
			rc = fs_pages_add(&sc->pages, *next, 0, err);
	if (*next > head->commit)
		*next = 0;
	if (rc == 0)
		rc = fs_db_in_wal(db) ? compare_wal(db, sc, err) : compare(db, sc, err);
	if (rc == 0 && sc->pages.n)
		rc = take(db, sc, differences, err);
	fs_scratch_put(db->c, sc);
	return rc < 0 ? rc : (int64_t)pages;
}

int64_t fs_scrub_step(struct fs_db *db, uint32_t *next, uint64_t max_bytes, uint64_t *differences, struct fz_err *err)
{
	struct fs_agent *agent = db->c->conf.agent;
	bool need, locked = false, alone;
	struct fz_err ignored = {0};
	int64_t n;

	pthread_mutex_lock(&db->mu);
	alone = !db->open_db;
	need = !fs_db_in_wal(db) && !alone && (db->passthrough || db->rb.loose);
	if (need && agent) {
		pthread_mutex_unlock(&db->mu); /* the agent's request may need it */
		locked = fs_agent_lock(agent, db->name, true, WAIT_MS, &ignored) == 0;
		pthread_mutex_lock(&db->mu);
	}
	n = step(db, next, max_bytes, alone || locked, differences, err);
	if (n < 0)
		*next = 0;
	pthread_mutex_unlock(&db->mu);
	if (locked && fs_agent_lock(agent, db->name, false, 0, &ignored) < 0)
		fz_log_err(fz_log_db(db->name), &ignored);
	return n;
}
