#include "base/io.h"

#include "base/file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void fz_src_close(struct fz_src *s)
{
	if (s && s->close)
		s->close(s);
}

static int buf_sink_write(struct fz_sink *s, const void *data, size_t n, struct fz_err *err)
{
	struct fz_buf_sink *b = (struct fz_buf_sink *)s;

	if (fz_buf_add(b->buf, data, n) < 0)
		return fz_fail_errno(err, ENOMEM, "buffering %zu bytes", n);
	return 0;
}

void fz_buf_sink_init(struct fz_buf_sink *s, struct fz_buf *buf)
{
	s->sink.write = buf_sink_write;
	s->buf = buf;
}

int fz_fd_sink_flush(struct fz_fd_sink *s, struct fz_err *err)
{
	int rc = fz_pwrite(s->fd, s->pending.data, s->pending.size, (off_t)s->off_bytes);

	if (rc < 0)
		return fz_fail_errno(err, -rc, "writing %zu bytes", s->pending.size);
	s->off_bytes += s->pending.size;
	fz_buf_reset(&s->pending);
	return 0;
}

static int fd_sink_write(struct fz_sink *sink, const void *data, size_t n, struct fz_err *err)
{
	struct fz_fd_sink *s = (struct fz_fd_sink *)sink;

	if (fz_buf_add(&s->pending, data, n) < 0)
		return fz_fail_errno(err, ENOMEM, "buffering %zu bytes", n);
	return s->pending.size >= 65536 ? fz_fd_sink_flush(s, err) : 0;
}

void fz_fd_sink_init(struct fz_fd_sink *s, int fd, uint64_t off_bytes)
{
	*s = (struct fz_fd_sink){.sink.write = fd_sink_write, .fd = fd, .off_bytes = off_bytes};
}

void fz_fd_sink_fini(struct fz_fd_sink *s)
{
	fz_buf_fini(&s->pending);
}

struct window {
	struct fz_src src;
	const uint8_t *mem;
	struct fz_src *of;
	int fd;
	bool own_fd;
	uint64_t off;
};

static int window_read(struct fz_src *s, uint64_t off, void *data, size_t n, struct fz_err *err)
{
	struct window *w = (struct window *)s;
	ssize_t r;

	if (w->mem) {
		if (n)
			memcpy(data, w->mem + off, n);
		return 0;
	}
	if (w->of)
		return fz_src_read(w->of, w->off + off, data, n, err);
	r = fz_pread(w->fd, data, n, (off_t)(w->off + off));
	if (r < 0)
		return fz_fail_errno(err, (int)-r, "reading %zu bytes", n);
	if ((size_t)r < n)
		return fz_fail(err, FZ_ETRUNCATED, "file ends early: %zd of %zu bytes", r, n);
	return 0;
}

static void window_close(struct fz_src *s)
{
	struct window *w = (struct window *)s;

	if (w->own_fd)
		fz_close(&w->fd);
	free(w);
}

static int window_new(struct fz_src **out, const struct window *init, uint64_t size, struct fz_err *err)
{
	struct window *w = malloc(sizeof(*w));

	if (!w)
		return fz_fail_errno(err, ENOMEM, "opening a source");
	*w = *init;
	w->src = (struct fz_src){window_read, window_close, size};
	*out = &w->src;
	return 0;
}

int fz_src_mem(struct fz_src **out, const void *data, size_t size, struct fz_err *err)
{
	static const uint8_t none;

	return window_new(out, &(struct window){.mem = data ? data : &none, .fd = -1}, size, err);
}

int fz_src_fd(struct fz_src **out, int fd, uint64_t off_bytes, uint64_t size_bytes, bool own_fd, struct fz_err *err)
{
	return window_new(out, &(struct window){.fd = fd, .own_fd = own_fd, .off = off_bytes}, size_bytes, err);
}

int fz_src_copy(struct fz_src *from, struct fz_sink *to, struct fz_err *err)
{
	const size_t piece = 65536;
	uint8_t *buf = malloc(piece);
	int rc = buf ? 0 : fz_fail_errno(err, ENOMEM, "copying");

	for (uint64_t off = 0; rc == 0 && off < from->size_bytes;) {
		size_t n = from->size_bytes - off < piece ? (size_t)(from->size_bytes - off) : piece;

		rc = fz_src_read(from, off, buf, n, err);
		if (rc == 0)
			rc = fz_sink_write(to, buf, n, err);
		off += n;
	}
	free(buf);
	return rc;
}

int fz_src_slice(struct fz_src **out, struct fz_src *of, uint64_t off_bytes, uint64_t size_bytes, struct fz_err *err)
{
	if (off_bytes > of->size_bytes || size_bytes > of->size_bytes - off_bytes)
		return fz_fail(err, FZ_ETRUNCATED, "window past the end of its source");
	return window_new(out, &(struct window){.fd = -1, .of = of, .off = off_bytes}, size_bytes, err);
}
