/* maintain.c - the slow lane's steps for one database: levels, snapshots, retention. One object a call. */
#include "primary/target.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "primary/pack.h"
#include "primary/snapshot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LEVEL_BYTES   (UINT64_C(64) << 20) /* of one object of levels 1 and 2 */
#define LEVEL_ENTRIES 32768

static int64_t sooner(int64_t a, int64_t b)
{
	return a < 0 ? b : b < 0 ? a : a < b ? a : b;
}

/* ---- what is due ------------------------------------------------------------------------------------------------- */

/* Of several lineages of one name, the newest one's judgement counts for all. */
static bool judges(const struct primary_target *t, const struct primary_db *db)
{
	for (size_t i = 0; i < t->n_dbs; i++)
		if (t->dbs[i] != db && t->dbs[i]->created_ms > db->created_ms && strcmp(t->dbs[i]->name, db->name) == 0)
			return false;
	return true;
}

static bool judge_due_locked(struct primary_target *t, struct primary_db *db, int64_t now_ms, int64_t *wait_ms)
{
	int64_t at = 0;

	*wait_ms = -1;
	if (db->cur.claim == 0 || (!db->news && !db->judge_at_ms) || !judges(t, db))
		return false;
	if (db->news)
		at = db->cur.retained_ms + t->levels.window_ms[LTX_L_HOUR];
	if (db->judge_at_ms && (!at || db->judge_at_ms < at))
		at = db->judge_at_ms;
	if (db->cur.retained_ms > now_ms) /* the clock was set back */
		at = now_ms;
	*wait_ms = at > now_ms ? at - now_ms : 0;
	return at <= now_ms;
}

bool primary_maintain_due(struct primary_target *t, struct primary_db *db, int64_t now_ms, int64_t *wait_ms)
{
	int64_t judge_wait, wait = -1, budget;
	bool due, urgent;

	pthread_mutex_lock(&t->mu);
	*wait_ms = -1;
	if (db->fenced || db->tail_txid == 0) {
		pthread_mutex_unlock(&t->mu);
		return false;
	}
	urgent = db->cur.levels.need_snapshot || db->slow_spooled.max_txid > 0;
	due = urgent || primary_levels_due(&t->levels, &db->cur.levels, db->cur.txid, db->db_bytes, now_ms, &wait) != 0;
	due = judge_due_locked(t, db, now_ms, &judge_wait) || due;
	budget = primary_budget_wait_ms(&t->budget, now_ms);
	if (due && budget > 0 && !urgent) {
		due = false;
		wait = judge_wait = budget;
	}
	if (due && db->trouble[PRIMARY_SLOW].retry_ns > fz_mono_ns()) {
		due = false;
		wait = (int64_t)((db->trouble[PRIMARY_SLOW].retry_ns - fz_mono_ns()) / 1000000) + 1;
		judge_wait = -1;
	}
	pthread_mutex_unlock(&t->mu);
	*wait_ms = due ? 0 : sooner(wait, judge_wait);
	return due;
}

/* ---- acknowledged ------------------------------------------------------------------------------------------------ */

static int64_t next_ms(struct ltx_log *log, uint64_t next_txid, uint64_t shipped_txid)
{
	int64_t ms = next_txid <= shipped_txid ? primary_db_time(log, next_txid) : -1;

	/* shipped, but no longer in the log: the level finds that out when it gets to it */
	return next_txid <= shipped_txid && ms < 0 ? fz_now_ms() : ms;
}

/* Moves every merged level past a snapshot that healed something. The shipped position is read under mu, so a pack that
 * is acknowledged meanwhile is not forgotten. */
static void restart_levels(struct primary_target *t, struct primary_db *db, struct ltx_log *log, uint64_t txid,
                           int first_level)
{
	int64_t ms = primary_db_time(log, txid + 1);

	pthread_mutex_lock(&t->mu);
	for (int l = first_level; l < PRIMARY_LEVELS; l++)
		if (db->cur.levels.from_txid[l] <= txid)
			primary_levels_advance(&db->cur.levels, l, txid + 1, db->cur.txid > txid ? ms : -1);
	pthread_mutex_unlock(&t->mu);
}

