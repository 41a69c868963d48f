/* test_ltx_pack.c - packs: each file is found again through the index, and no wrong index is believed. */
#include "ltx/pack.h"

#include "base/cursor.h"
#include "tests/unit/ltx_make.h"

enum { N = 5 };

/* A pack of N transactions of a small database. */
static void make_pack(struct fz_buf *out, struct ltx_pack_entry want[N])
{
	struct ltx_pack_writer w = {0};
	struct fz_buf_sink sink;
	struct make_db db;

	make_init(&db, 512, 20, 1);
	make_resize(&db, 20);
	db.txid = 6;
	for (uint32_t i = 0; i < N; i++) {
		make_change(&db, 3 + i);
		want[i] = (struct ltx_pack_entry){.min_txid = 7 + i,
		                                  .max_txid = 7 + i,
		                                  .time_ms = 1700000000000 + (int64_t)i,
		                                  .off_bytes = out->size,
		                                  .pages = i ? 1 : 20,
		                                  .commit = 20};
		want[i].size_bytes = make_commit(&db, out);
		want[i].off_bytes += 1000; /* not looked at */
		assert_int_equal(ltx_pack_note(&w, &want[i], NULL), 0);
		want[i].off_bytes -= 1000;
		assert_int_equal(w.off_bytes, out->size);
	}
	fz_buf_sink_init(&sink, out);
	assert_int_equal(ltx_pack_finish(&w, &sink.sink, NULL), 0);
	ltx_pack_writer_fini(&w);
	make_fini(&db);
}

static int read_index(const uint8_t *data, size_t size, struct ltx_pack_index *ix, struct fz_err *err)
{
	struct fz_src *src = NULL;
	int rc;

	assert_int_equal(fz_src_mem(&src, data, size, NULL), 0);
	rc = ltx_pack_index_read(ix, src, err);
	fz_src_close(src);
	return rc;
}

static void layout(void **state)
{
	struct ltx_pack_entry want[N];
	struct fz_buf f = {0};
	struct fz_cur c;
	size_t index;
	uint64_t crc;

	make_pack(&f, want);
	index = f.size - 24 - N * 48;
	crc = ltx_crc64(0, f.data + index, N * 48);
	c = fz_cur(f.data + index, f.size - index);
	for (int i = 0; i < N; i++) {
		assert_int_equal(fz_cur_be64(&c), want[i].min_txid);
		assert_int_equal(fz_cur_be64(&c), want[i].max_txid);
		assert_int_equal(fz_cur_be64(&c), want[i].time_ms);
		assert_int_equal(fz_cur_be64(&c), want[i].off_bytes);
		assert_int_equal(fz_cur_be64(&c), want[i].size_bytes);
		assert_int_equal(fz_cur_be32(&c), want[i].pages);
		assert_int_equal(fz_cur_be32(&c), want[i].commit);
	}
	assert_int_equal(fz_cur_be64(&c), N);
	assert_int_equal(fz_cur_be64(&c), crc);
	assert_memory_equal(fz_cur_bytes(&c, 8), "FZPACK01", 8);
	assert_int_equal(fz_cur_left(&c), 0);
	fz_buf_fini(&f);
	(void)state;
}

static void files_are_found(void **state)
{
	struct ltx_pack_entry want[N];
	struct ltx_pack_index ix;
	struct fz_src *src = NULL;
	struct fz_buf f = {0};

	make_pack(&f, want);
	assert_int_equal(fz_src_mem(&src, f.data, f.size, NULL), 0);
	assert_int_equal(ltx_pack_index_read(&ix, src, NULL), 0);
	assert_int_equal(ix.n, N);
	for (int i = 0; i < N; i++) {
		struct ltx_header h;
		uint64_t bytes;
		uint32_t pages;

		assert_memory_equal(&ix.e[i], &want[i], sizeof(want[i]));
		assert_int_equal(ltx_dec_verify(src, ix.e[i].off_bytes, &h, NULL, &bytes, &pages, NULL), 0);
		assert_int_equal(bytes, ix.e[i].size_bytes);
		assert_int_equal(h.min_txid, ix.e[i].min_txid);
		assert_int_equal(h.commit, ix.e[i].commit);
		assert_int_equal(pages, ix.e[i].pages);
	}
	ltx_pack_index_fini(&ix);
	ltx_pack_index_fini(&ix);
	fz_src_close(src);
	fz_buf_fini(&f);
	(void)state;
}

static void every_byte_of_the_index_counts(void **state)
{
	struct ltx_pack_entry want[N];
	struct ltx_pack_index ix;
	struct fz_buf f = {0};

	make_pack(&f, want);
	for (size_t i = f.size - 24 - N * 48; i < f.size; i++) {
		f.data[i] ^= 0x40;
		assert_true(read_index(f.data, f.size, &ix, NULL) < 0);
		assert_null(ix.e);
		f.data[i] ^= 0x40;
	}
	for (size_t i = 0; i < f.size; i++)
		assert_true(read_index(f.data, i, &ix, NULL) < 0);
	/* something before it: the offsets do not say so */
	assert_true(read_index(f.data + 1, f.size - 1, &ix, NULL) < 0);
	fz_buf_fini(&f);
	(void)state;
}

