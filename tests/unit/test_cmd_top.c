/* test_cmd_top.c - `fazt top` without a terminal: rates from answers, the order of databases, and frames of every size that hold
 * nothing but text, whatever the names are. */
#include "cmd/topframe.h"
#include "cmd/toppaper.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cJSON.h>
#include <cmocka.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

#define SECOND UINT64_C(1000000000)

static const char status[] =
        "{\"dir\":\"/srv/app\",\"role\":\"primary\",\"epoch\":3,\"restarts\":1,\"passthrough\":true,\"healthy\":false,"
        "\"databases\":["
        "{\"name\":\"b.db\",\"lineage\":\"01\",\"txid\":%d,\"pages\":10,\"page_size\":4096,\"log_bytes\":1000,"
        "\"journal_mode\":\"wal\",\"capture\":\"wal\",\"last_error\":\"\"},"
        "{\"name\":\"a.db\",\"lineage\":\"02\",\"txid\":%d,\"pages\":20,\"page_size\":512,\"log_bytes\":%d,"
        "\"journal_mode\":\"wal\",\"capture\":\"wal\",\"last_error\":\"\",\"merged_txns\":4},"
        "{\"name\":\"\\u001b[31m\\u202ehostile \xe6\x95\xb0\xe6\x8d\xae \\u0000 \xff\xfe\\n\\t\",\"lineage\":\"03\","
        "\"txid\":1,\"pages\":1,\"page_size\":512,\"log_bytes\":0,\"capture\":\"wal\",\"last_error\":\"no "
        "\\u001b]0;x\\u0007\"}],"
        "\"targets\":[{\"name\":\"good\",\"url\":\"dir:/"
        "a\",\"state\":\"ok\",\"lag_seconds\":0,\"lag_bytes\":0,\"lag_txns\":0,"
        "\"last_error\":\"\",\"bytes_out\":%d,\"requests\":7,\"databases\":[]},"
        "{\"name\":\"bad\",\"url\":\"dir:/b\",\"state\":\"fenced\",\"lag_seconds\":70,\"lag_bytes\":99,\"lag_txns\":5,"
        "\"last_error\":\"another writer\",\"bytes_out\":0,\"requests\":7,"
        "\"databases\":[{\"name\":\"b.db\",\"lineage\":\"01\",\"txid\":0,\"lag_seconds\":70,\"lag_txns\":5,"
        "\"last_error\":\"another writer\"}]}],"
        "\"replicas\":[{\"name\":\"age1x\",\"key\":\"age1x\",\"host\":\"db2\",\"connected\":false,\"lag_ms\":250,"
        "\"last_error\":null,\"bytes_out\":5,\"databases\":[{\"name\":\"a.db\",\"lineage\":\"02\",\"lag_ms\":250,\"lag_"
        "txns\":2,"
        "\"diverged\":true,\"last_error\":null}]}],"
        "\"problems\":[\"target bad is fenced: another writer\"],\"notes\":[\"a note\"]}";

static void give(struct cmd_topmodel *m, uint64_t at_ns, int b_txid, int a_txid, int log_bytes, int out)
{
	char text[4096];
	struct fz_err err = {0};

	snprintf(text, sizeof(text), status, b_txid, a_txid, log_bytes, out);
	assert_int_equal(cmd_topmodel_take(m, cJSON_Parse(text), at_ns, &err), 0);
}

static const struct cmd_topdb *db(const struct cmd_topmodel *m, const char *name)
{
	for (size_t i = 0; i < m->n_dbs; i++)
		if (!strcmp(m->dbs[i].name, name))
			return &m->dbs[i];
	fail_msg("there is no %s", name);
	return NULL;
}

#define near(a, b) assert_true((a) > (b)-0.001 && (a) < (b) + 0.001)

