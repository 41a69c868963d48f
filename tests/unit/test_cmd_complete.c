/* What completion reads out of a synopsis and the names of arguments. The shells themselves: tests/e2e/completion.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cmd/cmd.h"
#include "cmd/complete.h"

#include <string.h>

#define F CMD_KIND_FILE
#define D CMD_KIND_DIR
#define U CMD_KIND_URL

const struct cmd_command cmd_commands[] = {
        {NULL, NULL, NULL}
};

static const struct cmd_opt opts[] = {
        {"wait", 'w', NULL, "a flag", NULL, NULL, NULL},
        {"timeout",  't', "S", "has a value", NULL, NULL, NULL},
        {"output",  'o', "FILE", "has one, too", NULL, NULL, NULL},
        {0 }
};

static const struct synopsis_case {
	const char *synopsis;
	int n;
	struct cmd_complete_arg want[CMD_COMPLETE_ARGS];
	bool runs;
} cases[] = {
        {"",                                                       0, {{0}},                               false},
        {"[options] DIR",                                          1, {{D, ""}},                           false},
        {"[options] [DIR]",                                        1, {{D, ""}},                           false},
        {"[--wait] [--timeout S] [--force] DIR",                   1, {{D, ""}},                           false},
        {"SOURCE [options] -o FILE",                               1, {{F | U, ""}},                       false},
        {"-o KEY",                                                 0, {{0}},                               false},
        {"--output FILE DIR",                                      1, {{D, ""}},                           false},
        {"--wait DIR FOLLOWER",                                    2, {{D, ""}, {0, ""}},                  false},
        {"[options] SOURCE | --live DIR",                          1, {{F | U | D, ""}},                   false},
        {"[--timeout S] DIR/NAME TXID | --wait [--timeout S] DIR", 2, {{F | D, ""}, {0, ""}},              false},
        {"[options] FILE DIR/NAME",                                2, {{F, ""}, {F, ""}},                  false},
        {"bash|zsh|fish | man [NAME...]",                          2, {{0, "bash zsh fish man"}, {0, ""}}, false},
        {"check [--print] [FILE]",                                 2, {{0, "check"}, {F, ""}},             false},
        {"[options] [DIR] -- COMMAND...",                          1, {{D, ""}},                           true },
        {"A B C D E F",                                            4, {{0}},                               false},
};

static void test_synopsis(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const struct synopsis_case *c = &cases[i];
		const struct cmd_spec spec = {.name = "x", .synopsis = c->synopsis, .opts = opts};
		struct cmd_complete_arg got[CMD_COMPLETE_ARGS];
		int n = cmd_complete_args(got, &spec);

		print_message("'%s'\n", c->synopsis);
		assert_int_equal(n, c->n);
		for (int k = 0; k < n; k++) {
			assert_int_equal(got[k].kinds, c->want[k].kinds);
			assert_string_equal(got[k].words, c->want[k].words);
		}
		assert_int_equal(cmd_complete_runs(&spec), c->runs);
	}
}

static void test_names(void **state)
{
	static const struct {
		const char *name;
		struct cmd_complete_arg want;
	} names[] = {
	        {"DIR",                      {D, ""}                        },
	        {"FILE",                     {F, ""}                        },
	        {"KEY",                      {F, ""}                        },
	        {"PATH",                     {F, ""}                        },
	        {"URL",                      {U, ""}                        },
	        {"S",	                {0, ""}                        },
	        {"ADDR:PORT",                {0, ""}                        },
	        {"age1...",                  {0, ""}                        },
	        {"age|none",                 {0, "age none"}                },
	        {"error|warning|info|debug", {0, "error warning info debug"}},
	        {"N|WORD",                   {0, ""}                        },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct cmd_complete_arg got = {0};

		cmd_complete_add(&got, names[i].name);
		assert_int_equal(got.kinds, names[i].want.kinds);
		assert_string_equal(got.words, names[i].want.words);
	}
}

/* The words of more alternatives than there is room for are cut off, not written past it. */
static void test_room(void **state)
{
	struct cmd_complete_arg got = {0};

	(void)state;
	for (int i = 0; i < 100; i++)
		cmd_complete_add(&got, "one|two|three");
	assert_true(memchr(got.words, 0, sizeof(got.words)) != NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_synopsis),
	        cmocka_unit_test(test_names),
	        cmocka_unit_test(test_room),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
