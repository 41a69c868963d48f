/* db.c - one database at one target: open, claim, put, and ship the next pack.
 *
 * (1) What is put lies complete in the spool, under the name of its key, until the cursor that acknowledges it is on
 *     disk. Killed anywhere, the next start puts the same bytes under the same key, or finds them acknowledged.
 * (2) The log is synced before anything of it is put: no target can hold what a power cut takes from the log.
 * (3) Nothing is put without having seen, within the last minute, that the highest claim is ours.
 * (4) A range of the log that begins above coarse_txid was shipped as this very range: levels 1 and 2 may hold it. One at or
 *     below it may have been merged since (the log reached its limit): what went out keeps the detail. The log counts what
 *     it merges, so all that was shipped before that count was last seen to change is in doubt; a pack that was built
 *     before and is acknowledged after puts the count back, so that the next look finds it changed.
 *                                      held by: tests/unit/test_primary_ship.c, test_primary_claim.c */
#include "primary/target.h"

#include "base/clock.h"
#include "base/cursor.h"
#include "base/file.h"
#include "base/log.h"
#include "primary/pack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CLAIM_NS       (UINT64_C(60) * 1000000000)
#define PACK_ENTRIES   16384
#define MEMORY_BYTES   (UINT64_C(1) << 20) /* of a pack when the disk takes no spool file */
#define MEMORY_ENTRIES 2048

/* ---- open -------------------------------------------------------------------------------------------------------- */

