/* lane.c - the two threads of a target: when they work, when they sleep, and what they do about errors.
 *
 * SLEEP   The fast lane waits in the log set while nothing is unshipped, and for its interval while something is. The
 *         slow lane waits until a level is due; without one, until the fast lane has shipped something. So an idle
 *         worker has no timer.
 * ERRORS  of the store hold up the whole lane: backoff from 1 s to 1 minute, slower when access was denied. Errors of
 *         one database hold up that one. Each lane has its own account of both: it is told once when trouble begins, and
 *         that it is over once something of that lane was stored. Never is a thread given up. */
#include "primary/target.h"

#include "base/array.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MS_NS          UINT64_C(1000000)
#define BACKOFF_MAX_MS 60000
#define DENIED_MAX_MS  300000
#define SLICE_MS       1000 /* looking for a pack that became large, with a long interval */

static void moved(struct primary_target *t)
{
	pthread_mutex_lock(&t->ship->mu);
	t->ship->moves++;
	pthread_cond_broadcast(&t->ship->cond);
	pthread_mutex_unlock(&t->ship->mu);
}

static const char *target_name(const struct primary_target *t)
{
	return t->conf.name ? t->conf.name : fz_store_url(t->store);
}

/* ---- state ------------------------------------------------------------------------------------------------------- */

static void count_requests_locked(struct primary_target *t)
{
	struct fz_store_stats st;

	fz_store_stats(t->store, &st);
	if (st.requests > t->counted)
		primary_budget_spend(&t->budget, st.requests - t->counted, fz_now_ms());
	t->counted = st.requests;
}

const struct primary_trouble *primary_trouble_worse(const struct primary_trouble v[static PRIMARY_LANES])
{
	const struct primary_trouble *a = &v[PRIMARY_FAST], *b = &v[PRIMARY_SLOW];

	return b->state > a->state || (!a->err.code && b->err.code) ? b : a;
}

/* Returns whether there was any. */
static bool end_trouble(struct primary_trouble *v)
{
	bool was = v->state != PRIMARY_OK;

	*v = (struct primary_trouble){.state = PRIMARY_OK};
	return was;
}

void primary_target_ok(struct primary_target *t, struct primary_db *db, enum primary_lane lane, bool stored)
{
	bool back, db_back;

	pthread_mutex_lock(&t->mu);
	count_requests_locked(t);
	back = end_trouble(&t->trouble[lane]);
	if (back && lane == PRIMARY_FAST) /* the other one need not wait to see for itself */
		t->trouble[PRIMARY_SLOW].retry_ns = 0;
	db_back = !db->fenced && end_trouble(&db->trouble[lane]);
	if (stored)
		t->last_success_ms = fz_now_ms();
	pthread_mutex_unlock(&t->mu);
	if (back && stored)
		fz_info("target %s works again", fz_log_target(target_name(t)));
	else if (db_back && stored)
		fz_info("%s: ships to %s again", fz_log_db(db->name), fz_log_target(target_name(t)));
	moved(t);
}

/* From base on, doubled each time, a quarter of it random. */
static uint64_t backoff_ns(unsigned failures, int64_t base_ms, int64_t max_ms)
{
	int64_t ms = base_ms;

	while (failures-- > 1 && ms < max_ms)
		ms *= 2;
	if (ms > max_ms)
		ms = max_ms;
	ms -= (int64_t)(fz_mono_ns() / 1000 % (uint64_t)(ms / 4 + 1));
	return fz_mono_ns() + (uint64_t)ms * MS_NS;
}

