#include "replica/pages.h"

#include "base/cursor.h"

#include <errno.h>
#include <string.h>

#define WINDOW_BYTES (256 * 1024)
#define TAIL_BYTES   (64 * 1024)
#define ENTRY_MAX    30 /* three uvarints */

static int load(struct fz_buf *b, struct fz_src *src, uint64_t off, size_t n, struct fz_err *err)
{
	uint8_t *p = fz_buf_room(b, n);
	int rc;

	if (!p)
		return fz_fail_errno(err, ENOMEM, "reading an index");
	rc = fz_src_read(src, off, p, n, err);
	if (rc == 0)
		b->size += n;
	return rc;
}

int replica_pages_open(struct replica_pages *p, struct fz_src *src, uint64_t off_bytes, uint64_t size_bytes,
                       struct fz_err *err)
{
	const uint64_t fixed = LTX_HEADER_SIZE + 6 + 1 + 8 + LTX_TRAILER_SIZE;
	uint8_t head[LTX_HEADER_SIZE];
	uint64_t tail, index_bytes, index_off;
	const uint8_t *end;
	int rc;

	if (size_bytes < fixed)
		return fz_fail(err, FZ_ETRUNCATED, "an LTX file has at least %d bytes, this one %llu", (int)fixed,
		               (unsigned long long)size_bytes);
	rc = fz_src_read(src, off_bytes, head, sizeof(head), err);
	if (rc == 0)
		rc = ltx_header_get(&p->header, head, err);
	if (rc < 0)
		return rc;
	tail = size_bytes - LTX_HEADER_SIZE < TAIL_BYTES ? size_bytes - LTX_HEADER_SIZE : TAIL_BYTES;
	fz_buf_reset(&p->window);
	rc = load(&p->window, src, off_bytes + size_bytes - tail, tail, err);
	if (rc < 0)
		return rc;
	end = p->window.data + tail;
	p->trailer = (struct ltx_trailer){fz_be64(end - 16), fz_be64(end - 8)};
	index_bytes = fz_be64(end - 24);
	if (index_bytes < 1 || index_bytes > size_bytes - (fixed - 1))
		return fz_fail(err, FZ_ECORRUPT, "the page index says it has %llu bytes in a file of %llu",
		               (unsigned long long)index_bytes, (unsigned long long)size_bytes);
	index_off = size_bytes - 24 - index_bytes;
	p->src = src;
	p->off_bytes = off_bytes;
	p->frames_end = index_off - 6;
	p->prev_end = LTX_HEADER_SIZE;
	p->prev_pgno = 0;
	p->end = size_bytes - 24;
	if (index_bytes + 24 <= tail) { /* all of it is here already */
		p->window.size = tail - 24;
		p->used = tail - 24 - index_bytes;
		p->at = p->end;
	} else {
		fz_buf_reset(&p->window);
		p->used = 0;
		p->at = index_off;
	}
	return 0;
}

int replica_pages_next(struct replica_pages *p, struct ltx_index_entry *e, struct fz_err *err)
{
	uint64_t pgno, off, len;
	struct fz_cur c;

	if (p->window.size - p->used < ENTRY_MAX && p->at < p->end) {
		size_t left = p->window.size - p->used, n = WINDOW_BYTES;
		int rc;

		if (left)
			memmove(p->window.data, p->window.data + p->used, left);
		p->window.size = left;
		p->used = 0;
		if (n > p->end - p->at)
			n = p->end - p->at;
		rc = load(&p->window, p->src, p->off_bytes + p->at, n, err);
		if (rc < 0)
			return rc;
		p->at += n;
	}
	c = fz_cur(p->window.data + p->used, p->window.size - p->used);
	pgno = fz_cur_uvarint(&c);
	if (fz_cur_ok(&c) && pgno == 0) {
		if (fz_cur_left(&c) || p->at < p->end)
			return fz_fail(err, FZ_ECORRUPT, "the page index ends before its length says so");
		return 0;
	}
	off = fz_cur_uvarint(&c);
	len = fz_cur_uvarint(&c);
	/* +64: LZ4's bound for a page that does not compress, with the frame's own headers */
	if (!fz_cur_ok(&c) || pgno <= p->prev_pgno || pgno > p->header.commit || off < p->prev_end ||
	    off > p->frames_end || len < 6 || len > p->frames_end - off ||
	    len > p->header.page_size + p->header.page_size / 255 + 128)
		return fz_fail(err, FZ_ECORRUPT, "the page index is damaged after page %u", p->prev_pgno);
	p->used = (size_t)(c.p - p->window.data);
	p->prev_pgno = (uint32_t)pgno;
	p->prev_end = off + len;
	*e = (struct ltx_index_entry){(uint32_t)pgno, off, (uint32_t)len};
	return 1;
}

void replica_pages_fini(struct replica_pages *p)
{
	fz_buf_fini(&p->window);
	memset(p, 0, sizeof(*p));
}

/* ---- packs ---- */
#define PACK_WINDOW (1024 * 1024 / LTX_PACK_ENTRY_SIZE) /* entries: one request for the index of most packs */

