/* change.h - what differs between two configurations, key by key, and what of it a mount cannot take on while it serves. */
#ifndef FZ_CMD_CHANGE_H
#define FZ_CMD_CHANGE_H

#include "cmd/config.h"

struct cJSON;

/* Appends {section, target (of [target NAME]), key, from, to, fixed} for every key that differs, target sections that come or go included.
 * Texts are those of the file, "" = not set; those of secrets are "(secret)". fixed: why it needs `fazt umount` and `fazt mount`;
 * absent when a reload can do it. -ENOMEM, -FZ_ECONFIG when a value cannot be written into a file. */
int cmd_change_list(const struct cmd_conf *from, const struct cmd_conf *to, struct cJSON *list,
                    struct fz_err *err) FZ_MUST_CHECK;
/* True for keys whose value is never shown. */
bool cmd_change_secret(const char *key);

#endif
