/* answer.c - what the worker answers to the commands (cmd/control.h). Runs in the control threads, several at a time. */
#include "cmd/worker.h"

#include "base/clock.h"
#include "base/log.h"
#include "cmd/drop.h"
#include "cmd/keys.h"
#include "cmd/prices.h"
#include "cmd/problems.h"
#include "cmd/prune.h"
#include "cmd/resume.h"
#include "cmd/takeover.h"
#include "fs/agent.h"
#include "fs/capture.h"
#include "ltx/log.h"
#include "primary/ship.h"

#include <cJSON.h>
#include <errno.h>
#include <poll.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LAG_MAX_MS   60000
#define MOMENT_MS    10000 /* sync --wait: for a moment in which no application writes */
#define SYNC_STEP_MS 1000
#define AGENT_MS     10000 /* the supervisor starts the next agent after 5 s at most */

static const char *text_of(const cJSON *o, const char *key)
{
	const cJSON *v = cJSON_GetObjectItem(o, key);

	return cJSON_IsString(v) ? v->valuestring : NULL;
}

static double number_of(const cJSON *o, const char *key, double otherwise)
{
	const cJSON *v = cJSON_GetObjectItem(o, key);

	return cJSON_IsNumber(v) ? v->valuedouble : otherwise;
}

/* ---- status ----------------------------------------------------------------------------------------------------- */

void cmd_say(cJSON *list, const char *fmt, ...)
{
	char text[600];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	cJSON_AddItemToArray(list, cJSON_CreateString(text));
}

/* Gives each target its position (the lowest of its databases) and says what is wrong with it. */
static void judge_target(const struct cmd_serving *w, size_t i, cJSON *t, cJSON *answer)
{
	const struct cmd_target *conf = i < w->conf.n_targets ? &w->conf.targets[i] : NULL;
	double limit = (conf && conf->lag_max_ms ? (double)conf->lag_max_ms : LAG_MAX_MS) / 1000;
	const char *state = text_of(t, "state"), *name = text_of(t, "name"), *why = text_of(t, "last_error");
	double txid = -1, lag = number_of(t, "lag_seconds", 0);
	const cJSON *d;

	cJSON_ArrayForEach (d, cJSON_GetObjectItem(t, "databases")) {
		double v = number_of(d, "txid", 0);

		if (txid < 0 || v < txid)
			txid = v;
	}
	if (!cJSON_HasObjectItem(t, "txid"))
		cJSON_AddNumberToObject(t, "txid", txid < 0 ? 0 : txid);
	if (!name)
		name = "target";
	cJSON_AddNumberToObject(t, "lag_max_seconds", limit);
	if (conf)
		cmd_prices_status(conf, t);
	if (state && (!strcmp(state, "fenced") || !strcmp(state, "failed")))
		cmd_problem(answer, state, name, "target %s is %s: %s", name, state, why ? why : "");
	else if (lag > limit)
		cmd_problem(answer, "lag", name, "target %s lags %.0f s (limit %.0f s)%s%s", name, lag, limit,
		            why && *why ? ": " : "", why ? why : "");
}

static void judge_database(const cJSON *d, cJSON *answer, cJSON *notes)
{
	const char *name = text_of(d, "name"), *why = text_of(d, "last_error");

	if (!name)
		name = "?";
	if (why && *why)
		cmd_problem(answer, "capture", name, "capture of %s: %s", name, why);
	if (number_of(d, "scrub_found", 0) > 0)
		cmd_problem(answer, "verify", name, "%s: the scrub found %.0f pages that differed; they were captured",
		            name, number_of(d, "scrub_found", 0));
	if (number_of(d, "merged_txns", 0) > 0)
		cmd_say(notes, "%s: %.0f commits were merged, they can be restored as a range only", name,
		        number_of(d, "merged_txns", 0));
}

