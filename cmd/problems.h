/* problems.h - what is wrong with a mount, as its status says it: `problems` are sentences for people; `alerts` are the same, in the same
 * order, as {kind, about, text}, for what acts on them (cmd/alert.h). kind and about stay the same while a problem lasts, text need not. */
#ifndef FZ_CMD_PROBLEMS_H
#define FZ_CMD_PROBLEMS_H

#include "base/err.h"

struct cJSON;
struct cmd_serving;

/* kinds: "lag", "failed" (a target), "fenced", "verify", "capture", "disk", "log", "lease", "link", "ack", "supervisor"; about: the
 * database, target ... that it is about, or "". */
void cmd_problem(struct cJSON *answer, const char *kind, const char *about, const char *fmt, ...) FZ_PRINTF(4, 5);
/* Little room: of the state directory's disk (`disk_min`), and of logs near `log_max` while a target lacks what they hold. */
void cmd_problems_room(const struct cmd_serving *w, struct cJSON *answer);
/* At the end: what was only said in `problems` gets its alert too, of kind "other". */
void cmd_problems_finish(struct cJSON *answer);

#endif
