/* test_ltx_noise.c - the handshake and its transport, judged by the published vectors (tests/golden/noise), and what must
 * be refused. Runs in the project's root. */
#include "base/buf.h"
#include "base/file.h"
#include "ltx/noise.h"
#include "tests/unit/ok.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VECTORS "tests/golden/noise/IK_25519_ChaChaPoly_BLAKE2b.txt"

static struct fz_err err;

#define OK(call) OK_OR(call, err)

/* ---- the published vectors ---- */
struct message {
	uint8_t payload[64], cipher[256];
	size_t n_payload, n_cipher;
};
struct vector {
	char name[32];
	uint8_t init_prologue[64], init_static[32], init_ephemeral[32], init_remote_static[32];
	uint8_t resp_prologue[64], resp_static[32], resp_ephemeral[32], handshake_hash[64];
	size_t n_init_prologue, n_resp_prologue, n_hash;
	struct message messages[8];
	size_t n;
};

static size_t unhex(uint8_t *out, size_t cap, const char *hex)
{
	size_t n;

	if (sodium_hex2bin(out, cap, hex, strlen(hex), NULL, &n, NULL) < 0)
		fail_msg("not %zu bytes of hex: %s", cap, hex);
	return n;
}

static void vector_line(struct vector *v, const char *key, const char *value)
{
	const struct {
		const char *key;
		uint8_t *at;
		size_t cap, *n;
	} fields[] = {
	        {"init_prologue",      v->init_prologue,      64, &v->n_init_prologue},
	        {"init_static",        v->init_static,        32, NULL               },
	        {"init_ephemeral",     v->init_ephemeral,     32, NULL               },
	        {"init_remote_static", v->init_remote_static, 32, NULL               },
	        {"resp_prologue",      v->resp_prologue,      64, &v->n_resp_prologue},
	        {"resp_static",        v->resp_static,        32, NULL               },
	        {"resp_ephemeral",     v->resp_ephemeral,     32, NULL               },
	        {"handshake_hash",     v->handshake_hash,     64, &v->n_hash         },
	};

	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		if (!strcmp(key, fields[i].key)) {
			size_t n = unhex(fields[i].at, fields[i].cap, value);

			if (fields[i].n)
				*fields[i].n = n;
			return;
		}
	}
	assert_true(v->n < 8);
	struct message *m = &v->messages[v->n];
	if (!strcmp(key, "payload")) {
		m->n_payload = unhex(m->payload, sizeof(m->payload), value);
	} else {
		assert_string_equal(key, "ciphertext");
		m->n_cipher = unhex(m->cipher, sizeof(m->cipher), value);
		v->n++;
	}
}

/* Puts what the vector names in the place of a drawn ephemeral key. */
static void fix_ephemeral(struct ltx_noise *n, const uint8_t secret[static 32])
{
	memcpy(n->e, secret, 32);
	crypto_scalarmult_curve25519_base(n->e_pub, n->e);
}

