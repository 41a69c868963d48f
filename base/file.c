#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LOCK_PAUSE_MS 10
#define LOCK_TRIES    100

void fz_close(int *fd)
{
	int saved = errno;

	if (*fd >= 0)
		close(*fd);
	*fd = -1;
	errno = saved;
}

ssize_t fz_pread(int fd, void *data, size_t n, off_t off)
{
	size_t got = 0;

	while (got < n) {
		ssize_t r = pread(fd, (uint8_t *)data + got, n - got, off + (off_t)got);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		if (r == 0)
			break;
		got += (size_t)r;
	}
	return (ssize_t)got;
}

int fz_pwrite(int fd, const void *data, size_t n, off_t off)
{
	size_t put = 0;

	while (put < n) {
		ssize_t r = pwrite(fd, (const uint8_t *)data + put, n - put, off + (off_t)put);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		if (r == 0)
			return -EIO;
		put += (size_t)r;
	}
	return 0;
}

int fz_write(int fd, const void *data, size_t n)
{
	size_t put = 0;

	while (put < n) {
		ssize_t r = write(fd, (const uint8_t *)data + put, n - put);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		put += (size_t)r;
	}
	return 0;
}

int fz_sync_part(int fd, uint64_t off, uint64_t n)
{
	uint64_t from = off & ~UINT64_C(65535); /* no page is larger */
	size_t size = (size_t)(off + n - from);
	void *map = size ? mmap(NULL, size, PROT_READ, MAP_SHARED, fd, (off_t)from) : MAP_FAILED;
	int rc = 0;

	if (map == MAP_FAILED) /* a file system that maps nothing */
		return fdatasync(fd) < 0 ? -errno : 0;
	if (msync(map, size, MS_SYNC) < 0)
		rc = -errno;
	munmap(map, size);
	return rc;
}

int fz_read_file(int dirfd, const char *path, size_t max_bytes, struct fz_buf *out, struct fz_err *err)
{
	int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);
	int rc = 0;

	if (fd < 0)
		return fz_fail_errno(err, errno, "cannot open %s", path);
	for (;;) {
		uint8_t *p = fz_buf_room(out, 65536);
		ssize_t n;

		if (!p) {
			rc = fz_fail_errno(err, ENOMEM, "reading %s", path);
			break;
		}
		n = read(fd, p, 65536);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			rc = fz_fail_errno(err, errno, "reading %s", path);
			break;
		}
		if (n == 0)
			break;
		out->size += (size_t)n;
		if (out->size > max_bytes) {
			rc = fz_fail_errno(err, EFBIG, "reading %s (limit %zu bytes)", path, max_bytes);
			break;
		}
	}
	if (out->data)
		out->data[out->size] = 0;
	fz_close(&fd);
	return rc;
}

int fz_lock(int fd)
{
	for (int tries = LOCK_TRIES; flock(fd, LOCK_EX | LOCK_NB) < 0; tries--) {
		if ((errno != EWOULDBLOCK && errno != EINTR) || !tries)
			return -errno;
		(void)!poll(NULL, 0, LOCK_PAUSE_MS);
	}
	return 0;
}

int fz_sync_parent(int dirfd, const char *path, struct fz_err *err)
{
	const char *slash = strrchr(path, '/');
	char *dir = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
	int fd, rc = 0;

	if (!dir)
		return fz_fail_errno(err, ENOMEM, "syncing the directory of %s", path);
	fd = openat(dirfd, dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd) < 0)
		rc = fz_fail_errno(err, errno, "syncing directory %s", dir);
	fz_close(&fd);
	free(dir);
	return rc;
}

