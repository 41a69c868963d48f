/* Which pages a journal vouches for. SQLite writes the files itself here, capture's own view is made by hand. */
#include "capture_world.h"

#include "fs/capture_priv.h"
#include "fs/journal_pages.h"

#include <stdlib.h>

static const struct journal_case {
	const char *name;
	bool missed; /* a commit that capture did not see lies between the table and the journal */
	int want;    /* of fs_journal_pages_mark() */
	bool whole;
} cases[] = {
        {"the journal follows what was captured",  false, 1, false},
        {"a commit was missed: compare all pages", true,  0,
         true                                                     }, /* fails when page 1 of the journal is not looked at */
};

static void take(struct fs_db *db, const char *path)
{
	struct ltx_sums_head *head;
	struct fz_err err = {0};
	uint8_t page[1024];
	uint32_t n = 0;
	FILE *f = fopen(path, "rb");

	assert_non_null(f);
	ok(ltx_sums_room(db->sums, 4096, &err), &err);
	while (fread(page, 1, sizeof(page), f) == sizeof(page)) {
		n++;
		ltx_sums_set(db->sums, n, ltx_page_checksum(n, page, sizeof(page)));
	}
	fclose(f);
	head = ltx_sums_head(db->sums);
	head->page_size = sizeof(page);
	head->commit = n;
	head->txid = 1;
}

static void vouches(void **state)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const struct journal_case *t = &cases[i];
		struct fz_err err = {0};
		struct fs_db *view;
		struct world w;
		char path[600];
		sqlite3 *db;

		make_world(&w, true);
		vfs_attach(NULL, "");
		db = open_db(&w, "a.db");
		sql(db,
		    "PRAGMA page_size=1024; PRAGMA journal_mode=PERSIST; PRAGMA synchronous=OFF; CREATE TABLE t(a, b);"
		    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<64)"
		    "INSERT INTO t SELECT i, randomblob(700) FROM n");
		view = fs_db_new(w.c, "a.db");
		ok(fs_db_attach_log(view, true, &err), &err);
		ok(fs_db_fd(view, &err), &err);
		snprintf(path, sizeof(path), "%s/a.db", w.root);
		take(view, path);
		if (t->missed)
			sql(db, "UPDATE t SET b=randomblob(700) WHERE a=2");
		sql(db, "BEGIN; PRAGMA user_version=7; UPDATE t SET b=randomblob(700) WHERE a=50");
		assert_int_equal(sqlite3_db_cacheflush(db), SQLITE_OK);
		strcat(path, "-journal");
		view->rb.fd = open(path, O_RDONLY | O_CLOEXEC);
		assert_true(view->rb.fd >= 0);
		if (fs_journal_pages_mark(view, &err) != t->want || view->rb.whole != t->whole)
			fail_msg("%s: %s, whole %d", t->name, err.text, view->rb.whole);
		sql(db, "COMMIT");
		assert_int_equal(sqlite3_close(db), SQLITE_OK);
		fz_close(&view->rb.fd);
		fs_registry_put(view);
		end_world(&w);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(vouches)};
	vfs_install();

	return cmocka_run_group_tests(tests, NULL, NULL);
}
