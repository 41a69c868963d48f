/* SQLite is the judge: playing a hot journal back gives the bytes that SQLite's own rollback gives, damaged or not. */
#include "base/file.h"
#include "base/cursor.h"
#include "ltx/journal.h"

#include <fcntl.h>
#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[] = "/tmp/fz-journal-XXXXXX";
static struct fz_buf db_bytes, journal_bytes;

static void path_of(char out[static 64], const char *name)
{
	snprintf(out, 64, "%s/%s", dir, name);
}

static void slurp(const char *name, struct fz_buf *b)
{
	char path[64];

	path_of(path, name);
	assert_int_equal(fz_read_file(AT_FDCWD, path, 1u << 26, b, NULL), 0);
}

static void spit(const char *name, const void *data, size_t n)
{
	char path[64];

	path_of(path, name);
	assert_int_equal(fz_write_file(AT_FDCWD, path, data, n, 0600, NULL), 0);
}

/* A transaction that has spilled into the database several times: a journal of several headers. */
static int setup(void **state)
{
	char path[64];
	sqlite3 *db;

	if (!mkdtemp(dir))
		return -1;
	path_of(path, "a.db");
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(
	        sqlite3_exec(db,
	                     "PRAGMA page_size=1024; CREATE TABLE t(id INTEGER PRIMARY KEY, b);"
	                     "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<300)"
	                     "INSERT INTO t SELECT i, randomblob(700) FROM n;"
	                     "PRAGMA cache_size=6; BEGIN; UPDATE t SET b = randomblob(710) WHERE id % 3 = 0;"
	                     "DELETE FROM t WHERE id > 280; INSERT INTO t(b) SELECT randomblob(3000) FROM t LIMIT 80",
	                     NULL, NULL, NULL),
	        SQLITE_OK);
	slurp("a.db", &db_bytes);
	slurp("a.db-journal", &journal_bytes);
	sqlite3_close(db);
	return 0;
}

static int teardown(void **state)
{
	fz_buf_fini(&db_bytes);
	fz_buf_fini(&journal_bytes);
	return fz_remove_tree(AT_FDCWD, dir, NULL);
}

static void by_sqlite(const uint8_t *journal, size_t n, struct fz_buf *out)
{
	char path[64];
	sqlite3 *db;

	spit("b.db", db_bytes.data, db_bytes.size);
	spit("b.db-journal", journal, n);
	path_of(path, "b.db");
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	sqlite3_exec(db, "SELECT * FROM t LIMIT 1", NULL, NULL, NULL); /* may be malformed: the bytes count */
	sqlite3_close(db);
	fz_buf_reset(out);
	slurp("b.db", out);
}

static unsigned by_us(const uint8_t *journal, size_t n, struct fz_buf *out)
{
	struct fz_src *src = NULL;
	struct ltx_journal j;
	const uint8_t *data;
	uint8_t *done = NULL;
	unsigned records = 0;
	uint32_t pgno;
	int rc;

	fz_buf_reset(out);
	assert_int_equal(fz_buf_add(out, db_bytes.data, db_bytes.size), 0);
	assert_int_equal(fz_src_mem(&src, journal, n, NULL), 0);
	if (ltx_journal_is_hot(journal, n) && ltx_journal_open(&j, src, 1024, NULL) == 0) {
		size_t size = (size_t)j.commit * j.page_size;

		if (size > out->size) {
			assert_non_null(fz_buf_room(out, size - out->size));
			memset(out->data + out->size, 0, size - out->size);
		}
		out->size = size;
		done = calloc(1, (size_t)j.commit + 1);
		while ((rc = ltx_journal_next(&j, &pgno, &data, NULL)) > 0) {
			records++;
			if (pgno <= j.commit && !done[pgno])
				memcpy(out->data + (size_t)(pgno - 1) * j.page_size, data, j.page_size);
			if (pgno <= j.commit)
				done[pgno] = 1;
		}
		assert_int_equal(rc, 0);
		ltx_journal_close(&j);
	}
	free(done);
	fz_src_close(src);
	return records;
}

static void same_as_sqlite(void **state)
{
	static const struct {
		const char *name;
		size_t at;
		uint8_t flip;
		size_t cut; /* bytes taken from the end */
	} t[] = {
	        {"as written",	                        0,                         0, 0    },
	        {"magic",	                             0,                         1, 0    },
	        {"number of records",                         11,                        2, 0    },
	        {"checksum seed",                             15,                        1, 0    },
	        {"page of a record",                          512 + 3,                   1, 0    },
	        {"data of a record where the checksum looks", 512 + 4 + 24,              1, 0    },
	        {"checksum of a record",                      512 + 4 + 1024 + 3,        1, 0    },
	        {"tenth record",                              512 + 10 * 1032 + 4 + 824, 1, 0    },
	        {"ends inside a record",                      0,                         0, 700  },
	        {"ends early",	                        0,                         0, 40000},
	};
	struct fz_buf a = {0}, b = {0};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		uint8_t *j = malloc(journal_bytes.size);
		size_t n = journal_bytes.size - t[i].cut;

		memcpy(j, journal_bytes.data, journal_bytes.size);
		j[t[i].at] ^= t[i].flip;
		by_sqlite(j, n, &a);
		by_us(j, n, &b);
		if (a.size != b.size || memcmp(a.data, b.data, a.size))
			fail_msg("%s: not what SQLite plays back (%zu bytes, SQLite %zu)", t[i].name, b.size, a.size);
		free(j);
	}
	assert_true(by_us(journal_bytes.data, journal_bytes.size, &b) > 60);
	fz_buf_fini(&a);
	fz_buf_fini(&b);
}

static void super_name(void **state)
{
	static const char name[] = "/data/a.db-mj12345678";
	static const uint8_t magic[8] = {0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7};
	char out[LTX_JOURNAL_SUPER_MAX];
	uint8_t b[200] = {0};
	size_t n = strlen(name);
	uint32_t sum = 0;
	struct fz_src *src;

	for (size_t i = 0; i < n; i++)
		sum += (uint8_t)name[i];
	memcpy(b + 50, name, n);
	fz_put32(b + 50 + n, (uint32_t)n);
	fz_put32(b + 54 + n, sum);
	memcpy(b + 58 + n, magic, 8);
	for (int damage = 0; damage < 4; damage++) {
		if (damage == 1)
			b[52] ^= 1; /* the sum says it */
		if (damage == 2)
			fz_put32(b + 50 + n, 4000); /* longer than the file */
		if (damage == 3)
			fz_put32(b + 50 + n, UINT32_MAX);
		assert_int_equal(fz_src_mem(&src, b, 66 + n, NULL), 0);
		assert_int_equal(ltx_journal_super(src, out, NULL), 0);
		assert_string_equal(out, damage ? "" : name);
		fz_src_close(src);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(same_as_sqlite),
	        cmocka_unit_test(super_name),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
