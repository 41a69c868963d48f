#include "ltx/bech32.h"

#include <errno.h>
#include <string.h>

static const char alphabet[] = "qpzry9x8gf2tvdw0s3jn54khce6mua7l";

static uint32_t polymod(uint32_t chk, uint8_t v)
{
	static const uint32_t gen[5] = {0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3};
	uint32_t top = chk >> 25;

	chk = (chk & 0x1ffffff) << 5 ^ v;
	for (int i = 0; i < 5; i++)
		if (top >> i & 1)
			chk ^= gen[i];
	return chk;
}

static char lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

static uint32_t hrp_checksum(const char *hrp)
{
	uint32_t chk = 1;

	for (const char *p = hrp; *p; p++)
		chk = polymod(chk, (uint8_t)lower(*p) >> 5);
	chk = polymod(chk, 0);
	for (const char *p = hrp; *p; p++)
		chk = polymod(chk, (uint8_t)lower(*p) & 31);
	return chk;
}

static char digit(uint32_t v, bool upper)
{
	char c = alphabet[v & 31];

	return upper && c >= 'a' && c <= 'z' ? (char)(c - 32) : c;
}

void ltx_bech32_encode(char *out, const char *hrp, bool upper, const uint8_t *data, size_t n)
{
	uint32_t chk = hrp_checksum(hrp), acc = 0;
	unsigned bits = 0;

	while (*hrp)
		*out++ = *hrp++;
	*out++ = '1';
	for (size_t i = 0; i < n || bits > 0;) {
		uint32_t v;

		if (bits < 5 && i < n) {
			acc = (acc << 8 | data[i++]) & 0xfff;
			bits += 8;
			continue;
		}
		v = bits >= 5 ? acc >> (bits - 5) & 31 : acc << (5 - bits) & 31;
		bits = bits >= 5 ? bits - 5 : 0;
		chk = polymod(chk, (uint8_t)v);
		*out++ = digit(v, upper);
	}
	for (int i = 0; i < 6; i++)
		chk = polymod(chk, 0);
	chk ^= 1;
	for (int i = 0; i < 6; i++)
		*out++ = digit(chk >> (5 * (5 - i)), upper);
	*out = 0;
}

int ltx_bech32_decode(const char *text, const char *hrp, uint8_t *data, size_t n)
{
	size_t skip = strlen(hrp), len = strlen(text), digits = (8 * n + 4) / 5, got = 0;
	bool upper = *hrp >= 'A' && *hrp <= 'Z';
	uint32_t chk = hrp_checksum(hrp), acc = 0;
	unsigned bits = 0;

	if (len != skip + 1 + digits + 6 || memcmp(text, hrp, skip) || text[skip] != '1')
		return -EINVAL;
	text += skip + 1;
	for (size_t i = 0; i < digits + 6; i++) {
		char c = text[i];
		const char *at;

		if (upper ? (c >= 'a' && c <= 'z') : (c >= 'A' && c <= 'Z'))
			return -EINVAL; /* mixed case */
		at = strchr(alphabet, lower(c));
		if (!at)
			return -EINVAL;
		chk = polymod(chk, (uint8_t)(at - alphabet));
		if (i >= digits)
			continue;
		acc = (acc << 5 | (uint32_t)(at - alphabet)) & 0xfff;
		bits += 5;
		if (bits >= 8) {
			bits -= 8;
			data[got++] = (uint8_t)(acc >> bits);
		}
	}
	/* what is left over are fewer than five bits, all zero */
	if (chk != 1 || got != n || (acc & ((1u << bits) - 1)))
		return -EINVAL;
	return 0;
}
