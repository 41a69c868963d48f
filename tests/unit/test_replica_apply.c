/* replica/apply.h, judged by SQLite connections in other processes that read while it writes. */
#include "tests/unit/apply_world.h"

static struct replica_apply *open_apply(struct world *w, const struct replica_apply_conf *more)
{
	struct replica_apply_conf conf = more ? *more : (struct replica_apply_conf){0};
	struct replica_apply *a = NULL;

	conf.mountfd = w->mountfd;
	conf.name = "app.db";
	conf.log = w->ro;
	WOK(replica_apply_open(&a, &conf, 1000, &w->err));
	return a;
}

static void run(struct world *w, struct replica_apply *a, uint64_t txid)
{
	WOK(replica_apply_run(a, txid, NULL, &w->err));
}

static uint64_t applied(struct replica_apply *a)
{
	struct replica_apply_state s;

	replica_apply_get(a, &s);
	return s.txid;
}

static const struct kind {
	const char *mode;
	uint32_t page_size;
} kinds[] = {
        {"DELETE", 4096 },
        {"WAL",    4096 },
        {"DELETE", 512  },
        {"WAL",    65536},
};

/* Made, brought on one by one and many at once, beside readers of every sort; the file at the end is the primary's. */
static void test_beside_readers(void **state)
{
	(void)state;
	for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
		struct world world, *w = &world;
		struct replica_apply *a;
		struct replica_apply_state s;

		world_init_in(w, kinds[k].page_size, kinds[k].mode, k + 1);
		world_commits(w, 5, false);
		a = open_apply(w, &(struct replica_apply_conf){.wal_bytes = 256 * 1024});
		assert_int_equal(applied(a), 0); /* nothing of the log is durable yet */
		run(w, a, 3);
		assert_int_equal(applied(a), 3);
		assert_int_equal(world_visible(w), 3);
		world_reader_start(w, 0, WORLD_SHORT);
		world_reader_start(w, 1, WORLD_LONG);
		world_reader_start(w, 2, WORLD_OPENER);
		world_reader_start(w, 3, WORLD_MMAP);
		for (unsigned i = 0; i < 4; i++)
			world_reader_wait(w, i, 1);
		for (unsigned i = 0; i < 60; i++) {
			world_commits(w, i % 10 ? 1 : 20, false);
			run(w, a, 0);
			assert_int_equal(applied(a), w->txid);
			if (i % 17 == 0)
				WOK(replica_apply_checkpoint(a, &w->err));
		}
		for (unsigned i = 0; i < 4; i++)
			world_reader_wait(w, i, 2);
		assert_int_equal(world_visible(w), w->txid);
		for (unsigned i = 0; i < 4; i++) {
			assert_int_equal(w->r[i].seen->last, w->txid);
			world_reader_stop(w, i);
		}
		replica_apply_get(a, &s);
		assert_int_equal(s.checksum, w->checksum);
		assert_true(s.batches < s.transactions);
		replica_apply_close(a, true);
		world_same(w);
		world_fini(w);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_beside_readers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
