/* wal_visible.c - how far a WAL counts: by the wal-index, or without one by its frames (capture_wal.c, invariant 1). */
#include "base/clock.h"
#include "base/file.h"
#include "fs/agent.h"
#include "fs/capture_priv.h"
#include "fs/capture_wal.h"
#include "ltx/walindex.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#define SETTLE_NS    2000000u /* a commit frame that nothing follows counts after this long */
#define SCAN_BYTES   32768u   /* read at first: mostly it is one small transaction */
#define HEADER_TRIES 200      /* at a barrier, 50 us apart: the header is being written */

/* The wal-index header: 1, or 0 while there is no valid one. */
static int read_index(struct fs_db *db, bool barrier, struct ltx_walindex *x, struct fz_err *err)
{
	uint8_t b[LTX_WALINDEX_SIZE], one[LTX_WALINDEX_SIZE];
	static const uint8_t none[32];
	int rc;

	for (int i = 0; i < (barrier ? HEADER_TRIES : 3); i++) {
		if (db->c->conf.passthrough || !db->c->conf.agent || db->shm_closed) {
			if (fz_pread(db->shm_fd, b, sizeof(b), 0) != sizeof(b))
				return 0; /* truncated: recovery follows */
		} else {
			rc = fs_agent_shm(db->c->conf.agent, db->name, b, err);
			if (rc < 0 && (rc == -FZ_ENOTFOUND || !barrier))
				return 0;
			if (rc < 0)
				return rc;
		}
		if (ltx_walindex_get(x, b))
			return 1;
		if (ltx_walindex_blank(b)) { /* of no generation: nothing counts */
			*x = (struct ltx_walindex){0};
			return 1;
		}
		if (!b[12] && (!b[48 + 12] || !memcmp(b, none, sizeof(none))))
			return 0; /* not initialised, or voided by who holds all locks (sqlite3demo_superlock) */
		if (barrier)
			nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
	}
	if (!barrier)
		return 0;
	/* Its writer sleeps between the two copies. Copy 0 alone is the last commit or the next one; while it is half
	 * written, copy 1 is the next one, whole. */
	memcpy(one, b, sizeof(one));
	memcpy(one + 48, b, 48);
	if (ltx_walindex_get(x, one))
		return 1;
	memcpy(one, b + 48, 48);
	memcpy(one + 48, b + 48, 48);
	return ltx_walindex_get(x, one);
}

/* SQLite writes frames with neither salts nor checksums when a transaction that has spilled goes on, and forgets to fill
 * them in after a ROLLBACK TO (wal.c, walRewriteChecksums). Its recovery ends there, its readers do not. */
static bool is_blank(const uint8_t *frame)
{
	static const uint8_t none[16];

	return !memcmp(frame + 8, none, sizeof(none)) && memcmp(frame, none, 4) != 0;
}

/* Without -shm: the last frame that counts by checksums. Blank frames count when an application has the database open and
 * what follows them goes on from their (zero) checksum. */
int fs_wal_scan(struct fs_db *db, struct fs_wal_scan *out, struct fz_err *err)
{
	struct fs_scratch *sc;
	uint32_t at = db->wal.frame, sum[2] = {db->wal.sum[0], db->wal.sum[1]}, commit = 0, before = 0;
	uint32_t per = (uint32_t)(SCAN_BYTES / fs_wal_frame_bytes(db)), sure[3] = {0};
	bool more = true, blank = false;

	sc = fs_scratch_get(db->c, err);
	if (!sc)
		return -ENOMEM;
	for (; more; per = (uint32_t)(FS_FRAME_BUFFER / fs_wal_frame_bytes(db))) {
		per = per ? per : 1;
		ssize_t n = fz_pread(db->wal.fd, sc->buf, per * fs_wal_frame_bytes(db),
		                     (off_t)ltx_wal_frame_off(db->wal.h.page_size, at + 1));
		uint32_t got = n > 0 ? (uint32_t)((size_t)n / fs_wal_frame_bytes(db)) : 0;

		more = got == per;
		for (uint32_t i = 0; i < got; i++) {
			const uint8_t *f = sc->buf + i * fs_wal_frame_bytes(db);
			struct ltx_wal_frame fh;

			if (ltx_wal_frame_ok(&db->wal.h, f, sum)) {
				blank = false;
			} else if (is_blank(f) && db->open_db) {
				if (!blank)
					memcpy(sure, (uint32_t[]){at, commit, before}, sizeof(sure));
				blank = true;
				sum[0] = sum[1] = 0;
			} else {
				more = false;
				break;
			}
			at++;
			ltx_wal_frame_get(&fh, f);
			if (fh.commit) {
				before = commit;
				commit = at;
			}
		}
	}
	fs_scratch_put(db->c, sc);
	if (blank) {
		at = sure[0];
		commit = sure[1];
		before = sure[2];
	}
	*out = (struct fs_wal_scan){at, commit, before};
	return 0;
}

static int scan_frames(struct fs_db *db, bool barrier, uint32_t *mx, struct fz_err *err)
{
	uint64_t start = fz_mono_ns();
	struct fs_wal_scan s;
	uint32_t at, commit, before;
	int rc;

	*mx = db->wal.frame;
	if (!barrier && start < db->wal.next_scan_ns)
		return 0;
	rc = fs_wal_scan(db, &s, err);
	if (rc < 0)
		return rc;
	at = s.at;
	commit = s.commit;
	before = s.before;
	db->wal.next_scan_ns = fz_mono_ns() + 4 * (fz_mono_ns() - start);
	if (!commit)
		return 0;
	if (barrier || at > commit) {
		*mx = commit; /* something follows it */
	} else if (db->wal.doubt == commit && !atomic_load(&db->wal_syncing) && start - db->wal.doubt_ns >= SETTLE_NS) {
		*mx = commit;
	} else {
		if (db->wal.doubt != commit) {
			db->wal.doubt = commit;
			db->wal.doubt_ns = start;
		}
		if (before)
			*mx = before;
	}
	return 0;
}

int fs_wal_visible(struct fs_db *db, bool barrier, uint32_t *mx, struct fz_err *err)
{
	struct ltx_walindex x;
	int rc;

	*mx = db->wal.frame;
	if (!db->open_shm)
		return db->wal.had_shm ? 0 : scan_frames(db, barrier, mx, err);
	db->wal.had_shm = true;
	rc = read_index(db, barrier, &x, err);
	if (rc <= 0)
		return rc < 0 ? rc : -EAGAIN;
	if (x.salt[0] != db->wal.h.salt[0] || x.salt[1] != db->wal.h.salt[1] || x.page_size != db->wal.h.page_size)
		return 0; /* the next generation: its WAL header is not written yet, so it holds no commit */
	db->wal.seen = *mx = x.mx_frame;
	return 0;
}
