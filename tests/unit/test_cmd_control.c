/* The control socket: questions and answers, a descriptor that comes along, what a stranger or a broken client can do. */
#include "cmd/control.h"

#include "base/clock.h"
#include "base/file.h"

#include <cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

struct echo {
	struct cmd_control_handler handler; /* first */
	struct cmd_control *control;
	atomic_int waiting;
	int fd;
};

#define WAITERS 20 /* more than there are threads at the start */

static void comes_to(atomic_int *what, int n)
{
	uint64_t end = fz_mono_ns() + UINT64_C(20000000000);

	while (atomic_load(what) != n && fz_mono_ns() < end)
		(void)!poll(NULL, 0, 5);
	assert_int_equal(atomic_load(what), n);
}

static int answer(struct cmd_control_handler *h, const struct cJSON *request, struct cJSON *out, int *pass_fd,
                  struct fz_err *err)
{
	struct echo *e = (struct echo *)h;
	const char *cmd = cJSON_GetStringValue(cJSON_GetObjectItem(request, "cmd"));

	if (!cmd)
		return fz_fail(err, FZ_EUSAGE, "no cmd");
	if (!strcmp(cmd, "fail"))
		return fz_fail(err, FZ_ENOCOMMIT, "nothing \"that\" old\n");
	if (!strcmp(cmd, "wait")) {
		atomic_fetch_add(&e->waiting, 1);
		while (!cmd_control_gone(e->control))
			(void)!poll(NULL, 0, 5);
		atomic_fetch_sub(&e->waiting, 1);
		return cmd_control_unfinished(e->control, err);
	}
	if (!strcmp(cmd, "count"))
		for (int i = 1; i <= 3; i++) {
			cJSON *o = cJSON_CreateObject();

			cJSON_AddNumberToObject(o, "n", i);
			cmd_control_tell(o);
		}
	if (!strcmp(cmd, "fd"))
		*pass_fd = e->fd;
	if (!strcmp(cmd, "big")) {
		char *big = calloc(1, 3000001);

		memset(big, 'x', 3000000);
		cJSON_AddStringToObject(out, "big", big);
		free(big);
	}
	cJSON_AddStringToObject(out, "cmd", cmd);
	return 0;
}

struct place {
	char dir[64], path[100];
	struct echo echo;
	struct cmd_control *control;
};

static int setup(void **state)
{
	struct place *p = calloc(1, sizeof(*p));
	struct fz_err err = {0};

	snprintf(p->dir, sizeof(p->dir), "/tmp/fazt-ctl-XXXXXX");
	if (!mkdtemp(p->dir))
		return -1;
	snprintf(p->path, sizeof(p->path), "%s/run/s.sock", p->dir);
	p->echo.handler.answer = answer;
	p->echo.fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	*state = p;
	if (cmd_control_start(&p->control, p->path, &p->echo.handler, &err) < 0) {
		print_error("%s\n", err.text);
		return -1;
	}
	return 0;
}

static int teardown(void **state)
{
	struct place *p = *state;

	cmd_control_stop(p->control);
	fz_close(&p->echo.fd);
	(void)!fz_remove_tree(AT_FDCWD, p->dir, NULL);
	free(p);
	return 0;
}

static int ask(const char *path, const char *cmd, cJSON **got, int *fd, struct fz_err *err)
{
	cJSON *request = cJSON_CreateObject();
	int rc;

	cJSON_AddStringToObject(request, "cmd", cmd);
	rc = cmd_control_call_at(path, request, 20000, NULL, got, fd, err);
	cJSON_Delete(request);
	return rc;
}

static void answers(void **state)
{
	struct place *p = *state;
	struct fz_err err = {0};
	struct stat st;
	cJSON *got;
	int fd = -1;

	assert_int_equal(stat(p->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	for (int i = 0; i < 100; i++) {
		assert_int_equal(ask(p->path, "hello", &got, &fd, &err), 0);
		assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(got, "cmd")), "hello");
		assert_int_equal(fd, -1);
		cJSON_Delete(got);
	}
	assert_int_equal(ask(p->path, "fail", &got, NULL, &err), -FZ_ENOCOMMIT);
	assert_null(got);
	assert_string_equal(err.text, "nothing \"that\" old\n");
	assert_int_equal(ask(p->path, "big", &got, NULL, &err), 0);
	assert_int_equal(strlen(cJSON_GetStringValue(cJSON_GetObjectItem(got, "big"))), 3000000);
	cJSON_Delete(got);
}

