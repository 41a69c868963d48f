/* `fazt config check`: all errors of a file with their lines, what was meant, and settings that make no sense together. */
#include "cmd/lint.h"
#include "cmd/nearest.h"

#include "base/file.h"
#include "tests/unit/tmp.h"

#include <cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define R1 "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"

static char dir[512];

static void distances(void **state)
{
	static const struct {
		const char *a, *b;
		unsigned want;
	} cases[] = {
	        {"",         "",         0},
	        {"a",        "",         1},
	        {"log_maxx", "log_max",  1},
	        {"lgo_max",  "log_max",  1}, /* neighbours swapped */
	        {"kitten",   "sitting",  3},
	        {"exclude",  "excludes", 1},
	        {"state",    "lease",    3},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_int_equal(cmd_distance(cases[i].a, cases[i].b), cases[i].want);
		assert_int_equal(cmd_distance(cases[i].b, cases[i].a), cases[i].want);
	}
	assert_int_equal(cmd_distance("0123456789012345678901234567890123456789012345678901234567890123456789", "x"),
	                 70);
}

static void nearest(void **state)
{
	struct cmd_nearest n = {.word = "recipent"};

	cmd_nearest_see(&n, "identity");
	assert_null(n.best);
	cmd_nearest_see(&n, "recipients");
	assert_string_equal(n.best, "recipients");
	n = (struct cmd_nearest){.word = "x"};
	cmd_nearest_see(&n, "url");
	assert_null(n.best);
}

/* Lines of errors, then of warnings, and a word of each text. $ stands for the test's directory. */
static const struct lint_case {
	const char *name, *text, *errors, *warnings;
} cases[] = {
        {"fine",                    "[mount]\nlog_max = 1G\n[target a]\nurl = dir:/b\n",                                "",                                   ""                             },
        {"empty",                   "",                                                                                 "",                                   ""                             },
        {"all of them",             "[mount]\nlog_maxx = 1G\nscrub_rate = x\n\n[encrypt]\nencrypt = rot\njust words\n",
         "2 did you mean 'log_max'?|3 scrub_rate|6 neither age nor none|7 neither [section]|",                                                                ""                             },
        {"a key elsewhere",         "[link]\nlog_max = 1G\n",                                                           "2 it belongs in [mount]|",           ""                             },
        {"not near",                "[mount]\nzzzzz = 1\n",                                                             "2 unknown key 'zzzzz' in [mount]|",  ""                             },
        {"what goes on goes too",   "[mount]\nexclud = a\n  b\nlog_max = 1G\n",                                         "2 'exclude'|",                       ""                             },
        {"a section",               "[mont]\nstate = /x\nfoo = 1\n[mount]\nlog_max = no\n",                             "2 did you mean [mount]?|5 log_max|", ""                             },
        {"a target",                "[target a]\nregion = x\n[target b]\nurl = dir:/b\n",                               "2 has no url|",                      ""                             },
        {"a long line",
         "[mount]\nlog_file = "
         "/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
         "a"
         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
         "aaaaa\n"
         "log_max = no\n",                                                                                              "2 longer than|3 log_max|",           ""                             },
        {"a key file",              "[mount]\nlog_max = 1G\n[encrypt]\nrecipients = $/none\n",                          "4 cannot read the key file|",        ""                             },
        {"whole: a replica",        "[link]\nrole = replica\n",                                                         "2 a replica needs|",                 ""                             },
        {"whole: listen",           "[link]\n\nlisten = 127.0.0.1:1\n",                                                 "3 nobody may follow|",               ""                             },
        {"whole: two urls",         "[target a]\nurl = dir:/b\n[target b]\nurl = dir:/b\n",                             "4 same url|",                        ""                             },
        {"whole: all of them",
         "[encrypt]\nrecipients = age1xyz\n[link]\nrole = replica\n[target a]\nurl = dir:b\n[target c]\nurl = "
         "ftp://x\n",                                                                                                   "2 no age|4 a replica|6 url|8 url|",  ""                             },
        {"a secret others read",    "[target a]\nurl = s3://bucket/p\naccess_key = a\nsecret_key = b\n",                "2 chmod 600|",
         ""                                                                                                                                                                                  },
        {"no effect",               "[link]\nlease = 5s\nack_timeout = 1s\nadvertise = a:1\n",                          "",
         "3 without ack|2 without failover|4 without listen|"                                                                                                                                },
        {"kept shorter",            "[target a]\nurl = dir:/b\nkeep_commits = 7d\nkeep_minutes = 1d\n",                 "",
         "4 shorter than keep_commits|"                                                                                                                                                      },
        {"kept for ever, then not", "[target a]\nurl = dir:/b\nkeep_commits = forever\nkeep_days = 1d\n",               "",
         "4 shorter than keep_commits|"                                                                                                                                                      },
        {"append only",             "[target a]\nurl = dir:/b\nappend_only = yes\nkeep_bytes = 1G\n",                   "",
         "4 nothing is ever deleted|"                                                                                                                                                        },
        {"plain to S3",             "[target a]\nurl = s3://bucket/p\nencrypt = none\n",                                "",                                   "2 reads the databases|"       },
        {"recipients of nothing",   "[encrypt]\nencrypt = none\nrecipients = " R1 "\n",                                 "",                                   "3 no effect|"                 },
        {"no TLS",                  "[target a]\nurl = s3://bucket/p\nendpoint = http://10.0.0.1:9000\n",               "",                                   "3 without TLS|"               },
        {"TLS not needed",          "[target a]\nurl = s3://bucket/p\nendpoint = http://127.0.0.1:9000\n",              "",                                   ""                             },
        {"one inside the other",    "[target a]\nurl = dir:/b\n[target c]\nurl = dir:/b/c\n",                           "",                                   "4 inside another|"            },
        {"beside",                  "[target a]\nurl = dir:/b\n[target c]\nurl = dir:/bc\n",                            "",                                   ""                             },
        {"both ways",               "[mount]\ndatabases = x*\nexclude = x*\n",                                          "",                                   "2 exclude as well|"           },
        {"once only",               "[mount]\ntake_over = yes\nno_resend = yes\n",                                      "",                                   "2 at every mount|3 for tests|"},
        {"the key of the backups",  "[encrypt]\nidentity = $/key\n[target a]\nurl = dir:/b\n",                          "",
         "2 recipients are enough|2 chmod 600|"                                                                                                                                              },
};

