/* What is replicated is the agent's to change: which operation on which name is refused to whom, who counts as the agent, and
 * that a capture in the role of a replica classifies files and does nothing else. */
#include "base/file.h"
#include "fs/capture.h"
#include "fs/guard.h"
#include "ltx/log.h"
#include "tests/unit/tmp.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
	char dir[160];
	int root;
	pid_t other; /* a process that sleeps */
	struct fs_capture *c;
};

static void put(struct fixture *f, const char *path, const void *data, size_t n)
{
	struct fz_err err;

	assert_int_equal(fz_write_file(f->root, path, data, n, 0644, &err), 0);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct fs_capture_conf conf = {.replica = true, .passthrough = true, .resume = true};
	uint8_t head[100] = "SQLite format 3";
	struct fz_err err;

	assert_non_null(tmp_make(f->dir, sizeof(f->dir), "fz-guard"));
	f->root = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(f->root >= 0);
	assert_int_equal(mkdirat(f->root, "sub", 0755), 0);
	assert_int_equal(mkdirat(f->root, "sub/deep", 0755), 0);
	assert_int_equal(mkdirat(f->root, "own", 0755), 0);
	head[18] = head[19] = 2;
	put(f, "app.db", head, sizeof(head));
	put(f, "app.db-wal", "", 0);
	put(f, "app.db-shm", "", 0);
	put(f, "sub/deep/x.db", head, sizeof(head));
	head[18] = head[19] = 1;
	put(f, "local.db", head, sizeof(head));
	put(f, "text", "text", 4);
	conf.rootfd = conf.statefd = f->root;
	assert_int_equal(fs_capture_open(&f->c, &conf, &err), 0);
	assert_false(fs_capture_guards(f->c));
	assert_int_equal(fs_capture_protect(f->c, "app.db", true, &err), 0);
	assert_int_equal(fs_capture_protect(f->c, "sub/deep/x.db", true, &err), 0);
	assert_int_equal(fs_capture_protect(f->c, "sub/deep/y.db", true, &err), 0); /* there is none yet */
	assert_true(fs_capture_guards(f->c));
	f->other = fork();
	if (f->other == 0) {
		for (;;)
			pause();
	}
	fs_capture_trust(f->c, getpid());
	fs_capture_attached(f->c, "app.db", true);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	struct fz_err err;
	int status;

	if (f->other > 0) {
		kill(f->other, SIGKILL);
		waitpid(f->other, &status, 0);
	}
	assert_int_equal(fs_capture_close(f->c, &err), 0);
	close(f->root);
	assert_int_equal(fz_remove_tree(AT_FDCWD, f->dir, &err), 0);
	free(f);
	return 0;
}

/* ---- which operations ---- */

enum act { OPEN, ALTER, RMDIR, TRUNCATE, UNLINK, CREATE, MKDIR, RENAME, EXCHANGE, LINK };

