/* bench.c - `fazt bench DIR`: each work natively and on the mount in turn, round after round; medians. */
#include "cmd/bench.h"

#include "cmd/args.h"
#include "cmd/ask.h"
#include "cmd/cmd.h"

#include <cJSON.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#define MAX_ROUNDS 101

static volatile int stop; /* a signal handler has no argument */

static void handle(int sig)
{
	stop = sig;
}

struct bench {
	struct cmd_bench_place place;
	unsigned long long rounds;
	double seconds, fsync_us;
	bool json;
	cJSON *rows;
};

/* 82954.3 -> "82,954" */
static const char *grouped(double v, char out[static 40])
{
	char plain[32];
	size_t n, k = 0;

	snprintf(plain, sizeof(plain), "%.0f", v);
	n = strlen(plain);
	for (size_t i = 0; i < n; i++) {
		if (i && (n - i) % 3 == 0)
			out[k++] = ',';
		out[k++] = plain[i];
	}
	out[k] = 0;
	return out;
}

static void forget(const char *path)
{
	static const char *const ends[] = {"", "-wal", "-shm", "-journal"};
	char name[PATH_MAX + 64];

	for (size_t i = 0; i < 4; i++) {
		snprintf(name, sizeof(name), "%s%s", path, ends[i]);
		(void)unlink(name);
	}
}

static int measure(struct bench *b, const struct cmd_bench_work *w, struct fz_err *err)
{
	bool reads = w->kind == BENCH_READ || w->kind == BENCH_READ_ONLY;
	double v[2][MAX_ROUNDS], native, mount;
	char path[PATH_MAX + 64], left[40], right[40];
	cJSON *o, *runs[2] = {cJSON_CreateArray(), cJSON_CreateArray()};
	int rc = 0;

	for (unsigned long long i = 0; rc == 0 && i < b->rounds; i++)
		for (int on = 0; rc == 0 && on < 2; on++) {
			snprintf(path, sizeof(path), "%s/bench-%llu.db", on ? b->place.mount : b->place.native,
			         reads ? 0 : i);
			rc = stop ? fz_fail(err, ECANCELED, "interrupted")
			          : cmd_bench_run(w, path, b->seconds, b->place.uid, b->place.gid, &stop, &v[on][i],
			                          err);
			if (rc == 0)
				cJSON_AddItemToArray(runs[on], cJSON_CreateNumber(v[on][i]));
			if (!reads || i + 1 == b->rounds)
				forget(path);
		}
	if (rc < 0) {
		cJSON_Delete(runs[0]);
		cJSON_Delete(runs[1]);
		return rc;
	}
	native = cmd_bench_median(v[0], b->rounds);
	mount = cmd_bench_median(v[1], b->rounds);
	o = cJSON_CreateObject();
	cJSON_AddStringToObject(o, "measure", w->name);
	cJSON_AddNumberToObject(o, "native", native);
	cJSON_AddNumberToObject(o, "mount", mount);
	cJSON_AddNumberToObject(o, "percent", native > 0 ? 100 * mount / native : 0);
	cJSON_AddItemToObject(o, "native_runs", runs[0]);
	cJSON_AddItemToObject(o, "mount_runs", runs[1]);
	cJSON_AddItemToArray(b->rows, o);
	if (!b->json) {
		printf("| %s | %s | %s | %.0f |\n", w->name, grouped(native, left), grouped(mount, right),
		       native > 0 ? 100 * mount / native : 0);
		fflush(stdout);
	}
	return 0;
}

static void begin(const struct bench *b)
{
	struct utsname u = {0};

	(void)uname(&u);
	fprintf(stderr, "about %.0f s; Ctrl-C stops and cleans up\n",
	        (double)b->rounds * 2 * (b->seconds + 0.3) * (double)cmd_bench_n_works);
	if (b->json)
		return;
	printf("Linux %s, %ld CPUs, fdatasync takes %.0f microseconds, user %u; %s%s.\n", u.release,
	       sysconf(_SC_NPROCESSORS_ONLN), b->fsync_us, (unsigned)b->place.uid,
	       b->place.passthrough ? "passthrough" : "no passthrough",
	       b->place.live ? "; in the mount itself, with its targets"
	                     : "; capture on, shipping encrypted to a directory");
	printf("Each measure natively and on the mount in turn, %llu rounds of %g s, medians.\n\n"
	       "| Measure | native | on the mount | percent |\n|---|---|---|---|\n",
	       b->rounds, b->seconds);
	fflush(stdout);
}

