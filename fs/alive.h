/* alive.h - which processes of a mount live, told by the kernel: worker and agent each hold a POSIX lock on one byte of "alive" in the
 * state directory from their start to their end. A supervisor that is not their parent finds them by it, and no two workers
 * ever read from one /dev/fuse, whoever started them. */
#ifndef FZ_FS_ALIVE_H
#define FZ_FS_ALIVE_H

#include "base/err.h"

#include <sys/types.h>

enum fs_alive { FS_ALIVE_WORKER, FS_ALIVE_AGENT };

/* This process is it, until it ends. Waits up to wait_ms for another one's end: -FZ_EBUSY names that. The file must not be opened again by
 * this process, since closing it would let go of the lock. */
int fs_alive_claim(int statefd, enum fs_alive which, int wait_ms, struct fz_err *err) FZ_MUST_CHECK;
/* The process that holds it, and a pidfd of it (the caller's): 0 and -1 when there is none. */
pid_t fs_alive_find(int statefd, enum fs_alive which, int *pidfd);

#endif
