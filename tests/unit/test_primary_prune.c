/* test_primary_prune.c - what `fazt prune` says and does, over random listings: the commits it calls lost are those that stood in an object
 * that goes and in none that stays, told by a search over each TXID; what it deletes is what it named; nothing foreign is touched. */
#include "primary/prune.h"

#include "base/file.h"
#include "store/store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/tmp.h"

#define LINEAGE "00000000000000aa"
#define LAST    200
#define NOW     (INT64_C(1000) * LAST)

static const struct primary_retain_conf conf = {
        .keep_ms = {30000, 60000, 100000, 150000},
          .day_ms = 100000, .delete_grace_ms = INT64_C(1) << 40
};

static void put(struct fz_store *s, const char *key)
{
	struct fz_src *src = NULL;
	struct fz_err err;

	assert_int_equal(fz_src_mem(&src, "x", 1, &err), 0);
	assert_int_equal(fz_store_put(s, key, src, &err), 0);
	fz_src_close(src);
}

static void object(struct fz_store *s, int level, uint64_t min, uint64_t max)
{
	struct ltx_name n = {.epoch = 1,
	                     .level = level,
	                     .min_txid = min,
	                     .max_txid = max,
	                     .first_ms = (int64_t)min * 1000,
	                     .last_ms = (int64_t)max * 1000,
	                     .post_checksum = UINT64_C(1) << 63 | max};
	char name[LTX_NAME_MAX], key[LTX_NAME_MAX + 16];

	strcpy(n.lineage, LINEAGE);
	snprintf(key, sizeof(key), "a.db/%s", ltx_name_put(name, &n));
	put(s, key);
}

/* Every commit in packs that overlap now and then, levels above, snapshots. */
static void make(struct fz_store *s)
{
	for (uint64_t t = 1; t <= LAST;) {
		uint64_t to = t + (uint64_t)(rand() % 7);

		object(s, LTX_L_PACK, t, to > LAST ? LAST : to);
		t = rand() % 10 ? to + 1 : t + 1;
	}
	for (uint64_t t = 1; t <= LAST; t += 20) {
		object(s, LTX_L_PACK_MINUTE, t, t + 19);
		object(s, LTX_L_MINUTE, t, t + 19);
	}
	for (uint64_t t = 1; t <= LAST; t += 100)
		object(s, LTX_L_HOUR, t, t + 99);
	for (uint64_t t = 20; t <= LAST; t += 20 * (1 + (uint64_t)(rand() % 4)))
		object(s, LTX_L_SNAPSHOT, 1, t);
}

/* Commits that some object gives by itself. */
static uint64_t singles(struct fz_store *s, bool at[LAST + 1])
{
	struct fz_store_list l = {0};
	struct fz_err err;
	uint64_t n = 0;

	memset(at, 0, LAST + 1);
	assert_int_equal(fz_store_list(s, "a.db/", NULL, false, &l, &err), 0);
	for (size_t i = 0; i < l.n; i++) {
		struct ltx_name m;

		if (ltx_name_get(&m, l.v[i].key + 5) < 0)
			continue;
		n++;
		for (uint64_t t = ltx_level_is_pack(m.level) ? m.min_txid : m.max_txid; t <= m.max_txid; t++)
			at[t] = true;
	}
	fz_store_list_fini(&l);
	return n;
}

static void test_losses(void **state)
{
	(void)state;
	for (int seed = 1; seed <= 5; seed++) {
		char dir[200], url[256];
		struct fz_store_conf sc = {.create = true};
		struct fz_store *s = NULL;
		bool before[LAST + 1], after[LAST + 1], lost[LAST + 1] = {false};
		struct fz_buf foreign = {0};
		struct fz_err err = {0};
		struct primary_prune p = {.database = "a.db", .conf = &conf, .lineage = LINEAGE, .held_txid = LAST};
		uint64_t n, left;

		assert_non_null(tmp_make(dir, sizeof(dir), "prune"));
		srand((unsigned)seed);
		snprintf(url, sizeof(url), "dir:%s/store", dir);
		assert_int_equal(fz_store_open(&s, url, &sc, &err), 0);
		p.store = s;
		make(s);
		put(s, "a.db/notes.txt");
		put(s, "a.db/claim/00000001");
		n = singles(s, before);
		p.dry_run = true;
		assert_int_equal(primary_prune_run(&p, NOW, &err), 0);
		assert_int_equal(singles(s, after), n);
		assert_true(p.objects > 0 && p.objects + p.kept_objects == n && p.deleted == 0);
		assert_true(p.n_lost <= PRIMARY_PRUNE_LOSSES);
		for (size_t i = 0; i < p.n_lost; i++) {
			assert_true(i == 0 ||
			            p.lost[i].first_txid > p.lost[i - 1].last_txid + 1); /* merged, ascending */
			for (uint64_t t = p.lost[i].first_txid; t <= p.lost[i].last_txid; t++)
				lost[t] = true;
		}
		p.dry_run = false;
		assert_int_equal(primary_prune_run(&p, NOW, &err), 0);
		assert_int_equal(p.deleted, p.objects);
		left = singles(s, after);
		assert_int_equal(left, p.kept_objects);
		for (int t = 1; t <= LAST; t++)
			assert_int_equal(lost[t], before[t] && !after[t]);
		assert_int_equal(fz_store_get(s, "a.db/notes.txt", 9, &foreign, &err), 0);
		assert_int_equal(fz_store_get(s, "a.db/claim/00000001", 9, &foreign, &err), 0);
		assert_int_equal(primary_prune_run(&p, NOW, &err), 0); /* nothing is left to do */
		assert_int_equal(p.objects, 0);
		/* what cannot restore the newest state is not touched */
		p.held_txid = LAST + 1;
		assert_int_equal(primary_prune_run(&p, NOW + 100000000, &err), 0);
		assert_true(p.hole && p.objects == 0);
		fz_buf_fini(&foreign);
		fz_store_close(s);
		assert_int_equal(fz_remove_tree(AT_FDCWD, dir, NULL), 0);
	}
}

static bool at_once(struct primary_prune_watch *w, const struct primary_prune *p)
{
	(void)w;
	(void)p;
	return true;
}

static void test_stopped(void **state)
{
	struct primary_prune_watch w = {NULL, at_once};
	char dir[200], url[256];
	struct fz_store_conf sc = {.create = true};
	struct fz_store *s = NULL;
	bool at[LAST + 1];
	struct fz_err err = {0};
	struct primary_prune p = {.database = "a.db", .conf = &conf, .lineage = LINEAGE, .watch = &w};
	uint64_t n;

	(void)state;
	assert_non_null(tmp_make(dir, sizeof(dir), "prune"));
	snprintf(url, sizeof(url), "dir:%s/store", dir);
	assert_int_equal(fz_store_open(&s, url, &sc, &err), 0);
	p.store = s;
	make(s);
	n = singles(s, at);
	assert_int_equal(primary_prune_run(&p, NOW, &err), -ECANCELED);
	assert_int_equal(singles(s, at), n);
	fz_store_close(s);
	assert_int_equal(fz_remove_tree(AT_FDCWD, dir, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_losses),
	        cmocka_unit_test(test_stopped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
