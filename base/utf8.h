/* utf8.h - characters in what may hold any byte, as the name of a file does. JSON, metrics and log lines hold characters only. */
#ifndef FZ_BASE_UTF8_H
#define FZ_BASE_UTF8_H

#include "base/buf.h"

/* Bytes of the character at s (the NUL at the end is one of 1 byte); 0: there is none, s[0] is a byte of its own. */
size_t fz_utf8_char(const char *s);
/* Appends s; a byte that is no character as \xNN, so that two names stay two. -ENOMEM. */
int fz_utf8_add(struct fz_buf *b, const char *s) FZ_MUST_CHECK;
/* The same into an array of cap bytes: as many whole characters as have room, and a NUL. */
void fz_utf8_copy(char *out, size_t cap, const char *s);

#endif
