/* buf.h - a growing byte buffer, the one string and byte builder of fazt. Zero-initialised is empty and valid. */
#ifndef FZ_BASE_BUF_H
#define FZ_BASE_BUF_H

#include "base/err.h"

#include <stdint.h>

struct fz_buf {
	uint8_t *data; /* NULL while empty; a NUL follows the last byte once something was appended */
	size_t size, cap;
};

/* Makes room for n more bytes and returns where they go (size is not moved); NULL on -ENOMEM. */
uint8_t *fz_buf_room(struct fz_buf *b, size_t n);
int fz_buf_add(struct fz_buf *b, const void *data, size_t n) FZ_MUST_CHECK;
int fz_buf_addf(struct fz_buf *b, const char *fmt, ...) FZ_PRINTF(2, 3) FZ_MUST_CHECK;
/* The content as a C string ("" while empty), borrowed until the next change. */
const char *fz_buf_str(const struct fz_buf *b);
void fz_buf_drop(struct fz_buf *b, size_t n); /* removes the first n bytes (n <= size) */
void fz_buf_reset(struct fz_buf *b);          /* size = 0, memory stays */
void fz_buf_fini(struct fz_buf *b);

#endif
