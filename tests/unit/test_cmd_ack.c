/* test_cmd_ack.c - what `ack` may say, and that enough hosts may follow. */
#include "cmd/ack.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const struct row {
	const char *text;
	bool ok;
	unsigned n;
} rows[] = {
        {"local",         true,  0 },
        {"replica",       true,  1 },
        {"Replica",       true,  1 },
        {"1 replica",     true,  1 },
        {"2 replicas",    true,  2 },
        {"12 replicas",   true,  12},
        {"2  REPLICAS",   true,  2 },
        {"replicas",      false, 0 },
        {"0 replicas",    false, 0 },
        {"-1 replicas",   false, 0 },
        {"2 replica",     false, 0 },
        {"2",             false, 0 },
        {"2 replicas x",  false, 0 },
        {"9999 replicas", false, 0 },
        {"s3",            false, 0 },
        {"",              false, 0 },
};

static void test_parse(void **state)
{
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		unsigned n;

		if (cmd_ack_parse(rows[i].text, &n) != rows[i].ok || (rows[i].ok && n != rows[i].n))
			fail_msg("'%s'", rows[i].text);
	}
}

/* Conf text below [link], and whether it stands. */
static const struct conf {
	const char *text;
	int want;
} confs[] = {
        {"ack = local\n",                                                                0          },
        {"ack = replica\n",                                                              -FZ_ECONFIG},
        {"ack = replica\nlisten = 127.0.0.1:1\nfollower = age1a\n",                      0          },
        {"ack = 2 replicas\nlisten = 127.0.0.1:1\nfollower = age1a\n",                   -FZ_ECONFIG},
        {"ack = 2 replicas\nlisten = 127.0.0.1:1\nfollower = age1a\nfollower = age1b\n", 0          },
        {"ack_policy = wait\nack_timeout = 300ms\n",                                     0          },
};

static void test_check(void **state)
{
	for (size_t i = 0; i < sizeof(confs) / sizeof(confs[0]); i++) {
		struct cmd_conf c;
		struct fz_err err = {0};
		char text[300];
		int rc;

		snprintf(text, sizeof(text), "[link]\n%s", confs[i].text);
		cmd_conf_init(&c);
		assert_int_equal(cmd_conf_parse(&c, text, strlen(text), "x", &err), 0);
		rc = cmd_ack_check(&c, &err);
		if (rc != confs[i].want)
			fail_msg("%s: %d %s", text, rc, err.text);
		cmd_conf_fini(&c);
	}
}

static void test_refused(void **state)
{
	static const char *const bad[] = {"ack = s3\n", "ack_policy = maybe\n", "ack_timeout = soon\n"};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct cmd_conf c;
		struct fz_err err = {0};
		char text[100];

		snprintf(text, sizeof(text), "[link]\n%s", bad[i]);
		cmd_conf_init(&c);
		assert_int_equal(cmd_conf_parse(&c, text, strlen(text), "x", &err), -FZ_ECONFIG);
		assert_non_null(strstr(err.text, "x:2")); /* where it stands */
		cmd_conf_fini(&c);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_parse),
	        cmocka_unit_test(test_check),
	        cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
