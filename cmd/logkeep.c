#include "cmd/logkeep.h"

#include "base/clock.h"
#include "base/log.h"
#include "cmd/link.h"
#include "ltx/log.h"
#include "primary/ship.h"
#include "replica/leaving.h"

#include <errno.h>

#define HOUR_MS       INT64_C(3600000)
#define ALONE_KEEP_MS (30 * 24 * HOUR_MS)
#define WORTH_BYTES   (UINT64_C(64) << 20)
#define LOOK_MS       (HOUR_MS / 60)
#define CROWD         64

/* What the database on a replica holds whatever happens: the log below is not applied again. */
static uint64_t applied(const struct cmd_link *l, const struct ltx_log_info *info)
{
	struct replica_applied a;

	if (info->ended_ms)
		return info->tail_txid;
	return replica_applier_get(l->applier, info->lineage, &a) ? a.state.floor_txid : 0;
}

/* What nobody needs from the log any more. */
static uint64_t settled(const struct cmd_logkeep *k, const struct ltx_log_info *info)
{
	uint64_t txid = k->ship ? primary_ship_settled(k->ship, info->lineage) : 0, floor = UINT64_MAX;

	if (k->link && k->link->role.replica)
		txid = applied(k->link, info);
	if (k->link && k->link->server)
		floor = primary_server_floor(k->link->server, info->lineage);
	return txid < floor ? txid : floor;
}

/* Somebody else holds what the log holds: a target, or the primary. */
static bool elsewhere(const struct cmd_logkeep *k)
{
	return k->ship || (k->link && k->link->role.replica);
}

/* keep_ms: how long an ended log that every target holds still waits. */
static bool remove_ended(struct cmd_logkeep *k, struct ltx_log *log, const struct ltx_log_info *info, int64_t keep_ms,
                         int64_t now_ms)
{
	struct fz_err err = {0};
	int rc;

	if (now_ms - info->ended_ms < (elsewhere(k) ? keep_ms : ALONE_KEEP_MS))
		return false;
	if (elsewhere(k) && settled(k, info) < info->tail_txid)
		return false;
	if (replica_noted(log, REPLICA_LEAVING) ||
	    replica_noted(log, REPLICA_UNSETTLED)) /* the agent reads the log for that; it may be needed */
		return false;
	if (k->ship && !primary_ship_told_end(k->ship, info)) /* nobody else would tell */
		return false;
	rc = ltx_logset_remove(k->logs, log, &err);
	if (rc < 0 && rc != -FZ_EBUSY) /* busy: a lane looks at it just now */
		fz_log_err("removing the log of a deleted database", &err);
	if (rc == 0)
		fz_info("%s: the log of the deleted database was removed (lineage %s)", fz_log_db(info->name),
		        info->lineage);
	return rc == 0;
}

static bool fold_old(struct cmd_logkeep *k, struct ltx_log *log, const struct ltx_log_info *info, int64_t now_ms)
{
	uint64_t worth = info->base_bytes > k->worth_bytes ? info->base_bytes : k->worth_bytes, upto, frees;
	struct fz_err err = {0};
	struct ltx_log_entry e;
	int rc;

	if (!elsewhere(k) || info->log_bytes <= worth || ltx_log_find_time(log, now_ms - k->keep_ms, &e, NULL) < 0)
		return false;
	upto = settled(k, info);
	if (upto > e.e.max_txid)
		upto = e.e.max_txid;
	frees = ltx_log_bytes_upto(log, upto);
	if (frees <= worth)
		return false;
	rc = ltx_log_fold(log, upto, &k->cancel, &err);
	if (rc < 0 && rc != -ECANCELED)
		fz_log_err("making the log smaller", &err);
	if (rc == 0)
		fz_info("%s: %llu MiB of its log, which every target holds, went into its base", fz_log_db(info->name),
		        (unsigned long long)(frees >> 20));
	return rc == 0;
}

static unsigned count_ended(struct cmd_logkeep *k)
{
	struct ltx_log_info info;
	unsigned n = 0;

	for (size_t i = 0; ltx_logset_info(k->logs, i, &info); i++)
		n += info.ended_ms != 0;
	return n;
}

unsigned cmd_logkeep_pass(struct cmd_logkeep *k, int64_t now_ms)
{
	unsigned done = 0, ended = count_ended(k), crowd = k->crowd ? k->crowd : CROWD;
	struct ltx_log *log;

	for (size_t i = 0; (log = ltx_logset_at(k->logs, i)) && !__atomic_load_n(&k->cancel, __ATOMIC_RELAXED);) {
		struct ltx_log_info info;
		bool removed = false;

		ltx_log_info(log, &info);
		if (info.ended_ms)
			removed = remove_ended(k, log, &info, ended > crowd ? 0 : k->keep_ms, now_ms);
		else if (fold_old(k, log, &info, now_ms))
			done++;
		ltx_log_put(log);
		log = NULL;
		if (removed) { /* the next one has its place */
			done++;
			ended--;
		} else {
			i++;
		}
	}
	ltx_log_put(log);
	return done;
}

static void run(void *arg)
{
	struct cmd_logkeep *k = arg;
	int64_t look_ms = k->keep_ms / 4 < LOOK_MS ? k->keep_ms / 4 + 1 : LOOK_MS;

	while (fz_worker_wait(&k->worker, look_ms)) {
		(void)cmd_logkeep_pass(k, fz_now_ms());
		fz_log_flush(0); /* of lines that were suppressed, in a process that has said nothing since */
	}
}

int cmd_logkeep_start(struct cmd_logkeep *k, struct fz_err *err)
{
	if (!k->keep_ms)
		k->keep_ms = HOUR_MS;
	if (!k->worth_bytes)
		k->worth_bytes = WORTH_BYTES;
	return fz_worker_start(&k->worker, "log-keep", run, k, err);
}

void cmd_logkeep_stop(struct cmd_logkeep *k)
{
	__atomic_store_n(&k->cancel, true, __ATOMIC_RELAXED);
	fz_worker_stop(&k->worker);
}
