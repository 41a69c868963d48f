/* worker.c - `fazt worker DIR`, started by the supervisor with the descriptors of fs/supervisor.h.
 *
 * START    handshake, drop privileges, logs, agent, capture (all that was committed meanwhile is in the logs before a
 *          request is served), shipping, control socket, serve. An error before serving ends the process: the supervisor
 *          tells `fazt mount`.
 * STOP     SIGTERM or the end of the mount: serving ends, control socket, capture takes what is visible and syncs, what is
 *          new is shipped within a grace, logs. SIGUSR2 (an upgrade: the next worker waits to go on): the same without
 *          waiting for targets. */
#include "cmd/worker.h"

#include "base/clock.h"
#include "base/log.h"
#include "cmd/cmd.h"
#include "cmd/given.h"
#include "cmd/harden.h"
#include "cmd/herald.h"
#include "cmd/http.h"
#include "cmd/logto.h"
#include "cmd/reload.h"
#include "cmd/state.h"
#include "cmd/takeover.h"
#include "fs/agent.h"
#include "fs/alive.h"
#include "fs/estate.h"
#include "fs/shared.h"
#include "fs/super_client.h"
#include "fs/supervisor.h"
#include "ltx/log.h"

#include <cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STOP_GRACE_MS 5000

static struct fs_session *on_term; /* a signal handler has no argument */
static atomic_bool hand_over;      /* nobody waits for targets */

static void handle_term(int sig)
{
	if (sig == SIGUSR2)
		atomic_store(&hand_over, true);
	fs_session_stop(on_term);
}

static void catch_signals(struct fs_session *s)
{
	struct sigaction term = {.sa_handler = handle_term}, ignore = {.sa_handler = SIG_IGN};

	on_term = s;
	sigaction(SIGTERM, &term, NULL);
	sigaction(SIGUSR2, &term, NULL);
	sigaction(SIGINT, &ignore, NULL); /* Ctrl-C on a foreground mount is the supervisor's to handle */
	sigaction(SIGHUP, &ignore, NULL);
	sigaction(SIGPIPE, &ignore, NULL);
}

/* Before the session goes: a second signal must not find it. */
static void ignore_signals(void)
{
	struct sigaction ignore = {.sa_handler = SIG_IGN};

	sigaction(SIGTERM, &ignore, NULL);
	sigaction(SIGUSR2, &ignore, NULL);
}

static int start_ship(struct cmd_serving *w, struct fz_err *err)
{
	struct primary_ship_conf conf = {.statefd = w->statefd, .logs = w->logs};
	char host[256] = "";
	int rc;

	if (!w->conf.n_targets) {
		fz_warn("no target is configured: commits stay in the local log only");
		return 0;
	}
	gethostname(host, sizeof(host) - 1);
	rc = cmd_targets_init(&w->targets, &w->conf, err);
	if (rc < 0)
		return rc;
	conf.targets = w->targets.v;
	conf.n_targets = w->targets.n;
	conf.writer = host;
	for (size_t i = 0; i < w->targets.n; i++) {
		w->targets.v[i].take_over = w->conf.take_over ? cmd_given_mount(w->statefd) : 0;
		w->targets.v[i].promoted = w->link.role.promoted ? w->link.role.epoch : 0;
	}
	rc = primary_ship_start(&w->ship, &conf, err);
	w->targets.started = rc == 0;
	return rc < 0 ? fz_err_prefix(err, "starting the targets") : 0;
}

static void superseded(struct cmd_link *l)
{
	struct cmd_serving *w = (struct cmd_serving *)(void *)((char *)l - offsetof(struct cmd_serving, link));

	cmd_demote(w, l->superior_key, &l->superior);
}

static void take_over(struct cmd_link *l)
{
	struct cmd_serving *w = (struct cmd_serving *)(void *)((char *)l - offsetof(struct cmd_serving, link));
	cJSON *answer = cJSON_CreateObject();
	struct fz_err err = {0};

	if (cmd_promote_answer(w, true, answer, &err) < 0)
		fz_log_err("taking over", &err);
	cJSON_Delete(answer);
}

