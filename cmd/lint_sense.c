/* lint_sense.c - what a configuration file may say and hardly means. */
#include "cmd/lint.h"

#include <cJSON.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

struct sense {
	const struct cmd_conf *c;
	const char *file, *text;
	cJSON *warnings;
};

/* A finding at the line of section/key. */
static void warn(const struct sense *s, const char *section, const char *key, const char *fmt, ...) FZ_PRINTF(4, 5);
static void warn(const struct sense *s, const char *section, const char *key, const char *fmt, ...)
{
	char what[600], text[1200];
	int line = cmd_lint_line(s->text, section, key);
	cJSON *o = cJSON_CreateObject();
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	if (line)
		snprintf(text, sizeof(text), "%s:%d: %s: %s", s->file, line, key, what);
	else
		snprintf(text, sizeof(text), "%s: %s: %s", s->file, key, what);
	cJSON_AddNumberToObject(o, "line", line);
	cJSON_AddStringToObject(o, "text", text);
	cJSON_AddItemToArray(s->warnings, o);
}

/* Whoever else can read a secret file. */
static void mode(const struct sense *s, const char *section, const char *key, const char *path)
{
	struct stat st;

	if (path && stat(path, &st) == 0 && (st.st_mode & 077))
		warn(s, section, key, "others than its owner can read %s (mode %04o): chmod 600 %s", path,
		     (unsigned)st.st_mode & 07777, path);
}

static bool is_dir_url(const char *url)
{
	return url && !strncmp(url, "dir:", 4);
}

static bool within(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	while (n > 1 && dir[n - 1] == '/')
		n--;
	return !strncmp(path, dir, n) && (path[n] == '/' || !path[n]);
}

static bool same_word(const char *a, const char *b)
{
	return a && !strcasecmp(a, b);
}

static void link_sense(const struct sense *s)
{
	const struct cmd_conf *c = s->c;
	bool waits = c->ack && strcasecmp(c->ack, "local") != 0;

	if (!waits && c->ack_timeout_ms)
		warn(s, "link", "ack_timeout", "has no effect without ack = replica");
	if (!waits && c->ack_policy)
		warn(s, "link", "ack_policy", "has no effect without ack = replica");
	if (waits && same_word(c->ack_policy, "wait"))
		warn(s, "link", "ack_policy", "commits stop for as long as too few replicas are connected");
	if (!cmd_conf_failover(c) && c->lease_ms)
		warn(s, "link", "lease", "has no effect without failover = auto");
	if (!cmd_conf_failover(c) && c->witness)
		warn(s, "link", "witness", "has no effect without failover = auto");
	if (!c->listen && c->advertise)
		warn(s, "link", "advertise", "has no effect without listen");
	if (c->follow_interval_ms && !c->follow)
		warn(s, "link", "follow_interval", "has no effect without follow");
	if (c->listen && (c->listen[0] == ':' || !strncmp(c->listen, "*:", 2) || !strncmp(c->listen, "0.0.0.0:", 8)))
		warn(s, "link", "listen",
		     "on every address of this machine; links are authenticated, but one address is enough");
	mode(s, "link", "host_key", c->host_key);
}

/* Each kind of commit is kept at least as long as the one before it. */
static void keep_sense(const struct sense *s, const struct cmd_target *t, const char *section)
{
	const struct {
		const char *key;
		int64_t ms;
	} keep[] = {
	        {"keep_commits", t->keep_commits_ms},
	        {"keep_minutes", t->keep_minutes_ms},
	        {"keep_hours",   t->keep_hours_ms  },
	        {"keep_days",    t->keep_days_ms   },
	};
	const char *last = NULL;
	int64_t longest = 0;

	for (size_t i = 0; i < sizeof(keep) / sizeof(keep[0]); i++) {
		if (!keep[i].ms)
			continue;
		if (last && keep[i].ms != -1 && (longest == -1 || keep[i].ms < longest))
			warn(s, section, keep[i].key, "is shorter than %s, so it keeps nothing that is not kept anyway",
			     last);
		last = keep[i].key;
		longest = keep[i].ms;
	}
	if (t->append_only && (last || t->keep_bytes))
		warn(s, section, last ? last : "keep_bytes",
		     "has no effect with append_only = yes: nothing is ever deleted");
}

