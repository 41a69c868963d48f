/* leaving.h - that the database of an ended log has still to go from the mount: an empty file "leaving" in the log's directory, made before
 * the log is marked as ended and removed once the agent has done it, so that neither a death of the worker nor a power cut leaves
 * a deleted database behind. */
#ifndef FZ_REPLICA_LEAVING_H
#define FZ_REPLICA_LEAVING_H

#include "base/err.h"

#include <stdbool.h>

struct ltx_log;

int replica_leaving_note(struct ltx_log *log, struct fz_err *err) FZ_MUST_CHECK;
void replica_leaving_done(struct ltx_log *log);
bool replica_leaving_is(struct ltx_log *log);

#endif
