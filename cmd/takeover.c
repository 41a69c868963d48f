/* takeover.c
 *
 * DEMOTION, when another host's epoch is higher:
 *   (1) what is still shipped counts for nothing (docs/design.md "Claims"); (2) the agent takes and keeps the writers' locks, and the mount refuses to open a database for
 *   writing; (3) what was committed until then is captured; (4) the role file says replica of that host; (5) the agent's process goes
 *   on as a replica's, with the locks, and the worker starts anew. What the other host does not have becomes a branch once
 *   it says where its epoch began (replica/follow.c).
 * PROMOTION, in this order, so that a death at any point leaves a replica or a primary and never two halves:
 *   (1) the follower stops: nothing comes in any more;
 *   (2) what the replica holds in doubt becomes the last transaction of its log (ack = replica); all that is durable in the logs is applied, and the agent lets go of the databases, each marked with what of its WAL
 *       the log holds: the capture of the new role goes on from there without reading a page;
 *   (3) the role file says primary of the new epoch: from here on this host is one, whatever happens;
 *   (4) each log begins the new epoch at its tail, and the role file says that all have: a worker that starts before finishes that first (tests/e2e/promote-deaths.py);
 *   (5) the supervisor starts worker and agent anew. Applications keep their handles: those opened before stay read-only. */
#include "cmd/takeover.h"

#include "base/clock.h"
#include "base/log.h"
#include "fs/agent.h"
#include "fs/capture.h"
#include "fs/crashpoint.h"
#include "fs/super_client.h"
#include "ltx/dec.h"
#include "ltx/enc.h"
#include "ltx/log.h"
#include "ltx/sums.h"

#include <cJSON.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define APPLY_MS       10000
#define DETACH_MS      10000
#define FENCE_MS       1000 /* for a writer's transaction to end; then the others are tried, and this one again */
#define CAUGHT_UP_MS   30000
#define HANDOFF_MS     10000 /* the primary waits so long for the follower, */
#define HANDOFF_DB_MS  50    /* and so much longer for each database: its log is synced three times */
#define HANDED_MS      5000  /* the follower, when it has not begun to be the primary by then, does not */
#define FENCE_PAUSE_MS 100
#define SAVE_PAUSE_MS  1000

/* What the primary is known to have beyond this host. */
static unsigned list_behind(struct cmd_link *l, cJSON *answer, bool *connected)
{
	cJSON *f = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(answer, "behind");
	const cJSON *d;
	unsigned n = 0;

	*connected = cmd_link_following(l, f);
	cJSON_ArrayForEach (d, cJSON_GetObjectItem(f, "databases")) {
		double there = cJSON_GetNumberValue(cJSON_GetObjectItem(d, "primary_txid"));
		double here = cJSON_GetNumberValue(cJSON_GetObjectItem(d, "durable_txid"));
		const char *name = cJSON_GetStringValue(cJSON_GetObjectItem(d, "name"));
		cJSON *o;

		if (!(there > here))
			continue;
		o = cJSON_CreateObject();
		cJSON_AddStringToObject(o, "name", name ? name : "?");
		cJSON_AddNumberToObject(o, "txns", there - here);
		cJSON_AddItemToArray(list, o);
		n++;
	}
	cJSON_Delete(f);
	return n;
}

/* Until the mount shows what the logs hold. */
static int wait_applied(struct cmd_link *l, struct fz_err *err)
{
	uint64_t end = fz_mono_ns() + APPLY_MS * UINT64_C(1000000);
	struct ltx_log_info info;

	for (size_t i = 0; ltx_logset_info(l->logs, i, &info); i++) {
		struct replica_applied a = {0};

		if (info.ended_ms || !info.tail_txid)
			continue;
		while (!replica_applier_get(l->applier, info.lineage, &a) || a.state.txid != info.tail_txid) {
			if (fz_mono_ns() > end)
				return fz_fail(err, FZ_ETIMEOUT, "%s: transaction %llu could not be applied%s%s",
				               info.name, (unsigned long long)info.tail_txid, a.err.code ? ": " : "",
				               a.err.code ? a.err.text : "");
			(void)!poll(NULL, 0, 1);
		}
	}
	return 0;
}

