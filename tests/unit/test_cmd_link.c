/* test_cmd_link.c - both ends of the link, real sockets in between: what a primary's logs hold arrives on the replica byte
 * for byte and in order, whatever stops, starts, folds, cuts or lies on the way. */
#include "tests/unit/link_make.h"

static int setup(void **state)
{
	*state = link_new();
	return 0;
}

static int teardown(void **state)
{
	link_free(*state);
	return 0;
}

static void test_every_commit_arrives(void **state)
{
	struct link *l = *state;
	struct source *s = source_make(&l->p, "app.db", 512, 64);

	for (int i = 0; i < 50; i++)
		source_commit(s, 0);
	serve(l);
	follow(l);
	UNTIL(host_tail(&l->r, s->lineage) == 50);
	for (int i = 0; i < 500; i++) {
		source_commit(s, 0);
		if (i % 50 == 0)
			UNTIL(host_tail(&l->r, s->lineage) == s->last);
	}
	OK(primary_server_wait(l->server, s->lineage, s->last, 1, LIMIT_S * 1000, e));
	assert_int_equal(judge(&l->r, s), 550);
	source_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(test_every_commit_arrives, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
