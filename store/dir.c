/* dir.c - a directory as store.
 *
 * (1) An object appears whole or not at all: it is written under a temporary name beside its place, synced, and renamed
 *     (put) or linked (put_new) there; then the directory, and each directory made on the way, is synced.
 * (2) No key leads out of the root: keys have no ".." (store.c), and each step is one openat() with O_NOFOLLOW. The root
 *     itself may be a symbolic link: its name comes from the owner.
 * (3) The root is opened for each call. A disk that is unplugged and mounted again is found again, and can be unmounted
 *     while fazt runs.
 * (4) delete() takes empty directories along. It may remove the directory another call is about to write into: that
 *     call then starts over. A directory with a temporary file in it is not empty.
 *                                                                              held by: tests/unit/test_store_dir.c */
#include "store/backend.h"
#include "store/url.h"

#include "base/clock.h"
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define TMP_PREFIX ".fz-tmp."
#define LOCK_NAME  TMP_PREFIX "lock" /* hidden from listings as what is being written, but never removed */
enum { LOCK_MS = 1000, TAGGED_MAX = 1 << 20 };
enum { CHUNK_BYTES = 128 * 1024, DEPTH_MAX = 128, RACES_MAX = 100, TMP_STALE_MS = 24 * 3600 * 1000 };

struct dir_store {
	struct fz_store store;
	char *path;
	bool create;
};

static struct dir_store *dir_of(struct fz_store *s)
{
	return (struct dir_store *)s;
}

/* One sentence for what the disk said; ENOENT and ENOTDIR are the caller's to judge. */
static int fail_io(struct dir_store *d, int e, const char *what, const char *key, struct fz_err *err)
{
	switch (e) {
	case ENOSPC:
	case EDQUOT:
		fz_fail(err, ENOSPC, "%s/%s: no space left on the device (or its quota is used up)", d->path, key);
		return -ENOSPC;
	case EROFS:
		return fz_fail(err, FZ_ESTORE, "%s/%s: the file system is mounted read-only", d->path, key);
	case EACCES:
	case EPERM:
		return fz_fail(err, FZ_EAUTH, "%s/%s: %s: permission denied", d->path, key, what);
	case ENOENT:
		return fz_fail(err, FZ_ENOTFOUND, "%s/%s: no such object", d->path, key);
	case ELOOP:
		return fz_fail(err, FZ_ESTORE, "%s/%s: symbolic links are not followed in a store", d->path, key);
	case ENOMEM:
		return fz_fail_errno(err, ENOMEM, "%s/%s: %s", d->path, key, what);
	default:
		return fz_fail(err, FZ_ESTORE, "%s/%s: %s: %s", d->path, key, what, strerror(e));
	}
}