static const struct refused {
	const char *name;
	enum act act;
	const char *path, *path2;
	int flags, want; /* for others than the agent, which may do everything */
} refusals[] = {
        {"read the database",               OPEN,     "app.db",            NULL,             O_RDONLY,            0     },
        {"write the database",              OPEN,     "app.db",            NULL,             O_RDWR,              -EROFS},
        {"append to the database",          OPEN,     "app.db",            NULL,             O_WRONLY | O_APPEND, -EROFS},
        {"mode 3 (ioctl only) counts",      OPEN,     "app.db",            NULL,             O_ACCMODE,           -EROFS},
        {"empty it, read-only",             OPEN,     "app.db",            NULL,             O_RDONLY | O_TRUNC,  -EROFS},
        {"SQLite's way to open",            OPEN,     "app.db",            NULL,             O_RDWR | O_CREAT,    -EROFS},
        {"write the WAL",                   OPEN,     "app.db-wal",        NULL,             O_RDWR | O_CREAT,    -EROFS},
        {"write a journal",                 OPEN,     "app.db-journal",    NULL,             O_RDWR,              -EROFS},
        {"a reader maps the -shm",          OPEN,     "app.db-shm",        NULL,             O_RDWR | O_CREAT,    0     },
        {"empty the -shm",                  OPEN,     "app.db-shm",        NULL,             O_RDWR | O_TRUNC,    -EROFS},
        {"a database in a directory",       OPEN,     "sub/deep/x.db",     NULL,             O_RDWR,              -EROFS},
        {"one that is not there yet",       OPEN,     "sub/deep/y.db-wal", NULL,             O_RDWR,              -EROFS},
        {"another name",                    OPEN,     "app.dbx",           NULL,             O_RDWR,              0     },
        {"another suffix",                  OPEN,     "app.db-old",        NULL,             O_RDWR,              0     },
        {"the same name elsewhere",         OPEN,     "own/app.db",        NULL,             O_RDWR,              0     },
        {"a local database",                OPEN,     "local.db",          NULL,             O_RDWR,              0     },
        {"truncate the database",           TRUNCATE, "app.db",            NULL,             0,                   -EROFS},
        {"truncate the WAL",                TRUNCATE, "app.db-wal",        NULL,             0,                   -EROFS},
        {"truncate the -shm",               TRUNCATE, "app.db-shm",        NULL,             0,                   -EROFS},
        {"truncate a file",                 TRUNCATE, "text",              NULL,             0,                   0     },
        {"chmod the database",              ALTER,    "app.db",            NULL,             0,                   -EROFS},
        {"chmod the -shm",                  ALTER,    "app.db-shm",        NULL,             0,                   -EROFS},
        {"chmod a directory above",         ALTER,    "sub/deep",          NULL,             0,                   0     },
        {"chmod a file",                    ALTER,    "text",              NULL,             0,                   0     },
        {"unlink the database",             UNLINK,   "app.db",            NULL,             0,                   -EROFS},
        {"unlink the WAL",                  UNLINK,   "app.db-wal",        NULL,             0,                   -EROFS},
        {"unlink the -shm",                 UNLINK,   "app.db-shm",        NULL,             0,                   -EROFS},
        {"unlink a file",                   UNLINK,   "text",              NULL,             0,                   0     },
        {"make the database",               CREATE,   "sub/deep/y.db",     NULL,             0,                   -EROFS},
        {"make its -shm",                   CREATE,   "sub/deep/y.db-shm", NULL,             0,                   -EROFS},
        {"make its journal",                CREATE,   "app.db-journal",    NULL,             0,                   -EROFS},
        {"a directory of that name",        MKDIR,    "sub/deep/y.db",     NULL,             0,                   -EROFS},
        {"a file instead of the directory", CREATE,   "sub/deep",          NULL,             0,                   -EROFS},
        {"the directory itself",            MKDIR,    "sub/deep",          NULL,             0,                   0     },
        {"make a file beside it",           CREATE,   "sub/deep/z",        NULL,             0,                   0     },
        {"remove the directory",            RMDIR,    "sub/deep",          NULL,             0,                   -EROFS},
        {"remove the one above",            RMDIR,    "sub",               NULL,             0,                   -EROFS},
        {"remove another directory",        RMDIR,    "own",               NULL,             0,                   0     },
        {"rename the database",             RENAME,   "app.db",            "old.db",         0,                   -EROFS},
        {"rename over the database",        RENAME,   "text",              "app.db",         0,                   -EROFS},
        {"rename over the WAL",             RENAME,   "text",              "app.db-wal",     0,                   -EROFS},
        {"rename to a journal of it",       RENAME,   "text",              "app.db-journal", 0,                   -EROFS},
        {"rename its directory",            RENAME,   "sub",               "bus",            0,                   -EROFS},
        {"put another in its place",        EXCHANGE, "own",               "sub/deep",       0,                   -EROFS},
        {"rename a file",                   RENAME,   "text",              "sub/deep/text",  0,                   0     },
        {"rename a directory",              RENAME,   "own",               "sub/own",        0,                   0     },
        {"link the database",               LINK,     "app.db",            "second.db",      0,                   -EROFS},
        {"link to a name of it",            LINK,     "text",              "app.db-journal", 0,                   -EROFS},
        {"link a file",                     LINK,     "text",              "text2",          0,                   0     },
};

