/* The node table: names, links, renames, forgetting, growth, and what a successor rebuilds from the cells. */
#include "fs/node.h"
#include "base/file.h"
#include "tests/unit/tmp.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
	int memfd;
	struct fs_shared *sh;
	struct fs_table t;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct fz_err err;
	int root = open(tmp_top(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	assert_int_equal(fs_shared_create(&f->memfd, tmp_top(), root, &err), 0);
	close(root);
	assert_int_equal(fs_shared_map(&f->sh, f->memfd, &err), 0);
	assert_int_equal(fs_table_init(&f->t, f->sh, f->memfd, &err), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	fs_table_fini(&f->t);
	fs_shared_unmap(f->sh);
	close(f->memfd);
	free(f);
	return 0;
}

/* What a new worker does: other indexes over the same cells. */
static void succeed(struct fixture *f)
{
	struct fz_err err;

	fs_table_fini(&f->t);
	fs_shared_unmap(f->sh);
	assert_int_equal(fs_shared_map(&f->sh, f->memfd, &err), 0);
	assert_int_equal(fs_table_init(&f->t, f->sh, f->memfd, &err), 0);
}

static uint64_t add(struct fixture *f, uint64_t ino, mode_t mode, uint64_t parent, const char *name)
{
	struct stat st = {.st_dev = 7, .st_ino = ino, .st_mode = mode};
	uint64_t id = fs_node_new_id(&f->t);
	struct fs_cell *n = fs_node_add_locked(&f->t, id, &st, 0);

	assert_non_null(n);
	n->nlookup = 1;
	assert_int_equal(fs_node_name_locked(&f->t, n, parent, name), 0);
	return id;
}

static void expect_path(struct fixture *f, uint64_t id, const char *want)
{
	char path[PATH_MAX];
	int rc = fs_node_path_locked(&f->t, id, path);

	if (!want) {
		assert_int_equal(rc, -ESTALE);
		return;
	}
	assert_int_equal(rc, 0);
	assert_string_equal(path, want);
}

static void expect_child(struct fixture *f, uint64_t parent, const char *name, uint64_t want)
{
	struct fs_cell *n = fs_node_child_locked(&f->t, parent, name);

	assert_int_equal(n ? n->id : 0, want);
}

static void rename_node(struct fixture *f, uint64_t id, uint64_t p, const char *n, uint64_t p2, const char *n2)
{
	assert_int_equal(fs_node_unname_locked(&f->t, p, n)->id, id);
	assert_int_equal(fs_node_name_locked(&f->t, fs_node_get_locked(&f->t, id), p2, n2), 0);
}

static void test_paths_follow_renamed_directories(void **state)
{
	struct fixture *f = *state;
	uint64_t a = add(f, 10, S_IFDIR, 1, "a"), b = add(f, 11, S_IFDIR, a, "b"), c = add(f, 12, S_IFREG, b, "c.db");

	expect_path(f, 1, ".");
	expect_path(f, c, "a/b/c.db");
	rename_node(f, a, 1, "a", 1, "z");
	expect_path(f, c, "z/b/c.db");
	rename_node(f, b, a, "b", 1, "top");
	expect_path(f, c, "top/c.db");
	expect_child(f, 1, "a", 0);
	expect_child(f, 1, "top", b);
	succeed(f);
	expect_path(f, c, "top/c.db");
	expect_child(f, b, "c.db", c);
	expect_child(f, a, "b", 0);
}

static void test_hard_links_are_one_node(void **state)
{
	struct fixture *f = *state;
	uint64_t d = add(f, 20, S_IFDIR, 1, "d"), x = add(f, 21, S_IFREG, 1, "x");
	struct fs_cell *n = fs_node_get_locked(&f->t, x);

	assert_int_equal(fs_node_name_locked(&f->t, n, d, "y"), 0);
	assert_int_equal(fs_node_name_locked(&f->t, n, d, "y"), 0); /* twice is once */
	assert_int_equal(fs_node_name_locked(&f->t, n, 1, "z"), 0);
	expect_child(f, d, "y", x);
	expect_child(f, 1, "z", x);
	assert_ptr_equal(fs_node_by_ino_locked(&f->t, 7, 21), n);
	assert_true(fs_node_has_other_name_locked(&f->t, n, 1, "x"));
	for (int pass = 0; pass < 2; pass++) {
		expect_path(f, x, "x");
		expect_child(f, d, "y", x);
		succeed(f);
	}
	n = fs_node_get_locked(&f->t, x);
	assert_int_equal(fs_node_unname_locked(&f->t, 1, "x")->id, x);
	assert_int_equal(fs_node_unname_locked(&f->t, 1, "z")->id, x);
	expect_path(f, x, "d/y");
	assert_true(fs_node_has_name_locked(&f->t, n));
	assert_false(fs_node_has_other_name_locked(&f->t, n, d, "y"));
	succeed(f);
	expect_path(f, x, "d/y");
	assert_int_equal(fs_node_unname_locked(&f->t, d, "y")->id, x);
	assert_false(fs_node_has_name_locked(&f->t, fs_node_get_locked(&f->t, x)));
	expect_path(f, x, NULL);
}

static void test_a_name_moves_to_its_new_owner(void **state)
{
	struct fixture *f = *state;
	uint64_t a = add(f, 30, S_IFREG, 1, "same"), b = add(f, 31, S_IFREG, 1, "same");

	expect_child(f, 1, "same", b);
	expect_path(f, b, "same");
	expect_path(f, a, NULL);
}

static void test_dead_inode_numbers_are_not_found(void **state)
{
	struct fixture *f = *state;
	uint64_t a = add(f, 40, S_IFREG, 1, "a"), b;

	fs_node_set_dead_locked(&f->t, fs_node_get_locked(&f->t, a), true);
	assert_null(fs_node_by_ino_locked(&f->t, 7, 40));
	b = add(f, 40, S_IFREG, 1, "b"); /* the number is used again */
	assert_int_equal(fs_node_by_ino_locked(&f->t, 7, 40)->id, b);
	succeed(f);
	assert_int_equal(fs_node_by_ino_locked(&f->t, 7, 40)->id, b);
	fs_node_forget_locked(&f->t, a, 1);
	assert_int_equal(fs_node_by_ino_locked(&f->t, 7, 40)->id, b);
	/* a number that turns up again without our having seen its end: the older node gives way */
	uint64_t c = add(f, 40, S_IFREG, 1, "c");
	assert_int_equal(fs_node_by_ino_locked(&f->t, 7, 40)->id, c);
}

static void test_forget(void **state)
{
	struct fixture *f = *state;
	uint64_t a = add(f, 50, S_IFREG, 1, "a");
	struct fs_cell *n = fs_node_get_locked(&f->t, a);
	uint32_t used = f->t.used;

	n->nlookup = 3;
	n->nopen = 1;
	assert_int_equal(fs_node_name_locked(&f->t, n, 1, "a2"), 0);
	fs_node_forget_locked(&f->t, a, 2);
	assert_non_null(fs_node_get_locked(&f->t, a));
	fs_node_forget_locked(&f->t, a, 5);            /* more than there are */
	assert_non_null(fs_node_get_locked(&f->t, a)); /* open */
	n->nopen = 0;
	fs_node_forget_locked(&f->t, a, 0);
	assert_null(fs_node_get_locked(&f->t, a));
	expect_child(f, 1, "a", 0);
	expect_child(f, 1, "a2", 0);
	assert_int_equal(f->t.used, used - 1);
	fs_node_forget_locked(&f->t, 1, 1000); /* the root stays */
	assert_non_null(fs_node_get_locked(&f->t, 1));
	fs_node_forget_locked(&f->t, 4711, 1); /* unknown: nothing */
}

/* An open file whose first name went: its other name lies in a directory that nobody uses, which the kernel forgets first. */
static void test_a_forgotten_directory_stays_while_a_name_in_it_is_known(void **state)
{
	struct fixture *f = *state;
	uint32_t used = f->t.used;
	uint64_t d = add(f, 80, S_IFDIR, 1, "d"), e = add(f, 81, S_IFDIR, d, "e"), x = add(f, 82, S_IFREG, 1, "x");
	struct fs_cell *n = fs_node_get_locked(&f->t, x);

	n->nopen = 1;
	assert_int_equal(fs_node_name_locked(&f->t, n, e, "y"), 0);
	fs_node_unname_locked(&f->t, 1, "x");
	fs_node_forget_locked(&f->t, e, 1);
	fs_node_forget_locked(&f->t, d, 1);
	for (int pass = 0; pass < 2; pass++) {
		expect_path(f, x, "d/e/y");
		expect_child(f, d, "e", e); /* found again under the id it had */
		assert_false(fs_node_has_other_name_locked(&f->t, fs_node_get_locked(&f->t, x), e, "y"));
		succeed(f);
	}
	fs_node_get_locked(&f->t, x)->nopen = 0;
	fs_node_forget_locked(&f->t, x, 1); /* the last name in e, and with it e and d go */
	assert_null(fs_node_get_locked(&f->t, e));
	assert_null(fs_node_get_locked(&f->t, d));
	assert_int_equal(f->t.used, used);

	d = add(f, 80, S_IFDIR, 1, "d"); /* the same, with the name taken away before */
	x = add(f, 82, S_IFREG, d, "x");
	fs_node_forget_locked(&f->t, d, 1);
	fs_node_unname_locked(&f->t, d, "x");
	assert_null(fs_node_get_locked(&f->t, d));
	assert_non_null(fs_node_get_locked(&f->t, x));

	d = add(f, 83, S_IFDIR, 1, "gone"); /* removed: nothing leads through it */
	x = add(f, 84, S_IFREG, d, "x");
	fs_node_set_dead_locked(&f->t, fs_node_get_locked(&f->t, d), true);
	fs_node_forget_locked(&f->t, d, 1);
	assert_null(fs_node_get_locked(&f->t, d));
	expect_path(f, x, NULL);
}

static void test_hidden(void **state)
{
	struct fixture *f = *state;
	uint64_t a = add(f, 60, S_IFREG, 1, "a");
	char want[64];

	fs_node_unname_locked(&f->t, 1, "a");
	fs_node_get_locked(&f->t, a)->flags |= FS_CELL_HIDDEN;
	snprintf(want, sizeof(want), FS_HIDDEN_DIR "/%llu", (unsigned long long)a);
	expect_path(f, a, want);
	succeed(f);
	expect_path(f, a, want);
}

static void test_growth_and_reuse(void **state)
{
	struct fixture *f = *state;
	enum { N = 5000 };
	static uint64_t ids[N];
	char name[32];
	uint64_t last = 0;
	uint32_t cells;

	for (unsigned i = 0; i < N; i++) {
		snprintf(name, sizeof(name), "file-%u", i);
		ids[i] = add(f, 1000 + i, S_IFREG, 1, name);
		assert_true(ids[i] > last);
		last = ids[i];
	}
	succeed(f);
	for (unsigned i = 0; i < N; i++) {
		snprintf(name, sizeof(name), "file-%u", i);
		expect_child(f, 1, name, ids[i]);
		assert_int_equal(fs_node_by_ino_locked(&f->t, 7, 1000 + i)->id, ids[i]);
	}
	cells = f->sh->cells;
	for (unsigned i = 0; i < N; i += 2)
		fs_node_forget_locked(&f->t, ids[i], 1);
	succeed(f); /* the free list is found again */
	for (unsigned i = 0; i < N; i += 2) {
		snprintf(name, sizeof(name), "again-%u", i);
		assert_true(add(f, 9000 + i, S_IFREG, 1, name) > last); /* ids are never used again */
	}
	assert_int_equal(f->sh->cells, cells);
}

static void test_half_made_cells_are_freed(void **state)
{
	struct fixture *f = *state;
	uint64_t a = add(f, 70, S_IFREG, 1, "a"), b = add(f, 71, S_IFREG, 1, "b");
	struct fs_cell *n = fs_node_get_locked(&f->t, b);

	n->id = 0; /* died before the id was stored */
	succeed(f);
	assert_null(fs_node_get_locked(&f->t, b));
	expect_child(f, 1, "b", 0);
	expect_child(f, 1, "a", a);
}

static void test_limits(void **state)
{
	struct fixture *f = *state;
	char name[300], path[PATH_MAX];
	uint64_t d = 1;
	int rc = 0;

	memset(name, 'n', sizeof(name));
	name[255] = 0;
	for (unsigned i = 0; i < 15; i++)
		d = add(f, 100 + i, S_IFDIR, d, name);
	assert_int_equal(fs_node_path_locked(&f->t, d, path), 0);
	assert_int_equal(strlen(path), 15 * 256 - 1);
	d = add(f, 200, S_IFDIR, d, name);
	assert_int_equal(fs_node_path_locked(&f->t, d, path), -ENAMETOOLONG);
	name[255] = 'n';
	name[256] = 0;
	rc = fs_node_name_locked(&f->t, fs_node_get_locked(&f->t, d), 1, name);
	assert_int_equal(rc, -ENAMETOOLONG);
	assert_int_equal(fs_node_child_path_locked(&f->t, 1, name, path), -ENAMETOOLONG);
	assert_int_equal(fs_node_child_path_locked(&f->t, 4711, "x", path), -ESTALE);
}

static void test_other_version_is_refused(void **state)
{
	struct fixture *f = *state;
	struct fs_shared *again;
	struct fz_err err;

	f->sh->version++;
	assert_int_equal(fs_shared_map(&again, f->memfd, &err), -FZ_EVERSION);
	assert_null(again);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
	        T(test_paths_follow_renamed_directories),
	        T(test_hard_links_are_one_node),
	        T(test_a_name_moves_to_its_new_owner),
	        T(test_dead_inode_numbers_are_not_found),
	        T(test_forget),
	        T(test_a_forgotten_directory_stays_while_a_name_in_it_is_known),
	        T(test_hidden),
	        T(test_growth_and_reuse),
	        T(test_half_made_cells_are_freed),
	        T(test_limits),
	        T(test_other_version_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
