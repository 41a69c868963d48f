/* test_ltx_dec.c - the decoder, the page index and single frames: what the reference library wrote is read, and what is
 * damaged, cut or signed although wrong is refused. */
#include "ltx/dec.h"

#include "base/cursor.h"
#include "ltx/frame.h"
#include "tests/unit/ltx_make.h"

#include <lz4.h>
#include <lz4frame.h>

#define GOLDEN "tests/golden/ltx/"

static int verify(const void *data, size_t size, struct ltx_header *h, struct ltx_trailer *t, uint64_t *bytes,
                  uint32_t *pages, struct fz_err *err)
{
	struct fz_src *src = NULL;
	int rc;

	assert_int_equal(fz_src_mem(&src, data, size, NULL), 0);
	rc = ltx_dec_verify(src, 0, h, t, bytes, pages, err);
	fz_src_close(src);
	return rc;
}

static int index_of(const void *data, size_t size, struct ltx_index *ix, struct fz_err *err)
{
	struct fz_src *src = NULL;
	int rc;

	assert_int_equal(fz_src_mem(&src, data, size, NULL), 0);
	rc = ltx_index_read(ix, src, 0, size, err);
	fz_src_close(src);
	return rc;
}

/* ---- files of the reference library ---- */

static const struct golden {
	const char *name;
	uint64_t min, max, pre, post;
	uint32_t commit, pages;
} goldens[] = {
  /* the values as `ltx list` prints them */
        {"block-1.ltx",   1, 1, 0,                  0xa2f9452f2726096b, 5, 5},
        {"block-2.ltx",   2, 2, 0xa2f9452f2726096b, 0xd618bf82ecee6963, 7, 4},
        {"block-3.ltx",   3, 3, 0xd618bf82ecee6963, 0xdb9588576dc69764, 4, 1},
        {"block-1-3.ltx", 1, 3, 0,                  0xdb9588576dc69764, 4, 4},
        {"block-2-3.ltx", 2, 3, 0xa2f9452f2726096b, 0xdb9588576dc69764, 4, 2},
        {"frame-1.ltx",   1, 1, 0,                  0xa2f9452f2726096b, 5, 5},
        {"frame-2.ltx",   2, 2, 0xa2f9452f2726096b, 0xd618bf82ecee6963, 7, 4},
        {"frame-3.ltx",   3, 3, 0xd618bf82ecee6963, 0xdb9588576dc69764, 4, 1},
        {"frame-1-3.ltx", 1, 3, 0,                  0xdb9588576dc69764, 4, 4},
        {"frame-2-3.ltx", 2, 3, 0xa2f9452f2726096b, 0xdb9588576dc69764, 4, 2},
};

static void golden_files(void **state)
{
	for (size_t i = 0; i < sizeof(goldens) / sizeof(goldens[0]); i++) {
		const struct golden *g = &goldens[i];
		struct fz_buf f = {0};
		struct ltx_header h;
		struct ltx_trailer t;
		struct ltx_index ix;
		struct fz_err err = {0};
		uint64_t bytes;
		uint32_t pages;
		char path[128];

		snprintf(path, sizeof(path), GOLDEN "%s", g->name);
		make_read(&f, path);
		if (verify(f.data, f.size, &h, &t, &bytes, &pages, &err) != 0)
			print_error("%s: %s\n", path, err.text);
		assert_int_equal(err.code, 0);
		assert_int_equal(h.min_txid, g->min);
		assert_int_equal(h.max_txid, g->max);
		assert_int_equal(h.pre_checksum, g->pre);
		assert_int_equal(t.post_checksum, g->post);
		assert_int_equal(h.commit, g->commit);
		assert_int_equal(pages, g->pages);
		assert_int_equal(bytes, f.size);
		assert_int_equal(index_of(f.data, f.size, &ix, &err), 0);
		assert_int_equal(ix.n, g->pages);
		assert_int_equal(ix.trailer.file_checksum, t.file_checksum);
		ltx_index_fini(&ix);
		fz_buf_fini(&f);
	}
	(void)state;
}

