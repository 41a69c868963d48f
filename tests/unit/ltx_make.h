/* ltx_make.h - a database in memory for the tests of ltx: change pages, grow, shrink, and take each commit as LTX. Its
 * checksums are computed anew from all pages each time, so that nothing is shared with the incremental code. */
#ifndef FZ_TESTS_LTX_MAKE_H
#define FZ_TESTS_LTX_MAKE_H

#include "ltx/dec.h"
#include "ltx/enc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct make_db {
	uint32_t page_size, commit, cap;
	uint64_t txid, sum;
	uint8_t *pages;
	uint8_t *dirty; /* per page */
	uint32_t rnd;
};

static inline uint32_t make_rnd(struct make_db *db, uint32_t below)
{
	db->rnd = db->rnd * 1664525 + 1013904223;
	return (db->rnd >> 8) % below;
}

static inline uint8_t *make_page(const struct make_db *db, uint32_t pgno)
{
	return db->pages + (size_t)(pgno - 1) * db->page_size;
}

/* New content, of a kind that compresses well, badly or not at all. */
static inline void make_change(struct make_db *db, uint32_t pgno)
{
	uint32_t noise = db->page_size * make_rnd(db, 5) / 4;
	uint8_t *p = make_page(db, pgno);

	memset(p, (int)make_rnd(db, 256), db->page_size);
	for (uint32_t i = 0; i < noise; i++)
		p[i] = (uint8_t)make_rnd(db, 256);
	db->dirty[pgno] = 1;
}

static inline void make_resize(struct make_db *db, uint32_t commit)
{
	uint32_t old = db->commit;

	assert_in_range(commit, 1, db->cap);
	db->commit = commit;
	for (uint32_t pgno = old + 1; pgno <= commit; pgno++)
		make_change(db, pgno);
}

static inline void make_init(struct make_db *db, uint32_t page_size, uint32_t cap, uint32_t seed)
{
	*db = (struct make_db){.page_size = page_size, .cap = cap, .sum = LTX_EMPTY_DB, .rnd = seed};
	db->pages = calloc(cap, page_size);
	db->dirty = calloc(cap + 1, 1);
	assert_non_null(db->pages);
	assert_non_null(db->dirty);
}

static inline void make_fini(struct make_db *db)
{
	free(db->pages);
	free(db->dirty);
}

static inline uint64_t make_sum(const struct make_db *db)
{
	uint64_t sum = LTX_EMPTY_DB;

	for (uint32_t pgno = 1; pgno <= db->commit; pgno++)
		if (pgno != ltx_lock_page(db->page_size))
			sum = LTX_FLAG | (sum ^ ltx_page_checksum(pgno, make_page(db, pgno), db->page_size));
	return sum;
}

/* Appends the file of TXIDs min..max that holds the pages in dirty[] (all: every page). Returns its length. */
static inline uint64_t make_file(struct make_db *db, uint64_t min, uint64_t max, uint64_t pre, uint64_t post, bool all,
                                 struct fz_buf *out)
{
	struct ltx_header h = {.page_size = db->page_size,
	                       .commit = db->commit,
	                       .min_txid = min,
	                       .max_txid = max,
	                       .time_ms = 1700000000000 + (int64_t)max,
	                       .pre_checksum = pre};
	struct fz_err err = {0};
	struct fz_buf_sink sink;
	struct ltx_enc *e = NULL;
	uint64_t bytes = 0;

	fz_buf_sink_init(&sink, out);
	assert_int_equal(ltx_enc_open(&e, &err), 0);
	assert_int_equal(ltx_enc_begin(e, &sink.sink, &h, &err), 0);
	for (uint32_t pgno = 1; pgno <= db->commit; pgno++)
		if ((all || db->dirty[pgno]) && pgno != ltx_lock_page(db->page_size))
			assert_int_equal(ltx_enc_page(e, pgno, make_page(db, pgno), &err), 0);
	assert_int_equal(ltx_enc_end(e, post, NULL, &bytes, &err), 0);
	ltx_enc_close(e);
	return bytes;
}

/* Commits what was changed as the next transaction. */
static inline uint64_t make_commit(struct make_db *db, struct fz_buf *out)
{
	uint64_t pre = db->txid ? db->sum : 0, bytes;

	db->sum = make_sum(db);
	db->txid++;
	bytes = make_file(db, db->txid, db->txid, pre, db->sum, db->txid == 1, out);
	memset(db->dirty, 0, db->cap + 1);
	return bytes;
}

/* Plays the file in [off, off + size) of data back into pages and commit; the rest of db is not looked at. */
static inline void make_apply(struct make_db *db, const uint8_t *data, size_t size)
{
	struct fz_err err = {0};
	struct fz_src *src = NULL;
	struct ltx_dec *d = NULL;
	const uint8_t *page;
	uint64_t bytes;
	uint32_t pgno;
	int rc;

	assert_int_equal(fz_src_mem(&src, data, size, &err), 0);
	assert_int_equal(ltx_dec_open(&d, src, 0, &err), 0);
	assert_int_equal(ltx_dec_header(d)->page_size, db->page_size);
	while ((rc = ltx_dec_page(d, &pgno, &page, &err)) == 1)
		memcpy(make_page(db, pgno), page, db->page_size);
	if (rc < 0)
		print_error("%s\n", err.text);
	assert_int_equal(rc, 0);
	db->commit = ltx_dec_header(d)->commit;
	db->txid = ltx_dec_header(d)->max_txid;
	db->sum = ltx_dec_end(d, &bytes)->post_checksum;
	assert_int_equal(bytes, size);
	ltx_dec_close(d);
	fz_src_close(src);
}

static inline void make_read(struct fz_buf *out, const char *path)
{
	uint8_t b[4096];
	size_t n;
	FILE *f = fopen(path, "rb");

	if (!f)
		print_error("%s: run this from the top of the source tree\n", path);
	assert_non_null(f);
	while ((n = fread(b, 1, sizeof(b), f)) > 0)
		assert_int_equal(fz_buf_add(out, b, n), 0);
	fclose(f);
}

#endif
