#include "fs/virtual.h"

#include "base/clock.h"
#include "fs/shared.h"

#include <errno.h>
#include <limits.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NODE_BUCKETS = 1024, HANDLE_BUCKETS = 256, SPILL_MAX = 1 << 17 };
#define NEVER UINT64_MAX

static const char *const file_names[FS_VIRTUAL_FILES] = {"position", "lag", "primary"};

struct handle {
	struct handle *next; /* in its bucket */
	uint64_t fh, seen;   /* version that was read; NEVER */
	uint64_t waiter;     /* to be told once; 0 = nobody waits */
	uint64_t node;       /* whose list it is in, while it waits */
	struct handle *next_waiting;
	int slot; /* of the waiter in the shared memory; -1 = spilled */
	uint32_t len;
	char text[FS_VIRTUAL_TEXT];
};
struct node {
	struct node *next; /* in its bucket */
	uint64_t id, cookie;
	struct node *parent, *first, *last, *later, *earlier; /* children in the order they were made */
	uint32_t children;
	bool dir, database;
	/* a database's */
	struct node *files[FS_VIRTUAL_FILES];
	/* a file's */
	uint64_t version;
	struct handle *waiting;
	uint32_t len;
	char *text;
	const char *name; /* the last part of path */
	char path[];
};
struct fs_virtual {
	struct fs_shared *sh;             /* borrowed */
	int fusefd;                       /* borrowed */
	struct fs_virtual_events *events; /* borrowed; set before the mount serves */
	pthread_mutex_t mu;               /* guards all below, and the waiters in sh */
	struct node *nodes[NODE_BUCKETS];
	struct handle *handles[HANDLE_BUCKETS];
	struct node *root;
	uint64_t cookies, versions, fhs;
	unsigned spilled;
};

/* ---- notices to the kernel: they wait for no request ---- */

static void notify(struct fs_virtual *v, int code, const void *body, size_t n)
{
	struct fuse_out_header h = {.len = (uint32_t)(sizeof(h) + n), .error = code};
	struct iovec iov[] = {
	        {&h,	              sizeof(h)},
                {(void *)(uintptr_t)body, n        }
        };

	if (writev(v->fusefd, iov, 2) < 0)
		return; /* ENOENT: it has forgotten the inode, or closed the file */
}

static void tell_waiter(struct fs_virtual *v, uint64_t kh)
{
	struct fuse_notify_poll_wakeup_out out = {.kh = kh};

	notify(v, FUSE_NOTIFY_POLL, &out, sizeof(out));
}

/* The kernel keeps what it has read of a directory. */
static void tell_dir(struct fs_virtual *v, uint64_t id)
{
	struct fuse_notify_inval_inode_out out = {.ino = id};

	notify(v, FUSE_NOTIFY_INVAL_INODE, &out, sizeof(out));
}

/* ---- nodes ---- */

static uint64_t id_of(const char *path)
{
	uint64_t h = 0xcbf29ce484222325u; /* FNV-1a, mixed */

	for (; *path; path++)
		h = (h ^ (uint8_t)*path) * 0x100000001b3u;
	h = (h ^ h >> 33) * 0xff51afd7ed558ccdu;
	h ^= h >> 29;
	return FS_VIRTUAL_BIT | (h & (FS_VIRTUAL_BIT - 1));
}

uint64_t fs_virtual_root(void)
{
	return id_of("");
}

static struct node **bucket(struct fs_virtual *v, uint64_t id)
{
	return &v->nodes[id % NODE_BUCKETS];
}

static struct node *find_locked(struct fs_virtual *v, uint64_t id)
{
	struct node *n = *bucket(v, id);

	while (n && n->id != id)
		n = n->next;
	return n;
}

/* A new child of parent (NULL: the root), empty. *rc: -ENOMEM, -EEXIST. */
static struct node *add_locked(struct fs_virtual *v, struct node *parent, const char *path, bool dir, int *rc)
{
	uint64_t id = id_of(path);
	struct node *n;

	*rc = -EEXIST;
	if (find_locked(v, id))
		return NULL;
	*rc = -ENOMEM;
	n = calloc(1, sizeof(*n) + strlen(path) + 1);
	if (!n)
		return NULL;
	strcpy(n->path, path);
	n->name = strrchr(n->path, '/') ? strrchr(n->path, '/') + 1 : n->path;
	n->id = id;
	n->dir = dir;
	n->cookie = ++v->cookies;
	n->text = dir ? NULL : malloc(FS_VIRTUAL_TEXT);
	if (!dir && !n->text) {
		free(n);
		return NULL;
	}
	n->next = *bucket(v, id);
	*bucket(v, id) = n;
	n->parent = parent;
	if (parent) {
		n->earlier = parent->last;
		*(parent->last ? &parent->last->later : &parent->first) = n;
		parent->last = n;
		parent->children++;
		tell_dir(v, parent->id);
	}
	*rc = 0;
	return n;
}

