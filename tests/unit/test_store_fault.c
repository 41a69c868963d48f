#include "store/store.h"

#include "base/file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char root[PATH_MAX];

static int make_root(void **state)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(root, sizeof(root), "%s/fz-fault-XXXXXX", tmp ? tmp : "/tmp");
	return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state)
{
	return fz_remove_tree(AT_FDCWD, root, NULL);
}

static struct fz_store *open_fault(uint64_t nth, int code, bool after, bool *fired)
{
	struct fz_store *inner = NULL, *s = NULL;
	char url[PATH_MAX + 8];

	snprintf(url, sizeof(url), "dir:%s", root);
	assert_int_equal(fz_store_open(&inner, url, NULL, NULL), 0);
	assert_int_equal(fz_store_fault(&s, inner, nth, code, after, fired, NULL), 0);
	return s;
}

/* One call of each method; returns the number of the call that failed, 0 = none. */
static int all_methods(struct fz_store *s, int *code)
{
	struct fz_src *mem = NULL, *src = NULL;
	struct fz_store_list l = {0};
	struct fz_buf b = {0};
	size_t failed = 0;
	char c[4], tag[FZ_STORE_TAG], was[FZ_STORE_TAG];
	int step = 0, rc;

	assert_int_equal(fz_src_mem(&mem, "data", 4, NULL), 0);
	step++;
	if ((rc = fz_store_put(s, "k", mem, NULL)) < 0)
		goto out;
	step++;
	if ((rc = fz_store_put_new(s, "n", "new", 3, NULL)) < 0)
		goto out;
	step++;
	if ((rc = fz_store_get(s, "k", 9, &b, NULL)) < 0) {
		assert_int_equal(b.size, 0);
		goto out;
	}
	step++;
	if ((rc = fz_store_get_tag(s, "n", 9, &b, tag, NULL)) < 0)
		goto out;
	step++;
	memcpy(was, tag, sizeof(was));
	if ((rc = fz_store_put_if(s, "n", "newer", 5, tag, NULL)) < 0) {
		assert_string_equal(tag, was);
		goto out;
	}
	step++;
	if ((rc = fz_store_src(s, "k", 4, &src, NULL)) < 0)
		goto out;
	step++;
	if ((rc = fz_src_read(src, 0, c, 4, NULL)) < 0)
		goto out;
	step++;
	if ((rc = fz_store_list(s, "", NULL, false, &l, NULL)) < 0) {
		assert_int_equal(l.n, 0);
		goto out;
	}
	step++;
	if ((rc = fz_store_delete(s, (const char *[]){"k", "n"}, 2, &failed, NULL)) < 0) {
		assert_int_equal(failed, 2);
		goto out;
	}
	step = 0;
out:
	*code = rc;
	fz_src_close(mem);
	fz_src_close(src);
	fz_store_list_fini(&l);
	fz_buf_fini(&b);
	return step;
}

static void each_call_can_fail(void **state)
{
	for (int after = 0; after < 2; after++)
		for (int n = 1; n <= 10; n++) {
			bool fired = true;
			int code, step;
			struct fz_store *s;

			assert_int_equal(remove_root(NULL), 0);
			assert_int_equal(make_root(NULL), 0);
			s = open_fault((uint64_t)n, FZ_ENET, after, &fired);
			step = all_methods(s, &code);

			assert_int_equal(step, n <= 9 ? n : 0);
			assert_int_equal(code, n <= 9 ? -FZ_ENET : 0);
			assert_int_equal(fired, n <= 9);
			fz_store_close(s);
		}
}

static void before_leaves_nothing_and_after_leaves_all(void **state)
{
	for (int after = 0; after < 2; after++) {
		struct fz_store *s = open_fault(1, -FZ_ETIMEOUT, after, NULL);
		struct fz_src *mem = NULL;
		struct fz_buf b = {0};

		assert_int_equal(fz_src_mem(&mem, "data", 4, NULL), 0);
		assert_int_equal(fz_store_put(s, "k", mem, NULL), -FZ_ETIMEOUT);
		assert_int_equal(fz_store_get(s, "k", 9, &b, NULL), after ? 0 : -FZ_ENOTFOUND);
		fz_buf_fini(&b);
		fz_src_close(mem);
		fz_store_close(s);
	}
}

/* put_new() that was carried out but told "took too long": asked again, the object that is there is our own. */
static void an_ambiguous_claim_is_won_when_asked_again(void **state)
{
	bool fired;
	struct fz_store *s = open_fault(1, FZ_ETIMEOUT, true, &fired);

	assert_int_equal(fz_store_put_new(s, "e/1", "me", 2, NULL), -FZ_ETIMEOUT);
	assert_true(fired);
	assert_int_equal(fz_store_put_new(s, "e/1", "foe", 3, NULL), -FZ_ECONFLICT);
	assert_int_equal(fz_store_put_new(s, "e/1", "me", 2, NULL), 0);
	assert_int_equal(fz_store_put_new(s, "e/1", "me", 2, NULL), -FZ_ECONFLICT); /* that answer was final */
	fz_store_close(s);
}

static void a_lost_claim_stays_lost(void **state)
{
	struct fz_store *s = open_fault(2, FZ_ETIMEOUT, true, NULL);

	assert_int_equal(fz_store_put_new(s, "e/1", "foe", 3, NULL), 0);
	assert_int_equal(fz_store_put_new(s, "e/1", "me", 2, NULL), -FZ_ECONFLICT);
	assert_int_equal(fz_store_put_new(s, "e/1", "me", 2, NULL), -FZ_ECONFLICT);
	fz_store_close(s);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, make_root, remove_root)
	const struct CMUnitTest tests[] = {
	        T(each_call_can_fail),
	        T(before_leaves_nothing_and_after_leaves_all),
	        T(an_ambiguous_claim_is_won_when_asked_again),
	        T(a_lost_claim_stays_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