static void golden_files_give_the_database(void **state)
{
	static const char *const chains[][3] = {
	        {"block-1.ltx",   "block-2.ltx",   "block-3.ltx"},
	        {"frame-1.ltx",   "frame-2.ltx",   "frame-3.ltx"},
	        {"block-1.ltx",   "frame-2-3.ltx", NULL         },
	        {"frame-1-3.ltx", NULL,            NULL         },
	};
	struct fz_buf want = {0};

	make_read(&want, GOLDEN "3.db");
	for (size_t i = 0; i < sizeof(chains) / sizeof(chains[0]); i++) {
		struct make_db db;

		make_init(&db, 512, 16, 1);
		for (int j = 0; j < 3 && chains[i][j]; j++) {
			struct fz_buf f = {0};
			char path[128];

			snprintf(path, sizeof(path), GOLDEN "%s", chains[i][j]);
			make_read(&f, path);
			make_apply(&db, f.data, f.size);
			assert_int_equal(make_sum(&db), db.sum);
			fz_buf_fini(&f);
		}
		assert_int_equal(db.commit * 512, want.size);
		assert_memory_equal(db.pages, want.data, want.size);
		make_fini(&db);
	}
	fz_buf_fini(&want);
	(void)state;
}

/* ---- round trips ---- */

static void page_sizes(void **state)
{
	for (uint32_t size = 512; size <= 65536; size *= 2) {
		struct make_db db, back;
		struct fz_buf f = {0};

		make_init(&db, size, 40, size);
		make_init(&back, size, 40, 0);
		make_resize(&db, 20);
		for (int i = 0; i < 10; i++) {
			fz_buf_reset(&f);
			make_commit(&db, &f);
			make_apply(&back, f.data, f.size);
			assert_int_equal(back.commit, db.commit);
			assert_int_equal(back.txid, db.txid);
			assert_int_equal(back.sum, make_sum(&back));
			assert_memory_equal(back.pages, db.pages, (size_t)db.commit * size);
			make_resize(&db, 1 + make_rnd(&db, 40));
			for (int j = 0; j < 5; j++)
				make_change(&db, 1 + make_rnd(&db, db.commit));
		}
		make_fini(&db);
		make_fini(&back);
		fz_buf_fini(&f);
	}
	(void)state;
}

static void files_back_to_back(void **state)
{
	enum { N = 300 };
	uint64_t sizes[N], off = 0, bytes;
	struct fz_buf f = {0};
	struct fz_src *src = NULL;
	struct ltx_dec *d = NULL;
	struct make_db db;
	const uint8_t *page;
	uint32_t pgno;
	int rc;

	make_init(&db, 1024, 30, 9);
	make_resize(&db, 30);
	assert_int_equal(fz_buf_add(&f, "some other bytes", 16), 0);
	for (int i = 0; i < N; i++) {
		make_change(&db, 1 + make_rnd(&db, 30));
		sizes[i] = make_commit(&db, &f);
	}
	assert_int_equal(fz_src_mem(&src, f.data, f.size, NULL), 0);
	/* one decoder that goes on */
	assert_int_equal(ltx_dec_open(&d, src, 16, NULL), 0);
	for (int i = 0; i < N; i++) {
		assert_int_equal(ltx_dec_header(d)->min_txid, i + 1);
		if (i == 0)
			assert_int_equal(ltx_dec_next(d, NULL), -FZ_EINTERNAL); /* not read to its end */
		while ((rc = ltx_dec_page(d, &pgno, &page, NULL)) == 1)
			;
		assert_int_equal(rc, 0);
		assert_int_equal(ltx_dec_page(d, &pgno, &page, NULL), 0); /* stays at the end */
		ltx_dec_end(d, &bytes);
		assert_int_equal(bytes, sizes[i]);
		assert_int_equal(ltx_dec_next(d, NULL), i < N - 1);
	}
	/* each one found by the length of those before it; the same decoder turned to each */
	off = 16;
	for (int i = 0; i < N; i++) {
		struct ltx_header h;
		uint32_t pages;

		assert_int_equal(ltx_dec_verify(src, off, &h, NULL, &bytes, &pages, NULL), 0);
		assert_int_equal(h.max_txid, i + 1);
		assert_int_equal(bytes, sizes[i]);
		assert_int_equal(pages, i ? 1 : 30);
		assert_int_equal(ltx_dec_reopen(d, src, off, NULL), 0);
		assert_int_equal(ltx_dec_header(d)->min_txid, i + 1);
		off += bytes;
	}
	assert_int_equal(off, f.size);
	assert_int_equal(ltx_dec_reopen(d, src, off, NULL), -FZ_ETRUNCATED);
	assert_int_equal(ltx_dec_page(d, &pgno, &page, NULL), -FZ_ETRUNCATED);
	assert_int_equal(ltx_dec_reopen(d, src, off + 1, NULL), -FZ_ETRUNCATED);
	assert_int_equal(ltx_dec_reopen(d, src, 16, NULL), 0);
	ltx_dec_close(d);
	ltx_dec_close(NULL);
	fz_src_close(src);
	fz_buf_fini(&f);
	make_fini(&db);
	(void)state;
}