static void stop_waiting_locked(struct fs_virtual *v, struct handle *h);

static void wake_locked(struct fs_virtual *v, struct node *n)
{
	while (n->waiting) {
		struct handle *h = n->waiting;
		uint64_t waiter = h->waiter;

		n->waiting = h->next_waiting;
		stop_waiting_locked(v, h);
		tell_waiter(v, waiter);
	}
}

static void drop_locked(struct fs_virtual *v, struct node *n)
{
	struct node **at = bucket(v, n->id);

	while (*at != n)
		at = &(*at)->next;
	*at = n->next;
	if (n->parent) {
		*(n->earlier ? &n->earlier->later : &n->parent->first) = n->later;
		*(n->later ? &n->later->earlier : &n->parent->last) = n->earlier;
		n->parent->children--;
		tell_dir(v, n->parent->id);
	}
	wake_locked(v, n);
	free(n->text);
	free(n);
}

/* n and the directories above it, as far as nothing else is in them. */
static void prune_locked(struct fs_virtual *v, struct node *n)
{
	while (n != v->root && !n->children) {
		struct node *parent = n->parent;

		drop_locked(v, n);
		n = parent;
	}
}

static void remove_locked(struct fs_virtual *v, struct node *db)
{
	db->database = false;
	for (unsigned i = 0; i < FS_VIRTUAL_FILES; i++) {
		if (db->files[i])
			drop_locked(v, db->files[i]);
		db->files[i] = NULL;
	}
	prune_locked(v, db);
}

/* The directory path, made with those above it. */
static struct node *dir_locked(struct fs_virtual *v, char *path, int *rc)
{
	struct node *at = v->root;

	for (char *end = path; at && end && *end;) {
		struct node *n;

		end = strchr(end == path ? end : end + 1, '/');
		if (end)
			*end = 0;
		n = find_locked(v, id_of(path));
		if (n && (!n->dir || strcmp(n->path, path) != 0)) {
			*rc = -EEXIST;
			n = NULL;
		} else if (!n) {
			n = add_locked(v, at, path, true, rc);
		}
		if (!n)
			prune_locked(v, at);
		at = n;
		if (end)
			*end = '/';
	}
	return at;
}

/* The database's directory with its files, NULL: *rc. */
static struct node *database_locked(struct fs_virtual *v, const char *name, int *rc)
{
	char path[PATH_MAX + 16];
	size_t len = strlen(name);
	struct node *db = find_locked(v, id_of(name));

	if (db && db->database && !strcmp(db->path, name))
		return db;
	*rc = len >= PATH_MAX ? -ENAMETOOLONG : -EINVAL;
	if (!len || len >= PATH_MAX || *name == '/' || name[len - 1] == '/' || strstr(name, "//"))
		return NULL;
	memcpy(path, name, len + 1);
	db = dir_locked(v, path, rc);
	if (!db)
		return NULL;
	for (unsigned i = 0; i < FS_VIRTUAL_FILES; i++) {
		path[len] = '/';
		strcpy(path + len + 1, file_names[i]);
		db->files[i] = add_locked(v, db, path, false, rc);
		if (!db->files[i]) {
			remove_locked(v, db);
			return NULL;
		}
	}
	db->database = true;
	return db;
}

int fs_virtual_set(struct fs_virtual *v, const char *database, enum fs_virtual_file file, const char *text)
{
	size_t len = strlen(text);
	struct node *db, *n;
	int rc = 0;

	if (len > FS_VIRTUAL_TEXT)
		return -ENAMETOOLONG;
	pthread_mutex_lock(&v->mu);
	db = database_locked(v, database, &rc);
	n = db ? db->files[file] : NULL;
	if (n && (n->len != len || memcmp(n->text, text, len) != 0)) {
		memcpy(n->text, text, len);
		n->len = (uint32_t)len;
		n->version = ++v->versions;
		wake_locked(v, n);
	}
	pthread_mutex_unlock(&v->mu);
	return n ? 0 : rc;
}

void fs_virtual_remove(struct fs_virtual *v, const char *database)
{
	struct node *db;

	pthread_mutex_lock(&v->mu);
	db = find_locked(v, id_of(database));
	if (db && db->database && !strcmp(db->path, database))
		remove_locked(v, db);
	pthread_mutex_unlock(&v->mu);
}

/* ---- start and end ---- */

