#include "fs/rollforward.h"

#include "base/array.h"
#include "base/file.h"
#include "base/log.h"
#include "fs/capture_priv.h"
#include "fs/capture_wal.h"
#include "ltx/dec.h"
#include "ltx/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define WINDOW_BYTES (512u << 20)

static int open_rw(struct fs_db *db, int *fd, struct fz_err *err)
{
	*fd = fz_open_below(db->c->conf.rootfd, db->name, O_RDWR, 0);
	return *fd < 0 ? fz_fail_errno(err, errno, "cannot open %s for writing", db->name) : 0;
}

int fs_rollforward_unlink(struct fs_db *db, const char *suffix, struct fz_err *err)
{
	char path[4200];
	int fd, rc = 0;

	if (snprintf(path, sizeof(path), "%s%s", db->name, suffix) >= (int)sizeof(path))
		return 0;
	fd = fz_open_parent(db->c->conf.rootfd, path, O_RDONLY);
	if (fd < 0 || unlinkat(fd, basename(path), 0) < 0)
		rc = errno == ENOENT ? 0 : fz_fail_errno(err, errno, "cannot remove %s", path);
	else if (fsync(fd) < 0)
		rc = fz_fail_errno(err, errno, "syncing the directory of %s", path);
	fz_close(&fd);
	return rc;
}

static int put_page(int fd, uint32_t page_size, uint32_t pgno, const uint8_t *data, struct fz_err *err)
{
	int rc = fz_pwrite(fd, data, page_size, (off_t)(pgno - 1) * page_size);

	return rc < 0 ? fz_fail_errno(err, -rc, "cannot write page %u", pgno) : 0;
}

/* ---- hot journal ---- */

int fs_rollforward_journal(struct fs_db *db, struct fz_err *err)
{
	struct fs_dirty *seen = NULL;
	struct fz_src *src = NULL;
	struct ltx_journal j = {0};
	int fd = -1, jfd = -1, rc;
	const uint8_t *data;
	struct fs_db_head h;
	char path[4200];
	struct stat st;
	uint32_t pgno;
	uint64_t at;

	snprintf(path, sizeof(path), "%s-journal", db->name);
	rc = fs_db_read_head(db, &h, err);
	if (rc < 0)
		return rc;
	rc = open_rw(db, &fd, err);
	if (rc < 0)
		goto out;
	jfd = fz_open_below(db->c->conf.rootfd, path, O_RDONLY, 0);
	if (jfd < 0 || fstat(jfd, &st) < 0) {
		rc = fz_fail_errno(err, errno, "cannot open %s", path);
		goto out;
	}
	rc = fz_src_fd(&src, jfd, 0, (uint64_t)st.st_size, false, err);
	if (rc == 0)
		rc = ltx_journal_open(&j, src, h.page_size ? h.page_size : 4096, err);
	if (rc == 0)
		rc = fs_dirty_open(&seen, -1, NULL, err);
	if (rc < 0)
		goto out;
	while ((rc = ltx_journal_next(&j, &pgno, &data, err)) > 0) {
		if (pgno > j.commit || (fs_dirty_next(seen, pgno, &at) && at == pgno))
			continue; /* the first record of a page is the one from before the transaction */
		rc = fs_dirty_mark(seen, (uint64_t)pgno * FS_DIRTY_BLOCK, 1, err);
		if (rc == 0)
			rc = put_page(fd, j.page_size, pgno, data, err);
		if (rc < 0)
			goto out;
	}
	if (rc < 0)
		goto out;
	if (ftruncate(fd, (off_t)j.commit * j.page_size) < 0 || fsync(fd) < 0) {
		rc = fz_fail_errno(err, errno, "cannot play back %s", path);
		goto out;
	}
	fz_info("%s: played back a transaction that was not finished", fz_log_db(db->name));
	rc = fs_rollforward_unlink(db, "-journal", err);
out:
	ltx_journal_close(&j);
	fs_dirty_close(seen);
	fz_src_close(src);
	fz_close(&jfd);
	fz_close(&fd);
	return rc;
}

/* ---- where does the database stand ---- */

struct point {
	uint64_t min_txid, max_txid, pre, post;
	uint32_t commit;
	int32_t bad; /* pages that contradict it (as differences while it is built) */
};
struct window {
	struct point *p; /* oldest first; p[i] is state i + 1, state 0 stands before all */
	size_t n;
	uint32_t page_size;
	struct fs_pages versions; /* frame = state from which this content counts */
};

