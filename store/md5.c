#include "store/md5.h"

#include <string.h>

static uint32_t load(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint32_t rotl(uint32_t v, unsigned n)
{
	return v << n | v >> (32 - n);
}

static void block(uint32_t s[static 4], const uint8_t *p)
{
	static const uint32_t k[64] = {
	        0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee, 0xf57c0faf, 0x4787c62a, 0xa8304613, 0xfd469501,
	        0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be, 0x6b901122, 0xfd987193, 0xa679438e, 0x49b40821,
	        0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa, 0xd62f105d, 0x02441453, 0xd8a1e681, 0xe7d3fbc8,
	        0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed, 0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a,
	        0xfffa3942, 0x8771f681, 0x6d9d6122, 0xfde5380c, 0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70,
	        0x289b7ec6, 0xeaa127fa, 0xd4ef3085, 0x04881d05, 0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665,
	        0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039, 0x655b59c3, 0x8f0ccc92, 0xffeff47d, 0x85845dd1,
	        0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1, 0xf7537e82, 0xbd3af235, 0x2ad7d2bb, 0xeb86d391,
	};
	static const uint8_t r[16] = {7, 12, 17, 22, 5, 9, 14, 20, 4, 11, 16, 23, 6, 10, 15, 21};
	uint32_t x[16], a = s[0], b = s[1], c = s[2], d = s[3];

	for (unsigned i = 0; i < 16; i++)
		x[i] = load(p + 4 * i);
/* One step; four of them, with the roles turning, need no moves. Loops of constant length: the compiler unrolls them. */
#define STEP(f, a, b, c, d, g, i) (a) = (b) + rotl((a) + (f) + k[i] + x[(g) % 16], r[(i) / 16 * 4 + (i) % 4])
#define ROUND(F, from, mul, add)                                                                                       \
	for (unsigned i = (from); i < (from) + 16; i += 4) {                                                           \
		STEP(F(b, c, d), a, b, c, d, (mul)*i + (add), i);                                                      \
		STEP(F(a, b, c), d, a, b, c, (mul) * (i + 1) + (add), i + 1);                                          \
		STEP(F(d, a, b), c, d, a, b, (mul) * (i + 2) + (add), i + 2);                                          \
		STEP(F(c, d, a), b, c, d, a, (mul) * (i + 3) + (add), i + 3);                                          \
	}
#define F1(x_, y_, z_) (((x_) & (y_)) | (~(x_) & (z_)))
#define F2(x_, y_, z_) (((z_) & (x_)) | (~(z_) & (y_)))
#define F3(x_, y_, z_) ((x_) ^ (y_) ^ (z_))
#define F4(x_, y_, z_) ((y_) ^ ((x_) | ~(z_)))
	ROUND(F1, 0u, 1, 0)
	ROUND(F2, 16u, 5, 1)
	ROUND(F3, 32u, 3, 5)
	ROUND(F4, 48u, 7, 0)
	s[0] += a;
	s[1] += b;
	s[2] += c;
	s[3] += d;
}

void store_md5_init(struct store_md5 *m)
{
	*m = (struct store_md5){
	        .state = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476}
        };
}

void store_md5_add(struct store_md5 *m, const void *data, size_t n)
{
	const uint8_t *p = data;
	size_t have = m->size_bytes % 64;

	m->size_bytes += n;
	if (have > 0 && n >= 64 - have) {
		memcpy(m->block + have, p, 64 - have);
		block(m->state, m->block);
		p += 64 - have;
		n -= 64 - have;
		have = 0;
	}
	for (; have == 0 && n >= 64; p += 64, n -= 64)
		block(m->state, p);
	if (n > 0)
		memcpy(m->block + have, p, n);
}

void store_md5_final(struct store_md5 *m, uint8_t out[static STORE_MD5_BYTES])
{
	static const uint8_t pad[64] = {0x80};
	uint64_t bits = m->size_bytes * 8;
	uint8_t tail[8];

	for (unsigned i = 0; i < 8; i++)
		tail[i] = (uint8_t)(bits >> 8 * i);
	store_md5_add(m, pad, 1 + (119 - m->size_bytes % 64) % 64);
	store_md5_add(m, tail, 8);
	for (unsigned i = 0; i < 16; i++)
		out[i] = (uint8_t)(m->state[i / 4] >> 8 * (i % 4));
}