static void run_vector(const struct vector *v)
{
	struct ltx_noise end[2]; /* [0] is the initiator */
	struct ltx_noise_cipher send[2], receive[2];
	uint8_t out[512], in[512], resp_public[32], init_public[32];

	assert_true(v->n >= 4);
	crypto_scalarmult_curve25519_base(resp_public, v->resp_static);
	assert_memory_equal(resp_public, v->init_remote_static, 32);
	crypto_scalarmult_curve25519_base(init_public, v->init_static);
	OK(ltx_noise_init(&end[0], true, v->init_static, v->init_remote_static, v->init_prologue, v->n_init_prologue,
	                  &err));
	OK(ltx_noise_init(&end[1], false, v->resp_static, NULL, v->resp_prologue, v->n_resp_prologue, &err));
	fix_ephemeral(&end[0], v->init_ephemeral);
	fix_ephemeral(&end[1], v->resp_ephemeral);
	for (size_t i = 0; i < v->n; i++) {
		const struct message *m = &v->messages[i];
		size_t from = i % 2, to = 1 - from;

		if (i < 2) {
			assert_int_equal(
			        OK(ltx_noise_write(&end[from], m->payload, m->n_payload, out, sizeof(out), &err)),
			        m->n_cipher);
			assert_memory_equal(out, m->cipher, m->n_cipher);
			assert_int_equal(OK(ltx_noise_read(&end[to], m->cipher, m->n_cipher, in, sizeof(in), &err)),
			                 m->n_payload);
		} else {
			assert_int_equal(m->n_cipher, m->n_payload + LTX_NOISE_MAC);
			OK(ltx_noise_seal(&send[from], m->payload, m->n_payload, out, &err));
			assert_memory_equal(out, m->cipher, m->n_cipher);
			OK(ltx_noise_open(&receive[to], m->cipher, m->n_cipher, in, &err));
		}
		assert_memory_equal(in, m->payload, m->n_payload);
		if (i == 1) {
			assert_memory_equal(ltx_noise_remote(&end[0]), resp_public, 32);
			assert_memory_equal(ltx_noise_remote(&end[1]), init_public, 32);
			for (size_t e = 0; e < 2; e++) {
				if (v->n_hash)
					assert_memory_equal(end[e].h, v->handshake_hash, 64);
				OK(ltx_noise_split(&end[e], &send[e], &receive[e], &err));
			}
		}
	}
}

