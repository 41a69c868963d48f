/* test_ltx_enc.c - what the encoder writes, byte by byte where the format fixes the bytes, and what it refuses. */
#include "ltx/enc.h"

#include "base/cursor.h"
#include "tests/unit/ltx_make.h"

#include <errno.h>
#include <lz4.h>

#define PAGE 512

static struct ltx_header header(uint64_t min, uint32_t commit)
{
	return (struct ltx_header){.page_size = PAGE,
	                           .commit = commit,
	                           .min_txid = min,
	                           .max_txid = min,
	                           .time_ms = 1700000000123,
	                           .pre_checksum = min == 1 ? 0 : LTX_FLAG | 7};
}

static void fill(uint8_t *page, uint32_t seed)
{
	for (size_t i = 0; i < PAGE; i++) {
		seed = seed * 1664525 + 1013904223;
		page[i] = i < PAGE / 2 ? (uint8_t)(seed >> 24) : 0; /* half noise, half zeros */
	}
}

/* One page, and every byte of the file accounted for. */
static void layout_of_one_page(void **state)
{
	struct ltx_header h = header(2, 9);
	uint8_t page[PAGE], plain[PAGE], head[LTX_HEADER_SIZE];
	uint64_t bytes = 0, crc;
	struct fz_buf buf = {0};
	struct fz_buf_sink sink;
	struct ltx_enc *e = NULL;
	struct ltx_trailer t;
	const uint8_t *p;
	struct fz_cur c;
	uint32_t lz4;

	fill(page, 1);
	fz_buf_sink_init(&sink, &buf);
	assert_int_equal(ltx_enc_open(&e, NULL), 0);
	assert_int_equal(ltx_enc_begin(e, &sink.sink, &h, NULL), 0);
	assert_int_equal(ltx_enc_page(e, 9, page, NULL), 0);
	assert_int_equal(ltx_enc_end(e, LTX_FLAG | 8, &t, &bytes, NULL), 0);
	assert_int_equal(bytes, buf.size);
	assert_int_equal(ltx_enc_pages(e), 1);
	ltx_enc_close(e);

	c = fz_cur(buf.data, buf.size);
	ltx_header_put(head, &h);
	assert_memory_equal(fz_cur_bytes(&c, LTX_HEADER_SIZE), head, LTX_HEADER_SIZE);
	p = fz_cur_bytes(&c, 10);
	assert_memory_equal(p, "\0\0\0\x09\0\x01", 6);
	lz4 = fz_be32(p + 6);
	crc = ltx_crc64(ltx_crc64(ltx_crc64(0, head, sizeof(head)), p, 10), page, PAGE);
	p = fz_cur_bytes(&c, lz4);
	assert_int_equal(LZ4_decompress_safe((const char *)p, (char *)plain, (int)lz4, PAGE), PAGE);
	assert_memory_equal(plain, page, PAGE);
	p = c.p; /* from here to the post-apply checksum all of it is in the file checksum as it stands */
	assert_memory_equal(fz_cur_bytes(&c, 6), "\0\0\0\0\0\0", 6);
	assert_int_equal(fz_cur_uvarint(&c), 9);
	assert_int_equal(fz_cur_uvarint(&c), 100);
	assert_int_equal(fz_cur_uvarint(&c), lz4 + 10);
	assert_int_equal(fz_cur_uvarint(&c), 0);
	assert_int_equal(fz_cur_be64(&c), 1 + 1 + 2 + 1);
	assert_int_equal(fz_cur_be64(&c), LTX_FLAG | 8);
	crc = ltx_crc64(crc, p, (size_t)(c.p - p));
	assert_int_equal(fz_cur_be64(&c), LTX_FLAG | crc);
	assert_true(fz_cur_ok(&c) && fz_cur_left(&c) == 0);
	assert_int_equal(t.post_checksum, LTX_FLAG | 8);
	assert_int_equal(t.file_checksum, LTX_FLAG | crc);
	fz_buf_fini(&buf);
	(void)state;
}

