#include "base/buf.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint8_t *fz_buf_room(struct fz_buf *b, size_t n)
{
	if (n > SIZE_MAX / 2 - b->size - 1)
		return NULL;
	if (b->size + n + 1 > b->cap) {
		size_t cap = b->cap ? b->cap : 64;
		uint8_t *data;

		while (cap < b->size + n + 1)
			cap *= 2;
		data = realloc(b->data, cap);
		if (!data)
			return NULL;
		b->data = data;
		b->cap = cap;
	}
	return b->data + b->size;
}

int fz_buf_add(struct fz_buf *b, const void *data, size_t n)
{
	uint8_t *p = fz_buf_room(b, n);

	if (!p)
		return -ENOMEM;
	if (n)
		memcpy(p, data, n);
	b->size += n;
	b->data[b->size] = 0;
	return 0;
}

int fz_buf_addf(struct fz_buf *b, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0 || !fz_buf_room(b, (size_t)n))
		return -ENOMEM;
	va_start(ap, fmt);
	vsnprintf((char *)b->data + b->size, (size_t)n + 1, fmt, ap);
	va_end(ap);
	b->size += (size_t)n;
	return 0;
}

const char *fz_buf_str(const struct fz_buf *b)
{
	return b->data ? (const char *)b->data : "";
}

void fz_buf_drop(struct fz_buf *b, size_t n)
{
	if (n == 0)
		return;
	memmove(b->data, b->data + n, b->size - n + 1); /* and the NUL */
	b->size -= n;
}

void fz_buf_reset(struct fz_buf *b)
{
	b->size = 0;
	if (b->data)
		b->data[0] = 0;
}

void fz_buf_fini(struct fz_buf *b)
{
	free(b->data);
	memset(b, 0, sizeof(*b));
}
