/* capture_priv.h - the capture as its own files see it: the registry of databases, the threads, the pool. */
#ifndef FZ_FS_CAPTURE_PRIV_H
#define FZ_FS_CAPTURE_PRIV_H

#include "base/worker.h"
#include "fs/db.h"
#include "fs/lapse.h"
#include "fs/syncer.h"
#include "fs/txn.h"

#define FS_SMALL_BYTES (16u << 20) /* up to here a database is compared at once, where it is needed */

struct fs_watch {
	struct fs_watch *next;
	int wd;
	struct fs_db *db; /* counted */
	enum fs_role role;
};
struct fs_file {
	struct fs_file *next; /* under c->mu */
	struct fs_capture *c;
	struct fs_db *db; /* counted; NULL for FS_ROLE_OTHER */
	enum fs_role role;
	enum fs_mode mode;
	int fd;    /* borrowed */
	dev_t dev; /* its */
	ino_t ino;
	int wd;     /* inotify, -1 = none */
	bool gone;  /* a -shm without passthrough: unlinked, and open only because the agent looked at it (db->mu) */
	char *path; /* under c->mu, as role and db; renames are followed */
};
struct fs_guard;
struct fs_capture {
	struct fs_capture_conf conf;
	struct fs_guard *guard;
	struct fs_lapse lapse;
	char **databases, **exclude; /* own copies */
	pthread_mutex_t mu;          /* guards dbs, files, watches, free_scratch, every db's refs and active */
	struct fs_db *dbs;
	uint64_t serial; /* of the newest of them, under mu */
	struct fs_watch *watches;
	struct fs_file *files;
	struct fs_scratch *free_scratch;
	int inotify_fd, event_fd;
	atomic_bool stop;
	atomic_bool interrupted;       /* fs_capture_interrupt() */
	atomic_bool sealed;            /* fs_capture_seal() */
	volatile bool cancel;          /* for what takes minutes in the keeper */
	atomic_bool settled;           /* resume: the session has opened all files again */
	_Atomic uint64_t last_open_ns; /* of a file */
	atomic_bool held;              /* its files are not all open again: nothing may settle; fs_capture_release() */
	struct fs_syncer syncer;
	struct fz_worker capture, keeper;
	bool capture_started, keeper_started;
	pthread_mutex_t discover_mu; /* outermost; guards discovered, walked */
	bool discovered;
	uint64_t walked;         /* files that the walk found and that are no databases */
	_Atomic uint64_t others; /* all of them, or 1 = the first one that was closed since */
	char other[512];         /* under mu: path of one, without control bytes; "" = none */
};

/* ---- registry.c ---- */
/* The database of that name, counted; created (CANDIDATE) when asked. NULL: none, or no memory. */
struct fs_db *fs_registry_get(struct fs_capture *c, const char *name, bool create);
void fs_registry_put(struct fs_db *db);
/* Takes it out of the registry (its name is free again); references stay valid. */
void fs_registry_forget(struct fs_db *db);
/* One database after the other, counted; NULL at the end. prev: the one before (its reference is given back), NULL = from the
 * beginning. What is forgotten meanwhile does not make it skip another; what is new need not come. */
struct fs_db *fs_registry_next(struct fs_capture *c, struct fs_db *prev);
bool fs_registry_named_database(const struct fs_capture *c, const char *path); /* conf.databases */
bool fs_registry_excluded(const struct fs_capture *c, const char *path);
/* What SQLite puts behind a database's name for the file of that role; NULL for FS_ROLE_OTHER. */
extern const char *const fs_registry_suffix[FS_ROLES];
/* Splits "app.db-wal" into role and length of "app.db"; FS_ROLE_DB for anything else. */
enum fs_role fs_registry_split(const char *path, size_t *base_len);
/* "/x.db" of "dir/x.db", or NULL. */
const char *fs_registry_below(const char *path, const char *dir);

/* ---- files.c ---- */
/* What fd shows is a database, and not excluded under that path. */
bool fs_file_is_database(struct fs_capture *c, const char *path, int fd);

/* ---- names.c ---- */
/* Its file was deleted, or has another name. */
void fs_names_end(struct fs_db *db);
/* After a rename, also of a directory: ends and begins what it concerns; open files go by their new names. */
void fs_names_renamed(struct fs_capture *c, const char *from, const char *to, bool exchange);
/* A file has a second name. */
void fs_names_linked(struct fs_capture *c, const char *from, const char *to);
/* A file has lost a name and keeps another. */
void fs_names_moved(struct fs_capture *c, const char *from, const char *to);
/* A companion was opened: an application uses the database by this name, so a handle that is known by another is its own. */
void fs_names_used(struct fs_db *db);

/* ---- poll.c: the capture thread ---- */
void fs_poll_run(void *capture);
/* The capture thread shall look at db soon. Takes c->mu. */
void fs_poll_kick(struct fs_db *db);
/* It shall look within some 10 ms: a write that no event may follow (rb.loose). */
void fs_poll_later(struct fs_db *db);
int fs_poll_watch(struct fs_capture *c, struct fs_db *db, enum fs_role role, int fd);
void fs_poll_unwatch(struct fs_capture *c, int wd);
/* The watch of a database file or a WAL (-1: none so far) is to's from here on; NULL: nobody's. Returns the new one. Needs c->mu, and the
 * caller's own reference to the database that it was for. */
int fs_poll_move(struct fs_capture *c, int wd, int fd, struct fs_db *to, enum fs_role role);

#endif
