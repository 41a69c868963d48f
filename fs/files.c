/* files.c - backing files while the kernel has them open: which belong to a database, and in which mode they are served. */
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "fs/baseline.h"
#include "fs/capture_journal.h"
#include "fs/capture_priv.h"
#include "fs/discover.h"
#include "fs/capture_wal.h"
#include "fs/guard.h"
#include "fs/recover.h"
#include "ltx/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum kind { KIND_OTHER, KIND_EMPTY, KIND_SQLITE, KIND_OPAQUE };

static enum kind kind_of(struct fs_capture *c, const char *path, int fd, bool *wal)
{
	uint8_t b[20];
	struct stat st;
	ssize_t n;

	*wal = false;
	if (fs_registry_excluded(c, path) || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return KIND_OTHER;
	n = fz_pread(fd, b, sizeof(b), 0);
	if (n == sizeof(b) && !memcmp(b, "SQLite format 3", 16)) {
		*wal = b[18] == 2 || b[19] == 2;
		return KIND_SQLITE;
	}
	if (st.st_size == 0)
		return KIND_EMPTY;
	return fs_registry_named_database(c, path) ? KIND_OPAQUE : KIND_OTHER;
}

static enum kind kind_at(struct fs_capture *c, const char *path, bool *wal)
{
	int fd = fz_open_below(c->conf.rootfd, path, O_RDONLY | O_NONBLOCK, 0);
	enum kind k = KIND_OTHER;

	*wal = false;
	if (fd >= 0)
		k = kind_of(c, path, fd, wal);
	fz_close(&fd);
	return k;
}

bool fs_file_is_database(struct fs_capture *c, const char *path, int fd)
{
	bool wal;
	enum kind k = kind_of(c, path, fd, &wal);

	return k == KIND_SQLITE || k == KIND_OPAQUE;
}

static char *base_name(const char *path, size_t len)
{
	return strndup(path, len);
}

enum fs_role fs_capture_role(struct fs_capture *c, const char *path)
{
	size_t len;
	enum fs_role role = fs_registry_split(path, &len);
	struct fs_db *db;
	char *base;
	bool wal;

