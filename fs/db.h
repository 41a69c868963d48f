/* db.h - one database: its files, what of it is in the log, and how its pages are read. Private to the capture.
 *
 * STATES  CANDIDATE  an empty or opaque file that may become a database; no log yet
 *         LIVE       the log's tail plus what lies in the WAL beyond `wal.frame` (or is dirty) is the database
 *         LOST       the log's tail is not a state that capture can continue from (never seen before, changed behind our
 *                    back, a transaction could not be kept): a compare of all pages makes the next transaction
 *         ENDED      deleted or renamed away: its log is closed, nothing is captured any more
 * LOCKS   outermost first: db->mu, capture->mu, the log's own. db->mu guards everything below it in the struct. */
#ifndef FZ_FS_DB_H
#define FZ_FS_DB_H

#include "fs/capture.h"
#include "fs/dirty.h"
#include "fs/pages.h"
#include "base/tally.h"
#include "ltx/sums.h"
#include "ltx/enc.h"
#include "ltx/log.h"
#include "ltx/wal.h"

#include <pthread.h>
#include <stdatomic.h>

#define FS_FRAME_BUFFER (256u << 10) /* bytes of WAL read at once */

enum fs_db_state { FS_DB_CANDIDATE, FS_DB_LIVE, FS_DB_LOST, FS_DB_ENDED };

/* Where capture stands in the WAL. */
struct fs_wal {
	int fd;       /* -1 = there is no WAL that counts: rollback mode */
	bool known;   /* h, frame, sum are valid */
	bool had_shm; /* a -shm was open since this WAL was: only its header tells what is committed */
	bool recheck; /* SQLite recovers: look whether it kept what is captured */
	struct ltx_wal_header h;
	uint32_t frame;        /* captured up to here */
	uint32_t sum[2];       /* the checksum there */
	uint32_t seen;         /* mxFrame of the last header that was valid */
	uint32_t doubt;        /* without -shm: commit frame that waits for something to follow */
	uint64_t doubt_ns;     /* since when */
	uint64_t next_scan_ns; /* without -shm: frames are read again not before */
	int64_t looked_ms; /* when nothing beyond `frame` was visible yet: what is captured next was committed later */
};
/* A transaction in rollback mode. */
struct fs_rollback {
	int fd;                 /* the journal, borrowed from its struct fs_file; -1 = none */
	bool hot;               /* it held a header when last looked at */
	unsigned journal_syncs; /* FSYNCs of the journal in this transaction: two at FULL */
	bool loose;             /* written to without an event that ends a transaction */
	uint64_t loose_ns;      /* last such write */
	bool staged;            /* the log holds it as prepared */
	bool whole;             /* which pages changed is not known: compare all */
	bool full;
	bool listed;           /* passed through: its journal has told which pages changed */
	uint32_t counter;      /* change counter of the last captured state; its mtime: ltx_sums_head.seen_mtime_ns */
	bool touched;          /* written to since it was staged */
	struct fs_pages pages; /* staged: their sums */
	uint32_t page_size, commit;
	uint64_t checksum, txid;
};
/* The last transaction that was offered to replicas while it was in doubt (fs/ack.h). */
struct fs_offer {
	uint64_t txid, checksum; /* the database after it; 0 = none */
	int64_t time_ms;
	uint32_t wal_to; /* its last frame, 0 = not from the WAL */
	uint8_t last_frame[LTX_WAL_FRAME_SIZE];
};
/* Time from a commit to its place in the log, by number of commits: bucket i is up to fs_delay_ms[i], the last one beyond. */
#define FS_DELAYS 8
extern const int64_t fs_delay_ms[FS_DELAYS];
struct fs_delay {
	uint64_t n[FS_DELAYS + 1];
	int64_t sum_ms;
};
struct fs_sweep;

