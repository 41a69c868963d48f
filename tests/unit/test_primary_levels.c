/* test_primary_levels.c - which level is due when: tables of states, and a simulated day. */
#include "primary/levels.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#define MIN  INT64_C(60000)
#define HOUR INT64_C(3600000)
#define DAY  INT64_C(86400000)

static const struct primary_levels_conf conf = {
        .window_ms = {0, MIN, HOUR, MIN, HOUR, DAY},
          .snapshot_interval_ms = DAY, .settle_ms = 2000
};

static struct primary_levels_state fresh(void)
{
	struct primary_levels_state s;

	memset(&s, 0, sizeof(s));
	for (int l = 0; l < PRIMARY_LEVELS; l++)
		s.first_ms[l] = -1;
	return s;
}

static void test_windows(void **state)
{
	static const struct {
		int64_t window, t, want;
	} rows[] = {
	        {MIN,  0,             MIN      },
                {MIN,  59999,         MIN      },
                {MIN,  MIN,           2 * MIN  },
                {HOUR, 10 * HOUR + 5, 11 * HOUR}
        };

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		assert_int_equal(primary_levels_window_end(rows[i].window, rows[i].t), rows[i].want);
}

static void test_idle_is_never_due(void **state)
{
	struct primary_levels_state s = fresh();
	int64_t wait;

	assert_int_equal(primary_levels_due(&conf, &s, 0, 1 << 20, 100 * DAY, &wait), 0);
	assert_int_equal(wait, -1);
}

struct row {
	const char *name;
	int64_t first[6]; /* of each level; -1 = caught up */
	int64_t now;
	int want;
	int64_t wait;
};
static const struct row rows[] = {
        {"minute not over",                         {-1, 0, 0, 0, 0, 0},            MIN - 1,     0, 2001},
        {"minute over, not settled",                {-1, 0, 0, 0, 0, 0},            MIN + 1999,  0, 1   },
        {"minute over: packs first",                {-1, 0, 0, 0, 0, 0},            MIN + 2000,  1, 0   },
        {"then merged",                             {-1, MIN, 0, 0, 0, 0},          MIN + 2000,  3, 0   },
        {"then the next minute is waited for",      {-1, MIN, 0, MIN, 0, 0},        MIN + 2000,  0, MIN },
        {"hour over: the minute below comes first", {-1, -1, -1, 59 * MIN, 0, 0},   HOUR + 2000, 3, 0   },
        {"hour over, minutes done",                 {-1, -1, -1, -1, 0, 0},         HOUR + 2000, 4, 0   },
        {"hour over, minutes done up to it",        {-1, -1, -1, HOUR, 0, 0},       HOUR + 2000, 4, 0   },
        {"packs of the hour",                       {-1, -1, 0, -1, -1, 0},         HOUR + 2000, 2, 0   },
        {"day",                                     {-1, -1, -1, -1, -1, 0},        DAY + 2000,  5, 0   },
        {"day waits for its hours",                 {-1, -1, -1, -1, 23 * HOUR, 0}, DAY + 2000,  4, 0   },
};

static void test_rows(void **state)
{
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const struct row *r = &rows[i];
		struct primary_levels_state s = fresh();
		int64_t wait;
		int got;

		for (int l = 1; l < PRIMARY_LEVELS; l++) {
			s.from_txid[l] = 5;
			s.first_ms[l] = r->first[l];
		}
		s.snap_txid = 10; /* nothing new for a snapshot */
		s.snap_ms = 1;
		got = primary_levels_due(&conf, &s, 10, 1 << 20, r->now, &wait);
		if (got != r->want || wait != r->wait)
			fail_msg("%s: level %d in %lld ms", r->name, got, (long long)wait);
	}
}

