/* io.h - where bytes go to (sink) and come from (source), so that encoders, encryption, stores and files stack up
 * without knowing one another. Embed the struct as first member and use its function pointers. */
#ifndef FZ_BASE_IO_H
#define FZ_BASE_IO_H

#include "base/buf.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Sequential writing. A failed sink stays failed. Not thread-safe. */
struct fz_sink {
	/* Takes all n bytes or returns a negative code. */
	int (*write)(struct fz_sink *s, const void *data, size_t n, struct fz_err *err);
};

/* Random-access reading of an immutable object of known size. Thread-safe only where its maker says so. */
struct fz_src {
	/* Reads exactly n bytes at off (off + n <= size, else -FZ_ETRUNCATED) or returns a negative code; 0 = done. */
	int (*read_at)(struct fz_src *s, uint64_t off, void *data, size_t n, struct fz_err *err);
	void (*close)(struct fz_src *s); /* frees it; NULL = nothing to free */
	uint64_t size_bytes;
};

static inline int fz_sink_write(struct fz_sink *s, const void *data, size_t n, struct fz_err *err)
{
	return s->write(s, data, n, err);
}
static inline int fz_src_read(struct fz_src *s, uint64_t off, void *data, size_t n, struct fz_err *err)
{
	if (off > s->size_bytes || n > s->size_bytes - off)
		return fz_fail(err, FZ_ETRUNCATED, "wanted bytes %llu..%llu of %llu", (unsigned long long)off,
		               (unsigned long long)off + n, (unsigned long long)s->size_bytes);
	return s->read_at(s, off, data, n, err);
}
void fz_src_close(struct fz_src *s); /* NULL is fine */
/* All of it, in order. */
int fz_src_copy(struct fz_src *from, struct fz_sink *to, struct fz_err *err) FZ_MUST_CHECK;

/* Sink into a buffer (borrowed). */
struct fz_buf_sink {
	struct fz_sink sink;
	struct fz_buf *buf;
};
void fz_buf_sink_init(struct fz_buf_sink *s, struct fz_buf *buf);

/* Sink into a descriptor (borrowed), through a buffer of 64 KiB; off counts what was written. Call flush at the end. */
struct fz_fd_sink {
	struct fz_sink sink;
	int fd;
	uint64_t off_bytes; /* next file offset */
	struct fz_buf pending;
};
void fz_fd_sink_init(struct fz_fd_sink *s, int fd, uint64_t off_bytes);
int fz_fd_sink_flush(struct fz_fd_sink *s, struct fz_err *err) FZ_MUST_CHECK;
void fz_fd_sink_fini(struct fz_fd_sink *s); /* frees, writes nothing */

/* Source over memory (borrowed; close() frees only the source) and over [off, off+size) of a descriptor (owned when
 * own_fd). Both are thread-safe. */
int fz_src_mem(struct fz_src **out, const void *data, size_t size, struct fz_err *err) FZ_MUST_CHECK;
int fz_src_fd(struct fz_src **out, int fd, uint64_t off_bytes, uint64_t size_bytes, bool own_fd,
              struct fz_err *err) FZ_MUST_CHECK;
/* Window [off, off+size) of another source (borrowed). */
int fz_src_slice(struct fz_src **out, struct fz_src *of, uint64_t off_bytes, uint64_t size_bytes,
                 struct fz_err *err) FZ_MUST_CHECK;

#endif
