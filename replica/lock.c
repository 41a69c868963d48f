#include "replica/lock.h"

#include "base/clock.h"

#include <errno.h>
#include <time.h>

static int once(int fd, short type, int64_t start, int64_t len)
{
	struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len};

	while (fcntl(fd, F_OFD_SETLK, &l) < 0) {
		if (errno == EINTR)
			continue;
		return errno == EACCES ? -EAGAIN : -errno;
	}
	return 0;
}

int replica_lock(int fd, short type, int64_t start, int64_t len, uint64_t deadline_ns)
{
	unsigned tries = 0;

	for (;;) {
		uint64_t now = fz_mono_ns();
		int rc = once(fd, type, start, len);

		if (rc != -EAGAIN || now >= deadline_ns)
			return rc;
		/* F_OFD_SETLKW knows no deadline, so ask again and again; at uneven times, and often, since an application
		 * that commits without a pause leaves gaps of some ten microseconds only */
		nanosleep(&(struct timespec){0, (long)(50000 + now / 64 % (tries < 10000 ? 200000 : 1000000))}, NULL);
		tries++;
	}
}

int replica_lock_test(int fd, int64_t start, int64_t len)
{
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = start, .l_len = len};

	return fcntl(fd, F_OFD_GETLK, &l) < 0 ? -errno : l.l_type;
}

int replica_lock_shared(int fd, uint64_t deadline_ns)
{
	int rc = replica_lock(fd, F_RDLCK, REPLICA_LOCK_PENDING, 1, deadline_ns);

	if (rc < 0)
		return rc;
	rc = replica_lock(fd, F_RDLCK, REPLICA_LOCK_SHARED, REPLICA_LOCK_SHARED_N, deadline_ns);
	(void)replica_lock(fd, F_UNLCK, REPLICA_LOCK_PENDING, 1, 0);
	return rc;
}
