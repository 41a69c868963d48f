/* rollback.h - one transaction on a database in rollback mode, under a journal of its own, as an application writes it:
 * whoever finds the journal after a crash (SQLite, or the next call) plays it back.
 *
 * Locks: SHARED (the caller's) -> RESERVED while the journal is made, readers go on -> PENDING -> EXCLUSIVE while pages
 * are written. Source: pager.c of SQLite; fileformat2.html, "The Rollback Journal". Not thread-safe. */
#ifndef FZ_REPLICA_ROLLBACK_H
#define FZ_REPLICA_ROLLBACK_H

#include "base/io.h"

#include <stdbool.h>
#include <stdint.h>

struct replica_rollback {
	int dbfd;         /* borrowed */
	int dirfd;        /* of its directory, where the journal lies; borrowed */
	const char *path; /* borrowed; its last element is the name in dirfd */
	char *journal;    /* its path */
	int jfd;
	uint32_t page_size, old_pages, seed, records;
	struct fz_fd_sink sink;
	uint64_t deadline_ns;
	const volatile bool *
	        cancel; /* of the caller, after begin; NULL = none: once it is true, readers are not waited for (-FZ_EBUSY) */
	int level; /* 1 RESERVED, 2 journal exists, 3 EXCLUSIVE: the database is being written */
};
/* -EAGAIN: another writer is at work. Then SHARED must be given up before the next try: that writer waits for it, too.
 * -FZ_EORDER: a hot journal lies there; it must be played back first. deadline_ns: for readers to leave. */
int replica_rollback_begin(struct replica_rollback *r, int dbfd, int dirfd, const char *path, uint32_t page_size,
                           uint64_t deadline_ns, struct fz_err *err) FZ_MUST_CHECK;
/* Before anything is written: the old content of each page that will change or be cut off (pgno <= old_pages). */
int replica_rollback_save(struct replica_rollback *r, uint32_t pgno, const uint8_t *old,
                          struct fz_err *err) FZ_MUST_CHECK;
/* The journal is complete: syncs it, waits for readers to leave. From here on write to dbfd. */
int replica_rollback_exclusive(struct replica_rollback *r, struct fz_err *err) FZ_MUST_CHECK;
/* Cuts or extends the file to pages, syncs, removes the journal: the commit. Releases all but SHARED. */
int replica_rollback_commit(struct replica_rollback *r, uint32_t pages, struct fz_err *err) FZ_MUST_CHECK;
/* Gives up: before EXCLUSIVE nothing was written and the journal goes; after it the journal stays and is hot. */
void replica_rollback_end(struct replica_rollback *r);
/* True when a journal lies beside path that a reader would have to play back (SHARED held on dbfd). */
int replica_rollback_hot(int dbfd, int dirfd, const char *path, struct fz_err *err) FZ_MUST_CHECK;

#endif
