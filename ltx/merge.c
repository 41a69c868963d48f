/* merge.c - many LTX files into one, in bounded memory.
 *
 * TERMS    window: WINDOW_PAGES consecutive page numbers, one slot each. complete: an input that holds all pages
 *          1..commit (a snapshot, or a changed page size), so that what is older counts for nothing.
 * For each window: scan() walks the indexes of all inputs, oldest first, and leaves in each slot the newest frame of
 * that page; copy() then writes the slots in order. The first scan also checks the chain of inputs and finds the
 * header of the result. A window starts at the smallest page that lies beyond the one before, so that a few pages of a
 * huge database cost few windows.
 * INVARIANTS
 *   (1) After input i no slot holds a page beyond i's commit: when the database grows again, such a page must not come
 *       back. The growing input holds all new pages (checked), SQLite's pages have no history beyond the end.
 *   (2) Nothing damaged is signed anew: a result that is a snapshot is checked against the database checksum of the
 *       last input; otherwise the base is not at hand, and the first scan checks the file checksum of each input. */
#include "ltx/merge.h"

#include "ltx/dec.h"
#include "ltx/enc.h"
#include "ltx/frame.h"

#include <errno.h>
#include <lz4frame.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW_PAGES (4u * 1024 * 1024 / sizeof(struct slot))
#define INDEX_BYTES  (32 * 1024)  /* at most this much of a file is read for its header and index at a time */
#define AHEAD_BYTES  (128 * 1024) /* read-ahead through an input whose frames are wanted one after the other */

struct slot {
	uint64_t off_bytes;   /* of the frame, in its input */
	uint32_t frame_bytes; /* 0 = empty */
	uint32_t input;
};

struct merge {
	struct ltx_merge_list *in;
	const volatile bool *cancel;
	struct slot *slots;
	uint32_t first;      /* page number of slots[0] */
	uint32_t used;       /* slots[used] and later are empty */
	uint64_t next_first; /* smallest page seen beyond the window; UINT64_MAX = none */
	uint64_t start;      /* the last complete input: later scans begin there */
	struct ltx_header first_header, header;
	struct ltx_trailer trailer; /* header and trailer of the input before; of the last one after a scan */
	uint8_t *index_buf;
	struct ltx_dec *dec; /* for (2) */

	/* copying */
	struct ltx_enc *enc;
	LZ4F_dctx *dctx;
	struct ltx_merge_input cur; /* input number cur_no - 1 */
	uint64_t cur_no;
	uint64_t last_end;          /* of the last frame read alone, in input last_no - 1 */
	uint64_t last_no, ahead_no; /* the same for what lies in ahead */
	uint64_t ahead_off;
	size_t ahead_bytes;
	uint8_t *ahead, *frame, *page;
	uint64_t db_checksum;
};

static int check_cancel(const struct merge *m, struct fz_err *err)
{
	return m->cancel && __atomic_load_n(m->cancel, __ATOMIC_RELAXED)
	               ? fz_fail(err, -ECANCELED, "merge was cancelled")
	               : 0;
}

static int prefix(const struct merge *m, uint64_t i, int rc, struct fz_err *err)
{
	if (err)
		fz_err_prefix(err, "LTX file %llu of %llu", (unsigned long long)i + 1, (unsigned long long)m->in->n);
	return rc;
}

static void drop_from(struct merge *m, uint64_t pgno)
{
	uint64_t keep = pgno > m->first ? pgno - m->first : 0;

	if (keep >= m->used)
		return;
	memset(m->slots + keep, 0, (m->used - (size_t)keep) * sizeof(*m->slots));
	m->used = (uint32_t)keep;
}

