/* capture_wal.h - what is committed in the WAL becomes transactions of the log. */
#ifndef FZ_FS_CAPTURE_WAL_H
#define FZ_FS_CAPTURE_WAL_H

#include "fs/txn.h"

enum fs_wal_how {
	FS_WAL_LOOK,    /* a hint: what is certain now */
	FS_WAL_BARRIER, /* SQLite waits: everything visible; without a -shm everything valid */
};
/* Captures what is visible beyond db->wal.frame. Requires db->mu, LIVE or LOST (then it only follows). Returns the number
 * of commits, or a negative code: nothing was lost yet, the position has not moved past what failed. */
int64_t fs_wal_pass(struct fs_db *db, enum fs_wal_how how, struct fz_err *err) FZ_MUST_CHECK;
/* Follows fd (duplicated) as the database's WAL from now on. */
int fs_wal_open(struct fs_db *db, int fd, struct fz_err *err) FZ_MUST_CHECK;
/* Follows the WAL that lies on disk beside the database, if it holds anything. */
int fs_wal_find(struct fs_db *db, struct fz_err *err) FZ_MUST_CHECK;
/* True when something valid stands beyond what is captured: worth another look soon. */
bool fs_wal_in_doubt(struct fs_db *db);
/* Newest frame of each page among frames 1..upto, sorted. */
int fs_wal_index(struct fs_db *db, struct fs_pages *index, uint32_t upto, struct fz_err *err) FZ_MUST_CHECK;
/* SQLite's view of the database now: *frame = the last frame that counts (0: the database file alone), and index = newest
 * frame of each page up to it. -EAGAIN when the wal-index is just being written or recovered. */
int fs_wal_view(struct fs_db *db, struct fs_pages *index, uint32_t *frame, uint32_t *commit,
                struct fz_err *err) FZ_MUST_CHECK;
/* The WAL is about to be deleted: when all that it holds lies in the database file as captured, the last close need not
 * compare the whole file. Requires db->mu. */
void fs_wal_checkpointed(struct fs_db *db);
/* How far the WAL counts, its header having been read: 0, or -EAGAIN when the wal-index says nothing just now. */
int fs_wal_visible(struct fs_db *db, bool barrier, uint32_t *mx, struct fz_err *err) FZ_MUST_CHECK;
/* What the frames beyond db->wal.frame hold by their checksums: the last that counts, and the last two that end a transaction (0 =
 * none). */
struct fs_wal_scan {
	uint32_t at, commit, before;
};
int fs_wal_scan(struct fs_db *db, struct fs_wal_scan *out, struct fz_err *err) FZ_MUST_CHECK;
/* An FSYNC of the WAL: captures what is visible, and offers to replicas the transaction that is whole beyond it, as db->offer. 1, or 0:
 * nothing is in doubt; -EAGAIN: the database is not LIVE, or its wal-index says nothing just now. */
int fs_wal_offer(struct fs_db *db, struct fz_err *err) FZ_MUST_CHECK;
/* The header of one frame. */
int fs_wal_read_frame(struct fs_db *db, uint32_t frame, uint8_t out[static LTX_WAL_FRAME_SIZE],
                      struct fz_err *err) FZ_MUST_CHECK;
/* Captured up to this frame of the present generation, whose header is given. */
void fs_wal_set_frame(struct fs_db *db, uint32_t frame, const uint8_t header[static LTX_WAL_FRAME_SIZE]);
static inline size_t fs_wal_frame_bytes(const struct fs_db *db)
{
	return LTX_WAL_FRAME_SIZE + (size_t)db->wal.h.page_size;
}
/* True when this is the header of the last captured frame. */
bool fs_wal_is_last(const struct fs_db *db, const uint8_t header[static LTX_WAL_FRAME_SIZE]);
/* The log's tail is the view at this frame (after a compare). */
void fs_wal_set_position(struct fs_db *db, uint32_t frame);

#endif