/* The newest page 1 that the log has, page_size bytes. */
static int newest_page_1(struct ltx_log *log, const struct ltx_log_info *info, uint8_t *page, struct fz_err *err)
{
	struct fz_buf frame = {0};
	int rc = -FZ_ENOTFOUND;

	for (uint64_t txid = info->tail_txid; txid && rc == -FZ_ENOTFOUND;) {
		const struct ltx_index_entry *at = NULL;
		struct ltx_index ix = {0};
		struct ltx_log_entry e;
		struct fz_src *src = NULL;

		rc = ltx_log_find(log, txid, &e, err);
		if (rc == 0)
			rc = ltx_log_src(log, &e, &src, err);
		if (rc == 0)
			rc = ltx_index_read(&ix, src, 0, e.e.size_bytes, err);
		if (rc == 0)
			at = ltx_index_find(&ix, 1);
		if (rc == 0 && !at) {
			rc = -FZ_ENOTFOUND;
			txid = e.e.min_txid - 1;
		} else if (rc == 0) {
			fz_buf_reset(&frame);
			rc = fz_buf_room(&frame, at->frame_bytes) ? 0 : fz_fail_errno(err, ENOMEM, "reading page 1");
			if (rc == 0)
				rc = fz_src_read(src, at->off_bytes, frame.data, at->frame_bytes, err);
			if (rc == 0)
				rc = ltx_frame_decode(frame.data, at->frame_bytes, 1, info->page_size, page, err);
		}
		ltx_index_fini(&ix);
		fz_src_close(src);
	}
	fz_buf_fini(&frame);
	return rc == -FZ_ENOTFOUND ? fz_fail(err, FZ_ECORRUPT, "%s: no page 1 in the log", info->name) : rc;
}

static int append_page_1(struct ltx_log *log, const struct ltx_log_info *info, const uint8_t *page, uint64_t post,
                         struct fz_err *err)
{
	struct ltx_header h = {.page_size = info->page_size,
	                       .commit = info->commit,
	                       .min_txid = info->tail_txid + 1,
	                       .max_txid = info->tail_txid + 1,
	                       .time_ms = fz_now_ms(),
	                       .pre_checksum = info->tail_checksum};
	struct ltx_enc *enc = NULL;
	struct ltx_trailer t;
	struct fz_sink *sink;
	uint64_t bytes;
	int rc = ltx_enc_open(&enc, err);

	if (rc == 0)
		rc = ltx_log_begin(log, &h, &sink, err);
	if (rc < 0)
		goto out;
	rc = ltx_enc_begin(enc, sink, &h, err);
	if (rc == 0)
		rc = ltx_enc_page(enc, 1, page, err);
	if (rc == 0)
		rc = ltx_enc_end(enc, post, &t, &bytes, err);
	if (rc == 0)
		rc = ltx_log_commit(log, bytes, 1, &t, false, err);
	else
		ltx_log_abort(log);
out:
	ltx_enc_close(enc);
	return rc;
}

/* A database that was in rollback mode on the former primary is in WAL mode here: its header says so (bytes 18 and 19, which no replica
 * takes over). From now on that is history, and the first transaction of the epoch. */
static int say_wal(struct ltx_log *log, struct fz_err *err)
{
	struct ltx_sums *sums = NULL;
	struct ltx_log_info info;
	uint64_t before, after, post;
	uint8_t *page;
	int rc;

	ltx_log_info(log, &info);
	if (!info.tail_txid || info.tail_txid != info.epoch_txid) /* said, or its application has written since */
		return 0;
	page = malloc(info.page_size);
	if (!page)
		return fz_fail_errno(err, ENOMEM, "%s", info.name);
	rc = newest_page_1(log, &info, page, err);
	if (rc < 0 || memcmp(page, "SQLite format 3", 16) || (page[18] == 2 && page[19] == 2))
		goto out;
	before = ltx_page_checksum(1, page, info.page_size);
	page[18] = page[19] = 2;
	after = ltx_page_checksum(1, page, info.page_size);
	post = ltx_db_checksum_swap(info.tail_checksum, before, after);
	rc = ltx_sums_open(&sums, ltx_log_dirfd(log), err);
	if (rc == 0 && ltx_sums_head(sums)->txid != info.tail_txid)
		rc = fz_fail(err, FZ_EINTERNAL, "%s: the table of checksums is at %llu, the log at %llu", info.name,
		             (unsigned long long)ltx_sums_head(sums)->txid, (unsigned long long)info.tail_txid);
	if (rc == 0)
		rc = append_page_1(log, &info, page, post, err);
	FS_CRASHPOINT(promote_said_wal);
	if (rc == 0) {
		ltx_sums_set(sums, 1, after);
		ltx_sums_head(sums)->checksum = post;
		ltx_sums_head(sums)->txid = info.tail_txid + 1;
	}
out:
	ltx_sums_close(sums);
	free(page);
	return rc;
}

