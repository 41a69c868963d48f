/* What two URLs are told of a problem that comes, stays, flaps, goes, is refused, and outlives a worker. A row is one moment: what the status says, who
 * can be reached, and what each is told, in order. */
#include "base/file.h"
#include "cmd/alertbook.h"
#include "tests/unit/tmp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <cJSON.h>
#include <fcntl.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIN 60000

struct row {
	int at_min;
	const char *status; /* "lag a, disk b"; "!replica", "!primary": the role */
	const char *
	        down; /* URLs that cannot be reached: "", "0", "1", "01"; "-lag": URL 0 refuses that kind; "~lag": it fails over it */
	const char *want[2];
	bool worker_dies; /* and the next one reads what it left */
};

static struct cmd_alertbook fresh(void)
{
	return (struct cmd_alertbook){
	        .n_urls = 2, .url_id = {"aaaa", "bbbb"},
                     .interval_ms = 60 * MIN
        };
}

static cJSON *status_of(const char *text)
{
	cJSON *o = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(o, "alerts");
	char copy[200], *save = NULL;

	snprintf(copy, sizeof(copy), "%s", text);
	for (char *p = strtok_r(copy, ",", &save); p; p = strtok_r(NULL, ",", &save)) {
		char kind[20] = "", about[20] = "";
		cJSON *a = cJSON_CreateObject();

		sscanf(p, " %19s %19s", kind, about);
		if (*kind == '!') {
			cJSON_AddStringToObject(o, "role", kind + 1);
			cJSON_AddNumberToObject(o, "epoch", 7);
			cJSON_Delete(a);
			continue;
		}
		cJSON_AddStringToObject(a, "kind", kind);
		cJSON_AddStringToObject(a, "about", about);
		cJSON_AddStringToObject(a, "text", p);
		cJSON_AddItemToArray(list, a);
	}
	return o;
}

/* All that URL is told now: "problem lag, resolved disk". */
static void tell(struct cmd_alertbook *b, size_t url, const char *down, int64_t now, char out[static 400])
{
	bool up = !strchr(down, (char)('0' + url)), again = true;
	char kind[20] = "", how = 0;
	struct cmd_alert *a;
	const char *event;

	out[0] = 0;
	if (url == 0)
		sscanf(down, "%c%19s", &how, kind);
	while ((event = cmd_alertbook_next(b, url, now, again, &a))) {
		enum cmd_alert_outcome outcome = !up                     ? CMD_ALERT_LOST
		                                 : strcmp(kind, a->kind) ? CMD_ALERT_ARRIVED
		                                 : how == '~'            ? CMD_ALERT_FAILED
		                                                         : CMD_ALERT_REFUSED;
		size_t n = strlen(out);
		const char *of = a->kind;
		bool given_up = cmd_alertbook_sent(b, url, a, event, outcome, now);

		snprintf(out + n, 400 - n, "%s%s %s%s", n ? ", " : "", event, of, given_up ? " (given up)" : "");
		again &= outcome != CMD_ALERT_REFUSED;
		if (outcome == CMD_ALERT_LOST || outcome == CMD_ALERT_FAILED)
			return; /* it is tried again later */
		assert_true(n < 300);
	}
}

static void play(const struct row *rows, size_t n)
{
	struct cmd_alertbook b = fresh();
	struct fz_err err = {0};
	char dir[200], got[400];
	int fd;

	assert_non_null(tmp_make(dir, sizeof(dir), "fazt-alerts"));
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (size_t i = 0; i < n; i++) {
		int64_t now = INT64_C(1700000000000) + (int64_t)rows[i].at_min * MIN;
		cJSON *s = status_of(rows[i].status);

		assert_int_equal(cmd_alertbook_see(&b, s, now, &err), 0);
		cJSON_Delete(s);
		for (size_t u = 0; u < 2; u++) {
			tell(&b, u, rows[i].down, now, got);
			if (strcmp(got, rows[i].want[u]) != 0)
				fail_msg("row %zu, url %zu: told '%s', not '%s'", i, u, got, rows[i].want[u]);
		}
		if (rows[i].worker_dies) {
			assert_int_equal(cmd_alertbook_save(&b, fd, &err), 0);
			cmd_alertbook_fini(&b);
			b = fresh();
			assert_int_equal(cmd_alertbook_load(&b, fd, &err), 0);
		}
	}
	assert_int_equal(b.n, 0); /* nothing is kept for ever */
	cmd_alertbook_fini(&b);
	close(fd);
	assert_int_equal(fz_remove_tree(AT_FDCWD, dir, NULL), 0);
}
#define PLAY(rows) play(rows, sizeof(rows) / sizeof(rows[0]))