static void acknowledge(struct primary_target *t, struct primary_db *db, struct ltx_log *log,
                        const struct primary_place *at, const struct ltx_name *n)
{
	struct primary_levels_state *l = &db->cur.levels;
	uint64_t db_bytes;
	bool healed, again;
	int64_t ms;

	ms = primary_db_time(log, n->max_txid + 1);
	pthread_mutex_lock(&t->mu);
	again = db->gap && db->cur.txid >= n->max_txid; /* found while this was on its way */
	healed = n->level == LTX_L_SNAPSHOT && l->need_snapshot && !again;
	if (n->level == LTX_L_SNAPSHOT) {
		l->snap_txid = n->max_txid;
		l->snap_ms = fz_now_ms();
		l->since_snap_bytes = 0;
		l->need_snapshot = again;
		if (db->gap && db->cur.txid < n->max_txid) { /* it was in the spool when the last worker ended */
			db->cur.txid = n->max_txid;
			db->cur.checksum = n->post_checksum;
			db->gap = false;
		}
		if (db->cur.anchor_wait && !again) { /* the packs since then lie there already */
			db->cur.anchor_wait = false;
			db->cur.held_txid = db->cur.txid > n->max_txid ? db->cur.txid : n->max_txid;
		}
	} else {
		primary_levels_advance(l, n->level, n->max_txid + 1, db->cur.txid > n->max_txid ? ms : -1);
		if (db->cur.txid > n->max_txid && ms < 0)
			l->first_ms[n->level] = fz_now_ms();
	}
	db->news = true;
	db_bytes = db->db_bytes;
	pthread_mutex_unlock(&t->mu);
	if (healed)
		restart_levels(t, db, log, n->max_txid, LTX_L_MINUTE);
	(void)primary_db_save(t, db);
	primary_spool_drop(at->dirfd, n, false);
	if (n->level >= LTX_L_MINUTE)
		primary_plain_tidy(at, n, db_bytes);
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

/* Puts what lies in the spool. */
static int put_spooled(struct primary_target *t, struct primary_db *db, struct ltx_log *log,
                       const struct primary_place *at, bool *asked, struct fz_err *err)
{
	struct fz_src *src = NULL;
	int rc = primary_spool_open(at->dirfd, &db->slow_spooled, false, &src, err);

	if (rc == 0)
		rc = primary_db_put(t, db, &db->slow_spooled, src, asked, err);
	if (rc == 0)
		acknowledge(t, db, log, at, &db->slow_spooled);
	if (rc == 0 || rc == -ENOENT) {
		pthread_mutex_lock(&t->mu);
		db->slow_spooled.max_txid = 0;
		pthread_mutex_unlock(&t->mu);
	}
	fz_src_close(src);
	return rc == 0 ? 1 : rc;
}

static int snapshot(struct primary_target *t, struct primary_db *db, struct ltx_log *log,
                    const struct primary_place *at, const struct primary_cursor *c, struct ltx_name *name,
                    struct fz_err *err)
{
	struct ltx_log_info info;
	uint64_t txid;
	bool gap;
	int rc = ltx_log_sync(log, err);

	if (rc < 0)
		return rc;
	ltx_log_info(log, &info);
	if (info.synced_txid == 0)
		return fz_fail(err, FZ_ENOTFOUND, "%s is empty", db->name);
	pthread_mutex_lock(&t->mu);
	gap = db->gap;
	pthread_mutex_unlock(&t->mu);
	/* Over a gap it goes as far as it can; else it ends where the packs are, so that each later commit is in one. */
	if (gap || c->txid == 0)
		txid = info.synced_txid;
	else
		txid = c->levels.need_snapshot ? c->txid : primary_levels_snapshot_txid(&c->levels, c->txid);
	rc = primary_snapshot_build(log, at, txid, name, err);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&t->mu);
	db->slow_spooled = *name;
	if (db->gap && name->max_txid > db->cur.txid) {
		db->cur.txid = name->max_txid;
		db->cur.checksum = name->post_checksum;
		for (int l = 1; l < PRIMARY_LEVELS; l++)
			primary_levels_advance(&db->cur.levels, l, name->max_txid + 1, -1);
		db->gap = false;
	}
	pthread_mutex_unlock(&t->mu);
	(void)primary_db_save(t, db);
	return 0;
}

/* Levels 1 and 2: what was shipped, as it was shipped. 0 = nothing was built. */
static int concatenate(struct primary_target *t, struct primary_db *db, struct ltx_log *log,
                       const struct primary_place *at, const struct primary_cursor *c, struct ltx_name *name,
                       struct fz_err *err)
{
	int l = name->level;
	uint64_t from = c->levels.from_txid[l], next = 0;
	int64_t end = primary_levels_window_end(t->levels.window_ms[l], c->levels.first_ms[l]);
	struct primary_pack_limit limit = {
	        .max_txid = c->txid, .max_bytes = LEVEL_BYTES, .max_entries = LEVEL_ENTRIES, .before_ms = end};
	struct primary_pack_result r;
	struct primary_spool spool;
	struct ltx_log_entry e;
	struct ltx_log_info info;
	uint64_t merged;
	int rc;

