/* test_cmd_logkeep.c - when a log is folded, when an ended one is removed, and that nothing a target lacks ever goes. */
#include "tests/unit/primary_fix.h"

#include "cmd/logkeep.h"
#include "replica/leaving.h"

#define HOUR INT64_C(3600000)

/* Until there are two segments: what is folded is a whole one at least. */
static void fill(struct fix *f, int64_t time_ms)
{
	struct ltx_log_info info;

	do {
		assert_true(f->db.txid < FIX_COMMITS - 1);
		fix_commit_at(f, time_ms);
		ltx_log_info(f->log, &info);
	} while (ltx_log_bytes_upto(f->log, info.tail_txid - 1) == 0);
}

static bool settled(struct fix *f)
{
	struct ltx_log_info info;

	ltx_log_info(f->log, &info);
	return primary_ship_settled(f->ship, info.lineage) >= info.tail_txid;
}

static struct cmd_logkeep keeper(struct fix *f)
{
	return (struct cmd_logkeep){.logs = f->set, .ship = f->ship, .keep_ms = HOUR, .worth_bytes = 1};
}

static void test_folds_what_is_old_and_shipped(void **state)
{
	struct fix *f = *state;
	int64_t now = fz_now_ms(), old = now - 3 * HOUR;
	struct ltx_log_info before, after;
	struct cmd_logkeep k;

	fill(f, old);
	k = keeper(f);
	assert_int_equal(cmd_logkeep_pass(&k, now), 0); /* no target: the log is all there is */
	fix_start(f, &fix_quick);
	k = keeper(f);
	OK(primary_ship_sync(f->ship, 30000, &f->err));
	fix_until(f, settled, "the levels");
	k.worth_bytes = UINT64_C(1) << 40;
	assert_int_equal(cmd_logkeep_pass(&k, now), 0); /* not worth it */
	k = keeper(f);
	k.keep_ms = 4 * HOUR;
	assert_int_equal(cmd_logkeep_pass(&k, now), 0); /* too young */
	k = keeper(f);
	ltx_log_info(f->log, &before);
	assert_int_equal(cmd_logkeep_pass(&k, now), 1);
	ltx_log_info(f->log, &after);
	assert_true(after.base_txid > 0);
	assert_true(after.log_bytes < before.log_bytes);
	assert_int_equal(after.tail_txid, before.tail_txid);
	assert_int_equal(after.tail_checksum, before.tail_checksum);
	fix_commit_at(f, now);
	OK(primary_ship_sync(f->ship, 30000, &f->err));
	judge_all(f, 1, f->db.txid); /* every commit is still in the store */
}

static void test_keeps_what_a_target_lacks(void **state)
{
	struct fix *f = *state;
	int64_t now = fz_now_ms();
	struct ltx_log_info info;
	struct cmd_logkeep k;
	bool fired = false;
	struct primary_target_conf c = fix_quick;

	OK(fz_store_fault(&c.store, fix_store(f), 1, -FZ_EAUTH, false, &fired,
	                  &f->err)); /* its first call: denied, for long */
	c.ship_interval_ms = 1000;
	fill(f, now - 3 * HOUR);
	fix_start(f, &c);
	k = keeper(f);
	assert_int_equal(cmd_logkeep_pass(&k, now), 0);
	ltx_log_info(f->log, &info);
	assert_int_equal(info.base_txid, 0);
	OK(ltx_log_set_ended(f->log, now - 3 * HOUR, &f->err));
	ltx_log_put(f->log);
	f->log = NULL;
	assert_true(primary_ship_settled(f->ship, info.lineage) < info.tail_txid);
	assert_int_equal(cmd_logkeep_pass(&k, now), 0);
	f->log = ltx_logset_at(f->set, 0);
}

static bool removed(struct fix *f)
{
	struct cmd_logkeep k = keeper(f);

	return cmd_logkeep_pass(&k, fz_now_ms() + 2 * HOUR) == 1; /* a lane may look at it just now: again */
}

static bool told_end(struct fix *f)
{
	struct ltx_log_info info;

	return ltx_logset_info(f->set, 0, &info) && primary_ship_told_end(f->ship, &info);
}

static void test_removes_ended(void **state)
{
	struct fix *f = *state;
	int64_t now = fz_now_ms();
	struct cmd_logkeep k;
	struct ltx_log *log;

	for (int i = 0; i < 5; i++)
		fix_commit_at(f, now - 3 * HOUR);
	fix_start(f, &fix_quick);
	OK(primary_ship_sync(f->ship, 30000, &f->err));
	fix_until(f, settled, "the levels");
	OK(ltx_log_set_ended(f->log, now, &f->err));
	ltx_log_put(f->log);
	k = keeper(f);
	assert_int_equal(cmd_logkeep_pass(&k, now + HOUR / 2), 0); /* not yet */
	fix_until(f, told_end, "the mark of the end");
	log = ltx_logset_at(f->set, 0);
	OK(replica_note(log, REPLICA_UNSETTLED, &f->err)); /* it may hold what nobody else has */
	ltx_log_put(log);
	for (int i = 0; i < 20; i++, usleep(5000)) /* with any lane looking at it or not */
		assert_int_equal(cmd_logkeep_pass(&k, now + 2 * HOUR), 0);
	log = ltx_logset_at(f->set, 0);
	replica_note_done(log, REPLICA_UNSETTLED);
	ltx_log_put(log);
	fix_until(f, removed, "the end of the log");
	log = ltx_logset_at(f->set, 0);
	assert_null(log);
	OK(ltx_logset_get(f->set, "app.db", true, &f->log, &f->err)); /* a new life */
}

static void test_alone_keeps_for_a_month(void **state)
{
	struct fix *f = *state;
	int64_t now = fz_now_ms();
	struct cmd_logkeep k = keeper(f);

	fix_commit_at(f, now);
	OK(ltx_log_set_ended(f->log, now, &f->err));
	ltx_log_put(f->log);
	assert_int_equal(cmd_logkeep_pass(&k, now + 29 * 24 * HOUR), 0);
	assert_int_equal(cmd_logkeep_pass(&k, now + 31 * 24 * HOUR), 1);
	OK(ltx_logset_get(f->set, "app.db", true, &f->log, &f->err));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(test_folds_what_is_old_and_shipped, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_keeps_what_a_target_lacks, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_removes_ended, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_alone_keeps_for_a_month, fix_setup, fix_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
