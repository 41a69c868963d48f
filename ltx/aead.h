/* aead.h - ChaCha20-Poly1305 (RFC 8439), the cipher of both age and Noise.
 *
 * Messages of some KiB go through libcrypto, whose code for today's processors is twice as fast as libsodium's; short ones
 * through libsodium, which allocates nothing. Where libcrypto will not (FIPS mode, no memory), libsodium does all: the bytes are
 * the same (test_ltx_aead). Thread-safe; keys do not stay in memory. sodium_init() was called before. */
#ifndef FZ_LTX_AEAD_H
#define FZ_LTX_AEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LTX_AEAD_KEY   32
#define LTX_AEAD_NONCE 12
#define LTX_AEAD_TAG   16

/* out: n + LTX_AEAD_TAG bytes; may be plain itself. ad may be NULL when n_ad is 0. */
void ltx_aead_seal(const uint8_t key[static LTX_AEAD_KEY], const uint8_t nonce[static LTX_AEAD_NONCE], const void *ad,
                   size_t n_ad, const void *plain, size_t n, uint8_t *out);
/* n counts the tag and is at least that; out: n - LTX_AEAD_TAG bytes; may be sealed itself. False when the message is not
 * authentic: out then holds zeros. */
bool ltx_aead_open(const uint8_t key[static LTX_AEAD_KEY], const uint8_t nonce[static LTX_AEAD_NONCE], const void *ad,
                   size_t n_ad, const uint8_t *sealed, size_t n, void *out);

#endif
