/* noise.c - the Noise framework, revision 34, for one pattern and one set of algorithms. The functions carry the names
 * of the specification: MixHash, MixKey, EncryptAndHash, Split.
 *
 * HASH is BLAKE2b with 64 bytes, HMAC its RFC 2104 form (block 128 bytes), DH is X25519 with the all-zero result
 * refused, the cipher is ChaCha20-Poly1305 (RFC 8439) whose nonce is 4 zero bytes and the counter, little-endian. */
#include "ltx/noise.h"

#include "ltx/aead.h"

#include <limits.h>
#include <sodium.h>
#include <string.h>

#define HASH     64
#define BLOCK    128
#define PROTOCOL "Noise_IK_25519_ChaChaPoly_BLAKE2b"
#define DEAD     (-1) /* a step: the handshake has failed and is wiped */

_Static_assert(sizeof(PROTOCOL) - 1 <= HASH, "a name of up to HASHLEN bytes is padded, not hashed");
_Static_assert(LTX_AEAD_TAG == LTX_NOISE_MAC, "the MAC's size");

static void hash2(uint8_t out[static HASH], const void *a, size_t na, const void *b, size_t nb)
{
	crypto_generichash_blake2b_state st;

	crypto_generichash_blake2b_init(&st, NULL, 0, HASH);
	crypto_generichash_blake2b_update(&st, a, na);
	crypto_generichash_blake2b_update(&st, b, nb);
	crypto_generichash_blake2b_final(&st, out, HASH);
	sodium_memzero(&st, sizeof(st));
}

/* HMAC with a key of HASH bytes over a | b. */
static void hmac(uint8_t out[static HASH], const uint8_t key[static HASH], const void *a, size_t na, const void *b,
                 size_t nb)
{
	uint8_t pad[BLOCK + HASH], inner[HASH];
	crypto_generichash_blake2b_state st;

	memset(pad, 0x36, BLOCK);
	for (size_t i = 0; i < HASH; i++)
		pad[i] ^= key[i];
	crypto_generichash_blake2b_init(&st, NULL, 0, HASH);
	crypto_generichash_blake2b_update(&st, pad, BLOCK);
	crypto_generichash_blake2b_update(&st, a, na);
	crypto_generichash_blake2b_update(&st, b, nb);
	crypto_generichash_blake2b_final(&st, inner, HASH);
	for (size_t i = 0; i < BLOCK; i++)
		pad[i] ^= 0x36 ^ 0x5c;
	hash2(out, pad, BLOCK, inner, HASH);
	sodium_memzero(&st, sizeof(st));
	sodium_memzero(pad, sizeof(pad));
	sodium_memzero(inner, sizeof(inner));
}

/* HKDF with two outputs; one may be the chaining key. */
static void hkdf2(uint8_t one[static HASH], uint8_t two[static HASH], const uint8_t ck[static HASH], const void *input,
                  size_t n)
{
	static const uint8_t first = 1, second = 2;
	uint8_t temp[HASH];

	hmac(temp, ck, input, n, "", 0);
	hmac(one, temp, &first, 1, "", 0);
	hmac(two, temp, one, HASH, &second, 1);
	sodium_memzero(temp, sizeof(temp));
}

static void mix_hash(struct ltx_noise *n, const void *data, size_t size)
{
	hash2(n->h, n->h, HASH, data, size);
}

/* MixKey(DH(secret, public)) */
static int mix_dh(struct ltx_noise *n, const uint8_t secret[static 32], const uint8_t public[static 32],
                  struct fz_err *err)
{
	uint8_t shared[32], key[HASH];
	int rc = 0;

	if (crypto_scalarmult_curve25519(shared, secret, public) < 0) {
		/* a point of low order: every secret gives the same key */
		rc = fz_fail(err, FZ_ECRYPT, "the peer's key is not a usable one");
	} else {
		hkdf2(n->ck, key, n->ck, shared, sizeof(shared));
		memcpy(n->cs.key, key, sizeof(n->cs.key));
		n->cs.nonce = 0;
		n->has_key = true;
	}
	sodium_memzero(shared, sizeof(shared));
	sodium_memzero(key, sizeof(key));
	return rc;
}

static void nonce_bytes(uint8_t out[static 12], uint64_t nonce)
{
	memset(out, 0, 4);
	for (int i = 0; i < 8; i++)
		out[4 + i] = (uint8_t)(nonce >> (8 * i));
}