/* Does this input continue the one before? */
static int check_chain(const struct merge *m, const struct ltx_header *h, struct fz_err *err)
{
	const struct ltx_header *prev = &m->header;

	if (h->min_txid > prev->max_txid + 1 || h->max_txid <= prev->max_txid)
		return fz_fail(err, FZ_EGAP, "transactions %llu-%llu do not follow %llu-%llu",
		               (unsigned long long)h->min_txid, (unsigned long long)h->max_txid,
		               (unsigned long long)prev->min_txid, (unsigned long long)prev->max_txid);
	if (h->flags != prev->flags)
		return fz_fail(err, FZ_ECORRUPT, "files with and without database checksums");
	/* where ranges overlap, the position before this one is inside the other */
	if (h->min_txid == prev->max_txid + 1 && h->pre_checksum != m->trailer.post_checksum &&
	    !(h->flags & LTX_NO_CHECKSUM))
		return fz_fail(err, FZ_ECORRUPT,
		               "transaction %llu starts from checksum %016llx, the one before left %016llx",
		               (unsigned long long)h->min_txid, (unsigned long long)h->pre_checksum,
		               (unsigned long long)m->trailer.post_checksum);
	return 0;
}

static int verify_input(struct merge *m, const struct ltx_merge_input *in, struct fz_err *err)
{
	const uint8_t *data;
	uint64_t bytes;
	uint32_t pgno;
	int rc = m->dec ? ltx_dec_reopen(m->dec, in->src, in->off_bytes, err)
	                : ltx_dec_open(&m->dec, in->src, in->off_bytes, err);

	if (rc < 0)
		return rc;
	while ((rc = ltx_dec_page(m->dec, &pgno, &data, err)) == 1)
		;
	if (rc < 0)
		return rc;
	ltx_dec_end(m->dec, &bytes);
	return bytes == in->size_bytes ? 0
	                               : fz_fail(err, FZ_ECORRUPT, "LTX file of %llu bytes in the place of one of %llu",
	                                         (unsigned long long)bytes, (unsigned long long)in->size_bytes);
}

static int scan_input(struct merge *m, uint64_t i, bool first_scan, struct fz_err *err)
{
	struct ltx_merge_input in;
	struct ltx_index_entry e;
	struct ltx_index_iter it;
	uint32_t prev_commit, grown = 0, want = 0;
	bool complete;
	int rc = m->in->get(m->in, i, &in, err);

	if (rc == 0)
		rc = ltx_index_iter_init(&it, in.src, in.off_bytes, in.size_bytes, m->index_buf, INDEX_BYTES, err);
	if (rc < 0)
		return rc;
	if (first_scan && i == 0)
		m->first_header = it.header;
	else if (first_scan)
		rc = check_chain(m, &it.header, err);
	if (rc == 0 && first_scan && !ltx_is_snapshot(&m->first_header))
		rc = verify_input(m, &in, err);
	if (rc < 0)
		return rc;

	complete = ltx_is_snapshot(&it.header) || (i > 0 && it.header.page_size != m->header.page_size);
	/* of what came before the first input nothing is known: its growth cannot be checked */
	prev_commit = complete ? 0 : i == 0 ? it.header.commit : m->header.commit;
	if (complete) {
		drop_from(m, 0);
		m->next_first = UINT64_MAX;
		m->start = i;
	}
	drop_from(m, (uint64_t)it.header.commit + 1);
	if (it.header.commit > prev_commit)
		want = ltx_stored_pages(it.header.commit, it.header.page_size) -
		       ltx_stored_pages(prev_commit, it.header.page_size);

	while ((rc = ltx_index_iter_next(&it, &e, err)) == 1) {
		grown += e.pgno > prev_commit;
		if (e.pgno < m->first)
			continue;
		if (e.pgno - m->first >= WINDOW_PAGES) {
			if (e.pgno < m->next_first)
				m->next_first = e.pgno;
			continue;
		}
		m->slots[e.pgno - m->first] = (struct slot){e.off_bytes, e.frame_bytes, (uint32_t)i};
		if (e.pgno - m->first >= m->used)
			m->used = e.pgno - m->first + 1;
	}
	if (rc == 0 && grown != want)
		rc = fz_fail(err, FZ_ECORRUPT, "transaction %llu: %u pages of %u follow page %u",
		             (unsigned long long)it.header.min_txid, grown, want, prev_commit);
	m->header = it.header;
	m->trailer = it.trailer;
	return rc;
}

