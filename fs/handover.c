/* handover.c - one worker, program or supervisor takes the place of another.
 *
 * Children are what is installed (argv[0]), so that a newer program comes in with each; once that was refused (an upgrade), or a
 * child of it ended before it did its work, they are the program that this process runs.     held by: tests/e2e/upgrade.py */
#include "fs/supervisor_priv.h"

#include "base/clock.h"
#include "base/log.h"
#include "fs/alive.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SETTLE_NS   10000000000ull   /* a former supervisor's worker gets so long to hand over */
#define CHECK_S     20               /* the installed program, to say whether it can take over */
#define OWN_PROGRAM "/proc/self/exe" /* in a child: what its supervisor runs, also when that was deleted */

/* What is installed is another program than this process runs, or none. Only then does it matter which of them is started. */
static bool replaced(const struct fs_super *s)
{
	struct stat own, installed;

	return stat(OWN_PROGRAM, &own) == 0 && (stat(s->conf->worker_argv[0], &installed) < 0 ||
	                                        own.st_dev != installed.st_dev || own.st_ino != installed.st_ino);
}

const char *fs_handover_program(const struct fs_super *s, bool own)
{
	return own && replaced(s) ? OWN_PROGRAM : s->conf->worker_argv[0];
}

const char *fs_handover_named(const struct fs_super *s, bool own)
{
	return own && replaced(s) ? "the program that this supervisor runs" : s->conf->worker_argv[0];
}

void fs_handover_other(struct fs_super *s, bool *own, const char *child)
{
	if (!replaced(s) || (s->refused && *own))
		return;
	*own = !*own;
	fz_warn("%s as %s did not come to work: the next one is %s", child, fs_handover_named(s, !*own),
	        fs_handover_named(s, *own));
}

/* The worker hands over; with its end the agent goes too, unless it is to be kept. */
static void replace_worker(struct fs_super *s, const char *why)
{
	fz_info("%s: the worker finishes, the next one is %s", why, fs_handover_named(s, s->own_worker));
	kill(s->worker, SIGUSR2);
}

void fs_handover_restart(struct fs_super *s, uint32_t id, bool keep_agent)
{
	if (s->leaving || s->worker <= 0) {
		fs_message_reply(s, id, -FZ_EBUSY, "the mount is being ended");
		return;
	}
	s->keep_agent = keep_agent;
	s->late_agent = s->renew_agent = false;
	fs_message_reply(s, id, 0, "");
	replace_worker(s, "restart");
}

void fs_handover_check(struct fs_super *s)
{
	char layout[32];
	const char *argv[] = {s->conf->worker_argv[0], "worker", layout, NULL};

	if (s->check > 0 || s->worker <= 0 || s->leaving || s->leave)
		return;
	snprintf(layout, sizeof(layout), "layout=%u", FS_SHARED_VERSION);
	s->check = fork();
	if (s->check == 0) {
		alarm(CHECK_S);
		fs_child_exec(argv[0], argv);
	}
	if (s->check < 0)
		fz_warn("cannot look at what is installed: %s", strerror(errno));
}

void fs_handover_checked(struct fs_super *s, int status)
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

int fs_handover_adopt(struct fs_super *s, struct fz_err *err)
{
	int rc;

	snprintf(s->dir, sizeof(s->dir), "%s", s->conf->dir);
	rc = fs_estate_adopt(s, s->conf->estate, err);
	if (rc == 0)
		rc = fs_mountpoint_lock_state(s, err);
	if (rc == 0)
		rc = fs_shared_map(&s->sh, s->memfd, err);
	if (rc < 0)
		return rc;
	s->sh->supervisor_pid = getpid();
	s->mounted = s->ever_ready = true;
	s->ended_ns = s->worker_since_ns = fz_mono_ns();
	s->agent = fs_alive_find(s->statefd, FS_ALIVE_AGENT, &s->agent_pidfd);
	if (s->agent > 0 && s->worker_agent >= 0)
		s->keep_agent = s->late_agent = s->renew_agent = true; /* until it is replaced */
	else
		fs_child_drop_sockets(s);
	if (s->conf->estate->unkept)
		fs_estate_keep(s);
	s->worker = fs_alive_find(s->statefd, FS_ALIVE_WORKER, &s->worker_pidfd);
	fz_info("this supervisor goes on with the mount of %s%s", s->dir,
	        s->worker > 0 ? ", whose worker hands over" : "");
	if (s->worker <= 0) {
		if (!s->keep_agent)
			fs_child_kill_agent(s);
		fs_child_try_worker(s);
		return 0;
	}
	s->settle_ns = fz_mono_ns() + SETTLE_NS;
	kill(s->worker, SIGUSR2);
	return 0;
}
