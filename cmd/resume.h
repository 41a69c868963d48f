/* resume.h - going on with a mount that a former supervisor left (fs/estate.h): with the configuration that it runs with, since its path
 * may not be touched and applications wait. */
#ifndef FZ_CMD_RESUME_H
#define FZ_CMD_RESUME_H

#include "base/err.h"

#include <stdbool.h>

struct cmd_serving;
struct cmd_where;

/* When the service manager kept a mount for this process: true, and *rc says how that ended once it has. */
bool cmd_resume_left(int *rc, struct fz_err *err);
/* `fazt mount` of a directory that is mounted: when its worker has lost its supervisor, this process, or one that it leaves in the
 * background, becomes that: true, and *rc. False: nothing was done. */
bool cmd_resume_orphan(const struct cmd_where *w, bool foreground, int *rc, struct fz_err *err);
/* In the worker: {"part": one of fs_estate_name()}; answered with that descriptor, to an orphan's new supervisor only. */
int cmd_resume_answer(struct cmd_serving *w, const char *part, int *pass_fd, struct fz_err *err) FZ_MUST_CHECK;

#endif
