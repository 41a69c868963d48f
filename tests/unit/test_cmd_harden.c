/* test_cmd_harden.c - what a hardened worker still can do, and what it cannot. Each row runs in a child of its own. */
#include "cmd/harden.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FILTERED 0 /* the sanitizers' runtime needs what the filter denies, so there is none */
#else
#define FILTERED 1
#endif

static void *nothing(void *arg)
{
	return arg;
}

/* 0 or -errno. */
static int call(const char *what)
{
	char *none[] = {NULL};
	pthread_t t;
	long rc = -1;

	errno = EINVAL;
	if (!strcmp(what, "thread"))
		return pthread_create(&t, NULL, nothing, NULL) == 0 && pthread_join(t, NULL) == 0 ? 0 : -1;
	if (!strcmp(what, "file")) {
		rc = open("/dev/null", O_RDWR | O_CLOEXEC);
	} else if (!strcmp(what, "mount")) {
		rc = mount("none", "/proc/1/no/such", "tmpfs", 0, NULL);
	} else if (!strcmp(what, "umount")) {
		rc = umount2("/proc/1/no/such", 0);
	} else if (!strcmp(what, "fsopen")) {
		rc = syscall(SYS_fsopen, "no-such-fs", 0);
	} else if (!strcmp(what, "open_tree")) {
		rc = syscall(SYS_open_tree, -1, "/no/such", 0);
	} else if (!strcmp(what, "unshare")) {
		rc = unshare(CLONE_NEWUTS);
	} else if (!strcmp(what, "setns")) {
		rc = setns(-1, 0);
	} else if (!strcmp(what, "clone into a namespace")) {
		rc = syscall(SYS_clone, CLONE_NEWUTS, 0, 0, 0, 0);
		if (rc == 0)
			_exit(0);
	} else if (!strcmp(what, "bpf")) {
		rc = syscall(SYS_bpf, 9999, NULL, 0);
	} else if (!strcmp(what, "sethostname")) {
		rc = syscall(SYS_sethostname, "", -1);
	} else if (!strcmp(what, "io_uring")) {
		rc = syscall(SYS_io_uring_setup, 0, NULL);
	} else if (!strcmp(what, "setresuid")) {
		rc = syscall(SYS_setresuid, -1, -1, -1);
	} else if (!strcmp(what, "setfsuid")) {
		int own = setfsuid(
		        (uid_t)-1); /* where there is a user `fazt`, the worker is that one, and root for files */

		rc = setfsuid((uid_t)own) == own && setfsuid((uid_t)-1) == own ? 0 : -1;
	} else if (!strcmp(what, "capset")) {
		rc = syscall(SYS_capset, NULL, NULL);
	} else if (!strcmp(what, "exec")) {
		rc = execve("/no/such", none, none);
	}
	return rc < 0 ? -errno : 0;
}

static const struct row {
	const char *what;
	bool denied;
} rows[] = {
        {"thread",                 false},
        {"file",                   false},
        {"mount",                  true },
        {"umount",                 true },
        {"fsopen",                 true },
        {"open_tree",              true },
        {"unshare",                true },
        {"setns",                  true },
        {"clone into a namespace", true },
        {"bpf",                    true },
        {"sethostname",            true },
        {"io_uring",               true },
        {"exec",                   true },
        {"setresuid",              true },
        {"setfsuid",               false},
        {"capset",                 true },
};

static void in_child(int (*fn)(const void *arg), const void *arg, const char *what)
{
	int status;
	pid_t pid = fork();

	if (pid == 0)
		_exit(fn(arg));
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		fail_msg("%s: status %x", what, (unsigned)status);
}

static int row_child(const void *arg)
{
	const struct row *r = arg;
	struct fz_err err = {0};
	int rc;

	if (cmd_harden_early(CMD_HARDEN_WORKER, &err) < 0 || cmd_harden_late(&err) < 0) {
		fprintf(stderr, "%s\n", err.text);
		return 2;
	}
	rc = call(r->what);
	if (r->denied && FILTERED)
		return rc == -EPERM ? 0 : 3;
	return r->denied || rc == 0 ? 0 : 4;
}

static void test_calls(void **state)
{
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		in_child(row_child, &rows[i], rows[i].what);
}

static bool has(int cap)
{
	struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct d[2] = {{0}};

	return syscall(SYS_capget, &h, d) == 0 && (d[CAP_TO_INDEX(cap)].effective & CAP_TO_MASK(cap));
}

static int caps_child(const void *arg)
{
	bool before = has(CAP_SYS_ADMIN), agent = *(const enum cmd_harden *)arg == CMD_HARDEN_AGENT;
	struct fz_err err = {0};

	if (cmd_harden_early(*(const enum cmd_harden *)arg, &err) < 0)
		return 2;
	/* kept where it was, by the worker: each backing id needs it (cmd/harden.c) */
	if (has(CAP_SYS_ADMIN) != (before && !agent))
		return 3;
	if (has(CAP_NET_ADMIN) || has(CAP_SYS_MODULE) || (has(CAP_SYS_PTRACE) && !agent) || has(CAP_SYS_RAWIO) ||
	    has(CAP_SYS_CHROOT))
		return 4;
	for (int cap = 0; cap < 64; cap++) /* nor by exec */
		if (prctl(PR_CAPBSET_READ, cap, 0, 0, 0) == 1 && !has(cap))
			return 6;
	return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 ? 0 : 5;
}

static void test_capabilities(void **state)
{
	static const enum cmd_harden worker = CMD_HARDEN_WORKER, agent = CMD_HARDEN_AGENT;

	in_child(caps_child, &worker, "capabilities of the worker");
	in_child(caps_child, &agent, "capabilities of the agent");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_calls),
	        cmocka_unit_test(test_capabilities),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
