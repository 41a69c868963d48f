/* lograte.h - which of many equal lines are written. Buckets of tokens in a table of fixed size. */
#ifndef FZ_BASE_LOGRATE_H
#define FZ_BASE_LOGRATE_H

#include "base/log.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#define FZ_LOGRATE_KINDS  128
#define FZ_LOGRATE_SITES  64
#define FZ_LOGRATE_SAMPLE 160

struct fz_lograte_slot {
	uint64_t key; /* 0 = free */
	uint64_t seen_ns, filled_ns;
	double tokens;
	uint64_t suppressed;
	enum fz_log_level level;
	char sample[FZ_LOGRATE_SAMPLE]; /* the first line that was suppressed */
};
struct fz_lograte {
	pthread_mutex_t mu;
	struct fz_lograte_slot kinds[FZ_LOGRATE_KINDS], sites[FZ_LOGRATE_SITES]; /* under mu */
	uint64_t looked_ns;                                                      /* under mu */
};
/* May a line of this kind be written now? true: *suppressed tells how many were not since the last one. site: where it comes
 * from; what: hash of what else tells such lines apart; msg: kept as an example. */
bool fz_lograte_take(struct fz_lograte *r, uint64_t site, uint64_t what, enum fz_log_level level, const char *msg,
                     uint64_t now_ns, uint64_t *suppressed);
/* Takes one kind of line out that was suppressed and may be told of by now (all: any). False when there is none. */
bool fz_lograte_told(struct fz_lograte *r, uint64_t now_ns, bool all, struct fz_lograte_slot *out);
/* True once in ten seconds: time to look whether something is to be told. */
bool fz_lograte_due(struct fz_lograte *r, uint64_t now_ns);

#endif
