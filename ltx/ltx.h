/* ltx.h - the LTX v3 format: header, trailer, checksums, positions. Source: superfly/ltx README "File Format".
 * All fixed integers are big-endian. File: header 100 | page frames | 6 zero bytes | page index | trailer 16. */
#ifndef FZ_LTX_LTX_H
#define FZ_LTX_LTX_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define LTX_HEADER_SIZE  100
#define LTX_TRAILER_SIZE 16
#define LTX_FLAG         (UINT64_C(1) << 63) /* set in every checksum that is present */
#define LTX_EMPTY_DB     LTX_FLAG            /* database checksum of an empty database */

struct ltx_header {
	uint32_t flags;     /* 0x2 = no checksums */
	uint32_t page_size; /* bytes, power of two, 512..65536 */
	uint32_t commit;    /* pages after apply */
	uint64_t min_txid, max_txid;
	int64_t time_ms;              /* since 1970; of max_txid's commit */
	uint64_t pre_checksum;        /* database before min_txid; 0 in a snapshot */
	int64_t wal_offset, wal_size; /* where the frames lay (bytes); 0, 0 when not from a WAL */
	uint32_t wal_salt1, wal_salt2;
	uint64_t node_id;
};
struct ltx_trailer {
	uint64_t post_checksum; /* database after max_txid */
	uint64_t file_checksum;
};
/* Where a database stands. */
struct ltx_pos {
	uint32_t epoch;
	uint64_t txid;
	uint64_t checksum;
};

static inline bool ltx_is_snapshot(const struct ltx_header *h)
{
	return h->min_txid == 1;
}
/* The page that holds SQLite's lock bytes and never content: 0x40000000 / page_size + 1. */
static inline uint32_t ltx_lock_page(uint32_t page_size)
{
	return 0x40000000u / page_size + 1;
}
bool ltx_page_size_ok(uint32_t page_size);

void ltx_header_put(uint8_t out[static LTX_HEADER_SIZE], const struct ltx_header *h);
/* Parses and checks everything that a header alone can be checked for. -FZ_ECORRUPT, -FZ_EVERSION. */
int ltx_header_get(struct ltx_header *h, const uint8_t in[static LTX_HEADER_SIZE], struct fz_err *err) FZ_MUST_CHECK;

/* CRC-64/GO-ISO running value: start with 0, feed, the value itself is the result ("123456789" -> b90956c775a41001). */
uint64_t ltx_crc64(uint64_t crc, const void *data, size_t n);
/* Checksum of one page: LTX_FLAG | crc(u32 pgno, data). */
uint64_t ltx_page_checksum(uint32_t pgno, const void *data, uint32_t page_size);
/* Database checksum after replacing page sums: XOR of all page checksums, LTX_FLAG kept. */
static inline uint64_t ltx_db_checksum_swap(uint64_t db, uint64_t old_page, uint64_t new_page)
{
	return LTX_FLAG | (db ^ old_page ^ new_page);
}

#endif
