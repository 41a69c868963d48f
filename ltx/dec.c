/* dec.c - reads an LTX file in order.
 *
 * Go's decoder trusts a file once its checksum is right; this one also refuses what a wrong writer could have signed:
 * pages out of order, beyond commit or on the lock page, a snapshot with holes, an index that is not exactly the one
 * that its frames give. For the last, the index that ought to follow is checksummed while the frames go by, so that
 * nothing needs to be kept: CRC and length of the real one must agree. */
#include "ltx/dec.h"

#include "base/cursor.h"
#include "ltx/frame.h"

#include <errno.h>
#include <lz4frame.h>
#include <stdlib.h>

#define READ_BYTES       (256 * 1024)
#define FIRST_READ_BYTES 8192 /* doubles up to READ_BYTES: a file of one page is not worth a long read */

struct ltx_dec {
	struct fz_src *src;
	struct ltx_header h;
	struct ltx_trailer t;
	uint64_t off_bytes;              /* of the file in src */
	uint64_t pos;                    /* read so far, in the file */
	uint64_t crc;                    /* file checksum so far */
	uint64_t index_crc, index_bytes; /* of the index that the frames so far give */
	uint32_t lock_page, prev_pgno, pages;
	enum { IN_PAGES, AT_END, FAILED } state;
	int failed_rc;
	LZ4F_dctx *dctx;
	uint8_t *page;
	size_t page_cap, ahead_bytes;
	size_t buf_at, buf_bytes; /* unread bytes of buf: [buf_at, buf_at + buf_bytes) */
	uint8_t buf[READ_BYTES];
};

/* Makes n bytes at hand, or as many as src still has: returns how many there are, or a negative code. */
static int64_t look(struct ltx_dec *d, size_t n, struct fz_err *err)
{
	uint64_t next = d->off_bytes + d->pos + d->buf_bytes, left = d->src->size_bytes - next;
	size_t want;
	int rc;

	if (d->buf_bytes >= n || left == 0)
		return (int64_t)d->buf_bytes;
	memmove(d->buf, d->buf + d->buf_at, d->buf_bytes);
	d->buf_at = 0;
	want = (n > d->ahead_bytes ? n : d->ahead_bytes) - d->buf_bytes;
	if (want > left)
		want = (size_t)left;
	if (d->ahead_bytes < READ_BYTES)
		d->ahead_bytes *= 2;
	rc = fz_src_read(d->src, next, d->buf + d->buf_bytes, want, err);
	if (rc < 0)
		return rc;
	d->buf_bytes += want;
	return (int64_t)d->buf_bytes;
}

/* The next n bytes (n <= READ_BYTES), which the file checksum covers when hashed. NULL: *rc. */
static const uint8_t *take(struct ltx_dec *d, size_t n, bool hashed, const char *what, struct fz_err *err, int *rc)
{
	const uint8_t *p = d->buf;
	int64_t have = look(d, n, err);

	*rc = have < 0 ? (int)have : 0;
	if (have >= 0 && (uint64_t)have < n)
		*rc = fz_fail(err, FZ_ETRUNCATED, "LTX file ends in its %s", what);
	if (*rc < 0)
		return NULL;
	p = d->buf + d->buf_at;
	if (hashed)
		d->crc = ltx_crc64(d->crc, p, n);
	d->buf_at += n;
	d->buf_bytes -= n;
	d->pos += n;
	return p;
}

/* Starts on the file at src's next unread byte. */
static int begin(struct ltx_dec *d, struct fz_err *err)
{
	const uint8_t *p;
	int rc;

	d->crc = d->index_crc = d->index_bytes = 0;
	d->prev_pgno = d->pages = 0;
	p = take(d, LTX_HEADER_SIZE, true, "header", err, &rc);
	if (!p)
		return rc;
	rc = ltx_header_get(&d->h, p, err);
	if (rc < 0)
		return rc;
	d->lock_page = ltx_lock_page(d->h.page_size);
	if (d->page_cap < d->h.page_size) {
		free(d->page);
		d->page_cap = 0;
		d->page = malloc(d->h.page_size);
		if (!d->page)
			return fz_fail_errno(err, ENOMEM, "opening an LTX file");
		d->page_cap = d->h.page_size;
	}
	d->state = IN_PAGES;
	return 0;
}

