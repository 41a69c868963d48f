/* apply.h - bring one replicated database in the mount to what its local log holds, beside any number of SQLite readers
 * that never wait, never fail and never see anything but whole transactions. Runs in the agent (replica/applier.h): it acts on the
 * mount as an application does. Mechanism: docs/design.md "Apply"; frames and wal-index as in replica/walapply.h.
 *
 * (1) The log is durable up to a TXID before that TXID is applied; so the database can always be brought on from the log.
 * (2) WRITE and CKPT of the wal-index are held for as long as the database is attached: no application can write,
 *     restart the WAL or checkpoint, whatever descriptors it has from before.
 * (3) Position: "apply" in the log's directory, mapped: the TXID that was published last, and `floor`, the TXID that a
 *     synced checkpoint holds. A death leaves the position behind by one batch at most; a power cut may leave it anywhere down to
 *     floor: what is applied again holds whole pages of every transaction since, merged into one, so no reader goes back.
 * (4) The database's header says WAL (bytes 18, 19 = 2) in the file and in every page 1 that is applied, whatever the
 *     primary's journal mode; checksums ignore it.
 * Not thread-safe: one thread a database. */
#ifndef FZ_REPLICA_APPLY_H
#define FZ_REPLICA_APPLY_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct ltx_log;
struct replica_apply;

/* Locks that keep writers off a database already (the agent of a former primary has fenced it): descriptors of it and of its -shm,
 * -1 = none. The applier uses the same open files, so its locks are these. They stay for as long as the agent lives, also when the database is
 * removed: whoever still has it open would commit to a file that nobody captures. */
struct replica_fence {
	struct replica_fence *next;
	const char *name;
	int db_fd, shm_fd;
};
struct replica_apply_conf {
	int mountfd;                 /* root of the mount, borrowed */
	const char *name;            /* path of the database below it; missing directories are made */
	struct ltx_log *log;         /* read-only handle (counted by the caller, outlives this) */
	uint64_t wal_bytes;          /* checkpoint when the WAL is larger; 0 = 4 MiB */
	uint64_t wal_hard_bytes;     /* above it apply pauses so that readers let the WAL restart; 0 = 1 GiB */
	struct replica_fence *fence; /* borrowed; NULL = none */
	bool sync_each;              /* fsync the WAL at each batch; otherwise at checkpoints only */
	bool to_remove;              /* attach nothing: replica_apply_remove() follows */
};
struct replica_apply_state {
	uint64_t txid, checksum; /* applied and visible */
	uint64_t floor_txid;
	uint64_t transactions, pages, batches, checkpoints, restarts;
	uint64_t repaired_pages, differences; /* pages that were not what the log says, and were mended */
	uint64_t wal_bytes;
	bool readers_hold_wal; /* the WAL cannot restart now */
};

/* Attaches: makes the database when it is not there (from the log's base or from TXID 1 on, as far as the log is durable; when
 * nothing is, replica_apply_run() makes it), takes SHARED, WAL, wal-index, DMS, WRITE and CKPT. A file of that name that is not
 * this database's (neither a position nor a table of page sums in the log's directory) is renamed to NAME.local-<ms> and
 * told. Where the position does not lead on (another history, the log starts later), all pages are compared with the log.
 * wait_ms: for locks that applications hold (-FZ_EBUSY). */
int replica_apply_open(struct replica_apply **out, const struct replica_apply_conf *conf, int64_t wait_ms,
                       struct fz_err *err) FZ_MUST_CHECK;
/* Detaches; what is applied stays. checkpointed: everything is brought into the database and the position is exact. */
void replica_apply_close(struct replica_apply *a, bool checkpointed);
/* Applies what the log holds up to txid (0 = all): one WAL transaction for each when few are waiting, merged ones when many are. Each LTX
 * file is verified (file checksum, pre-checksum against the position, post-checksum against the table of page sums) before a byte
 * of it is written. -FZ_ECHECKSUM: nothing was applied, the caller repairs. *cancel ends it between batches. */
int replica_apply_run(struct replica_apply *a, uint64_t txid, const volatile bool *cancel,
                      struct fz_err *err) FZ_MUST_CHECK;
/* The log is about to be cut below what was applied: that is given up first, durably, so that no death and no power cut leaves a position which
 * the log no longer explains. Attached: replica_apply_rewind() comes next. a: NULL = not attached. log: of its lineage. */
int replica_apply_hold(struct replica_apply *a, struct ltx_log *log, struct fz_err *err) FZ_MUST_CHECK;
/* The log was cut off, and what it holds now is another history than the one that was applied: every page is compared with it, and
 * those that differ are written in one WAL transaction. The locks are never let go. */
int replica_apply_rewind(struct replica_apply *a, const volatile bool *cancel, struct fz_err *err) FZ_MUST_CHECK;
/* Backfills as far as readers allow, and lets the next frame start the WAL anew once it can. Never waits for readers. */
int replica_apply_checkpoint(struct replica_apply *a, struct fz_err *err) FZ_MUST_CHECK;
/* The same in slack: copies in a thread beside, takes in what that has done; waits for nothing. Call again after some 50 ms, until
 * wal_bytes is 0. */
void replica_apply_rest(struct replica_apply *a);
/* Compares pages of the visible state with the table, and those that differ with the log: writes the right ones in one
 * WAL transaction and counts. Continues from *next_pgno for at most max_pages; *next_pgno = 0 at the end. */
int replica_apply_scrub(struct replica_apply *a, uint32_t *next_pgno, uint32_t max_pages,
                        struct fz_err *err) FZ_MUST_CHECK;
/* The database was deleted on the primary (or renamed: then it comes again under the other name, as another lineage): unlinks it
 * and gives up the locks. A file that was never applied to stays. */
int replica_apply_remove(struct replica_apply *a, struct fz_err *err) FZ_MUST_CHECK;
void replica_apply_get(const struct replica_apply *a, struct replica_apply_state *out);

#endif