static void comes_stays_goes(void **state)
{
	static const struct row rows[] = {
	        {0,   "",             "", {"", ""},	                                               false},
	        {1,   "lag a",        "", {"problem lag", "problem lag"},                                 false},
	        {2,   "lag a",        "", {"", ""},	                                               false},
	        {3,   "lag a,disk b", "", {"problem disk", "problem disk"},                               false},
	        {62,  "lag a,disk b", "", {"repeat lag", "repeat lag"},                                   false},
	        {63,  "lag a,disk b", "", {"repeat disk", "repeat disk"},                                 false},
	        {70,  "",             "", {"resolved lag, resolved disk", "resolved lag, resolved disk"}, false},
	        {71,  "",             "", {"", ""},	                                               false},
	        {200, "",             "", {"", ""},	                                               false},
	};

	PLAY(rows);
}

static void flaps(void **state)
{
	static const struct row rows[] = {
	        {0,   "lag a", "", {"problem lag", "problem lag"},   false},
	        {1,   "",      "", {"resolved lag", "resolved lag"}, false},
	        {2,   "lag a", "", {"", ""},                         false},
	        {3,   "",      "", {"", ""},                         false},
	        {4,   "lag a", "", {"", ""},                         false},
	        {60,  "lag a", "", {"problem lag", "problem lag"},   false},
	        {61,  "",      "", {"resolved lag", "resolved lag"}, false},
	        {200, "",      "", {"", ""},                         false},
	};

	PLAY(rows);
}

static void one_url_is_away(void **state)
{
	static const struct row rows[] = {
	        {0,   "lag a",  "1", {"problem lag", "problem lag"},                 false},
	        {1,   "lag a",  "1", {"", "problem lag"},                            false},
	        {2,   "lag a",  "",  {"", "problem lag"},                            false}, /* told late, and then as often as the other */
	        {3,   "lag a",  "",  {"", ""},                                       false},
	        {4,   "disk b", "1", {"resolved lag, problem disk", "resolved lag"}, false},
	        {5,   "",       "1", {"resolved disk", "resolved lag"},              false},
	        {6,   "",       "",  {"", "resolved lag"},                           false}, /* never tried with disk: no word of it */
	        {200, "",       "",  {"", ""},                                       false},
	};

	PLAY(rows);
}

static void tried_in_vain(void **state)
{
	static const struct row rows[] = {
	        {0,   "lag a", "0", {"problem lag", "problem lag"},   true },
	        {1,   "",      "",  {"resolved lag", "resolved lag"}, false}, /* it may have arrived: its end is told */
	        {200, "",      "",  {"", ""},                         false},
	};

	PLAY(rows);
}

static void outlives_workers(void **state)
{
	static const struct row rows[] = {
	        {0,   "!primary,lag a", "",  {"problem lag", "problem lag"},     true },
	        {1,   "!primary,lag a", "",  {"", ""},                           true },
	        {60,  "!primary,lag a", "",  {"repeat lag", "repeat lag"},       true },
	        {61,  "!primary",       "",  {"resolved lag", "resolved lag"},   true },
	        {62,  "!primary,lag a", "",  {"", ""},                           true },
	        {63,  "!replica",       "1", {"notice fenced", "notice fenced"}, true },
	        {64,  "!replica",       "",  {"", "notice fenced"},              true },
	        {65,  "!primary",       "",  {"notice role", "notice role"},     true },
	        {300, "!primary",       "",  {"", ""},                           false},
	};

	PLAY(rows);
}

