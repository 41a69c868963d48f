/* agehead.h - the header of an age file: who can open it. Private to the age part of ltx.
 * Source: C2SP age.md. Terms as there: file key, stanza, header MAC, payload key. */
#ifndef FZ_LTX_AGEHEAD_H
#define FZ_LTX_AGEHEAD_H

#include "ltx/age.h"

#define LTX_AGE_FILE_KEY   16
#define LTX_AGE_NONCE      16
#define LTX_AGE_CHUNK      65536
#define LTX_AGE_TAG        16
#define LTX_AGE_MAX_HEADER (256u << 10) /* far above any real one; bounds memory and work on foreign input */

/* Appends the header for the recipients to *out. */
int ltx_age_header_write(struct fz_buf *out, const uint8_t file_key[LTX_AGE_FILE_KEY],
                         const struct ltx_age_recipient *r, size_t n, struct fz_err *err) FZ_MUST_CHECK;
/* Parses and authenticates it, and reads the nonce behind it; *payload_off = where the first chunk starts. -FZ_ECRYPT,
 * -FZ_EVERSION, -FZ_ENOKEY. */
int ltx_age_header_read(struct fz_src *src, const struct ltx_age_identities *ids, uint8_t file_key[LTX_AGE_FILE_KEY],
                        uint8_t nonce[LTX_AGE_NONCE], uint64_t *payload_off, struct fz_err *err) FZ_MUST_CHECK;
void ltx_age_payload_key(uint8_t key[32], const uint8_t file_key[LTX_AGE_FILE_KEY], const uint8_t nonce[LTX_AGE_NONCE]);
/* 11 bytes of chunk number, big-endian, and the flag of the last one. */
void ltx_age_chunk_nonce(uint8_t nonce[12], uint64_t chunk, bool last);

#endif
