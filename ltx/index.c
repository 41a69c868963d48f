#include "ltx/dec.h"

#include "base/array.h"
#include "base/cursor.h"
#include "ltx/frame.h"

#include <errno.h>
#include <stdlib.h>

/* Makes [off, off + n) of the file at hand, n <= buf_cap, reading ahead to at most `to`. Returns where, NULL: *rc. */
static const uint8_t *at(struct ltx_index_iter *it, uint64_t off, size_t n, uint64_t to, struct fz_err *err, int *rc)
{
	size_t want = to - off < it->buf_cap ? (size_t)(to - off) : it->buf_cap;

	if (off < it->buf_off || off + n > it->buf_off + it->buf_bytes) {
		it->buf_bytes = 0;
		*rc = fz_src_read(it->src, it->off_bytes + off, it->buf, want, err);
		if (*rc < 0)
			return NULL;
		it->buf_off = off;
		it->buf_bytes = want;
	}
	return it->buf + (off - it->buf_off);
}

int ltx_index_iter_init(struct ltx_index_iter *it, struct fz_src *src, uint64_t off_bytes, uint64_t size_bytes,
                        uint8_t *buf, size_t buf_cap, struct fz_err *err)
{
	static const uint8_t end_mark[LTX_FRAME_HEAD];
	uint64_t tail, index_bytes;
	const uint8_t *p;
	int rc;

	*it = (struct ltx_index_iter){.src = src, .off_bytes = off_bytes, .buf = buf, .buf_cap = buf_cap};
	if (off_bytes > src->size_bytes || size_bytes > src->size_bytes - off_bytes || size_bytes < LTX_FILE_MIN)
		return fz_fail(err, FZ_ETRUNCATED, "no LTX file of %llu bytes at byte %llu",
		               (unsigned long long)size_bytes, (unsigned long long)off_bytes);
	/* a small file is read whole, of a large one its header and then as much of its end as fits */
	p = at(it, 0, LTX_HEADER_SIZE, size_bytes <= buf_cap ? size_bytes : LTX_HEADER_SIZE, err, &rc);
	if (!p)
		return rc;
	rc = ltx_header_get(&it->header, p, err);
	if (rc < 0)
		return rc;
	tail = size_bytes <= buf_cap ? size_bytes - LTX_INDEX_FOOT : size_bytes - buf_cap;
	p = at(it, tail, (size_t)(size_bytes - tail), size_bytes, err, &rc);
	if (!p)
		return rc;
	p += size_bytes - tail - LTX_INDEX_FOOT;
	index_bytes = fz_be64(p);
	rc = ltx_trailer_get(&it->trailer, p + 8, &it->header, err);
	if (rc < 0)
		return rc;
	if (index_bytes == 0 || index_bytes > size_bytes - LTX_FILE_MIN + 1)
		return fz_fail(err, FZ_ECORRUPT, "page index of %llu bytes in an LTX file of %llu",
		               (unsigned long long)index_bytes, (unsigned long long)size_bytes);
	it->next_off = LTX_HEADER_SIZE;
	it->end = size_bytes - LTX_INDEX_FOOT;
	it->pos = it->index_off = it->end - index_bytes;
	p = at(it, it->pos - LTX_FRAME_HEAD, LTX_FRAME_HEAD, it->end, err, &rc);
	if (!p)
		return rc;
	if (memcmp(p, end_mark, sizeof(end_mark)) != 0)
		return fz_fail(err, FZ_ECORRUPT, "LTX file without an end mark before its page index");
	return 0;
}

