/* topmodel.h - what `fazt top` knows: the worker's last answer to "status", and the rates that follow from the answers before it.
 * No terminal, no clock: whoever takes an answer says when it came. One thread. */
#ifndef FZ_CMD_TOPMODEL_H
#define FZ_CMD_TOPMODEL_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cJSON;

#define CMD_TOP_HISTORY 60 /* samples, about a second each */
#define CMD_TOP_MEAN    5  /* of which so many make the rate that is shown */

/* Something per second, the newest sample last. */
struct cmd_topseries {
	float at[CMD_TOP_HISTORY];
	unsigned n;
};
enum cmd_toplevel { CMD_TOP_OK, CMD_TOP_NOTE, CMD_TOP_BAD };

struct cmd_topdb {
	char *name, *state; /* "ok", or one word on what is wrong */
	char lineage[17], mode[12];
	enum cmd_toplevel level;
	double txid, size_bytes, log_bytes;
	double written_bytes;  /* captured since the worker began; without that the log's size */
	double lag_ms, behind; /* of whoever is furthest behind: targets, replicas; on a replica itself */
	double commits, bytes; /* per second */
	struct cmd_topseries history, growth;
};
/* What this host ships to, streams to or follows. */
struct cmd_toppeer {
	const char *kind; /* "target", "replica", "primary", "store" */
	char *name, *where, *state, *error;
	char *id; /* what stays the same when it comes back */
	enum cmd_toplevel level;
	double lag_ms, lag_bytes, behind; /* lag_ms < 0: not known */
	double bytes, requests;           /* per second */
	double total_bytes, total_requests;
	struct cmd_topseries flow;
};
struct cmd_topmodel {
	struct cJSON *status; /* the last answer, owned; NULL before the first */
	uint64_t at_ns;       /* when it came */
	struct cmd_topdb *dbs;
	size_t n_dbs;
	struct cmd_toppeer *peers;
	size_t n_peers;
	double commits, bytes; /* all databases */
	struct cmd_topseries history;
};
enum cmd_topsort { CMD_TOP_BY_RATE, CMD_TOP_BY_NAME, CMD_TOP_BY_LAG, CMD_TOP_BY_SIZE, CMD_TOP_BY_TXID, CMD_TOP_SORTS };

/* A zeroed model is empty. status is owned by the model from now on. mono_ns: when it came. -ENOMEM; -FZ_EINTERNAL when it is no status. */
int cmd_topmodel_take(struct cmd_topmodel *m, struct cJSON *status, uint64_t mono_ns, struct fz_err *err) FZ_MUST_CHECK;
void cmd_topmodel_fini(struct cmd_topmodel *m);
/* The databases whose name contains filter (in any case of letters; "" = all) in that order, equal ones by name: indexes into dbs,
 * which the caller frees. NULL with *n = 0 when there are none. */
size_t *cmd_topmodel_order(const struct cmd_topmodel *m, enum cmd_topsort by, bool reverse, const char *filter,
                           size_t *n);
const char *cmd_topmodel_sort_name(enum cmd_topsort by);

#endif
