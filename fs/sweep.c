/* sweep.c - read a large database in the background.
 *
 * FIRST TIME  All pages go into a snapshot file of the log's directory as they are met ("fuzzy": of no single instant), and
 *             their sums into the table. At the instant, what changed since is read again into a second file, and both are
 *             merged into the base. Nothing changed: the first file is the base.
 * AGAIN       Pages that differ from the table are listed; at the instant they and what changed since make one transaction.
 * INSTANT     WAL: as in baseline.c: pages without a frame are read from the file, then the view is taken again and its
 *             frames rule. Rollback: the caller vouches, or no handle is open, or (written through) no write since the end
 *             of the last transaction.
 * The merge of a first time happens under db->mu: checkpoints of a database that is written while it is read for the very
 * first time wait for it, commits in WAL mode do not. */
#include "fs/sweep.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "fs/agent.h"
#include "fs/baseline.h"
#include "fs/capture_priv.h"
#include "fs/capture_wal.h"
#include "ltx/merge.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FUZZY_FILE  "fs-tmp-fuzzy"
#define PATCH_FILE  "fs-tmp-patch"
#define BASE_FILE   "fs-tmp-base"
#define PIECE_BYTES (1u << 20)
#define TRIES       20

struct fs_sweep {
	struct fs_dirty *changed; /* written since the sweep began */
	struct fs_pages differ;   /* not the first time: pages that differ from the table */
	bool first, ready;
	bool running; /* the keeper reads without db->mu; whoever ends the sweep only sets cancel */
	atomic_bool cancel;
	int fd;                     /* of the file, own: db->fd may be replaced meanwhile */
	uint32_t page_size, commit; /* of the pass over the file */
	uint32_t salt[2], frame;    /* followed up to here in the WAL */
	uint64_t fuzzy_bytes, fuzzy_post;
	int64_t mtime_ns; /* of the file when the pass began */
};

void fs_sweep_abort(struct fs_db *db)
{
	struct fs_sweep *s = db->sweep;

	if (!s)
		return;
	atomic_store(&s->cancel, true);
	if (s->running)
		return;
	db->sweep = NULL;
	if (db->log && s->first) {
		unlinkat(ltx_log_dirfd(db->log), FUZZY_FILE, 0);
		unlinkat(ltx_log_dirfd(db->log), PATCH_FILE, 0);
		unlinkat(ltx_log_dirfd(db->log), BASE_FILE, 0);
		ltx_sums_clear(db->sums);
	}
	fs_dirty_close(s->changed);
	fs_pages_fini(&s->differ);
	fz_close(&s->fd);
	free(s);
}

int fs_sweep_note_write(struct fs_db *db, uint64_t off_bytes, uint64_t len_bytes, struct fz_err *err)
{
	return fs_dirty_mark(db->sweep->changed, off_bytes, len_bytes, err);
}

int fs_sweep_follow(struct fs_db *db, bool barrier, struct fz_err *err)
{
	struct fs_sweep *s = db->sweep;
	uint8_t h[LTX_WAL_FRAME_SIZE];
	uint32_t mx;
	int rc;

	if (memcmp(s->salt, db->wal.h.salt, sizeof(s->salt))) {
		memcpy(s->salt, db->wal.h.salt, sizeof(s->salt));
		s->frame = 0;
	}
	rc = fs_wal_visible(db, barrier, &mx, err);
	if (rc < 0)
		return rc == -EAGAIN ? 0 : rc;
	for (uint32_t frame = s->frame + 1; frame <= mx; frame++) {
		struct ltx_wal_frame f;

		rc = fs_wal_read_frame(db, frame, h, err);
		if (rc < 0)
			return rc;
		ltx_wal_frame_get(&f, h);
		if (f.pgno)
			rc = fs_dirty_mark(s->changed, (uint64_t)(f.pgno - 1) * s->page_size, s->page_size, err);
		if (rc < 0)
			return rc;
		s->frame = frame;
	}
	return 0;
}

/* ---- the pass over the file ---- */

