/* state.h - the state directory of a mount: hidden while it is mounted, so its descriptor is asked of the worker. */
#ifndef FZ_CMD_STATE_H
#define FZ_CMD_STATE_H

#include "cmd/where.h"

/* configured: `state` of the configuration or NULL (DIR/.fazt); for mounts the worker's own is what counts. The caller
 * closes *fd. -FZ_ENOTFOUND when the directory was never mounted. */
int cmd_state_open(const struct cmd_where *w, const char *configured, int *fd, struct fz_err *err) FZ_MUST_CHECK;
/* A path for the descriptor, for functions that want one. */
#define CMD_FD_PATH_SIZE 32
char *cmd_fd_path(char out[static CMD_FD_PATH_SIZE], int fd);

#endif
