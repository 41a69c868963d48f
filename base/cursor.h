/* cursor.h - bounds-checked reading of untrusted bytes, field by field, with a sticky error; and its writing twin.
 * After any failed read every further read returns 0 and fz_cur_ok() is false: check once at the end. */
#ifndef FZ_BASE_CURSOR_H
#define FZ_BASE_CURSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct fz_cur {
	const uint8_t *p, *end;
	bool bad;
};

static inline struct fz_cur fz_cur(const void *data, size_t size)
{
	/* an empty buffer may be NULL, and NULL + 0 is undefined in C */
	return (struct fz_cur){data, size ? (const uint8_t *)data + size : data, false};
}
static inline bool fz_cur_ok(const struct fz_cur *c)
{
	return !c->bad;
}
static inline size_t fz_cur_left(const struct fz_cur *c)
{
	return c->bad ? 0 : (size_t)(c->end - c->p);
}
/* The next n bytes, borrowed from the input; NULL (and sticky) when there are fewer. */
static inline const uint8_t *fz_cur_bytes(struct fz_cur *c, size_t n)
{
	const uint8_t *p = c->p;

	if (c->bad || (size_t)(c->end - c->p) < n) {
		c->bad = true;
		return NULL;
	}
	c->p += n;
	return p;
}

static inline uint16_t fz_be16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}
static inline uint32_t fz_be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}
static inline uint64_t fz_be64(const uint8_t *p)
{
	return (uint64_t)fz_be32(p) << 32 | fz_be32(p + 4);
}
static inline void fz_put16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}
static inline void fz_put32(uint8_t *p, uint32_t v)
{
	fz_put16(p, (uint16_t)(v >> 16));
	fz_put16(p + 2, (uint16_t)v);
}
static inline void fz_put64(uint8_t *p, uint64_t v)
{
	fz_put32(p, (uint32_t)(v >> 32));
	fz_put32(p + 4, (uint32_t)v);
}

static inline uint8_t fz_cur_u8(struct fz_cur *c)
{
	const uint8_t *p = fz_cur_bytes(c, 1);
	return p ? *p : 0;
}
static inline uint16_t fz_cur_be16(struct fz_cur *c)
{
	const uint8_t *p = fz_cur_bytes(c, 2);
	return p ? fz_be16(p) : 0;
}
static inline uint32_t fz_cur_be32(struct fz_cur *c)
{
	const uint8_t *p = fz_cur_bytes(c, 4);
	return p ? fz_be32(p) : 0;
}
static inline uint64_t fz_cur_be64(struct fz_cur *c)
{
	const uint8_t *p = fz_cur_bytes(c, 8);
	return p ? fz_be64(p) : 0;
}
/* LEB128 unsigned varint of at most 10 bytes, as Go's encoding/binary writes it. */
static inline uint64_t fz_cur_uvarint(struct fz_cur *c)
{
	uint64_t v = 0;

	for (unsigned shift = 0; shift < 70; shift += 7) {
		uint8_t b = fz_cur_u8(c);

		if (c->bad || (shift == 63 && b > 1))
			break;
		v |= (uint64_t)(b & 0x7f) << shift;
		if (!(b & 0x80))
			return v;
	}
	c->bad = true;
	return 0;
}
/* Writes v to p (10 bytes of room); returns the bytes written. */
static inline size_t fz_put_uvarint(uint8_t *p, uint64_t v)
{
	size_t n = 0;

	while (v >= 0x80) {
		p[n++] = (uint8_t)(v | 0x80);
		v >>= 7;
	}
	p[n++] = (uint8_t)v;
	return n;
}

#endif
