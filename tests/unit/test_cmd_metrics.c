/* cmd/metrics.h: what Prometheus reads. Judged by the text format's own rules; tests/e2e/metrics.py asks promtool as well. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cmd/config.h"
#include "cmd/metrics.h"
#include "cmd/prices.h"

#include <cJSON.h>
#include <stdlib.h>
#include <string.h>

static char *shown(const char *status)
{
	cJSON *s = cJSON_Parse(status);
	struct fz_buf b = {0};

	assert_non_null(s);
	assert_int_equal(cmd_metrics(s, &b, NULL), 0);
	cJSON_Delete(s);
	assert_non_null(b.data);
	return (char *)b.data;
}

/* Names of databases are paths: any byte may be in them. The right side is what the text format prescribes. */
static const struct label_case {
	const char *what, *name, *want;
} labels[] = {
        {"plain",                           "app.db",                               "app.db"                              },
        {"folder and blank",                "a/b c.db",                             "a/b c.db"                            },
        {"quote",                           "a\"b",                                 "a\\\"b"                              },
        {"backslash",                       "a\\b",                                 "a\\\\b"                              },
        {"line end",                        "a\nb",                                 "a\\nb"                               },
        {"all of them",                     "\"\\\n",                               "\\\"\\\\\\n"                         },
        {"UTF-8",                           "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80"},
        {"Latin-1 is shown, not passed on", "\xe4x",                                "\\\\xe4x"                            },
        {"a lone continuation",             "x\x80",                                "x\\\\x80"                            },
        {"cut off at the end",              "x\xe2\x82",                            "x\\\\xe2\\\\x82"                     },
        {"overlong",                        "\xc0\xaf",                             "\\\\xc0\\\\xaf"                      },
        {"overlong in three",               "\xe0\x80\xaf",                         "\\\\xe0\\\\x80\\\\xaf"               },
        {"a surrogate",                     "\xed\xa0\x80",                         "\\\\xed\\\\xa0\\\\x80"               },
        {"beyond Unicode",                  "\xf4\x90\x80\x80",                     "\\\\xf4\\\\x90\\\\x80\\\\x80"        },
};

static void escapes_labels(void **state)
{
	for (size_t i = 0; i < sizeof(labels) / sizeof(labels[0]); i++) {
		cJSON *s = cJSON_CreateObject(), *d = cJSON_CreateObject();
		struct fz_buf b = {0}, want = {0};

		cJSON_AddItemToArray(cJSON_AddArrayToObject(s, "databases"), d);
		cJSON_AddStringToObject(d, "name", labels[i].name);
		cJSON_AddNumberToObject(d, "txid", 7);
		assert_int_equal(cmd_metrics(s, &b, NULL), 0);
		assert_int_equal(fz_buf_addf(&want, "\nfazt_txid{database=\"%s\"} 7\n", labels[i].want), 0);
		if (!strstr(fz_buf_str(&b), fz_buf_str(&want)))
			fail_msg("%s: no %s in %s", labels[i].what, fz_buf_str(&want), fz_buf_str(&b));
		fz_buf_fini(&b);
		fz_buf_fini(&want);
		cJSON_Delete(s);
	}
}

static void wants(const char *what, const char *status, const char *want)
{
	char *text = shown(status);

	if (!strstr(text, want))
		fail_msg("%s: no %s in %s", what, want, text);
	free(text);
}

static void gives_samples(void **state)
{
	wants("a bool is a number", "{\"healthy\":true}", "# TYPE fazt_healthy gauge\nfazt_healthy 1\n");
	wants("false as well", "{\"healthy\":false}", "\nfazt_healthy 0\n");
	wants("members give samples", "{\"requests\":{\"requests\":{\"open\":3,\"fsync\":4}}}",
	      "counter\nfazt_fuse_requests_total{opcode=\"open\"} 3\nfazt_fuse_requests_total{opcode=\"fsync\"} 4\n");
	wants("two labels and one more", "{\"targets\":[{\"name\":\"t\",\"errors\":{\"FZ-1303\":2}}]}",
	      "\nfazt_target_errors_total{target=\"t\",code=\"FZ-1303\"} 2\n");
	wants("ms become seconds", "{\"replicas\":[{\"name\":\"r\",\"databases\":[{\"name\":\"a\",\"lag_ms\":1500}]}]}",
	      "\nfazt_replica_lag_seconds{database=\"a\",replica=\"r\"} 1.5\n");
	wants("large numbers keep their digits", "{\"databases\":[{\"name\":\"a\",\"log_bytes\":123456789012345}]}",
	      "\nfazt_log_size_bytes{database=\"a\"} 123456789012345\n");
	wants("a time", "{\"databases\":[{\"name\":\"a\",\"time\":\"1970-01-01T00:00:02.500Z\"}]}",
	      "\nfazt_last_commit_timestamp_seconds{database=\"a\"} 2.5\n");
	wants("each state", "{\"targets\":[{\"name\":\"t\",\"state\":\"fenced\"}]}",
	      "{target=\"t\",state=\"failed\"} 0\nfazt_target_state{target=\"t\",state=\"fenced\"} 1\n");
	wants("a histogram",
	      "{\"databases\":[{\"name\":\"a\",\"capture_delay\":{\"buckets\":[{\"seconds\":0.005,\"count\":3}],"
	      "\"count\":4,"
	      "\"sum_seconds\":0.25}}]}",
	      "# TYPE fazt_capture_delay_seconds "
	      "histogram\nfazt_capture_delay_seconds_bucket{database=\"a\",le=\"0.005\"} 3\n"
	      "fazt_capture_delay_seconds_bucket{database=\"a\",le=\"+Inf\"} 4\n"
	      "fazt_capture_delay_seconds_sum{database=\"a\"} 0.25\nfazt_capture_delay_seconds_count{database=\"a\"} "
	      "4\n");
	wants("a database that was made anew counts once, as the last one",
	      "{\"targets\":[{\"name\":\"t\",\"databases\":[{\"name\":\"a\",\"txid\":9},{\"name\":\"a\",\"txid\":1}]}]"
	      "}",
	      "gauge\nfazt_shipped_txid{database=\"a\",target=\"t\"} 1\n#");
}

