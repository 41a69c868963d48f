#include "cmd/config.h"

#include "base/clock.h"
#include "cmd/ack.h"
#include "cmd/config_priv.h"
#include "cmd/nearest.h"
#include "cmd/prices.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define BAD(code, ...) cmd_conf_bad(err, o, code, __VA_ARGS__)

#define C(section, name, type)                                                                                         \
	{                                                                                                              \
		section, #name, type, offsetof(struct cmd_conf, name)                                                  \
	}
#define T(name, type, field)                                                                                           \
	{                                                                                                              \
		"target", name, type, offsetof(struct cmd_target, field)                                               \
	}
const struct cmd_key cmd_keys[] = {
        C("mount", state, T_PATH),
        C("mount", databases, T_LINES),
        C("mount", exclude, T_LINES),
        C("mount", log_max, T_SIZE),
        {"mount", "log_keep",        T_DURATION, offsetof(struct cmd_conf, log_keep_ms)       },
        C("mount", scrub_rate, T_SCRUB),
        C("mount", no_passthrough, T_BOOL),
        C("mount", no_resend, T_BOOL),
        C("mount", private_mount, T_BOOL),
        C("mount", take_over, T_BOOL),
        C("mount", log_level, T_LEVEL),
        C("mount", log_file, T_PATH),
        C("mount", log_format, T_FORMAT),
        C("mount", log_file_max, T_SIZE),
        C("mount", disk_min, T_SIZE),
        C("mount", alert_url, T_LINES),
        C("mount", alert_secret, T_PATH),
        C("mount", alert_headers, T_PATH),
        C("mount", alert_cacert, T_PATH),
        {"mount", "alert_interval",  T_DURATION, offsetof(struct cmd_conf, alert_interval_ms) },
        {"mount", "alert_timeout",   T_DURATION, offsetof(struct cmd_conf, alert_timeout_ms)  },
        {"mount", "stop_grace",      T_DURATION, offsetof(struct cmd_conf, stop_grace_ms)     },
        C("encrypt", encrypt, T_ENCRYPT),
        C("encrypt", recipients, T_WORDS),
        C("encrypt", identity, T_PATH),
        C("link", role, T_ROLE),
        C("link", host_key, T_PATH),
        C("link", listen, T_TEXT),
        C("link", advertise, T_TEXT),
        {"link",  "follower",        T_LINES,    offsetof(struct cmd_conf, followers)         },
        C("link", ack, T_ACK),
        {"link",  "ack_timeout",     T_DURATION, offsetof(struct cmd_conf, ack_timeout_ms)    },
        C("link", ack_policy, T_POLICY),
        C("link", primary, T_TEXT),
        C("link", primary_key, T_TEXT),
        C("link", follow, T_TEXT),
        {"link",  "follow_interval", T_DURATION, offsetof(struct cmd_conf, follow_interval_ms)},
        C("link", failover, T_FAILOVER),
        C("link", witness, T_TEXT),
        {"link",  "lease",           T_DURATION, offsetof(struct cmd_conf, lease_ms)          },
        {"http",  "listen",          T_TEXT,     offsetof(struct cmd_conf, http_listen)       },
        {"http",  "hosts",           T_WORDS,    offsetof(struct cmd_conf, http_hosts)        },
        T("url", T_TEXT, url),
        T("encrypt", T_ENCRYPT, encrypt),
        T("recipients", T_WORDS, recipients),
        T("ship_interval", T_DURATION, ship_interval_ms),
        T("ship_bytes", T_SIZE, ship_bytes),
        T("minute", T_DURATION, minute_ms),
        T("hour", T_DURATION, hour_ms),
        T("day", T_DURATION, day_ms),
        T("snapshot_interval", T_DURATION, snapshot_interval_ms),
        T("keep_commits", T_KEEP, keep_commits_ms),
        T("keep_minutes", T_KEEP, keep_minutes_ms),
        T("keep_hours", T_KEEP, keep_hours_ms),
        T("keep_days", T_KEEP, keep_days_ms),
        T("keep_bytes", T_SIZE, keep_bytes),
        T("delete_grace", T_DURATION, delete_grace_ms),
        T("requests_per_month", T_COUNT, requests_per_month),
        T("append_only", T_BOOL, append_only),
        T("lag_max", T_DURATION, lag_max_ms),
        T("timeout", T_DURATION, timeout_ms),
        T("prices", T_PRICES, prices),
        T("region", T_TEXT, region),
        T("endpoint", T_TEXT, endpoint),
        T("profile", T_TEXT, profile),
        T("credentials_file", T_PATH, credentials_file),
        T("access_key", T_TEXT, access_key),
        T("secret_key", T_TEXT, secret_key),
        T("session_token", T_TEXT, session_token),
};
#undef C
#undef T
const size_t cmd_n_keys = sizeof(cmd_keys) / sizeof(cmd_keys[0]);

