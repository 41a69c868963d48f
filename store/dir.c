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
#include "store/dirpriv.h"
#include "store/url.h"

#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHUNK_BYTES = 128 * 1024, RACES_MAX = 100 };

/* One sentence for what the disk said; ENOENT and ENOTDIR are the caller's to judge. */
int store_dir_fail_io(struct dir_store *d, int e, const char *what, const char *key, struct fz_err *err)
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
int store_dir_open_root(struct dir_store *d, bool writing, struct fz_err *err)
{
	int fd = open(d->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc;

	if (fd < 0 && errno == ENOENT && writing && d->create) {
		rc = fz_mkdirs(AT_FDCWD, d->path, 0700, NULL);
		if (rc < 0)
			return store_dir_fail_io(d, -rc, "cannot create the directory", "", err);
		rc = fz_sync_parent(AT_FDCWD, d->path, err);
		if (rc < 0)
			return rc;
		fd = open(d->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	if (fd >= 0)
		return fd;
	if (errno == ENOENT)
		return fz_fail(
		        err, writing ? FZ_ESTORE : FZ_ENOTFOUND, "the store's directory %s does not exist%s", d->path,
		        writing ? " (create it, or mount its disk)" : ": is the name right, and its disk mounted?");
	if (errno == ENOTDIR)
		return fz_fail(err, FZ_ESTORE, "the store's path %s is not a directory", d->path);
	return store_dir_fail_io(d, errno, "cannot open the directory", "", err);
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
	char tmp[sizeof(STORE_DIR_TMP) + 24];
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
	if (strstr(key, "/" STORE_DIR_TMP) || strncmp(key, STORE_DIR_TMP, strlen(STORE_DIR_TMP)) == 0)
		return fz_fail(err, FZ_EUSAGE, "%s: names with " STORE_DIR_TMP " are for files being written", key);
	t->root = store_dir_open_root(d, true, err);
	if (t->root < 0)
		return t->root;
	randombytes_buf(rnd, sizeof(rnd));
	memcpy(t->tmp, STORE_DIR_TMP, sizeof(STORE_DIR_TMP));
	sodium_bin2hex(t->tmp + sizeof(STORE_DIR_TMP) - 1, 2 * sizeof(rnd) + 1, rnd, sizeof(rnd));
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
	return store_dir_fail_io(d, e, "cannot create the file", key, err);
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
			rc = store_dir_fail_io(d, -rc, "writing", key, err);
		off += n;
	}
	free(buf);
	if (rc == 0 && fsync(t->fd) < 0) /* a full disk may tell only now (delayed allocation, NFS) */
		rc = store_dir_fail_io(d, errno, "syncing", key, err);
	if (rc == 0)
		atomic_fetch_add(&d->store.bytes_out, src->size_bytes);
	return rc;
}

int store_dir_put(struct fz_store *s, const char *key, struct fz_src *src, struct fz_err *err)
{
	struct dir_store *d = store_dir_of(s);
	struct draft t;
	int rc = draft_init(d, &t, key, err);

	store_count(s, FZ_STORE_PUT);
	if (rc == 0)
		rc = draft_copy(d, &t, key, src, err);
	if (rc == 0 && renameat(t.dir, t.tmp, t.dir, t.name) < 0)
		rc = errno == EISDIR || errno == ENOTEMPTY || errno == EEXIST
		             ? fz_fail(err, FZ_ESTORE, "%s/%s: a directory is in the way", d->path, key)
		             : store_dir_fail_io(d, errno, "renaming", key, err);
	else if (rc == 0)
		fz_close(&t.fd); /* nothing to unlink any more */
	if (rc == 0 && fsync(t.dir) < 0)
		rc = store_dir_fail_io(d, errno, "syncing the directory", key, err);
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
	struct dir_store *d = store_dir_of(s);
	struct fz_src *src = NULL;
	struct draft t = {.root = -1, .dir = -1, .fd = -1};
	int rc = fz_src_mem(&src, data, n, err);

	store_count(s, FZ_STORE_PUT);
	if (rc == 0)
		rc = draft_init(d, &t, key, err);
	if (rc == 0)
		rc = draft_copy(d, &t, key, src, err);
	if (rc == 0) {
		rc = draft_claim(&t);
		if (rc == -EEXIST)
			rc = fz_fail(err, FZ_ECONFLICT, "%s/%s exists already", d->path, key);
		else if (rc < 0)
			rc = store_dir_fail_io(d, -rc, "creating", key, err);
	}
	if (rc == 0 && fsync(t.dir) < 0)
		rc = store_dir_fail_io(d, errno, "syncing the directory", key, err);
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

	root = store_dir_open_root(d, false, err);
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
		fd = store_dir_fail_io(d, rc == ENOTDIR ? ENOENT : rc, "cannot open", key, err);
	} else {
		*size_bytes = (uint64_t)st.st_size;
	}
	fz_close(&dir);
	fz_close(&root);
	return fd;
}

int store_dir_get(struct fz_store *s, const char *key, size_t max_bytes, struct fz_buf *out, struct fz_err *err)
{
	struct dir_store *d = store_dir_of(s);
	uint64_t size = 0;
	uint8_t *room;
	ssize_t got;
	int rc = 0, fd = open_object(d, key, &size, err);

	store_count(s, FZ_STORE_GET);
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
		rc = store_dir_fail_io(d, (int)-got, "reading", key, err);
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
	store_count(&r->d->store, FZ_STORE_GET);
	got = fz_pread(r->fd, data, n, (off_t)off);
	if (got < 0)
		return store_dir_fail_io(r->d, (int)-got, "reading", r->key, err);
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
	struct dir_store *d = store_dir_of(s);
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
	struct dir_store *d = store_dir_of(s);
	int rc = 0, root = store_dir_open_root(d, false, err);

	store_count(s, FZ_STORE_DELETE);
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
			rc = store_dir_fail_io(d, e, "deleting", keys[i], err);
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
	free(store_dir_of(s)->path);
	store_base_fini(s);
	free(s);
}

int store_dir_open(struct fz_store **out, const char *url, const struct store_url *parts,
                   const struct fz_store_conf *conf, struct fz_err *err)
{
	static const struct store_ops ops = {
	        .put = store_dir_put,
	        .put_new = dir_put_new,
	        .get = store_dir_get,
	        .get_tag = store_dir_get_tag,
	        .put_if = store_dir_put_if,
	        .src = dir_src,
	        .list = store_dir_list,
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
