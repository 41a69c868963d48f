/* locks.h - SQLite's locks, as the agent takes them on files of the mount: OFD locks, which end with the last descriptor of an open
 * file and not with any one of the process. */
#ifndef FZ_FS_LOCKS_H
#define FZ_FS_LOCKS_H

#include <stdint.h>
#include <sys/types.h>

enum { /* bytes of the database file, and of the -shm (os.h, wal.c) */
       FS_LOCK_PENDING = 0x40000000,
       FS_LOCK_RESERVED = FS_LOCK_PENDING + 1,
       FS_LOCK_SHARED = FS_LOCK_PENDING + 2,
       FS_LOCK_SHARED_LEN = 510,
       FS_LOCK_SHM_WRITE = 120,
       FS_LOCK_SHM_DMS = 128 /* held by whoever has the -shm open: the first one begins it anew */
};

/* type: F_RDLCK, F_WRLCK, F_UNLCK. 0 or -errno (-EAGAIN: another holds it); never waits. */
int fs_lock_set(int fd, short type, off_t start, off_t len);
/* As SQLite does it: PENDING keeps a writer that waits from starving, so it is touched first. */
int fs_lock_shared(int fd);
/* Tries a byte until fz_mono_ns() is end_ns: applications hold a writer's lock for a transaction, so trying often is all that waiting takes.
 * -FZ_EBUSY. */
int fs_lock_within(int fd, off_t byte, uint64_t end_ns);

#endif
