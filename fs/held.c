/* held.c - OFD locks on the bytes that SQLite locks, in the backing files: who opens a database around the mount meets
 * SQLITE_BUSY instead of a second lock domain. They live as long as the supervisor, across workers. */
#include "fs/supervisor_priv.h"

#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define SQLITE_PENDING_BYTE 0x40000000
#define SQLITE_LOCK_BYTES   512

void fs_held_sweep(struct fs_super *s)
{
	for (size_t i = 0; i < s->n_held;) {
		struct stat st;

		if (fstat(s->held[i].fd, &st) == 0 && st.st_nlink > 0) {
			i++;
			continue;
		}
		fz_close(&s->held[i].fd);
		s->held[i] = s->held[--s->n_held];
	}
}

int fs_held_lock(struct fs_super *s, const char *path, struct fz_err *err)
{
	struct flock l = {
	        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = SQLITE_PENDING_BYTE, .l_len = SQLITE_LOCK_BYTES};
	struct fs_held *more;
	struct stat st;
	int fd, rc = 0;

	fs_held_sweep(s);
	fd = fs_child_high(fz_open_below(s->rootfd, path, O_RDWR | O_NONBLOCK, 0));
	if (fd < 0 || fstat(fd, &st) < 0) {
		rc = fz_fail_errno(err, errno, "cannot open %s", path);
		goto out;
	}
	for (size_t i = 0; i < s->n_held; i++)
		if (s->held[i].dev == st.st_dev && s->held[i].ino == st.st_ino)
			goto out;
	if (!S_ISREG(st.st_mode) || fcntl(fd, F_OFD_SETLK, &l) < 0) {
		rc = fz_fail(err, FZ_EBUSY, "%s is locked by somebody who goes around the mount", path);
		goto out;
	}
	more = realloc(s->held, (s->n_held + 1) * sizeof(*more));
	if (!more) {
		rc = fz_fail(err, -ENOMEM, "no memory");
		goto out;
	}
	s->held = more;
	s->held[s->n_held++] = (struct fs_held){st.st_dev, st.st_ino, fd};
	fd = -1;
out:
	fz_close(&fd);
	return rc;
}