static int check_crc(struct replica_packix *ix, uint64_t want, struct fz_err *err)
{
	uint64_t crc = 0;

	for (uint64_t i = 0; i < ix->n; i += ix->have) {
		ix->first = i;
		ix->have = ix->n - i < PACK_WINDOW ? ix->n - i : PACK_WINDOW;
		fz_buf_reset(&ix->window);
		int rc = load(&ix->window, ix->src, ix->entries_off + i * LTX_PACK_ENTRY_SIZE,
		              ix->have * LTX_PACK_ENTRY_SIZE, err);
		if (rc < 0)
			return rc;
		crc = ltx_crc64(crc, ix->window.data, ix->window.size);
	}
	if (crc != want)
		return fz_fail(err, FZ_ECHECKSUM, "the pack's index does not match its checksum");
	return 0;
}

int replica_packix_open(struct replica_packix *ix, struct fz_src *src, bool check, struct fz_err *err)
{
	uint64_t tail = src->size_bytes < TAIL_BYTES ? src->size_bytes : TAIL_BYTES, crc, bytes;
	const uint8_t *end;
	int rc;

	fz_buf_reset(&ix->window);
	if (tail < LTX_PACK_TRAILER_SIZE)
		return fz_fail(err, FZ_ETRUNCATED, "a pack has at least %d bytes", LTX_PACK_TRAILER_SIZE);
	rc = load(&ix->window, src, src->size_bytes - tail, tail, err);
	if (rc < 0)
		return rc;
	end = ix->window.data + tail;
	if (memcmp(end - 8, "FZPACK01", 8))
		return fz_fail(err, FZ_ECORRUPT, "not a pack: its last bytes are not the mark of one");
	ix->src = src;
	ix->n = fz_be64(end - 24);
	crc = fz_be64(end - 16);
	if (!ix->n || ix->n > (src->size_bytes - LTX_PACK_TRAILER_SIZE) / LTX_PACK_ENTRY_SIZE)
		return fz_fail(err, FZ_ECORRUPT, "the pack says it has %llu entries in %llu bytes",
		               (unsigned long long)ix->n, (unsigned long long)src->size_bytes);
	bytes = ix->n * LTX_PACK_ENTRY_SIZE;
	ix->entries_off = src->size_bytes - LTX_PACK_TRAILER_SIZE - bytes;
	ix->first = ix->n;
	ix->have = 0;
	if (bytes + LTX_PACK_TRAILER_SIZE <= tail) {
		memmove(ix->window.data, end - LTX_PACK_TRAILER_SIZE - bytes, bytes);
		ix->window.size = bytes;
	} else if (ix->n <= PACK_WINDOW) {
		fz_buf_reset(&ix->window);
		rc = load(&ix->window, src, ix->entries_off, bytes, err);
		if (rc < 0)
			return rc;
	} else {
		return check ? check_crc(ix, crc, err) : 0;
	}
	ix->first = 0;
	ix->have = ix->n;
	if (ltx_crc64(0, ix->window.data, bytes) != crc)
		return fz_fail(err, FZ_ECHECKSUM, "the pack's index does not match its checksum");
	return 0;
}

int replica_packix_get(struct replica_packix *ix, uint64_t i, struct ltx_pack_entry *e, struct fz_err *err)
{
	if (i >= ix->n)
		return fz_fail(err, FZ_EINTERNAL, "entry %llu of a pack of %llu", (unsigned long long)i,
		               (unsigned long long)ix->n);
	if (i < ix->first || i >= ix->first + ix->have) {
		/* walked forwards: the window starts at i; backwards or searched: i stands in its later part */
		bool forwards = ix->have && i == ix->first + ix->have;
		uint64_t first = forwards ? i : i > PACK_WINDOW * 3 / 4 ? i - PACK_WINDOW * 3 / 4 : 0;
		uint64_t n = ix->n - first < PACK_WINDOW ? ix->n - first : PACK_WINDOW;
		int rc;

		fz_buf_reset(&ix->window);
		ix->have = 0;
		rc = load(&ix->window, ix->src, ix->entries_off + first * LTX_PACK_ENTRY_SIZE, n * LTX_PACK_ENTRY_SIZE,
		          err);
		if (rc < 0)
			return rc;
		ix->first = first;
		ix->have = n;
	}
	ltx_pack_entry_get(e, ix->window.data + (i - ix->first) * LTX_PACK_ENTRY_SIZE);
	if (!e->min_txid || e->min_txid > e->max_txid || e->off_bytes > ix->entries_off ||
	    e->size_bytes > ix->entries_off - e->off_bytes)
		return fz_fail(err, FZ_ECORRUPT, "entry %llu of the pack's index is damaged", (unsigned long long)i);
	return 0;
}

int replica_packix_count(struct replica_packix *ix, uint64_t txid, int64_t at_ms, uint64_t *n, struct fz_err *err)
{
	uint64_t lo = 0, hi = ix->n;

	while (lo < hi) {
		uint64_t mid = lo + (hi - lo) / 2;
		struct ltx_pack_entry e;
		int rc = replica_packix_get(ix, mid, &e, err);

		if (rc < 0)
			return rc;
		if (e.max_txid <= txid && e.time_ms <= at_ms)
			lo = mid + 1;
		else
			hi = mid;
	}
	*n = lo;
	return 0;
}

void replica_packix_fini(struct replica_packix *ix)
{
	fz_buf_fini(&ix->window);
	memset(ix, 0, sizeof(*ix));
}
