/* ship.c - start and stop shipping, and wait until it is done. What the threads do: lane.c. */
#include "primary/ship.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "primary/target.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MS_NS UINT64_C(1000000)

/* ---- start and stop ---------------------------------------------------------------------------------------------- */

static int64_t or_default(int64_t v, int64_t d)
{
	return v ? v : d;
}

void primary_target_retain(const struct primary_target_conf *c, struct primary_retain_conf *out)
{
	*out = (struct primary_retain_conf){
	        .keep_ms = {or_default(c->keep_commits_ms, INT64_C(86400000)),
	                    or_default(c->keep_minutes_ms, INT64_C(7) * 86400000),
	                    or_default(c->keep_hours_ms, INT64_C(30) * 86400000),
	                    or_default(c->keep_days_ms, INT64_C(365) * 86400000)},
	        .day_ms = or_default(c->day_ms, 86400000),
	        .delete_grace_ms = or_default(c->delete_grace_ms, 3600000),
	        .append_only = c->append_only
        };
}

static void target_close(struct primary_target *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < t->n_dbs; i++)
		primary_db_close(t->dbs[i]);
	free(t->dbs);
	fz_store_close(t->store);
	free((char *)t->conf.name);
	free((struct ltx_age_recipient *)t->conf.recipients);
	pthread_mutex_destroy(&t->claim_mu);
	pthread_mutex_destroy(&t->save_mu);
	pthread_mutex_destroy(&t->mu);
	free(t);
}

static int target_open(struct primary_target **out, struct primary_ship *s, const struct primary_ship_conf *conf,
                       const struct primary_target_conf *c, struct fz_err *err)
{
	struct primary_target *t = calloc(1, sizeof(*t));
	struct ltx_age_recipient *r;
	const char *url = fz_store_url(c->store);
	char path[64];
	int rc;

	if (!t) {
		fz_store_close(c->store);
		return fz_fail_errno(err, ENOMEM, "opening target %s", url);
	}
	t->ship = s;
	t->conf = *c;
	t->store = c->store;
	t->statefd = conf->statefd;
	t->conf.name = NULL;
	t->conf.recipients = NULL;
	pthread_mutex_init(&t->claim_mu, NULL);
	pthread_mutex_init(&t->save_mu, NULL);
	pthread_mutex_init(&t->mu, NULL);
	t->conf.ship_interval_ms = or_default(c->ship_interval_ms, 1000);
	t->conf.ship_bytes = c->ship_bytes ? c->ship_bytes : UINT64_C(4) << 20;
	t->interval_ms = t->conf.ship_interval_ms;
	t->levels.window_ms[LTX_L_PACK_MINUTE] = t->levels.window_ms[LTX_L_MINUTE] = or_default(c->minute_ms, 60000);
	t->levels.window_ms[LTX_L_PACK_HOUR] = t->levels.window_ms[LTX_L_HOUR] = or_default(c->hour_ms, 3600000);
	t->levels.window_ms[LTX_L_DAY] = or_default(c->day_ms, 86400000);
	t->levels.snapshot_interval_ms = or_default(c->snapshot_interval_ms, 86400000);
	t->levels.settle_ms = t->levels.window_ms[LTX_L_MINUTE] / 30; /* 2 s */
	primary_target_retain(c, &t->retain);
	snprintf(t->id, sizeof(t->id), "%016" PRIx64, ltx_crc64(0, url, strlen(url)));
	snprintf(t->dir, sizeof(t->dir), "ship/%s", t->id);
	snprintf(t->writer, sizeof(t->writer), "%s", conf->writer ? conf->writer : "");
	r = malloc((c->n_recipients ? c->n_recipients : 1) * sizeof(*r));
	if (r && c->n_recipients)
		memcpy(r, c->recipients, c->n_recipients * sizeof(*r));
	t->conf.recipients = r;
	if (c->name)
		t->conf.name = strdup(c->name);
	rc = r && (!c->name || t->conf.name) ? 0 : fz_fail_errno(err, ENOMEM, "opening target %s", url);
	if (rc == 0)
		rc = fz_mkdirs(t->statefd, t->dir, 0700, err);
	if (rc == 0)
		rc = primary_writer_id(t->statefd, t->writer_id, err);
	primary_budget_init(&t->budget, c->requests_per_month, fz_now_ms());
	snprintf(path, sizeof(path), "%s/budget", t->dir);
	if (rc == 0 && c->requests_per_month)
		rc = primary_budget_load(&t->budget, t->statefd, path, err);
	if (rc < 0) {
		target_close(t);
		return rc;
	}
	*out = t;
	return 0;
}

