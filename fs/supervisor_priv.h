/* supervisor_priv.h - what fs/supervisor.c (states and events), fs/mountpoint.c (the mount, the state directory),
 * fs/held.c (locks on the backing databases), fs/estate.c (what the next supervisor gets) and fs/watch.c (does the worker
 * work?) share. */
#ifndef FZ_FS_SUPERVISOR_PRIV_H
#define FZ_FS_SUPERVISOR_PRIV_H

#include "fs/estate.h"
#include "fs/shared.h"
#include "fs/supervisor.h"
#include "fs/watch.h"

#include <limits.h>
#include <sys/types.h>

struct fs_held {
	dev_t dev;
	ino_t ino;
	int fd;
};

struct fs_super {
	const struct fs_supervisor_conf *conf;
	char dir[PATH_MAX];
	int fusefd, rootfd, statefd, lockfd, memfd, sigfd;
	int logdirfd;     /* of the log file; -1 = none. The caller's */
	int sock;         /* ours of FS_FD_SUPER */
	int worker_agent; /* the worker's end of FS_FD_AGENT, kept for ... */
	int agent_end;    /* ... a new agent: both live as long as the worker */
	struct fs_shared *sh;
	pid_t worker, agent;
	int worker_pidfd, agent_pidfd; /* of those that a former supervisor started; -1 = started by this one */
	pid_t check;                   /* whether the installed program can take over */
	bool mounted, ready, ever_ready, told, agent_dying;
	bool upgrade;               /* become the installed program once the worker has ended */
	bool refused;               /* what is installed cannot go on with this mount: the last check */
	bool own_worker, own_agent; /* the next one is the program that this process runs, not what is installed */
	bool leave, leaving;        /* leave: wanted (SIGTERM); leaving: on the way */
	unsigned fails, agent_fails, leave_fails;
	bool keep_agent;                         /* the agent outlives the worker */
	bool late_agent, renew_agent;            /* ... in an upgrade until the next worker is ready; that is due */
	uint64_t restart_ns, agent_ns, retry_ns; /* 0 = not planned */
	uint64_t ended_ns;                       /* the last worker that had come to work */
	uint64_t settle_ns;                      /* a former supervisor's worker is killed then */
	struct fs_watch watch;
	uint64_t agent_since_ns;
	struct fs_held *held;
	size_t n_held;
	struct fz_err why; /* what a worker said it failed on */
	struct fs_msg msg;
};

/* The descriptor under a number above those that children get, so that dup2() in a child cannot overwrite a source. */
int fs_super_high(int fd);
/* The id of the mount that fazt's covers, when the topmost mount on dir is fazt's; else -1. Reads mountinfo only. */
int fs_mountpoint_below(const char *dir);
int fs_mountpoint_open_fuse(struct fz_err *err) FZ_MUST_CHECK;
/* Opens the state directory, and locks it. */
int fs_mountpoint_open_state(struct fs_super *s, struct fz_err *err) FZ_MUST_CHECK;
int fs_mountpoint_lock_state(struct fs_super *s, struct fz_err *err) FZ_MUST_CHECK;
int fs_mountpoint_mount(struct fs_super *s, struct fz_err *err) FZ_MUST_CHECK;
/* The connection is dead: somebody unmounted, or aborted it. */
bool fs_mountpoint_is_gone(const struct fs_super *s);
/* Keeps an OFD lock on SQLite's lock bytes of a backing database while its file exists: -FZ_EBUSY when somebody has one. */
int fs_held_lock(struct fs_super *s, const char *path, struct fz_err *err) FZ_MUST_CHECK;
/* Closes what was deleted. */
void fs_held_sweep(struct fs_super *s);
/* The service manager gets copies; those of the agent's sockets while it may outlive its worker. */
void fs_estate_keep(struct fs_super *s);
void fs_estate_keep_agent(struct fs_super *s);
void fs_estate_forget(void); /* the mount has ended */
/* What was left becomes this supervisor's. */
int fs_estate_adopt(struct fs_super *s, struct fs_estate *e, struct fz_err *err) FZ_MUST_CHECK;
/* Becomes the installed program; returns when that is not possible. */
void fs_estate_exec(struct fs_super *s);

#endif
