/* capture_wal.c - what is committed in the WAL becomes transactions of the log.
 *
 * TERMS    visible: the mxFrame of a valid wal-index header whose salts are the WAL's. in doubt: frames beyond it.
 *          generation: the frames under one pair of salts. position: (salts, frame) up to which all is in the log.
 * (1) A frame is captured only once it is visible: that is SQLite's own commit point. Without a -shm since this WAL was
 *     opened (EXCLUSIVE locking, or nobody has got that far yet) the frames themselves count, checksum by checksum, but
 *     the last commit only when something follows it or it stands unchanged for a while with no FSYNC under way.
 * (2) Every visible frame is captured before SQLite can overwrite it. A WAL restarts only when nBackfill == mxFrame;
 *     walCheckpoint() truncates the database before it publishes that; the truncate is an event whose before() ends in
 *     fs_wal_pass(BARRIER).
 * (3) So a WAL header with new salts starts at frame 0, and one whose salts are the position's goes on at the position.
 * (4) Frames up to the position change only when SQLite recovers the WAL after a crash and stops before them (frames with
 *     zero checksums). Recovery truncates the -shm: an event that sets `recheck`; then the last captured frame must still
 *     be the same, else all pages are compared.
 * (5) No power cut leaves a generation without the whole one before it in the log: once the fsync of a checkpoint is answered
 *     the log is durable too. Start rests on this (recover.c). At OFF nothing is synced, here as little as in SQLite.
 * Held by tests/unit/test_fs_capture.c: every_commit, restarts, phantom, busy, blank_frames, checkpoint_syncs; (5) also by
 * tests/e2e/powerloss.py. */
#include "fs/capture_wal.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "fs/agent.h"
#include "fs/baseline.h"
#include "fs/capture_priv.h"
#include "ltx/walindex.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

/* Of frames that wait: beyond, consecutive commits merge. SQLite checkpoints each 1000 pages of at most 64 KiB by itself: with
 * its default no commit ever merges. */
#define BEHIND_BYTES (64u << 20)

int fs_wal_open(struct fs_db *db, int fd, struct fz_err *err)
{
	int own = fcntl(fd, F_DUPFD_CLOEXEC, 3);

	if (own < 0)
		return fz_fail_errno(err, errno, "%s-wal: cannot duplicate the descriptor", db->name);
	fs_db_close_wal(db);
	db->wal.fd = own;
	db->wal.had_shm = db->open_shm > 0;
	db->wal.recheck = db->sums && ltx_sums_head(db->sums)->recheck;
	return 0;
}

int fs_wal_find(struct fs_db *db, struct fz_err *err)
{
	char path[4200];
	struct stat st;
	int fd, rc = 0;

	if (snprintf(path, sizeof(path), "%s-wal", db->name) >= (int)sizeof(path))
		return 0;
	fd = fz_open_below(db->c->conf.rootfd, path, O_RDONLY | O_NONBLOCK, 0);
	if (fd < 0)
		return errno == ENOENT ? 0 : fz_fail_errno(err, errno, "cannot open %s", path);
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > LTX_WAL_HEADER_SIZE)
		rc = fs_wal_open(db, fd, err);
	fz_close(&fd);
	return rc;
}

void fs_wal_set_frame(struct fs_db *db, uint32_t frame, const uint8_t header[static LTX_WAL_FRAME_SIZE])
{
	struct ltx_sums_head *head = ltx_sums_head(db->sums);
	struct ltx_wal_frame f;

	ltx_wal_frame_get(&f, header);
	db->wal.frame = frame;
	db->wal.sum[0] = f.sum[0];
	db->wal.sum[1] = f.sum[1];
	head->pos_salt[0] = db->wal.h.salt[0];
	head->pos_salt[1] = db->wal.h.salt[1];
	head->pos_frame = frame;
	memcpy(head->last_frame, header, LTX_WAL_FRAME_SIZE);
}

bool fs_wal_is_last(const struct fs_db *db, const uint8_t header[static LTX_WAL_FRAME_SIZE])
{
	static const uint8_t unknown[LTX_WAL_FRAME_SIZE];
	const struct ltx_sums_head *head = ltx_sums_head(db->sums);
	struct ltx_wal_frame f;

	if (memcmp(head->last_frame, unknown, sizeof(unknown)))
		return !memcmp(head->last_frame, header, sizeof(head->last_frame));
	ltx_wal_frame_get(&f, header); /* the position came from the log: only its salts and number are known */
	return f.commit && f.salt[0] == head->pos_salt[0] && f.salt[1] == head->pos_salt[1];
}