static void vectors(void **state)
{
	struct fz_buf text = {0};
	struct vector v = {0};
	char *line, *save = NULL;
	int ran = 0, hashes = 0;

	OK(fz_read_file(AT_FDCWD, VECTORS, 1 << 20, &text, &err));
	for (line = strtok_r((char *)text.data, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *value = strchr(line, ' ');

		assert_non_null(value);
		*value++ = 0;
		if (strcmp(line, "vector")) {
			vector_line(&v, line, value);
			continue;
		}
		if (v.name[0])
			run_vector(&v), ran++, hashes += v.n_hash > 0;
		memset(&v, 0, sizeof(v));
		snprintf(v.name, sizeof(v.name), "%s", value);
	}
	run_vector(&v);
	assert_int_equal(ran + 1, 2);
	assert_int_equal(hashes, 1);
	fz_buf_fini(&text);
}

/* ---- two ends ---- */
static const uint8_t prologue[] = "FZTL\001"; /* with its NUL: 6 bytes */

struct pair {
	uint8_t a[32], b[32], a_pub[32], b_pub[32]; /* static keys; a calls */
	struct ltx_noise init, resp;
	uint8_t m1[LTX_NOISE_MSG1 + 4], m2[LTX_NOISE_MSG2 + 4], payload[64];
	struct ltx_noise_cipher a_send, a_receive, b_send, b_receive;
};

static void begin(struct pair *p)
{
	memset(p, 0, sizeof(*p));
	memset(p->a, 0x11, 32);
	memset(p->b, 0x22, 32);
	crypto_scalarmult_curve25519_base(p->a_pub, p->a);
	crypto_scalarmult_curve25519_base(p->b_pub, p->b);
	OK(ltx_noise_init(&p->init, true, p->a, p->b_pub, prologue, sizeof(prologue), &err));
	OK(ltx_noise_init(&p->resp, false, p->b, NULL, prologue, sizeof(prologue), &err));
}

static void finish(struct pair *p)
{
	assert_int_equal(OK(ltx_noise_write(&p->init, "ping", 4, p->m1, sizeof(p->m1), &err)), sizeof(p->m1));
	assert_int_equal(OK(ltx_noise_read(&p->resp, p->m1, sizeof(p->m1), p->payload, 4, &err)), 4);
	assert_memory_equal(p->payload, "ping", 4);
	assert_int_equal(OK(ltx_noise_write(&p->resp, "pong", 4, p->m2, sizeof(p->m2), &err)), sizeof(p->m2));
	assert_int_equal(OK(ltx_noise_read(&p->init, p->m2, sizeof(p->m2), p->payload, 4, &err)), 4);
	assert_memory_equal(p->payload, "pong", 4);
	OK(ltx_noise_split(&p->init, &p->a_send, &p->a_receive, &err));
	OK(ltx_noise_split(&p->resp, &p->b_send, &p->b_receive, &err));
}

/* Nothing secret is left, and nothing works any more. */
static void assert_dead(struct ltx_noise *n)
{
	struct ltx_noise_cipher c;
	uint8_t out[256];
	struct ltx_noise copy = *n;

	copy.step = 0;
	assert_true(sodium_is_zero((const uint8_t *)&copy, sizeof(copy)));
	assert_int_equal(ltx_noise_write(n, NULL, 0, out, sizeof(out), &err), -FZ_EINTERNAL);
	assert_int_equal(ltx_noise_read(n, out, LTX_NOISE_MSG1, out, sizeof(out), &err), -FZ_EINTERNAL);
	assert_int_equal(ltx_noise_split(n, &c, &c, &err), -FZ_EINTERNAL);
	assert_null(ltx_noise_remote(n));
}

static void both_directions(void **state)
{
	static const size_t sizes[] = {0, 1, 15, 16, 17, 63, 64, 65, 4096, LTX_NOISE_PAYLOAD};
	uint8_t *plain = malloc(LTX_NOISE_MAX), *sealed = malloc(LTX_NOISE_MAX), *out = malloc(LTX_NOISE_MAX);
	struct pair p;

	begin(&p);
	finish(&p);
	assert_dead(&p.init);
	assert_dead(&p.resp);
	assert_memory_equal(p.a_send.key, p.b_receive.key, 32);
	assert_memory_equal(p.b_send.key, p.a_receive.key, 32);
	assert_memory_not_equal(p.a_send.key, p.b_send.key, 32);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		size_t n = sizes[i];

		randombytes_buf(plain, LTX_NOISE_MAX);
		OK(ltx_noise_seal(&p.a_send, n ? plain : NULL, n, sealed, &err));
		OK(ltx_noise_open(&p.b_receive, sealed, n + LTX_NOISE_MAC, n ? out : NULL, &err));
		assert_memory_equal(out, plain, n);
		memcpy(out, plain, n);
		OK(ltx_noise_seal(&p.b_send, out, n, out, &err)); /* in place */
		OK(ltx_noise_open(&p.a_receive, out, n + LTX_NOISE_MAC, out, &err));
		assert_memory_equal(out, plain, n);
	}
	assert_int_equal(ltx_noise_seal(&p.a_send, plain, LTX_NOISE_PAYLOAD + 1, sealed, &err), -FZ_EINTERNAL);
	assert_int_equal(ltx_noise_open(&p.b_receive, sealed, LTX_NOISE_MAC - 1, out, &err), -FZ_ECRYPT);
	assert_int_equal(ltx_noise_open(&p.b_receive, sealed, 0, out, &err), -FZ_ECRYPT);
	assert_int_equal(ltx_noise_open(&p.b_receive, sealed, (size_t)LTX_NOISE_MAX + 1, out, &err), -FZ_ECRYPT);
	free(plain);
	free(sealed);
	free(out);
}

static void ephemerals_are_fresh(void **state)
{
	struct pair one, two;

	begin(&one);
	begin(&two);
	finish(&one);
	finish(&two);
	assert_memory_not_equal(one.m1, two.m1, 32);
	assert_memory_not_equal(one.m2, two.m2, 32);
	assert_memory_not_equal(one.a_send.key, two.a_send.key, 32);
}

