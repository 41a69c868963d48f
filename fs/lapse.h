/* lapse.h - a primary with a lease (failover = auto) asks the clock before it lets an application change a database: what the lease's
 * holder may not do any more is refused here, whoever is stuck elsewhere. Private to the capture; told by fs_capture_lapse().
 *
 * soft passed: no database is opened for writing, no journal or WAL is made. hard passed: nothing of a database is written, cut, synced,
 * removed or renamed. Both with EROFS, but for the trusted process. What makes no request is the agent's (fs/deadman.h). */
#ifndef FZ_FS_LAPSE_H
#define FZ_FS_LAPSE_H

#include "fs/capture.h"

#include <stdatomic.h>

struct fs_db;

struct fs_lapse {
	_Atomic uint64_t soft_ns, hard_ns; /* fz_boot_ns(); 0 = no lease is needed */
	_Atomic uint64_t grace_ns;         /* until then an open waits instead of being refused */
};
bool fs_lapse_idle(const struct fs_lapse *l);
/* 0 or -EROFS; at once, where flags have O_NONBLOCK. */
int fs_lapse_open(struct fs_capture *c, const char *path, int flags, int pid);
/* 0, -EROFS, or -EBUSY: a -shm is begun anew and the agent cannot be told. May wait for the agent. */
int fs_lapse_event(struct fs_capture *c, const struct fs_event *ev, enum fs_role role, struct fs_db *db);

#endif
