/* metrics.h - the status of a worker as metrics, in Prometheus' text format 0.0.4. */
#ifndef FZ_CMD_METRICS_H
#define FZ_CMD_METRICS_H

#include "base/buf.h"

struct cJSON;

/* Appends every metric of the status (cmd/answer.c) to *out. Pure, but for the process's own numbers. -ENOMEM. */
int cmd_metrics(const struct cJSON *status, struct fz_buf *out, struct fz_err *err) FZ_MUST_CHECK;

#endif