static void test_rates(void **state)
{
	struct cmd_topmodel m = {0};

	give(&m, 0, 100, 50, 5000, 1000);
	assert_int_equal(m.n_dbs, 3);
	near(db(&m, "b.db")->commits, 0);
	assert_int_equal(db(&m, "b.db")->history.n, 0); /* one answer tells no rate */
	give(&m, 2 * SECOND, 120, 50, 6000, 5000);
	near(db(&m, "b.db")->commits, 10);
	near(db(&m, "a.db")->commits, 0);
	near(db(&m, "a.db")->bytes, 500);
	near(m.commits, 10);
	assert_string_equal(m.peers[2].name, "good"); /* what is not well comes first */
	near(m.peers[2].bytes, 2000);
	give(&m, 3 * SECOND, 10, 50, 100, 5000); /* counters that go back: no rate, and not a negative one */
	near(db(&m, "b.db")->commits, 5);
	near(db(&m, "a.db")->bytes, 250);
	for (int i = 4; i < 4 + 2 * CMD_TOP_HISTORY; i++)
		give(&m, (uint64_t)i * SECOND, 10 + i, 50, 100, 5000);
	assert_int_equal(db(&m, "b.db")->history.n, CMD_TOP_HISTORY);
	near(db(&m, "b.db")->commits, 1);
	cmd_topmodel_fini(&m);
	assert_null(m.status);
}

static void test_state(void **state)
{
	struct cmd_topmodel m = {0};

	give(&m, 0, 100, 50, 5000, 1000);
	assert_string_equal(db(&m, "b.db")->state, "target"); /* the fenced one cannot take its commits */
	near(db(&m, "b.db")->lag_ms, 70000);
	near(db(&m, "b.db")->behind, 5);
	near(db(&m, "b.db")->size_bytes, 40960);
	assert_string_equal(db(&m, "a.db")->state, "diverged"); /* weighs more than merged */
	near(db(&m, "a.db")->lag_ms, 250);
	assert_string_equal(m.peers[0].name, "bad");
	assert_string_equal(m.peers[0].error, "another writer");
	assert_int_equal(m.peers[0].level, CMD_TOP_BAD);
	assert_string_equal(m.peers[1].name, "db2");
	assert_string_equal(m.peers[1].state, "away");
	cmd_topmodel_fini(&m);
}

static void test_not_a_status(void **state)
{
	struct cmd_topmodel m = {0};
	struct fz_err err = {0};

	assert_int_equal(cmd_topmodel_take(&m, cJSON_Parse("{\"ok\":true}"), 0, &err), -FZ_EINTERNAL);
	cmd_topmodel_fini(&m);
}

static void test_order(void **state)
{
	static const struct {
		const char *what;
		enum cmd_topsort by;
		bool reverse;
		const char *filter, *first;
		size_t n;
	} cases[] = {
	        {"the busiest first",            CMD_TOP_BY_RATE, false, "",    "b.db", 3},
	        {"the least busy, last in name", CMD_TOP_BY_RATE, true,  ".db", "a.db", 2},
	        {"by name",                      CMD_TOP_BY_NAME, false, ".db", "a.db", 2},
	        {"by name, z first",             CMD_TOP_BY_NAME, true,  "",    "b.db", 3},
	        {"by lag",                       CMD_TOP_BY_LAG,  false, "",    "b.db", 3},
	        {"by size",                      CMD_TOP_BY_SIZE, false, "",    "b.db", 3},
	        {"by txid, least first",         CMD_TOP_BY_TXID, true,  ".db", "a.db", 2},
	        {"a filter in other letters",    CMD_TOP_BY_NAME, false, "A.D", "a.db", 1},
	        {"a filter that nothing has",    CMD_TOP_BY_NAME, false, "zzz", NULL,   0},
	};
	struct cmd_topmodel m = {0};

	give(&m, 0, 100, 50, 5000, 1000);
	give(&m, SECOND, 101, 50, 5000, 1000);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		size_t n, *v = cmd_topmodel_order(&m, cases[i].by, cases[i].reverse, cases[i].filter, &n);

		print_message("%s\n", cases[i].what);
		assert_int_equal(n, cases[i].n);
		if (n)
			assert_string_equal(m.dbs[v[0]].name, cases[i].first);
		free(v);
	}
	cmd_topmodel_fini(&m);
}