static int encrypt_with_ad(struct ltx_noise_cipher *c, const void *ad, size_t n_ad, const void *plain, size_t n,
                           uint8_t *out, struct fz_err *err)
{
	uint8_t nonce[12];

	if (c->nonce == UINT64_MAX) /* the specification keeps the last one for rekeying */
		return fz_fail(err, FZ_ECRYPT, "this connection has used up its nonces: connect again");
	nonce_bytes(nonce, c->nonce);
	ltx_aead_seal(c->key, nonce, ad, n_ad, plain, n, out);
	c->nonce++;
	return 0;
}

/* n counts the MAC and is at least that. */
static int decrypt_with_ad(struct ltx_noise_cipher *c, const void *ad, size_t n_ad, const uint8_t *sealed, size_t n,
                           void *out, struct fz_err *err)
{
	uint8_t nonce[12];

	if (c->nonce == UINT64_MAX)
		return fz_fail(err, FZ_ECRYPT, "this connection has used up its nonces: connect again");
	nonce_bytes(nonce, c->nonce);
	if (!ltx_aead_open(c->key, nonce, ad, n_ad, sealed, n, out))
		return fz_fail(err, FZ_ECRYPT, "a message is not authentic");
	c->nonce++;
	return 0;
}

static int encrypt_and_hash(struct ltx_noise *n, const void *plain, size_t size, uint8_t *out, struct fz_err *err)
{
	int rc = encrypt_with_ad(&n->cs, n->h, HASH, plain, size, out, err);

	if (rc == 0)
		mix_hash(n, out, size + LTX_NOISE_MAC);
	return rc;
}

static int decrypt_and_hash(struct ltx_noise *n, const uint8_t *sealed, size_t size, void *out, struct fz_err *err)
{
	uint8_t after[HASH];
	int rc;

	hash2(after, n->h, HASH, sealed, size); /* before decrypting: out may be the same memory */
	rc = decrypt_with_ad(&n->cs, n->h, HASH, sealed, size, out, err);
	if (rc == 0)
		memcpy(n->h, after, HASH);
	return rc;
}

int ltx_noise_init(struct ltx_noise *n, bool initiator, const uint8_t secret[static LTX_NOISE_KEY],
                   const uint8_t *remote, const void *prologue, size_t prologue_size, struct fz_err *err)
{
	memset(n, 0, sizeof(*n));
	n->step = DEAD;
	if (sodium_init() < 0)
		return fz_fail(err, FZ_EINTERNAL, "libsodium does not start");
	if (initiator != !!remote)
		return fz_fail(err, FZ_EINTERNAL, "whoever calls knows whom it calls, and nobody else does");
	n->initiator = initiator;
	memcpy(n->s, secret, sizeof(n->s));
	crypto_scalarmult_curve25519_base(n->s_pub, n->s);
	memcpy(n->h, PROTOCOL, sizeof(PROTOCOL) - 1);
	memcpy(n->ck, n->h, HASH);
	mix_hash(n, prologue_size ? prologue : "", prologue_size);
	if (remote)
		memcpy(n->rs, remote, sizeof(n->rs));
	mix_hash(n, initiator ? n->rs : n->s_pub, LTX_NOISE_KEY); /* the pattern's "<- s" */
	n->step = 0;
	return 0;
}

void ltx_noise_fini(struct ltx_noise *n)
{
	sodium_memzero(n, sizeof(*n));
	n->step = DEAD;
}

static void make_ephemeral(struct ltx_noise *n)
{
	if (!sodium_is_zero(n->e_pub, sizeof(n->e_pub)))
		return; /* the published vectors name theirs */
	randombytes_buf(n->e, sizeof(n->e));
	crypto_scalarmult_curve25519_base(n->e_pub, n->e);
}

/* -> e, es, s, ss */
static int write1(struct ltx_noise *n, const void *payload, size_t size, uint8_t *out, struct fz_err *err)
{
	int rc;

	memcpy(out, n->e_pub, 32);
	mix_hash(n, n->e_pub, 32);
	rc = mix_dh(n, n->e, n->rs, err);
	if (rc == 0)
		rc = encrypt_and_hash(n, n->s_pub, 32, out + 32, err);
	if (rc == 0)
		rc = mix_dh(n, n->s, n->rs, err);
	return rc < 0 ? rc : encrypt_and_hash(n, payload, size, out + LTX_NOISE_MSG1 - LTX_NOISE_MAC, err);
}

static int read1(struct ltx_noise *n, const uint8_t *msg, size_t size, uint8_t *out, struct fz_err *err)
{
	int rc;

	memcpy(n->re, msg, 32);
	mix_hash(n, n->re, 32);
	rc = mix_dh(n, n->s, n->re, err);
	if (rc == 0)
		rc = decrypt_and_hash(n, msg + 32, 32 + LTX_NOISE_MAC, n->rs, err);
	if (rc == 0)
		rc = mix_dh(n, n->s, n->rs, err);
	return rc < 0 ? rc : decrypt_and_hash(n, msg + 80, size - 80, out, err);
}

