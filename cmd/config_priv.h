/* config_priv.h - what cmd/config.c (values), cmd/config_file.c (reading) and cmd/config_format.c (writing) share. */
#ifndef FZ_CMD_CONFIG_PRIV_H
#define FZ_CMD_CONFIG_PRIV_H

#include "cmd/config.h"

#include <stddef.h>

enum cmd_type {
	/* texts: char *, heap */
	T_TEXT,
	T_PATH,
	T_LEVEL,
	T_FORMAT,
	T_ROLE,
	T_ACK,
	T_POLICY,
	T_FAILOVER,
	T_ENCRYPT,
	T_PRICES,
	/* others */
	T_LINES,
	T_WORDS,
	T_DURATION,
	T_KEEP,
	T_SIZE,
	T_SCRUB,
	T_COUNT,
	T_BOOL
};

struct cmd_key {
	const char *section, *name;
	enum cmd_type type;
	size_t at;
};
static inline bool cmd_key_is_text(const struct cmd_key *k)
{
	return k->type <= T_PRICES;
}
extern const struct cmd_key cmd_keys[];
extern const size_t cmd_n_keys;
#define CMD_KEYS_MAX 128 /* more than cmd_n_keys */

/* One key's lines ("key = value\n", none when it is not set); base: the cmd_conf or the cmd_target. */
int cmd_conf_format_value(const void *base, const struct cmd_key *k, struct fz_buf *out,
                          struct fz_err *err) FZ_MUST_CHECK;
const struct cmd_key *cmd_key_of(const char *section, const char *name);
/* Fails with the origin in front of the sentence. */
int cmd_conf_bad(struct fz_err *err, const struct cmd_origin *o, int code, const char *fmt, ...) FZ_PRINTF(4, 5);
/* One value; target = NAME of [target NAME], NULL = a new unnamed one. more: the value goes on from the line before. */
int cmd_conf_set(struct cmd_conf *c, const char *section, const char *target, const char *name, const char *value,
                 bool more, const struct cmd_origin *o, struct fz_err *err) FZ_MUST_CHECK;

#endif
