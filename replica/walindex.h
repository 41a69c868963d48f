/* walindex.h - the wal-index (`-shm`) of a live database: 32 KiB regions of page numbers by frame and a hash table over
 * them, the header in two copies, the checkpoint info. For replica/walapply.c and replica/checkpoint.c alone. Source: wal.c of
 * SQLite.
 *
 * LOCKS  bytes of the file: WRITE guards everything beyond mx_frame and the header; the caller holds it from
 *        replica_walindex_read() to replica_walindex_publish(). DMS is held for as long as it is open. CKPT (held: for as
 *        long as it is open) guards the checkpoint info and is needed for a restart. */
#ifndef FZ_REPLICA_WALINDEX_H
#define FZ_REPLICA_WALINDEX_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define REPLICA_SHM_WRITE   120
#define REPLICA_SHM_CKPT    121 /* and RECOVER behind it */
#define REPLICA_SHM_READ(i) (123 + (i))
#define REPLICA_SHM_DMS     128

struct replica_walindex_header { /* WalIndexHdr, this machine's byte order */
	uint32_t version, unused, change;
	uint8_t is_init, big_endian;
	uint16_t page_size;
	uint32_t mx_frame, pages;
	uint32_t frame_sum[2];
	uint8_t salt[8]; /* as in the WAL's header */
	uint32_t sum[2];
};
struct replica_walindex_info { /* WalCkptInfo */
	uint32_t backfill, mark[5];
	uint8_t locks[8];
	uint32_t backfill_attempted, unused;
};

struct replica_walindex {
	int fd; /* of the -shm file; -1 = closed */
	uint32_t page_size;
	uint8_t **regions; /* mapped */
	uint32_t n_regions;
	struct replica_walindex_header h; /* as read, or as it will be published */
	uint32_t indexed;                 /* last frame that has an entry */
	bool held; /* the caller holds WRITE and CKPT for good, and takes whatever page size the WAL has */
};
/* fd is owned from here on, also on failure. Takes DMS: whoever comes first discards what a crash left. */
int replica_walindex_open(struct replica_walindex *x, int fd, uint32_t page_size, uint64_t deadline_ns,
                          struct fz_err *err) FZ_MUST_CHECK;
void replica_walindex_close(struct replica_walindex *x);
/* Takes over the live header; finishes a publication that died between the copies; recovers from the WAL what is torn or
 * missing. -FZ_EBUSY. */
int replica_walindex_read(struct replica_walindex *x, int walfd, uint64_t deadline_ns,
                          struct fz_err *err) FZ_MUST_CHECK;
/* Entry of the next frame (indexed + 1). */
int replica_walindex_append(struct replica_walindex *x, uint32_t pgno, struct fz_err *err) FZ_MUST_CHECK;
/* The newest frame <= last that holds pgno; 0 = none. */
int replica_walindex_find(struct replica_walindex *x, uint32_t pgno, uint32_t last, uint32_t *frame,
                          struct fz_err *err) FZ_MUST_CHECK;
/* The page in a frame that has an entry. */
int replica_walindex_page(struct replica_walindex *x, uint32_t frame, uint32_t *pgno, struct fz_err *err) FZ_MUST_CHECK;
/* Forgets entries beyond h.mx_frame, in its region (the first entry of a region zeroes it). */
void replica_walindex_cleanup(struct replica_walindex *x);
/* Publishes h: copy 1, barrier, copy 0. The frames must be in the WAL and synced. */
void replica_walindex_publish(struct replica_walindex *x);
/* The checkpoint info, shared with every connection. */
volatile struct replica_walindex_info *replica_walindex_info(struct replica_walindex *x);
/* Under WRITE and CKPT, everything backfilled: no frame counts any more, the next one is frame 1 of a new generation. 1, or 0
 * when a reader still relies on a frame. Readers that come now read the database file alone. */
int replica_walindex_restart(struct replica_walindex *x, struct fz_err *err) FZ_MUST_CHECK;
uint16_t replica_walindex_size_put(uint32_t page_size);
uint32_t replica_walindex_size_get(uint16_t encoded);

#endif
