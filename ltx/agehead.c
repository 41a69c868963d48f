#include "ltx/agehead.h"

#include "base/array.h"
#include "base/cursor.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

static const char magic[] = "age-encryption.org/v1\n";
static const char magic_any[] = "age-encryption.org/";
static const char x25519_info[] = "age-encryption.org/v1/X25519";

#define B64_32 43 /* base64 characters of 32 bytes, unpadded */

/* HKDF-SHA256 (RFC 5869), one block of output. */
static void hkdf(uint8_t out[32], const uint8_t *ikm, size_t ikm_bytes, const uint8_t *salt, size_t salt_bytes,
                 const char *info)
{
	static const uint8_t none[32], one = 1;
	crypto_auth_hmacsha256_state st;
	uint8_t prk[32];

	crypto_auth_hmacsha256_init(&st, salt_bytes ? salt : none, salt_bytes ? salt_bytes : sizeof(none));
	crypto_auth_hmacsha256_update(&st, ikm, ikm_bytes);
	crypto_auth_hmacsha256_final(&st, prk);
	crypto_auth_hmacsha256_init(&st, prk, sizeof(prk));
	crypto_auth_hmacsha256_update(&st, (const uint8_t *)info, strlen(info));
	crypto_auth_hmacsha256_update(&st, &one, 1);
	crypto_auth_hmacsha256_final(&st, out);
	sodium_memzero(prk, sizeof(prk));
	sodium_memzero(&st, sizeof(st));
}

static void header_mac(uint8_t mac[32], const uint8_t *file_key, const uint8_t *header, size_t n)
{
	crypto_auth_hmacsha256_state st;
	uint8_t key[32];

	hkdf(key, file_key, LTX_AGE_FILE_KEY, NULL, 0, "header");
	crypto_auth_hmacsha256_init(&st, key, sizeof(key));
	crypto_auth_hmacsha256_update(&st, header, n);
	crypto_auth_hmacsha256_final(&st, mac);
	sodium_memzero(key, sizeof(key));
	sodium_memzero(&st, sizeof(st));
}

void ltx_age_payload_key(uint8_t key[32], const uint8_t file_key[LTX_AGE_FILE_KEY], const uint8_t nonce[LTX_AGE_NONCE])
{
	hkdf(key, file_key, LTX_AGE_FILE_KEY, nonce, LTX_AGE_NONCE, "payload");
}

void ltx_age_chunk_nonce(uint8_t nonce[12], uint64_t chunk, bool last)
{
	memset(nonce, 0, 12);
	fz_put64(nonce + 3, chunk);
	nonce[11] = last;
}

static void wrap_key(uint8_t key[32], const uint8_t shared[32], const uint8_t share[32], const uint8_t public_key[32])
{
	uint8_t salt[64];

	memcpy(salt, share, 32);
	memcpy(salt + 32, public_key, 32);
	hkdf(key, shared, 32, salt, sizeof(salt), x25519_info);
}

static int wrap(struct fz_buf *out, const uint8_t *file_key, const struct ltx_age_recipient *r, struct fz_err *err)
{
	static const uint8_t zero_nonce[12];
	uint8_t secret[32], share[32], shared[32], key[32], body[LTX_AGE_FILE_KEY + LTX_AGE_TAG];
	char share64[B64_32 + 1], body64[B64_32 + 1];
	int rc = 0;

	randombytes_buf(secret, sizeof(secret));
	crypto_scalarmult_curve25519_base(share, secret);
	if (crypto_scalarmult_curve25519(shared, secret, r->public_key) < 0) {
		rc = fz_fail(err, FZ_EKEYFILE, "a recipient is no valid public key");
		goto out;
	}
	wrap_key(key, shared, share, r->public_key);
	crypto_aead_chacha20poly1305_ietf_encrypt(body, NULL, file_key, LTX_AGE_FILE_KEY, NULL, 0, NULL, zero_nonce,
	                                          key);
	sodium_bin2base64(share64, sizeof(share64), share, 32, sodium_base64_VARIANT_ORIGINAL_NO_PADDING);
	sodium_bin2base64(body64, sizeof(body64), body, 32, sodium_base64_VARIANT_ORIGINAL_NO_PADDING);
	if (fz_buf_addf(out, "-> X25519 %s\n%s\n", share64, body64) < 0)
		rc = fz_fail_errno(err, ENOMEM, "encrypting");
out:
	sodium_memzero(secret, sizeof(secret));
	sodium_memzero(shared, sizeof(shared));
	sodium_memzero(key, sizeof(key));
	return rc;
}

