/* What `fazt doctor` makes of a status: each thing that the worker can say is found under its code, and nothing of a healthy one. */
#include "cmd/doctor.h"

#include "base/file.h"
#include "tests/unit/tmp.h"

#include <cJSON.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define HEAD "\"supervisor_pid\": 2, \"worker_pid\": 3, \"passthrough\": true, \"resend\": true, \"restarts\": 0, "

/* Codes of those that do not speak of this machine, in order. */
static const struct doctor_case {
	const char *name, *conf, *status, *want;
} cases[] = {
        {"well",                  "[target a]\nurl = s3://bucket/p\n",
         "{" HEAD "\"databases\": [{\"name\": \"x\", \"txid\": 7, \"journal_mode\": \"wal\", \"capture\": \"wal\"}], "
         "\"targets\": [{\"name\": \"a\", "
         "\"state\": \"ok\", \"lag_seconds\": 3}]}",                                                                                                                                                       ""                            },
        {"no supervisor",         "[target a]\nurl = s3://bucket/p\n",
         "{\"supervisor_pid\": 0, \"passthrough\": true, \"resend\": true}",                                                                                                                               "FZD-13 "                     },
        {"restarts, no target",   "",                                                                                 "{\"supervisor_pid\": 2, \"passthrough\": true, \"resend\": true, \"restarts\": 3}",
         "FZD-14 FZD-46 "                                                                                                                                                                                                                },
        {"a replica needs none",  "",                                                                                 "{" HEAD "\"role\": \"replica\"}",                                                   ""                            },
        {"not used",              "[mount]\nno_passthrough = yes\n",                                                  "{\"supervisor_pid\": 2, \"role\": \"replica\"}",
         "FZD-05 FZD-06 "                                                                                                                                                                                                                },
        {"a worker's problems",   "",
         "{" HEAD "\"role\": \"replica\", \"problems\": [\"not connected to the primary x\", \"target a lags 99 s\", "
         "\"capture of x: y\"]}",                                                                                                                                                                          "FZD-17 "                     },
        {"a database's troubles", "[mount]\nlog_max = 1M\n",
         "{" HEAD "\"role\": \"replica\", \"databases\": [{\"name\": \"x\", \"txid\": 7, \"journal_mode\": \"wal\", "
         "\"last_error\": \"disk\", "
         "\"scrub_found\": 2, \"merged_txns\": 5, \"log_bytes\": 900000}]}",                                                                                                                               "FZD-37 FZD-38 FZD-33 FZD-32 "},
        {"the log has room",      "[mount]\nlog_max = 1M\n",
         "{" HEAD
         "\"role\": \"replica\", \"databases\": [{\"name\": \"x\", \"journal_mode\": \"wal\", \"log_bytes\": 800000}]}",                                                                                   ""                            },
        {"rollback",              "",
         "{" HEAD "\"role\": \"replica\", \"databases\": [{\"name\": \"x\", \"txid\": 1, \"journal_mode\": "
         "\"rollback\", \"capture\": \"compare\"}, "
         "{\"name\": \"y\", \"txid\": 0, \"journal_mode\": \"rollback\", \"capture\": \"journal\"}]}",                                                                                                     "FZD-35 "                     },
        {"lag",                   "[target a]\nurl = s3://bucket/p\nlag_max = 5s\n[target b]\nurl = s3://bucket/q\n",
         "{" HEAD "\"targets\": [{\"name\": \"a\", \"state\": \"retrying\", \"lag_seconds\": 6}, {\"name\": \"b\", "
         "\"state\": \"ok\", "
         "\"lag_seconds\": 6}]}",                                                                                                                                                                          "FZD-42 "                     },
        {"failed and fenced",     "[target a]\nurl = s3://bucket/p\n[target b]\nurl = s3://bucket/q\n",
         "{" HEAD "\"targets\": [{\"name\": \"a\", \"state\": \"failed\"}, {\"name\": \"b\", \"state\": \"fenced\"}]}",
         "FZD-42 FZD-43 "                                                                                                                                                                                                                },
        {"plain",                 "[encrypt]\nencrypt = none\n[target a]\nurl = s3://bucket/p\n",                     "{" HEAD "\"targets\": []}",
         "FZD-48 "                                                                                                                                                                                                                       },
        {"same disk",             "[target a]\nurl = dir:$\n",                                                        "{" HEAD "\"targets\": []}",                                                         "FZD-45 "                     },
};

static void status(void **state)
{
	char dir[512];
	struct fz_err err = {0};

	assert_non_null(tmp_make(dir, sizeof(dir), "doctor"));
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct cmd_doctor d = {.findings = cJSON_CreateArray(), .no_probe = true};
		struct fz_buf conf = {0}, got = {0};
		const cJSON *o;

		for (const char *p = cases[i].conf; *p; p++)
			assert_int_equal(*p == '$' ? fz_buf_addf(&conf, "%s", dir) : fz_buf_add(&conf, p, 1), 0);
		cmd_conf_init(&d.conf);
		assert_int_equal(cmd_conf_parse(&d.conf, fz_buf_str(&conf), conf.size, "x", &err), 0);
		d.status = cJSON_Parse(cases[i].status);
		if (!d.status)
			fail_msg("%s: no JSON", cases[i].name);
		d.kernel = (struct cmd_probe_kernel){.passthrough = true, .resend = true};
		d.statefd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		snprintf(d.w.dir, sizeof(d.w.dir), "%s", dir);
		snprintf(d.state, sizeof(d.state), "%s/.fazt", dir);
		cmd_doctor_mount(&d);
		cmd_doctor_targets(&d, NULL, 0);
		cJSON_ArrayForEach (o, d.findings)
			if (strcmp(cmd_doctor_text(o, "code"), "FZD-60") != 0) /* what this machine is tuned like */
				assert_int_equal(fz_buf_addf(&got, "%s ", cmd_doctor_text(o, "code")), 0);
		if (strcmp(fz_buf_str(&got), cases[i].want) != 0)
			fail_msg("%s: '%s' instead of '%s'", cases[i].name, fz_buf_str(&got), cases[i].want);
		fz_buf_fini(&conf);
		fz_buf_fini(&got);
		cmd_conf_fini(&d.conf);
		cJSON_Delete(d.status);
		cJSON_Delete(d.findings);
		fz_close(&d.statefd);
	}
	assert_int_equal(fz_remove_tree(AT_FDCWD, dir, &err), 0);
}

static void units(void **state)
{
	static const struct {
		const char *dir, *want;
	} rows[] = {
	        {"/var/lib/app",    "fazt@var-lib-app.service"       },
	        {"/",               "fazt@-.service"                 },
	        {"/var/lib/my-app", "fazt@var-lib-my\\x2dapp.service"},
	        {"/.hidden/a.b",    "fazt@\\x2ehidden-a.b.service"   },
	        {"/a b/\xc3\xa9",   "fazt@a\\x20b-\\xc3\\xa9.service"},
	};
	char unit[CMD_UNIT_SIZE], longer[300];

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		cmd_where_unit(rows[i].dir, "fazt@", ".service", unit);
		assert_string_equal(unit, rows[i].want);
	}
	memset(longer, 'a', sizeof(longer));
	longer[0] = '/';
	longer[sizeof(longer) - 1] = 0;
	cmd_where_unit(longer, "fazt@", ".service", unit);
	assert_string_equal(unit, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(status), cmocka_unit_test(units)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