static void lint(void **state)
{
	char *const env[] = {NULL};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		cJSON *lists[2] = {cJSON_CreateArray(), cJSON_CreateArray()};
		struct fz_buf text = {0};
		char path[600];
		struct fz_err err = {0};
		struct cmd_conf c;

		for (const char *p = cases[i].text; *p; p++)
			assert_int_equal(*p == '$' ? fz_buf_addf(&text, "%s", dir) : fz_buf_add(&text, p, 1), 0);
		snprintf(path, sizeof(path), "%s/f.conf", dir);
		assert_int_equal(fz_write_file(AT_FDCWD, path, fz_buf_str(&text), text.size, 0644, &err), 0);
		assert_int_equal(cmd_lint(&c, path, env, lists[0], lists[1], &err), 0);
		for (int k = 0; k < 2; k++) {
			const char *want = k ? cases[i].warnings : cases[i].errors;
			const cJSON *o;

			cJSON_ArrayForEach (o, lists[k]) {
				const char *says = cJSON_GetStringValue(cJSON_GetObjectItem(o, "text"));
				int line = (int)cJSON_GetNumberValue(cJSON_GetObjectItem(o, "line"));
				size_t n = strcspn(want, "|");
				char word[200], begin[700];
				int at = -1;

				snprintf(word, sizeof(word), "%.*s", (int)n, want);
				snprintf(begin, sizeof(begin), "%s:%d: ", path, line);
				if (sscanf(word, "%d", &at) != 1 || at != line ||
				    !strstr(says, strchr(word, ' ') + 1) || strncmp(says, begin, strlen(begin)) != 0)
					fail_msg("%s: wanted '%s', got line %d: %s", cases[i].name, word, line, says);
				want += n + (want[n] == '|');
			}
			if (*want)
				fail_msg("%s: missing: %s", cases[i].name, want);
			cJSON_Delete(lists[k]);
		}
		fz_buf_fini(&text);
		cmd_conf_fini(&c);
	}
}

static void environment(void **state)
{
	char bad[] = "FAZT_LOG_MAX=lots";
	char *const env[] = {bad, NULL};
	cJSON *errors = cJSON_CreateArray(), *warnings = cJSON_CreateArray();
	struct fz_err err = {0};
	struct cmd_conf c;
	char path[600];

	snprintf(path, sizeof(path), "%s/e.conf", dir);
	assert_int_equal(cmd_lint(&c, path, env, errors, warnings, &err), -FZ_ECONFIG);
	cmd_conf_fini(&c);
	assert_int_equal(fz_write_file(AT_FDCWD, path, "[mount]\n", 8, 0644, &err), 0);
	assert_int_equal(cmd_lint(&c, path, env, errors, warnings, &err), 0);
	assert_int_equal(cJSON_GetArraySize(errors), 1);
	assert_non_null(strstr(cJSON_GetStringValue(cJSON_GetObjectItem(cJSON_GetArrayItem(errors, 0), "text")),
	                       "FAZT_LOG_MAX: log_max: 'lots'"));
	cmd_conf_fini(&c);
	cJSON_Delete(errors);
	cJSON_Delete(warnings);
}

static int make(void **state)
{
	struct fz_err err = {0};
	char path[600];

	setenv("AWS_ACCESS_KEY_ID", "a", 1); /* targets in S3 are opened, and asked nothing */
	setenv("AWS_SECRET_ACCESS_KEY", "b", 1);
	setenv("AWS_REGION", "r", 1);
	if (!tmp_make(dir, sizeof(dir), "lint"))
		return -1;
	snprintf(path, sizeof(path), "%s/key", dir);
	return fz_write_file(AT_FDCWD, path, "x", 1, 0644, &err);
}

static int drop(void **state)
{
	struct fz_err err = {0};

	return fz_remove_tree(AT_FDCWD, dir, &err);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(distances), cmocka_unit_test(nearest),
	                                   cmocka_unit_test(lint), cmocka_unit_test(environment)};

	return cmocka_run_group_tests(tests, make, drop);
}
