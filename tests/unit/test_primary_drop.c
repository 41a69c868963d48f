/* test_primary_drop.c - a drop that fails at any of its requests, before or after it was carried out, can be repeated; what is left
 * meanwhile is an older part of the history; and who may claim the name afterwards. */
#include "primary/drop.h"

#include "base/file.h"
#include "ltx/name.h"
#include "store/backend.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/tmp.h"

#define WRITER "11111111111111111111111111111111"
#define OTHER  "22222222222222222222222222222222"
#define OLD    "00000000000000aa"
#define LATER  "00000000000000bb"

struct place {
	char dir[200];
	struct fz_store *s;
	struct fz_err err;
};

static void put(struct place *p, const char *key)
{
	struct fz_src *src = NULL;

	assert_int_equal(fz_src_mem(&src, "x", 1, &p->err), 0);
	assert_int_equal(fz_store_put(p->s, key, src, &p->err), 0);
	fz_src_close(src);
}

static int claim(struct place *p, const char *writer, const char *lineage, uint32_t known, bool first, uint32_t *n)
{
	struct primary_claim c = {.epoch = 1, .first = first, .writer = "host"};
	bool vanished;
	int rc;

	strcpy(c.writer_id, writer);
	strcpy(c.lineage, lineage);
	rc = primary_claim_hold(p->s, "a.db", &c, known, false, &vanished, &p->err);
	*n = c.n;
	return rc;
}

/* Two lives: the second is the one that ended last. */
static void make(struct place *p, bool ended)
{
	struct fz_store_conf conf = {.create = true};
	struct primary_claim c = {.epoch = 1};
	char url[256], key[LTX_NAME_MAX + 8], name[LTX_NAME_MAX];
	uint32_t n;

	memset(p, 0, sizeof(*p));
	assert_non_null(tmp_make(p->dir, sizeof(p->dir), "drop"));
	snprintf(url, sizeof(url), "dir:%s/store", p->dir);
	assert_int_equal(fz_store_open(&p->s, url, &conf, &p->err), 0);
	assert_int_equal(claim(p, WRITER, OLD, 0, true, &n), 0);
	assert_int_equal(claim(p, WRITER, LATER, 0, true, &n), 0);
	assert_int_equal(n, 2);
	for (uint64_t t = 1; t <= 6; t++) {
		struct ltx_name m = {.epoch = 1, .min_txid = t, .max_txid = t, .post_checksum = UINT64_C(1) << 63 | t};

		strcpy(m.lineage, t % 2 ? OLD : LATER);
		snprintf(key, sizeof(key), "a.db/%s", ltx_name_put(name, &m));
		put(p, key);
	}
	put(p, "a.db/notes");
	put(p, "a.db.d/x");
	strcpy(c.writer_id, WRITER);
	strcpy(c.lineage, LATER);
	c.n = 2;
	if (ended)
		assert_int_equal(primary_claim_end(p->s, "a.db", &c, 6, 5, &p->err), 0);
}

static void done(struct place *p)
{
	fz_store_close(p->s);
	assert_int_equal(fz_remove_tree(AT_FDCWD, p->dir, NULL), 0);
}

/* The TXIDs of the objects, and whether those keys are there and no other. */
static unsigned left(struct place *p, const char *keys)
{
	struct fz_store_list l = {0};
	unsigned have = 0;
	char text[2000] = "";

	assert_int_equal(fz_store_list(p->s, "a.db", NULL, false, &l, &p->err), 0);
	for (size_t i = 0; i < l.n; i++) {
		struct ltx_name m;

		if (!strncmp(l.v[i].key, "a.db/", 5) && ltx_name_get(&m, l.v[i].key + 5) == 0)
			have |= 1u << m.max_txid;
		else
			snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s ", l.v[i].key);
	}
	fz_store_list_fini(&l);
	if (keys)
		assert_string_equal(text, keys);
	return have;
}

#define AFTER(n) "a.db.d/x a.db/claim/0000000" n " a.db/claim/0000000" n "-ended a.db/notes "

static void test_whole(void **state)
{
	struct primary_drop d = {.database = "a.db", .writer_id = WRITER, .dry_run = true};
	struct place p;

	(void)state;
	make(&p, false);
	d.store = p.s;
	assert_int_equal(primary_drop_run(&d, &p.err), 0);
	assert_true(d.objects == 6 && d.bytes == 6 && d.lives == 2 && d.deleted == 0 && d.others == 1);
	assert_int_equal(left(&p, NULL), 0x7e);
	d.dry_run = false;
	assert_int_equal(primary_drop_run(&d, &p.err), 0);
	assert_true(d.deleted == 6 && d.claim == 2);
	assert_int_equal(left(&p, AFTER("2")), 0);
	assert_int_equal(primary_drop_run(&d, &p.err), 0); /* nothing to do */
	assert_int_equal(left(&p, AFTER("2")), 0);
	d.database = "b.db";
	assert_int_equal(primary_drop_run(&d, &p.err), -FZ_ENOTFOUND);
	done(&p);
}