void primary_target_fail(struct primary_target *t, struct primary_db *db, enum primary_lane lane, bool asked,
                         const struct fz_err *err)
{
	int64_t base = t->conf.ship_interval_ms < 1000 ? t->conf.ship_interval_ms : 1000;
	bool denied = err->code == -FZ_EAUTH, tell, whole, fenced;
	struct primary_trouble *v;
	enum primary_state state;

	if (err->code == -ECANCELED)
		return;
	/* the store refused this object only: others may go on */
	whole = asked && err->code != -FZ_ESTORE && err->code != -FZ_ECONFLICT && err->code != -FZ_EUSAGE;
	if (!asked)
		fz_tally_add(&t->errors, err->code);
	pthread_mutex_lock(&t->mu);
	count_requests_locked(t);
	db->claim_ns = 0;
	fenced = db->fenced;
	if (fenced) /* both lanes end; one place tells why */
		lane = PRIMARY_FAST;
	v = whole && !fenced ? &t->trouble[lane] : &db->trouble[lane];
	state = whole && denied ? PRIMARY_FAILED : PRIMARY_RETRYING;
	tell = fenced ? v->err.code != err->code : v->state != state;
	v->state = state;
	v->err = *err;
	v->failures++;
	v->retry_ns = whole && denied ? backoff_ns(v->failures, base * 30, DENIED_MAX_MS)
	                              : backoff_ns(v->failures, base, BACKOFF_MAX_MS);
	pthread_mutex_unlock(&t->mu);
	if (tell) {
		struct fz_err e = *err;

		fz_err_prefix(&e, "%s to %s", fz_log_db(db->name), fz_log_target(target_name(t)));
		fz_log_err(fenced ? "fenced" : "shipping waits", &e);
	}
	moved(t);
}

/* ---- databases of a target --------------------------------------------------------------------------------------- */

struct primary_db *primary_target_db_locked(struct primary_target *t, const char *lineage, size_t hint)
{
	if (hint < t->n_dbs && strcmp(t->dbs[hint]->lineage, lineage) == 0)
		return t->dbs[hint];
	for (size_t i = 0; i < t->n_dbs; i++)
		if (strcmp(t->dbs[i]->lineage, lineage) == 0)
			return t->dbs[i];
	return NULL;
}

/* The database of a log; it is opened when first seen. Fast lane. NULL: the error was told. */
static struct primary_db *get_db(struct primary_target *t, const struct ltx_log_info *info, size_t hint)
{
	struct primary_db *db;
	struct fz_err err;
	bool told;

	pthread_mutex_lock(&t->mu);
	db = primary_target_db_locked(t, info->lineage, hint);
	pthread_mutex_unlock(&t->mu);
	if (db)
		return db;
	if (primary_db_open(&db, t, info, &err) < 0) {
		pthread_mutex_lock(&t->mu);
		told = t->open_err.code == err.code;
		t->open_err = err;
		pthread_mutex_unlock(&t->mu);
		if (!told)
			fz_log_err("shipping", &err);
		return NULL;
	}
	pthread_mutex_lock(&t->mu);
	t->open_err.code = 0;
	if (fz_array_room(t->dbs, t->n_dbs, t->cap_dbs)) {
		t->dbs[t->n_dbs++] = db;
	} else {
		primary_db_close(db);
		db = NULL;
	}
	pthread_mutex_unlock(&t->mu);
	return db;
}

static struct ltx_log *find_log(struct ltx_logset *set, const char *lineage, size_t hint)
{
	struct ltx_log_info info;
	struct ltx_log *log = ltx_logset_at(set, hint);

	if (log) {
		ltx_log_info(log, &info);
		if (strcmp(info.lineage, lineage) == 0)
			return log;
		ltx_log_put(log);
	}
	return ltx_logset_find(set, lineage);
}

/* Logs that were removed: their cursors go with them. Missing in two passes and in a search of its own, since the list may
 * shift while a pass goes through it. Fast lane. */