static int start_replica(struct cmd_serving *w, struct fz_err *err)
{
	int rc = cmd_link_apply(&w->link, FS_FD_AGENT, err);

	fs_super_keep_agent(false);
	if (rc == 0)
		rc = cmd_link_follow(&w->link, err);
	if (rc == 0)
		fz_info("replica of %s",
		        w->link.role.primary[0] ? w->link.role.primary : replica_followstore_url(w->link.store));
	return rc < 0 ? fz_err_prefix(err, "starting the replica") : 0;
}

static int start(struct cmd_serving *w, struct fz_err *err)
{
	struct fs_capture_conf capture;
	struct ltx_logset_conf logs = {0};
	char path[108];
	unsigned uid;
	int rc;

	rc = fs_alive_claim(w->statefd, FS_ALIVE_WORKER, CMD_ALIVE_MS, err);
	if (rc < 0)
		return rc;
	w->reloads = cmd_reload_begin(w->statefd);
	rc = cmd_state_read(&w->conf, w->statefd, w->reloads ? CMD_CONF_TRIED : CMD_CONF_SNAPSHOT, err);
	if (rc < 0)
		return rc;
	cmd_logto_child("worker", w->statefd, FS_FD_LOGDIR, &w->conf);
	rc = fs_session_open(&w->session, err);
	if (rc < 0)
		return fz_err_prefix(err, "handshake with the kernel");
	fs_session_info(w->session, &w->info);
	catch_signals(w->session);
	cmd_drills_open(&w->drills, w->statefd);
	uid = geteuid();
	rc = cmd_harden_early(CMD_HARDEN_WORKER, err);
	if (rc < 0)
		return rc;
	rc = cmd_role_load(&w->link.role, w->statefd, &w->conf, err);
	if (rc < 0)
		return rc;
	logs.epoch = w->link.role.epoch;
	rc = ltx_logset_open(&w->logs, w->statefd, &logs, err);
	if (rc < 0)
		return fz_err_prefix(err, "opening the local logs");
	w->link.logs = w->logs;
	rc = cmd_promote_finish(w, err);
	if (rc < 0)
		return rc;
	if (!w->link.role.replica && fcntl(FS_FD_AGENT, F_GETFD) >= 0) {
		rc = fs_agent_open(&w->agent, FS_FD_AGENT, err);
		if (rc < 0)
			return rc;
	}
	cmd_capture_conf(&capture, &w->conf);
	capture.rootfd = FS_FD_ROOT;
	capture.statefd = w->statefd;
	capture.logs = w->logs;
	capture.agent = w->agent;
	capture.passthrough = w->info.passthrough;
	capture.resume = capture.held = w->info.resumed;
	capture.replica = w->link.role.replica;
	rc = cmd_ack_open(&w->link, err);
	if (rc < 0)
		return rc;
	capture.acks = w->link.ack.acks ? &w->link.ack.hook : NULL;
	rc = fs_capture_open(&w->capture, &capture, err);
	if (rc < 0)
		return fz_err_prefix(err, "starting capture");
	w->link.capture = w->capture;
	rc = cmd_lease_open(&w->lease, err);
	if (rc < 0)
		return rc;
	w->link.positions = (struct cmd_positions){
	        .files = fs_session_virtual(w->session), .logs = w->logs, .capture = w->capture, .link = &w->link};
	if (w->link.role.replica)
		rc = start_replica(w, err);
	else
		rc = start_ship(w, err);
	if (rc == 0)
		rc = cmd_link_serve(&w->link, err);
	if (rc == 0)
		rc = cmd_herald_start(&w->link, err);
	if (rc < 0)
		return rc;
	rc = cmd_lease_start(&w->lease, err);
	if (rc == 0)
		rc = cmd_positions_start(&w->link.positions, err);
	if (rc < 0)
		return rc;
	w->keep = (struct cmd_logkeep){
	        .logs = w->logs, .ship = w->ship, .link = &w->link, .keep_ms = w->conf.log_keep_ms};
	rc = cmd_logkeep_start(&w->keep, err);
	if (rc < 0)
		return rc;
	rc = cmd_alerts_start(&w->alerts, w, err);
	if (rc < 0)
		return rc;
	if (!cmd_control_path(path, sizeof(path), w->dir, uid, 0))
		return fz_fail(err, FZ_EINTERNAL, "no place for the control socket");
	rc = cmd_control_start(&w->control, path, &w->handler, err);
	for (unsigned i = 1; rc < 0 && cmd_control_path(path, sizeof(path), w->dir, uid, i); i++)
		rc = cmd_control_start(&w->control, path, &w->handler, err);
	if (rc == 0)
		rc = cmd_http_start(&w->http, w, err);
	if (rc == 0)
		rc = cmd_pulse_start(w, err);
	return rc < 0 ? rc : cmd_harden_late(err);
}