static void random_access(void **state)
{
	struct fz_buf f = {0};
	struct fz_src *src = NULL;
	struct ltx_index ix;
	struct make_db db;
	uint8_t page[4096];
	uint64_t size;

	make_init(&db, 4096, 6000, 11); /* an index longer than one read of it */
	make_resize(&db, 6000);
	assert_int_equal(fz_buf_add(&f, "0123456", 7), 0);
	make_commit(&db, &f);
	for (uint32_t pgno = 2; pgno <= 6000; pgno += 1 + make_rnd(&db, 3))
		make_change(&db, pgno);
	db.dirty[6000] = 0;
	fz_buf_reset(&f);
	assert_int_equal(fz_buf_add(&f, "0123456", 7), 0);
	size = make_commit(&db, &f);
	memset(db.dirty, 0, 6001);
	assert_int_equal(fz_src_mem(&src, f.data, f.size, NULL), 0);
	assert_int_equal(ltx_index_read(&ix, src, 7, size, NULL), 0);
	assert_int_equal(ix.header.max_txid, 2);
	assert_int_equal(ix.trailer.post_checksum, db.sum);
	assert_true(ix.n > 2000);
	for (uint32_t i = 0; i < ix.n; i++) {
		const struct ltx_index_entry *e = ltx_index_find(&ix, ix.e[i].pgno);

		assert_ptr_equal(e, &ix.e[i]);
		db.dirty[e->pgno] = 1;
		assert_int_equal(ltx_frame_decode(f.data + 7 + e->off_bytes, e->frame_bytes, e->pgno, 4096, page, NULL),
		                 0);
		assert_memory_equal(page, make_page(&db, e->pgno), 4096);
	}
	for (uint32_t pgno = 0; pgno <= 6001; pgno++)
		if (pgno == 0 || pgno > 6000 || !db.dirty[pgno])
			assert_null(ltx_index_find(&ix, pgno));
	/* a wrong window is not mistaken for a file */
	ltx_index_fini(&ix);
	assert_int_equal(ltx_index_read(&ix, src, 6, size, NULL), -FZ_ECORRUPT);
	assert_int_equal(ltx_index_read(&ix, src, 7, size + 1, NULL), -FZ_ETRUNCATED);
	assert_true(ltx_index_read(&ix, src, 7, size - 1, NULL) < 0);
	ltx_index_fini(&ix);
	fz_src_close(src);
	fz_buf_fini(&f);
	make_fini(&db);
	(void)state;
}

/* ---- damage ---- */

/* Every byte flipped, every length cut. A flip inside an LZ4 block may decompress to the same page: then, and only
 * then, it may pass. */
