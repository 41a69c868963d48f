/* sums.h - the checksum of every page of a database as the log's tail has it, in a mapped file "fs-sums" of the log's
 * directory. It makes a transaction's database checksum cost O(changed pages), and tells after a restart what is known.
 *
 * FILE    head (4096 bytes, below), then 8 bytes a page (page 1 first; 0 = no such page). Native byte order: it is a cache,
 *         and rebuilt from the log when it does not fit.
 * ORDER   the log's append, then the pages' sums, then head->txid: a death between leaves txid behind the log's tail, and
 *         the log's entries are applied again (full sums, so twice is harmless).
 * Not thread-safe. */
#ifndef FZ_LTX_SUMS_H
#define FZ_LTX_SUMS_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct ltx_sums_head {
	char magic[8]; /* "FZSUMS01" */
	uint32_t page_size, commit;
	uint64_t txid, checksum; /* what the sums stand for */
	char boot_id[40];        /* of the boot in which they were last written */
	/* clean marker: at the last orderly end the database looked like this */
	uint32_t clean, recheck; /* recheck: SQLite recovers the WAL; look whether it kept what is captured */
	uint64_t db_bytes;
	int64_t db_mtime_ns, db_ctime_ns;
	uint64_t wal_bytes;
	uint32_t wal_salt[2];
	uint32_t pos_salt[2], pos_frame; /* captured up to this frame of that WAL */
	uint8_t last_frame[24];          /* its header */
	uint64_t rolling_txid; /* not 0: a roll-forward from the state at (this - 1) to the log's tail is under way */
	uint32_t unsure; /* 1: a compare of all pages has not finished; 2: and something else than SQLite writes */
	uint32_t unused;
	int64_t seen_mtime_ns; /* of the file, outside WAL mode, when the pages that were captured last were read */
};
struct ltx_sums;

/* dirfd: the log's directory, borrowed. Creates it empty; a damaged or foreign head gives an empty one as well. */
int ltx_sums_open(struct ltx_sums **out, int dirfd, struct fz_err *err) FZ_MUST_CHECK;
void ltx_sums_close(struct ltx_sums *s);
struct ltx_sums_head *ltx_sums_head(struct ltx_sums *s);
/* 0 for a page that is not there. */
uint64_t ltx_sums_get(const struct ltx_sums *s, uint32_t pgno);
/* Makes room for that many pages: -ENOSPC here, so that setting never fails. */
int ltx_sums_room(struct ltx_sums *s, uint32_t pages, struct fz_err *err) FZ_MUST_CHECK;
void ltx_sums_set(struct ltx_sums *s, uint32_t pgno, uint64_t sum); /* within the room */
/* XOR over pages 1..commit, as the database checksum is defined. */
uint64_t ltx_sums_total(const struct ltx_sums *s);
void ltx_sums_clear(struct ltx_sums *s);       /* no pages, txid 0; the boot stays */
void ltx_sums_clear_pages(struct ltx_sums *s); /* no pages; the rest of the head stays, txid 0 until it is set */
int ltx_sums_sync(struct ltx_sums *s, struct fz_err *err) FZ_MUST_CHECK;
/* This boot's id; "" when unknown. */
void ltx_sums_boot_id(char out[static 40]);

#endif
