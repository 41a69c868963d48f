/* test_primary_tiers.c - sums of listings: what counts, what counts once, and what is told when the history has a hole. */
#include "primary/retain.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#define MINE "00000000000000aa"

/* Commit n is made at n * 10 ms. */
struct object {
	int level;
	uint64_t min, max;
	bool gone, other; /* retention lets go of it; of another lineage */
};
#define O(l, min, max)                                                                                                 \
	{                                                                                                              \
		l, min, max, false, false                                                                              \
	}
static const struct tiers_case {
	const char *name;
	struct object o[8]; /* ends with max == 0 */
	uint64_t count[PRIMARY_TIERS], first, last;
	bool holes;
} cases[] = {
        {"nothing",                        {{0}},                                                        {0}, 0, 0, false},
        {"one pack",                       {O(0, 3, 7)},                                                 {5}, 3, 7, false},
        {"packs in a row",                 {O(0, 6, 9), O(0, 1, 5)},                                     {9}, 1, 9, false},
        {"the same commits at two levels", {O(0, 1, 5), O(0, 6, 9), O(1, 1, 9), O(2, 1, 5)},             {9}, 1, 9, false},
        {"overlapping",                    {O(0, 1, 5), O(0, 3, 8)},                                     {8}, 1, 8, false},
        {"one within another",             {O(2, 1, 9), O(0, 3, 4)},                                     {9}, 1, 9, false},
        {"a hole",                         {O(0, 1, 5), O(0, 7, 9)},                                     {3}, 7, 9, true },
        {"what goes does not count",       {{0, 1, 5, true, false}, O(0, 6, 9)},                         {4}, 6, 9, false},
        {"nor another lineage",            {O(0, 1, 5), {0, 6, 9, false, true}, {9, 1, 9, false, true}}, {5}, 1, 5, false},
        {"each tier",
         {O(3, 1, 2), O(3, 3, 4), O(4, 1, 4), O(5, 1, 4), O(9, 1, 4), O(0, 5, 5)},
         {1, 2, 1, 1, 1},
         5,                                                                                                      5,
         false                                                                                                           },
};

static void test_sums(void **state)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const struct tiers_case *c = &cases[i];
		struct primary_retain_object v[8] = {0};
		struct primary_tiers t;
		size_t n = 0;

		print_message("%s\n", c->name);
		for (; n < 8 && c->o[n].max; n++) {
			struct ltx_name *m = &v[n].name;

			strcpy(m->lineage, c->o[n].other ? "00000000000000bb" : MINE);
			m->level = c->o[n].level;
			m->min_txid = c->o[n].min;
			m->max_txid = c->o[n].max;
			m->first_ms = (int64_t)m->min_txid * 10;
			m->last_ms = (int64_t)m->max_txid * 10;
			v[n].required = !c->o[n].gone;
		}
		primary_tiers_sum(&t, v, n, MINE);
		for (int k = 0; k < PRIMARY_TIERS; k++)
			assert_int_equal(t.v[k].count, c->count[k]);
		assert_int_equal(t.last_txid, c->last);
		assert_int_equal(t.holes, c->holes);
		assert_false(t.partial);
		if (c->last) {
			assert_int_equal(t.v[PRIMARY_TIER_COMMITS].from_ms, c->first * 10);
			assert_int_equal(t.v[PRIMARY_TIER_COMMITS].to_ms, c->last * 10);
		}
		if (t.v[PRIMARY_TIER_MINUTES].count) { /* of a merged object the last commit alone is a moment */
			assert_int_equal(t.v[PRIMARY_TIER_MINUTES].from_ms, 20);
			assert_int_equal(t.v[PRIMARY_TIER_MINUTES].to_ms, 40);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_sums)};

	return cmocka_run_group_tests_name("primary/tiers", tests, NULL, NULL);
}