int ltx_dec_open(struct ltx_dec **out, struct fz_src *src, uint64_t off_bytes, struct fz_err *err)
{
	struct ltx_dec *d = malloc(sizeof(*d)); /* the buffer needs no zeroing */
	int rc;

	if (!d)
		return fz_fail_errno(err, ENOMEM, "opening an LTX file");
	memset(d, 0, offsetof(struct ltx_dec, buf));
	rc = ltx_dec_reopen(d, src, off_bytes, err);
	if (rc < 0) {
		ltx_dec_close(d);
		return rc;
	}
	*out = d;
	return 0;
}

int ltx_dec_reopen(struct ltx_dec *d, struct fz_src *src, uint64_t off_bytes, struct fz_err *err)
{
	d->src = src;
	d->off_bytes = off_bytes;
	d->pos = 0;
	d->buf_at = d->buf_bytes = 0;
	d->ahead_bytes = FIRST_READ_BYTES;
	d->state = FAILED;
	if (off_bytes > src->size_bytes)
		d->failed_rc = fz_fail(err, FZ_ETRUNCATED, "no LTX file at byte %llu", (unsigned long long)off_bytes);
	else
		d->failed_rc = begin(d, err);
	return d->failed_rc;
}

int ltx_dec_next(struct ltx_dec *d, struct fz_err *err)
{
	int rc;

	if (d->state == FAILED)
		return fz_fail(err, -d->failed_rc, "this LTX file could not be read on");
	if (d->state != AT_END)
		return fz_fail(err, FZ_EINTERNAL, "LTX file was not read to its end");
	d->off_bytes += d->pos;
	d->pos = 0;
	if (d->off_bytes == d->src->size_bytes)
		return 0;
	rc = begin(d, err);
	if (rc < 0) {
		d->state = FAILED;
		d->failed_rc = rc;
		return rc;
	}
	return 1;
}

void ltx_dec_close(struct ltx_dec *d)
{
	if (!d)
		return;
	LZ4F_freeDecompressionContext(d->dctx);
	free(d->page);
	free(d);
}

const struct ltx_header *ltx_dec_header(const struct ltx_dec *d)
{
	return &d->h;
}

const struct ltx_trailer *ltx_dec_end(const struct ltx_dec *d, uint64_t *file_bytes)
{
	if (file_bytes)
		*file_bytes = d->pos;
	return &d->t;
}

static int check_page(const struct ltx_dec *d, uint32_t pgno, struct fz_err *err)
{
	if (pgno <= d->prev_pgno || pgno > d->h.commit || pgno == d->lock_page)
		return fz_fail(err, FZ_ECORRUPT, "page %u after page %u in an LTX file of %u pages", pgno, d->prev_pgno,
		               d->h.commit);
	return 0;
}

static void note_index_entry(struct ltx_dec *d, const struct ltx_frame *f)
{
	uint8_t e[LTX_INDEX_ENTRY_MAX];
	size_t n = fz_put_uvarint(e, f->pgno);

	n += fz_put_uvarint(e + n, d->pos);
	n += fz_put_uvarint(e + n, f->frame_bytes);
	d->index_crc = ltx_crc64(d->index_crc, e, n);
	d->index_bytes += n;
}

