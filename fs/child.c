/* child.c - the supervisor's children: worker, agent and reload, each with the descriptors of fs/supervisor.h and no others. */
#include "fs/supervisor_priv.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

struct give {
	int from, to;
};

int fs_child_high(int fd)
{
	int h = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 32), saved = errno;

	fz_close(&fd);
	errno = saved;
	return h;
}

void fs_child_exec(const char *program, const char *const *argv)
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

static pid_t start(struct fs_super *s, bool own, const char *const *argv, const struct give *g, size_t n,
                   bool open_mount)
{
	const char *program = fs_handover_program(s, own);
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
	fs_child_exec(program, argv);
}

void fs_child_drop_sockets(struct fs_super *s)
{
	fz_close(&s->sock);
	fz_close(&s->worker_agent);
	fz_close(&s->agent_end);
}

static int make_pair(int *ours, int *theirs)
{
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
		return -1;
	*ours = fs_child_high(fds[0]);
	*theirs = fs_child_high(fds[1]);
	if (*ours >= 0 && *theirs >= 0)
		return 0;
	fz_close(ours);
	fz_close(theirs);
	return -1;
}

int fs_child_start_worker(struct fs_super *s, struct fz_err *err)
{
	bool keep = s->keep_agent && s->worker_agent >= 0; /* the agent goes on talking through the same pair */
	int up = -1;

	if (keep)
		fz_close(&s->sock);
	else
		fs_child_drop_sockets(s);
	s->restart_ns = 0;
	s->ready = false;
	if (make_pair(&s->sock, &up) < 0 || (!keep && make_pair(&s->worker_agent, &s->agent_end) < 0)) {
		fz_close(&up);
		fz_close(&s->sock);
		return fz_fail_errno(err, errno, "cannot make sockets");
	}
	struct give g[] = {
	        {s->fusefd,       FS_FD_FUSE  },
                {s->rootfd,       FS_FD_ROOT  },
                {s->statefd,      FS_FD_STATE },
	        {s->memfd,        FS_FD_SHARED},
                {up,              FS_FD_SUPER },
                {s->worker_agent, FS_FD_AGENT },
	        {s->logdirfd,     FS_FD_LOGDIR}
        };

	fs_estate_keep_agent(s);
	atomic_fetch_add(&s->sh->starts, 1);
	fs_watch_begin(s);
	s->worker_since_ns = fz_mono_ns();
	s->worker = start(s, s->own_worker, s->conf->worker_argv, g, sizeof(g) / sizeof(g[0]), false);
	fz_close(&up);
	if (s->worker < 0)
		return fz_fail_errno(err, errno, "cannot start a worker");
	s->sh->worker_pid = s->worker;
	return 0;
}

void fs_child_start_agent(struct fs_super *s)
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

void fs_child_start_reload(struct fs_super *s)
{
	if (s->conf->reload_argv && !s->leaving && start(s, s->own_worker, s->conf->reload_argv, NULL, 0, false) < 0)
		fz_warn("cannot start the reload: %s", strerror(errno));
}

void fs_child_kill_agent(struct fs_super *s)
{
	if (s->agent > 0 && !s->agent_dying) {
		kill(s->agent, SIGKILL);
		s->agent_dying = true;
	}
}

uint64_t fs_child_backoff(unsigned fails)
{
	uint64_t ms = fails < 10 ? 10ull << fails : 5000;

	return fz_mono_ns() + (ms < 5000 ? ms : 5000) * 1000000;
}

void fs_child_try_worker(struct fs_super *s)
{
	struct fz_err err = {0};

	if (fs_child_start_worker(s, &err) == 0)
		return;
	fz_log_err("supervisor", &err);
	s->restart_ns = fs_child_backoff(s->fails++);
}