static const struct pack_case {
	const char *name;
	int entry;
	size_t at, bytes;
	uint64_t value;
	int want;
} cases[] = {
        {"as it is",                     0,     0,  8, 7,          0           },
        {"TXID 0",                       0,     0,  8, 0,          -FZ_ECORRUPT},
        {"max < min",                    0,     8,  8, 6,          -FZ_ECORRUPT},
        {"gap",                          2,     8,  8, 10,         -FZ_ECORRUPT},
        {"overlap",                      2,     0,  8, 8,          -FZ_ECORRUPT},
        {"last max: a range is fine",    N - 1, 8,  8, 999,        0           },
        {"time: not judged",             2,     16, 8, 1,          0           },
        {"first offset",                 0,     24, 8, 1,          -FZ_ECORRUPT},
        {"offset",                       2,     24, 8, 1,          -FZ_ECORRUPT},
        {"offset of 2^64 - 1",           2,     24, 8, UINT64_MAX, -FZ_ECORRUPT},
        {"length 0",                     2,     32, 8, 0,          -FZ_ECORRUPT},
        {"length too large",             N - 1, 32, 8, 100000,     -FZ_ECORRUPT},
        {"length of 2^64 - 1",           N - 1, 32, 8, UINT64_MAX, -FZ_ECORRUPT},
        {"length of the last too small", N - 1, 32, 8, 150,        -FZ_ECORRUPT},
        {"more pages than the database", 1,     40, 4, 21,         -FZ_ECORRUPT},
};

/* Wrong entries under a right checksum. */
static void wrong_entries(void **state)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const struct pack_case *c = &cases[i];
		struct ltx_pack_entry want[N];
		struct ltx_pack_index ix;
		struct fz_err err = {0};
		struct fz_buf f = {0};
		uint8_t *index;
		int rc;

		make_pack(&f, want);
		index = f.data + f.size - 24 - N * 48;
		if (c->bytes == 8)
			fz_put64(index + c->entry * 48 + c->at, c->value);
		else
			fz_put32(index + c->entry * 48 + c->at, (uint32_t)c->value);
		fz_put64(f.data + f.size - 16, ltx_crc64(0, index, N * 48));
		rc = read_index(f.data, f.size, &ix, &err);
		if (rc != c->want)
			print_error("%s: %d %s\n", c->name, rc, err.text);
		assert_int_equal(rc, c->want);
		ltx_pack_index_fini(&ix);
		fz_buf_fini(&f);
	}
	(void)state;
}

static void writer_checks_too(void **state)
{
	struct ltx_pack_entry e = {.min_txid = 5, .max_txid = 9, .size_bytes = 500, .pages = 1, .commit = 3};
	struct ltx_pack_writer w = {0};

	assert_int_equal(ltx_pack_note(&w, &e, NULL), 0);
	assert_int_equal(ltx_pack_note(&w, &e, NULL), -FZ_ECORRUPT); /* the same again */
	e.min_txid = e.max_txid = 11;
	assert_int_equal(ltx_pack_note(&w, &e, NULL), -FZ_ECORRUPT); /* 10 is missing */
	e.min_txid = 10;
	e.size_bytes = 0;
	assert_int_equal(ltx_pack_note(&w, &e, NULL), -FZ_ECORRUPT);
	assert_int_equal(w.off_bytes, 500);
	assert_int_equal(w.entries.size, 48);
	ltx_pack_writer_fini(&w);
	(void)state;
}

static void other_objects(void **state)
{
	static const uint8_t zero[100];
	struct ltx_pack_index ix;
	struct ltx_pack_writer w = {0};
	struct fz_buf_sink sink;
	struct fz_buf f = {0};

	assert_int_equal(read_index(zero, 0, &ix, NULL), -FZ_ETRUNCATED);
	assert_int_equal(read_index(zero, 100, &ix, NULL), -FZ_ECORRUPT);
	fz_buf_sink_init(&sink, &f);
	assert_int_equal(ltx_pack_finish(&w, &sink.sink, NULL), 0);
	assert_int_equal(f.size, 24); /* an empty pack */
	assert_int_equal(read_index(f.data, f.size, &ix, NULL), 0);
	assert_int_equal(ix.n, 0);
	ltx_pack_index_fini(&ix);
	f.data[23] = '2';
	assert_int_equal(read_index(f.data, f.size, &ix, NULL), -FZ_EVERSION);
	f.data[23] = '1';
	fz_put64(f.data, UINT64_MAX); /* so many entries that n * 48 overflows */
	assert_int_equal(read_index(f.data, f.size, &ix, NULL), -FZ_ECORRUPT);
	fz_buf_fini(&f);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(layout),        cmocka_unit_test(files_are_found),
	        cmocka_unit_test(wrong_entries), cmocka_unit_test(every_byte_of_the_index_counts),
	        cmocka_unit_test(other_objects), cmocka_unit_test(writer_checks_too),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
