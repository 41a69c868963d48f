#include "fs/fence.h"

#include "base/clock.h"
#include "base/file.h"
#include "fs/deadman.h"
#include "fs/locks.h"
#include "ltx/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

void fs_fence_free(struct fs_fence *list)
{
	while (list) {
		struct fs_fence *next = list->next;

		fz_close(&list->db_fd);
		fz_close(&list->shm_fd);
		free(list);
		list = next;
	}
}

/* Of a writer that was killed. While somebody holds RESERVED, readers believe it to be alive, and read what it left half done. */
static bool journal_is_hot(int mountfd, const char *path)
{
	char name[4200];
	uint8_t head[8];
	bool hot;
	int fd;

	snprintf(name, sizeof(name), "%s-journal", path);
	fd = fz_open_below(mountfd, name, O_RDONLY, 0);
	hot = fd >= 0 && fz_pread(fd, head, sizeof(head), 0) == sizeof(head) && ltx_journal_is_hot(head, sizeof(head));
	fz_close(&fd);
	return hot;
}

static int lock_rollback(struct fs_fence *f, int mountfd, uint64_t end_ns)
{
	int rc = fs_lock_within(f->db_fd, FS_LOCK_RESERVED, end_ns);

	if (rc == 0 &&
	    journal_is_hot(mountfd, f->path)) /* SHARED alone keeps everybody from committing, and from reading */
		rc = fs_lock_set(f->db_fd, F_UNLCK, FS_LOCK_RESERVED, 1);
	return rc;
}

/* In WAL mode, and nobody has it open: readers go on coming, and once this host is fenced they cannot make what SQLite needs. */
static int make_shm(int mountfd, const char *path, int db_fd)
{
	struct fz_err err;
	char name[4200];
	uint8_t head[20];
	struct stat st;
	int fd;

	if (fstat(db_fd, &st) < 0 || fz_pread(db_fd, head, sizeof(head), 0) != sizeof(head) || head[18] != 2 ||
	    head[19] != 2)
		return -1;
	snprintf(name, sizeof(name), "%s-wal", path);
	fd = fz_open_like(mountfd, name, &st, &err);
	if (fd < 0)
		return -1;
	fz_close(&fd);
	snprintf(name, sizeof(name), "%s-shm", path);
	return fz_open_like(mountfd, name, &st, &err);
}

static int open_shm(struct fs_deadman *deadman, int mountfd, const char *path, int db_fd)
{
	char name[4200];
	struct statx st;
	int fd = -1;

	snprintf(name, sizeof(name), "%s-shm", path);
	if (deadman && statx(mountfd, name, AT_SYMLINK_NOFOLLOW, STATX_INO, &st) == 0 &&
	    fs_deadman_has(deadman, path, st.stx_ino))
		fd = fs_deadman_share(deadman, path);
	if (fd < 0)
		fd = fz_open_below(mountfd, name, O_RDWR, 0);
	return fd >= 0 || errno != ENOENT ? fd : make_shm(mountfd, path, db_fd);
}

int fs_fence_take(struct fs_fence **list, struct fs_deadman *deadman, int mountfd, const char *path, int wait_ms)
{
	uint64_t end = fz_mono_ns() + (uint64_t)(wait_ms > 0 ? wait_ms : 0) * 1000000;
	struct fs_fence *f;
	int rc;

	for (f = *list; f; f = f->next)
		if (!strcmp(f->path, path))
			return 0;
	f = malloc(sizeof(*f) + strlen(path) + 1);
	if (!f)
		return -ENOMEM;
	strcpy(f->path, path);
	f->next = NULL;
	f->shm_fd = -1;
	/* O_NONBLOCK: a worker that does not know yet whose process this is answers, instead of waiting for its lease (fs/lapse.h) */
	f->db_fd = fz_open_below(mountfd, path, O_RDWR | O_NONBLOCK, 0);
	rc = f->db_fd < 0 ? (errno == ENOENT ? -FZ_ENOTFOUND : -errno) : 0;
	while (rc == 0 && (rc = fs_lock_shared(f->db_fd)) == -EAGAIN && fz_mono_ns() < end) {
		nanosleep(&(struct timespec){.tv_nsec = 300000}, NULL);
		rc = 0;
	}
	if (rc == 0)
		f->shm_fd = open_shm(deadman, mountfd, path, f->db_fd);
	if (rc == 0)
		rc = f->shm_fd >= 0 ? fs_lock_within(f->shm_fd, FS_LOCK_SHM_WRITE, end)
		                    : lock_rollback(f, mountfd, end);
	if (rc < 0) {
		fs_fence_free(f);
		return rc == -EAGAIN ? -FZ_EBUSY : rc;
	}
	f->next = *list;
	*list = f;
	return 0;
}
