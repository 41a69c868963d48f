/* test_primary_pack.c - packs cut out of a log; cursors and spool files on disk. */
#include "ltx/pack.h"
#include "primary/cursor.h"
#include "primary/pack.h"
#include "primary/spool.h"
#include "tests/unit/primary_fix.h"

#define T0 INT64_C(1700000000000)

static int setup(void **state)
{
	struct fix *f = fix_new();

	for (int i = 0; i < 60; i++) /* a commit a second; several segments of 16 KiB */
		fix_commit_at(f, T0 + i * 1000);
	*state = f;
	return 0;
}

static int build(struct fix *f, uint64_t from, const struct primary_pack_limit *l, struct primary_pack_result *r,
                 struct ltx_pack_index *ix, struct fz_buf *out)
{
	struct fz_buf_sink sink;
	struct fz_src *src = NULL;
	int rc;

	fz_buf_reset(out);
	fz_buf_sink_init(&sink, out);
	rc = primary_pack_build(f->log, from, l, &sink.sink, r, &f->err);
	if (rc < 0)
		return rc;
	OK(fz_src_mem(&src, out->data, out->size, &f->err));
	OK(ltx_pack_index_read(ix, src, &f->err));
	assert_int_equal(ix->n, r->entries);
	assert_int_equal(ix->e[0].min_txid, r->min_txid);
	assert_int_equal(ix->e[ix->n - 1].max_txid, r->max_txid);
	for (uint64_t i = 0; i < ix->n; i++) { /* each file decodes where the index says, and is the right one */
		struct ltx_header h;
		struct ltx_trailer t;
		uint64_t bytes;
		uint32_t pages;

		OK(ltx_dec_verify(src, ix->e[i].off_bytes, &h, &t, &bytes, &pages, &f->err));
		assert_int_equal(bytes, ix->e[i].size_bytes);
		assert_int_equal(pages, ix->e[i].pages);
		assert_int_equal(h.commit, ix->e[i].commit);
		assert_int_equal(t.post_checksum, f->sums[h.max_txid]);
	}
	assert_int_equal(r->post_checksum, f->sums[r->max_txid]);
	fz_src_close(src);
	return 0;
}

static void test_limits(void **state)
{
	static const struct row {
		const char *name;
		uint64_t from;
		struct primary_pack_limit l;
		uint64_t min_last, max_last; /* where it must end */
	} rows[] = {
	        {"everything, over segments",      1,  {60, UINT64_MAX, 10000, 0, 0, 0},         60, 60},
	        {"up to a TXID",                   1,  {17, UINT64_MAX, 10000, 0, 0, 0},         17, 17},
	        {"from the middle",                31, {60, UINT64_MAX, 10000, 0, 0, 0},         60, 60},
	        {"entries",                        11, {60, UINT64_MAX, 7, 0, 0, 0},             17, 17},
	        {"bytes",	                  1,  {60, 4096, 10000, 0, 0, 0},               2,  40},
	        {"one file larger than the limit", 5,  {60, 1, 10000, 0, 0, 0},                  5,  5 },
	        {"window of 10 s",                 13, {60, UINT64_MAX, 10000, 10000, 0, 0},     20, 20},
	        {"before a moment",                1,  {60, UINT64_MAX, 10000, 0, T0 + 5000, 0}, 5,  5 },
	};
	struct fix *f = *state;
	struct fz_buf out = {0};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct primary_pack_result r;
		struct ltx_pack_index ix;

		if (build(f, rows[i].from, &rows[i].l, &r, &ix, &out) < 0)
			fail_msg("%s: %s", rows[i].name, f->err.text);
		if (r.min_txid != rows[i].from || r.max_txid < rows[i].min_last || r.max_txid > rows[i].max_last)
			fail_msg("%s: %llu-%llu", rows[i].name, (unsigned long long)r.min_txid,
			         (unsigned long long)r.max_txid);
		assert_int_equal(r.first_ms, T0 + (int64_t)(r.min_txid - 1) * 1000);
		assert_int_equal(r.last_ms, T0 + (int64_t)(r.max_txid - 1) * 1000);
		ltx_pack_index_fini(&ix);
	}
	fz_buf_fini(&out);
}

