/* Who serves a mount, told by locks that the kernel drops with the process. */
#include "fs/alive.h"

#include "base/file.h"

#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[] = "/tmp/fazt-alive-XXXXXX";
static int state_fd = -1;

/* A process that claims and stays; its claim's result comes through the pipe. */
static pid_t claimant(enum fs_alive which, int *rc)
{
	int p[2];
	pid_t pid;

	assert_return_code(pipe(p), 0);
	pid = fork();
	if (pid == 0) {
		int got = fs_alive_claim(state_fd, which, 0, NULL);

		(void)!write(p[1], &got, sizeof(got));
		for (;;)
			pause();
	}
	assert_int_equal(read(p[0], rc, sizeof(*rc)), sizeof(*rc));
	close(p[0]);
	close(p[1]);
	return pid;
}

static void end(pid_t pid)
{
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void test_found(void **state)
{
	struct fz_err err = {0};
	struct pollfd p = {.events = POLLIN};
	char text[16];
	pid_t worker, agent;
	int rc, fd;

	assert_int_equal(fs_alive_find(state_fd, FS_ALIVE_WORKER, &fd), 0);
	assert_int_equal(fd, -1);
	worker = claimant(FS_ALIVE_WORKER, &rc);
	assert_int_equal(rc, 0);
	agent = claimant(FS_ALIVE_AGENT, &rc);
	assert_int_equal(rc, 0);
	assert_int_equal(fs_alive_find(state_fd, FS_ALIVE_AGENT, &fd), agent);
	fz_close(&fd);
	assert_int_equal(fs_alive_find(state_fd, FS_ALIVE_WORKER, &fd), worker);
	p.fd = fd;
	assert_int_equal(poll(&p, 1, 0), 0);

	/* a second one is refused, and told whom it met */
	assert_int_equal(fs_alive_claim(state_fd, FS_ALIVE_WORKER, 20, &err), -FZ_EBUSY);
	snprintf(text, sizeof(text), "%d", (int)worker);
	assert_non_null(strstr(err.text, text));

	/* a kill is enough; the pidfd is of that process */
	end(worker);
	assert_int_equal(poll(&p, 1, 0), 1);
	fz_close(&fd);
	assert_int_equal(fs_alive_find(state_fd, FS_ALIVE_WORKER, &fd), 0);
	worker = claimant(FS_ALIVE_WORKER, &rc);
	assert_int_equal(rc, 0);
	assert_int_equal(fs_alive_find(state_fd, FS_ALIVE_WORKER, &fd), worker);
	fz_close(&fd);
	end(worker);
	end(agent);
}

static void test_waits(void **state)
{
	pid_t pid = fork();
	int fd, n = 0;

	if (pid == 0) {
		if (fs_alive_claim(state_fd, FS_ALIVE_WORKER, 0, NULL) < 0)
			_exit(1);
		for (;;)
			pause();
	}
	while (fs_alive_find(state_fd, FS_ALIVE_WORKER, &fd) != pid && n++ < 2000)
		(void)!poll(NULL, 0, 5);
	assert_true(fd >= 0);
	fz_close(&fd);
	/* waits for the end of the former one, and gets it then */
	kill(pid, SIGKILL);
	assert_int_equal(fs_alive_claim(state_fd, FS_ALIVE_WORKER, 10000, NULL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static int setup(void **state)
{
	if (!mkdtemp(dir))
		return -1;
	state_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return state_fd < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	unlinkat(state_fd, "alive", 0);
	fz_close(&state_fd);
	return rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_found),
	        cmocka_unit_test(test_waits),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
