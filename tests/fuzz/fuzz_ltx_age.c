/* fuzz_ltx_age.c - an encrypted object from a foreign store: header and payload, with fixed identities, so that the
 * corpus (from the published vectors) reaches decrypted chunks. */
#include "ltx/age.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* the identity of the published vectors, and one that never matches */
	static const char *const keys[] = {
	        "AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0",
	        "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX"};
	struct ltx_age_identity id[2];
	struct ltx_age_identities ids = {id, 2};
	struct fz_src *cipher = NULL, *plain = NULL;
	struct fz_err err;
	uint8_t buf[4096];

	for (int i = 0; i < 2; i++)
		if (ltx_age_identity_parse(&id[i], keys[i], &err) < 0)
			abort();
	if (fz_src_mem(&cipher, data, size, &err) < 0)
		return 0;
	if (ltx_age_src(&plain, cipher, &ids, &err) == 0) {
		if (plain->size_bytes >= size) /* no ciphertext is shorter than its plaintext */
			abort();
		for (uint64_t off = 0; off < plain->size_bytes; off += sizeof(buf)) {
			uint64_t n = plain->size_bytes - off;

			if (fz_src_read(plain, off, buf, n < sizeof(buf) ? (size_t)n : sizeof(buf), &err) < 0)
				break;
		}
		fz_src_close(plain);
	}
	fz_src_close(cipher);
	return 0;
}
