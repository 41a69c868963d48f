/* json.h - the small JSON objects that the primary keeps in a store: claims and the lease. What is read is checked, nothing is cut. */
#ifndef FZ_PRIMARY_JSON_H
#define FZ_PRIMARY_JSON_H

#include "base/buf.h"

#include <cjson/cJSON.h>
#include <stdbool.h>

/* Appends o as one line, and deletes it. -ENOMEM. */
int primary_json_print(struct fz_buf *out, cJSON *o) FZ_MUST_CHECK;
/* false: missing, of another type, too long, negative or above max. */
bool primary_json_text(const cJSON *o, const char *name, char *out, size_t cap);
bool primary_json_number(const cJSON *o, const char *name, double max, double *out);

#endif
