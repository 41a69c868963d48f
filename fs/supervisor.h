/* supervisor.h - the process that owns the mount and outlives the worker: mounts over DIR, holds /dev/fuse, the backing
 * directory and the memfd with the node state, starts worker and agent, replaces them when they die, keeps the OFD locks
 * that keep others off the backing databases. No SQLite, no network, no threads. */
#ifndef FZ_FS_SUPERVISOR_H
#define FZ_FS_SUPERVISOR_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct fs_estate;

struct fs_supervisor_conf {
	const char *dir;       /* absolute; mounted over */
	const char *state_dir; /* absolute; NULL = DIR/.fazt. Made 0700 */
	/* Started with exec as `argv[0] argv[1] ...`; the descriptors below are inherited under these numbers. */
	const char *const *worker_argv;
	const char *const *agent_argv;            /* NULL = no agent */
	const char *const *reload_argv;           /* run on SIGHUP; NULL = SIGHUP is ignored */
	bool no_passthrough, no_resend, no_agent; /* force the fallbacks */
	bool allow_other;                         /* true unless the user says otherwise */
	int logdir_fd;                            /* directory of the log file, for FS_FD_LOGDIR; 0 = none. Above 63 */
	/* Goes on with the mount that a former supervisor left (fs/estate.h) instead of mounting; taken over by the call. Its
	 * worker, should it live, hands over to a new one. NULL = mount. */
	struct fs_estate *estate;
	int ready_fd; /* gets one byte 'k' when the mount serves, or 'e' and the error's text when it cannot; -1 = none */
};
/* Descriptor numbers in worker and agent. */
enum fs_fd {
	FS_FD_LOGDIR = 9,  /* directory of the log file, when there is one (both) */
	FS_FD_FUSE = 10,   /* /dev/fuse (worker) */
	FS_FD_ROOT = 11,   /* backing directory (worker) */
	FS_FD_STATE = 12,  /* state directory (both: an agent that applies reads logs there) */
	FS_FD_SHARED = 13, /* memfd: fs/shared.h (worker) */
	FS_FD_SUPER = 14,  /* SEQPACKET to the supervisor (worker) */
	FS_FD_AGENT = 15,  /* SEQPACKET between worker and agent (both) */
	FS_FD_MOUNT = 16,  /* root of the mount (agent) */
};
/* Refuses when a process has a file below dir open (names it), when dir is a fazt mount already, when /dev/fuse is not
 * there (says what to do). Runs until the mount is gone; SIGTERM and fazt umount end it in order: the worker captures and
 * syncs all, then umount(2) (never lazy; -FZ_EBUSY while files are open, and it serves on). When no worker comes to work, SIGTERM
 * ends it without one, and the next mount captures. SIGUSR2 is an upgrade: when the
 * program in worker_argv[0] can go on with this mount, worker, agent and supervisor become what is installed there; the last by
 * exec of `argv[0] resume DIR`. When it cannot, or a worker or agent of it ends before it works, the next ones are the program that the
 * supervisor runs itself. A service manager is told what happens (base/notify.h): READY=1 when the mount serves,
 * STATUS, WATCHDOG (fs/watch.h), and it keeps the descriptors for the next supervisor. */
int fs_supervisor_run(const struct fs_supervisor_conf *conf, struct fz_err *err) FZ_MUST_CHECK;

#endif
