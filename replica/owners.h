/* owners.h - which b-tree owns each page of a database, and which table each b-tree belongs to, as SQLite's dbstat tells.
 * Memory: 4 bytes a page. */
#ifndef FZ_REPLICA_OWNERS_H
#define FZ_REPLICA_OWNERS_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum { REPLICA_OWNER_NONE, REPLICA_OWNER_SCHEMA }; /* free, pointer map, lock page; sqlite_schema */
struct replica_tree {
	char *name, *table;
	bool touched; /* the caller's mark */
};
/* Zeroed is empty and valid. */
struct replica_owners {
	bool mapped;
	uint32_t *map, n_map; /* page - 1 -> index of trees */
	struct replica_tree *trees;
	size_t n_trees;
};
/* Of the database in fd, from nothing. -FZ_ECORRUPT: SQLite cannot read it; not mapped then. */
int replica_owners_read(struct replica_owners *o, int fd, uint32_t pages, struct fz_err *err) FZ_MUST_CHECK;
/* The same for the trees that are marked: the map is right for the others, and no tree came or went. */
int replica_owners_renew(struct replica_owners *o, int fd, struct fz_err *err) FZ_MUST_CHECK;
/* What is new has no owner yet. */
int replica_owners_resize(struct replica_owners *o, uint32_t pages, struct fz_err *err) FZ_MUST_CHECK;
/* Marks the owners of these pages (beyond the map: none), and of all above the first keep. */
void replica_owners_touch(struct replica_owners *o, const uint32_t *pages, size_t n, uint32_t keep);
void replica_owners_fini(struct replica_owners *o);

#endif