static void test_snapshots(void **state)
{
	struct primary_levels_state s = fresh();
	int64_t wait;

	s.need_snapshot = true;
	assert_int_equal(primary_levels_due(&conf, &s, 0, 0, 1, &wait), LTX_L_SNAPSHOT);
	s.need_snapshot = false;
	primary_levels_shipped(&s, 1, 1000, 500, 1000);
	assert_int_equal(s.snap_ms, 1000);
	for (int l = 1; l < PRIMARY_LEVELS; l++)
		primary_levels_advance(&s, l, 11, -1);
	/* by interval */
	assert_int_equal(primary_levels_due(&conf, &s, 10, 1 << 20, 999 + DAY, &wait), 0);
	assert_int_equal(wait, 1);
	assert_int_equal(primary_levels_due(&conf, &s, 10, 1 << 20, 1000 + DAY, &wait), LTX_L_SNAPSHOT);
	/* by volume: more than the database, and never for a few kilobytes */
	s.since_snap_bytes = (2 << 20) + 1;
	assert_int_equal(primary_levels_due(&conf, &s, 10, 2 << 20, 5000, &wait), LTX_L_SNAPSHOT);
	assert_int_equal(primary_levels_due(&conf, &s, 10, 3 << 20, 5000, &wait), 0);
	s.since_snap_bytes = 50000;
	assert_int_equal(primary_levels_due(&conf, &s, 10, 4096, 5000, &wait), 0);
	/* the last one, or the begin of shipping, was while the clock was far ahead */
	s.snap_ms = 5000 + DAY + 1;
	assert_int_equal(primary_levels_due(&conf, &s, 10, 4096, 5000, &wait), LTX_L_SNAPSHOT);
	s.snap_ms = 5000 + 1000 * DAY;
	assert_int_equal(primary_levels_due(&conf, &s, 10, 4096, 5000, &wait), LTX_L_SNAPSHOT);
	s.snap_ms = 5000 + 1000; /* set back by a second: no reason for another one */
	assert_int_equal(primary_levels_due(&conf, &s, 10, 4096, 5000, &wait), 0);
	assert_int_equal(wait, DAY + 1000);
	/* nothing new since the last one: never */
	s.snap_txid = 10;
	assert_int_equal(primary_levels_due(&conf, &s, 10, 4096, 500 * DAY, &wait), 0);
	assert_int_equal(wait, -1);
}

static void test_snapshot_ends_where_levels_end(void **state)
{
	struct primary_levels_state s = fresh();

	s.from_txid[LTX_L_DAY] = 100;
	s.from_txid[LTX_L_HOUR] = 150;
	s.from_txid[LTX_L_MINUTE] = 170;
	assert_int_equal(primary_levels_snapshot_txid(&s, 180), 99);
	s.snap_txid = 99;
	assert_int_equal(primary_levels_snapshot_txid(&s, 180), 149);
	s.snap_txid = 149;
	assert_int_equal(primary_levels_snapshot_txid(&s, 180), 169);
	s.snap_txid = 169;
	assert_int_equal(primary_levels_snapshot_txid(&s, 180), 180);
}

/* A day of one commit every 10 s, each shipped at once; then idle. Nothing is due twice, all ends in silence. */
static void test_a_day(void **state)
{
	struct primary_levels_state s = fresh();
	unsigned made[10] = {0};
	uint64_t txid = 0;
	int64_t now = 1000 * DAY, last = now + DAY - 10000, wait = 0, end = now + 10 * DAY;

	while (now < end) {
		int level;

		if (now <= last && (now % 10000) == 0) {
			txid++;
			primary_levels_shipped(&s, txid, now, 1000, now);
		}
		while ((level = primary_levels_due(&conf, &s, txid, 100 << 20, now, &wait)) != 0) {
			made[level]++;
			assert_in_range(made[level], 1, 2000);
			if (level == LTX_L_SNAPSHOT) {
				s.snap_txid = primary_levels_snapshot_txid(&s, txid);
				s.snap_ms = now;
			} else { /* commit k was made at day start + (k - 1) * 10 s */
				int64_t e = primary_levels_window_end(conf.window_ms[level], s.first_ms[level]);
				uint64_t next = (uint64_t)((e - 1000 * DAY) / 10000) + 1;

				primary_levels_advance(&s, level, next,
				                       next <= txid ? 1000 * DAY + (int64_t)(next - 1) * 10000 : -1);
			}
		}
		if (wait < 0 && now > last)
			break;
		now += 1000;
	}
	assert_int_equal(wait, -1);
	assert_int_equal(made[1], 1440);
	assert_int_equal(made[3], 1440);
	assert_int_equal(made[2], 24);
	assert_int_equal(made[4], 24);
	assert_int_equal(made[5], 1);
	assert_in_range(made[9], 1, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_windows), cmocka_unit_test(test_idle_is_never_due),
	        cmocka_unit_test(test_rows),    cmocka_unit_test(test_snapshots),
	        cmocka_unit_test(test_a_day),   cmocka_unit_test(test_snapshot_ends_where_levels_end),
	};

	return cmocka_run_group_tests_name("primary_levels", tests, NULL, NULL);
}
