/* source_arg.h - the SOURCE argument of log, restore and verify: where a database's history can be read.
 *   URL       dir:/backup/app.db, s3://bucket/prefix/app.db?...: the last path elements are the database's path
 *   NAME/DB   a [target NAME] of the configuration
 *   DIR/DB    a database below a mount, or below a directory that was mounted: its own log answers what it reaches, and
 *             the first target the rest; the other targets follow where that one does not have it or cannot be read
 *             (the targets it was mounted with, unless --config names others: cmd_state_find())
 *   DIR/DB@BRANCH  what `fazt branches` lists: its own log only */
#ifndef FZ_CMD_SOURCE_ARG_H
#define FZ_CMD_SOURCE_ARG_H

#include "cmd/config.h"
#include "cmd/where.h"
#include "ltx/age.h"

struct replica_source;

struct cmd_source {
	struct replica_source *source; /* the one at hand */
	char label[PATH_MAX + 16];     /* what it is, for messages */
	char store_label[PATH_MAX];    /* DIR/DB: the target that answers what the log does not reach; "" = none */
	char database[512];            /* path below the mount, or last element of the URL */
	char live[PATH_MAX];           /* DIR/DB: the database's file; "" otherwise */
	bool is_log;                   /* the source is a local log, or one joined with a target */
	struct cmd_conf conf;
	struct ltx_age_identities ids;
	int statefd;
	size_t next_target;
};
/* "dir:..." or "s3://...". */
bool cmd_is_url(const char *arg);
/* The target of NAME or NAME/DB, or NULL; *database = "" or DB, borrowed from arg. */
const struct cmd_target *cmd_target_arg(const struct cmd_conf *c, const char *arg, const char **database);
/* identity: -i or NULL; config: --config or NULL. Opens the first place. -FZ_ENOTFOUND, -FZ_EUSAGE, -FZ_EKEYFILE. */
int cmd_source_open(struct cmd_source *s, const char *arg, const char *identity, const char *config,
                    struct fz_err *err) FZ_MUST_CHECK;
/* DIR/DB in one of the targets that the mount has, and nowhere else: target = 0, 1 ... -FZ_ENOTFOUND past the last. */
int cmd_source_open_target(struct cmd_source *s, const char *arg, size_t target, const char *identity,
                           const char *config, struct fz_err *err) FZ_MUST_CHECK;
/* The place at hand does not have it or cannot be read (err->code tells): goes on to the next one. False when there is
 * none, or when the error is of another kind. */
bool cmd_source_next(struct cmd_source *s, const struct fz_err *err);
void cmd_source_close(struct cmd_source *s);

/* Splits "DIR/DB", of which DIR may be a part of the working directory: w = the mount or the directory with a .fazt, database = the rest. -FZ_ENOTFOUND. */
int cmd_source_split(const char *arg, struct cmd_where *w, char *database, size_t cap,
                     struct fz_err *err) FZ_MUST_CHECK;

#endif
