/* Plans over listings that are written down as text: one object a row. */
#include "replica/plan.h"

#include "base/buf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Times are TXID * 10. "S" snapshot, "D" day, "H" hour, "M" minute, "P" pack, "Q" pack of a minute; eN: epoch N; "C n
 * epoch base": a claim. */
static void load(struct replica_catalog *c, const char *text)
{
	char lineage[17] = "00000000000000aa", kind;
	struct fz_err err = {0};
	int n;

	for (; *text; text += n + (text[n] == ' ')) {
		unsigned long long min, max;
		char key[LTX_NAME_MAX], json[256];
		unsigned claim, epoch;

		n = 0;
		if (sscanf(text, " C %u %u %llu;%n", &claim, &epoch, &min, &n) == 3 && n) {
			snprintf(key, sizeof(key), "claim/%08x", claim);
			snprintf(json, sizeof(json),
			         "{\"lineage\":\"%s\",\"epoch\":%u,\"base_txid\":%llu,\"base_checksum\":"
			         "\"00000000000000ff\"}",
			         lineage, epoch, min);
			assert_int_equal(replica_catalog_add_claim(c, key, json, &err), 0);
		} else if (sscanf(text, " %c%u %llu-%llu;%n", &kind, &epoch, &min, &max, &n) == 4 && n) {
			const char *kinds = "PQ MHD   S";
			struct ltx_name name = {.epoch = epoch,
			                        .level = kind == 'P'   ? LTX_L_PACK
			                                 : kind == 'Q' ? LTX_L_PACK_MINUTE
			                                               : (int)(strchr(kinds, kind) - kinds),
			                        .min_txid = min,
			                        .max_txid = max,
			                        .first_ms = kind == 'S' ? (int64_t)max * 10 : (int64_t)min * 10,
			                        .last_ms = (int64_t)max * 10,
			                        .post_checksum = LTX_FLAG | max};

			strcpy(name.lineage, lineage);
			assert_int_equal(replica_catalog_add(c, ltx_name_put(key, &name), 1000 + (max - min), &err), 0);
		} else {
			fail_msg("bad row: %s", text);
		}
	}
	assert_int_equal(replica_catalog_finish(c, &err), 0);
}

static const struct row {
	const char *name, *objects;
	uint64_t txid;
	const char *want; /* "kind min-max>to ..." or the code */
	int rc;
} rows[] = {
        {"first commit alone",           "P1 1-1; ",                                              1,  "P1-1>1 ",                    0            },
        {"part of a pack",               "P1 1-10; ",                                             4,  "P1-10>4 ",                   0            },
        {"newest snapshot at or below",  "S1 1-5; S1 1-9; S1 1-12; P1 6-20; ",                    11, "S1-9>9 P6-20>11 ",           0            },
        {"snapshot is the target",       "S1 1-5; P1 1-9; ",                                      5,  "S1-5>5 ",                    0            },
        {"merged before packs",          "S1 1-5; M1 6-9; P1 6-9; ",                              9,  "S1-5>5 M6-9>9 ",             0            },
        {"never beyond the target",      "S1 1-5; H1 6-20; M1 6-9; P1 10-14; ",                   12, "S1-5>5 M6-9>9 P10-14>12 ",   0            },
        {"fewest objects",               "S1 1-5; P1 6-7; P1 8-9; Q1 6-9; H1 3-9; ",              9,  "S1-5>5 H3-9>9 ",             0            },
        {"overlap instead of a gap",     "S1 1-7; H1 5-12; P1 11-20; ",                           15, "S1-7>7 H5-12>12 P11-20>15 ", 0            },
        {"a gap",                        "S1 1-5; P1 8-9; ",                                      9,  "",                           -FZ_EGAP     },
        {"inside a range",               "S1 1-5; H1 6-20; ",                                     10, "",                           -FZ_ENOCOMMIT},
        {"older than all",               "S1 1-5; P1 6-9; ",                                      4,  "",                           -FZ_ENOCOMMIT},
        {"newer than all",               "S1 1-5; P1 6-9; ",                                      10, "",                           -FZ_ENOCOMMIT},
        {"no snapshot",                  "P1 3-9; ",                                              5,  "",                           -FZ_EGAP     },
        {"zero",                         "P1 1-9; ",                                              0,  "",                           -FZ_ENOCOMMIT},
        {"fenced pack in part",          "C 1 1 0; C 2 2 7; P1 1-9; P2 8-12; ",                   12, "P1-9>7 P8-12>12 ",           0            },
        {"fenced merged not at all",     "C 1 1 0; C 2 2 7; P1 1-7; M1 5-9; S1 1-9; P2 8-12; ",   9,  "P1-7>7 P8-12>9 ",            0            },
        {"two fences, the lower base",   "C 1 1 0; C 2 2 9; C 3 3 7; P1 1-9; P2 8-12; P3 8-10; ", 10, "P1-9>7 P8-10>10 ",
         0                                                                                                                                       },
        {"fenced end is not the newest", "C 1 1 0; C 2 2 7; P1 1-9; ",                            8,  "",                           -FZ_ENOCOMMIT},
};