static void damage(void **state)
{
	static const char *const files[] = {GOLDEN "block-1.ltx", GOLDEN "frame-2.ltx"};

	for (int k = 0; k < 2; k++) {
		struct make_db want, got;
		struct fz_buf f = {0};
		int passed = 0;

		make_init(&want, 512, 16, 0);
		make_read(&f, files[k]);
		make_apply(&want, f.data, f.size);
		for (size_t i = 0; i < f.size; i++) {
			for (int bit = 0; bit < 8; bit += 3) {
				f.data[i] ^= (uint8_t)(1 << bit);
				if (verify(f.data, f.size, NULL, NULL, NULL, NULL, NULL) == 0) {
					make_init(&got, 512, 16, 0);
					make_apply(&got, f.data, f.size);
					assert_memory_equal(got.pages, want.pages, 16 * 512);
					make_fini(&got);
					passed++;
				}
				f.data[i] ^= (uint8_t)(1 << bit);
			}
		}
		assert_in_range(passed, 0, f.size / 4);
		for (size_t i = 0; i < f.size; i++) {
			uint8_t *cut = malloc(i + 1); /* exactly as long, so that the sanitizer sees a read beyond */
			struct fz_err err = {0};
			struct ltx_index ix;
			int rc;

			assert_non_null(cut);
			memcpy(cut, f.data, i);
			rc = verify(cut, i, NULL, NULL, NULL, NULL, &err);
			assert_int_equal(rc, err.code);
			/* inside an LZ4 frame its own decoder finds the end too early */
			if (rc != -FZ_ECORRUPT || k == 0)
				assert_int_equal(rc, -FZ_ETRUNCATED);
			assert_true(index_of(cut, i, &ix, NULL) < 0);
			free(cut);
		}
		make_fini(&want);
		fz_buf_fini(&f);
	}
	(void)state;
}

/* ---- files with a right file checksum that are wrong all the same ---- */

struct forged {
	struct ltx_header h;
	uint64_t crc;
	struct fz_buf f, index;
	bool bad_end_mark;
};

static void forge_add(struct forged *g, const void *p, size_t n)
{
	g->crc = ltx_crc64(g->crc, p, n);
	assert_int_equal(fz_buf_add(&g->f, p, n), 0);
}

static void forge_index(struct forged *g, uint64_t pgno, uint64_t off, uint64_t bytes)
{
	uint8_t e[30];
	size_t n = fz_put_uvarint(e, pgno);

	n += fz_put_uvarint(e + n, off);
	n += fz_put_uvarint(e + n, bytes);
	assert_int_equal(fz_buf_add(&g->index, e, n), 0);
}

static void forge_begin(struct forged *g, uint64_t min, uint32_t commit)
{
	uint8_t b[LTX_HEADER_SIZE];

	*g = (struct forged){
	        .h = {.page_size = 512, .commit = commit, .min_txid = min, .max_txid = min}
        };
	g->h.pre_checksum = min == 1 ? 0 : LTX_FLAG | 1;
	ltx_header_put(b, &g->h);
	forge_add(g, b, sizeof(b));
}

static void forge_page(struct forged *g, uint32_t pgno, bool in_index)
{
	uint8_t head[10], page[512], lz4[600];
	uint64_t off = g->f.size;
	int n;

	memset(page, (int)pgno, sizeof(page));
	n = LZ4_compress_default((char *)page, (char *)lz4, sizeof(page), sizeof(lz4));
	fz_put32(head, pgno);
	fz_put16(head + 4, 1);
	fz_put32(head + 6, (uint32_t)n);
	forge_add(g, head, sizeof(head));
	g->crc = ltx_crc64(g->crc, page, sizeof(page));
	assert_int_equal(fz_buf_add(&g->f, lz4, (size_t)n), 0);
	if (in_index)
		forge_index(g, pgno, off, g->f.size - off);
}

static void forge_end(struct forged *g, int64_t index_length_off_by, uint64_t post)
{
	uint8_t b[8] = {0, 0, 0, 0, 0, g->bad_end_mark};

	forge_add(g, b, 6);
	assert_int_equal(fz_buf_add(&g->index, "", 1), 0);
	forge_add(g, g->index.data, g->index.size);
	fz_put64(b, g->index.size + (uint64_t)index_length_off_by);
	forge_add(g, b, 8);
	fz_put64(b, post);
	forge_add(g, b, 8);
	fz_put64(b, LTX_FLAG | g->crc);
	assert_int_equal(fz_buf_add(&g->f, b, 8), 0);
}

