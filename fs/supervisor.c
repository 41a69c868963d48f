/* supervisor.c - the process that outlives the worker.
 *
 * STATES   starting -> serving <-> replacing (worker gone, the next one starts; requests wait in the kernel)
 *          serving -> leaving: agent killed -> worker told to finish (it captures and syncs all) -> umount(2), never lazy
 *          leaving -> replacing when somebody opened a file meanwhile (EBUSY): serve on
 * Children are what is installed (argv[0]), so that a newer program comes in with each; once that was refused (an upgrade), or a
 * child of it ended before it did its work, they are the program that this process runs.     held by: tests/e2e/upgrade.py
 * The kernel's requests are only ever read by a worker; this process never touches a path below the mount: it knows the
 * backing directory by a descriptor and its own mount by /proc/self/mountinfo. */
#include "fs/supervisor.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/notify.h"
#include "fs/alive.h"
#include "fs/backing.h"
#include "fs/inuse.h"
#include "fs/supervisor_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define AGENT_GOOD_NS 1000000000ull    /* an agent that lived so long is followed by the next one at once */
#define SETTLE_NS     10000000000ull   /* a former supervisor's worker gets so long to hand over */
#define NO_WORKER_NS  10000000000ull   /* when none came to work for so long, a mount that shall end does so without */
#define CHECK_S       20               /* the installed program, to say whether it can take over */
#define OWN_PROGRAM   "/proc/self/exe" /* in a child: what its supervisor runs, also when that was deleted */

/* ---- children ---- */

struct give {
	int from, to;
};

/* In a child: the rest of what makes it another process. */
static void become(const char *program, const char *const *argv) __attribute__((noreturn));
static void become(const char *program, const char *const *argv)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	syscall(SYS_close_range, FS_FD_MOUNT + 1, ~0u, CLOSE_RANGE_CLOEXEC);
	unsetenv("NOTIFY_SOCKET"); /* the service manager hears the supervisor alone */
	unsetenv("WATCHDOG_PID");
	unsetenv("WATCHDOG_USEC");
	execv(program, (char *const *)(uintptr_t)argv);
	_exit(127);
}

/* What is installed is another program than this process runs, or none. Only then does it matter which of them is started. */
static bool replaced(const struct fs_super *s)
{
	struct stat own, installed;

	return stat(OWN_PROGRAM, &own) == 0 && (stat(s->conf->worker_argv[0], &installed) < 0 ||
	                                        own.st_dev != installed.st_dev || own.st_ino != installed.st_ino);
}

static const char *program(const struct fs_super *s, bool own)
{
	return own && replaced(s) ? OWN_PROGRAM : s->conf->worker_argv[0];
}

static const char *named(const struct fs_super *s, const char *program)
{
	return program == s->conf->worker_argv[0] ? program : "the program that this supervisor runs";
}

/* A child ended before it did its work. Perhaps its program is why: half copied, without its libraries, of another version. The
 * next one is the other of the two, unless that is installed and was refused. */
static void other_program(struct fs_super *s, bool *own, const char *child)
{
	if (!replaced(s) || (s->refused && *own))
		return;
	*own = !*own;
	fz_warn("%s as %s did not come to work: the next one is %s", child, named(s, program(s, !*own)),
	        named(s, program(s, *own)));
}

static pid_t start(struct fs_super *s, bool own, const char *const *argv, const struct give *g, size_t n,
                   bool open_mount)
{
	const char *what = program(s, own);
	char ms[24];
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	for (size_t i = 0; i < n; i++)
		if (g[i].from < 0)
			close(g[i].to); /* whatever was inherited under that number */
		else if (dup2(g[i].from, g[i].to) < 0)
			_exit(127);
	if (open_mount) { /* O_PATH: needs no answer from the worker */
		int fd = open(s->dir, O_PATH | O_DIRECTORY);

		if (fd < 0 || dup2(fd, FS_FD_MOUNT) < 0)
			_exit(127);
		if (fd != FS_FD_MOUNT)
			close(fd);
	}
	snprintf(ms, sizeof(ms), "%llu", (unsigned long long)s->watch.report_ms);
	setenv(FS_REPORT_ENV, ms, 1);
	become(what, argv);
}

static void drop_worker_ends(struct fs_super *s)
{
	fz_close(&s->sock);
	fz_close(&s->worker_agent);
	fz_close(&s->agent_end);
}

