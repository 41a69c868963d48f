#include "cmd/quote.h"

#include "base/utf8.h"

#include <cJSON.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Bytes at p that a terminal must not get: control characters, of one byte and in UTF-8 (U+0080 to U+009F, which terminals take for ESC and a
 * letter), and a byte that is no character. *n: how many bytes stand there, in either case. */
static bool odd(const char *p, size_t *n)
{
	const unsigned char *u = (const unsigned char *)p;

	*n = fz_utf8_char(p);
	if (*n)
		return *u < 0x20 || *u == 0x7f || (*u == 0xc2 && u[1] < 0xa0);
	*n = 1;
	return true;
}

/* Each as \033. */
static int put_octal(struct fz_buf *b, const char *p, size_t n)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < n; i++)
		rc = fz_buf_addf(b, "\\%03o", (unsigned char)p[i]);
	return rc;
}

static void put_text(struct fz_buf *b, const char *text, const char *as_they_are)
{
	int rc = 0;

	for (size_t n; rc == 0 && *text; text += n)
		rc = odd(text, &n) && !strchr(as_they_are, *text) ? put_octal(b, text, n) : fz_buf_add(b, text, n);
}

void cmd_quote_text(struct fz_buf *b, const char *text)
{
	put_text(b, text, "");
}

void cmd_quote_json(struct fz_buf *b, const char *json)
{
	int rc = 0;

	for (size_t n; rc == 0 && *json; json += n) {
		if (!odd(json, &n) || strchr("\n\t", *json)) /* those stand between values */
			rc = fz_buf_add(b, json, n);
		else
			rc = fz_buf_addf(b, fz_utf8_char(json) ? "\\u%04x" : "\\\\x%02x", (unsigned char)json[n - 1]);
	}
}

char *cmd_quote_told(const char *told)
{
	char *name = strdup(told), *to = name;

	for (const char *s = told; name && *s; to++)
		if (!strncmp(s, "\\x", 2) && strspn(s + 2, "0123456789abcdef") >= 2) {
			*to = (char)strtoul((char[]){s[2], s[3], 0}, NULL, 16);
			s += 4;
		} else {
			*to = *s++;
		}
	if (name)
		*to = 0;
	return name;
}

void cmd_quote_all(cJSON *o)
{
	struct fz_buf b = {0};

	if (cJSON_IsString(o)) {
		cmd_quote_text(&b, o->valuestring);
		(void)!cJSON_SetValuestring(o, fz_buf_str(&b));
		fz_buf_fini(&b);
	}
	for (cJSON *c = o ? o->child : NULL; c; c = c->next)
		cmd_quote_all(c);
}

void cmd_quote_word(struct fz_buf *b, const char *word)
{
	bool plain =
	        word[strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:,@=%")] == 0;
	bool controls = false;
	size_t n;
	int rc = 0;

	for (const char *p = word; *p; p += n)
		controls |= odd(p, &n);
	if (!plain)
		rc = fz_buf_addf(b, controls ? "$'" : "'");
	for (; rc == 0 && *word; word += n)
		if (odd(word, &n))
			rc = put_octal(b, word, n);
		else if (controls && (*word == '\'' || *word == '\\'))
			rc = fz_buf_addf(b, "\\%c", *word);
		else if (*word == '\'')
			rc = fz_buf_addf(b, "'\\''");
		else
			rc = fz_buf_add(b, word, n);
	if (rc == 0 && !plain)
		rc = fz_buf_addf(b, "'");
	(void)rc;
}

void cmd_quote_print(FILE *to, const char *word)
{
	struct fz_buf b = {0};

	cmd_quote_word(&b, word);
	fputs(fz_buf_str(&b), to);
	fz_buf_fini(&b);
}

void cmd_print(const char *format, ...)
{
	struct fz_buf b = {0};
	char *text = NULL;
	va_list args;
	int n;

	va_start(args, format);
	n = vasprintf(&text, format, args);
	va_end(args);
	if (n < 0)
		return;
	put_text(&b, text, "\n\t");
	fputs(fz_buf_str(&b), stdout);
	fz_buf_fini(&b);
	free(text);
}

void cmd_quote_show(FILE *to, const char *before, const char *text, const char *after)
{
	struct fz_buf b = {0};

	cmd_quote_text(&b, text);
	fprintf(to, "%s%s%s", before, fz_buf_str(&b), after);
	fz_buf_fini(&b);
}
