#include "ltx/journal.h"

#include "base/cursor.h"
#include "ltx/ltx.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t magic[8] = {0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7};
static const uint8_t unwritten[12]; /* magic and count follow when the journal is synced (pager.c, writeJournalHdr) */

bool ltx_journal_is_hot(const uint8_t *in, size_t n)
{
	return n >= sizeof(magic) && !memcmp(in, magic, sizeof(magic));
}

static uint64_t record_bytes(const struct ltx_journal *j)
{
	return (uint64_t)j->page_size + 8;
}

/* 1 = a header stands at the next sector boundary, 0 = none. Only the first one decides sizes (as in pager.c). */
static int read_header(struct ltx_journal *j, bool first, uint32_t hint, struct fz_err *err)
{
	uint64_t at = (j->off_bytes + j->sector_bytes - 1) / j->sector_bytes * j->sector_bytes;
	uint8_t h[LTX_JOURNAL_HEADER_SIZE];
	uint32_t n, commit, sector, page;
	int rc;

	if (at + j->sector_bytes > j->src->size_bytes && !first)
		return 0;
	if (at + sizeof(h) > j->src->size_bytes)
		return 0;
	rc = fz_src_read(j->src, at, h, sizeof(h), err);
	if (rc < 0)
		return rc;
	n = fz_be32(h + 8);
	j->seed = fz_be32(h + 12);
	commit = fz_be32(h + 16);
	sector = fz_be32(h + 20);
	page = fz_be32(h + 24);
	if (!first && j->unsynced && !memcmp(h, unwritten, sizeof(unwritten)) && commit == j->commit &&
	    sector == j->sector_bytes && page == j->page_size)
		n = UINT32_MAX;
	else if (memcmp(h, magic, sizeof(magic)))
		return 0;
	if (first) {
		if (!page)
			page = hint;
		if (!ltx_page_size_ok(page) || sector < 32 || sector > 65536 || (sector & (sector - 1)))
			return 0;
		j->page_size = page;
		j->sector_bytes = sector;
		j->commit = commit;
	}
	j->off_bytes = at + j->sector_bytes;
	j->last = n == UINT32_MAX;
	j->left = n;
	return 1;
}

int ltx_journal_open(struct ltx_journal *j, struct fz_src *src, uint32_t page_size_hint, struct fz_err *err)
{
	int rc;

	*j = (struct ltx_journal){.src = src, .sector_bytes = 512};
	rc = read_header(j, true, page_size_hint, err);
	if (rc < 0)
		return rc;
	if (!rc)
		return fz_fail(err, FZ_ECORRUPT, "no rollback journal header");
	j->page = malloc(record_bytes(j));
	return j->page ? 0 : fz_fail(err, -ENOMEM, "no memory");
}

void ltx_journal_close(struct ltx_journal *j)
{
	free(j->page);
	j->page = NULL;
}

int ltx_journal_next(struct ltx_journal *j, uint32_t *pgno, const uint8_t **data, struct fz_err *err)
{
	uint32_t sum;
	int rc;

	while (!j->last && !j->left) {
		rc = read_header(j, false, 0, err);
		if (rc <= 0)
			return rc;
	}
	if (j->off_bytes > j->src->size_bytes || record_bytes(j) > j->src->size_bytes - j->off_bytes)
		return 0;
	rc = fz_src_read(j->src, j->off_bytes, j->page, record_bytes(j), err);
	if (rc < 0)
		return rc;
	*pgno = fz_be32(j->page);
	sum = j->seed;
	for (int64_t i = (int64_t)j->page_size - 200; i > 0; i -= 200)
		sum += j->page[4 + i];
	if (!*pgno || *pgno == ltx_lock_page(j->page_size) || sum != fz_be32(j->page + 4 + j->page_size))
		return 0;
	j->off_bytes += record_bytes(j);
	if (!j->last)
		j->left--;
	*data = j->page + 4;
	return 1;
}

int ltx_journal_super(struct fz_src *src, char out[static LTX_JOURNAL_SUPER_MAX], struct fz_err *err)
{
	uint8_t tail[16];
	uint32_t n, sum = 0;
	int rc;

	out[0] = 0;
	if (src->size_bytes < sizeof(tail))
		return 0;
	rc = fz_src_read(src, src->size_bytes - sizeof(tail), tail, sizeof(tail), err);
	if (rc < 0)
		return rc;
	n = fz_be32(tail);
	if (memcmp(tail + 8, magic, sizeof(magic)) || !n || n >= LTX_JOURNAL_SUPER_MAX ||
	    n > src->size_bytes - sizeof(tail))
		return 0;
	rc = fz_src_read(src, src->size_bytes - sizeof(tail) - n, out, n, err);
	if (rc < 0)
		return rc;
	for (uint32_t i = 0; i < n; i++)
		sum += (uint32_t)out[i]; /* SQLite sums plain chars, signed where they are */
	out[n] = 0;
	if (sum != fz_be32(tail + 4))
		out[0] = 0;
	return 0;
}
