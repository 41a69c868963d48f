/* The protocol towards a service manager: what arrives at its socket, and which descriptors are taken from it. */
#include "base/notify.h"

#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char path[sizeof(((struct sockaddr_un *)0)->sun_path)];

/* The manager's end: under a path, or an abstract name ('@'). */
static int listen_at(const char *name)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	size_t n = strlen(name);

	memcpy(a.sun_path, name, n);
	if (*name == '@')
		a.sun_path[0] = 0;
	assert_true(fd >= 0);
	assert_return_code(bind(fd, (struct sockaddr *)&a, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n)), 0);
	setenv("NOTIFY_SOCKET", name, 1);
	return fd;
}

static void expect(int fd, const char *text, int *passed)
{
	char got[256] = "", room[CMSG_SPACE(sizeof(int))];
	struct iovec iov = {got, sizeof(got) - 1};
	struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room)};

	assert_true(recvmsg(fd, &h, MSG_DONTWAIT) > 0);
	assert_string_equal(got, text);
	if (!passed) {
		assert_null(CMSG_FIRSTHDR(&h));
		return;
	}
	assert_non_null(CMSG_FIRSTHDR(&h));
	memcpy(passed, CMSG_DATA(CMSG_FIRSTHDR(&h)), sizeof(*passed));
}

static void test_says(void **state)
{
	static const char *const forms[] = {"path", "abstract"};

	for (size_t i = 0; i < 2; i++) {
		int fd, given = -1, pipefd[2];
		char c = 0;

		if (i)
			snprintf(path, sizeof(path), "@fazt-notify-%d", (int)getpid());
		else
			snprintf(path, sizeof(path), "%s/fazt-notify-%d", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp",
			         (int)getpid());
		fd = listen_at(path);
		print_message("%s\n", forms[i]);
		assert_true(fz_notify_wanted());
		assert_int_equal(fz_notify("READY=1\nSTATUS=a b"), 0);
		expect(fd, "READY=1\nSTATUS=a b", NULL);
		assert_return_code(pipe(pipefd), 0);
		assert_int_equal(fz_notify_keep("fuse", pipefd[1]), 0);
		expect(fd, "FDSTORE=1\nFDPOLL=0\nFDNAME=fuse", &given);
		assert_int_equal(write(given, "x", 1), 1); /* the same pipe */
		assert_int_equal(read(pipefd[0], &c, 1), 1);
		assert_int_equal(c, 'x');
		assert_int_equal(fz_notify_forget("fuse"), 0);
		expect(fd, "FDSTOREREMOVE=1\nFDNAME=fuse", NULL);
		fz_close(&given);
		fz_close(&pipefd[0]);
		fz_close(&pipefd[1]);
		fz_close(&fd);
		if (!i)
			unlink(path);
	}
}

static void test_nobody_listens(void **state)
{
	static const struct {
		const char *socket;
		bool wanted;
		int rc;
	} cases[] = {
	        {NULL,                   false, 0            },
	        {"",	             false, 0            },
	        {"relative",             false, 0            },
	        {"/",                    false, 0            },
	        {"/there/is/no/such",    true,  -ENOENT      },
	        {"@fazt-nobody-listens", true,  -ECONNREFUSED},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (cases[i].socket)
			setenv("NOTIFY_SOCKET", cases[i].socket, 1);
		else
			unsetenv("NOTIFY_SOCKET");
		print_message("'%s'\n", cases[i].socket ? cases[i].socket : "(none)");
		assert_int_equal(fz_notify_wanted(), cases[i].wanted);
		assert_int_equal(fz_notify("READY=1"), cases[i].rc);
	}
	unsetenv("NOTIFY_SOCKET");
}

/* Until not even a new socket can send. */
static void fill(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	socklen_t n = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
	int sent = 1;

	memcpy(a.sun_path, path, strlen(path));
	a.sun_path[0] = 0;
	while (sent) {
		int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

		for (sent = 0; sendto(fd, "x", 1, MSG_DONTWAIT, (struct sockaddr *)&a, n) == 1; sent++)
			;
		assert_int_equal(errno, EAGAIN);
		fz_close(&fd);
	}
}

