/* prices.h - what a store charges for requests, so that status and metrics can tell their cost: [target] prices. */
#ifndef FZ_CMD_PRICES_H
#define FZ_CMD_PRICES_H

#include "base/err.h"
#include "store/store.h"

#include <stdbool.h>

struct cJSON;
struct cmd_target;

/* "put 0.005 get 0.0004 list 0.005 delete 0": for 1000 requests; a kind that is not named costs nothing. "none": no prices.
 * -FZ_ECONFIG. */
int cmd_prices_parse(const char *text, double per_1000[static FZ_STORE_KINDS], bool *any,
                     struct fz_err *err) FZ_MUST_CHECK;
/* The target's, else S3's list price in US dollars for an s3: URL (us-east-1, Standard, 2025). False: none, its requests cost nothing. */
bool cmd_prices_of(const struct cmd_target *t, double per_1000[static FZ_STORE_KINDS]);
/* Adds `cost` to a target of the status, by kind as in its requests_by_kind; nothing without prices. */
void cmd_prices_status(const struct cmd_target *t, struct cJSON *target);

#endif
