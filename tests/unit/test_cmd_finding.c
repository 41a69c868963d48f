/* Findings: every code is in docs/errors.md with its gravity and reason, and no other; commands are what a shell takes. */
#include "cmd/finding.h"

#include "base/buf.h"
#include "base/file.h"

#include <cJSON.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

static struct fz_buf doc;
static int listed, last;

static void see(int number, const char *name, const char *reason, const char *command)
{
	cJSON *list = cJSON_CreateArray();
	const cJSON *o;
	char row[64];
	const char *at, *end;

	assert_true(number > last); /* no code twice */
	last = number;
	listed++;
	cmd_find(list, (enum cmd_fzd)number, "/d", "a", "x");
	o = cJSON_GetArrayItem(list, 0);
	snprintf(row, sizeof(row), "\n| FZD-%02d | %s | ", number,
	         cJSON_GetStringValue(cJSON_GetObjectItem(o, "gravity")));
	at = strstr(fz_buf_str(&doc), row);
	end = at ? strchr(at + 1, '\n') : NULL;
	if (!end || !strstr(at, reason) || strstr(at, reason) > end)
		fail_msg("docs/errors.md lacks %s%s", row + 1, reason);
	assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(o, "why")), reason);
	assert_true(command[0] && name[0]);
	assert_null(strstr(cJSON_GetStringValue(cJSON_GetObjectItem(o, "command")), "$DIR"));
	assert_null(strstr(cJSON_GetStringValue(cJSON_GetObjectItem(o, "command")), "$ARG"));
	assert_null(strstr(cJSON_GetStringValue(cJSON_GetObjectItem(o, "command")), "$COMMAND"));
	cJSON_Delete(list);
}

static void documented(void **state)
{
	struct fz_err err = {0};
	int rows = 0;

	if (fz_read_file(AT_FDCWD, "docs/errors.md", 1 << 20, &doc, &err) < 0)
		fail_msg("%s (run from the project's root)", err.text);
	cmd_finding_each(see);
	for (const char *p = fz_buf_str(&doc); (p = strstr(p, "\n| FZD-")); p++)
		rows++;
	assert_int_equal(rows, listed);
	fz_buf_fini(&doc);
}

static void commands(void **state)
{
	static const struct {
		enum cmd_fzd code;
		const char *where, *arg, *want;
	} cases[] = {
	        {FZD_CONFIG_STALE, "/var/lib/app",    NULL,                   "fazt reload /var/lib/app"               },
	        {FZD_CONFIG_STALE, "/var/lib/my app", NULL,                   "fazt reload '/var/lib/my app'"          },
	        {FZD_KEY_MODE,     "/d",              "/a'b",                 "chmod 600 '/a'\\''b'"                   },
	        {FZD_MERGED,       "/d",              "x y.db",               "fazt log '/d/x y.db'"                   },
	        {FZD_CONFIG,       "/d",              NULL,                   "fazt config check"                      },
	        {FZD_NO_ANSWER,    "/d",              "/d d/.fazt",           "tail -n 50 '/d d/.fazt/fazt.log'"       },
	        {FZD_NOT_MOUNTED,  "/d d",            "fazt mount '/d d'",    "fazt mount '/d d'"                      },
	        {FZD_NOT_ENABLED,  "/d",              "fazt@a\\x2db.service", "systemctl enable 'fazt@a\\x2db.service'"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		cJSON *list = cJSON_CreateArray();

		cmd_find(list, cases[i].code, cases[i].where, cases[i].arg, "%s", "what");
		assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(cJSON_GetArrayItem(list, 0), "command")),
		                    cases[i].want);
		cJSON_Delete(list);
	}
}

static void gravities(void **state)
{
	cJSON *list = cJSON_CreateArray();

	cmd_find(list, FZD_DEAD, "/d", NULL, "x");
	cmd_find(list, FZD_NTP, "", NULL, "x");
	cmd_find(list, FZD_NTP, "", NULL, "x");
	assert_int_equal(cmd_findings(list, CMD_PROBLEM), 1);
	assert_int_equal(cmd_findings(list, CMD_WARNING), 0);
	assert_int_equal(cmd_findings(list, CMD_NOTE), 2);
	cJSON_Delete(list);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(documented), cmocka_unit_test(commands),
	                                   cmocka_unit_test(gravities)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
