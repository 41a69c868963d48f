/* clock.h - time: milliseconds since 1970 for stamps, monotonic nanoseconds for waiting; RFC 3339 in and out. */
#ifndef FZ_BASE_CLOCK_H
#define FZ_BASE_CLOCK_H

#include "base/err.h"

#include <stdint.h>
#include <time.h>

int64_t fz_now_ms(void);   /* CLOCK_REALTIME */
uint64_t fz_mono_ns(void); /* CLOCK_MONOTONIC */
uint64_t fz_boot_ns(void); /* CLOCK_BOOTTIME: goes on while the machine is suspended; the same in all processes */
/* "2026-11-20T23:14:29.123Z"; out has FZ_TIME_SIZE bytes. Returns out. */
#define FZ_TIME_SIZE 32
char *fz_format_time(char out[static FZ_TIME_SIZE], int64_t ms);
/* RFC 3339 (offset or Z), local "2026-11-20[ T]23:14[:29[.123]]" or date alone, "now", "N seconds|minutes|hours|days
 * ago" (also s, m, h, d). now_ms stands for "now". -FZ_EUSAGE with a sentence that shows the accepted forms. */
int fz_parse_time(const char *text, int64_t now_ms, int64_t *out_ms, struct fz_err *err) FZ_MUST_CHECK;
/* "90", "1.5s", "500ms", "10m", "2h", "7d" -> ms. A bare number means seconds. */
int fz_parse_duration(const char *text, int64_t *out_ms, struct fz_err *err) FZ_MUST_CHECK;
/* "4096", "64K", "512MB", "2GiB" -> bytes (K, M, G, T are powers of 1024). */
int fz_parse_size(const char *text, int64_t *out_bytes, struct fz_err *err) FZ_MUST_CHECK;

#endif
