#include "cmd/toppaper.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <wchar.h>
#include <wctype.h>

static void add(struct cmd_toppaper *p, const void *data, size_t n)
{
	if (p->max_lines && p->lines >= p->max_lines)
		return;
	if (p->rc == 0)
		p->rc = fz_buf_add(p->out, data, n);
}

static void style_of(struct cmd_toppaper *p, enum cmd_topstyle style)
{
	char c = (char)style;

	add(p, &c, 1);
}

/* Without a picture of its own it may turn the order of what follows, or hide: a name with it would look like another one. */
static bool invisible(wchar_t c)
{
	return c == 0xad || c == 0x61c || c == 0x180e || (c >= 0x200b && c <= 0x200f) || (c >= 0x2028 && c <= 0x202e) ||
	       (c >= 0x2060 && c <= 0x206f) || c == 0xfeff || (c >= 0xe0000 && c <= 0xe0fff);
}

/* The next character of text: its bytes, its columns, and "?" in its place when it must not be shown. */
static const char *next(const struct cmd_toppaper *p, const char **text, size_t *bytes, int *columns)
{
	const char *at = *text;
	mbstate_t state = {0};
	wchar_t c;
	size_t n;

	*bytes = *columns = 1;
	if (!p->utf8 || (unsigned char)*at < 0x80) {
		*text = at + 1;
		return (unsigned char)*at >= ' ' && (unsigned char)*at < 0x7f ? at : "?";
	}
	n = mbrtowc(&c, at, strlen(at), &state);
	if (n == (size_t)-1 || n == (size_t)-2 || n == 0) {
		*text = at + 1;
		return "?";
	}
	*text = at + n;
	if (!iswprint((wint_t)c) || invisible(c) || wcwidth(c) < 0)
		return "?";
	*bytes = n;
	*columns = wcwidth(c);
	return at;
}

int cmd_toppaper_width(const struct cmd_toppaper *p, const char *text)
{
	int sum = 0;

	while (*text) {
		size_t bytes;
		int columns;

		next(p, &text, &bytes, &columns);
		sum += columns;
	}
	return sum;
}

static void spaces(struct cmd_toppaper *p, int n)
{
	for (; n > 0; n--, p->used++)
		add(p, " ", 1);
}

void cmd_toppaper_cell(struct cmd_toppaper *p, enum cmd_topstyle style, int columns, const char *text)
{
	int wide = cmd_toppaper_width(p, text), room = p->width - p->used, left;
	bool right = columns < 0, cut;

	columns = columns == 0 ? wide : right ? -columns : columns;
	if (columns > room)
		columns = room;
	if (columns <= 0)
		return;
	cut = wide > columns;
	style_of(p, style);
	if (right)
		spaces(p, columns - wide);
	for (left = cut ? columns - 1 : wide; *text;) {
		size_t bytes;
		int one;
		const char *c = next(p, &text, &bytes, &one);

		if (one > left)
			break;
		add(p, c, bytes);
		left -= one;
		p->used += one;
	}
	if (cut) {
		add(p, p->utf8 ? "…" : "~", p->utf8 ? strlen("…") : 1);
		p->used++;
	}
	spaces(p, cut ? left : right ? 0 : columns - wide);
	if (p->used < p->width)
		spaces(p, 1);
}

void cmd_toppaper_cellf(struct cmd_toppaper *p, enum cmd_topstyle style, int columns, const char *fmt, ...)
{
	char text[2048];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	cmd_toppaper_cell(p, style, columns, text);
}

void cmd_toppaper_spark(struct cmd_toppaper *p, enum cmd_topstyle style, int columns, const struct cmd_topseries *s)
{
	static const char ascii[] = "_.:-=+*#", bars[8][4] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
	int n = (int)s->n < columns ? (int)s->n : columns;
	float most = 0;

	if (columns > p->width - p->used)
		columns = p->width - p->used;
	if (columns <= 0)
		return;
	n = n < columns ? n : columns;
	for (int i = 0; i < n; i++)
		most = fmaxf(most, s->at[s->n - 1 - (unsigned)i]);
	style_of(p, style);
	spaces(p, columns - n);
	for (int i = n - 1; i >= 0; i--, p->used++) {
		float v = s->at[s->n - 1 - (unsigned)i];
		int step = most > 0 && v > 0 ? (int)ceilf(v / most * 7) : 0;

		if (p->utf8)
			add(p, bars[step > 7 ? 7 : step], 3);
		else
			add(p, &ascii[step > 7 ? 7 : step], 1);
	}
	if (p->used < p->width)
		spaces(p, 1);
}

void cmd_toppaper_end(struct cmd_toppaper *p, bool fill)
{
	if (fill)
		spaces(p, p->width - p->used);
	style_of(p, CMD_TOP_PLAIN);
	add(p, "\n", 1);
	p->lines++;
	p->used = 0;
}

const char *cmd_top_bytes(char out[static CMD_TOP_NUMBER], double bytes)
{
	static const char units[] = " KMGTP";
	size_t i = 0;

	while (bytes >= 1024 && i + 2 < sizeof(units)) {
		bytes /= 1024;
		i++;
	}
	if (i == 0)
		snprintf(out, CMD_TOP_NUMBER, "%.0f", bytes);
	else
		snprintf(out, CMD_TOP_NUMBER, bytes < 99.95 ? "%.1f%c" : "%.0f%c", bytes, units[i]);
	return out;
}

const char *cmd_top_time(char out[static CMD_TOP_NUMBER], double ms)
{
	double s = ms / 1000;

	if (ms <= 0)
		snprintf(out, CMD_TOP_NUMBER, "0");
	else if (ms < 1000)
		snprintf(out, CMD_TOP_NUMBER, "%.0fms", ms);
	else if (s < 60)
		snprintf(out, CMD_TOP_NUMBER, s < 10 ? "%.1fs" : "%.0fs", s);
	else if (s < 3600)
		snprintf(out, CMD_TOP_NUMBER, "%.0fm%02.0fs", floor(s / 60), floor(fmod(s, 60)));
	else if (s < 86400)
		snprintf(out, CMD_TOP_NUMBER, "%.0fh%02.0fm", floor(s / 3600), floor(fmod(s, 3600) / 60));
	else
		snprintf(out, CMD_TOP_NUMBER, "%.0fd%02.0fh", floor(s / 86400), floor(fmod(s, 86400) / 3600));
	return out;
}

const char *cmd_top_count(char out[static CMD_TOP_NUMBER], double n)
{
	static const char units[] = " KMGT";
	size_t i = 0;

	if (n <= 0)
		snprintf(out, CMD_TOP_NUMBER, "0");
	else if (n < 9.95)
		snprintf(out, CMD_TOP_NUMBER, "%.1f", n);
	else if (n < 99999.5)
		snprintf(out, CMD_TOP_NUMBER, "%.0f", n);
	else {
		for (; n >= 999.5 && i + 2 < sizeof(units); i++)
			n /= 1000;
		snprintf(out, CMD_TOP_NUMBER, n < 99.95 ? "%.1f%c" : "%.0f%c", n, units[i]);
	}
	return out;
}
