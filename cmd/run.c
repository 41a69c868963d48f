/* run.c - `fazt run DIR -- COMMAND...`: the mount first, then the application as a child, then the unmount.
 *
 * STATES   mounting -> running -> clearing (the application ended: what it left behind is ended too) -> unmounting -> end
 *          mounting -> end       it cannot be mounted, or a signal came: the command never runs
 *          running  -> clearing  also when the mount ends: on the bare files nothing would be captured
 * The supervisor is in a session of its own, so what the terminal sends reaches the application and this process only.
 * Held by tests/e2e/run.py. */
#include "cmd/run.h"

#include "base/clock.h"
#include "base/file.h"
#include "cmd/args.h"
#include "cmd/cmd.h"
#include "cmd/where.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define STOP_GRACE_MS 5000  /* as the worker's */
#define STRAY_MS      2000  /* what the application left behind: from SIGTERM to SIGKILL */
#define APP_MS        10000 /* the application itself, when the mount has ended */
#define LEAVE_MS      20000 /* beside the grace for shipping: capture, sync, umount(2) */
#define TICK_MS       100

static void tell(const char *text, const char *more)
{
	fprintf(stderr, "fazt run: %s%s\n", text, more);
}

/* All but those that stop a process or tell of its own faults, and SIGPIPE. */
static void signals(sigset_t *set)
{
	static const int own[] = {SIGSEGV, SIGBUS,  SIGILL,  SIGFPE,  SIGTRAP, SIGABRT,
	                          SIGSYS,  SIGTTIN, SIGTTOU, SIGTSTP, SIGCONT, SIGPIPE};

	sigfillset(set);
	for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
		sigdelset(set, own[i]);
}

int cmd_run_init(struct cmd_run *r, struct fz_err *err)
{
	sigset_t set;

	if (!getcwd(r->cwd, sizeof(r->cwd)) || chdir("/") < 0)
		return fz_fail_errno(err, errno, "current directory");
	if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
		return fz_fail_errno(err, errno, "cannot become the parent of orphans");
	signals(&set);
	r->sigfd = sigprocmask(SIG_BLOCK, &set, NULL) < 0 ? -1 : signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return r->sigfd < 0 ? fz_fail_errno(err, errno, "signals") : 0;
}

void cmd_run_undo(const struct cmd_run *r)
{
	sigset_t set;

	(void)r;
	sigemptyset(&set);
	sigprocmask(SIG_SETMASK, &set, NULL);
}

void cmd_run_fini(struct cmd_run *r)
{
	fz_close(&r->sigfd);
}

void cmd_run_wait(struct cmd_run *r, int fd)
{
	struct signalfd_siginfo si;
	struct pollfd p[] = {
	        {.fd = fd,       .events = POLLIN},
                {.fd = r->sigfd, .events = POLLIN}
        };

	do {
		while (read(r->sigfd, &si, sizeof(si)) == sizeof(si))
			if (!r->interrupted && (si.ssi_signo == SIGTERM || si.ssi_signo == SIGINT ||
			                        si.ssi_signo == SIGHUP || si.ssi_signo == SIGQUIT)) {
				r->interrupted = (int)si.ssi_signo;
				kill(r->supervisor, SIGTERM);
			}
		p[0].revents = 0;
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return;
	} while (!p[0].revents);
}

/* ---- the application ---- */

static void start_application(struct cmd_run *r)
{
	int why[2] = {-1, -1};
	ssize_t n;

	if (pipe2(why, O_CLOEXEC) < 0 || (r->app = fork()) < 0) {
		r->why = errno;
	} else if (r->app == 0) {
		cmd_run_undo(r);
		if (chdir(r->cwd) == 0)
			execvp(r->command[0], r->command);
		n = write(why[1], &errno, sizeof(errno));
		_exit(n < 0 ? 126 : 127);
	}
	fz_close(&why[1]);
	do
		n = why[0] < 0 ? 0 : read(why[0], &r->why, sizeof(r->why));
	while (n < 0 && errno == EINTR);
	fz_close(&why[0]);
	if (r->why)
		fprintf(stderr, "fazt run: cannot start %s: %s (FZ-%04d)\n", r->command[0], strerror(r->why), r->why);
}