static void forge_good(struct forged *g)
{
	forge_begin(g, 2, 9);
	forge_page(g, 3, true);
	forge_page(g, 5, true);
	forge_end(g, 0, LTX_FLAG);
}
static void forge_empty(struct forged *g)
{
	forge_begin(g, 2, 9);
	forge_end(g, 0, LTX_FLAG);
}
static void forge_descending(struct forged *g)
{
	forge_begin(g, 2, 9);
	forge_page(g, 5, true);
	forge_page(g, 3, true);
	forge_end(g, 0, LTX_FLAG);
}
static void forge_twice(struct forged *g)
{
	forge_begin(g, 2, 9);
	forge_page(g, 5, true);
	forge_page(g, 5, true);
	forge_end(g, 0, LTX_FLAG);
}
static void forge_beyond_commit(struct forged *g)
{
	forge_begin(g, 2, 9);
	forge_page(g, 10, true);
	forge_end(g, 0, LTX_FLAG);
}
static void forge_lock_page(struct forged *g)
{
	forge_begin(g, 2, 3000000);
	forge_page(g, 2097153, true);
	forge_end(g, 0, LTX_FLAG);
}
static void forge_snapshot_gap(struct forged *g)
{
	forge_begin(g, 1, 3);
	forge_page(g, 1, true);
	forge_page(g, 3, true);
	forge_end(g, 0, LTX_FLAG);
}
static void forge_snapshot_short(struct forged *g)
{
	forge_begin(g, 1, 3);
	forge_page(g, 1, true);
	forge_page(g, 2, true);
	forge_end(g, 0, LTX_FLAG);
}
static void forge_snapshot_empty(struct forged *g)
{
	forge_begin(g, 1, 3);
	forge_end(g, 0, LTX_FLAG);
}
static void forge_not_in_index(struct forged *g)
{
	forge_begin(g, 2, 9);
	forge_page(g, 3, false);
	forge_page(g, 5, true);
	forge_end(g, 0, LTX_FLAG);
}
static void forge_only_in_index(struct forged *g)
{
	forge_begin(g, 2, 9);
	forge_page(g, 3, true);
	forge_index(g, 5, 100, 20);
	forge_end(g, 0, LTX_FLAG);
}
static void forge_index_empty(struct forged *g)
{
	forge_begin(g, 2, 9);
	forge_page(g, 3, false);
	forge_end(g, 0, LTX_FLAG);
}
static void forge_index_offset(struct forged *g)
{
	forge_begin(g, 2, 9);
	forge_page(g, 3, false);
	forge_index(g, 3, 101, g->f.size - 101);
	forge_end(g, 0, LTX_FLAG);
}
static void forge_index_offset_alone(struct forged *g)
{
	forge_begin(g, 2, 9);
	forge_page(g, 3, false);
	forge_index(g, 3, 101, g->f.size - 100);
	forge_end(g, 0, LTX_FLAG);
}
static void forge_index_ends_twice(struct forged *g)
{
	forge_begin(g, 2, 9);
	forge_page(g, 3, true);
	assert_int_equal(fz_buf_add(&g->index, "\0\x05", 2), 0);
	forge_end(g, 0, LTX_FLAG);
}
static void forge_end_mark(struct forged *g)
{
	forge_begin(g, 2, 9);
	forge_page(g, 3, true);
	g->bad_end_mark = true;
	forge_end(g, 0, LTX_FLAG);
}
static void forge_index_huge_offset(struct forged *g)
{
	forge_begin(g, 2, 9);
	forge_page(g, 3, false);
	forge_index(g, 3, 100, UINT64_MAX);
	forge_end(g, 0, LTX_FLAG);
}
static void forge_index_huge_pgno(struct forged *g)
{
	forge_begin(g, 2, 9);
	forge_page(g, 3, false);
	forge_index(g, (UINT64_C(1) << 32) + 3, 100, g->f.size - 100);
	forge_end(g, 0, LTX_FLAG);
}
static void forge_index_length(struct forged *g)
{
	forge_begin(g, 2, 9);
	forge_page(g, 3, true);
	forge_end(g, 1, LTX_FLAG);
}
static void forge_index_length_huge(struct forged *g)
{
	forge_begin(g, 2, 9);
	forge_page(g, 3, true);
	forge_end(g, INT64_MAX, LTX_FLAG);
}
static void forge_post_missing(struct forged *g)
{
	forge_begin(g, 2, 9);
	forge_page(g, 3, true);
	forge_end(g, 0, 0);
}

