/* backing.h - backing ids of kernel passthrough (linux/fuse.h of 6.9; older headers lack them).
 *
 * The worker registers them itself: one ioctl of about 1 us on the way of every journal that SQLite creates, against
 * 15-40 us and two context switches for asking the supervisor, at 2,000 commits a second. The price is CAP_SYS_ADMIN in the
 * worker. A death between the ioctl and noting the id loses nothing either: the kernel hands ids out in order, so the next
 * worker closes those after the last one noted which no node has (fs_backing_sweep). */
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

int32_t fs_backing_open(int fusefd, int fd); /* > 0, or -errno */
void fs_backing_close(int fusefd, int32_t id);
/* True when this process may register files with this connection. */
bool fs_backing_works(int fusefd, struct fs_shared *sh);
/* Closes ids that a dead worker made but did not note. */
void fs_backing_sweep(int fusefd, struct fs_table *t);

#endif
