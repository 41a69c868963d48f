/* What two URLs are told of a problem that comes, stays, flaps, goes, and outlives a worker. A row is one moment: what the status says, who
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
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIN 60000

struct row {
	int at_min;
	const char *status; /* "lag a, disk b"; "!replica", "!primary": the role */
	const char *down;   /* URLs that cannot be reached: "", "0", "1", "01" */
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
static void tell(struct cmd_alertbook *b, size_t url, bool up, int64_t now, char out[static 400])
{
	struct cmd_alert *a;
	const char *event;

	out[0] = 0;
	while ((event = cmd_alertbook_next(b, url, now, &a))) {
		size_t n = strlen(out);

		snprintf(out + n, 400 - n, "%s%s %s", n ? ", " : "", event, a->kind);
		cmd_alertbook_sent(b, url, a, event, up, now);
		if (!up)
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
			tell(&b, u, !strchr(rows[i].down, (char)('0' + u)), now, got);
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
	while ((event = cmd_alertbook_next(&b, 0, 1000, &a))) {
		assert_string_equal(event, "problem");
		n++;
		if (!strcmp(a->kind, "more")) {
			more++;
			assert_non_null(strstr(a->text, "36 problems more"));
		}
		cmd_alertbook_sent(&b, 0, a, event, true, 1000);
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
	        cmocka_unit_test(rubbish),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
