/* Intents of a dead worker: each operation is cut off before and after its change of the backing directory, with the table
 * untouched and half changed, and must come out as "happened, with a result" or "did not happen, table as before". */
#include "fs/redo.h"
#include "base/file.h"

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
	char dir[64];
	int root, memfd;
	struct fs_shared *sh;
	struct fs_table t;
	uint64_t a, b, d; /* files "a", "b"; directory "d" */
};

static uint64_t know(struct fixture *f, uint64_t parent, const char *name, const char *path)
{
	struct stat st;
	struct fs_cell *n;

	assert_int_equal(fstatat(f->root, path, &st, AT_SYMLINK_NOFOLLOW), 0);
	n = fs_node_add_locked(&f->t, fs_node_new_id(&f->t), &st, 0);
	assert_non_null(n);
	n->nlookup = 1;
	assert_int_equal(fs_node_name_locked(&f->t, n, parent, name), 0);
	return n->id;
}

static void touch(struct fixture *f, const char *path)
{
	int fd = openat(f->root, path, O_CREAT | O_WRONLY | O_EXCL | O_CLOEXEC, 0644);

	assert_true(fd >= 0);
	close(fd);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	const char *tmp = getenv("TMPDIR");
	struct fz_err err;

	snprintf(f->dir, sizeof(f->dir), "%.40s/redo.XXXXXX", tmp ? tmp : "/tmp");
	assert_non_null(mkdtemp(f->dir));
	f->root = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(fz_mkdirs(f->root, FS_HIDDEN_DIR, 0700, &err), 0);
	assert_int_equal(fs_shared_create(&f->memfd, f->dir, f->root, &err), 0);
	assert_int_equal(fs_shared_map(&f->sh, f->memfd, &err), 0);
	assert_int_equal(fs_table_init(&f->t, f->sh, f->memfd, &err), 0);
	touch(f, "a");
	touch(f, "b");
	assert_int_equal(mkdirat(f->root, "d", 0755), 0);
	f->a = know(f, 1, "a", "a");
	f->b = know(f, 1, "b", "b");
	f->d = know(f, 1, "d", "d");
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	struct fz_err err;

	fs_table_fini(&f->t);
	fs_shared_unmap(f->sh);
	close(f->memfd);
	close(f->root);
	assert_int_equal(fz_remove_tree(AT_FDCWD, f->dir, &err), 0);
	free(f);
	return 0;
}

struct redo_case {
	const char *name;
	enum fs_redo_op op;
	const char *from, *to; /* names in the root */
	uint32_t flags;
	uint32_t loss;
	bool happened; /* the backing directory was changed */
	bool table;    /* and the table as well */
};

static const struct redo_case cases[] = {
        {"create, not made",              FS_REDO_CREATE, "n", NULL, 0,               0,              false, false},
        {"create, made",                  FS_REDO_CREATE, "n", NULL, 0,               0,              true,  false},
        {"create, made and noted",        FS_REDO_CREATE, "n", NULL, 0,               0,              true,  true },
        {"link, not made",                FS_REDO_LINK,   "n", NULL, 0,               0,              false, false},
        {"link, made",                    FS_REDO_LINK,   "n", NULL, 0,               0,              true,  false},
        {"link, made and noted",          FS_REDO_LINK,   "n", NULL, 0,               0,              true,  true },
        {"unlink, not done",              FS_REDO_UNLINK, "a", NULL, 0,               FS_LOSS_GONE,   false, false},
        {"unlink, done",                  FS_REDO_UNLINK, "a", NULL, 0,               FS_LOSS_GONE,   true,  false},
        {"unlink, done and noted",        FS_REDO_UNLINK, "a", NULL, 0,               FS_LOSS_GONE,   true,  true },
        {"unlink while open, not done",   FS_REDO_UNLINK, "a", NULL, 0,               FS_LOSS_HIDDEN, false, false},
        {"unlink while open, done",       FS_REDO_UNLINK, "a", NULL, 0,               FS_LOSS_HIDDEN, true,  false},
        {"unlink while open, noted",      FS_REDO_UNLINK, "a", NULL, 0,               FS_LOSS_HIDDEN, true,  true },
        {"rename, not done",              FS_REDO_RENAME, "a", "n",  0,               0,              false, false},
        {"rename, done",                  FS_REDO_RENAME, "a", "n",  0,               0,              true,  false},
        {"rename, done and noted",        FS_REDO_RENAME, "a", "n",  0,               0,              true,  true },
        {"rename over, not done",         FS_REDO_RENAME, "a", "b",  0,               FS_LOSS_GONE,   false, false},
        {"rename over, done",             FS_REDO_RENAME, "a", "b",  0,               FS_LOSS_GONE,   true,  false},
        {"rename over, noted",            FS_REDO_RENAME, "a", "b",  0,               FS_LOSS_GONE,   true,  true },
        {"rename over open, linked only", FS_REDO_RENAME, "a", "b",  0,               FS_LOSS_HIDDEN, false, false},
        {"rename over open, done",        FS_REDO_RENAME, "a", "b",  0,               FS_LOSS_HIDDEN, true,  false},
        {"rename over open, noted",       FS_REDO_RENAME, "a", "b",  0,               FS_LOSS_HIDDEN, true,  true },
        {"exchange, not done",            FS_REDO_RENAME, "a", "b",  RENAME_EXCHANGE, 0,              false, false},
        {"exchange, done",                FS_REDO_RENAME, "a", "b",  RENAME_EXCHANGE, 0,              true,  false},
        {"exchange, done and noted",      FS_REDO_RENAME, "a", "b",  RENAME_EXCHANGE, 0,              true,  true },
};

