/* super_client.h - what a worker says to its supervisor over FS_FD_SUPER. One socket a process, so one client: the calls
 * are thread-safe and wait for each other. Before fs_super_init() and after the supervisor's death they fail with
 * -FZ_ENOTMOUNTED and nothing else happens. */
#ifndef FZ_FS_SUPER_CLIENT_H
#define FZ_FS_SUPER_CLIENT_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

void fs_super_init(int fd); /* borrowed; -1 = none */
/* Asks for an OFD write lock on SQLite's lock bytes of the backing file, so that whoever goes around the mount gets
 * SQLITE_BUSY. path: below the mount. Repeating it is harmless. -FZ_EBUSY when another process holds such a lock. */
int fs_super_lock_database(const char *path, struct fz_err *err) FZ_MUST_CHECK;
/* A database was deleted: locks of files without a name are dropped. Does not wait. */
void fs_super_sweep(void);
/* This worker answers requests. */
void fs_super_ready(void);
/* Why this worker cannot start: becomes the error of `fazt mount`. */
void fs_super_failed(const struct fz_err *why);
/* Asks for the unmount: 0 = accepted (the supervisor ends this worker with SIGTERM), -FZ_EBUSY + who. */
int fs_super_umount(struct fz_err *err) FZ_MUST_CHECK;

/* Asks for worker and agent to be started anew, as in an upgrade: applications see a pause and keep their handles. 0 =
 * accepted: SIGUSR2 follows, so this worker hands over (fs_session_stop()) while the caller goes on. The new processes have the same
 * arguments: what shall be different they read from the state directory. -FZ_EBUSY: the mount is being ended;
 * -FZ_ETIMEOUT: a supervisor that does not know this (older than the worker). */
int fs_super_restart(bool keep_agent, struct fz_err *err) FZ_MUST_CHECK;
/* A replica's agent outlives its workers: the locks that keep applications from writing are never let go. Ends with the next
 * fs_super_restart(false) and with an upgrade; late: there it is replaced once the next worker is ready, not before. Does not wait. */
void fs_super_keep_agent(bool late);
/* From now on it goes with this worker, however that ends. Does not wait. */
void fs_super_drop_agent(void);

/* How often a report is wanted; 0 = never. */
uint64_t fs_super_report_ms(void);
/* One line of status for the service manager, and a sign of life: whoever sends it has just made sure that this worker works. */
void fs_super_report(const char *line);

/* Kernel passthrough for a worker without CAP_SYS_ADMIN (fs/backing.h): the id of fd, or a negative code. */
int32_t fs_super_backing_open(int fd);
void fs_super_backing_close(int32_t id);

#endif