/* Every bit of either message matters, and so does each length. */
static void damaged_handshakes(void **state)
{
	struct pair p, q;
	uint8_t out[64];

	begin(&p);
	OK(ltx_noise_write(&p.init, "ping", 4, p.m1, sizeof(p.m1), &err));
	q = p;
	for (size_t i = 0; i < 8 * sizeof(p.m1); i++) {
		struct ltx_noise resp = p.resp;

		p.m1[i / 8] ^= (uint8_t)(1 << i % 8);
		if (ltx_noise_read(&resp, p.m1, sizeof(p.m1), out, sizeof(out), &err) != -FZ_ECRYPT)
			fail_msg("message 1, bit %zu", i);
		assert_dead(&resp);
		p.m1[i / 8] ^= (uint8_t)(1 << i % 8);
	}
	for (size_t n = 0; n < sizeof(p.m1); n++) {
		struct ltx_noise resp = p.resp;

		if (ltx_noise_read(&resp, p.m1, n, out, sizeof(out), &err) != -FZ_ECRYPT)
			fail_msg("message 1, %zu bytes", n);
	}
	OK(ltx_noise_read(&p.resp, p.m1, sizeof(p.m1), out, sizeof(out), &err));
	OK(ltx_noise_write(&p.resp, "pong", 4, p.m2, sizeof(p.m2), &err));
	for (size_t i = 0; i < 8 * sizeof(p.m2); i++) {
		struct ltx_noise init = q.init;

		p.m2[i / 8] ^= (uint8_t)(1 << i % 8);
		if (ltx_noise_read(&init, p.m2, sizeof(p.m2), out, sizeof(out), &err) != -FZ_ECRYPT)
			fail_msg("message 2, bit %zu", i);
		assert_dead(&init);
		p.m2[i / 8] ^= (uint8_t)(1 << i % 8);
	}
	for (size_t n = 0; n < sizeof(p.m2); n++) {
		struct ltx_noise init = q.init;

		if (ltx_noise_read(&init, p.m2, n, out, sizeof(out), &err) != -FZ_ECRYPT)
			fail_msg("message 2, %zu bytes", n);
	}
	OK(ltx_noise_read(&q.init, p.m2, sizeof(p.m2), out, sizeof(out), &err)); /* the copies were the reason, not p */
}

static void strangers(void **state)
{
	static const uint8_t other_prologue[] = "FZTL\002";
	uint8_t other[32], other_pub[32], out[64];
	struct pair p;

	memset(other, 0x33, 32);
	crypto_scalarmult_curve25519_base(other_pub, other);

	begin(&p); /* the caller believes that somebody else is there */
	ltx_noise_fini(&p.init);
	OK(ltx_noise_init(&p.init, true, p.a, other_pub, prologue, sizeof(prologue), &err));
	OK(ltx_noise_write(&p.init, "ping", 4, p.m1, sizeof(p.m1), &err));
	assert_int_equal(ltx_noise_read(&p.resp, p.m1, sizeof(p.m1), out, sizeof(out), &err), -FZ_ECRYPT);

	begin(&p); /* a version was changed on the way */
	ltx_noise_fini(&p.resp);
	OK(ltx_noise_init(&p.resp, false, p.b, NULL, other_prologue, sizeof(other_prologue), &err));
	OK(ltx_noise_write(&p.init, "ping", 4, p.m1, sizeof(p.m1), &err));
	assert_int_equal(ltx_noise_read(&p.resp, p.m1, sizeof(p.m1), out, sizeof(out), &err), -FZ_ECRYPT);

	begin(&p); /* whoever answers knows message 1 and the keys' public halves, but not the key that was called */
	OK(ltx_noise_write(&p.init, "ping", 4, p.m1, sizeof(p.m1), &err));
	OK(ltx_noise_read(&p.resp, p.m1, sizeof(p.m1), out, sizeof(out), &err));
	memset(p.resp.ck, 0, sizeof(p.resp.ck));
	OK(ltx_noise_write(&p.resp, "pong", 4, p.m2, sizeof(p.m2), &err));
	assert_int_equal(ltx_noise_read(&p.init, p.m2, sizeof(p.m2), out, sizeof(out), &err), -FZ_ECRYPT);

	begin(&p); /* the caller claims the key of another: it cannot compute ss */
	memcpy(p.init.s_pub, other_pub, 32);
	OK(ltx_noise_write(&p.init, "ping", 4, p.m1, sizeof(p.m1), &err));
	assert_int_equal(ltx_noise_read(&p.resp, p.m1, sizeof(p.m1), out, sizeof(out), &err), -FZ_ECRYPT);
}

