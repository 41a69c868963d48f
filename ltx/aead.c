#include "ltx/aead.h"

#include "base/log.h"

#include <limits.h>
#include <openssl/evp.h>
#include <sodium.h>
#include <string.h>

#define LONG_BYTES 4096 /* from here on a context's cost, about a microsecond, is small beside what it saves */

_Static_assert(crypto_aead_chacha20poly1305_ietf_ABYTES == LTX_AEAD_TAG, "the tag's size");
_Static_assert(crypto_aead_chacha20poly1305_ietf_KEYBYTES == LTX_AEAD_KEY, "the key's size");
_Static_assert(crypto_aead_chacha20poly1305_ietf_NPUBBYTES == LTX_AEAD_NONCE, "the nonce's size");

/* A context that has the key, the nonce and the additional data; NULL = libcrypto will not. */
static EVP_CIPHER_CTX *begin(bool seal, const uint8_t *key, const uint8_t *nonce, const void *ad, size_t n_ad, size_t n)
{
	EVP_CIPHER_CTX *c;
	int did;

	if (n < LONG_BYTES || n > INT_MAX || n_ad > INT_MAX)
		return NULL;
	c = EVP_CIPHER_CTX_new();
	if (c && EVP_CipherInit_ex(c, EVP_chacha20_poly1305(), NULL, key, nonce, seal) == 1 &&
	    (n_ad == 0 || EVP_CipherUpdate(c, NULL, &did, ad, (int)n_ad) == 1))
		return c;
	EVP_CIPHER_CTX_free(c);
	return NULL;
}

void ltx_aead_seal(const uint8_t key[static LTX_AEAD_KEY], const uint8_t nonce[static LTX_AEAD_NONCE], const void *ad,
                   size_t n_ad, const void *plain, size_t n, uint8_t *out)
{
	EVP_CIPHER_CTX *c = begin(true, key, nonce, ad, n_ad, n);
	int did;

	if (!c) {
		crypto_aead_chacha20poly1305_ietf_encrypt(out, NULL, n ? plain : (const void *)"", n, ad, n_ad, NULL,
		                                          nonce, key);
		return;
	}
	/* what cannot fail any more may not: the plaintext is perhaps overwritten already */
	if (EVP_CipherUpdate(c, out, &did, plain, (int)n) != 1 || EVP_CipherFinal_ex(c, out + n, &did) != 1 ||
	    EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_GET_TAG, LTX_AEAD_TAG, out + n) != 1)
		fz_panic("libcrypto does not end a message of %zu bytes", n);
	EVP_CIPHER_CTX_free(c);
}

bool ltx_aead_open(const uint8_t key[static LTX_AEAD_KEY], const uint8_t nonce[static LTX_AEAD_NONCE], const void *ad,
                   size_t n_ad, const uint8_t *sealed, size_t n, void *out)
{
	size_t bytes = n - LTX_AEAD_TAG;
	EVP_CIPHER_CTX *c = begin(false, key, nonce, ad, n_ad, bytes);
	uint8_t none, tag[LTX_AEAD_TAG];
	bool ok;
	int did;

	if (!c)
		return crypto_aead_chacha20poly1305_ietf_decrypt(bytes ? out : &none, NULL, NULL, sealed, n, ad, n_ad,
		                                                 nonce, key) == 0;
	memcpy(tag, sealed + bytes, sizeof(tag));
	ok = EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_SET_TAG, sizeof(tag), tag) == 1 &&
	     EVP_CipherUpdate(c, out, &did, sealed, (int)bytes) == 1 &&
	     EVP_CipherFinal_ex(c, (uint8_t *)out + bytes, &did) == 1;
	if (!ok)
		sodium_memzero(out, bytes);
	EVP_CIPHER_CTX_free(c);
	return ok;
}
