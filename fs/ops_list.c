/* ops_list.c - what directories and links hold. */
#include "fs/ops.h"

#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

void fs_op_readlink(fuse_req_t req, fuse_ino_t ino)
{
	struct fs_session *s = fs_session_of(req);
	char path[PATH_MAX], target[PATH_MAX];
	ssize_t n = -1;
	int rc;

	pthread_rwlock_rdlock(&s->tab.ns);
	rc = fs_path(s, ino, path);
	if (rc == 0) {
		n = readlinkat(s->rootfd, path, target, sizeof(target) - 1);
		rc = n < 0 ? -errno : 0;
	}
	pthread_rwlock_unlock(&s->tab.ns);
	if (rc < 0) {
		fuse_reply_err(req, -rc);
		return;
	}
	target[n] = 0;
	fuse_reply_readlink(req, target);
}

/* Refused once: opening and closing a directory costs no request afterwards, and the kernel keeps what it read. */
void fs_op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	fuse_reply_err(req, ENOSYS);
}

static int open_dir(struct fs_session *s, uint64_t node)
{
	char path[PATH_MAX];
	int fd;

	pthread_rwlock_rdlock(&s->tab.ns);
	fd = fs_path(s, node, path);
	if (fd == 0)
		fd = fs_root_open(s, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
	pthread_rwlock_unlock(&s->tab.ns);
	return fd;
}

struct kernel_dirent {
	uint64_t ino;
	int64_t off;
	uint16_t reclen;
	uint8_t type;
	char name[];
};

/* Offsets are the backing file system's own cookies: stable whatever happens to other names, and across workers. */
static int do_readdir(struct fs_session *s, fuse_req_t req, uint64_t node, size_t size, off_t off, size_t *filled)
{
	uint8_t in[8192] __attribute__((aligned(8)));
	int fd = open_dir(s, node), rc = 0;
	bool full = false;

	*filled = 0;
	if (fd < 0)
		return fd;
	if (off && lseek(fd, off, SEEK_SET) < 0)
		rc = -errno;
	while (rc == 0 && !full) {
		long n = syscall(SYS_getdents64, fd, in, sizeof(in));

		if (n <= 0) {
			rc = n < 0 ? -errno : 0;
			break;
		}
		for (long at = 0; at < n && !full;) {
			const struct kernel_dirent *d = (const struct kernel_dirent *)(const void *)(in + at);
			struct stat st = {.st_ino = d->ino, .st_mode = (mode_t)d->type << 12};
			size_t need;

			at += d->reclen;
			if (fs_is_state(node, d->name)) /* can be entered, is not listed: cp, tar and rm pass it by */
				continue;
			need = fuse_add_direntry(req, (char *)fs_self->out + *filled, size - *filled, d->name, &st,
			                         d->off);
			full = need > size - *filled;
			if (!full)
				*filled += need;
		}
	}
	fz_close(&fd);
	return *filled ? 0 : rc;
}

void fs_op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	size_t n;
	int rc;

	if (size > FS_MAX_WRITE)
		size = FS_MAX_WRITE;
	if (fs_virtual_is(ino)) {
		fs_vop_readdir(req, ino, size, off);
		return;
	}
	rc = do_readdir(fs_session_of(req), req, ino, size, off, &n);
	if (rc < 0)
		fuse_reply_err(req, -rc);
	else
		fuse_reply_buf(req, (char *)fs_self->out, n);
}

void fs_op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	struct fs_session *s = fs_session_of(req);
	int fd = fs_virtual_is(ino) ? -EINVAL : open_dir(s, ino), rc = fd;

	if (fd >= 0)
		rc = fsync(fd) < 0 ? -errno : 0;
	atomic_fetch_add_explicit(&s->n_fsync, 1, memory_order_relaxed);
	fz_close(&fd);
	fs_reply_rc(req, rc);
}
