/* Words for a shell: bash takes each for what it was; a terminal gets no control character, of these or of a text. */
#include "cmd/quote.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
	const char *name, *text, *word, *shown;
} cases[] = {
        {"plain",                       "/var/lib/a-b.db", "/var/lib/a-b.db",  "/var/lib/a-b.db"},
        {"nothing",                     "",                "",                 ""               },
        {"a blank",                     "a b",             "'a b'",            "a b"            },
        {"a quote",                     "a'b",             "'a'\\''b'",        "a'b"            },
        {"a command",                   "';id;'",          "''\\'';id;'\\'''", "';id;'"         },
        {"a substitution",              "$(id)`id`",       "'$(id)`id`'",      "$(id)`id`"      },
        {"a backslash",                 "a\\nb",           "'a\\nb'",          "a\\nb"          },
        {"a line feed",                 "a\nb",            "$'a\\012b'",       "a\\012b"        },
        {"a digit after it",            "\0331",           "$'\\0331'",        "\\0331"         },
        {"with quote and backslash",    "\t'\\",           "$'\\011\\'\\\\'",  "\\011'\\"       },
        {"DEL",                         "\177",            "$'\\177'",         "\\177"          },
        {"letters in UTF-8",            "f\303\274r",      "'f\303\274r'",     "f\303\274r"     },
        {"CSI in UTF-8",                "\302\2332J",      "$'\\302\\2332J'",  "\\302\\2332J"   },
        {"no-break space is a letter",  "\302\240",        "'\302\240'",       "\302\240"       },
        {"an end that is no character", "a\302",           "$'a\\302'",        "a\\302"         },
        {"a byte that is none",         "\233\377x",       "$'\\233\\377x'",   "\\233\\377x"    },
        {"too long a form",             "\300\233",        "$'\\300\\233'",    "\\300\\233"     },
};

static void quoted(void **state)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct fz_buf word = {0}, shown = {0}, command = {0};
		char got[64] = "";
		size_t n;
		FILE *p;

		cmd_quote_word(&word, cases[i].text);
		cmd_quote_text(&shown, cases[i].text);
		if (strcmp(fz_buf_str(&word), cases[i].word) != 0 || strcmp(fz_buf_str(&shown), cases[i].shown) != 0)
			fail_msg("%s: %s and %s", cases[i].name, fz_buf_str(&word), fz_buf_str(&shown));
		assert_int_equal(fz_buf_addf(&command, "exec bash <<'END'\nprintf %%s %s\nEND\n", fz_buf_str(&word)),
		                 0);
		p = popen(fz_buf_str(&command), "r"); /* sh, which need not know $'...' */
		assert_non_null(p);
		n = fread(got, 1, sizeof(got) - 1, p);
		assert_int_equal(pclose(p), 0);
		if (n != strlen(cases[i].text) || memcmp(got, cases[i].text, n) != 0)
			fail_msg("%s: bash takes %s for '%s'", cases[i].name, fz_buf_str(&word), got);
		fz_buf_fini(&word);
		fz_buf_fini(&shown);
		fz_buf_fini(&command);
	}
}

/* What cJSON prints of a name of any bytes. */
static void json(void **state)
{
	static const struct {
		const char *name, *text, *want;
	} rows[] = {
	        {"as cJSON has it",     "{\"a\\u001b\":\t\"f\303\274r\"}\n", "{\"a\\u001b\":\t\"f\303\274r\"}\n"},
	        {"no character",        "\"\377\"",                          "\"\\\\xff\""                      },
	        {"control characters",  "\"\302\233\177\"",                  "\"\\u009b\\u007f\""               },
	        {"a cut-off character", "\"\303\"",                          "\"\\\\xc3\""                      },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct fz_buf b = {0};

		cmd_quote_json(&b, rows[i].text);
		if (strcmp(fz_buf_str(&b), rows[i].want) != 0)
			fail_msg("%s: %s", rows[i].name, fz_buf_str(&b));
		fz_buf_fini(&b);
	}
}

static void told(void **state)
{
	static const struct {
		const char *told, *name;
	} rows[] = {
	        {"app.db",         "app.db"      },
                {"\\xff",          "\377"        },
                {"a\\xc3\\xe9.db", "a\303\351.db"},
	        {"\\x",            "\\x"         },
                {"\\xg0",          "\\xg0"       },
                {"",               ""            },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		char *name = cmd_quote_told(rows[i].told);

		assert_string_equal(name, rows[i].name);
		free(name);
	}
}

/* The format's own line feeds and tabs stay; whatever the arguments bring, no escape sequence comes out. */
static void printed(void **state)
{
	char got[256] = "";
	int out = dup(STDOUT_FILENO), p[2];
	ssize_t n;

	assert_true(out >= 0);
	assert_int_equal(pipe(p), 0);
	fflush(stdout);
	assert_int_equal(dup2(p[1], STDOUT_FILENO), STDOUT_FILENO);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (!strpbrk(cases[i].text, "\n\t"))
			cmd_print("%s", cases[i].text);
	cmd_print("\n%u\t%.1f\n", 7u, 0.5);
	fflush(stdout);
	dup2(out, STDOUT_FILENO);
	close(out);
	close(p[1]);
	n = read(p[0], got, sizeof(got) - 1);
	close(p[0]);
	assert_true(n > 0);
	for (size_t i = 0, at = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (!strpbrk(cases[i].text, "\n\t")) {
			assert_memory_equal(got + at, cases[i].shown, strlen(cases[i].shown));
			at += strlen(cases[i].shown);
		}
	assert_string_equal(strchr(got, '\n'), "\n7\t0.5\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(quoted), cmocka_unit_test(json), cmocka_unit_test(told),
	                                   cmocka_unit_test(printed)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
