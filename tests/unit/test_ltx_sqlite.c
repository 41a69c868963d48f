/* test_ltx_sqlite.c - commits of a real SQLite as LTX: what is decoded and merged must be SQLite's own file.
 *
 *   test_ltx_sqlite         checks with our decoder, in a temporary directory
 *   test_ltx_sqlite DIR     leaves the files in DIR for another judge (tests/e2e/ltx-go.sh):
 *     DIR/<history>/<min>-<max>.ltx     each commit; after-<txid>.db  the database after it
 *     DIR/<history>/m-<min>-<max>.ltx   merges of ranges */
#include "ltx/merge.h"

#include "base/file.h"
#include "tests/unit/ltx_make.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#define COMMITS 12

static char top[256];

static const struct history {
	const char *name;
	uint32_t page_size;
	const char *vacuum; /* the last commit */
} histories[] = {
        {"page-512",          512,   "VACUUM"                         },
        {"page-4096",         4096,  "VACUUM"                         },
        {"page-65536",        65536, "VACUUM"                         },
        {"page-size-changes", 1024,  "PRAGMA page_size = 8192; VACUUM"},
};

static void run(sqlite3 *db, const char *sql)
{
	char *message = NULL;

	if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK)
		fail_msg("%s: %s", sql, message);
}

/* Growth, change, shrinking: what a database goes through. */
static void transaction(sqlite3 *db, int i, const struct history *h)
{
	char sql[512];

	if (i == 1) {
		snprintf(sql, sizeof(sql),
		         "PRAGMA page_size = %u; PRAGMA auto_vacuum = INCREMENTAL;"
		         "PRAGMA journal_mode = DELETE; CREATE TABLE t(a INTEGER PRIMARY KEY, b, c)",
		         h->page_size);
	} else if (i == COMMITS) {
		snprintf(sql, sizeof(sql), "%s", h->vacuum);
	} else if (i % 4 == 0) {
		snprintf(sql, sizeof(sql), "BEGIN; DELETE FROM t WHERE a %% 3 = %d; PRAGMA incremental_vacuum; COMMIT",
		         i % 3);
	} else if (i % 4 == 1) {
		snprintf(sql, sizeof(sql), "UPDATE t SET b = b || 'x', c = zeroblob(300) WHERE a %% 50 = %d", i);
	} else {
		snprintf(sql, sizeof(sql),
		         "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)"
		         "INSERT INTO t(b, c) SELECT 'commit %d row ' || i, randomblob(i %% 400) FROM n",
		         i * 100, i);
	}
	run(db, sql);
}

static void read_file(struct fz_buf *out, const char *path)
{
	fz_buf_reset(out);
	assert_int_equal(fz_read_file(AT_FDCWD, path, 64 << 20, out, NULL), 0);
}

static uint64_t sum_of(const struct fz_buf *db, uint32_t page_size)
{
	uint64_t sum = LTX_EMPTY_DB;

	for (uint32_t i = 0; i < db->size / page_size; i++)
		sum = ltx_db_checksum_swap(sum, 0,
		                           ltx_page_checksum(i + 1, db->data + (size_t)i * page_size, page_size));
	return sum;
}

/* The pages in which now differs from before, as LTX; returns the checksum after it. */
static uint64_t encode(const struct fz_buf *before, const struct fz_buf *now, uint32_t old_size, uint32_t page_size,
                       uint64_t txid, uint64_t pre, struct fz_buf *out)
{
	struct ltx_header h = {.page_size = page_size,
	                       .commit = (uint32_t)(now->size / page_size),
	                       .min_txid = txid,
	                       .max_txid = txid,
	                       .time_ms = 1700000000000 + (int64_t)txid,
	                       .pre_checksum = txid == 1 ? 0 : pre};
	bool all = old_size != page_size;
	uint64_t sum = all ? LTX_EMPTY_DB : pre;
	struct fz_buf_sink sink;
	struct ltx_enc *e = NULL;

	fz_buf_reset(out);
	fz_buf_sink_init(&sink, out);
	assert_int_equal(ltx_enc_open(&e, NULL), 0);
	assert_int_equal(ltx_enc_begin(e, &sink.sink, &h, NULL), 0);
	for (uint32_t pgno = 1; pgno <= h.commit; pgno++) {
		size_t off = (size_t)(pgno - 1) * page_size;
		const uint8_t *old = !all && off < before->size ? before->data + off : NULL;

		if (old && memcmp(old, now->data + off, page_size) == 0)
			continue;
		sum = ltx_db_checksum_swap(sum, old ? ltx_page_checksum(pgno, old, page_size) : 0,
		                           ltx_page_checksum(pgno, now->data + off, page_size));
		assert_int_equal(ltx_enc_page(e, pgno, now->data + off, NULL), 0);
	}
	for (size_t off = now->size; !all && off < before->size; off += page_size)
		sum = ltx_db_checksum_swap(
		        sum, ltx_page_checksum((uint32_t)(off / page_size) + 1, before->data + off, page_size), 0);
	assert_int_equal(ltx_enc_end(e, sum, NULL, NULL, NULL), 0);
	ltx_enc_close(e);
	return sum;
}

