#include "ltx/walindex.h"

#include "base/cursor.h"
#include "ltx/ltx.h"

#include <string.h>

#define INDEX_VERSION 3007000u
#define COPY_SIZE     48

static uint32_t native32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, 4);
	return v;
}

/* Both copies equal, initialised, checksum right. */
static bool whole(const uint8_t in[static LTX_WALINDEX_SIZE])
{
	uint32_t a = 0, b = 0;

	if (memcmp(in, in + COPY_SIZE, COPY_SIZE) || native32(in) != INDEX_VERSION || !in[12])
		return false;
	for (int i = 0; i < 40; i += 8) {
		a += native32(in + i) + b;
		b += native32(in + i + 4) + a;
	}
	return a == native32(in + 40) && b == native32(in + 44);
}

bool ltx_walindex_blank(const uint8_t in[static LTX_WALINDEX_SIZE])
{
	static const uint8_t none[10]; /* page size, mxFrame, pages */

	return whole(in) && memcmp(in + 14, none, sizeof(none)) == 0;
}

bool ltx_walindex_get(struct ltx_walindex *x, const uint8_t in[static LTX_WALINDEX_SIZE])
{
	uint16_t size16;

	if (!whole(in))
		return false;
	memcpy(&size16, in + 14, 2);
	x->page_size = size16 == 1 ? 65536 : size16;
	if (!ltx_page_size_ok(x->page_size))
		return false;
	x->change = native32(in + 8);
	x->mx_frame = native32(in + 16);
	x->pages = native32(in + 20);
	for (int i = 0; i < 2; i++) {
		x->sum[i] = native32(in + 24 + 4 * i);
		x->salt[i] = fz_be32(in + 32 + 4 * i); /* SQLite keeps the file's bytes */
	}
	x->backfill = native32(in + 96);
	return true;
}
