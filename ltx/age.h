/* age.h - the age v1 encryption format (age-encryption.org/v1, C2SP age.md) with X25519 recipients; the `age` program
 * opens what this writes and the other way round. Payload: STREAM of 64 KiB chunks, so ranged reads stay possible. */
#ifndef FZ_LTX_AGE_H
#define FZ_LTX_AGE_H

#include "base/io.h"

#include <stdbool.h>

#define LTX_AGE_RECIPIENT_SIZE 63 /* "age1..." (62 characters) and NUL */
#define LTX_AGE_IDENTITY_SIZE  75 /* "AGE-SECRET-KEY-1..." (74 characters) and NUL */

struct ltx_age_recipient {
	uint8_t public_key[32];
};
struct ltx_age_identity {
	uint8_t secret[32]; /* wiped by ltx_age_identities_free() */
};

int ltx_age_recipient_parse(struct ltx_age_recipient *r, const char *text, struct fz_err *err) FZ_MUST_CHECK;
char *ltx_age_recipient_format(char out[static LTX_AGE_RECIPIENT_SIZE], const struct ltx_age_recipient *r);
int ltx_age_identity_parse(struct ltx_age_identity *i, const char *text, struct fz_err *err) FZ_MUST_CHECK;
char *ltx_age_identity_format(char out[static LTX_AGE_IDENTITY_SIZE], const struct ltx_age_identity *i);
void ltx_age_identity_make(struct ltx_age_identity *i);
void ltx_age_identity_recipient(const struct ltx_age_identity *i, struct ltx_age_recipient *r);

/* A set of identities read from an age key file (comments and blank lines allowed). Heap; free wipes. The file must not
 * be readable by others (mode & 077): -FZ_EKEYFILE says so. */
struct ltx_age_identities {
	struct ltx_age_identity *v;
	size_t n;
};
int ltx_age_identities_read(struct ltx_age_identities *out, const char *path, struct fz_err *err) FZ_MUST_CHECK;
void ltx_age_identities_free(struct ltx_age_identities *ids);
/* Creates path (0600, O_EXCL: never overwrites) with a new identity in age-keygen's form. */
int ltx_age_keygen(const char *path, struct ltx_age_recipient *r, struct fz_err *err) FZ_MUST_CHECK;

/* Encrypting sink: bytes written to it reach `to` encrypted. close_ok writes the final chunk. */
struct ltx_age_writer;
int ltx_age_writer_open(struct ltx_age_writer **out, struct fz_sink *to, const struct ltx_age_recipient *r, size_t n,
                        struct fz_err *err) FZ_MUST_CHECK;
struct fz_sink *ltx_age_writer_sink(struct ltx_age_writer *w);
int ltx_age_writer_finish(struct ltx_age_writer *w, struct fz_err *err) FZ_MUST_CHECK;
void ltx_age_writer_close(struct ltx_age_writer *w); /* frees and wipes, with or without finish */
/* Ciphertext size of n plaintext bytes for a given number of X25519 recipients. */
uint64_t ltx_age_size(uint64_t plain_bytes, size_t recipients);

/* Decrypted view of an encrypted source (borrowed): size_bytes is the plaintext's, any range can be read, each chunk is
 * authenticated, the last chunk's flag is checked at open. Thread-safe where the source is. A range is one read of the
 * source for each MiB; the chunk it ends in is kept for the next. No match: -FZ_ENOKEY; damaged: -FZ_ECRYPT. */
int ltx_age_src(struct fz_src **out, struct fz_src *cipher, const struct ltx_age_identities *ids,
                struct fz_err *err) FZ_MUST_CHECK;
/* The same payload for other recipients: *head is the header for them and the nonce, which take the place of the first *off_bytes of the
 * source; what follows stays as it is. It wraps the same file key, so nobody who could open the payload before is kept from a copy he has.
 * One of ids must open it: -FZ_ENOKEY, -FZ_ECRYPT. The chunks are not looked at. */
int ltx_age_rekey(struct fz_src *cipher, const struct ltx_age_identities *ids, const struct ltx_age_recipient *r,
                  size_t n, struct fz_buf *head, uint64_t *off_bytes, struct fz_err *err) FZ_MUST_CHECK;
/* True when the source starts with age's magic line. */
int ltx_age_detect(struct fz_src *src, bool *is_age, struct fz_err *err) FZ_MUST_CHECK;

#endif
