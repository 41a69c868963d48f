/* What is a character: glibc's C.UTF-8 says so too. What is none is told apart, and nothing is cut in the middle. */
#include "base/utf8.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <locale.h>
#include <stdio.h>
#include <string.h>
#include <wchar.h>

static void as_glibc(void **state)
{
	static const uint8_t more[] = {0, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xff};

	assert_non_null(setlocale(LC_ALL, "C.UTF-8"));
	for (unsigned two = 1 << 8; two < 1 << 16; two++)
		for (size_t i = 0; i < sizeof(more) * sizeof(more); i++) {
			const char s[] = {(char)(two >> 8), (char)two, (char)more[i / sizeof(more)],
			                  (char)more[i % sizeof(more)], 0};
			mbstate_t st = {0};
			wchar_t c;
			size_t want = mbrtowc(&c, s, 4, &st);

			if (want > 4 || c > 0x10ffff) /* which glibc takes */
				want = 0;
			if (fz_utf8_char(s) != want)
				fail_msg("%04x and %zu: %zu, not %zu", two, i, fz_utf8_char(s), want);
		}
	assert_int_equal(fz_utf8_char(""), 1);
}

static const struct copy_case {
	const char *name, *s;
	size_t cap;
	const char *want;
} cases[] = {
        {"as it is",                       "caf\xc3\xa9 \xf0\x9f\x98\x80", 20, "caf\xc3\xa9 \xf0\x9f\x98\x80"},
        {"a byte that is none",            "caf\xe9.db",                   20, "caf\\xe9.db"                 },
        {"another one is another",         "caf\xe8.db",                   20, "caf\\xe8.db"                 },
        {"begins and does not end",        "a\xe2\x82",                    20, "a\\xe2\\x82"                 },
        {"room for all of it",             "caf\xc3\xa9",                  6,  "caf\xc3\xa9"                 },
        {"not for the last",               "caf\xc3\xa9",                  5,  "caf"                         },
        {"nor for what stands for a byte", "caf\xe9",                      7,  "caf"                         },
        {"none",                           "a",                            1,  ""                            },
};

static void copies(void **state)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct fz_buf b = {0};
		char out[20];

		print_message("%s\n", cases[i].name);
		fz_utf8_copy(out, cases[i].cap, cases[i].s);
		assert_string_equal(out, cases[i].want);
		assert_int_equal(fz_utf8_add(&b, cases[i].s), 0);
		assert_int_equal(strncmp(fz_buf_str(&b), out, strlen(out)), 0);
		fz_buf_fini(&b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(as_glibc),
	        cmocka_unit_test(copies),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