/* A replica that does not hear its primary, or cannot apply what it has. */
static void judge_link(cJSON *answer, cJSON *notes)
{
	const cJSON *f = cJSON_GetObjectItem(answer, "following"), *d;
	const char *why = text_of(f, "last_error");

	bool store = text_of(f, "source") && !strcmp(text_of(f, "source"), "store");

	if (f && !cJSON_IsTrue(cJSON_GetObjectItem(f, "connected")))
		cmd_problem(answer, "link", store ? "store" : "primary", "not connected to the %s %s%s%s",
		            store ? "store" : "primary", store ? text_of(f, "store") : text_of(answer, "primary"),
		            why && *why ? ": " : "", why ? why : "");
	if (store && cJSON_GetObjectItem(f, "primary"))
		cmd_say(notes, "the primary %s cannot be reached: the store %s is followed", text_of(answer, "primary"),
		        text_of(f, "store"));
	if (number_of(f, "other_files", 0) > 0)
		cmd_say(notes, "the primary has files beside its databases that are not replicated (%.0f; such as %s)",
		        number_of(f, "other_files", 0), text_of(f, "other_file"));
	cJSON_ArrayForEach (d, cJSON_GetObjectItem(f, "databases")) {
		why = text_of(d, "last_error");
		if (why && *why)
			cmd_problem(answer, "link", text_of(d, "name"), "replica of %s: %s", text_of(d, "name"), why);
	}
}

/* Commits that wait for replicas, or should and do not. */
static void judge_ack(cJSON *answer)
{
	const cJSON *a = cJSON_GetObjectItem(answer, "ack"), *d;
	double limit = number_of(a, "timeout_ms", 0);

	cJSON_ArrayForEach (d, cJSON_GetObjectItem(a, "databases")) {
		char when[FZ_TIME_SIZE];

		if (cJSON_IsTrue(cJSON_GetObjectItem(d, "degraded")))
			cmd_problem(answer, "ack", text_of(d, "name"),
			            "%s: since %s commits do not wait for %.0f replicas (%.0f so far): not enough have "
			            "caught "
			            "up",
			            text_of(d, "name"), fz_format_time(when, (int64_t)number_of(d, "since_ms", 0)),
			            number_of(a, "replicas", 0), number_of(d, "degraded_commits", 0));
		else if (number_of(d, "waiting_ms", 0) > limit)
			cmd_problem(answer, "ack", text_of(d, "name"),
			            "%s: a commit has waited for %.0f replicas for %.0f ms", text_of(d, "name"),
			            number_of(a, "replicas", 0), number_of(d, "waiting_ms", 0));
	}
}

/* What the mount cost: requests served, fsyncs for applications and of the logs. */
static void add_totals(cJSON *answer, const cJSON *requests, const cJSON *databases)
{
	double n = 0, fsyncs = number_of(requests, "fsyncs", 0);
	cJSON *o = cJSON_AddObjectToObject(answer, "session");
	const cJSON *item;

	cJSON_ArrayForEach (item, cJSON_GetObjectItem(requests, "requests")) {
		n += cJSON_GetNumberValue(item);
	}
	cJSON_ArrayForEach (item, databases) {
		fsyncs += number_of(item, "log_syncs", 0);
	}
	cJSON_AddNumberToObject(o, "requests", n);
	cJSON_AddNumberToObject(o, "fsyncs", fsyncs);
}

