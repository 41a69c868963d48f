/* supervisor_priv.h - the state of the supervisor, and what its files offer each other. No other file of fazt includes it but fs/inuse.c
 * (fs_mountpoint_below). One thread, so no locks. */
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
	int logdirfd; /* of the log file; -1 = none. The caller's */
	struct fs_shared *sh;
	bool mounted, ready, ever_ready, told; /* ready: the worker; told: the service manager */
	struct fz_err why;                     /* what a worker said it failed on */
	struct fs_msg msg;
	struct fs_watch watch;
	struct fs_held *held;
	size_t n_held;
	/* children */
	pid_t worker, agent;
	int worker_pidfd, agent_pidfd; /* of those that a former supervisor started; -1 = started by this one */
	int sock;                      /* ours of FS_FD_SUPER */
	int worker_agent;              /* the worker's end of FS_FD_AGENT, kept for ... */
	int agent_end;                 /* ... a new agent: both live as long as the worker */
	bool agent_dying;
	unsigned fails, agent_fails;
	uint64_t restart_ns, agent_ns; /* the next one is started; 0 = not planned */
	uint64_t ended_ns;             /* the last worker that had come to work */
	uint64_t worker_since_ns, agent_since_ns;
	/* handing over */
	pid_t check;                  /* whether the installed program can take over */
	bool upgrade;                 /* become the installed program once the worker has ended */
	bool refused;                 /* what is installed cannot go on with this mount: the last check */
	bool own_worker, own_agent;   /* the next one is the program that this process runs, not what is installed */
	bool keep_agent;              /* the agent outlives the worker */
	bool late_agent, renew_agent; /* ... in an upgrade until the next worker is ready; that is due */
	uint64_t settle_ns;           /* a former supervisor's worker is killed then; 0 = there is none */
	/* leaving */
	bool leave, leaving; /* leave: wanted (SIGTERM); leaving: on the way */
	bool gave_up;        /* this worker was killed, since it never came to work */
	unsigned leave_fails;
	uint64_t retry_ns; /* the next look whether it is time; 0 = not planned */
};

/* fs/supervisor.c. The worker says that it serves. */
void fs_supervisor_ready(struct fs_super *s);

/* fs/child.c. fd under a number above those that children get, so that dup2() in a child cannot overwrite a source; takes fd over, -1 with errno. */
int fs_child_high(int fd);
/* In a child: the rest of what makes it another process. */
void fs_child_exec(const char *program, const char *const *argv) __attribute__((noreturn));
int fs_child_start_worker(struct fs_super *s, struct fz_err *err) FZ_MUST_CHECK;
/* The same; what keeps a process from being started passes: the mount need not end with it. */
void fs_child_try_worker(struct fs_super *s);
/* None where one lives, or must not: no worker is ready, or the mount ends. */
void fs_child_start_agent(struct fs_super *s);
/* The agent holds the mount's root: it goes before an unmount, and with each worker whose locks it keeps. */
void fs_child_kill_agent(struct fs_super *s);
void fs_child_start_reload(struct fs_super *s);
/* When to try again after so many failures. */
uint64_t fs_child_backoff(unsigned fails);
/* The supervisor's and the agent's ends, with the worker. */
void fs_child_drop_sockets(struct fs_super *s);

/* fs/message.c. One message of the worker. */
void fs_message_receive(struct fs_super *s);
void fs_message_reply(struct fs_super *s, uint32_t id, int code, const char *text);

/* fs/handover.c. What a child is started as, and what the log calls it. own: s->own_worker or s->own_agent. */
const char *fs_handover_program(const struct fs_super *s, bool own);
const char *fs_handover_named(const struct fs_super *s, bool own);
/* A child ended before it did its work. Perhaps its program is why: half copied, without its libraries, of another version. The
 * next one is the other of the two, unless that is installed and was refused. */
void fs_handover_other(struct fs_super *s, bool *own, const char *child);
/* The worker asks for it (FS_MSG_RESTART). */
void fs_handover_restart(struct fs_super *s, uint32_t id, bool keep_agent);
/* An upgrade: first of all, can what is installed go on with what is here? It may be half copied, miss a library, or want the
 * node table in another form. Then, with what that said, the worker is replaced, and the supervisor with its end. */
void fs_handover_check(struct fs_super *s);
void fs_handover_checked(struct fs_super *s, int status);
/* Goes on with a mount that is there. Its path is not touched: perhaps nobody answers. */
int fs_handover_adopt(struct fs_super *s, struct fz_err *err) FZ_MUST_CHECK;

/* fs/leave.c. SIGTERM: leaves as soon as nobody has a file open; looks again every second. */
void fs_leave_try(struct fs_super *s);
/* The worker asks for it (FS_MSG_UMOUNT). */
void fs_leave_asked(struct fs_super *s, uint32_t id);
/* On the way: the next process that has to end. */
void fs_leave_step(struct fs_super *s);
/* The worker has finished and is gone: true when the mount is too. */
bool fs_leave_now(struct fs_super *s, int status);
/* The same where there is no worker that could finish. */
bool fs_leave_alone(struct fs_super *s);

/* fs/mountpoint.c. The id of the mount that fazt's covers, when the topmost mount on dir is fazt's; else -1. Reads mountinfo only. */
int fs_mountpoint_below(const char *dir);
int fs_mountpoint_open_fuse(struct fz_err *err) FZ_MUST_CHECK;
/* Opens the state directory, and locks it. */
int fs_mountpoint_open_state(struct fs_super *s, struct fz_err *err) FZ_MUST_CHECK;
int fs_mountpoint_lock_state(struct fs_super *s, struct fz_err *err) FZ_MUST_CHECK;
int fs_mountpoint_mount(struct fs_super *s, struct fz_err *err) FZ_MUST_CHECK;
/* The connection is dead: somebody unmounted, or aborted it. */
bool fs_mountpoint_is_gone(const struct fs_super *s);

/* fs/held.c. Keeps an OFD lock on SQLite's lock bytes of a backing database while its file exists: -FZ_EBUSY when somebody has one. */
int fs_held_lock(struct fs_super *s, const char *path, struct fz_err *err) FZ_MUST_CHECK;
/* Closes what was deleted. */
void fs_held_sweep(struct fs_super *s);

/* fs/estate.c. The service manager gets copies; those of the agent's sockets while it may outlive its worker. */
void fs_estate_keep(struct fs_super *s);
void fs_estate_keep_agent(struct fs_super *s);
void fs_estate_forget(void); /* the mount has ended */
/* What was left becomes this supervisor's. */
int fs_estate_adopt(struct fs_super *s, struct fs_estate *e, struct fz_err *err) FZ_MUST_CHECK;
/* Becomes the installed program; returns when that is not possible. */
void fs_estate_exec(struct fs_super *s);

#endif
