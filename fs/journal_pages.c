/* journal_pages.c - pages changed in rollback mode, by the journal.
 *
 * pager.c journals the old content of each page before the first change, but not: pages beyond the old end, and pages that
 * were leaves of the free list when the transaction began (sqlite3PagerGet with NOCONTENT). The old free list is read from
 * the old pages: from the journal where it has them, else from the file, where they are unchanged then. Who takes a leaf writes
 * its trunk first (btree.c, allocateBtreePage), so that only the leaves of trunks in the journal can have been written: few, however
 * long the list is. Test: test_fs_capture, free_leaves. */
#include "fs/journal_pages.h"

#include "base/array.h"
#include "base/cursor.h"
#include "base/file.h"
#include "fs/capture_priv.h"
#include "ltx/journal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* The journal's records: page -> position of the old content. */
struct records {
	struct fs_pages list;
	uint64_t *at;
	size_t cap;
};

static int note_record(struct records *r, uint32_t pgno, uint64_t at, struct fz_err *err)
{
	if (!fz_array_room(r->at, r->list.n, r->cap))
		return fz_fail(err, -ENOMEM, "no memory");
	r->at[r->list.n] = at;
	return fs_pages_add(&r->list, pgno, (uint32_t)r->list.n, err);
}

/* Old content of a page. */
static int old_page(struct fs_db *db, const struct ltx_journal *j, const struct records *r, uint32_t pgno, uint8_t *out,
                    struct fz_err *err)
{
	const struct fs_page *p = fs_pages_find(&r->list, pgno);

	if (p)
		return fz_src_read(j->src, r->at[p->frame], out, j->page_size, err);
	return fs_db_read_page(db, j->page_size, pgno, 0, out, err);
}

/* Adds the leaves of the old free list that may have been taken. 1 = all of them, 0 = it makes no sense. */
static int list_leaves(struct fs_db *db, const struct ltx_journal *j, const struct records *r, uint8_t *page,
                       struct fs_pages *leaves, struct fz_err *err)
{
	uint32_t trunk, left, usable, n;
	int rc = old_page(db, j, r, 1, page, err);

	if (rc < 0)
		return rc;
	trunk = fz_be32(page + 32);
	left = fz_be32(page + 36);
	usable = j->page_size - page[20];
	while (trunk && left) {
		rc = old_page(db, j, r, trunk, page, err);
		if (rc < 0)
			return rc;
		n = fz_be32(page + 4);
		if (n > usable / 4 - 2 || n + 1 > left)
			return 0;
		for (uint32_t i = 0; i < n && fs_pages_find(&r->list, trunk); i++) {
			rc = fs_pages_add(leaves, fz_be32(page + 8 + 4 * i), 1, err);
			if (rc < 0)
				return rc;
		}
		left -= n + 1;
		trunk = fz_be32(page);
	}
	return left == 0;
}

static int mark(struct fs_db *db, uint32_t page_size, uint32_t pgno, struct fz_err *err)
{
	return pgno ? fs_dirty_mark(db->dirty, (uint64_t)(pgno - 1) * page_size, page_size, err) : 0;
}

static int mark_leaves(struct fs_db *db, const struct ltx_journal *j, const struct records *r, uint8_t *page,
                       struct fz_err *err)
{
	struct fs_pages leaves;
	int rc;

	fs_pages_init(&leaves, r->list.dirfd);
	rc = list_leaves(db, j, r, page, &leaves, err);
	for (size_t i = 0; rc > 0 && i < leaves.n; i++)
		if (mark(db, j->page_size, leaves.e[i].pgno, err) < 0)
			rc = -ENOSPC;
	fs_pages_fini(&leaves);
	return rc;
}

int fs_journal_pages_mark(struct fs_db *db, struct fz_err *err)
{
	struct records r = {.at = NULL};
	struct fz_src *src = NULL;
	struct ltx_journal j = {0};
	uint8_t *page = NULL;
	const uint8_t *data;
	struct stat st;
	uint32_t pgno;
	int fd, rc;

	if (!db->dirty)
		return 0;
	fd = fs_db_open_journal(db);
	if (fd < 0 || fstat(fd, &st) < 0) {
		fz_close(&fd);
		return 0;
	}
	fs_pages_init(&r.list, db->c->conf.statefd);
	rc = fz_src_fd(&src, fd, 0, (uint64_t)st.st_size, false, err);
	if (rc == 0 && ltx_journal_open(&j, src, ltx_sums_head(db->sums)->page_size, NULL) < 0)
		goto out; /* no header: it tells nothing */
	if (rc < 0 || j.commit != ltx_sums_head(db->sums)->commit || j.page_size != ltx_sums_head(db->sums)->page_size)
		goto out;
	j.unsynced = true; /* a leaf has no record of its own: it may be written before its trunk's is synced */
	while ((rc = ltx_journal_next(&j, &pgno, &data, err)) > 0) {
		rc = note_record(&r, pgno, j.off_bytes - 4 - j.page_size, err);
		if (rc == 0)
			rc = mark(db, j.page_size, pgno, err);
		if (rc < 0)
			goto out;
	}
	fs_pages_order(&r.list);
	page = malloc(j.page_size);
	if (rc == 0 && page &&
	    fs_pages_find(&r.list, 1)) { /* page 1 changes in every transaction: without it, no proof */
		rc = old_page(db, &j, &r, 1, page, err);
		/* Not the page 1 that was captured: a commit in between was not (the zeroing that ends one in PERSIST mode is not
		 * told), and the journal of its pages has been overwritten. */
		if (rc == 0 && ltx_page_checksum(1, page, j.page_size) != ltx_sums_get(db->sums, 1))
			db->rb.whole = true;
		else if (rc == 0)
			rc = mark_leaves(db, &j, &r, page, err);
	}
out:
	free(page);
	ltx_journal_close(&j);
	fs_pages_fini(&r.list);
	free(r.at);
	fz_src_close(src);
	fz_close(&fd);
	return rc;
}