static void forget_gone(struct primary_target *t)
{
	for (size_t i = 0;; i++) {
		struct primary_db *db;
		struct ltx_log *log;
		bool gone;

		pthread_mutex_lock(&t->mu);
		db = i < t->n_dbs ? t->dbs[i] : NULL;
		gone = db && !db->in_logs && db->missing++ > 0 && !db->slow_busy && !db->pins;
		if (db && db->in_logs)
			db->missing = 0;
		pthread_mutex_unlock(&t->mu);
		if (!db)
			return;
		if (!gone)
			continue;
		log = find_log(t->ship->logs, db->lineage, i);
		ltx_log_put(log);
		if (log)
			continue;
		pthread_mutex_lock(&t->mu);
		gone = !db->slow_busy && !db->pins;
		if (gone) {
			memmove(&t->dbs[i], &t->dbs[i + 1], (t->n_dbs - i - 1) * sizeof(*t->dbs));
			t->n_dbs--;
		}
		pthread_mutex_unlock(&t->mu);
		if (!gone)
			continue;
		if (fz_remove_tree(t->statefd, db->dir, NULL) < 0)
			fz_debug("%s: could not be removed", db->dir);
		primary_db_close(db);
		i--;
	}
}

/* Bytes of the log above txid, without end when more than limit: one look where both ends lie in one segment. */
uint64_t primary_log_bytes(struct ltx_log *log, uint64_t txid, uint64_t tail, uint64_t limit)
{
	struct ltx_log_entry a, b;
	uint64_t sum = 0;

	if (txid >= tail || ltx_log_find(log, txid + 1, &a, NULL) < 0 || ltx_log_find(log, tail, &b, NULL) < 0)
		return 0;
	if (a.seg == b.seg)
		return b.e.off_bytes + b.e.size_bytes - a.e.off_bytes;
	for (;;) {
		sum += a.e.size_bytes;
		if (a.e.max_txid >= tail || sum > limit || ltx_log_find(log, a.e.max_txid + 1, &a, NULL) < 0)
			return sum;
	}
}

/* ---- fast lane --------------------------------------------------------------------------------------------------- */

static bool stopping(struct primary_target *t)
{
	bool stop;

	pthread_mutex_lock(&t->mu);
	stop = t->stop;
	pthread_mutex_unlock(&t->mu);
	return stop;
}

/* ms until this database wants a pack; -1 = it does not, 0 = now. */
static int64_t ship_due(struct primary_target *t, struct primary_db *db, struct ltx_log *log,
                        const struct ltx_log_info *info, bool force)
{
	uint64_t now = fz_mono_ns(), due, txid;
	int64_t ms = -1, interval;

	pthread_mutex_lock(&t->mu);
	db->in_logs = true;
	db->tail_txid = info->tail_txid;
	db->db_bytes = (uint64_t)info->commit * info->page_size;
	db->ended = info->ended_ms != 0;
	txid = db->cur.txid;
	interval = t->interval_ms;
	if (db->behind_txid != db->cur.held_txid || db->cur.held_txid >= info->tail_txid)
		db->behind_ms = 0;
	db->behind_txid = db->cur.held_txid;
	if (db->behind_ms == 0 && db->cur.held_txid < info->tail_txid)
		db->behind_ms = fz_now_ms();
	if (force) {
		db->want_txid = info->tail_txid;
		db->trouble[PRIMARY_FAST].retry_ns = 0;
	}
	if (db->fenced || db->gap || (txid >= info->tail_txid && !primary_db_ends_locked(db, info))) {
		db->since_ns = 0;
	} else {
		if (db->since_ns == 0)
			db->since_ns = now;
		due = db->want_txid > txid ? 0 : db->since_ns + (uint64_t)interval * MS_NS;
		if (due < db->trouble[PRIMARY_FAST].retry_ns)
			due = db->trouble[PRIMARY_FAST].retry_ns;
		ms = due <= now ? 0 : (int64_t)((due - now + MS_NS - 1) / MS_NS);
	}
	pthread_mutex_unlock(&t->mu);
	if (ms > SLICE_MS && interval > SLICE_MS && t->conf.requests_per_month == 0) {
		ms = SLICE_MS;
		if (primary_log_bytes(log, txid, info->tail_txid, t->conf.ship_bytes) >= t->conf.ship_bytes)
			ms = 0;
	}
	return ms;
}

