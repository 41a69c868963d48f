/* guard.h - who may change what is replicated: the databases that come from another host are read-only for everybody but
 * one trusted process, the agent that applies transactions. Knows paths and processes, nothing of files.
 *
 * TERMS    protected: a database's path, and with it its -wal, -journal and -shm. above: a directory on the way there.
 * RULES    (1) the content, size, attributes and name of what is protected are the trusted process's to change; a -shm may be
 *              written to by everybody, since that is how SQLite's readers say which snapshot they use, and begun anew by the first of
 *              them while the trusted process does not hold it.
 *          (2) a directory above keeps its name; nothing but a directory may be made in its place.
 *          (3) whoever opened a file for writing before it was protected keeps that handle.
 * All calls are thread-safe. Held by tests/unit/test_fs_guard.c, tests/e2e/replica-mount.py. */
#ifndef FZ_FS_GUARD_H
#define FZ_FS_GUARD_H

#include "base/err.h"
#include "fs/capture.h"

struct fs_guard;

int fs_guard_open(struct fs_guard **out, struct fz_err *err) FZ_MUST_CHECK;
void fs_guard_close(struct fs_guard *g); /* NULL is fine */
int fs_guard_protect(struct fs_guard *g, const char *name, bool on, struct fz_err *err) FZ_MUST_CHECK;
/* pid: any of its threads counts, its children do not; 0 = nobody. It ends with the process: a number that the system gives to
 * another one is worth nothing. */
void fs_guard_trust(struct fs_guard *g, int pid);
bool fs_guard_trusts(struct fs_guard *g, int pid);
/* Nothing at all is protected: one load. */
bool fs_guard_idle(const struct fs_guard *g);
/* See fs_capture_attached(). */
void fs_guard_attached(struct fs_guard *g, const char *name, bool on);
bool fs_guard_protects(struct fs_guard *g, const char *path);
bool fs_guard_is_database(struct fs_guard *g, const char *path); /* the protected database itself */

/* All: 0 or -EROFS. */
int fs_guard_may_open(struct fs_guard *g, const char *path, int flags, int pid); /* flags: O_ACCMODE, O_TRUNC */
int fs_guard_may_alter(struct fs_guard *g, const char *path, int pid);           /* owner, mode, times */
int fs_guard_may_cut(struct fs_guard *g, const char *path, uint64_t size_bytes, int pid);
int fs_guard_may_make(struct fs_guard *g, const char *path, bool dir, int pid); /* a new name */
int fs_guard_may_name(struct fs_guard *g, const char *path, int pid);           /* remove, rename, replace, link it */
/* The same for what an event tells by its path. */
int fs_guard_event(struct fs_guard *g, const struct fs_event *ev);

#endif
