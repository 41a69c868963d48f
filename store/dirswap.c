/* dirswap.c - compare and swap in a directory store: the tag is the SHA-256 of the content, and a lock is held meanwhile. */
#include "store/dirpriv.h"

#include "base/clock.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>

enum { LOCK_MS = 1000, TAGGED_MAX = 1 << 20 };

/* The tag of bytes: equal bytes have equal tags, which is all that the header promises. */
static void tag_of(const struct fz_buf *b, char tag[static FZ_STORE_TAG])
{
	uint8_t hash[crypto_hash_sha256_BYTES];

	crypto_hash_sha256(hash, b->data, b->size);
	sodium_bin2hex(tag, FZ_STORE_TAG, hash, sizeof(hash));
}

int store_dir_get_tag(struct fz_store *s, const char *key, size_t max_bytes, struct fz_buf *out,
                      char tag[static FZ_STORE_TAG], struct fz_err *err)
{
	struct fz_buf b = {0};
	int rc = store_dir_get(s, key, max_bytes, &b, err);

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
	int fd = openat(root, STORE_DIR_LOCK, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);

	if (fd < 0)
		return store_dir_fail_io(d, errno, "cannot lock", STORE_DIR_LOCK, err);
	while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		int e = errno;

		if (e == EWOULDBLOCK && fz_mono_ns() < end) {
			nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
			continue;
		}
		fz_close(&fd);
		return e == EWOULDBLOCK ? fz_fail(err, FZ_ETIMEOUT, "%s/%s is locked by another process", d->path,
		                                  STORE_DIR_LOCK)
		                        : store_dir_fail_io(d, e, "cannot lock", STORE_DIR_LOCK, err);
	}
	return fd;
}

int store_dir_put_if(struct fz_store *s, const char *key, const void *data, size_t n, char tag[static FZ_STORE_TAG],
                     struct fz_err *err)
{
	struct dir_store *d = store_dir_of(s);
	char there[FZ_STORE_TAG] = "";
	struct fz_buf b = {0};
	struct fz_src *src = NULL;
	int root, lock = -1, rc;

	root = store_dir_open_root(d, true, err);
	if (root < 0)
		return root;
	lock = lock_root(d, root, err);
	rc = lock < 0 ? lock : store_dir_get(s, key, TAGGED_MAX, &b, err);
	if (rc == 0)
		tag_of(&b, there);
	if (rc == -FZ_ENOTFOUND)
		rc = 0;
	if (rc == 0 && strcmp(there, tag) != 0)
		rc = fz_fail(err, FZ_ECONFLICT, "%s/%s has changed", d->path, key);
	if (rc == 0)
		rc = fz_src_mem(&src, data, n, err);
	if (rc == 0)
		rc = store_dir_put(s, key, src, err);
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