int fs_virtual_open(struct fs_virtual **out, struct fs_shared *sh, int fusefd, struct fz_err *err)
{
	struct fs_virtual *v = calloc(1, sizeof(*v));
	int rc;

	if (!v)
		return fz_fail(err, -ENOMEM, "no memory");
	pthread_mutex_init(&v->mu, NULL);
	v->sh = sh;
	v->fusefd = fusefd;
	v->fhs = fz_mono_ns(); /* beyond those of a former worker */
	v->root = add_locked(v, NULL, "", true, &rc);
	if (!v->root) {
		fs_virtual_close(v);
		return fz_fail(err, rc, "no memory");
	}
	*out = v;
	return 0;
}

void fs_virtual_close(struct fs_virtual *v)
{
	if (!v)
		return;
	for (unsigned i = 0; i < NODE_BUCKETS; i++)
		while (v->nodes[i]) {
			struct node *n = v->nodes[i];

			v->nodes[i] = n->next;
			free(n->text);
			free(n);
		}
	for (unsigned i = 0; i < HANDLE_BUCKETS; i++)
		while (v->handles[i]) {
			struct handle *h = v->handles[i];

			v->handles[i] = h->next;
			free(h);
		}
	pthread_mutex_destroy(&v->mu);
	free(v);
}

void fs_virtual_take_over(struct fs_virtual *v)
{
	uint64_t lo = v->sh->spill_from, hi = v->sh->spill_to;

	pthread_mutex_lock(&v->mu);
	for (unsigned i = 0; i < FS_WAITERS; i++) {
		uint64_t kh = atomic_exchange(&v->sh->waiters[i], 0);

		if (kh)
			tell_waiter(v, kh);
	}
	/* numbers of open files: most of the range are others, which is harmless */
	if (hi && hi - lo > SPILL_MAX)
		lo = hi - SPILL_MAX;
	for (; hi && lo <= hi; lo++)
		tell_waiter(v, lo);
	atomic_store(&v->sh->spill_to, 0);
	for (unsigned i = 0; i < NODE_BUCKETS; i++)
		for (struct node *n = v->nodes[i]; n; n = n->next)
			if (n->dir)
				tell_dir(v, n->id);
	pthread_mutex_unlock(&v->mu);
}

/* ---- looking ---- */

static void fill(struct fs_virtual_stat *out, const struct node *n)
{
	*out = (struct fs_virtual_stat){.node = n->id, .dir = n->dir, .size_bytes = n->len, .children = n->children};
}

int fs_virtual_lookup(struct fs_virtual *v, uint64_t parent, const char *name, struct fs_virtual_stat *out)
{
	char path[2 * PATH_MAX];
	struct node *dir, *n;
	int rc = -ENOENT;

	pthread_mutex_lock(&v->mu);
	dir = find_locked(v, parent);
	if (!dir || !dir->dir) {
		rc = dir ? -ENOTDIR : -ESTALE;
	} else if (strlen(dir->path) + strlen(name) + 2 <= sizeof(path)) {
		stpcpy(stpcpy(stpcpy(path, dir->path), dir == v->root ? "" : "/"), name);
		n = find_locked(v, id_of(path));
		if (n && !strcmp(n->path, path)) {
			fill(out, n);
			rc = 0;
		}
	}
	pthread_mutex_unlock(&v->mu);
	return rc;
}

int fs_virtual_stat(struct fs_virtual *v, uint64_t node, struct fs_virtual_stat *out)
{
	struct node *n;

	pthread_mutex_lock(&v->mu);
	n = find_locked(v, node);
	if (n)
		fill(out, n);
	pthread_mutex_unlock(&v->mu);
	return n ? 0 : -ESTALE;
}

int fs_virtual_next(struct fs_virtual *v, uint64_t dir, uint64_t *cookie, char name[static 256],
                    struct fs_virtual_stat *out)
{
	struct node *d, *n;
	int rc = 0;

	pthread_mutex_lock(&v->mu);
	d = find_locked(v, dir);
	if (!d || !d->dir)
		rc = d ? -ENOTDIR : -ESTALE;
	for (n = rc == 0 ? d->first : NULL; n && n->cookie <= *cookie; n = n->later)
		;
	if (n && strlen(n->name) < 256) {
		strcpy(name, n->name);
		fill(out, n);
		*cookie = n->cookie;
		rc = 1;
	}
	pthread_mutex_unlock(&v->mu);
	return rc;
}

/* ---- handles ---- */

static struct handle *handle_locked(struct fs_virtual *v, uint64_t fh, bool make)
{
	struct handle **b = &v->handles[fh % HANDLE_BUCKETS], *h = *b;

	while (h && h->fh != fh)
		h = h->next;
	if (h || !make)
		return h;
	h = calloc(1, sizeof(*h));
	if (!h)
		return NULL;
	h->fh = fh;
	h->seen = NEVER;
	h->slot = -1;
	h->next = *b;
	*b = h;
	return h;
}

