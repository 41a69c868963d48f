/* syncer.h - a log is synced beside the application's own fsync: both flushes are under way at the same time. */
#ifndef FZ_FS_SYNCER_H
#define FZ_FS_SYNCER_H

#include "base/worker.h"
#include "ltx/log.h"

#define FS_SYNCERS 4

struct fs_sync_job;
struct fs_syncer {
	pthread_mutex_t mu; /* guards the rest */
	pthread_cond_t work, done;
	struct fs_sync_job *first, *last;
	struct fz_worker threads[FS_SYNCERS];
	unsigned started, idle;
	bool stop;
};

void fs_syncer_init(struct fs_syncer *s);
void fs_syncer_fini(struct fs_syncer *s); /* no job may be under way */
/* Begins syncing log (takes over the reference). Threads are started as they are needed. NULL: it was synced at once, or
 * failed and was logged. */
struct fs_sync_job *fs_syncer_begin(struct fs_syncer *s, struct ltx_log *log);
/* Waits for it and frees it. NULL is fine. */
int fs_syncer_wait(struct fs_syncer *s, struct fs_sync_job *job, struct fz_err *err);

#endif
