/* tmp.h - where a test may make files: TMPDIR, else /tmp. */
#ifndef FZ_TESTS_TMP_H
#define FZ_TESTS_TMP_H

#include <stdio.h>
#include <stdlib.h>

static inline const char *tmp_top(void)
{
	const char *t = getenv("TMPDIR");

	return t && *t ? t : "/tmp";
}

/* Makes a directory whose name starts with name. Returns out, or NULL. */
static inline char *tmp_make(char *out, size_t cap, const char *name)
{
	int n = snprintf(out, cap, "%s/%s-XXXXXX", tmp_top(), name);

	return n > 0 && (size_t)n < cap ? mkdtemp(out) : NULL;
}

#endif
