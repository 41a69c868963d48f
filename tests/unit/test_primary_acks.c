/* test_primary_acks.c - the time limit and the policies, with nobody there who could answer. What replicas answer: test_cmd_linkdoubt.c,
 * tests/e2e/ack.py. No step waits for more than it must: limits here are either short and awaited, or so long that the test would fail. */
#include "base/clock.h"
#include "primary/acks.h"
#include "tests/unit/log_make.h"

#include <cjson/cJSON.h>

#define LONG_MS 3600000

struct waiter {
	struct primary_acks *a;
	struct primary_acks_want w;
	pthread_t thread;
	int rc;
};

static void *run(void *arg)
{
	struct waiter *x = arg;

	x->rc = primary_acks_wait(x->a, &x->w);
	return NULL;
}

static void begin(struct waiter *x)
{
	assert_int_equal(pthread_create(&x->thread, NULL, run, x), 0);
}

static double status(struct primary_acks *a, const char *field, const char *of)
{
	cJSON *o = cJSON_CreateObject(), *d;
	double v = -1;

	assert_int_equal(primary_acks_status(a, NULL, o), 0);
	d = cJSON_GetObjectItem(o, field);
	if (of)
		d = cJSON_GetObjectItem(cJSON_GetArrayItem(cJSON_GetObjectItem(o, "databases"), 0), field);
	v = cJSON_IsBool(d) ? cJSON_IsTrue(d) : cJSON_GetNumberValue(d);
	cJSON_Delete(o);
	return v;
}

static void until_waiting(struct primary_acks *a, unsigned n)
{
	while (status(a, "waiting", NULL) != n)
		usleep(1000);
}

static struct primary_acks_want want(struct fix *f, const atomic_bool *stop)
{
	return (struct primary_acks_want){
	        .log = f->log, .name = "app.db", .lineage = "0123456789abcdef", .txid = 2, .checksum = 7, .stop = stop};
}

static void degrades(void **state)
{
	struct fix *f = *state;
	const struct primary_acks_conf conf = {.n = 1, .timeout_ms = 30};
	struct primary_acks_want w;
	struct primary_acks *a;
	atomic_bool stop = false;

	append(f, 1, false);
	OK(primary_acks_open(&a, &conf, &f->err));
	w = want(f, &stop);
	assert_int_equal(primary_acks_wait(a, &w), 0);
	assert_int_equal(status(a, "degraded", NULL), 1);
	assert_true(status(a, "since_ms", NULL) > 0);
	for (int i = 0; i < 10; i++)
		assert_int_equal(primary_acks_wait(a, &w), 0);
	assert_int_equal(status(a, "degraded_commits", NULL), 11);
	assert_int_equal(status(a, "unacknowledged_commits", "app.db"), 11);
	w.name = "other.db"; /* has a state of its own */
	w.log = NULL;
	assert_int_equal(primary_acks_wait(a, &w), -EAGAIN);
	w.since_ns = fz_mono_ns() - UINT64_C(31000000); /* has waited so long already */
	assert_int_equal(primary_acks_wait(a, &w), 0);
	primary_acks_refuse(a, true);
	assert_int_equal(primary_acks_wait(a, &w), -EIO);
	primary_acks_close(a);
}

/* Whoever waits goes on when the worker ends, when another host is the primary, when it was decided otherwise. */
static void waits(void **state)
{
	struct fix *f = *state;
	const struct primary_acks_conf conf = {.n = 2, .timeout_ms = 10, .wait = true};
	atomic_bool stop = false;
	struct primary_acks *a;
	struct waiter x[3], bounded;

	append(f, 1, false);
	OK(primary_acks_open(&a, &conf, &f->err));
	for (int i = 0; i < 3; i++) {
		x[i] = (struct waiter){.a = a, .w = want(f, &stop)};
		x[i].w.committed = i == 1;
		begin(&x[i]);
	}
	until_waiting(a, 3);
	bounded = (struct waiter){.a = a, .w = want(f, &stop)};
	bounded.w.name = "new.db";
	bounded.w.bounded = true;
	begin(&bounded);
	pthread_join(bounded.thread, NULL);
	assert_int_equal(bounded.rc, 0);
	assert_int_equal(status(a, "waiting", NULL), 3);
	append(f, 2, false); /* by somebody who did not wait: no longer in doubt */
	pthread_join(x[0].thread, NULL);
	pthread_join(x[2].thread, NULL);
	assert_int_equal(x[0].rc, 0);
	assert_int_equal(x[2].rc, 0);
	assert_int_equal(status(a, "waiting", NULL), 1);
	atomic_store(&stop, true);
	pthread_join(x[1].thread, NULL);
	assert_int_equal(x[1].rc, -ECANCELED);
	atomic_store(&stop, false);
	x[1].w.txid = 3;
	begin(&x[1]);
	until_waiting(a, 1);
	primary_acks_refuse(a, true);
	pthread_join(x[1].thread, NULL);
	assert_int_equal(x[1].rc, -EIO);
	primary_acks_close(a);
}

/* The threads that serve the mount must not all wait. */
static void crowd(void **state)
{
	struct fix *f = *state;
	const struct primary_acks_conf wait_on = {.n = 1, .timeout_ms = LONG_MS, .wait = true};
	const struct primary_acks_conf degrade = {.n = 1, .timeout_ms = LONG_MS};
	static struct waiter x[PRIMARY_ACKS_WAITERS];
	static char names[PRIMARY_ACKS_WAITERS][16];

	append(f, 1, false);
	for (int k = 0; k < 2; k++) {
		struct primary_acks_want w;
		atomic_bool stop = false;
		struct primary_acks *a;

		OK(primary_acks_open(&a, k ? &degrade : &wait_on, &f->err));
		for (int i = 0; i < PRIMARY_ACKS_WAITERS; i++) {
			x[i] = (struct waiter){.a = a, .w = want(f, &stop)};
			snprintf(names[i], sizeof(names[i]), "%d.db", i);
			x[i].w.name = names[i];
			begin(&x[i]);
		}
		until_waiting(a, PRIMARY_ACKS_WAITERS);
		w = want(f, &stop);
		assert_int_equal(primary_acks_wait(a, &w), k ? 0 : -EIO);
		atomic_store(&stop, true);
		for (int i = 0; i < PRIMARY_ACKS_WAITERS; i++) {
			pthread_join(x[i].thread, NULL);
			assert_int_equal(x[i].rc, -ECANCELED);
		}
		primary_acks_close(a);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(degrades, setup, teardown),
	        cmocka_unit_test_setup_teardown(waits, setup, teardown),
	        cmocka_unit_test_setup_teardown(crowd, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