static void test_rows(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct replica_catalog c = {0};
		struct replica_plan plan;
		struct fz_buf got = {0};
		struct fz_err err = {0};
		int rc;

		load(&c, rows[i].objects);
		rc = replica_plan_make(&plan, &c, &c.lineages[0], rows[i].txid, &err);
		if (rc != rows[i].rc)
			fail_msg("%s: %d, %s", rows[i].name, rc, err.text);
		for (size_t k = 0; rc == 0 && k < plan.n; k++) {
			const struct ltx_name *n = &plan.steps[k].object->name;

			assert_int_equal(fz_buf_addf(&got, "%c%llu-%llu>%llu ", "PQPMHD???S"[n->level],
			                             (unsigned long long)n -> min_txid,
			                             (unsigned long long)n -> max_txid,
			                             (unsigned long long)plan.steps[k].to_txid),
			                 0);
		}
		if (strcmp(fz_buf_str(&got), rows[i].want))
			fail_msg("%s: %s", rows[i].name, fz_buf_str(&got));
		fz_buf_fini(&got);
		replica_plan_fini(&plan);
		replica_catalog_fini(&c);
	}
}

/* What a log that ends at cur takes next; "!" = there is a gap. */
static const struct {
	const char *name, *objects;
	uint64_t cur;
	uint32_t epoch; /* of the log */
	const char *want;
} follows[] = {
        {"empty log, newest snapshot",  "S1 1-5; S1 1-9; P1 1-20; ",           0, 1, "S1-9" },
        {"empty log, no snapshot",      "P1 1-4; P1 5-9; ",                    0, 1, "P1-4" },
        {"nothing newer",               "S1 1-5; P1 6-9; ",                    9, 1, ""     },
        {"pack before merged",          "P1 6-7; M1 6-9; H1 6-20; S1 1-30; ",  5, 1, "P6-7" },
        {"the pack that reaches most",  "P1 6-7; Q1 4-9; P1 8-12; ",           5, 1, "Q4-9" },
        {"merged that begins there",    "M1 6-9; H1 6-20; S1 1-30; ",          5, 1, "M6-9" },
        {"merged that begins too soon", "H1 4-20; M1 4-9; S1 1-5; S1 1-8; ",   5, 1, "M4-9" },
        {"too soon, of another epoch",  "M1 4-9; S1 1-5; S1 1-8; ",            5, 2, "S1-8" },
        {"too soon, but an exact one",  "M1 4-9; H1 6-20; ",                   5, 1, "H6-20"},
        {"a gap",                       "P1 7-9; M1 2-5; ",                    5, 1, "!"    },
        {"fenced",                      "C 1 1 0; C 2 2 7; P1 6-9; P2 8-12; ", 7, 1, "P8-12"},
        {"fenced, nothing newer",       "C 1 1 0; C 2 2 7; P1 6-9; ",          7, 1, ""     },
};