/* Pages given in turn; 0 ends the list. want is for the last of them, or for ltx_enc_end() when end is set. */
static const struct order_case {
	const char *name;
	uint64_t min;
	uint32_t commit, pages[5];
	bool end;
	uint64_t post;
	int want;
} order_cases[] = {
        {"ascending with gaps",           2, 9,       {1, 3, 9},          true,  LTX_FLAG,     0           },
        {"no page at all",                2, 9,       {0},                true,  LTX_FLAG,     0           },
        {"page 0",                        2, 9,       {0},                false, 0,            -FZ_EORDER  },
        {"twice the same",                2, 9,       {4, 4},             false, 0,            -FZ_EORDER  },
        {"descending",                    2, 9,       {4, 3},             false, 0,            -FZ_EORDER  },
        {"beyond commit",                 2, 9,       {4, 10},            false, 0,            -FZ_EORDER  },
        {"the lock page",                 2, 3000000, {2097152, 2097153}, false, 0,            -FZ_EORDER  },
        {"beside the lock page",          2, 3000000, {2097152, 2097154}, true,  LTX_FLAG,     0           },
        {"snapshot",                      1, 3,       {1, 2, 3},          true,  LTX_FLAG | 1, 0           },
        {"snapshot: does not start at 1", 1, 3,       {2},                false, 0,            -FZ_EORDER  },
        {"snapshot: gap",                 1, 3,       {1, 3},             false, 0,            -FZ_EORDER  },
        {"snapshot: ends early",          1, 3,       {1, 2},             true,  LTX_FLAG,     -FZ_EORDER  },
        {"post checksum without flag",    2, 9,       {1},                true,  5,            -FZ_ECORRUPT},
        {"post checksum missing",         2, 9,       {1},                true,  0,            -FZ_ECORRUPT},
};

static void order(void **state)
{
	struct ltx_enc *e = NULL;
	uint8_t page[PAGE];

	fill(page, 2);
	assert_int_equal(ltx_enc_open(&e, NULL), 0);
	for (size_t i = 0; i < sizeof(order_cases) / sizeof(order_cases[0]); i++) {
		const struct order_case *c = &order_cases[i];
		struct ltx_header h = header(c->min, c->commit);
		struct fz_buf buf = {0};
		struct fz_buf_sink sink;
		struct fz_err err = {0};
		int rc = 0, n = 0;

		fz_buf_sink_init(&sink, &buf);
		assert_int_equal(ltx_enc_begin(e, &sink.sink, &h, NULL), 0);
		do {
			assert_int_equal(rc, 0); /* all but the last must be taken */
			if (c->pages[n] || !c->end)
				rc = ltx_enc_page(e, c->pages[n], page, &err);
		} while (c->pages[n] && c->pages[++n]);
		if (c->end) {
			assert_int_equal(rc, 0);
			rc = ltx_enc_end(e, c->post, NULL, NULL, &err);
		}
		if (rc != c->want)
			print_error("%s: %d %s\n", c->name, rc, err.text);
		assert_int_equal(rc, c->want);
		fz_buf_fini(&buf);
	}
	ltx_enc_close(e);
	(void)state;
}

static void header_is_checked(void **state)
{
	struct ltx_header h = header(2, 0);
	struct fz_buf buf = {0};
	struct fz_buf_sink sink;
	struct ltx_enc *e = NULL;
	uint8_t page[PAGE] = {0};

	fz_buf_sink_init(&sink, &buf);
	assert_int_equal(ltx_enc_open(&e, NULL), 0);
	assert_int_equal(ltx_enc_page(e, 1, page, NULL), -FZ_EINTERNAL); /* before any begin() */
	assert_int_equal(ltx_enc_begin(e, &sink.sink, &h, NULL), -FZ_ECORRUPT);
	assert_int_equal(ltx_enc_page(e, 1, page, NULL), -FZ_EINTERNAL);
	assert_int_equal(ltx_enc_end(e, LTX_FLAG, NULL, NULL, NULL), -FZ_EINTERNAL);
	h = header(3, 1);
	h.pre_checksum = 0;
	assert_int_equal(ltx_enc_begin(e, &sink.sink, &h, NULL), -FZ_ECORRUPT);
	assert_int_equal(buf.size, 0);
	ltx_enc_close(e);
	ltx_enc_close(NULL);
	fz_buf_fini(&buf);
	(void)state;
}

