/* file.h - files done right: whole reads and writes, atomic replacement, directory sync. All paths are relative to a
 * directory descriptor (AT_FDCWD works), since the state directory is hidden by the mount and reached by descriptor. */
#ifndef FZ_BASE_FILE_H
#define FZ_BASE_FILE_H

#include "base/buf.h"

#include <dirent.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>

/* Closes *fd if it is >= 0 and sets it to -1. Keeps errno. */
void fz_close(int *fd);
/* Read exactly n bytes at off. Returns n, fewer at the end of the file, or -errno. Restarts after EINTR. */
ssize_t fz_pread(int fd, void *data, size_t n, off_t off);
/* Write all n bytes at off, or return -errno. */
int fz_pwrite(int fd, const void *data, size_t n, off_t off) FZ_MUST_CHECK;
/* Write all n bytes at the descriptor's position (files, pipes, sockets). */
int fz_write(int fd, const void *data, size_t n) FZ_MUST_CHECK;
/* Like fdatasync(), for the bytes [off, off + n) of a file that is open for reading and writing: 0 or -errno. It goes through a
 * mapping. Where the file lies on a FUSE mount with passthrough the kernel then syncs the file behind it, while an fdatasync() would keep every
 * writer of the file waiting for the FSYNC request (fuse_fsync() holds the inode's lock). */
int fz_sync_part(int fd, uint64_t off, uint64_t n) FZ_MUST_CHECK;
/* Appends the whole file to *out; -EFBIG when larger than max_bytes, -ENOENT when there is none. */
int fz_read_file(int dirfd, const char *path, size_t max_bytes, struct fz_buf *out, struct fz_err *err) FZ_MUST_CHECK;
/* Replaces path atomically: temporary name, write, fsync, rename, fsync of the directory. mode as for open(2). */
int fz_write_file(int dirfd, const char *path, const void *data, size_t n, mode_t mode,
                  struct fz_err *err) FZ_MUST_CHECK;
/* An exclusive flock(2); where somebody has one it is tried for about a second, since a child that has not come to its exec yet holds what its
 * parent, long gone, had locked. 0 or -errno. */
int fz_lock(int fd) FZ_MUST_CHECK;
/* fsync of the directory that holds path. */
int fz_sync_parent(int dirfd, const char *path, struct fz_err *err) FZ_MUST_CHECK;
/* Opens path, as fz_open_below(), for reading and writing. Where there is none it is made, with mode and owner of like (who may not give it away keeps it): who
 * can use one can use the other. Returns the descriptor. */
int fz_open_like(int dirfd, const char *path, const struct stat *like, struct fz_err *err) FZ_MUST_CHECK;
/* openat(2) of what lies below dirfd: no symbolic link is followed, ELOOP, and no ".." out of it. flags: O_CLOEXEC is added. */
int fz_open_below(int dirfd, const char *path, int flags, mode_t mode);
/* The directory below dirfd that holds path, in the same way; O_PATH is enough for names in it. */
int fz_open_parent(int dirfd, const char *path, int flags);
/* The entries of a directory, for readdir() and closedir(); NULL, and errno. */
DIR *fz_opendir(int dirfd, const char *path);
/* mkdir -p with mode; exists already is success. */
int fz_mkdirs(int dirfd, const char *path, mode_t mode, struct fz_err *err) FZ_MUST_CHECK;
/* rm -rf below dirfd; a missing path is success. */
int fz_remove_tree(int dirfd, const char *path, struct fz_err *err) FZ_MUST_CHECK;

#endif
