/* test_primary_claim.c - of several writers one owns a database; a lost answer makes no foe of oneself. */
#include "primary/claim.h"
#include "tests/unit/primary_fix.h"

#include <pthread.h>

static struct primary_claim who(const char *writer_id, const char *lineage, uint32_t epoch)
{
	struct primary_claim c = {.epoch = epoch, .base_txid = 7, .base_checksum = LTX_EMPTY_DB, .writer = "host"};

	snprintf(c.writer_id, sizeof(c.writer_id), "%s", writer_id);
	snprintf(c.lineage, sizeof(c.lineage), "%s", lineage);
	return c;
}

static void test_text(void **state)
{
	struct primary_claim a = who("w1", "00000000000000aa", 4000000000u), b = {.n = 0};
	struct fz_buf text = {0};
	struct fz_err err;
	static const char *const bad[] = {
	        "", "{}", "[]", "null", "{\"lineage\":1}", "{\"lineage\":\"00000000000000aa00\"}"};

	a.time_ms = INT64_C(1700000000123);
	a.base_txid = UINT64_MAX;
	snprintf(a.writer, sizeof(a.writer), "quote\" back\\ \xc3\xbc");
	assert_int_equal(primary_claim_format(&text, &a), 0);
	assert_int_equal(primary_claim_parse(&b, fz_buf_str(&text), &err), 0);
	assert_memory_equal(&a, &b, sizeof(a));
	fz_buf_fini(&text);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(primary_claim_parse(&b, bad[i], &err), -FZ_ECORRUPT);
}

static void test_rules(void **state)
{
	static const struct row {
		const char *name, *writer, *lineage;
		uint32_t epoch, known;
		bool take_over;
		int want;
		uint32_t n;
	} rows[] = {
	        {"first",                      "a", "00000000000000aa", 1, 0, false, 0,           1},
	        {"again, known",               "a", "00000000000000aa", 1, 1, false, 0,           1},
	        {"again, the cursor was lost", "a", "00000000000000aa", 1, 0, false, 0,           1},
	        {"next epoch",                 "a", "00000000000000aa", 2, 0, false, 0,           2},
	        {"new lineage",                "a", "00000000000000bb", 1, 0, false, 0,           3},
	        {"foreigner",                  "b", "00000000000000cc", 1, 0, false, -FZ_EFENCED, 0},
	        {"foreigner takes over",       "b", "00000000000000cc", 1, 0, true,  0,           4},
	        {"the old one is out",         "a", "00000000000000bb", 1, 3, false, -FZ_EFENCED, 0},
	        {"and may come back",          "a", "00000000000000bb", 1, 3, true,  0,           5},
	};
	struct fix *f = *state;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const struct row *r = &rows[i];
		struct primary_claim c = who(r->writer, r->lineage, r->epoch);
		bool vanished;
		int rc = primary_claim_hold(f->look, "dir/app.db", &c, r->known, r->take_over, &vanished, &f->err);

		if (rc != r->want || vanished || (rc == 0 && c.n != r->n))
			fail_msg("%s: %d, claim %u", r->name, rc, c.n);
	}
}

/* A promotion goes before what was claimed until then, and yields to a later one. */
static void test_promoted(void **state)
{
	static const struct row {
		const char *name, *writer, *lineage;
		uint32_t epoch, promoted;
		int want;
		uint32_t n;
	} rows[] = {
	        {"the primary",                       "a", "00000000000000aa", 0, 0, 0,           1},
	        {"a replica, promoted",               "b", "00000000000000aa", 1, 1, 0,           2},
	        {"another one to the same epoch",     "c", "00000000000000aa", 1, 1, -FZ_EFENCED, 0},
	        {"its log has begun a later one",     "c", "00000000000000aa", 3, 1, -FZ_EFENCED, 0},
	        {"promoted after that one",           "c", "00000000000000aa", 2, 2, 0,           3},
	        {"that one is back",                  "b", "00000000000000aa", 1, 1, -FZ_EFENCED, 0},
	        {"a life that had ended before",      "d", "00000000000000aa", 2, 3, 0,           4},
	        {"the next life",                     "d", "00000000000000bb", 0, 0, 0,           5},
	        {"promoted, and has the first alone", "e", "00000000000000aa", 4, 4, 0,           6},
	};
	struct fix *f = *state;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const struct row *r = &rows[i];
		struct primary_claim c = who(r->writer, r->lineage, r->epoch);
		bool vanished;
		int rc;

		c.promoted = r->promoted;
		rc = primary_claim_hold(f->look, "app.db", &c, 0, false, &vanished, &f->err);
		if (rc != r->want || vanished || (rc == 0 && c.n != r->n))
			fail_msg("%s: %d, claim %u", r->name, rc, c.n);
	}
}

