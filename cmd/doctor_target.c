/* doctor_target.c - the stores of a mount. */
#include "cmd/doctor.h"

#include "cmd/ask.h"
#include "cmd/control.h"
#include "cmd/given.h"
#include "cmd/wire.h"
#include "store/store.h"

#include <cJSON.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#define LAG_MAX_MS 60000
#define ASK_MS     5000
#define TRY_MS     15000
#define CLOCK_MS   5000

static const char *name_of(const struct cmd_target *t)
{
	return t->name && t->name[0] != '#' ? t->name : t->url;
}

static void try_target(struct cmd_doctor *d, const struct cmd_target *conf)
{
	struct cmd_target t = *conf; /* borrowed, with a shorter deadline */
	struct fz_store *store = NULL;
	const struct cmd_probe_result *bad;
	struct cmd_probe_store r;
	struct fz_err err = {0};

	if (!t.timeout_ms || t.timeout_ms > TRY_MS)
		t.timeout_ms = TRY_MS;
	if (cmd_target_open(&t, NULL, false, &store, &err) < 0) {
		cmd_find(d->findings, FZD_TARGET, d->w.dir, NULL, "target %s: %s", name_of(conf), err.text);
		return;
	}
	cmd_probe_store(store, &r);
	bad = cmd_probe_failed(&r, conf->append_only);
	if (bad)
		cmd_find(d->findings, FZD_TARGET, d->w.dir, NULL, "target %s: %s failed: %s", name_of(conf),
		         cmd_probe_name((enum cmd_probe_step)(bad - r.step)), bad->err.text);
	if (r.step[CMD_PROBE_NEW].ok && !strcmp(r.conditional_put, "emulated"))
		cmd_find(d->findings, FZD_CONDITIONAL, d->w.dir, NULL, "target %s ignores If-None-Match",
		         name_of(conf));
	if (cmd_conf_failover(&d->conf) && r.step[CMD_PROBE_SWAP].done && !r.step[CMD_PROBE_SWAP].ok)
		cmd_find(d->findings, FZD_NO_LEASE, d->w.dir, NULL, "target %s: %s", name_of(conf),
		         r.step[CMD_PROBE_SWAP].err.text);
	if (r.clock_known && (r.clock_ahead_ms > CLOCK_MS || r.clock_ahead_ms < -CLOCK_MS))
		cmd_find(d->findings, FZD_CLOCK, d->w.dir, NULL, "this clock is %.0f s %s, by that of target %s",
		         (double)(r.clock_ahead_ms < 0 ? -r.clock_ahead_ms : r.clock_ahead_ms) / 1000,
		         r.clock_ahead_ms < 0 ? "fast" : "slow", name_of(conf));
	fz_store_close(store);
}

/* What the worker says about it. */
static void judge(struct cmd_doctor *d, const cJSON *t, const struct cmd_target *conf)
{
	const char *state = cmd_doctor_text(t, "state"), *name = cmd_doctor_text(t, "name");
	double lag = cmd_doctor_number(t, "lag_seconds");
	double limit = (double)(conf && conf->lag_max_ms ? conf->lag_max_ms : LAG_MAX_MS) / 1000;

	if (!strcmp(state, "fenced")) {
		struct fz_buf command = {0};

		cmd_given_command(d->statefd, d->w.dir, &command);
		cmd_find(d->findings, FZD_FENCED, d->w.dir, fz_buf_str(&command), "target %s: %s", name,
		         cmd_doctor_text(t, "last_error"));
		fz_buf_fini(&command);
	} else if (!strcmp(state, "failed") || lag > limit)
		cmd_find(d->findings, FZD_LAG, d->w.dir, NULL, "target %s lags %.0f s, %.0f bytes%s%s", name, lag,
		         cmd_doctor_number(t, "lag_bytes"), *cmd_doctor_text(t, "last_error") ? ": " : "",
		         cmd_doctor_text(t, "last_error"));
}

static void judge_place(struct cmd_doctor *d, const struct cmd_target *t)
{
	struct stat target, state;

	if (!strncmp(t->url, "dir:", 4)) {
		if (stat(t->url + 4, &target) == 0 && fstat(d->statefd, &state) == 0 && target.st_dev == state.st_dev)
			cmd_find(d->findings, FZD_SAME_DISK, d->w.dir, t->url + 4,
			         "target %s lies on the same filesystem as the local log", name_of(t));
	} else if (!cmd_target_encrypted(&d->conf, t)) {
		cmd_find(d->findings, FZD_PLAIN, d->w.dir, NULL, "target %s is not encrypted", name_of(t));
	}
}

/* Another mount of this host ships to the same place. */
static void compare(struct cmd_doctor *d, const struct cmd_where *other)
{
	cJSON *request = cmd_request("status"), *answer = NULL;
	const cJSON *a, *b;

	if (cmd_control_call(other, request, ASK_MS, &answer, NULL, NULL) == 0)
		cJSON_ArrayForEach (a, cJSON_GetObjectItem(d->status, "targets"))
			cJSON_ArrayForEach (b, cJSON_GetObjectItem(answer, "targets"))
				if (*cmd_doctor_text(a, "url") &&
				    !strcmp(cmd_doctor_text(a, "url"), cmd_doctor_text(b, "url")))
					cmd_find(d->findings, FZD_SHARED, d->w.dir, other->dir,
					         "%s ships to %s as well", other->dir, cmd_doctor_text(a, "url"));
	cJSON_Delete(request);
	cJSON_Delete(answer);
}

void cmd_doctor_targets(struct cmd_doctor *d, const struct cmd_where *others, size_t n)
{
	const cJSON *list = cJSON_GetObjectItem(d->status, "targets"), *t;
	bool replica = !strcmp(cmd_doctor_text(d->status, "role"), "replica");
	size_t i = 0;

	cJSON_ArrayForEach (t, list) {
		judge(d, t, i < d->conf.n_targets ? &d->conf.targets[i] : NULL);
		i++;
	}
	for (i = 0; i < d->conf.n_targets; i++) {
		judge_place(d, &d->conf.targets[i]);
		if (!d->no_probe && !replica)
			try_target(d, &d->conf.targets[i]);
	}
	if (!d->conf.n_targets && !replica)
		cmd_find(d->findings, FZD_NO_TARGET, d->w.dir, NULL, "no target");
	for (i = 0; i < n; i++)
		if (strcmp(others[i].dir, d->w.dir) != 0)
			compare(d, &others[i]);
}