struct fs_db {
	struct fs_capture *c;
	char *name; /* path below the mount; immutable */
	/* under c->mu: */
	struct fs_db *next;
	unsigned refs;
	uint64_t serial; /* the registry is in descending order */
	bool forgotten;  /* the registry does not know it any more */
	bool active;     /* the capture thread looks at it */
	bool woken;      /* since the last look began */
	unsigned idle;
	atomic_bool hint_wal, hint_db;
	atomic_uint wal_syncing; /* FSYNCs of the WAL under way */
	atomic_bool catch_up;    /* LOST: the next WRITE of the WAL, where it is told, waits for the compare */

	pthread_mutex_t mu;
	enum fs_db_state state;
	bool opaque;                /* a database by conf.databases, without SQLite's header */
	bool passthrough;           /* writes to the database file are not told */
	unsigned open_db, open_shm; /* files that are open */
	int fd;                     /* own; -1 = none */
	int shm_fd;                 /* borrowed from its struct fs_file */
	bool shm_closed;            /* its last handle is being closed: the backing file holds what was mapped */
	struct ltx_log *log;        /* NULL while CANDIDATE */
	struct ltx_sums *sums;
	struct fs_dirty *dirty;
	struct fs_wal wal;
	struct fs_rollback rb;
	struct fs_offer offer;
	uint64_t acked_txid, acked_checksum; /* this one was waited for */
	struct fs_sweep *sweep;              /* a background compare is under way */
	uint64_t retry_ns;                   /* LOST: not before */
	uint64_t grown_bytes;                /* appended to the log since the keeper was told */
	int64_t tail_ms;                     /* time of the log's tail */
	bool resumed;       /* a former worker died: what it had not captured yet is still to be judged */
	bool foreign;       /* WAL: the file was emptied by something that is not SQLite */
	int64_t foreign_ns; /* mtime up to which that has been compared */
	bool scrub_wanted;  /* taken for LIVE on evidence: look at every page */
	uint64_t merged, resyncs, scrub_found, scrub_next, scrub_done_txid;
	struct fs_delay delay;
	struct fz_tally errors;
	char lost_why[160], last_error[400];
	int last_error_code;
	uint64_t last_error_ns; /* told at, fz_mono_ns() */
};

struct fs_db_head {
	uint32_t page_size; /* 0 = no SQLite header */
	uint32_t pages;     /* by the header when it is valid for this change counter, else by size */
	bool wal;           /* file format says WAL */
	uint32_t counter;   /* SQLite's change counter */
	int64_t mtime_ns;
	uint64_t file_bytes;
};

struct fs_db *fs_db_new(struct fs_capture *c, const char *name);
void fs_db_free(struct fs_db *db);
/* Opens (or creates) log, sums and dirty set. */
int fs_db_attach_log(struct fs_db *db, bool create, struct fz_err *err) FZ_MUST_CHECK;
void fs_db_detach_log(struct fs_db *db);
/* Makes sure db->fd is open; -FZ_ENOTFOUND. */
int fs_db_fd(struct fs_db *db, struct fz_err *err) FZ_MUST_CHECK;
int fs_db_read_head(struct fs_db *db, struct fs_db_head *h, struct fz_err *err) FZ_MUST_CHECK;
/* Reads page pgno from frame of the WAL, or from the database file (frame 0; zeros beyond its end). */
int fs_db_read_page(struct fs_db *db, uint32_t page_size, uint32_t pgno, uint32_t frame, uint8_t *out,
                    struct fz_err *err) FZ_MUST_CHECK;
/* The journal on disk, for reading; -1 = there is none. The caller closes it. */
int fs_db_open_journal(const struct fs_db *db);
/* True when the journal on disk would be rolled back by SQLite: it holds a header, and the super-journal it names (if
 * any) exists. */
bool fs_db_journal_hot(struct fs_db *db);
/* From here on only a compare of all pages can continue the log. */
void fs_db_lose(struct fs_db *db, const char *why);
void fs_db_note_error(struct fs_db *db, const struct fz_err *err);
/* Deleted or renamed away. */
void fs_db_end(struct fs_db *db);
void fs_db_close_wal(struct fs_db *db);

static inline bool fs_db_in_wal(const struct fs_db *db)
{
	return db->wal.fd >= 0;
}

#endif
