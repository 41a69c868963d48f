#include "base/logline.h"

#include "base/clock.h"
#include "base/utf8.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define VALUE_MAX 200 /* of a name, in bytes, so that msg has room */

static const char *const names[] = {"error", "warning", "info", "debug"};

struct put {
	char *out;
	size_t n, cap;
};

static bool room(const struct put *p, size_t n)
{
	return p->cap - p->n >= n;
}

static void raw(struct put *p, const char *s, size_t n)
{
	if (room(p, n)) {
		memcpy(p->out + p->n, s, n);
		p->n += n;
	}
}

static void text(struct put *p, const char *s)
{
	raw(p, s, strlen(s));
}

/* Appends s, at most max bytes of it, and leaves keep bytes free. quote: " and \ get a backslash. */
static void clean(struct put *p, const char *s, size_t max, size_t keep, bool quote)
{
	const unsigned char *at = (const unsigned char *)s, *end = at + strnlen(s, max);

	while (at < end) {
		size_t n = fz_utf8_char((const char *)at);
		char one[4] = {(char)*at};

		if (!room(p, keep + 4 + 3)) { /* one more character, and the dots */
			text(p, "...");
			return;
		}
		if (n == 0) {
			text(p, "\xef\xbf\xbd");
			at++;
		} else if (n > 1) {
			raw(p, (const char *)at, n);
			at += n;
		} else {
			if (quote && (*at == '"' || *at == '\\'))
				text(p, "\\");
			if (*at < ' ' || *at == 0x7f)
				one[0] = ' ';
			raw(p, one, 1);
			at++;
		}
	}
}

static bool bare(const char *s)
{
	return s[strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:@+-")] == 0;
}

static void logfmt_value(struct put *p, const char *name, const char *v)
{
	bool plain;

	if (!v || !*v)
		return;
	plain = bare(v);
	text(p, name);
	text(p, plain ? "=" : "=\"");
	clean(p, v, VALUE_MAX, 0, true);
	text(p, plain ? " " : "\" ");
}

static void json_value(struct put *p, const char *name, const char *v)
{
	if (!v || !*v)
		return;
	text(p, "\"");
	text(p, name);
	text(p, "\":\"");
	clean(p, v, VALUE_MAX, 0, true);
	text(p, "\",");
}

static const char *code_text(char out[static 16], int code)
{
	out[0] = 0;
	if (code)
		snprintf(out, 16, "FZ-%04d", code < 0 ? -code : code);
	return out;
}

static void people(struct put *p, const struct fz_logline *l)
{
	char when[FZ_TIME_SIZE], head[128];

	if (l->time_ms) {
		text(p, fz_format_time(when, l->time_ms));
		text(p, " ");
	}
	snprintf(head, sizeof(head), "%.40s[%d] %s: ", l->who, l->pid, names[l->level]);
	text(p, head);
	clean(p, l->msg, p->cap, 80, false);
	if (l->code <= -1000) { /* the others are in the sentence: "no space left on device" */
		snprintf(head, sizeof(head), " (FZ-%04d)", -l->code);
		text(p, head);
	}
	if (l->suppressed) {
		snprintf(head, sizeof(head), " (%llu lines like this were suppressed)",
		         (unsigned long long)l->suppressed);
		text(p, head);
	}
	text(p, "\n");
}

size_t fz_logline_format(char *out, size_t cap, enum fz_log_format format, const struct fz_logline *l)
{
	struct put p = {out, 0, cap};
	void (*value)(struct put *, const char *, const char *) = format == FZ_LOG_JSON ? json_value : logfmt_value;
	char when[FZ_TIME_SIZE], code[16], number[64];
	bool json = format == FZ_LOG_JSON;

	if (format == FZ_LOG_TEXT) {
		people(&p, l);
		return p.n;
	}
	if (json)
		text(&p, "{");
	value(&p, "time", l->time_ms ? fz_format_time(when, l->time_ms) : "");
	value(&p, "level", names[l->level]);
	value(&p, "part", l->who);
	snprintf(number, sizeof(number), json ? "\"pid\":%d," : "pid=%d ", l->pid);
	text(&p, number);
	value(&p, "code", code_text(code, l->code));
	value(&p, "db", l->db);
	value(&p, "target", l->target);
	if (l->suppressed) {
		snprintf(number, sizeof(number), json ? "\"suppressed\":%llu," : "suppressed=%llu ",
		         (unsigned long long)l->suppressed);
		text(&p, number);
	}
	text(&p, json ? "\"msg\":\"" : "msg=\"");
	clean(&p, l->msg, cap, 3, true);
	text(&p, json ? "\"}\n" : "\"\n");
	return p.n;
}

static void field(struct put *p, const char *name, const char *v)
{
	if (!v || !*v)
		return;
	text(p, name);
	clean(p, v, VALUE_MAX, 0, false);
	text(p, "\n");
}

size_t fz_logline_journal(char *out, size_t cap, const struct fz_logline *l)
{
	struct put p = {out, 0, cap};
	char code[16], number[32];

	snprintf(number, sizeof(number), "PRIORITY=%d\n", fz_logline_priority(l->level));
	text(&p, number);
	text(&p, "SYSLOG_IDENTIFIER=fazt\n");
	field(&p, "FZ_PART=", l->who);
	field(&p, "FZ_CODE=", code_text(code, l->code));
	field(&p, "FZ_DATABASE=", l->db);
	field(&p, "FZ_TARGET=", l->target);
	if (l->suppressed) {
		snprintf(number, sizeof(number), "%llu", (unsigned long long)l->suppressed);
		field(&p, "FZ_SUPPRESSED=", number);
	}
	text(&p, "MESSAGE=");
	clean(&p, l->who, 40, 0, false);
	text(&p, ": ");
	clean(&p, l->msg, cap, 80, false);
	if (*code) {
		text(&p, " (");
		text(&p, code);
		text(&p, ")");
	}
	if (l->suppressed) {
		text(&p, " (suppressed: ");
		text(&p, number);
		text(&p, ")");
	}
	text(&p, "\n");
	return p.n;
}

int fz_logline_priority(enum fz_log_level level)
{
	static const int of[] = {3, 4, 6, 7};

	return of[level];
}
