/* log.h - log lines: one line an event, five verbs; to stderr, to journald, or to a file of bounded size.
 *   logfmt   time=2026-11-21T15:24:04.123Z level=warning part=worker pid=123 code=FZ-1303 db=app.db target=offsite msg="..."
 *   json     the same fields as one object
 *   text     for people at a terminal
 * code, db and target stand there where they are known; suppressed=N: so many lines like this one were left out before it.
 * A storm of one line fills no disk: of one call site about the same database, target and code, ten lines pass at once and then
 * one each ten seconds; of one call site altogether 200, and then one a second (debug: all). A line never holds a secret.
 * Thread-safe: one write(2) or datagram a line. What journald, or in a process that serves the reader of a
 * pipe, has no room for is counted as suppressed by the next line that arrives.      held by: tests/unit/test_base_log.c */
#ifndef FZ_BASE_LOG_H
#define FZ_BASE_LOG_H

#include "base/err.h"

#include <stdint.h>

enum fz_log_level { FZ_LOG_ERROR, FZ_LOG_WARN, FZ_LOG_INFO, FZ_LOG_DEBUG };
enum fz_log_format { FZ_LOG_TEXT, FZ_LOG_LOGFMT, FZ_LOG_JSON };

/* who: the process's part ("supervisor", "worker", "agent", "fazt"); borrowed for ever. Text to stderr; when stderr is the
 * journal (JOURNAL_STREAM), journald's own protocol, whatever the format. */
void fz_log_init(const char *who, enum fz_log_level max);
void fz_log_set_format(enum fz_log_format format);
void fz_log_set_fd(int fd); /* default 2; no journal then */
/* stderr may be a pipe, a socket or a terminal whose reader has stopped: a line is lost then. For processes that others wait for. */
void fz_log_never_wait(void);
/* fd 2 becomes the file name in dirfd (borrowed for ever), which is opened anew when somebody has moved or removed it. Beyond max_bytes
 * it becomes name.1. It is no link (-ELOOP), at no time. Several processes may log to one file. name: borrowed for ever. */
int fz_log_to_file(int dirfd, const char *name, uint64_t max_bytes, struct fz_err *err) FZ_MUST_CHECK;
/* Datagrams of journald's native protocol to that socket: MESSAGE, PRIORITY, SYSLOG_IDENTIFIER=fazt, FZ_PART, FZ_CODE, FZ_DATABASE,
 * FZ_TARGET, FZ_SUPPRESSED. Where nobody listens there: "<4>..." on stderr, which the journal reads too. */
void fz_log_to_journal(const char *socket_path);

void fz_error(const char *fmt, ...) FZ_PRINTF(1, 2);
void fz_warn(const char *fmt, ...) FZ_PRINTF(1, 2);
void fz_info(const char *fmt, ...) FZ_PRINTF(1, 2);
void fz_debug(const char *fmt, ...) FZ_PRINTF(1, 2);
/* Logs an error with its stable code: "what: sentence (FZ-1203)". */
void fz_log_err(const char *what, const struct fz_err *err);
/* Around an argument of any of these: the thread's next line is about that database or target, or has that error's code.
 * They return the name, and the error's sentence:  fz_warn("%s: %s", fz_log_db(db->name), fz_log_why(&err)) */
const char *fz_log_db(const char *name);
const char *fz_log_target(const char *name);
const char *fz_log_why(const struct fz_err *err);
/* Tells of lines that were suppressed and that nothing followed. Now and then, and before the end; now: without delay. */
void fz_log_flush(int now);
/* Logs and aborts: for broken invariants only. */
void fz_panic(const char *fmt, ...) FZ_PRINTF(1, 2) __attribute__((noreturn));

#define FZ_ASSERT(c)                                                                                                   \
	do {                                                                                                           \
		if (!(c))                                                                                              \
			fz_panic("%s:%d: invariant broken: %s", __FILE__, __LINE__, #c);                               \
	} while (0)

#endif
