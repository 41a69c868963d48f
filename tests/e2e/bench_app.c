/* bench_app.c - an ordinary SQLite application for scripts/bench.py: runs one workload for some seconds on a database and
 * prints operations per second. It knows nothing of fazt.
 *   bench_app txn  DB JOURNAL SYNC SECONDS UID [RATE]   one-row transactions (100-byte rows)
 *   bench_app bulk DB JOURNAL SYNC ROWS UID             rows in one transaction
 *   bench_app lag  DB JOURNAL SYNC SECONDS UID RATE HEAD  transactions, and when each of them is in fazt's log
 *   bench_app read DB JOURNAL SYNC SECONDS UID          autocommit point reads of 100,000 rows, after a commit
 *   bench_app read-only DB JOURNAL SYNC SECONDS UID     ... without one since the database was opened
 *   bench_app fill DB JOURNAL SYNC MEGABYTES UID        a database of that size (incompressible 1 KB rows) */
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "tests/e2e/bench_sql.h"

static uint64_t seed = 88172645463325252u;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static void insert(sqlite3_stmt *s, int64_t id, int bytes)
{
	static uint64_t row[128];

	for (int i = 0; i < bytes / 8; i++)
		row[i] = rnd();
	sqlite3_bind_int64(s, 1, id);
	sqlite3_bind_blob(s, 2, row, bytes, SQLITE_STATIC);
	check(sqlite3_step(s), "insert");
	sqlite3_reset(s);
}

static double bench_txn(double seconds, double rate)
{
	sqlite3_stmt *s = prepare("INSERT INTO t(id, v) VALUES (?1, ?2)");
	double start = now(), end = start + seconds, t;
	int64_t n = 0, base = (int64_t)(start * 1e6);

	while ((t = now()) < end) {
		if (rate > 0 && (double)n > (t - start) * rate) {
			usleep(50);
			continue;
		}
		insert(s, base + n++, 104);
	}
	sqlite3_finalize(s);
	return (double)n / (now() - start);
}

/* ---- lag ---- */

