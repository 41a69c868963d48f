/* logseg.h - one segment of the local log on disk: <min txid>.seg holds LTX files back to back, <min txid>.idx one
 * 48-byte entry (as in pack.h) for each. The index is a cache: where it is missing or does not fit the segment, it is
 * built anew from the LTX files themselves. Private to the log. */
#ifndef FZ_LTX_LOGSEG_H
#define FZ_LTX_LOGSEG_H

#include "base/buf.h"
#include "base/io.h"
#include "ltx/ltx.h"
#include "ltx/pack.h"

#include <stdatomic.h>

#define LTX_SEG_NAME_SIZE 32

/* Open descriptors of one segment; counted, since sources outlive the segment's place in the log. */
struct ltx_segfile {
	atomic_int refs;
	int fd, idx_fd;    /* idx_fd -1: idx is in memory */
	struct fz_buf idx; /* encoded entries, used when idx_fd is -1 */
};

/* "<16 hex digits><ext>" */
char *ltx_seg_name(char out[static LTX_SEG_NAME_SIZE], uint64_t min_txid, const char *ext);
bool ltx_seg_name_parse(const char *name, const char *prefix, const char *ext, uint64_t *txid);

/* Creates (or empties) both files. */
int ltx_segfile_create(struct ltx_segfile **out, int dirfd, uint64_t min_txid, struct fz_err *err) FZ_MUST_CHECK;
/* Opens them; a missing index is created when writable, else it is empty in memory. -ENOENT without a segment. */
int ltx_segfile_open(struct ltx_segfile **out, int dirfd, uint64_t min_txid, bool writable,
                     struct fz_err *err) FZ_MUST_CHECK;
struct ltx_segfile *ltx_segfile_get(struct ltx_segfile *f);
void ltx_segfile_put(struct ltx_segfile *f); /* NULL is fine */

bool ltx_segfile_shared(const struct ltx_segfile *f);      /* a branch has the same files */
int64_t ltx_segfile_bytes(const struct ltx_segfile *f);    /* size of the segment, -errno */
uint64_t ltx_segfile_entries(const struct ltx_segfile *f); /* whole entries in the index */
/* The i-th entry, its shape checked (min <= max, size, offset inside int64): -FZ_ECORRUPT. */
int ltx_segfile_entry(struct ltx_segfile *f, uint64_t i, struct ltx_pack_entry *e, struct fz_err *err) FZ_MUST_CHECK;
int ltx_segfile_put_entry(struct ltx_segfile *f, uint64_t i, const struct ltx_pack_entry *e,
                          struct fz_err *err) FZ_MUST_CHECK;
/* The entry among the first n that holds txid, *i its number. One read where entries are one transaction each. */
int ltx_segfile_find(struct ltx_segfile *f, uint64_t n, uint64_t min_txid, uint64_t txid, struct ltx_pack_entry *e,
                     uint64_t *i, struct fz_err *err) FZ_MUST_CHECK;
/* Header and trailer as the entry's LTX file has them; either may be NULL. -FZ_ECORRUPT when the header does not say
 * what the entry says. */
int ltx_segfile_ends(struct ltx_segfile *f, const struct ltx_pack_entry *e, struct ltx_header *h, struct ltx_trailer *t,
                     struct fz_err *err) FZ_MUST_CHECK;

/* Decodes what follows off_bytes: every LTX file there that is whole, right by its checksum and continues the chain
 * adds its entry to *entries. Ends quietly at the first that does not: a torn tail is no error. An I/O error is.
 * pos: in and out, the TXID and checksum before and after. stop_txid: files beyond it are not looked at. */
int ltx_segfile_scan(struct ltx_segfile *f, uint64_t off_bytes, struct ltx_pos *pos, uint64_t stop_txid,
                     struct fz_buf *entries, struct fz_err *err) FZ_MUST_CHECK;

/* ltx_pack_entry_get(), its shape checked: -FZ_ECORRUPT. */
int ltx_seg_entry_get(struct ltx_pack_entry *e, const uint8_t in[static LTX_PACK_ENTRY_SIZE],
                      struct fz_err *err) FZ_MUST_CHECK;
/* True when an index (n entries at p) covers [0, bytes) of a segment without holes and counts TXIDs up from min. */
bool ltx_seg_index_fits(const uint8_t *p, uint64_t n, uint64_t min_txid, uint64_t bytes);

#endif