static ssize_t read_frame_header(const struct fs_db *db, uint32_t frame, uint8_t out[static LTX_WAL_FRAME_SIZE])
{
	return fz_pread(db->wal.fd, out, LTX_WAL_FRAME_SIZE, (off_t)ltx_wal_frame_off(db->wal.h.page_size, frame));
}

int fs_wal_read_frame(struct fs_db *db, uint32_t frame, uint8_t out[static LTX_WAL_FRAME_SIZE], struct fz_err *err)
{
	ssize_t n = read_frame_header(db, frame, out);

	if (n == LTX_WAL_FRAME_SIZE)
		return 0;
	return fz_fail(err, n < 0 ? (int)n : -EIO, "%s-wal: cannot read frame %u", db->name, frame);
}

/* 1 = db->wal.h is the header that stands in the file now; 0 = there is none (empty, or half written). */
static int load_header(struct fs_db *db, struct fz_err *err)
{
	uint8_t b[LTX_WAL_HEADER_SIZE], f[LTX_WAL_FRAME_SIZE];
	const struct ltx_sums_head *head = db->sums ? ltx_sums_head(db->sums) : NULL;
	struct ltx_wal_header h;
	ssize_t n = fz_pread(db->wal.fd, b, sizeof(b), 0);

	if (n < 0)
		return fz_fail_errno(err, (int)-n, "%s-wal: cannot read the header", db->name);
	if (n < (ssize_t)sizeof(b) || ltx_wal_header_get(&h, b, NULL) < 0)
		return 0;
	if (db->wal.known && h.salt[0] == db->wal.h.salt[0] && h.salt[1] == db->wal.h.salt[1])
		return 1;
	db->wal.known = true;
	db->wal.h = h;
	db->wal.frame = db->wal.seen = db->wal.doubt = 0;
	db->wal.sum[0] = h.sum[0];
	db->wal.sum[1] = h.sum[1];
	if (head && head->pos_frame && head->pos_salt[0] == h.salt[0] && head->pos_salt[1] == h.salt[1]) {
		n = read_frame_header(db, head->pos_frame, f);
		db->wal.frame = head->pos_frame;
		if (n == sizeof(f) && fs_wal_is_last(db, f))
			fs_wal_set_frame(db, head->pos_frame, f);
		else if (db->state == FS_DB_LIVE)
			fs_db_lose(db, "its WAL has lost frames that are in the log");
	}
	return 1;
}

/* Invariant (4). */
static void check_kept(struct fs_db *db, uint32_t mx)
{
	struct ltx_sums_head *head = ltx_sums_head(db->sums);
	uint8_t f[LTX_WAL_FRAME_SIZE];
	static const uint8_t none[8];

	if (mx >= db->wal.frame && !db->wal.recheck)
		return;
	if (db->wal.frame && (mx < db->wal.frame || read_frame_header(db, db->wal.frame, f) != sizeof(f) ||
	                      !fs_wal_is_last(db, f) || !memcmp(f + 16, none, sizeof(none))))
		fs_db_lose(db, "SQLite dropped commits when it recovered the WAL");
	db->wal.recheck = false;
	head->recheck = 0;
}

static int append(struct fs_db *db, struct fs_scratch *sc, uint32_t to, const uint8_t *last, uint64_t commits,
                  struct fz_err *err)
{
	struct ltx_wal_frame f;
	struct fs_txn t;
	int rc;

	ltx_wal_frame_get(&f, last);
	t = (struct fs_txn){.page_size = db->wal.h.page_size,
	                    .commit = f.commit,
	                    .commits = commits,
	                    .wal_from = db->wal.frame + 1,
	                    .wal_to = to,
	                    .time_ms = sc->time_ms,
	                    .last_frame = last};
	fs_pages_sort(&sc->pages, f.commit, ltx_lock_page(t.page_size));
	rc = fs_txn_append(db, sc, &t, err);
	if (rc < 0)
		return rc;
	FZ_ASSERT(db->wal.frame == to); /* else the same frames would be appended for ever */
	fs_pages_reset(&sc->pages);
	return 0;
}

static int add_frame(struct fs_db *db, struct fs_scratch *sc, uint32_t frame, const uint8_t *header,
                     struct ltx_wal_frame *f, struct fz_err *err)
{
	ltx_wal_frame_get(f, header);
	if (!f->pgno) {
		fs_db_lose(db, "a committed WAL frame names no page");
		return fz_fail(err, FZ_ECORRUPT, "%s-wal: frame %u names no page", db->name, frame);
	}
	return fs_pages_add(&sc->pages, f->pgno, frame, err);
}

