/* position.h - how far a replicated database is: the file "apply" in its log's directory, mapped. Native byte order: it never
 * leaves the host.
 *
 * (1) reach is raised before a frame of the transaction is written; checksum, then txid, after it was published. So after a
 *     SIGKILL the database stands at txid, or anywhere the WAL's recovery took it up to reach.
 * (2) The file is not synced. After another boot it may be any state that it ever had; floor, which only grows, is then what
 *     counts: at least that much is on disk.
 * (3) There is none on a primary: its applications go on from there, and after that the file would name a state that is gone. The
 *     capture removes it before it takes the first commit (fs/db.c; test_fs_capture applied_before).
 * Not thread-safe. */
#ifndef FZ_REPLICA_POSITION_H
#define FZ_REPLICA_POSITION_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct replica_position {
	char magic[8];
	uint64_t txid, checksum; /* published last; txid 0: unknown, every page must be looked at */
	uint64_t reach;          /* what may be visible already; reach == txid: nothing is under way */
	uint64_t floor;          /* a power cut does not take the database below */
	uint32_t making;         /* not 0: the file is being made, and has its name once the temporary one is gone */
	uint32_t unused;
	char boot_id[40];
};

/* Maps it. make: also when there is none (or a damaged one), then zeroed; else -FZ_ENOTFOUND. dirfd is borrowed. */
int replica_position_open(struct replica_position **out, int dirfd, bool make, struct fz_err *err) FZ_MUST_CHECK;
void replica_position_close(struct replica_position *p); /* NULL is fine */
void replica_position_reach(struct replica_position *p, uint64_t txid);
void replica_position_set(struct replica_position *p, uint64_t txid, uint64_t checksum);
/* Nothing is known any more, also after a power cut: before the log is cut below what was applied, and before every page is compared. */
int replica_position_void(struct replica_position *p, struct fz_err *err) FZ_MUST_CHECK;
/* Written by this boot. */
bool replica_position_fresh(const struct replica_position *p);
int replica_position_sync(struct replica_position *p, struct fz_err *err) FZ_MUST_CHECK;
int replica_position_remove(int dirfd, struct fz_err *err) FZ_MUST_CHECK;

#endif
