/* log.h - log lines: one line, to stderr (systemd adds time and priority) or to a file, five verbs.
 * A line never holds a secret. Thread-safe: one write(2) a line. */
#ifndef FZ_BASE_LOG_H
#define FZ_BASE_LOG_H

#include "base/err.h"

enum fz_log_level { FZ_LOG_ERROR, FZ_LOG_WARN, FZ_LOG_INFO, FZ_LOG_DEBUG };

/* who: the process's part ("supervisor", "worker", "agent", "fazt"); borrowed for ever. */
void fz_log_init(const char *who, enum fz_log_level max);
void fz_log_set_fd(int fd); /* default 2 */
int fz_log_enabled(enum fz_log_level level);

void fz_error(const char *fmt, ...) FZ_PRINTF(1, 2);
void fz_warn(const char *fmt, ...) FZ_PRINTF(1, 2);
void fz_info(const char *fmt, ...) FZ_PRINTF(1, 2);
void fz_debug(const char *fmt, ...) FZ_PRINTF(1, 2);
/* Logs an error with its stable code: "what: sentence (FZ-1203)". */
void fz_log_err(const char *what, const struct fz_err *err);
/* Logs and aborts: for broken invariants only. */
void fz_panic(const char *fmt, ...) FZ_PRINTF(1, 2) __attribute__((noreturn));

#define FZ_ASSERT(c)                                                                                                   \
	do {                                                                                                           \
		if (!(c))                                                                                              \
			fz_panic("%s:%d: invariant broken: %s", __FILE__, __LINE__, #c);                               \
	} while (0)

#endif