/* One transaction that does not fit into the buffer, or, when much waits behind it, all up to mx as one range. Only the
 * frames' headers are read here; the pages follow one by one in the encoder. Returns the number of commits. */
static int64_t append_large(struct fs_db *db, struct fs_scratch *sc, uint32_t mx, struct fz_err *err)
{
	uint8_t last[LTX_WAL_FRAME_SIZE] = {0}, h[LTX_WAL_FRAME_SIZE];
	uint64_t commits = 0;
	uint32_t to = 0;
	int rc;

	sc->buf_n = 0;
	fs_pages_reset(&sc->pages);
	for (uint32_t frame = db->wal.frame + 1; frame <= mx; frame++) {
		struct ltx_wal_frame f;
		rc = fs_wal_read_frame(db, frame, h, err);
		if (rc < 0)
			return rc;
		rc = add_frame(db, sc, frame, h, &f, err);
		if (rc < 0)
			return rc;
		if (!f.commit)
			continue;
		commits++;
		to = frame;
		memcpy(last, h, sizeof(last));
		if (commits == 1 && (mx - frame) * (uint64_t)fs_wal_frame_bytes(db) <= BEHIND_BYTES)
			break;
	}
	if (!commits) {
		fs_db_lose(db, "the wal-index ends inside a transaction");
		return fz_fail(err, FZ_ECORRUPT, "%s-wal: frame %u ends no transaction", db->name, mx);
	}
	while (sc->pages.n && sc->pages.e[sc->pages.n - 1].frame > to)
		sc->pages.n--;
	rc = append(db, sc, to, last, commits, err);
	return rc < 0 ? rc : (int64_t)commits;
}

/* The transactions that lie in one buffer, each by itself. Returns their number, 0 when not even one does. */
static int64_t append_small(struct fs_db *db, struct fs_scratch *sc, uint32_t mx, struct fz_err *err)
{
	uint32_t first = db->wal.frame + 1, want = mx - db->wal.frame;
	int64_t commits = 0;
	ssize_t n;

	if (want > FS_FRAME_BUFFER / fs_wal_frame_bytes(db))
		want = (uint32_t)(FS_FRAME_BUFFER / fs_wal_frame_bytes(db));
	want = want ? want : 1;
	n = fz_pread(db->wal.fd, sc->buf, want * fs_wal_frame_bytes(db),
	             (off_t)ltx_wal_frame_off(db->wal.h.page_size, first));
	if (n < 0)
		return fz_fail_errno(err, (int)-n, "%s-wal: cannot read frame %u", db->name, first);
	sc->buf_frame = first;
	sc->buf_n = (uint32_t)((size_t)n / fs_wal_frame_bytes(db));
	fs_pages_reset(&sc->pages);
	for (uint32_t i = 0; i < sc->buf_n; i++) {
		const uint8_t *at = sc->buf + i * fs_wal_frame_bytes(db);
		struct ltx_wal_frame f;
		int rc = add_frame(db, sc, first + i, at, &f, err);

		if (rc == 0 && f.commit) {
			rc = append(db, sc, first + i, at, 1, err);
			commits++;
		}
		if (rc < 0)
			return rc;
	}
	return commits;
}

static int64_t append_upto(struct fs_db *db, uint32_t mx, struct fz_err *err)
{
	struct fs_scratch *sc = fs_scratch_get(db->c, err);
	int64_t commits = 0, n = 0;

	if (!sc)
		return -ENOMEM;
	sc->time_ms = fs_txn_wal_time(db);
	while (db->wal.frame < mx && n >= 0) {
		bool behind = (mx - db->wal.frame) * (uint64_t)fs_wal_frame_bytes(db) > BEHIND_BYTES;

		n = behind ? 0 : append_small(db, sc, mx, err);
		if (n == 0)
			n = append_large(db, sc, mx, err);
		commits += n;
	}
	fs_scratch_put(db->c, sc);
	return n < 0 ? n : commits;
}

