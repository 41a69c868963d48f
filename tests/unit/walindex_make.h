/* walindex_make.h - what a WAL's index says, as SQLite reads it, of the bytes of a -shm (zeros behind their end). */
#ifndef FZ_TESTS_WALINDEX_MAKE_H
#define FZ_TESTS_WALINDEX_MAKE_H

#include <stdint.h>
#include <string.h>

static inline uint32_t walindex_u32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, 4);
	return v;
}

/* The last frame up to last that holds the page; 0 = none. */
static inline uint32_t walindex_lookup(const uint8_t *shm, uint32_t pgno, uint32_t last)
{
	for (int r = (int)((last + 33) / 4096); last && r >= 0; r--) {
		const uint8_t *base = shm + r * 32768;
		uint32_t best = 0, zero = r ? 4062 + (uint32_t)(r - 1) * 4096 : 0;
		uint16_t i;

		for (unsigned k = pgno * 383 % 8192; memcpy(&i, base + 16384 + k * 2, 2), i; k = (k + 1) % 8192)
			if (i + zero <= last && walindex_u32(base + (r ? 0 : 136) + (i - 1) * 4) == pgno &&
			    i + zero > best)
				best = i + zero;
		if (best)
			return best;
	}
	return 0;
}

#endif
