/* ops_virtual.c - requests on what stands below .fazt/ (fs/virtual.h), and poll. Nothing here is cached by the kernel but what it
 * read of a directory, which fs/virtual.c has it drop. */
#include "fs/ops.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

/* What every file system without a poll of its own answers (DEFAULT_POLLMASK). */
#define ALWAYS_READY (POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM)

static void attributes(const struct fs_virtual_stat *v, struct stat *st)
{
	*st = (struct stat){.st_ino = v->node,
	                    .st_mode = v->dir ? S_IFDIR | 0555 : S_IFREG | 0444,
	                    .st_nlink = v->dir ? 2 : 1,
	                    .st_size = v->size_bytes,
	                    .st_blksize = 4096};
}

void fs_vop_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fs_virtual *v = fs_session_of(req)->virtual;
	struct fuse_entry_param e = {0};
	struct fs_virtual_stat at;
	int rc = fs_virtual_is(parent) ? fs_virtual_lookup(v, parent, name, &at)
	                               : fs_virtual_stat(v, fs_virtual_root(), &at);

	if (rc == 0) {
		e.ino = at.node;
		attributes(&at, &e.attr);
	}
	fs_reply_entry_or_err(req, rc, &e);
}

void fs_vop_getattr(fuse_req_t req, fuse_ino_t ino)
{
	struct fs_virtual_stat at;
	struct stat st;
	int rc = fs_virtual_stat(fs_session_of(req)->virtual, ino, &at);

	if (rc < 0) {
		fuse_reply_err(req, -rc);
		return;
	}
	attributes(&at, &st);
	fuse_reply_attr(req, &st, 0);
}

/* Offsets: 1 and 2 follow "." and "..", then each entry's own number. */
static int do_readdir(struct fs_session *s, fuse_req_t req, uint64_t dir, size_t size, uint64_t off, size_t *filled)
{
	struct fs_virtual_stat at;
	struct stat st;
	int rc = fs_virtual_stat(s->virtual, dir, &at);

	*filled = 0;
	while (rc == 0) {
		uint64_t cookie = off < 2 ? 0 : off - 2;
		char name[256] = "..";
		size_t need;

		if (off >= 2) {
			rc = fs_virtual_next(s->virtual, dir, &cookie, name, &at);
			if (rc <= 0)
				break;
			cookie += 2;
		} else {
			cookie = off + 1;
			name[cookie] = 0; /* "." is the first */
		}
		attributes(&at, &st);
		need = fuse_add_direntry(req, (char *)fs_self->out + *filled, size - *filled, name, &st, (off_t)cookie);
		if (need > size - *filled)
			break;
		*filled += need;
		off = cookie;
		rc = 0;
	}
	return rc < 0 && !*filled ? rc : 0;
}

void fs_vop_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off)
{
	size_t n;
	int rc = do_readdir(fs_session_of(req), req, ino, size, (uint64_t)off, &n);

	if (rc < 0)
		fuse_reply_err(req, -rc);
	else
		fuse_reply_buf(req, (char *)fs_self->out, n);
}

void fs_vop_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	bool writes = (fi->flags & O_ACCMODE) != O_RDONLY || (fi->flags & O_TRUNC);
	int rc = writes ? -EROFS : fs_virtual_file_open(fs_session_of(req)->virtual, ino, &fi->fh);

	fi->direct_io = 1;
	if (rc < 0)
		fuse_reply_err(req, -rc);
	else
		fuse_reply_open(req, fi);
}

void fs_vop_release(fuse_req_t req, struct fuse_file_info *fi)
{
	fs_virtual_file_close(fs_session_of(req)->virtual, fi->fh);
	fuse_reply_err(req, 0);
}

void fs_vop_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	ssize_t n = fs_virtual_read(fs_session_of(req)->virtual, ino, fi->fh, fs_self->out, size, (uint64_t)off);

	if (n < 0)
		fuse_reply_err(req, (int)-n);
	else
		fuse_reply_buf(req, (char *)fs_self->out, (size_t)n);
}

/* The number by which the kernel is told that a poll may be repeated: libfuse keeps it to itself. 0: nobody waits. */
static uint64_t waiter_of(const struct fs_thread *me)
{
	struct fuse_poll_in in;

	memcpy(&in, me->buf + sizeof(struct fuse_in_header), sizeof(in));
	return in.flags & FUSE_POLL_SCHEDULE_NOTIFY ? in.kh : 0;
}

/* Answered for ordinary files as well: ENOSYS once, and the kernel would never ask again, about none. */
void fs_op_poll(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct fuse_pollhandle *ph)
{
	unsigned events = ALWAYS_READY;

	if (fs_virtual_is(ino))
		events = fs_virtual_poll(fs_session_of(req)->virtual, ino, fi->fh, waiter_of(fs_self))
		                 ? POLLIN | POLLRDNORM | POLLPRI
		                 : 0;
	if (ph)
		fuse_pollhandle_destroy(ph);
	fuse_reply_poll(req, events);
}