	ltx_log_info(log, &info);
	merged = info.merged_txns;
	pthread_mutex_lock(&t->mu);
	primary_db_merged_locked(db, merged);
	limit.coarse_txid = db->coarse_txid;
	pthread_mutex_unlock(&t->mu);
	rc = ltx_log_find(log, from, &e, err);
	if (rc == 0 && e.seg != 0 && e.e.min_txid == from && e.e.time_ms < end && c->levels.packs[l] < 2) {
		/* a single pack stands for itself */
		rc = ltx_log_find_time(log, end - 1, &e, err);
		if (rc == 0)
			next = (e.e.max_txid < c->txid ? e.e.max_txid : c->txid) + 1;
	} else if (rc == 0 && e.seg != 0 && e.e.min_txid == from && e.e.time_ms < end) {
		rc = primary_spool_begin(&spool, at->dirfd, PRIMARY_SPOOL_OBJECT, at->recipients, at->n_recipients,
		                         err);
		if (rc < 0)
			return rc;
		rc = primary_pack_build(log, from, &limit, spool.sink, &r, err);
		ltx_log_info(log, &info);
		if (rc == 0 && info.merged_txns != merged && r.entries <= r.max_txid - r.min_txid) {
			primary_spool_fini(&spool); /* a range that it holds may be one of just now: once more */
			return 0;
		}
		if (rc == 0) {
			primary_pack_name(name, &r);
			rc = primary_spool_commit(&spool, name, err);
		}
		primary_spool_fini(&spool);
		if (rc == 0)
			return 1;
		if (rc != -FZ_EGAP)
			return rc;
	}
	if (next <= from) { /* The log was folded or merged there. The packs below stay: no commit is lost by that. */
		ltx_log_info(log, &info);
		next = info.base_txid + 1 > from ? info.base_txid + 1 : from;
		if (ltx_log_find(log, next, &e, NULL) == 0 && (e.e.min_txid != next || next == from))
			next = e.e.max_txid + 1;
		if (next <= from)
			next = c->txid + 1;
		if (next > c->txid + 1)
			next = c->txid + 1;
	}
	pthread_mutex_lock(&t->mu);
	primary_levels_advance(&db->cur.levels, l, next, -1);
	pthread_mutex_unlock(&t->mu);
	{
		int64_t ms = primary_db_time(log, next);

		pthread_mutex_lock(&t->mu);
		if (db->cur.txid >= next)
			primary_levels_advance(&db->cur.levels, l, next, ms < 0 ? fz_now_ms() : ms);
		pthread_mutex_unlock(&t->mu);
	}
	(void)primary_db_save(t, db);
	return 0;
}

static int merge(struct primary_target *t, struct primary_db *db, struct ltx_log *log, const struct primary_place *at,
                 const struct primary_cursor *c, struct ltx_name *name, struct fz_err *err)
{
	int l = name->level;
	int rc = primary_merged_build(log, at, c->levels.from_txid[l], c->levels.first_ms[l],
	                              primary_levels_window_end(t->levels.window_ms[l], c->levels.first_ms[l]), c->txid,
	                              name, err);

	if (rc == 0)
		return 1;
	if (rc == -FZ_EGAP) { /* neither the log nor plain files hold it: the history of this level restarts */
		fz_info("%s: %s; the merged levels start anew with a snapshot", fz_log_db(db->name), fz_log_why(err));
		pthread_mutex_lock(&t->mu);
		db->cur.levels.need_snapshot = true;
		pthread_mutex_unlock(&t->mu);
		return 0;
	}
	if (rc == -FZ_ENOTFOUND) { /* merged in the log meanwhile: its time is another one now */
		int64_t ms = next_ms(log, c->levels.from_txid[l], c->txid);

		pthread_mutex_lock(&t->mu);
		db->cur.levels.first_ms[l] = ms;
		pthread_mutex_unlock(&t->mu);
		return 0;
	}
	return rc;
}

/* Everything of the target with each cut: which one keeps the size limit? */
static void choose_cut_locked(struct primary_target *t)
{
	unsigned i;

	for (i = 0; i < PRIMARY_RETAIN_CUTS; i++) {
		uint64_t sum = 0;

		for (size_t k = 0; k < t->n_dbs; k++)
			sum += t->dbs[k]->kept_bytes[i];
		if (sum <= t->conf.keep_bytes)
			break;
	}
	if (i == PRIMARY_RETAIN_CUTS) {
		i--;
		if (!t->cut_told)
			fz_warn("%s: keep_bytes cannot be met without giving up commits that are to be kept",
			        fz_store_url(t->store));
		t->cut_told = true;
	} else {
		t->cut_told = false;
	}
	if (i != t->cut) /* everybody judges again with it */
		for (size_t k = 0; k < t->n_dbs; k++)
			if (!t->dbs[k]->fenced && t->dbs[k]->cur.claim)
				t->dbs[k]->judge_at_ms = fz_now_ms();
	t->cut = i;
}

