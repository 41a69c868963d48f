/* takeover.c
 *
 * PROMOTION, in this order, so that a death at any point leaves a replica or a primary and never two halves:
 *   (1) the follower stops: nothing comes in any more;
 *   (2) all that is durable in the logs is applied, and the agent lets go of the databases, each marked with what of its WAL
 *       the log holds: the capture of the new role goes on from there without reading a page;
 *   (3) each log begins the new epoch at its tail;
 *   (4) the role file says primary: from here on this host is one, whatever happens;
 *   (5) the supervisor starts worker and agent anew. Applications keep their handles: those opened before stay read-only. */
#include "cmd/takeover.h"

#include "base/clock.h"
#include "base/log.h"
#include "fs/super_client.h"
#include "ltx/log.h"

#include <cJSON.h>
#include <poll.h>
#include <string.h>

#define APPLY_MS  10000
#define DETACH_MS 10000

/* What the primary is known to have beyond this host. */
static unsigned list_behind(struct cmd_link *l, cJSON *answer, bool *connected)
{
	cJSON *f = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(answer, "behind");
	const cJSON *d;
	unsigned n = 0;

	pthread_mutex_lock(&l->mu);
	if (l->follow)
		(void)replica_follow_status(l->follow, f);
	pthread_mutex_unlock(&l->mu);
	*connected = cJSON_IsTrue(cJSON_GetObjectItem(f, "connected"));
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
	struct ltx_log *log;

	for (size_t i = 0; (log = ltx_logset_at(l->logs, i)); i++) {
		struct replica_applied a = {0};
		struct ltx_log_info info;

		ltx_log_info(log, &info);
		ltx_log_put(log);
		if (info.ended_ms || !info.tail_txid)
			continue;
		while (!replica_applier_get(l->applier, info.lineage, &a) || a.state.txid < info.tail_txid) {
			if (fz_mono_ns() > end)
				return fz_fail(err, FZ_ETIMEOUT, "%s: transaction %llu could not be applied%s%s",
				               info.name, (unsigned long long)info.tail_txid, a.err.code ? ": " : "",
				               a.err.code ? a.err.text : "");
			(void)!poll(NULL, 0, 1);
		}
	}
	return 0;
}

static int raise_epoch(struct cmd_link *l, uint32_t epoch, struct fz_err *err)
{
	struct ltx_log *log;
	int rc = 0;

	for (size_t i = 0; rc == 0 && (log = ltx_logset_at(l->logs, i)); i++) {
		struct ltx_log_info info;

		ltx_log_info(log, &info);
		if (!info.ended_ms)
			rc = ltx_log_set_epoch(log, epoch, err);
		ltx_log_put(log);
	}
	return rc;
}

int cmd_promote_answer(struct cmd_serving *w, bool force, struct cJSON *answer, struct fz_err *err)
{
	struct cmd_link *l = &w->link;
	struct cmd_role next;
	bool connected;
	unsigned behind;
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
	cmd_link_unfollow(l);
	rc = wait_applied(l, err);
	if (rc == 0)
		rc = replica_applier_detach(l->applier, DETACH_MS, err);
	pthread_mutex_lock(&l->mu);
	next = l->role;
	pthread_mutex_unlock(&l->mu);
	next.replica = false;
	next.promoted = true;
	next.epoch++;
	if (rc == 0)
		rc = raise_epoch(l, next.epoch, err);
	if (rc == 0)
		rc = cmd_role_save(&next, l->statefd, err);
	if (rc == 0)
		fz_warn("promoted: this host is the primary from epoch %u on", next.epoch);
	cJSON_AddNumberToObject(answer, "epoch", next.epoch);
	if (fs_super_restart(rc == 0 ? err : NULL) < 0 && rc == 0) /* a failure: as the replica that it was */
		rc = fz_err_prefix(err, "the role has changed; fazt umount and mount again");
	return rc;
}
