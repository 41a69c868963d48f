#include "replica/apply.h"

#include "replica/applypriv.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "ltx/log.h"
#include "replica/replay.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FEW       4    /* waiting transactions that become visible one by one */
#define MERGED    4096 /* at most in one WAL transaction */
#define RESIZE_MS 200  /* to wait for readers at a change of the page size */
#define WAL_BYTES (4u << 20)
#define WAL_HARD  (1u << 30)
#define PAGE_MAX  65536

int replica_apply_page(struct replica_apply *a, uint32_t pgno, const uint8_t *data, struct fz_err *err)
{
	if (pgno == 1) {
		memcpy(a->page, data, replica_wal_page_size(a->wal));
		memset(a->page + REPLICA_P1_MODE, 2, 2);
		data = a->page;
	}
	return replica_wal_write(a->wal, pgno, data, err);
}

void replica_apply_arrived(struct replica_apply *a)
{
	const struct ltx_sums_head *head = ltx_sums_head(a->sums);

	replica_position_set(a->pos, head->txid, head->checksum);
	if (a->conf.sync_each)
		a->pos->floor = head->txid;
	a->st.txid = head->txid;
	a->st.checksum = head->checksum;
}

int replica_apply_resize(struct replica_apply *a, uint32_t page_size, struct fz_err *err)
{
	uint64_t end = fz_mono_ns() + RESIZE_MS * 1000000u;
	int rc;

	if (page_size == replica_wal_page_size(a->wal))
		return 0;
	do {
		rc = replica_backfill_all(a, err);
		if (rc == 0)
			rc = replica_backfill_restart(a, err);
		if (rc)
			break;
		nanosleep(&(struct timespec){0, 1000000}, NULL);
	} while (fz_mono_ns() < end);
	if (rc == 0)
		return fz_fail(err, FZ_EBUSY, "the page size changes once no reader holds the WAL any more");
	return rc < 0 ? rc : replica_wal_resize(a->wal, page_size, err);
}

/* One WAL transaction. Until replica_wal_commit() has returned nothing of it can be seen. */
static int publish(struct replica_apply *a, struct fz_err *err)
{
	struct replica_batch *b = &a->batch;
	const uint8_t *data;
	uint32_t pgno, n = 0;
	int rc = replica_apply_resize(a, b->page_size, err);

	if (rc == 0)
		rc = replica_backfill_restart(a, err);
	if (rc < 0)
		return rc;
	if (a->pos->reach < b->max_txid)
		replica_position_reach(a->pos, b->max_txid);
	rc = replica_wal_begin(a->wal, 0, err);
	while (rc == 0 && (rc = replica_batch_next(b, &pgno, &data, err)) == 1) {
		rc = replica_apply_page(a, pgno, data, err);
		n++;
	}
	if (rc == 0)
		rc = replica_wal_commit(a->wal, b->commit, err);
	if (rc < 0) {
		replica_wal_abort(a->wal);
		return rc;
	}
	a->st.transactions += b->transactions;
	a->st.pages += n;
	a->st.batches++;
	replica_batch_settle(b, a->sums);
	replica_apply_arrived(a);
	return 0;
}

/* The log does not go on from where we are. Either it is another history now, or the table lies: it is made anew. */
static int doubt(struct replica_apply *a, uint64_t txid, const volatile bool *cancel, struct fz_err *err)
{
	struct replica_replay r = {.log = a->conf.log, .sums = a->sums, .txid = a->st.txid, .fd = -1, .cancel = cancel};
	uint64_t checksum = 0;
	struct fz_err why;
	int rc = replica_replay_checksum(a->conf.log, a->st.txid, &checksum, &why);

	if (rc == -FZ_EGAP && ltx_log_find(a->conf.log, a->st.txid + 1, &(struct ltx_log_entry){0}, &why) < 0)
		return fz_fail(err, -why.code, "%s", why.text);
	if (rc == 0 && checksum == a->st.checksum) {
		ltx_sums_clear(a->sums);
		return replica_replay(&r, err);
	}
	fz_warn("%s: the log has no way on from TXID %" PRIu64 ": every page is compared", fz_log_db(a->name),
	        a->st.txid);
	r.txid = txid;
	ltx_sums_clear(a->sums);
	rc = replica_replay(&r, err);
	return rc < 0 ? rc : replica_mend_all(a, err);
}

