/* What the supervisor tells a service manager while a worker starts or finishes: more time as long as it works. */
#include "fs/watch.h"

#include "fs/supervisor_priv.h"

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

static const struct watch_case {
	const char *name;
	bool ready, told, leaving;
	const char *want;
} cases[] = {
        {"the first worker starts", false, false, false, "EXTEND_TIMEOUT_USEC=8000000"            },
        {"another one starts",      false, true,  false, "WATCHDOG=1"                             },
        {"it finishes",             true,  true,  true,  "WATCHDOG=1\nEXTEND_TIMEOUT_USEC=8000000"},
        {"it is finishing",         false, true,  true,  "WATCHDOG=1\nEXTEND_TIMEOUT_USEC=8000000"},
};

static void test_more_time(void **state)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), sleeper[2];
	char name[40], got[128];
	pid_t pid;

	snprintf(name, sizeof(name), "@fazt-watch-%d", (int)getpid());
	memcpy(a.sun_path + 1, name + 1, strlen(name) - 1);
	assert_return_code(
	        bind(fd, (struct sockaddr *)&a, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name))), 0);
	setenv("NOTIFY_SOCKET", name, 1);
	setenv("WATCHDOG_USEC", "8000000", 1);
	unsetenv("WATCHDOG_PID");
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct fs_super *s = calloc(1, sizeof(*s));

		print_message("%s\n", cases[i].name);
		fs_watch_init(s);
		s->worker = getpid(); /* which works: it reads files */
		s->ready = cases[i].ready;
		s->told = cases[i].told;
		s->leaving = cases[i].leaving;
		fs_watch_look(s);
		memset(got, 0, sizeof(got));
		assert_true(recv(fd, got, sizeof(got) - 1, MSG_DONTWAIT) > 0);
		assert_string_equal(got, cases[i].want);
		free(s);
	}
	/* one that does nothing gets none */
	assert_return_code(pipe(sleeper), 0);
	pid = fork();
	if (pid == 0) {
		close(sleeper[1]);
		(void)!read(sleeper[0], got, 1);
		_exit(0);
	}
	struct fs_super *s = calloc(1, sizeof(*s));
	fs_watch_init(s);
	s->worker = pid;
	s->told = s->leaving = true;
	for (ssize_t n = 1; n > 0;) { /* until it has come to its read */
		fs_watch_look(s);
		n = recv(fd, got, sizeof(got), MSG_DONTWAIT);
		usleep(20000);
	}
	close(sleeper[1]);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	free(s);
	close(sleeper[0]);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_more_time)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
