/* reload.h - another configuration for a mount that serves: `fazt reload` offers it to the worker that starts next, which either serves with it, or
 * says why not and leaves the former one in effect.
 *
 * In the state directory it is one file all the way, which only ever is renamed:
 *   mount.conf.next   offered. It counts as long as the reload that wrote it lives, which holds a lock on it (flock(2)): one that was killed
 *                     before a worker began changes nothing, then or later
 *   mount.conf.tried  a worker has begun with it. Found there by the next one it is refused: that worker died
 *   mount.conf        what the mount runs with, since a worker has served with it
 * mount.conf.refused: why it is not (one sentence, for the reload). reload.lock: one reload at a time.
 *                                                                 held by: tests/e2e/reload.py, tests/unit/test_cmd_change.c */
#ifndef FZ_CMD_RELOAD_H
#define FZ_CMD_RELOAD_H

#include "base/buf.h"

#include <stdbool.h>
#include <stdint.h>

struct cJSON;
struct cmd_where;

#define CMD_CONF_NEXT    "mount.conf.next"
#define CMD_CONF_TRIED   "mount.conf.tried"
#define CMD_CONF_REFUSED "mount.conf.refused"

/* cmd/reload.c: what a reload of that mount would change, as cmd_change_list(). Fails where the reload would. */
int cmd_reload_changes(const struct cmd_where *w, struct cJSON *changes, struct fz_err *err) FZ_MUST_CHECK;

/* ---- cmd/reload_state.c: the reload's part, with reload.lock ---- */

/* *fd is the caller's: once it is closed, the offer is void. */
int cmd_reload_offer(int statefd, const struct fz_buf *text, int *fd, struct fz_err *err) FZ_MUST_CHECK;
/* False when there is none (any more): a worker has begun with it, or ended it. */
bool cmd_reload_take_back(int statefd);
/* Neither is a worker about to begin with an offer, nor has one that began come to serve, or failed. */
bool cmd_reload_settled(int statefd);
/* Waits for a worker that has begun: before that it is not known what runs. -FZ_ETIMEOUT when it has not come to serve after wait_ms. */
int cmd_reload_wait(int statefd, int64_t wait_ms, struct fz_err *err) FZ_MUST_CHECK;

/* ---- the worker's part: it is the only one (fs/alive.h) ---- */

/* True: CMD_CONF_TRIED is what this worker begins with, and one of the next two follows. Else it is CMD_CONF_SNAPSHOT. */
bool cmd_reload_begin(int statefd);
/* It serves: the new configuration is in effect. */
void cmd_reload_done(int statefd);
/* It cannot start. */
void cmd_reload_failed(int statefd, const struct fz_err *why);

/* A mount begins: what reloads of a former one have left goes. */
void cmd_reload_forget(int statefd);

#endif
