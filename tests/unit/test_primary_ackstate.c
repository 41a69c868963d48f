/* test_primary_ackstate.c - when commits wait for replicas, when they no longer do, and when they do again. */
#include "primary/ackstate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define MS UINT64_C(1000000)

/* Each row is a look, after the ones before it: degraded at TXID 100 and 1000 ms. */
static const struct row {
	const char *what;
	bool have;
	uint64_t durable, tail, at_ms;
	bool in_step;
} rows[] = {
        {"nobody is there",                                false, 0,   101,  1010, false},
        {"there, but with less than the log had",          true,  60,  300,  1500, false},
        {"reaches that after a second: is measured again", true,  100, 500,  2000, false},
        {"still far from what there was",                  true,  499, 900,  2100, false},
        {"got that in a fifth of a second",                true,  500, 950,  2200, true },
        {"stays",                                          false, 0,   2000, 9000, true },
};

static void test_back(void **state)
{
	struct primary_ackstate s = {0};

	assert_true(primary_ackstate_look(&s, false, 0, 100, 0));
	primary_ackstate_late(&s, 100, 77, 1000 * MS);
	assert_true(s.degraded);
	assert_int_equal(s.since_ms, 77);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const struct row *r = &rows[i];

		if (primary_ackstate_look(&s, r->have, r->durable, r->tail, r->at_ms * MS) != r->in_step)
			fail_msg("%s", r->what);
	}
}

/* A replica that caught up while nothing was committed is there at once. */
static void test_idle(void **state)
{
	struct primary_ackstate s = {0};

	primary_ackstate_late(&s, 100, 1, 0);
	assert_true(primary_ackstate_look(&s, true, 102, 102, 3600000 * MS));
}

/* One that is always half a second behind is not waited for, however long that goes on. */
static void test_behind(void **state)
{
	struct primary_ackstate s = {0};

	primary_ackstate_late(&s, 1000, 1, 1000 * MS);
	for (uint64_t ms = 1010; ms < 100000; ms += 10) /* a transaction each ms */
		assert_false(primary_ackstate_look(&s, true, ms - 500, ms, ms * MS));
}

static void test_counts(void **state)
{
	struct primary_ackstate s = {0};

	primary_ackstate_late(&s, 5, 10, 0);
	primary_ackstate_pass(&s);
	primary_ackstate_late(&s, 7, 20, 0); /* two waited at that time */
	assert_int_equal(s.commits, 3);
	assert_int_equal(s.since_ms, 10);
	assert_true(primary_ackstate_look(&s, true, 7, 7, 0));
	primary_ackstate_late(&s, 9, 30, 0);
	assert_int_equal(s.commits, 1);
	assert_int_equal(s.total, 4);
	assert_int_equal(s.since_ms, 30);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_back),
	        cmocka_unit_test(test_idle),
	        cmocka_unit_test(test_behind),
	        cmocka_unit_test(test_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
