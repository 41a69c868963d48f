/* lock.h - SQLite's file locks, taken with open-file-description locks: they conflict with SQLite's POSIX locks as any
 * other process's would, and closing some descriptor of the file elsewhere in this process does not drop them.
 * Source: os_unix.c of SQLite, "Posix Advisory Locking". */
#ifndef FZ_REPLICA_LOCK_H
#define FZ_REPLICA_LOCK_H

#include <fcntl.h>
#include <stdint.h>

#define REPLICA_LOCK_PENDING  0x40000000
#define REPLICA_LOCK_RESERVED 0x40000001
#define REPLICA_LOCK_SHARED   0x40000002
#define REPLICA_LOCK_SHARED_N 510

/* type: F_RDLCK | F_WRLCK | F_UNLCK. Tries again until deadline_ns (CLOCK_MONOTONIC; 0 = once). 0, -EAGAIN, -errno. */
int replica_lock(int fd, short type, int64_t start, int64_t len, uint64_t deadline_ns);
/* What stands in the way of a write lock there: F_UNLCK, F_RDLCK or F_WRLCK; -errno. */
int replica_lock_test(int fd, int64_t start, int64_t len);
/* The SHARED lock of a database file, as a reader takes it. */
int replica_lock_shared(int fd, uint64_t deadline_ns);

#endif