/* Fills the window that starts at page first. */
static int scan(struct merge *m, uint32_t first, bool first_scan, struct fz_err *err)
{
	drop_from(m, 0);
	m->first = first;
	m->next_first = UINT64_MAX;
	m->cur_no = 0; /* its source may be gone after the next get() */
	for (uint64_t i = first_scan ? 0 : m->start; i < m->in->n; i++) {
		int rc = check_cancel(m, err);

		if (rc == 0)
			rc = scan_input(m, i, first_scan, err);
		if (rc < 0)
			return prefix(m, i, rc, err);
	}
	return 0;
}

/* The slot's frame: from the read-ahead, which follows an input once two frames of it were wanted in a row (the base of
 * a restore, while the frames of small inputs come in between), or read alone. */
static const uint8_t *read_frame(struct merge *m, const struct slot *s, struct fz_err *err, int *rc)
{
	uint64_t no = (uint64_t)s->input + 1, end = s->off_bytes + s->frame_bytes, ahead_end, size;
	bool follow;

	ahead_end = m->ahead_off + m->ahead_bytes;
	if (no == m->ahead_no && s->off_bytes >= m->ahead_off && end <= ahead_end)
		return m->ahead + (s->off_bytes - m->ahead_off);
	if (no != m->cur_no) {
		m->cur_no = 0;
		*rc = m->in->get(m->in, s->input, &m->cur, err);
		if (*rc < 0)
			return NULL;
		m->cur_no = no;
	}
	follow = (no == m->last_no && s->off_bytes == m->last_end) ||
	         (no == m->ahead_no && s->off_bytes >= m->ahead_off && s->off_bytes < ahead_end + AHEAD_BYTES);
	if (!follow) {
		m->last_no = no;
		m->last_end = end;
		*rc = fz_src_read(m->cur.src, m->cur.off_bytes + s->off_bytes, m->frame, s->frame_bytes, err);
		return *rc < 0 ? NULL : m->frame;
	}
	size = m->cur.size_bytes - s->off_bytes;
	if (size > AHEAD_BYTES)
		size = AHEAD_BYTES;
	m->ahead_no = 0;
	*rc = fz_src_read(m->cur.src, m->cur.off_bytes + s->off_bytes, m->ahead, (size_t)size, err);
	if (*rc < 0)
		return NULL;
	m->ahead_no = no;
	m->ahead_off = s->off_bytes;
	m->ahead_bytes = (size_t)size;
	return m->ahead;
}

static int copy_page(struct merge *m, uint32_t pgno, const struct slot *s, struct fz_err *err)
{
	uint32_t page_size = m->header.page_size;
	struct ltx_frame f;
	const uint8_t *frame;
	int rc = 0;

	frame = read_frame(m, s, err, &rc);
	if (!frame)
		return rc;
	rc = ltx_frame_parse(&f, frame, s->frame_bytes, page_size, m->page, &m->dctx, err);
	if (rc < 0)
		return rc;
	if (f.pgno != pgno || f.frame_bytes != s->frame_bytes)
		return fz_fail(err, FZ_ECORRUPT, "the index says page %u in %u bytes, the frame says page %u in %u",
		               pgno, s->frame_bytes, f.pgno, f.frame_bytes);
	if (ltx_is_snapshot(&m->first_header))
		m->db_checksum = ltx_db_checksum_swap(m->db_checksum, 0, ltx_page_checksum(pgno, m->page, page_size));
	return f.lz4 ? ltx_enc_page_lz4(m->enc, pgno, m->page, f.lz4, f.lz4_bytes, err)
	             : ltx_enc_page(m->enc, pgno, m->page, err);
}

static int copy(struct merge *m, struct fz_err *err)
{
	for (uint32_t i = 0; i < m->used; i++) {
		const struct slot *s = &m->slots[i];
		int rc;

		if (s->frame_bytes == 0)
			continue;
		rc = check_cancel(m, err);
		if (rc == 0)
			rc = copy_page(m, m->first + i, s, err);
		if (rc < 0)
			return prefix(m, s->input, rc, err);
	}
	return 0;
}