/* A log's own may be higher: of a crash in which log and database went apart. */
static uint32_t highest_epoch(struct cmd_link *l, uint32_t epoch)
{
	struct ltx_log_info info;

	for (size_t i = 0; ltx_logset_info(l->logs, i, &info); i++)
		if (info.epoch > epoch)
			epoch = info.epoch;
	return epoch;
}

static int raise_epoch(struct cmd_link *l, uint32_t epoch, struct fz_err *err)
{
	struct ltx_log *log;
	int rc = 0;

	for (size_t i = 0; rc == 0 && (log = ltx_logset_at(l->logs, i)); i++) {
		struct ltx_log_info info;

		ltx_log_info(log, &info);
		if (!info.ended_ms && info.epoch < epoch) { /* not one of a promotion that died */
			rc = ltx_log_set_epoch(log, epoch, err);
			FS_CRASHPOINT(promote_raised);
		}
		if (rc == 0 && !info.ended_ms)
			rc = say_wal(log, err);
		ltx_log_put(log);
	}
	return rc;
}

/* Steps (3) and (4). */
static int become_primary(struct cmd_link *l, struct cmd_role *next, struct fz_err *err)
{
	struct fz_err why;
	int rc;

	fs_super_drop_agent(); /* it has let go of everything, and the next worker's acts for a primary */
	next->raising = true;
	rc = cmd_role_save(next, l->statefd, err);
	if (rc < 0)
		return rc;
	FS_CRASHPOINT(promote_saved);
	rc = raise_epoch(l, next->epoch, err);
	if (rc < 0) {
		/* rather a replica that can be read; where that cannot be written either, the next start goes on */
		if (cmd_role_save(&l->role, l->statefd, &why) < 0)
			fz_log_err("staying a replica", &why);
		return fz_err_prefix(err, "only some databases have begun epoch %u: make room and promote again",
		                     next->epoch);
	}
	next->raising = false;
	if (cmd_role_save(next, l->statefd, &why) < 0)
		fz_log_err("the promotion is noted as finished by the next start", &why);
	return 0;
}

int cmd_promote_finish(struct cmd_serving *w, struct fz_err *err)
{
	struct cmd_role *r = &w->link.role;
	struct fz_err why;
	int rc;

	if (r->replica || !r->raising)
		return 0;
	rc = raise_epoch(&w->link, r->epoch, err);
	if (rc < 0)
		return fz_err_prefix(err, "this host was promoted, and its logs have to begin epoch %u", r->epoch);
	r->raising = false;
	if (cmd_role_save(r, w->statefd, &why) < 0)
		fz_log_err("the promotion is noted as finished by the next start", &why);
	fz_warn("promoted: this host is the primary from epoch %u on (finished by the next worker)", r->epoch);
	return 0;
}

/* The first reader that comes when the agent has let go may begin the -shm anew: the mount knows it before. */
static int detach(struct cmd_link *l, struct fz_err *err)
{
	struct ltx_log_info info;

	atomic_store(&l->detaching, true);
	for (size_t i = 0; ltx_logset_info(l->logs, i, &info); i++)
		fs_capture_attached(l->capture, info.name, false);
	return replica_applier_detach(l->applier, DETACH_MS, err);
}

