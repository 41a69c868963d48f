/* budget.h - requests_per_month: a bucket of requests that fills steadily and is spent by whatever is asked of the store.
 *
 * The bucket holds at most a thirtieth of the month's requests and starts full; the rest flows in evenly over 30 days. So
 * no 30 days can see more than requests_per_month by shipping alone. While it is more than half full intervals are as
 * configured; below that they grow towards what can be kept up for ever, and with an empty bucket each request waits for
 * the next one to flow in. An explicit sync is never held back: it takes the bucket below zero. Durable ("ship/<target>/
 * budget"), so that restarts do not refill it. Not thread-safe: the target's lock guards it. */
#ifndef FZ_PRIMARY_BUDGET_H
#define FZ_PRIMARY_BUDGET_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct primary_budget {
	uint64_t per_month; /* 0 = no limit */
	double tokens;
	int64_t at_ms; /* when tokens was right */
};
void primary_budget_init(struct primary_budget *b, uint64_t per_month, int64_t now_ms);
/* n requests were made. */
void primary_budget_spend(struct primary_budget *b, uint64_t n, int64_t now_ms);
/* How far packs of one database shall lie apart when n_active databases have news: base_ms or more. */
int64_t primary_budget_interval_ms(struct primary_budget *b, int64_t base_ms, unsigned n_active, int64_t now_ms);
/* ms until a request that can wait may be made; 0 = now. */
int64_t primary_budget_wait_ms(struct primary_budget *b, int64_t now_ms);

/* File form: "tokens at_ms". A missing or damaged file leaves *b as it is. */
int primary_budget_load(struct primary_budget *b, int dirfd, const char *path, struct fz_err *err) FZ_MUST_CHECK;
int primary_budget_save(const struct primary_budget *b, int dirfd, const char *path, struct fz_err *err) FZ_MUST_CHECK;

#endif