int fs_virtual_file_open(struct fs_virtual *v, uint64_t node, uint64_t *fh)
{
	struct node *n;
	int rc = 0;

	pthread_mutex_lock(&v->mu);
	n = find_locked(v, node);
	*fh = ++v->fhs;
	if (!n || n->dir)
		rc = n ? -EISDIR : -ESTALE;
	else if (!handle_locked(v, *fh, true))
		rc = -ENOMEM;
	pthread_mutex_unlock(&v->mu);
	return rc;
}

static void unlist_locked(struct fs_virtual *v, struct handle *h)
{
	struct node *n = h->waiter ? find_locked(v, h->node) : NULL;

	for (struct handle **at = n ? &n->waiting : NULL; at && *at; at = &(*at)->next_waiting)
		if (*at == h) {
			*at = h->next_waiting;
			return;
		}
}

void fs_virtual_file_close(struct fs_virtual *v, uint64_t fh)
{
	struct handle **at = &v->handles[fh % HANDLE_BUCKETS], *h;

	pthread_mutex_lock(&v->mu);
	while (*at && (*at)->fh != fh)
		at = &(*at)->next;
	h = *at;
	if (h) {
		*at = h->next;
		unlist_locked(v, h);
		stop_waiting_locked(v, h);
		free(h);
	}
	pthread_mutex_unlock(&v->mu);
}

void fs_virtual_listen(struct fs_virtual *v, struct fs_virtual_events *ev)
{
	v->events = ev;
}

static void refresh(struct fs_virtual *v, uint64_t node)
{
	char database[PATH_MAX] = "";
	struct node *n;

	if (!v->events)
		return;
	pthread_mutex_lock(&v->mu);
	n = find_locked(v, node);
	if (n && !n->dir && n->parent && strlen(n->parent->path) < sizeof(database))
		strcpy(database, n->parent->path);
	pthread_mutex_unlock(&v->mu);
	if (*database)
		v->events->refresh(v->events, database);
}

ssize_t fs_virtual_read(struct fs_virtual *v, uint64_t node, uint64_t fh, void *buf, size_t size, uint64_t off)
{
	struct handle *h;
	struct node *n;
	ssize_t rc = 0;

	if (off == 0)
		refresh(v, node);
	pthread_mutex_lock(&v->mu);
	n = find_locked(v, node);
	h = n && !n->dir ? handle_locked(v, fh, true) : NULL;
	if (!h) {
		rc = !n ? -ESTALE : n->dir ? -EISDIR : -ENOMEM;
	} else {
		if (off == 0) {
			memcpy(h->text, n->text, n->len);
			h->len = n->len;
			h->seen = n->version;
		}
		if (off < h->len) {
			rc = (ssize_t)(size < h->len - off ? size : h->len - off);
			memcpy(buf, h->text + off, (size_t)rc);
		}
	}
	pthread_mutex_unlock(&v->mu);
	return rc;
}

/* ---- waiting ---- */

/* Noted where the next worker finds it. Beyond the room for single ones the range they lie in is noted. */
static void note_waiter_locked(struct fs_virtual *v, struct handle *h)
{
	struct fs_shared *sh = v->sh;

	for (h->slot = 0; h->slot < FS_WAITERS; h->slot++)
		if (!sh->waiters[h->slot]) {
			atomic_store(&sh->waiters[h->slot], h->waiter);
			return;
		}
	h->slot = -1;
	if (!v->spilled++ || h->waiter < sh->spill_from)
		atomic_store(&sh->spill_from, h->waiter);
	if (h->waiter > sh->spill_to)
		atomic_store(&sh->spill_to, h->waiter);
}

static void stop_waiting_locked(struct fs_virtual *v, struct handle *h)
{
	if (!h->waiter)
		return;
	if (h->slot >= 0)
		atomic_store(&v->sh->waiters[h->slot], 0);
	else if (--v->spilled == 0)
		atomic_store(&v->sh->spill_to, 0);
	h->waiter = 0;
	h->slot = -1;
}

int fs_virtual_poll(struct fs_virtual *v, uint64_t node, uint64_t fh, uint64_t waiter)
{
	struct handle *h;
	struct node *n;
	int ready = 1; /* also what cannot be: a read tells */

	pthread_mutex_lock(&v->mu);
	n = find_locked(v, node);
	h = n && !n->dir ? handle_locked(v, fh, true) : NULL;
	if (h && h->seen == n->version) {
		ready = 0;
		if (waiter && !h->waiter) {
			h->waiter = waiter;
			h->node = node;
			note_waiter_locked(v, h);
			h->next_waiting = n->waiting;
			n->waiting = h;
		}
	}
	pthread_mutex_unlock(&v->mu);
	return ready;
}