static int try(struct fs_capture *c, const struct refused *r, int pid)
{
	static const enum fs_event_op ops[] = {
	        [TRUNCATE] = FS_EV_TRUNCATE, [UNLINK] = FS_EV_UNLINK,   [CREATE] = FS_EV_CREATE, [MKDIR] = FS_EV_CREATE,
	        [RENAME] = FS_EV_RENAME,     [EXCHANGE] = FS_EV_RENAME, [LINK] = FS_EV_LINK};
	struct fs_event ev = {
	        .path = r->path, .path2 = r->path2, .pid = pid, .dir = r->act == MKDIR, .exchange = r->act == EXCHANGE};
	int rc;

	if (r->act == OPEN)
		return fs_capture_may_open(c, r->path, r->flags, pid);
	if (r->act == ALTER)
		return fs_capture_may_alter(c, r->path, pid);
	if (r->act == RMDIR)
		return fs_capture_may_remove_dir(c, r->path, pid);
	ev.op = ops[r->act];
	rc = fs_capture_before(c, &ev);
	if (rc == 0)
		fs_capture_after(c, &ev, -EIO);
	return rc;
}

static void test_refused(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
		const struct refused *r = &refusals[i];
		int others = try(f->c, r, f->other), agents = try(f->c, r, getpid());

		if (others != r->want || agents != 0)
			fail_msg("%s: %d to others, not %d; %d to the agent", r->name, others, r->want, agents);
	}
}

static void test_unprotected_again(void **state)
{
	struct fixture *f = *state;
	struct fz_err err;

	/* once is enough, however often it was asked for */
	assert_int_equal(fs_capture_protect(f->c, "app.db", true, &err), 0);
	assert_int_equal(fs_capture_protect(f->c, "app.db", false, &err), 0);
	assert_int_equal(fs_capture_may_open(f->c, "app.db", O_RDWR, f->other), 0);
	assert_int_equal(fs_capture_protect(f->c, "app.db", false, &err), 0);
	assert_int_equal(fs_capture_protect(f->c, "sub/deep/x.db", false, &err), 0);
	assert_int_equal(fs_capture_may_remove_dir(f->c, "sub/deep", f->other), -EROFS); /* y.db */
	assert_int_equal(fs_capture_protect(f->c, "sub/deep/y.db", false, &err), 0);
	assert_int_equal(fs_capture_may_remove_dir(f->c, "sub/deep", f->other), 0);
	assert_int_equal(fs_capture_may_remove_dir(f->c, "sub", f->other), 0);
	assert_false(fs_capture_guards(f->c));
}

/* ---- who ---- */

static void *in_thread(void *arg)
{
	struct fixture *f = arg;

	return (void *)(intptr_t)fs_capture_may_open(f->c, "app.db", O_RDWR, gettid());
}

static void test_trusted(void **state)
{
	struct fixture *f = *state;
	pid_t pid = f->other;
	pthread_t t;
	void *rc;
	int status;

	assert_int_equal(fs_capture_may_open(f->c, "app.db", O_RDWR, 0),
	                 -EROFS); /* the kernel itself, or another pid namespace */
	assert_int_equal(pthread_create(&t, NULL, in_thread, f), 0);
	pthread_join(t, &rc);
	assert_int_equal((intptr_t)rc, 0); /* each of its threads */

	fs_capture_trust(f->c, pid);
	assert_int_equal(fs_capture_may_open(f->c, "app.db", O_RDWR, pid), 0);
	assert_int_equal(fs_capture_may_open(f->c, "app.db", O_RDWR, getpid()), -EROFS); /* no more */
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	f->other = -1;
	assert_int_equal(fs_capture_may_open(f->c, "app.db", O_RDWR, pid),
	                 -EROFS); /* dead: whoever has its number now */

	fs_capture_trust(f->c, pid); /* no such process */
	assert_int_equal(fs_capture_may_open(f->c, "app.db", O_RDWR, pid), -EROFS);
	fs_capture_trust(f->c, getpid());
	assert_int_equal(fs_capture_may_open(f->c, "app.db", O_RDWR, getpid()), 0);
	fs_capture_trust(f->c, 0);
	assert_int_equal(fs_capture_may_open(f->c, "app.db", O_RDWR, getpid()), -EROFS);
}