/* Columns of a line as a terminal counts them; styles take none. Fails on any byte that a terminal would obey. */
static int columns_of(const char *line, size_t n)
{
	mbstate_t ps = {0};
	int sum = 0;

	for (size_t i = 0; i < n;) {
		wchar_t c;
		size_t k;

		if ((unsigned char)line[i] < ' ') {
			assert_true(line[i] >= CMD_TOP_PLAIN && line[i] <= CMD_TOP_BAR);
			i++;
			continue;
		}
		k = mbrtowc(&c, line + i, n - i, &ps);
		assert_true(k > 0 && k <= n - i); /* whole characters, of the locale's encoding */
		assert_true(c != 0x202e && wcwidth(c) >= 0);
		sum += wcwidth(c);
		i += k;
	}
	return sum;
}

static void test_sizes(void **state)
{
	struct cmd_topmodel m = {0}, none = {0};
	struct fz_buf b = {0};

	give(&m, 0, 100, 50, 5000, 1000);
	give(&m, SECOND, 900, 50, 5000, 1000);
	for (int i = 0; i < 4 * 2 * 160; i++) {
		struct cmd_topview v = {
		        .page = i % 4, .width = 1 + i / 8, .utf8 = i / 4 % 2, .trouble = i % 3 ? NULL : "old"};

		for (v.height = 0; v.height < 40; v.height += 1 + v.height / 4) {
			int lines = 0;

			fz_buf_reset(&b);
			v.first = 1000;
			assert_int_equal(cmd_topframe_draw(i % 7 ? &m : &none, &v, &b, NULL), 0);
			for (const char *p = fz_buf_str(&b), *e; (e = strchr(p, '\n')); p = e + 1, lines++)
				assert_true(columns_of(p, (size_t)(e - p)) <= v.width);
			assert_true(v.height == 0 || lines == v.height);
		}
	}
	fz_buf_fini(&b);
	cmd_topmodel_fini(&m);
}

/* The help has no other page: a terminal of the usual size shows all of it. */
static void test_help(void **state)
{
	struct cmd_topview v = {.page = CMD_TOP_HELP, .width = 80, .height = 24, .utf8 = true};
	struct cmd_topmodel m = {0};
	struct fz_buf b = {0};

	give(&m, 0, 100, 50, 5000, 1000);
	assert_int_equal(cmd_topframe_draw(&m, &v, &b, NULL), 0);
	assert_null(strstr(fz_buf_str(&b), "…"));
	assert_non_null(strstr(fz_buf_str(&b), "diverged: a replica has others"));
	fz_buf_fini(&b);
	cmd_topmodel_fini(&m);
}

static void test_numbers(void **state)
{
	static const struct {
		const char *(*f)(char out[static CMD_TOP_NUMBER], double v);
		double v;
		const char *want;
	} cases[] = {
	        {cmd_top_bytes, 0,                     "0"    },
	        {cmd_top_bytes, 1023,                  "1023" },
	        {cmd_top_bytes, 1536,                  "1.5K" },
	        {cmd_top_bytes, 300.0 * 1024 * 1024,   "300M" },
	        {cmd_top_time,  0,                     "0"    },
	        {cmd_top_time,  850,                   "850ms"},
	        {cmd_top_time,  2500,                  "2.5s" },
	        {cmd_top_time,  250000,                "4m10s"},
	        {cmd_top_time,  3600e3 * 5 + 60e3 * 3, "5h03m"},
	        {cmd_top_time,  86400e3 * 2,           "2d00h"},
	        {cmd_top_count, 0,                     "0"    },
	        {cmd_top_count, 0.44,                  "0.4"  },
	        {cmd_top_count, 3456,                  "3456" },
	        {cmd_top_count, 1234567,               "1.2M" },
	};
	char out[CMD_TOP_NUMBER];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		assert_string_equal(cases[i].f(out, cases[i].v), cases[i].want);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_rates),   cmocka_unit_test(test_state), cmocka_unit_test(test_not_a_status),
	        cmocka_unit_test(test_order),   cmocka_unit_test(test_sizes), cmocka_unit_test(test_help),
	        cmocka_unit_test(test_numbers),
	};

	if (!setlocale(LC_CTYPE, "C.UTF-8"))
		return 1;
	return cmocka_run_group_tests_name("cmd/top", tests, NULL, NULL);
}