static void serving(void *arg)
{
	struct cmd_serving *w = arg;

	if (w->reloads)
		cmd_reload_done(w->statefd);
	fz_info("serving %s (%s%s%s)", w->dir, w->info.passthrough ? "passthrough" : "without passthrough",
	        w->info.resend ? ", resend" : ", without resend", w->info.resumed ? ", taken over" : "");
}

/* After serving has ended. Returns the first failure, having gone on with the rest. */
static int stop(struct cmd_serving *w)
{
	int64_t grace = w->conf.stop_grace_ms ? w->conf.stop_grace_ms : STOP_GRACE_MS;
	bool wait = !atomic_load(&hand_over) && !atomic_load(&w->forced);
	struct fz_err why = {0};
	int rc = 0;

	fz_worker_stop(&w->pulse);
	cmd_logkeep_stop(&w->keep);
	cmd_positions_stop(&w->link.positions);
	cmd_lease_stop(&w->lease);
	cmd_link_stop(&w->link);
	cmd_lease_fini(&w->lease);
	if (w->capture && fs_capture_close(w->capture, &why) < 0) {
		fz_log_err("stopping capture", &why);
		rc = why.code;
	}
	cmd_ack_close(&w->link);
	w->capture = NULL; /* the control threads are stopped first, see cmd_worker() */
	if (w->ship && rc == 0 && wait && primary_ship_sync(w->ship, grace, &why) < 0)
		fz_warn("not every target holds everything: %s; the local log does, and the next mount goes on",
		        why.text);
	if (w->ship)
		primary_ship_stop(w->ship, 0);
	cmd_targets_fini(&w->targets);
	fs_agent_close(w->agent);
	if (w->logs)
		ltx_logset_close(w->logs);
	fs_session_close(w->session);
	return rc;
}

int cmd_worker(int argc, char **argv)
{
	struct cmd_serving w = {.handler = {cmd_answer}, .statefd = FS_FD_STATE};
	struct fz_err err = {0};
	unsigned layout;
	ssize_t n;
	int rc;

	fz_log_init("worker", FZ_LOG_INFO);
	if (argc == 2 && sscanf(argv[1], "layout=%u", &layout) == 1) /* the supervisor, before an upgrade */
		return layout == FS_SHARED_VERSION ? CMD_EXIT_OK : CMD_EXIT_FAILED;
	if (argc != 2 || fcntl(FS_FD_FUSE, F_GETFD) < 0) {
		fprintf(stderr, "fazt worker: is started by `fazt mount` only\n");
		return CMD_EXIT_USAGE;
	}
	fs_estate_begin_worker();
	w.dir = argv[1];
	w.started_ms = fz_now_ms();
	n = readlink("/proc/self/fd/12", w.state_path, sizeof(w.state_path) - 1);
	w.state_path[n > 0 ? n : 0] = 0;
	cmd_conf_init(&w.conf);
	cmd_link_init(&w.link);
	cmd_lease_init(&w.lease, &w);
	w.link.statefd = w.statefd;
	w.link.conf = &w.conf;
	w.link.on_superseded = superseded;
	w.link.on_promote = take_over;
	rc = start(&w, &err);
	if (rc < 0) {
		if (w.reloads)
			cmd_reload_failed(w.statefd, &err);
		fs_super_init(FS_FD_SUPER);
		fs_super_failed(&err); /* `fazt mount` prints it */
	}
	if (rc == 0)
		rc = fs_session_run(w.session, w.capture, serving, &w, &err);
	if (rc < 0)
		fz_log_err("worker", &err);
	ignore_signals();
	cmd_http_stop(w.http);
	cmd_alerts_stop(&w.alerts);
	cmd_control_stop(w.control); /* nobody asks what is being taken apart */
	if (stop(&w) < 0 && !atomic_load(&w.forced))
		rc = -FZ_EINTERNAL;
	cmd_drills_close(&w.drills);
	fz_info("worker has stopped");
	fz_log_flush(1);
	cmd_conf_fini(&w.conf);
	return rc < 0 ? CMD_EXIT_FAILED : CMD_EXIT_OK;
}