static void hidden_path(char out[64], uint64_t node)
{
	snprintf(out, 64, FS_HIDDEN_DIR "/%llu", (unsigned long long)node);
}

/* What the worker does to the backing directory. */
static void change(struct fixture *f, const struct redo_case *c)
{
	char hidden[64];

	switch (c->op) {
	case FS_REDO_CREATE:
		if (c->happened)
			touch(f, c->from);
		break;
	case FS_REDO_LINK:
		if (c->happened)
			assert_int_equal(linkat(f->root, "a", f->root, c->from, 0), 0);
		break;
	case FS_REDO_UNLINK:
		hidden_path(hidden, f->a);
		if (c->happened && c->loss == FS_LOSS_HIDDEN)
			assert_int_equal(renameat(f->root, c->from, f->root, hidden), 0);
		else if (c->happened)
			assert_int_equal(unlinkat(f->root, c->from, 0), 0);
		break;
	case FS_REDO_RENAME:
		hidden_path(hidden, f->b);
		if (c->loss == FS_LOSS_HIDDEN)
			assert_int_equal(linkat(f->root, c->to, f->root, hidden, 0), 0);
		if (c->happened)
			assert_int_equal(renameat2(f->root, c->from, f->root, c->to, c->flags), 0);
		break;
	default:
		fail();
	}
}

static void note(struct fixture *f, const struct fs_intent *in)
{
	struct stat st;
	struct fs_cell *n;

	switch (atomic_load(&in->op)) {
	case FS_REDO_CREATE:
		assert_int_equal(fstatat(f->root, in->name, &st, 0), 0);
		n = fs_node_add_locked(&f->t, in->node, &st, in->nopen);
		assert_int_equal(fs_node_name_locked(&f->t, n, 1, in->name), 0);
		break;
	case FS_REDO_LINK:
		assert_int_equal(fs_node_name_locked(&f->t, fs_node_get_locked(&f->t, in->node), 1, in->name), 0);
		break;
	case FS_REDO_UNLINK:
		fs_redo_unlinked_locked(&f->t, in->node, 1, in->name, (enum fs_loss)in->loss);
		break;
	default:
		assert_int_equal(fs_redo_renamed_locked(&f->t, in), 0);
	}
}

static uint64_t child(struct fixture *f, const char *name)
{
	struct fs_cell *n = fs_node_child_locked(&f->t, 1, name);

	return n ? n->id : 0;
}

