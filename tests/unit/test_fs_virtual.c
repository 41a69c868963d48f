/* The files below .fazt/: what is there, which text a handle reads, when it is ready and who is told; and the same after a
 * worker has been replaced. The kernel's side is a pipe that takes the notices. */
#include "fs/virtual.h"
#include "base/file.h"
#include "fs/shared.h"
#include "tests/unit/tmp.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
	int memfd, kernel[2];
	struct fs_shared *sh;
	struct fs_virtual *v;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	int root = open(tmp_top(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct fz_err err;

	assert_int_equal(fs_shared_create(&f->memfd, tmp_top(), root, &err), 0);
	close(root);
	assert_int_equal(fs_shared_map(&f->sh, f->memfd, &err), 0);
	assert_int_equal(pipe2(f->kernel, O_CLOEXEC | O_NONBLOCK), 0);
	assert_int_equal(fs_virtual_open(&f->v, f->sh, f->kernel[1], &err), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	fs_virtual_close(f->v);
	fs_shared_unmap(f->sh);
	close(f->kernel[0]);
	close(f->kernel[1]);
	close(f->memfd);
	free(f);
	return 0;
}

/* Who was told since the last look: their sum and number; told to read directories anew: how many. */
struct told {
	uint64_t sum;
	unsigned waiters, dirs;
};

static struct told look(struct fixture *f)
{
	struct fuse_out_header h;
	struct told t = {0};
	uint64_t body[3];

	while (read(f->kernel[0], &h, sizeof(h)) == sizeof(h)) {
		assert_int_equal(h.unique, 0);
		assert_true(h.len > sizeof(h) && h.len - sizeof(h) <= sizeof(body));
		assert_int_equal(read(f->kernel[0], body, h.len - sizeof(h)), h.len - sizeof(h));
		if (h.error == FUSE_NOTIFY_POLL) {
			t.waiters++;
			t.sum += body[0];
		} else {
			assert_int_equal(h.error, FUSE_NOTIFY_INVAL_INODE);
			t.dirs++;
		}
	}
	return t;
}

static uint64_t find(struct fixture *f, const char *path)
{
	struct fs_virtual_stat st = {.node = fs_virtual_root()};
	char copy[256], *save = NULL;

	snprintf(copy, sizeof(copy), "%s", path);
	for (char *p = strtok_r(copy, "/", &save); p; p = strtok_r(NULL, "/", &save)) {
		int rc = fs_virtual_lookup(f->v, st.node, p, &st);

		if (rc < 0) {
			assert_int_equal(rc, -ENOENT);
			return 0;
		}
	}
	return st.node;
}

/* The names in a directory, each followed by a space. */
static const char *list(struct fixture *f, const char *path)
{
	static char out[4096];
	struct fs_virtual_stat st;
	uint64_t cookie = 0;
	char name[256];

	out[0] = 0;
	while (fs_virtual_next(f->v, find(f, path), &cookie, name, &st) == 1)
		strcat(strcat(out, name), " ");
	return out;
}

static uint64_t open_file(struct fixture *f, uint64_t node)
{
	uint64_t fh;

	assert_int_equal(fs_virtual_file_open(f->v, node, &fh), 0);
	return fh;
}

static const char *read_at(struct fixture *f, uint64_t node, uint64_t fh, uint64_t off, size_t size)
{
	static char out[512];
	ssize_t n = fs_virtual_read(f->v, node, fh, out, size, off);

	assert_true(n >= 0);
	out[n] = 0;
	return out;
}

static void set(struct fixture *f, const char *db, enum fs_virtual_file file, const char *text)
{
	assert_int_equal(fs_virtual_set(f->v, db, file, text), 0);
}

static void test_tree(void **state)
{
	struct fixture *f = *state;
	struct fs_virtual_stat st;

	assert_string_equal(list(f, ""), "");
	set(f, "app.db", FS_VIRTUAL_POSITION, "1/a/b\n");
	set(f, "sub/deep/x.db", FS_VIRTUAL_LAG, "7\n");
	set(f, "sub/y.db", FS_VIRTUAL_PRIMARY, "host:1\n");
	assert_string_equal(list(f, ""), "app.db sub ");
	assert_string_equal(list(f, "sub"), "deep y.db ");
	assert_string_equal(list(f, "sub/deep/x.db"), "position lag primary ");
	assert_int_equal(find(f, "none"), 0);
	assert_int_equal(find(f, "app.db/none"), 0);
	assert_int_equal(fs_virtual_lookup(f->v, find(f, "app.db/lag"), "x", &st), -ENOTDIR);
	assert_int_equal(fs_virtual_lookup(f->v, FS_VIRTUAL_BIT | 5, "x", &st), -ESTALE);
	assert_int_equal(fs_virtual_stat(f->v, find(f, "app.db/position"), &st), 0);
	assert_false(st.dir);
	assert_int_equal(st.size_bytes, 6);
	assert_int_equal(fs_virtual_stat(f->v, find(f, "sub"), &st), 0);
	assert_true(st.dir);
	assert_int_equal(look(f).dirs, 5 + 9); /* each new entry: who has read the directory reads it again */

	fs_virtual_remove(f->v, "sub/y.db");
	fs_virtual_remove(f->v, "sub"); /* no database */
	assert_string_equal(list(f, "sub"), "deep ");
	fs_virtual_remove(f->v, "sub/deep/x.db");
	assert_string_equal(list(f, ""), "app.db ");
	assert_true(look(f).dirs > 0);
	assert_int_equal(fs_virtual_stat(f->v, st.node, &st), -ESTALE);
	fs_virtual_remove(f->v, "app.db");
	fs_virtual_remove(f->v, "app.db");
	assert_string_equal(list(f, ""), "");
}

static const struct bad {
	const char *database, *text;
	int want;
} bads[] = {
        {"",             "", -EINVAL},
        {"/app.db",      "", -EINVAL},
        {"sub/",         "", -EINVAL},
        {"a//b",         "", -EINVAL},
        {"app.db/lag",   "", -EEXIST}, /* a file is in the way */
        {"app.db/lag/x", "", -EEXIST},
};

static void test_refused(void **state)
{
	struct fixture *f = *state;
	char text[FS_VIRTUAL_TEXT + 2];

	set(f, "app.db", FS_VIRTUAL_LAG, "");
	for (size_t i = 0; i < sizeof(bads) / sizeof(bads[0]); i++)
		assert_int_equal(fs_virtual_set(f->v, bads[i].database, FS_VIRTUAL_LAG, bads[i].text), bads[i].want);
	assert_string_equal(list(f, ""), "app.db ");
	memset(text, 'x', sizeof(text));
	text[FS_VIRTUAL_TEXT] = 0;
	assert_int_equal(fs_virtual_set(f->v, "app.db", FS_VIRTUAL_LAG, text), 0);
	text[FS_VIRTUAL_TEXT] = 'x';
	text[FS_VIRTUAL_TEXT + 1] = 0;
	assert_int_equal(fs_virtual_set(f->v, "app.db", FS_VIRTUAL_LAG, text), -ENAMETOOLONG);
}

/* A read from the start takes the text of the moment; what is read further on belongs to it. */
static void test_reads(void **state)
{
	struct fixture *f = *state;
	uint64_t node, a, b;

	set(f, "app.db", FS_VIRTUAL_POSITION, "first\n");
	node = find(f, "app.db/position");
	a = open_file(f, node);
	b = open_file(f, node);
	assert_int_not_equal(a, b);
	assert_string_equal(read_at(f, node, a, 0, 3), "fir");
	set(f, "app.db", FS_VIRTUAL_POSITION, "second\n");
	assert_string_equal(read_at(f, node, a, 3, 100), "st\n");
	assert_string_equal(read_at(f, node, a, 6, 100), "");
	assert_string_equal(read_at(f, node, b, 0, 100), "second\n");
	assert_string_equal(read_at(f, node, a, 0, 100), "second\n");
	fs_virtual_remove(f->v, "app.db");
	assert_int_equal(fs_virtual_read(f->v, node, a, (char[8]){0}, 8, 0), -ESTALE);
	set(f, "app.db", FS_VIRTUAL_POSITION, "again\n"); /* the same node: the handle is good again */
	assert_string_equal(read_at(f, node, a, 0, 100), "again\n");
	fs_virtual_file_close(f->v, a);
	fs_virtual_file_close(f->v, b);
	fs_virtual_file_close(f->v, 12345);
}

static void test_waits(void **state)
{
	struct fixture *f = *state;
	uint64_t node, other, a, b;
	struct told t;

	set(f, "app.db", FS_VIRTUAL_POSITION, "1\n");
	node = find(f, "app.db/position");
	other = find(f, "app.db/lag");
	a = open_file(f, node);
	b = open_file(f, node);
	look(f);
	assert_int_equal(fs_virtual_poll(f->v, node, a, 100), 1); /* never read: ready, and nobody to tell */
	set(f, "app.db", FS_VIRTUAL_POSITION, "2\n");
	assert_int_equal(look(f).waiters, 0);
	read_at(f, node, a, 0, 100);
	read_at(f, node, b, 0, 1);
	assert_int_equal(fs_virtual_poll(f->v, node, a, 100), 0);
	assert_int_equal(fs_virtual_poll(f->v, node, a, 100), 0); /* asks again: is told once */
	assert_int_equal(fs_virtual_poll(f->v, node, b, 0), 0);   /* asks, does not wait */
	set(f, "app.db", FS_VIRTUAL_POSITION, "2\n");             /* no change */
	set(f, "app.db", FS_VIRTUAL_LAG, "9\n");                  /* another file */
	assert_int_equal(look(f).waiters, 0);
	assert_int_equal(fs_virtual_poll(f->v, node, b, 200), 0);
	set(f, "app.db", FS_VIRTUAL_POSITION, "3\n");
	t = look(f);
	assert_int_equal(t.waiters, 2);
	assert_int_equal(t.sum, 300);
	set(f, "app.db", FS_VIRTUAL_POSITION, "4\n");
	assert_int_equal(look(f).waiters, 0); /* told once */
	assert_int_equal(fs_virtual_poll(f->v, node, a, 100), 1);
	assert_string_equal(read_at(f, node, a, 0, 100), "4\n");
	assert_int_equal(fs_virtual_poll(f->v, node, a, 100), 0);
	assert_int_equal(fs_virtual_poll(f->v, other, a, 100), 1);
	/* a handle that is closed waits no more; a database that goes tells */
	fs_virtual_file_close(f->v, a);
	read_at(f, node, b, 0, 100);
	assert_int_equal(fs_virtual_poll(f->v, node, b, 200), 0);
	fs_virtual_remove(f->v, "app.db");
	t = look(f);
	assert_int_equal(t.waiters, 1);
	assert_int_equal(t.sum, 200);
	assert_int_equal(fs_virtual_poll(f->v, node, b, 200), 1); /* and a read says why */
	/* made anew: not what was read */
	set(f, "app.db", FS_VIRTUAL_POSITION, "4\n");
	assert_int_equal(fs_virtual_poll(f->v, node, b, 200), 1);
	fs_virtual_file_close(f->v, b);
	for (unsigned i = 0; i < FS_WAITERS; i++)
		assert_int_equal(f->sh->waiters[i], 0);
}

/* The next worker: other memory, the same shared state. n waiters, more than there is room for included. */
static void wait_and_succeed(struct fixture *f, unsigned n)
{
	uint64_t node, *fh = calloc(n, sizeof(*fh)), sum = 0;
	struct fz_err err;
	struct told t;

	set(f, "app.db", FS_VIRTUAL_POSITION, "1\n");
	node = find(f, "app.db/position");
	for (unsigned i = 0; i < n; i++) {
		fh[i] = open_file(f, node);
		read_at(f, node, fh[i], 0, 100);
		assert_int_equal(fs_virtual_poll(f->v, node, fh[i], 1000 + i), 0);
		sum += 1000 + i;
	}
	look(f);
	fs_virtual_close(f->v);
	assert_int_equal(look(f).waiters, 0);
	assert_int_equal(fs_virtual_open(&f->v, f->sh, f->kernel[1], &err), 0);
	assert_int_equal(find(f, "app.db"), 0);
	assert_int_equal(fs_virtual_read(f->v, node, fh[0], (char[8]){0}, 8, 0), -ESTALE);
	set(f, "app.db", FS_VIRTUAL_POSITION, "1\n");
	assert_int_equal(find(f, "app.db/position"), node);
	fs_virtual_take_over(f->v);
	t = look(f);
	assert_int_equal(t.waiters, n);
	assert_int_equal(t.sum, sum);
	assert_true(t.dirs >= 2);
	fs_virtual_take_over(f->v);
	assert_int_equal(look(f).waiters, 0);
	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(fs_virtual_poll(f->v, node, fh[i], 1000 + i), 1); /* nobody knows what it read */
		assert_string_equal(read_at(f, node, fh[i], 0, 100), "1\n");
		assert_int_equal(fs_virtual_poll(f->v, node, fh[i], 1000 + i), 0);
	}
	assert_int_not_equal(open_file(f, node), fh[n - 1]);
	for (unsigned i = 0; i < n; i++)
		fs_virtual_file_close(f->v, fh[i]);
	for (unsigned i = 0; i < FS_WAITERS; i++)
		assert_int_equal(f->sh->waiters[i], 0);
	assert_int_equal(f->sh->spill_to, 0);
	free(fh);
}

static void test_next_worker(void **state)
{
	wait_and_succeed(*state, 5);
}
static void test_many_wait(void **state)
{
	wait_and_succeed(*state, FS_WAITERS + 300);
}

/* Many set while many read and wait: under ThreadSanitizer; a text is never a mixture. */
static void *setter(void *arg)
{
	struct fixture *f = arg;
	char text[64];

	for (unsigned i = 0; i < 20000; i++) {
		snprintf(text, sizeof(text), "%08u/%08u\n", i, i);
		set(f, i % 2 ? "app.db" : "sub/x.db", FS_VIRTUAL_POSITION, text);
		if (i % 1000 == 999)
			fs_virtual_remove(f->v, "sub/x.db");
	}
	return NULL;
}

static void test_threads(void **state)
{
	struct fixture *f = *state;
	pthread_t t[2];
	uint64_t node, fh;

	set(f, "app.db", FS_VIRTUAL_POSITION, "00000000/00000000\n");
	node = find(f, "app.db/position");
	fh = open_file(f, node);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&t[i], NULL, setter, f), 0);
	for (int i = 0; i < 20000; i++) {
		const char *text = read_at(f, node, fh, 0, 100);

		assert_int_equal(strlen(text), 18);
		assert_memory_equal(text, text + 9, 8);
		(void)fs_virtual_poll(f->v, node, fh, 7);
		look(f);
	}
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	fs_virtual_file_close(f->v, fh);
}

int main(void)
{
#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
	        CASE(test_tree),        CASE(test_refused),   CASE(test_reads),   CASE(test_waits),
	        CASE(test_next_worker), CASE(test_many_wait), CASE(test_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