static void on_child(struct cmd_run *r, pid_t pid, int status)
{
	if (pid == r->app) {
		r->app = -1;
		r->status = status;
	} else if (pid == r->supervisor) {
		r->supervisor = -1;
	} else if (pid == r->unmounter) {
		r->unmounter = -1;
	}
}

/* Takes what the signal descriptor holds; waits for it up to ms (-1: as long as it takes). */
static void take_signals(struct cmd_run *r, int ms)
{
	struct pollfd p = {.fd = r->sigfd, .events = POLLIN};
	struct signalfd_siginfo si;
	int status;
	pid_t pid;

	(void)!poll(&p, 1, ms);
	while (read(r->sigfd, &si, sizeof(si)) == sizeof(si))
		if (si.ssi_signo != SIGCHLD && si.ssi_code != SI_KERNEL && r->app > 0)
			kill(r->app, (int)si.ssi_signo); /* SI_KERNEL: a terminal's, which the application got too */
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		on_child(r, pid, status);
}

static bool mounted(const struct cmd_run *r)
{
	struct cmd_where w = {0};
	struct fz_err err = {0};

	snprintf(w.dir, sizeof(w.dir), "%s", r->dir);
	return cmd_where_refresh(&w, &err) == 0 && w.fazt;
}

/* The mount ended under the application: false; it goes on without its supervisor: true. */
static bool still_served(const struct cmd_run *r)
{
	if (!mounted(r)) {
		tell("the mount has ended, and the application with it: ", r->dir);
		return false;
	}
	tell("the supervisor has ended; the mount serves on: ", r->dir);
	return true;
}

static void run(struct cmd_run *r)
{
	bool served = true, supervised = true;
	uint64_t end = 0;

	while (r->app > 0) {
		take_signals(r, end ? TICK_MS : -1);
		if (r->app > 0 && supervised && r->supervisor < 0) {
			supervised = false;
			served = still_served(r);
		}
		if (r->app > 0 && !served && !end) {
			kill(r->app, SIGTERM);
			end = fz_mono_ns() + APP_MS * UINT64_C(1000000);
		} else if (r->app > 0 && end && fz_mono_ns() >= end) {
			kill(r->app, SIGKILL);
		}
	}
	if (!served)
		r->status = CMD_EXIT_FAILED << 8;
}

/* ---- afterwards ---- */

/* Children that are none of fazt's: orphans of the application. Sends them sig and returns their number. */
static unsigned strays(const struct cmd_run *r, int sig)
{
	struct stat own, st;
	char path[64], line[512];
	struct dirent *d;
	unsigned n = 0;
	DIR *proc = opendir("/proc");

	if (!proc || stat(r->exe, &own) < 0)
		memset(&own, 0, sizeof(own));
	while (proc && (d = readdir(proc))) {
		long pid = strtol(d->d_name, NULL, 10), parent = 0;
		const char *after;
		char state = 0;
		size_t got;
		FILE *f;

		if (pid <= 1 || pid == r->supervisor || pid == r->unmounter)
			continue;
		snprintf(path, sizeof(path), "/proc/%ld/stat", pid);
		f = fopen(path, "re");
		got = f ? fread(line, 1, sizeof(line) - 1, f) : 0;
		if (f)
			fclose(f);
		line[got] = 0;
		after = strrchr(line, ')');
		if (!after || sscanf(after + 1, " %c %ld", &state, &parent) != 2 || parent != getpid() || state == 'Z')
			continue;
		snprintf(path, sizeof(path), "/proc/%ld/exe", pid);
		if (stat(path, &st) == 0 && st.st_dev == own.st_dev && st.st_ino == own.st_ino)
			continue; /* worker and agent, when their supervisor died */
		n++;
		if (sig)
			kill((pid_t)pid, sig);
	}
	if (proc)
		closedir(proc);
	return n;
}