static int begin(struct fs_db *db, struct fz_err *err)
{
	struct fs_scratch *sc = NULL;
	uint32_t frame, commit;
	struct fs_sweep *s;
	struct fs_db_head h;
	int rc;

	rc = fs_db_read_head(db, &h, err);
	if (rc == 0 && h.wal && !fs_db_in_wal(db))
		rc = fs_wal_find(db, err);
	if (rc == 0)
		rc = fs_db_attach_log(db, true, err);
	if (rc == 0 && db->rb.staged)
		rc = fs_txn_drop(db, err);
	if (rc < 0)
		return rc;
	if (fs_txn_replay_sums(db, err) < 0) {
		rc = fs_txn_adopt_tail(db, err);
		if (rc < 0)
			return rc;
	}
	sc = fs_scratch_get(db->c, err);
	s = calloc(1, sizeof(*s));
	if (!sc || !s) {
		free(s);
		fs_scratch_put(db->c, sc);
		return -ENOMEM;
	}
	rc = fs_wal_view(db, &sc->index, &frame, &commit, err);
	fs_scratch_put(db->c, sc);
	s->first = !ltx_sums_head(db->sums)->txid;
	s->page_size = frame ? db->wal.h.page_size : h.page_size;
	s->commit = frame ? commit : h.pages;
	s->mtime_ns = h.mtime_ns;
	fs_pages_init(&s->differ, db->c->conf.statefd);
	s->fd = fcntl(db->fd, F_DUPFD_CLOEXEC, 3);
	if (rc == 0 && s->fd < 0)
		rc = fz_fail_errno(err, errno, "%s: cannot duplicate the descriptor", db->name);
	if (rc == 0)
		rc = fs_dirty_open(&s->changed, -1, NULL, err);
	if (rc == 0 && (!s->page_size || !s->commit))
		rc = fz_fail(err, FZ_ENOTFOUND, "%s is no SQLite database", db->name);
	if (rc == 0)
		rc = ltx_sums_room(db->sums, s->commit, err);
	db->sweep = s;
	if (rc < 0) {
		fs_sweep_abort(db);
		return rc;
	}
	if (!ltx_sums_head(db->sums)->unsure)
		ltx_sums_head(db->sums)->unsure = 1;
	fz_info("%s: %s (%u pages) in the background", fz_log_db(db->name), s->first ? "first snapshot" : "compare",
	        s->commit);
	return 0;
}

/* Pages [from, to] of the file, without db->mu: nobody else touches table and list while the database is LOST. */
static int read_piece(struct fs_db *db, struct fs_sweep *s, struct ltx_enc *enc, uint32_t from, uint32_t to,
                      uint8_t *page, struct fz_err *err)
{
	uint32_t lock = ltx_lock_page(s->page_size);
	int rc = 0;

	for (uint32_t pgno = from; pgno <= to && rc == 0; pgno++) {
		uint64_t sum;
		ssize_t n;

		if (pgno == lock)
			continue;
		n = fz_pread(s->fd, page, s->page_size, (off_t)(pgno - 1) * s->page_size);
		if (n < 0)
			return fz_fail_errno(err, (int)-n, "%s: cannot read page %u", db->name, pgno);
		memset(page + n, 0, s->page_size - (size_t)n);
		sum = ltx_page_checksum(pgno, page, s->page_size);
		if (s->first) {
			s->fuzzy_post ^= sum;
			ltx_sums_set(db->sums, pgno, sum);
			rc = ltx_enc_page(enc, pgno, page, err);
		} else if (sum != ltx_sums_get(db->sums, pgno)) {
			rc = fs_pages_add(&s->differ, pgno, 0, err);
		}
	}
	return rc;
}