	if (fs_guard_protects(c->guard, path))
		return role;
	base = base_name(path, len);
	if (!base)
		return FS_ROLE_OTHER;
	db = fs_registry_get(c, base, false);
	if (!db && kind_at(c, base, &wal) == KIND_OTHER)
		role = FS_ROLE_OTHER;
	free(base);
	fs_registry_put(db);
	return role;
}

enum fs_role fs_capture_file_role(const struct fs_file *f)
{
	return f->role;
}

/* True when something of it is in a log. */
static bool has_history(struct fs_db *db)
{
	bool yes;

	pthread_mutex_lock(&db->mu);
	yes = db->log && db->sums && ltx_sums_head(db->sums)->txid > 0;
	pthread_mutex_unlock(&db->mu);
	return yes;
}

/* Written since the last capture, while no handle of it was open: through another name of the same file. */
static bool written_meanwhile(struct fs_db *db)
{
	struct fs_db_head h;

	return db->open_db == 1 && db->state == FS_DB_LIVE && !db->resumed && db->sums &&
	       ltx_sums_head(db->sums)->txid && fs_db_read_head(db, &h, NULL) == 0 && h.page_size &&
	       h.mtime_ns != ltx_sums_head(db->sums)->seen_mtime_ns;
}

/* The first handle of a database file. */
static void open_database(struct fs_db *db, struct fs_file *f, enum kind kind, bool wal, bool created)
{
	struct fz_err err = {0};
	int fd = fcntl(f->fd, F_DUPFD_CLOEXEC, 3), rc = 0;

	pthread_mutex_lock(&db->mu);
	db->open_db++;
	if (fd >= 0) {
		fz_close(&db->fd);
		db->fd = fd;
	}
	db->opaque = kind == KIND_OPAQUE || (kind == KIND_EMPTY && fs_registry_named_database(db->c, db->name));
	db->passthrough = f->mode == FS_MODE_PASSTHROUGH;
	if (db->state == FS_DB_CANDIDATE && (kind == KIND_SQLITE || kind == KIND_OPAQUE))
		fs_db_lose(db, "not seen before");
	/* With applications that live on, nothing is decided before all their files are open again. */
	if (db->state == FS_DB_LOST && !db->c->conf.resume && !fs_db_journal_hot(db)) {
		rc = fs_baseline_now(db, &err);
		if (rc < 0 && rc != -FZ_ENOTFOUND && rc != -EAGAIN)
			fs_db_note_error(db, &err);
	}
	/* what happened while nobody told: written through, the dirty set is complete from here on */
	if ((!wal && db->passthrough) || (!fs_db_in_wal(db) && written_meanwhile(db)))
		db->rb.whole = true;
	pthread_mutex_unlock(&db->mu);
	if (db->passthrough)
		f->wd = fs_poll_watch(db->c, db, FS_ROLE_DB, f->fd);
}

static void open_companion(struct fs_db *db, struct fs_file *f)
{
	struct fz_err err = {0};
	int rc;
	uint8_t b[8];

	pthread_mutex_lock(&db->mu);
	switch (f->role) {
	case FS_ROLE_WAL:
		if (fs_wal_open(db, f->fd, &err) < 0)
			fs_db_note_error(db, &err);
		break;
	case FS_ROLE_SHM:
		db->open_shm++;
		db->shm_fd = f->fd;
		break;
	case FS_ROLE_JOURNAL:
		db->rb.fd = f->fd;
		db->rb.hot = fz_pread(f->fd, b, sizeof(b), 0) == sizeof(b) && ltx_journal_is_hot(b, sizeof(b));
		if (!atomic_load(&db->c->settled))
			db->rb.hot = true; /* a former worker knew: PERSIST may just have zeroed it */
		/* made by a worker that died before it answered, and nothing is written yet: as events.c, catch_up() */
		if (db->state == FS_DB_LOST && !fs_db_journal_hot(db) && (rc = fs_baseline_now(db, &err)) < 0 &&
		    rc != -EAGAIN && rc != -FZ_ENOTFOUND)
			fs_db_note_error(db, &err);
		break;
	default:
		break;
	}
	pthread_mutex_unlock(&db->mu);
	if (f->role == FS_ROLE_WAL) {
		f->wd = fs_poll_watch(db->c, db, FS_ROLE_WAL, f->fd);
		fs_poll_kick(db);
	}
}

/* On a replica: what it is, and everything passes through; nobody asks which pages were written. */
static int open_uncaptured(struct fs_capture *c, struct fs_file *f, enum fs_mode *mode)
{
	f->role = fs_capture_role(c, f->path);
	f->mode = *mode == FS_MODE_ANY ? FS_MODE_PASSTHROUGH : *mode;
	if (!c->conf.passthrough)
		f->mode = FS_MODE_WRITE_THROUGH;
	*mode = f->mode;
	pthread_mutex_lock(&c->mu);
	f->next = c->files;
	c->files = f;
	pthread_mutex_unlock(&c->mu);
	return 0;
}

int fs_capture_file_open(struct fs_capture *c, const char *path, int fd, bool created, enum fs_mode *mode,
                         struct fs_file **out, struct fz_err *err)
{
	struct fs_file *f = calloc(1, sizeof(*f));
	enum kind kind = KIND_OTHER;
	struct fs_db *db = NULL;
	char *base = NULL;
	bool wal = false;
	struct stat st;
	size_t len;