void cmd_conf_init(struct cmd_conf *c)
{
	memset(c, 0, sizeof(*c));
}

void cmd_list_clear(struct cmd_list *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->v[i]);
	free(l->v);
	free(l->where);
	memset(l, 0, sizeof(*l));
}

/* Frees every heap value of one struct that the table knows in these sections. */
static void free_fields(void *base, bool target)
{
	for (size_t i = 0; i < cmd_n_keys; i++) {
		void *field = (char *)base + cmd_keys[i].at;

		if (!strcmp(cmd_keys[i].section, "target") != target)
			continue;
		if (cmd_key_is_text(&cmd_keys[i])) {
			if (*(char **)field && strstr(cmd_keys[i].name, "secret"))
				explicit_bzero(*(char **)field, strlen(*(char **)field));
			free(*(char **)field);
		} else if (cmd_keys[i].type == T_LINES || cmd_keys[i].type == T_WORDS) {
			cmd_list_clear((struct cmd_list *)field);
		}
	}
}

static void targets_clear(struct cmd_conf *c)
{
	for (size_t i = 0; i < c->n_targets; i++) {
		free_fields(&c->targets[i], true);
		free(c->targets[i].name);
		free(c->targets[i].where);
	}
	free(c->targets);
	c->targets = NULL;
	c->n_targets = 0;
}

void cmd_conf_fini(struct cmd_conf *c)
{
	free_fields(c, false);
	free(c->identity_where);
	free(c->file);
	for (size_t i = 0; i < c->n_flags; i++) {
		free(c->flags[i].flag);
		free(c->flags[i].section);
		free(c->flags[i].key);
		free(c->flags[i].value);
	}
	free(c->flags);
	targets_clear(c);
	memset(c, 0, sizeof(*c));
}

static const char *origin_text(const struct cmd_origin *o, char buf[static 512])
{
	if (o->line)
		snprintf(buf, 512, "%s:%d", o->where, o->line);
	else
		snprintf(buf, 512, "%s", o->where);
	return buf;
}

