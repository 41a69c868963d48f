#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static struct {
	const char *who;
	enum fz_log_level max;
	int fd;
	int stamp; /* add the time: not under systemd, which adds its own */
} conf = {"fazt", FZ_LOG_INFO, 2, 1};

void fz_log_init(const char *who, enum fz_log_level max)
{
	conf.who = who;
	conf.max = max;
	conf.stamp = getenv("JOURNAL_STREAM") == NULL;
}

void fz_log_set_fd(int fd)
{
	conf.fd = fd;
}

int fz_log_enabled(enum fz_log_level level)
{
	return level <= conf.max;
}

static void put(enum fz_log_level level, const char *fmt, va_list ap)
{
	static const char *const names[] = {"error", "warning", "info", "debug"};
	char line[1024];
	size_t n = 0;
	int saved = errno;

	if (level > conf.max)
		return;
	if (conf.stamp) {
		struct timespec t;
		struct tm tm;

		clock_gettime(CLOCK_REALTIME, &t);
		gmtime_r(&t.tv_sec, &tm);
		n = strftime(line, sizeof(line), "%Y-%m-%dT%H:%M:%S", &tm);
		n += (size_t)snprintf(line + n, sizeof(line) - n, ".%03ldZ ", t.tv_nsec / 1000000);
	}
	n += (size_t)snprintf(line + n, sizeof(line) - n, "%s[%d] %s: ", conf.who, (int)getpid(), names[level]);
	vsnprintf(line + n, sizeof(line) - n - 1, fmt, ap);
	n = strlen(line);
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)line[i] < ' ')
			line[i] = ' ';
	line[n++] = '\n';
	while (write(conf.fd, line, n) < 0 && errno == EINTR)
		;
	errno = saved;
}

#define VERB(name, level)                                                                                              \
	void name(const char *fmt, ...)                                                                                \
	{                                                                                                              \
		va_list ap;                                                                                            \
		va_start(ap, fmt);                                                                                     \
		put(level, fmt, ap);                                                                                   \
		va_end(ap);                                                                                            \
	}
VERB(fz_error, FZ_LOG_ERROR)
VERB(fz_warn, FZ_LOG_WARN)
VERB(fz_info, FZ_LOG_INFO)
VERB(fz_debug, FZ_LOG_DEBUG)

void fz_log_err(const char *what, const struct fz_err *err)
{
	if (err->code <= -1000)
		fz_error("%s: %s (FZ-%d)", what, err->text, -err->code);
	else
		fz_error("%s: %s", what, err->text);
}

void fz_panic(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	put(FZ_LOG_ERROR, fmt, ap);
	va_end(ap);
	abort();
}