static int judge(struct primary_target *t, struct primary_db *db, struct ltx_log *log, bool *asked, struct fz_err *err)
{
	int64_t now = fz_now_ms();
	struct primary_retain_run r = {.store = t->store, .database = db->name, .conf = &t->retain, .may_delete = true};
	int rc;

	pthread_mutex_lock(&t->mu);
	r.held_txid = db->cur.anchor_wait ? 0 : db->cur.held_txid;
	r.lineage = db->lineage;
	r.ended = db->ended;
	r.cut = t->cut;
	r.want_cuts = t->conf.keep_bytes > 0;
	db->news = false;
	pthread_mutex_unlock(&t->mu);
	rc = primary_retain_run(&r, &db->condemned, now, err);
	*asked = rc < 0;
	pthread_mutex_lock(&t->mu);
	if (rc < 0) {
		db->news = true;
	} else {
		db->cur.retained_ms = now;
		db->judge_at_ms = 0;
		db->tiers = r.tiers;
		db->tiers.at_ms = now;
		if (r.pending && !t->retain.append_only) {
			int64_t grace = t->retain.delete_grace_ms, hour = t->levels.window_ms[LTX_L_HOUR];

			db->judge_at_ms = now + (grace > hour ? grace : hour) + 1;
		}
		if (r.want_cuts) {
			memcpy(db->kept_bytes, r.kept_bytes, sizeof(db->kept_bytes));
			choose_cut_locked(t);
		}
		if (r.hole) {
			db->cur.held_txid = 0;
			db->cur.anchor_wait = db->cur.levels.need_snapshot = true;
		}
	}
	pthread_mutex_unlock(&t->mu);
	if (rc == 0 && r.hole)
		fz_warn("%s: objects vanished from %s; a snapshot heals the gap", fz_log_db(db->name),
		        fz_store_url(t->store));
	if (rc == 0)
		(void)primary_db_save(t, db);
	return rc == 0 ? 1 : rc;
}

int primary_maintain(struct primary_target *t, struct primary_db *db, struct ltx_log *log, bool *asked, bool *stored,
                     struct fz_err *err)
{
	struct primary_place at = {.dirfd = -1,
	                           .recipients = t->conf.recipients,
	                           .n_recipients = t->conf.n_recipients,
	                           .cancel = &t->cancel};
	struct ltx_name name = {.level = 0};
	struct primary_cursor c;
	int64_t wait;
	bool retain, stale;
	int rc, level;

	*asked = *stored = false;
	rc = primary_db_claim(t, db, log, asked, err);
	if (rc < 0)
		return rc;
	at.dirfd = rc = primary_db_dirfd(t, db, err);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&t->mu);
	c = db->cur;
	stale = db->slow_spooled.max_txid && db->slow_spooled.epoch != c.epoch;
	level = primary_levels_due(&t->levels, &c.levels, c.txid, db->db_bytes, fz_now_ms(), &wait);
	retain = judge_due_locked(t, db, fz_now_ms(), &wait);
	pthread_mutex_unlock(&t->mu);
	if (stale) {
		primary_spool_drop(at.dirfd, &db->slow_spooled, false);
		pthread_mutex_lock(&t->mu);
		db->slow_spooled.max_txid = 0;
		pthread_mutex_unlock(&t->mu);
	}
	memcpy(name.lineage, db->lineage, sizeof(name.lineage));
	name.epoch = c.epoch;
	name.level = level;
	name.encrypted = at.n_recipients > 0;
	if (db->slow_spooled.max_txid) {
		rc = put_spooled(t, db, log, &at, asked, err);
		*stored = rc > 0;
	} else if (retain && !c.levels.need_snapshot) {
		rc = judge(t, db, log, asked, err);
		*stored = rc > 0; /* nothing was put, but all that is there was seen */
	} else if (level == LTX_L_SNAPSHOT) {
		rc = snapshot(t, db, log, &at, &c, &name, err);
		if (rc == 0)
			rc = put_spooled(t, db, log, &at, asked, err);
		*stored = rc > 0;
	} else if (level > 0) {
		rc = level <= LTX_L_PACK_HOUR ? concatenate(t, db, log, &at, &c, &name, err)
		                              : merge(t, db, log, &at, &c, &name, err);
		if (rc == 1) {
			pthread_mutex_lock(&t->mu);
			db->slow_spooled = name;
			pthread_mutex_unlock(&t->mu);
			rc = put_spooled(t, db, log, &at, asked, err);
			*stored = rc > 0;
		} else if (rc == 0) {
			rc = 1; /* it moved on */
		}
	} else {
		rc = 0;
	}
	fz_close(&at.dirfd);
	return rc;
}