int replica_apply_run(struct replica_apply *a, uint64_t txid, const volatile bool *cancel, struct fz_err *err)
{
	struct ltx_log_info info;
	bool doubted = false;
	uint64_t target;
	int rc = 0;

	if (a->removed)
		return 0;
	ltx_log_info(a->conf.log, &info);
	target = txid && txid < info.tail_txid ? txid : info.tail_txid;
	if (!a->wal) {
		rc = replica_attach(a, target, fz_mono_ns(), cancel, err);
		if (rc <= 0)
			return rc;
		rc = 0;
	}
	if (info.tail_txid && info.tail_txid < a->st.txid)
		rc = doubt(a, target, cancel, err);
	while (rc == 0 && a->st.txid < target && !replica_apply_cancelled(cancel)) {
		uint64_t waiting = target - a->st.txid;

		replica_backfill_pace(a, cancel);
		rc = replica_batch_collect(&a->batch, a->conf.log, a->sums, target, waiting <= FEW ? 1 : MERGED, err);
		if (rc == 0)
			break;
		if (rc > 0)
			rc = publish(a, err);
		else if ((rc == -FZ_ECHECKSUM || rc == -FZ_ECORRUPT || rc == -FZ_EGAP) && !doubted) {
			struct fz_err why = *err;

			doubted = true;
			rc = doubt(a, target, cancel, err);
			if (rc == -FZ_EGAP)
				*err = why;
		}
	}
	replica_batch_trim(&a->batch);
	replica_backfill_pace(a, cancel);
	return rc;
}

int replica_apply_checkpoint(struct replica_apply *a, struct fz_err *err)
{
	int rc;

	if (!a->wal)
		return 0;
	rc = replica_backfill_all(a, err);
	if (rc == 0)
		rc = replica_backfill_restart(a, err);
	return rc < 0 ? rc : 0;
}

void replica_apply_rest(struct replica_apply *a)
{
	if (a->wal)
		replica_backfill_idle(a);
}

int replica_apply_scrub(struct replica_apply *a, uint32_t *next_pgno, uint32_t max_pages, struct fz_err *err)
{
	uint32_t first = *next_pgno ? *next_pgno : 1, last, commit;
	int rc;

	*next_pgno = 0;
	if (!a->wal)
		return 0;
	commit = ltx_sums_head(a->sums)->commit;
	last = commit - first < max_pages ? commit : first + max_pages - 1;
	if (first > commit)
		return 0;
	rc = replica_mend_slice(a, first, last, err);
	if (rc < 0)
		return rc;
	if (rc > 0) {
		fz_warn("%s: %d of the pages %u to %u differed from the log and were mended", fz_log_db(a->name), rc,
		        first, last);
		a->st.differences++;
		a->st.repaired_pages += (unsigned)rc;
	}
	if (last < commit)
		*next_pgno = last + 1;
	return 0;
}

int replica_apply_hold(struct replica_apply *a, struct ltx_log *log, struct fz_err *err)
{
	struct replica_position *pos = NULL;
	struct ltx_sums *sums;
	int rc;

	if (a && a->pos) {
		replica_backfill_poll(a, true);
		a->held = true;
		return replica_position_void(a->pos, err);
	}
	rc = replica_position_open(&pos, ltx_log_dirfd(log), false, err);
	if (rc == 0)
		rc = replica_position_void(pos, err);
	replica_position_close(pos);
	if (rc != -FZ_ENOTFOUND)
		return rc;
	/* a former primary: nor does what its capture knows fit any more */
	rc = ltx_sums_open(&sums, ltx_log_dirfd(log), err);
	if (rc == 0) {
		ltx_sums_head(sums)->pos_frame = 0;
		ltx_sums_close(sums);
	}
	return rc;
}