/* A manager that does not read: what is said again soon is not waited for, the rest for a moment. */
static void test_manager_hangs(void **state)
{
	static const char *const words[] = {"STATUS=a b", "WATCHDOG=1", "EXTEND_TIMEOUT_USEC=30000000", "READY=1"};
	char got[64] = "";
	int fd, status, ready[2];
	pid_t child;

	snprintf(path, sizeof(path), "@fazt-notify-%d", (int)getpid());
	fd = listen_at(path);
	fill();
	alarm(60);
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		print_message("%s\n", words[i]);
		assert_int_equal(fz_notify(words[i]), -EAGAIN);
	}
	assert_return_code(pipe(ready), 0);
	assert_int_equal(fz_notify_keep("fuse", ready[1]), -EAGAIN);
	child = fork(); /* it reads on */
	if (child == 0) {
		while (strcmp(got, "READY=1") != 0) {
			ssize_t n = recv(fd, got, sizeof(got) - 1, 0);

			if (n < 0)
				_exit(1);
			got[n] = 0;
		}
		_exit(0);
	}
	assert_int_equal(fz_notify("READY=1"), 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	alarm(0);
	fz_close(&ready[0]);
	fz_close(&ready[1]);
	fz_close(&fd);
	unsetenv("NOTIFY_SOCKET");
}

static void test_watchdog(void **state)
{
	char us[24];
	static const struct {
		const char *usec, *pid; /* "%" = ours */
		uint64_t want;
	} cases[] = {
	        {NULL,                      NULL, 0       },
	        {"60000000",                NULL, 60000000},
	        {"60000000",                "%",  60000000},
	        {"60000000",                "1",  0       },
	        {"6s",                      NULL, 0       },
	        {"-5",                      NULL, 0       },
	        {"99999999999999999999999", NULL, 0       },
	        {"",	                "%",  0       },
	};

	snprintf(us, sizeof(us), "%d", (int)getpid());
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		unsetenv("WATCHDOG_USEC");
		unsetenv("WATCHDOG_PID");
		if (cases[i].usec)
			setenv("WATCHDOG_USEC", cases[i].usec, 1);
		if (cases[i].pid)
			setenv("WATCHDOG_PID", *cases[i].pid == '%' ? us : cases[i].pid, 1);
		assert_int_equal(fz_notify_watchdog_us(), cases[i].want);
	}
	unsetenv("WATCHDOG_USEC");
	unsetenv("WATCHDOG_PID");
}

/* In a child, whose descriptors 3 and up are n pipes: the exit code is what is wrong. */
static int taken(const char *pid, const char *n, const char *names, size_t max, size_t want,
                 const char *const *want_names)
{
	struct fz_listen_fd fds[8];
	char us[24];
	int status;
	pid_t child = fork();

	if (child == 0) {
		for (int fd = 3; fd < 6; fd++)
			if (dup2(0, fd) != fd || fcntl(fd, F_SETFD, 0) < 0)
				_exit(10);
		close(6);
		snprintf(us, sizeof(us), "%d", (int)getpid());
		setenv("LISTEN_PID", *pid == '%' ? us : pid, 1);
		setenv("LISTEN_FDS", n, 1);
		if (names)
			setenv("LISTEN_FDNAMES", names, 1);
		if (fz_listen_take(fds, max) != want)
			_exit(11);
		for (size_t i = 0; i < want; i++)
			if (fds[i].fd != 3 + (int)i || strcmp(fds[i].name, want_names[i]) ||
			    !(fcntl(fds[i].fd, F_GETFD) & FD_CLOEXEC))
				_exit(12);
		if (want == max && fcntl(3 + (int)max, F_GETFD) >= 0)
			_exit(13); /* what had no room is open */
		_exit(getenv("LISTEN_PID") || fz_listen_take(fds, 8) ? 14 : 0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void test_takes(void **state)
{
	static const char *const names[] = {"fuse", "root", "shared"}, *const odd[] = {"fuse", "", "shared"};
	static const char *const none[] = {"", "", ""}, *const cut[] = {"0123456789012345678901234567890", "b", ""};

	assert_int_equal(taken("%", "3", "fuse:root:shared", 8, 3, names), 0);
	assert_int_equal(taken("%", "3", "fuse::shared", 8, 3, odd), 0);
	assert_int_equal(taken("%", "3", NULL, 8, 3, none), 0);
	assert_int_equal(taken("%", "3", "01234567890123456789012345678901234567890:b", 8, 3, cut), 0);
	assert_int_equal(taken("%", "3", "fuse:root:shared", 2, 2, names), 0);
	assert_int_equal(taken("%", "4", "fuse:root:shared", 8, 3, names), 0); /* the fourth is not open */
	assert_int_equal(taken("1", "3", "fuse:root:shared", 8, 0, names), 0);
	assert_int_equal(taken("%", "x", "fuse:root:shared", 8, 0, names), 0);
	assert_int_equal(taken("%", "-1", "fuse:root:shared", 8, 0, names), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_says),          cmocka_unit_test(test_nobody_listens),
	        cmocka_unit_test(test_manager_hangs), cmocka_unit_test(test_watchdog),
	        cmocka_unit_test(test_takes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