/* The committed TXID in the log's mapped head (docs/formats.md, "Local log"). */
static uint64_t committed(const volatile uint8_t *head)
{
	uint64_t v = 0;

	for (int i = 0; i < 8; i++)
		v = v << 8 | head[i];
	return v;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

struct watch {
	const volatile uint8_t *head;
	uint64_t first;
	long cap;
	double *seen; /* [k]: when commit k was found in the log */
	atomic_long found;
	atomic_bool stop;
};

static void *watch_head(void *arg)
{
	struct watch *w = arg;

	prctl(PR_SET_TIMERSLACK, 1000UL);
	while (!atomic_load(&w->stop)) {
		long k = (long)(committed(w->head) - w->first), at = atomic_load(&w->found);
		double t = now();

		for (; at < k && at < w->cap; at++)
			w->seen[at] = t;
		atomic_store(&w->found, at);
		usleep(20);
	}
	return NULL;
}

/* How long after COMMIT has returned its transaction is in the log: a thread of the application looks, and the delay until
 * it looks counts too. The k-th commit is the k-th TXID after what the head held before. */
static int bench_lag(double seconds, double rate, const char *head_path)
{
	long cap = (long)(seconds * rate) + 1000, n = 0, late = 0;
	double *lag = calloc((size_t)cap, sizeof(*lag)), *at = calloc((size_t)cap, sizeof(*at));
	sqlite3_stmt *s = prepare("INSERT INTO t(id, v) VALUES (?1, ?2)");
	int fd = open(head_path, O_RDONLY);
	struct watch w = {.cap = cap, .seen = calloc((size_t)cap, sizeof(double))};
	pthread_t thread;
	double start, t;

	w.head = fd < 0 ? MAP_FAILED : mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	if (w.head == MAP_FAILED || !at || !lag || !w.seen) {
		perror(head_path);
		return 1;
	}
	prctl(PR_SET_TIMERSLACK, 1000UL);
	do { /* all that was committed before is in the log when nothing moves for a while */
		w.first = committed(w.head);
		usleep(300000);
	} while (committed(w.head) != w.first);
	if (pthread_create(&thread, NULL, watch_head, &w))
		return 1;
	start = now();
	while ((t = now()) < start + seconds && n < cap) {
		if ((double)n > (t - start) * rate) {
			usleep(50);
			continue;
		}
		insert(s, (int64_t)(start * 1e6) + n, 104);
		at[n++] = now();
	}
	while (atomic_load(&w.found) < n && now() < start + seconds + 10)
		usleep(1000);
	atomic_store(&w.stop, true);
	pthread_join(thread, NULL);
	sqlite3_finalize(s);
	for (long k = 0; k < n; k++) {
		late += !w.seen[k];
		lag[k] = w.seen[k] > at[k] ? w.seen[k] - at[k] : 0; /* it may be there before COMMIT returns */
	}
	if (late)
		fprintf(stderr, "bench_app: %ld of %ld commits never reached the log\n", late, n);
	qsort(lag, (size_t)n, sizeof(*lag), by_value);
	if (n)
		printf("{\"p50\": %.3f, \"p99\": %.3f, \"max\": %.3f, \"n\": %ld, \"rate\": %.0f}\n", lag[n / 2] * 1e3,
		       lag[n * 99 / 100] * 1e3, lag[n - 1] * 1e3, n, (double)n / seconds);
	check(sqlite3_close(db), "close");
	return late != 0;
}

static double bench_bulk(long rows)
{
	sqlite3_stmt *s = prepare("INSERT INTO t(id, v) VALUES (?1, ?2)");
	double start = now();
	int64_t base = (int64_t)(start * 1e6);

	run("BEGIN");
	for (long i = 0; i < rows; i++)
		insert(s, base + i, 104);
	run("COMMIT");
	sqlite3_finalize(s);
	return (double)rows / (now() - start);
}

/* Without a commit since the database was opened its WAL is empty: SQLite then asks for the file's size at each read. */
static double bench_read(double seconds, bool wrote)
{
	sqlite3_stmt *s;
	double start, end;
	long n = 0;

	run("BEGIN");
	s = prepare("INSERT OR IGNORE INTO t(id, v) VALUES (?1, ?2)");
	for (int i = 0; i < 100000; i++)
		insert(s, i, 104);
	sqlite3_finalize(s);
	run("COMMIT");
	if (wrote)
		run("UPDATE t SET v = randomblob(104) WHERE id = (SELECT min(id) FROM t)");
	s = prepare("SELECT length(v) FROM t WHERE id = ?1");
	start = now();
	for (end = start + seconds; now() < end;)
		for (int i = 0; i < 64; i++, n++) {
			sqlite3_bind_int64(s, 1, (int64_t)(rnd() % 100000));
			check(sqlite3_step(s), "select");
			sqlite3_reset(s);
		}
	sqlite3_finalize(s);
	return (double)n / (now() - start);
}

static double bench_fill(long megabytes)
{
	sqlite3_stmt *s;
	double start = now();
	int64_t id = 0;

	for (long m = 0; m < megabytes; m += 8) {
		run("BEGIN");
		s = prepare("INSERT INTO t(id, v) VALUES (?1, ?2)");
		for (int i = 0; i < 8 * 820; i++)
			insert(s, ++id, 1000);
		sqlite3_finalize(s);
		run("COMMIT");
	}
	return (double)megabytes / (now() - start);
}

int main(int argc, char **argv)
{
	char sql[200];
	double result;
	int uid;

	if (argc < 7) {
		fprintf(stderr, "usage: bench_app txn|bulk|read|read-only|fill DB JOURNAL SYNC N UID [RATE]\n");
		return 2;
	}
	uid = atoi(argv[6]);
	if (uid && (setgroups(0, NULL) < 0 || setgid((gid_t)uid) < 0 || setuid((uid_t)uid) < 0)) {
		perror("setuid");
		return 1;
	}
	check(sqlite3_open(argv[2], &db), "open");
	sqlite3_busy_timeout(db, 10000);
	snprintf(sql, sizeof(sql), "PRAGMA journal_mode=%s", argv[3]);
	run(sql);
	snprintf(sql, sizeof(sql), "PRAGMA synchronous=%s", argv[4]);
	run(sql);
	run("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v BLOB)");
	if (!strcmp(argv[1], "lag"))
		return argc > 8 ? bench_lag(atof(argv[5]), atof(argv[7]), argv[8]) : 2;
	if (!strcmp(argv[1], "txn"))
		result = bench_txn(atof(argv[5]), argc > 7 ? atof(argv[7]) : 0);
	else if (!strcmp(argv[1], "bulk"))
		result = bench_bulk(atol(argv[5]));
	else if (!strcmp(argv[1], "read"))
		result = bench_read(atof(argv[5]), true);
	else if (!strcmp(argv[1], "read-only"))
		result = bench_read(atof(argv[5]), false);
	else
		result = bench_fill(atol(argv[5]));
	printf("%.1f\n", result);
	check(sqlite3_close(db), "close");
	return 0;
}