int primary_db_dirfd(struct primary_target *t, struct primary_db *db, struct fz_err *err)
{
	int fd = openat(t->statefd, db->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? fz_fail_errno(err, errno, "cannot open %s", db->dir) : fd;
}

int primary_db_save(struct primary_target *t, struct primary_db *db)
{
	struct primary_cursor c;
	struct fz_err err;
	int dirfd, rc;
	bool told;

	pthread_mutex_lock(&t->save_mu);
	pthread_mutex_lock(&t->mu);
	c = db->cur;
	pthread_mutex_unlock(&t->mu);
	dirfd = rc = primary_db_dirfd(t, db, &err);
	if (rc >= 0)
		rc = primary_cursor_save(&c, dirfd, &err);
	fz_close(&dirfd);
	pthread_mutex_lock(&t->mu);
	told = t->disk_told;
	t->disk_told = rc < 0;
	pthread_mutex_unlock(&t->mu);
	pthread_mutex_unlock(&t->save_mu);
	if (rc < 0 && !told) /* shipping goes on; a restart would put the same once more */
		fz_log_err("the ship cursor cannot be written", &err);
	return rc;
}

/* What was on its way when the last worker ended. */
static int find_spooled(struct primary_db *db, int dirfd, struct fz_err *err)
{
	const struct primary_levels_state *l = &db->cur.levels;
	struct ltx_name *names = NULL;
	size_t n = 0;
	int rc = primary_spool_list(dirfd, false, true, &names, &n, err);

	for (size_t i = 0; rc == 0 && i < n; i++) {
		const struct ltx_name *m = &names[i];
		bool ours = strcmp(m->lineage, db->lineage) == 0 && m->epoch == db->cur.epoch && db->cur.claim > 0;
		bool used = false;

		if (ours && m->level == LTX_L_PACK && m->min_txid == db->cur.txid + 1) {
			used = db->spooled.max_txid == 0;
			if (used)
				db->spooled = *m;
		} else if (ours && m->level > LTX_L_PACK && db->slow_spooled.max_txid == 0) {
			used = m->level == LTX_L_SNAPSHOT ? m->max_txid > l->snap_txid
			                                  : m->min_txid == l->from_txid[m->level];
			if (used)
				db->slow_spooled = *m;
		}
		if (!used)
			primary_spool_drop(dirfd, m, false);
	}
	free(names);
	return rc;
}

int primary_db_open(struct primary_db **out, struct primary_target *t, const struct ltx_log_info *info,
                    struct fz_err *err)
{
	struct primary_db *db = calloc(1, sizeof(*db));
	char escaped[1600];
	struct fz_buf dir = {0};
	int dirfd = -1, rc;

	if (!db)
		return fz_fail_errno(err, ENOMEM, "opening the cursor of %s", info->name);
	memcpy(db->name, info->name, sizeof(db->name));
	memcpy(db->lineage, info->lineage, sizeof(db->lineage));
	db->created_ms = info->created_ms;
	primary_cursor_init(&db->cur, info->lineage);
	rc = ltx_log_escape(escaped, sizeof(escaped), info->name);
	if (rc < 0) {
		rc = fz_fail(err, FZ_EUSAGE, "the name %s is too long to be shipped", info->name);
		goto out;
	}
	if (fz_buf_addf(&dir, "%s/%.200s.%s", t->dir, escaped, info->lineage) < 0) {
		rc = fz_fail_errno(err, ENOMEM, "opening the cursor of %s", info->name);
		goto out;
	}
	db->dir = (char *)dir.data;
	rc = fz_mkdirs(t->statefd, db->dir, 0700, err);
	if (rc < 0)
		goto out;
	dirfd = rc = primary_db_dirfd(t, db, err);
	if (rc < 0)
		goto out;
	rc = primary_cursor_load(&db->cur, dirfd, err);
	if (rc == 0 && strcmp(db->cur.lineage, info->lineage) != 0)
		rc = -FZ_ECORRUPT;
	if (rc == -FZ_ECORRUPT) {
		fz_warn("%s: %s/cursor is damaged; a snapshot starts the history at this target anew",
		        fz_log_db(db->name), db->dir);
		primary_cursor_init(&db->cur, info->lineage);
		db->cur.anchor_wait = db->cur.levels.need_snapshot = true;
		db->gap = true;
		rc = 0;
	}
	if (rc == -ENOENT)
		rc = 0;
	db->merged_txns = info->merged_txns; /* what was merged before is not known */
	db->coarse_txid = db->cur.txid;
	db->spooled_merged = UINT64_MAX;
	if (t->conf.keep_bytes && db->cur.claim) /* the sum is over all */
		db->judge_at_ms = 1;
	if (rc == 0)
		rc = find_spooled(db, dirfd, err);
	if (rc == 0) {
		*out = db;
		db = NULL;
	}
out:
	fz_close(&dirfd);
	primary_db_close(db);
	return rc;
}

void primary_db_close(struct primary_db *db)
{
	if (!db)
		return;
	primary_condemned_fini(&db->condemned);
	free(db->dir);
	free(db);
}

int64_t primary_db_time(struct ltx_log *log, uint64_t txid)
{
	struct ltx_log_entry e;

	return ltx_log_find(log, txid, &e, NULL) == 0 ? e.e.time_ms : -1;
}

/* ---- claim ------------------------------------------------------------------------------------------------------- */

/* Checksum after txid; false when the log does not tell (any more). */
static bool checksum_at(struct ltx_log *log, uint64_t txid, uint64_t *out)
{
	uint8_t b[LTX_TRAILER_SIZE];
	struct fz_src *src = NULL;
	struct ltx_log_entry e;
	bool ok =
	        ltx_log_find(log, txid, &e, NULL) == 0 && e.e.max_txid == txid && ltx_log_src(log, &e, &src, NULL) == 0;

	ok = ok && fz_src_read(src, src->size_bytes - sizeof(b), b, sizeof(b), NULL) == 0;
	if (ok)
		*out = fz_be64(b);
	fz_src_close(src);
	return ok;
}

/* A new epoch: up to where does what the target holds agree with the log? The listing names a checksum for the end of
 * each object. */
static int find_base(struct primary_target *t, struct primary_db *db, struct ltx_log *log, uint64_t *txid,
                     uint64_t *checksum, struct fz_err *err)
{
	struct fz_store_list l = {0};
	struct fz_buf prefix = {0};
	uint64_t here;
	int rc = 0;

	if (*txid && checksum_at(log, *txid, &here) && here == *checksum)
		return 0;
	*txid = 0;
	*checksum = LTX_EMPTY_DB;
	if (fz_buf_addf(&prefix, "%s/%s/", db->name, db->lineage) < 0)
		return fz_fail_errno(err, ENOMEM, "claiming %s", db->name);
	rc = fz_store_list(t->store, fz_buf_str(&prefix), NULL, false, &l, err);
	for (size_t i = 0; rc == 0 && i < l.n; i++) {
		struct ltx_name n;

		if (ltx_name_get(&n, l.v[i].key + strlen(db->name) + 1) == 0 && n.max_txid > *txid &&
		    checksum_at(log, n.max_txid, &here) && here == n.post_checksum) {
			*txid = n.max_txid;
			*checksum = here;
		}
	}
	fz_store_list_fini(&l);
	fz_buf_fini(&prefix);
	return rc;
}

/* What this host may do about another writer's claim. Each permission counts until a claim of that name is ours with it: whoever claims the
 * name afterwards came later, and stays. Cursors keep that, since a later worker has the same permissions. t->mu. */
static void allowed_locked(const struct primary_target *t, const struct primary_db *db, bool *take_over,
                           uint32_t *promoted)
{
	*take_over = t->conf.take_over != 0;
	*promoted = t->conf.promoted;
	for (size_t i = 0; i < t->n_dbs; i++) {
		const struct primary_cursor *c = &t->dbs[i]->cur;

		if (strcmp(t->dbs[i]->name, db->name) != 0)
			continue;
		if (c->took == t->conf.take_over)
			*take_over = false;
		/* by its epoch: a cursor of an earlier version does not tell */
		if (c->promoted == t->conf.promoted || (c->claim && c->epoch >= t->conf.promoted))
			*promoted = 0;
	}
}

static int claim_locked(struct primary_target *t, struct primary_db *db, struct ltx_log *log, bool *asked,
                        struct fz_err *err)
{
	struct primary_claim want = {.n = 0};
	struct primary_cursor c;
	struct ltx_log_info info;
	bool fresh, continues, vanished, take_over;
	uint64_t base, checksum;
	int rc;

	ltx_log_info(log, &info);
	pthread_mutex_lock(&t->mu);
	c = db->cur;
	allowed_locked(t, db, &take_over, &want.promoted);
	pthread_mutex_unlock(&t->mu);
	base = c.txid;
	checksum = c.txid ? c.checksum : LTX_EMPTY_DB;
	fresh = c.claim == 0 || c.epoch != info.epoch;
	*asked = true;
	continues = fresh && (c.claim != 0 || info.epoch > 0); /* maybe of what another host has shipped */
	if (continues) {
		rc = find_base(t, db, log, &base, &checksum, err);
		if (rc < 0)
			return rc;
	}
	memcpy(want.lineage, db->lineage, sizeof(want.lineage));
	memcpy(want.writer, t->writer, sizeof(want.writer));
	memcpy(want.writer_id, t->writer_id, sizeof(want.writer_id));
	want.epoch = info.epoch;
	want.ended = info.ended_ms != 0;
	want.first = c.claim == 0;
	want.base_txid = base;
	want.base_checksum = checksum;
	rc = primary_claim_hold(t->store, db->name, &want, fresh ? 0 : c.claim, take_over, &vanished, err);
	if (rc == 0 && want.base_txid < base) { /* what an older epoch has put beyond since counts for nothing */
		base = want.base_txid;
		checksum = want.base_checksum;
	}
	pthread_mutex_lock(&t->mu);
	if (rc == -FZ_EFENCED) {
		db->fenced = true;
	} else if (rc == 0) {
		db->claim_ns = fz_mono_ns();
		db->cur.claim = want.n;
		db->cur.epoch = info.epoch;
		db->cur.took = t->conf.take_over;
		db->cur.promoted = t->conf.promoted;
		if (vanished) {
			db->cur.held_txid = 0;
			db->cur.anchor_wait = db->cur.levels.need_snapshot = true;
		}
		if (db->cur.retained_ms == 0)
			db->cur.retained_ms = fz_now_ms();
		if (continues) { /* levels of the new epoch start at a snapshot of it */
			db->cur.levels.need_snapshot = true;
			if (base != c.txid) {
				db->cur.txid = base;
				db->cur.checksum = checksum;
				if (db->cur.held_txid > base)
					db->cur.held_txid = base;
				db->cur.anchor_wait = true;
			}
		}
	}
	pthread_mutex_unlock(&t->mu);
	if (rc == 0 &&
	    (fresh || vanished || want.n != c.claim || c.took != t->conf.take_over || c.promoted != t->conf.promoted)) {
		if (vanished)
			fz_warn("%s: everything vanished from %s; a snapshot follows", fz_log_db(db->name),
			        fz_store_url(t->store));
		(void)primary_db_save(t, db);
	}
	return rc;
}

int primary_db_claim(struct primary_target *t, struct primary_db *db, struct ltx_log *log, bool *asked,
                     struct fz_err *err)
{
	struct ltx_log_info info;
	bool known;
	int rc = 0;

	ltx_log_info(log, &info);
	pthread_mutex_lock(&t->claim_mu);
	pthread_mutex_lock(&t->mu);
	known = db->claim_ns && fz_mono_ns() - db->claim_ns < CLAIM_NS && db->cur.epoch == info.epoch;
	if (db->fenced)
		rc = -FZ_EFENCED;
	pthread_mutex_unlock(&t->mu);
	if (rc < 0)
		rc = fz_fail(err, FZ_EFENCED, "%s belongs to another writer; to take it over: fazt mount --take-over",
		             db->name);
	else if (!known)
		rc = claim_locked(t, db, log, asked, err);
	if (rc < 0 && rc != -FZ_EFENCED)
		*asked = true;
	else
		*asked = false;
	pthread_mutex_unlock(&t->claim_mu);
	return rc;
}

/* ---- put --------------------------------------------------------------------------------------------------------- */

int primary_db_put(struct primary_target *t, struct primary_db *db, const struct ltx_name *name, struct fz_src *src,
                   bool *asked, struct fz_err *err)
{
	struct fz_buf key = {0};
	char rest[LTX_NAME_MAX];
	int rc;

	if (fz_buf_addf(&key, "%s/%s", db->name, ltx_name_put(rest, name)) < 0)
		return fz_fail_errno(err, ENOMEM, "shipping %s", db->name);
	rc = fz_store_put(t->store, fz_buf_str(&key), src, err);
	*asked = rc < 0;
	fz_buf_fini(&key);
	if (rc == 0) {
		pthread_mutex_lock(&t->mu);
		t->uploads[name->level]++;
		pthread_mutex_unlock(&t->mu);
	}
	return rc;
}

/* ---- ship -------------------------------------------------------------------------------------------------------- */

void primary_db_merged_locked(struct primary_db *db, uint64_t merged_txns)
{
	if (merged_txns != db->merged_txns && db->coarse_txid < db->cur.txid)
		db->coarse_txid = db->cur.txid;
	db->merged_txns = merged_txns;
}

static void acknowledge(struct primary_target *t, struct primary_db *db, const struct ltx_name *n, uint64_t bytes)
{
	pthread_mutex_lock(&t->mu);
	if (n->min_txid == db->cur.txid + 1) { /* else a snapshot went past it meanwhile */
		primary_db_merged_locked(db, db->spooled_merged);
		db->cur.txid = n->max_txid;
		db->cur.checksum = n->post_checksum;
		if (!db->cur.anchor_wait && n->max_txid > db->cur.held_txid)
			db->cur.held_txid = n->max_txid;
		primary_levels_shipped(&db->cur.levels, n->min_txid, n->first_ms, bytes, fz_now_ms());
	}
	db->news = true;
	pthread_mutex_unlock(&t->mu);
	(void)primary_db_save(t, db);
}

/* Builds the next pack; without room on the disk, a small one in memory. */
static int build(struct primary_target *t, struct primary_db *db, struct ltx_log *log, int dirfd, uint32_t epoch,
                 uint64_t from, uint64_t max_txid, struct primary_spool *spool, struct fz_err *err)
{
	struct primary_pack_limit limit = {.max_txid = max_txid,
	                                   .max_bytes = t->conf.ship_bytes * 4,
	                                   .max_entries = PACK_ENTRIES,
	                                   .window_ms = t->levels.window_ms[LTX_L_PACK_MINUTE]};
	struct ltx_name name = {.level = LTX_L_PACK, .epoch = epoch, .encrypted = t->conf.n_recipients > 0};
	struct primary_pack_result r;
	enum primary_spool_kind kind = PRIMARY_SPOOL_OBJECT;
	int rc;

	memcpy(name.lineage, db->lineage, sizeof(name.lineage));
	for (;;) {
		rc = primary_spool_begin(spool, dirfd, kind, t->conf.recipients, t->conf.n_recipients, err);
		if (rc == 0) {
			rc = primary_pack_build(log, from, &limit, spool->sink, &r, err);
			if (rc == 0) {
				primary_pack_name(&name, &r);
				rc = primary_spool_commit(spool, &name, err);
			}
			if (rc < 0)
				primary_spool_fini(spool);
		}
		if (kind == PRIMARY_SPOOL_MEMORY || (rc != -ENOSPC && rc != -EDQUOT && rc != -EROFS))
			break;
		kind = PRIMARY_SPOOL_MEMORY;
		limit.max_bytes = MEMORY_BYTES;
		limit.max_entries = MEMORY_ENTRIES;
	}
	if (rc == 0)
		db->spooled = name;
	return rc;
}

/* The log cannot go on from the cursor: a snapshot will. */
static void found_gap(struct primary_target *t, struct primary_db *db, const struct fz_err *why)
{
	uint64_t txid;

	pthread_mutex_lock(&t->mu);
	txid = db->cur.txid;
	db->gap = true;
	db->cur.anchor_wait = true;
	db->cur.levels.need_snapshot = true;
	pthread_mutex_unlock(&t->mu);
	if (txid > 0)
		fz_warn("%s: gap after transaction %llu at %s (%s); a snapshot heals it", fz_log_db(db->name),
		        (unsigned long long)txid, fz_store_url(t->store), fz_log_why(why));
	(void)primary_db_save(t, db);
}

/* What the cursor says once the end was told; where nothing was ever claimed there is nothing to tell. */
static uint32_t end_of(const struct primary_db *db)
{
	return db->cur.claim ? db->cur.claim : UINT32_MAX;
}

bool primary_db_ends_locked(const struct primary_db *db, const struct ltx_log_info *info)
{
	return info->ended_ms && info->tail_txid && !db->fenced && db->cur.ended != end_of(db);
}

static int end(struct primary_target *t, struct primary_db *db, const struct ltx_log_info *info, bool *asked,
               struct fz_err *err)
{
	struct primary_claim claim = {.n = 0};
	int rc;

	pthread_mutex_lock(&t->mu);
	claim.n = db->cur.claim;
	claim.epoch = db->cur.epoch;
	pthread_mutex_unlock(&t->mu);
	memcpy(claim.lineage, db->lineage, sizeof(claim.lineage));
	memcpy(claim.writer_id, t->writer_id, sizeof(claim.writer_id));
	rc = !claim.n ? 0 : primary_claim_end(t->store, db->name, &claim, info->tail_txid, info->ended_ms, err);
	*asked = rc < 0;
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&t->mu);
	db->cur.ended = end_of(db);
	pthread_mutex_unlock(&t->mu);
	(void)primary_db_save(t, db);
	return 1;
}