static void answer_status(struct cmd_serving *w, cJSON *answer)
{
	cJSON *databases, *targets, *problems, *notes, *item, *requests;
	char when[FZ_TIME_SIZE];
	struct stat st;
	unsigned fixed;
	size_t i = 0;

	cJSON_AddStringToObject(answer, "dir", w->dir);
	cJSON_AddStringToObject(answer, "state_dir", w->state_path);
	cJSON_AddStringToObject(answer, "version", FZ_VERSION);
	cJSON_AddNumberToObject(answer, "worker_pid", getpid());
	cJSON_AddNumberToObject(answer, "restarts", w->info.restarts);
	cJSON_AddStringToObject(answer, "worker_started", fz_format_time(when, w->started_ms));
	cJSON_AddBoolToObject(answer, "passthrough", w->info.passthrough);
	cJSON_AddBoolToObject(answer, "resend", w->info.resend);
	requests = cJSON_AddObjectToObject(answer, "requests");
	(void)fs_session_status(w->session, requests);
	cJSON_AddNumberToObject(answer, "supervisor_pid",
	                        number_of(requests, "supervisor_pid", w->info.supervisor_pid));
	databases = cJSON_AddArrayToObject(answer, "databases");
	(void)fs_capture_status(w->capture, databases);
	add_totals(answer, requests, databases);
	cmd_link_status(&w->link, answer);
	targets = cJSON_AddArrayToObject(answer, "targets");
	if (w->ship)
		(void)primary_ship_status(w->ship, targets);
	problems = cJSON_AddArrayToObject(answer, "problems");
	notes = cJSON_AddArrayToObject(answer, "notes");
	cJSON_ArrayForEach (item, targets) {
		judge_target(w, i++, item, answer);
	}
	cJSON_ArrayForEach (item, databases) {
		judge_database(item, answer, notes);
	}
	if (number_of(answer, "supervisor_pid", 0) <= 0)
		cmd_problem(answer, "supervisor", "",
		            "the supervisor is gone: nobody replaces this worker should it die; fazt umount and "
		            "mount again");
	judge_link(answer, notes);
	judge_ack(answer);
	cmd_lease_status(&w->lease, answer);
	cmd_problems_room(w, answer);
	cmd_drills_status(w, answer);
	fixed = fs_session_fixed(w->session);
	cJSON_AddNumberToObject(answer, "read_only_handles", fixed);
	if (fixed && !w->link.role.replica)
		cmd_say(notes,
		        "%u handles were opened while this host was a replica: they stay read-only until the "
		        "applications open their databases again",
		        fixed);
	if (w->http_err.code)
		cmd_say(problems, "metrics and status page are not served: %s", w->http_err.text);
	if (!w->ship && !w->link.role.replica)
		cmd_say(notes, "no target: commits are kept in the local log only");
	if (!w->info.passthrough)
		cmd_say(notes, "without kernel passthrough: the same capture, but slower");
	if (w->ship && fstatat(w->statefd, CMD_IDENTITY, &st, 0) == 0)
		cmd_say(notes,
		        "the secret key lies on this machine (%s/" CMD_IDENTITY
		        "): keep a copy elsewhere and remove it here",
		        w->state_path);
	cmd_problems_finish(answer);
	cJSON_AddBoolToObject(answer, "healthy", cJSON_GetArraySize(problems) == 0);
}

/* ---- sync ------------------------------------------------------------------------------------------------------- */

struct mark {
	char lineage[17];
	uint64_t txid;
};

/* Where every log stands now. */
static int take_marks(struct cmd_serving *w, struct mark **out, size_t *n, struct fz_err *err)
{
	struct ltx_log_info info;

	*out = NULL;
	*n = 0;
	for (size_t i = 0; ltx_logset_info(w->logs, i, &info); i++) {
		struct mark *v = realloc(*out, (*n + 1) * sizeof(*v));

		if (!v) {
			free(*out);
			return fz_fail_errno(err, ENOMEM, "sync");
		}
		*out = v;
		memcpy(v[*n].lineage, info.lineage, sizeof(info.lineage));
		v[(*n)++].txid = info.tail_txid;
	}
	return 0;
}

static bool reached(struct cmd_serving *w, const struct mark *m, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (primary_ship_position(w->ship, m[i].lineage) < m[i].txid)
			return false;
	return true;
}

/* In steps, so that a stop of the worker is not held up by a target that is down. Each step asks the ship for all that is
 * in the logs then, which under load is more than was asked for: the marks tell when that is there. */
