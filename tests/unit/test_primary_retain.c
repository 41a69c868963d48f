/* test_primary_retain.c - what may be forgotten. The history of weeks is simulated as names only, judged every hour, and
 * an independent search over positions says what can still be restored. */
#include "primary/retain.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIN  INT64_C(60000)
#define HOUR INT64_C(3600000)
#define DAY  INT64_C(86400000)
#define T0   (INT64_C(20000) * DAY)
#define STEP (10 * MIN) /* between commits */

static const struct primary_retain_conf conf = {
        .keep_ms = {1 * DAY, 3 * DAY, 7 * DAY, 20 * DAY},
          .day_ms = DAY, .delete_grace_ms = HOUR
};

struct world {
	struct primary_retain_object *v;
	size_t n, cap;
};

static void add(struct world *w, int level, uint64_t min, uint64_t max)
{
	struct primary_retain_object *o;

	if (w->n == w->cap)
		w->v = realloc(w->v, (w->cap = w->cap ? 2 * w->cap : 64) * sizeof(*w->v));
	o = &w->v[w->n++];
	memset(o, 0, sizeof(*o));
	strcpy(o->name.lineage, "00000000000000aa");
	o->name.epoch = 1;
	o->name.level = level;
	o->name.min_txid = min;
	o->name.max_txid = max;
	o->name.first_ms = T0 + (int64_t)(min - 1) * STEP;
	o->name.last_ms = T0 + (int64_t)(max - 1) * STEP;
	o->size_bytes = level == LTX_L_SNAPSHOT ? 1000000 : 1000 * (max - min + 1);
}

/* Independent of retain.c: positions that can be restored, up to max. */
static bool *positions(const struct world *w, uint64_t max)
{
	bool *at = calloc(max + 1, 1), more = true;

	at[0] = true;
	while (more) {
		more = false;
		for (size_t i = 0; i < w->n; i++) {
			const struct ltx_name *m = &w->v[i].name;

			if (m->max_txid > max)
				continue;
			if (!ltx_level_is_pack(m->level)) {
				if (at[m->min_txid - 1] && !at[m->max_txid])
					more = at[m->max_txid] = true;
				continue;
			}
			for (uint64_t p = m->min_txid - 1; p < m->max_txid; p++)
				if (at[p] && !at[p + 1])
					more = at[p + 1] = true;
		}
	}
	return at;
}

static void forget(struct world *w)
{
	size_t kept = 0;

	for (size_t i = 0; i < w->n; i++)
		if (w->v[i].required)
			w->v[kept++] = w->v[i];
	w->n = kept;
}

/* 6 commits an hour, 144 a day: packs of one, hourly packs and merges, daily merges, a snapshot every few days. */
static void live(struct world *w, uint64_t t, unsigned snapshot_days)
{
	add(w, LTX_L_PACK, t, t);
	add(w, LTX_L_MINUTE, t, t);
	if (t % 6 == 0) {
		add(w, LTX_L_PACK_HOUR, t - 5, t);
		add(w, LTX_L_HOUR, t - 5, t);
	}
	if (t % 144 == 0)
		add(w, LTX_L_DAY, t - 143, t);
	if (snapshot_days && t % (144 * snapshot_days) == 0)
		add(w, LTX_L_SNAPSHOT, 1, t);
}

static void check_tiers(const struct world *w, uint64_t t)
{
	bool *at = positions(w, t);

	for (uint64_t p = 1; p <= t; p++) {
		int64_t age = (int64_t)(t - p) * STEP;
		bool must = age <= conf.keep_ms[0] || age <= conf.keep_ms[1] ||
		            (p % 6 == 0 && age <= conf.keep_ms[2]) || (p % 144 == 0 && age <= conf.keep_ms[3]);

		if (must && !at[p])
			fail_msg("at %llu commit %llu is lost", (unsigned long long)t, (unsigned long long)p);
	}
	free(at);
}

static void simulate(unsigned snapshot_days, size_t most_objects)
{
	struct world w = {0};

	for (uint64_t t = 1; t <= 144 * 45; t++) {
		live(&w, t, snapshot_days);
		if (t % 6 != 3)
			continue;
		primary_retain_decide(w.v, w.n, &conf, "00000000000000aa", T0 + (int64_t)(t - 1) * STEP, 0);
		forget(&w);
		assert_true(primary_retain_reaches(w.v, w.n, "00000000000000aa", t));
		if (t % 99 == 0)
			check_tiers(&w, t);
	}
	check_tiers(&w, 144 * 45);
	/* a day of 144 or so, three days of minutes, a week of hours, 20 days, what hangs on them */
	assert_in_range(w.n, 100, most_objects);
	free(w.v);
}

static void test_tiers_daily_snapshots(void **state)
{
	simulate(1, 850);
}

static void test_tiers_rare_snapshots(void **state)
{
	simulate(10, 850);
}

/* Without any snapshot, the chain from TXID 1 on is all there is: days are kept for ever, packs are not. */
static void test_tiers_no_snapshot(void **state)
{
	simulate(0, 850);
}

static void test_lost_levels_are_stood_in_for(void **state)
{
	struct world w = {0};
	uint64_t n = 144 * 3;
	bool *at;

	for (uint64_t t = 1; t <= n; t++)
		add(&w, LTX_L_PACK, t, t); /* no level was ever made */
	add(&w, LTX_L_SNAPSHOT, 1, n);
	primary_retain_decide(w.v, w.n, &conf, "00000000000000aa", T0 + 15 * DAY, 0);
	forget(&w);
	at = positions(&w, n);
	assert_true(at[144] && at[288] && at[n]); /* the ends of days, which nothing else holds */
	free(at);
	/* and then they go */
	primary_retain_decide(w.v, w.n, &conf, "00000000000000aa", T0 + 40 * DAY, 0);
	forget(&w);
	assert_int_equal(w.n, 1);
	free(w.v);
}

