#include "ltx/logseg.h"

#include "base/cursor.h"
#include "base/file.h"
#include "ltx/dec.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

char *ltx_seg_name(char out[static LTX_SEG_NAME_SIZE], uint64_t min_txid, const char *ext)
{
	snprintf(out, LTX_SEG_NAME_SIZE, "%016" PRIx64 "%s", min_txid, ext);
	return out;
}

bool ltx_seg_name_parse(const char *name, const char *prefix, const char *ext, uint64_t *txid)
{
	size_t n = strlen(prefix);
	uint64_t v = 0;

	if (strncmp(name, prefix, n))
		return false;
	name += n;
	for (int i = 0; i < 16; i++, name++) {
		if (*name >= '0' && *name <= '9')
			v = v << 4 | (uint64_t)(*name - '0');
		else if (*name >= 'a' && *name <= 'f')
			v = v << 4 | (uint64_t)(*name - 'a' + 10);
		else
			return false;
	}
	*txid = v;
	return v > 0 && strcmp(name, ext) == 0;
}

static struct ltx_segfile *segfile_new(void)
{
	struct ltx_segfile *f = calloc(1, sizeof(*f));

	if (f) {
		atomic_init(&f->refs, 1);
		f->fd = f->idx_fd = -1;
	}
	return f;
}

static int open_files(struct ltx_segfile **out, int dirfd, uint64_t min_txid, int flags, bool writable,
                      struct fz_err *err)
{
	struct ltx_segfile *f = segfile_new();
	char name[LTX_SEG_NAME_SIZE];
	int rc = 0;

	if (!f)
		return fz_fail_errno(err, ENOMEM, "opening a log segment");
	f->fd = openat(dirfd, ltx_seg_name(name, min_txid, ".seg"), flags | O_CLOEXEC, 0600);
	if (f->fd < 0) {
		rc = fz_fail_errno(err, errno, "cannot open log segment %s", name);
		goto out;
	}
	f->idx_fd =
	        openat(dirfd, ltx_seg_name(name, min_txid, ".idx"), flags | O_CLOEXEC | (writable ? O_CREAT : 0), 0600);
	if (f->idx_fd < 0 && (writable || errno != ENOENT))
		rc = fz_fail_errno(err, errno, "cannot open log index %s", name);
out:
	if (rc < 0) {
		ltx_segfile_put(f);
		return rc;
	}
	*out = f;
	return 0;
}

int ltx_segfile_create(struct ltx_segfile **out, int dirfd, uint64_t min_txid, struct fz_err *err)
{
	return open_files(out, dirfd, min_txid, O_RDWR | O_CREAT | O_TRUNC, true, err);
}

int ltx_segfile_open(struct ltx_segfile **out, int dirfd, uint64_t min_txid, bool writable, struct fz_err *err)
{
	return open_files(out, dirfd, min_txid, writable ? O_RDWR : O_RDONLY, writable, err);
}

struct ltx_segfile *ltx_segfile_get(struct ltx_segfile *f)
{
	atomic_fetch_add(&f->refs, 1);
	return f;
}

void ltx_segfile_put(struct ltx_segfile *f)
{
	if (!f || atomic_fetch_sub(&f->refs, 1) != 1)
		return;
	fz_close(&f->fd);
	fz_close(&f->idx_fd);
	fz_buf_fini(&f->idx);
	free(f);
}

bool ltx_segfile_shared(const struct ltx_segfile *f)
{
	struct stat seg, idx;

	return (fstat(f->fd, &seg) == 0 && seg.st_nlink > 1) ||
	       (f->idx_fd >= 0 && fstat(f->idx_fd, &idx) == 0 && idx.st_nlink > 1);
}

int64_t ltx_segfile_bytes(const struct ltx_segfile *f)
{
	struct stat st;

	return fstat(f->fd, &st) < 0 ? -errno : st.st_size;
}

uint64_t ltx_segfile_entries(const struct ltx_segfile *f)
{
	struct stat st;

	if (f->idx_fd < 0)
		return f->idx.size / LTX_PACK_ENTRY_SIZE;
	return fstat(f->idx_fd, &st) < 0 ? 0 : (uint64_t)st.st_size / LTX_PACK_ENTRY_SIZE;
}

int ltx_seg_entry_get(struct ltx_pack_entry *e, const uint8_t in[static LTX_PACK_ENTRY_SIZE], struct fz_err *err)
{
	ltx_pack_entry_get(e, in);
	if (e->min_txid == 0 || e->max_txid < e->min_txid || e->size_bytes < LTX_HEADER_SIZE + LTX_TRAILER_SIZE ||
	    e->off_bytes > INT64_MAX || e->size_bytes > INT64_MAX - e->off_bytes)
		return fz_fail(err, FZ_ECORRUPT, "log index holds an impossible entry");
	return 0;
}

bool ltx_seg_index_fits(const uint8_t *p, uint64_t n, uint64_t min_txid, uint64_t bytes)
{
	uint64_t off = 0, next = min_txid;

	for (uint64_t i = 0; i < n; i++, p += LTX_PACK_ENTRY_SIZE) {
		struct ltx_pack_entry e;

		if (ltx_seg_entry_get(&e, p, NULL) < 0 || e.off_bytes != off || e.min_txid != next)
			return false;
		off += e.size_bytes;
		next = e.max_txid + 1;
	}
	return off == bytes;
}

