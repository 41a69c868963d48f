/* age.c - the payload of an age file: STREAM chunks of 64 KiB, each sealed with its number and, the last one, a flag.
 * The chunks' borders follow from the file's size, so any range can be read: what an attacker may do is cut or extend
 * the file, and then the chunk that would be the last does not open with the last one's flag, which is tried at open. */
#include "ltx/age.h"

#include "ltx/aead.h"
#include "ltx/agehead.h"

#include <errno.h>
#include <pthread.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#define SEALED       (LTX_AGE_CHUNK + LTX_AGE_TAG)
#define RANGE_CHUNKS 17 /* fetched at once: 1 MiB of plaintext, wherever it starts */

/* ---- writing ----------------------------------------------------------------------------------------------------- */

struct ltx_age_writer {
	struct fz_sink sink;
	struct fz_sink *to; /* borrowed */
	uint8_t key[32];
	uint64_t chunk; /* number of the next one */
	size_t n;       /* bytes in buf */
	bool finished;
	int failed;
	uint8_t buf[SEALED]; /* sealed in place */
};

static int seal(struct ltx_age_writer *w, bool last, struct fz_err *err)
{
	uint8_t nonce[12];

	ltx_age_chunk_nonce(nonce, w->chunk++, last);
	ltx_aead_seal(w->key, nonce, NULL, 0, w->buf, w->n, w->buf);
	w->failed = fz_sink_write(w->to, w->buf, w->n + LTX_AGE_TAG, err);
	w->n = 0;
	return w->failed;
}

static int writer_write(struct fz_sink *s, const void *data, size_t n, struct fz_err *err)
{
	struct ltx_age_writer *w = (struct ltx_age_writer *)s;
	const uint8_t *p = data;

	if (w->failed || w->finished)
		return fz_fail(err, w->failed ? -w->failed : FZ_EINTERNAL, "encrypted output was closed");
	while (n > 0) {
		size_t room = LTX_AGE_CHUNK - w->n, take = n < room ? n : room;

		if (room == 0) { /* a full chunk goes out only when more follows: the last one must not be empty */
			if (seal(w, false, err) < 0)
				return w->failed;
			continue;
		}
		memcpy(w->buf + w->n, p, take);
		w->n += take;
		p += take;
		n -= take;
	}
	return 0;
}

int ltx_age_writer_open(struct ltx_age_writer **out, struct fz_sink *to, const struct ltx_age_recipient *r, size_t n,
                        struct fz_err *err)
{
	uint8_t file_key[LTX_AGE_FILE_KEY], nonce[LTX_AGE_NONCE];
	struct ltx_age_writer *w = NULL;
	struct fz_buf head = {0};
	int rc;

	if (n == 0)
		return fz_fail(err, FZ_ECONFIG, "no recipient to encrypt to");
	if (sodium_init() < 0)
		return fz_fail(err, FZ_EINTERNAL, "libsodium does not start");
	w = calloc(1, sizeof(*w));
	if (!w)
		return fz_fail_errno(err, ENOMEM, "encrypting");
	w->sink.write = writer_write;
	w->to = to;
	randombytes_buf(file_key, sizeof(file_key));
	randombytes_buf(nonce, sizeof(nonce));
	ltx_age_payload_key(w->key, file_key, nonce);
	rc = ltx_age_header_write(&head, file_key, r, n, err);
	sodium_memzero(file_key, sizeof(file_key));
	if (rc == 0 && fz_buf_add(&head, nonce, sizeof(nonce)) < 0)
		rc = fz_fail_errno(err, ENOMEM, "encrypting");
	if (rc == 0)
		rc = fz_sink_write(to, head.data, head.size, err);
	fz_buf_fini(&head);
	if (rc < 0) {
		ltx_age_writer_close(w);
		return rc;
	}
	*out = w;
	return 0;
}

struct fz_sink *ltx_age_writer_sink(struct ltx_age_writer *w)
{
	return &w->sink;
}

int ltx_age_writer_finish(struct ltx_age_writer *w, struct fz_err *err)
{
	if (w->failed || w->finished)
		return fz_fail(err, w->failed ? -w->failed : FZ_EINTERNAL, "encrypted output was closed");
	w->finished = true;
	return seal(w, true, err);
}

void ltx_age_writer_close(struct ltx_age_writer *w)
{
	if (!w)
		return;
	sodium_memzero(w, sizeof(*w));
	free(w);
}