/* After the zero header: index, its length, trailer. */
static int read_end(struct ltx_dec *d, struct fz_err *err)
{
	static const uint8_t zero;
	uint64_t left = d->index_bytes + 1, crc = 0;
	const uint8_t *p;
	int rc;

	/* pages ascend and none is beyond commit: as many as there can be are all of them */
	if (ltx_is_snapshot(&d->h) && d->pages != ltx_stored_pages(d->h.commit, d->h.page_size))
		return fz_fail(err, FZ_ECORRUPT, "snapshot ends at page %u of %u", d->prev_pgno, d->h.commit);
	while (left > 0) {
		size_t n = left < 65536 ? (size_t)left : 65536;

		p = take(d, n, true, "page index", err, &rc);
		if (!p)
			return rc;
		crc = ltx_crc64(crc, p, n);
		left -= n;
	}
	p = take(d, LTX_INDEX_FOOT - 8, true, "trailer", err, &rc); /* length, post-apply checksum */
	if (!p)
		return rc;
	if (crc != ltx_crc64(d->index_crc, &zero, 1) || fz_be64(p) != d->index_bytes + 1)
		return fz_fail(err, FZ_ECORRUPT, "page index and page frames differ");
	d->t.post_checksum = fz_be64(p + 8);
	p = take(d, 8, false, "trailer", err, &rc);
	if (!p)
		return rc;
	d->t.file_checksum = fz_be64(p);
	if (d->t.file_checksum != (LTX_FLAG | d->crc))
		return fz_fail(err, FZ_ECHECKSUM, "LTX file checksum is %016llx, the trailer says %016llx",
		               (unsigned long long)(LTX_FLAG | d->crc), (unsigned long long)d->t.file_checksum);
	return ltx_post_check(d->t.post_checksum, &d->h, err);
}

/* 1 page, 0 end, negative code. */
static int next_page(struct ltx_dec *d, uint32_t *pgno, struct fz_err *err)
{
	static const uint8_t end_mark[LTX_FRAME_HEAD];
	struct ltx_frame f;
	int64_t have = look(d, (size_t)LTX_FRAME_MAX(d->h.page_size), err);
	int rc;

	if (have < 0)
		return (int)have;
	if (have >= LTX_FRAME_HEAD && memcmp(d->buf + d->buf_at, end_mark, LTX_FRAME_HEAD) == 0) {
		if (!take(d, LTX_FRAME_HEAD, true, "end mark", err, &rc))
			return rc;
		rc = read_end(d, err);
		if (rc == 0)
			d->state = AT_END;
		return rc;
	}
	rc = ltx_frame_parse(&f, d->buf + d->buf_at, (size_t)have, d->h.page_size, d->page, &d->dctx, err);
	if (rc == 0)
		rc = check_page(d, f.pgno, err);
	if (rc < 0)
		return rc;
	note_index_entry(d, &f);
	d->crc = ltx_crc64(ltx_crc64(d->crc, d->buf + d->buf_at, f.head_bytes), d->page, d->h.page_size);
	d->prev_pgno = *pgno = f.pgno;
	d->pages++;
	if (!take(d, f.frame_bytes, false, "page frame", err, &rc))
		return rc;
	return 1;
}

int ltx_dec_page(struct ltx_dec *d, uint32_t *pgno, const uint8_t **data, struct fz_err *err)
{
	int rc;

	if (d->state == AT_END)
		return 0;
	if (d->state == FAILED)
		return fz_fail(err, -d->failed_rc, "this LTX file could not be read on");
	rc = next_page(d, pgno, err);
	if (rc < 0) {
		d->state = FAILED;
		d->failed_rc = rc;
	}
	*data = d->page;
	return rc;
}

int ltx_dec_verify(struct fz_src *src, uint64_t off_bytes, struct ltx_header *h, struct ltx_trailer *t,
                   uint64_t *file_bytes, uint32_t *pages, struct fz_err *err)
{
	struct ltx_dec *d = NULL;
	uint64_t db = LTX_EMPTY_DB;
	const uint8_t *data = NULL;
	uint32_t pgno = 0;
	bool sum;
	int rc = ltx_dec_open(&d, src, off_bytes, err);

	if (rc < 0)
		return rc;
	sum = ltx_is_snapshot(&d->h) && !(d->h.flags & LTX_NO_CHECKSUM);
	while ((rc = ltx_dec_page(d, &pgno, &data, err)) == 1)
		if (sum)
			db = ltx_db_checksum_swap(db, 0, ltx_page_checksum(pgno, data, d->h.page_size));
	if (rc == 0 && sum && db != d->t.post_checksum)
		rc = fz_fail(err, FZ_ECHECKSUM, "snapshot has database checksum %016llx, its trailer says %016llx",
		             (unsigned long long)db, (unsigned long long)d->t.post_checksum);
	if (rc == 0) {
		if (h)
			*h = d->h;
		if (t)
			*t = d->t;
		if (file_bytes)
			*file_bytes = d->pos;
		if (pages)
			*pages = d->pages;
	}
	ltx_dec_close(d);
	return rc;
}