static int check_entry(const struct ltx_index_iter *it, const struct ltx_index_entry *e, uint64_t pgno,
                       uint64_t frame_bytes, struct fz_err *err)
{
	const struct ltx_header *h = &it->header;

	if (pgno <= it->prev_pgno || pgno > h->commit || pgno == ltx_lock_page(h->page_size))
		return fz_fail(err, FZ_ECORRUPT, "page index: page %llu after page %u of %u", (unsigned long long)pgno,
		               it->prev_pgno, h->commit);
	if (e->off_bytes != it->next_off || frame_bytes <= LTX_FRAME_HEAD ||
	    frame_bytes > (uint64_t)LTX_FRAME_MAX(h->page_size) ||
	    frame_bytes > it->index_off - LTX_FRAME_HEAD - it->next_off)
		return fz_fail(err, FZ_ECORRUPT, "page index: page %llu at %llu+%llu", (unsigned long long)pgno,
		               (unsigned long long)e->off_bytes, (unsigned long long)frame_bytes);
	return 0;
}

int ltx_index_iter_next(struct ltx_index_iter *it, struct ltx_index_entry *e, struct fz_err *err)
{
	size_t n = it->end - it->pos < LTX_INDEX_ENTRY_MAX ? (size_t)(it->end - it->pos) : LTX_INDEX_ENTRY_MAX;
	uint64_t pgno, frame_bytes;
	const uint8_t *p;
	struct fz_cur c;
	int rc;

	if (n == 0)
		return 0;
	p = at(it, it->pos, n, it->end, err, &rc);
	if (!p)
		return rc;
	c = fz_cur(p, n);
	pgno = fz_cur_uvarint(&c);
	if (fz_cur_ok(&c) && pgno == 0) {
		if (n != 1 || it->next_off + LTX_FRAME_HEAD != it->index_off)
			return fz_fail(err, FZ_ECORRUPT, "page index and page frames differ");
		if (ltx_is_snapshot(&it->header) && it->n != ltx_stored_pages(it->header.commit, it->header.page_size))
			return fz_fail(err, FZ_ECORRUPT, "snapshot ends at page %u of %u", it->prev_pgno,
			               it->header.commit);
		it->pos = it->end;
		return 0;
	}
	e->off_bytes = fz_cur_uvarint(&c);
	frame_bytes = fz_cur_uvarint(&c);
	if (!fz_cur_ok(&c))
		return fz_fail(err, FZ_ECORRUPT, "page index ends inside an entry");
	rc = check_entry(it, e, pgno, frame_bytes, err);
	if (rc < 0)
		return rc;
	e->pgno = it->prev_pgno = (uint32_t)pgno;
	e->frame_bytes = (uint32_t)frame_bytes;
	it->next_off += frame_bytes;
	it->pos += (uint64_t)(c.p - p);
	it->n++;
	return 1;
}

int ltx_index_read(struct ltx_index *out, struct fz_src *src, uint64_t off_bytes, uint64_t size_bytes,
                   struct fz_err *err)
{
	struct ltx_index_entry *all = NULL, e;
	struct ltx_index_iter it;
	size_t cap = 0;
	uint8_t *buf;
	int rc;

	memset(out, 0, sizeof(*out));
	buf = malloc(65536);
	if (!buf) {
		rc = fz_fail_errno(err, ENOMEM, "reading a page index");
		goto out;
	}
	rc = ltx_index_iter_init(&it, src, off_bytes, size_bytes, buf, 65536, err);
	if (rc < 0)
		goto out;
	while ((rc = ltx_index_iter_next(&it, &e, err)) == 1) {
		if (!fz_array_room(all, it.n - 1, cap)) {
			rc = fz_fail_errno(err, ENOMEM, "reading a page index");
			goto out;
		}
		all[it.n - 1] = e;
	}
	if (rc < 0)
		goto out;
	*out = (struct ltx_index){it.header, it.trailer, all, it.n};
	all = NULL;
out:
	free(all);
	free(buf);
	return rc;
}

void ltx_index_fini(struct ltx_index *ix)
{
	free(ix->e);
	ix->e = NULL;
	ix->n = 0;
}

const struct ltx_index_entry *ltx_index_find(const struct ltx_index *ix, uint32_t pgno)
{
	uint32_t lo = 0, hi = ix->n;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (ix->e[mid].pgno < pgno)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < ix->n && ix->e[lo].pgno == pgno ? &ix->e[lo] : NULL;
}