static void expect_after(struct fixture *f, const struct redo_case *c, uint64_t node)
{
	struct fs_cell *b = fs_node_get_locked(&f->t, f->b), *a = fs_node_get_locked(&f->t, f->a);
	bool exchange = c->flags & RENAME_EXCHANGE;

	switch (c->op) {
	case FS_REDO_CREATE:
	case FS_REDO_LINK:
		assert_int_equal(child(f, "n"), node);
		break;
	case FS_REDO_UNLINK:
		assert_int_equal(child(f, "a"), 0);
		assert_non_null(a);
		assert_int_equal(a->flags, c->loss == FS_LOSS_HIDDEN ? FS_CELL_HIDDEN : FS_CELL_DEAD);
		break;
	default:
		assert_int_equal(child(f, c->to), f->a);
		assert_int_equal(child(f, "a"), exchange ? f->b : 0);
		assert_int_equal(b->flags, c->loss == FS_LOSS_HIDDEN ? FS_CELL_HIDDEN
		                           : c->loss == FS_LOSS_GONE ? FS_CELL_DEAD
		                                                     : 0);
	}
}

static void expect_before(struct fixture *f)
{
	char hidden[64];

	assert_int_equal(child(f, "a"), f->a);
	assert_int_equal(child(f, "b"), f->b);
	assert_int_equal(child(f, "n"), 0);
	assert_int_equal(fs_node_get_locked(&f->t, f->a)->flags, 0);
	assert_int_equal(fs_node_get_locked(&f->t, f->b)->flags, 0);
	hidden_path(hidden, f->b);
	assert_int_equal(faccessat(f->root, hidden, F_OK, 0), -1);
}

static void test_intents(void **state)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const struct redo_case *c = &cases[i];
		struct fs_intent in = {0};
		struct fixture *f;
		struct fs_result r;
		struct fz_err err;
		struct stat st;
		void *own;

		print_message("  %s\n", c->name);
		setup(&own);
		f = own;
		in.op = c->op;
		in.unique = 1000 + 2 * i;
		in.parent = in.parent2 = 1;
		in.node = c->op == FS_REDO_CREATE ? fs_node_new_id(&f->t) : f->a;
		in.nopen = c->op == FS_REDO_CREATE;
		strcpy(in.name, c->from);
		strcpy(in.name2, c->to ? c->to : "");
		in.rename_flags = c->flags;
		in.loss = c->loss;
		if (c->to && strcmp(c->to, "b") == 0)
			in.node2 = f->b;
		assert_int_equal(fstatat(f->root, "a", &st, 0), 0);
		in.dev = st.st_dev;
		in.ino = st.st_ino;
		if (c->loss == FS_LOSS_GONE) /* as before the operation: its number may be used again */
			fs_node_set_dead_locked(&f->t, fs_node_get_locked(&f->t, c->to ? f->b : f->a), true);
		fs_redo_begin(&f->sh->slots[3], &in);
		change(f, c);
		if (c->table)
			note(f, &in);
		/* dies here; the successor: */
		fs_table_fini(&f->t);
		assert_int_equal(fs_table_init(&f->t, f->sh, f->memfd, &err), 0);
		assert_int_equal(fs_redo_all(&f->t, f->root, &err), 0);
		assert_int_equal(f->sh->slots[3].intent.op, FS_REDO_NONE);
		assert_int_equal(fs_redo_find(f->sh, in.unique, &r), c->happened);
		if (c->happened) {
			assert_int_equal(r.op, c->op);
			assert_int_equal(r.node, in.node);
			expect_after(f, c, in.node);
		} else {
			expect_before(f);
		}
		/* and once more, for a successor that died at once */
		assert_int_equal(fs_redo_all(&f->t, f->root, &err), 0);
		teardown(&own);
	}
}

static void test_open_counts_are_absolute(void **state)
{
	struct fixture *f = *state;
	struct fs_intent in = {.op = FS_REDO_OPEN, .unique = 50, .node = f->a, .nopen = 3};
	struct fs_result r;
	struct fz_err err;

	fs_redo_begin(&f->sh->slots[0], &in);
	fs_node_get_locked(&f->t, f->a)->nopen = 3;
	assert_int_equal(fs_redo_all(&f->t, f->root, &err), 0);
	assert_int_equal(fs_node_get_locked(&f->t, f->a)->nopen, 3);
	assert_true(fs_redo_find(f->sh, 50, &r));
	assert_int_equal(r.op, FS_REDO_OPEN);
}

