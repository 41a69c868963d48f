#include "base/worker.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static void *enter(void *arg)
{
	struct fz_worker *w = arg;

	pthread_setname_np(pthread_self(), w->name);
	w->run(w->arg);
	return NULL;
}

int fz_worker_start(struct fz_worker *w, const char *name, void (*run)(void *arg), void *arg, struct fz_err *err)
{
	pthread_condattr_t ca;
	sigset_t all, old;
	int rc;

	memset(w, 0, sizeof(*w));
	snprintf(w->name, sizeof(w->name), "%s", name);
	w->run = run;
	w->arg = arg;
	pthread_mutex_init(&w->mu, NULL);
	pthread_condattr_init(&ca);
	pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
	pthread_cond_init(&w->cond, &ca);
	pthread_condattr_destroy(&ca);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	w->started = true; /* before it runs: others may kick it once they see what it does */
	rc = pthread_create(&w->thread, NULL, enter, w);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc) {
		w->started = false;
		return fz_fail_errno(err, rc, "cannot start thread %s", name);
	}
	return 0;
}

bool fz_worker_wait(struct fz_worker *w, int64_t ms)
{
	bool go_on;

	pthread_mutex_lock(&w->mu);
	if (ms < 0) {
		while (!w->stop && !w->kick)
			pthread_cond_wait(&w->cond, &w->mu);
	} else {
		struct timespec t;

		clock_gettime(CLOCK_MONOTONIC, &t);
		t.tv_sec += ms / 1000;
		t.tv_nsec += ms % 1000 * 1000000;
		if (t.tv_nsec >= 1000000000) {
			t.tv_nsec -= 1000000000;
			t.tv_sec++;
		}
		while (!w->stop && !w->kick)
			if (pthread_cond_timedwait(&w->cond, &w->mu, &t) == ETIMEDOUT)
				break;
	}
	w->kick = false;
	go_on = !w->stop;
	pthread_mutex_unlock(&w->mu);
	return go_on;
}

bool fz_worker_stopping(struct fz_worker *w)
{
	bool stop;

	pthread_mutex_lock(&w->mu);
	stop = w->stop;
	pthread_mutex_unlock(&w->mu);
	return stop;
}

void fz_worker_kick(struct fz_worker *w)
{
	if (!w->started)
		return;
	pthread_mutex_lock(&w->mu);
	w->kick = true;
	pthread_cond_signal(&w->cond);
	pthread_mutex_unlock(&w->mu);
}

void fz_worker_stop(struct fz_worker *w)
{
	if (!w->started)
		return;
	pthread_mutex_lock(&w->mu);
	w->stop = true;
	pthread_cond_signal(&w->cond);
	pthread_mutex_unlock(&w->mu);
	pthread_join(w->thread, NULL);
	w->started = false;
	pthread_mutex_destroy(&w->mu);
	pthread_cond_destroy(&w->cond);
}