int cmd_conf_bad(struct fz_err *err, const struct cmd_origin *o, int code, const char *fmt, ...)
{
	char where[512], text[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return fz_fail(err, code, "%s: %s", origin_text(o, where), text);
}

int cmd_list_add(struct cmd_list *l, const char *item, size_t n, const struct cmd_origin *o, struct fz_err *err)
{
	char **v;

	if (l->level < o->level) /* the first item of a higher level replaces what the lower ones said */
		cmd_list_clear(l);
	if (l->level > o->level)
		return 0;
	v = realloc(l->v, (l->n + 1) * sizeof(*v));
	if (!v)
		return fz_fail_errno(err, ENOMEM, "reading the configuration");
	l->v = v;
	v[l->n] = strndup(item, n);
	free(l->where);
	l->where = strdup(o->where);
	if (!v[l->n] || !l->where) {
		free(v[l->n]);
		return fz_fail_errno(err, ENOMEM, "reading the configuration");
	}
	l->n++;
	l->level = o->level;
	l->line = o->line;
	return 0;
}

static int set_text(char **field, const char *value, bool append, struct fz_err *err)
{
	char *s = NULL;

	if (asprintf(&s, "%s%s", append && *field ? *field : "", value) < 0)
		return fz_fail_errno(err, ENOMEM, "reading the configuration");
	if (*field)
		explicit_bzero(*field, strlen(*field));
	free(*field);
	*field = s;
	return 0;
}

static bool one_of(const char *v, const char *const *words)
{
	for (; *words; words++)
		if (!strcasecmp(v, *words))
			return true;
	return false;
}

static int set_bool(bool *field, const char *v, const struct cmd_origin *o, const char *name, struct fz_err *err)
{
	static const char *const yes[] = {"yes", "true", "on", "1", NULL}, *const no[] = {"no", "false", "off", "0",
	                                                                                  NULL};

	if (!one_of(v, yes) && !one_of(v, no))
		return BAD(FZ_ECONFIG, "%s: '%s' is neither yes nor no", name, v);
	*field = one_of(v, yes);
	return 0;
}

/* more = the value goes on from the line before (texts), or is one more item (lists). */
static int set_value(void *base, const struct cmd_key *k, const char *v, bool more, const struct cmd_origin *o,
                     struct fz_err *err)
{
	static const char *const failovers[] = {"auto", "manual", NULL};
	static const char *const levels[] = {"error", "warning", "info", "debug", NULL};
	static const char *const formats[] = {"logfmt", "json", "text", NULL};
	static const char *const encrypt[] = {"age", "none", NULL};
	static const char *const roles[] = {"primary", "replica", NULL};
	static const char *const policies[] = {"degrade", "wait", NULL};
	void *field = (char *)base + k->at;
	struct fz_err why = {0};
	double prices[FZ_STORE_KINDS];
	unsigned replicas;
	bool any;
	int64_t n = 0;
	char *end;

	if (!*v)
		return BAD(FZ_ECONFIG, "%s has no value", k->name);
	if (more && k->type != T_TEXT && k->type != T_PATH && k->type != T_LINES && k->type != T_WORDS)
		return BAD(FZ_ECONFIG, "%s takes one line only", k->name);
	switch (k->type) {
	case T_PATH:
		if (!more && *v != '/')
			return BAD(FZ_ECONFIG, "%s: '%s' is no absolute path", k->name, v);
		return set_text(field, v, more, err);
	case T_TEXT:
		return set_text(field, v, more, err);
	case T_LEVEL:
		if (!one_of(v, levels))
			return BAD(FZ_ECONFIG, "%s: '%s' is none of error, warning, info, debug", k->name, v);
		return set_text(field, v, false, err);
	case T_FORMAT:
		if (!one_of(v, formats))
			return BAD(FZ_ECONFIG, "%s: '%s' is none of logfmt, json, text", k->name, v);
		return set_text(field, v, false, err);
	case T_ROLE:
		if (!one_of(v, roles))
			return BAD(FZ_ECONFIG, "%s: '%s' is neither primary nor replica", k->name, v);
		return set_text(field, v, false, err);
	case T_ACK:
		if (!cmd_ack_parse(v, &replicas))
			return BAD(FZ_ECONFIG, "%s: '%s' is none of local, replica, N replicas", k->name, v);
		return set_text(field, v, false, err);
	case T_POLICY:
		if (!one_of(v, policies))
			return BAD(FZ_ECONFIG, "%s: '%s' is neither degrade nor wait", k->name, v);
		return set_text(field, v, false, err);
	case T_FAILOVER:
		if (!one_of(v, failovers))
			return BAD(FZ_ECONFIG, "%s: '%s' is neither auto nor manual", k->name, v);
		return set_text(field, v, false, err);
	case T_ENCRYPT:
		if (!one_of(v, encrypt))
			return BAD(FZ_ECONFIG, "%s: '%s' is neither age nor none", k->name, v);
		return set_text(field, v, false, err);
	case T_PRICES:
		if (cmd_prices_parse(v, prices, &any, &why) < 0)
			return BAD(FZ_ECONFIG, "%s: %s", k->name, why.text);
		return set_text(field, v, false, err);
	case T_LINES:
		return cmd_list_add(field, v, strlen(v), o, err);
	case T_WORDS:
		for (const char *p = v; *p;) {
			size_t len = strcspn(p, " \t,");
			int rc = len ? cmd_list_add(field, p, len, o, err) : 0;

			if (rc < 0)
				return rc;
			p += len + (p[len] != 0);
		}
		return 0;
	case T_BOOL:
		return set_bool(field, v, o, k->name, err);
	case T_KEEP:
		if (!strcasecmp(v, "forever")) {
			*(int64_t *)field = -1;
			return 0;
		} /* fallthrough */
	case T_DURATION:
		if (fz_parse_duration(v, &n, &why) < 0 || n == 0)
			return BAD(FZ_ECONFIG, "%s: %s", k->name, n == 0 && !why.code ? "must not be 0" : why.text);
		*(int64_t *)field = n;
		return 0;
	case T_SCRUB:
		if (!strcasecmp(v, "off")) {
			*(uint64_t *)field = UINT64_MAX;
			return 0;
		} /* fallthrough */
	case T_SIZE:
		if (fz_parse_size(v, &n, &why) < 0 || n == 0)
			return BAD(FZ_ECONFIG, "%s: %s", k->name, n == 0 && !why.code ? "must not be 0" : why.text);
		*(uint64_t *)field = (uint64_t)n;
		return 0;
	case T_COUNT:
		errno = 0;
		*(uint64_t *)field = strtoull(v, &end, 10);
		if (!isdigit((unsigned char)*v) || *end || errno)
			return BAD(FZ_ECONFIG, "%s: '%s' is no whole number", k->name, v);
		return 0;
	}
	return BAD(FZ_EINTERNAL, "%s has no type", k->name);
}

const struct cmd_key *cmd_key_of(const char *section, const char *name)
{
	for (size_t i = 0; i < cmd_n_keys; i++)
		if (!strcmp(cmd_keys[i].section, section) && !strcmp(cmd_keys[i].name, name))
			return &cmd_keys[i];
	return NULL;
}

/* The section that has a key of that name. */
static const char *section_of(const char *name)
{
	for (size_t i = 0; i < cmd_n_keys; i++)
		if (!strcmp(cmd_keys[i].name, name))
			return strcmp(cmd_keys[i].section, "target") != 0 ? cmd_keys[i].section : "target NAME";
	return NULL;
}

/* The target of that name (NULL: always a new one). Targets of a higher level replace all of the lower ones. */
static int get_target(struct cmd_conf *c, const char *name, const struct cmd_origin *o, struct cmd_target **out,
                      struct fz_err *err)
{
	struct cmd_target *t;

	if (c->n_targets && c->targets[0].level < o->level)
		targets_clear(c);
	for (size_t i = 0; name && i < c->n_targets; i++)
		if (c->targets[i].name && !strcmp(c->targets[i].name, name)) {
			*out = &c->targets[i];
			return 0;
		}
	t = realloc(c->targets, (c->n_targets + 1) * sizeof(*t));
	if (!t)
		return fz_fail_errno(err, ENOMEM, "reading the configuration");
	c->targets = t;
	t += c->n_targets;
	memset(t, 0, sizeof(*t));
	t->level = o->level;
	t->line = o->line;
	t->where = strdup(o->where);
	t->name = name ? strdup(name) : NULL;
	c->n_targets++;
	if (!t->where || (name && !t->name))
		return fz_fail_errno(err, ENOMEM, "reading the configuration");
	*out = t;
	return 0;
}

int cmd_conf_set(struct cmd_conf *c, const char *section, const char *target, const char *name, const char *value,
                 bool more, const struct cmd_origin *o, struct fz_err *err)
{
	const struct cmd_key *k = cmd_key_of(section, name);
	struct cmd_target *t = NULL;
	int rc = 0;

	if (!k) {
		struct cmd_nearest near = {.word = name};

		for (size_t i = 0; i < cmd_n_keys; i++)
			if (!strcmp(cmd_keys[i].section, section))
				cmd_nearest_see(&near, cmd_keys[i].name);
		return BAD(FZ_ECONFIG, "unknown key '%s' in [%s%s%s]%s%s%s", name, section, target ? " " : "",
		           target ? target : "",
		           near.best          ? ": did you mean '"
		           : section_of(name) ? ": it belongs in ["
		                              : "",
		           near.best          ? near.best
		           : section_of(name) ? section_of(name)
		                              : "",
		           near.best          ? "'?"
		           : section_of(name) ? "]"
		                              : "");
	}
	if (!strcmp(section, "target"))
		rc = get_target(c, target, o, &t, err);
	if (rc < 0)
		return rc;
	if (k == cmd_key_of("encrypt", "identity")) {
		free(c->identity_where);
		c->identity_where = strdup(o->where);
		c->identity_line = o->line;
	}
	return set_value(t ? (void *)t : (void *)c, k, value, more, o, err);
}

/* ---- environment and flags -------------------------------------------------------------------------------------- */

static int add_targets(struct cmd_conf *c, const char *urls, const struct cmd_origin *o, struct fz_err *err)
{
	char *copy = strdup(urls), *save = NULL;
	int rc = copy ? 0 : fz_fail_errno(err, ENOMEM, "reading the configuration");

	for (char *u = copy ? strtok_r(copy, " \t\n", &save) : NULL; rc == 0 && u; u = strtok_r(NULL, " \t\n", &save))
		rc = cmd_conf_set(c, "target", NULL, "url", u, false, o, err);
	free(copy);
	return rc;
}

int cmd_conf_env(struct cmd_conf *c, char *const *env, struct fz_err *err)
{
	for (; *env; env++) {
		const char *eq = strchr(*env, '=');
		char var[64], key[64];
		const char *section = NULL;
		struct cmd_origin o = {.level = CMD_LEVEL_ENV, .where = var};
		size_t n = eq ? (size_t)(eq - *env) : 0;
		int rc = 0;

		if (strncmp(*env, "FAZT_", 5) || !eq || n >= sizeof(var) || !eq[1])
			continue;
		snprintf(var, sizeof(var), "%.*s", (int)n, *env);
		if (!strncmp(var, "FAZT_TEST_", 10) || !strcmp(var, "FAZT_CONFIG") || !strcmp(var, "FAZT_DIR"))
			continue;
		for (size_t i = 5; i <= n; i++)
			key[i - 5] = (char)tolower((unsigned char)var[i]);
		if (cmd_key_of("mount", key))
			section = "mount";
		else if (cmd_key_of("encrypt", key))
			section = "encrypt";
		else if (cmd_key_of("link", key))
			section = "link";
		else if (!strncmp(key, "http_", 5) && cmd_key_of("http", key + 5))
			section = "http";
		if (section)
			rc = cmd_conf_set(c, section, NULL, strcmp(section, "http") ? key : key + 5, eq + 1, false, &o,
			                  err);
		else if (!strcmp(key, "targets"))
			rc = add_targets(c, eq + 1, &o, err);
		else {
			fprintf(stderr, "fazt: there is no setting %s in the environment; ignored\n", var);
			c->n_warnings++;
		}
		if (rc < 0)
			return rc;
	}
	return 0;
}

int cmd_conf_flag(struct cmd_conf *c, const char *flag, const char *section, const char *key, const char *value,
                  struct fz_err *err)
{
	struct cmd_origin o = {.level = CMD_LEVEL_FLAG, .where = flag};
	struct cmd_flag *f = realloc(c->flags, (c->n_flags + 1) * sizeof(*f));

	if (!f)
		return fz_fail_errno(err, ENOMEM, "reading the flags");
	c->flags = f;
	f += c->n_flags++;
	*f = (struct cmd_flag){strdup(flag), strdup(section), strdup(key), strdup(value)};
	if (!f->flag || !f->section || !f->key || !f->value)
		return fz_fail_errno(err, ENOMEM, "reading the flags");
	return cmd_conf_set(c, section, NULL, key, value, false, &o, err);
}

int cmd_conf_load(struct cmd_conf *c, const char *path, struct fz_err *err)
{
	int rc;

	if (!path)
		path = getenv("FAZT_CONFIG");
	path = path && *path ? path : NULL;
	if (path) /* a missing one is told of below */
		c->file = realpath(path, NULL);
	rc = cmd_conf_read(c, path, err);
	return rc < 0 ? rc : cmd_conf_env(c, environ, err);
}

bool cmd_conf_replica(const struct cmd_conf *c)
{
	return c->role && !strcasecmp(c->role, "replica");
}

bool cmd_conf_failover(const struct cmd_conf *c)
{
	return c->failover && !strcasecmp(c->failover, "auto");
}

bool cmd_target_encrypted(const struct cmd_conf *c, const struct cmd_target *t)
{
	const char *how = t->encrypt ? t->encrypt : c->encrypt;

	return !how || strcasecmp(how, "none") != 0;
}

const struct cmd_list *cmd_target_recipients(const struct cmd_conf *c, const struct cmd_target *t)
{
	return t->recipients.n ? &t->recipients : &c->recipients;
}
