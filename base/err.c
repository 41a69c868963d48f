#include "base/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void set_text(struct fz_err *err, int code, const char *fmt, va_list ap, const char *tail)
{
	size_t n;

	if (!err)
		return;
	err->code = code;
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
	n = strlen(err->text);
	if (tail && n + 2 < sizeof(err->text))
		snprintf(err->text + n, sizeof(err->text) - n, ": %s", tail);
}

int fz_fail(struct fz_err *err, int code, const char *fmt, ...)
{
	va_list ap;

	if (code > 0)
		code = -code;
	va_start(ap, fmt);
	set_text(err, code, fmt, ap, NULL);
	va_end(ap);
	return code;
}

int fz_fail_errno(struct fz_err *err, int errno_value, const char *fmt, ...)
{
	va_list ap;

	if (errno_value < 0)
		errno_value = -errno_value;
	if (errno_value == 0)
		errno_value = EIO;
	va_start(ap, fmt);
	set_text(err, -errno_value, fmt, ap, strerror(errno_value));
	va_end(ap);
	return -errno_value;
}

int fz_err_prefix(struct fz_err *err, const char *fmt, ...)
{
	char old[sizeof(err->text)];
	va_list ap;

	if (!err)
		return -FZ_EINTERNAL;
	memcpy(old, err->text, sizeof(old));
	va_start(ap, fmt);
	set_text(err, err->code, fmt, ap, old);
	va_end(ap);
	return err->code;
}

const char *fz_strerror(int code)
{
	switch (code < 0 ? -code : code) {
#define X(name, num, text)                                                                                             \
	case num:                                                                                                      \
		return text;
		FZ_ERRORS(X)
#undef X
	default:
		return strerror(code < 0 ? -code : code);
	}
}

int fz_err_errno(int code)
{
	code = code < 0 ? -code : code;
	if (code < 1000)
		return code ? code : EIO;
	switch (code) {
	case FZ_ENOTFOUND:
		return ENOENT;
	case FZ_EEXISTS:
		return EEXIST;
	case FZ_EBUSY:
		return EBUSY;
	case FZ_ETIMEOUT:
		return ETIMEDOUT;
	default:
		return EIO;
	}
}

int fz_err_exit(int code)
{
	switch (code < 0 ? -code : code) {
	case FZ_EUSAGE:
	case FZ_ECONFIG:
	case FZ_EKEYFILE:
		return 2;
	case FZ_ENOTFOUND:
	case FZ_ENOCOMMIT:
		return 3;
	case FZ_ECORRUPT:
	case FZ_ECHECKSUM:
	case FZ_ECRYPT:
	case FZ_ETRUNCATED:
	case FZ_EVERIFY:
	case FZ_EGAP:
		return 4;
	default:
		return 1;
	}
}
