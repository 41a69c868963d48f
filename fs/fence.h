/* fence.h - the locks that a writer of a database needs, taken and kept: no application commits any more, whatever it has open;
 * readers go on. In the agent. */
#ifndef FZ_FS_FENCE_H
#define FZ_FS_FENCE_H

struct fs_deadman;

/* What is fenced: descriptors whose OFD locks are the fence. Heap. */
struct fs_fence {
	struct fs_fence *next;
	int db_fd;  /* SHARED; outside WAL mode RESERVED as well, unless a hot journal waits to be played back */
	int shm_fd; /* the writer's lock of the wal-index; -1 = rollback mode, or nobody has the WAL open */
	char path[];
};
void fs_fence_free(struct fs_fence *list); /* closes what is not -1 */
/* Adds the database to the list, unless it is in it. deadman: what it has pinned is shared with it, since two open files of one
 * process would keep each other from a lock; may be NULL. 0, -FZ_EBUSY, -FZ_ENOTFOUND, -errno. */
int fs_fence_take(struct fs_fence **list, struct fs_deadman *deadman, int mountfd, const char *path, int wait_ms);

#endif