int primary_ship_start(struct primary_ship **out, const struct primary_ship_conf *conf, struct fz_err *err)
{
	struct primary_ship *s = calloc(1, sizeof(*s));
	pthread_condattr_t ca;
	size_t opened = 0;
	int rc = 0;

	if (s)
		s->targets = calloc(conf->n_targets ? conf->n_targets : 1, sizeof(struct primary_target *));
	if (!s || !s->targets) {
		for (size_t i = 0; i < conf->n_targets; i++)
			fz_store_close(conf->targets[i].store);
		free(s);
		return fz_fail_errno(err, ENOMEM, "starting to ship");
	}
	s->logs = conf->logs;
	pthread_mutex_init(&s->mu, NULL);
	pthread_condattr_init(&ca);
	pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
	pthread_cond_init(&s->cond, &ca);
	pthread_condattr_destroy(&ca);
	for (; rc == 0 && opened < conf->n_targets; opened++) {
		rc = target_open(&s->targets[s->n], s, conf, &conf->targets[opened], err);
		if (rc == 0)
			s->n++;
	}
	for (; opened < conf->n_targets; opened++)
		fz_store_close(conf->targets[opened].store);
	for (size_t i = 0; rc == 0 && i < s->n; i++) {
		char name[16];

		snprintf(name, sizeof(name), "level-%zu", i % 1000);
		rc = fz_worker_start(&s->targets[i]->slow, name, primary_lane_slow, s->targets[i], err);
		snprintf(name, sizeof(name), "ship-%zu", i % 1000);
		if (rc == 0)
			rc = fz_worker_start(&s->targets[i]->fast, name, primary_lane_fast, s->targets[i], err);
	}
	if (rc < 0) {
		primary_ship_stop(s, 0);
		return rc;
	}
	*out = s;
	return 0;
}

/* Waits for the next move after `seen`, at most ms (-1 = for ever). Returns the moves now. */
static uint64_t wait_move(struct primary_ship *s, uint64_t seen, int64_t ms)
{
	struct timespec until;
	uint64_t moves;

	pthread_mutex_lock(&s->mu);
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += ms / 1000;
	until.tv_nsec += ms % 1000 * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	while (s->moves == seen)
		if (ms < 0)
			pthread_cond_wait(&s->cond, &s->mu);
		else if (pthread_cond_timedwait(&s->cond, &s->mu, &until) == ETIMEDOUT)
			break;
	moves = s->moves;
	pthread_mutex_unlock(&s->mu);
	return moves;
}

void primary_ship_stop(struct primary_ship *s, int64_t grace_ms)
{
	struct fz_err err;

	if (!s)
		return;
	if (grace_ms > 0 && s->n > 0 && primary_ship_sync(s, grace_ms, &err) < 0)
		fz_warn("not everything was shipped before the end: %s", fz_log_why(&err));
	for (size_t i = 0; i < s->n; i++) {
		struct primary_target *t = s->targets[i];

		pthread_mutex_lock(&t->mu);
		t->stop = true;
		pthread_mutex_unlock(&t->mu);
		__atomic_store_n(&t->cancel, true, __ATOMIC_SEQ_CST);
		fz_store_cancel(t->store);
	}
	for (size_t i = 0; i < s->n; i++) {
		struct primary_target *t = s->targets[i];
		bool done = !t->fast.started;
		uint64_t seen = 0;

		while (!done) { /* a wake-up that comes before the lane sleeps is lost: it is repeated */
			fz_worker_kick(&t->fast);
			ltx_logset_wake(s->logs);
			seen = wait_move(s, seen, 5);
			pthread_mutex_lock(&t->mu);
			done = t->fast_done;
			pthread_mutex_unlock(&t->mu);
		}
		fz_worker_stop(&t->fast);
		fz_worker_stop(&t->slow);
		target_close(t);
	}
	pthread_cond_destroy(&s->cond);
	pthread_mutex_destroy(&s->mu);
	free(s->targets);
	free(s);
}

/* ---- sync -------------------------------------------------------------------------------------------------------- */

struct goal {
	char lineage[17];
	uint64_t txid;
};

static int collect_goals(struct ltx_logset *set, struct goal **out, size_t *n, struct fz_err *err)
{
	struct goal *v = NULL;
	struct ltx_log *log;
	size_t count = 0;

	for (size_t i = 0; (log = ltx_logset_at(set, i)); i++) {
		struct ltx_log_info info;
		struct goal *p = realloc(v, (count + 1) * sizeof(*v));

		if (!p) {
			ltx_log_put(log);
			free(v);
			return fz_fail_errno(err, ENOMEM, "waiting for targets");
		}
		v = p;
		ltx_log_info(log, &info);
		memcpy(v[count].lineage, info.lineage, sizeof(v[count].lineage));
		v[count++].txid = info.tail_txid;
		ltx_log_put(log);
	}
	*out = v;
	*n = count;
	return 0;
}