/* Ships what was in the log at the call. */
static void ship_all(struct primary_target *t, struct primary_db *db, struct ltx_log *log,
                     const struct ltx_log_info *info)
{
	struct fz_err err = {.code = 0};
	bool asked;
	int rc;

	do {
		rc = primary_db_ship(t, db, log, &asked, &err);
		if (rc < 0)
			primary_target_fail(t, db, PRIMARY_FAST, asked, &err);
		else if (rc > 0)
			primary_target_ok(t, db, PRIMARY_FAST, true);
		pthread_mutex_lock(&t->mu);
		db->since_ns = 0;
		if (rc > 0 && db->cur.txid >= info->tail_txid && !primary_db_ends_locked(db, info))
			rc = 0;
		if (t->stop)
			rc = 0;
		pthread_mutex_unlock(&t->mu);
	} while (rc > 0);
}

/* One look at every log. Returns ms until the next; -1 = when something is appended. */
static int64_t fast_pass(struct primary_target *t)
{
	int64_t wait = -1;
	unsigned active = 0;
	struct ltx_log *log;
	uint64_t now = fz_mono_ns();
	uint64_t *retry_ns = &t->trouble[PRIMARY_FAST].retry_ns;
	bool force, work = false;

	pthread_mutex_lock(&t->mu);
	force = t->force;
	t->force = false;
	t->nudged = false;
	for (size_t i = 0; i < t->n_dbs; i++)
		t->dbs[i]->in_logs = false;
	if (force) /* an explicit wish is tried at once */
		*retry_ns = t->trouble[PRIMARY_SLOW].retry_ns = 0;
	if (*retry_ns > now)
		wait = (int64_t)((*retry_ns - now) / MS_NS) + 1;
	pthread_mutex_unlock(&t->mu);

	for (size_t i = 0; (log = ltx_logset_at(t->ship->logs, i)); i++) {
		struct ltx_log_info info;
		struct primary_db *db;
		int64_t due;
		bool held_up;

		ltx_log_info(log, &info);
		db = get_db(t, &info, i);
		due = db ? ship_due(t, db, log, &info, force) : -1;
		if (due >= 0)
			active++;
		pthread_mutex_lock(&t->mu);
		held_up = t->stop || *retry_ns > fz_mono_ns();
		pthread_mutex_unlock(&t->mu);
		if (due == 0 && !held_up) {
			ship_all(t, db, log, &info);
			work = true;
			due = ship_due(t, db, log, &info, false);
		}
		if (due >= 0 && (wait < 0 || due < wait))
			wait = due;
		ltx_log_put(log);
	}
	forget_gone(t);
	pthread_mutex_lock(&t->mu);
	t->interval_ms = primary_budget_interval_ms(&t->budget, t->conf.ship_interval_ms, active, fz_now_ms());
	now = fz_mono_ns();
	if (active && *retry_ns > now) /* nothing is tried before */
		wait = (int64_t)((*retry_ns - now) / MS_NS) + 1;
	else if (!active)
		wait = -1;
	if (t->force)
		wait = 0;
	pthread_mutex_unlock(&t->mu);
	if (work)
		fz_worker_kick(&t->slow);
	return wait;
}

void primary_lane_fast(void *arg)
{
	struct primary_target *t = arg;
	bool first = true;

	while (!stopping(t)) {
		uint64_t gen = ltx_logset_wait(t->ship->logs, UINT64_MAX, 0);
		int64_t wait = fast_pass(t);

		if (first) /* levels may be due since before the last stop */
			fz_worker_kick(&t->slow);
		first = false;
		if (wait < 0)
			(void)ltx_logset_wait(t->ship->logs, gen, -1);
		else if (wait > 0 && !fz_worker_wait(&t->fast, wait))
			break;
	}
	pthread_mutex_lock(&t->mu);
	t->fast_done = true;
	pthread_mutex_unlock(&t->mu);
	moved(t);
}

/* ---- slow lane --------------------------------------------------------------------------------------------------- */

