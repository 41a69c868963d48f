#include "fs/alive.h"

#include "base/clock.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FILE_NAME "alive"

static int open_file(int statefd)
{
	return openat(statefd, FILE_NAME, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
}

static struct flock byte_of(enum fs_alive which)
{
	return (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = which, .l_len = 1};
}

int fs_alive_claim(int statefd, enum fs_alive which, int wait_ms, struct fz_err *err)
{
	uint64_t end = fz_mono_ns() + (uint64_t)wait_ms * 1000000;
	int fd = open_file(statefd);

	if (fd < 0)
		return fz_fail_errno(err, errno, "cannot open " FILE_NAME " in the state directory");
	for (;;) {
		struct flock l = byte_of(which);

		if (fcntl(fd, F_SETLK, &l) == 0)
			return 0; /* fd stays open: the lock ends with the process */
		if (errno != EAGAIN && errno != EACCES && errno != EINTR) {
			int saved = errno;

			fz_close(&fd);
			return fz_fail_errno(err, saved, "cannot lock " FILE_NAME " in the state directory");
		}
		if (fz_mono_ns() >= end)
			break;
		(void)!poll(NULL, 0, 5);
	}
	struct flock l = byte_of(which);
	if (fcntl(fd, F_GETLK, &l) < 0 || l.l_type == F_UNLCK)
		l.l_pid = 0;
	fz_close(&fd);
	return fz_fail(err, FZ_EBUSY, "process %d still serves this mount", (int)l.l_pid);
}

pid_t fs_alive_find(int statefd, enum fs_alive which, int *pidfd)
{
	int fd = open_file(statefd);
	struct flock l = byte_of(which);
	pid_t pid = 0;

	*pidfd = -1;
	if (fd >= 0 && fcntl(fd, F_GETLK, &l) == 0 && l.l_type != F_UNLCK && l.l_pid > 0) {
		pid = l.l_pid;
		*pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
		/* It is still the one that holds it: then the pidfd is its, and not of who got its number later. */
		l = byte_of(which);
		if (*pidfd < 0 || fcntl(fd, F_GETLK, &l) < 0 || l.l_type == F_UNLCK || l.l_pid != pid) {
			fz_close(pidfd);
			pid = 0;
		}
	}
	fz_close(&fd);
	return pid;
}
