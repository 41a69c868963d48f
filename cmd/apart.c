#include "cmd/apart.h"

#include "cmd/config_priv.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool within(const char *path, const char *dir)
{
	char part[PATH_MAX], real[PATH_MAX], *slash;
	size_t n = strcmp(dir, "/") != 0 ? strlen(dir) : 0;

	snprintf(part, sizeof(part), "%s", path);
	while (!realpath(part, real)) { /* the rest is made when it is needed */
		slash = strrchr(part, '/');
		if (!slash || slash == part)
			return n == 0;
		*slash = 0;
	}
	return !strncmp(real, dir, n) && (real[n] == '/' || !real[n]);
}

int cmd_apart_one(const char *key, const char *what, const char *dir, struct fz_err *err)
{
	const char *path = what && !strncmp(what, "dir:", 4) ? what + 4 : what;

	if (!path || *path != '/' || !within(path, dir))
		return 0;
	return fz_fail(
	        err, FZ_ECONFIG,
	        "%s: %s lies below the mount %s itself, and what serves that would wait for its own answer: choose "
	        "a place outside of it",
	        key, what, dir);
}

/* Only commands read these while it is mounted, or they are opened before. */
static bool read_by_worker(const struct cmd_conf *c, const char *key)
{
	return strcmp(key, "state") != 0 && strcmp(key, "log_file") != 0 && (strcmp(key, "identity") != 0 || c->follow);
}

static int check_paths(const struct cmd_conf *c, bool of_targets, const void *base, const char *dir, struct fz_err *err)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < cmd_n_keys; i++) {
		const struct cmd_key *k = &cmd_keys[i];
		const void *field = (const char *)base + k->at;

		if (k->type == T_PATH && !strcmp(k->section, "target") == of_targets && read_by_worker(c, k->name))
			rc = cmd_apart_one(k->name, *(char *const *)field, dir, err);
	}
	return rc;
}

int cmd_apart_check(const struct cmd_conf *c, const char *dir, struct fz_err *err)
{
	int rc = check_paths(c, false, c, dir, err);

	if (rc == 0)
		rc = cmd_apart_one("follow", c->follow, dir, err);
	if (rc == 0)
		rc = cmd_apart_one("witness", c->witness, dir, err);
	for (size_t i = 0; rc == 0 && i < c->alert_url.n; i++)
		rc = cmd_apart_one("alert_url", c->alert_url.v[i], dir, err);
	for (size_t i = 0; rc == 0 && i < c->n_targets; i++) {
		rc = cmd_apart_one("target", c->targets[i].url, dir, err);
		if (rc == 0)
			rc = check_paths(c, true, &c->targets[i], dir, err);
	}
	return rc;
}
