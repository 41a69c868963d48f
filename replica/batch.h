/* batch.h - the next transactions of a log, verified and merged into one set of pages, ready to be applied as one.
 *
 * Each LTX file is decoded to its end (structure, file checksum), continues the checksum of the state before it, and gives the
 * post-checksum that it claims when its pages are exchanged in the table of page sums: all before anybody sees a page
 * of it. The table itself is changed by replica_batch_settle() alone.
 * MEMORY  8 MiB of pages at most; one transaction that is larger is verified in a first pass and decoded again while it is
 *         applied, at 24 bytes a page. */
#ifndef FZ_REPLICA_BATCH_H
#define FZ_REPLICA_BATCH_H

#include "base/buf.h"
#include "base/io.h"

#include <stdbool.h>
#include <stdint.h>

struct ltx_dec;
struct ltx_log;
struct ltx_sums;

struct replica_batch_page {
	uint32_t pgno, at; /* number in pages[] */
	uint64_t sum;      /* 0: cut off again */
};
struct replica_batch {
	uint64_t min_txid, max_txid; /* min: the first that was not in the state before */
	uint64_t checksum;           /* after it */
	uint64_t transactions;
	uint32_t page_size, commit;
	bool all; /* every page of the database, because the page size changes or the log holds them all: sums start anew */
	/* private: */
	uint32_t low; /* pages beyond it were cut off once, so the table does not count for them */
	struct replica_batch_page *page;
	uint32_t n, cap, next;
	uint32_t *slot; /* hash: number in page[] + 1 */
	uint32_t n_slots;
	struct fz_buf data;
	struct ltx_dec *dec;
	struct fz_src *big; /* not NULL: the pages are not in data */
	uint64_t big_checksum;
};
void replica_batch_fini(struct replica_batch *b); /* zeroed is empty */
/* Collects what follows the table's TXID: at most max_txns of them, none beyond txid. 1, 0 when there is nothing, or a negative
 * code: -FZ_ECHECKSUM, -FZ_ECORRUPT (the log lies or the table does), -FZ_EGAP (the log starts later). Room in the table is made. */
int replica_batch_collect(struct replica_batch *b, struct ltx_log *log, struct ltx_sums *sums, uint64_t txid,
                          uint64_t max_txns, struct fz_err *err) FZ_MUST_CHECK;
/* The pages: 1 and the next one (each once, none beyond commit; data is borrowed until the next call), 0 at the end. */
int replica_batch_next(struct replica_batch *b, uint32_t *pgno, const uint8_t **data, struct fz_err *err) FZ_MUST_CHECK;
/* The batch is visible: the table stands at max_txid. */
void replica_batch_settle(const struct replica_batch *b, struct ltx_sums *sums);
/* Gives back what a large batch took. */
void replica_batch_trim(struct replica_batch *b);

#endif
