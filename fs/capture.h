/* capture.h - turn what SQLite commits below a directory into transactions in the local logs, losing none and inventing
 * none. Knows nothing of FUSE: whoever serves the files (fs/ops.c, or a test's SQLite VFS) tells what happens to them.
 *
 * A *file* (struct fs_file) is one regular backing file while the kernel has it open; an *event* is one change that is
 * about to happen or has happened. fs_capture_before() may block: that is the barrier which keeps SQLite from
 * overwriting what is not yet in the log. All calls are thread-safe; one database never waits for another. */
#ifndef FZ_FS_CAPTURE_H
#define FZ_FS_CAPTURE_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cJSON;
struct fs_capture;
struct fs_file;
struct fs_agent;
struct fs_acks;
struct ltx_logset;

struct fs_capture_conf {
	int rootfd;              /* the backing directory, borrowed */
	int statefd;             /* the state directory, borrowed */
	struct ltx_logset *logs; /* borrowed */
	struct fs_agent *agent;  /* borrowed; NULL = none (tests): nothing that needs the mount's locks is done */
	struct fs_acks *acks;    /* borrowed; NULL = a commit waits for nobody but its own disk (fs/ack.h) */
	const char *const
	        *databases; /* fnmatch patterns of paths below the mount that are databases whatever they hold */
	size_t n_databases;
	const char *const *exclude; /* paths that are never captured */
	size_t n_exclude;
	uint64_t log_max_bytes;     /* per database; 0 = 1 GiB. Beyond: squash, then fold (told in status and log) */
	uint64_t scrub_bytes_per_s; /* 0 = 8 MiB; UINT64_MAX = no background scrub */
	bool passthrough;     /* the kernel passes reads and writes through: writes are seen only by their effects */
	bool resume;          /* applications live on from a former worker: do not recover, catch up */
	bool held;            /* with resume: no WAL is judged by its frames before fs_capture_release() */
	uint64_t small_bytes; /* up to here a database is compared at once, not in the background; 0 = 16 MiB */
	bool clean_only;      /* tests: fail instead of resync when the clean marker does not match */
	bool replica; /* databases come from elsewhere and are applied by the agent: nothing is captured, see below */
};

/* ---- on a replica ----
 * The databases that fs_capture_protect() names are read-only for everybody but the trusted process (the agent, which
 * applies transactions): a database, its -wal and -journal refuse every open for writing, creation, truncation, unlink, rename, link and
 * chmod with EROFS, so that SQLite opens them read-only (SQLITE_READONLY at the first write); -shm may be opened for writing but not
 * made, truncated or removed. Everything else in the tree is passed through and is local to this host. */
/* name: path below the mount; on = false: no longer. */
int fs_capture_protect(struct fs_capture *c, const char *name, bool on, struct fz_err *err) FZ_MUST_CHECK;
/* The process that may write what is protected: its pid (any of its threads counts); 0 = none. */
void fs_capture_trust(struct fs_capture *c, int pid);
/* The agent holds the database's locks, DMS among them (name: as for protect). While it does not - not yet, or it has died -, the first
 * reader that comes begins the -shm anew as SQLite does (ftruncate to 3 bytes under an exclusive DMS, then recovery from the WAL); that is let
 * through until this is told, or the reader would get SQLITE_IOERR. A new or dead trusted process holds nothing. */
void fs_capture_attached(struct fs_capture *c, const char *name, bool on);
/* For fs/ops: may the process (fuse_ctx.pid) open path with these flags (O_ACCMODE, O_CREAT, O_TRUNC)? 0 or -EROFS. Whether it
 * may make a file is FS_EV_CREATE's answer. */
int fs_capture_may_open(struct fs_capture *c, const char *path, int flags, int pid);
/* What no event tells: owner, mode, times of path; the removal of a directory. 0 or -EROFS. */
int fs_capture_may_alter(struct fs_capture *c, const char *path, int pid);
int fs_capture_may_remove_dir(struct fs_capture *c, const char *path, int pid);
/* False: nothing is protected, all of these answer 0. */
bool fs_capture_guards(const struct fs_capture *c);
/* path is a database that comes from another host. */
bool fs_capture_protects(struct fs_capture *c, const char *path);

/* ---- on a primary that needs a lease ----
 * Commits may be accepted until then, in fz_boot_ns()'s time: from soft on nothing is opened for writing, from hard on nothing is written
 * (-EROFS). In the first seconds opens wait. 1, 1 = not at all, 0, 0 = no lease is needed. Whoever calls it again in time keeps it going. */
void fs_capture_lapse(struct fs_capture *c, uint64_t soft_ns, uint64_t hard_ns);

/* Opens: for every database already known (a log exists): recovery as in design "Capture" 8, before anything is served.
 * Starts the capture thread and the scrub thread. */
int fs_capture_open(struct fs_capture **out, const struct fs_capture_conf *conf, struct fz_err *err) FZ_MUST_CHECK;
/* Captures what is visible, syncs the logs, writes the clean markers, stops the threads, frees. Files that are still
 * open (the worker is replaced) are freed with it. */
int fs_capture_close(struct fs_capture *c, struct fz_err *err);

enum fs_mode {
	FS_MODE_ANY = 0,
	FS_MODE_PASSTHROUGH,   /* reads and writes go to the backing file without a request */
	FS_MODE_WRITE_THROUGH, /* each write is told by an event */
};
enum fs_role { FS_ROLE_OTHER, FS_ROLE_DB, FS_ROLE_WAL, FS_ROLE_SHM, FS_ROLE_JOURNAL, FS_ROLES };

