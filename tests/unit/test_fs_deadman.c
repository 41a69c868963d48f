/* test_fs_deadman.c - the agent's switch: SQLite in other processes commits until the time has come and no longer, reads on, and commits
 * again once the switch is armed anew. A transaction that is open then is ended with its process. */
#include "fs/deadman.h"

#include "base/clock.h"
#include "base/file.h"
#include "fs/agent.h"
#include "tmp.h"

#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define MS UINT64_C(1000000)

static char dir[256], path[300], shm[310];

static int setup(void **state)
{
	sqlite3 *db;

	if (!tmp_make(dir, sizeof(dir), "fz-deadman"))
		return -1;
	snprintf(path, sizeof(path), "%s/a.db", dir);
	snprintf(shm, sizeof(shm), "%s-shm", path);
	if (sqlite3_open(path, &db) != SQLITE_OK ||
	    sqlite3_exec(db, "PRAGMA journal_mode=WAL; CREATE TABLE t(a)", NULL, NULL, NULL) != SQLITE_OK)
		return -1;
	*state = db; /* keeps the -shm there */
	return 0;
}

static int teardown(void **state)
{
	sqlite3_close(*state);
	return fz_remove_tree(AT_FDCWD, dir, NULL);
}

static int run(sqlite3 *db, const char *text)
{
	return sqlite3_exec(db, text, NULL, NULL, NULL);
}

static struct fs_deadman *pinned(void)
{
	struct fs_deadman *d = NULL;

	assert_int_equal(fs_deadman_open(&d, NULL), 0);
	assert_int_equal(fs_deadman_pin(d, "a.db", open(shm, O_RDWR | O_CLOEXEC), NULL), 0);
	return d;
}

static struct fs_deadman_state state_of(struct fs_deadman *d)
{
	struct fs_deadman_state s;

	fs_deadman_get(d, &s);
	return s;
}

static void until_fenced(struct fs_deadman *d)
{
	while (!state_of(d).fenced)
		(void)!poll(NULL, 0, 1);
}

static void commits_end_with_the_time(void **state)
{
	struct fs_deadman *d = pinned();
	uint64_t soft;
	sqlite3 *db = *state;
	int n = 0;

	assert_int_equal(state_of(d).pinned, 1);
	assert_int_equal(run(db, "INSERT INTO t VALUES (1)"), SQLITE_OK); /* not armed: nothing is wanted */
	soft = fz_boot_ns() + 50 * MS;
	fs_deadman_arm(d, soft, soft + 1000 * MS);
	for (uint64_t t; n >= 0; n++) {
		t = fz_boot_ns();
		if (run(db, "INSERT INTO t VALUES (2)") != SQLITE_OK)
			break;
		assert_true(t < soft + 1000 * MS);
	}
	until_fenced(d);
	assert_true(fz_boot_ns() >= soft);
	assert_true(n > 0);
	assert_int_equal(run(db, "INSERT INTO t VALUES (3)"), SQLITE_BUSY);
	assert_int_equal(run(db, "SELECT count(*) FROM t"), SQLITE_OK);
	assert_int_equal(state_of(d).killed, 0);
	fs_deadman_arm(d, fz_boot_ns() + 60000 * MS, fz_boot_ns() + 61000 * MS);
	assert_int_equal(run(db, "INSERT INTO t VALUES (4)"), SQLITE_OK);
	fs_deadman_arm(d, 0, UINT64_MAX);
	until_fenced(d);
	assert_int_equal(run(db, "INSERT INTO t VALUES (5)"), SQLITE_BUSY);
	fs_deadman_close(d);
	assert_int_equal(run(db, "INSERT INTO t VALUES (6)"), SQLITE_OK);
}