int ltx_age_header_write(struct fz_buf *out, const uint8_t file_key[LTX_AGE_FILE_KEY],
                         const struct ltx_age_recipient *r, size_t n, struct fz_err *err)
{
	size_t start = out->size;
	char mac64[B64_32 + 1];
	uint8_t mac[32];
	int rc = 0;

	if (fz_buf_add(out, magic, sizeof(magic) - 1) < 0)
		return fz_fail_errno(err, ENOMEM, "encrypting");
	for (size_t i = 0; rc == 0 && i < n; i++)
		rc = wrap(out, file_key, &r[i], err);
	if (rc < 0)
		return rc;
	if (fz_buf_add(out, "---", 3) < 0)
		return fz_fail_errno(err, ENOMEM, "encrypting");
	header_mac(mac, file_key, out->data + start, out->size - start);
	sodium_bin2base64(mac64, sizeof(mac64), mac, 32, sodium_base64_VARIANT_ORIGINAL_NO_PADDING);
	if (fz_buf_addf(out, " %s\n", mac64) < 0)
		return fz_fail_errno(err, ENOMEM, "encrypting");
	return 0;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

struct line {
	const char *p;
	size_t n; /* without the newline */
};

struct x25519 {
	uint8_t share[32], body[32];
};

struct parse {
	const char *p, *end;
	bool all; /* end is the end of the file, or as far as a header may reach */
	struct x25519 *v;
	size_t n, cap, stanzas;
	bool scrypt;
	uint8_t mac[32];
	size_t mac_from, header_bytes; /* the MAC covers [0, mac_from) */
};

#define BAD(...) fz_fail(err, FZ_ECRYPT, "age header: " __VA_ARGS__)

/* -EAGAIN: more bytes are needed. */
static int next_line(struct parse *ps, struct line *l, struct fz_err *err)
{
	const char *nl = memchr(ps->p, '\n', (size_t)(ps->end - ps->p));

	if (!nl)
		return ps->all ? BAD("ends early") : -EAGAIN;
	*l = (struct line){ps->p, (size_t)(nl - ps->p)};
	ps->p = nl + 1;
	return 0;
}

/* Canonical and unpadded; *got bytes. */
static int unbase64(struct line l, uint8_t *out, size_t cap, size_t *got)
{
	for (size_t i = 0; i < l.n; i++)
		if (l.p[i] & 0x80) /* libsodium 1.0.18 takes some bytes above 127 for digits */
			return -EINVAL;
	return sodium_base642bin(out, cap, l.p, l.n, NULL, got, NULL, sodium_base64_VARIANT_ORIGINAL_NO_PADDING);
}

static int unbase64_32(struct line l, uint8_t out[32])
{
	size_t got;

	return l.n != B64_32 || unbase64(l, out, 32, &got) < 0 || got != 32 ? -EINVAL : 0;
}

/* Arguments are separated by single spaces and hold visible ASCII. Returns their number, -EINVAL. */
static int split(struct line l, struct line *args, int max)
{
	int n = 0;
	size_t from = 0;

	for (size_t i = 0; i <= l.n; i++) {
		if (i < l.n && l.p[i] != ' ') {
			if (l.p[i] < 0x21 || l.p[i] > 0x7e)
				return -EINVAL;
			continue;
		}
		if (i == from)
			return -EINVAL;
		if (n < max)
			args[n] = (struct line){l.p + from, i - from};
		n++;
		from = i + 1;
	}
	return n;
}

static bool equal(struct line l, const char *text)
{
	return l.n == strlen(text) && !memcmp(l.p, text, l.n);
}

static int parse_stanza(struct parse *ps, struct line first, struct fz_err *err)
{
	struct line args[2] = {{0}}, l;
	struct x25519 x = {{0}, {0}};
	size_t body_bytes = 0;
	bool mine;
	int n, rc;

	n = split((struct line){first.p + 3, first.n - 3}, args, 2);
	if (n < 1)
		return BAD("bad stanza arguments");
	mine = equal(args[0], "X25519");
	if (mine && (n != 2 || unbase64_32(args[1], x.share) < 0))
		return BAD("bad X25519 share");
	do {
		uint8_t raw[48];
		size_t got;

		rc = next_line(ps, &l, err);
		if (rc < 0)
			return rc;
		if (l.n > 64 || unbase64(l, raw, sizeof(raw), &got) < 0)
			return BAD("bad stanza body");
		if (mine && body_bytes + got <= sizeof(x.body))
			memcpy(x.body + body_bytes, raw, got);
		body_bytes += got;
	} while (l.n == 64);
	ps->stanzas++;
	if (equal(args[0], "scrypt"))
		ps->scrypt = true;
	if (!mine)
		return 0;
	if (body_bytes != sizeof(x.body))
		return BAD("X25519 body has %zu bytes", body_bytes);
	if (!fz_array_room(ps->v, ps->n, ps->cap))
		return fz_fail_errno(err, ENOMEM, "reading an age header");
	ps->v[ps->n++] = x;
	return 0;
}

static int parse(struct parse *ps, const char *start, struct fz_err *err)
{
	struct line l;
	int rc = next_line(ps, &l, err);

	if (rc < 0)
		return rc;
	if (l.n != sizeof(magic) - 2 || memcmp(l.p, magic, l.n)) {
		if (l.n > sizeof(magic_any) && !memcmp(l.p, magic_any, sizeof(magic_any) - 1))
			return fz_fail(err, FZ_EVERSION, "age header: of another version of the format");
		return BAD("this is no age file");
	}
	for (;;) {
		rc = next_line(ps, &l, err);
		if (rc < 0)
			return rc;
		if (l.n >= 3 && !memcmp(l.p, "-> ", 3)) {
			rc = parse_stanza(ps, l, err);
			if (rc < 0)
				return rc;
			continue;
		}
		if (l.n != 4 + B64_32 || memcmp(l.p, "--- ", 4) ||
		    unbase64_32((struct line){l.p + 4, l.n - 4}, ps->mac) < 0)
			return BAD("neither a stanza nor a MAC");
		break;
	}
	ps->mac_from = (size_t)(l.p - start) + 3;
	ps->header_bytes = (size_t)(ps->p - start);
	if (ps->stanzas == 0)
		return BAD("no recipients");
	if (ps->scrypt && ps->stanzas > 1) /* a passphrase beside recipients would not authenticate the sender */
		return BAD("a scrypt stanza is not alone");
	return 0;
}

/* 1 unwrapped, 0 not for this identity, negative: the header is bad. */
static int unwrap(uint8_t file_key[LTX_AGE_FILE_KEY], const struct x25519 *x, const struct ltx_age_identity *id,
                  struct fz_err *err)
{
	static const uint8_t zero_nonce[12];
	uint8_t shared[32], key[32], public_key[32];
	int rc;

	crypto_scalarmult_curve25519_base(public_key, id->secret);
	if (crypto_scalarmult_curve25519(shared, id->secret, x->share) < 0) {
		rc = BAD("X25519 share of low order");
	} else {
		wrap_key(key, shared, x->share, public_key);
		rc = crypto_aead_chacha20poly1305_ietf_decrypt(file_key, NULL, NULL, x->body, sizeof(x->body), NULL, 0,
		                                               zero_nonce, key) == 0;
	}
	sodium_memzero(shared, sizeof(shared));
	sodium_memzero(key, sizeof(key));
	return rc;
}

static int open_header(const struct parse *ps, const char *start, const struct ltx_age_identities *ids,
                       uint8_t file_key[LTX_AGE_FILE_KEY], struct fz_err *err)
{
	uint8_t mac[32];
	int rc = 0;

	for (size_t s = 0; rc == 0 && s < ps->n; s++)
		for (size_t i = 0; rc == 0 && i < ids->n; i++)
			rc = unwrap(file_key, &ps->v[s], &ids->v[i], err);
	if (rc < 0)
		return rc;
	if (rc == 0)
		return fz_fail(err, FZ_ENOKEY, "none of %zu identities opens this file of %zu recipients", ids->n,
		               ps->stanzas);
	header_mac(mac, file_key, (const uint8_t *)start, ps->mac_from);
	if (sodium_memcmp(mac, ps->mac, sizeof(mac)))
		return fz_fail(err, FZ_ECRYPT, "age header MAC differs: it was changed");
	return 0;
}

int ltx_age_header_read(struct fz_src *src, const struct ltx_age_identities *ids, uint8_t file_key[LTX_AGE_FILE_KEY],
                        uint8_t nonce[LTX_AGE_NONCE], uint64_t *payload_off, struct fz_err *err)
{
	struct parse ps = {0};
	struct fz_buf text = {0};
	int rc = -EAGAIN;

	for (size_t want = 1024; rc == -EAGAIN; want *= 4) {
		size_t limit = src->size_bytes < LTX_AGE_MAX_HEADER ? (size_t)src->size_bytes : LTX_AGE_MAX_HEADER;
		size_t n = want < limit ? want : limit;
		uint8_t *p;

		fz_buf_reset(&text);
		p = fz_buf_room(&text, n + 1);
		rc = p ? fz_src_read(src, 0, p, n, err) : fz_fail_errno(err, ENOMEM, "reading an age header");
		if (rc < 0)
			goto out;
		free(ps.v);
		ps = (struct parse){.p = (const char *)p, .end = (const char *)p + n, .all = n == limit};
		rc = parse(&ps, (const char *)p, err);
		if (rc == 0 && !ps.all && n - ps.header_bytes < LTX_AGE_NONCE)
			rc = -EAGAIN;
		text.size = n;
	}
	if (rc == 0)
		rc = open_header(&ps, (const char *)text.data, ids, file_key, err);
	if (rc < 0)
		goto out;
	if (text.size - ps.header_bytes < LTX_AGE_NONCE) {
		rc = BAD("the nonce behind it is cut off");
		goto out;
	}
	memcpy(nonce, text.data + ps.header_bytes, LTX_AGE_NONCE);
	*payload_off = ps.header_bytes + LTX_AGE_NONCE;
out:
	free(ps.v);
	fz_buf_fini(&text);
	if (rc < 0)
		sodium_memzero(file_key, LTX_AGE_FILE_KEY);
	return rc;
}

int ltx_age_detect(struct fz_src *src, bool *is_age, struct fz_err *err)
{
	char head[sizeof(magic_any) - 1];

	*is_age = false;
	if (src->size_bytes < sizeof(head))
		return 0;
	int rc = fz_src_read(src, 0, head, sizeof(head), err);

	*is_age = rc == 0 && !memcmp(head, magic_any, sizeof(head));
	return rc;
}
