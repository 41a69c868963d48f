/* node.h - the node table: what the kernel calls a nodeid, kept in the memfd of fs/shared.h so that it outlives a worker.
 *
 * TERMS    node: one backing inode that the kernel knows, whatever the number of its names. Its id is a counter, never
 *          used again. name: (parent's id, name). The root is node 1 and has no name.
 * A path is built from names at the moment it is needed: renaming a directory touches one cell.
 * LOCKS    outermost first: ns (shared: whoever uses a path until its system call is done; exclusive: RENAME), then mu,
 *          which guards cells and indexes. Functions named _locked need mu; the others take it. */
#ifndef FZ_FS_NODE_H
#define FZ_FS_NODE_H

#include "fs/shared.h"

#include <pthread.h>
#include <sys/stat.h>

#define FS_NIL UINT32_MAX

struct fs_table {
	struct fs_shared *sh;
	int memfd; /* borrowed */
	pthread_rwlock_t ns;
	pthread_mutex_t mu;
	/* indexes: chained hash tables of cell numbers; links[] runs parallel to the cells */
	struct fs_link *links;
	uint32_t *by_id, *by_ino, *by_name;
	uint32_t buckets, room; /* room: entries of links[] */
	uint32_t free_head, used;
	uint64_t file_cells; /* cells that the memfd holds */
};

/* sh and memfd are borrowed. Rebuilds the indexes; cells left half made by a dead worker are freed. */
int fs_table_init(struct fs_table *t, struct fs_shared *sh, int memfd, struct fz_err *err) FZ_MUST_CHECK;
void fs_table_fini(struct fs_table *t);

void fs_table_lock(struct fs_table *t);
void fs_table_unlock(struct fs_table *t);

/* The node's cell, valid while mu is held (its address stays, its content may be freed); NULL. */
struct fs_cell *fs_node_get_locked(struct fs_table *t, uint64_t id);
struct fs_cell *fs_node_by_ino_locked(struct fs_table *t, uint64_t dev, uint64_t ino);
/* The node that has this name, NULL when the table does not know one. */
struct fs_cell *fs_node_child_locked(struct fs_table *t, uint64_t parent, const char *name);
/* A new node without a name; id from fs_node_new_id(). NULL: no memory. An older node of the same inode becomes DEAD. */
struct fs_cell *fs_node_add_locked(struct fs_table *t, uint64_t id, const struct stat *st, uint32_t nopen);
uint64_t fs_node_new_id(struct fs_table *t);
/* Gives the node this name (taking it from whichever node had it). -ENOMEM, -ENAMETOOLONG. */
int fs_node_name_locked(struct fs_table *t, struct fs_cell *n, uint64_t parent, const char *name) FZ_MUST_CHECK;
/* Takes the name away, if it is known. Returns the node that had it, NULL. */
struct fs_cell *fs_node_unname_locked(struct fs_table *t, uint64_t parent, const char *name);
bool fs_node_has_name_locked(struct fs_table *t, const struct fs_cell *n);
/* A name besides this one. */
bool fs_node_has_other_name_locked(struct fs_table *t, const struct fs_cell *n, uint64_t parent, const char *name);
/* The inode is gone or going (false: it stays after all): it is (not) found by number any more. */
void fs_node_set_dead_locked(struct fs_table *t, struct fs_cell *n, bool dead);
/* Takes count references away; frees the node when none is left, it is not open, and the table knows no name in it: the path of
 * an open file may lead through a directory that the kernel has forgotten. */
void fs_node_forget_locked(struct fs_table *t, uint64_t id, uint64_t count);

/* Path relative to the backing root ("." for the root itself, <FS_HIDDEN_DIR>/<id> when hidden). -ESTALE, -ENAMETOOLONG. */
int fs_node_path_locked(struct fs_table *t, uint64_t id, char path[static PATH_MAX]) FZ_MUST_CHECK;
/* Path of a name in a directory. */
int fs_node_child_path_locked(struct fs_table *t, uint64_t parent, const char *name,
                              char path[static PATH_MAX]) FZ_MUST_CHECK;

#define FS_HIDDEN_DIR ".fazt/open"

#endif