	if (!f)
		return fz_fail(err, -ENOMEM, "no memory");
	*f = (struct fs_file){.c = c, .role = FS_ROLE_OTHER, .fd = fd, .wd = -1};
	f->path = strdup(path);
	f->role = fs_registry_split(path, &len);
	base = base_name(path, len);
	if (!f->path || !base)
		goto fail;
	if (c->conf.replica) {
		free(base);
		*out = f;
		return open_uncaptured(c, f, mode);
	}
	if (fstat(fd, &st) == 0) {
		f->dev = st.st_dev;
		f->ino = st.st_ino;
	}
	if (f->role == FS_ROLE_DB) {
		kind = kind_of(c, path, fd, &wal);
		db = fs_registry_get(c, path, kind != KIND_OTHER);
		if (db && kind == KIND_OTHER && has_history(db)) {
			kind = KIND_OPAQUE; /* a known database whose header is gone */
		} else if (kind == KIND_OTHER) {
			fs_registry_put(db); /* it was empty once, and became something else */
			db = NULL;
		}
	} else {
		db = fs_registry_get(c, base, false);
		if (!db &&
		    kind_at(c, base, &wal) != KIND_OTHER) /* a new worker may open a journal before its database */
			db = fs_registry_get(c, base, true);
	}
	if (!db)
		f->role = FS_ROLE_OTHER;
	f->db = db;
	f->mode = *mode;
	if (f->mode == FS_MODE_ANY) {
		bool through = f->role == FS_ROLE_DB && !wal && kind != KIND_EMPTY;

		if (kind == KIND_OPAQUE) {
			char *w = malloc(len + 5);

			if (w) {
				memcpy(w, path, len);
				memcpy(w + len, "-wal", 5);
				through = fstatat(c->conf.rootfd, w, &st, 0) < 0;
			}
			free(w);
		}
		f->mode = through || !c->conf.passthrough ? FS_MODE_WRITE_THROUGH : FS_MODE_PASSTHROUGH;
	}
	if (!c->conf.passthrough)
		f->mode = FS_MODE_WRITE_THROUGH;
	*mode = f->mode;
	c->last_open_ns = fz_mono_ns();
	if (f->role == FS_ROLE_DB)
		open_database(db, f, kind, wal, created);
	else if (f->role != FS_ROLE_OTHER)
		open_companion(db, f);
	free(base);
	pthread_mutex_lock(&c->mu);
	f->next = c->files;
	c->files = f;
	pthread_mutex_unlock(&c->mu);
	if (db && f->role != FS_ROLE_DB)
		fs_names_used(db);
	*out = f;
	return 0;
fail:
	free(base);
	free(f->path);
	free(f);
	return fz_fail(err, -ENOMEM, "no memory");
}

/* A file that was empty when it was opened is no database so far, and none of its companions is open. */
static bool is_nothing(const struct fs_db *db)
{
	return db->state == FS_DB_CANDIDATE && !db->open_db && !db->open_shm && db->wal.fd < 0 && db->rb.fd < 0;
}

static void close_database(struct fs_db *db)
{
	struct fz_err err = {0};
	int rc = 0;

	if (--db->open_db)
		return;
	fs_recover_settle(db);
	if (fs_db_in_wal(db)) {
		if (db->foreign)
			fs_db_lose(db, "its file was written by something that is not SQLite");
		if (fs_wal_pass(db, FS_WAL_LOOK, &err) < 0 || (db->foreign && fs_baseline_now(db, &err) < 0))
			rc = -1;
		db->foreign = false;
	} else if (!fs_db_journal_hot(db) &&
	           (db->rb.loose || db->state != FS_DB_LIVE || (db->passthrough && fs_rollback_moved(db)))) {
		rc = fs_rollback_capture(db, &err); /* no handle: nobody is inside a transaction */
	} else if (db->passthrough && fs_db_journal_hot(db)) {
		/* Who had it open was killed, and what it wrote was not told; nor will the playback undo all of it (journal_pages.c),
		 * whose own writes are told. */
		rc = fs_rollback_list(db, &err);
		db->rb.whole |= rc < 0 || !db->rb.listed;
		fs_rollback_note_loose(db);
	}
	if (rc < 0)
		fs_db_note_error(db, &err);
	db->passthrough = false;
}

void fs_capture_file_close(struct fs_file *f)
{
	struct fz_err err = {0};
	struct fs_capture *c;
	struct fs_db *db;
	bool forget;

	if (!f)
		return;
	c = f->c;
	pthread_mutex_lock(&c->mu);
	for (struct fs_file **at = &c->files; *at; at = &(*at)->next)
		if (*at == f) {
			*at = f->next;
			break;
		}
	pthread_mutex_unlock(&c->mu);
	db = f->db;
	if (f->wd >= 0)
		fs_poll_unwatch(c, f->wd);
	if (db) {
		pthread_mutex_lock(&db->mu);
		switch (f->role) {
		case FS_ROLE_DB:
			close_database(db);
			break;
		case FS_ROLE_SHM:
			if (f->gone)
				break;
			if (db->shm_fd == f->fd) {
				db->shm_closed = true;
				if (fs_wal_pass(db, FS_WAL_BARRIER, &err) < 0)
					fs_db_note_error(db, &err);
				db->shm_closed = false;
				db->shm_fd = -1;
			}
			db->open_shm--;
			break;
		case FS_ROLE_WAL:
			if (fs_wal_pass(db, FS_WAL_LOOK, &err) < 0)
				fs_db_note_error(db, &err);
			break;
		case FS_ROLE_JOURNAL:
			if (db->rb.fd == f->fd)
				db->rb.fd = -1;
			break;
		default:
			break;
		}
		forget = is_nothing(db);
		pthread_mutex_unlock(&db->mu);
		if (forget)
			fs_registry_forget(db);
		if (forget && f->role == FS_ROLE_DB)
			fs_discover_other(c, db->name, f->fd);
		fs_registry_put(db);
	}
	free(f->path);
	free(f);
}
