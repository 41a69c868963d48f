/* logline.h - one event as one line, in each of the forms that base/log.h names. Pure. */
#ifndef FZ_BASE_LOGLINE_H
#define FZ_BASE_LOGLINE_H

#include "base/log.h"

#include <stddef.h>

#define FZ_LOGLINE_SIZE 2048

struct fz_logline {
	enum fz_log_level level;
	int64_t time_ms; /* 0 = none is written */
	const char *who;
	int pid;
	int code;                /* negative, or 0 = none */
	const char *db, *target; /* NULL or "" = none */
	const char *msg;
	uint64_t suppressed;
};

/* Writes the line with its line end to out (cap bytes, 512 at least), without a NUL; returns its length. What is too long is cut in
 * msg. Control characters become blanks, what is no UTF-8 becomes U+FFFD. */
size_t fz_logline_format(char *out, size_t cap, enum fz_log_format format, const struct fz_logline *l);
/* The same for journald's native protocol: one NAME=value a line. */
size_t fz_logline_journal(char *out, size_t cap, const struct fz_logline *l);
/* syslog's number for a level. */
int fz_logline_priority(enum fz_log_level level);

#endif
