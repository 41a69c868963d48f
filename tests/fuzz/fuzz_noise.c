/* fuzz_noise.c - a stranger's handshake messages and what follows them, at either end, with fixed keys: all keys are known,
 * so that the corpus (made by an honest peer) reaches what lies behind each check. The first byte: bit 0 which end reads. */
#include "ltx/noise.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t caller[32] = {1}, called[32] = {2}, ephemeral[32] = {3};
static const char prologue[6] = "FZTL\001";

static void fix_ephemeral(struct ltx_noise *n)
{
	memcpy(n->e, ephemeral, sizeof(ephemeral));
	crypto_scalarmult_curve25519_base(n->e_pub, n->e);
}

/* u16 length and that many bytes; a shorter rest is taken whole. */
static size_t next(const uint8_t **data, size_t *size, const uint8_t **msg)
{
	size_t n;

	if (*size < 2)
		return 0;
	n = (size_t)((*data)[0] << 8 | (*data)[1]);
	*data += 2;
	*size -= 2;
	n = n < *size ? n : *size;
	*msg = *data;
	*data += n;
	*size -= n;
	return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t out[256], called_pub[32], *opened = NULL;
	struct ltx_noise_cipher send, receive;
	const uint8_t *msg = data;
	struct ltx_noise n;
	struct fz_err err;
	bool initiator;
	size_t len;
	int rc;

	if (size == 0)
		return 0;
	initiator = data[0] & 1;
	data++;
	size--;
	crypto_scalarmult_curve25519_base(called_pub, called);
	if (ltx_noise_init(&n, initiator, initiator ? caller : called, initiator ? called_pub : NULL, prologue,
	                   sizeof(prologue), &err) < 0)
		abort();
	fix_ephemeral(&n);
	if (initiator && ltx_noise_write(&n, "", 0, out, sizeof(out), &err) != LTX_NOISE_MSG1)
		abort();
	len = next(&data, &size, &msg);
	rc = ltx_noise_read(&n, msg, len, out, sizeof(out), &err);
	if (rc > (int)len || rc > (int)sizeof(out))
		abort();
	if (rc < 0 && (n.step != -1 || !sodium_is_zero(n.s, sizeof(n.s)) || ltx_noise_remote(&n)))
		abort(); /* a failed handshake keeps nothing */
	if (rc < 0)
		return 0;
	/* a point of low order is never let in (a caller's static key is read, so it may be any other) */
	if (!ltx_noise_remote(&n) || sodium_is_zero(n.rs, 32) || sodium_is_zero(n.re, 32))
		abort();
	if (!initiator && ltx_noise_write(&n, "", 0, out, sizeof(out), &err) != LTX_NOISE_MSG2)
		abort();
	if (ltx_noise_split(&n, &send, &receive, &err) < 0)
		abort();
	opened = malloc(LTX_NOISE_MAX);
	while (opened && (len = next(&data, &size, &msg)) > 0) {
		uint64_t before = receive.nonce;

		rc = ltx_noise_open(&receive, msg, len, opened, &err);
		if (receive.nonce != before + (rc == 0))
			abort();
		if (rc < 0)
			break;
	}
	free(opened);
	return 0;
}