static void test_nothing_and_gaps(void **state)
{
	struct fix *f = *state;
	struct primary_pack_limit l = {60, UINT64_MAX, 10000, 0, 0, 0};
	struct primary_pack_result r;
	struct ltx_pack_index ix;
	struct fz_buf out = {0};

	assert_int_equal(build(f, 61, &l, &r, &ix, &out), -FZ_ENOTFOUND);
	l.before_ms = T0;
	assert_int_equal(build(f, 1, &l, &r, &ix, &out), -FZ_ENOTFOUND);
	l.before_ms = 0;
	OK(ltx_log_sync(f->log, &f->err));
	OK(ltx_log_fold(f->log, 20, NULL, &f->err));
	assert_int_equal(build(f, 15, &l, &r, &ix, &out), -FZ_EGAP);
	OK(build(f, 21, &l, &r, &ix, &out));
	ltx_pack_index_fini(&ix);
	/* a range that began before: not by itself any more; one that begins there: fine, as one */
	for (int i = 60; i < 300; i++)
		fix_commit_at(f, T0 + i * 1000);
	l.max_txid = 300;
	OK(ltx_log_squash(f->log, 21, 299, &f->err));
	{
		struct ltx_log_entry e;
		uint64_t at = 21;

		OK(ltx_log_find(f->log, at, &e, &f->err));
		while (e.e.min_txid == e.e.max_txid) {
			at = e.e.max_txid + 1;
			OK(ltx_log_find(f->log, at, &e, &f->err));
		}
		OK(build(f, e.e.min_txid, &l, &r, &ix, &out));
		assert_int_equal(ix.e[0].max_txid, e.e.max_txid);
		ltx_pack_index_fini(&ix);
		assert_int_equal(build(f, e.e.min_txid + 1, &l, &r, &ix, &out), -FZ_EGAP);
		/* ranges that begin at or below a TXID are left out: it ends before them, and does not begin with one */
		l.coarse_txid = e.e.min_txid - 1;
		OK(build(f, e.e.min_txid, &l, &r, &ix, &out));
		ltx_pack_index_fini(&ix);
		l.coarse_txid = e.e.min_txid;
		assert_int_equal(build(f, e.e.min_txid, &l, &r, &ix, &out), -FZ_EGAP);
		if (e.e.min_txid > 21) {
			OK(build(f, 21, &l, &r, &ix, &out));
			assert_int_equal(r.max_txid, e.e.min_txid - 1);
			assert_int_equal(r.entries, e.e.min_txid - 21);
			ltx_pack_index_fini(&ix);
		}
		l.coarse_txid = 300;
		OK(build(f, 300, &l, &r, &ix, &out)); /* single ones are as good as ever */
		ltx_pack_index_fini(&ix);
	}
	fz_buf_fini(&out);
}

static void test_cursor(void **state)
{
	struct fix *f = *state;
	struct primary_cursor a, b;
	struct fz_buf text = {0};

	primary_cursor_init(&a, "00112233445566aa");
	assert_int_equal(primary_cursor_load(&b, f->statefd, &f->err), -ENOENT);
	a.epoch = 3;
	a.claim = 0xfffffff0;
	a.txid = UINT64_MAX - 5;
	a.checksum = LTX_FLAG | 77;
	a.held_txid = 12;
	a.anchor_wait = true;
	a.levels.first_ms[3] = T0;
	a.levels.from_txid[5] = 99;
	a.levels.packs[2] = 4;
	a.levels.need_snapshot = true;
	OK(primary_cursor_save(&a, f->statefd, &f->err));
	primary_cursor_init(&b, "x");
	OK(primary_cursor_load(&b, f->statefd, &f->err));
	assert_memory_equal(&a, &b, sizeof(a));
	/* each byte matters */
	OK(fz_read_file(f->statefd, "cursor", 4096, &text, &f->err));
	for (size_t i = 0; i < text.size; i++) {
		text.data[i] ^= 1;
		OK(fz_write_file(f->statefd, "cursor", text.data, text.size, 0600, &f->err));
		text.data[i] ^= 1;
		primary_cursor_init(&b, "x");
		if (primary_cursor_load(&b, f->statefd, &f->err) == 0) /* a newline at the end is all that may change */
			assert_int_equal(i, text.size - 1);
	}
	fz_buf_fini(&text);
}

