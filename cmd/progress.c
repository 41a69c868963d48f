#include "cmd/progress.h"

#include "base/clock.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static volatile bool interrupted;

static void on_signal(int sig)
{
	interrupted = true;
}

const volatile bool *cmd_interruptible(void)
{
	struct sigaction sa = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};

	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	return &interrupted;
}

int cmd_interrupted(struct fz_err *err)
{
	return interrupted ? fz_fail(err, ECANCELED, "interrupted") : 0;
}

static void tick(struct replica_progress *r, uint64_t done_bytes, uint64_t total_bytes)
{
	cmd_progress_tick((struct cmd_progress *)r, done_bytes, total_bytes);
}

void cmd_progress_begin(struct cmd_progress *p, const char *what, bool wanted, bool quiet)
{
	*p = (struct cmd_progress){.bytes = {tick}, .what = what, .terminal = isatty(2) == 1, .start_ns = fz_mono_ns()};
	p->on = wanted || (p->terminal && !quiet);
}

static void draw(struct cmd_progress *p)
{
	double s = (double)(fz_mono_ns() - p->start_ns) / 1e9, bytes = (double)p->bytes_done, all = (double)p->of_bytes;
	double rate = s > 0 ? bytes / s : 0;

	fprintf(stderr, "%s%s", p->terminal ? "\r" : "", p->what);
	if (p->of_bytes)
		fprintf(stderr, "  %5.1f %%", bytes < all ? 100 * bytes / all : 100.0);
	if (p->of_objects)
		fprintf(stderr, "  %llu of %llu objects", (unsigned long long)p->objects,
		        (unsigned long long)p->of_objects);
	else if (p->objects)
		fprintf(stderr, "  %llu objects", (unsigned long long)p->objects);
	if (p->of_bytes)
		fprintf(stderr, "  %.1f of %.1f MB  %.1f MB/s", bytes / 1e6, all / 1e6, rate / 1e6);
	else if (p->bytes_done)
		fprintf(stderr, "  %.1f MB  %.1f MB/s", bytes / 1e6, rate / 1e6);
	if (rate > 0 && all > bytes)
		fprintf(stderr, "  %.0f s left", (all - bytes) / rate);
	fprintf(stderr, "%s", p->terminal ? "\033[K" : "\n");
	p->shown = true;
}

void cmd_progress_tick(struct cmd_progress *p, uint64_t bytes, uint64_t of_bytes)
{
	uint64_t now = fz_mono_ns(), step = p->terminal ? UINT64_C(200000000) : UINT64_C(1000000000);

	p->bytes_done = bytes;
	p->of_bytes = of_bytes;
	if (!p->on || (p->last_ns && now - p->last_ns < step) || (!p->terminal && !bytes && !p->objects))
		return;
	p->last_ns = now;
	draw(p);
}

void cmd_progress_end(struct cmd_progress *p)
{
	if (p->shown && p->terminal)
		fprintf(stderr, "\r\033[K");
	else if (p->on && !p->terminal && (p->bytes_done || p->objects))
		draw(p);
	p->shown = p->on = false;
}