static int pass_over(struct fs_db *db, struct fs_sweep *s, struct fz_err *err)
{
	uint32_t step = PIECE_BYTES / s->page_size;
	struct fs_scratch *sc = fs_scratch_get(db->c, err);
	struct ltx_header h = {.page_size = s->page_size, .commit = s->commit, .min_txid = 1, .max_txid = 1};
	struct fz_fd_sink sink = {.fd = -1};
	int fd = -1, rc = sc ? 0 : -ENOMEM;

	if (rc == 0 && s->first) {
		fd = openat(ltx_log_dirfd(db->log), FUZZY_FILE, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		if (fd < 0)
			rc = fz_fail_errno(err, errno, "cannot create the snapshot of %s", db->name);
		fz_fd_sink_init(&sink, fd, 0);
		h.time_ms = fz_now_ms();
		if (rc == 0)
			rc = ltx_enc_begin(sc->enc, &sink.sink, &h, err);
	}
	for (uint32_t from = 1; rc == 0 && from <= s->commit; from += step) {
		uint32_t to = s->commit - from < step ? s->commit : from + step - 1;

		rc = read_piece(db, s, sc->enc, from, to, sc->page, err);
		if (rc == 0 && (fz_worker_stopping(&db->c->keeper) || atomic_load(&s->cancel)))
			rc = -ECANCELED;
		if (to == s->commit)
			break;
	}
	s->fuzzy_post |= LTX_FLAG;
	if (rc == 0 && s->first)
		rc = ltx_enc_end(sc->enc, s->fuzzy_post, NULL, &s->fuzzy_bytes, err);
	if (rc == 0 && s->first)
		rc = fz_fd_sink_flush(&sink, err);
	fz_fd_sink_fini(&sink);
	fz_close(&fd);
	fs_scratch_put(db->c, sc);
	return rc;
}

/* ---- the instant ---- */

/* Lists what must be read (again) in sc->pages, those of the file with their sums; -EAGAIN when something moved. */
static int collect(struct fs_db *db, struct fs_scratch *sc, uint32_t *frame, uint32_t *commit, struct fz_err *err)
{
	struct fs_sweep *s = db->sweep;
	uint32_t salt[2] = {db->wal.h.salt[0], db->wal.h.salt[1]}, per, next = 1;
	struct fs_db_head h;
	uint64_t block = 0;
	int rc;

	fs_pages_reset(&sc->pages);
	rc = fs_db_read_head(db, &h, err);
	if (rc == 0)
		rc = fs_wal_view(db, &sc->index, frame, commit, err);
	if (rc < 0)
		return rc;
	db->rb.counter = h.counter;
	ltx_sums_head(db->sums)->seen_mtime_ns = h.mtime_ns;
	if (!*frame)
		*commit = h.pages;
	if (!fs_db_in_wal(db) && db->passthrough && h.mtime_ns != s->mtime_ns)
		return fz_fail(err, -ESTALE, "%s: it was written to while it was read", db->name);
	if ((*frame ? db->wal.h.page_size : h.page_size) != s->page_size)
		return fz_fail(err, -ESTALE, "%s: its page size changed", db->name);
	per = FS_DIRTY_BLOCK / s->page_size;
	for (; rc == 0 && fs_dirty_next(s->changed, block, &block); block++) {
		uint64_t p = block * FS_DIRTY_BLOCK / s->page_size + 1, last = p + (per ? per - 1 : 0);

		for (p = p < next ? next : p; rc == 0 && p <= last && p <= *commit; p++)
			rc = fs_pages_add(&sc->pages, (uint32_t)p, 0, err);
		next = (uint32_t)(last < UINT32_MAX ? last + 1 : UINT32_MAX);
	}
	for (size_t i = 0; rc == 0 && i < s->differ.n; i++)
		rc = fs_pages_add(&sc->pages, s->differ.e[i].pgno, 0, err);
	for (uint32_t p = s->commit + 1; rc == 0 && p && p <= *commit; p++)
		rc = fs_pages_add(&sc->pages, p, 0, err);
	fs_pages_sort(&sc->pages, *commit, ltx_lock_page(s->page_size));
	for (size_t i = 0; rc == 0 && i < sc->pages.n; i++) {
		struct fs_page *p = &sc->pages.e[i];

		rc = fs_db_read_page(db, s->page_size, p->pgno, 0, sc->page, err);
		if (rc == 0)
			p->sum = ltx_page_checksum(p->pgno, sc->page, s->page_size);
	}
	if (rc < 0 || !fs_db_in_wal(db))
		return rc;
	rc = fs_wal_view(db, &sc->index, frame, commit, err);
	if (rc < 0)
		return rc;
	if (*frame && memcmp(salt, db->wal.h.salt, sizeof(salt)))
		return fz_fail(err, -EAGAIN, "%s: a new WAL began", db->name);
	if (!*frame)
		*commit = h.pages;
	for (size_t i = 0; rc == 0 && i < sc->index.n; i++)
		rc = fs_pages_add(&sc->pages, sc->index.e[i].pgno, sc->index.e[i].frame, err);
	fs_pages_sort(&sc->pages, *commit, ltx_lock_page(s->page_size));
	return rc;
}

/* The second file of a first time: what differs from the fuzzy one. 1 = there is something, 0 = nothing. */
static int write_patch(struct fs_db *db, struct fs_scratch *sc, uint32_t commit, struct ltx_trailer *t, uint64_t *bytes,
                       struct fz_err *err)
{
	struct fs_sweep *s = db->sweep;
	struct ltx_header h = {.page_size = s->page_size,
	                       .commit = commit,
	                       .min_txid = 2,
	                       .max_txid = 2,
	                       .time_ms = fz_now_ms(),
	                       .pre_checksum = s->fuzzy_post};
	uint64_t post = s->fuzzy_post;
	struct fz_fd_sink sink;
	bool any = commit != s->commit;
	int fd, rc;

	fd = openat(ltx_log_dirfd(db->log), PATCH_FILE, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return fz_fail_errno(err, errno, "cannot create the snapshot of %s", db->name);
	fz_fd_sink_init(&sink, fd, 0);
	rc = ltx_sums_room(db->sums, commit, err);
	if (rc == 0)
		rc = ltx_enc_begin(sc->enc, &sink.sink, &h, err);
	for (size_t i = 0; rc == 0 && i < sc->pages.n; i++) {
		struct fs_page *p = &sc->pages.e[i];
		uint64_t sum, old = p->pgno <= s->commit ? ltx_sums_get(db->sums, p->pgno) : 0;

		rc = fs_db_read_page(db, s->page_size, p->pgno, p->frame, sc->page, err);
		if (rc < 0)
			break;
		sum = ltx_page_checksum(p->pgno, sc->page, s->page_size);
		if (!p->frame && p->sum != sum)
			rc = fz_fail(err, -EAGAIN, "%s: page %u changes", db->name, p->pgno);
		p->sum = sum;
		post ^= sum ^ old;
		if (rc == 0 && sum != old) {
			any = true;
			rc = ltx_enc_page(sc->enc, p->pgno, sc->page, err);
		}
	}
	for (uint32_t p = commit + 1; p <= s->commit; p++)
		post ^= ltx_sums_get(db->sums, p);
	if (rc == 0)
		rc = ltx_enc_end(sc->enc, LTX_FLAG | post, t, bytes, err);
	if (rc == 0)
		rc = fz_fd_sink_flush(&sink, err);
	fz_fd_sink_fini(&sink);
	fz_close(&fd);
	return rc < 0 ? rc : any;
}

static int merge_files(struct fs_db *db, uint64_t patch_bytes, struct fz_err *err)
{
	int dirfd = ltx_log_dirfd(db->log), fd = -1, rc = 0;
	struct fz_src *src[2] = {NULL, NULL};
	struct ltx_merge_input in[2];
	struct ltx_merge_result r;
	struct fz_fd_sink sink;

	for (int i = 0; i < 2 && rc == 0; i++) {
		uint64_t bytes = i ? patch_bytes : db->sweep->fuzzy_bytes;
		int f = openat(dirfd, i ? PATCH_FILE : FUZZY_FILE, O_RDONLY | O_CLOEXEC);

		rc = f < 0 ? fz_fail_errno(err, errno, "cannot read the snapshot of %s", db->name)
		           : fz_src_fd(&src[i], f, 0, bytes, true, err);
		in[i] = (struct ltx_merge_input){src[i], 0, bytes};
	}
	fd = rc < 0 ? -1 : openat(dirfd, BASE_FILE, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	fz_fd_sink_init(&sink, fd, 0);
	if (rc == 0 && fd < 0)
		rc = fz_fail_errno(err, errno, "cannot create the snapshot of %s", db->name);
	if (rc == 0)
		rc = ltx_merge_array(in, 2, &sink.sink, &r, err);
	if (rc == 0)
		rc = fz_fd_sink_flush(&sink, err);
	fz_fd_sink_fini(&sink);
	fz_close(&fd);
	fz_src_close(src[0]);
	fz_src_close(src[1]);
	return rc;
}

static int finish_first(struct fs_db *db, struct fs_scratch *sc, uint32_t commit, struct fz_err *err)
{
	struct fs_sweep *s = db->sweep;
	struct ltx_sums_head *head;
	struct ltx_log_info info;
	struct ltx_trailer t;
	uint64_t bytes;
	int patched, rc;

	patched = write_patch(db, sc, commit, &t, &bytes, err);
	rc = patched > 0 ? merge_files(db, bytes, err) : patched;
	if (rc == 0)
		rc = ltx_log_install_base(db->log, patched ? BASE_FILE : FUZZY_FILE, err);
	if (rc < 0)
		return rc;
	for (size_t i = 0; i < sc->pages.n; i++)
		ltx_sums_set(db->sums, sc->pages.e[i].pgno, sc->pages.e[i].sum);
	for (uint32_t p = commit + 1; p <= s->commit; p++)
		ltx_sums_set(db->sums, p, 0);
	ltx_log_info(db->log, &info);
	db->tail_ms = info.tail_time_ms;
	head = ltx_sums_head(db->sums);
	head->page_size = s->page_size;
	head->commit = commit;
	head->checksum = info.tail_checksum;
	head->txid = info.tail_txid;
	return 1;
}

static int finish_again(struct fs_db *db, struct fs_scratch *sc, uint32_t frame, uint32_t commit, struct fz_err *err)
{
	uint8_t last[LTX_WAL_FRAME_SIZE];
	struct fs_txn t = {.page_size = db->sweep->page_size,
	                   .commit = commit,
	                   .commits = 1,
	                   .wal_from = frame ? 1 : 0,
	                   .wal_to = frame,
	                   .only_changed = true,
	                   .check = true};

	if (frame) {
		int rc = fs_wal_read_frame(db, frame, last, err);

		if (rc < 0)
			return rc;
		t.last_frame = last;
	}
	sc->buf_n = 0;
	return fs_txn_append(db, sc, &t, err);
}

int fs_sweep_finish(struct fs_db *db, struct fz_err *err)
{
	struct fs_sweep *s = db->sweep;
	uint32_t frame = 0, commit = 0;
	struct fs_scratch *sc;
	int rc = -EAGAIN;
	bool first;

	if (!s || !s->ready)
		return 0;
	first = s->first;
	sc = fs_scratch_get(db->c, err);
	if (!sc)
		return -ENOMEM;
	for (int i = 0; i < TRIES && rc == -EAGAIN; i++) {
		rc = fs_db_in_wal(db) ? fs_sweep_follow(db, true, err) : 0;
		if (rc == 0)
			rc = collect(db, sc, &frame, &commit, err);
		if (rc == 0)
			rc = first ? finish_first(db, sc, commit, err) : finish_again(db, sc, frame, commit, err);
	}
	fs_scratch_put(db->c, sc);
	if (rc == -EAGAIN)
		return rc; /* not just now */
	if (rc >= 0) {
		fs_wal_set_position(db, frame);
		s->first = false; /* its table stays */
		unlinkat(ltx_log_dirfd(db->log), FUZZY_FILE, 0);
		unlinkat(ltx_log_dirfd(db->log), PATCH_FILE, 0);
	}
	fs_sweep_abort(db);
	if (rc >= 0)
		fs_baseline_done(db, first, rc);
	return rc;
}

/* Rollback mode: is nobody inside a transaction? */
static bool quiet(const struct fs_db *db)
{
	return !db->open_db || (!db->passthrough && !db->rb.loose);
}

int fs_sweep_run(struct fs_db *db, struct fz_err *err)
{
	struct fs_agent *agent = db->c->conf.agent;
	bool locked = false;
	int rc = 0;

	pthread_mutex_lock(&db->mu);
	if (!db->sweep)
		rc = begin(db, err);
	if (rc == 0 && !db->sweep->ready) {
		struct fs_sweep *s = db->sweep;

		s->running = true;
		pthread_mutex_unlock(&db->mu);
		rc = pass_over(db, s, err);
		pthread_mutex_lock(&db->mu);
		s->running = false;
		if (rc == 0 && atomic_load(&s->cancel))
			rc = -ECANCELED;
		if (rc < 0)
			fs_sweep_abort(db);
		else
			s->ready = true;
		if (db->state == FS_DB_ENDED)
			fs_db_detach_log(db); /* left to us by fs_db_end() */
	}
	if (rc == 0 && !fs_db_in_wal(db) && !quiet(db) && agent) {
		pthread_mutex_unlock(&db->mu);
		locked = fs_agent_lock(agent, db->name, true, 5, err) == 0;
		pthread_mutex_lock(&db->mu);
	}
	if (rc == 0 && db->sweep && (fs_db_in_wal(db) || ((locked || quiet(db)) && !fs_db_journal_hot(db))))
		rc = fs_sweep_finish(db, err);
	pthread_mutex_unlock(&db->mu);
	if (locked && fs_agent_lock(agent, db->name, false, 0, err) < 0)
		fz_log_err(fz_log_db(db->name), err);
	return rc == -EAGAIN || rc > 0 ? 0 : rc;
}