/* Message 1 can be repeated by whoever recorded it: it gets an answer, but nothing that follows is believed. */
static void replayed_handshake(void **state)
{
	struct ltx_noise_cipher send, receive;
	struct ltx_noise again;
	uint8_t recorded[32], out[64];
	struct pair p;

	begin(&p);
	finish(&p);
	OK(ltx_noise_seal(&p.a_send, "first", 5, recorded, &err));
	OK(ltx_noise_init(&again, false, p.b, NULL, prologue, sizeof(prologue), &err));
	OK(ltx_noise_read(&again, p.m1, sizeof(p.m1), out, sizeof(out), &err));
	assert_int_equal(ltx_noise_read(&again, p.m1, sizeof(p.m1), out, sizeof(out), &err), -FZ_EINTERNAL);
	OK(ltx_noise_write(&again, "pong", 4, p.m2, sizeof(p.m2), &err));
	OK(ltx_noise_split(&again, &send, &receive, &err));
	assert_int_equal(ltx_noise_open(&receive, recorded, 5 + LTX_NOISE_MAC, out, &err), -FZ_ECRYPT);
	OK(ltx_noise_open(&p.b_receive, recorded, 5 + LTX_NOISE_MAC, out, &err)); /* in its own session it is right */
}

static void replayed_transport(void **state)
{
	uint8_t m[3][32], out[64];
	struct pair p;

	begin(&p);
	finish(&p);
	for (int i = 0; i < 3; i++)
		OK(ltx_noise_seal(&p.a_send, "again", 5, m[i], &err));
	assert_memory_not_equal(m[0], m[1], 21);
	assert_int_equal(ltx_noise_open(&p.b_receive, m[1], 21, out, &err), -FZ_ECRYPT); /* one is missing */
	OK(ltx_noise_open(&p.b_receive, m[0], 21, out, &err));
	assert_int_equal(ltx_noise_open(&p.b_receive, m[0], 21, out, &err), -FZ_ECRYPT); /* twice */
	assert_int_equal(ltx_noise_open(&p.a_receive, m[1], 21, out, &err), -FZ_ECRYPT); /* sent back */
	for (size_t i = 0; i < 8 * 21; i++) {
		m[1][i / 8] ^= (uint8_t)(1 << i % 8);
		if (ltx_noise_open(&p.b_receive, m[1], 21, out, &err) != -FZ_ECRYPT)
			fail_msg("bit %zu", i);
		m[1][i / 8] ^= (uint8_t)(1 << i % 8);
	}
	for (size_t n = 0; n < 21; n++)
		if (ltx_noise_open(&p.b_receive, m[1], n, out, &err) != -FZ_ECRYPT)
			fail_msg("%zu bytes", n);
	OK(ltx_noise_open(&p.b_receive, m[1], 21, out, &err)); /* what is not authentic uses no nonce */
	OK(ltx_noise_open(&p.b_receive, m[2], 21, out, &err));
}

