/* lease_warden.c - the primary's end of the agent's switch: never waits for the network. */
#include "cmd/lease_priv.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "fs/agent.h"
#include "fs/capture.h"
#include "ltx/log.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int pin_all(struct cmd_lease *l, struct fz_err *err)
{
	struct ltx_log_info info;
	int rc = 0;

	for (size_t i = 0; rc == 0 && ltx_logset_info(l->w->logs, i, &info); i++)
		if (!info.ended_ms)
			rc = fs_agent_pin(l->w->agent, info.name, err);
	return rc;
}

/* Rollback modes as well, with SQLITE_BUSY instead of an error in the middle of a transaction. */
static void fence_all(struct cmd_lease *l)
{
	struct ltx_log_info info;
	bool all = true, known;

	for (size_t i = 0; ltx_logset_info(l->w->logs, i, &info); i++) {
		struct fz_err err;
		int rc;

		if (info.ended_ms)
			continue;
		rc = fs_agent_fence(l->w->agent, info.name, 0, &err);
		all = all && (rc == 0 || rc == -FZ_ENOTFOUND);
	}
	pthread_mutex_lock(&l->mu);
	known = l->seen.state != PRIMARY_LEASE_UNKNOWN;
	pthread_mutex_unlock(&l->mu);
	if (all && !l->fenced && known)
		fz_warn("without a lease: this host accepts no commits until it has it again");
	l->fenced = all;
}

/* An agent that says nothing can lock nothing either: the supervisor starts another one. */
static void replace_agent(struct cmd_lease *l)
{
	if (l->agent_fd < 0)
		return;
	fz_error("the agent (process %u) does not answer: it is replaced", l->agent.pid);
	if (syscall(SYS_pidfd_send_signal, l->agent_fd, SIGKILL, NULL, 0) < 0)
		fz_error("it cannot be killed: %s", fz_strerror(-errno));
	fz_close(&l->agent_fd);
	l->agent = (struct fs_deadman_state){0};
}

static int tell_agent(struct cmd_lease *l, uint64_t soft, uint64_t hard, struct fz_err *err)
{
	struct fs_deadman_state st;
	int rc = 0;

	if (l->fenced && fz_boot_ns() < soft && !cmd_link_superseded(&l->w->link)) {
		rc = fs_agent_unfence(l->w->agent, err);
		l->fenced = rc < 0;
	}
	if (rc == 0)
		rc = fs_agent_arm(l->w->agent, soft, hard, &st, err);
	if (rc == 0 && st.id != l->agent.id) {
		bool first = !l->agent.id && !l->w->info.resumed; /* nobody has anything open */

		fz_close(&l->agent_fd);
		l->agent_fd = (int)syscall(SYS_pidfd_open, (int)st.pid, 0);
		fs_capture_trust(l->w->capture, (int)st.pid);
		if (!first)
			rc = pin_all(l, err);
		if (rc == 0)
			l->agent = st;
	}
	if (rc == 0) {
		if (st.killed > l->agent.killed)
			fz_error("%u processes that held a writer's lock beyond the lease were killed",
			         st.killed - l->agent.killed);
		l->agent = st;
	} else if (rc == -FZ_ETIMEOUT && fz_boot_ns() - l->agent_ns > (uint64_t)l->lease.duration_ms * MS_NS / 3) {
		replace_agent(l); /* only this thread changes agent_ns */
	}
	return rc;
}

static void guard(struct cmd_lease *l)
{
	uint64_t until, soft = 1, hard = 1, d = (uint64_t)l->lease.duration_ms * MS_NS;
	struct fz_err err = {0};
	int rc;

	pthread_mutex_lock(&l->mu);
	until = l->until_ns;
	pthread_mutex_unlock(&l->mu);
	if (until) {
		soft = until - d / 4;
		hard = until - d / 8;
	}
	rc = tell_agent(l, soft, hard, &err);
	if (rc == 0) /* the agent first: what it does not know it cannot end */
		fs_capture_lapse(l->w->capture, soft, hard);
	if (rc == 0 && fz_boot_ns() >= soft)
		fence_all(l);
	if (rc == 0 && fz_boot_ns() - l->pinned_ns > d / 10) {
		rc = pin_all(l, &err);
		l->pinned_ns = fz_boot_ns();
	}
	pthread_mutex_lock(&l->mu);
	if (rc == 0 && !l->agent_ns)
		fz_worker_kick(&l->thread);
	if (rc == 0)
		l->agent_ns = fz_boot_ns();
	l->agent_trouble = rc < 0 ? err : (struct fz_err){0};
	pthread_mutex_unlock(&l->mu);
}

void cmd_lease_warden(void *arg)
{
	struct cmd_lease *l = arg;
	int64_t tick = l->lease.duration_ms / 20;

	do {
		bool young;

		if (!cmd_lease_yielded(l))
			guard(l);
		pthread_mutex_lock(&l->mu);
		young = !l->until_ns || !l->agent_ns;
		pthread_mutex_unlock(&l->mu);
		if (!fz_worker_wait(&l->warden, young || tick < 50 ? 20 : tick > 250 ? 250 : tick))
			return;
	} while (true);
}