static int sync_targets(struct cmd_serving *w, int64_t timeout_ms, struct fz_err *err)
{
	uint64_t end = fz_mono_ns() + (uint64_t)(timeout_ms < 0 ? 0 : timeout_ms) * 1000000;
	struct mark *marks;
	size_t n;
	int rc;

	if (!w->ship)
		return 0;
	rc = take_marks(w, &marks, &n, err);
	if (rc < 0)
		return rc;
	for (;;) {
		int64_t step = SYNC_STEP_MS;
		uint64_t now = fz_mono_ns();

		if (timeout_ms >= 0 && now + (uint64_t)step * 1000000 > end)
			step = now < end ? (int64_t)((end - now) / 1000000) : 0;
		rc = primary_ship_sync(w->ship, step, err);
		if (rc == 0 || rc == -FZ_EFENCED || rc == -FZ_EAUTH || rc == -FZ_EUSAGE)
			break;
		if (reached(w, marks, n)) {
			rc = 0;
			break;
		}
		if (cmd_control_gone(w->control)) {
			rc = cmd_control_unfinished(w->control, err);
			break;
		}
		if (timeout_ms >= 0 && fz_mono_ns() >= end) {
			fz_err_prefix(err, "after %.1f s", (double)timeout_ms / 1000);
			break;
		}
	}
	free(marks);
	return rc;
}

/* Without passthrough the capture asks the agent how far a WAL counts; one that has died is followed by the next within seconds. */
static int capture_all(struct cmd_serving *w, struct fz_err *err)
{
	uint64_t end = fz_mono_ns() + AGENT_MS * UINT64_C(1000000);
	int rc;

	while ((rc = fs_capture_sync(w->capture, NULL, err)) == -FZ_ETIMEOUT && fz_mono_ns() < end &&
	       !cmd_control_gone(w->control))
		(void)!poll(NULL, 0, 100);
	return rc;
}

/* Until all that was committed before the call is in the logs. *timeout_ms (negative = none) becomes what is left of it. */
static int wait_captured(struct cmd_serving *w, int64_t *timeout_ms, struct fz_err *err)
{
	uint64_t start = fz_mono_ns();

	for (;;) {
		int64_t gone_ms = (int64_t)((fz_mono_ns() - start) / 1000000);
		int rc = capture_all(w, err);
		enum fs_pending p;
		char name[512];

		p = rc < 0 ? FS_PENDING_NOTHING : fs_capture_pending(w->capture, name, sizeof(name));
		if (p == FS_PENDING_NOTHING) {
			if (*timeout_ms >= 0)
				*timeout_ms = *timeout_ms > gone_ms ? *timeout_ms - gone_ms : 0;
			return rc;
		}
		if (p == FS_PENDING_MOMENT && gone_ms > MOMENT_MS)
			return fz_fail(err, FZ_EBUSY,
			               "%s: an application holds its lock, so its last commit cannot be captured",
			               name);
		if (*timeout_ms >= 0 && gone_ms >= *timeout_ms)
			return fz_fail(err, FZ_ETIMEOUT, "%s: all pages are still being read", name);
		if (cmd_control_gone(w->control))
			return cmd_control_unfinished(w->control, err);
		(void)!poll(NULL, 0, 10);
	}
}

static int answer_sync(struct cmd_serving *w, const cJSON *request, struct fz_err *err)
{
	int64_t timeout = (int64_t)number_of(request, "timeout_ms", -1);
	int rc;

	if (cJSON_IsTrue(cJSON_GetObjectItem(request, "captured")) && !w->link.role.replica)
		return wait_captured(w, &timeout, err);
	if (!cJSON_IsTrue(cJSON_GetObjectItem(request, "wait")))
		return capture_all(w, err);
	rc = wait_captured(w, &timeout, err);
	return rc < 0 ? rc : sync_targets(w, timeout, err);
}

static int answer_verify(struct cmd_serving *w, const cJSON *request, cJSON *answer, struct fz_err *err)
{
	struct fs_scrub_result r = {0};
	int rc = fs_capture_scrub(w->capture, text_of(request, "name"), &r, err);

	cJSON_AddNumberToObject(answer, "databases", (double)r.databases);
	cJSON_AddNumberToObject(answer, "pages", (double)r.pages);
	cJSON_AddNumberToObject(answer, "differences", (double)r.differences);
	cJSON_AddNumberToObject(answer, "busy", (double)r.busy);
	return rc;
}

