/* txn.h - appends one transaction (or a merged range) of a database to its log, and keeps the checksum table in step. */
#ifndef FZ_FS_TXN_H
#define FZ_FS_TXN_H

#include "fs/db.h"

/* Working memory of one capture, taken from a pool of the capture so that idle databases cost nothing. */
struct fs_scratch {
	struct fs_scratch *next;
	struct ltx_enc *enc;
	struct fs_pages pages, index;
	uint8_t *page; /* 65536 bytes */
	uint8_t *buf;  /* FS_FRAME_BUFFER + one frame */
	/* frames in buf: [buf_frame, buf_frame + buf_n), 0 = none */
	uint32_t buf_frame, buf_n;
	int64_t time_ms; /* of the commits in buf */
};
struct fs_scratch *fs_scratch_get(struct fs_capture *c, struct fz_err *err); /* NULL: err */
void fs_scratch_put(struct fs_capture *c, struct fs_scratch *sc);
void fs_scratch_free(struct fs_scratch *sc);

struct fs_txn {
	uint32_t page_size, commit;
	uint64_t commits;          /* TXIDs that it counts for, at least 1 */
	uint32_t wal_from, wal_to; /* frames [from, to] of db->wal it comes from; 0 = not from the WAL */
	int64_t time_ms;           /* of the commit; 0 = by wal_from, else now */
	const uint8_t *last_frame; /* header of frame wal_to: the position moves together with the TXID */
	bool only_changed; /* pages equal to the table are left out; nothing at all is appended when none is left */
	bool full;         /* the list holds every page: the table counts for nothing (page size changed, table lost) */
	bool check;        /* sums of pages from the database file are set and must be met again: else -EAGAIN */
	bool prepared;
};
/* When the last commit in the WAL was written, at the latest. It may be captured late (load, a worker that died), but its
 * frames were written no later than the file's mtime, which the kernel rounds down to a tick. Commits that are captured
 * together share the bound. */
int64_t fs_txn_wal_time(const struct fs_db *db);
/* Appends pages (sc->pages, sorted) as the next transaction. Adds what the database grew by and the list lacks.
 * Requires db->mu. Returns 1 appended, 0 nothing had changed, or a negative code (the log has not moved). */
int fs_txn_append(struct fs_db *db, struct fs_scratch *sc, const struct fs_txn *t, struct fz_err *err) FZ_MUST_CHECK;
/* The same transaction, but it is only offered to replicas (ltx/offer.h): the log and the table stay as they are. *out says what was
 * offered. Returns 1, or 0: nothing would change. */
int fs_txn_offer(struct fs_db *db, struct fs_scratch *sc, const struct fs_txn *t, struct fs_offer *out,
                 struct fz_err *err) FZ_MUST_CHECK;
/* The prepared transaction becomes committed, or is taken back. Requires db->mu. */
int fs_txn_confirm(struct fs_db *db, struct fz_err *err) FZ_MUST_CHECK;
int fs_txn_drop(struct fs_db *db, struct fz_err *err) FZ_MUST_CHECK;
/* Applies the log's transactions after the table's TXID to the table: pages are decoded. */
int fs_txn_replay_sums(struct fs_db *db, struct fz_err *err) FZ_MUST_CHECK;
/* The table is lost: it takes over the log's tail (TXID, checksum, page size) without any page. */
int fs_txn_adopt_tail(struct fs_db *db, struct fz_err *err) FZ_MUST_CHECK;

#endif
