#include "primary/budget.h"

#include "base/file.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>

#define MONTH_MS (INT64_C(30) * 86400 * 1000)

static double cap(const struct primary_budget *b)
{
	double c = (double)b->per_month / 30;

	return c < 1 ? 1 : c;
}

/* requests a ms */
static double rate(const struct primary_budget *b)
{
	double r = ((double)b->per_month - cap(b)) / (double)MONTH_MS;

	return r > 0 ? r : 1.0 / (double)MONTH_MS;
}

static void refill(struct primary_budget *b, int64_t now_ms)
{
	int64_t dt = now_ms - b->at_ms;

	if (dt > 0)
		b->tokens += (double)dt * rate(b);
	if (b->tokens > cap(b))
		b->tokens = cap(b);
	b->at_ms = now_ms; /* a clock set back gives nothing and takes nothing */
}

void primary_budget_init(struct primary_budget *b, uint64_t per_month, int64_t now_ms)
{
	*b = (struct primary_budget){.per_month = per_month, .at_ms = now_ms};
	b->tokens = cap(b);
}

void primary_budget_spend(struct primary_budget *b, uint64_t n, int64_t now_ms)
{
	if (!b->per_month || n == 0)
		return;
	refill(b, now_ms);
	b->tokens -= (double)n;
	if (b->tokens < -cap(b)) /* a debt of a day is forgiven: nobody waits for longer than two */
		b->tokens = -cap(b);
}

int64_t primary_budget_wait_ms(struct primary_budget *b, int64_t now_ms)
{
	if (!b->per_month)
		return 0;
	refill(b, now_ms);
	return b->tokens >= 1 ? 0 : (int64_t)((1 - b->tokens) / rate(b)) + 1;
}

int64_t primary_budget_interval_ms(struct primary_budget *b, int64_t base_ms, unsigned n_active, int64_t now_ms)
{
	double full, steady, ms;
	int64_t wait;

	if (!b->per_month)
		return base_ms;
	wait = primary_budget_wait_ms(b, now_ms);
	full = b->tokens / cap(b);
	steady = (double)(n_active ? n_active : 1) / rate(b);
	if (full >= 0.5 || steady <= (double)base_ms)
		ms = (double)base_ms;
	else /* from base at one half to steady at empty */
		ms = (double)base_ms + (steady - (double)base_ms) * (1 - 2 * (full > 0 ? full : 0));
	return wait > (int64_t)ms ? wait : (int64_t)ms;
}

int primary_budget_load(struct primary_budget *b, int dirfd, const char *path, struct fz_err *err)
{
	struct fz_buf text = {0};
	double tokens;
	long long at;
	int rc = fz_read_file(dirfd, path, 200, &text, err);

	if (rc == 0 && sscanf(fz_buf_str(&text), "%lf %lld", &tokens, &at) == 2 && isfinite(tokens) && at > 0 &&
	    at <= b->at_ms) {
		int64_t now = b->at_ms;

		b->tokens = tokens < -cap(b) ? -cap(b) : tokens;
		b->at_ms = at;
		refill(b, now);
	}
	fz_buf_fini(&text);
	return rc == -ENOENT ? 0 : rc;
}

int primary_budget_save(const struct primary_budget *b, int dirfd, const char *path, struct fz_err *err)
{
	char text[100];
	int n = snprintf(text, sizeof(text), "%.3f %lld\n", b->tokens, (long long)b->at_ms);

	return fz_write_file(dirfd, path, text, (size_t)n, 0600, err);
}
