#include "cmd/source_arg.h"

#include "base/file.h"
#include "base/log.h"
#include "cmd/branch.h"
#include "cmd/keys.h"
#include "cmd/state.h"
#include "cmd/wire.h"
#include "replica/source.h"
#include "store/store.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool cmd_is_url(const char *arg)
{
	return !strncmp(arg, "dir:", 4) || !strncmp(arg, "s3:", 3) || strstr(arg, "://");
}

const struct cmd_target *cmd_target_arg(const struct cmd_conf *c, const char *arg, const char **database)
{
	for (size_t i = 0; i < c->n_targets; i++) {
		const char *name = c->targets[i].name;
		size_t n = name ? strlen(name) : 0;

		if (name && !strncmp(arg, name, n) && (!arg[n] || (arg[n] == '/' && arg[n + 1]))) {
			*database = arg[n] ? arg + n + 1 : "";
			return &c->targets[i];
		}
	}
	return NULL;
}

/* A path as it was given, from the root: nothing is resolved. */
static int from_root(const char *arg, char full[static PATH_MAX], struct fz_err *err)
{
	char here[PATH_MAX] = "";

	while (!strncmp(arg, "./", 2))
		arg += 2;
	if (*arg != '/' && !getcwd(here, sizeof(here)))
		return fz_fail_errno(err, errno, "the working directory");
	if (snprintf(full, PATH_MAX, "%s%s%s", here, *here ? "/" : "", arg) >= PATH_MAX)
		return fz_fail(err, FZ_EUSAGE, "the path is too long");
	return 0;
}

int cmd_source_split(const char *arg, struct cmd_where *w, char *database, size_t cap, struct fz_err *err)
{
	char full[PATH_MAX], copy[PATH_MAX], state[PATH_MAX + 8];
	int rc = from_root(arg, full, err);

	if (rc < 0)
		return rc;
	memcpy(copy, full, sizeof(copy));
	/* The longest leading part that fazt serves, or served. */
	for (char *slash; (slash = strrchr(copy, '/'));) {
		const char *rest = full + (slash - copy) + 1;

		slash[slash == copy] = 0; /* the root keeps its name */
		if (*rest && cmd_where_find(w, copy, NULL) == 0) {
			snprintf(state, sizeof(state), "%s/.fazt", w->dir);
			if (w->fazt || (!w->mounted && access(state, X_OK) == 0)) {
				snprintf(database, cap, "%s", rest);
				return 0;
			}
		}
		if (slash == copy)
			break;
	}
	return fz_fail(
	        err, FZ_ENOTFOUND,
	        "'%s' is no store URL, no target of the configuration and no database below a directory that fazt "
	        "serves",
	        arg);
}

static int target_source(struct cmd_source *s, const struct cmd_target *t, struct replica_source **out, char *label,
                         size_t cap, struct fz_err *err)
{
	struct fz_store *store = NULL;
	int rc = cmd_target_open(t, s->database, false, &store, err);

	if (rc < 0)
		return rc;
	snprintf(label, cap, "%s", fz_store_url(store));
	rc = replica_source_store(out, store, s->ids.n ? &s->ids : NULL, err);
	if (rc < 0)
		fz_store_close(store);
	return rc;
}

static int open_target(struct cmd_source *s, const struct cmd_target *t, struct fz_err *err)
{
	s->is_log = false;
	return target_source(s, t, &s->source, s->label, sizeof(s->label), err);
}

/* The log and, behind it, the first target that can be opened. */
static int open_log(struct cmd_source *s, struct fz_err *err)
{
	struct replica_source *store = NULL;
	struct fz_err why = {0};
	int rc = replica_source_log(&s->source, s->statefd, s->database, err);

	while (rc == 0 && !store && s->next_target < s->conf.n_targets)
		if (target_source(s, &s->conf.targets[s->next_target++], &store, s->store_label, sizeof(s->store_label),
		                  &why) < 0)
			fz_debug("%s: the log has to do without", fz_log_why(&why));
	if (store)
		rc = replica_source_join(s->source, store, &s->source, err);
	if (rc < 0)
		replica_source_close(store);
	return rc;
}

static int open_url(struct cmd_source *s, const char *url, struct fz_err *err)
{
	struct fz_store_conf conf = {.interactive = true};
	struct fz_store *store = NULL;
	size_t end = strncmp(url, "s3:", 3) ? strlen(url) : strcspn(url, "?"), start;
	int rc;

	while (end > 0 && url[end - 1] == '/')
		end--;
	for (start = end; start > 0 && url[start - 1] != '/' && url[start - 1] != ':';)
		start--;
	snprintf(s->database, sizeof(s->database), "%.*s", (int)(end - start), url + start);
	rc = fz_store_open(&store, url, &conf, err);
	if (rc < 0)
		return rc;
	snprintf(s->label, sizeof(s->label), "%s", fz_store_url(store));
	return replica_source_store(&s->source, store, s->ids.n ? &s->ids : NULL, err);
}

