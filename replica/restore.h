/* restore.h - bring a database back as it was after one commit: plan from a listing (replica/plan.h, pure), fetch in
 * parallel with ranged reads, write each page once into a temporary file, verify the checksum of the whole database,
 * fsync, rename. Memory is bounded; a broken download resumes; an object that is gone makes it plan again. */
#ifndef FZ_REPLICA_RESTORE_H
#define FZ_REPLICA_RESTORE_H

#include "replica/source.h"

#include <sys/stat.h>

struct replica_progress {
	/* Called about 5 times a second from one thread. total may grow. */
	void (*tick)(struct replica_progress *p, uint64_t done_bytes, uint64_t total_bytes);
};
enum replica_when { REPLICA_LATEST, REPLICA_AT, REPLICA_TXID };
struct replica_restore_conf {
	enum replica_when when;
	int64_t at_ms;
	uint64_t txid;
	char lineage[17];                  /* of that life of the database only; "" = of the newest one that has it */
	const char *output;                /* path; NULL with into, dry_run or verify_only */
	const int *output_dir;             /* its directory, where the caller has it open; NULL = as the path says */
	const struct stat *like;           /* mode and owner of a new output; NULL = 0600, ours */
	const int *into;                   /* instead of output: an empty file, open for reading and writing */
	bool force;                        /* replace an existing output */
	bool dry_run;                      /* plan only: tells what would be fetched */
	bool verify_only;                  /* restore into nothing: every checksum is compared, pages are dropped */
	unsigned parallel;                 /* fetching threads; 0 = 4 */
	uint64_t memory_bytes;             /* for buffers; 0 = 24 MiB */
	struct replica_progress *progress; /* NULL = none */
	const volatile bool *cancel;       /* NULL = none */
};
struct replica_restore_result {
	struct replica_commit commit; /* which one it took */
	int64_t distance_ms;          /* asked moment - commit time; 0 unless REPLICA_AT */
	uint32_t page_size, pages;
	uint64_t objects, fetched_bytes, elapsed_ms;
	bool from_log; /* of a joined source: the local log had it, no store was asked */
};
/* -FZ_ENOTFOUND no such database; -FZ_ENOCOMMIT nothing that old; -FZ_EGAP; -FZ_ECHECKSUM; -FZ_ENOKEY; -FZ_EEXISTS. On
 * failure the output does not exist or is what it was, and result->commit.lineage is the life that had what was asked for,
 * as the local log knows ("" = does not): whoever looks elsewhere asks for that one. */
int replica_restore(struct replica_source *s, const struct replica_restore_conf *conf,
                    struct replica_restore_result *result, struct fz_err *err) FZ_MUST_CHECK;

/* TXIDs between the two cannot be restored: no object holds them, and the chain goes on with a later snapshot (before). */
struct replica_gap {
	char lineage[17];
	uint64_t after, before; /* after: the last one that can be restored; 0 = none */
};
#define REPLICA_GAPS_MAX 64
struct replica_verify_result {
	uint64_t objects, commits, bytes;
	bool structure_only; /* no identity: names, sizes, claims and gaps only */
	struct replica_commit first, last;
	uint64_t n_gaps;
	struct replica_gap gaps[REPLICA_GAPS_MAX]; /* the first of them */
};
struct replica_verify_conf {
	bool full;                         /* also restores the last commit and runs SQLite's integrity_check */
	const char *tmp_dir;               /* for tables and that copy; NULL = fz_temp_dir() */
	struct replica_progress *progress; /* NULL = none */
	const volatile bool *cancel;       /* NULL = none: -ECANCELED */
};
/* Every object of the source is read and checked: chain of checksums from the first restorable commit to the last. A gap
 * that a later snapshot healed is counted, and no error; -FZ_EGAP: the newest state cannot be reached. Of a joined
 * source the log is verified, or the store when the log does not know the database. */
int replica_verify(struct replica_source *s, const struct replica_verify_conf *conf,
                   struct replica_verify_result *result, struct fz_err *err) FZ_MUST_CHECK;
/* SQLite's integrity_check of a complete file that nobody else has open, as it lies there: -FZ_EVERIFY. Opaque pages (no header) pass. */
int replica_integrity(const char *path, const volatile bool *cancel, struct fz_err *err) FZ_MUST_CHECK;

#endif