/* <- e, ee, se */
static int write2(struct ltx_noise *n, const void *payload, size_t size, uint8_t *out, struct fz_err *err)
{
	int rc;

	memcpy(out, n->e_pub, 32);
	mix_hash(n, n->e_pub, 32);
	rc = mix_dh(n, n->e, n->re, err);
	if (rc == 0)
		rc = mix_dh(n, n->e, n->rs, err);
	return rc < 0 ? rc : encrypt_and_hash(n, payload, size, out + 32, err);
}

static int read2(struct ltx_noise *n, const uint8_t *msg, size_t size, uint8_t *out, struct fz_err *err)
{
	int rc;

	memcpy(n->re, msg, 32);
	mix_hash(n, n->re, 32);
	rc = mix_dh(n, n->e, n->re, err);
	if (rc == 0)
		rc = mix_dh(n, n->s, n->re, err);
	return rc < 0 ? rc : decrypt_and_hash(n, msg + 32, size - 32, out, err);
}

int ltx_noise_write(struct ltx_noise *n, const void *payload, size_t size, uint8_t *out, size_t cap, struct fz_err *err)
{
	size_t head = n->initiator ? LTX_NOISE_MSG1 : LTX_NOISE_MSG2;
	int rc;

	if (n->step != (n->initiator ? 0 : 1))
		return fz_fail(err, FZ_EINTERNAL, "it is not this end's turn in the handshake");
	if (size > LTX_NOISE_MAX - head || cap < head + size)
		return fz_fail(err, FZ_EINTERNAL, "a handshake message of %zu bytes has no room", head + size);
	make_ephemeral(n);
	rc = (n->initiator ? write1 : write2)(n, payload, size, out, err);
	if (rc < 0) {
		ltx_noise_fini(n);
		return rc;
	}
	n->step++;
	return (int)(head + size);
}

int ltx_noise_read(struct ltx_noise *n, const uint8_t *msg, size_t size, uint8_t *out, size_t cap, struct fz_err *err)
{
	size_t head = n->initiator ? LTX_NOISE_MSG2 : LTX_NOISE_MSG1;
	int rc;

	if (n->step != (n->initiator ? 1 : 0))
		return fz_fail(err, FZ_EINTERNAL, "it is not the peer's turn in the handshake");
	if (size < head || size > LTX_NOISE_MAX || size - head > cap)
		rc = fz_fail(err, FZ_ECRYPT, "a handshake message cannot have %zu bytes", size);
	else
		rc = (n->initiator ? read2 : read1)(n, msg, size, out, err);
	if (rc < 0) {
		ltx_noise_fini(n); /* what was mixed in cannot be taken out again: no second try */
		return rc;
	}
	n->step++;
	return (int)(size - head);
}

const uint8_t *ltx_noise_remote(const struct ltx_noise *n)
{
	return n->step >= (n->initiator ? 0 : 1) ? n->rs : NULL;
}

int ltx_noise_split(struct ltx_noise *n, struct ltx_noise_cipher *send, struct ltx_noise_cipher *receive,
                    struct fz_err *err)
{
	uint8_t one[HASH], two[HASH];

	if (n->step != 2)
		return fz_fail(err, FZ_EINTERNAL, "the handshake is not over");
	hkdf2(one, two, n->ck, "", 0);
	memcpy(send->key, n->initiator ? one : two, sizeof(send->key));
	memcpy(receive->key, n->initiator ? two : one, sizeof(receive->key));
	send->nonce = receive->nonce = 0;
	sodium_memzero(one, sizeof(one));
	sodium_memzero(two, sizeof(two));
	ltx_noise_fini(n); /* forward secrecy: the ephemeral key is gone from here on */
	return 0;
}

int ltx_noise_seal(struct ltx_noise_cipher *c, const void *plain, size_t size, uint8_t *out, struct fz_err *err)
{
	if (size > LTX_NOISE_PAYLOAD)
		return fz_fail(err, FZ_EINTERNAL, "a message of %zu bytes is too long to be sealed", size);
	return encrypt_with_ad(c, NULL, 0, plain, size, out, err);
}

int ltx_noise_open(struct ltx_noise_cipher *c, const uint8_t *sealed, size_t size, void *out, struct fz_err *err)
{
	if (size < LTX_NOISE_MAC || size > LTX_NOISE_MAX)
		return fz_fail(err, FZ_ECRYPT, "a sealed message cannot have %zu bytes", size);
	return decrypt_with_ad(c, NULL, 0, sealed, size, out, err);
}
