/* touched.c - see touched.h.
 *
 * Why the map of owners stays right without a new walk after each commit: a page changes hands only when a page of the
 * b-tree that gains it and one of the b-tree that loses it change too (a parent, or the overflow page before), and roots
 * move only with the schema cookie. So only b-trees with changed pages can have gained or lost some; and they cannot
 * have when size, freelist and every page without an owner stayed as they were and no second b-tree changed.
 * held by: tests/e2e/tables.py */
#include "replica/touched.h"

#include "base/buf.h"
#include "base/file.h"
#include "ltx/dec.h"
#include "replica/readdb.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HEADER_BYTES 100 /* of page 1: the file's, not a table's */
#define HEADER_MOVES 28  /* size, first free page, number of free pages, schema cookie: 4 bytes each */
#define SCHEMA       1   /* tree of sqlite_schema; 0 = no owner */

struct tree {
	char *name, *table;
	bool touched;
};
struct replica_touched {
	int fd;
	struct ltx_dec *dec;
	uint8_t *old; /* a page */
	/* the database in fd */
	bool whole; /* it is the one after txid of lineage */
	char lineage[17];
	uint32_t page_size, commit;
	uint64_t txid, checksum;
	/* its owners; trees[0] stands for none */
	bool mapped;
	uint32_t *map; /* page - 1 -> tree */
	uint32_t n_map;
	struct tree *trees;
	size_t n_trees;
	/* of the commit at hand */
	uint32_t *changed;
	size_t n_changed, cap_changed;
	char **names;
	size_t n_names;
};

static int no_memory(struct fz_err *err)
{
	return fz_fail_errno(err, ENOMEM, "telling tables");
}

static void unmap(struct replica_touched *t)
{
	for (size_t i = 0; i < t->n_trees; i++) {
		free(t->trees[i].name);
		free(t->trees[i].table);
	}
	free(t->trees);
	free(t->map);
	t->trees = NULL;
	t->map = NULL;
	t->n_trees = 0;
	t->n_map = 0;
	t->mapped = false;
}

/* ---- who owns what: SQLite's answer ---- */

static int asked(sqlite3 *db, struct fz_err *err)
{
	return fz_fail(err, FZ_ECORRUPT, "SQLite cannot read it: %s", sqlite3_errmsg(db));
}

static int add_tree(struct replica_touched *t, const char *name, const char *table, struct fz_err *err)
{
	struct tree *v = reallocarray(t->trees, t->n_trees + 1, sizeof(*v));

	if (!v)
		return no_memory(err);
	t->trees = v;
	v[t->n_trees++] = (struct tree){strdup(name), strdup(table), false};
	return v[t->n_trees - 1].name && v[t->n_trees - 1].table ? 0 : no_memory(err);
}

static int list_trees(struct replica_touched *t, sqlite3 *db, struct fz_err *err)
{
	sqlite3_stmt *st = NULL;
	int step, rc = add_tree(t, "", "", err);

	if (rc == 0)
		rc = add_tree(t, "sqlite_schema", "sqlite_schema", err);
	if (rc == 0 && sqlite3_prepare_v2(db, "SELECT name, tbl_name FROM sqlite_master WHERE rootpage > 0", -1, &st,
	                                  NULL) != SQLITE_OK)
		rc = asked(db, err);
	while (rc == 0 && (step = sqlite3_step(st)) != SQLITE_DONE) {
		const char *name = (const char *)sqlite3_column_text(st, 0);
		const char *table = (const char *)sqlite3_column_text(st, 1);

		rc = step == SQLITE_ROW && name && table ? add_tree(t, name, table, err) : asked(db, err);
	}
	sqlite3_finalize(st);
	return rc;
}

static uint32_t tree_of(const struct replica_touched *t, const char *name, uint32_t last)
{
	if (!strcmp(t->trees[last].name, name))
		return last;
	if (!strcmp(name, "sqlite_master")) /* older SQLite's name of it */
		return SCHEMA;
	for (size_t i = 0; i < t->n_trees; i++)
		if (!strcmp(t->trees[i].name, name))
			return (uint32_t)i;
	return 0;
}

