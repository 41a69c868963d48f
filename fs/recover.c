/* recover.c - what is true at the start, before anything is served.
 *
 * ORDER  (1) a roll-forward that was interrupted is repeated; (2) a hot journal is played back, a prepared transaction
 *        dropped with it, or else committed; (3) -shm is removed: it survives a reboot, and lies; (4) a clean marker that
 *        matches: nothing is read; (5) a WAL that goes on where the log ends is captured from there; (6) else the TXID is
 *        searched at which the database stands: the tail, or an older one: rolled forward; (7) else all pages are compared.
 * A WAL of which nothing was captured yet goes on from its first frame when it begins at the log's tail.
 * (5) and (6, tail) rest on evidence, not on every page: the scrub looks at all of them behind. */
#include "fs/recover.h"

#include "base/file.h"
#include "base/log.h"
#include "fs/capture_journal.h"
#include "fs/capture_priv.h"
#include "fs/capture_wal.h"
#include "fs/rollforward.h"
#include "fs/txn.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define FEW_ENTRIES 64u /* usually enough, and quick */
#define ALL_ENTRIES 65536u

struct look {
	uint64_t db_bytes, wal_bytes;
	int64_t mtime_ns, ctime_ns;
	uint32_t wal_salt[2];
};

static int64_t ns_of(struct timespec t)
{
	return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static int look_at(struct fs_db *db, struct look *l, struct fz_err *err)
{
	char path[4200];
	struct stat st;
	uint8_t b[LTX_WAL_HEADER_SIZE];
	struct ltx_wal_header h;
	int rc = fs_db_fd(db, err);

	*l = (struct look){0};
	if (rc < 0)
		return rc;
	if (fstat(db->fd, &st) < 0)
		return fz_fail_errno(err, errno, "cannot look at %s", db->name);
	l->db_bytes = (uint64_t)st.st_size;
	l->mtime_ns = ns_of(st.st_mtim);
	l->ctime_ns = ns_of(st.st_ctim);
	snprintf(path, sizeof(path), "%s-wal", db->name);
	if (fstatat(db->c->conf.rootfd, path, &st, AT_SYMLINK_NOFOLLOW) == 0 && db->wal.fd >= 0 &&
	    fz_pread(db->wal.fd, b, sizeof(b), 0) == sizeof(b) && ltx_wal_header_get(&h, b, NULL) == 0) {
		l->wal_bytes = (uint64_t)st.st_size;
		l->wal_salt[0] = h.salt[0];
		l->wal_salt[1] = h.salt[1];
	}
	return 0;
}

static bool marker_matches(struct fs_db *db, const struct look *l)
{
	const struct ltx_sums_head *h = ltx_sums_head(db->sums);
	struct ltx_log_info info;

	ltx_log_info(db->log, &info);
	return h->clean && !h->unsure && h->txid == info.tail_txid && h->checksum == info.tail_checksum &&
	       h->db_bytes == l->db_bytes && h->db_mtime_ns == l->mtime_ns && h->db_ctime_ns == l->ctime_ns &&
	       h->wal_bytes == l->wal_bytes && h->wal_salt[0] == l->wal_salt[0] && h->wal_salt[1] == l->wal_salt[1];
}

/* The table in step with the log, and after another boot proven by its checksum; else built anew from base and log. */
static int load_sums(struct fs_db *db, bool same_boot, struct fz_err *err)
{
	struct ltx_log_info info;
	int rc = fs_txn_replay_sums(db, err);

	ltx_log_info(db->log, &info);
	if (rc == 0 && ltx_sums_head(db->sums)->checksum == info.tail_checksum &&
	    (same_boot || ltx_sums_total(db->sums) == info.tail_checksum))
		return 0;
	fz_warn("%s: the checksum table does not fit the log: built anew", fz_log_db(db->name));
	ltx_sums_clear(db->sums);
	rc = fs_txn_replay_sums(db, err);
	if (rc == 0 && ltx_sums_total(db->sums) != info.tail_checksum)
		rc = fz_fail(err, FZ_ECHECKSUM, "%s: the log's pages do not give its checksum", db->name);
	return rc;
}

static int settle_prepared(struct fs_db *db, bool hot, struct fz_err *err)
{
	struct ltx_trailer t;
	struct ltx_header h;

	if (!ltx_log_prepared(db->log, &h, &t))
		return 0;
	/* of the WAL: it was visible when it was captured */
	return hot && !h.wal_size ? ltx_log_drop_prepared(db->log, err) : ltx_log_confirm(db->log, err);
}

/* True when the WAL goes on where the log ends: nothing but its frames is missing. */
static bool wal_goes_on(struct fs_db *db, struct fz_err *err)
{
	struct ltx_sums_head *head = ltx_sums_head(db->sums);
	uint32_t salt[2] = {head->pos_salt[0], head->pos_salt[1]}, pos = head->pos_frame, frame, commit;
	struct fs_scratch *sc;
	bool on;

	if (!fs_db_in_wal(db) || !pos)
		return false;
	sc = fs_scratch_get(db->c, err);
	if (!sc)
		return false;
	on = fs_wal_view(db, &sc->index, &frame, &commit, err) == 0 && frame >= pos && db->wal.h.salt[0] == salt[0] &&
	     db->wal.h.salt[1] == salt[1];
	fs_scratch_put(db->c, sc);
	if (on) {
		uint8_t now[24];

		on = fz_pread(db->wal.fd, now, sizeof(now), (off_t)ltx_wal_frame_off(db->wal.h.page_size, pos)) ==
		             sizeof(now) &&
		     fs_wal_is_last(db, now);
	}
	if (on)
		fs_wal_set_position(db, pos);
	return on;
}

/* True when the WAL is another generation than the log's tail, and follows it: nothing of it was captured before the crash.
 * (A generation begins only when all of the one before is in the log: capture_wal.c (2), (5).) Evidence: each page that it names
 * lies in the database file as the table knows it, or as a checkpoint has written it since. */
static bool wal_begins_at_tail(struct fs_db *db, struct fz_err *err)
{
	struct ltx_sums_head *head = ltx_sums_head(db->sums);
	uint32_t salt[2] = {head->pos_salt[0], head->pos_salt[1]}, pos = head->pos_frame, frame, commit;
	struct fs_scratch *sc;
	bool begins;

	if (!fs_db_in_wal(db))
		return false;
	sc = fs_scratch_get(db->c, err);
	if (!sc)
		return false;
	begins = fs_wal_view(db, &sc->index, &frame, &commit, err) == 0 && frame &&
	         db->wal.h.page_size == head->page_size &&
	         (!pos || db->wal.h.salt[0] != salt[0] || db->wal.h.salt[1] != salt[1]);
	for (size_t i = 0; begins && i < sc->index.n; i++) {
		const struct fs_page *p = &sc->index.e[i];
		uint64_t now;

		if (p->pgno > head->commit)
			continue;
		if (fs_db_read_page(db, head->page_size, p->pgno, 0, sc->page, err) < 0) {
			begins = false;
			break;
		}
		now = ltx_page_checksum(p->pgno, sc->page, head->page_size);
		if (now == ltx_sums_get(db->sums, p->pgno))
			continue;
		begins = fs_db_read_page(db, head->page_size, p->pgno, p->frame, sc->page, err) == 0 &&
		         now == ltx_page_checksum(p->pgno, sc->page, head->page_size);
	}
	fs_scratch_put(db->c, sc);
	if (begins)
		fs_wal_set_position(db, 0);
	return begins;
}

/* Steps 5 to 7. */
static int bring_together(struct fs_db *db, bool was_clean, bool same_boot, struct fz_err *err)
{
	struct ltx_sums_head *head = ltx_sums_head(db->sums);
	uint64_t txid;
	int rc;

	db->state = FS_DB_LOST;
	if (head->unsure) {
		fs_db_lose(db, "a compare did not finish");
		return 0;
	}
	db->scrub_wanted = true;
	if (wal_goes_on(db, err) || (!was_clean && wal_begins_at_tail(db, err))) {
		int64_t n;

		db->state = FS_DB_LIVE;
		n = fs_wal_pass(db, FS_WAL_BARRIER, err);
		return n < 0 ? (int)n : 0;
	}
	/* after an orderly end somebody else has written: there is nothing to find */
	rc = was_clean ? 0 : fs_rollforward_find(db, FEW_ENTRIES, &txid, err);
	if (rc == 0 && !was_clean)
		rc = fs_rollforward_find(db, ALL_ENTRIES, &txid, err);
	if (rc < 0)
		return rc;
	if (rc && txid == head->txid) {
		uint32_t frame, commit;
		struct fs_scratch *sc = fs_scratch_get(db->c, err);

		rc = sc ? fs_wal_view(db, &sc->index, &frame, &commit, err) : -ENOMEM;
		fs_scratch_put(db->c, sc);
		if (rc < 0)
			return rc;
		fs_wal_set_position(db, frame);
		db->state = FS_DB_LIVE;
		return 0;
	}
	if (rc) {
		rc = fs_rollforward_run(db, txid, err);
		if (rc == 0)
			db->state = FS_DB_LIVE;
		return rc;
	}
	if (!was_clean && !same_boot) {
		struct ltx_log_info info;

		/* the log holds what the database lost for good: what follows is another history */
		ltx_log_info(db->log, &info);
		fz_warn("%s: log and database went apart in a crash: epoch %u begins", fz_log_db(db->name),
		        info.epoch + 1);
		rc = ltx_log_set_epoch(db->log, info.epoch + 1, err);
		if (rc < 0)
			return rc;
	}
	fs_db_lose(db, "it was changed while it was not mounted");
	head->unsure = 1;
	fz_warn("%s: it was changed while it was not mounted: all pages are compared", fz_log_db(db->name));
	return 0;
}

static void begin_boot(struct fs_db *db)
{
	struct ltx_sums_head *head = ltx_sums_head(db->sums);

	head->clean = 0;
	head->recheck = 0;
	ltx_sums_boot_id(head->boot_id);
}

int fs_recover_start(struct fs_db *db, struct fz_err *err)
{
	struct ltx_sums_head *head = ltx_sums_head(db->sums);
	bool same_boot, was_clean, hot;
	char boot[40];
	struct look l;
	int rc;

	rc = fs_db_fd(db, err);
	if (rc == -FZ_ENOTFOUND) {
		fz_warn("%s was deleted while it was not mounted", fz_log_db(db->name));
		fs_db_end(db);
		return 0;
	}
	if (rc < 0)
		return rc;
	ltx_sums_boot_id(boot);
	same_boot = boot[0] && !strcmp(boot, head->boot_id);
	was_clean = head->clean;
	hot = fs_db_journal_hot(db);
	rc = settle_prepared(db, hot, err);
	if (rc == 0 && hot) {
		was_clean = false;
		head->clean = 0;
		rc = fs_rollforward_journal(db, err);
	}
	if (rc == 0)
		rc = fs_rollforward_unlink(db, "-shm", err);
	if (rc == 0)
		rc = fs_wal_find(db, err);
	if (rc == 0)
		rc = look_at(db, &l, err);
	if (rc < 0)
		return rc;
	if (marker_matches(db, &l)) {
		begin_boot(db);
		db->state = FS_DB_LIVE;
		fs_dirty_clear(db->dirty);
		return ltx_sums_sync(db->sums, err);
	}
	if (db->c->conf.clean_only)
		return fz_fail(err, FZ_EVERIFY, "%s does not match its clean marker", db->name);
	rc = load_sums(db, same_boot, err);
	head = ltx_sums_head(db->sums);
	begin_boot(db);
	fs_dirty_clear(db->dirty);
	if (rc < 0)
		return rc;
	if (head->rolling_txid) {
		rc = fs_rollforward_run(db, head->rolling_txid - 1, err);
		if (rc == 0)
			db->state = FS_DB_LIVE;
		return rc;
	}
	if (!head->txid) {
		db->state = FS_DB_LOST; /* a log without a transaction */
		return 0;
	}
	return bring_together(db, was_clean, same_boot, err);
}

int fs_recover_resume(struct fs_db *db, struct fz_err *err)
{
	struct ltx_trailer t;
	struct ltx_header h;
	int rc = fs_db_fd(db, err);

	if (rc == -FZ_ENOTFOUND) {
		fs_db_end(db);
		return 0;
	}
	if (rc < 0)
		return rc;
	if (ltx_log_prepared(db->log, &h, &t)) {
		if (h.wal_size || !fs_db_journal_hot(db)) {
			rc = ltx_log_confirm(db->log, err); /* the worker died between the commit and its mark */
		} else {
			db->rb.staged = db->rb.touched =
			        true; /* its sums died with the worker: built anew at the end */
		}
	}
	if (rc == 0)
		rc = fs_txn_replay_sums(db, err);
	if (rc < 0)
		return rc;
	db->state = FS_DB_LIVE;
	ltx_sums_head(db->sums)->clean = 0;
	if (ltx_sums_head(db->sums)->unsure || !ltx_sums_head(db->sums)->txid)
		fs_db_lose(db, "a compare did not finish");
	db->rb.loose = !fs_dirty_empty(db->dirty);
	db->resumed = true;
	db->foreign = ltx_sums_head(db->sums)->unsure == 2;
	db->rb.journal_syncs = 2; /* what the former worker saw of them is not known */
	return 0;
}

void fs_recover_settle(struct fs_db *db)
{
	struct fz_err err = {0};
	struct fs_db_head h;

	if (!db->resumed || !atomic_load(&db->c->settled))
		return;
	db->resumed = false;
	if (db->state != FS_DB_LIVE || fs_db_read_head(db, &h, &err) < 0)
		return;
	if (h.wal && !fs_db_in_wal(db) && fs_wal_find(db, &err) < 0)
		fs_db_note_error(db, &err);
	if (fs_db_in_wal(db) && db->rb.loose)
		fs_db_lose(db, "it was written to while a worker died");
	/* Somebody has written since the last capture: perhaps the file was closed, and the former worker died before it
	 * had compared. Written through and open: all writes were marked. */
	if (!fs_db_in_wal(db) && h.mtime_ns != ltx_sums_head(db->sums)->seen_mtime_ns) {
		if (!db->open_db || db->passthrough)
			db->rb.whole = true;
		fs_rollback_note_loose(db);
	}
	fs_poll_later(db);
}

int fs_recover_mark_clean(struct fs_db *db, struct fz_err *err)
{
	struct ltx_sums_head *head;
	struct ltx_log_info info;
	struct look l;
	int rc;

	if (!db->log || db->state != FS_DB_LIVE || db->rb.staged || db->rb.loose || fs_db_journal_hot(db))
		return 0;
	head = ltx_sums_head(db->sums);
	ltx_log_info(db->log, &info);
	rc = look_at(db, &l, err);
	if (rc < 0 || head->txid != info.tail_txid || fs_wal_in_doubt(db))
		return rc;
	head->db_bytes = l.db_bytes;
	head->db_mtime_ns = l.mtime_ns;
	head->db_ctime_ns = l.ctime_ns;
	head->wal_bytes = l.wal_bytes;
	head->wal_salt[0] = l.wal_salt[0];
	head->wal_salt[1] = l.wal_salt[1];
	rc = ltx_sums_sync(db->sums, err);
	if (rc < 0)
		return rc;
	head->clean = 1;
	return ltx_sums_sync(db->sums, err);
}
