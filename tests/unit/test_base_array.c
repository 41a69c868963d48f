/* Arrays that grow by one element at a time: what they hold stays, also where there is no memory for more. */
#include "base/array.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

static void grows_and_keeps(void **state)
{
	uint32_t *v = NULL;
	size_t n = 0, cap = 0, moved = 0;

	for (uint32_t i = 0; i < 1000; i++) {
		size_t was = cap;

		assert_true(fz_array_room(v, n, cap));
		assert_true(cap > n);
		moved += cap != was;
		v[n++] = i;
	}
	for (uint32_t i = 0; i < 1000; i++)
		assert_int_equal(v[i], i);
	assert_true(moved < 20);
	free(v);
}

/* The sanitizers end a program where the C library says that there is no memory, unless told otherwise. */
const char *__asan_default_options(void);
const char *__tsan_default_options(void);

const char *__asan_default_options(void)
{
	return "allocator_may_return_null=1";
}

const char *__tsan_default_options(void)
{
	return "allocator_may_return_null=1";
}

static void without_memory(void **state)
{
	volatile size_t too_large = SIZE_MAX / 8; /* the compiler would warn */
	void *v = NULL;
	size_t cap = 0;

	assert_true(fz_array_grow(&v, 0, &cap, 1));
	((uint8_t *)v)[0] = 7;
	assert_true(fz_array_grow(&v, cap - 1, &cap, too_large)); /* there is room already */
	assert_int_equal(cap, 8);
	assert_false(fz_array_grow(&v, cap, &cap, too_large));
	assert_int_equal(cap, 8);
	assert_int_equal(((uint8_t *)v)[0], 7);
	free(v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(grows_and_keeps),
	        cmocka_unit_test(without_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
