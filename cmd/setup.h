/* setup.h - `fazt init` as a whole: what shall be set up (asked or from flags), tried out, and only then written. */
#ifndef FZ_CMD_SETUP_H
#define FZ_CMD_SETUP_H

#include "base/buf.h"
#include "cmd/args.h"
#include "cmd/where.h"

#include <stdbool.h>

struct cmd_setup {
	/* from flags; NULL or false = not given */
	const char *dir, *config, *access_key, *secret_file, *encrypt;
	const char *state; /* `state` of the configuration in effect, which FAZT_STATE may set; NULL = DIR/.fazt */
	struct cmd_words targets, recipients;
	bool no_target, force, no_probe, ask;
	/* found out on the way */
	struct cmd_where where;
	char dir_asked[PATH_MAX], target_asked[1024], recipient_asked[256], key_asked[256];
	char secret[256]; /* wiped at the end */
	char credentials[PATH_MAX + 32], key_dir[PATH_MAX + 16], recipient[128];
	bool key_made;
};
/* Runs it. Nothing is written before all was tried; an existing configuration is -FZ_EEXISTS without force, and with it is kept as
 * FILE.old. A key that is there is used, never replaced. Without `ask` a missing flag is -FZ_EUSAGE, which names it. */
int cmd_setup(struct cmd_setup *s, struct fz_err *err) FZ_MUST_CHECK;

/* cmd/setup_text.c: the commented configuration file. recipient: "" = none. */
int cmd_setup_text(const struct cmd_setup *s, struct fz_buf *out, struct fz_err *err) FZ_MUST_CHECK;

#endif
