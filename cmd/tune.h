/* tune.h - settings of the kernel and of SQLite that matter for fazt on this host: only those for which a source or a measurement speaks
 * (docs/operations.md "Tune" names what was looked at and left alone). */
#ifndef FZ_CMD_TUNE_H
#define FZ_CMD_TUNE_H

#include "cmd/config.h"

struct cJSON;

/* What a host is like; -1 and NULL: not known. */
struct cmd_tune_facts {
	const struct cJSON *status; /* of the mount, as `fazt status --json` */
	const struct cmd_conf *conf;
	const char *dir;    /* the directory of the databases */
	size_t n_databases; /* of all mounts */
};
/* Appends {kind, key, now, want, why, command} for each setting that should be another: kind "kernel" (a sysctl, which --apply sets),
 * "host" (a person has to), "sqlite" (of a database file). */
void cmd_tune_kernel(const struct cmd_tune_facts *f, struct cJSON *list);
void cmd_tune_host(const struct cmd_tune_facts *f, struct cJSON *list);
void cmd_tune_sqlite(const struct cmd_tune_facts *f, struct cJSON *list);
/* How many of kind "kernel". */
int cmd_tune_count(const struct cJSON *list);

/* cmd/tune_apply.c: sets the "kernel" ones of the list and keeps them in /etc/sysctl.d/60-fazt.conf together with what was before. What that
 * file has already stays. *n: how many were set. */
#define CMD_TUNE_FILE "/etc/sysctl.d/60-fazt.conf"
int cmd_tune_apply(const struct cJSON *list, int *n, struct fz_err *err) FZ_MUST_CHECK;
/* Sets back what the file says was before, and removes it. *n: how many; 0 when there is no file. */
int cmd_tune_undo(int *n, struct fz_err *err) FZ_MUST_CHECK;
/* A sysctl's value without its line end; -ENOENT. */
int cmd_tune_read(const char *key, char *out, size_t cap) FZ_MUST_CHECK;

#endif
