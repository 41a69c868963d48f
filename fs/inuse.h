/* inuse.h - who has files below a directory open: /proc/PID/fd, maps, working and root directories. Compares the paths
 * that /proc shows, so it never touches the directory itself (which may be a mount that does not answer). */
#ifndef FZ_FS_INUSE_H
#define FZ_FS_INUSE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* dir: absolute, resolved. True when a process other than this one and those in skip uses it; who gets
 * "sqlite3[1234] has app.db open". Processes of other users are seen by root only. */
bool fs_inuse_find(const char *dir, const pid_t *skip, size_t n_skip, char *who, size_t cap);

#endif
