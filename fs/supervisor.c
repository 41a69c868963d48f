/* supervisor.c - the process that outlives the worker.
 *
 * STATES   starting -> serving <-> replacing (worker gone, the next one starts; requests wait in the kernel)
 *          serving -> leaving: agent killed -> worker told to finish (it captures and syncs all) -> umount(2), never lazy
 *          replacing -> leaving: the same, without a worker when none comes to work (fs/leave.c)
 *          leaving -> replacing when somebody opened a file meanwhile (EBUSY): serve on
 * One noun each: fs/child.c (worker and agent as processes), fs/message.c (what the worker asks for), fs/leave.c, fs/handover.c
 * (another program, another supervisor), fs/mountpoint.c, fs/held.c, fs/estate.c, fs/watch.c. Here: what happens, and what follows.
 * The kernel's requests are only ever read by a worker; this process never touches a path below the mount: it knows the
 * backing directory by a descriptor and its own mount by /proc/self/mountinfo. */
#include "fs/supervisor.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/notify.h"
#include "fs/inuse.h"
#include "fs/supervisor_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define AGENT_GOOD_NS 1000000000ull /* an agent that lived so long is followed by the next one at once */

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

void fs_supervisor_ready(struct fs_super *s)
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
		fs_child_kill_agent(s);
	s->renew_agent = false;
	fs_child_start_agent(s);
	if (s->leave)
		fs_leave_try(s);
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
	if (s->leaving && fs_leave_now(s, status))
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
		fs_child_kill_agent(s);
	if (!was_ready && !former)
		fs_handover_other(s, &s->own_worker, "worker");
	next = fs_handover_named(s, s->own_worker);
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
		fs_child_try_worker(s);
	else
		s->restart_ns = fs_child_backoff(s->fails++);
	return false;
}

static void on_agent_end(struct fs_super *s, int status)
{
	bool expected = s->agent_dying || s->agent_pidfd >= 0; /* a former supervisor's ends with its worker */

	s->agent = -1;
	fz_close(&s->agent_pidfd);
	s->agent_dying = false;
	if (s->leaving) {
		fs_leave_step(s);
		return;
	}
	if (expected) {
		s->agent_fails = 0;
		fs_child_start_agent(s);
		return;
	}
	fz_warn("agent ended (%s %d)", WIFSIGNALED(status) ? "signal" : "status",
	        WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	if (fz_mono_ns() - s->agent_since_ns > AGENT_GOOD_NS) /* what it was killed by is not how it starts */
		s->agent_fails = 0;
	else
		fs_handover_other(s, &s->own_agent, "agent");
	s->agent_ns = fs_child_backoff(s->agent_fails++);
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
			fs_leave_try(s);
		} else if (si.ssi_signo == SIGUSR2) {
			fs_handover_check(s);
		} else if (si.ssi_signo == SIGHUP) {
			fs_child_start_reload(s);
		}
	}
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		while (pid == s->worker && s->sock >= 0) { /* what it said last */
			struct pollfd p = {s->sock, POLLIN, 0};

			if (poll(&p, 1, 0) <= 0)
				break;
			fs_message_receive(s);
		}
		if (pid == s->worker) {
			if (on_worker_end(s, status, rc, err))
				return true;
		} else if (pid == s->agent) {
			on_agent_end(s, status);
		} else if (pid == s->check) {
			fs_handover_checked(s, status);
		} else if (fs_watch_reaped(s, pid, status) && s->leaving) {
			fs_leave_step(s);
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
		fs_child_try_worker(s);
	if (s->agent_ns && s->agent_ns <= now)
		fs_child_start_agent(s);
	if (s->retry_ns && s->retry_ns <= now)
		fs_leave_try(s);
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
			fs_message_receive(s);
		if (p[0].revents && on_signal(s, &rc, err))
			return rc;
		if (p[2].revents && s->worker_pidfd >= 0 && on_worker_end(s, status_of(s->worker), &rc, err))
			return rc;
		if (p[3].revents && s->agent_pidfd >= 0)
			on_agent_end(s, status_of(s->agent));
		on_time(s);
		if (fs_leave_alone(s))
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
	s->sigfd = fs_child_high(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
	return s->sigfd < 0 ? fz_fail_errno(err, errno, "signalfd") : 0;
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
	s->rootfd = fs_child_high(open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	if (s->rootfd < 0)
		return fz_fail_errno(err, errno, "cannot open %s", s->dir);
	rc = fs_mountpoint_open_state(s, err);
	if (rc < 0)
		return rc;
	if (fs_inuse_find(s->dir, NULL, 0, who, sizeof(who)))
		return fz_fail(err, FZ_EBUSY, "%s is in use: %s. Stop it first: it would not see the mount's locks",
		               s->dir, who);
	rc = fs_shared_create(&s->memfd, s->dir, s->rootfd, err);
	if (rc < 0)
		return rc;
	s->memfd = fs_child_high(s->memfd);
	rc = fs_shared_map(&s->sh, s->memfd, err);
	if (rc < 0)
		return rc;
	s->sh->no_passthrough = s->conf->no_passthrough;
	s->sh->no_resend = s->conf->no_resend;
	s->sh->supervisor_pid = getpid();
	return 0;
}

/* Mounts, and starts the first worker. */
static int begin(struct fs_super *s, struct fz_err *err)
{
	int rc = prepare(s, err);

	if (rc == 0)
		rc = fs_mountpoint_mount(s, err);
	if (rc == 0)
		fs_estate_keep(s);
	return rc < 0 ? rc : fs_child_start_worker(s, err);
}

/* Ends what is left after a failure: no child and no dead mount stay behind. */
static void clean_up(struct fs_super *s)
{
	int status;

	if (s->worker > 0)
		kill(s->worker, SIGKILL);
	if (s->agent > 0)
		kill(s->agent, SIGKILL);
	fs_child_drop_sockets(s);
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
	rc = catch_signals(s, &local);
	if (rc == 0)
		rc = conf->estate ? fs_handover_adopt(s, &local) : begin(s, &local);
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
