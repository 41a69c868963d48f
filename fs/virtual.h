/* virtual.h - the read-only files that the mount shows below .fazt/, in the place of the state directory that it hides:
 * .fazt/<path of a database>/position, lag and primary. Any program can read them, and wait with poll(2) for a change.
 *
 * NODES    a node's id is a hash of its path below .fazt with FS_VIRTUAL_BIT set, so it is the same in the next worker;
 *          an id that is not (or not yet) known answers ESTALE, and the kernel looks the path up again. Nothing is cached.
 * HANDLES  a read at offset 0 takes the text of that moment, reads further on are of the same text. A handle is ready
 *          (POLLIN, POLLPRI) while the text is not the one it read last. The next worker does not know what was read: its
 *          handles begin ready.
 * WAITING  whoever waits is noted in fs/shared.h before the answer goes out, so that the next worker can wake it.
 * All calls are thread-safe and short; a text that changes wakes nobody unless somebody waits for this file. Knows of FUSE
 * only how to write the two notices. Held by tests/unit/test_fs_virtual.c, tests/e2e/virtual.py. */
#ifndef FZ_FS_VIRTUAL_H
#define FZ_FS_VIRTUAL_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct fs_shared;
struct fs_virtual;

enum fs_virtual_file {
	FS_VIRTUAL_POSITION, /* "epoch/txid/checksum\n", the last two as 16 hex digits */
	FS_VIRTUAL_LAG,      /* ms behind the primary, "0\n" on a primary */
	FS_VIRTUAL_PRIMARY,  /* "HOST:PORT\n", or the own host's name */
	FS_VIRTUAL_FILES,
};
#define FS_VIRTUAL_TEXT 320 /* bytes of a text at most */

/* ---- for whoever knows what stands in them ---- */
/* The whole content of a file, its newline included. The database is added when it is new, with the other files empty. Costs
 * one look-up. Databases that are set before fs_session_run() are there before the first request of an application that
 * lives on. -ENOMEM, -ENAMETOOLONG, -EINVAL (no path), -EEXIST (something else has the name). */
int fs_virtual_set(struct fs_virtual *v, const char *database, enum fs_virtual_file file, const char *text);
/* Readers get ESTALE; who waits is woken. */
void fs_virtual_remove(struct fs_virtual *v, const char *database);

/* Asked by a serving thread, without locks, when somebody begins to read a file of that database: what stands there can be
 * made exact for this one reader. Bounded: the reader waits. */
struct fs_virtual_events {
	void (*refresh)(struct fs_virtual_events *ev, const char *database);
};
void fs_virtual_listen(struct fs_virtual *v, struct fs_virtual_events *ev); /* before the mount serves; borrowed */

/* ---- for fs/session.c and fs/ops_virtual.c ---- */
#define FS_VIRTUAL_BIT (1ull << 62)
static inline bool fs_virtual_is(uint64_t node)
{
	return node & FS_VIRTUAL_BIT;
}

/* sh, fusefd: borrowed. */
int fs_virtual_open(struct fs_virtual **out, struct fs_shared *sh, int fusefd, struct fz_err *err) FZ_MUST_CHECK;
void fs_virtual_close(struct fs_virtual *v); /* NULL is fine; who waits keeps waiting, for the next worker */
/* Wakes whoever waits since a former worker, and has the kernel read directories anew. */
void fs_virtual_take_over(struct fs_virtual *v);

struct fs_virtual_stat {
	uint64_t node;
	bool dir;
	uint32_t size_bytes, children; /* of a file; of a directory */
};
uint64_t fs_virtual_root(void); /* .fazt itself */
/* 0, -ENOENT; -ESTALE: no such node; -ENOTDIR. */
int fs_virtual_lookup(struct fs_virtual *v, uint64_t parent, const char *name, struct fs_virtual_stat *out);
int fs_virtual_stat(struct fs_virtual *v, uint64_t node, struct fs_virtual_stat *out);
/* The entry after *cookie (0 = the first), which moves: 1, 0 = no more, -ESTALE, -ENOTDIR. */
int fs_virtual_next(struct fs_virtual *v, uint64_t dir, uint64_t *cookie, char name[static 256],
                    struct fs_virtual_stat *out);
/* A handle on a file; *fh is never one of a former worker. -ESTALE, -EISDIR, -ENOMEM. */
int fs_virtual_file_open(struct fs_virtual *v, uint64_t node, uint64_t *fh);
void fs_virtual_file_close(struct fs_virtual *v, uint64_t fh);
ssize_t fs_virtual_read(struct fs_virtual *v, uint64_t node, uint64_t fh, void *buf, size_t size, uint64_t off);
/* Is the handle ready? 1 or 0; when not and waiter (the kernel's number, not 0) is given, that is told once. */
int fs_virtual_poll(struct fs_virtual *v, uint64_t node, uint64_t fh, uint64_t waiter);

#endif