int cmd_promote_answer(struct cmd_serving *w, bool force, struct cJSON *answer, struct fz_err *err)
{
	struct cmd_link *l = &w->link;
	uint64_t began = fz_mono_ns();
	struct cmd_role next;
	bool connected;
	unsigned behind;
	uint32_t epoch;
	int rc;

	if (!l->role.replica)
		return fz_fail(err, FZ_EUSAGE, "%s is the primary already", w->dir);
	behind = list_behind(l, answer, &connected);
	if (connected && !force)
		return fz_fail(
		        err, FZ_EBUSY,
		        "the primary %s is alive: `fazt handoff` changes places without losing a commit; --force "
		        "takes over in spite of it",
		        l->role.primary);
	if (behind && !force)
		return fz_fail(err, FZ_EBUSY,
		               "the primary held transactions of %u databases that never arrived here; --force goes on "
		               "without them",
		               behind);
	if (!cmd_link_turn(l))
		return fz_fail(err, FZ_EBUSY, "this host's role is being changed already: `fazt status` shows to what");
	next.epoch = highest_epoch(l, l->role.epoch) + 1;
	rc = cmd_lease_acquire(&w->lease, force, &next.epoch, err);
	if (rc < 0) {
		cmd_link_turn_not(l);
		return rc;
	}
	cmd_link_unfollow(l);
	rc = cmd_ack_settle(l, l->handing, err);
	if (rc == 0)
		rc = cmd_link_post(l, err); /* a log that was cut just now may not have been posted again */
	if (rc == 0)
		rc = wait_applied(l, err);
	if (rc == 0)
		rc = detach(l, err);
	if (rc == 0 && l->handing && !w->lease.on && fz_mono_ns() - began > HANDED_MS * UINT64_C(1000000))
		rc = fz_fail(err, FZ_ETIMEOUT,
		             "what the primary handed over could not be applied within %d s: it may go on",
		             HANDED_MS / 1000);
	epoch = next.epoch;
	pthread_mutex_lock(&l->mu);
	next = l->role;
	pthread_mutex_unlock(&l->mu);
	next.replica = false;
	next.promoted = true;
	cmd_role_leave(&next);
	next.epoch = highest_epoch(l, next.epoch) + 1;
	if (epoch > next.epoch)
		next.epoch = epoch; /* what the lease says */
	if (rc == 0)
		rc = become_primary(l, &next, err);
	if (rc == 0)
		fz_warn("promoted: this host is the primary from epoch %u on", next.epoch);
	cJSON_AddNumberToObject(answer, "epoch", next.epoch);
	if (fs_super_restart(false, rc == 0 ? err : NULL) < 0 && rc == 0) /* a failure: as the replica that it was */
		rc = fz_err_prefix(err, "the role has changed; fazt umount and mount again");
	return rc;
}

/* ---- the other way ---- */

/* No application commits to any database any more, whatever it has open. Returns false while one still holds its lock. */
static bool fence_all(struct cmd_serving *w)
{
	struct ltx_log_info info;
	bool all = true;

	for (size_t i = 0; ltx_logset_info(w->logs, i, &info); i++) {
		struct fz_err err = {0};
		int rc;

		if (info.ended_ms)
			continue;
		rc = fs_agent_fence(w->agent, info.name, FENCE_MS, &err);
		if (rc == -FZ_ENOTFOUND)
			continue;
		if (rc == 0)
			rc = fs_capture_protect(w->capture, info.name, true, &err); /* and none is opened for it */
		if (rc < 0) {
			fz_log_err("fencing", &err);
			all = false;
		}
	}
	return all;
}

/* Says replica of that host from the next start on; tried until there is room on the disk. false: this process ends. */
static bool turn_to(struct cmd_link *l, struct cmd_role *next, const uint8_t key[static 32],
                    const struct ltx_wire_hello *h)
{
	struct ltx_age_recipient r;
	struct fz_err err;
	bool told = false;

	memcpy(r.public_key, key, sizeof(r.public_key));
	next->replica = true;
	next->promoted = false;
	next->epoch = h->epoch;
	ltx_age_recipient_format(next->primary_key, &r);
	cmd_role_heard(next, next->primary_key);
	if (h->advertise[0])
		snprintf(next->primary, sizeof(next->primary), "%s", h->advertise);
	else
		fz_warn("%s does not listen: nobody can follow it until it is mounted with --listen", h->host);
	while (cmd_role_save(next, l->statefd, &err) < 0) {
		if (!told)
			fz_log_err("becoming a replica", &err);
		told = true;
		if (cmd_link_ending(l, SAVE_PAUSE_MS))
			return false;
	}
	return true;
}

/* A replica hears of a higher epoch from one of its followers: from now on it follows that one, and whom it followed is
 * told (cmd/herald.h). What it has beyond the new epoch's beginning becomes a branch, as on a former primary. */
static void follow_other(struct cmd_link *l, const uint8_t key[static 32], const struct ltx_wire_hello *h)
{
	struct cmd_role next;
	struct fz_err err;

	pthread_mutex_lock(&l->mu);
	next = l->role;
	pthread_mutex_unlock(&l->mu);
	fz_warn("%s says that there is a primary of epoch %u: this replica (epoch %u) follows it instead of %s",
	        h->host, h->epoch, next.epoch, next.primary[0] ? next.primary : "a store");
	cmd_role_leave(&next);
	if (turn_to(l, &next, key, h) && fs_super_restart(true, &err) < 0)
		fz_log_err("following another host", &err);
}

