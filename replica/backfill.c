/* backfill.c - keeps the WAL short while transactions go on arriving.
 *
 * Above wal_bytes a checkpoint runs in a thread of its own (replica/checkpoint.h); applying goes on. What was appended meanwhile
 * is left for the next one, so under a steady stream the WAL never is quite copied: above four times that, a small rest is copied while
 * applying waits (two fsyncs and some pages), and readers get 2 ms to let go. Readers that overlap without a gap keep
 * the WAL from restarting whatever is copied: then applying rests, for 10 ms above 16 times the limit, for 150 ms above the hard one,
 * and each time that it does not help the next rest is twice as long and twice as far away. While nothing new appears and all is copied, new readers
 * use the database alone, so those that hold the WAL can only become fewer. */
#include "replica/applypriv.h"

#include "base/clock.h"
#include "base/log.h"
#include "ltx/wal.h"

#include <time.h>

#define REST_FEW      128 /* what is copied while applying waits; the larger one when that few do not come about */
#define REST_FRAMES   1024
#define NUDGE_MS      2
#define NUDGE_EACH_MS 20
#define NUDGE_FACTOR  4
#define SOFT_FACTOR   16
#define SOFT_MS       10
#define SOFT_EACH_MS  200
#define HARD_MS       150
#define HARD_EACH_MS  1000
#define RETRY_MS      1000 /* after a checkpoint that failed */
#define FAILED_MAX    4

uint64_t replica_backfill_bytes(const struct replica_apply *a)
{
	uint32_t frames = replica_wal_frames(a->wal);

	return frames ? ltx_wal_frame_off(replica_wal_page_size(a->wal), frames + 1) : 0;
}

static void copied(struct replica_apply *a, uint64_t txid)
{
	if (a->pos->floor < txid && !a->held)
		a->pos->floor = txid;
	a->st.checkpoints++;
}

static void run(void *arg)
{
	struct replica_apply *a = arg;

	a->job.rc = replica_checkpoint_copy(a->job.ck, &a->job.err);
	atomic_store(&a->job.done, true);
}

void replica_backfill_poll(struct replica_apply *a, bool wait)
{
	if (!a->job.ck || (!wait && !atomic_load(&a->job.done)))
		return;
	fz_worker_stop(&a->job.worker); /* joins */
	replica_checkpoint_finish(a->job.ck, a->job.rc == 0);
	a->job.ck = NULL;
	if (a->job.rc == 0) {
		copied(a, a->job.txid);
		return;
	}
	fz_log_err(fz_log_db(a->name), &a->job.err);
	a->job.next_ns = fz_mono_ns() + RETRY_MS * 1000000u;
}

static bool all_copied(const struct replica_apply *a)
{
	return replica_wal_backfilled(a->wal) == replica_wal_frames(a->wal);
}

static void begin(struct replica_apply *a)
{
	struct fz_err err;
	int rc;

	if (a->job.ck || fz_mono_ns() < a->job.next_ns)
		return;
	rc = replica_checkpoint_start(&a->job.ck, a->wal, &err);
	if (rc <= 0) {
		a->st.readers_hold_wal = rc == 0 && !all_copied(a);
		if (rc < 0)
			fz_log_err(fz_log_db(a->name), &err);
		return;
	}
	a->job.txid = a->pos->txid;
	atomic_store(&a->job.done, false);
	if (fz_worker_start(&a->job.worker, "apply-ckpt", run, a, &err) < 0) {
		fz_log_err(fz_log_db(a->name), &err);
		replica_checkpoint_finish(a->job.ck, false);
		a->job.ck = NULL;
	}
}

int replica_backfill_all(struct replica_apply *a, struct fz_err *err)
{
	int rc = 0;

	replica_backfill_poll(a, true);
	while (rc == 0 && !all_copied(a)) {
		struct replica_checkpoint *ck;
		uint64_t txid = a->pos->txid;

		rc = replica_checkpoint_start(&ck, a->wal, err);
		if (rc <= 0)
			break;
		rc = replica_checkpoint_copy(ck, err);
		replica_checkpoint_finish(ck, rc == 0);
		if (rc == 0)
			copied(a, txid);
	}
	a->st.readers_hold_wal = !all_copied(a);
	return rc;
}

int replica_backfill_restart(struct replica_apply *a, struct fz_err *err)
{
	int rc;

	if (!replica_wal_frames(a->wal))
		return 1;
	if (a->job.ck || !all_copied(a))
		return 0;
	rc = replica_wal_restart(a->wal, 4 * a->conf.wal_bytes, err);
	a->st.readers_hold_wal = rc == 0;
	if (rc > 0)
		a->st.restarts++;
	return rc;
}

/* Copies the rest and tries to restart for that long. */
static bool rest(struct replica_apply *a, unsigned ms, const volatile bool *cancel)
{
	uint64_t end = fz_mono_ns() + (uint64_t)ms * 1000000u;
	struct fz_err err;
	int rc;

	do {
		rc = replica_backfill_all(a, &err);
		if (rc == 0)
			rc = replica_backfill_restart(a, &err);
		if (rc < 0)
			fz_log_err(fz_log_db(a->name), &err);
		if (rc)
			break;
		nanosleep(&(struct timespec){0, 100000}, NULL);
	} while (fz_mono_ns() < end && !replica_apply_cancelled(cancel));
	return rc > 0;
}

/* The share of time that goes into it stays the same. */
static void pause_at(struct replica_apply *a, struct replica_pause *p, unsigned ms, unsigned each_ms,
                     const volatile bool *cancel)
{
	if (fz_mono_ns() < p->next_ns)
		return;
	if (rest(a, ms << p->failed, cancel))
		p->failed = 0;
	else if (p->failed < FAILED_MAX)
		p->failed++;
	p->next_ns = fz_mono_ns() + ((uint64_t)each_ms << p->failed) * 1000000u;
}

void replica_backfill_pace(struct replica_apply *a, const volatile bool *cancel)
{
	uint64_t bytes;

	replica_backfill_poll(a, false);
	bytes = replica_backfill_bytes(a);
	if (bytes <= a->conf.wal_bytes)
		return;
	if (bytes > a->conf.wal_hard_bytes) {
		pause_at(a, &a->hard, HARD_MS, HARD_EACH_MS, cancel);
	} else if (bytes > SOFT_FACTOR * a->conf.wal_bytes) {
		pause_at(a, &a->soft, SOFT_MS, SOFT_EACH_MS, cancel);
	} else if (bytes > NUDGE_FACTOR * a->conf.wal_bytes && !a->job.ck &&
	           replica_wal_frames(a->wal) - replica_wal_backfilled(a->wal) <=
	                   (bytes > 2 * NUDGE_FACTOR * a->conf.wal_bytes ? REST_FRAMES : REST_FEW)) {
		pause_at(a, &a->nudge, NUDGE_MS, NUDGE_EACH_MS, cancel);
	}
	if (!all_copied(a))
		begin(a);
}

void replica_backfill_idle(struct replica_apply *a)
{
	struct fz_err err;

	replica_backfill_poll(a, false);
	if (!all_copied(a))
		begin(a);
	else if (replica_backfill_restart(a, &err) < 0)
		fz_log_err(fz_log_db(a->name), &err);
}
