#include "cmd/stores.h"

#include "base/file.h"
#include "cmd/source_arg.h"
#include "cmd/state.h"
#include "cmd/wire.h"
#include "ltx/name.h"
#include "store/store.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static size_t head_of(const char *url)
{
	size_t n = strncmp(url, "s3:", 3) ? strlen(url) : strcspn(url, "?");

	while (n > 0 && url[n - 1] == '/')
		n--;
	return n;
}

static int hex(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

/* A part of a URL's path as a name: %XX is decoded in s3 URLs. */
static int take_name(struct cmd_stores *s, const char *p, size_t n, bool s3, struct fz_err *err)
{
	size_t k = 0;

	for (size_t i = 0; i < n && k < sizeof(s->database) - 1; i++, k++)
		if (s3 && p[i] == '%' && i + 2 < n && hex(p[i + 1]) >= 0 && hex(p[i + 2]) >= 0) {
			s->database[k] = (char)(hex(p[i + 1]) * 16 + hex(p[i + 2]));
			i += 2;
		} else {
			s->database[k] = p[i];
		}
	s->database[k] = 0;
	return k < sizeof(s->database) - 1 ? 0 : fz_fail(err, FZ_EUSAGE, "the database's name is too long");
}

static int add(struct cmd_stores *s, struct fz_store *store, const struct cmd_target *t, struct fz_err *err)
{
	struct cmd_stores_at *v = realloc(s->v, (s->n + 1) * sizeof(*v));

	if (!v) {
		fz_store_close(store);
		return fz_fail_errno(err, ENOMEM, "opening the stores");
	}
	s->v = v;
	s->v[s->n++] = (struct cmd_stores_at){.store = store,
	                                      .target = t,
	                                      .label = t && t->name && *t->name != '#' ? t->name
	                                               : store                         ? fz_store_url(store)
	                                                                               : t->url};
	return 0;
}

static int add_target(struct cmd_stores *s, const struct cmd_target *t, struct fz_err *err)
{
	struct fz_store *store = NULL;
	struct fz_err why = {0};
	int rc = cmd_target_open(t, NULL, false, &store, &why);

	if (rc < 0 && !s->some) {
		*err = why;
		return rc;
	}
	rc = add(s, store, t, err);
	if (rc == 0)
		s->v[s->n - 1].why = why;
	return rc;
}

static int open_url(struct cmd_stores *s, const char *url, struct fz_err *err)
{
	struct fz_store_conf conf = {.interactive = true};
	struct fz_store *store = NULL;
	size_t n = head_of(url), slash;
	bool s3 = !strncmp(url, "s3:", 3);
	char *root;
	int rc;

	for (size_t i = 0; i < s->conf.n_targets; i++) {
		const struct cmd_target *t = &s->conf.targets[i];
		size_t k = head_of(t->url);

		if (k > n || strncmp(t->url, url, k) != 0 || (k < n && url[k] != '/') ||
		    (s3 && url[strcspn(url, "?")] &&
		     strcmp(t->url + strcspn(t->url, "?"), url + strcspn(url, "?")) != 0))
			continue;
		rc = k < n ? take_name(s, url + k + 1, n - k - 1, s3, err) : 0;
		return rc < 0 ? rc : add_target(s, t, err);
	}
	for (slash = n; slash > 0 && url[slash - 1] != '/' && url[slash - 1] != ':';)
		slash--;
	rc = take_name(s, url + slash, n - slash, s3, err);
	while (slash > 0 && url[slash - 1] == '/' && strncmp(url + slash - 1, "//", 2) != 0 &&
	       (slash < 2 || url[slash - 2] != '/'))
		slash--;
	if (rc == 0 && asprintf(&root, "%.*s%s", (int)slash, url, s3 ? url + strcspn(url, "?") : "") < 0)
		return fz_fail_errno(err, ENOMEM, "opening %s", url);
	if (rc == 0) {
		rc = fz_store_open(&store, root, &conf, err);
		free(root);
	}
	return rc < 0 ? rc : add(s, store, NULL, err);
}

static int open_dir(struct cmd_stores *s, const char *arg, const char *config, struct fz_err *err)
{
	char state[PATH_MAX + 8];
	int rc = cmd_where_find(&s->w, arg, NULL);

	if (rc == 0)
		snprintf(state, sizeof(state), "%s/.fazt", s->w.dir);
	if (rc < 0 || !(s->w.fazt || (!s->w.mounted && access(state, X_OK) == 0)))
		rc = cmd_source_split(arg, &s->w, s->database, sizeof(s->database), err);
	if (rc == 0)
		rc = cmd_state_find(&s->w, &s->conf, config, &s->statefd, err);
	for (size_t i = 0; rc == 0 && i < s->conf.n_targets; i++)
		rc = add_target(s, &s->conf.targets[i], err);
	return rc;
}

static int open_arg(struct cmd_stores *s, const char *arg, const char *config, bool some, struct fz_err *err)
{
	const struct cmd_target *t;
	const char *rest;
	int rc;

	memset(s, 0, sizeof(*s));
	s->statefd = -1;
	s->some = some;
	cmd_conf_init(&s->conf);
	rc = cmd_conf_load(&s->conf, config, err);
	if (rc == 0 && cmd_is_url(arg)) {
		rc = open_url(s, arg, err);
	} else if (rc == 0 && (t = cmd_target_arg(&s->conf, arg, &rest))) {
		rc = take_name(s, rest, strlen(rest), false, err);
		if (rc == 0)
			rc = add_target(s, t, err);
	} else if (rc == 0) {
		rc = open_dir(s, arg, config, err);
	}
	if (rc < 0)
		cmd_stores_close(s);
	return rc;
}

int cmd_stores_open(struct cmd_stores *s, const char *arg, const char *config, struct fz_err *err)
{
	return open_arg(s, arg, config, false, err);
}

int cmd_stores_open_some(struct cmd_stores *s, const char *arg, const char *config, struct fz_err *err)
{
	return open_arg(s, arg, config, true, err);
}

int cmd_stores_open_below(struct cmd_stores *s, const char *url, const char *config, struct fz_err *err)
{
	struct fz_store_conf conf = {.interactive = true};
	struct fz_store *store = NULL;
	int rc;

	memset(s, 0, sizeof(*s));
	s->statefd = -1;
	cmd_conf_init(&s->conf);
	rc = cmd_conf_load(&s->conf, config, err);
	if (rc == 0)
		rc = fz_store_open(&store, url, &conf, err);
	if (rc == 0)
		rc = add(s, store, NULL, err);
	if (rc < 0)
		cmd_stores_close(s);
	return rc;
}

void cmd_stores_close(struct cmd_stores *s)
{
	for (size_t i = 0; i < s->n; i++)
		fz_store_close(s->v[i].store);
	free(s->v);
	s->v = NULL;
	s->n = 0;
	cmd_conf_fini(&s->conf);
	fz_close(&s->statefd);
}

/* Length of the database in a key, 0 when it is none of ours: no store takes a key with a control character. */
static size_t name_in(const char *key)
{
	const char *p = key + strlen(key);
	struct ltx_name name;
	const char *claim;

	for (const char *c = key; *c; c++)
		if ((unsigned char)*c < 0x20 || *c == 0x7f)
			return 0;
	for (int i = 0; i < 4 && p; i++) { /* lineage/epoch/level/file */
		do
			p--;
		while (p > key && *p != '/');
		if (p <= key)
			p = NULL;
	}
	if (p && ltx_name_get(&name, p + 1) == 0)
		return (size_t)(p - key);
	claim = strstr(key, "/claim/");
	while (claim && strstr(claim + 1, "/claim/"))
		claim = strstr(claim + 1, "/claim/");
	return claim && strspn(claim + 7, "0123456789abcdef") == 8 ? (size_t)(claim - key) : 0;
}

int cmd_stores_databases(const struct cmd_stores *s, const struct cmd_stores_at *at, char ***out, size_t *n,
                         struct fz_err *err)
{
	struct fz_store_list l = {0};
	struct fz_buf prefix = {0};
	int rc = 0;

	*out = NULL;
	*n = 0;
	if (*s->database && fz_buf_addf(&prefix, "%s/", s->database) < 0)
		return fz_fail_errno(err, ENOMEM, "listing %s", s->database);
	rc = fz_store_list(at->store, *s->database ? fz_buf_str(&prefix) : "", NULL, false, &l, err);
	for (size_t i = 0; rc == 0 && i < l.n; i++) {
		size_t k = name_in(l.v[i].key);
		bool known = !k || (*s->database && (k != strlen(s->database)));
		char **v;

		for (size_t j = *n; !known && j-- > 0;)
			known = !strncmp((*out)[j], l.v[i].key, k) && !(*out)[j][k];
		if (known)
			continue;
		v = realloc(*out, (*n + 1) * sizeof(*v));
		if (v)
			*out = v;
		if (!v || !(v[*n] = strndup(l.v[i].key, k)))
			rc = fz_fail_errno(err, ENOMEM, "listing a store");
		else
			(*n)++;
	}
	fz_store_list_fini(&l);
	fz_buf_fini(&prefix);
	if (rc < 0) {
		cmd_stores_free(*out, *n);
		*out = NULL;
		*n = 0;
	}
	return rc;
}

void cmd_stores_free(char **names, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(names[i]);
	free(names);
}