int primary_db_ship(struct primary_target *t, struct primary_db *db, struct ltx_log *log, bool *asked,
                    struct fz_err *err)
{
	struct primary_spool spool = {.fd = -1};
	struct ltx_log_info info;
	struct fz_src *src = NULL;
	uint64_t from, bytes;
	uint32_t epoch;
	bool gap, ends;
	int dirfd = -1, rc;

	*asked = false;
	ltx_log_info(log, &info);
	pthread_mutex_lock(&t->mu);
	ends = !db->gap && db->cur.txid >= info.tail_txid && primary_db_ends_locked(db, &info);
	pthread_mutex_unlock(&t->mu);
	if (ends)
		return end(t, db, &info, asked, err);
	rc = primary_db_claim(t, db, log, asked, err);
	if (rc < 0)
		return rc;
	ltx_log_info(log, &info);
	pthread_mutex_lock(&t->mu);
	from = db->cur.txid + 1;
	epoch = db->cur.epoch;
	gap = db->gap;
	pthread_mutex_unlock(&t->mu);
	if (gap || from > info.tail_txid)
		return 0;
	dirfd = rc = primary_db_dirfd(t, db, err);
	if (rc < 0)
		return rc;
	if (db->spooled.max_txid && (db->spooled.min_txid != from || db->spooled.epoch != epoch)) {
		primary_spool_drop(dirfd, &db->spooled, false);
		db->spooled.max_txid = 0;
	}
	if (db->spooled.max_txid) {
		rc = primary_spool_open(dirfd, &db->spooled, false, &src, err);
		if (rc < 0) /* it lay in memory, or was taken away: built anew */
			db->spooled.max_txid = 0;
	}
	if (db->spooled.max_txid == 0) {
		rc = info.synced_txid < info.tail_txid ? ltx_log_sync(log, err) : 0;
		db->spooled_merged = info.merged_txns;
		if (rc == 0)
			rc = build(t, db, log, dirfd, epoch, from, info.tail_txid, &spool, err);
		if (rc == -FZ_EGAP) {
			found_gap(t, db, err);
			rc = 0;
			goto out;
		}
		if (rc == 0)
			rc = primary_spool_src(&spool, &src, err);
		if (rc < 0)
			goto out;
	}
	bytes = src->size_bytes;
	rc = primary_db_put(t, db, &db->spooled, src, asked, err);
	if (rc < 0)
		goto out;
	acknowledge(t, db, &db->spooled, bytes);
	primary_spool_drop(dirfd, &db->spooled, false);
	db->spooled.max_txid = 0;
	rc = 1;
out:
	fz_src_close(src);
	primary_spool_fini(&spool);
	fz_close(&dirfd);
	return rc;
}
