/* names.c - which database a path is while names come and go: deletion, renames (of a directory too), and an open file that
 * becomes a database or stops being one. */
#include "base/array.h"
#include "base/file.h"
#include "fs/baseline.h"
#include "fs/capture_priv.h"
#include "fs/capture_wal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

void fs_names_end(struct fs_db *db)
{
	pthread_mutex_lock(&db->mu);
	fs_db_end(db);
	pthread_mutex_unlock(&db->mu);
	fs_registry_forget(db);
}

static bool database_at(struct fs_capture *c, const char *path)
{
	size_t len;
	bool yes = false;
	int fd;

	if (fs_registry_split(path, &len) != FS_ROLE_DB)
		return false;
	fd = fz_open_below(c->conf.rootfd, path, O_RDONLY | O_NONBLOCK, 0);
	if (fd >= 0)
		yes = fs_file_is_database(c, path, fd);
	fz_close(&fd);
	return yes;
}

/* The inodes that a database's four names mean now. */
struct inodes {
	struct {
		dev_t dev;
		ino_t ino; /* 0 = there is none */
	} v[FS_ROLES];
};

static void inodes_of(const struct fs_db *db, struct inodes *in)
{
	char path[4200];
	struct stat st;

	for (enum fs_role role = FS_ROLE_DB; role < FS_ROLES; role++) {
		in->v[role].ino = 0;
		if (snprintf(path, sizeof(path), "%s%s", db->name, fs_registry_suffix[role]) >= (int)sizeof(path) ||
		    fstatat(db->c->conf.rootfd, path, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
			continue;
		in->v[role].dev = st.st_dev;
		in->v[role].ino = st.st_ino;
	}
}

/* What f is to db, or OTHER when it is none of its files, or known as such already. Needs c->mu. */
static enum fs_role stray(const struct fs_file *f, const struct fs_db *db, const struct inodes *in)
{
	for (enum fs_role role = FS_ROLE_DB; role < FS_ROLES; role++)
		if (in->v[role].ino == f->ino && f->ino && in->v[role].dev == f->dev)
			return f->db == db && f->role == role ? FS_ROLE_OTHER : role;
	return FS_ROLE_OTHER;
}

/* Needs c->mu and its database's mutex, and the caller's own reference to that. */
static void leave(struct fs_file *f)
{
	struct fs_db *was = f->db;

	f->wd = fs_poll_move(f->c, f->wd, f->fd, NULL, FS_ROLE_OTHER);
	if (was) {
		was->open_db -= f->role == FS_ROLE_DB;
		was->open_shm -= f->role == FS_ROLE_SHM && !f->gone;
		if (was->shm_fd == f->fd)
			was->shm_fd = -1;
		if (was->rb.fd == f->fd)
			was->rb.fd = -1;
		was->refs--;
	}
	f->db = NULL;
	f->role = FS_ROLE_OTHER;
}

/* Needs c->mu and db's mutex. */
static void join(struct fs_file *f, struct fs_db *db, enum fs_role role)
{
	struct fz_err err = {0};

	f->db = db;
	f->role = role;
	db->refs++;
	switch (role) {
	case FS_ROLE_DB:
		db->open_db++;
		db->passthrough = f->mode == FS_MODE_PASSTHROUGH;
		break;
	case FS_ROLE_WAL:
		if (fs_wal_open(db, f->fd, &err) < 0)
			fs_db_note_error(db, &err);
		break;
	case FS_ROLE_SHM:
		f->gone = false;
		db->open_shm++;
		db->shm_fd = f->fd;
		break;
	default:
		db->rb.fd = f->fd;
		db->rb.hot = true; /* looked at when it ends */
		db->rb.whole = true;
		break;
	}
	if (role == FS_ROLE_WAL || (role == FS_ROLE_DB && db->passthrough))
		f->wd = fs_poll_move(f->c, f->wd, f->fd, db, role);
	if (db->state == FS_DB_LIVE && (role == FS_ROLE_DB || role == FS_ROLE_WAL))
		fs_db_lose(db, "its files were open under other names");
}

/* The one at the lower address first: no thread waits for another in a circle. */
static void lock_both(struct fs_db *a, struct fs_db *b)
{
	bool b_first = (uintptr_t)b < (uintptr_t)a;

	if (b && b != a && b_first)
		pthread_mutex_lock(&b->mu);
	pthread_mutex_lock(&a->mu);
	if (b && b != a && !b_first)
		pthread_mutex_lock(&b->mu);
}

static void unlock_both(struct fs_db *a, struct fs_db *b)
{
	if (b && b != a)
		pthread_mutex_unlock(&b->mu);
	pthread_mutex_unlock(&a->mu);
}

/* The open files that are db and its companions by the names they have now are its own from here on, whatever they were so far.
 * A file is known by its inode: it may have had several names. Returns how many were moved, or -1 when db has ended. */
static int gather(struct fs_db *db)
{
	struct fs_capture *c = db->c;
	struct inodes in;
	bool ended = false;
	int n = 0;

	inodes_of(db, &in);
	while (!ended) {
		struct fs_db *was = NULL;
		struct fs_file *f;
		enum fs_role role;

		pthread_mutex_lock(&c->mu);
		for (f = c->files; f && stray(f, db, &in) == FS_ROLE_OTHER; f = f->next)
			;
		if (f && f->db) {
			was = f->db;
			was->refs++;
		}
		pthread_mutex_unlock(&c->mu);
		lock_both(db, was);
		ended = db->state == FS_DB_ENDED;
		pthread_mutex_lock(&c->mu);
		for (struct fs_file *g = f && !ended ? c->files : NULL; g; g = g->next)
			if (g->db == was && (role = stray(g, db, &in)) != FS_ROLE_OTHER) {
				leave(g);
				join(g, db, role);
				n++;
			}
		pthread_mutex_unlock(&c->mu);
		unlock_both(db, was);
		fs_registry_put(was);
		if (!f)
			break;
	}
	return ended ? -1 : n;
}

/* The handles of a database that has ended, and that no other has taken: nobody's. */
static void scatter(struct fs_db *was)
{
	struct fs_capture *c = was->c;

	pthread_mutex_lock(&was->mu);
	pthread_mutex_lock(&c->mu);
	for (struct fs_file *f = c->files; f; f = f->next)
		if (f->db == was && f->role == FS_ROLE_DB)
			leave(f);
	pthread_mutex_unlock(&c->mu);
	pthread_mutex_unlock(&was->mu);
}

/* The compare that a LOST database needs, when it can be made now: the agent, who looks at a -shm through the mount, finds no new
 * name before the request that makes it is answered. What is left is made before the application writes its next frame (events.c,
 * catch_up(); tests/unit/test_fs_capture.c, moved_before_agent_sees). Requires db->mu. */
static void compare(struct fs_db *db)
{
	bool asks = fs_db_in_wal(db) && db->open_shm && !db->c->conf.passthrough && db->c->conf.agent;
	struct fz_err err = {0};
	int rc = 0;

	if (db->state == FS_DB_LOST && !asks && !fs_db_journal_hot(db))
		rc = fs_baseline_now(db, &err);
	if (rc < 0 && rc != -EAGAIN && rc != -FZ_ENOTFOUND)
		fs_db_note_error(db, &err);
	if (db->state == FS_DB_LOST)
		fz_worker_kick(&db->c->keeper);
}

/* The file that now has this name, if it is a database: known from here on. Handles that are open go with it. */
static void begin(struct fs_capture *c, const char *name, bool opaque)
{
	struct fz_err err = {0};
	struct fs_db_head h;
	struct fs_db *db;
	size_t len;
	bool wal;
	int rc;

	if (fs_registry_excluded(c, name) || fs_registry_split(name, &len) != FS_ROLE_DB)
		return;
	while ((db = fs_registry_get(c, name, true)) && gather(db) < 0) {
		fs_registry_forget(db);
		fs_registry_put(db);
	}
	if (!db)
		return;
	pthread_mutex_lock(&db->mu);
	db->opaque = opaque || fs_registry_named_database(c, name);
	rc = fs_db_read_head(db, &h, &err);
	if (rc == 0 && h.page_size) {
		if (db->state == FS_DB_CANDIDATE)
			fs_db_lose(db, "not seen before");
		compare(db);
	}
	if (db->open_db && !h.wal) /* as at an open; and what was written meanwhile was told to nobody */
		db->rb.whole = true;
	rc = db->state == FS_DB_CANDIDATE && !db->open_db;
	wal = fs_db_in_wal(db);
	pthread_mutex_unlock(&db->mu);
	if (wal)
		fs_poll_kick(db);
	if (rc)
		fs_registry_forget(db);
	fs_registry_put(db);
}

/* The WAL that it follows is the one beside it. Requires db->mu. */
static bool follows_wal(struct fs_db *db)
{
	struct stat st;
	struct inodes in;

	inodes_of(db, &in);
	return fs_db_in_wal(db) && fstat(db->wal.fd, &st) == 0 && st.st_ino == in.v[FS_ROLE_WAL].ino &&
	       st.st_dev == in.v[FS_ROLE_WAL].dev;
}

/* The file that now has this name, if it is a companion of a known database: of that one. What such a WAL holds has been
 * committed already, and part of it may lie in the database file. */
static void begin_companion(struct fs_capture *c, const char *name)
{
	struct fz_err err = {0};
	struct fs_db *db = NULL;
	size_t len;
	enum fs_role role = fs_registry_split(name, &len);
	char *base = role == FS_ROLE_DB ? NULL : strndup(name, len);

	if (base)
		db = fs_registry_get(c, base, false);
	free(base);
	if (!db)
		return;
	(void)gather(db);
	pthread_mutex_lock(&db->mu);
	if (role == FS_ROLE_WAL && db->state != FS_DB_ENDED && !follows_wal(db)) {
		fs_db_close_wal(db);
		if (fs_wal_find(db, &err) < 0)
			fs_db_note_error(db, &err);
		if (fs_db_in_wal(db) && db->state == FS_DB_LIVE)
			fs_db_lose(db, "another WAL was put beside it");
	}
	compare(db);
	pthread_mutex_unlock(&db->mu);
	fs_poll_kick(db);
	fs_registry_put(db);
}

void fs_names_used(struct fs_db *db)
{
	bool alone;

	pthread_mutex_lock(&db->mu);
	alone = !db->open_db;
	pthread_mutex_unlock(&db->mu);
	if (!alone || gather(db) <= 0)
		return;
	pthread_mutex_lock(&db->mu);
	if (db->open_db && db->state == FS_DB_CANDIDATE)
		fs_db_lose(db, "not seen before");
	if (db->open_db)
		compare(db);
	pthread_mutex_unlock(&db->mu);
}

bool fs_capture_file_again(struct fs_file *f, const char *path)
{
	struct fs_capture *c = f->c;
	bool nobodys;

	if (c->conf.replica)
		return false;
	pthread_mutex_lock(&c->mu);
	nobodys = !f->db || f->db->forgotten;
	pthread_mutex_unlock(&c->mu);
	if (!nobodys || !database_at(c, path))
		return false;
	begin(c, path, false);
	return true;
}

static void rename_one(struct fs_capture *c, const char *from, const char *to, bool exchange)
{
	struct fs_db *a = fs_registry_get(c, from, false), *b = fs_registry_get(c, to, false);

	if (b)
		fs_names_end(b);
	if (a)
		fs_names_end(a);
	if (a || b || database_at(c, to))
		begin(c, to, a && a->opaque);
	begin_companion(c, to);
	if (exchange && (a || b || database_at(c, from)))
		begin(c, from, b && b->opaque);
	if (exchange)
		begin_companion(c, from);
	if (a)
		scatter(a);
	if (b)
		scatter(b);
	fs_registry_put(a);
	fs_registry_put(b);
}

void fs_names_linked(struct fs_capture *c, const char *from, const char *to)
{
	struct fs_db *db;

	if (c->conf.replica)
		return;
	db = fs_registry_get(c, from, false);
	if (!db && database_at(c, to)) /* else known under one name is enough */
		begin(c, to, false);
	begin_companion(c, to);
	fs_registry_put(db);
}

struct rests {
	char **v;
	size_t n, cap;
};

/* Without memory it is left out: the walk of the next start finds it. */
static void note_below(struct rests *l, const char *path, const char *from, const char *to)
{
	const char *rest = fs_registry_below(path, from);

	if (!rest)
		rest = fs_registry_below(path, to);
	for (size_t k = 0; rest && k < l->n; k++)
		if (!strcmp(l->v[k], rest))
			rest = NULL;
	if (rest && fz_array_room(l->v, l->n, l->cap) && (l->v[l->n] = strdup(rest)))
		l->n++;
}

/* An open file must be known by the name it has now. On a replica the agent makes a database under another one. */
static void rename_files(struct fs_capture *c, const char *from, const char *to, bool exchange)
{
	size_t nf = strlen(from), nt = strlen(to);

	pthread_mutex_lock(&c->mu);
	for (struct fs_file *f = c->files; f; f = f->next) {
		const char *now = NULL, *rest = NULL;
		char *path;

		if (!strncmp(f->path, from, nf) && (!f->path[nf] || f->path[nf] == '/')) {
			now = to;
			rest = f->path + nf;
		} else if (exchange && !strncmp(f->path, to, nt) && (!f->path[nt] || f->path[nt] == '/')) {
			now = from;
			rest = f->path + nt;
		}
		if (now && asprintf(&path, "%s%s", now, rest) > 0) {
			free(f->path);
			f->path = path;
		}
	}
	pthread_mutex_unlock(&c->mu);
}

void fs_names_renamed(struct fs_capture *c, const char *from, const char *to, bool exchange)
{
	struct rests below = {0}; /* first listed, since renaming changes the registry */

	rename_files(c, from, to, exchange);
	if (c->conf.replica)
		return;
	for (struct fs_db *db = NULL; (db = fs_registry_next(c, db));)
		note_below(&below, db->name, from, to);
	pthread_mutex_lock(&c->mu);
	for (struct fs_file *f = c->files; f; f = f->next)
		if (!f->db || f->db->forgotten)
			note_below(&below, f->path, from, to);
	pthread_mutex_unlock(&c->mu);
	rename_one(c, from, to, exchange);
	for (size_t k = 0; k < below.n; k++) {
		char *a = NULL, *b = NULL;

		if (asprintf(&a, "%s%s", from, below.v[k]) > 0 && asprintf(&b, "%s%s", to, below.v[k]) > 0)
			rename_one(c, a, b, exchange);
		free(a);
		free(b);
		free(below.v[k]);
	}
	free(below.v);
}

static void moved(struct fs_capture *c, const char *from, const char *to)
{
	struct fs_db *a = fs_registry_get(c, from, false);
	bool opaque = a && a->opaque;

	if (a)
		fs_names_end(a);
	if (a || database_at(c, to))
		begin(c, to, opaque);
	begin_companion(c, to);
	if (a)
		scatter(a);
	fs_registry_put(a);
}

void fs_names_moved(struct fs_capture *c, const char *from, const char *to)
{
	rename_files(c, from, to, false);
	if (!c->conf.replica)
		moved(c, from, to);
}

void fs_capture_file_at(struct fs_file *f, const char *path)
{
	struct fs_capture *c = f->c;
	char *was, *now = strdup(path);
	bool same;

	pthread_mutex_lock(&c->mu);
	was = f->path;
	same = !now || !strcmp(was, now);
	if (!same)
		f->path = now;
	pthread_mutex_unlock(&c->mu);
	if (same) {
		free(now);
		return;
	}
	if (!c->conf.replica) {
		moved(c, was, path);
		if (database_at(c, was)) /* another one by now */
			begin(c, was, false);
	}
	free(was);
}
