/* test_primary_candidate.c - the most advanced replica goes first, whoever comes to the list when. */
#include "primary/candidate.h"
#include "tests/unit/primary_fix.h"

#include <limits.h>

static char root[PATH_MAX];

static int setup(void **state)
{
	const char *tmp = getenv("TMPDIR");
	struct fz_store *s = NULL;
	char url[PATH_MAX + 8];

	snprintf(root, sizeof(root), "%s/fz-cand-XXXXXX", tmp ? tmp : "/tmp");
	if (!mkdtemp(root))
		return -1;
	snprintf(url, sizeof(url), "dir:%s", root);
	if (fz_store_open(&s, url, NULL, NULL) < 0)
		return -1;
	*state = s;
	return 0;
}

static int teardown(void **state)
{
	fz_store_close(*state);
	return fz_remove_tree(AT_FDCWD, root, NULL);
}

static unsigned rank(struct fz_store *s, const char *nonce, const struct primary_candidate *c)
{
	unsigned ahead = 99;

	assert_int_equal(primary_candidate_rank(s, nonce, c, &ahead, NULL), 0);
	return ahead;
}

static void the_best_goes_first(void **state)
{
	struct fz_store *s = *state;
	struct primary_candidate c[] = {
	        {"aa", 3, 100                    },
                {"bb", 3, UINT64_C(1) << 60      },
                {"cc", 4, 1                      },
                {"dd", 3, (UINT64_C(1) << 60) - 1},
	        {"ab", 3, 100                    },
	};
	static const unsigned want[] = {3, 1, 0, 2, 4};

	assert_int_equal(rank(s, "n1", &c[0]), 0); /* nobody has said anything */
	for (size_t i = 0; i < 5; i++)
		assert_int_equal(primary_candidate_stand(s, "n1", &c[i], NULL), 0);
	for (size_t i = 0; i < 5; i++)
		assert_int_equal(rank(s, "n1", &c[i]), want[i]);
	assert_int_equal(rank(s, "n2", &c[0]), 0); /* for another version of the lease */
	c[0].txids = UINT64_MAX;
	c[0].epoch = 4;
	assert_int_equal(primary_candidate_stand(s, "n1", &c[0], NULL), 0);
	assert_int_equal(rank(s, "n1", &c[0]), 0);
	assert_int_equal(rank(s, "n1", &c[2]), 1);
	assert_int_equal(primary_candidate_stand(s, "n2", &c[1], NULL), 0); /* the others are forgotten */
	assert_int_equal(rank(s, "n2", &c[1]), 0);
	assert_int_equal(rank(s, "n2", &c[3]), 1);
}

static void what_is_no_list_is_none(void **state)
{
	static const char *const bad[] = {"",
	                                  "{}",
	                                  "[]",
	                                  "{\"nonce\":1}",
	                                  "{\"nonce\":\"n\",\"candidates\":{}}",
	                                  "{\"nonce\":\"n\",\"candidates\":[1,{\"node\":2},{\"node\":\"x\"}]}"};
	struct primary_candidate me = {"aa", 1, 1};
	struct fz_store *s = *state;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct fz_src *src = NULL;

		assert_int_equal(fz_src_mem(&src, bad[i], strlen(bad[i]), NULL), 0);
		assert_int_equal(fz_store_put(s, PRIMARY_CANDIDATE_KEY, src, NULL), 0);
		fz_src_close(src);
		assert_int_equal(rank(s, "n", &me), 0);
		assert_int_equal(primary_candidate_stand(s, "n", &me, NULL), 0);
		assert_int_equal(rank(s, "n", &(struct primary_candidate){"bb", 1, 1}), 1);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(the_best_goes_first, setup, teardown),
	        cmocka_unit_test_setup_teardown(what_is_no_list_is_none, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
