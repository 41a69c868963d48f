/* fuzz_wire.c - what a peer sends over the link, in one byte stream: the first byte says how it is read.
 *   even  plain: a greeting, then messages. What parses is written again and must be the same bytes.
 *   odd   sealed: records with a known key (nonces counted from 0), as pieces whose sizes the input chooses. */
#include "ltx/wire.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(x)                                                                                                        \
	do {                                                                                                           \
		if (!(x))                                                                                              \
			abort();                                                                                       \
	} while (0)

/* All whole messages at the start; returns the bytes used. */
static size_t messages(const uint8_t *data, size_t size)
{
	struct fz_buf again = {0};
	struct ltx_wire_msg m;
	struct fz_err err;
	size_t at = 0;
	int n;

	if (size == 0)
		return 0;
	while ((n = ltx_wire_get(&m, data + at, size - at, &err)) > 0) {
		MUST((size_t)n <= size - at);
		if (m.type <= LTX_WIRE_LAST) {
			fz_buf_reset(&again);
			MUST(ltx_wire_put(&again, &m, &err) == 0); /* what is received can be sent */
			MUST(again.size == (size_t)n && memcmp(again.data, data + at, again.size) == 0);
		}
		if (m.type == LTX_WIRE_DATA)
			MUST(m.data.bytes >= data + at && m.data.bytes + m.data.n == data + at + n);
		at += (size_t)n;
	}
	MUST(n < 0 || size - at < LTX_WIRE_BODY + 4);
	fz_buf_fini(&again);
	return at;
}

static void plain(const uint8_t *data, size_t size)
{
	uint8_t version, out[LTX_WIRE_HELLO_BYTES];
	uint16_t length;
	struct fz_err err;

	if (ltx_wire_hello_get(data, size, &version, &length, &err) == 0) {
		ltx_wire_hello_put(out, version, length);
		MUST(memcmp(out, data, sizeof(out)) == 0);
		data += sizeof(out);
		size -= sizeof(out);
	}
	messages(data, size);
}

static void sealed(const uint8_t *data, size_t size)
{
	struct ltx_noise_cipher c = {.key = {0x42}};
	struct fz_buf in = {0}, opened = {0};
	struct fz_err err;
	int rc = 0;

	while (size && rc == 0) {
		size_t n = 1 + data[0] % 64, used;

		n = n < size ? n : size;
		MUST(fz_buf_add(&in, data, n) == 0); /* the byte that says how many is one of them */
		data += n;
		size -= n;
		rc = ltx_wire_open(&c, &in, &opened, &err);
		used = messages(opened.data, opened.size);
		fz_buf_drop(&opened, used);
		MUST(rc < 0 || in.size <= LTX_NOISE_MAX + 2);
	}
	fz_buf_fini(&in);
	fz_buf_fini(&opened);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	if (data[0] & 1)
		sealed(data + 1, size - 1);
	else
		plain(data + 1, size - 1);
	return 0;
}