/* The first reader begins the -shm anew, unless the agent holds it. */
static void test_attached(void **state)
{
	struct fixture *f = *state;
	struct fs_event ev = {.op = FS_EV_TRUNCATE, .path = "app.db-shm", .pid = f->other, .size_bytes = 3};
	struct fs_event wal = {.op = FS_EV_TRUNCATE, .path = "app.db-wal", .pid = f->other, .size_bytes = 3};
	int status;

#define WANT(e, want)                                                                                                  \
	do {                                                                                                           \
		int rc_ = fs_capture_before(f->c, &(e));                                                               \
		assert_int_equal(rc_, want);                                                                           \
		if (rc_ == 0)                                                                                          \
			fs_capture_after(f->c, &(e), -EIO);                                                            \
	} while (0)
	WANT(ev, -EROFS);
	fs_capture_attached(f->c, "app.db", false);
	WANT(ev, 0);
	WANT(wal, -EROFS);
	ev.size_bytes = 4;
	WANT(ev, -EROFS);
	ev.size_bytes = 0;
	WANT(ev, 0);
	fs_capture_attached(f->c, "sub/deep/x.db", true); /* another */
	fs_capture_attached(f->c, "none.db", true);
	WANT(ev, 0);
	fs_capture_attached(f->c, "app.db", true);
	WANT(ev, -EROFS);
	fs_capture_trust(f->c, f->other); /* a new agent holds nothing yet */
	ev.pid = getpid();
	WANT(ev, 0);
	fs_capture_attached(f->c, "app.db", true);
	WANT(ev, -EROFS);
	kill(f->other, SIGKILL); /* and a dead one nothing more, before anybody has told */
	waitpid(f->other, &status, 0);
	f->other = -1;
	WANT(ev, 0);
	WANT(wal, -EROFS);
}

/* ---- the capture of a replica ---- */

static const struct class
{
	const char *path;
	enum fs_role role;
} classes[] = {
        {"app.db",        FS_ROLE_DB   },
        {"app.db-wal",    FS_ROLE_WAL  },
        {"app.db-shm",    FS_ROLE_SHM  },
        {"sub/deep/x.db", FS_ROLE_DB   },
        {"local.db",      FS_ROLE_DB   },
        {"text",          FS_ROLE_OTHER},
};

static void test_classified(void **state)
{
	struct fixture *f = *state;
	struct fz_err err;

	for (size_t i = 0; i < sizeof(classes) / sizeof(classes[0]); i++) {
		int fd = openat(f->root, classes[i].path, O_RDWR | O_CLOEXEC);
		enum fs_mode mode = FS_MODE_ANY;
		struct fs_file *file;

		assert_int_equal(fs_capture_role(f->c, classes[i].path), classes[i].role);
		assert_int_equal(fs_capture_file_open(f->c, classes[i].path, fd, false, &mode, &file, &err), 0);
		assert_int_equal(fs_capture_file_role(file), classes[i].role);
		assert_int_equal(mode, FS_MODE_PASSTHROUGH);
		fs_capture_file_close(file);
		mode = FS_MODE_WRITE_THROUGH; /* open since before the demotion: it stays as it is */
		assert_int_equal(fs_capture_file_open(f->c, classes[i].path, fd, false, &mode, &file, &err), 0);
		assert_int_equal(mode, FS_MODE_WRITE_THROUGH);
		fs_capture_file_close(file);
		close(fd);
	}
}

