/* estate.h - what makes up a mount and outlives its supervisor: descriptors. Whoever holds them all can go on with it.
 *
 * Three ways lead them to the next supervisor. A service manager keeps copies (FDSTORE of sd_notify(3)) and gives them to the
 * process that it starts when this one has died. An upgrade hands them on through exec: same process, same children, another
 * program. And a worker whose supervisor is gone gives its own to whoever mounts the directory again. In none do applications
 * notice more than the pause of a hand-over between workers. */
#ifndef FZ_FS_ESTATE_H
#define FZ_FS_ESTATE_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

#define FS_ESTATE_ENV "FAZT_ESTATE" /* what exec carries over: the process, then name=descriptor ... */

struct fs_estate {
	int fuse, root, state, shared; /* fs/supervisor.h, enum fs_fd; above those numbers */
	int logdir;                    /* of the log file; -1 = none */
	int worker_agent, agent_end;   /* of an agent that shall outlive its worker; -1 = none */
	int *held;                     /* locks on backing databases (exec only) */
	size_t n_held;
	bool unkept; /* no service manager has copies yet */
};

/* Takes over what was left to this process. True when it is a mount that still lives; else nothing is open, and what a service
 * manager keeps is given up. */
bool fs_estate_take(struct fs_estate *e);
void fs_estate_close(struct fs_estate *e);

/* The third way. Names of what a worker has, from 0 on; NULL past the last. must: without it there is no mount. */
const char *fs_estate_name(size_t i, bool *must);
/* In a worker: before it opens anything, notes which it was given; its descriptor of that name, or -1. */
void fs_estate_begin_worker(void);
int fs_estate_of_worker(const char *name);
void fs_estate_init(struct fs_estate *e);
/* fd is e's from here on. */
void fs_estate_add(struct fs_estate *e, const char *name, int fd);

#endif
