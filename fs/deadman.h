/* deadman.h - the agent's dead man's switch: unless somebody says again in time that commits may be accepted, it takes the locks that
 * writers need. It does so without any request to the mount, so it works while the worker is stopped, dead or stuck in the network.
 *
 * Commits in WAL mode need no request, so nothing but a lock of the wal-index ends them; taking that needs a descriptor of the -shm that
 * was opened before (`pinned`). In rollback mode every commit needs the worker, which refuses it by the same clock (fs_capture_lapse()).
 *
 * TIMES    CLOCK_BOOTTIME, so that a machine that was suspended is late. soft: from here on the locks are tried; a transaction that is
 *          under way may end. hard: whoever still holds a writer's lock is killed, since nothing else ends its transaction: SQLite
 *          rolls it back, as after any crash. A holder that cannot be named (an OFD lock, another machine's) is told of.
 * THREADS  one, `deadman`: it opens, closes and waits for nothing but its timer. Its lock is held over fcntl(2) and kill(2) only.
 *                                                                 held by: tests/unit/test_fs_deadman.c, tests/e2e/failover.py */
#ifndef FZ_FS_DEADMAN_H
#define FZ_FS_DEADMAN_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct fs_deadman;

struct fs_deadman_state {
	uint64_t id;  /* random: another one is another process, which has pinned nothing */
	uint32_t pid; /* of the process */
	uint32_t pinned, locked, killed;
	uint32_t fenced; /* the soft time has passed and every lock is held */
};

int fs_deadman_open(struct fs_deadman **out, struct fz_err *err) FZ_MUST_CHECK;
/* Lets go of everything that nobody else has a duplicate of. NULL is fine. */
void fs_deadman_close(struct fs_deadman *d);
/* fd: the -shm of that database (O_RDWR, owned), in place of another one that was pinned under this path; -1: it is open no longer. */
int fs_deadman_pin(struct fs_deadman *d, const char *path, int fd, struct fz_err *err) FZ_MUST_CHECK;
/* Is the file of that inode number pinned for path? */
bool fs_deadman_has(struct fs_deadman *d, const char *path, uint64_t ino);
/* A duplicate of what is pinned, whose locks are the same: they are not let go any more. -1 = nothing is. */
int fs_deadman_share(struct fs_deadman *d, const char *path);
/* Until soft nothing happens, and what was locked before is let go of. 0, 0 = at once. UINT64_MAX = never (no lease is needed). */
void fs_deadman_arm(struct fs_deadman *d, uint64_t soft_ns, uint64_t hard_ns);
/* What was shared may be let go of again. */
void fs_deadman_unshare(struct fs_deadman *d);
void fs_deadman_get(struct fs_deadman *d, struct fs_deadman_state *out);

#endif