static void descriptor(void **state)
{
	struct place *p = *state;
	struct fz_err err = {0};
	struct stat a, b;
	cJSON *got;
	int fd = -1;

	assert_int_equal(ask(p->path, "fd", &got, &fd, &err), 0);
	assert_true(fd >= 0);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	assert_int_equal(fstat(fd, &a), 0);
	assert_int_equal(stat("/dev/null", &b), 0);
	assert_true(a.st_rdev == b.st_rdev);
	fz_close(&fd);
	cJSON_Delete(got);
	assert_int_equal(ask(p->path, "fd", &got, NULL, &err), 0); /* not wanted: closed, not leaked */
	cJSON_Delete(got);
}

static int dial(const struct place *p)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", p->path);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

static const struct rubbish {
	const char *name, *sent, *says; /* NULL = it hangs up without an answer */
} rubbish[] = {
        {"no JSON",             "hello\n",                                               "no JSON object"},
        {"an array",            "[1,2]\n",                                               "no JSON object"},
        {"no cmd",              "{}\n",                                                  "no cmd"        },
        {"cmd is a number",     "{\"cmd\":1}\n",                                         "no cmd"        },
        {"deep nesting",        "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\n", "no JSON object"},
        {"nothing but the end", "",                                                      NULL            },
        {"half a line",         "{\"cmd\":",                                             NULL            },
};

static void broken_clients(void **state)
{
	struct place *p = *state;
	struct fz_err err = {0};
	cJSON *got;

	for (size_t i = 0; i < sizeof(rubbish) / sizeof(rubbish[0]); i++) {
		char text[4096] = "";
		int fd = dial(p);
		ssize_t n;

		assert_int_equal(fz_write(fd, rubbish[i].sent, strlen(rubbish[i].sent)), 0);
		shutdown(fd, SHUT_WR);
		n = recv(fd, text, sizeof(text) - 1, MSG_WAITALL);
		if (rubbish[i].says ? n <= 0 || !strstr(text, rubbish[i].says) || !strstr(text, "\"ok\":false") : n > 0)
			fail_msg("%s: %zd %s", rubbish[i].name, n, text);
		close(fd);
	}
	assert_int_equal(ask(p->path, "hello", &got, NULL, &err), 0);
	cJSON_Delete(got);
}

/* Somebody who waits for long keeps nobody out, and is waited with no longer than he is there. */
static void waiting_clients(void **state)
{
	struct place *p = *state;
	struct fz_err err = {0};
	int fds[WAITERS];
	cJSON *got;

	p->echo.control = p->control;
	for (int i = 0; i < WAITERS; i++) {
		fds[i] = dial(p);
		assert_int_equal(fz_write(fds[i], "{\"cmd\":\"wait\"}\n", 15), 0);
		if (i % 2)
			shutdown(fds[i], SHUT_WR); /* still there */
	}
	comes_to(&p->echo.waiting, WAITERS);
	assert_int_equal(ask(p->path, "hello", &got, NULL, &err), 0);
	cJSON_Delete(got);
	assert_int_equal(atomic_load(&p->echo.waiting), WAITERS);
	for (int i = 0; i < WAITERS; i++)
		close(fds[i]);
	comes_to(&p->echo.waiting, 0);
	fds[0] = dial(p);
	assert_int_equal(fz_write(fds[0], "{\"cmd\":\"wait\"}\n", 15), 0);
	comes_to(&p->echo.waiting, 1);
	cmd_control_stop(p->control); /* ends it too */
	p->control = NULL;
	close(fds[0]);
}

struct counting {
	struct cmd_control_listener l; /* first */
	int sum;
};

static void counted(struct cmd_control_listener *l, const cJSON *progress)
{
	((struct counting *)l)->sum += cJSON_GetObjectItem(progress, "n")->valueint;
}

static void progress(void **state)
{
	struct place *p = *state;
	struct counting c = {{counted}, 0};
	cJSON *request = cJSON_Parse("{\"cmd\":\"count\"}"), *got;
	struct fz_err err = {0};

	assert_int_equal(cmd_control_call_at(p->path, request, 20000, &c.l, &got, NULL, &err), 0);
	assert_int_equal(c.sum, 0); /* nobody asked for it */
	cJSON_Delete(got);
	cJSON_AddTrueToObject(request, "progress");
	assert_int_equal(cmd_control_call_at(p->path, request, 20000, &c.l, &got, NULL, &err), 0);
	assert_int_equal(c.sum, 1 + 2 + 3);
	assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(got, "cmd")), "count");
	cJSON_Delete(got);
	assert_int_equal(cmd_control_call_at(p->path, request, 20000, NULL, &got, NULL, &err), 0); /* nobody listens */
	cJSON_Delete(got);
	cJSON_Delete(request);
}