/* What a used encoder writes does not depend on what it wrote before. */
static void encoder_is_reusable(void **state)
{
	struct fz_buf first = {0}, again = {0};
	struct make_db db;
	struct ltx_enc *e = NULL;
	struct fz_buf_sink sink;

	make_init(&db, 4096, 64, 3);
	make_resize(&db, 40);
	db.sum = make_sum(&db);
	make_file(&db, 1, 1, 0, db.sum, true, &first);

	assert_int_equal(ltx_enc_open(&e, NULL), 0);
	for (int round = 0; round < 3; round++) {
		struct ltx_header h = {
		        .page_size = 4096, .commit = 40, .min_txid = 1, .max_txid = 1, .time_ms = 1700000000001};

		fz_buf_reset(&again);
		fz_buf_sink_init(&sink, &again);
		assert_int_equal(ltx_enc_begin(e, &sink.sink, &h, NULL), 0);
		for (uint32_t pgno = 1; pgno <= 40; pgno++)
			assert_int_equal(ltx_enc_page(e, pgno, make_page(&db, pgno), NULL), 0);
		if (round == 0) /* left in the middle: begin() starts anew */
			continue;
		assert_int_equal(ltx_enc_end(e, db.sum, NULL, NULL, NULL), 0);
		assert_int_equal(again.size, first.size);
		assert_memory_equal(again.data, first.data, first.size);
	}
	ltx_enc_close(e);
	make_fini(&db);
	fz_buf_fini(&first);
	fz_buf_fini(&again);
	(void)state;
}

/* Fails its n-th write. */
struct bad_sink {
	struct fz_sink sink;
	int writes, fail_at;
};

static int bad_write(struct fz_sink *s, const void *data, size_t n, struct fz_err *err)
{
	struct bad_sink *b = (struct bad_sink *)s;

	(void)data;
	(void)n;
	return ++b->writes == b->fail_at ? fz_fail_errno(err, ENOSPC, "writing") : 0;
}

static int encode_into(struct ltx_enc *e, struct make_db *db, struct fz_sink *sink)
{
	struct ltx_header h = {.page_size = db->page_size, .commit = db->commit, .min_txid = 1, .max_txid = 1};
	int rc = ltx_enc_begin(e, sink, &h, NULL);

	for (uint32_t pgno = 1; rc == 0 && pgno <= db->commit; pgno++)
		rc = ltx_enc_page(e, pgno, make_page(db, pgno), NULL);
	return rc < 0 ? rc : ltx_enc_end(e, LTX_FLAG | 1, NULL, NULL, NULL);
}

static void each_write_can_fail(void **state)
{
	struct ltx_enc *e = NULL;
	struct make_db db;
	int rc = -1, n;

	make_init(&db, 4096, 100, 4);
	make_resize(&db, 100);
	assert_int_equal(ltx_enc_open(&e, NULL), 0);
	for (n = 1; rc != 0; n++) {
		struct bad_sink bad = {{bad_write}, 0, n};

		assert_in_range(n, 1, 100);
		rc = encode_into(e, &db, &bad.sink);
		if (rc != 0) {
			assert_int_equal(rc, -ENOSPC);
			assert_int_equal(bad.writes, n); /* nothing is written after a failure */
			assert_int_equal(ltx_enc_end(e, LTX_FLAG, NULL, NULL, NULL), -FZ_EINTERNAL);
			assert_int_equal(bad.writes, n);
		}
	}
	assert_true(n > 3); /* it did fail, more than once */
	ltx_enc_close(e);
	make_fini(&db);
	(void)state;
}

