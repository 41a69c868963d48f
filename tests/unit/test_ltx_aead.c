/* What libcrypto and libsodium make of the same message is the same, at the sizes around which one or the other is asked; the
 * vector is RFC 8439's, section 2.8.2. */
#include "ltx/aead.h"

#include <setjmp.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const size_t sizes[] = {0, 1, 15, 16, 17, 100, 4095, 4096, 4097, 4096 + 63, 40000, 65519, 65536, 1 << 20};
#define N_SIZES (sizeof(sizes) / sizeof(sizes[0]))

static void rfc8439(void **state)
{
	static const char plain[] =
	        "Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the "
	        "future, sunscreen would be it.";
	static const uint8_t ad[] = {0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7};
	static const uint8_t nonce[] = {7, 0, 0, 0, 0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47};
	static const uint8_t begins[] = {0xd3, 0x1a, 0x8d, 0x34, 0x64, 0x8e, 0x60, 0xdb,
	                                 0x7b, 0x86, 0xaf, 0xbc, 0x53, 0xef, 0x7e, 0xc2};
	static const uint8_t tag[] = {0x1a, 0xe1, 0x0b, 0x59, 0x4f, 0x09, 0xe2, 0x6a,
	                              0x7e, 0x90, 0x2e, 0xcb, 0xd0, 0x60, 0x06, 0x91};
	uint8_t key[LTX_AEAD_KEY], out[sizeof(plain) - 1 + LTX_AEAD_TAG];

	for (size_t i = 0; i < sizeof(key); i++)
		key[i] = (uint8_t)(0x80 + i);
	ltx_aead_seal(key, nonce, ad, sizeof(ad), plain, sizeof(plain) - 1, out);
	assert_memory_equal(out, begins, sizeof(begins));
	assert_memory_equal(out + sizeof(plain) - 1, tag, sizeof(tag));
}

static void as_libsodium(void **state)
{
	uint8_t key[LTX_AEAD_KEY], nonce[LTX_AEAD_NONCE], ad[80];
	size_t cap = (1 << 20) + LTX_AEAD_TAG;
	uint8_t *plain = malloc(cap), *one = malloc(cap), *two = malloc(cap);

	assert_true(plain && one && two);
	randombytes_buf(key, sizeof(key));
	randombytes_buf(nonce, sizeof(nonce));
	randombytes_buf(ad, sizeof(ad));
	randombytes_buf(plain, cap);
	for (size_t i = 0; i < N_SIZES; i++) {
		size_t n = sizes[i];

		for (size_t n_ad = 0; n_ad <= sizeof(ad); n_ad += sizeof(ad)) {
			crypto_aead_chacha20poly1305_ietf_encrypt(two, NULL, plain, n, ad, n_ad, NULL, nonce, key);
			ltx_aead_seal(key, nonce, n_ad ? ad : NULL, n_ad, plain, n, one);
			assert_memory_equal(one, two, n + LTX_AEAD_TAG);
			memcpy(one, plain, n); /* in place */
			ltx_aead_seal(key, nonce, ad, n_ad, one, n, one);
			assert_memory_equal(one, two, n + LTX_AEAD_TAG);
			assert_true(ltx_aead_open(key, nonce, ad, n_ad, two, n + LTX_AEAD_TAG, one));
			assert_memory_equal(one, plain, n);
			assert_true(ltx_aead_open(key, nonce, ad, n_ad, two, n + LTX_AEAD_TAG, two));
			assert_memory_equal(two, plain, n);
		}
	}
	free(plain);
	free(one);
	free(two);
}

/* One changed bit anywhere: refused, and nothing of the plaintext stays. */
static void not_authentic(void **state)
{
	uint8_t key[LTX_AEAD_KEY] = {1}, nonce[LTX_AEAD_NONCE] = {2}, ad[8] = {3};
	uint8_t *sealed = malloc(65536 + LTX_AEAD_TAG), *out = malloc(65536), *zero = calloc(1, 65536);
	static const size_t some[] = {1, 200, 4095, 4096, 40000, 65536};

	assert_true(sealed && out && zero);
	for (size_t i = 0; i < sizeof(some) / sizeof(some[0]); i++) {
		size_t n = some[i], spots[] = {0, n / 2, n - 1, n, n + LTX_AEAD_TAG - 1};

		memset(out, 7, n);
		ltx_aead_seal(key, nonce, ad, sizeof(ad), out, n, sealed);
		for (size_t k = 0; k < sizeof(spots) / sizeof(spots[0]); k++) {
			sealed[spots[k]] ^= 4;
			memset(out, 9, n);
			assert_false(ltx_aead_open(key, nonce, ad, sizeof(ad), sealed, n + LTX_AEAD_TAG, out));
			assert_memory_equal(out, zero, n);
			sealed[spots[k]] ^= 4;
		}
		ad[0] ^= 1;
		assert_false(ltx_aead_open(key, nonce, ad, sizeof(ad), sealed, n + LTX_AEAD_TAG, out));
		ad[0] ^= 1;
		nonce[11] ^= 1;
		assert_false(ltx_aead_open(key, nonce, ad, sizeof(ad), sealed, n + LTX_AEAD_TAG, out));
		nonce[11] ^= 1;
		assert_true(ltx_aead_open(key, nonce, ad, sizeof(ad), sealed, n + LTX_AEAD_TAG, out));
	}
	free(sealed);
	free(out);
	free(zero);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(rfc8439),
	        cmocka_unit_test(as_libsodium),
	        cmocka_unit_test(not_authentic),
	};

	if (sodium_init() < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