/* Pages of one b-tree, or of all (name NULL), into the map. */
static int walk(struct replica_touched *t, sqlite3 *db, const char *name, struct fz_err *err)
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

		if (step != SQLITE_ROW || !owner || pgno < 1 || pgno > t->n_map)
			rc = asked(db, err);
		else
			t->map[pgno - 1] = last = tree_of(t, owner, last);
	}
	sqlite3_finalize(st);
	return rc;
}

/* all: from nothing; otherwise the trees that were touched, over a map that is right for the rest. */
static int map_owners(struct replica_touched *t, bool all, struct fz_err *err)
{
	sqlite3 *db = NULL;
	int rc = replica_readdb_open(&db, t->fd, err);

	if (rc == 0 && all) {
		unmap(t);
		t->map = calloc(t->commit ? t->commit : 1, sizeof(*t->map));
		t->n_map = t->commit;
		rc = t->map ? list_trees(t, db, err) : no_memory(err);
		if (rc == 0)
			rc = walk(t, db, NULL, err);
	}
	for (uint32_t i = 0; rc == 0 && !all && i < t->n_map; i++)
		if (t->trees[t->map[i]].touched)
			t->map[i] = 0;
	for (size_t i = 1; rc == 0 && !all && i < t->n_trees; i++)
		if (t->trees[i].touched)
			rc = walk(t, db, t->trees[i].name, err);
	sqlite3_close(db);
	t->mapped = rc == 0;
	return rc;
}

/* ---- the names of one commit ---- */

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int take_names(struct replica_touched *t, struct fz_err *err)
{
	for (size_t i = 1; i < t->n_trees; i++) {
		bool known = !t->trees[i].touched;
		char **v;

		for (size_t k = 0; !known && k < t->n_names; k++)
			known = !strcmp(t->names[k], t->trees[i].table);
		if (known)
			continue;
		v = reallocarray(t->names, t->n_names + 1, sizeof(*v));
		if (!v)
			return no_memory(err);
		t->names = v;
		v[t->n_names] = strdup(t->trees[i].table);
		if (!v[t->n_names])
			return no_memory(err);
		t->n_names++;
	}
	if (t->n_names)
		qsort(t->names, t->n_names, sizeof(*t->names), by_name);
	return 0;
}

/* ---- the database, commit by commit ---- */

struct step {
	bool moved, remap; /* pages may have changed hands; the schema may have changed */
	uint32_t pages;
};

static int note_change(struct replica_touched *t, uint32_t pgno, struct fz_err *err)
{
	if (t->n_changed == t->cap_changed) {
		size_t cap = t->cap_changed ? t->cap_changed * 2 : 256;
		uint32_t *v = reallocarray(t->changed, cap, sizeof(*v));

		if (!v)
			return no_memory(err);
		t->changed = v;
		t->cap_changed = cap;
	}
	t->changed[t->n_changed++] = pgno;
	return 0;
}

/* The file's pages into the image; those whose content differs are noted. */
static int apply(struct replica_touched *t, struct step *s, struct fz_err *err)
{
	const struct ltx_header *h = ltx_dec_header(t->dec);
	uint32_t pgno, size = h->page_size;
	const uint8_t *page;
	int rc;

	while ((rc = ltx_dec_page(t->dec, &pgno, &page, err)) == 1) {
		off_t at = (off_t)(pgno - 1) * size;
		ssize_t got = pgno <= t->commit ? fz_pread(t->fd, t->old, size, at) : 0;
		size_t head = pgno == 1 ? HEADER_BYTES : 0;

		s->pages++;
		if (got < 0)
			return fz_fail_errno(err, (int)-got, "reading a temporary file");
		memset(t->old + got, 0, size - (size_t)got);
		if (pgno == 1 && memcmp(page + HEADER_MOVES, t->old + HEADER_MOVES, 12))
			s->moved = true;
		if (pgno == 1 && memcmp(page + 40, t->old + 40, 4))
			s->remap = true;
		if (pgno > t->commit || memcmp(page + head, t->old + head, size - head))
			rc = note_change(t, pgno, err);
		if (rc < 0)
			return rc;
		if (pgno > t->commit || memcmp(page, t->old, size))
			rc = fz_pwrite(t->fd, page, size, at);
		if (rc < 0)
			return fz_fail_errno(err, -rc, "writing a temporary file");
	}
	if (rc == 0 && ftruncate(t->fd, (off_t)h->commit * size) < 0)
		rc = fz_fail_errno(err, errno, "writing a temporary file");
	return rc;
}