static void test_superseded_goes_and_newest_stays(void **state)
{
	struct world w = {0};

	add(&w, LTX_L_PACK, 1, 3);
	add(&w, LTX_L_PACK, 4, 6);
	add(&w, LTX_L_PACK, 7, 7);
	add(&w, LTX_L_PACK_MINUTE, 1, 6);
	primary_retain_decide(w.v, w.n, &conf, "00000000000000aa", T0 + HOUR, 0);
	for (size_t i = 0; i < w.n; i++)
		assert_int_equal(w.v[i].required, w.v[i].name.level == LTX_L_PACK_MINUTE || w.v[i].name.min_txid == 7);
	/* half covered is not covered */
	w.n = 0;
	add(&w, LTX_L_PACK, 1, 3);
	add(&w, LTX_L_PACK_MINUTE, 1, 2);
	add(&w, LTX_L_PACK, 4, 4);
	add(&w, LTX_L_SNAPSHOT, 1, 3); /* so that the next pack does not rest on it */
	primary_retain_decide(w.v, w.n, &conf, "00000000000000aa", T0 + HOUR, 0);
	assert_true(w.v[0].required);
	/* years later: the living keeps its newest state, the dead nothing */
	w.n = 0;
	add(&w, LTX_L_SNAPSHOT, 1, 10);
	add(&w, LTX_L_PACK, 11, 12);
	primary_retain_decide(w.v, w.n, &conf, "00000000000000aa", T0 + 5000 * DAY, 0);
	assert_true(w.v[0].required && w.v[1].required);
	assert_int_equal(primary_retain_decide(w.v, w.n, &conf, NULL, T0 + 5000 * DAY, 0), 0);
	assert_false(w.v[0].required || w.v[1].required);
	free(w.v);
}

static void test_forever(void **state)
{
	struct primary_retain_conf c = conf;
	struct world w = {0};

	c.keep_ms[0] = -1;
	for (uint64_t t = 1; t <= 50; t++)
		add(&w, LTX_L_PACK, t, t);
	primary_retain_decide(w.v, w.n, &c, "00000000000000aa", T0 + 5000 * DAY, 0);
	for (size_t i = 0; i < w.n; i++)
		assert_true(w.v[i].required);
	free(w.v);
}

/* An older epoch's objects are the base of the newer ones. */
static void test_epochs(void **state)
{
	struct world w = {0};

	add(&w, LTX_L_SNAPSHOT, 1, 10);
	add(&w, LTX_L_PACK, 11, 20);
	add(&w, LTX_L_PACK, 21, 30);
	w.v[2].name.epoch = 2;
	w.v[2].name.last_ms = T0 + 100 * DAY;
	primary_retain_decide(w.v, w.n, &conf, "00000000000000aa", T0 + 100 * DAY, 0);
	for (size_t i = 0; i < w.n; i++)
		assert_true(w.v[i].required);
	assert_true(primary_retain_reaches(w.v, w.n, "00000000000000aa", 30));
	free(w.v);
}

static void test_size_limit(void **state)
{
	struct world w = {0};
	uint64_t last = UINT64_MAX;

	for (uint64_t t = 1; t <= 144 * 30; t++)
		live(&w, t, 1);
	for (unsigned i = 0; i < PRIMARY_RETAIN_CUTS; i++) {
		int64_t now = T0 + (int64_t)(144 * 30 - 1) * STEP;
		uint64_t bytes = primary_retain_decide(w.v, w.n, &conf, "00000000000000aa", now,
		                                       primary_retain_cut_age(&conf, i));

		assert_true(bytes <= last);
		last = bytes;
	}
	assert_int_equal(primary_retain_cut_age(&conf, PRIMARY_RETAIN_CUTS - 1), conf.keep_ms[0]);
	forget(&w);
	{ /* the hardest cut keeps every commit of the first tier */
		bool *at = positions(&w, 144 * 30);

		for (uint64_t p = 144 * 29 + 1; p <= 144 * 30; p++)
			assert_true(at[p]);
		free(at);
	}
	free(w.v);
}

static void test_reach_sees_holes(void **state)
{
	struct world w = {0};

	add(&w, LTX_L_SNAPSHOT, 1, 10);
	add(&w, LTX_L_PACK, 8, 20);
	add(&w, LTX_L_MINUTE, 21, 30);
	add(&w, LTX_L_PACK, 32, 40);
	primary_retain_decide(w.v, w.n, &conf, NULL, T0, 0);
	assert_true(primary_retain_reaches(w.v, w.n, "00000000000000aa", 10));
	assert_true(primary_retain_reaches(w.v, w.n, "00000000000000aa", 15));
	assert_true(primary_retain_reaches(w.v, w.n, "00000000000000aa", 30));
	assert_false(primary_retain_reaches(w.v, w.n, "00000000000000aa", 25));
	assert_false(primary_retain_reaches(w.v, w.n, "00000000000000aa", 40));
	assert_false(primary_retain_reaches(w.v, w.n, "00000000000000bb", 10));
	free(w.v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_tiers_daily_snapshots),
	        cmocka_unit_test(test_tiers_rare_snapshots),
	        cmocka_unit_test(test_tiers_no_snapshot),
	        cmocka_unit_test(test_lost_levels_are_stood_in_for),
	        cmocka_unit_test(test_superseded_goes_and_newest_stays),
	        cmocka_unit_test(test_forever),
	        cmocka_unit_test(test_epochs),
	        cmocka_unit_test(test_size_limit),
	        cmocka_unit_test(test_reach_sees_holes),
	};

	return cmocka_run_group_tests_name("primary_retain", tests, NULL, NULL);
}