/* In a process of its own: begins, says so, and commits when it is told to. */
static pid_t writer(int *tell)
{
	int a[2], b[2];
	pid_t pid;
	char c;

	assert_int_equal(pipe(a), 0);
	assert_int_equal(pipe(b), 0);
	pid = fork();
	if (pid == 0) {
		sqlite3 *db;
		int ok = sqlite3_open(path, &db) == SQLITE_OK &&
		         run(db, "BEGIN IMMEDIATE; INSERT INTO t VALUES (77)") == SQLITE_OK;

		if (write(a[1], "x", 1) == 1 && read(b[0], &c, 1) == 1 && ok)
			ok = run(db, "COMMIT") == SQLITE_OK;
		_exit(ok ? 0 : 1);
	}
	assert_int_equal(read(a[0], &c, 1), 1);
	close(a[0]);
	close(a[1]);
	close(b[0]);
	*tell = b[1];
	return pid;
}

static void who_is_in_a_transaction_may_end_it_in_time(void **state)
{
	struct fs_deadman *d = pinned();
	int tell, status;
	pid_t pid = writer(&tell);

	fs_deadman_arm(d, fz_boot_ns(), fz_boot_ns() + 60000 * MS);
	assert_false(state_of(d).fenced);
	assert_int_equal(write(tell, "x", 1), 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	until_fenced(d);
	assert_int_equal(state_of(d).killed, 0);
	assert_int_equal(run(*state, "INSERT INTO t VALUES (3)"), SQLITE_BUSY);
	close(tell);
	fs_deadman_close(d);
}

static int count(void *n, int argc, char **argv, char **names)
{
	*(int *)n = atoi(argv[0]);
	return 0;
}

static void who_is_late_is_killed(void **state)
{
	for (int stopped = 0; stopped < 2; stopped++) {
		struct fs_deadman *d = pinned();
		int tell, status, n = -1;
		pid_t pid = writer(&tell);

		if (stopped)
			assert_int_equal(kill(pid, SIGSTOP), 0);
		fs_deadman_arm(d, fz_boot_ns(), fz_boot_ns() + 20 * MS);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		until_fenced(d);
		assert_int_equal(state_of(d).killed, 1);
		assert_int_equal(run(*state, "INSERT INTO t VALUES (3)"), SQLITE_BUSY);
		assert_int_equal(sqlite3_exec(*state, "SELECT count(*) FROM t WHERE a = 77", count, &n, NULL),
		                 SQLITE_OK);
		assert_int_equal(n, 0);
		close(tell);
		fs_deadman_close(d);
	}
}

/* Readers that come when all others have gone find the wal-index as it was. */
static void readers_come_and_go(void **state)
{
	struct fs_deadman *d = pinned();

	assert_int_equal(run(*state, "INSERT INTO t VALUES (1)"), SQLITE_OK);
	fs_deadman_arm(d, 1, UINT64_MAX);
	until_fenced(d);
	for (int i = 0; i < 3; i++) {
		struct flock f = {.l_type = F_RDLCK, .l_start = 0x40000002, .l_len = 510};
		int lock = open(path, O_RDONLY | O_CLOEXEC);
		sqlite3 *db;

		assert_int_equal(fcntl(lock, F_OFD_SETLK, &f),
		                 0); /* as a fence: the last one to close deletes nothing */
		sqlite3_close(*state);
		assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
		*state = db;
		assert_int_equal(run(db, "SELECT * FROM t"), SQLITE_OK);
		assert_int_equal(run(db, "INSERT INTO t VALUES (3)"), SQLITE_BUSY);
		close(lock);
	}
	fs_deadman_arm(d, fz_boot_ns() + 60000 * MS, UINT64_MAX);
	assert_int_equal(run(*state, "INSERT INTO t VALUES (3)"), SQLITE_OK);
	fs_deadman_close(d);
}

static void what_is_pinned_late_is_locked_at_once(void **state)
{
	struct fs_deadman *d = NULL;

	assert_int_equal(fs_deadman_open(&d, NULL), 0);
	fs_deadman_arm(d, 1, 1);
	assert_int_equal(fs_deadman_pin(d, "a.db", open(shm, O_RDWR | O_CLOEXEC), NULL), 0);
	assert_int_equal(run(*state, "INSERT INTO t VALUES (3)"), SQLITE_BUSY);
	assert_int_equal(fs_deadman_pin(d, "a.db", -1, NULL), 0);
	assert_int_equal(state_of(d).pinned, 0);
	fs_deadman_close(d);
}

/* The fence that a demotion takes is on the same open file: neither keeps the other away, and it stays when the switch lets go. */
static void a_fence_shares_the_lock(void **state)
{
	int mountfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct fs_deadman *d = pinned();
	struct fs_fence *list = NULL;

	fs_deadman_arm(d, 1, UINT64_MAX);
	until_fenced(d);
	assert_int_equal(fs_fence_take(&list, d, mountfd, "a.db", 0), 0);
	fs_deadman_arm(d, fz_boot_ns() + 60000 * MS, UINT64_MAX);
	assert_int_equal(run(*state, "INSERT INTO t VALUES (3)"), SQLITE_BUSY);
	fs_deadman_close(d);
	assert_int_equal(run(*state, "INSERT INTO t VALUES (3)"), SQLITE_BUSY);
	fs_fence_free(list);
	assert_int_equal(run(*state, "INSERT INTO t VALUES (3)"), SQLITE_OK);
	d = pinned();
	list = NULL;
	assert_int_equal(fs_fence_take(&list, d, mountfd, "a.db", 0), 0);
	fs_fence_free(list);
	fs_deadman_unshare(d);
	assert_int_equal(run(*state, "INSERT INTO t VALUES (3)"), SQLITE_BUSY); /* until it is armed */
	fs_deadman_arm(d, fz_boot_ns() + 60000 * MS, UINT64_MAX);
	assert_int_equal(run(*state, "INSERT INTO t VALUES (3)"), SQLITE_OK);
	fs_deadman_close(d);
	close(mountfd);
}

/* Over the socket, as the worker does it. */
static void the_worker_arms_it(void **state)
{
	struct fs_deadman_state s;
	struct fs_agent *a = NULL;
	int sock[2], status;
	uint64_t id;
	pid_t pid;

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sock), 0);
	pid = fork();
	if (pid == 0) {
		struct fs_fence *fences = NULL;
		struct fz_err err;

		close(sock[0]);
		_exit(fs_agent_serve(sock[1], open(dir, O_RDONLY | O_DIRECTORY), &fences, &err) == 0 ? 0 : 1);
	}
	close(sock[1]);
	assert_int_equal(fs_agent_open(&a, sock[0], NULL), 0);
	assert_int_equal(fs_agent_arm(a, fz_boot_ns() + 60000 * MS, fz_boot_ns() + 60000 * MS, &s, NULL), 0);
	assert_int_equal(s.pid, pid);
	assert_int_equal(s.pinned, 0);
	id = s.id;
	assert_int_equal(fs_agent_pin(a, "a.db", NULL), 0);
	assert_int_equal(fs_agent_pin(a, "none.db", NULL), 0);
	assert_int_equal(run(*state, "INSERT INTO t VALUES (3)"), SQLITE_OK);
	assert_int_equal(fs_agent_arm(a, 1, 1, &s, NULL), 0);
	while (!s.fenced || s.pinned != 1)
		assert_int_equal(fs_agent_arm(a, 1, 1, &s, NULL), 0);
	assert_true(s.id == id);
	assert_int_equal(run(*state, "INSERT INTO t VALUES (3)"), SQLITE_BUSY);
	assert_int_equal(fs_agent_fence(a, "a.db", 0, NULL), 0);
	assert_int_equal(fs_agent_unfence(a, NULL), 0);
	assert_int_equal(run(*state, "INSERT INTO t VALUES (3)"), SQLITE_BUSY);
	assert_int_equal(fs_agent_arm(a, UINT64_MAX, UINT64_MAX, &s, NULL), 0);
	assert_int_equal(run(*state, "INSERT INTO t VALUES (3)"), SQLITE_OK);
	fs_agent_close(a);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	static const struct CMUnitTest tests[] = {
	        T(commits_end_with_the_time), T(who_is_in_a_transaction_may_end_it_in_time), T(who_is_late_is_killed),
	        T(readers_come_and_go),       T(what_is_pinned_late_is_locked_at_once),      T(a_fence_shares_the_lock),
	        T(the_worker_arms_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
