/* output.h - the restored file: written under a temporary name beside its place (what a killed process left there is removed by the next
 * one), appears whole or not at all. */
#ifndef FZ_REPLICA_OUTPUT_H
#define FZ_REPLICA_OUTPUT_H

#include "base/err.h"

#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>

struct replica_output {
	int fd;           /* 0600 until commit; -1 = closed */
	int dirfd;        /* the directory, looked up once; -1 = closed */
	const char *path; /* borrowed */
	const char *name; /* in path: the file, in dirfd */
	char *tmp;        /* name in dirfd while it is being written; NULL = none */
	bool force;
	mode_t mode; /* what it will have: that of the file it replaces, or 0600: it may come from where fewer can look */
	uid_t uid;
	gid_t gid;
	bool replaces, give; /* give: it gets that owner */
};
/* dir: the directory of path, where the caller has it open; NULL = as the path says. -FZ_EEXISTS when path, or a journal or WAL that SQLite would apply to it, exists and force is false; -FZ_EBUSY when
 * a process has the old database open in a transaction or in WAL mode (restore in place instead). */
int replica_output_open(struct replica_output *o, const char *path, const int *dir, bool force,
                        struct fz_err *err) FZ_MUST_CHECK;
/* A new file gets mode and owner of like (who may not give it away keeps it): who can use one can use the other. */
void replica_output_like(struct replica_output *o, const struct stat *like);
/* fsync, mode and owner, rename, fsync of the directory. Journal, WAL and wal-index of the replaced file go first. -FZ_ECHANGED: somebody who
 * owns the directory put another file in its place meanwhile. */
int replica_output_commit(struct replica_output *o, struct fz_err *err) FZ_MUST_CHECK;
/* Removes what was not committed. Safe on a zeroed struct with fd = -1 and dirfd = -1. */
void replica_output_close(struct replica_output *o);

#endif
