/* ack.h - a commit that asks for the disk waits for replicas too (`ack = replica`).
 *
 * WHERE   in FSYNC alone, since that is where SQLite waits for a commit to last, and where the kernel holds no lock that another
 *         database needs (a directory's, at the journal's unlink).
 *   WAL         FSYNC(-wal) comes after the frames and before the wal-index header: the transaction is in doubt. It is offered
 *               (ltx/offer.h), and FSYNC is answered once replicas hold it. An FSYNC that finds nothing in doubt waits for nobody.
 *   journal     FSYNC of the database comes before the journal's end: the same. Written through, what is offered is what the log holds as
 *               prepared; passed through, the pages that the journal tells.
 *   no journal  (MEMORY, OFF), and the end of a journal in PERSIST that was not foreseen: FSYNC is the commit itself. It is captured, and
 *               answered once replicas hold what the log has.
 *   A database's first transaction in a rollback mode has no log to be offered in: its journal's end waits, for a bounded time.
 * LOCKS   db->mu while something is offered, none while it waits. Held by tests/unit/test_fs_ack.c, tests/e2e/ack.py. */
#ifndef FZ_FS_ACK_H
#define FZ_FS_ACK_H

#include "fs/capture.h"

#include <stdatomic.h>

struct fs_db;
struct ltx_log;

struct fs_ack {
	struct ltx_log *log; /* NULL: not known yet */
	const char *name, *lineage;
	uint64_t txid, checksum; /* the database after it */
	bool committed;          /* it is in the log; else it may be decided while it is waited for */
	bool bounded;            /* not beyond the time limit, whatever the policy is */
	bool unready; /* nothing can be offered yet: answered with -EAGAIN after a moment, unless nobody is to be waited for */
	uint64_t since_ns;       /* when it began to wait; 0 = now */
	int pid;                 /* who waits: fuse_ctx.pid; 0 = not known */
	const atomic_bool *stop; /* the worker ends */
};
/* Who waits. Any number of threads. 0 = go on; -EIO = the commit must fail; -EINTR = the application was killed; -ECANCELED = no answer, the next worker is asked again;
 * -EAGAIN, see unready. */
struct fs_acks {
	int (*wait)(struct fs_acks *a, const struct fs_ack *what);
};

/* Before FSYNC of the WAL, or of the database under a journal: what is in doubt is offered. Requires db->mu. */
void fs_ack_offer(struct fs_db *db, enum fs_role role, struct fs_event *ev);
/* After it has succeeded, without locks: waits. 0 or what to answer. */
int fs_ack_wait_offer(struct fs_db *db, enum fs_role role, struct fs_event *ev);
/* A journal has ended, or FSYNC was answered with a failure: nothing of a rollback mode is in doubt any more. Requires db->mu. */
void fs_ack_over(struct fs_db *db);
/* The same for what this event has committed, ev->ack.tail being the TXID before it. */
int fs_ack_wait_commit(struct fs_db *db, const struct fs_event *ev, bool bounded);

#endif
