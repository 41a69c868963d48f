#include "fs/locks.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <time.h>

int fs_lock_set(int fd, short type, off_t start, off_t len)
{
	struct flock f = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len};

	return fcntl(fd, F_OFD_SETLK, &f) < 0 ? -errno : 0;
}

int fs_lock_shared(int fd)
{
	int rc = fs_lock_set(fd, F_RDLCK, FS_LOCK_PENDING, 1);

	if (rc < 0)
		return rc;
	rc = fs_lock_set(fd, F_RDLCK, FS_LOCK_SHARED, FS_LOCK_SHARED_LEN);
	fs_lock_set(fd, F_UNLCK, FS_LOCK_PENDING, 1);
	return rc;
}

int fs_lock_within(int fd, off_t byte, uint64_t end_ns)
{
	int rc;

	while ((rc = fs_lock_set(fd, F_WRLCK, byte, 1)) == -EAGAIN && fz_mono_ns() < end_ns)
		nanosleep(&(struct timespec){.tv_nsec = 300000}, NULL);
	return rc == -EAGAIN || rc == -EACCES ? -FZ_EBUSY : rc;
}