/* Without a sample there is no HELP either, and each metric is told of once. */
static void says_nothing_of_what_is_not_there(void **state)
{
	char *text = shown("{\"databases\":[],\"targets\":[{\"name\":\"t\"}]}");

	assert_null(strstr(text, "fazt_target_lag_seconds"));
	assert_null(strstr(text, "fazt_commits_total"));
	free(text);
	text = shown("{\"databases\":[{\"name\":\"a\",\"txid\":1},{\"name\":\"b\",\"txid\":2}]}");
	assert_non_null(strstr(text, "# HELP fazt_txid"));
	assert_null(strstr(strstr(text, "# HELP fazt_txid") + 1, "# HELP fazt_txid"));
	free(text);
}

static const struct price_case {
	const char *text;
	int want;
	bool any;
	double put, get, list, del;
} prices[] = {
        {"none",                                     0,           false, 0,     0,      0,     0},
        {"put 0.005 get 0.0004 list 0.005 delete 0", 0,           true,  0.005, 0.0004, 0.005, 0},
        {"put=4.5, get=0.36",                        0,           true,  4.5,   0.36,   0,     0},
        {"list 1e-3",                                0,           true,  0,     0,      1e-3,  0},
        {"put",                                      -FZ_ECONFIG, false, 0,     0,      0,     0},
        {"put cheap",                                -FZ_ECONFIG, false, 0,     0,      0,     0},
        {"put -1",                                   -FZ_ECONFIG, false, 0,     0,      0,     0},
        {"put nan",                                  -FZ_ECONFIG, false, 0,     0,      0,     0},
        {"put inf",                                  -FZ_ECONFIG, false, 0,     0,      0,     0},
        {"put 1x",                                   -FZ_ECONFIG, false, 0,     0,      0,     0},
        {"copy 1",                                   -FZ_ECONFIG, false, 0,     0,      0,     0},
};

static void reads_prices(void **state)
{
	for (size_t i = 0; i < sizeof(prices) / sizeof(prices[0]); i++) {
		const struct price_case *c = &prices[i];
		double v[FZ_STORE_KINDS];
		bool any = false;
		int rc = cmd_prices_parse(c->text, v, &any, NULL);

		if (rc != c->want)
			fail_msg("%s: %d", c->text, rc);
		if (rc < 0)
			continue;
		assert_int_equal(any, c->any);
		assert_true(v[FZ_STORE_PUT] == c->put && v[FZ_STORE_GET] == c->get && v[FZ_STORE_LIST] == c->list &&
		            v[FZ_STORE_DELETE] == c->del);
	}
}

static void tells_the_cost(void **state)
{
	struct cmd_target t = {.url = (char *)"s3://b/p"};
	cJSON *o = cJSON_Parse("{\"requests_by_kind\":{\"put\":2000,\"get\":10000,\"list\":1,\"delete\":5}}");

	cmd_prices_status(&t, o);
	assert_true(cJSON_GetNumberValue(cJSON_GetObjectItem(cJSON_GetObjectItem(o, "cost"), "put")) == 0.01);
	assert_true(cJSON_GetNumberValue(cJSON_GetObjectItem(cJSON_GetObjectItem(o, "cost"), "get")) == 0.004);
	assert_true(cJSON_GetNumberValue(cJSON_GetObjectItem(cJSON_GetObjectItem(o, "cost"), "delete")) == 0);
	cJSON_DeleteItemFromObject(o, "cost");
	t.url = (char *)"dir:/b";
	cmd_prices_status(&t, o);
	assert_null(cJSON_GetObjectItem(o, "cost"));
	t.prices = (char *)"put 1";
	cmd_prices_status(&t, o);
	assert_true(cJSON_GetNumberValue(cJSON_GetObjectItem(cJSON_GetObjectItem(o, "cost"), "put")) == 2);
	t.url = (char *)"s3://b/p";
	t.prices = (char *)"none";
	cJSON_DeleteItemFromObject(o, "cost");
	cmd_prices_status(&t, o);
	assert_null(cJSON_GetObjectItem(o, "cost"));
	cJSON_Delete(o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(escapes_labels),
	        cmocka_unit_test(gives_samples),
	        cmocka_unit_test(says_nothing_of_what_is_not_there),
	        cmocka_unit_test(reads_prices),
	        cmocka_unit_test(tells_the_cost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