uint64_t ltx_age_size(uint64_t plain_bytes, size_t recipients)
{
	uint64_t chunks = plain_bytes ? (plain_bytes - 1) / LTX_AGE_CHUNK + 1 : 1;
	/* magic line; share line and body line of each recipient; MAC line; nonce */
	uint64_t head = 22 + recipients * (10 + 43 + 1 + 43 + 1) + 4 + 43 + 1 + LTX_AGE_NONCE;

	return head + plain_bytes + chunks * LTX_AGE_TAG;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

struct age_src {
	struct fz_src src;
	struct fz_src *cipher; /* borrowed */
	uint64_t off;          /* of the first chunk in cipher */
	uint64_t chunks;
	uint64_t last_bytes; /* plaintext of the last chunk */
	uint8_t key[32];
	pthread_mutex_t mu;
	uint8_t *cache; /* mu: the chunk that was read in part last; small reads come one after the other */
	uint64_t cached;
};

static size_t chunk_bytes(const struct age_src *s, uint64_t chunk)
{
	return chunk + 1 < s->chunks ? LTX_AGE_CHUNK : (size_t)s->last_bytes;
}

/* Opens a sealed chunk into out, which may be where it lies. Nothing of a chunk that was changed gets there. */
static int open_chunk(const struct age_src *s, uint64_t chunk, uint8_t *out, const uint8_t *sealed, struct fz_err *err)
{
	uint8_t nonce[12];

	ltx_age_chunk_nonce(nonce, chunk, chunk + 1 == s->chunks);
	if (!ltx_aead_open(s->key, nonce, NULL, 0, sealed, chunk_bytes(s, chunk) + LTX_AGE_TAG, out))
		return fz_fail(err, FZ_ECRYPT, "age payload: chunk %llu of %llu is damaged or missing",
		               (unsigned long long)chunk + 1, (unsigned long long)s->chunks);
	return 0;
}

/* Sealed bytes of n chunks from the given one on. */
static size_t sealed_bytes(const struct age_src *s, uint64_t chunk, size_t n)
{
	return (n - 1) * SEALED + chunk_bytes(s, chunk + n - 1) + LTX_AGE_TAG;
}

static bool cached(struct age_src *s, uint64_t chunk)
{
	bool is;

	pthread_mutex_lock(&s->mu);
	is = s->cached == chunk;
	pthread_mutex_unlock(&s->mu);
	return is;
}

static bool from_cache(struct age_src *s, uint64_t chunk, size_t at, uint8_t *out, size_t n)
{
	bool hit;

	pthread_mutex_lock(&s->mu);
	hit = s->cached == chunk;
	if (hit)
		memcpy(out, s->cache + at, n);
	pthread_mutex_unlock(&s->mu);
	return hit;
}

/* The chunk that a call ended in: whoever reads on starts there. Never without one: the first comes with the open. */
static void to_cache(struct age_src *s, uint64_t chunk, const uint8_t *data)
{
	pthread_mutex_lock(&s->mu);
	memcpy(s->cache, data, chunk_bytes(s, chunk));
	s->cached = chunk;
	pthread_mutex_unlock(&s->mu);
}

/* One request of the cipher brings all chunks of a range, up to RANGE_CHUNKS at a time. */
static int age_read(struct fz_src *src, uint64_t off, void *data, size_t n, struct fz_err *err)
{
	struct age_src *s = (struct age_src *)src;
	uint8_t *out = data, *room = NULL;
	int rc = 0;

	while (rc == 0 && n > 0) {
		uint64_t chunk = off / LTX_AGE_CHUNK, last = (off + n - 1) / LTX_AGE_CHUNK;
		size_t at = (size_t)(off % LTX_AGE_CHUNK), take = chunk_bytes(s, chunk) - at, count;

		if (take > n)
			take = n;
		if (from_cache(s, chunk, at, out, take)) {
			out += take;
			off += take;
			n -= take;
			continue;
		}
		count = last - chunk < RANGE_CHUNKS ? (size_t)(last - chunk) + 1 : RANGE_CHUNKS;
		if (!room)
			room = malloc(count * SEALED);         /* later rounds need no more */
		if (count > 1 && cached(s, chunk + count - 1)) /* as the file's last one is at first */
			count--;
		rc = room ? fz_src_read(s->cipher, s->off + chunk * SEALED, room, sealed_bytes(s, chunk, count), err)
		          : fz_fail_errno(err, ENOMEM, "decrypting");
		for (size_t i = 0; rc == 0 && i < count; i++, chunk++) {
			uint8_t *sealed = room + i * SEALED;
			size_t bytes = chunk_bytes(s, chunk);

			at = (size_t)(off % LTX_AGE_CHUNK);
			take = bytes - at < n ? bytes - at : n;
			if (take == bytes) { /* wanted whole: no copy */
				rc = open_chunk(s, chunk, out, sealed, err);
			} else {
				rc = open_chunk(s, chunk, sealed, sealed, err);
				if (rc == 0)
					memcpy(out, sealed + at, take);
				if (rc == 0 && take == n)
					to_cache(s, chunk, sealed);
			}
			out += take;
			off += take;
			n -= take;
		}
	}
	free(room);
	return rc;
}

static void age_close(struct fz_src *src)
{
	struct age_src *s = (struct age_src *)src;

	free(s->cache);
	pthread_mutex_destroy(&s->mu);
	sodium_memzero(s, sizeof(*s));
	free(s);
}

int ltx_age_src(struct fz_src **out, struct fz_src *cipher, const struct ltx_age_identities *ids, struct fz_err *err)
{
	uint8_t file_key[LTX_AGE_FILE_KEY], nonce[LTX_AGE_NONCE];
	struct age_src *s = calloc(1, sizeof(*s));
	uint64_t payload;
	int rc;

	if (!s)
		return fz_fail_errno(err, ENOMEM, "decrypting");
	s->src = (struct fz_src){age_read, age_close, 0};
	s->cipher = cipher;
	pthread_mutex_init(&s->mu, NULL);
	if (sodium_init() < 0) {
		rc = fz_fail(err, FZ_EINTERNAL, "libsodium does not start");
		goto out;
	}
	rc = ltx_age_header_read(cipher, ids, file_key, nonce, &s->off, err);
	if (rc < 0)
		goto out;
	ltx_age_payload_key(s->key, file_key, nonce);
	payload = cipher->size_bytes - s->off;
	s->chunks = payload ? (payload - 1) / SEALED + 1 : 0;
	s->last_bytes = payload - (s->chunks ? s->chunks - 1 : 0) * SEALED;
	/* an empty last chunk is right only where it is the only one */
	if (s->chunks == 0 || s->last_bytes < LTX_AGE_TAG || (s->last_bytes == LTX_AGE_TAG && s->chunks > 1)) {
		rc = fz_fail(err, FZ_ECRYPT, "age payload: cut off");
		goto out;
	}
	s->last_bytes -= LTX_AGE_TAG;
	s->src.size_bytes = (s->chunks - 1) * LTX_AGE_CHUNK + s->last_bytes;
	s->cache = malloc(SEALED);
	s->cached = s->chunks - 1;
	rc = s->cache ? fz_src_read(cipher, s->off + s->cached * SEALED, s->cache, s->last_bytes + LTX_AGE_TAG, err)
	              : fz_fail_errno(err, ENOMEM, "decrypting");
	if (rc == 0)
		rc = open_chunk(s, s->cached, s->cache, s->cache, err);
out:
	sodium_memzero(file_key, sizeof(file_key));
	if (rc < 0)
		age_close(&s->src);
	else
		*out = &s->src;
	return rc;
}

/* ---- other recipients -------------------------------------------------------------------------------------------- */

int ltx_age_rekey(struct fz_src *cipher, const struct ltx_age_identities *ids, const struct ltx_age_recipient *r,
                  size_t n, struct fz_buf *head, uint64_t *off_bytes, struct fz_err *err)
{
	uint8_t file_key[LTX_AGE_FILE_KEY], nonce[LTX_AGE_NONCE];
	int rc;

	if (n == 0)
		return fz_fail(err, FZ_ECONFIG, "no recipient to encrypt to");
	if (sodium_init() < 0)
		return fz_fail(err, FZ_EINTERNAL, "libsodium does not start");
	rc = ltx_age_header_read(cipher, ids, file_key, nonce, off_bytes, err);
	if (rc == 0)
		rc = ltx_age_header_write(head, file_key, r, n, err);
	if (rc == 0 && fz_buf_add(head, nonce, sizeof(nonce)) < 0)
		rc = fz_fail_errno(err, ENOMEM, "encrypting");
	sodium_memzero(file_key, sizeof(file_key));
	return rc;
}
