/* test_replica_held.c - what a replica holds in doubt survives every end of it until it is in the log, and nothing else does. A power cut
 * takes what the log had not synced: here a copy of the log's directory from before stands for that. */
#include "replica/held.h"
#include "tests/unit/log_make.h"

struct files {
	uint8_t data[3][16384]; /* transactions 1 to 3, as the primary prepares them */
	uint64_t bytes[3];
};

static struct ltx_dec *dec;

/* The primary's transactions, made in a log of its own. */
static void make(struct fix *f, struct files *x)
{
	struct fz_buf buf = {0};
	struct fz_buf_sink sink;

	for (uint64_t i = 0; i < 3; i++) {
		struct ltx_trailer t;
		uint32_t pages;

		fz_buf_reset(&buf);
		fz_buf_sink_init(&sink, &buf);
		encode(f, &sink.sink, i + 1, &t, &x->bytes[i], &pages);
		assert_true(buf.size <= sizeof(x->data[i]));
		memcpy(x->data[i], buf.data, buf.size);
	}
	fz_buf_fini(&buf);
}

static int hold(struct fix *f, struct replica_held *h, const struct files *x, unsigned i, uint64_t *durable)
{
	uint64_t half = x->bytes[i] / 2;

	OK(replica_held_begin(h, f->log, durable, &f->err));
	OK(replica_held_write(h, 0, x->data[i], half, &f->err));
	OK(replica_held_write(h, half, x->data[i] + half, x->bytes[i] - half, &f->err));
	return replica_held_end(h, f->log, x->bytes[i], &dec, durable, &f->err);
}

static uint64_t held(const struct replica_held *h)
{
	uint64_t checksum = 0;

	return replica_held_txid(h, &checksum);
}

/* Another process: everything is read from disk. */
static void again(struct fix *f, struct replica_held *h, int want)
{
	int rc;

	replica_held_fini(h);
	reopen_at(f, f->dirfd);
	OK(ltx_log_follow(f->log, &f->err));
	rc = replica_held_load(h, f->log, &dec, &f->err);
	assert_int_equal(rc, want);
}

static void survives(void **state)
{
	struct fix *f = *state;
	struct replica_held h;
	uint64_t durable = 0, checksum = 0;
	static struct files x;

	make(f, &x);
	replica_held_init(&h);
	OK(ltx_log_follow(f->log, &f->err));
	assert_int_equal(hold(f, &h, &x, 0, &durable), 0);
	assert_int_equal(replica_held_txid(&h, &checksum), 1);
	assert_int_equal(checksum, f->sum[1]);
	check(f, f->log, 0);
	again(f, &h, 0);
	assert_int_equal(held(&h), 1);
	check(f, f->log, 0); /* still in doubt */
	OK(replica_held_commit(&h, f->log, 1, &f->err));
	assert_int_equal(held(&h), 0);
	check(f, f->log, 1);
	again(f, &h, 0);
	assert_int_equal(held(&h), 0); /* it is in the log, so it is past */
	assert_int_equal(replica_held_commit(&h, f->log, 1, &f->err), -FZ_EORDER);
	replica_held_fini(&h);
}

/* The log loses what it had not synced; the two files bring it back, and only the last is in doubt. */
static void power_cut(void **state)
{
	struct fix *f = *state;
	struct replica_held h;
	uint64_t durable = 0;
	static struct files x;

	make(f, &x);
	replica_held_init(&h);
	OK(ltx_log_follow(f->log, &f->err));
	assert_int_equal(hold(f, &h, &x, 0, &durable), 0);
	OK(replica_held_commit(&h, f->log, 1, &f->err));
	assert_int_equal(replica_held_count(f->log), 0);
	assert_int_equal(hold(f, &h, &x, 1, &durable), 0);
	assert_int_equal(durable, 0); /* the log's own sync was not waited for */
	assert_int_equal(replica_held_count(f->log), 1);
	OK(ltx_log_truncate(f->log, 0, &f->err));
	assert_int_equal(replica_held_count(f->log), 2);
	again(f, &h, 1);
	assert_int_equal(held(&h), 2);
	check(f, f->log, 1);
	OK(replica_held_commit(&h, f->log, 2, &f->err));
	/* a third one needs a file: one of them is free only once the log is durable */
	durable = 0;
	assert_int_equal(hold(f, &h, &x, 2, &durable), 0);
	assert_true(durable >= 1);
	again(f, &h, 0);
	assert_int_equal(held(&h), 3);
	check(f, f->log, 2);
	replica_held_fini(&h);
}

/* Something else is in the log than what was held: what builds on that is acknowledged only once the log is durable. */
static void another_one(void **state)
{
	struct fix *f = *state;
	struct replica_held h;
	struct ltx_log_info info;
	uint64_t durable = 0;
	static struct files x;

	replica_held_init(&h);
	OK(ltx_log_follow(f->log, &f->err));
	append(f, 1, false);
	make(f, &x); /* from the same state on */
	assert_int_equal(hold(f, &h, &x, 1, &durable), 0);
	ltx_log_info(f->log, &info);
	assert_int_equal(durable, 1);
	assert_int_equal(info.synced_txid, 1);
	replica_held_drop(&h);
	assert_int_equal(held(&h), 0);
	assert_int_equal(hold(f, &h, &x, 1, &durable), 0);
	replica_held_forget(&h, ltx_log_dirfd(f->log));
	again(f, &h, 0);
	assert_int_equal(held(&h), 0);
	replica_held_fini(&h);
}

static void refused(void **state)
{
	struct fix *f = *state;
	struct replica_held h;
	uint64_t durable = 0;
	static struct files x;

	make(f, &x);
	replica_held_init(&h);
	OK(ltx_log_follow(f->log, &f->err));
	assert_int_equal(hold(f, &h, &x, 1, &durable), -FZ_EORDER); /* nothing that it continues */
	assert_int_equal(held(&h), 0);
	for (uint64_t at = 0; at < x.bytes[0]; at += 7) {
		x.data[0][at] ^= 0x10;
		assert_true(hold(f, &h, &x, 0, &durable) < 0);
		assert_int_equal(held(&h), 0);
		x.data[0][at] ^= 0x10;
	}
	again(f, &h, 0);
	assert_int_equal(held(&h), 0);
	assert_int_equal(hold(f, &h, &x, 0, &durable), 0);
	assert_int_equal(held(&h), 1);
	replica_held_fini(&h);
}

static void taking_over(void **state)
{
	struct fix *f = *state;
	struct replica_held h;
	uint64_t durable = 0;
	static struct files x;

	make(f, &x);
	for (int drop = 1; drop >= 0; drop--) {
		replica_held_init(&h);
		OK(ltx_log_follow(f->log, &f->err));
		assert_int_equal(hold(f, &h, &x, 0, &durable), 0);
		replica_held_fini(&h);
		assert_int_equal(replica_held_settle(f->log, drop, &f->err), !drop);
		assert_int_equal(replica_held_settle(f->log, drop, &f->err), 0);
		check(f, f->log, !drop);
	}
}

static int end(void **state)
{
	ltx_dec_close(dec);
	dec = NULL;
	return teardown(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(survives, setup, end),
	        cmocka_unit_test_setup_teardown(power_cut, setup, end),
	        cmocka_unit_test_setup_teardown(another_one, setup, end),
	        cmocka_unit_test_setup_teardown(refused, setup, end),
	        cmocka_unit_test_setup_teardown(taking_over, setup, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