static const struct forged_case {
	const char *name;
	void (*make)(struct forged *g);
	int decode, index; /* what ltx_dec_verify() and ltx_index_read() say */
} forged_cases[] = {
        {"right",                           forge_good,               0,            0           },
        {"no pages",                        forge_empty,              0,            0           },
        {"descending",                      forge_descending,         -FZ_ECORRUPT, -FZ_ECORRUPT},
        {"the same twice",                  forge_twice,              -FZ_ECORRUPT, -FZ_ECORRUPT},
        {"beyond commit",                   forge_beyond_commit,      -FZ_ECORRUPT, -FZ_ECORRUPT},
        {"the lock page",                   forge_lock_page,          -FZ_ECORRUPT, -FZ_ECORRUPT},
        {"snapshot with a gap",             forge_snapshot_gap,       -FZ_ECORRUPT, -FZ_ECORRUPT},
        {"snapshot that ends early",        forge_snapshot_short,     -FZ_ECORRUPT, -FZ_ECORRUPT},
        {"snapshot of nothing",             forge_snapshot_empty,     -FZ_ECORRUPT, -FZ_ECORRUPT},
        {"page not in the index",           forge_not_in_index,       -FZ_ECORRUPT, -FZ_ECORRUPT},
        {"page only in the index",          forge_only_in_index,      -FZ_ECORRUPT, -FZ_ECORRUPT},
        {"index without entries",           forge_index_empty,        -FZ_ECORRUPT, -FZ_ECORRUPT},
        {"index: offset",                   forge_index_offset,       -FZ_ECORRUPT, -FZ_ECORRUPT},
        {"index: offset, length right",     forge_index_offset_alone, -FZ_ECORRUPT, -FZ_ECORRUPT},
        {"index: ends before its end",      forge_index_ends_twice,   -FZ_ECORRUPT, -FZ_ECORRUPT},
        {"end mark with a flag",            forge_end_mark,           -FZ_ECORRUPT, -FZ_ECORRUPT},
        {"index: frame of 2^64 bytes",      forge_index_huge_offset,  -FZ_ECORRUPT, -FZ_ECORRUPT},
        {"index: page number over 32 bits", forge_index_huge_pgno,    -FZ_ECORRUPT, -FZ_ECORRUPT},
        {"index: length",                   forge_index_length,       -FZ_ECORRUPT, -FZ_ECORRUPT},
        {"index: length of 2^63",           forge_index_length_huge,  -FZ_ECORRUPT, -FZ_ECORRUPT},
        {"no post-apply checksum",          forge_post_missing,       -FZ_ECORRUPT, -FZ_ECORRUPT},
};

static void signed_but_wrong(void **state)
{
	for (size_t i = 0; i < sizeof(forged_cases) / sizeof(forged_cases[0]); i++) {
		const struct forged_case *c = &forged_cases[i];
		struct ltx_index ix;
		struct forged g;
		struct fz_err err = {0};
		int rc;

		c->make(&g);
		rc = verify(g.f.data, g.f.size, NULL, NULL, NULL, NULL, &err);
		if (rc != c->decode)
			print_error("%s, decode: %d %s\n", c->name, rc, err.text);
		assert_int_equal(rc, c->decode);
		rc = index_of(g.f.data, g.f.size, &ix, &err);
		if (rc != c->index)
			print_error("%s, index: %d %s\n", c->name, rc, err.text);
		assert_int_equal(rc, c->index);
		ltx_index_fini(&ix);
		fz_buf_fini(&g.f);
		fz_buf_fini(&g.index);
	}
	(void)state;
}

