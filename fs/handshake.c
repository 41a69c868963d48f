/* handshake.c - the first words with the kernel, and the bytes of replies that libfuse 3.14 does not know.
 *
 * The kernel sends INIT once. The first worker saves the request and its (patched) reply in the memfd; each worker feeds the
 * saved request to libfuse under a unique of its own and swallows the answer. States in fs/shared.h, init_state; a death in
 * any of them is made good by the next worker. */
#include "fs/session_priv.h"

#include "fs/backing.h"

#include <errno.h>
#include <linux/fuse.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

/* ---- replies ---- */

static size_t total(const struct iovec *v, int n)
{
	size_t bytes = 0;

	for (int i = 0; i < n; i++)
		bytes += v[i].iov_len;
	return bytes;
}

static size_t flatten(uint8_t *out, size_t cap, const struct iovec *v, int n)
{
	size_t bytes = 0;

	for (int i = 0; i < n; i++) {
		if (v[i].iov_len > cap - bytes)
			return 0;
		memcpy(out + bytes, v[i].iov_base, v[i].iov_len);
		bytes += v[i].iov_len;
	}
	return bytes;
}

#if !FS_NATIVE_PASSTHROUGH
static void or32(uint8_t *p, uint32_t bits)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	v |= bits;
	memcpy(p, &v, sizeof(v));
}

/* open_flags and backing_id of a struct fuse_open_out. */
static void patch_open(uint8_t *open_out, int32_t id)
{
	or32(open_out + 8, FS_FOPEN_PASSTHROUGH);
	memcpy(open_out + 12, &id, sizeof(id));
}

static void patch_reply(struct iovec *v, int n)
{
	struct fs_thread *me = fs_self;

	if (!me || !me->backing_id || n != 2)
		return;
	if (me->opcode == FUSE_OPEN && v[1].iov_len == sizeof(struct fuse_open_out))
		patch_open(v[1].iov_base, me->backing_id);
	if (me->opcode == FUSE_CREATE && v[1].iov_len == sizeof(struct fuse_entry_out) + sizeof(struct fuse_open_out))
		patch_open((uint8_t *)v[1].iov_base + sizeof(struct fuse_entry_out), me->backing_id);
}
#endif

/* struct fuse_init_out: flags at 12, flags2 at 32, max_stack_depth at 36 (newer than Debian 12's header). */
static void patch_init(struct fs_session *s, uint8_t *reply, size_t bytes)
{
#if !FS_NATIVE_PASSTHROUGH
	uint32_t depth = 1;

	if (!s->passthrough || bytes < sizeof(struct fuse_out_header) + 40)
		return;
	reply += sizeof(struct fuse_out_header);
	or32(reply + 12, FS_INIT_EXT);
	or32(reply + 32, FS_INIT2_PASSTHROUGH);
	memcpy(reply + 36, &depth, sizeof(depth));
#else
	(void)s, (void)reply, (void)bytes;
#endif
}

static void keep_init_reply(struct fs_session *s, const struct iovec *v, int n)
{
	struct fs_shared *sh = s->sh;

	if (sh->init_state >= 2)
		return;
	sh->init_reply_bytes = (uint32_t)flatten(sh->init_reply, sizeof(sh->init_reply), v, n);
	patch_init(s, sh->init_reply, sh->init_reply_bytes);
	memcpy(sh->init_reply + offsetof(struct fuse_out_header, unique), &sh->init_unique, sizeof(uint64_t));
	atomic_store(&sh->init_state, 2);
}

ssize_t fs_reply_writev(int fd, struct iovec *v, int n, void *userdata)
{
	struct fs_session *s = userdata;
	struct fs_thread *me = fs_self;
	const struct fuse_out_header *h = v[0].iov_base;
	ssize_t rc;

	if (h->unique == FS_SYNTHETIC) {
		keep_init_reply(s, v, n);
		return (ssize_t)total(v, n);
	}
	if (me && me->abandoned && (h->unique & ~FS_RESENT) == me->unique)
		return (ssize_t)total(v, n); /* the next worker answers it */
#if !FS_NATIVE_PASSTHROUGH
	if (!h->error)
		patch_reply(v, n);
#endif
	if (me && !s->resend && h->len <= FS_REPLY_BYTES && (h->unique & ~FS_RESENT) == me->unique) {
		/* Should we die in the write, the next worker cannot know whether it arrived: it sends these bytes again
		 * and never runs the request again, which might undo what the application did since. */
		me->slot->reply_bytes = (uint32_t)flatten(me->slot->reply, FS_REPLY_BYTES, v, n);
		atomic_store(&me->slot->replying, me->unique);
	}
	FS_CRASHPOINT(reply);
	rc = writev(fd, v, n);
	FS_CRASHPOINT(replied);
	return rc;
}

