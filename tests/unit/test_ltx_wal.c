/* SQLite is the judge: what this parser takes for committed is what SQLite recovers from the same bytes, damaged or not. */
#include "base/file.h"
#include "ltx/wal.h"
#include "ltx/walindex.h"
#include "tests/unit/tmp.h"

#include <fcntl.h>
#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define ROWS 12

static char dir[] = "/tmp/fz-wal-XXXXXX";
static struct fz_buf db_bytes, wal_bytes, shm_bytes;
static int live_frames;

static void path_of(char out[static 64], const char *name)
{
	snprintf(out, 64, "%s/%s", dir, name);
}

static void slurp(const char *name, struct fz_buf *b)
{
	char path[64];

	path_of(path, name);
	assert_int_equal(fz_read_file(AT_FDCWD, path, 1u << 24, b, NULL), 0);
}

static void spit(const char *name, const void *data, size_t n)
{
	char path[64];

	path_of(path, name);
	assert_int_equal(fz_write_file(AT_FDCWD, path, data, n, 0600, NULL), 0);
}

/* One row a commit, left in the WAL. */
static int setup(void **state)
{
	char path[64], q[100];
	sqlite3 *db;

	if (!mkdtemp(dir))
		return -1;
	path_of(path, "a.db");
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db,
	                              "PRAGMA page_size=1024; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;"
	                              "CREATE TABLE t(a); PRAGMA wal_checkpoint(TRUNCATE)",
	                              NULL, NULL, NULL),
	                 SQLITE_OK);
	for (int i = 0; i < ROWS; i++) {
		snprintf(q, sizeof(q), "INSERT INTO t VALUES(randomblob(%d))", 100 + 300 * (i % 3));
		assert_int_equal(sqlite3_exec(db, q, NULL, NULL, NULL), SQLITE_OK);
	}
	slurp("a.db", &db_bytes);
	slurp("a.db-wal", &wal_bytes);
	slurp("a.db-shm", &shm_bytes);
	assert_int_equal(sqlite3_wal_checkpoint_v2(db, NULL, SQLITE_CHECKPOINT_PASSIVE, &live_frames, NULL), SQLITE_OK);
	sqlite3_close(db);
	return 0;
}

static int teardown(void **state)
{
	fz_buf_fini(&db_bytes);
	fz_buf_fini(&wal_bytes);
	fz_buf_fini(&shm_bytes);
	return fz_remove_tree(AT_FDCWD, dir, NULL);
}

static int rows_by_sqlite(const uint8_t *wal, size_t n)
{
	sqlite3_stmt *st;
	char path[64];
	sqlite3 *db;
	int rows;

	spit("b.db", db_bytes.data, db_bytes.size);
	spit("b.db-wal", wal, n);
	path_of(path, "b.db");
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_prepare_v2(db, "SELECT count(*) FROM t", -1, &st, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(st), SQLITE_ROW);
	rows = sqlite3_column_int(st, 0);
	sqlite3_finalize(st);
	sqlite3_close(db);
	return rows;
}

static int commits_by_us(const uint8_t *wal, size_t n)
{
	struct ltx_wal_header h;
	struct ltx_wal_frame f;
	uint32_t sum[2];
	int commits = 0;

	if (n < LTX_WAL_HEADER_SIZE || ltx_wal_header_get(&h, wal, NULL) < 0)
		return 0;
	memcpy(sum, h.sum, sizeof(sum));
	for (uint64_t i = 1; i <= ltx_wal_frames(h.page_size, n); i++) {
		const uint8_t *at = wal + ltx_wal_frame_off(h.page_size, (uint32_t)i);

		if (!ltx_wal_frame_ok(&h, at, sum))
			break;
		ltx_wal_frame_get(&f, at);
		commits += f.commit != 0;
	}
	return commits;
}