static void snapshot_with_wrong_database_checksum(void **state)
{
	struct fz_buf f = {0};
	struct make_db db;

	make_init(&db, 512, 4, 1);
	make_resize(&db, 4);
	db.sum = make_sum(&db);
	make_file(&db, 1, 7, 0, db.sum, true, &f);
	assert_int_equal(verify(f.data, f.size, NULL, NULL, NULL, NULL, NULL), 0);
	fz_buf_reset(&f);
	make_file(&db, 1, 7, 0, db.sum ^ 1, true, &f);
	assert_int_equal(verify(f.data, f.size, NULL, NULL, NULL, NULL, NULL), -FZ_ECHECKSUM);
	fz_buf_fini(&f);
	make_fini(&db);
	(void)state;
}

/* ---- single frames ---- */

static size_t lz4_frame(uint8_t *out, const uint8_t *data, size_t n, const LZ4F_preferences_t *prefs)
{
	size_t r;

	fz_put32(out, 7);
	fz_put16(out + 4, 0);
	r = LZ4F_compressFrame(out + 6, 200000, data, n, prefs);
	assert_false(LZ4F_isError(r));
	return r + 6;
}

static void lz4_frame_variants(void **state)
{
	static const LZ4F_preferences_t prefs[] = {
	        {.frameInfo = {.contentChecksumFlag = LZ4F_contentChecksumEnabled}},
	        {.frameInfo = {.contentChecksumFlag = LZ4F_noContentChecksum}},
	        {.frameInfo = {.blockSizeID = LZ4F_max4MB, .blockMode = LZ4F_blockIndependent}},
	        {.frameInfo = {.blockChecksumFlag = LZ4F_blockChecksumEnabled,
	                       .contentChecksumFlag = LZ4F_contentChecksumEnabled}},
	        {.frameInfo = {.contentSize = 65536}},
	};
	uint8_t *page = malloc(65536), *back = malloc(65536), *f = malloc(200010);
	uint32_t rnd = 1;

	assert_true(page && back && f);
	for (int noise = 0; noise < 2; noise++) {
		for (size_t i = 0; i < 65536; i++) {
			rnd = rnd * 1664525 + 1013904223;
			page[i] = noise ? (uint8_t)(rnd >> 24) : (uint8_t)(i / 100);
		}
		for (size_t i = 0; i < sizeof(prefs) / sizeof(prefs[0]); i++) {
			size_t n = lz4_frame(f, page, 65536, &prefs[i]);

			assert_int_equal(ltx_frame_decode(f, n, 7, 65536, back, NULL), 0);
			assert_memory_equal(page, back, 65536);
			assert_int_equal(ltx_frame_decode(f, n, 8, 65536, back, NULL), -FZ_ECORRUPT);
			assert_int_equal(ltx_frame_decode(f, n - 1, 7, 65536, back, NULL), -FZ_ECORRUPT);
			assert_int_equal(ltx_frame_decode(f, n + 1, 7, 65536, back, NULL), -FZ_ECORRUPT);
			assert_int_equal(ltx_frame_decode(f, n, 7, 32768, back, NULL), -FZ_ECORRUPT);
		}
	}
	/* shorter than a page */
	assert_int_equal(ltx_frame_decode(f, lz4_frame(f, page, 4095, NULL), 7, 4096, back, NULL), -FZ_ECORRUPT);
	/* a skippable frame, which LZ4F takes and which holds nothing */
	memcpy(f + 6, "\x50\x2a\x4d\x18\x04\0\0\0abcd", 12);
	assert_int_equal(ltx_frame_decode(f, 18, 7, 512, back, NULL), -FZ_ECORRUPT);
	free(page);
	free(back);
	free(f);
	(void)state;
}

