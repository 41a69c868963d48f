#include "fs/syncer.h"

#include "base/log.h"

#include <stdlib.h>

struct fs_sync_job {
	struct fs_sync_job *next;
	struct ltx_log *log;
	bool done;
	int rc;
	struct fz_err err;
};

void fs_syncer_init(struct fs_syncer *s)
{
	*s = (struct fs_syncer){.first = NULL};
	pthread_mutex_init(&s->mu, NULL);
	pthread_cond_init(&s->work, NULL);
	pthread_cond_init(&s->done, NULL);
}

static void run(void *arg)
{
	struct fs_syncer *s = arg;

	pthread_mutex_lock(&s->mu);
	for (;;) {
		struct fs_sync_job *job;
		int rc;

		s->idle++;
		while (!s->first && !s->stop)
			pthread_cond_wait(&s->work, &s->mu);
		s->idle--;
		job = s->first;
		if (!job)
			break;
		s->first = job->next;
		pthread_mutex_unlock(&s->mu);
		rc = ltx_log_sync(job->log, &job->err);
		ltx_log_put(job->log);
		pthread_mutex_lock(&s->mu);
		job->rc = rc;
		job->done = true;
		pthread_cond_broadcast(&s->done);
	}
	pthread_mutex_unlock(&s->mu);
}

void fs_syncer_fini(struct fs_syncer *s)
{
	pthread_mutex_lock(&s->mu);
	s->stop = true;
	pthread_cond_broadcast(&s->work);
	pthread_mutex_unlock(&s->mu);
	for (unsigned i = 0; i < s->started; i++)
		fz_worker_stop(&s->threads[i]);
	pthread_cond_destroy(&s->done);
	pthread_cond_destroy(&s->work);
	pthread_mutex_destroy(&s->mu);
}

struct fs_sync_job *fs_syncer_begin(struct fs_syncer *s, struct ltx_log *log)
{
	struct fs_sync_job *job = calloc(1, sizeof(*job));
	struct fz_err err = {0};

	pthread_mutex_lock(&s->mu);
	if (job && !s->idle && s->started < FS_SYNCERS &&
	    fz_worker_start(&s->threads[s->started], "fs-sync", run, s, &err) == 0)
		s->started++;
	if (!job || !s->started) {
		pthread_mutex_unlock(&s->mu);
		free(job);
		if (ltx_log_sync(log, &err) < 0)
			fz_log_err("log", &err);
		ltx_log_put(log);
		return NULL;
	}
	job->log = log;
	if (s->first)
		s->last->next = job;
	else
		s->first = job;
	s->last = job;
	pthread_cond_signal(&s->work);
	pthread_mutex_unlock(&s->mu);
	return job;
}

int fs_syncer_wait(struct fs_syncer *s, struct fs_sync_job *job, struct fz_err *err)
{
	int rc;

	if (!job)
		return 0;
	pthread_mutex_lock(&s->mu);
	while (!job->done)
		pthread_cond_wait(&s->done, &s->mu);
	pthread_mutex_unlock(&s->mu);
	rc = job->rc;
	if (rc < 0 && err)
		*err = job->err;
	free(job);
	return rc;
}
