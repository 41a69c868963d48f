#include "ltx/name.h"

#include <stdio.h>
#include <string.h>

#define MS_MAX ((INT64_C(1) << 48) - 1) /* 12 hex digits: until the year 10889 */

static int64_t clamp_ms(int64_t ms)
{
	return ms < 0 ? 0 : ms > MS_MAX ? MS_MAX : ms;
}

char *ltx_name_put(char out[static LTX_NAME_MAX], const struct ltx_name *n)
{
	snprintf(out, LTX_NAME_MAX, "%.16s/%08x/%d/%016llx-%016llx-%012llx-%012llx-%016llx.%s%s", n->lineage, n->epoch,
	         n->level, (unsigned long long)n->min_txid, (unsigned long long)n->max_txid,
	         (unsigned long long)clamp_ms(n->first_ms), (unsigned long long)clamp_ms(n->last_ms),
	         (unsigned long long)n->post_checksum, ltx_level_is_pack(n->level) ? "pack" : "ltx",
	         n->encrypted ? ".age" : "");
	return out;
}

/* Exactly `digits` lower-case hex digits, then `after`. Returns what follows, NULL when it is not so. */
static const char *hex(const char *p, int digits, char after, uint64_t *out)
{
	uint64_t v = 0;

	if (!p)
		return NULL;
	for (int i = 0; i < digits; i++, p++) {
		if (*p >= '0' && *p <= '9')
			v = v << 4 | (uint64_t)(*p - '0');
		else if (*p >= 'a' && *p <= 'f')
			v = v << 4 | (uint64_t)(*p - 'a' + 10);
		else
			return NULL;
	}
	*out = v;
	return *p == after ? p + 1 : NULL;
}

static bool known_level(uint64_t level)
{
	return level <= LTX_L_DAY || level == LTX_L_SNAPSHOT;
}

int ltx_name_get(struct ltx_name *n, const char *key)
{
	uint64_t lineage, epoch, level, first, last;
	const char *p = key, *kind;

	p = hex(p, 16, '/', &lineage);
	p = hex(p, 8, '/', &epoch);
	p = hex(p, 1, '/', &level);
	p = hex(p, 16, '-', &n->min_txid);
	p = hex(p, 16, '-', &n->max_txid);
	p = hex(p, 12, '-', &first);
	p = hex(p, 12, '-', &last);
	p = hex(p, 16, '.', &n->post_checksum);
	if (!p || !known_level(level) || n->min_txid == 0 || n->max_txid < n->min_txid)
		return -FZ_ENOTFOUND;
	kind = ltx_level_is_pack((int)level) ? "pack" : "ltx";
	if (strncmp(p, kind, strlen(kind)) != 0)
		return -FZ_ENOTFOUND;
	p += strlen(kind);
	n->encrypted = strcmp(p, ".age") == 0;
	if (*p && !n->encrypted)
		return -FZ_ENOTFOUND;
	memcpy(n->lineage, key, 16);
	n->lineage[16] = 0;
	n->epoch = (uint32_t)epoch;
	n->level = (int)level;
	n->first_ms = (int64_t)first;
	n->last_ms = (int64_t)last;
	return 0;
}
