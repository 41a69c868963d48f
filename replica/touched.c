/* touched.c - see touched.h.
 *
 * Why the map of owners stays right without a new walk after each commit: a page changes hands only when a page of the
 * b-tree that gains it and one of the b-tree that loses it change too (a parent, or the overflow page before), and roots
 * move only with the schema cookie. So only b-trees with changed pages can have gained or lost some; and they cannot
 * have when size, freelist and every page without an owner stayed as they were and no second b-tree changed.
 * held by: tests/e2e/tables.py */
#include "replica/touched.h"

#include "base/array.h"
#include "base/buf.h"
#include "base/file.h"
#include "base/temp.h"
#include "ltx/dec.h"
#include "replica/owners.h"
#include "replica/readdb.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HEADER_BYTES 100 /* of page 1: the file's, not a table's */
#define HEADER_MOVES 28  /* size, first free page, number of free pages, schema cookie: 4 bytes each */

struct replica_touched {
	int fd;
	struct ltx_dec *dec;
	uint8_t *old; /* a page */
	/* the database in fd */
	bool whole; /* it is the one after txid of lineage */
	char lineage[17];
	uint32_t page_size, commit;
	uint64_t txid, checksum;
	struct replica_owners owners; /* its, when mapped */
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

/* ---- the names of one commit ---- */

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int take_names(struct replica_touched *t, struct fz_err *err)
{
	for (size_t i = 1; i < t->owners.n_trees; i++) {
		bool known = !t->owners.trees[i].touched;
		char **v;

		for (size_t k = 0; !known && k < t->n_names; k++)
			known = !strcmp(t->names[k], t->owners.trees[i].table);
		if (known)
			continue;
		v = reallocarray(t->names, t->n_names + 1, sizeof(*v));
		if (!v)
			return no_memory(err);
		t->names = v;
		v[t->n_names] = strdup(t->owners.trees[i].table);
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
	if (!fz_array_room(t->changed, t->n_changed, t->cap_changed))
		return no_memory(err);
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

/* Could pages have changed hands, in a way that only a new walk tells? */
static void judge(const struct replica_touched *t, struct step *s)
{
	size_t n = 0;

	for (size_t i = 1; i < t->owners.n_trees; i++)
		n += t->owners.trees[i].touched;
	s->moved = s->moved || t->owners.trees[REPLICA_OWNER_NONE].touched || n > 1 || t->commit != t->owners.n_map;
	s->remap = s->remap || t->owners.trees[REPLICA_OWNER_SCHEMA].touched;
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
	int rc, map_rc = t->owners.mapped ? 0 : replica_owners_read(&t->owners, t->fd, t->commit, &why);

	if (map_rc == 0 && resized) /* every page is another one */
		for (size_t i = 1; i < t->owners.n_trees; i++)
			t->owners.trees[i].touched = true;
	rc = bring(t, lineage, resized, &s, err);
	if (rc == 0 && map_rc == 0) {
		if (!resized)
			replica_owners_touch(&t->owners, t->changed, t->n_changed, t->commit);
		judge(t, &s);
		s.remap = s.remap || resized;
		map_rc = take_names(t, &why);
	}
	if (rc == 0 && map_rc == 0)
		map_rc = replica_owners_resize(&t->owners, t->commit, &why);
	if (rc == 0 && map_rc == 0 && s.remap)
		map_rc = replica_owners_read(&t->owners, t->fd, t->commit, &why);
	else if (rc == 0 && map_rc == 0 && s.moved)
		map_rc = replica_owners_renew(&t->owners, t->fd, &why);
	if (rc == 0 && map_rc == 0) {
		replica_owners_touch(&t->owners, t->changed, t->n_changed, t->commit);
		map_rc = take_names(t, &why);
	}
	for (size_t i = 0; i < t->owners.n_trees; i++)
		t->owners.trees[i].touched = false;
	if (rc == 0 && map_rc < 0) {
		replica_owners_fini(&t->owners);
		*err = why;
		rc = map_rc;
	}
	return rc;
}

static int start(struct replica_touched *t, const char *lineage, struct fz_err *err)
{
	struct step s = {0};

	replica_owners_fini(&t->owners);
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
	int rc = 0;

	if (!t)
		return no_memory(err);
	t->fd = fz_temp_file(tmp_dir, err);
	if (t->fd < 0)
		rc = t->fd;
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
	replica_owners_fini(&t->owners);
	for (size_t i = 0; i < t->n_names; i++)
		free(t->names[i]);
	free(t->names);
	free(t->changed);
	free(t->old);
	ltx_dec_close(t->dec);
	fz_close(&t->fd);
	free(t);
}
