#include "base/clock.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

int64_t fz_now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static uint64_t ns_of(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t fz_mono_ns(void)
{
	return ns_of(CLOCK_MONOTONIC);
}

uint64_t fz_boot_ns(void)
{
	return ns_of(CLOCK_BOOTTIME);
}

char *fz_format_time(char out[static FZ_TIME_SIZE], int64_t ms)
{
	int64_t s = ms / 1000, frac = ms % 1000;
	struct tm tm;
	time_t t;
	size_t n;

	if (frac < 0) {
		frac += 1000;
		s--;
	}
	t = (time_t)s;
	if (!gmtime_r(&t, &tm)) {
		snprintf(out, FZ_TIME_SIZE, "invalid");
		return out;
	}
	n = strftime(out, FZ_TIME_SIZE - 6, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(out + n, FZ_TIME_SIZE - n, ".%03dZ", (int)frac);
	return out;
}

static int bad_time(struct fz_err *err, const char *text)
{
	return fz_fail(err, FZ_EUSAGE,
	               "'%s' is no time; write 2026-11-20T23:14:29Z, \"2026-11-20 23:14\" (local), \"10 minutes ago\" "
	               "or now",
	               text);
}

/* Unit of a relative time or duration in ms; 0 when there is none of that name. */
static double unit_ms(const char *u)
{
	static const struct {
		const char *name;
		double ms;
	} units[] = {
	        {"ms",     1     },
                {"s",      1e3   },
                {"sec",    1e3   },
                {"second", 1e3   },
                {"m",      6e4   },
	        {"min",    6e4   },
                {"minute", 6e4   },
                {"h",      36e5  },
                {"hour",   36e5  },
                {"d",      864e5 },
	        {"day",    864e5 },
                {"w",      6048e5},
                {"week",   6048e5}
        };
	size_t n = strlen(u);

	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		size_t k = strlen(units[i].name);

		if (!strcasecmp(u, units[i].name) ||
		    (n == k + 1 && k > 2 && !strncasecmp(u, units[i].name, k) && tolower((unsigned char)u[k]) == 's'))
			return units[i].ms;
	}
	return 0;
}

static int digits(const char **p, int n, int *out)
{
	int v = 0;

	for (int i = 0; i < n; i++) {
		if (!isdigit((unsigned char)(*p)[i]))
			return -1;
		v = v * 10 + ((*p)[i] - '0');
	}
	*p += n;
	*out = v;
	return 0;
}

int fz_parse_time(const char *text, int64_t now_ms, int64_t *out_ms, struct fz_err *err)
{
	const char *p = text;
	struct tm tm = {.tm_isdst = -1};
	int year, mon, day, hour = 0, min = 0, sec = 0, offset = 0, have_zone = 0;
	double frac = 0, count;
	char unit[16], ago[8], extra;
	time_t t;

	while (isspace((unsigned char)*p))
		p++;
	if (!strcasecmp(p, "now")) {
		*out_ms = now_ms;
		return 0;
	}
	if (sscanf(p, "%lf %15[a-zA-Z] %7[a-zA-Z] %c", &count, unit, ago, &extra) == 3 && !strcasecmp(ago, "ago")) {
		double ms = unit_ms(unit);

		if (ms == 0 || !(count >= 0) || count * ms > 9e15)
			return bad_time(err, text);
		*out_ms = now_ms - (int64_t)llround(count * ms);
		return 0;
	}
	if (digits(&p, 4, &year) || *p++ != '-' || digits(&p, 2, &mon) || *p++ != '-' || digits(&p, 2, &day))
		return bad_time(err, text);
	if (*p == 'T' || *p == 't' || *p == ' ') {
		p++;
		if (digits(&p, 2, &hour) || *p++ != ':' || digits(&p, 2, &min))
			return bad_time(err, text);
		if (*p == ':') {
			p++;
			if (digits(&p, 2, &sec))
				return bad_time(err, text);
			if (*p == '.' || *p == ',') {
				double scale = 0.1;

				for (p++; isdigit((unsigned char)*p); p++, scale /= 10)
					frac += (*p - '0') * scale;
			}
		}
		while (*p == ' ')
			p++;
		if (*p == 'Z' || *p == 'z') {
			have_zone = 1;
			p++;
		} else if (*p == '+' || *p == '-') {
			int sign = *p++ == '-' ? -1 : 1, oh, om = 0;

			if (digits(&p, 2, &oh))
				return bad_time(err, text);
			if (*p == ':')
				p++;
			if ((*p && digits(&p, 2, &om)) || oh > 23 || om > 59)
				return bad_time(err, text);
			offset = sign * (oh * 3600 + om * 60);
			have_zone = 1;
		}
	}
	if (*p || mon < 1 || mon > 12 || day < 1 || day > 31 || hour > 23 || min > 59 || sec > 60)
		return bad_time(err, text);
	tm.tm_year = year - 1900;
	tm.tm_mon = mon - 1;
	tm.tm_mday = day;
	tm.tm_hour = hour;
	tm.tm_min = min;
	tm.tm_sec = sec;
	t = have_zone ? timegm(&tm) - offset : mktime(&tm);
	if (tm.tm_mday != day) /* 31 February was normalised away */
		return bad_time(err, text);
	*out_ms = (int64_t)t * 1000 + (int64_t)(frac * 1000 + 1e-6);
	return 0;
}

int fz_parse_duration(const char *text, int64_t *out_ms, struct fz_err *err)
{
	char *end;
	double v = strtod(text, &end), ms;

	while (isspace((unsigned char)*end))
		end++;
	ms = *end ? unit_ms(end) : 1000;
	if (end == text || ms == 0 || !(v >= 0) || v * ms > 9e15)
		return fz_fail(err, FZ_EUSAGE, "'%s' is no duration; write 1s, 500ms, 10m, 2h or 7d", text);
	*out_ms = (int64_t)llround(v * ms);
	return 0;
}

int fz_parse_size(const char *text, int64_t *out_bytes, struct fz_err *err)
{
	static const char letters[] = "KMGT";
	char *end;
	double v = strtod(text, &end), unit = 1;
	const char *l;

	while (isspace((unsigned char)*end))
		end++;
	l = *end ? strchr(letters, toupper((unsigned char)*end)) : NULL;
	if (l) {
		for (const char *q = letters; q <= l; q++)
			unit *= 1024;
		end++;
		if (*end == 'i')
			end++;
	}
	if (*end == 'B' || *end == 'b')
		end++;
	if (end == text || *end || !(v >= 0) || v * unit > 9e18)
		return fz_fail(err, FZ_EUSAGE, "'%s' is no size; write 4096, 64K, 512M or 2G", text);
	*out_bytes = (int64_t)(v * unit);
	return 0;
}