static int start_worker(struct fs_super *s, struct fz_err *err)
{
	int up[2] = {-1, -1}, ag[2] = {-1, -1};

	bool keep = s->keep_agent && s->worker_agent >= 0; /* the agent goes on talking through the same pair */

	if (keep)
		fz_close(&s->sock);
	else
		drop_worker_ends(s);
	s->restart_ns = 0;
	s->ready = false;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, up) < 0 ||
	    (!keep && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ag) < 0)) {
		fz_close(&up[0]);
		fz_close(&up[1]);
		return fz_fail_errno(err, errno, "cannot make sockets");
	}
	s->sock = fs_super_high(up[0]);
	up[1] = fs_super_high(up[1]);
	if (!keep) {
		s->worker_agent = fs_super_high(ag[0]);
		s->agent_end = fs_super_high(ag[1]);
	}
	struct give g[] = {
	        {s->fusefd,       FS_FD_FUSE  },
                {s->rootfd,       FS_FD_ROOT  },
                {s->statefd,      FS_FD_STATE },
	        {s->memfd,        FS_FD_SHARED},
                {up[1],           FS_FD_SUPER },
                {s->worker_agent, FS_FD_AGENT },
	        {s->logdirfd,     FS_FD_LOGDIR}
        };

	fs_estate_keep_agent(s);
	atomic_fetch_add(&s->sh->starts, 1);
	fs_watch_begin(s);
	s->worker = start(s, s->own_worker, s->conf->worker_argv, g, sizeof(g) / sizeof(g[0]), false);
	fz_close(&up[1]);
	if (s->worker < 0)
		return fz_fail_errno(err, errno, "cannot start a worker");
	s->sh->worker_pid = s->worker;
	return 0;
}

static void start_agent(struct fs_super *s)
{
	struct give g[] = {
	        {s->agent_end, FS_FD_AGENT },
                {s->statefd,   FS_FD_STATE },
                {s->logdirfd,  FS_FD_LOGDIR}
        };

	s->agent_ns = 0;
	if (!s->conf->agent_argv || s->conf->no_agent || s->agent > 0 || s->leaving || !s->ready)
		return;
	s->agent_since_ns = fz_mono_ns();
	s->agent = start(s, s->own_agent, s->conf->agent_argv, g, sizeof(g) / sizeof(g[0]), true);
	if (s->agent < 0)
		fz_warn("cannot start the agent: %s", strerror(errno));
}

/* The agent holds the mount's root: it goes before an unmount, and with each worker whose locks it keeps. */
static void kill_agent(struct fs_super *s)
{
	if (s->agent > 0 && !s->agent_dying) {
		kill(s->agent, SIGKILL);
		s->agent_dying = true;
	}
}

static uint64_t backoff(unsigned fails)
{
	uint64_t ms = fails < 10 ? 10ull << fails : 5000;

	return fz_mono_ns() + (ms < 5000 ? ms : 5000) * 1000000;
}

/* What keeps a process from being started passes: the mount need not end with it. */
static void try_worker(struct fs_super *s)
{
	struct fz_err err = {0};

	if (start_worker(s, &err) == 0)
		return;
	fz_log_err("supervisor", &err);
	s->restart_ns = backoff(s->fails++);
}

/* Tells who started this process. */
static void report(struct fs_super *s, char c, const char *text)
{
	char line[sizeof(((struct fz_err *)0)->text) + 2];

	if (s->conf->ready_fd < 0)
		return;
	snprintf(line, sizeof(line), "%c%s", c, text);
	if (fz_write(s->conf->ready_fd, line, strlen(line)) < 0)
		fz_warn("nobody listens whether the mount serves");
}

/* ---- leaving ---- */

static bool busy(struct fs_super *s, char *who, size_t cap)
{
	pid_t skip[] = {s->worker, s->agent, s->watch.probe};

	return fs_inuse_find(s->dir, skip, 3, who, cap);
}

static void next_step_out(struct fs_super *s)
{
	if (s->agent > 0)
		kill_agent(s); /* goes on when it is reaped */
	else if (fs_watch_leave(s))
		; /* as well */
	else if (s->worker > 0)
		kill(s->worker, SIGTERM);
}

/* Workers end before they come to work, and have done so for long. What they did not capture lies in the databases and their
 * WALs, without a clean marker: the next mount captures it. */
