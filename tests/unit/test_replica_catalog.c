/* Listings as text; a store in a directory. */
#include "replica/catalog.h"

#include "tests/unit/replica_make.h"

static const struct row {
	const char *name, *key;
	bool counts;
} rows[] = {
        {"a pack",
         "00000000000000aa/00000001/0/"
         "0000000000000001-0000000000000009-018bcfe56800-018bcfe56900-8000000000000001.pack.age", true },
        {"a plain pack",
         "00000000000000aa/00000001/0/"
         "0000000000000001-0000000000000009-018bcfe56800-018bcfe56900-8000000000000001.pack",     true },
        {"a snapshot",
         "00000000000000aa/00000001/9/"
         "0000000000000001-0000000000000009-018bcfe56800-018bcfe56900-8000000000000001.ltx.age",  true },
        {"kind and level",
         "00000000000000aa/00000001/9/"
         "0000000000000001-0000000000000009-018bcfe56800-018bcfe56900-8000000000000001.pack",     false},
        {"min above max",
         "00000000000000aa/00000001/0/"
         "000000000000000a-0000000000000009-018bcfe56800-018bcfe56900-8000000000000001.pack",     false},
        {"upper case",
         "00000000000000AA/00000001/0/"
         "0000000000000001-0000000000000009-018bcfe56800-018bcfe56900-8000000000000001.pack",     false},
        {"a part file",
         "00000000000000aa/00000001/0/"
         "0000000000000001-0000000000000009-018bcfe56800-018bcfe56900-8000000000000001.pack.tmp", false},
        {"foreign",        "README.txt",                                                          false},
        {"empty",          "",                                                                    false},
};

static void test_keys(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct replica_catalog c = {0};
		struct fz_err err = {0};

		assert_int_equal(replica_catalog_add(&c, rows[i].key, 10, &err), 0);
		if (c.n_objects != rows[i].counts || c.ignored == rows[i].counts)
			fail_msg("%s", rows[i].name);
		replica_catalog_fini(&c);
	}
}

static const struct claim {
	const char *name, *json;
	uint64_t base;
	int rc;
} claims[] = {
        {"numbers",         "{\"lineage\":\"00000000000000aa\",\"epoch\":3,\"base_txid\":17}",                   17,         0           },
        {"hex",             "{\"lineage\":\"00000000000000aa\",\"epoch\":3,\"base_txid\":\"0000000000000011\"}", 17,         0           },
        {"above 2^53",      "{\"lineage\":\"00000000000000aa\",\"epoch\":3,\"base_txid\":\"ffffffffffffffff\"}", UINT64_MAX,
         0                                                                                                                               },
        {"not JSON",        "base_txid=17",                                                                      0,          -FZ_ECORRUPT},
        {"no base",         "{\"lineage\":\"00000000000000aa\",\"epoch\":3}",                                    0,          -FZ_ECORRUPT},
        {"negative base",   "{\"lineage\":\"00000000000000aa\",\"epoch\":3,\"base_txid\":-1}",                   0,          -FZ_ECORRUPT},
        {"a short lineage", "{\"lineage\":\"aa\",\"epoch\":3,\"base_txid\":1}",                                  0,          -FZ_ECORRUPT},
        {"a huge epoch",    "{\"lineage\":\"00000000000000aa\",\"epoch\":4294967296,\"base_txid\":1}",           0,          -FZ_ECORRUPT},
        {"words",           "{\"lineage\":\"00000000000000aa\",\"epoch\":3,\"base_txid\":\"seventeen\"}",        0,          -FZ_ECORRUPT},
};

static void test_claims(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(claims) / sizeof(claims[0]); i++) {
		struct replica_catalog c = {0};
		struct fz_err err = {0};
		int rc = replica_catalog_add_claim(&c, "claim/00000002", claims[i].json, &err);

		if (rc != claims[i].rc || (rc == 0 && (c.claims[0].base_txid != claims[i].base || c.claims[0].n != 2)))
			fail_msg("%s: %d %s", claims[i].name, rc, err.text);
		replica_catalog_fini(&c);
	}
}

static void test_load(void **state)
{
	struct replica_catalog c = {0};
	struct fz_err err = {0};
	struct hist h;

	(void)state;
	hist_init(&h, 4096, 20, true);
	assert_int_equal(replica_catalog_load(&c, h.store, &err), -FZ_ENOTFOUND);
	assert_int_equal(fz_err_exit(err.code), 3);
	hist_commits(&h, 12);
	hist_claim(&h, 1, 1, 0);
	hist_claim(&h, 3, 2, 8);
	hist_pack(&h, LTX_L_PACK, 1, 10, NULL);
	hist_merged(&h, LTX_L_MINUTE, 3, 9, NULL);
	h.epoch = 2;
	hist_pack(&h, LTX_L_PACK, 9, 12, NULL);
	strcpy(h.lineage, "0000000000000001"); /* sorts first, was claimed before */
	hist_pack(&h, LTX_L_PACK, 1, 2, NULL);
	hist_claim(&h, 2, 1, 0);
	assert_int_equal(replica_catalog_load(&c, h.store, &err), 0);
	assert_int_equal(c.n_lineages, 2);
	assert_string_equal(c.lineages[0].id, "0000000000000001");
	assert_string_equal(c.lineages[1].id, HIST_LIN);
	assert_int_equal(c.lineages[1].n, 3);
	for (size_t i = 0; i < c.n_objects; i++) {
		const struct replica_object *o = &c.objects[i];

		assert_int_equal(o->usable_max, o->name.max_txid == 10  ? 8
		                                : o->name.max_txid == 9 ? 0
		                                                        : o->name.max_txid);
		assert_true(o->size_bytes > 0);
	}
	replica_catalog_fini(&c);
	hist_fini(&h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_keys),
	        cmocka_unit_test(test_claims),
	        cmocka_unit_test(test_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
