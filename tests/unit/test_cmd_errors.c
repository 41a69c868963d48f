/* Every code has a remedy and its line in docs/errors.md, and docs/errors.md lists no other. */
#include "cmd/cmd.h"

#include "base/buf.h"
#include "base/file.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
	const char *name;
	int number;
	const char *text;
} codes[] = {
#define X(name, num, text) {#name, num, text},
        FZ_ERRORS(X)
#undef X
};
#define N (sizeof(codes) / sizeof(codes[0]))

static void remedies(void **state)
{
	for (size_t i = 0; i < N; i++)
		if (!cmd_remedy(-codes[i].number) || cmd_remedy(codes[i].number) != cmd_remedy(-codes[i].number))
			fail_msg("FZ-%d has no remedy", codes[i].number);
	assert_non_null(cmd_remedy(-ENOSPC));
	assert_null(cmd_remedy(-ECANCELED));
	assert_null(cmd_remedy(0));
}

/* "## FZ-1203 not found": the heading holds number and sentence, the text below it names the exit code. */
static void documented(void **state)
{
	struct fz_buf doc = {0};
	struct fz_err err = {0};
	size_t listed = 0;
	char want[300];

	if (fz_read_file(AT_FDCWD, "docs/errors.md", 1 << 20, &doc, &err) < 0)
		fail_msg("%s (run from the project's root)", err.text);
	for (size_t i = 0; i < N; i++) {
		const char *at, *end, *exits;

		snprintf(want, sizeof(want), "\n## FZ-%d %s\n", codes[i].number, codes[i].text);
		at = strstr(fz_buf_str(&doc), want);
		if (!at)
			fail_msg("docs/errors.md lacks the heading '%.*s'", (int)strlen(want) - 2, want + 1);
		end = strstr(at + 1, "\n## ");
		snprintf(want, sizeof(want), "Exit code %d.", fz_err_exit(-codes[i].number));
		exits = strstr(at, want);
		if (!exits || (end && exits > end))
			fail_msg("docs/errors.md: FZ-%d does not say '%s'", codes[i].number, want);
	}
	for (const char *p = fz_buf_str(&doc); (p = strstr(p, "\n## FZ-")); p++)
		listed++;
	assert_int_equal(listed, N);
	fz_buf_fini(&doc);
}

/* The codes that users and scripts rely on (issue: exit codes). */
static void exits(void **state)
{
	static const struct {
		int code, exit;
	} rows[] = {
	        {-FZ_EUSAGE,      2},
                {-FZ_ECONFIG,     2},
                {-FZ_EKEYFILE,    2},
                {-FZ_ENOTFOUND,   3},
	        {-FZ_ENOCOMMIT,   3},
                {-FZ_ECHECKSUM,   4},
                {-FZ_EVERIFY,     4},
                {-FZ_ECORRUPT,    4},
	        {-FZ_ENOKEY,      1},
                {-FZ_EFENCED,     1},
                {-FZ_ETIMEOUT,    1},
                {-FZ_EBUSY,       1},
	        {-FZ_ENOTMOUNTED, 1},
                {-FZ_EMOUNTED,    1},
                {-FZ_EEXISTS,     1},
                {-5,              1}
        };

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (fz_err_exit(rows[i].code) != rows[i].exit)
			fail_msg("%d: exit %d", rows[i].code, fz_err_exit(rows[i].code));
}

/* what happened, the code, what to do: on stderr */
static void report(void **state)
{
	struct fz_err err = {0};
	char text[1000] = "";
	FILE *f = tmpfile();
	int saved = dup(2);

	assert_non_null(f);
	(void)!fz_fail(&err, FZ_ENOTFOUND, "no database app.db in dir:/backup");
	assert_true(dup2(fileno(f), 2) == 2);
	assert_int_equal(cmd_report("restore", &err), 3);
	fflush(stderr);
	assert_true(dup2(saved, 2) == 2);
	close(saved);
	rewind(f);
	text[fread(text, 1, sizeof(text) - 1, f)] = 0;
	fclose(f);
	assert_non_null(strstr(text, "fazt restore: no database app.db in dir:/backup (FZ-1203)\n"));
	assert_non_null(strstr(text, "\n  what to do: "));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(remedies),
	        cmocka_unit_test(documented),
	        cmocka_unit_test(exits),
	        cmocka_unit_test(report),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