static bool hopeless(const struct fs_super *s)
{
	return s->worker <= 0 && s->fails > 1 && fz_mono_ns() - s->ended_ns >= NO_WORKER_NS;
}

/* SIGTERM: leave as soon as nobody has a file open; look again every second. */
static void try_leave(struct fs_super *s)
{
	char who[512];

	s->retry_ns = 0;
	if (!s->leave || s->leaving)
		return;
	if (!s->ready && !hopeless(s)) {
		s->retry_ns = fz_mono_ns() + 1000000000ull;
		return;
	}
	if (busy(s, who, sizeof(who))) {
		fz_warn("cannot unmount %s yet: %s", s->dir, who);
		s->retry_ns = fz_mono_ns() + 1000000000ull;
		return;
	}
	if (s->worker <= 0)
		fz_warn("no worker has come to work for %llu s: %s is unmounted without, and the next mount captures "
		        "what was committed",
		        (unsigned long long)((fz_mono_ns() - s->ended_ns) / 1000000000), s->dir);
	s->leaving = true;
	s->restart_ns = 0;
	(void)fz_notify("STOPPING=1\nSTATUS=unmounting");
	next_step_out(s);
}

/* The worker has finished and is gone: true when the mount is too. */
static bool leave_now(struct fs_super *s, int status)
{
	if (status != 0 && ++s->leave_fails < 3) {
		fz_warn("the worker could not finish its work: starting it again");
	} else if (umount2(s->dir, UMOUNT_NOFOLLOW) == 0 || errno == EINVAL) {
		s->mounted = false;
		return true;
	} else {
		fz_warn("cannot unmount %s (%s): serving on", s->dir, strerror(errno));
	}
	s->leaving = false;
	s->retry_ns = s->leave ? fz_mono_ns() + 1000000000ull : 0;
	return false;
}

/* The same where there is no worker that could finish. */
static bool leave_alone(struct fs_super *s)
{
	if (!s->leaving || s->worker > 0 || s->agent > 0 || s->watch.probe > 0)
		return false;
	if (leave_now(s, 0))
		return true;
	s->restart_ns = backoff(s->fails);
	return false;
}

/* ---- events ---- */

