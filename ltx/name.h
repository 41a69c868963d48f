/* name.h - keys of objects in a store. A listing alone is enough to plan a restore or to judge a store without a key.
 *   <database>/<lineage>/<epoch>/<level>/<min>-<max>-<first ms>-<last ms>-<post checksum>.<kind>[.age]
 *   <database>/claim/<n>          one JSON object per epoch ever begun on this name, claimed by a conditional PUT
 * database = its path below the mount (keys sort below it); lineage = 16 hex digits, new for each creation of the
 * database; epoch and n = 8 hex; min, max, checksum = 16 hex; ms = 12 hex; level = 1 digit; kind = "ltx" | "pack". */
#ifndef FZ_LTX_NAME_H
#define FZ_LTX_NAME_H

#include "ltx/ltx.h"

enum ltx_level {
	LTX_L_PACK = 0,        /* packs as they were shipped: every commit */
	LTX_L_PACK_MINUTE = 1, /* packs of a minute, concatenated: every commit */
	LTX_L_PACK_HOUR = 2,
	LTX_L_MINUTE = 3, /* one merged LTX per minute, hour, day */
	LTX_L_HOUR = 4,
	LTX_L_DAY = 5,
	LTX_L_SNAPSHOT = 9,
};
static inline bool ltx_level_is_pack(int level)
{
	return level <= LTX_L_PACK_HOUR;
}

#define LTX_NAME_MAX 1024
struct ltx_name {
	char lineage[17];
	uint32_t epoch;
	int level;
	uint64_t min_txid, max_txid;
	int64_t first_ms, last_ms;
	uint64_t post_checksum;
	bool encrypted;
};
/* "<lineage>/<epoch>/<level>/....ltx.age" without the database part. Returns out. */
char *ltx_name_put(char out[static LTX_NAME_MAX], const struct ltx_name *n);
/* Parses the same (relative to the database). -FZ_ENOTFOUND when it is no such name (foreign objects are ignored). */
int ltx_name_get(struct ltx_name *n, const char *key) FZ_MUST_CHECK;

#endif
