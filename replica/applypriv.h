/* applypriv.h - what the parts of applying share: struct replica_apply. apply.c runs, attach.c gets hold of the database,
 * backfill.c keeps the WAL short, mend.c compares and repairs. Nobody else includes it.
 *
 * INVARIANT between calls, once attached: the table of sums stands at position->txid, and that is what readers see. */
#ifndef FZ_REPLICA_APPLYPRIV_H
#define FZ_REPLICA_APPLYPRIV_H

#include "base/worker.h"
#include "ltx/sums.h"
#include "replica/apply.h"
#include "replica/batch.h"
#include "replica/checkpoint.h"
#include "replica/position.h"
#include "replica/walapply.h"

#include <stdatomic.h>

#define REPLICA_P1_MODE 18 /* two bytes of page 1: 1 rollback, 2 WAL */

struct replica_pause { /* applying rests so that readers let the WAL go */
	uint64_t next_ns;
	unsigned failed; /* so often in a row */
};
struct replica_apply {
	struct replica_apply_conf conf;
	char *name;
	const char *file; /* its last component, below dirfd */
	int dirfd, dbfd;
	struct replica_wal *wal; /* NULL = not attached */
	struct replica_position *pos;
	struct ltx_sums *sums;
	struct replica_batch batch;
	uint8_t *page; /* 64 KiB */
	struct replica_apply_state st;
	bool removed;
	bool held; /* the log is being cut: what is copied meanwhile raises no floor */

	struct {                               /* a checkpoint under way in a thread of its own */
		struct replica_checkpoint *ck; /* NULL = none */
		struct fz_worker worker;
		atomic_bool done;
		int rc;
		struct fz_err err;
		uint64_t txid;    /* the WAL it syncs holds this one */
		uint64_t next_ns; /* not before, since the last one failed */
	} job;
	struct replica_pause nudge, soft, hard;
};

static inline bool replica_apply_cancelled(const volatile bool *cancel)
{
	return cancel && __atomic_load_n(cancel, __ATOMIC_RELAXED);
}

/* ---- attach.c ---- */
/* 1: attached; 0: it must be made, and there is nothing yet to make it from (txid 0). The database is made, or brought on where its
 * state is not known, to txid at least. */
int replica_attach(struct replica_apply *a, uint64_t txid, uint64_t deadline_ns, const volatile bool *cancel,
                   struct fz_err *err) FZ_MUST_CHECK;
int replica_attach_directory(struct replica_apply *a, struct fz_err *err) FZ_MUST_CHECK;
void replica_attach_end(struct replica_apply *a);

/* ---- apply.c ---- */
/* Writes a page into the transaction under way: page 1 says WAL. */
int replica_apply_page(struct replica_apply *a, uint32_t pgno, const uint8_t *data, struct fz_err *err) FZ_MUST_CHECK;
/* The transaction has become visible: what the table stands at. */
void replica_apply_arrived(struct replica_apply *a);
/* The WAL starts anew with another page size; -FZ_EBUSY while readers hold it. */
int replica_apply_resize(struct replica_apply *a, uint32_t page_size, struct fz_err *err) FZ_MUST_CHECK;

/* ---- backfill.c ---- */
/* Takes in a checkpoint that has ended; wait: until it has. */
void replica_backfill_poll(struct replica_apply *a, bool wait);
/* Between transactions: starts, and at a limit waits for, checkpoints and restarts, so that the WAL stays bounded. */
void replica_backfill_pace(struct replica_apply *a, const volatile bool *cancel);
/* One step towards an empty WAL, without waiting. */
void replica_backfill_idle(struct replica_apply *a);
/* Everything that readers let it, in this thread. */
int replica_backfill_all(struct replica_apply *a, struct fz_err *err) FZ_MUST_CHECK;
/* 1: the next frame is the first one. */
int replica_backfill_restart(struct replica_apply *a, struct fz_err *err) FZ_MUST_CHECK;
uint64_t replica_backfill_bytes(const struct replica_apply *a); /* of the WAL that count */

/* ---- mend.c ---- */
/* Makes the visible state what the log holds at the table's TXID, whatever it is: one transaction. */
int replica_mend_all(struct replica_apply *a, struct fz_err *err) FZ_MUST_CHECK;
/* The same for some pages of a state that ought to be right. Returns how many were not. */
int replica_mend_slice(struct replica_apply *a, uint32_t first, uint32_t last, struct fz_err *err) FZ_MUST_CHECK;

#endif
