/* recfs.c - a small recording filesystem for tests/e2e/powerloss.py: one file, "disk", whose every write and flush is
 * appended to a log before it is answered. A loop device with ext4 lies on that file; replaying the log up to any flush,
 * plus any subset of the writes after it, gives a disk as a power cut could have left it.
 *   recfs MOUNTPOINT IMAGE LOG COUNTER
 * LOG: records of 24 bytes {u32 'W' or 'F', u32 len, u64 offset, u64 serial}, little-endian, each W followed by its data.
 * COUNTER: 8 bytes, the number of log bytes written so far; whoever acknowledges something notes it. */
#define FUSE_USE_VERSION 31
#include <errno.h>
#include <fcntl.h>
#include <fuse3/fuse.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static struct {
	int image, log;
	volatile uint64_t *counter;
	uint64_t serial;
	pthread_mutex_t mu; /* order of the log = order of the image */
} rec = {.image = -1, .log = -1, .mu = PTHREAD_MUTEX_INITIALIZER};

struct record {
	uint32_t type, len;
	uint64_t off, serial;
};

static int append(uint32_t type, const void *data, uint32_t len, uint64_t off)
{
	struct record r = {type, len, off, ++rec.serial};

	if (write(rec.log, &r, sizeof(r)) != (ssize_t)sizeof(r) || (len && write(rec.log, data, len) != (ssize_t)len))
		return -EIO;
	__atomic_fetch_add(rec.counter, sizeof(r) + len, __ATOMIC_SEQ_CST);
	return 0;
}

static int rec_getattr(const char *path, struct stat *st, struct fuse_file_info *fi)
{
	memset(st, 0, sizeof(*st));
	if (!strcmp(path, "/")) {
		st->st_mode = S_IFDIR | 0700;
		st->st_nlink = 2;
		return 0;
	}
	if (strcmp(path, "/disk"))
		return -ENOENT;
	return fstat(rec.image, st) < 0 ? -errno : 0;
}

static int rec_open(const char *path, struct fuse_file_info *fi)
{
	return strcmp(path, "/disk") ? -ENOENT : 0;
}

static int rec_read(const char *path, char *buf, size_t n, off_t off, struct fuse_file_info *fi)
{
	ssize_t r = pread(rec.image, buf, n, off);

	return r < 0 ? -errno : (int)r;
}

static int rec_write(const char *path, const char *buf, size_t n, off_t off, struct fuse_file_info *fi)
{
	ssize_t r;
	int rc;

	pthread_mutex_lock(&rec.mu);
	r = pwrite(rec.image, buf, n, off);
	rc = r < 0 ? -errno : append('W', buf, (uint32_t)r, (uint64_t)off);
	pthread_mutex_unlock(&rec.mu);
	return rc < 0 ? rc : (int)r;
}

static int rec_fsync(const char *path, int datasync, struct fuse_file_info *fi)
{
	int rc;

	pthread_mutex_lock(&rec.mu);
	rc = append('F', NULL, 0, 0);
	pthread_mutex_unlock(&rec.mu);
	return rc;
}

/* discard: recorded as zeroes would be; the loop device falls back when it is refused */
static int rec_fallocate(const char *path, int mode, off_t off, off_t len, struct fuse_file_info *fi)
{
	return -EOPNOTSUPP;
}

static const struct fuse_operations ops = {.getattr = rec_getattr,
                                           .open = rec_open,
                                           .read = rec_read,
                                           .write = rec_write,
                                           .fsync = rec_fsync,
                                           .fallocate = rec_fallocate};

int main(int argc, char **argv)
{
	static char foreground[] = "-f", option[] = "-o", options[] = "fsname=recfs,allow_other";
	char *args[] = {argv[0], foreground, option, options, argc > 1 ? argv[1] : NULL, NULL};
	int fd;

	if (argc != 5) {
		fprintf(stderr, "usage: recfs MOUNTPOINT IMAGE LOG COUNTER\n");
		return 2;
	}
	rec.image = open(argv[2], O_RDWR | O_CLOEXEC);
	rec.log = open(argv[3], O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
	fd = open(argv[4], O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (rec.image < 0 || rec.log < 0 || fd < 0 || ftruncate(fd, 8) < 0) {
		perror("recfs");
		return 1;
	}
	rec.counter = mmap(NULL, 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (rec.counter == MAP_FAILED) {
		perror("recfs");
		return 1;
	}
	return fuse_main(5, args, &ops, NULL);
}
