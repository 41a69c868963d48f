#include "replica/owners.h"

#include "replica/readdb.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

static int no_memory(struct fz_err *err)
{
	return fz_fail_errno(err, ENOMEM, "telling tables");
}

void replica_owners_fini(struct replica_owners *o)
{
	for (size_t i = 0; i < o->n_trees; i++) {
		free(o->trees[i].name);
		free(o->trees[i].table);
	}
	free(o->trees);
	free(o->map);
	o->trees = NULL;
	o->map = NULL;
	o->n_trees = 0;
	o->n_map = 0;
	o->mapped = false;
}

/* ---- who owns what: SQLite's answer ---- */

static int asked(sqlite3 *db, struct fz_err *err)
{
	return fz_fail(err, FZ_ECORRUPT, "SQLite cannot read it: %s", sqlite3_errmsg(db));
}

static int add_tree(struct replica_owners *o, const char *name, const char *table, struct fz_err *err)
{
	struct replica_tree *v = reallocarray(o->trees, o->n_trees + 1, sizeof(*v));

	if (!v)
		return no_memory(err);
	o->trees = v;
	v[o->n_trees++] = (struct replica_tree){strdup(name), strdup(table), false};
	return v[o->n_trees - 1].name && v[o->n_trees - 1].table ? 0 : no_memory(err);
}

static int list_trees(struct replica_owners *o, sqlite3 *db, struct fz_err *err)
{
	sqlite3_stmt *st = NULL;
	int step, rc = add_tree(o, "", "", err);

	if (rc == 0)
		rc = add_tree(o, "sqlite_schema", "sqlite_schema", err);
	if (rc == 0 && sqlite3_prepare_v2(db, "SELECT name, tbl_name FROM sqlite_master WHERE rootpage > 0", -1, &st,
	                                  NULL) != SQLITE_OK)
		rc = asked(db, err);
	while (rc == 0 && (step = sqlite3_step(st)) != SQLITE_DONE) {
		const char *name = (const char *)sqlite3_column_text(st, 0);
		const char *table = (const char *)sqlite3_column_text(st, 1);

		rc = step == SQLITE_ROW && name && table ? add_tree(o, name, table, err) : asked(db, err);
	}
	sqlite3_finalize(st);
	return rc;
}

static uint32_t tree_of(const struct replica_owners *o, const char *name, uint32_t last)
{
	if (!strcmp(o->trees[last].name, name))
		return last;
	if (!strcmp(name, "sqlite_master")) /* older SQLite's name of it */
		return REPLICA_OWNER_SCHEMA;
	for (size_t i = 0; i < o->n_trees; i++)
		if (!strcmp(o->trees[i].name, name))
			return (uint32_t)i;
	return 0;
}

/* Pages of one b-tree, or of all (name NULL), into the map. */
static int walk(struct replica_owners *o, sqlite3 *db, const char *name, struct fz_err *err)
{
	const char *sql = name ? "SELECT name, pageno FROM dbstat WHERE name = ?1" : "SELECT name, pageno FROM dbstat";
	sqlite3_stmt *st = NULL;
	uint32_t last = 0;
	int step, rc = 0;

	if (sqlite3_prepare_v2(db, sql, -1, &st, NULL) != SQLITE_OK ||
	    (name && sqlite3_bind_text(st, 1, name, -1, SQLITE_STATIC) != SQLITE_OK))
		rc = asked(db, err);
	while (rc == 0 && (step = sqlite3_step(st)) != SQLITE_DONE) {
		const char *owner = (const char *)sqlite3_column_text(st, 0);
		sqlite3_int64 pgno = sqlite3_column_int64(st, 1);

		if (step != SQLITE_ROW || !owner || pgno < 1 || pgno > o->n_map)
			rc = asked(db, err);
		else
			o->map[pgno - 1] = last = tree_of(o, owner, last);
	}
	sqlite3_finalize(st);
	return rc;
}

int replica_owners_read(struct replica_owners *o, int fd, uint32_t pages, struct fz_err *err)
{
	sqlite3 *db = NULL;
	int rc = replica_readdb_open(&db, fd, err);

	replica_owners_fini(o);
	if (rc == 0) {
		o->map = calloc(pages ? pages : 1, sizeof(*o->map));
		o->n_map = pages;
		rc = o->map ? list_trees(o, db, err) : no_memory(err);
	}
	if (rc == 0)
		rc = walk(o, db, NULL, err);
	sqlite3_close(db);
	o->mapped = rc == 0;
	return rc;
}

int replica_owners_renew(struct replica_owners *o, int fd, struct fz_err *err)
{
	sqlite3 *db = NULL;
	int rc = replica_readdb_open(&db, fd, err);

	for (uint32_t i = 0; rc == 0 && i < o->n_map; i++)
		if (o->trees[o->map[i]].touched)
			o->map[i] = REPLICA_OWNER_NONE;
	for (size_t i = REPLICA_OWNER_SCHEMA; rc == 0 && i < o->n_trees; i++)
		if (o->trees[i].touched)
			rc = walk(o, db, o->trees[i].name, err);
	sqlite3_close(db);
	o->mapped = rc == 0;
	return rc;
}

int replica_owners_resize(struct replica_owners *o, uint32_t pages, struct fz_err *err)
{
	uint32_t *v = reallocarray(o->map, pages ? pages : 1, sizeof(*v));

	if (!v)
		return no_memory(err);
	if (pages > o->n_map)
		memset(v + o->n_map, 0, (size_t)(pages - o->n_map) * sizeof(*v));
	o->map = v;
	o->n_map = pages;
	return 0;
}

void replica_owners_touch(struct replica_owners *o, const uint32_t *pages, size_t n, uint32_t keep)
{
	for (size_t i = 0; i < n; i++)
		o->trees[pages[i] <= o->n_map ? o->map[pages[i] - 1] : REPLICA_OWNER_NONE].touched = true;
	for (uint32_t i = keep; i < o->n_map; i++)
		o->trees[o->map[i]].touched = true;
}