static void print_json(const struct bench *b)
{
	cJSON *o = cJSON_CreateObject();
	struct utsname u = {0};

	(void)uname(&u);
	cJSON_AddStringToObject(o, "kernel", u.release);
	cJSON_AddNumberToObject(o, "cpus", (double)sysconf(_SC_NPROCESSORS_ONLN));
	cJSON_AddNumberToObject(o, "fdatasync_us", b->fsync_us);
	cJSON_AddNumberToObject(o, "rounds", (double)b->rounds);
	cJSON_AddNumberToObject(o, "seconds", b->seconds);
	cJSON_AddBoolToObject(o, "passthrough", b->place.passthrough);
	cJSON_AddBoolToObject(o, "live", b->place.live);
	cJSON_AddItemToObject(o, "rows", cJSON_Duplicate(b->rows, true));
	cmd_print_json(o);
	cJSON_Delete(o);
}

static int run(struct bench *b, struct fz_err *err)
{
	struct fz_err why = {0};
	int rc, left;

	rc = cmd_bench_enter(&b->place, err);
	if (rc == 0)
		rc = cmd_bench_fsync(b->place.native, &b->fsync_us, err);
	if (rc == 0)
		begin(b);
	for (size_t i = 0; rc == 0 && i < cmd_bench_n_works; i++)
		rc = measure(b, &cmd_bench_works[i], err);
	left = cmd_bench_leave(&b->place, &why);
	if (rc == 0 && left < 0) {
		*err = why;
		rc = left;
	} else if (left < 0) {
		fprintf(stderr, "fazt bench: %s\n", why.text);
	}
	if (rc == 0 && b->json)
		print_json(b);
	return rc;
}

int cmd_bench(int argc, char **argv)
{
	struct bench b = {.rounds = 3, .seconds = 1};
	const char *rounds = NULL, *seconds = NULL;
	const struct cmd_opt opts[] = {
	        {"rounds",  0, "N", "of each measure (3)", NULL, &rounds, NULL},
	        {"seconds",      0, "S", "of each round (1)", NULL, &seconds, NULL},
	        {"live",     0, NULL, "in the mount DIR itself: what it writes goes to its targets", &b.place.live, NULL,
	         NULL},
	        {"scratch",     0, "PATH", "make the directories there", NULL, &b.place.scratch, NULL},
	        {"no-passthrough", 0, NULL, "as on kernels before 6.9", &b.place.no_passthrough, NULL, NULL},
	        CMD_OPT_JSON(&b.json),
	        {0     },
	};
	const struct cmd_spec spec = {"bench",
	                              "[options] DIR",
	                              "Measures SQLite on the disk of DIR, natively and on a mount, in turn, as the "
	                              "user who owns DIR. The mount is one "
	                              "of its own,\n"
	                              "made in DIR (or beside it, when DIR is a mount) with a directory beside it as "
	                              "target, and removed with all that was "
	                              "written.",
	                              "fazt bench /var/lib/app\nfazt bench --rounds 5 --seconds 2 /var/lib/app\n",
	                              1,
	                              1,
	                              opts};
	struct sigaction act = {.sa_handler = handle};
	struct fz_err err = {0};
	char **args, *end;
	int n, rc = cmd_args(&spec, argc, argv, &args, &n, &err);

	if (rc == CMD_ARGS_HELP)
		return CMD_EXIT_OK;
	if (rc == 0 && rounds)
		rc = cmd_args_number("rounds", rounds, MAX_ROUNDS, &b.rounds, &err);
	if (rc == 0 && seconds) {
		b.seconds = strtod(seconds, &end);
		if (*end || !(b.seconds >= 0.01 && b.seconds <= 600))
			rc = fz_fail(&err, FZ_EUSAGE, "--seconds: '%s' is no number from 0.01 to 600", seconds);
	}
	if (rc == 0 && b.place.live && b.place.no_passthrough)
		rc = fz_fail(&err, FZ_EUSAGE, "--no-passthrough is for a mount of its own, not --live");
	b.rows = cJSON_CreateArray();
	if (rc == 0) {
		sigaction(SIGINT, &act, NULL);
		sigaction(SIGTERM, &act, NULL);
		sigaction(SIGHUP, &act, NULL);
		b.place.dir = args[0];
		rc = run(&b, &err);
	}
	cJSON_Delete(b.rows);
	return rc < 0 ? cmd_report(spec.name, &err) : CMD_EXIT_OK;
}