void cmd_demote(struct cmd_serving *w, const uint8_t key[static 32], const struct ltx_wire_hello *h)
{
	struct cmd_link *l = &w->link;
	struct cmd_role next;
	struct fz_err err = {0};
	int rc;

	if (l->role.replica) {
		follow_other(l, key, h);
		return;
	}
	pthread_mutex_lock(&l->mu);
	next = l->role;
	pthread_mutex_unlock(&l->mu);
	fz_warn("%s is the primary of epoch %u: this host (epoch %u) stops taking commits", h->host, h->epoch,
	        next.epoch);
	while (!w->agent || !fence_all(w))
		if (cmd_link_ending(l, FENCE_PAUSE_MS))
			return;
	rc = fs_capture_sync(w->capture, NULL, &err);
	if (rc < 0) {
		fz_log_err("what was committed last could not be captured", &err);
		err = (struct fz_err){0};
	}
	fs_capture_seal(w->capture);
	if (!turn_to(l, &next, key, h))
		return;
	cmd_lease_yield(&w->lease, true); /* its warden would miss the agent's answers */
	rc = fs_agent_become_replica(w->agent, &err);
	if (rc < 0)
		fz_log_err("the agent is replaced by a replica's", &err);
	if (fs_super_restart(rc == 0, &err) < 0)
		fz_log_err("becoming a replica", &err);
}

static void unprotect_all(struct cmd_serving *w)
{
	struct ltx_log_info info;

	for (size_t i = 0; ltx_logset_info(w->logs, i, &info); i++) {
		struct fz_err err;

		if (fs_capture_protect(w->capture, info.name, false, &err) < 0)
			fz_log_err(fz_log_db(info.name), &err);
	}
	pthread_mutex_lock(&w->lease.mu);
	w->lease.fenced = true; /* its warden lets go of what was fenced here */
	pthread_mutex_unlock(&w->lease.mu);
}

int cmd_handoff_answer(struct cmd_serving *w, const char *follower, struct fz_err *err)
{
	struct cmd_link *l = &w->link;
	int rc, limit_ms = HANDOFF_MS;
	struct ltx_log_info info;
	struct fz_err ignored;

	for (size_t i = 0; ltx_logset_info(w->logs, i, &info); i++)
		limit_ms += HANDOFF_DB_MS;

	if (l->role.replica)
		return fz_fail(err, FZ_EUSAGE, "%s is a replica; `fazt promote` makes it the primary", w->dir);
	if (!l->server || !w->agent)
		return fz_fail(err, FZ_EUSAGE, "nobody follows %s: it was mounted without --listen", w->dir);
	rc = primary_server_handoff(l->server, follower, false, CAUGHT_UP_MS,
	                            err); /* all but what is written meanwhile */
	if (rc < 0)
		return rc;
	cmd_lease_yield(&w->lease, true);
	if (!fence_all(w) && !fence_all(w))
		rc = fz_fail(err, FZ_EBUSY, "an application holds a database's writer lock too long");
	if (rc == 0)
		rc = fs_capture_sync(w->capture, NULL, err);
	if (rc == 0)
		rc = cmd_lease_release(&w->lease, follower, err);
	if (rc == 0)
		rc = primary_server_handoff(l->server, follower, true, HANDOFF_MS, err);
	for (int ms = 0; rc == 0 && !cmd_link_superseded(l); ms += 5) {
		if (ms >= limit_ms || cmd_control_stopping(w->control))
			rc = fz_fail(err, FZ_ETIMEOUT,
			             "%s was told to take over and has not done so within %d s (can it reach this "
			             "host, is this "
			             "host one of its followers?); this host goes on as the primary",
			             follower, limit_ms / 1000);
		(void)!poll(NULL, 0, 5);
	}
	if (rc < 0 && w->lease.on) /* the fences end with the next renewal, and only then */
		unprotect_all(w);
	else if (rc < 0 && fs_super_restart(false, &ignored) < 0) /* the agent's fences go with it */
		fz_log_err("the databases stay fenced; fazt umount and mount again", &ignored);
	cmd_lease_yield(&w->lease, false);
	return rc;
}
