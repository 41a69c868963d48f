/* journal.h - SQLite's rollback journal as bytes; source: sqlite.org/fileformat2.html#rollbackjournal and pager.c.
 * File: { header of one sector | records (u32 page, page_size bytes, u32 checksum) }..., each header on a sector boundary,
 * and at the end, in a transaction over several databases, the name of the super-journal. */
#ifndef FZ_LTX_JOURNAL_H
#define FZ_LTX_JOURNAL_H

#include "base/io.h"

#define LTX_JOURNAL_HEADER_SIZE 28
#define LTX_JOURNAL_SUPER_MAX   4096

struct ltx_journal {
	struct fz_src *src; /* borrowed */
	uint32_t page_size, sector_bytes;
	uint32_t commit; /* pages of the database before the transaction */
	bool unsynced; /* set by the caller: also the records after the last sync of the journal, which no header counts yet */
	/* private: */
	uint64_t off_bytes, left; /* next byte; records left under the present header */
	uint32_t seed;
	bool last; /* record count unknown: up to the end of the file */
	uint8_t *page;
};

/* Is this the start of a journal that holds something (magic present)? An empty, truncated or zeroed one is not. */
bool ltx_journal_is_hot(const uint8_t *in, size_t n);
/* Reads the first header. page_size_hint is used where the header holds none. -FZ_ECORRUPT when there is no valid header. */
int ltx_journal_open(struct ltx_journal *j, struct fz_src *src, uint32_t page_size_hint,
                     struct fz_err *err) FZ_MUST_CHECK;
void ltx_journal_close(struct ltx_journal *j);
/* The next record that SQLite would play back (or, `unsynced`, that the transaction has written so far): 1 with *pgno and *data (borrowed until the next call); 0 at the end, which
 * is also where a record's checksum fails, as SQLite does it; or a negative code when reading failed. */
int ltx_journal_next(struct ltx_journal *j, uint32_t *pgno, const uint8_t **data, struct fz_err *err) FZ_MUST_CHECK;
/* The super-journal's path as the application knows it; "" = none. */
int ltx_journal_super(struct fz_src *src, char out[static LTX_JOURNAL_SUPER_MAX], struct fz_err *err) FZ_MUST_CHECK;

#endif