/* Nothing waits for what a URL refuses; its end is told to those who heard of it, for an interval at most. */
static void refused(void **state)
{
	static const struct row rows[] = {
	        {0,  "lag a,disk b",       "-lag",  {"problem lag, problem disk", "problem lag, problem disk"},     false},
	        {1,  "lag a,disk b",       "-lag",  {"problem lag", ""},                                            false},
	        {2,  "lag a,disk b,log c", "-lag",  {"problem log, problem lag", "problem log"},                    true },
	        {3,  "disk b,log c",       "-lag",  {"", "resolved lag"},                                           false},
	        {4,  "disk b,log c,lag a", "-lag",  {"problem lag", ""},                                            false},
	        {5,  "",                   "-disk", {"resolved disk, resolved log", "resolved disk, resolved log"}, false},
	        {6,  "!primary",           "-disk", {"resolved disk", ""},                                          false},
	        {7,  "!replica",           "-disk", {"notice fenced, resolved disk", "notice fenced"},              false},
	        {8,  "!primary",           "-role", {"notice role", "notice role"},                                 false},
	        {64, "!primary",           "-role", {"notice role", ""},                                            false},
	        {68, "!primary",           "-role", {"", ""},	                                               false},
	};

	PLAY(rows);
}

/* A URL that fails over one thing gets the others; what has failed each time that another arrived in between is given up for an
 * interval, or for good when it is over. */
static void fails_over_one(void **state)
{
	static const struct row rows[] = {
	        {0,   "lag a",           "~lag", {"problem lag", "problem lag"},                           false},
	        {1,   "lag a,disk b",    "~lag", {"problem disk, problem lag", "problem disk"},            false},
	        {2,   "lag a,disk b",    "~lag", {"problem lag", ""},                                      false}, /* nothing arrived: no proof */
	        {3,
	         "lag a,log c",          "~lag",
	         {"resolved disk, problem log, problem lag", "resolved disk, problem log"},
	         false	                                                                                  },
	        {4,
	         "lag a,ack d",          "~lag",
	         {"resolved log, problem ack, problem lag", "resolved log, problem ack"},
	         false	                                                                                  },
	        {5,
	         "lag a,link e",         "~lag",
	         {"resolved ack, problem link, problem lag", "resolved ack, problem link"},
	         false	                                                                                  },
	        {6,
	         "lag a,lease f",        "~lag",
	         {"resolved link, problem lease, problem lag (given up)", "resolved link, problem lease"},
	         false	                                                                                  },
	        {7,
	         "lag a,capture g",      "~lag",
	         {"resolved lease, problem capture", "resolved lease, problem capture"},
	         false	                                                                                  },
	        {66,  "lag a,capture g", "~lag", {"problem lag", "repeat lag"},                            false},
	        {67,
	         "capture g",            "",
	         {"repeat capture, resolved lag", "resolved lag, repeat capture"},
	         false	                                                                                  }, /* it may have arrived */
	        {68,  "",                "",     {"resolved capture", "resolved capture"},                 false},
	        {300, "",                "",     {"", ""},	                                         false},
	};

	PLAY(rows);
}

/* The URL is away altogether: however often, nothing is given up, and what fails is not always the same. */
static void fails_over_all(void **state)
{
	static const struct row rows[] = {
	        {0,   "lag a,disk b", "0", {"problem lag", "problem lag, problem disk"},                   false},
	        {1,   "lag a,disk b", "0", {"problem disk", ""},                                           false},
	        {2,   "lag a,disk b", "0", {"problem lag", ""},                                            false},
	        {3,   "lag a,disk b", "0", {"problem disk", ""},                                           false},
	        {4,   "lag a,disk b", "0", {"problem lag", ""},                                            false},
	        {5,   "lag a,disk b", "0", {"problem disk", ""},                                           false},
	        {6,   "lag a,disk b", "0", {"problem lag", ""},                                            false},
	        {7,   "lag a,disk b", "0", {"problem disk", ""},                                           false},
	        {8,   "lag a,disk b", "0", {"problem lag", ""},                                            false},
	        {9,   "lag a,disk b", "0", {"problem disk", ""},                                           false},
	        {10,  "lag a,disk b", "0", {"problem lag", ""},                                            false},
	        {11,  "lag a,disk b", "",  {"problem disk, problem lag", ""},                              false},
	        {12,  "",             "",  {"resolved lag, resolved disk", "resolved lag, resolved disk"}, false},
	        {200, "",             "",  {"", ""},	                                               false},
	};

	PLAY(rows);
}

