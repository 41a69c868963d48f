/* test_cmd_role.c - what a host remembers of its place among the others: the file, what the configuration overrules, and whom it has to
 * tell of a higher epoch. */
#include "cmd/role.h"
#include "tests/unit/ltx_make.h"
#include "tests/unit/tmp.h"

#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define KEY_A "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
#define KEY_B "age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg"

struct dir {
	char path[160];
	int fd;
};

static int setup(void **state)
{
	struct dir *d = calloc(1, sizeof(*d));

	assert_non_null(tmp_make(d->path, sizeof(d->path), "fz-role"));
	d->fd = open(d->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	*state = d;
	return 0;
}

static int teardown(void **state)
{
	struct dir *d = *state;

	close(d->fd);
	assert_int_equal(fz_remove_tree(AT_FDCWD, d->path, NULL), 0);
	free(d);
	return 0;
}

static void replica_conf(struct cmd_conf *c, const char *primary, const char *key)
{
	char text[512];

	cmd_conf_init(c);
	snprintf(text, sizeof(text), "[link]\nrole = replica\nprimary = %s\nprimary_key = %s\n", primary, key);
	assert_int_equal(cmd_conf_parse(c, text, strlen(text), "test", NULL), 0);
}

static void test_outlives(void **state)
{
	struct dir *d = *state;
	struct cmd_role r, again;
	struct cmd_conf c, other;

	replica_conf(&c, "one:1", KEY_A);
	assert_int_equal(cmd_role_load(&r, d->fd, &c, NULL), 0);
	assert_true(r.replica && r.epoch == 0 && r.n_formers == 0);
	assert_string_equal(r.primary, "one:1");
	cmd_role_leave(&r); /* promoted */
	r.replica = false;
	r.promoted = true;
	r.epoch = 7;
	assert_int_equal(cmd_role_save(&r, d->fd, NULL), 0);
	assert_int_equal(cmd_role_load(&again, d->fd, &c, NULL), 0); /* with the same flags */
	assert_true(!again.replica && again.promoted && again.epoch == 7);
	assert_memory_equal(again.node, r.node, sizeof(r.node));
	assert_int_equal(again.n_formers, 1);
	assert_string_equal(again.formers[0].at, "one:1");
	assert_string_equal(again.formers[0].key, KEY_A);
	replica_conf(&other, "two:2", KEY_B); /* other ones win; nobody is told anything in their name */
	assert_int_equal(cmd_role_load(&again, d->fd, &other, NULL), 0);
	assert_true(again.replica && !again.promoted && again.epoch == 7 && again.n_formers == 0);
	assert_string_equal(again.primary, "two:2");
	cmd_conf_fini(&c);
	cmd_conf_fini(&other);
}

static void test_formers(void **state)
{
	struct dir *d = *state;
	struct cmd_role r = {.replica = true}, again;

	cmd_role_leave(&r); /* nobody was followed */
	assert_int_equal(r.n_formers, 0);
	snprintf(r.primary_key, sizeof(r.primary_key), KEY_A);
	snprintf(r.primary, sizeof(r.primary), "one:1");
	cmd_role_leave(&r);
	snprintf(r.primary, sizeof(r.primary), "one:2"); /* it has moved */
	cmd_role_leave(&r);
	assert_int_equal(r.n_formers, 1);
	assert_string_equal(r.formers[0].at, "one:2");
	snprintf(r.primary_key, sizeof(r.primary_key), KEY_B);
	cmd_role_leave(&r);
	assert_int_equal(cmd_role_save(&r, d->fd, NULL), 0);
	assert_int_equal(cmd_role_read(&again, d->fd, NULL), 0);
	assert_int_equal(again.n_formers, 2);
	cmd_role_heard(&again, KEY_A);
	assert_int_equal(again.n_formers, 1);
	assert_string_equal(again.formers[0].key, KEY_B);
	cmd_role_heard(&again, KEY_A);
	assert_int_equal(again.n_formers, 1);
	for (int i = 0; i < 2 * CMD_ROLE_FORMERS; i++) { /* the newest ones are kept */
		snprintf(r.primary_key, sizeof(r.primary_key), "age1%d", i);
		cmd_role_leave(&r);
	}
	assert_int_equal(r.n_formers, CMD_ROLE_FORMERS);
	assert_string_equal(r.formers[CMD_ROLE_FORMERS - 1].key, "age115");
	assert_string_equal(r.formers[0].key, "age18");
}

static void test_bad_file(void **state)
{
	static const char *const bad[] = {"role=king\n", "epoch=x\n",      "epoch=\n",
	                                  "node=12\n",   "former=one:1\n", "former=one:1 " KEY_A KEY_A "\n"};
	struct dir *d = *state;
	struct cmd_role r;

	assert_int_equal(cmd_role_read(&r, d->fd, NULL), -ENOENT);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(fz_write_file(d->fd, "role", bad[i], strlen(bad[i]), 0600, NULL), 0);
		assert_int_equal(cmd_role_read(&r, d->fd, NULL), -FZ_ECORRUPT);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(test_outlives, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_formers, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_bad_file, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