static void reply(struct fs_super *s, uint32_t id, int code, const char *text)
{
	struct fs_msg *m = &s->msg;

	m->type = FS_MSG_REPLY;
	m->id = id;
	m->code = code;
	m->len = (uint32_t)strlen(text);
	memcpy(m->text, text, m->len);
	if (send(s->sock, m, FS_MSG_HEAD + m->len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		fz_debug("cannot answer the worker: %s", strerror(errno));
}

static void on_umount(struct fs_super *s, uint32_t id)
{
	char who[512] = "";

	if (busy(s, who, sizeof(who))) {
		reply(s, id, -FZ_EBUSY, who);
		return;
	}
	reply(s, id, 0, "");
	s->leaving = true;
	next_step_out(s);
}

/* The worker hands over; with its end the agent goes too, unless it is to be kept. */
static void replace_worker(struct fs_super *s, const char *why)
{
	fz_info("%s: the worker finishes, the next one is %s", why, named(s, program(s, s->own_worker)));
	kill(s->worker, SIGUSR2);
}

static void on_restart(struct fs_super *s, uint32_t id, bool keep_agent)
{
	if (s->leaving || s->worker <= 0) {
		reply(s, id, -FZ_EBUSY, "the mount is being ended");
		return;
	}
	s->keep_agent = keep_agent;
	s->late_agent = s->renew_agent = false;
	reply(s, id, 0, "");
	replace_worker(s, "restart");
}

static void on_ready(struct fs_super *s)
{
	s->ready = true;
	s->fails = 0;
	fs_watch_begin(s);
	if (!s->told)
		(void)fz_notify("READY=1");
	s->told = true;
	if (!s->ever_ready) {
		s->ever_ready = true;
		report(s, 'k', "");
	}
	if (s->renew_agent) /* its end starts the next one */
		kill_agent(s);
	s->renew_agent = false;
	start_agent(s);
	if (s->leave)
		try_leave(s);
}

/* One message into s->msg, and the descriptor that came with it. */
static ssize_t receive(struct fs_super *s, int *fd)
{
	struct iovec iov = {&s->msg, sizeof(s->msg)};
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	struct msghdr h = {
	        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof(control.room)};
	ssize_t n = recvmsg(s->sock, &h, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *c = n >= 0 ? CMSG_FIRSTHDR(&h) : NULL;
	size_t fds = c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS
	                     ? (c->cmsg_len - CMSG_LEN(0)) / sizeof(int)
	                     : 0;

	for (size_t i = 0; i < fds; i++) { /* aligned, the room for one takes two */
		int got;

		memcpy(&got, CMSG_DATA(c) + i * sizeof(int), sizeof(got));
		if (n > 0 && i == 0)
			*fd = got;
		else
			fz_close(&got);
	}
	return n;
}

static void on_message(struct fs_super *s)
{
	struct fs_msg *m = &s->msg;
	struct fz_err err = {0};
	int fd = -1, rc;
	ssize_t n = receive(s, &fd);
	uint32_t id = m->id;

	if (n <= 0) {
		if (n == 0) /* the worker's end is closed: SIGCHLD tells the rest */
			fz_close(&s->sock);
		return;
	}
	if (n < (ssize_t)FS_MSG_HEAD || n != (ssize_t)(FS_MSG_HEAD + m->len) || m->len >= sizeof(m->text)) {
		fz_close(&fd);
		return;
	}
	m->text[m->len] = 0;
	switch (m->type) {
	case FS_MSG_READY:
		on_ready(s);
		break;
	case FS_MSG_FAILED:
		fz_fail(&s->why, m->code >= 0 ? FZ_EINTERNAL : m->code <= -1000 ? -m->code : m->code, "%s", m->text);
		break;
	case FS_MSG_LOCK:
		rc = fs_held_lock(s, m->text, &err);
		reply(s, id, rc, rc < 0 ? err.text : "");
		break;
	case FS_MSG_SWEEP:
		fs_held_sweep(s);
		break;
	case FS_MSG_UMOUNT:
		on_umount(s, id);
		break;
	case FS_MSG_RESTART:
		on_restart(s, id, strcmp(m->text, "keep") == 0);
		break;
	case FS_MSG_KEEP_AGENT:
		s->keep_agent = strcmp(m->text, "no") != 0;
		s->late_agent = strcmp(m->text, "late") == 0;
		fs_estate_keep_agent(s);
		break;
	case FS_MSG_REPORT:
		fs_watch_reported(s, m->text);
		break;
	case FS_MSG_BACKING_OPEN:
		reply(s, id, fd < 0 ? -EBADF : fs_backing_own_open(s->fusefd, fd), "");
		break;
	case FS_MSG_BACKING_CLOSE:
		(void)fs_backing_own_close(s->fusefd, atoi(m->text)); /* closed already: fine */
		break;
	default:
		break;
	}
	fz_close(&fd);
}

static bool by_own_fault(int status)
{
	int sig = WIFSIGNALED(status) ? WTERMSIG(status) : 0;

	return sig == SIGSEGV || sig == SIGBUS || sig == SIGABRT || sig == SIGILL || sig == SIGFPE || sig == SIGSYS ||
	       sig == SIGTRAP;
}

/* True when this was the end of the mount. rc: how it ends. */
static bool on_worker_end(struct fs_super *s, int status, int *rc, struct fz_err *err)
{
	bool was_ready = s->ready, former = s->worker_pidfd >= 0;
	const char *next;

	s->worker = -1;
	s->settle_ns = 0;
	fz_close(&s->worker_pidfd);
	s->sh->worker_pid = 0;
	s->ready = false;
	if (fs_mountpoint_is_gone(s)) {
		s->mounted = false;
		fz_info("%s was unmounted", s->dir);
		return true;
	}
	if (s->leaving && leave_now(s, status))
		return true;
	if (!s->ever_ready && !WIFSIGNALED(status)) {
		if (s->why.code)
			*err = s->why;
		*rc = s->why.code ? s->why.code
		                  : fz_fail(err, FZ_EINTERNAL, "the worker ended with status %d before it served",
		                            WEXITSTATUS(status));
		return true;
	}
	if (!s->keep_agent)
		kill_agent(s);
	if (!was_ready && !former)
		other_program(s, &s->own_worker, "worker");
	next = named(s, program(s, s->own_worker));
	if (WIFSIGNALED(status)) {
		s->sh->crashed = by_own_fault(status);
		fz_warn("worker ended by signal %d (%s): starting the next one, %s", WTERMSIG(status),
		        strsignal(WTERMSIG(status)), next);
	} else {
		fz_info("worker ended with status %d: starting the next one, %s", WEXITSTATUS(status), next);
	}
	if (!was_ready && ++s->fails >= 5 && !s->ever_ready) {
		*rc = fz_fail(err, FZ_EINTERNAL, "the worker dies before it serves");
		return true;
	}
	if (was_ready)
		s->fails = 0;
	if (!s->fails || !s->ended_ns)
		s->ended_ns = fz_mono_ns();
	if (s->upgrade && !s->leave) {
		fs_estate_exec(s); /* comes back only when that is not possible */
		s->own_worker = s->own_agent = true;
	}
	s->upgrade = false;
	/* At once when it had served; otherwise it cannot start, and trying faster does not help. */
	if (!s->fails)
		try_worker(s);
	else
		s->restart_ns = backoff(s->fails++);
	return false;
}

static void on_agent_end(struct fs_super *s, int status)
{
	bool expected = s->agent_dying || s->agent_pidfd >= 0; /* a former supervisor's ends with its worker */

	s->agent = -1;
	fz_close(&s->agent_pidfd);
	s->agent_dying = false;
	if (s->leaving) {
		next_step_out(s);
		return;
	}
	if (expected) {
		s->agent_fails = 0;
		start_agent(s);
		return;
	}
	fz_warn("agent ended (%s %d)", WIFSIGNALED(status) ? "signal" : "status",
	        WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	if (fz_mono_ns() - s->agent_since_ns > AGENT_GOOD_NS) /* what it was killed by is not how it starts */
		s->agent_fails = 0;
	else
		other_program(s, &s->own_agent, "agent");
	s->agent_ns = backoff(s->agent_fails++);
}

/* An upgrade: first of all, can what is installed go on with what is here? It may be half copied, miss a library, or want the
 * node table in another form. */
static void check_installed(struct fs_super *s)
{
	char layout[32];
	const char *argv[] = {s->conf->worker_argv[0], "worker", layout, NULL};

	if (s->check > 0 || s->worker <= 0 || s->leaving || s->leave)
		return;
	snprintf(layout, sizeof(layout), "layout=%u", FS_SHARED_VERSION);
	s->check = fork();
	if (s->check == 0) {
		alarm(CHECK_S);
		become(argv[0], argv);
	}
	if (s->check < 0)
		fz_warn("cannot look at what is installed: %s", strerror(errno));
}

static void on_checked(struct fs_super *s, int status)
{
	s->check = -1;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		fz_error("%s cannot go on with this mount (%s %d): nothing is changed, and what this supervisor runs "
		         "serves on",
		         s->conf->worker_argv[0], WIFSIGNALED(status) ? "signal" : "status",
		         WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
		s->refused = s->own_worker = s->own_agent = true;
		return;
	}
	s->refused = s->own_worker = s->own_agent = false;
	if (s->worker <= 0 || s->leaving || s->leave)
		return;
	s->upgrade = true;
	s->renew_agent = s->keep_agent && s->late_agent;
	s->keep_agent = s->renew_agent;
	replace_worker(s, "upgrade");
}

/* Worker or agent of a former supervisor: not our child, unless that was this process under another program. */
static int status_of(pid_t pid)
{
	int status = 0;

	return waitpid(pid, &status, WNOHANG) == pid ? status : 0;
}

static bool on_signal(struct fs_super *s, int *rc, struct fz_err *err)
{
	struct signalfd_siginfo si;
	int status;
	pid_t pid;

	while (read(s->sigfd, &si, sizeof(si)) == sizeof(si)) {
		if (si.ssi_signo == SIGTERM || si.ssi_signo == SIGINT) {
			s->leave = true;
			try_leave(s);
		} else if (si.ssi_signo == SIGUSR2) {
			check_installed(s);
		} else if (si.ssi_signo == SIGHUP && s->conf->reload_argv && !s->leaving) {
			if (start(s, s->own_worker, s->conf->reload_argv, NULL, 0, false) < 0)
				fz_warn("cannot start the reload: %s", strerror(errno));
		}
	}
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		while (pid == s->worker && s->sock >= 0) { /* what it said last */
			struct pollfd p = {s->sock, POLLIN, 0};

			if (poll(&p, 1, 0) <= 0)
				break;
			on_message(s);
		}
		if (pid == s->worker) {
			if (on_worker_end(s, status, rc, err))
				return true;
		} else if (pid == s->agent) {
			on_agent_end(s, status);
		} else if (pid == s->check) {
			on_checked(s, status);
		} else if (fs_watch_reaped(s, pid, status) && s->leaving) {
			next_step_out(s);
		}
	}
	return false;
}

static int wait_ms(const struct fs_super *s)
{
	uint64_t next = 0, now = fz_mono_ns();
	const uint64_t plans[] = {s->restart_ns, s->agent_ns, s->retry_ns, s->settle_ns, s->watch.next_ns};

	for (size_t i = 0; i < sizeof(plans) / sizeof(plans[0]); i++)
		if (plans[i] && (!next || plans[i] < next))
			next = plans[i];
	return !next ? -1 : next <= now ? 0 : (int)((next - now) / 1000000 + 1);
}

static void on_time(struct fs_super *s)
{
	uint64_t now = fz_mono_ns();

	if (s->restart_ns && s->restart_ns <= now)
		try_worker(s);
	if (s->agent_ns && s->agent_ns <= now)
		start_agent(s);
	if (s->retry_ns && s->retry_ns <= now)
		try_leave(s);
	if (s->settle_ns && s->settle_ns <= now && s->worker > 0) {
		fz_warn("the former worker (process %d) does not hand over: it is killed", (int)s->worker);
		kill(s->worker, SIGKILL);
		s->settle_ns = 0;
	}
	if (s->watch.next_ns && s->watch.next_ns <= now)
		fs_watch_look(s);
}

static int loop(struct fs_super *s, struct fz_err *err)
{
	int rc = 0;

	for (;;) {
		struct pollfd p[] = {
		        {s->sigfd,        POLLIN, 0},
		        {s->sock,         POLLIN, 0},
		        {s->worker_pidfd, POLLIN, 0},
		        {s->agent_pidfd,  POLLIN, 0}
                };

		if (poll(p, 4, wait_ms(s)) < 0 && errno != EINTR)
			return fz_fail_errno(err, errno, "poll");
		if (p[1].revents)
			on_message(s);
		if (p[0].revents && on_signal(s, &rc, err))
			return rc;
		if (p[2].revents && s->worker_pidfd >= 0 && on_worker_end(s, status_of(s->worker), &rc, err))
			return rc;
		if (p[3].revents && s->agent_pidfd >= 0)
			on_agent_end(s, status_of(s->agent));
		on_time(s);
		if (leave_alone(s))
			return rc;
	}
}

static int catch_signals(struct fs_super *s, struct fz_err *err)
{
	static const struct rlimit none = {0, 0};
	sigset_t set;

	setrlimit(RLIMIT_CORE, &none); /* a dump would hold the exit back, and with it the next worker */
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGUSR2);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	s->sigfd = fs_super_high(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
	return s->sigfd < 0 ? fz_fail_errno(err, errno, "signalfd") : 0;
}

/* Goes on with a mount that is there. Its path is not touched: perhaps nobody answers. */
static int adopt(struct fs_super *s, struct fz_err *err)
{
	int rc;

	snprintf(s->dir, sizeof(s->dir), "%s", s->conf->dir);
	rc = fs_estate_adopt(s, s->conf->estate, err);
	if (rc == 0)
		rc = fs_mountpoint_lock_state(s, err);
	if (rc == 0)
		rc = fs_shared_map(&s->sh, s->memfd, err);
	if (rc == 0)
		rc = catch_signals(s, err);
	if (rc < 0)
		return rc;
	s->sh->supervisor_pid = getpid();
	s->mounted = s->ever_ready = true;
	s->ended_ns = fz_mono_ns();
	s->agent = fs_alive_find(s->statefd, FS_ALIVE_AGENT, &s->agent_pidfd);
	if (s->agent > 0 && s->worker_agent >= 0)
		s->keep_agent = s->late_agent = s->renew_agent = true; /* until it is replaced */
	else
		drop_worker_ends(s);
	if (s->conf->estate->unkept)
		fs_estate_keep(s);
	s->worker = fs_alive_find(s->statefd, FS_ALIVE_WORKER, &s->worker_pidfd);
	fz_info("this supervisor goes on with the mount of %s%s", s->dir,
	        s->worker > 0 ? ", whose worker hands over" : "");
	if (s->worker <= 0) {
		if (!s->keep_agent)
			kill_agent(s);
		try_worker(s);
		return 0;
	}
	s->settle_ns = fz_mono_ns() + SETTLE_NS;
	kill(s->worker, SIGUSR2);
	return 0;
}

static int prepare(struct fs_super *s, struct fz_err *err)
{
	char who[512];
	int rc;

	if (!realpath(s->conf->dir, s->dir))
		return fz_fail_errno(err, errno, "%s", s->conf->dir);
	if (fs_mountpoint_below(s->dir) >= 0)
		return fz_fail(err, FZ_EMOUNTED, "%s is mounted already", s->dir);
	s->fusefd = fs_mountpoint_open_fuse(err);
	if (s->fusefd < 0)
		return err->code;
	if (chdir("/") < 0)
		return fz_fail_errno(err, errno, "cannot leave the working directory");
	s->rootfd = fs_super_high(open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	if (s->rootfd < 0)
		return fz_fail_errno(err, errno, "cannot open %s", s->dir);
	rc = fs_mountpoint_open_state(s, err);
	if (rc < 0)
		return rc;
	if (fs_supervisor_in_use(s->dir, who, sizeof(who)))
		return fz_fail(err, FZ_EBUSY, "%s is in use: %s. Stop it first: it would not see the mount's locks",
		               s->dir, who);
	rc = fs_shared_create(&s->memfd, s->dir, s->rootfd, err);
	if (rc < 0)
		return rc;
	s->memfd = fs_super_high(s->memfd);
	rc = fs_shared_map(&s->sh, s->memfd, err);
	if (rc < 0)
		return rc;
	s->sh->no_passthrough = s->conf->no_passthrough;
	s->sh->no_resend = s->conf->no_resend;
	s->sh->supervisor_pid = getpid();
	return catch_signals(s, err);
}

/* Mounts, and starts the first worker. */
static int begin(struct fs_super *s, struct fz_err *err)
{
	int rc = prepare(s, err);

	if (rc == 0)
		rc = fs_mountpoint_mount(s, err);
	if (rc == 0)
		fs_estate_keep(s);
	return rc < 0 ? rc : start_worker(s, err);
}

/* Ends what is left after a failure: no child and no dead mount stay behind. */
static void clean_up(struct fs_super *s)
{
	int status;

	if (s->worker > 0)
		kill(s->worker, SIGKILL);
	if (s->agent > 0)
		kill(s->agent, SIGKILL);
	drop_worker_ends(s);
	if (s->worker > 0)
		waitpid(s->worker, &status, 0);
	if (s->mounted && umount2(s->dir, UMOUNT_NOFOLLOW) < 0)
		fz_error("cannot unmount %s: %s", s->dir, strerror(errno));
	if (s->told || !s->conf->estate) /* else another try may succeed */
		fs_estate_forget();
	fz_close(&s->fusefd);
	if (s->agent > 0) /* last: it may wait for an answer until the connection ends */
		waitpid(s->agent, &status, 0);
	for (size_t i = 0; i < s->n_held; i++)
		fz_close(&s->held[i].fd);
	free(s->held);
	fs_shared_unmap(s->sh);
	fz_close(&s->memfd);
	fz_close(&s->sigfd);
	fz_close(&s->lockfd);
	fz_close(&s->statefd);
	fz_close(&s->rootfd);
}

int fs_supervisor_run(const struct fs_supervisor_conf *conf, struct fz_err *err)
{
	struct fs_super *s = calloc(1, sizeof(*s));
	struct fz_err local = {0};
	int rc;

	if (!s)
		return fz_fail(err, -ENOMEM, "no memory");
	s->conf = conf;
	s->fusefd = s->rootfd = s->statefd = s->lockfd = s->memfd = s->sigfd = -1;
	s->logdirfd = conf->logdir_fd > 0 ? conf->logdir_fd : -1;
	s->sock = s->worker_agent = s->agent_end = -1;
	s->worker_pidfd = s->agent_pidfd = -1;
	s->worker = s->agent = s->check = -1;
	fs_watch_init(s);
	rc = conf->estate ? adopt(s, &local) : begin(s, &local);
	if (rc == 0)
		rc = loop(s, &local);
	if (rc < 0 && !s->ever_ready)
		report(s, 'e', local.text);
	clean_up(s);
	free(s);
	if (rc < 0 && err)
		*err = local;
	return rc;
}