int replica_apply_remove(struct replica_apply *a, struct fz_err *err)
{
	static const char *const suffix[] = {"", "-journal", "-wal", "-shm"};
	int rc = 0;

	replica_backfill_poll(a, true);
	a->removed = true;
	if (!a->pos)
		rc = replica_position_open(&a->pos, ltx_log_dirfd(a->conf.log), false, err);
	if (rc < 0)
		return rc == -FZ_ENOTFOUND ? 0 : rc;
	/* the database first: a file of it that is left over is litter, and without its WAL it would be an older state */
	for (unsigned i = 0; rc == 0 && i < sizeof(suffix) / sizeof(suffix[0]); i++) {
		char path[1024];

		snprintf(path, sizeof(path), "%s%s", a->file, suffix[i]);
		if (unlinkat(a->dirfd, path, 0) < 0 && errno != ENOENT)
			rc = fz_fail_errno(err, errno, "removing %s", a->name);
	}
	if (rc == 0)
		rc = replica_position_remove(ltx_log_dirfd(a->conf.log), err);
	replica_attach_end(a);
	return rc;
}

void replica_apply_get(const struct replica_apply *a, struct replica_apply_state *out)
{
	*out = a->st;
	out->floor_txid = a->pos ? a->pos->floor : 0;
	out->wal_bytes = a->wal ? replica_backfill_bytes(a) : 0;
}

int replica_apply_open(struct replica_apply **out, const struct replica_apply_conf *conf, int64_t wait_ms,
                       struct fz_err *err)
{
	uint64_t deadline = fz_mono_ns() + (uint64_t)(wait_ms > 0 ? wait_ms : 0) * 1000000u;
	struct replica_apply *a = calloc(1, sizeof(*a));
	struct ltx_log_info info;
	uint64_t durable;
	int rc;

	if (!a)
		return fz_fail_errno(err, ENOMEM, "applying to %s", conf->name);
	a->conf = *conf;
	a->dirfd = a->dbfd = -1;
	if (!a->conf.wal_bytes)
		a->conf.wal_bytes = WAL_BYTES;
	if (!a->conf.wal_hard_bytes)
		a->conf.wal_hard_bytes = WAL_HARD;
	a->name = strdup(conf->name);
	a->page = malloc(PAGE_MAX);
	if (!a->name || !a->page)
		rc = fz_fail_errno(err, ENOMEM, "applying to %s", conf->name);
	else
		rc = replica_attach_directory(a, err);
	if (rc == 0)
		rc = ltx_sums_open(&a->sums, ltx_log_dirfd(conf->log), err);
	if (rc == 0 && !conf->to_remove) {
		ltx_log_info(conf->log, &info);
		durable = info.synced_txid > info.base_txid ? info.synced_txid : info.base_txid;
		rc = replica_attach(a, durable, deadline, NULL, err);
	}
	if (rc < 0) {
		replica_apply_close(a, false);
		return rc;
	}
	*out = a;
	return 0;
}

/* What of the WAL the log holds: all of it. A capture that begins here goes on behind it (ltx/sums.h). A generation that the index has left
 * must be gone from the file too: whoever builds the index anew would find its frames, and they would be captured again, oldest first.
 * Held by tests/e2e/promote.py, tests/e2e/rejoin.py. */
static int hand_over(struct replica_apply *a, struct fz_err *err)
{
	struct ltx_sums_head *head = ltx_sums_head(a->sums);
	int rc = replica_wal_restart(a->wal, 0, err);

	if (rc >= 0)
		rc = replica_wal_end(a->wal, &head->pos_frame, head->pos_salt, head->last_frame, err);
	return rc < 0 ? rc : ltx_sums_sync(a->sums, err);
}

void replica_apply_close(struct replica_apply *a, bool checkpointed)
{
	struct fz_err err;

	if (!a)
		return;
	replica_backfill_poll(a, true);
	if (checkpointed && a->wal && (replica_apply_checkpoint(a, &err) < 0 || hand_over(a, &err) < 0))
		fz_log_err(fz_log_db(a->name), &err);
	replica_attach_end(a);
	replica_batch_fini(&a->batch);
	ltx_sums_close(a->sums);
	fz_close(&a->dirfd);
	free(a->page);
	free(a->name);
	free(a);
}
