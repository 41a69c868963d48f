/* The fence: the agent takes and keeps what a writer needs, so that SQLite in another process can read but never commit, and the
 * locks outlive the loop that took them. */
#include "fs/agent.h"

#include "base/file.h"
#include "tmp.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[256];

static int setup(void **state)
{
	return tmp_make(dir, sizeof(dir), "fz-agent") ? 0 : -1;
}

static int teardown(void **state)
{
	return fz_remove_tree(AT_FDCWD, dir, NULL);
}

static sqlite3 *open_db(const char *journal)
{
	char path[300], text[200];
	sqlite3 *db;

	snprintf(path, sizeof(path), "%s/a.db", dir);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	snprintf(text, sizeof(text), "PRAGMA journal_mode=%s; CREATE TABLE IF NOT EXISTS t(a)", journal);
	assert_int_equal(sqlite3_exec(db, text, NULL, NULL, NULL), SQLITE_OK);
	return db;
}

static int run(sqlite3 *db, const char *text)
{
	return sqlite3_exec(db, text, NULL, NULL, NULL);
}

/* The agent in a child process, which holds on after its loop has ended until it is told by closing `go`. */
struct child {
	pid_t pid;
	int go;
	struct fs_agent *agent;
};

static struct child start_agent(void)
{
	struct fz_err err = {0};
	struct child c = {0};
	int sock[2], go[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sock), 0);
	assert_int_equal(pipe(go), 0);
	c.pid = fork();
	if (!c.pid) {
		struct fs_fence *fences = NULL;
		int mountfd = open(dir, O_RDONLY | O_DIRECTORY), rc;
		char b;

		close(sock[0]);
		close(go[1]);
		rc = fs_agent_serve(sock[1], mountfd, &fences, &err);
		while (rc == 1 && read(go[0], &b, 1) > 0)
			;
		_exit(rc == 1 && fences && !strcmp(fences->path, "a.db") ? 1 : rc);
	}
	close(sock[1]);
	close(go[0]);
	c.go = go[1];
	assert_int_equal(fs_agent_open(&c.agent, sock[0], &err), 0);
	return c;
}

static void fenced(void **state)
{
	static const char *const modes[] = {"WAL", "DELETE", "TRUNCATE", "PERSIST", "MEMORY"};

	for (size_t m = 0; m < sizeof(modes) / sizeof(modes[0]); m++) {
		sqlite3 *before = open_db(modes[m]), *after;
		struct child c = start_agent();
		struct fz_err err = {0};
		int status;

		assert_int_equal(run(before, "INSERT INTO t VALUES (1)"), SQLITE_OK);
		/* a writer that does not end in time keeps it out; readers do not */
		assert_int_equal(run(before, "BEGIN IMMEDIATE"), SQLITE_OK);
		assert_int_equal(fs_agent_fence(c.agent, "a.db", 50, &err), -FZ_EBUSY);
		assert_int_equal(run(before, "COMMIT; BEGIN; SELECT * FROM t"), SQLITE_OK);
		assert_int_equal(fs_agent_fence(c.agent, "a.db", 5000, &err), 0);
		assert_int_equal(fs_agent_fence(c.agent, "a.db", 0, &err), 0); /* it has it already */
		assert_int_equal(run(before, "COMMIT"), SQLITE_OK);
		assert_int_equal(run(before, "INSERT INTO t VALUES (2)"), SQLITE_BUSY);
		assert_int_equal(run(before, "SELECT * FROM t"), SQLITE_OK);
		assert_int_equal(sqlite3_open(sqlite3_db_filename(before, "main"), &after), SQLITE_OK);
		assert_int_equal(run(after, "DELETE FROM t"), SQLITE_BUSY);
		/* and on, when the process turns to something else */
		assert_int_equal(fs_agent_become_replica(c.agent, &err), 0);
		assert_int_equal(run(before, "INSERT INTO t VALUES (3)"), SQLITE_BUSY);
		assert_int_equal(run(after, "BEGIN IMMEDIATE"), SQLITE_BUSY);
		fs_agent_close(c.agent);
		assert_int_equal(run(before, "INSERT INTO t VALUES (3)"), SQLITE_BUSY);
		close(c.go);
		assert_int_equal(waitpid(c.pid, &status, 0), c.pid);
		assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
		assert_int_equal(run(before, "INSERT INTO t VALUES (4)"), SQLITE_OK);
		sqlite3_close(after);
		sqlite3_close(before);
	}
}

static void nothing_to_fence(void **state)
{
	struct child c = start_agent();
	struct fz_err err = {0};
	int status;

	assert_int_equal(fs_agent_fence(c.agent, "none.db", 50, &err), -FZ_ENOTFOUND);
	fs_agent_close(c.agent);
	close(c.go);
	assert_int_equal(waitpid(c.pid, &status, 0), c.pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(fenced, setup, teardown),
	        cmocka_unit_test_setup_teardown(nothing_to_fence, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