/* The last entries of the log, as far back as the limits and one page size allow. */
static int list_points(struct fs_db *db, struct window *w, size_t max_entries, struct fz_err *err)
{
	uint64_t txid = ltx_sums_head(db->sums)->txid, bytes = 0;
	struct ltx_log_entry e;
	size_t cap = 0;
	int rc = 0;

	while (txid && w->n < max_entries && bytes < WINDOW_BYTES) {
		rc = ltx_log_find(db->log, txid, &e, err);
		if (rc == -FZ_EGAP)
			rc = 0;
		else if (rc == 0 && (e.seg == 0 || e.e.max_txid != txid))
			e.e.min_txid = 0;
		if (rc < 0 || !e.e.min_txid || e.seg == 0)
			break;
		if (!fz_array_room(w->p, w->n, cap))
			return fz_fail(err, -ENOMEM, "no memory");
		w->p[w->n++] = (struct point){.min_txid = e.e.min_txid, .max_txid = e.e.max_txid, .commit = e.e.commit};
		bytes += e.e.size_bytes;
		txid = e.e.min_txid - 1;
	}
	for (size_t i = 0; i < w->n / 2; i++) {
		struct point t = w->p[i];

		w->p[i] = w->p[w->n - 1 - i];
		w->p[w->n - 1 - i] = t;
	}
	return rc;
}

static int read_versions(struct fs_db *db, struct window *w, struct fz_err *err)
{
	int rc = 0;

	for (size_t i = 0; i < w->n && rc == 0; i++) {
		const struct ltx_header *h;
		struct ltx_dec *d = NULL;
		struct fz_src *src = NULL;
		struct ltx_log_entry e;
		const uint8_t *data;
		uint64_t bytes;
		uint32_t pgno;

		rc = ltx_log_find(db->log, w->p[i].min_txid, &e, err);
		if (rc == 0)
			rc = ltx_log_src(db->log, &e, &src, err);
		if (rc == 0)
			rc = ltx_dec_open(&d, src, 0, err);
		if (rc == 0) {
			h = ltx_dec_header(d);
			w->p[i].pre = h->pre_checksum;
			if (h->page_size != w->page_size)
				w->versions.n = 0; /* older states are of another page size: none of them counts */
			w->page_size = h->page_size;
			while ((rc = ltx_dec_page(d, &pgno, &data, err)) > 0) {
				rc = fs_pages_add(&w->versions, pgno, (uint32_t)i + 1, err);
				if (rc < 0)
					break;
				w->versions.e[w->versions.n - 1].sum = ltx_page_checksum(pgno, data, h->page_size);
			}
			if (rc == 0)
				w->p[i].post = ltx_dec_end(d, &bytes)->post_checksum;
		}
		ltx_dec_close(d);
		fz_src_close(src);
	}
	fs_pages_order(&w->versions);
	return rc;
}

static int real_sum(struct fs_db *db, struct fs_scratch *sc, uint32_t page_size, uint32_t pgno, uint64_t *sum,
                    struct fz_err *err)
{
	const struct fs_page *f = fs_pages_find(&sc->index, pgno);
	int rc = fs_db_read_page(db, page_size, pgno, f ? f->frame : 0, sc->page, err);

	if (rc == 0)
		*sum = ltx_page_checksum(pgno, sc->page, page_size);
	return rc;
}

/* Notes which states contradict the real pages; *x = XOR of all real pages, as far as the table knows the untouched. */
static int judge(struct fs_db *db, struct fs_scratch *sc, struct window *w, uint32_t commit, uint64_t *x,
                 struct fz_err *err)
{
	const struct ltx_sums_head *head = ltx_sums_head(db->sums);
	uint32_t lock = ltx_lock_page(w->page_size);
	int rc = 0;

	*x = 0;
	for (uint32_t p = 1; p <= commit && p <= head->commit; p++)
		*x ^= ltx_sums_get(db->sums, p);
	for (uint32_t p = head->commit + 1; p <= commit && rc == 0; p++) {
		uint64_t r = 0;

		if (p != lock)
			rc = real_sum(db, sc, w->page_size, p, &r, err);
		*x ^= r;
	}
	for (size_t i = 0, end; i < w->versions.n && rc == 0; i = end) {
		uint32_t pgno = w->versions.e[i].pgno;
		uint64_t r;

		for (end = i; end < w->versions.n && w->versions.e[end].pgno == pgno; end++)
			;
		if (pgno > commit)
			continue;
		rc = real_sum(db, sc, w->page_size, pgno, &r, err);
		if (rc < 0)
			break;
		if (pgno <= head->commit)
			*x ^= ltx_sums_get(db->sums, pgno) ^ r;
		for (size_t v = i; v < end; v++) {
			if (w->versions.e[v].sum == r)
				continue;
			w->p[w->versions.e[v].frame - 1].bad++; /* from this state on */
			if (v + 1 < end)
				w->p[w->versions.e[v + 1].frame - 1].bad--; /* up to the page's next version */
		}
	}
	return rc;
}

