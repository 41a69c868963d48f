/* role.h - what this host is to the others, kept as "role" in the state directory: it outlives the configuration, since a
 * replica that was promoted stays a primary when it is mounted again with the same flags.
 *
 * The configuration counts once: when it names another role, primary, key or store to follow than it did at the last mount, it wins. Between two mounts
 * with the same configuration the file does. */
#ifndef FZ_CMD_ROLE_H
#define FZ_CMD_ROLE_H

#include "base/net.h"
#include "cmd/config.h"
#include "ltx/age.h"

#define CMD_ROLE_FORMERS 8

struct cmd_role {
	bool replica;
	bool promoted;             /* it became a primary while it served: it may claim what another writer did */
	bool raising;              /* a primary whose logs may not all have begun that epoch: cmd_promote_finish() */
	uint32_t epoch;            /* the highest this host has seen; 0 at the beginning */
	uint8_t node[16];          /* random, for good */
	char primary[FZ_NET_ADDR]; /* whom it follows, or followed last; "" = nobody */
	char primary_key[LTX_AGE_RECIPIENT_SIZE];
	char configured[2 * FZ_NET_ADDR + 2048]; /* what the configuration said when it counted last */
	struct cmd_role_former { /* followed before, and not known to have heard of our epoch (cmd/herald.h) */
		char at[FZ_NET_ADDR], key[LTX_AGE_RECIPIENT_SIZE];
	} formers[CMD_ROLE_FORMERS];
	size_t n_formers;
};
/* Reads the file, makes it when it is missing, and lets the configuration in when it has changed. */
int cmd_role_load(struct cmd_role *r, int statefd, const struct cmd_conf *conf, struct fz_err *err) FZ_MUST_CHECK;
/* What the file says; -ENOENT. For the agent, which has no configuration. */
int cmd_role_read(struct cmd_role *r, int statefd, struct fz_err *err) FZ_MUST_CHECK;
/* Replaces the file atomically. */
int cmd_role_save(const struct cmd_role *r, int statefd, struct fz_err *err) FZ_MUST_CHECK;
/* Whom it followed is not the primary any more, and has to be told so: it joins the formers (the newest ones are kept). */
void cmd_role_leave(struct cmd_role *r);
/* That host knows. */
void cmd_role_heard(struct cmd_role *r, const char *key);

#endif
