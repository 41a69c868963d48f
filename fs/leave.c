/* leave.c - the way out of a mount: agent, probe, worker, and then umount(2), which never takes a file from a program. */
#include "fs/supervisor_priv.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/notify.h"
#include "fs/inuse.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>

#define AGAIN_NS 1000000000ull /* between two looks whether it is time */
/* A mount that shall end does so without a worker when none came to work for so long, since each ended before or this one does nothing; ... */
#define NO_WORKER_NS 10000000000ull
#define START_NS     60000000000ull /* ... or this one has been at its start for so long */

static bool busy(struct fs_super *s, char *who, size_t cap)
{
	pid_t skip[] = {s->worker, s->agent, s->watch.probe};

	return fs_inuse_find(s->dir, skip, 3, who, cap);
}

/* No worker comes to work: they end before, and have done so for long, or this one hangs. What they did not capture lies in the
 * databases and their WALs, without a clean marker: the next mount captures it.             held by: tests/e2e/kill-fazt.py */
static bool hopeless(struct fs_super *s)
{
	uint64_t now = fz_mono_ns();

	if (s->worker > 0)
		return !s->ready && (fs_watch_idle_ns(s) >= NO_WORKER_NS || now - s->worker_since_ns >= START_NS);
	return s->fails > 1 && now - s->ended_ns >= NO_WORKER_NS;
}

void fs_leave_step(struct fs_super *s)
{
	if (s->agent > 0) {
		fs_child_kill_agent(s); /* goes on when it is reaped */
	} else if (fs_watch_leave(s)) {
		; /* as well */
	} else if (s->worker > 0 && !s->gave_up) {
		s->gave_up = hopeless(s);
		if (s->gave_up)
			fz_warn("the worker (process %d) does not come to work: it is killed, "
			        "and the next mount captures what was committed",
			        (int)s->worker);
		kill(s->worker, s->gave_up ? SIGKILL : SIGTERM);
		s->retry_ns = s->ready ? 0 : fz_mono_ns() + AGAIN_NS;
	}
}

void fs_leave_try(struct fs_super *s)
{
	char who[512];

	s->retry_ns = 0;
	if (s->leaving && !s->ready)
		fs_leave_step(s); /* it was told before it was ready: by now it may be one that hangs */
	if (!s->leave || s->leaving)
		return;
	if (!s->ready && !hopeless(s)) {
		s->retry_ns = fz_mono_ns() + AGAIN_NS;
		return;
	}
	if (busy(s, who, sizeof(who))) {
		fz_warn("cannot unmount %s yet: %s", s->dir, who);
		s->retry_ns = fz_mono_ns() + AGAIN_NS;
		return;
	}
	if (s->worker <= 0)
		fz_warn("no worker has come to work for %llu s: %s is unmounted without, and the next mount captures "
		        "what was committed",
		        (unsigned long long)((fz_mono_ns() - s->ended_ns) / 1000000000), s->dir);
	s->leaving = true;
	s->restart_ns = 0;
	(void)fz_notify("STOPPING=1\nSTATUS=unmounting");
	fs_leave_step(s);
}

bool fs_leave_now(struct fs_super *s, int status)
{
	if (status != 0 && !s->gave_up && ++s->leave_fails < 3) {
		fz_warn("the worker could not finish its work: starting it again");
	} else if (umount2(s->dir, UMOUNT_NOFOLLOW) == 0 || errno == EINVAL) {
		s->mounted = false;
		return true;
	} else {
		fz_warn("cannot unmount %s (%s): serving on", s->dir, strerror(errno));
	}
	s->leaving = s->gave_up = false;
	s->retry_ns = s->leave ? fz_mono_ns() + AGAIN_NS : 0;
	return false;
}

bool fs_leave_alone(struct fs_super *s)
{
	if (!s->leaving || s->worker > 0 || s->agent > 0 || s->watch.probe > 0)
		return false;
	if (fs_leave_now(s, 0))
		return true;
	s->restart_ns = fs_child_backoff(s->fails);
	return false;
}

void fs_leave_asked(struct fs_super *s, uint32_t id)
{
	char who[512] = "";

	if (busy(s, who, sizeof(who))) {
		fs_message_reply(s, id, -FZ_EBUSY, who);
		return;
	}
	fs_message_reply(s, id, 0, "");
	s->leaving = true;
	fs_leave_step(s);
}
