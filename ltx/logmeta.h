/* logmeta.h - the small files of a log's directory: meta (who this log is) and head (how far it is). Private to the
 * log. */
#ifndef FZ_LTX_LOGMETA_H
#define FZ_LTX_LOGMETA_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct ltx_log_meta {
	char name[512];
	char lineage[17];
	uint32_t epoch, page_size;
	uint64_t epoch_txid, epoch_checksum; /* what the epoch builds on */
	int64_t created_ms, ended_ms;
};
int ltx_log_meta_read(struct ltx_log_meta *m, int dirfd, struct fz_err *err) FZ_MUST_CHECK;
/* Replaces the file atomically and syncs it. */
int ltx_log_meta_write(const struct ltx_log_meta *m, int dirfd, struct fz_err *err) FZ_MUST_CHECK;
/* Reverses ltx_log_escape(). -FZ_ECORRUPT. */
int ltx_log_unescape(char *out, size_t cap, const char *text, struct fz_err *err) FZ_MUST_CHECK;

/* head: 4096 bytes, all written and synced when the log is made, so that a store never needs a new block.
 *    0 u64 committed TXID     8 u64 synced TXID: what is at or below it was on disk when this was written
 *   16 u64 home of the last writer (below)        24 "FZHEAD01"
 *   32 u64 1 = nothing in this log is ever prepared (ltx_log_follow())                           rest zero */
#define LTX_HEAD_SIZE 4096
struct ltx_head {
	uint8_t *map; /* NULL = closed */
	bool writable;
};
int ltx_head_create(int dirfd, struct fz_err *err) FZ_MUST_CHECK;
int ltx_head_open(struct ltx_head *h, int dirfd, bool writable, struct fz_err *err) FZ_MUST_CHECK;
void ltx_head_close(struct ltx_head *h);
uint64_t ltx_head_txid(const struct ltx_head *h);
void ltx_head_set_txid(struct ltx_head *h, uint64_t txid); /* one 8-byte store: never seen by halves */
uint64_t ltx_head_synced(const struct ltx_head *h);
void ltx_head_set_synced(struct ltx_head *h, uint64_t txid);
bool ltx_head_follows(const struct ltx_head *h);
void ltx_head_set_follows(struct ltx_head *h, bool on);
int ltx_head_sync(struct ltx_head *h, struct fz_err *err) FZ_MUST_CHECK;
/* Home: a number for "this boot, this mount of the file system, this directory". While it is what the last writer
 * noted, the page cache that writer left is still there, and nothing can be torn but what a SIGKILL tears. 0 = cannot
 * be told (no STATX_MNT_ID_UNIQUE before Linux 6.8): the slow way is right then. */
uint64_t ltx_head_home(int dirfd);
uint64_t ltx_head_last_home(const struct ltx_head *h);
void ltx_head_set_home(struct ltx_head *h, uint64_t home);

#endif
