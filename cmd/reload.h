/* reload.h - another configuration for a mount that serves: `fazt reload` leaves the former one beside the new, and the worker that starts
 * next either serves with the new one, or puts the former one back and says why.
 *
 * In the state directory: mount.conf (what the next worker runs with), mount.conf.before (the former one, while nobody has served with the new
 * one yet), mount.conf.tried (a worker has begun with the new one), mount.conf.refused (why it was put back: one sentence). */
#ifndef FZ_CMD_RELOAD_H
#define FZ_CMD_RELOAD_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct cJSON;
struct cmd_where;

#define CMD_CONF_BEFORE  "mount.conf.before"
#define CMD_CONF_TRIED   "mount.conf.tried"
#define CMD_CONF_REFUSED "mount.conf.refused"

/* cmd/reload.c: what a reload of that mount would change, as cmd_change_list(). Fails where the reload would. */
int cmd_reload_changes(const struct cmd_where *w, struct cJSON *changes, struct fz_err *err) FZ_MUST_CHECK;

/* Which of the two files holds what the mount runs with; reload.lock is held. A reload that ended before the worker was replaced (killed, say)
 * has left the former configuration: that is what runs, and unless look it is put back, so that no later worker takes on what nobody has
 * reported. Waits while a worker begins with the new one; -FZ_ETIMEOUT when it still does after wait_ms. */
int cmd_reload_in_effect(int statefd, bool look, int64_t wait_ms, const char **name, struct fz_err *err) FZ_MUST_CHECK;
/* The former configuration is what the next worker runs with; nothing happens when there is none. */
int cmd_reload_put_back(int statefd, struct fz_err *err) FZ_MUST_CHECK;
/* A worker begins: notes that it tries; a former one that tried and never served has the former configuration put back. */
void cmd_reload_begin(int statefd);
/* It serves: the new configuration stays. */
void cmd_reload_done(int statefd);
/* It cannot start: the former configuration is put back, for the next one. */
void cmd_reload_failed(int statefd, const struct fz_err *why);

#endif