static void clear(struct cmd_run *r)
{
	uint64_t end = fz_mono_ns() + STRAY_MS * UINT64_C(1000000);
	unsigned n, last = 0;

	while ((n = strays(r, 0)) > 0) {
		if (n != last)
			(void)strays(r, SIGTERM);
		else if (fz_mono_ns() >= end)
			(void)strays(r, SIGKILL);
		last = n;
		take_signals(r, TICK_MS);
	}
}

/* What the supervisor would do, when it is gone. */
static void start_unmounter(struct cmd_run *r)
{
	r->unmounter = fork();
	if (r->unmounter != 0)
		return;
	cmd_run_undo(r);
	execl(r->exe, r->exe, "umount", r->dir, (char *)NULL);
	_exit(127);
}

static bool leave(struct cmd_run *r)
{
	int64_t grace = r->stop_grace_ms ? r->stop_grace_ms : STOP_GRACE_MS;
	uint64_t end = fz_mono_ns() + (uint64_t)(grace + LEAVE_MS) * 1000000;

	if (r->supervisor > 0)
		kill(r->supervisor, SIGTERM);
	while (r->supervisor > 0 || mounted(r)) {
		if (fz_mono_ns() >= end)
			return false;
		if (r->supervisor < 0 && r->unmounter <= 0)
			start_unmounter(r);
		take_signals(r, TICK_MS);
	}
	return true;
}

int cmd_run_application(struct cmd_run *r)
{
	r->app = r->unmounter = -1;
	if (!r->interrupted)
		start_application(r);
	run(r);
	clear(r);
	if (!leave(r)) {
		fprintf(stderr,
		        "fazt run: %s is still mounted, since a program has a file there open (FZ-%04d)\n"
		        "  what to do: close it; the mount goes with it\n",
		        r->dir, FZ_EBUSY);
		if (!r->status)
			r->status = CMD_EXIT_FAILED << 8;
	}
	if (r->interrupted)
		return 128 + r->interrupted;
	if (r->why)
		return r->why == ENOENT || r->why == ENOTDIR ? 127 : 126;
	return WIFSIGNALED(r->status) ? 128 + WTERMSIG(r->status) : WEXITSTATUS(r->status);
}

int cmd_run(int argc, char **argv)
{
	const struct cmd_spec spec = {.name = "run",
	                              .synopsis = "[options] [DIR] -- COMMAND...",
	                              .about = "Mounts over DIR as `fazt mount` does, starts COMMAND when the mount "
	                                       "serves, and ends with its exit "
	                                       "code (128 + n\n"
	                                       "when signal n ended it; 126 or 127 when it cannot be started) after "
	                                       "what it committed is shipped, for "
	                                       "up to\n"
	                                       "stop_grace, and DIR is unmounted. Signals go to COMMAND. Where it "
	                                       "cannot be mounted, COMMAND never "
	                                       "runs. Without\n"
	                                       "DIR: FAZT_DIR in the environment. Made to be a container's first "
	                                       "process: it takes care of orphans, "
	                                       "too.",
	                              .examples =
	                                      "fazt run /var/lib/app -- gunicorn app:wsgi\n"
	                                      "fazt run --target 's3://bucket/app?region=eu-central-1' --recipient "
	                                      "age1... /data -- node server.js\n"
	                                      "docker run --device /dev/fuse --cap-add SYS_ADMIN -v data:/data IMAGE\n",
	                              .min_args = 0,
	                              .max_args = 1};
	struct cmd_run run = {.sigfd = -1};
	int n = 0, code;

	while (n < argc && strcmp(argv[n], "--") != 0)
		n++;
	run.command = n + 1 < argc ? argv + n + 1 : NULL;
	if (n < argc)
		argv[n] = NULL;
	code = cmd_mount_as(&spec, &run, n, argv);
	cmd_run_fini(&run);
	return code;
}