/* A primary that is about to become a replica refuses as well, and captures on. */
static void test_primary(void **state)
{
	struct fixture *f = *state;
	struct fs_capture_conf conf = {.rootfd = f->root, .statefd = f->root, .scrub_bytes_per_s = UINT64_MAX};
	struct fs_event ev = {.op = FS_EV_UNLINK, .path = "local.db", .pid = f->other};
	struct fs_capture *c;
	struct fz_err err;

	assert_int_equal(ltx_logset_open(&conf.logs, f->root, &(struct ltx_logset_conf){0}, &err), 0);
	assert_int_equal(fs_capture_open(&c, &conf, &err), 0);
	assert_int_equal(fs_capture_before(c, &ev), 0);
	fs_capture_after(c, &ev, -EIO);
	assert_int_equal(fs_capture_protect(c, "local.db", true, &err), 0);
	fs_capture_trust(c, getpid());
	assert_int_equal(fs_capture_before(c, &ev), -EROFS);
	assert_int_equal(fs_capture_may_open(c, "local.db", O_RDWR, f->other), -EROFS);
	assert_int_equal(fs_capture_may_open(c, "local.db", O_RDWR, getpid()), 0);
	assert_int_equal(fs_capture_protect(c, "local.db", false, &err), 0);
	assert_int_equal(fs_capture_before(c, &ev), 0);
	fs_capture_after(c, &ev, -EIO);
	assert_int_equal(fs_capture_close(c, &err), 0);
	ltx_logset_close(conf.logs);
}

/* A file that is open is known by the name it has: the agent makes a database under another one. */
static void test_renamed_while_open(void **state)
{
	struct fixture *f = *state;
	struct fs_event ev = {.op = FS_EV_RENAME, .path = "own", .path2 = "sub/own", .pid = f->other};
	struct fs_event cut = {.op = FS_EV_TRUNCATE, .pid = f->other};
	enum fs_mode mode = FS_MODE_ANY;
	struct fz_err err;
	int fd;

	put(f, "own/new", "x", 1);
	fd = openat(f->root, "own/new", O_RDWR | O_CLOEXEC);
	assert_int_equal(fs_capture_file_open(f->c, "own/new", fd, true, &mode, &cut.file, &err), 0);
	assert_int_equal(fs_capture_before(f->c, &cut), 0);
	fs_capture_after(f->c, &cut, 0);
	assert_int_equal(fs_capture_before(f->c, &ev), 0);
	fs_capture_after(f->c, &ev, 0);
	ev = (struct fs_event){.op = FS_EV_RENAME, .path = "sub/own/new", .path2 = "sub/deep/y.db", .pid = f->other};
	assert_int_equal(fs_capture_before(f->c, &ev), -EROFS);
	ev.pid = getpid();
	assert_int_equal(fs_capture_before(f->c, &ev), 0);
	fs_capture_after(f->c, &ev, 0);
	assert_int_equal(fs_capture_before(f->c, &cut), -EROFS);
	cut.pid = getpid();
	assert_int_equal(fs_capture_before(f->c, &cut), 0);
	fs_capture_after(f->c, &cut, 0);
	fs_capture_file_close(cut.file);
	close(fd);
}

static void test_does_nothing(void **state)
{
	struct fixture *f = *state;
	struct fs_scrub_result r;
	cJSON *list = cJSON_CreateArray();
	char name[64] = "";
	struct fz_err err;

	assert_int_equal(fs_capture_sync(f->c, NULL, &err), 0);
	assert_int_equal(fs_capture_sync(f->c, "app.db", &err), 0);
	assert_int_equal(fs_capture_sync(f->c, "none.db", &err), -FZ_ENOTFOUND);
	assert_int_equal(fs_capture_pending(f->c, name, sizeof(name)), FS_PENDING_NOTHING);
	assert_int_equal(fs_capture_scrub(f->c, NULL, &r, &err), 0);
	assert_int_equal(r.pages + r.differences + r.databases, 0);
	assert_int_equal(fs_capture_status(f->c, list), 0); /* no logs here */
	assert_int_equal(cJSON_GetArraySize(list), 0);
	cJSON_Delete(list);
}

int main(void)
{
#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
	        CASE(test_refused),
	        CASE(test_unprotected_again),
	        CASE(test_trusted),
	        CASE(test_attached),
	        CASE(test_classified),
	        CASE(test_primary),
	        CASE(test_renamed_while_open),
	        CASE(test_does_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