/* The owners of what changed, by the map as it is: the one before, or after. */
static void touch(struct replica_touched *t)
{
	for (size_t i = 0; i < t->n_changed; i++)
		t->trees[t->changed[i] <= t->n_map ? t->map[t->changed[i] - 1] : 0].touched = true;
	for (uint32_t i = t->commit; i < t->n_map; i++) /* cut off */
		t->trees[t->map[i]].touched = true;
}

/* Could pages have changed hands, in a way that only a new walk tells? */
static void judge(const struct replica_touched *t, struct step *s)
{
	size_t n = 0;

	for (size_t i = 1; i < t->n_trees; i++)
		n += t->trees[i].touched;
	s->moved = s->moved || t->trees[0].touched || n > 1 || t->commit != t->n_map;
	s->remap = s->remap || t->trees[SCHEMA].touched;
}

/* The map gets the length of the database. */
static int fit_map(struct replica_touched *t, struct fz_err *err)
{
	uint32_t *v = reallocarray(t->map, t->commit ? t->commit : 1, sizeof(*v));

	if (!v)
		return no_memory(err);
	if (t->commit > t->n_map)
		memset(v + t->n_map, 0, (size_t)(t->commit - t->n_map) * sizeof(*v));
	t->map = v;
	t->n_map = t->commit;
	return 0;
}

/* The image is the one after the file of t->dec, whose pages are all that it holds when fresh. */
static int bring(struct replica_touched *t, const char *lineage, bool fresh, struct step *s, struct fz_err *err)
{
	struct ltx_header h = *ltx_dec_header(t->dec);
	uint64_t bytes;
	int rc;

	t->whole = false;
	if (fresh)
		t->commit = 0;
	rc = apply(t, s, err);
	if (rc < 0)
		return rc;
	if (fresh && s->pages < h.commit - (h.commit >= ltx_lock_page(h.page_size)))
		return fz_fail(err, FZ_EGAP, "there is no snapshot with the new page size");
	memcpy(t->lineage, lineage, sizeof(t->lineage));
	t->page_size = h.page_size;
	t->commit = h.commit;
	t->txid = h.max_txid;
	t->checksum = ltx_dec_end(t->dec, &bytes)->post_checksum;
	t->whole = true;
	return 0;
}

static int open_file(struct replica_touched *t, struct replica_commits *c, bool before, struct fz_src **src,
                     struct fz_err *err)
{
	int rc = replica_commits_file(c, before, src, err);

	if (rc == 0)
		rc = t->dec ? ltx_dec_reopen(t->dec, *src, 0, err) : ltx_dec_open(&t->dec, *src, 0, err);
	return rc;
}

/* Does the file of t->dec go on from the image? */
static bool follows(const struct replica_touched *t, const char *lineage)
{
	const struct ltx_header *h = ltx_dec_header(t->dec);

	return t->whole && !strcmp(t->lineage, lineage) && h->min_txid <= t->txid + 1 && h->max_txid > t->txid &&
	       (h->min_txid != t->txid + 1 || !h->pre_checksum || h->pre_checksum == t->checksum);
}

/* The map before and after, around the change. */
static int follow(struct replica_touched *t, const char *lineage, struct fz_err *err)
{
	bool resized = ltx_dec_header(t->dec)->page_size != t->page_size;
	struct fz_err why = {0};
	struct step s = {0};
	int rc, map_rc = t->mapped ? 0 : map_owners(t, true, &why);

	if (map_rc == 0 && resized) /* every page is another one */
		for (size_t i = 1; i < t->n_trees; i++)
			t->trees[i].touched = true;
	rc = bring(t, lineage, resized, &s, err);
	if (rc == 0 && map_rc == 0) {
		if (!resized)
			touch(t);
		judge(t, &s);
		s.remap = s.remap || resized;
		map_rc = take_names(t, &why);
	}
	if (rc == 0 && map_rc == 0)
		map_rc = fit_map(t, &why);
	if (rc == 0 && map_rc == 0 && (s.remap || s.moved))
		map_rc = map_owners(t, s.remap, &why);
	if (rc == 0 && map_rc == 0) {
		touch(t);
		map_rc = take_names(t, &why);
	}
	for (size_t i = 0; i < t->n_trees; i++)
		t->trees[i].touched = false;
	if (rc == 0 && map_rc < 0) {
		unmap(t);
		*err = why;
		rc = map_rc;
	}
	return rc;
}