/* A name may be any bytes; what is told is characters, and two names stay two. */
static void characters(void **state)
{
	static const char *const names[] = {"caf\xe9.db", "caf\xe8.db"};
	struct cmd_alertbook b = fresh();
	struct fz_err err = {0};
	char dir[200];
	int fd;

	assert_non_null(setlocale(LC_ALL, "C.UTF-8"));
	assert_non_null(tmp_make(dir, sizeof(dir), "fazt-alerts"));
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (int round = 0; round < 4; round++) {
		cJSON *s = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(s, "alerts");

		for (int i = 0; i < 4; i++) {
			cJSON *o = cJSON_CreateObject();
			char text[2000];

			cJSON_AddStringToObject(o, "kind", "verify");
			for (size_t n = 0; n < sizeof(text) - 4; n += 3) /* the arrays end within one */
				memcpy(text + n, "\xe2\x82\xac", 4);
			text[0] = (char)(i < 3 ? 'a' : 'b');
			text[1] = (char)(i < 3 ? 'a' : 'b');
			cJSON_AddStringToObject(o, "about", i < 2 ? names[i] : text);
			cJSON_AddStringToObject(o, "text", text + (i == 0));
			cJSON_AddItemToArray(list, o);
		}
		assert_int_equal(cmd_alertbook_see(&b, s, 1000 + round, &err), 0);
		cJSON_Delete(s);
		assert_int_equal(b.n, 4);
		for (size_t i = 0; i < b.n; i++) {
			assert_true(mbstowcs(NULL, b.v[i].about, 0) != (size_t)-1);
			assert_true(mbstowcs(NULL, b.v[i].text, 0) != (size_t)-1);
			assert_true(strlen(b.v[i].text) > sizeof(b.v[i].text) - 5);
		}
		assert_int_equal(cmd_alertbook_save(&b, fd, &err), 0);
		if (round == 1) {
			cmd_alertbook_fini(&b);
			b = fresh();
			assert_int_equal(cmd_alertbook_load(&b, fd, &err), 0);
		}
	}
	cmd_alertbook_fini(&b);
	close(fd);
	assert_int_equal(fz_remove_tree(AT_FDCWD, dir, NULL), 0);
}

/* A hundred at once: no hundred messages. */
static void many(void **state)
{
	struct cmd_alertbook b = fresh();
	struct fz_err err = {0};
	struct cmd_alert *a;
	const char *event;
	char text[4000] = "";
	cJSON *s = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(s, "alerts");
	unsigned n = 0, more = 0;

	for (int i = 0; i < 100; i++) {
		cJSON *o = cJSON_CreateObject();

		snprintf(text, sizeof(text), "%d", i);
		cJSON_AddStringToObject(o, "kind", "verify");
		cJSON_AddStringToObject(o, "about", text);
		cJSON_AddStringToObject(o, "text", text);
		cJSON_AddItemToArray(list, o);
	}
	assert_int_equal(cmd_alertbook_see(&b, s, 1000, &err), 0);
	while ((event = cmd_alertbook_next(&b, 0, 1000, true, &a))) {
		assert_string_equal(event, "problem");
		n++;
		if (!strcmp(a->kind, "more")) {
			more++;
			assert_non_null(strstr(a->text, "36 problems more"));
		}
		assert_false(cmd_alertbook_sent(&b, 0, a, event, CMD_ALERT_ARRIVED, 1000));
	}
	assert_int_equal(n, CMD_ALERT_MAX + 1);
	assert_int_equal(more, 1);
	cJSON_Delete(s);
	cmd_alertbook_fini(&b);
}

static void rubbish(void **state)
{
	static const char *const texts[] = {"", "{", "[]", "{\"alerts\":[{\"kind\":7,\"urls\":[3]}],\"role\":[]}",
	                                    "{\"alerts\":{}}"};
	char dir[200];
	int fd;

	assert_non_null(tmp_make(dir, sizeof(dir), "fazt-alerts"));
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		struct cmd_alertbook b = fresh();
		struct fz_err err = {0};

		assert_int_equal(fz_write_file(fd, "alerts", texts[i], strlen(texts[i]), 0600, &err), 0);
		assert_int_equal(cmd_alertbook_load(&b, fd, &err), 0);
		cmd_alertbook_fini(&b);
	}
	close(fd);
	assert_int_equal(fz_remove_tree(AT_FDCWD, dir, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(comes_stays_goes), cmocka_unit_test(flaps),
	        cmocka_unit_test(one_url_is_away),  cmocka_unit_test(tried_in_vain),
	        cmocka_unit_test(outlives_workers), cmocka_unit_test(many),
	        cmocka_unit_test(refused),          cmocka_unit_test(characters),
	        cmocka_unit_test(rubbish),          cmocka_unit_test(fails_over_one),
	        cmocka_unit_test(fails_over_all),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