static void out_of_turn(void **state)
{
	uint8_t out[LTX_NOISE_MSG1 + 8] = {0};
	struct ltx_noise_cipher c;
	struct pair p;

	begin(&p);
	assert_int_equal(ltx_noise_read(&p.init, out, LTX_NOISE_MSG2, out, sizeof(out), &err), -FZ_EINTERNAL);
	assert_int_equal(ltx_noise_write(&p.resp, "", 0, out, sizeof(out), &err), -FZ_EINTERNAL);
	assert_int_equal(ltx_noise_split(&p.init, &c, &c, &err), -FZ_EINTERNAL);
	assert_int_equal(ltx_noise_split(&p.resp, &c, &c, &err), -FZ_EINTERNAL);
	assert_null(ltx_noise_remote(&p.resp));
	assert_memory_equal(ltx_noise_remote(&p.init), p.b_pub, 32);

	OK(ltx_noise_write(&p.init, "ping", 4, p.m1, sizeof(p.m1), &err));
	assert_int_equal(ltx_noise_write(&p.init, "ping", 4, out, sizeof(out), &err), -FZ_EINTERNAL);
	assert_int_equal(ltx_noise_split(&p.init, &c, &c, &err), -FZ_EINTERNAL);

	OK(ltx_noise_read(&p.resp, p.m1, sizeof(p.m1), out, sizeof(out), &err));
	assert_memory_equal(ltx_noise_remote(&p.resp), p.a_pub, 32);
	assert_int_equal(ltx_noise_read(&p.resp, p.m1, sizeof(p.m1), out, sizeof(out), &err), -FZ_EINTERNAL);
	assert_int_equal(ltx_noise_split(&p.resp, &c, &c, &err), -FZ_EINTERNAL);

	OK(ltx_noise_write(&p.resp, "pong", 4, p.m2, sizeof(p.m2), &err));
	assert_int_equal(ltx_noise_write(&p.resp, "pong", 4, out, sizeof(out), &err), -FZ_EINTERNAL);
	OK(ltx_noise_read(&p.init, p.m2, sizeof(p.m2), out, sizeof(out), &err)); /* none of it did any harm */
	OK(ltx_noise_split(&p.init, &c, &c, &err));
	OK(ltx_noise_split(&p.resp, &c, &c, &err));

	assert_int_equal(ltx_noise_init(&p.init, true, p.a, NULL, "", 0, &err), -FZ_EINTERNAL);
	assert_int_equal(ltx_noise_init(&p.resp, false, p.b, p.a_pub, "", 0, &err), -FZ_EINTERNAL);
}

static void sizes(void **state)
{
	uint8_t *big = calloc(1, LTX_NOISE_MAX + 1), *out = malloc(LTX_NOISE_MAX + 1), *in = malloc(LTX_NOISE_MAX);
	const size_t most = LTX_NOISE_MAX - LTX_NOISE_MSG1;
	struct pair p;

	begin(&p);
	assert_int_equal(ltx_noise_write(&p.init, big, most + 1, out, LTX_NOISE_MAX + 1, &err), -FZ_EINTERNAL);
	assert_int_equal(ltx_noise_write(&p.init, big, 4, out, LTX_NOISE_MSG1 + 3, &err), -FZ_EINTERNAL);
	assert_int_equal(OK(ltx_noise_write(&p.init, big, most, out, LTX_NOISE_MAX, &err)), LTX_NOISE_MAX);
	struct ltx_noise resp = p.resp;
	assert_int_equal(ltx_noise_read(&resp, out, LTX_NOISE_MAX, in, most - 1, &err), -FZ_ECRYPT);
	resp = p.resp;
	assert_int_equal(ltx_noise_read(&resp, out, (size_t)LTX_NOISE_MAX + 1, in, LTX_NOISE_MAX, &err), -FZ_ECRYPT);
	assert_int_equal(OK(ltx_noise_read(&p.resp, out, LTX_NOISE_MAX, in, most, &err)), (int)most);
	assert_memory_equal(in, big, most);
	OK(ltx_noise_write(&p.resp, NULL, 0, out, LTX_NOISE_MSG2,
	                   &err)); /* without payload, nothing is needed for it */
	assert_int_equal(OK(ltx_noise_read(&p.init, out, LTX_NOISE_MSG2, NULL, 0, &err)), 0);
	free(big);
	free(out);
	free(in);
}