static int start(struct replica_touched *t, const char *lineage, struct fz_err *err)
{
	struct step s = {0};

	unmap(t);
	return bring(t, lineage, true, &s, err);
}

static int tell(struct replica_touched *t, struct replica_commits *c, const struct replica_commit *k,
                struct fz_src **src, struct fz_err *err)
{
	struct fz_src *base = NULL;
	int rc = open_file(t, c, false, src, err);

	if (rc < 0)
		return rc;
	if (ltx_dec_header(t->dec)->max_txid != k->txid)
		return fz_fail(err, FZ_EGAP, "TXID %llu is the last of no file", (unsigned long long)k->txid);
	if (!follows(t, k->lineage) && !ltx_is_snapshot(ltx_dec_header(t->dec))) {
		rc = open_file(t, c, true, &base, err);
		if (rc == 0 && !ltx_is_snapshot(ltx_dec_header(t->dec)))
			rc = fz_fail(err, FZ_ECORRUPT, "the log's base is no snapshot");
		if (rc == 0)
			rc = start(t, k->lineage, err);
		if (rc == 0)
			rc = ltx_dec_reopen(t->dec, *src, 0, err);
		fz_src_close(base);
		if (rc == 0 && !follows(t, k->lineage))
			rc = fz_fail(err, FZ_EGAP, "the state before TXID %llu is not known",
			             (unsigned long long)k->txid);
		if (rc < 0)
			return rc;
	}
	if (follows(t, k->lineage))
		return follow(t, k->lineage, err);
	rc = start(t, k->lineage, err);
	return rc < 0 ? rc : fz_fail(err, FZ_ENOCOMMIT, "nothing is known of before the first snapshot");
}

static bool untold(int rc)
{
	switch (rc) {
	case -FZ_ENOKEY:
	case -FZ_EGAP:
	case -FZ_ENOTFOUND:
	case -FZ_ENOCOMMIT:
	case -FZ_ECORRUPT:
	case -FZ_ECHECKSUM:
	case -FZ_ECRYPT:
	case -FZ_ETRUNCATED:
		return true;
	default:
		return false;
	}
}

int replica_touched_next(struct replica_touched *t, struct replica_commits *c, const struct replica_commit *k,
                         const char *const **names, size_t *n, struct fz_err *why)
{
	struct fz_src *src = NULL;
	int rc;

	for (size_t i = 0; i < t->n_names; i++)
		free(t->names[i]);
	t->n_names = 0;
	t->n_changed = 0;
	rc = tell(t, c, k, &src, why);
	fz_src_close(src);
	*names = (const char *const *)t->names;
	*n = t->n_names;
	/* what was not applied makes the image one of before: what follows must not be told from it */
	t->whole = t->whole && t->txid == k->txid;
	return rc == 0 ? 1 : untold(rc) ? 0 : rc;
}

int replica_touched_open(struct replica_touched **out, const char *tmp_dir, struct fz_err *err)
{
	struct replica_touched *t = calloc(1, sizeof(*t));
	char *path = NULL;
	int rc = 0;

	if (!t)
		return no_memory(err);
	t->fd = open(tmp_dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (t->fd < 0 && asprintf(&path, "%s/fazt-log-XXXXXX", tmp_dir) > 0) {
		t->fd = mkostemp(path, O_CLOEXEC);
		if (t->fd >= 0)
			(void)unlink(path);
		free(path);
	}
	if (t->fd < 0)
		rc = fz_fail_errno(err, errno, "cannot create a temporary file in %s", tmp_dir);
	t->old = malloc(65536);
	if (rc == 0 && !t->old)
		rc = no_memory(err);
	if (rc == 0)
		rc = replica_readdb_has_dbstat(err);
	if (rc < 0)
		replica_touched_close(t);
	else
		*out = t;
	return rc;
}

void replica_touched_close(struct replica_touched *t)
{
	if (!t)
		return;
	unmap(t);
	for (size_t i = 0; i < t->n_names; i++)
		free(t->names[i]);
	free(t->names);
	free(t->changed);
	free(t->old);
	ltx_dec_close(t->dec);
	fz_close(&t->fd);
	free(t);
}
