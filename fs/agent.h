/* agent.h - the agent acts on the mount as an application does, so that neither worker nor supervisor ever issues a
 * request to its own mount (a thread that waits for its own process cannot be killed). This is both ends: the worker's
 * client, and the loop that the agent process runs. One SEQPACKET socket pair; requests are answered in order. */
#ifndef FZ_FS_AGENT_H
#define FZ_FS_AGENT_H

#include "fs/deadman.h"
#include "fs/fence.h"

#include <stdbool.h>
#include <stdint.h>

struct fs_agent;

/* Client over fd (owned). Thread-safe. */
int fs_agent_open(struct fs_agent **out, int fd, struct fz_err *err) FZ_MUST_CHECK;
void fs_agent_close(struct fs_agent *a);
/* Ends the agent's process, so that it holds the mount no longer; calls fail from then on. */
void fs_agent_dismiss(struct fs_agent *a);

/* The first 136 bytes of a database's -shm (two header copies and the checkpoint info) as applications see them: for
 * mounts without passthrough, where mmap stores do not reach the backing file. -FZ_ENOTFOUND, -FZ_ETIMEOUT. */
int fs_agent_shm(struct fs_agent *a, const char *db_path, uint8_t out[static 136], struct fz_err *err) FZ_MUST_CHECK;
/* Takes (true) SQLite's SHARED lock on the database, waiting at most wait_ms, or drops it (false). -FZ_EBUSY. At most one
 * lock at a time per database; dropped when the agent or the worker dies. */
int fs_agent_lock(struct fs_agent *a, const char *db_path, bool take, int wait_ms, struct fz_err *err) FZ_MUST_CHECK;

/* Takes the locks that a writer of the database needs, waiting at most wait_ms, and keeps them until the agent ends: no
 * application can commit any more, whatever handles it has; readers go on. -FZ_EBUSY: one holds them longer. */
int fs_agent_fence(struct fs_agent *a, const char *db_path, int wait_ms, struct fz_err *err) FZ_MUST_CHECK;
/* For a lease (fs/deadman.h): the database's -shm, as it is now, is within reach of the agent's switch. */
int fs_agent_pin(struct fs_agent *a, const char *db_path, struct fz_err *err) FZ_MUST_CHECK;
/* As fs_deadman_arm(). *out: what the switch holds then. */
int fs_agent_arm(struct fs_agent *a, uint64_t soft_ns, uint64_t hard_ns, struct fs_deadman_state *out,
                 struct fz_err *err) FZ_MUST_CHECK;
/* Lets go of what fs_agent_fence() took; what the lease's switch has locked stays so until it is armed again. */
int fs_agent_unfence(struct fs_agent *a, struct fz_err *err) FZ_MUST_CHECK;
/* The agent's loop ends, its process goes on as a replica's (cmd/agent.c) with the fences that it holds; the socket is the next
 * worker's. */
int fs_agent_become_replica(struct fs_agent *a, struct fz_err *err) FZ_MUST_CHECK;

/* The agent's process: serves requests from sock until it is closed (0), or until it is to become a replica's (1, and
 * *fences is the caller's). mountfd: the root of the mount, opened through it. */
int fs_agent_serve(int sock, int mountfd, struct fs_fence **fences, struct fz_err *err) FZ_MUST_CHECK;

#endif