int64_t fs_wal_pass(struct fs_db *db, enum fs_wal_how how, struct fz_err *err)
{
	int64_t n = 0, looked_ms;
	uint32_t mx;
	int rc;

	if (!fs_db_in_wal(db) || db->state == FS_DB_ENDED || db->state == FS_DB_CANDIDATE ||
	    atomic_load(&db->c->sealed))
		return 0;
	rc = load_header(db, err);
	if (rc <= 0)
		return rc;
	looked_ms = fz_now_ms();
	if (db->state == FS_DB_LIVE) {
		rc = fs_wal_visible(db, how == FS_WAL_BARRIER, &mx, err);
		if (rc < 0)
			return rc == -EAGAIN ? 0 : rc;
		check_kept(db, mx);
	}
	if (db->state == FS_DB_LIVE) {
		n = mx > db->wal.frame ? append_upto(db, mx, err) : 0;
		db->wal.looked_ms = looked_ms;
		return n;
	}
	n = fs_baseline_follow(db, how == FS_WAL_BARRIER, err);
	return n;
}

/* Frames up to `to`, as one transaction. */
static int offer(struct fs_db *db, uint32_t to, struct fz_err *err)
{
	struct fs_scratch *sc = fs_scratch_get(db->c, err);
	uint8_t h[LTX_WAL_FRAME_SIZE];
	struct ltx_wal_frame f = {0};
	struct fs_txn t;
	int rc = sc ? 0 : -ENOMEM;

	for (uint32_t frame = db->wal.frame + 1; rc == 0 && frame <= to; frame++) {
		rc = fs_wal_read_frame(db, frame, h, err);
		if (rc < 0)
			break;
		ltx_wal_frame_get(&f, h);
		rc = fs_pages_add(&sc->pages, f.pgno, frame, err);
	}
	if (rc == 0) {
		t = (struct fs_txn){.page_size = db->wal.h.page_size,
		                    .commit = f.commit,
		                    .commits = 1,
		                    .wal_from = db->wal.frame + 1,
		                    .wal_to = to,
		                    .last_frame = h};
		fs_pages_sort(&sc->pages, f.commit, ltx_lock_page(t.page_size));
		rc = fs_txn_offer(db, sc, &t, &db->offer, err);
	}
	fs_scratch_put(db->c, sc);
	return rc;
}

/* Without a wal-index all but the last transaction are past; and what FSYNC is asked for is the last. */
static int visible_to_writer(struct fs_db *db, uint32_t *mx, struct fz_err *err)
{
	struct fs_wal_scan s;
	int rc;

	if (db->open_shm || db->wal.had_shm)
		return fs_wal_visible(db, true, mx, err);
	rc = fs_wal_scan(db, &s, err);
	*mx = rc == 0 && s.before ? s.before : db->wal.frame;
	return rc;
}

int fs_wal_offer(struct fs_db *db, struct fz_err *err)
{
	uint8_t last[LTX_WAL_FRAME_SIZE];
	struct fs_wal_scan s;
	uint32_t mx;
	int64_t n;
	int rc;

	if (!fs_db_in_wal(db) || db->state == FS_DB_ENDED || db->state == FS_DB_CANDIDATE)
		return 0;
	if (db->state == FS_DB_LOST) {
		n = fs_wal_pass(db, FS_WAL_BARRIER, err);
		if (n < 0)
			return (int)n;
		if (db->state != FS_DB_LIVE)
			return fz_fail(err, -EAGAIN, "%s: its first snapshot is being made", db->name);
	}
	rc = load_header(db, err);
	if (rc <= 0)
		return rc;
	rc = visible_to_writer(db, &mx, err);
	if (rc < 0)
		return rc;
	check_kept(db, mx);
	if (db->state != FS_DB_LIVE)
		return fz_fail(err, -EAGAIN, "%s: it is being compared with its log", db->name);
	n = mx > db->wal.frame ? append_upto(db, mx, err) : 0;
	if (n < 0)
		return (int)n;
	rc = fs_wal_scan(db, &s, err);
	if (rc < 0 || !s.commit)
		return rc;
	rc = fs_wal_read_frame(db, s.commit, last, err);
	if (rc < 0)
		return rc;
	if (db->offer.wal_to == s.commit && db->offer.txid == ltx_sums_head(db->sums)->txid + 1 &&
	    !memcmp(last, db->offer.last_frame, sizeof(last)))
		return 1; /* for an FSYNC before this one */
	return offer(db, s.commit, err);
}