int fz_write_file(int dirfd, const char *path, const void *data, size_t n, mode_t mode, struct fz_err *err)
{
	static atomic_uint serial;
	char tmp[4096];
	int fd, rc;

	if (snprintf(tmp, sizeof(tmp), "%s.tmp%d.%u", path, (int)getpid(), atomic_fetch_add(&serial, 1)) >=
	    (int)sizeof(tmp))
		return fz_fail_errno(err, ENAMETOOLONG, "writing %s", path);
	fd = openat(dirfd, tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
	if (fd < 0)
		return fz_fail_errno(err, errno, "cannot create %s", tmp);
	rc = fz_pwrite(fd, data, n, 0);
	if (rc == 0 && fsync(fd) < 0)
		rc = -errno;
	fz_close(&fd);
	if (rc == 0 && renameat(dirfd, tmp, dirfd, path) < 0)
		rc = -errno;
	if (rc < 0) {
		unlinkat(dirfd, tmp, 0);
		return fz_fail_errno(err, -rc, "writing %s", path);
	}
	return fz_sync_parent(dirfd, path, err);
}

int fz_open_below(int dirfd, const char *path, int flags, mode_t mode)
{
	struct open_how how = {.flags = (uint64_t)(flags | O_CLOEXEC),
	                       .mode = flags & O_CREAT ? mode & 07777 : 0,
	                       .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
	long fd;

	do {
		fd = syscall(SYS_openat2, dirfd, path, &how, sizeof(how));
		/* EAGAIN: a rename raced with the walk; or, with O_NONBLOCK, somebody has a lease on the file */
	} while (fd < 0 && (errno == EINTR || (errno == EAGAIN && !(flags & O_NONBLOCK))));
	return (int)fd;
}

int fz_open_parent(int dirfd, const char *path, int flags)
{
	const char *slash = strrchr(path, '/');
	char dir[PATH_MAX];

	if (snprintf(dir, sizeof(dir), "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".") >=
	    (int)sizeof(dir)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	return fz_open_below(dirfd, dir, flags | O_DIRECTORY, 0);
}

int fz_mkdirs(int dirfd, const char *path, mode_t mode, struct fz_err *err)
{
	char *p = strdup(path);
	int rc = 0;

	if (!p)
		return fz_fail_errno(err, ENOMEM, "creating %s", path);
	for (char *s = p + 1; rc == 0 && *p; s++) {
		char c = *s;

		if (c != '/' && c != 0)
			continue;
		*s = 0;
		if (mkdirat(dirfd, p, mode) < 0 && errno != EEXIST)
			rc = fz_fail_errno(err, errno, "cannot create directory %s", p);
		*s = c;
		if (c == 0)
			break;
	}
	free(p);
	return rc;
}

DIR *fz_opendir(int dirfd, const char *path)
{
	int fd = openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);

	if (!d)
		fz_close(&fd);
	return d;
}

int fz_remove_tree(int dirfd, const char *path, struct fz_err *err)
{
	struct dirent *e;
	DIR *d;
	int fd, rc = 0;

	if (unlinkat(dirfd, path, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return fz_fail_errno(err, errno, "removing %s", path);
	fd = openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return fz_fail_errno(err, errno, "removing %s", path);
	d = fdopendir(fd);
	if (!d) {
		fz_close(&fd);
		return fz_fail_errno(err, ENOMEM, "removing %s", path);
	}
	while (rc == 0 && (e = readdir(d)))
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
			rc = fz_remove_tree(fd, e->d_name, err);
	closedir(d);
	if (rc == 0 && unlinkat(dirfd, path, AT_REMOVEDIR) < 0 && errno != ENOENT)
		rc = fz_fail_errno(err, errno, "removing %s", path);
	return rc;
}

int fz_open_like(int dirfd, const char *path, const struct stat *like, struct fz_err *err)
{
	int fd = fz_open_below(dirfd, path, O_RDWR | O_CREAT | O_EXCL, like->st_mode & 0777);

	if (fd < 0 && errno == EEXIST)
		fd = fz_open_below(dirfd, path, O_RDWR, 0);
	else if (fd >= 0) {
		(void)fchmod(fd, like->st_mode & 0777); /* whatever the umask is */
		if (fchown(fd, like->st_uid, like->st_gid) < 0 && errno != EPERM) {
			int rc = fz_fail_errno(err, errno, "setting the owner of %s", path);

			fz_close(&fd);
			return rc;
		}
	}
	return fd < 0 ? fz_fail_errno(err, errno, "cannot open %s", path) : fd;
}