static void target_sense(const struct sense *s, const struct cmd_target *t)
{
	const struct cmd_conf *c = s->c;
	char section[300];

	snprintf(section, sizeof(section), "target %s", t->name ? t->name : "");
	keep_sense(s, t, section);
	if (same_word(t->encrypt, "none") && t->recipients.n)
		warn(s, section, "recipients", "have no effect with encrypt = none");
	if (!cmd_target_encrypted(c, t) && !is_dir_url(t->url))
		warn(s, section, "url", "whoever reads this store reads the databases: encrypt = none");
	if ((t->minute_ms && t->hour_ms && t->minute_ms >= t->hour_ms) ||
	    (t->hour_ms && t->day_ms && t->hour_ms >= t->day_ms))
		warn(s, section, t->hour_ms && t->day_ms && t->hour_ms >= t->day_ms ? "hour" : "minute",
		     "is not shorter than the next level");
	if (t->ship_interval_ms && t->ship_interval_ms >= (t->lag_max_ms ? t->lag_max_ms : 60000))
		warn(s, section, "ship_interval",
		     "is not shorter than lag_max (%lld s): the status would always complain",
		     (long long)(t->lag_max_ms ? t->lag_max_ms : 60000) / 1000);
	if (t->url && strstr(t->url, "endpoint=http://") && !strstr(t->url, "http://127.") &&
	    !strstr(t->url, "http://localhost") && !strstr(t->url, "http://[::1]"))
		warn(s, section, "url", "the endpoint is reached without TLS");
	if (t->endpoint && !strncmp(t->endpoint, "http://", 7) && strncmp(t->endpoint, "http://127.", 11) != 0 &&
	    strncmp(t->endpoint, "http://localhost", 16) != 0)
		warn(s, section, "endpoint", "is reached without TLS");
	if (is_dir_url(t->url) && (t->region || t->endpoint || t->access_key || t->profile || t->credentials_file))
		warn(s, section, "url", "a directory needs no region, endpoint or credentials");
	if (is_dir_url(t->url) && c->state && (within(t->url + 4, c->state) || within(c->state, t->url + 4)))
		warn(s, section, "url", "target and state directory are one inside the other");
	mode(s, section, "credentials_file", t->credentials_file);
	for (const struct cmd_target *o = c->targets; o < c->targets + c->n_targets; o++)
		if (o != t && is_dir_url(o->url) && is_dir_url(t->url) && strcmp(o->url, t->url) != 0 &&
		    within(t->url + 4, o->url + 4))
			warn(s, section, "url", "lies inside another target's (%s)", o->url);
}

void cmd_lint_sense(const struct cmd_conf *c, const char *file, const char *text, cJSON *warnings)
{
	struct sense s = {.c = c, .file = file, .text = text, .warnings = warnings};

	if (c->take_over)
		warn(&s, "mount", "take_over", "claims what another writer claimed at every mount: take it out again");
	if (c->no_passthrough)
		warn(&s, "mount", "no_passthrough", "makes writes several times slower; it is for tests");
	if (c->no_resend)
		warn(&s, "mount", "no_resend", "is for tests");
	if (c->log_max && c->log_max < UINT64_C(16) << 20)
		warn(&s, "mount", "log_max", "under 16 MiB detail is given up soon when a target is away");
	for (size_t i = 0; i < c->databases.n; i++)
		for (size_t k = 0; k < c->exclude.n; k++)
			if (!strcmp(c->databases.v[i], c->exclude.v[k]))
				warn(&s, "mount", "databases", "%s is in exclude as well, which wins",
				     c->databases.v[i]);
	if (c->identity && c->n_targets)
		warn(&s, "encrypt", "identity",
		     "the secret key of the backups lies on the machine that makes them; recipients are enough here");
	if (same_word(c->encrypt, "none") && c->recipients.n)
		warn(&s, "encrypt", "recipients", "have no effect with encrypt = none");
	mode(&s, "encrypt", "identity", c->identity);
	mode(&s, "mount", "alert_secret", c->alert_secret);
	mode(&s, "mount", "alert_headers", c->alert_headers);
	link_sense(&s);
	for (size_t i = 0; i < c->n_targets; i++)
		target_sense(&s, &c->targets[i]);
}
