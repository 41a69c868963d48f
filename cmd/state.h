/* state.h - the state directory of a mount: hidden while it is mounted, so its descriptor is asked of the worker. */
#ifndef FZ_CMD_STATE_H
#define FZ_CMD_STATE_H

#include "cmd/config.h"
#include "cmd/where.h"

/* configured: `state` of the configuration or NULL (DIR/.fazt); for mounts the worker's own is what counts. The caller
 * closes *fd. -FZ_ENOTFOUND when the directory was never mounted. DIR/.fazt must be a directory of root's or our own (-EPERM): who owns DIR
 * could have put it there, or a symbolic link. */
int cmd_state_open(const struct cmd_where *w, const char *configured, int *fd, struct fz_err *err) FZ_MUST_CHECK;
/* The state directory that path then names (0700, ours), made where there is none: for a mount, or for a key before it. configured as above;
 * a link in it is followed. -EPERM: DIR/.fazt is a symbolic link, or the directory is another user's. */
int cmd_state_make(const struct cmd_where *w, const char *configured, char path[static PATH_MAX], int *fd,
                   struct fz_err *err) FZ_MUST_CHECK;
/* A configuration that lies in the state directory under that name, added to c. -ENOENT. */
int cmd_state_read(struct cmd_conf *c, int fd, const char *name, struct fz_err *err) FZ_MUST_CHECK;
/* What a mount runs with, or ran with when it was mounted last (CMD_CONF_SNAPSHOT). */
int cmd_state_snapshot(struct cmd_conf *c, int fd, struct fz_err *err) FZ_MUST_CHECK;
/* The state directory, and what counts for the mount, or for the directory that was mounted. c was loaded with config (--config
 * or NULL). The file that commands find by themselves may be another mount's: where there is a snapshot, it takes the place of
 * that file, also when it names no target. What is said to this command stays: --config, which needs no targets, FAZT_STATE
 * and FAZT_IDENTITY. */
int cmd_state_find(const struct cmd_where *w, struct cmd_conf *c, const char *config, int *fd,
                   struct fz_err *err) FZ_MUST_CHECK;

#endif
