/* leaving.h - notes about an ended log, empty files in its directory, made before it is marked as ended; so neither a death of the worker nor a
 * power cut forgets them.
 * leaving    the database has still to go from the mount: removed once the agent has done it
 * unsettled  it has ended in a history that may never have had all that is here: removed once that is known, or a branch; the log stays
 *            until then (cmd/logkeep.c) */
#ifndef FZ_REPLICA_LEAVING_H
#define FZ_REPLICA_LEAVING_H

#include "base/err.h"

#include <stdbool.h>

struct ltx_log;

#define REPLICA_LEAVING   "leaving"
#define REPLICA_UNSETTLED "unsettled"

int replica_note(struct ltx_log *log, const char *what, struct fz_err *err) FZ_MUST_CHECK;
void replica_note_done(struct ltx_log *log, const char *what);
bool replica_noted(struct ltx_log *log, const char *what);

#endif
