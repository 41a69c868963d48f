#include "fs/watch.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/notify.h"
#include "fs/supervisor_priv.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define STATUS_MS 10000 /* between two lines of status where there is no watchdog */
#define LOOKS     8     /* in the watchdog's time */

void fs_watch_init(struct fs_super *s)
{
	struct fs_watch *w = &s->watch;

	*w = (struct fs_watch){.limit_ns = fz_notify_watchdog_us() * 1000};
	if (!fz_notify_wanted())
		w->limit_ns = 0;
	else
		w->report_ms = STATUS_MS;
	if (w->limit_ns) {
		w->next_ns = fz_mono_ns() + w->limit_ns / LOOKS;
		if (w->limit_ns / LOOKS / 1000000 < w->report_ms)
			w->report_ms = w->limit_ns / LOOKS / 1000000 + 1;
	}
	fs_watch_begin(s);
}

void fs_watch_begin(struct fs_super *s)
{
	s->watch.since_ns = s->watch.moved_ns = fz_mono_ns();
	s->watch.answered_ns = s->watch.reported_ns = 0;
}

/* In a process of its own, which may hang: it holds nothing but the mount's root, and dies with the supervisor. */
static void ask(const char *dir) __attribute__((noreturn));
static void ask(const char *dir)
{
	struct statfs st;
	int fd;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	syscall(SYS_close_range, 0, ~0u, 0);
	fd = open(dir, O_PATH | O_DIRECTORY); /* needs no answer */
	_exit(fd >= 0 && fstatfs(fd, &st) == 0 ? 0 : 1);
}

static void start_probe(struct fs_super *s)
{
	struct fs_watch *w = &s->watch;

	if (w->probe > 0)
		return; /* the last one has not come back */
	w->probe = fork();
	if (w->probe == 0)
		ask(s->dir);
	if (w->probe < 0)
		fz_warn("cannot start a process that looks at the mount");
}

bool fs_watch_reaped(struct fs_super *s, pid_t pid, int status)
{
	struct fs_watch *w = &s->watch;

	if (w->probe <= 0 || pid != w->probe)
		return false;
	w->probe = -1;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		w->answered_ns = fz_mono_ns();
	return true;
}

bool fs_watch_leave(struct fs_super *s)
{
	if (s->watch.probe > 0)
		kill(s->watch.probe, SIGKILL);
	return s->watch.probe > 0;
}

void fs_watch_reported(struct fs_super *s, const char *line)
{
	char text[512];

	s->watch.reported_ns = fz_mono_ns();
	snprintf(text, sizeof(text), "STATUS=%s", line);
	for (char *p = text; *p; p++)
		if ((unsigned char)*p < ' ')
			*p = ' ';
	(void)fz_notify(text);
}

/* Processor time and bytes that a process has used so far; what cannot be read counts nothing. */
static uint64_t used(pid_t pid)
{
	unsigned long long user = 0, system = 0, n, sum = 0;
	char path[48], text[1024], *p;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	f = fopen(path, "re");
	if (f && fgets(text, sizeof(text), f) && (p = strrchr(text, ')')) &&
	    sscanf(p, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &system) == 2)
		sum = user + system;
	if (f)
		fclose(f);
	snprintf(path, sizeof(path), "/proc/%d/io", (int)pid);
	f = fopen(path, "re");
	while (f && fgets(text, sizeof(text), f))
		if (sscanf(text, "%*[a-z_]: %llu", &n) == 1)
			sum += n;
	if (f)
		fclose(f);
	return sum;
}

static void feed(struct fs_super *s)
{
	char text[96];

	s->watch.since_ns = fz_mono_ns();
	if (s->told && !s->leaving)
		snprintf(text, sizeof(text), "WATCHDOG=1");
	else /* a start or an end that takes its time, and goes on */
		snprintf(text, sizeof(text), "%sEXTEND_TIMEOUT_USEC=%llu", s->told ? "WATCHDOG=1\n" : "",
		         (unsigned long long)s->watch.limit_ns / 1000);
	(void)fz_notify(text);
}

uint64_t fs_watch_idle_ns(struct fs_super *s)
{
	struct fs_watch *w = &s->watch;
	uint64_t sum = s->worker > 0 ? used(s->worker) : 0, now = fz_mono_ns();

	if (sum != w->used)
		w->moved_ns = now;
	w->used = sum;
	return now - w->moved_ns;
}

void fs_watch_look(struct fs_super *s)
{
	struct fs_watch *w = &s->watch;
	uint64_t now = fz_mono_ns();

	w->next_ns = now + w->limit_ns / LOOKS;
	if (!s->ready || s->leaving) {
		(void)fs_watch_idle_ns(s);
		if (w->moved_ns > w->since_ns)
			feed(s);
		return;
	}
	if (w->answered_ns > w->since_ns && w->reported_ns > w->since_ns) {
		feed(s);
	} else if (now - w->since_ns > w->limit_ns / 2 && s->worker > 0) {
		fz_error("the worker (process %d) has not worked for %llu s (%s%s%s): it is replaced", (int)s->worker,
		         (unsigned long long)((now - w->since_ns) / 1000000000),
		         w->answered_ns > w->since_ns ? "" : "the mount does not answer",
		         w->answered_ns > w->since_ns || w->reported_ns > w->since_ns ? "" : ", ",
		         w->reported_ns > w->since_ns ? "" : "it does not report");
		kill(s->worker, SIGKILL);
		w->since_ns = now; /* the manager is not told that all is well */
	}
	start_probe(s);
}
