/* wal.h - SQLite's write-ahead log as bytes: header, frames, checksums. Pure parsing; source: sqlite.org/walformat.html.
 * File: header 32 | frames of 24 + page_size bytes. Frames are numbered from 1. All integers are big-endian. */
#ifndef FZ_LTX_WAL_H
#define FZ_LTX_WAL_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LTX_WAL_HEADER_SIZE 32
#define LTX_WAL_FRAME_SIZE  24 /* of a frame's header */

struct ltx_wal_header {
	bool big_endian;    /* byte order in which the checksums read the data */
	uint32_t page_size; /* bytes */
	uint32_t sequence;  /* checkpoint sequence number */
	uint32_t salt[2];   /* names this generation of the file */
	uint32_t sum[2];    /* of the header: seed of the first frame's */
};
struct ltx_wal_frame {
	uint32_t pgno;
	uint32_t commit; /* pages after the commit; 0 = not a commit frame */
	uint32_t salt[2];
	uint32_t sum[2]; /* over header and all frames up to this one */
};

/* Parses and checks magic, version, page size and checksum: -FZ_ECORRUPT. */
int ltx_wal_header_get(struct ltx_wal_header *h, const uint8_t in[static LTX_WAL_HEADER_SIZE],
                       struct fz_err *err) FZ_MUST_CHECK;
void ltx_wal_frame_get(struct ltx_wal_frame *f, const uint8_t in[static LTX_WAL_FRAME_SIZE]);
/* Feeds n bytes (a multiple of 8) into the running checksum. */
void ltx_wal_sum(bool big_endian, const void *data, size_t n, uint32_t sum[static 2]);
/* True when the frame (24 + page_size bytes) belongs to h's generation, names a page and continues the checksum in
 * sum, which is then moved on: SQLite's own rule when it recovers. */
bool ltx_wal_frame_ok(const struct ltx_wal_header *h, const uint8_t *frame, uint32_t sum[static 2]);

static inline uint64_t ltx_wal_frame_off(uint32_t page_size, uint32_t frame)
{
	return LTX_WAL_HEADER_SIZE + (uint64_t)(frame - 1) * (LTX_WAL_FRAME_SIZE + page_size);
}
/* Whole frames in a file of size_bytes. */
static inline uint64_t ltx_wal_frames(uint32_t page_size, uint64_t size_bytes)
{
	return size_bytes < LTX_WAL_HEADER_SIZE ? 0
	                                        : (size_bytes - LTX_WAL_HEADER_SIZE) / (LTX_WAL_FRAME_SIZE + page_size);
}

#endif