int ltx_segfile_entry(struct ltx_segfile *f, uint64_t i, struct ltx_pack_entry *e, struct fz_err *err)
{
	uint8_t raw[LTX_PACK_ENTRY_SIZE];

	if (f->idx_fd < 0) {
		if (i >= f->idx.size / LTX_PACK_ENTRY_SIZE)
			return fz_fail(err, FZ_ECORRUPT, "log index ends early");
		return ltx_seg_entry_get(e, f->idx.data + i * LTX_PACK_ENTRY_SIZE, err);
	}
	ssize_t n = fz_pread(f->idx_fd, raw, sizeof(raw), (off_t)(i * LTX_PACK_ENTRY_SIZE));

	if (n < 0)
		return fz_fail_errno(err, (int)-n, "reading a log index");
	if (n < (ssize_t)sizeof(raw))
		return fz_fail(err, FZ_ECORRUPT, "log index ends early");
	return ltx_seg_entry_get(e, raw, err);
}

int ltx_segfile_put_entry(struct ltx_segfile *f, uint64_t i, const struct ltx_pack_entry *e, struct fz_err *err)
{
	uint8_t raw[LTX_PACK_ENTRY_SIZE];
	int rc;

	ltx_pack_entry_put(raw, e);
	rc = fz_pwrite(f->idx_fd, raw, sizeof(raw), (off_t)(i * LTX_PACK_ENTRY_SIZE));
	return rc < 0 ? fz_fail_errno(err, -rc, "writing a log index") : 0;
}

int ltx_segfile_find(struct ltx_segfile *f, uint64_t n, uint64_t min_txid, uint64_t txid, struct ltx_pack_entry *e,
                     uint64_t *i, struct fz_err *err)
{
	uint64_t lo = 0, hi = n, at;
	int rc;

	if (txid < min_txid || n == 0)
		return fz_fail(err, FZ_ENOTFOUND, "TXID %" PRIu64 " is not in this segment", txid);
	/* entry k starts at min_txid + k or above, so the one wanted is never beyond this guess */
	at = txid - min_txid < n ? txid - min_txid : n - 1;
	while (lo < hi) {
		rc = ltx_segfile_entry(f, at, e, err);
		if (rc < 0)
			return rc;
		if (txid < e->min_txid) {
			hi = at;
		} else if (txid > e->max_txid) {
			lo = at + 1;
		} else {
			*i = at;
			return 0;
		}
		at = lo + (hi - lo) / 2;
	}
	return fz_fail(err, FZ_ENOTFOUND, "TXID %" PRIu64 " is not in this segment", txid);
}

int ltx_segfile_ends(struct ltx_segfile *f, const struct ltx_pack_entry *e, struct ltx_header *h, struct ltx_trailer *t,
                     struct fz_err *err)
{
	uint8_t raw[LTX_HEADER_SIZE];
	struct ltx_header mine;
	ssize_t n;
	int rc;

	if (h) {
		n = fz_pread(f->fd, raw, LTX_HEADER_SIZE, (off_t)e->off_bytes);
		if (n < 0)
			return fz_fail_errno(err, (int)-n, "reading a log segment");
		if (n < LTX_HEADER_SIZE)
			return fz_fail(err, FZ_ETRUNCATED, "log segment ends early");
		rc = ltx_header_get(&mine, raw, err);
		if (rc < 0)
			return rc;
		if (mine.min_txid != e->min_txid || mine.max_txid != e->max_txid || mine.commit != e->commit)
			return fz_fail(err, FZ_ECORRUPT, "log index and segment differ at TXID %" PRIu64, e->min_txid);
		*h = mine;
	}
	if (t) {
		n = fz_pread(f->fd, raw, LTX_TRAILER_SIZE, (off_t)(e->off_bytes + e->size_bytes - LTX_TRAILER_SIZE));
		if (n < 0)
			return fz_fail_errno(err, (int)-n, "reading a log segment");
		if (n < LTX_TRAILER_SIZE)
			return fz_fail(err, FZ_ETRUNCATED, "log segment ends early");
		t->post_checksum = fz_be64(raw);
		t->file_checksum = fz_be64(raw + 8);
	}
	return 0;
}

int ltx_segfile_scan(struct ltx_segfile *f, uint64_t off_bytes, struct ltx_pos *pos, uint64_t stop_txid,
                     struct fz_buf *entries, struct fz_err *err)
{
	int64_t size = ltx_segfile_bytes(f);
	struct fz_src *src = NULL;
	int rc;

	if (size < 0)
		return fz_fail_errno(err, (int)-size, "looking at a log segment");
	rc = fz_src_fd(&src, f->fd, 0, (uint64_t)size, false, err);
	while (rc == 0 && off_bytes < (uint64_t)size) {
		uint8_t raw[LTX_PACK_ENTRY_SIZE];
		struct ltx_trailer t;
		struct ltx_header h;
		uint64_t bytes;
		uint32_t pages;

		rc = ltx_dec_verify(src, off_bytes, &h, &t, &bytes, &pages, err);
		if (rc < 0)
			break;
		if (h.min_txid != pos->txid + 1 || h.max_txid > stop_txid ||
		    (h.min_txid > 1 && h.pre_checksum != pos->checksum))
			break;
		ltx_pack_entry_put(raw, &(struct ltx_pack_entry){.min_txid = h.min_txid,
		                                                 .max_txid = h.max_txid,
		                                                 .time_ms = h.time_ms,
		                                                 .off_bytes = off_bytes,
		                                                 .size_bytes = bytes,
		                                                 .pages = pages,
		                                                 .commit = h.commit});
		if (fz_buf_add(entries, raw, sizeof(raw)) < 0) {
			rc = fz_fail_errno(err, ENOMEM, "reading a log segment");
			break;
		}
		pos->txid = h.max_txid;
		pos->checksum = t.post_checksum;
		off_bytes += bytes;
	}
	fz_src_close(src);
	return rc <= -FZ_EUSAGE ? 0 : rc; /* FZ_E*: what lies there is no LTX file of ours */
}