static void too_large(void **state)
{
	struct place *p = *state;
	char *big = malloc(1 << 20), text[4096] = "";
	int fd = dial(p);
	ssize_t n;

	memset(big, ' ', 1 << 20);
	(void)!send(fd, big, 1 << 20, MSG_NOSIGNAL); /* may be cut off: EPIPE */
	n = recv(fd, text, sizeof(text) - 1, MSG_WAITALL);
	assert_true(n <= 0 || strstr(text, "at most 65536 bytes"));
	close(fd);
	free(big);
}

/* Clients that connect and say nothing hold the threads, but a stop does not wait for them. */
static void silent_clients(void **state)
{
	struct place *p = *state;
	int fds[8];

	for (int i = 0; i < 8; i++)
		fds[i] = dial(p);
	cmd_control_stop(p->control);
	p->control = NULL;
	for (int i = 0; i < 8; i++)
		close(fds[i]);
	assert_int_equal(access(p->path, F_OK), -1);
}

/* A new worker takes the name over; the old one's end does not remove it. */
static void replaced(void **state)
{
	struct place *p = *state;
	struct cmd_control *second = NULL;
	struct fz_err err = {0};
	cJSON *got;

	assert_int_equal(cmd_control_start(&second, p->path, &p->echo.handler, &err), 0);
	cmd_control_stop(p->control);
	p->control = second;
	assert_int_equal(ask(p->path, "hello", &got, NULL, &err), 0);
	cJSON_Delete(got);
}

static void nobody(void **state)
{
	struct place *p = *state;
	struct fz_err err = {0};
	cJSON *got;
	struct cmd_where w = {.dir = "/nowhere"};

	cmd_control_stop(p->control);
	p->control = NULL;
	assert_int_equal(ask(p->path, "hello", &got, NULL, &err), -ENOENT);
	assert_int_equal(cmd_control_call(&w, got, 100, &got, NULL, &err), -FZ_ENOTMOUNTED);
}

/* Another user cannot even connect (0600), and a directory that others can write is not used. */
static void strangers(void **state)
{
	struct place *p = *state;
	struct cmd_control *c = NULL;
	struct fz_err err = {0};
	char path[128];
	int status;
	pid_t pid;

	if (geteuid() == 0) {
		assert_int_equal(chmod(p->dir, 0755), 0);
		snprintf(path, sizeof(path), "%s/run", p->dir);
		assert_int_equal(chmod(path, 0755), 0);
		assert_int_equal(chmod(p->path, 0666), 0); /* even then: SO_PEERCRED */
		pid = fork();
		if (pid == 0) {
			cJSON *got;

			if (setgid(65534) < 0 || setuid(65534) < 0)
				_exit(2);
			_exit(ask(p->path, "hello", &got, NULL, &err) == -EPIPE ? 0 : 1);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
	}
	snprintf(path, sizeof(path), "%s/open", p->dir);
	assert_int_equal(mkdir(path, 0777), 0);
	assert_int_equal(chmod(path, 0777), 0);
	snprintf(path, sizeof(path), "%s/open/s.sock", p->dir);
	assert_int_equal(cmd_control_start(&c, path, &p->echo.handler, &err), -EPERM);
}

static void paths(void **state)
{
	char a[108], b[108], c[108];

	assert_true(cmd_control_path(a, sizeof(a), "/var/lib/app", 0, 0));
	assert_true(cmd_control_path(b, sizeof(b), "/var/lib/app2", 0, 0));
	assert_string_not_equal(a, b);
	assert_int_equal(strncmp(a, "/run/fazt/", 10), 0);
	assert_false(cmd_control_path(c, sizeof(c), "/var/lib/app", 0, 1));
	assert_true(cmd_control_path(a, sizeof(a), "/var/lib/app", 12345, 0));
	assert_string_not_equal(a, b);
	assert_true(cmd_control_path(a, sizeof(a), "/var/lib/app", 12345, 1));
	assert_int_equal(strncmp(a, "/tmp/fazt-12345/", 16), 0);
	assert_false(cmd_control_path(a, sizeof(a), "/var/lib/app", 12345, 2));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
	        TEST(answers),        TEST(descriptor),      TEST(broken_clients),    TEST(too_large),
	        TEST(silent_clients), TEST(waiting_clients), TEST(progress),          TEST(replaced),
	        TEST(nobody),         TEST(strangers),       cmocka_unit_test(paths),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