bool fs_wal_in_doubt(struct fs_db *db)
{
	uint8_t h[LTX_WAL_FRAME_SIZE];
	struct ltx_wal_frame f;

	if (!fs_db_in_wal(db) || !db->wal.known || db->state != FS_DB_LIVE ||
	    read_frame_header(db, db->wal.frame + 1, h) != sizeof(h))
		return false;
	ltx_wal_frame_get(&f, h);
	return f.pgno && f.salt[0] == db->wal.h.salt[0] && f.salt[1] == db->wal.h.salt[1];
}

int fs_wal_index(struct fs_db *db, struct fs_pages *index, uint32_t upto, struct fz_err *err)
{
	uint8_t h[LTX_WAL_FRAME_SIZE];

	fs_pages_reset(index);
	for (uint32_t frame = 1; frame <= upto; frame++) {
		struct ltx_wal_frame f;
		int rc = fs_wal_read_frame(db, frame, h, err);

		if (rc < 0)
			return rc;
		ltx_wal_frame_get(&f, h);
		rc = fs_pages_add(index, f.pgno, frame, err);
		if (rc < 0)
			return rc;
	}
	fs_pages_sort(index, UINT32_MAX, 0);
	return 0;
}

int fs_wal_view(struct fs_db *db, struct fs_pages *index, uint32_t *frame, uint32_t *commit, struct fz_err *err)
{
	uint8_t h[LTX_WAL_FRAME_SIZE];
	struct ltx_wal_frame f;
	int rc;

	*frame = *commit = 0;
	fs_pages_reset(index);
	if (!fs_db_in_wal(db))
		return 0;
	rc = load_header(db, err);
	if (rc <= 0)
		return rc;
	if (!db->open_shm && !db->wal.had_shm) {
		db->wal.frame = 0;
		db->wal.sum[0] = db->wal.h.sum[0];
		db->wal.sum[1] = db->wal.h.sum[1];
		rc = fs_wal_visible(db, true, frame, err);
	} else if (!db->open_shm) {
		*frame = db->wal.seen;
	} else {
		db->wal.frame = 0; /* of another generation: nothing counts */
		rc = fs_wal_visible(db, true, frame, err);
	}
	if (rc < 0 || !*frame)
		return rc < 0 ? fz_fail(err, rc, "%s: the wal-index is being recovered", db->name) : 0;
	if (read_frame_header(db, *frame, h) != sizeof(h))
		return fz_fail(err, -EIO, "%s-wal: cannot read frame %u", db->name, *frame);
	ltx_wal_frame_get(&f, h);
	*commit = f.commit;
	return fs_wal_index(db, index, *frame, err);
}

void fs_wal_checkpointed(struct fs_db *db)
{
	struct fz_err err = {0};
	struct ltx_sums_head *head;
	struct fs_scratch *sc;
	struct fs_db_head h;
	bool same;

	if (db->state != FS_DB_LIVE || !db->sums || !fs_db_in_wal(db) || !db->wal.known || db->foreign ||
	    fs_db_read_head(db, &h, &err) < 0)
		return;
	head = ltx_sums_head(db->sums);
	sc = fs_scratch_get(db->c, &err);
	if (!sc)
		return;
	same = h.page_size == head->page_size && h.pages == head->commit &&
	       fs_wal_index(db, &sc->index, db->wal.frame, &err) == 0;
	for (size_t i = 0; same && i < sc->index.n; i++) {
		uint32_t pgno = sc->index.e[i].pgno;

		same = pgno > head->commit || pgno == ltx_lock_page(h.page_size) ||
		       (fs_db_read_page(db, h.page_size, pgno, 0, sc->page, &err) == 0 &&
		        ltx_page_checksum(pgno, sc->page, h.page_size) == ltx_sums_get(db->sums, pgno));
	}
	fs_scratch_put(db->c, sc);
	if (!same)
		return; /* the last close compares it all */
	db->rb.counter = h.counter;
	head->seen_mtime_ns = h.mtime_ns;
}

void fs_wal_set_position(struct fs_db *db, uint32_t frame)
{
	uint8_t h[LTX_WAL_FRAME_SIZE] = {0};
	struct ltx_sums_head *head = ltx_sums_head(db->sums);

	head->recheck = 0;
	db->wal.recheck = false;
	if (fs_db_in_wal(db) && db->wal.known && frame && read_frame_header(db, frame, h) == sizeof(h)) {
		fs_wal_set_frame(db, frame, h);
		return;
	}
	head->pos_frame = db->wal.frame = 0;
	if (db->wal.known) {
		db->wal.sum[0] = db->wal.h.sum[0];
		db->wal.sum[1] = db->wal.h.sum[1];
	}
}