static void ready_made_blocks(void **state)
{
	struct ltx_header h = header(2, 9);
	struct fz_buf a = {0}, b = {0};
	struct fz_buf_sink sink;
	struct ltx_enc *e = NULL;
	uint8_t page[PAGE];
	uint32_t lz4;

	fill(page, 5);
	assert_int_equal(ltx_enc_open(&e, NULL), 0);
	fz_buf_sink_init(&sink, &a);
	assert_int_equal(ltx_enc_begin(e, &sink.sink, &h, NULL), 0);
	assert_int_equal(ltx_enc_page(e, 4, page, NULL), 0);
	assert_int_equal(ltx_enc_end(e, LTX_FLAG, NULL, NULL, NULL), 0);
	lz4 = fz_be32(a.data + 106);
	fz_buf_sink_init(&sink, &b);
	assert_int_equal(ltx_enc_begin(e, &sink.sink, &h, NULL), 0);
	assert_int_equal(ltx_enc_page_lz4(e, 4, page, a.data + 110, 0, NULL), -FZ_EINTERNAL);
	assert_int_equal(ltx_enc_page_lz4(e, 4, page, a.data + 110, 70000, NULL), -FZ_EINTERNAL);
	assert_int_equal(ltx_enc_page_lz4(e, 10, page, a.data + 110, lz4, NULL), -FZ_EORDER);
	assert_int_equal(ltx_enc_page_lz4(e, 4, page, a.data + 110, lz4, NULL), 0);
	assert_int_equal(ltx_enc_end(e, LTX_FLAG, NULL, NULL, NULL), 0);
	assert_int_equal(a.size, b.size);
	assert_memory_equal(a.data, b.data, a.size);
	ltx_enc_close(e);
	fz_buf_fini(&a);
	fz_buf_fini(&b);
	(void)state;
}

/* A snapshot over 1 GiB leaves exactly the lock page out. */
static void snapshot_across_the_lock_page(void **state)
{
	struct ltx_header h = {.page_size = 65536, .commit = 16387, .min_txid = 1, .max_txid = 1};
	struct fz_buf buf = {0};
	struct fz_buf_sink sink;
	struct fz_src *src = NULL;
	struct ltx_index ix;
	struct ltx_enc *e = NULL;
	uint8_t *page = calloc(1, 65536);

	assert_non_null(page);
	fz_buf_sink_init(&sink, &buf);
	assert_int_equal(ltx_enc_open(&e, NULL), 0);
	assert_int_equal(ltx_enc_begin(e, &sink.sink, &h, NULL), 0);
	for (uint32_t pgno = 1; pgno <= 16384; pgno++)
		assert_int_equal(ltx_enc_page(e, pgno, page, NULL), 0);
	assert_int_equal(ltx_enc_page(e, 16385, page, NULL), -FZ_EORDER);
	assert_int_equal(ltx_enc_page(e, 16387, page, NULL), -FZ_EORDER);
	assert_int_equal(ltx_enc_page(e, 16386, page, NULL), 0);
	assert_int_equal(ltx_enc_page(e, 16387, page, NULL), 0);
	assert_int_equal(ltx_enc_end(e, LTX_FLAG | 1, NULL, NULL, NULL), 0);
	assert_int_equal(ltx_enc_pages(e), 16386);
	assert_int_equal(fz_src_mem(&src, buf.data, buf.size, NULL), 0);
	assert_int_equal(ltx_index_read(&ix, src, 0, buf.size, NULL), 0);
	assert_int_equal(ix.n, 16386);
	assert_null(ltx_index_find(&ix, 16385));
	ltx_index_fini(&ix);
	fz_src_close(src);
	ltx_enc_close(e);
	fz_buf_fini(&buf);
	free(page);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(layout_of_one_page),
	        cmocka_unit_test(order),
	        cmocka_unit_test(header_is_checked),
	        cmocka_unit_test(encoder_is_reusable),
	        cmocka_unit_test(each_write_can_fail),
	        cmocka_unit_test(ready_made_blocks),
	        cmocka_unit_test(snapshot_across_the_lock_page),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