static void test_follow(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(follows) / sizeof(follows[0]); i++) {
		struct replica_catalog c = {0};
		const struct replica_object *o;
		char got[64] = "";
		bool gap;

		load(&c, follows[i].objects);
		o = replica_plan_follow(&c, &c.lineages[0], follows[i].cur, follows[i].epoch, &gap);
		if (o)
			snprintf(got, sizeof(got), "%c%llu-%llu", "PQPMHD???S"[o->name.level],
			         (unsigned long long)o -> name.min_txid, (unsigned long long)o->name.max_txid);
		if (gap)
			strcat(got, "!");
		if (strcmp(got, follows[i].want))
			fail_msg("%s: %s", follows[i].name, got);
		replica_catalog_fini(&c);
	}
}

/* Without the object that was best the next best is taken, until nothing is left. */
static void test_replan(void **state)
{
	struct replica_catalog c = {0};
	struct replica_plan plan;
	struct fz_err err = {0};
	int n = 0;

	(void)state;
	load(&c, "S1 1-5; S1 1-3; P1 1-9; M1 6-9; Q1 4-9; ");
	while (replica_plan_make(&plan, &c, &c.lineages[0], 9, &err) == 0) {
		plan.steps[plan.n - 1].object->bad = true;
		replica_plan_fini(&plan);
		n++;
	}
	assert_int_equal(n, 3);
	replica_catalog_fini(&c);
}

static void test_time(void **state)
{
	struct replica_catalog c = {0};
	struct replica_object *look;

	(void)state;
	load(&c, "S1 1-5; P1 6-9; P1 10-20; H1 6-30; Q1 8-20; ");
	assert_int_equal(replica_plan_at(&c, &c.lineages[0], 49, &look), 0);
	assert_null(look);
	assert_int_equal(replica_plan_at(&c, &c.lineages[0], 50, &look), 5);
	assert_null(look);
	assert_int_equal(replica_plan_at(&c, &c.lineages[0], 90, &look), 9);
	assert_int_equal(look->name.min_txid, 8); /* begins before, so it may hold more; 10-20 does not */
	assert_int_equal(replica_plan_at(&c, &c.lineages[0], 155, &look), 9);
	assert_int_equal(look->name.min_txid, 10);
	assert_int_equal(replica_plan_at(&c, &c.lineages[0], 200, &look), 20);
	assert_null(look);
	assert_int_equal(replica_plan_at(&c, &c.lineages[0], 1000, &look), 30);
	assert_int_equal(replica_plan_oldest(&c, &c.lineages[0])->usable_max, 5);
	replica_catalog_fini(&c);

	/* the part of a pack that counts ends before its name's last time: only its index knows when */
	load(&c, "C 1 1 0; C 2 2 7; P1 1-9; ");
	assert_int_equal(replica_plan_at(&c, &c.lineages[0], 1000, &look), 0);
	assert_int_equal(look->usable_max, 7);
	replica_catalog_fini(&c);
}

/* In the finest detail kept. */
static void test_next(void **state)
{
	struct replica_catalog c = {0};
	struct replica_object *o;
	uint64_t cur = 0, want[] = {5, 9, 12, 20, 40};
	bool gap;
	size_t i = 0;

	(void)state;
	load(&c, "S1 1-5; S1 1-12; H1 6-20; M1 6-9; M1 10-20; S1 1-40; ");
	while ((o = replica_plan_next(&c, &c.lineages[0], cur, &gap))) {
		assert_int_equal(o->usable_max, want[i]);
		assert_int_equal(gap, want[i] == 40);
		cur = o->usable_max;
		i++;
	}
	assert_int_equal(i, 5);
	replica_catalog_fini(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_rows), cmocka_unit_test(test_follow), cmocka_unit_test(test_replan),
	        cmocka_unit_test(test_time), cmocka_unit_test(test_next),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
