/* given.h - what a mount was given besides the configuration file: which file that was, the FAZT_* variables of that moment and the
 * flags. Kept as "mount.given" (0600) in the state directory, so that `fazt reload` reads the file again and everything else still wins over it. */
#ifndef FZ_CMD_GIVEN_H
#define FZ_CMD_GIVEN_H

#include "base/buf.h"
#include "cmd/config.h"

#define CMD_GIVEN "mount.given"

/* After cmd_conf_load() and cmd_conf_flag(): c->file and c->flags are what is kept, env the environment. Atomic. */
int cmd_given_save(const struct cmd_conf *c, char *const *env, int statefd, struct fz_err *err) FZ_MUST_CHECK;
/* The configuration as a mount would now have it: the file as it is today, then environment and flags of then. c is initialised here, and
 * is the caller's to finish in any case. -FZ_ENOTFOUND when the mount is an older fazt's. */
int cmd_given_load(struct cmd_conf *c, int statefd, struct fz_err *err) FZ_MUST_CHECK;
/* The command that mounts dir with what is kept, as a shell takes it; variables of the environment are named only, and --take-over is left out.
 * "fazt mount DIR" when nothing is kept. statefd may be -1. */
void cmd_given_command(int statefd, const char *dir, struct fz_buf *out);
/* A number that all workers of one mount agree on and no other mount of the directory has: when it was given this. Never 0. */
uint64_t cmd_given_mount(int statefd);

#endif
