/* bech32.h - Bech32 (BIP 173) as age uses it: no length limit, the human-readable part keeps its case. */
#ifndef FZ_LTX_BECH32_H
#define FZ_LTX_BECH32_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

/* Writes hrp "1" data checksum and NUL to out: strlen(hrp) + 1 + (8 * n + 4) / 5 + 6 + 1 bytes. upper: in capitals (hrp
 * must be so already). */
void ltx_bech32_encode(char *out, const char *hrp, bool upper, const uint8_t *data, size_t n);
/* The reverse: text must carry exactly this hrp, one case, a right checksum and exactly n bytes. -EINVAL. */
int ltx_bech32_decode(const char *text, const char *hrp, uint8_t *data, size_t n) FZ_MUST_CHECK;

#endif