/* A hidden file got a name again, which the former worker was to remove or to rename away: it stays hidden as well. */
static void test_a_hidden_file_keeps_its_hidden_name(void **state)
{
	struct fixture *f = *state;
	struct fs_intent un = {.op = FS_REDO_UNLINK,
	                       .unique = 70,
	                       .parent = 1,
	                       .node = f->a,
	                       .name = "a",
	                       .loss = FS_LOSS_NAME},
	                 move = {.op = FS_REDO_RENAME,
	                         .unique = 72,
	                         .parent = 1,
	                         .parent2 = 1,
	                         .node = f->b,
	                         .node2 = f->a,
	                         .name = "b",
	                         .name2 = "a",
	                         .loss = FS_LOSS_NAME};
	struct fs_cell *n = fs_node_get_locked(&f->t, f->a);
	char hidden[64];
	struct fz_err err;

	hidden_path(hidden, f->a);
	assert_int_equal(linkat(f->root, "a", f->root, hidden, 0), 0);
	n->flags = FS_CELL_HIDDEN;
	fs_redo_begin(&f->sh->slots[0], &un);
	fs_redo_begin(&f->sh->slots[1], &move);
	assert_int_equal(fs_redo_all(&f->t, f->root, &err), 0);
	assert_int_equal(n->flags, FS_CELL_HIDDEN);
	assert_int_equal(child(f, "a"), f->a);
	assert_int_equal(faccessat(f->root, hidden, F_OK, 0), 0);
	fs_redo_begin(&f->sh->slots[0], &un);
	assert_int_equal(unlinkat(f->root, "a", 0), 0);
	assert_int_equal(fs_redo_all(&f->t, f->root, &err), 0);
	assert_int_equal(n->flags, FS_CELL_HIDDEN);
	assert_int_equal(child(f, "a"), 0);
	assert_int_equal(faccessat(f->root, hidden, F_OK, 0), 0);
}

/* A file made in a directory whose rename is in flight too: the rename is settled first. */
static void test_rename_of_the_parent_first(void **state)
{
	struct fixture *f = *state;
	struct fs_intent make = {.op = FS_REDO_CREATE, .unique = 60, .parent = f->d, .name = "new", .nopen = 1},
	                 move = {.op = FS_REDO_RENAME,
	                         .unique = 62,
	                         .parent = 1,
	                         .parent2 = 1,
	                         .node = f->d,
	                         .name = "d",
	                         .name2 = "e"};
	struct fs_result r;
	struct fz_err err;
	struct stat st;
	char path[PATH_MAX];

	assert_int_equal(fstatat(f->root, "d", &st, 0), 0);
	move.dev = st.st_dev;
	move.ino = st.st_ino;
	make.node = fs_node_new_id(&f->t);
	fs_redo_begin(&f->sh->slots[0], &make);
	fs_redo_begin(&f->sh->slots[1], &move);
	touch(f, "d/new");
	assert_int_equal(renameat(f->root, "d", f->root, "e"), 0);
	assert_int_equal(fs_redo_all(&f->t, f->root, &err), 0);
	assert_true(fs_redo_find(f->sh, 60, &r));
	assert_true(fs_redo_find(f->sh, 62, &r));
	assert_int_equal(fs_node_path_locked(&f->t, make.node, path), 0);
	assert_string_equal(path, "e/new");
}

static void test_ring_keeps_the_newest(void **state)
{
	struct fixture *f = *state;
	struct fs_result r;

	for (uint64_t u = 2; u <= 2 * (FS_RING + 10); u += 2) {
		struct fs_intent in = {.op = FS_REDO_OPEN, .unique = u, .node = f->a};

		fs_redo_begin(&f->sh->slots[0], &in);
		fs_redo_end(f->sh, &f->sh->slots[0], u % 4 ? 0 : -EIO, u);
	}
	assert_true(fs_redo_find(f->sh, 2 * (FS_RING + 9), &r));
	assert_int_equal(r.node, 2 * (FS_RING + 9));
	assert_false(fs_redo_find(f->sh, 2 * (FS_RING + 10), &r)); /* it failed: nothing to remember */
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_intents),     T(test_open_counts_are_absolute),
	        T(test_rename_of_the_parent_first), T(test_a_hidden_file_keeps_its_hidden_name),
	        T(test_ring_keeps_the_newest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
