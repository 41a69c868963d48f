/* wire.h - from the configuration to the conf of each module. */
#ifndef FZ_CMD_WIRE_H
#define FZ_CMD_WIRE_H

#include "cmd/config.h"
#include "fs/capture.h"
#include "primary/ship.h"

struct fz_store;
struct fz_store_conf;

/* How a target's store is reached: its keys and its timeout, borrowed; all else of *out is zero. */
void cmd_target_access(struct fz_store_conf *out, const struct cmd_target *t);
/* The store of a target; database (path below the mount) narrows it to that database, NULL = all of it. create: a
 * directory store is made when missing. */
int cmd_target_open(const struct cmd_target *t, const char *database, bool create, struct fz_store **out,
                    struct fz_err *err) FZ_MUST_CHECK;
/* url with database as further path elements; heap. NULL on -ENOMEM. */
char *cmd_url_join(const char *url, const char *database);

/* Targets with opened stores and parsed recipients. What primary_ship_start() took over is the ship's; cmd_targets_fini()
 * frees the rest (stores too unless started). */
struct cmd_targets {
	struct primary_target_conf *v;
	size_t n;
	bool started; /* the stores are the ship's now */
};
int cmd_targets_init(struct cmd_targets *t, const struct cmd_conf *c, struct fz_err *err) FZ_MUST_CHECK;
void cmd_targets_fini(struct cmd_targets *t);
/* Borrows the configuration's lists. Descriptors, logs and what the session knows are the caller's to add. */
void cmd_capture_conf(struct fs_capture_conf *out, const struct cmd_conf *c);
/* FZ_LOG_* of log_level; info when not given. */
int cmd_log_level(const struct cmd_conf *c);

#endif