static int alloc(struct merge *m, struct fz_err *err)
{
	m->slots = calloc(WINDOW_PAGES, sizeof(*m->slots));
	m->index_buf = malloc(INDEX_BYTES);
	m->ahead = malloc(AHEAD_BYTES);
	m->frame = malloc((size_t)LTX_FRAME_MAX(65536));
	m->page = malloc(65536);
	if (!m->slots || !m->index_buf || !m->ahead || !m->frame || !m->page)
		return fz_fail_errno(err, ENOMEM, "merging LTX files");
	return ltx_enc_open(&m->enc, err);
}

/* After the first scan, with its window filled. */
static int write_result(struct merge *m, struct fz_sink *out, struct ltx_merge_result *result, struct fz_err *err)
{
	struct ltx_header h = {.flags = m->header.flags,
	                       .page_size = m->header.page_size,
	                       .commit = m->header.commit,
	                       .min_txid = m->first_header.min_txid,
	                       .max_txid = m->header.max_txid,
	                       .time_ms = m->header.time_ms,
	                       .pre_checksum = m->first_header.pre_checksum};
	int rc = ltx_enc_begin(m->enc, out, &h, err);

	if (rc == 0)
		rc = copy(m, err);
	while (rc == 0 && m->next_first <= h.commit) {
		rc = scan(m, (uint32_t)m->next_first, false, err);
		if (rc == 0)
			rc = copy(m, err);
	}
	if (rc == 0 && ltx_is_snapshot(&h) && !(h.flags & LTX_NO_CHECKSUM) &&
	    m->db_checksum != m->trailer.post_checksum)
		rc = fz_fail(err, FZ_ECHECKSUM,
		             "merged database has checksum %016llx, the last transaction left %016llx",
		             (unsigned long long)m->db_checksum, (unsigned long long)m->trailer.post_checksum);
	if (rc == 0)
		rc = ltx_enc_end(m->enc, m->trailer.post_checksum, &result->trailer, &result->file_bytes, err);
	result->header = h;
	result->pages = ltx_enc_pages(m->enc);
	return rc;
}

int ltx_merge(struct ltx_merge_list *inputs, struct fz_sink *out, struct ltx_merge_result *result,
              const volatile bool *cancel, struct fz_err *err)
{
	struct merge m = {.in = inputs, .cancel = cancel, .db_checksum = LTX_EMPTY_DB};
	struct ltx_merge_result r = {0};
	int rc;

	if (inputs->n == 0 || inputs->n > UINT32_MAX)
		return fz_fail(err, FZ_EINTERNAL, "merge of %llu LTX files", (unsigned long long)inputs->n);
	rc = alloc(&m, err);
	if (rc < 0)
		goto out;
	rc = scan(&m, 1, true, err);
	if (rc < 0)
		goto out;
	rc = write_result(&m, out, &r, err);
	if (rc == 0 && result)
		*result = r;
out:
	ltx_enc_close(m.enc);
	ltx_dec_close(m.dec);
	LZ4F_freeDecompressionContext(m.dctx);
	free(m.slots);
	free(m.index_buf);
	free(m.ahead);
	free(m.frame);
	free(m.page);
	return rc;
}

struct array_list {
	struct ltx_merge_list list;
	const struct ltx_merge_input *inputs;
};

static int array_get(struct ltx_merge_list *l, uint64_t i, struct ltx_merge_input *out, struct fz_err *err)
{
	*out = ((struct array_list *)l)->inputs[i];
	(void)err;
	return 0;
}

int ltx_merge_array(const struct ltx_merge_input *inputs, uint64_t n, struct fz_sink *out,
                    struct ltx_merge_result *result, struct fz_err *err)
{
	struct array_list l = {
	        {array_get, n},
                inputs
        };

	return ltx_merge(&l.list, out, result, NULL, err);
}