/* 1 = the target holds it all, 0 = not yet, or what stands in the way for good. *err = the last error in any case. */
static int reached(struct primary_target *t, const struct goal *g, size_t n, bool *unseen, struct fz_err *err)
{
	const struct primary_trouble *whole;
	int rc = 1, never = 0;

	pthread_mutex_lock(&t->mu);
	*unseen = t->force;
	whole = primary_trouble_worse(t->trouble);
	if (t->open_err.code)
		*err = t->open_err;
	if (whole->err.code)
		*err = whole->err;
	for (size_t i = 0; i < n && rc >= 0; i++) {
		const struct primary_db *db = primary_target_db_locked(t, g[i].lineage, i);

		if (g[i].txid == 0 || (db && db->cur.held_txid >= g[i].txid))
			continue;
		if (db && primary_trouble_worse(db->trouble)->err.code)
			*err = primary_trouble_worse(db->trouble)->err;
		if (db && err->code == -FZ_EUSAGE) { /* no store takes such a name: the others are waited for */
			never = err->code;
			continue;
		}
		rc = 0;
		if (db && db->fenced)
			rc = db->trouble[PRIMARY_FAST].err.code;
		else if (whole->state == PRIMARY_FAILED && !t->force)
			rc = whole->err.code;
	}
	pthread_mutex_unlock(&t->mu);
	return rc == 1 && never ? never : rc;
}

int primary_ship_sync(struct primary_ship *s, int64_t timeout_ms, struct fz_err *err)
{
	uint64_t end_ns = fz_mono_ns() + (uint64_t)(timeout_ms < 0 ? 0 : timeout_ms) * MS_NS, seen = 0;
	struct goal *goals = NULL;
	size_t n = 0;
	int rc = collect_goals(s->logs, &goals, &n, err);

	if (rc < 0)
		return rc;
	for (size_t i = 0; i < s->n; i++) {
		struct primary_target *t = s->targets[i];

		pthread_mutex_lock(&t->mu);
		t->force = true;
		for (int l = 0; l < PRIMARY_LANES; l++) /* its next try decides */
			if (t->trouble[l].state == PRIMARY_FAILED)
				t->trouble[l].state = PRIMARY_RETRYING;
		pthread_mutex_unlock(&t->mu);
	}
	for (;;) {
		struct fz_err last = {.code = 0}, one;
		bool all = true, unseen = false;
		int64_t left = timeout_ms < 0 ? -1 : (int64_t)(end_ns - fz_mono_ns()) / (int64_t)MS_NS;

		pthread_mutex_lock(&s->mu);
		seen = s->moves;
		pthread_mutex_unlock(&s->mu);
		for (size_t i = 0; i < s->n; i++) {
			bool u = false;

			one.code = 0;
			rc = reached(s->targets[i], goals, n, &u, &one);
			if (rc < 0) {
				*err = one;
				goto out;
			}
			if (rc == 0)
				all = false;
			if (rc == 0 && one.code)
				last = one;
			if (u)
				fz_worker_kick(&s->targets[i]->fast);
			unseen |= u;
		}
		rc = 0;
		if (all)
			break;
		if (timeout_ms >= 0 && fz_mono_ns() >= end_ns) {
			if (last.code)
				*err = last;
			rc = last.code ? last.code : fz_fail(err, FZ_ETIMEOUT, "not every target has every commit");
			break;
		}
		if (unseen)
			ltx_logset_wake(s->logs);
		if (unseen && (left < 0 || left > 5))
			left = 5;
		(void)wait_move(s, seen, left < 0 ? -1 : left + 1);
	}
out:
	free(goals);
	return rc;
}

/* The least that a target has of the database; one that does not know it has 0. */
static uint64_t least(struct primary_ship *s, const char *lineage, uint64_t (*of_locked)(const struct primary_db *db))
{
	uint64_t min = UINT64_MAX;

	for (size_t i = 0; i < s->n; i++) {
		struct primary_target *t = s->targets[i];
		const struct primary_db *db;
		uint64_t at;

		pthread_mutex_lock(&t->mu);
		db = primary_target_db_locked(t, lineage, 0);
		at = db ? of_locked(db) : 0;
		pthread_mutex_unlock(&t->mu);
		if (at < min)
			min = at;
	}
	return min;
}

static uint64_t held_locked(const struct primary_db *db)
{
	return db->cur.held_txid;
}

static uint64_t settled_locked(const struct primary_db *db)
{
	const struct primary_levels_state *l = &db->cur.levels;
	uint64_t at = db->cur.held_txid;

	if (db->gap || l->need_snapshot)
		return 0;
	for (int k = LTX_L_PACK_MINUTE; k <= LTX_L_MINUTE; k++)
		if (l->first_ms[k] >= 0 && l->from_txid[k] && l->from_txid[k] - 1 < at)
			at = l->from_txid[k] - 1;
	return at;
}

uint64_t primary_ship_position(struct primary_ship *s, const char *lineage)
{
	return least(s, lineage, held_locked);
}

uint64_t primary_ship_settled(struct primary_ship *s, const char *lineage)
{
	return least(s, lineage, settled_locked);
}

bool primary_ship_told_end(struct primary_ship *s, const struct ltx_log_info *info)
{
	bool all = true;

	for (size_t i = 0; all && i < s->n; i++) {
		struct primary_target *t = s->targets[i];
		const struct primary_db *db;

		pthread_mutex_lock(&t->mu);
		db = primary_target_db_locked(t, info->lineage, 0);
		all = db && !primary_db_ends_locked(db, info);
		pthread_mutex_unlock(&t->mu);
	}
	return all;
}