static void test_each_request(void **state)
{
	(void)state;
	for (int ended = 0; ended < 2; ended++)
		for (int after = 0; after < 2; after++) {
			bool fired = true;

			for (uint64_t nth = 1; fired; nth++) {
				struct primary_drop d = {.database = "a.db", .writer_id = WRITER};
				struct fz_store *inner, *f = NULL;
				struct place p;
				unsigned have;
				int rc;

				make(&p, ended);
				inner = p.s;
				fired = false;
				assert_int_equal(fz_store_fault(&f, inner, nth, -FZ_ENET, after, &fired, &p.err), 0);
				d.store = f; /* it owns the other one, which is asked directly below */
				rc = primary_drop_run(&d, &p.err);
				assert_int_equal(rc, fired ? -FZ_ENET : 0);
				assert_true(nth < 20);
				have = left(&p, NULL);
				assert_true((have & (have + 2)) == 0); /* 1..k: the newest went first */
				d.store = inner;
				assert_int_equal(primary_drop_run(&d, &p.err), 0);
				assert_int_equal(left(&p, AFTER("2")), 0);
				p.s = f;
				done(&p);
			}
		}
}

/* A store in which a database of that name begins while all of it is listed: its claim is in the listing or not. */
struct meanwhile {
	struct fz_store store;
	struct place *p;
	bool listed, begun;
};

static void begin(struct meanwhile *m)
{
	uint32_t n;

	assert_int_equal(claim(m->p, WRITER, "00000000000000cc", 0, true, &n), 0);
	assert_int_equal(n, 3);
	m->begun = true;
}

static int mean_list(struct fz_store *s, const char *prefix, const char *start_after, bool delimiter,
                     struct fz_store_list *out, struct fz_err *err)
{
	struct meanwhile *m = (struct meanwhile *)s;
	bool all = strcmp(prefix, "a.db/") == 0 && !m->begun;
	int rc;

	if (all && m->listed)
		begin(m);
	rc = fz_store_list(m->p->s, prefix, start_after, delimiter, out, err);
	if (all && !m->listed)
		begin(m);
	return rc;
}

static int mean_get(struct fz_store *s, const char *key, size_t max_bytes, struct fz_buf *out, struct fz_err *err)
{
	return fz_store_get(((struct meanwhile *)s)->p->s, key, max_bytes, out, err);
}

static int mean_put_new(struct fz_store *s, const char *key, const void *data, size_t n, struct fz_err *err)
{
	return fz_store_put_new(((struct meanwhile *)s)->p->s, key, data, n, err);
}

static int mean_del(struct fz_store *s, const char *const *keys, size_t n, size_t *failed, struct fz_err *err)
{
	return fz_store_delete(((struct meanwhile *)s)->p->s, keys, n, failed, err);
}

/* What was made anew meanwhile, here or (with --force) at the host that is to be fenced, is neither ended nor fenced. */
static void test_made_anew_meanwhile(void **state)
{
	static const struct store_ops ops = {
	        .list = mean_list, .get = mean_get, .put_new = mean_put_new, .del = mean_del};
	static const char *const writers[] = {WRITER, OTHER, NULL};

	(void)state;
	for (size_t i = 0; i < 6; i++) {
		struct place p;
		struct meanwhile m = {.p = &p, .listed = i % 2};
		struct primary_drop d = {.store = &m.store,
		                         .database = "a.db",
		                         .writer_id = writers[i / 2],
		                         .force = i >= 2,
		                         .writer = "me"};

		make(&p, false);
		assert_int_equal(store_base_init(&m.store, &ops, "meanwhile:", &p.err), 0);
		assert_int_equal(primary_drop_run(&d, &p.err), -FZ_EEXISTS);
		assert_true(m.begun && d.deleted == 0);
		assert_int_equal(left(&p, "a.db.d/x a.db/claim/00000001 a.db/claim/00000002 a.db/claim/00000003 "
		                          "a.db/notes "),
		                 0x7e);
		store_base_fini(&m.store);
		done(&p);
	}
}

static void test_who_may(void **state)
{
	struct primary_drop d = {.database = "a.db", .writer = "me"};
	struct place p;
	uint32_t n;

	(void)state;
	make(&p, false);
	d.store = p.s;
	assert_int_equal(primary_drop_run(&d, &p.err),
	                 -FZ_EFENCED); /* it lives, and this is not known to be its host */
	d.writer_id = OTHER;
	assert_int_equal(primary_drop_run(&d, &p.err), -FZ_EFENCED);
	assert_int_equal(left(&p, NULL), 0x7e);
	d.force = true;
	assert_int_equal(primary_drop_run(&d, &p.err), 0);
	assert_int_equal(left(&p, AFTER("3")), 0);
	/* its writer is fenced, whatever it remembers */
	assert_int_equal(claim(&p, WRITER, LATER, 2, false, &n), -FZ_EFENCED);
	assert_int_equal(claim(&p, WRITER, LATER, 0, false, &n), -FZ_EFENCED);
	/* a new life may begin, once */
	assert_int_equal(claim(&p, OTHER, "00000000000000cc", 0, true, &n), 0);
	assert_int_equal(n, 4);
	assert_int_equal(claim(&p, WRITER, "00000000000000dd", 0, true, &n), -FZ_EFENCED);
	done(&p);

	/* after an ordinary one the number does not come back either */
	make(&p, true);
	d = (struct primary_drop){.store = p.s, .database = "a.db"};
	assert_int_equal(primary_drop_run(&d, &p.err), 0);
	assert_int_equal(claim(&p, WRITER, "00000000000000cc", 0, true, &n), 0);
	assert_int_equal(n, 3);
	done(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_whole),
	        cmocka_unit_test(test_each_request),
	        cmocka_unit_test(test_made_anew_meanwhile),
	        cmocka_unit_test(test_who_may),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
