#include "cmd/quote.h"

#include <stdbool.h>
#include <string.h>

/* Those of one byte, and in UTF-8 U+0080 to U+009F, which terminals take for ESC and a letter. */
static bool control(const char *p)
{
	const unsigned char *u = (const unsigned char *)p;

	return *u < 0x20 || *u == 0x7f || (*u == 0xc2 && u[1] >= 0x80 && u[1] < 0xa0);
}

/* At a control character: appends its one or two bytes, and returns the last of them. */
static const char *put_control(struct fz_buf *b, const char *p)
{
	int rc = fz_buf_addf(b, "\\%03o", (unsigned char)*p);

	if ((unsigned char)*p == 0xc2 && rc == 0)
		rc = fz_buf_addf(b, "\\%03o", (unsigned char)p[1]);
	(void)rc;
	return (unsigned char)*p == 0xc2 ? p + 1 : p;
}

void cmd_quote_text(struct fz_buf *b, const char *text)
{
	for (; *text; text++)
		if (control(text))
			text = put_control(b, text);
		else if (fz_buf_add(b, text, 1) < 0)
			return;
}

void cmd_quote_word(struct fz_buf *b, const char *word)
{
	bool plain =
	        word[strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:,@=%")] == 0;
	bool controls = false;
	int rc = 0;

	for (const char *p = word; *p; p++)
		controls |= control(p);
	if (!plain)
		rc = fz_buf_addf(b, controls ? "$'" : "'");
	for (; rc == 0 && *word; word++)
		if (control(word))
			word = put_control(b, word);
		else if (controls && (*word == '\'' || *word == '\\'))
			rc = fz_buf_addf(b, "\\%c", *word);
		else if (*word == '\'')
			rc = fz_buf_addf(b, "'\\''");
		else
			rc = fz_buf_add(b, word, 1);
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