static void same_as_sqlite(void **state)
{
	static const struct {
		const char *name;
		size_t at; /* below 1 << 20: byte; else: frame (at >> 20), byte in it */
		uint8_t flip;
	} t[] = {
	        {"as written",                 0,                    0   },
	        {"magic: other byte order",    3,                    1   },
	        {"magic: none",                0,                    1   },
	        {"version",                    6,                    1   },
	        {"page size: no power of two", 10,                   1   },
	        {"sequence",                   15,                   1   },
	        {"salt",                       16,                   0x80},
	        {"header checksum",            24,                   1   },
	        {"frame 1: page",              (1 << 20) + 3,        1   },
	        {"frame 3: commit size",       (3 << 20) + 7,        1   },
	        {"frame 5: salt",              (5 << 20) + 8,        1   },
	        {"frame 7: checksum",          (7 << 20) + 23,       1   },
	        {"frame 9: data",              (9 << 20) + 24 + 500, 1   },
	        {"last frame's last byte",     SIZE_MAX,             1   },
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		size_t at = t[i].at == SIZE_MAX ? wal_bytes.size - 1
		            : t[i].at >> 20 ? ltx_wal_frame_off(1024, (uint32_t)(t[i].at >> 20)) + (t[i].at & 0xfffff)
		                            : t[i].at;
		uint8_t *w = malloc(wal_bytes.size);

		memcpy(w, wal_bytes.data, wal_bytes.size);
		w[at] ^= t[i].flip;
		if (commits_by_us(w, wal_bytes.size) != rows_by_sqlite(w, wal_bytes.size))
			fail_msg("%s: %d commits, SQLite has %d", t[i].name, commits_by_us(w, wal_bytes.size),
			         rows_by_sqlite(w, wal_bytes.size));
		free(w);
	}
	assert_int_equal(commits_by_us(wal_bytes.data, wal_bytes.size), ROWS);
}

/* Cut anywhere. */
static void cut(void **state)
{
	for (size_t n = 0; n < wal_bytes.size; n += 333)
		assert_int_equal(commits_by_us(wal_bytes.data, n), rows_by_sqlite(wal_bytes.data, n));
}

static void index_header(void **state)
{
	uint8_t b[LTX_WALINDEX_SIZE];
	struct ltx_wal_header h;
	struct ltx_walindex x;

	memcpy(b, shm_bytes.data, sizeof(b));
	assert_true(ltx_walindex_get(&x, b));
	assert_int_equal(ltx_wal_header_get(&h, wal_bytes.data, NULL), 0);
	assert_int_equal(x.mx_frame, live_frames);
	assert_int_equal(x.page_size, 1024);
	assert_memory_equal(x.salt, h.salt, sizeof(h.salt));
	assert_int_equal(x.backfill, 0);
	for (size_t i = 0; i < 96; i++) { /* any byte of either copy */
		b[i] ^= 1;
		assert_false(ltx_walindex_get(&x, b));
		b[i] ^= 1;
	}
	for (size_t i = 0; i < 48; i++) { /* both alike: the checksum says it */
		b[i] ^= 1;
		b[i + 48] ^= 1;
		assert_false(ltx_walindex_get(&x, b));
		b[i] ^= 1;
		b[i + 48] ^= 1;
	}
}

static void read_index(const char *at, uint8_t b[static LTX_WALINDEX_SIZE])
{
	char path[300];
	int fd;

	snprintf(path, sizeof(path), "%s/new.db-shm", at);
	fd = open(path, O_RDONLY);
	assert_int_equal(pread(fd, b, LTX_WALINDEX_SIZE, 0), LTX_WALINDEX_SIZE);
	close(fd);
}

/* As SQLite makes it for a WAL without a frame: nobody has committed, and a reader could not read the page size. */
static void index_of_nothing(void **state)
{
	uint8_t b[LTX_WALINDEX_SIZE];
	struct ltx_walindex x;
	char where[160], path[300];
	sqlite3 *db;

	assert_non_null(tmp_make(where, sizeof(where), "fz-wal"));
	snprintf(path, sizeof(path), "%s/new.db", where);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, "PRAGMA journal_mode = wal; SELECT * FROM sqlite_master", 0, 0, 0),
	                 SQLITE_OK);
	read_index(where, b);
	assert_true(ltx_walindex_blank(b));
	assert_false(ltx_walindex_get(&x, b));
	b[50] ^= 1;
	assert_false(ltx_walindex_blank(b));
	assert_int_equal(sqlite3_exec(db, "CREATE TABLE t(x)", 0, 0, 0), SQLITE_OK);
	read_index(where, b);
	assert_false(ltx_walindex_blank(b));
	assert_true(ltx_walindex_get(&x, b));
	sqlite3_close(db);
	assert_int_equal(fz_remove_tree(AT_FDCWD, where, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(same_as_sqlite),
	        cmocka_unit_test(cut),
	        cmocka_unit_test(index_header),
	        cmocka_unit_test(index_of_nothing),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