static void test_spool(void **state)
{
	struct fix *f = *state;
	struct ltx_name name = {"00112233445566aa", 1, 0, 5, 9, T0, T0 + 1, LTX_FLAG | 5, true}, *list;
	struct ltx_age_identities ids = {&f->id, 1};
	struct fz_src *src = NULL, *plain = NULL, *again = NULL;
	struct primary_spool s;
	char key[LTX_NAME_MAX], key2[LTX_NAME_MAX];
	uint8_t got[5], x[512], y[512];
	size_t n;

	OK(primary_spool_begin(&s, f->statefd, PRIMARY_SPOOL_OBJECT, &f->to, 1, &f->err));
	OK(fz_sink_write(s.sink, "hello", 5, &f->err));
	OK(primary_spool_list(f->statefd, false, false, &list, &n, &f->err));
	assert_int_equal(n, 0); /* not before it is complete */
	free(list);
	OK(primary_spool_commit(&s, &name, &f->err));
	OK(primary_spool_src(&s, &src, &f->err));
	primary_spool_fini(&s);
	OK(ltx_age_src(&plain, src, &ids, &f->err));
	assert_int_equal(plain->size_bytes, 5);
	OK(fz_src_read(plain, 0, got, 5, &f->err));
	assert_memory_equal(got, "hello", 5);
	/* found again, the same bytes */
	OK(primary_spool_list(f->statefd, false, false, &list, &n, &f->err));
	assert_int_equal(n, 1);
	assert_string_equal(ltx_name_put(key, &list[0]), ltx_name_put(key2, &name));
	OK(primary_spool_open(f->statefd, &list[0], false, &again, &f->err));
	assert_int_equal(again->size_bytes, src->size_bytes);
	assert_in_range(src->size_bytes, 100, sizeof(x));
	OK(fz_src_read(src, 0, x, src->size_bytes, &f->err));
	OK(fz_src_read(again, 0, y, src->size_bytes, &f->err));
	assert_memory_equal(x, y, src->size_bytes);
	free(list);
	fz_src_close(plain);
	fz_src_close(src);
	fz_src_close(again);
	/* what was not finished leaves nothing */
	OK(primary_spool_begin(&s, f->statefd, PRIMARY_SPOOL_PLAIN, NULL, 0, &f->err));
	primary_spool_fini(&s);
	primary_spool_drop(f->statefd, &name, false);
	OK(primary_spool_list(f->statefd, false, false, &list, &n, &f->err));
	assert_int_equal(n, 0);
	free(list);
	/* in memory */
	OK(primary_spool_begin(&s, f->statefd, PRIMARY_SPOOL_MEMORY, NULL, 0, &f->err));
	OK(fz_sink_write(s.sink, "hello", 5, &f->err));
	OK(primary_spool_commit(&s, &name, &f->err));
	OK(primary_spool_src(&s, &src, &f->err));
	assert_int_equal(src->size_bytes, 5);
	fz_src_close(src);
	primary_spool_fini(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(test_limits, setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_nothing_and_gaps, setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_cursor, setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_spool, setup, fix_teardown),
	};

	return cmocka_run_group_tests_name("primary_pack", tests, NULL, NULL);
}
