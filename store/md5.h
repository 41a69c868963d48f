/* md5.h - MD5 (RFC 1321), because S3 asks for it: Content-MD5 of DeleteObjects, and the ETag of a single-part PUT. Against
 * accidents only; what must not be forged is signed with SHA-256. */
#ifndef FZ_STORE_MD5_H
#define FZ_STORE_MD5_H

#include <stddef.h>
#include <stdint.h>

enum { STORE_MD5_BYTES = 16 };

struct store_md5 {
	uint32_t state[4];
	uint64_t size_bytes;
	uint8_t block[64];
};

void store_md5_init(struct store_md5 *m);
void store_md5_add(struct store_md5 *m, const void *data, size_t n);
void store_md5_final(struct store_md5 *m, uint8_t out[static STORE_MD5_BYTES]);

#endif
