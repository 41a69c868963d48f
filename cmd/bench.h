/* bench.h - `fazt bench`: SQLite's speed on a disk, natively and on a mount. What is measured (cmd/bench_work.c), and where
 * (cmd/bench_place.c). */
#ifndef FZ_CMD_BENCH_H
#define FZ_CMD_BENCH_H

#include "cmd/where.h"

#include <stdbool.h>
#include <sys/types.h>

enum cmd_bench_kind { BENCH_TXN, BENCH_BULK, BENCH_READ, BENCH_READ_ONLY };

struct cmd_bench_work {
	const char *name;
	enum cmd_bench_kind kind;
	const char *journal, *sync;
};
extern const struct cmd_bench_work cmd_bench_works[];
extern const size_t cmd_bench_n_works;

/* Runs one work on the database path in a child process with that user, and gives what it did a second. The database is made when it is
 * missing. A signal in *stop ends the child: -EINTR. The child uses SQLite and nothing of fazt. */
int cmd_bench_run(const struct cmd_bench_work *w, const char *path, double seconds, uid_t uid, gid_t gid,
                  const volatile int *stop, double *per_second, struct fz_err *err) FZ_MUST_CHECK;
/* Median time of a small write with fdatasync in dir, in microseconds. */
int cmd_bench_fsync(const char *dir, double *us, struct fz_err *err) FZ_MUST_CHECK;
/* Of n > 0 values, which are sorted. */
double cmd_bench_median(double *v, size_t n);

struct cmd_bench_place {
	/* set by the caller */
	const char *dir, *scratch; /* scratch: where to make directories instead, or NULL */
	bool live, no_passthrough; /* live: in the mount that dir is */
	/* found */
	char base[PATH_MAX], native[PATH_MAX + 16], mount[PATH_MAX + 16]; /* "" = not made */
	uid_t uid;                                                        /* of dir: who the application probably is */
	gid_t gid;
	bool mounted, passthrough;
	struct cmd_where where;
};
/* Makes two directories on dir's filesystem, one of them on a mount: of its own, with a directory as target, or (live) the one that is
 * there. cmd_bench_leave() in any case. */
int cmd_bench_enter(struct cmd_bench_place *p, struct fz_err *err) FZ_MUST_CHECK;
int cmd_bench_leave(struct cmd_bench_place *p, struct fz_err *err) FZ_MUST_CHECK;

#endif
