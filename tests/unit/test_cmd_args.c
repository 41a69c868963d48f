/* Options and help come from one table. */
#include "cmd/args.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct got {
	bool force;
	const char *output;
	struct cmd_words targets;
};

static int parse(struct got *g, const char **argv, char ***args, int *n, struct fz_err *err)
{
	const struct cmd_opt opts[] = {
	        {"force",    'f', NULL, "overwrite", &g->force, NULL, NULL},
	        {"output",      'o', "FILE", "where to", NULL, &g->output, NULL},
	        {"target", 0, "URL", "repeatable", NULL, NULL, &g->targets},
	        {0     },
	};
	const struct cmd_spec spec = {"try", "[options] DIR", "About.", "fazt try x\nfazt try y\n", 1, 2, opts};
	int argc = 0;

	memset(g, 0, sizeof(*g));
	while (argv[argc])
		argc++;
	return cmd_args(&spec, argc, (char **)argv, args, n, err);
}

static struct args_case {
	const char *name;
	const char *argv[8];
	int want, n;
	const char *says;
} cases[] = {
        {"a positional argument",             {"try", "dir"},                  0,          1, NULL                          },
        {"options after it",                  {"try", "dir", "-f", "-o", "x"}, 0,          1, NULL                          },
        {"none",                              {"try"},                         -FZ_EUSAGE, 0, "argument is missing"         },
        {"one too many",                      {"try", "a", "b", "c"},          -FZ_EUSAGE, 0, "'c' is one argument too many"},
        {"unknown long option",               {"try", "--forse", "a"},         -FZ_EUSAGE, 0, "--forse"                     },
        {"unknown short option",              {"try", "-x", "a"},              -FZ_EUSAGE, 0, "-x"                          },
        {"option without its argument",       {"try", "a", "--output"},        -FZ_EUSAGE, 0, "--output"                    },
        {"a flag with an argument",           {"try", "a", "--force=1"},       -FZ_EUSAGE, 0, "--force=1"                   },
        {"everything after -- is positional", {"try", "--", "-f"},             0,          1, NULL                          },
};

static void rows(void **state)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct args_case *c = &cases[i];
		struct fz_err err = {0};
		struct got g;
		char **args;
		int n = 0, rc = parse(&g, c->argv, &args, &n, &err);

		if (rc != c->want || (rc == 0 && n != c->n) || (c->says && !strstr(err.text, c->says)))
			fail_msg("%s: %d (%d arguments): %s", c->name, rc, n, err.text);
	}
}

static void values(void **state)
{
	const char *argv[] = {"try", "--target", "dir:/a", "dir", "--target=dir:/b", "-fo", "out", NULL};
	struct fz_err err = {0};
	struct got g;
	char **args;
	int n;

	assert_int_equal(parse(&g, argv, &args, &n, &err), 0);
	assert_true(g.force);
	assert_string_equal(g.output, "out");
	assert_int_equal(g.targets.n, 2);
	assert_string_equal(g.targets.v[0], "dir:/a");
	assert_string_equal(g.targets.v[1], "dir:/b");
	assert_int_equal(n, 1);
	assert_string_equal(args[0], "dir");
}

static void too_often(void **state)
{
	const char *argv[2 + 2 * 65 + 1] = {"try", "dir"};
	struct fz_err err = {0};
	struct got g;
	char **args;
	int n;

	for (int i = 0; i < 65; i++) {
		argv[2 + 2 * i] = "--target";
		argv[3 + 2 * i] = "dir:/x";
	}
	assert_int_equal(parse(&g, argv, &args, &n, &err), -FZ_EUSAGE);
	assert_int_equal(g.targets.n, 64);
}

static void numbers(void **state)
{
	static const struct {
		const char *text;
		unsigned long long want; /* 0 = refused */
	} rows[] = {
	        {"1",                    1   },
                {"4711",                 4711},
                {"0",                    0   },
	        {"-1",                   0   },
                {"",                     0   },
                {" 1",                   0   },
	        {"1x",                   0   },
                {"10001",                0   },
                {"99999999999999999999", 0   }
        };

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct fz_err err = {0};
		unsigned long long v = 0;
		int rc = cmd_args_number("txid", rows[i].text, 10000, &v, &err);

		if (rows[i].want ? rc != 0 || v != rows[i].want : rc != -FZ_EUSAGE || !strstr(err.text, "--txid"))
			fail_msg("'%s': %d %llu %s", rows[i].text, rc, v, err.text);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(rows),
	        cmocka_unit_test(values),
	        cmocka_unit_test(too_often),
	        cmocka_unit_test(numbers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