/* ---- handshake ---- */

int fs_ask_resend(int fusefd)
{
	struct fuse_out_header h = {.len = sizeof(h), .error = FS_NOTIFY_RESEND_CODE};

	return write(fusefd, &h, sizeof(h)) == sizeof(h) ? 0 : -errno;
}

static int read_init(struct fs_session *s, struct fz_err *err)
{
	struct fs_shared *sh = s->sh;
	uint8_t *buf = fs_shared_buf(sh, 0);
	const struct fuse_in_header *h = (const struct fuse_in_header *)(const void *)buf;
	ssize_t n;

	if (sh->starts > 1)
		(void)fs_ask_resend(s->fusefd); /* the first worker may have died with INIT in its hands */
	do {
		n = read(s->fusefd, buf, FS_BUF_BYTES);
	} while (n < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOENT));
	if (n < 0)
		return fz_fail_errno(err, errno, "no handshake with the kernel");
	if (n < (ssize_t)(sizeof(*h) + 16) || h->opcode != FUSE_INIT || (size_t)n > sizeof(sh->init))
		return fz_fail(err, FZ_EINTERNAL, "the kernel's first request is not INIT");
	memcpy(sh->init, buf, (size_t)n);
	sh->init_bytes = (uint32_t)n;
	sh->init_unique = h->unique;
	memset(buf, 0, sizeof(*h));
	atomic_store(&sh->init_state, 1);
	return 0;
}

static uint32_t init_flags2(const struct fs_shared *sh)
{
	uint32_t flags, flags2;

	memcpy(&flags, sh->init + sizeof(struct fuse_in_header) + 12, sizeof(flags));
	memcpy(&flags2, sh->init + sizeof(struct fuse_in_header) + 16, sizeof(flags2));
	return (flags & FS_INIT_EXT) && sh->init_bytes >= sizeof(struct fuse_in_header) + 20 ? flags2 : 0;
}

int fs_handshake(struct fs_session *s, struct fz_err *err)
{
	struct fs_shared *sh = s->sh;
	struct fuse_buf fb;
	uint8_t init[sizeof(sh->init)] __attribute__((aligned(8)));
	uint64_t synthetic = FS_SYNTHETIC;
	int rc;

	if (sh->init_state < 1) {
		rc = read_init(s, err);
		if (rc < 0)
			return rc;
	}
	s->passthrough = (init_flags2(sh) & FS_INIT2_PASSTHROUGH) && !sh->no_passthrough;
	s->resend = (init_flags2(sh) & FS_INIT2_HAS_RESEND) && !sh->no_resend;
	memcpy(init, sh->init, sh->init_bytes);
	memcpy(init + offsetof(struct fuse_in_header, unique), &synthetic, sizeof(synthetic));
	fb = (struct fuse_buf){.size = sh->init_bytes, .mem = init};
	fuse_session_process_buf(s->se, &fb);
	if (sh->init_state < 2 || fuse_session_exited(s->se))
		return fz_fail(err, FZ_ENOFUSE, "libfuse and this kernel do not understand each other");
	FS_CRASHPOINT(init_saved);
	if (sh->init_state < 3) {
		if (write(s->fusefd, sh->init_reply, sh->init_reply_bytes) < 0 && errno != ENOENT)
			return fz_fail_errno(err, errno, "the kernel refuses the handshake");
		FS_CRASHPOINT(init_answered);
		atomic_store(&sh->init_state, 3);
	}
	if (s->passthrough)
		s->passthrough = fs_backing_works(s->fusefd, sh);
	return 0;
}
