/* bench_replica.c - ordinary SQLite applications on both ends of a link, for scripts/bench_replica.py. They know nothing of fazt; writer
 * and watcher share a file with the moment at which each commit was acknowledged.
 *   bench_replica write DB RATE SECONDS TIMES    one-row WAL/NORMAL transactions (RATE a second, 0 = as fast as it goes): txn/s
 *   bench_replica commit DB SECONDS              WAL/FULL transactions, one after the other, ms: n p50 p99 max
 *   bench_replica watch DB SECONDS TIMES         on the replica: from acknowledged to visible there, ms: n p50 p99 max
 *   bench_replica read DB SECONDS                autocommit point reads: reads/s, longest in ms
 *   bench_replica pace DB SECONDS RATE           the same, RATE a second: n, longest in ms, how many took over 1 and over 10 ms
 * A busy database is an error: fazt's never is. With BENCH_PATIENT=1 they ask again every 0.1 ms: LiteFS locks readers out, and so may
 * a native writer and reader each other. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "tests/e2e/bench_sql.h"

#define MAX_TXNS 4000000

static int ask_again(void *unused, int times)
{
	(void)unused;
	nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
	return times < 100000;
}

static volatile double *map_times(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT, 0600);
	void *p;

	if (fd < 0 || ftruncate(fd, MAX_TXNS * (off_t)sizeof(double)) < 0)
		exit(1);
	p = mmap(NULL, MAX_TXNS * sizeof(double), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		exit(1);
	return p;
}

static void sleep_until(double due)
{
	double left = due - now();

	if (left > 0)
		nanosleep(&(struct timespec){(time_t)left, (long)((left - (double)(time_t)left) * 1e9)}, NULL);
}

static int do_write(double rate, double seconds, volatile double *times)
{
	sqlite3_stmt *insert;
	double start, end;
	long n = 0;

	run("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; CREATE TABLE IF NOT EXISTS lag(id INTEGER PRIMARY "
	    "KEY, v "
	    "BLOB); DELETE FROM lag");
	insert = prepare("INSERT INTO lag VALUES (?, zeroblob(100))");
	start = now();
	for (end = start + seconds; now() < end && n + 1 < MAX_TXNS;) {
		if (rate > 0)
			sleep_until(start + (double)n / rate);
		sqlite3_bind_int64(insert, 1, ++n);
		check(sqlite3_step(insert), "insert");
		times[n] = now();
		sqlite3_reset(insert);
	}
	printf("%.1f\n", (double)n / (now() - start));
	return 0;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static int print_ms(double *v, long n)
{
	qsort(v, (size_t)n, sizeof(*v), by_value);
	printf("%ld %.3f %.3f %.3f\n", n, v[n / 2] * 1e3, v[n * 99 / 100] * 1e3, v[n - 1] * 1e3);
	return 0;
}

static int do_commit(double seconds)
{
	double *ms = malloc(MAX_TXNS * sizeof(*ms)), end, t;
	sqlite3_stmt *insert;
	long n = 0;

	if (!ms)
		return 1;
	run("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE IF NOT EXISTS lag(id INTEGER PRIMARY KEY, "
	    "v BLOB); "
	    "DELETE FROM lag");
	insert = prepare("INSERT INTO lag VALUES (?, zeroblob(100))");
	for (t = now(), end = t + seconds; t < end && n < MAX_TXNS;) {
		double before = t;

		sqlite3_bind_int64(insert, 1, n);
		check(sqlite3_step(insert), "insert");
		sqlite3_reset(insert);
		t = now();
		ms[n++] = t - before;
	}
	return print_ms(ms, n);
}

static int do_watch(double seconds, volatile double *times)
{
	sqlite3_stmt *last = prepare("SELECT max(id) FROM lag");
	double *lag = malloc(MAX_TXNS * sizeof(*lag));
	double end = now() + seconds;
	long n = 0, seen = -1;

	if (!lag)
		return 1;
	while (now() < end) {
		double t;
		long id;

		check(sqlite3_step(last), "select");
		id = (long)sqlite3_column_int64(last, 0);
		sqlite3_reset(last);
		t = now();
		if (seen < 0)
			seen = id; /* was visible before anybody looked */
		if (id < seen)
			seen = 0; /* a new run began */
		while (seen < id) {
			double at = times[++seen];

			lag[n++] = at > 0 && t > at ? t - at : 0; /* visible before its writer had its answer */
		}
		nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
	}
	if (!n) {
		fprintf(stderr, "bench_replica: nothing arrived\n");
		return 1;
	}
	return print_ms(lag, n);
}

/* rate: reads a second, 0 = as fast as it goes. */
static int do_read(double seconds, double rate)
{
	sqlite3_stmt *get = prepare("SELECT v FROM lag WHERE id = ?"), *count = prepare("SELECT max(id) FROM lag");
	double start = now(), worst = 0, t = start;
	uint64_t seed = 88172645463325252u;
	long n = 0, over_1 = 0, over_10 = 0, ids;

	check(sqlite3_step(count), "count");
	ids = (long)sqlite3_column_int64(count, 0);
	sqlite3_reset(count);
	while (t < start + seconds) {
		double before = t;

		seed ^= seed << 13;
		seed ^= seed >> 7;
		seed ^= seed << 17;
		sqlite3_bind_int64(get, 1, 1 + (sqlite3_int64)(seed % (uint64_t)(ids ? ids : 1)));
		check(sqlite3_step(get), "get");
		sqlite3_reset(get);
		t = now();
		if (t - before > worst)
			worst = t - before;
		over_1 += t - before > 1e-3;
		over_10 += t - before > 10e-3;
		n++;
		if (rate > 0) {
			sleep_until(start + (double)n / rate);
			t = now();
		}
	}
	if (rate > 0)
		printf("%ld %.3f %ld %ld\n", n, worst * 1e3, over_1, over_10);
	else
		printf("%.0f %.3f\n", (double)n / (t - start), worst * 1e3);
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 2 ? argv[1] : "";

	prctl(PR_SET_TIMERSLACK, 1);
	if (argc > 2)
		check(sqlite3_open_v2(argv[2], &db,
		                      strcmp(what, "write") && strcmp(what, "commit")
		                              ? SQLITE_OPEN_READWRITE
		                              : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE,
		                      NULL),
		      argv[2]);
	if (getenv("BENCH_PATIENT"))
		sqlite3_busy_handler(db, ask_again, NULL);
	if (!strcmp(what, "write") && argc == 6)
		return do_write(atof(argv[3]), atof(argv[4]), map_times(argv[5]));
	if (!strcmp(what, "commit") && argc == 4)
		return do_commit(atof(argv[3]));
	if (!strcmp(what, "watch") && argc == 5)
		return do_watch(atof(argv[3]), map_times(argv[4]));
	if (!strcmp(what, "read") && argc == 4)
		return do_read(atof(argv[3]), 0);
	if (!strcmp(what, "pace") && argc == 5)
		return do_read(atof(argv[3]), atof(argv[4]));
	fprintf(stderr, "bench_replica: see the head of tests/e2e/bench_replica.c\n");
	return 2;
}