/* The root's descriptor, or a code. writing: a missing root is not "not found" but a store that cannot take anything. */
static int open_root(struct dir_store *d, bool writing, struct fz_err *err)
{
	int fd = open(d->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc;

	if (fd < 0 && errno == ENOENT && writing && d->create) {
		rc = fz_mkdirs(AT_FDCWD, d->path, 0700, NULL);
		if (rc < 0)
			return fail_io(d, -rc, "cannot create the directory", "", err);
		rc = fz_sync_parent(AT_FDCWD, d->path, err);
		if (rc < 0)
			return rc;
		fd = open(d->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	if (fd >= 0)
		return fd;
	if (errno == ENOENT)
		return fz_fail(err, writing ? FZ_ESTORE : FZ_ENOTFOUND,
		               "the store's directory %s does not exist (create it, or mount its disk)", d->path);
	if (errno == ENOTDIR)
		return fz_fail(err, FZ_ESTORE, "the store's path %s is not a directory", d->path);
	return fail_io(d, errno, "cannot open the directory", "", err);
}

/* Opens the directory that holds key, step by step; *name points at the last component. make: create and sync what is
 * missing. Returns the descriptor or -errno. */
static int open_parent(int root, const char *key, bool make, const char **name)
{
	int fd = fcntl(root, F_DUPFD_CLOEXEC, 3);

	if (fd < 0)
		return -errno;
	for (;;) {
		char part[256];
		size_t n = strcspn(key, "/");
		int next;

		if (n >= sizeof(part)) {
			fz_close(&fd);
			return -ENAMETOOLONG;
		}
		if (key[n] == 0) {
			*name = key;
			return fd;
		}
		memcpy(part, key, n);
		part[n] = 0;
		next = openat(fd, part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (next < 0 && errno == ENOENT && make) {
			if ((mkdirat(fd, part, 0700) < 0 && errno != EEXIST) || fsync(fd) < 0) {
				int e = errno;

				fz_close(&fd);
				return -e;
			}
			next = openat(fd, part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		}
		if (next < 0) {
			int e = errno;
			struct stat st;

			if (e == ENOTDIR && fstatat(fd, part, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode))
				e = ELOOP;
			fz_close(&fd);
			return -e;
		}
		fz_close(&fd);
		fd = next;
		key += n + 1;
	}
}

/* A file being written beside its place. */
struct draft {
	int root, dir, fd;
	const char *name;
	char tmp[sizeof(TMP_PREFIX) + 24];
};

static void draft_fini(struct draft *t)
{
	if (t->fd >= 0)
		unlinkat(t->dir, t->tmp, 0);
	fz_close(&t->fd);
	fz_close(&t->dir);
	fz_close(&t->root);
}

/* On failure the draft is empty and draft_fini() still fine. */
static int draft_init(struct dir_store *d, struct draft *t, const char *key, struct fz_err *err)
{
	uint8_t rnd[10];
	int e = 0;

	*t = (struct draft){.root = -1, .dir = -1, .fd = -1};
	if (strstr(key, "/" TMP_PREFIX) || strncmp(key, TMP_PREFIX, strlen(TMP_PREFIX)) == 0)
		return fz_fail(err, FZ_EUSAGE, "%s: names with " TMP_PREFIX " are for files being written", key);
	t->root = open_root(d, true, err);
	if (t->root < 0)
		return t->root;
	randombytes_buf(rnd, sizeof(rnd));
	memcpy(t->tmp, TMP_PREFIX, sizeof(TMP_PREFIX));
	sodium_bin2hex(t->tmp + sizeof(TMP_PREFIX) - 1, 2 * sizeof(rnd) + 1, rnd, sizeof(rnd));
	for (int i = 0; i < RACES_MAX; i++) { /* (4): a delete may take the directory away in between */
		fz_close(&t->dir);
		t->dir = open_parent(t->root, key, true, &t->name);
		e = t->dir < 0 ? -t->dir : 0;
		if (e == ENOENT)
			continue;
		if (e)
			break;
		t->fd = openat(t->dir, t->tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (t->fd >= 0)
			return 0;
		e = errno;
		if (e != ENOENT)
			break;
	}
	if (e == ENOTDIR || e == ENOENT)
		return fz_fail(err, FZ_ESTORE, "%s/%s: a part of the path is not a directory", d->path, key);
	return fail_io(d, e, "cannot create the file", key, err);
}

static int draft_copy(struct dir_store *d, struct draft *t, const char *key, struct fz_src *src, struct fz_err *err)
{
	uint8_t *buf = malloc(CHUNK_BYTES);
	int rc = 0;

	if (!buf)
		return fz_fail_errno(err, ENOMEM, "storing %s", key);
	for (uint64_t off = 0; rc == 0 && off < src->size_bytes;) {
		size_t n = src->size_bytes - off < CHUNK_BYTES ? (size_t)(src->size_bytes - off) : CHUNK_BYTES;

		rc = store_check_cancel(&d->store, err);
		if (rc == 0)
			rc = fz_src_read(src, off, buf, n, err);
		if (rc < 0)
			break;
		rc = fz_pwrite(t->fd, buf, n, (off_t)off);
		if (rc < 0)
			rc = fail_io(d, -rc, "writing", key, err);
		off += n;
	}
	free(buf);
	if (rc == 0 && fsync(t->fd) < 0) /* a full disk may tell only now (delayed allocation, NFS) */
		rc = fail_io(d, errno, "syncing", key, err);
	if (rc == 0)
		atomic_fetch_add(&d->store.bytes_out, src->size_bytes);
	return rc;
}

static int dir_put(struct fz_store *s, const char *key, struct fz_src *src, struct fz_err *err)
{
	struct dir_store *d = dir_of(s);
	struct draft t;
	int rc = draft_init(d, &t, key, err);

	atomic_fetch_add(&s->requests, 1);
	if (rc == 0)
		rc = draft_copy(d, &t, key, src, err);
	if (rc == 0 && renameat(t.dir, t.tmp, t.dir, t.name) < 0)
		rc = errno == EISDIR || errno == ENOTEMPTY || errno == EEXIST
		             ? fz_fail(err, FZ_ESTORE, "%s/%s: a directory is in the way", d->path, key)
		             : fail_io(d, errno, "renaming", key, err);
	else if (rc == 0)
		fz_close(&t.fd); /* nothing to unlink any more */
	if (rc == 0 && fsync(t.dir) < 0)
		rc = fail_io(d, errno, "syncing the directory", key, err);
	draft_fini(&t);
	return rc;
}

/* Gives the draft its name only if that is free. link(2) is atomic everywhere; over NFS its answer may get lost, and the
 * link count tells. File systems without hard links have renameat2(RENAME_NOREPLACE). */
static int draft_claim(struct draft *t)
{
	struct stat st;

	if (linkat(t->dir, t->tmp, t->dir, t->name, 0) == 0)
		return 0;
	if (errno == EEXIST)
		return fstat(t->fd, &st) == 0 && st.st_nlink == 2 ? 0 : -EEXIST;
	if (errno != EPERM && errno != EOPNOTSUPP && errno != ENOSYS && errno != EMLINK)
		return -errno;
	if (renameat2(t->dir, t->tmp, t->dir, t->name, RENAME_NOREPLACE) < 0)
		return -errno;
	fz_close(&t->fd);
	return 0;
}

static int dir_put_new(struct fz_store *s, const char *key, const void *data, size_t n, struct fz_err *err)
{
	struct dir_store *d = dir_of(s);
	struct fz_src *src = NULL;
	struct draft t = {.root = -1, .dir = -1, .fd = -1};
	int rc = fz_src_mem(&src, data, n, err);

	atomic_fetch_add(&s->requests, 1);
	if (rc == 0)
		rc = draft_init(d, &t, key, err);
	if (rc == 0)
		rc = draft_copy(d, &t, key, src, err);
	if (rc == 0) {
		rc = draft_claim(&t);
		if (rc == -EEXIST)
			rc = fz_fail(err, FZ_ECONFLICT, "%s/%s exists already", d->path, key);
		else if (rc < 0)
			rc = fail_io(d, -rc, "creating", key, err);
	}
	if (rc == 0 && fsync(t.dir) < 0)
		rc = fail_io(d, errno, "syncing the directory", key, err);
	draft_fini(&t);
	fz_src_close(src);
	return rc;
}

/* Opens an object for reading. Returns the descriptor or a code. */
static int open_object(struct dir_store *d, const char *key, uint64_t *size_bytes, struct fz_err *err)
{
	int root, dir = -1, fd = -1, rc = 0;
	const char *name;
	struct stat st;

	root = open_root(d, false, err);
	if (root < 0)
		return root;
	dir = open_parent(root, key, false, &name);
	if (dir >= 0) /* O_NONBLOCK: a FIFO in the way must not block */
		fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		rc = dir < 0 ? -dir : errno;
	else if (fstat(fd, &st) < 0)
		rc = errno;
	else if (!S_ISREG(st.st_mode))
		rc = ENOENT;
	if (rc) {
		fz_close(&fd);
		fd = fail_io(d, rc == ENOTDIR ? ENOENT : rc, "cannot open", key, err);
	} else {
		*size_bytes = (uint64_t)st.st_size;
	}
	fz_close(&dir);
	fz_close(&root);
	return fd;
}

static int dir_get(struct fz_store *s, const char *key, size_t max_bytes, struct fz_buf *out, struct fz_err *err)
{
	struct dir_store *d = dir_of(s);
	uint64_t size = 0;
	uint8_t *room;
	ssize_t got;
	int rc = 0, fd = open_object(d, key, &size, err);

	atomic_fetch_add(&s->requests, 1);
	if (fd < 0)
		return fd;
	if (size > max_bytes) {
		rc = fz_fail(err, FZ_ESTORE, "%s/%s has %llu bytes, more than the %zu expected", d->path, key,
		             (unsigned long long)size, max_bytes);
		goto out;
	}
	room = fz_buf_room(out, (size_t)size);
	if (!room) {
		rc = fz_fail_errno(err, ENOMEM, "reading %s", key);
		goto out;
	}
	got = fz_pread(fd, room, (size_t)size, 0);
	if (got < 0) {
		rc = fail_io(d, (int)-got, "reading", key, err);
		goto out;
	}
	out->size += (size_t)got;
	out->data[out->size] = 0;
	atomic_fetch_add(&s->bytes_in, (unsigned long long)got);
	if ((uint64_t)got < size)
		rc = fz_fail(err, FZ_ESTORE, "%s/%s shrank while it was read", d->path, key);
out:
	fz_close(&fd);
	return rc;
}

/* The tag of bytes: equal bytes have equal tags, which is all that the header promises. */
static void tag_of(const struct fz_buf *b, char tag[static FZ_STORE_TAG])
{
	uint8_t hash[crypto_hash_sha256_BYTES];

	crypto_hash_sha256(hash, b->data, b->size);
	sodium_bin2hex(tag, FZ_STORE_TAG, hash, sizeof(hash));
}

static int dir_get_tag(struct fz_store *s, const char *key, size_t max_bytes, struct fz_buf *out,
                       char tag[static FZ_STORE_TAG], struct fz_err *err)
{
	struct fz_buf b = {0};
	int rc = dir_get(s, key, max_bytes, &b, err);

	if (rc == 0) {
		tag_of(&b, tag);
		if (fz_buf_add(out, b.data, b.size) < 0)
			rc = fz_fail_errno(err, ENOMEM, "reading %s", key);
	}
	fz_buf_fini(&b);
	return rc;
}

/* Whoever replaces holds a lock meanwhile, in a file, since NFS has no locks on directories. A process that is stopped while it
 * holds the lock keeps the others from replacing anything: they fail, and nobody acts twice. */
static int lock_root(struct dir_store *d, int root, struct fz_err *err)
{
	uint64_t end = fz_mono_ns() + LOCK_MS * 1000000ull;
	int fd = openat(root, LOCK_NAME, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);

	if (fd < 0)
		return fail_io(d, errno, "cannot lock", LOCK_NAME, err);
	while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		int e = errno;

		if (e == EWOULDBLOCK && fz_mono_ns() < end) {
			nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
			continue;
		}
		fz_close(&fd);
		return e == EWOULDBLOCK
		               ? fz_fail(err, FZ_ETIMEOUT, "%s/%s is locked by another process", d->path, LOCK_NAME)
		               : fail_io(d, e, "cannot lock", LOCK_NAME, err);
	}
	return fd;
}

static int dir_put_if(struct fz_store *s, const char *key, const void *data, size_t n, char tag[static FZ_STORE_TAG],
                      struct fz_err *err)
{
	struct dir_store *d = dir_of(s);
	char there[FZ_STORE_TAG] = "";
	struct fz_buf b = {0};
	struct fz_src *src = NULL;
	int root, lock = -1, rc;

	root = open_root(d, true, err);
	if (root < 0)
		return root;
	lock = lock_root(d, root, err);
	rc = lock < 0 ? lock : dir_get(s, key, TAGGED_MAX, &b, err);
	if (rc == 0)
		tag_of(&b, there);
	if (rc == -FZ_ENOTFOUND)
		rc = 0;
	if (rc == 0 && strcmp(there, tag) != 0)
		rc = fz_fail(err, FZ_ECONFLICT, "%s/%s has changed", d->path, key);
	if (rc == 0)
		rc = fz_src_mem(&src, data, n, err);
	if (rc == 0)
		rc = dir_put(s, key, src, err);
	if (rc == 0) {
		fz_buf_reset(&b);
		rc = fz_buf_add(&b, data, n) < 0 ? fz_fail_errno(err, ENOMEM, "writing %s", key) : 0;
	}
	if (rc == 0)
		tag_of(&b, tag);
	fz_src_close(src);
	fz_buf_fini(&b);
	fz_close(&lock);
	fz_close(&root);
	return rc;
}

struct dir_src {
	struct fz_src src;
	struct dir_store *d;
	int fd;
	char key[];
};

static int dir_src_read(struct fz_src *src, uint64_t off, void *data, size_t n, struct fz_err *err)
{
	struct dir_src *r = (struct dir_src *)src;
	int rc = store_check_cancel(&r->d->store, err);
	ssize_t got;

	if (rc < 0)
		return rc;
	atomic_fetch_add(&r->d->store.requests, 1);
	got = fz_pread(r->fd, data, n, (off_t)off);
	if (got < 0)
		return fail_io(r->d, (int)-got, "reading", r->key, err);
	atomic_fetch_add(&r->d->store.bytes_in, (unsigned long long)got);
	if ((size_t)got < n)
		return fz_fail(err, FZ_ESTORE, "%s/%s shrank while it was read", r->d->path, r->key);
	return 0;
}

static void dir_src_close(struct fz_src *src)
{
	struct dir_src *r = (struct dir_src *)src;

	fz_close(&r->fd);
	free(r);
}

static int dir_src(struct fz_store *s, const char *key, uint64_t size_bytes, struct fz_src **out, struct fz_err *err)
{
	struct dir_store *d = dir_of(s);
	size_t n = strlen(key) + 1;
	struct dir_src *r = malloc(sizeof(*r) + n);
	uint64_t size = 0;

	if (!r)
		return fz_fail_errno(err, ENOMEM, "opening %s", key);
	*r = (struct dir_src){
	        .src = {dir_src_read, dir_src_close, 0},
                  .d = d
        };
	memcpy(r->key, key, n);
	r->fd = open_object(d, key, &size, err);
	if (r->fd < 0) {
		int rc = r->fd;

		free(r);
		return rc;
	}
	r->src.size_bytes = size;
	if (size_bytes != UINT64_MAX && size != size_bytes) {
		dir_src_close(&r->src);
		return fz_fail(err, FZ_ESTORE, "%s/%s has %llu bytes, not %llu: it was replaced or damaged", d->path,
		               key, (unsigned long long)size, (unsigned long long)size_bytes);
	}
	*out = &r->src;
	return 0;
}

struct walk {
	struct dir_store *d;
	const char *prefix, *start_after;
	size_t prefix_len;
	bool delimiter;
	struct fz_store_list *out;
	struct fz_buf path; /* "a/b/", the directory being read */
};

/* Can a key that begins with dir ("a/b/") be wanted? */
static bool may_hold(const struct walk *w, const char *dir, size_t n)
{
	if (strncmp(dir, w->prefix, n < w->prefix_len ? n : w->prefix_len) != 0)
		return false;
	/* All keys below dir sort before start_after, unless that itself lies below dir. */
	return !w->start_after || strncmp(dir, w->start_after, n) >= 0;
}

static int entry_type(int fd, const struct dirent *e, struct stat *st)
{
	if (e->d_type == DT_DIR)
		return DT_DIR;
	if (e->d_type != DT_REG && e->d_type != DT_UNKNOWN)
		return DT_LNK;
	if (fstatat(fd, e->d_name, st, AT_SYMLINK_NOFOLLOW) < 0)
		return DT_LNK; /* gone in between */
	return S_ISREG(st->st_mode) ? DT_REG : S_ISDIR(st->st_mode) ? DT_DIR : DT_LNK;
}

static int walk_dir(struct walk *w, int fd, int depth, bool *found, struct fz_err *err);

static int walk_entry(struct walk *w, int fd, const struct dirent *e, int depth, bool *found, struct fz_err *err)
{
	size_t before = w->path.size;
	struct stat st;
	int type = entry_type(fd, e, &st), rc, sub;
	const char *slash;

	if (type == DT_REG && strncmp(e->d_name, TMP_PREFIX, strlen(TMP_PREFIX)) == 0) {
		/* what a put left that was killed; nobody writes a file for a day without touching it */
		if (strcmp(e->d_name, LOCK_NAME) != 0 && fz_now_ms() - (int64_t)st.st_mtim.tv_sec * 1000 > TMP_STALE_MS)
			unlinkat(fd, e->d_name, 0);
		return 0;
	}
	if (type != DT_REG && type != DT_DIR)
		return 0;
	if (fz_buf_addf(&w->path, "%s%s", e->d_name, type == DT_DIR ? "/" : "") < 0)
		return fz_fail_errno(err, ENOMEM, "listing %s", w->d->path);
	rc = 0;
	if (type == DT_REG) {
		if (found)
			*found = true;
		else if (strncmp(fz_buf_str(&w->path), w->prefix, w->prefix_len) == 0)
			rc = store_list_add(w->out, fz_buf_str(&w->path), w->path.size, (uint64_t)st.st_size,
			                    (int64_t)st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000, err);
	} else if (found || may_hold(w, fz_buf_str(&w->path), w->path.size)) {
		bool any = false;

		slash = !found && w->delimiter && w->path.size > w->prefix_len ? "/" : NULL;
		sub = openat(fd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (sub >= 0)
			rc = walk_dir(w, sub, depth + 1, slash ? &any : found, err);
		else if (errno != ENOENT && errno != ENOTDIR && errno != ELOOP)
			rc = fail_io(w->d, errno, "listing", fz_buf_str(&w->path), err);
		if (rc == 0 && any) /* a "directory" only if there is an object in it, as S3 sees it */
			rc = store_list_add(w->out, fz_buf_str(&w->path), w->path.size, 0, 0, err);
	}
	w->path.size = before;
	w->path.data[before] = 0;
	return rc;
}

/* Reads directory fd (taken over). found != NULL: only asks whether there is any object. */
static int walk_dir(struct walk *w, int fd, int depth, bool *found, struct fz_err *err)
{
	struct dirent *e;
	DIR *dir = fdopendir(fd);
	int rc = store_check_cancel(&w->d->store, err);

	if (!dir) {
		fz_close(&fd);
		return fz_fail_errno(err, ENOMEM, "listing %s", w->d->path);
	}
	if (rc == 0 && depth > DEPTH_MAX)
		rc = fz_fail(err, FZ_ESTORE, "%s/%s lies too deep", w->d->path, fz_buf_str(&w->path));
	while (rc == 0 && !(found && *found)) {
		errno = 0;
		e = readdir(dir);
		if (!e) {
			if (errno && errno != ENOENT)
				rc = fail_io(w->d, errno, "listing", fz_buf_str(&w->path), err);
			break;
		}
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			rc = walk_entry(w, fd, e, depth, found, err);
	}
	closedir(dir);
	return rc;
}

static int dir_list(struct fz_store *s, const char *prefix, const char *start_after, bool delimiter,
                    struct fz_store_list *out, struct fz_err *err)
{
	struct walk w = {.d = dir_of(s),
	                 .prefix = prefix,
	                 .start_after = start_after,
	                 .prefix_len = strlen(prefix),
	                 .delimiter = delimiter,
	                 .out = out};
	int rc, fd = open_root(w.d, false, err);

	atomic_fetch_add(&s->requests, 1);
	if (fd < 0)
		return fd == -FZ_ENOTFOUND && w.d->create ? 0 : fd; /* not made yet: empty */
	rc = walk_dir(&w, fd, 0, NULL, err);
	fz_buf_fini(&w.path);
	return rc;
}

/* Removes the directories above key that are empty now. The first that is not ends it. */
static void prune_parents(int root, const char *key)
{
	char *path = strdup(key), *slash;

	while (path && (slash = strrchr(path, '/'))) {
		const char *name;
		int dir;

		*slash = 0;
		dir = open_parent(root, path, false, &name);
		if (dir < 0 || unlinkat(dir, name, AT_REMOVEDIR) < 0) {
			fz_close(&dir);
			break;
		}
		fz_close(&dir);
	}
	free(path);
}

/* Not synced: an object that a power cut brings back is deleted again by the next retention run. */
static int dir_delete(struct fz_store *s, const char *const *keys, size_t n, size_t *failed, struct fz_err *err)
{
	struct dir_store *d = dir_of(s);
	int rc = 0, root = open_root(d, false, err);

	atomic_fetch_add(&s->requests, 1);
	if (root < 0) {
		*failed = n;
		return root;
	}
	for (size_t i = 0; i < n; i++) {
		const char *name;
		int dir = open_parent(root, keys[i], false, &name), e = dir < 0 ? -dir : 0;

		if (e == 0 && unlinkat(dir, name, 0) < 0)
			e = errno;
		fz_close(&dir);
		if (e == 0)
			prune_parents(root, keys[i]);
		if (e == 0 || e == ENOENT || e == ENOTDIR || e == EISDIR)
			continue; /* a directory is no object */
		if (rc == 0)
			rc = fail_io(d, e, "deleting", keys[i], err);
		++*failed;
	}
	fz_close(&root);
	return rc;
}

static void dir_stats(struct fz_store *s, struct fz_store_stats *out)
{
	memcpy(out->conditional_put, "native", 7);
}

static void dir_close(struct fz_store *s)
{
	free(dir_of(s)->path);
	store_base_fini(s);
	free(s);
}

int store_dir_open(struct fz_store **out, const char *url, const struct store_url *parts,
                   const struct fz_store_conf *conf, struct fz_err *err)
{
	static const struct store_ops ops = {
	        .put = dir_put,
	        .put_new = dir_put_new,
	        .get = dir_get,
	        .get_tag = dir_get_tag,
	        .put_if = dir_put_if,
	        .src = dir_src,
	        .list = dir_list,
	        .del = dir_delete,
	        .stats = dir_stats,
	        .close = dir_close,
	};
	struct dir_store *d = calloc(1, sizeof(*d));
	int rc;

	if (!d)
		return fz_fail_errno(err, ENOMEM, "opening %s", url);
	rc = store_base_init(&d->store, &ops, url, err);
	d->path = strdup(parts->path);
	d->create = conf->create;
	if (rc == 0 && !d->path)
		rc = fz_fail_errno(err, ENOMEM, "opening %s", url);
	if (rc < 0)
		dir_close(&d->store);
	else
		*out = &d->store;
	return rc;
}
