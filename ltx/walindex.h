/* walindex.h - the header of SQLite's wal-index (the first 136 bytes of `-shm`): the commit point of WAL mode. Two equal
 * copies of 48 bytes and the checkpoint info, in the byte order of this machine; source: wal.c of SQLite, "WalIndexHdr". */
#ifndef FZ_LTX_WALINDEX_H
#define FZ_LTX_WALINDEX_H

#include <stdbool.h>
#include <stdint.h>

#define LTX_WALINDEX_SIZE 136

struct ltx_walindex {
	uint32_t change;    /* counts transactions */
	uint32_t page_size; /* bytes */
	uint32_t mx_frame;  /* the last committed frame; 0 = the WAL counts for nothing */
	uint32_t pages;     /* of the database after it */
	uint32_t sum[2];    /* checksum in that frame */
	uint32_t salt[2];   /* as in the WAL's header */
	uint32_t backfill;  /* frames that are in the database for sure */
};

/* True when a reader would accept it: both copies equal, initialised, checksum right. A header caught while it is being
 * written is simply not accepted: look again. */
bool ltx_walindex_get(struct ltx_walindex *x, const uint8_t in[static LTX_WALINDEX_SIZE]);
/* True for the index of a WAL that had no frame yet when it was recovered, and had no commit since. */
bool ltx_walindex_blank(const uint8_t in[static LTX_WALINDEX_SIZE]);

#endif
