/* test_ltx_name.c - keys in a store: what is written is read back, and nothing else is taken for one. */
#include "ltx/name.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define LINEAGE "0123456789abcdef"
#define EPOCH   LINEAGE "/00000001/"
#define TIMES   "018bcfe56800-018bcfe5687b-8000000000000009"
#define RANGE   "0000000000000002-0000000000000005-" TIMES

static const struct name_case {
	const char *key;
	int want, level;
	bool encrypted;
} cases[] = {
        {EPOCH "0/" RANGE ".pack.age",                               0,             0, true },
        {EPOCH "1/" RANGE ".pack",                                   0,             1, false},
        {EPOCH "2/" RANGE ".pack.age",                               0,             2, true },
        {EPOCH "3/" RANGE ".ltx.age",                                0,             3, true },
        {EPOCH "4/" RANGE ".ltx",                                    0,             4, false},
        {EPOCH "5/" RANGE ".ltx",                                    0,             5, false},
        {EPOCH "9/" RANGE ".ltx.age",                                0,             9, true },
        {"",                                                         -FZ_ENOTFOUND, 0, 0    },
        {LINEAGE,                                                    -FZ_ENOTFOUND, 0, 0    },
        {"claim/00000001",                                           -FZ_ENOTFOUND, 0, 0    },
        {EPOCH "6/" RANGE ".ltx",                                    -FZ_ENOTFOUND, 0, 0    },
        {EPOCH "a/" RANGE ".ltx",                                    -FZ_ENOTFOUND, 0, 0    },
        {EPOCH "0/" RANGE ".ltx",                                    -FZ_ENOTFOUND, 0, 0    }, /* level and kind disagree */
        {EPOCH "9/" RANGE ".pack",                                   -FZ_ENOTFOUND, 0, 0    },
        {EPOCH "9/" RANGE ".ltx.tmp",                                -FZ_ENOTFOUND, 0, 0    },
        {EPOCH "9/" RANGE ".ltx.age.tmp",                            -FZ_ENOTFOUND, 0, 0    },
        {EPOCH "9/" RANGE ".ltx.",                                   -FZ_ENOTFOUND, 0, 0    },
        {EPOCH "9/" RANGE ".lt",                                     -FZ_ENOTFOUND, 0, 0    },
        {EPOCH "9/" RANGE,                                           -FZ_ENOTFOUND, 0, 0    },
        {LINEAGE "/1/9/" RANGE ".ltx",                               -FZ_ENOTFOUND, 0, 0    },
        {"0123456789ABCDEF/00000001/9/" RANGE ".ltx",                -FZ_ENOTFOUND, 0, 0    },
        {"app.db/" EPOCH "9/" RANGE ".ltx",                          -FZ_ENOTFOUND, 0, 0    },
        {EPOCH "9/0000000000000000-0000000000000005-" TIMES ".ltx",  -FZ_ENOTFOUND, 0, 0    }, /* TXID 0 */
        {EPOCH "9/0000000000000006-0000000000000005-" TIMES ".ltx",  -FZ_ENOTFOUND, 0, 0    },
        {EPOCH "9/000000000000000002-000000000000005-" TIMES ".ltx", -FZ_ENOTFOUND, 0, 0    },
        {EPOCH "9/0000000000000002_0000000000000005-" TIMES ".ltx",  -FZ_ENOTFOUND, 0, 0    },
};

static void keys(void **state)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const struct name_case *c = &cases[i];
		char out[LTX_NAME_MAX];
		struct ltx_name n;
		int rc = ltx_name_get(&n, c->key);

		if (rc != c->want)
			print_error("%s: %d\n", c->key, rc);
		assert_int_equal(rc, c->want);
		if (rc < 0)
			continue;
		assert_string_equal(n.lineage, LINEAGE);
		assert_int_equal(n.epoch, 1);
		assert_int_equal(n.level, c->level);
		assert_int_equal(n.min_txid, 2);
		assert_int_equal(n.max_txid, 5);
		assert_int_equal(n.first_ms, 1700000000000);
		assert_int_equal(n.last_ms, 1700000000123);
		assert_int_equal(n.post_checksum, LTX_FLAG | 9);
		assert_int_equal(n.encrypted, c->encrypted);
		assert_string_equal(ltx_name_put(out, &n), c->key);
	}
	(void)state;
}

static void every_prefix_is_no_key(void **state)
{
	char key[LTX_NAME_MAX];
	struct ltx_name n;

	for (size_t i = 0; i < strlen(cases[0].key); i++) {
		if (i == strlen(cases[0].key) - 4) /* without ".age" it is one */
			continue;
		snprintf(key, sizeof(key), "%.*s", (int)i, cases[0].key);
		assert_int_equal(ltx_name_get(&n, key), -FZ_ENOTFOUND);
	}
	(void)state;
}

static void extremes(void **state)
{
	struct ltx_name n = {.lineage = "ffffffffffffffff",
	                     .epoch = UINT32_MAX,
	                     .level = LTX_L_SNAPSHOT,
	                     .min_txid = 1,
	                     .max_txid = UINT64_MAX,
	                     .first_ms = -1,
	                     .last_ms = INT64_MAX,
	                     .post_checksum = UINT64_MAX};
	char out[LTX_NAME_MAX];
	struct ltx_name back;

	assert_int_equal(ltx_name_get(&back, ltx_name_put(out, &n)), 0);
	assert_string_equal(back.lineage, n.lineage);
	assert_int_equal(back.epoch, n.epoch);
	assert_int_equal(back.max_txid, n.max_txid);
	assert_int_equal(back.post_checksum, n.post_checksum);
	assert_int_equal(back.first_ms, 0); /* a time that 12 digits cannot say becomes the nearest they can */
	assert_int_equal(back.last_ms, 0xffffffffffff);
	(void)state;
}

/* A listing in key order is a listing in the order of transactions. */
static void keys_sort_by_txid(void **state)
{
	char a[LTX_NAME_MAX], b[LTX_NAME_MAX];
	struct ltx_name n = {.lineage = LINEAGE, .level = LTX_L_HOUR};

	for (unsigned bit = 0; bit < 64; bit++) {
		n.min_txid = UINT64_C(1) << bit;
		n.max_txid = UINT64_MAX;
		ltx_name_put(a, &n);
		n.min_txid += bit > 0;
		n.max_txid = n.min_txid;
		ltx_name_put(b, &n);
		if (bit > 0)
			assert_true(strcmp(a, b) < 0);
	}
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(keys),
	        cmocka_unit_test(every_prefix_is_no_key),
	        cmocka_unit_test(extremes),
	        cmocka_unit_test(keys_sort_by_txid),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