/* ms until the store may be asked again. */
static int64_t held_up_ms(struct primary_target *t)
{
	int64_t ms = 0;
	uint64_t now = fz_mono_ns(), retry_ns;

	pthread_mutex_lock(&t->mu);
	retry_ns = t->trouble[PRIMARY_SLOW].retry_ns;
	/* what the fast lane found out about the store is known: it asks first */
	if (t->trouble[PRIMARY_FAST].retry_ns > retry_ns)
		retry_ns = t->trouble[PRIMARY_FAST].retry_ns;
	if (retry_ns > now)
		ms = (int64_t)((retry_ns - now) / MS_NS) + 1;
	else if (t->stop)
		ms = 1;
	pthread_mutex_unlock(&t->mu);
	return ms;
}

/* A gap may be healed: the fast lane goes on. A wake-up that comes before it sleeps is lost, so it is repeated until the
 * lane has had a look. */
static bool nudge(struct primary_target *t, bool begin)
{
	bool on;

	pthread_mutex_lock(&t->mu);
	t->nudged |= begin;
	on = t->nudged && !t->stop;
	pthread_mutex_unlock(&t->mu);
	if (on) {
		ltx_logset_wake(t->ship->logs);
		fz_worker_kick(&t->fast);
	}
	return on;
}

/* One step for a database. Returns its wait, 0 when something was done. */
static int64_t step(struct primary_target *t, struct primary_db *db, size_t hint)
{
	struct fz_err err = {.code = 0};
	struct ltx_log *log;
	int64_t wait, held_up;
	bool asked = false, stored = false;
	int rc;

	if (!primary_maintain_due(t, db, fz_now_ms(), &wait))
		return wait;
	held_up = held_up_ms(t);
	if (held_up)
		return held_up;
	log = find_log(t->ship->logs, db->lineage, hint);
	if (!log)
		return -1;
	rc = primary_maintain(t, db, log, &asked, &stored, &err);
	ltx_log_put(log);
	if (rc > 0) {
		primary_target_ok(t, db, PRIMARY_SLOW, stored);
		nudge(t, true);
		return 0;
	}
	if (rc < 0)
		primary_target_fail(t, db, PRIMARY_SLOW, asked, &err);
	/* nothing came of it: whatever made it due is asked again, at the latest after the backoff */
	return primary_maintain_due(t, db, fz_now_ms(), &wait) ? 100 : wait;
}

static int64_t slow_pass(struct primary_target *t)
{
	int64_t wait = -1;

	for (size_t i = 0;; i++) {
		struct primary_db *db;
		int64_t w;

		pthread_mutex_lock(&t->mu);
		db = i < t->n_dbs && !t->stop ? t->dbs[i] : NULL;
		if (db)
			db->slow_busy = true; /* nobody closes it */
		pthread_mutex_unlock(&t->mu);
		if (!db)
			return wait;
		w = step(t, db, i);
		pthread_mutex_lock(&t->mu);
		db->slow_busy = false;
		pthread_mutex_unlock(&t->mu);
		if (w >= 0 && (wait < 0 || w < wait))
			wait = w;
	}
}

static void save_budget(struct primary_target *t, int64_t *saved_ms, bool now)
{
	struct primary_budget b;
	struct fz_err err;
	char path[64];

	if (!t->conf.requests_per_month || (!now && fz_now_ms() - *saved_ms < 60000))
		return;
	pthread_mutex_lock(&t->mu);
	b = t->budget;
	pthread_mutex_unlock(&t->mu);
	snprintf(path, sizeof(path), "%s/budget", t->dir);
	if (primary_budget_save(&b, t->statefd, path, &err) < 0)
		fz_debug("budget: %s", fz_log_why(&err));
	*saved_ms = fz_now_ms();
}

void primary_lane_slow(void *arg)
{
	struct primary_target *t = arg;
	int64_t wait = -1, saved_ms = 0;

	/* compaction must not slow an application's commits down */
	setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 10);
	while (fz_worker_wait(&t->slow, wait)) {
		do
			wait = slow_pass(t);
		while (wait == 0 && !stopping(t));
		save_budget(t, &saved_ms, false);
		if (nudge(t, false) && (wait < 0 || wait > 10))
			wait = 10;
	}
	save_budget(t, &saved_ms, true);
}