static int answer_umount(struct cmd_serving *w, const cJSON *request, cJSON *answer, struct fz_err *err)
{
	bool force = cJSON_IsTrue(cJSON_GetObjectItem(request, "force"));
	int64_t timeout = (int64_t)number_of(request, "timeout_ms", -1);
	int rc = force ? fs_capture_sync(w->capture, NULL, err) : capture_all(w, err);

	if (rc < 0 && force) {
		fz_log_err("unmounted by force: the next mount captures the difference", err);
		rc = 0;
	} else if (rc < 0) {
		fz_err_prefix(err,
		              "what was committed last is not in the local log, so %s stays mounted (`fazt umount "
		              "--force` leaves it to the next mount, which captures the difference)",
		              w->dir);
	} else if (cJSON_IsTrue(cJSON_GetObjectItem(request, "wait"))) {
		rc = wait_captured(w, &timeout, err);
		if (rc == 0)
			rc = sync_targets(w, timeout, err);
	}
	cJSON_AddNumberToObject(answer, "pid", getpid());
	cJSON_AddNumberToObject(answer, "supervisor_pid", w->info.supervisor_pid);
	if (rc == 0) {
		atomic_store(&w->forced, force);
		rc = fs_session_request_umount(w->session, err);
		if (rc == -FZ_ENOTMOUNTED) { /* no supervisor: whoever asks does its part */
			fs_agent_dismiss(w->agent);
			cJSON_AddBoolToObject(answer, "orphan", true);
			*err = (struct fz_err){0};
			rc = 0;
		}
	}
	return rc;
}

int cmd_answer(struct cmd_control_handler *h, const struct cJSON *request, struct cJSON *answer, int *pass_fd,
               struct fz_err *err)
{
	struct cmd_serving *w = (struct cmd_serving *)h;
	const char *cmd = text_of(request, "cmd");

	if (!cmd)
		return fz_fail(err, FZ_EUSAGE, "the request names no command");
	if (!strcmp(cmd, "status")) {
		answer_status(w, answer);
		return 0;
	}
	if (!strcmp(cmd, "sync"))
		return answer_sync(w, request, err);
	if (!strcmp(cmd, "verify"))
		return answer_verify(w, request, answer, err);
	if (!strcmp(cmd, "drop"))
		return cmd_drop_answer(w, request, answer, err);
	if (!strcmp(cmd, "prune"))
		return cmd_prune_answer(w, request, answer, err);
	if (!strcmp(cmd, "drill"))
		return cmd_drill_answer(w, request, answer, err);
	if (!strcmp(cmd, "umount"))
		return answer_umount(w, request, answer, err);
	if (!strcmp(cmd, "positions")) {
		cmd_link_positions(&w->link, answer);
		return 0;
	}
	if (!strcmp(cmd, "entries")) {
		cmd_entries_answer(w, request, answer);
		return 0;
	}
	if (!strcmp(cmd, "alerts"))
		return cmd_alerts_answer(&w->alerts, request, answer, err);
	if (!strcmp(cmd, "handoff"))
		return cmd_handoff_answer(w, text_of(request, "follower") ? text_of(request, "follower") : "", err);
	if (!strcmp(cmd, "promote"))
		return cmd_promote_answer(w, cJSON_IsTrue(cJSON_GetObjectItem(request, "force")), answer, err);
	if (!strcmp(cmd, "estate"))
		return cmd_resume_answer(w, text_of(request, "part"), pass_fd, err);
	if (!strcmp(cmd, "state")) {
		cJSON_AddStringToObject(answer, "state_dir", w->state_path);
		*pass_fd = w->statefd;
		return 0;
	}
	return fz_fail(err, FZ_EUSAGE, "there is no request '%.40s'", cmd);
}
