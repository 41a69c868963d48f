#include "cmd/config.h"

#include "base/clock.h"
#include "base/file.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CONF_MAX (1u << 20)
/* inih as Debian builds it reads lines of at most 199 bytes; longer values go on in the next line, indented. */
#define LINE_PART 120

enum type {
	T_TEXT,
	T_LINES,
	T_WORDS,
	T_DURATION,
	T_KEEP,
	T_SIZE,
	T_SCRUB,
	T_COUNT,
	T_BOOL,
	T_PATH,
	T_LEVEL,
	T_ENCRYPT
};

struct key {
	const char *section, *name;
	enum type type;
	size_t at;
};
#define C(section, name, type)                                                                                         \
	{                                                                                                              \
		section, #name, type, offsetof(struct cmd_conf, name)                                                  \
	}
#define T(name, type, field)                                                                                           \
	{                                                                                                              \
		"target", name, type, offsetof(struct cmd_target, field)                                               \
	}
static const struct key keys[] = {
        C("mount", state, T_PATH),
        C("mount", databases, T_LINES),
        C("mount", exclude, T_LINES),
        C("mount", log_max, T_SIZE),
        C("mount", scrub_rate, T_SCRUB),
        C("mount", no_passthrough, T_BOOL),
        C("mount", no_resend, T_BOOL),
        C("mount", private_mount, T_BOOL),
        C("mount", take_over, T_BOOL),
        C("mount", log_level, T_LEVEL),
        C("mount", log_file, T_PATH),
        {"mount", "stop_grace", T_DURATION, offsetof(struct cmd_conf, stop_grace_ms)},
        C("encrypt", encrypt, T_ENCRYPT),
        C("encrypt", recipients, T_WORDS),
        C("encrypt", identity, T_PATH),
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
#define N_KEYS (sizeof(keys) / sizeof(keys[0]))

void cmd_conf_each_key(void (*fn)(const char *section, const char *key, bool env))
{
	for (size_t i = 0; i < N_KEYS; i++)
		fn(keys[i].section, keys[i].name, strcmp(keys[i].section, "target") != 0);
}

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
	for (size_t i = 0; i < N_KEYS; i++) {
		void *field = (char *)base + keys[i].at;

		if (!strcmp(keys[i].section, "target") != target)
			continue;
		switch (keys[i].type) {
		case T_TEXT:
		case T_PATH:
		case T_LEVEL:
		case T_ENCRYPT:
			if (*(char **)field && strstr(keys[i].name, "secret"))
				explicit_bzero(*(char **)field, strlen(*(char **)field));
			free(*(char **)field);
			break;
		case T_LINES:
		case T_WORDS:
			cmd_list_clear((struct cmd_list *)field);
			break;
		default:
			break;
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

#define BAD(code, ...) bad(err, o, code, __VA_ARGS__)
static int FZ_PRINTF(4, 5) bad(struct fz_err *err, const struct cmd_origin *o, int code, const char *fmt, ...)
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
static int set_value(void *base, const struct key *k, const char *v, bool more, const struct cmd_origin *o,
                     struct fz_err *err)
{
	static const char *const levels[] = {"error", "warning", "info", "debug", NULL};
	static const char *const encrypt[] = {"age", "none", NULL};
	void *field = (char *)base + k->at;
	struct fz_err why = {0};
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
	case T_ENCRYPT:
		if (!one_of(v, encrypt))
			return BAD(FZ_ECONFIG, "%s: '%s' is neither age nor none", k->name, v);
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

static const struct key *find_key(const char *section, const char *name)
{
	for (size_t i = 0; i < N_KEYS; i++)
		if (!strcmp(keys[i].section, section) && !strcmp(keys[i].name, name))
			return &keys[i];
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

static int set_key(struct cmd_conf *c, const char *section, const char *target, const char *name, const char *value,
                   bool more, const struct cmd_origin *o, struct fz_err *err)
{
	const struct key *k = find_key(section, name);
	struct cmd_target *t = NULL;
	int rc = 0;

	if (!k)
		return BAD(FZ_ECONFIG, "unknown key '%s' in [%s%s%s]", name, section, target ? " " : "",
		           target ? target : "");
	if (!strcmp(section, "target"))
		rc = get_target(c, target, o, &t, err);
	if (rc < 0)
		return rc;
	if (k == find_key("encrypt", "identity")) {
		free(c->identity_where);
		c->identity_where = strdup(o->where);
		c->identity_line = o->line;
	}
	return set_value(t ? (void *)t : (void *)c, k, value, more, o, err);
}

/* ---- files ------------------------------------------------------------------------------------------------------ */

struct reading {
	struct cmd_conf *c;
	const char *p, *end;
	struct cmd_origin o;
	bool indented;     /* the line at hand begins with a blank: it goes on from the one before */
	bool seen[N_KEYS]; /* of the section at hand */
	char section[256];
	struct fz_err *err;
	int rc;
};

static char *next_line(char *buf, int cap, void *arg)
{
	struct reading *r = arg;
	const char *nl = memchr(r->p, '\n', (size_t)(r->end - r->p));
	size_t n = (size_t)((nl ? nl + 1 : r->end) - r->p);

	if (n == 0 || r->rc < 0)
		return NULL;
	r->o.line++;
	if (n >= (size_t)cap || memchr(r->p, 0, n)) {
		r->rc = bad(r->err, &r->o, FZ_ECONFIG,
		            n >= (size_t)cap ? "the line is longer than %d bytes; go on in the next one, indented"
		                             : "the file holds a NUL byte (limit of a line: %d bytes)",
		            cap - 2);
		return NULL;
	}
	r->indented = *r->p == ' ' || *r->p == '\t';
	memcpy(buf, r->p, n);
	buf[n] = 0;
	r->p += n;
	return buf;
}

static int on_pair(void *arg, const char *section, const char *name, const char *value)
{
	struct reading *r = arg;
	char kind[256];
	const char *target = NULL;
	const struct key *k;
	struct fz_err *err = r->err;
	const struct cmd_origin *o = &r->o;
	char *space;

	if (r->rc < 0)
		return 0;
	if (strcmp(r->section, section)) {
		snprintf(r->section, sizeof(r->section), "%s", section);
		memset(r->seen, 0, sizeof(r->seen));
	}
	snprintf(kind, sizeof(kind), "%s", section);
	space = strchr(kind, ' ');
	if (space && !strncmp(kind, "target ", 7)) {
		*space = 0;
		target = space + 1;
		target += strspn(target, " ");
	}
	if (!strcmp(kind, "target") && (!target || !*target)) {
		r->rc = BAD(FZ_ECONFIG, "a target needs a name: [target NAME]");
		return 0;
	}
	k = find_key(kind, name);
	if (!k && strcmp(kind, "mount") && strcmp(kind, "encrypt") && strcmp(kind, "target"))
		r->rc = *section ? BAD(FZ_ECONFIG, "unknown section [%s]; there are [mount], [encrypt], [target NAME]",
		                       section)
		                 : BAD(FZ_ECONFIG, "'%s' stands before the first section", name);
	else if (k && r->seen[k - keys] && !r->indented && k->type != T_LINES && k->type != T_WORDS)
		r->rc = BAD(FZ_ECONFIG, "%s is given twice", name);
	else
		r->rc = set_key(r->c, kind, target, name, value, k && r->seen[k - keys] && r->indented, o, err);
	if (k)
		r->seen[k - keys] = true;
	return r->rc == 0;
}

int cmd_conf_parse(struct cmd_conf *c, const char *text, size_t size, const char *where, struct fz_err *err)
{
	struct reading r = {
	        .c = c, .p = text, .end = text + size, .o = {.level = CMD_LEVEL_FILE, .where = where},
                             .err = err
        };
	int line = ini_parse_stream(next_line, &r, on_pair, &r);

	if (r.rc < 0)
		return r.rc;
	if (line > 0)
		return fz_fail(err, FZ_ECONFIG, "%s:%d: neither [section] nor key = value", where, line);
	if (line < 0)
		return fz_fail_errno(err, ENOMEM, "reading %s", where);
	for (size_t i = 0; i < c->n_targets; i++)
		if (!c->targets[i].url)
			return fz_fail(err, FZ_ECONFIG, "%s:%d: target %s has no url", c->targets[i].where,
			               c->targets[i].line, c->targets[i].name ? c->targets[i].name : "");
	return 0;
}

int cmd_conf_read(struct cmd_conf *c, const char *path, struct fz_err *err)
{
	const char *file = path ? path : CMD_CONF_DEFAULT;
	struct fz_buf text = {0};
	struct stat st;
	int rc = fz_read_file(AT_FDCWD, file, CONF_MAX, &text, err);

	if (rc == -ENOENT && !path)
		rc = 0;
	else if (rc < 0)
		rc = fz_fail(err, FZ_ECONFIG, "cannot read the configuration %s: %s", file, strerror(-rc));
	else
		rc = cmd_conf_parse(c, fz_buf_str(&text), text.size, file, err);
	for (size_t i = 0; rc == 0 && i < c->n_targets; i++)
		if (c->targets[i].secret_key && stat(file, &st) == 0 && (st.st_mode & 077))
			rc = fz_fail(err, FZ_ECONFIG, "%s holds a secret_key but others can read it: chmod 600 %s",
			             file, file);
	if (text.data)
		explicit_bzero(text.data, text.size);
	fz_buf_fini(&text);
	return rc;
}

/* ---- environment and flags -------------------------------------------------------------------------------------- */

static int add_targets(struct cmd_conf *c, const char *urls, const struct cmd_origin *o, struct fz_err *err)
{
	char *copy = strdup(urls), *save = NULL;
	int rc = copy ? 0 : fz_fail_errno(err, ENOMEM, "reading the configuration");

	for (char *u = copy ? strtok_r(copy, " \t\n", &save) : NULL; rc == 0 && u; u = strtok_r(NULL, " \t\n", &save))
		rc = set_key(c, "target", NULL, "url", u, false, o, err);
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
		if (!strncmp(var, "FAZT_TEST_", 10) || !strcmp(var, "FAZT_CONFIG"))
			continue;
		for (size_t i = 5; i <= n; i++)
			key[i - 5] = (char)tolower((unsigned char)var[i]);
		if (find_key("mount", key))
			section = "mount";
		else if (find_key("encrypt", key))
			section = "encrypt";
		if (section)
			rc = set_key(c, section, NULL, key, eq + 1, false, &o, err);
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

	return set_key(c, section, NULL, key, value, false, &o, err);
}

int cmd_conf_load(struct cmd_conf *c, const char *path, struct fz_err *err)
{
	int rc;

	if (!path)
		path = getenv("FAZT_CONFIG");
	rc = cmd_conf_read(c, path && *path ? path : NULL, err);
	return rc < 0 ? rc : cmd_conf_env(c, environ, err);
}

/* ---- the form of the file --------------------------------------------------------------------------------------- */

static int put_line(struct fz_buf *out, const char *key, const char *v, struct fz_err *err)
{
	size_t left = strlen(v);
	int rc = 0;

	/* What inih would read as something else cannot be written: a comment, a line end, blanks at an end. */
	if (strpbrk(v, "\n\r") || strstr(v, " ;") || strstr(v, "\t;") || *v == ';' || *v == '#' ||
	    isspace((unsigned char)*v) || (left && isspace((unsigned char)v[left - 1])))
		return fz_fail(err, FZ_ECONFIG, "%s: '%s' cannot be written into a configuration file", key, v);
	for (bool first = true; rc == 0 && (first || left); first = false) {
		size_t n = left;

		if (n > LINE_PART) /* break where neither side begins or ends with anything but a letter or digit */
			for (n = LINE_PART;
			     n > 1 && !(isalnum((unsigned char)v[n - 1]) && isalnum((unsigned char)v[n]));)
				n--;
		if (n == 1 && left > LINE_PART)
			return fz_fail(err, FZ_ECONFIG, "%s: the value cannot be broken into lines", key);
		rc = first ? fz_buf_addf(out, "%s = %.*s\n", key, (int)n, v) : fz_buf_addf(out, "  %.*s\n", (int)n, v);
		v += n;
		left -= n;
	}
	return rc;
}

static int put_value(const void *base, const struct key *k, struct fz_buf *out, struct fz_err *err)
{
	const void *field = (const char *)base + k->at;
	const struct cmd_list *l = field;
	int rc = 0;

	switch (k->type) {
	case T_TEXT:
	case T_PATH:
	case T_LEVEL:
	case T_ENCRYPT:
		return *(char *const *)field ? put_line(out, k->name, *(char *const *)field, err) : 0;
	case T_LINES:
	case T_WORDS:
		for (size_t i = 0; rc == 0 && i < l->n; i++) {
			if (strlen(l->v[i]) > LINE_PART)
				return fz_fail(err, FZ_ECONFIG, "%s: '%s' is longer than %d bytes", k->name, l->v[i],
				               LINE_PART);
			rc = put_line(out, k->name, l->v[i], err);
		}
		return rc;
	case T_BOOL:
		return *(const bool *)field ? fz_buf_addf(out, "%s = yes\n", k->name) : 0;
	case T_KEEP:
		if (*(const int64_t *)field == -1)
			return fz_buf_addf(out, "%s = forever\n", k->name);
		/* fallthrough */
	case T_DURATION:
		return *(const int64_t *)field
		               ? fz_buf_addf(out, "%s = %lldms\n", k->name, (long long)*(const int64_t *)field)
		               : 0;
	case T_SCRUB:
		if (*(const uint64_t *)field == UINT64_MAX)
			return fz_buf_addf(out, "%s = off\n", k->name);
		/* fallthrough */
	case T_SIZE:
	case T_COUNT:
		return *(const uint64_t *)field
		               ? fz_buf_addf(out, "%s = %llu\n", k->name, (unsigned long long)*(const uint64_t *)field)
		               : 0;
	}
	return 0;
}

int cmd_conf_format(const struct cmd_conf *c, struct fz_buf *out, struct fz_err *err)
{
	const char *section = "";
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < N_KEYS && strcmp(keys[i].section, "target"); i++) {
		if (strcmp(section, keys[i].section))
			rc = fz_buf_addf(out, "[%s]\n", keys[i].section);
		section = keys[i].section;
		if (rc == 0)
			rc = put_value(c, &keys[i], out, err);
	}
	for (size_t t = 0; rc == 0 && t < c->n_targets; t++) {
		const char *name = c->targets[t].name;

		rc = name ? fz_buf_addf(out, "[target %s]\n", name) : fz_buf_addf(out, "[target url-%zu]\n", t + 1);
		for (size_t i = 0; rc == 0 && i < N_KEYS; i++)
			if (!strcmp(keys[i].section, "target"))
				rc = put_value(&c->targets[t], &keys[i], out, err);
	}
	return rc;
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
