/* test_primary_budget.c - requests_per_month: never exceeded, intervals stretch, a restart refills nothing. */
#include "base/file.h"
#include "primary/budget.h"
#include "tests/unit/tmp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define MONTH (INT64_C(30) * 86400000)
#define T0    INT64_C(1700000000000)

static void test_no_limit(void **state)
{
	struct primary_budget b;

	primary_budget_init(&b, 0, T0);
	primary_budget_spend(&b, 1000000, T0);
	assert_int_equal(primary_budget_interval_ms(&b, 1000, 50, T0), 1000);
	assert_int_equal(primary_budget_wait_ms(&b, T0), 0);
}

/* A database that always has news, one request a pack, as often as the budget lets it. */
static void test_month_is_kept(void **state)
{
	static const uint64_t limits[] = {100, 3000, 50000, 3000000};

	for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
		struct primary_budget b;
		uint64_t n = 0;

		primary_budget_init(&b, limits[i], T0);
		for (int64_t now = T0; now < T0 + MONTH;) {
			int64_t ms;

			primary_budget_spend(&b, 1, now);
			n++;
			ms = primary_budget_interval_ms(&b, 1000, 1, now);
			assert_true(ms >= 1000);
			now += ms;
		}
		assert_true(n <= limits[i] + 1);
		/* and what was allowed is used, where the interval permits */
		assert_true(n >= (limits[i] < 2592000 ? limits[i] : 2592000) * 8 / 10);
	}
}

static void test_stretches_gradually(void **state)
{
	struct primary_budget b;
	int64_t last = 0;

	primary_budget_init(&b, 30000, T0); /* 1000 in the bucket, one flows in every 89 s */
	for (int spent = 0; spent < 1000; spent++) {
		int64_t ms = primary_budget_interval_ms(&b, 1000, 1, T0);

		assert_true(ms >= last);
		assert_true(spent >= 500 || ms == 1000);
		last = ms;
		primary_budget_spend(&b, 1, T0);
	}
	assert_in_range(last, 80000, 100000);
	assert_true(primary_budget_wait_ms(&b, T0) > 0);
	assert_in_range(primary_budget_interval_ms(&b, 1000, 3, T0), 240000, 300000);
}

static void test_debt_is_bounded(void **state)
{
	struct primary_budget b;

	primary_budget_init(&b, 30000, T0);
	primary_budget_spend(&b, 1000000, T0);
	assert_true(primary_budget_wait_ms(&b, T0) < 2 * 86400000);
	assert_int_equal(primary_budget_wait_ms(&b, T0 + 2 * 86400000), 0);
}

static void test_durable(void **state)
{
	char dir[160];
	struct primary_budget b, c;
	struct fz_err err;
	int fd;

	assert_non_null(tmp_make(dir, sizeof(dir), "fz-budget"));
	fd = open(dir, O_RDONLY | O_DIRECTORY);
	primary_budget_init(&c, 30000, T0);
	assert_int_equal(primary_budget_load(&c, fd, "budget", &err), 0); /* none yet */
	assert_true(c.tokens == 1000);
	primary_budget_init(&b, 30000, T0);
	primary_budget_spend(&b, 900, T0);
	assert_int_equal(primary_budget_save(&b, fd, "budget", &err), 0);
	primary_budget_init(&c, 30000, T0 + 89690);
	assert_int_equal(primary_budget_load(&c, fd, "budget", &err), 0);
	assert_true(c.tokens > 100.9 && c.tokens < 101.1);
	assert_int_equal(fz_write_file(fd, "budget", "nan x\n", 6, 0600, &err), 0);
	primary_budget_init(&c, 30000, T0);
	assert_int_equal(primary_budget_load(&c, fd, "budget", &err), 0);
	assert_true(c.tokens == 1000);
	close(fd);
	assert_int_equal(fz_remove_tree(AT_FDCWD, dir, &err), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_no_limit),
	        cmocka_unit_test(test_month_is_kept),
	        cmocka_unit_test(test_stretches_gradually),
	        cmocka_unit_test(test_debt_is_bounded),
	        cmocka_unit_test(test_durable),
	};

	return cmocka_run_group_tests_name("primary_budget", tests, NULL, NULL);
}
