/* noise.h - Noise_IK_25519_ChaChaPoly_BLAKE2b (noiseprotocol.org, revision 34): the initiator knows whom it calls, both
 * ends prove their static key, everything after the handshake is encrypted and authenticated both ways.
 *
 *   -> e, es, s, ss    message 1, 96 bytes and its payload
 *   <- e, ee, se       message 2, 48 bytes and its payload
 * The responder knows the initiator's key after message 1, and that it is no replay of it after the first transport
 * message. Nothing here reads or allocates by what the peer says. Secrets are wiped by ltx_noise_fini().
 * Held by tests/unit/test_ltx_noise.c (published vectors) and tests/fuzz/fuzz_noise.c. */
#ifndef FZ_LTX_NOISE_H
#define FZ_LTX_NOISE_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define LTX_NOISE_KEY     32
#define LTX_NOISE_MAC     16
#define LTX_NOISE_MSG1    96 /* without payload */
#define LTX_NOISE_MSG2    48
#define LTX_NOISE_MAX     65535 /* largest message, handshake or transport, with its MAC */
#define LTX_NOISE_PAYLOAD (LTX_NOISE_MAX - LTX_NOISE_MAC)

/* One direction of an established connection. Two directions are independent: one thread each. */
struct ltx_noise_cipher {
	uint8_t key[32];
	uint64_t nonce;
};
struct ltx_noise {
	bool initiator;
	int step; /* messages done: 0, 1, 2; -1 = failed or over, and wiped */
	uint8_t s[32], s_pub[32], rs[32], re[32];
	uint8_t e[32], e_pub[32]; /* drawn by write() when e_pub is all zero; tests put those of the vectors here */
	uint8_t ck[64], h[64];
	struct ltx_noise_cipher cs;
	bool has_key;
};

/* A call that fails ends the handshake: n is wiped and refuses all that follows. (A call out of turn, -FZ_EINTERNAL, leaves
 * it as it was.) */
/* secret: own static X25519 key. remote: the responder's public key (initiator), or NULL (responder). */
int ltx_noise_init(struct ltx_noise *n, bool initiator, const uint8_t secret[static LTX_NOISE_KEY],
                   const uint8_t *remote, const void *prologue, size_t prologue_size, struct fz_err *err) FZ_MUST_CHECK;
void ltx_noise_fini(struct ltx_noise *n); /* wipes */
/* The next handshake message with its payload, into out (MSG1 or MSG2 plus size bytes); returns its length. */
int ltx_noise_write(struct ltx_noise *n, const void *payload, size_t size, uint8_t *out, size_t cap,
                    struct fz_err *err) FZ_MUST_CHECK;
/* Reads the peer's handshake message; its payload goes to out, whose length is returned (more than cap is
 * refused before anything is computed). -FZ_ECRYPT, also for keys of low order. */
int ltx_noise_read(struct ltx_noise *n, const uint8_t *msg, size_t size, uint8_t *out, size_t cap,
                   struct fz_err *err) FZ_MUST_CHECK;
/* The peer's static key: after message 1 at the responder, NULL before and after ltx_noise_split(). Borrowed. */
const uint8_t *ltx_noise_remote(const struct ltx_noise *n);
/* After message 2: the two directions, seen from this end. n is wiped. */
int ltx_noise_split(struct ltx_noise *n, struct ltx_noise_cipher *send, struct ltx_noise_cipher *receive,
                    struct fz_err *err) FZ_MUST_CHECK;
/* Transport messages. out: size + MAC, or size - MAC bytes; in place is fine. 0 or -FZ_ECRYPT; nonces never repeat, and a
 * message that is not authentic uses none. */
int ltx_noise_seal(struct ltx_noise_cipher *c, const void *plain, size_t size, uint8_t *out,
                   struct fz_err *err) FZ_MUST_CHECK;
int ltx_noise_open(struct ltx_noise_cipher *c, const uint8_t *sealed, size_t size, void *out,
                   struct fz_err *err) FZ_MUST_CHECK;

#endif