static void nonces_end(void **state)
{
	uint8_t m[32], out[32];
	struct pair p;

	begin(&p);
	finish(&p);
	p.a_send.nonce = p.b_receive.nonce = UINT64_MAX - 1;
	OK(ltx_noise_seal(&p.a_send, "last", 4, m, &err));
	OK(ltx_noise_open(&p.b_receive, m, 20, out, &err));
	for (int i = 0; i < 2; i++) {
		assert_int_equal(ltx_noise_seal(&p.a_send, "more", 4, m, &err), -FZ_ECRYPT);
		assert_non_null(strstr(err.text, "nonces"));
		assert_int_equal(ltx_noise_open(&p.b_receive, m, 20, out, &err), -FZ_ECRYPT);
		assert_non_null(strstr(err.text, "nonces")); /* not: looked at, and found wrong */
		err.text[0] = 0;
	}
	assert_true(p.a_send.nonce == UINT64_MAX && p.b_receive.nonce == UINT64_MAX);
}

/* The points with which every secret gives the same shared key (RFC 7748, 6.1; the list of cr.yp.to/ecdh.html). */
static void low_order_points(void **state)
{
	static const char *const points[] = {
	        "0000000000000000000000000000000000000000000000000000000000000000",
	        "0100000000000000000000000000000000000000000000000000000000000000",
	        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
	        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
	        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	};
	uint8_t point[32], out[64];
	struct pair p, q;

	for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++) {
		unhex(point, 32, points[i]);
		begin(&p); /* as the key of whom we call */
		ltx_noise_fini(&p.init);
		OK(ltx_noise_init(&p.init, true, p.a, point, prologue, sizeof(prologue), &err));
		assert_int_equal(ltx_noise_write(&p.init, "", 0, p.m1, sizeof(p.m1), &err), -FZ_ECRYPT);
		assert_dead(&p.init);

		begin(&p); /* as the caller's static key, in a message that is right otherwise */
		memcpy(p.init.s_pub, point, 32);
		OK(ltx_noise_write(&p.init, "ping", 4, p.m1, sizeof(p.m1), &err));
		assert_int_equal(ltx_noise_read(&p.resp, p.m1, sizeof(p.m1), out, sizeof(out), &err), -FZ_ECRYPT);
		assert_string_equal(err.text, "the peer's key is not a usable one");

		begin(&p); /* as either ephemeral key */
		OK(ltx_noise_write(&p.init, "ping", 4, p.m1, sizeof(p.m1), &err));
		q = p;
		memcpy(q.m1, point, 32);
		assert_int_equal(ltx_noise_read(&q.resp, q.m1, sizeof(q.m1), out, sizeof(out), &err), -FZ_ECRYPT);
		assert_string_equal(err.text, "the peer's key is not a usable one");
		OK(ltx_noise_read(&p.resp, p.m1, sizeof(p.m1), out, sizeof(out), &err));
		OK(ltx_noise_write(&p.resp, "pong", 4, p.m2, sizeof(p.m2), &err));
		memcpy(p.m2, point, 32);
		assert_int_equal(ltx_noise_read(&p.init, p.m2, sizeof(p.m2), out, sizeof(out), &err), -FZ_ECRYPT);
		assert_string_equal(err.text, "the peer's key is not a usable one");
	}
}

static int group_setup(void **state)
{
	return sodium_init() < 0 ? -1 : 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(vectors),
	        cmocka_unit_test(both_directions),
	        cmocka_unit_test(ephemerals_are_fresh),
	        cmocka_unit_test(damaged_handshakes),
	        cmocka_unit_test(strangers),
	        cmocka_unit_test(replayed_handshake),
	        cmocka_unit_test(replayed_transport),
	        cmocka_unit_test(out_of_turn),
	        cmocka_unit_test(sizes),
	        cmocka_unit_test(nonces_end),
	        cmocka_unit_test(low_order_points),
	};

	return cmocka_run_group_tests(tests, group_setup, NULL);
}