/* An end is told of the newest claim only, once; what is left of an ended life needs no claim above its successor's. */
static void test_end(void **state)
{
	struct fix *f = *state;
	struct primary_claim a = who("w1", "00000000000000aa", 1), b = who("w1", "00000000000000bb", 1), other;
	struct fz_store_list l = {0};
	bool vanished;

	OK(primary_claim_hold(f->look, "app.db", &a, 0, false, &vanished, &f->err));
	OK(primary_claim_end(f->look, "app.db", &a, 9, 5, &f->err));
	OK(primary_claim_end(f->look, "app.db", &a, 9, 5, &f->err)); /* killed before it was noted */
	OK(primary_claim_hold(f->look, "app.db", &b, 0, false, &vanished, &f->err));
	assert_int_equal(b.n, 2);
	OK(primary_claim_end(f->look, "app.db", &a, 9, 5, &f->err)); /* nobody asks any more */
	OK(fz_store_list(f->look, "app.db/claim/", NULL, false, &l, &f->err));
	assert_int_equal(l.n, 3);
	assert_string_equal(l.v[1].key, "app.db/claim/00000001-ended");
	fz_store_list_fini(&l);
	a.ended = true;
	OK(primary_claim_hold(f->look, "app.db", &a, 1, false, &vanished, &f->err));
	assert_int_equal(a.n, 1);
	OK(primary_claim_hold(f->look, "app.db", &b, 2, false, &vanished, &f->err));
	assert_int_equal(b.n, 2); /* it is still the highest */
	other = who("w2", "00000000000000aa", 2);
	OK(primary_claim_hold(f->look, "app.db", &other, 0, true, &vanished, &f->err));
	OK(primary_claim_end(f->look, "app.db", &b, 9, 5, &f->err)); /* fenced */
	OK(fz_store_list(f->look, "app.db/claim/", NULL, false, &l, &f->err));
	assert_int_equal(l.n, 4);
	fz_store_list_fini(&l);
	assert_int_equal(primary_claim_hold(f->look, "app.db", &a, 1, false, &vanished, &f->err), -FZ_EFENCED);
}

static void test_vanished_and_damaged(void **state)
{
	struct fix *f = *state;
	struct primary_claim c = who("a", "00000000000000aa", 1);
	bool vanished;

	OK(primary_claim_hold(f->look, "app.db", &c, 7, false, &vanished, &f->err));
	assert_true(vanished);
	assert_int_equal(c.n, 8); /* numbers are never used twice */
	OK(fz_store_put_new(f->look, "app.db/claim/00000009", "garbage", 7, &f->err));
	assert_int_equal(primary_claim_hold(f->look, "app.db", &c, 8, false, &vanished, &f->err), -FZ_EFENCED);
	/* foreign objects are no claims */
	OK(fz_store_put_new(f->look, "b.db/claim/zzz", "x", 1, &f->err));
	c = who("a", "00000000000000aa", 1);
	OK(primary_claim_hold(f->look, "b.db", &c, 0, false, &vanished, &f->err));
	assert_int_equal(c.n, 1);
}

/* Whatever call fails, the next try owns it, and no second claim was made for one epoch. */
static void test_faults(void **state)
{
	struct fix *f = *state;
	int walked = 0;

	for (int after = 0; after < 2; after++) {
		bool fired = true, vanished;

		for (uint64_t n = 1; fired; n++) {
			struct primary_claim c = who("a", "00000000000000aa", (uint32_t)(after * 100 + n));
			struct fz_store *s = NULL;
			int failures = 0;

			OK(fz_store_fault(&s, fix_store(f), n, -FZ_ETIMEOUT, after, &fired, &f->err));
			while (primary_claim_hold(s, "app.db", &c, 0, false, &vanished, &f->err) < 0) {
				assert_int_equal(f->err.code, -FZ_ETIMEOUT);
				failures++;
			}
			assert_int_equal(failures, fired);
			walked += fired;
			fz_store_close(s);
		}
	}
	{
		struct fz_store_list l = {0};

		OK(fz_store_list(f->look, "app.db/claim/", NULL, false, &l, &f->err));
		assert_in_range(walked, 4, 8);
		assert_int_equal(l.n, walked + 2); /* one for each epoch tried */
		fz_store_list_fini(&l);
	}
}

struct racer {
	struct fix *f;
	char id[8];
	int rc;
};

static void *race(void *arg)
{
	struct racer *r = arg;
	struct primary_claim c = who(r->id, "00000000000000aa", 1);
	struct fz_store_conf conf = {.create = true};
	struct fz_store *s = NULL;
	struct fz_err err;
	bool vanished;

	r->rc = fz_store_open(&s, r->f->url, &conf, &err);
	if (r->rc == 0)
		r->rc = primary_claim_hold(s, "race.db", &c, 0, false, &vanished, &err);
	fz_store_close(s);
	return NULL;
}

static void test_one_wins(void **state)
{
	struct racer r[8];
	pthread_t t[8];
	int won = 0;

	for (int i = 0; i < 8; i++) {
		r[i].f = *state;
		snprintf(r[i].id, sizeof(r[i].id), "w%d", i);
		assert_int_equal(pthread_create(&t[i], NULL, race, &r[i]), 0);
	}
	for (int i = 0; i < 8; i++) {
		pthread_join(t[i], NULL);
		won += r[i].rc == 0;
		assert_true(r[i].rc == 0 || r[i].rc == -FZ_EFENCED);
	}
	assert_int_equal(won, 1);
}

static void test_writer_id_stays(void **state)
{
	struct fix *f = *state;
	char a[PRIMARY_WRITER_ID_SIZE], b[PRIMARY_WRITER_ID_SIZE];

	OK(primary_writer_id(f->statefd, a, &f->err));
	OK(primary_writer_id(f->statefd, b, &f->err));
	assert_string_equal(a, b);
	assert_int_equal(strlen(a), 32);
	OK(fz_remove_tree(f->statefd, "ship", &f->err));
	OK(primary_writer_id(f->statefd, b, &f->err));
	assert_string_not_equal(a, b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_text),
	        cmocka_unit_test_setup_teardown(test_rules, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_promoted, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_vanished_and_damaged, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_end, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_faults, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_one_wins, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_writer_id_stays, fix_setup, fix_teardown),
	};

	return cmocka_run_group_tests_name("primary_claim", tests, NULL, NULL);
}
