/* bench_sql.h - a clock and one database, whose errors end the program: for the benchmarks' applications. */
#ifndef FZ_TESTS_BENCH_SQL_H
#define FZ_TESTS_BENCH_SQL_H

#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static inline double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static sqlite3 *db;

static inline void check(int rc, const char *what)
{
	if (rc != SQLITE_OK && rc != SQLITE_DONE && rc != SQLITE_ROW) {
		fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, sqlite3_errmsg(db));
		exit(1);
	}
}

static inline void run(const char *sql)
{
	check(sqlite3_exec(db, sql, NULL, NULL, NULL), sql);
}

static inline sqlite3_stmt *prepare(const char *sql)
{
	sqlite3_stmt *s;

	check(sqlite3_prepare_v2(db, sql, -1, &s, NULL), sql);
	return s;
}

#endif