/* A file gets its first handle. path is relative to the mount; fd is a descriptor of the backing file (O_RDWR where the
 * file allows it), borrowed until fs_capture_file_close(). *mode: in = what it must be (a resumed node keeps its mode) or
 * FS_MODE_ANY; out = how to serve it (never PASSTHROUGH without conf.passthrough). created: by this open. */
int fs_capture_file_open(struct fs_capture *c, const char *path, int fd, bool created, enum fs_mode *mode,
                         struct fs_file **out, struct fz_err *err) FZ_MUST_CHECK;
/* Its last handle is gone. */
void fs_capture_file_close(struct fs_file *f);
enum fs_role fs_capture_file_role(const struct fs_file *f);
/* It is opened once more while it has handles; path as for fs_capture_file_open(). True: it was no database so far, or one by a name
 * that is gone, and is one now (it was renamed from an excluded name, or written anew), captured from here on. */
bool fs_capture_file_again(struct fs_file *f, const char *path);
/* The path that an open file has, once more after fs_capture_file_open(): a rename between the two knew nothing of the file. */
void fs_capture_file_at(struct fs_file *f, const char *path);
/* The role a path would have by its name and what is there now (a journal of a known database, ...). */
enum fs_role fs_capture_role(struct fs_capture *c, const char *path);

enum fs_event_op {
	FS_EV_WRITE,    /* file, off, len: write-through only */
	FS_EV_TRUNCATE, /* file or path, size (SETATTR size, O_TRUNC, fallocate) */
	FS_EV_FSYNC,    /* file */
	FS_EV_UNLINK,   /* path (file as well when it is open) */
	FS_EV_RENAME,   /* path -> path2; a directory counts for all below it; exchange with RENAME_EXCHANGE */
	FS_EV_LINK,     /* path -> path2 */
	FS_EV_CREATE,   /* path: a new name appeared (before the file is opened) */
	FS_EV_UNLOCK,   /* file: reserved; locks are local to the kernel */
};
struct fs_event {
	enum fs_event_op op;
	struct fs_file *file; /* NULL when the file is not open */
	const char *path, *path2;
	const char
	        *other; /* after(): a name that the file which lost path (UNLINK) or path2 (RENAME) still has; NULL */
	uint64_t off_bytes, len_bytes, size_bytes;
	bool exchange;
	bool dir;   /* CREATE: a directory */
	int pid;    /* who asks: fuse_ctx.pid */
	void *priv; /* the capture's own, from before() to after(); start with NULL */
	struct {    /* the same */
		bool unready, syncs;
		uint64_t txid, checksum, tail;
	} ack;
	int verdict; /* FSYNC, set by after(): negative = the answer instead of the operation's result. -ECANCELED: the worker ends
		      * while replicas are waited for, nothing is to be answered: the kernel asks the next one */
};
/* Before the operation is carried out on the backing file: 0, or -errno to answer the application with (-EROFS: protected).
 * After 0, after() must follow with the operation's result, on the same event. after() may wait too (conf.acks). */
int fs_capture_before(struct fs_capture *c, struct fs_event *ev);
void fs_capture_after(struct fs_capture *c, struct fs_event *ev, int rc);

/* Nobody waits for replicas any more: what waits ends with -ECANCELED. */
void fs_capture_interrupt(struct fs_capture *c);
/* All files that applications have open are open here again (conf.held). A -wal without its -shm would count frames that their
 * writer has not published yet. */
void fs_capture_release(struct fs_capture *c);

/* Nobody commits any more and all is captured: nothing is looked at again. Without passthrough only the agent can read a wal-index, and it
 * is about to serve a replica; what lies in the backing file may be older, and would look as if commits had been dropped. */
void fs_capture_seal(struct fs_capture *c);
/* Captures everything that is visible now in one database (name) or all (NULL) and syncs the logs. */
int fs_capture_sync(struct fs_capture *c, const char *name, struct fz_err *err) FZ_MUST_CHECK;

/* Files that are no databases, so nobody keeps or replicates them: as many as there were at the start, or one at least, with the path of one (""
 * when none can be printed). false: none is known (yet). */
bool fs_capture_others(struct fs_capture *c, uint64_t *n, char *example, size_t cap);

/* Is something that was committed before fs_capture_sync() not in a log yet? */
enum fs_pending {
	FS_PENDING_NOTHING,
	FS_PENDING_COMPARE, /* all pages of a database are being read: a first snapshot, a resync */
	FS_PENDING_MOMENT,  /* a commit that made no request: captured when no application writes */
};
enum fs_pending fs_capture_pending(struct fs_capture *c, char *name, size_t cap);

struct fs_scrub_result {
	uint64_t databases, pages, differences; /* differences were captured as a new transaction and logged */
	uint64_t busy;                          /* databases that could not be compared in time */
};
/* Compares every real page with the checksum table now (fazt verify --live). */
int fs_capture_scrub(struct fs_capture *c, const char *name, struct fs_scrub_result *out,
                     struct fz_err *err) FZ_MUST_CHECK;
/* Adds one object per database to the JSON array: name, txid, time, checksum, epoch, lineage, page_size, pages,
 * journal_mode, capture ("wal" | "journal" | "compare" | "baseline"), in_doubt, merged_txns, resyncs, scrub_found,
 * scrub_percent, last_error, log_bytes, base_bytes, and since the start commits, captured_pages, captured_bytes, capture_delay (a
 * histogram: buckets: [{seconds, count}], count, sum_seconds), errors ({"FZ-1303": 2}). */
int fs_capture_status(struct fs_capture *c, struct cJSON *array);

#endif