int fs_rollforward_find(struct fs_db *db, size_t max_entries, uint64_t *txid, struct fz_err *err)
{
	struct fs_scratch *sc = fs_scratch_get(db->c, err);
	struct window w = {0};
	uint32_t frame, commit;
	struct fs_db_head h;
	int32_t bad = 0;
	uint64_t x;
	int rc;

	if (!sc)
		return -ENOMEM;
	fs_pages_init(&w.versions, db->c->conf.statefd);
	rc = list_points(db, &w, max_entries, err);
	if (rc == 0)
		rc = read_versions(db, &w, err);
	if (rc == 0)
		rc = fs_db_read_head(db, &h, err);
	if (rc == 0)
		rc = fs_wal_view(db, &sc->index, &frame, &commit, err);
	if (rc < 0 || !w.n)
		goto out;
	if (!frame)
		commit = h.pages;
	if (!commit || (frame ? db->wal.h.page_size : h.page_size) != w.page_size)
		goto out;
	rc = judge(db, sc, &w, commit, &x, err);
	if (rc < 0)
		goto out;
	for (size_t i = 0; i < w.n; i++) {
		bad += w.p[i].bad;
		if (!bad && w.p[i].commit == commit && w.p[i].post == (LTX_FLAG | x)) {
			*txid = w.p[i].max_txid;
			rc = 1; /* the newest one stays */
		}
	}
	if (!rc && w.p[0].min_txid > 1 && w.p[0].pre == (LTX_FLAG | x)) {
		*txid = w.p[0].min_txid - 1; /* before the window: the checksum over all pages says so */
		rc = 1;
	}
out:
	fs_pages_fini(&w.versions);
	free(w.p);
	fs_scratch_put(db->c, sc);
	return rc;
}

/* ---- bring it forward ---- */

static int write_wal_pages(struct fs_db *db, int fd, struct fz_err *err)
{
	struct fs_scratch *sc = fs_scratch_get(db->c, err);
	uint32_t frame, commit;
	int rc;

	if (!sc)
		return -ENOMEM;
	rc = fs_wal_view(db, &sc->index, &frame, &commit, err);
	for (size_t i = 0; i < sc->index.n && rc == 0; i++) {
		const struct fs_page *p = &sc->index.e[i];

		rc = fs_db_read_page(db, db->wal.h.page_size, p->pgno, p->frame, sc->page, err);
		if (rc == 0)
			rc = put_page(fd, db->wal.h.page_size, p->pgno, sc->page, err);
	}
	fs_scratch_put(db->c, sc);
	return rc;
}

static int write_entry(struct fs_db *db, int fd, uint64_t *txid, struct fz_err *err)
{
	struct ltx_header h = {0};
	struct ltx_dec *d = NULL;
	struct fz_src *src = NULL;
	struct ltx_log_entry e;
	const uint8_t *data;
	uint32_t pgno;
	int rc;

	rc = ltx_log_find(db->log, *txid + 1, &e, err);
	if (rc == 0)
		rc = ltx_log_src(db->log, &e, &src, err);
	if (rc == 0)
		rc = ltx_dec_open(&d, src, 0, err);
	if (rc == 0) {
		h = *ltx_dec_header(d);
		while ((rc = ltx_dec_page(d, &pgno, &data, err)) > 0) {
			rc = put_page(fd, h.page_size, pgno, data, err);
			if (rc < 0)
				break;
		}
	}
	if (rc == 0 && ftruncate(fd, (off_t)h.commit * h.page_size) < 0)
		rc = fz_fail_errno(err, errno, "cannot set the size of %s", db->name);
	*txid = h.max_txid;
	ltx_dec_close(d);
	fz_src_close(src);
	return rc;
}

int fs_rollforward_run(struct fs_db *db, uint64_t txid, struct fz_err *err)
{
	struct ltx_sums_head *head = ltx_sums_head(db->sums);
	uint64_t tail = head->txid, from = txid;
	int fd = -1, rc;

	head->rolling_txid = txid + 1;
	rc = ltx_sums_sync(db->sums, err);
	if (rc == 0)
		rc = ltx_log_sync(db->log, err);
	if (rc == 0)
		rc = open_rw(db, &fd, err);
	if (rc == 0)
		rc = write_wal_pages(db, fd, err);
	while (rc == 0 && txid < tail)
		rc = write_entry(db, fd, &txid, err);
	if (rc == 0 && fsync(fd) < 0)
		rc = fz_fail_errno(err, errno, "cannot sync %s", db->name);
	fs_db_close_wal(db);
	for (enum fs_role role = FS_ROLE_WAL; role < FS_ROLES && rc == 0; role++)
		rc = fs_rollforward_unlink(db, fs_registry_suffix[role], err);
	fz_close(&fd);
	if (rc < 0)
		return rc;
	head->rolling_txid = 0;
	fs_wal_set_position(db, 0);
	fz_info("%s: brought forward from TXID %llu to %llu, which the log has and a crash had taken from the database",
	        fz_log_db(db->name), (unsigned long long)from, (unsigned long long)tail);
	return ltx_sums_sync(db->sums, err);
}