/* Plays an LTX file into db. */
static void apply(struct fz_buf *db, const struct fz_buf *ltx)
{
	struct fz_src *src = NULL;
	struct ltx_dec *d = NULL;
	const struct ltx_header *h;
	const uint8_t *page;
	uint32_t pgno;
	size_t size;
	int rc;

	assert_int_equal(fz_src_mem(&src, ltx->data, ltx->size, NULL), 0);
	assert_int_equal(ltx_dec_open(&d, src, 0, NULL), 0);
	h = ltx_dec_header(d);
	size = (size_t)h->commit * h->page_size;
	if (size > db->size) {
		assert_non_null(fz_buf_room(db, size - db->size));
		memset(db->data + db->size, 0, size - db->size);
	}
	db->size = size;
	while ((rc = ltx_dec_page(d, &pgno, &page, NULL)) == 1)
		memcpy(db->data + (size_t)(pgno - 1) * h->page_size, page, h->page_size);
	assert_int_equal(rc, 0);
	assert_int_equal(sum_of(db, h->page_size), ltx_dec_end(d, NULL)->post_checksum);
	ltx_dec_close(d);
	fz_src_close(src);
}

static void merge(const struct fz_buf *files, uint64_t from, uint64_t to, struct fz_buf *out)
{
	struct ltx_merge_input in[COMMITS];
	struct fz_buf_sink sink;
	struct fz_err err = {0};

	for (uint64_t i = from; i <= to; i++) {
		assert_int_equal(fz_src_mem(&in[i - from].src, files[i].data, files[i].size, NULL), 0);
		in[i - from].off_bytes = 0;
		in[i - from].size_bytes = files[i].size;
	}
	fz_buf_reset(out);
	fz_buf_sink_init(&sink, out);
	if (ltx_merge_array(in, to - from + 1, &sink.sink, NULL, &err) != 0)
		fail_msg("%s", err.text);
	for (uint64_t i = from; i <= to; i++)
		fz_src_close(in[i - from].src);
}

static void write_file(const char *dir, const char *prefix, uint64_t min, uint64_t max, const struct fz_buf *f)
{
	char path[600];

	snprintf(path, sizeof(path), "%s/%s%016llx-%016llx.ltx", dir, prefix, (unsigned long long)min,
	         (unsigned long long)max);
	assert_int_equal(fz_write_file(AT_FDCWD, path, f->data, f->size, 0644, NULL), 0);
}

static void one_history(const struct history *h)
{
	struct fz_buf state[COMMITS + 1] = {0}, files[COMMITS + 1] = {0}, got = {0}, m = {0};
	char dir[300], path[600];
	uint32_t old_size = h->page_size, shrunk = 0;
	uint64_t sum = LTX_EMPTY_DB;
	sqlite3 *db = NULL;

	snprintf(dir, sizeof(dir), "%s/%s", top, h->name);
	assert_int_equal(mkdir(dir, 0755), 0);
	snprintf(path, sizeof(path), "%s/live.db", dir);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	for (int i = 1; i <= COMMITS; i++) {
		uint32_t page_size;

		transaction(db, i, h);
		read_file(&state[i], path);
		page_size = (uint32_t)(state[i].data[16] << 8 | state[i].data[17]);
		page_size = page_size == 1 ? 65536 : page_size;
		sum = encode(&state[i - 1], &state[i], old_size, page_size, (uint64_t)i, sum, &files[i]);
		old_size = page_size;
		shrunk += state[i].size < state[i - 1].size;
		assert_int_equal(sum, sum_of(&state[i], page_size));
		apply(&got, &files[i]);
		assert_int_equal(got.size, state[i].size);
		assert_memory_equal(got.data, state[i].data, got.size);
		write_file(dir, "", (uint64_t)i, (uint64_t)i, &files[i]);
		snprintf(path, sizeof(path), "%s/after-%016x.db", dir, i);
		assert_int_equal(fz_write_file(AT_FDCWD, path, state[i].data, state[i].size, 0644, NULL), 0);
		snprintf(path, sizeof(path), "%s/live.db", dir);
	}
	assert_true(shrunk > 1); /* or the workload does not test what it is for */
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
	unlink(path);
	for (uint64_t from = 1; from <= COMMITS; from++)
		for (uint64_t to = from; to <= COMMITS; to++) {
			merge(files, from, to, &m);
			fz_buf_reset(&got);
			assert_int_equal(fz_buf_add(&got, state[from - 1].data, state[from - 1].size), 0);
			apply(&got, &m);
			assert_int_equal(got.size, state[to].size);
			assert_memory_equal(got.data, state[to].data, got.size);
			if ((from == 1 && to >= COMMITS - 1) || (from == 3 && to == COMMITS - 1))
				write_file(dir, "m-", from, to, &m);
		}
	for (int i = 0; i <= COMMITS; i++) {
		fz_buf_fini(&state[i]);
		fz_buf_fini(&files[i]);
	}
	fz_buf_fini(&got);
	fz_buf_fini(&m);
}

static void commits_of_sqlite(void **state)
{
	for (size_t i = 0; i < sizeof(histories) / sizeof(histories[0]); i++)
		one_history(&histories[i]);
	(void)state;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(commits_of_sqlite)};
	int rc;

	snprintf(top, sizeof(top), "%s", argc > 1 ? argv[1] : "/tmp/test_ltx_sqlite.XXXXXX");
	if (argc == 1 && !mkdtemp(top))
		return 1;
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	if (argc == 1 && fz_remove_tree(AT_FDCWD, top, NULL) < 0)
		return 1;
	return rc;
}