/* DB@BRANCH: the branch's directory takes the place of the mount's, and no target knows of it. A name with
 * an @ and no such branch is a database's own. */
static int turn_to_branch(struct cmd_source *s, struct fz_err *err)
{
	char *at = strrchr(s->database, '@');
	int fd;

	if (!at || at == s->database || !at[1])
		return 0;
	*at = 0;
	fd = cmd_branch_open(s->statefd, s->database, at + 1, err);
	if (fd == -FZ_ENOTFOUND) {
		*at = '@';
		return 0;
	}
	if (fd < 0)
		return fd;
	fz_close(&s->statefd);
	s->statefd = fd;
	s->next_target = s->conf.n_targets;
	return 0;
}

static int open_nth(struct cmd_source *s, size_t target, struct fz_err *err)
{
	if (target >= s->conf.n_targets)
		return fz_fail(err, FZ_ENOTFOUND, "there are only %zu targets", s->conf.n_targets);
	s->next_target = s->conf.n_targets;
	return open_target(s, &s->conf.targets[target], err);
}

/* target: cmd_source_open_target(), or -1. */
static int open_arg(struct cmd_source *s, const char *arg, ssize_t target, const char *identity, const char *config,
                    struct fz_err *err)
{
	const struct cmd_target *t = NULL;
	const char *rest = NULL;
	struct cmd_where w = {0};
	char state[64];
	int rc;

	memset(s, 0, sizeof(*s));
	s->statefd = -1;
	cmd_conf_init(&s->conf);
	rc = cmd_conf_load(&s->conf, config, err);
	if (rc == 0 && !cmd_is_url(arg)) {
		t = target < 0 ? cmd_target_arg(&s->conf, arg, &rest) : NULL;
		if (t && !*rest) /* its name alone is a path here */
			t = NULL;
		if (t)
			snprintf(s->database, sizeof(s->database), "%s", rest);
		else
			rc = cmd_source_split(arg, &w, s->database, sizeof(s->database), err);
		if (rc == 0 && !t)
			rc = cmd_state_find(&w, &s->conf, config, &s->statefd, err);
		if (rc == 0 && !t)
			rc = turn_to_branch(s, err);
	}
	if (rc == 0) {
		snprintf(state, sizeof(state), "/proc/self/fd/%d", s->statefd);
		rc = cmd_key_identities(&s->ids, identity, &s->conf, s->statefd >= 0 ? state : NULL, err);
	}
	if (rc == 0 && cmd_is_url(arg))
		rc = open_url(s, arg, err);
	else if (rc == 0 && t)
		rc = open_target(s, t, err);
	else if (rc == 0) {
		s->is_log = true;
		if (snprintf(s->live, sizeof(s->live), "%s/%s", strcmp(w.dir, "/") ? w.dir : "", s->database) >=
		            (int)sizeof(s->live) ||
		    snprintf(s->label, sizeof(s->label), "the log of %s", s->live) >= (int)sizeof(s->label))
			rc = fz_fail(err, FZ_EUSAGE, "the path is too long");
	}
	if (rc == 0 && s->is_log)
		rc = target < 0 ? open_log(s, err) : open_nth(s, (size_t)target, err);
	if (rc < 0)
		cmd_source_close(s);
	return rc;
}

int cmd_source_open(struct cmd_source *s, const char *arg, const char *identity, const char *config, struct fz_err *err)
{
	return open_arg(s, arg, -1, identity, config, err);
}

int cmd_source_open_target(struct cmd_source *s, const char *arg, size_t target, const char *identity,
                           const char *config, struct fz_err *err)
{
	return open_arg(s, arg, (ssize_t)target, identity, config, err);
}

/* Would another place do better? */
static bool elsewhere(int code)
{
	switch (code) {
	case -FZ_ENOTFOUND:
	case -FZ_ENOCOMMIT:
	case -FZ_EGAP:
	case -FZ_ENET:
	case -FZ_ETIMEOUT:
	case -FZ_EAUTH:
	case -FZ_ESTORE:
	case -FZ_ENOKEY:
		return true;
	default:
		return false;
	}
}

bool cmd_source_next(struct cmd_source *s, const struct fz_err *err)
{
	struct fz_err why = {0};

	if (!*s->live || !elsewhere(err->code))
		return false;
	if (s->next_target < s->conf.n_targets)
		fz_debug("%s: on to the next target", fz_log_why(err));
	while (s->next_target < s->conf.n_targets) {
		replica_source_close(s->source);
		s->source = NULL;
		if (open_target(s, &s->conf.targets[s->next_target++], &why) == 0)
			return true;
		fz_log_err("next place to look", &why);
	}
	return false;
}

void cmd_source_close(struct cmd_source *s)
{
	replica_source_close(s->source);
	s->source = NULL;
	ltx_age_identities_free(&s->ids);
	cmd_conf_fini(&s->conf);
	fz_close(&s->statefd);
}
