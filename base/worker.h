/* worker.h - the one kind of thread: named, started, told to stop, joined. docs/threads.md has the table of all. */
#ifndef FZ_BASE_WORKER_H
#define FZ_BASE_WORKER_H

#include "base/err.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct fz_worker {
	pthread_t thread;
	pthread_mutex_t mu;
	pthread_cond_t cond; /* CLOCK_MONOTONIC */
	bool started;
	bool stop; /* under mu */
	bool kick; /* under mu: somebody wants an early wake-up */
	void (*run)(void *arg);
	void *arg;
	char name[16];
};

/* Starts run(arg) in a thread named name (up to 15 bytes), all signals blocked. */
int fz_worker_start(struct fz_worker *w, const char *name, void (*run)(void *arg), void *arg,
                    struct fz_err *err) FZ_MUST_CHECK;
/* Sleeps up to ms (-1 = for ever) or until kicked or stopped. Returns false once the worker shall end. */
bool fz_worker_wait(struct fz_worker *w, int64_t ms);
bool fz_worker_stopping(struct fz_worker *w);
void fz_worker_kick(struct fz_worker *w);
/* Tells it to stop and joins it. Safe on a zeroed or already stopped worker. */
void fz_worker_stop(struct fz_worker *w);

#endif
