/* held.h - the transaction in doubt that a replica holds for its primary (LTX_WIRE_PREPARED): on disk beside the log, in no reader's
 * sight, restorable by nobody, until it is committed, or until something else comes in its place.
 *
 * FILES  follow-held-0.ltx and follow-held-1.ltx, each an LTX file. One counts when it is whole and continues the log; what was
 *        committed meanwhile, dropped or torn, does not. Hence nothing has to be removed in time.
 * (1) What is acknowledged (put() returned) is found by load() after any crash, until it is in the log and durable there: a file is
 *     overwritten only when that is so, or when what it holds is not committed.
 * (2) A transaction that is held was prepared on top of the log's end. So when both files count, one continues the log and the other
 *     continues that one, and the first was committed: load() appends it.
 * (3) put() is to be acknowledged only when the log up to it is durable, or is so but for the last transaction, which the other file holds.
 * LOCKS  the owner of the log's appends owns it. Held by tests/unit/test_replica_held.c. */
#ifndef FZ_REPLICA_HELD_H
#define FZ_REPLICA_HELD_H

#include "base/io.h"
#include "ltx/log.h"

struct ltx_dec;

#define REPLICA_HELD_FILES 2

struct replica_held {
	struct replica_held_file {
		int fd;        /* -1 = not open now */
		uint64_t txid; /* 0 = nothing that counts */
		uint64_t size_bytes;
		uint32_t pages;
		struct ltx_header header;
		struct ltx_trailer trailer;
		bool committed; /* taken into the log from here */
	} files[REPLICA_HELD_FILES];
	bool named[REPLICA_HELD_FILES]; /* its name is on disk */
	int now;                        /* the one in doubt; -1 = none */
	int in;                         /* the one that is being received; -1 = none */
};

void replica_held_init(struct replica_held *h);
void replica_held_fini(struct replica_held *h); /* the files stay */
/* Every check that a file can be put to by itself: *dec is made at first use and reused. */
int replica_held_verify(struct ltx_dec **dec, struct fz_src *src, struct ltx_header *h, struct ltx_trailer *t,
                        uint32_t *pages, struct fz_err *err) FZ_MUST_CHECK;
/* What is on disk, after a start. Appends what was committed (2), not synced yet: 1 when it did. */
int replica_held_load(struct replica_held *h, struct ltx_log *log, struct ltx_dec **dec,
                      struct fz_err *err) FZ_MUST_CHECK;
/* A new one comes: begin, its bytes in order, end, which verifies it, and syncs it and what has to be synced before it (3). durable_txid:
 * of the log, before and after. -FZ_ECORRUPT, -FZ_ECHECKSUM, -FZ_EORDER: it is none that continues the log, and nothing is held. */
int replica_held_begin(struct replica_held *h, struct ltx_log *log, uint64_t *durable_txid,
                       struct fz_err *err) FZ_MUST_CHECK;
int replica_held_write(struct replica_held *h, uint64_t off_bytes, const void *data, size_t n,
                       struct fz_err *err) FZ_MUST_CHECK;
int replica_held_end(struct replica_held *h, struct ltx_log *log, uint64_t size_bytes, struct ltx_dec **dec,
                     uint64_t *durable_txid, struct fz_err *err) FZ_MUST_CHECK;
/* Which one; 0 = none. */
uint64_t replica_held_txid(const struct replica_held *h, uint64_t *checksum);
/* It is committed: appended to the log, not synced yet. -FZ_EORDER when it is not held. */
int replica_held_commit(struct replica_held *h, struct ltx_log *log, uint64_t txid, struct fz_err *err) FZ_MUST_CHECK;
/* It is not, or something else was appended. */
void replica_held_drop(struct replica_held *h);
/* The log goes back: what was held belongs to another history. */
void replica_held_forget(struct replica_held *h, int dirfd);
/* How many transactions beyond the log's end are on disk (0 to 2), changing nothing. Anybody may ask. */
unsigned replica_held_count(struct ltx_log *log);
/* A host that takes over: what it holds becomes the last transaction of the log, synced; 1 when there was one. drop: it is not, the former
 * primary has said so by handing over. Nobody else may append. */
int replica_held_settle(struct ltx_log *log, bool drop, struct fz_err *err) FZ_MUST_CHECK;

#endif
