#include "base/utf8.h"

#include <stdio.h>
#include <string.h>

size_t fz_utf8_char(const char *text)
{
	const unsigned char *s = (const unsigned char *)text;
	size_t n = *s < 0x80                 ? 1
	           : *s >= 0xc2 && *s < 0xe0 ? 2
	           : *s >= 0xe0 && *s < 0xf0 ? 3
	           : *s >= 0xf0 && *s < 0xf5 ? 4
	                                     : 0;

	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((*s == 0xe0 && s[1] < 0xa0) || (*s == 0xed && s[1] >= 0xa0) || (*s == 0xf0 && s[1] < 0x90) ||
	    (*s == 0xf4 && s[1] >= 0x90))
		return 0; /* too long a form, a surrogate, beyond Unicode */
	return n;
}

/* What stands for the bytes at *s, which moves on. */
static size_t next(const char **s, char out[static 5])
{
	size_t n = fz_utf8_char(*s);

	if (!n) {
		snprintf(out, 5, "\\x%02x", (unsigned)(unsigned char)*(*s)++);
		return 4;
	}
	memcpy(out, *s, n);
	*s += n;
	return n;
}

int fz_utf8_add(struct fz_buf *b, const char *s)
{
	char one[5];
	int rc = 0;

	while (rc == 0 && *s) {
		size_t n = next(&s, one);

		rc = fz_buf_add(b, one, n);
	}
	return rc;
}

void fz_utf8_copy(char *out, size_t cap, const char *s)
{
	char one[5];
	size_t at = 0;

	while (*s) {
		size_t n = next(&s, one);

		if (n >= cap - at)
			break;
		memcpy(out + at, one, n);
		at += n;
	}
	out[at] = 0;
}
