/* backing.h - backing ids of kernel passthrough (linux/fuse.h of 6.9; older headers lack them).
 *
 * The kernel wants CAP_SYS_ADMIN for it. A worker that has it registers files itself: an ioctl of about 1 us on the way of
 * each journal that SQLite creates. A worker that dropped it asks the supervisor, which costs a round trip between two
 * processes (measured: docs/threads.md). Whoever does it, a death between the ioctl and noting the id loses nothing: the
 * kernel hands ids out in order, so the next worker closes those after the last one noted that no node has. */
#ifndef FZ_FS_BACKING_H
#define FZ_FS_BACKING_H

#include "fs/node.h"

#include <stdbool.h>
#include <stdint.h>

#define FS_FOPEN_PASSTHROUGH  (1u << 7)
#define FS_INIT_EXT           (1u << 30)
#define FS_INIT2_PASSTHROUGH  (1u << (37 - 32))
#define FS_INIT2_HAS_RESEND   (1u << (39 - 32))
#define FS_NOTIFY_RESEND_CODE 7

/* An id > 0, or a negative code. The _own functions never ask the supervisor. */
int32_t fs_backing_open(int fusefd, int fd);
void fs_backing_close(int fusefd, int32_t id);
int32_t fs_backing_own_open(int fusefd, int fd);
int fs_backing_own_close(int fusefd, int32_t id);
/* True when this process may register files with this connection. */
bool fs_backing_works(int fusefd, struct fs_shared *sh);
/* Closes ids that a dead worker made but did not note. */
void fs_backing_sweep(int fusefd, struct fs_table *t);

#endif