static const struct frame_case {
	const char *name, *bytes;
	size_t n;
	int want;
} frame_cases[] = {
        {"nothing",           "",                                           0,  -FZ_ETRUNCATED},
        {"half a head",       "\0\0\0",                                     3,  -FZ_ETRUNCATED},
        {"the end mark",      "\0\0\0\0\0\0",                               6,  -FZ_ECORRUPT  },
        {"page 0",            "\0\0\0\0\0\x01\0\0\0\0",                     10, -FZ_ECORRUPT  },
        {"unknown flag",      "\0\0\0\x07\0\x02\0\0\0\0",                   10, -FZ_ECORRUPT  },
        {"no size word",      "\0\0\0\x07\0\x01\0",                         7,  -FZ_ETRUNCATED},
        {"block of 4 GiB",    "\0\0\0\x07\0\x01\xff\xff\xff\xff",           10, -FZ_ECORRUPT  },
        {"block of 0 bytes",  "\0\0\0\x07\0\x01\0\0\0\0",                   10, -FZ_ECORRUPT  },
        {"block cut",
         "\0\0\0\x07\0\x01\0\0\0\x05"
         "abcd",                                                            14, -FZ_ETRUNCATED},
        {"block of one byte", "\0\0\0\x07\0\x01\0\0\0\x02\x10z",            12, -FZ_ECORRUPT  },
        {"block of nonsense", "\0\0\0\x07\0\x01\0\0\0\x04\xff\xff\xff\xff", 14, -FZ_ECORRUPT  },
        {"no LZ4 frame",      "\0\0\0\x07\0\0abcdefgh",                     14, -FZ_ECORRUPT  },
        {"empty LZ4 frame",   "\0\0\0\x07\0\0",                             6,  -FZ_ECORRUPT  },
};

static void bad_frames(void **state)
{
	uint8_t page[512];

	for (size_t i = 0; i < sizeof(frame_cases) / sizeof(frame_cases[0]); i++) {
		const struct frame_case *c = &frame_cases[i];
		struct fz_err err = {0};
		int rc = ltx_frame_decode((const uint8_t *)c->bytes, c->n, 7, 512, page, &err);

		if (rc != c->want)
			print_error("%s: %d %s\n", c->name, rc, err.text);
		assert_int_equal(rc, c->want);
		assert_int_equal(err.code, c->want);
	}
	assert_int_equal(ltx_frame_decode((const uint8_t *)"", 0, 7, 100, page, NULL), -FZ_ECORRUPT);
	(void)state;
}

/* ---- a source that fails ---- */

struct bad_src {
	struct fz_src src;
	struct fz_src *of;
	int reads, fail_at;
};

static int bad_read(struct fz_src *s, uint64_t off, void *data, size_t n, struct fz_err *err)
{
	struct bad_src *b = (struct bad_src *)s;

	if (++b->reads == b->fail_at)
		return fz_fail(err, FZ_ENET, "gone");
	return fz_src_read(b->of, off, data, n, err);
}

static void each_read_can_fail(void **state)
{
	struct fz_buf f = {0};
	struct fz_src *mem = NULL;
	struct make_db db;
	int rc = -1, n;

	make_init(&db, 4096, 1000, 5);
	make_resize(&db, 1000);
	make_commit(&db, &f);
	assert_int_equal(fz_src_mem(&mem, f.data, f.size, NULL), 0);
	for (n = 1; rc != 0; n++) {
		struct bad_src bad = {
		        {bad_read, NULL, f.size},
                        mem, 0, n
                };

		assert_in_range(n, 1, 100);
		rc = ltx_dec_verify(&bad.src, 0, NULL, NULL, NULL, NULL, NULL);
		assert_true(rc == 0 || rc == -FZ_ENET);
	}
	assert_true(n > 5);
	rc = -1;
	for (n = 1; rc != 0; n++) {
		struct bad_src bad = {
		        {bad_read, NULL, f.size},
                        mem, 0, n
                };
		struct ltx_index ix;

		assert_in_range(n, 1, 100);
		rc = ltx_index_read(&ix, &bad.src, 0, f.size, NULL);
		assert_true(rc == 0 || rc == -FZ_ENET);
		ltx_index_fini(&ix);
	}
	assert_true(n > 2);
	fz_src_close(mem);
	fz_buf_fini(&f);
	make_fini(&db);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(golden_files),       cmocka_unit_test(golden_files_give_the_database),
	        cmocka_unit_test(page_sizes),         cmocka_unit_test(files_back_to_back),
	        cmocka_unit_test(random_access),      cmocka_unit_test(damage),
	        cmocka_unit_test(signed_but_wrong),   cmocka_unit_test(snapshot_with_wrong_database_checksum),
	        cmocka_unit_test(lz4_frame_variants), cmocka_unit_test(bad_frames),
	        cmocka_unit_test(each_read_can_fail),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
