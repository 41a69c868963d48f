#include "primary/acks.h"

#include "base/clock.h"
#include "base/log.h"
#include "ltx/log.h"
#include "primary/ackstate.h"
#include "primary/server.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TIMEOUT_MS   2000
#define KILLED_STEPS 10 /* between two looks whether who waits was killed */
#define STEP_MS      20 /* at most between two looks at stop, and at what the log has */
#define MS_NS        UINT64_C(1000000)

struct database {
	struct database *next;
	char name[512];
	struct primary_ackstate state;
	unsigned waiting;
	uint64_t since_ns; /* the first of those that wait */
};
struct primary_acks {
	struct primary_acks_conf conf;
	_Atomic(struct primary_server *) server;
	atomic_bool refused;
	pthread_mutex_t mu; /* guards the rest */
	struct database *dbs;
	unsigned waiting;
	bool crowded; /* said so */
};

int primary_acks_open(struct primary_acks **out, const struct primary_acks_conf *conf, struct fz_err *err)
{
	struct primary_acks *a = calloc(1, sizeof(*a));

	if (!a)
		return fz_fail_errno(err, ENOMEM, "waiting for replicas");
	a->conf = *conf;
	if (!a->conf.timeout_ms)
		a->conf.timeout_ms = TIMEOUT_MS;
	pthread_mutex_init(&a->mu, NULL);
	*out = a;
	return 0;
}

void primary_acks_close(struct primary_acks *a)
{
	struct database *d;

	if (!a)
		return;
	while ((d = a->dbs)) {
		a->dbs = d->next;
		free(d);
	}
	pthread_mutex_destroy(&a->mu);
	free(a);
}

void primary_acks_serve(struct primary_acks *a, struct primary_server *server)
{
	atomic_store(&a->server, server);
}

void primary_acks_refuse(struct primary_acks *a)
{
	atomic_store(&a->refused, true);
}

static struct database *database_locked(struct primary_acks *a, const char *name)
{
	struct database *d;

	for (d = a->dbs; d; d = d->next)
		if (strcmp(d->name, name) == 0)
			return d;
	d = calloc(1, sizeof(*d));
	if (!d)
		return NULL;
	memccpy(d->name, name, 0, sizeof(d->name) - 1);
	d->next = a->dbs;
	a->dbs = d;
	return d;
}

static uint64_t tail_of(struct ltx_log *log)
{
	struct ltx_log_info info = {0};

	if (log)
		ltx_log_info(log, &info);
	return info.tail_txid;
}

/* Whether it is in step; says so when it is again. */
static bool look(struct primary_acks *a, struct database *d, const struct primary_acks_want *w)
{
	struct primary_server *server = atomic_load(&a->server);
	uint64_t durable = 0, tail = tail_of(w->log);
	bool have = server && w->log && primary_server_durable(server, w->lineage, a->conf.n, &durable);
	uint64_t commits;
	int64_t since_ms;
	bool was, is;

	pthread_mutex_lock(&a->mu);
	was = !d->state.degraded;
	is = primary_ackstate_look(&d->state, have, durable, tail, fz_mono_ns());
	commits = d->state.commits;
	since_ms = d->state.since_ms;
	pthread_mutex_unlock(&a->mu);
	if (is && !was)
		fz_info("%s: replicas have caught up: commits wait for them again, after %lld ms and %llu commits that "
		        "did "
		        "not",
		        fz_log_db(d->name), (long long)(fz_now_ms() - since_ms), (unsigned long long)commits);
	return is;
}

/* Not held in time. */
static void late(struct primary_acks *a, struct database *d, const struct primary_acks_want *w, const char *why)
{
	uint64_t tail = tail_of(w->log);
	bool was;

	pthread_mutex_lock(&a->mu);
	was = d->state.degraded;
	primary_ackstate_late(&d->state, tail, fz_now_ms(), fz_mono_ns());
	pthread_mutex_unlock(&a->mu);
	if (!was)
		fz_warn("%s: %s: commits go on without waiting for replicas, until %u have caught up",
		        fz_log_db(d->name), why, a->conf.n);
}

/* SIGKILL is pending for that thread. Where /proc is closed to us nobody is ever seen to be killed. */
static bool killed(int pid)
{
	char path[40], line[256];
	unsigned long long set;
	bool is = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	f = pid > 0 ? fopen(path, "re") : NULL;
	while (f && !is && fgets(line, sizeof(line), f))
		is = (sscanf(line, "SigPnd: %llx", &set) == 1 || sscanf(line, "ShdPnd: %llx", &set) == 1) &&
		     (set & (1ull << (SIGKILL - 1)));
	if (f)
		fclose(f);
	return is;
}

/* One step; 1 = not yet. */
static int step(struct primary_acks *a, const struct primary_acks_want *w, uint64_t end_ns)
{
	struct primary_server *server = atomic_load(&a->server);
	uint64_t now = fz_mono_ns(), until = now + STEP_MS * MS_NS, lease = w->until_ns ? atomic_load(w->until_ns) : 0;
	bool lapsed = lease && fz_boot_ns() >= lease;

	if (atomic_load(&a->refused))
		return -EIO;
	if (atomic_load(w->stop))
		return -ECANCELED;
	if (until > end_ns)
		until = end_ns > now ? end_ns : now;
	if (lapsed)
		until = now;
	if (!server || !w->log)
		(void)!poll(NULL, 0, (int)((until - now) / MS_NS));
	if (!w->log)
		return lapsed ? -EIO : -EAGAIN;
	if (server && primary_server_holders(server, w->lineage, w->txid, w->checksum, a->conf.n, until) >= a->conf.n)
		return 0;
	/* decided without an answer: another connection, at NORMAL, has asked for less */
	if (!w->committed && tail_of(w->log) >= w->txid)
		return 0;
	return lapsed ? -EIO : 1;
}

static bool enter(struct primary_acks *a, struct database *d)
{
	bool may, told = false;

	pthread_mutex_lock(&a->mu);
	may = a->waiting < PRIMARY_ACKS_WAITERS;
	if (may) {
		a->waiting++;
		if (d->waiting++ == 0)
			d->since_ns = fz_mono_ns();
	} else {
		told = a->crowded;
		a->crowded = true;
	}
	pthread_mutex_unlock(&a->mu);
	if (!may && !told)
		fz_error("%u commits wait for replicas: no further one may wait, so that the mount goes on",
		         PRIMARY_ACKS_WAITERS);
	return may;
}

static void leave(struct primary_acks *a, struct database *d)
{
	pthread_mutex_lock(&a->mu);
	a->waiting--;
	d->waiting--;
	a->crowded = false;
	pthread_mutex_unlock(&a->mu);
}

int primary_acks_wait(struct primary_acks *a, const struct primary_acks_want *w)
{
	uint64_t limit_ns = (uint64_t)a->conf.timeout_ms * MS_NS, end_ns;
	bool on = a->conf.wait && !w->bounded;
	struct database *d;
	int rc = 1;

	pthread_mutex_lock(&a->mu);
	d = database_locked(a, w->name); /* never removed */
	pthread_mutex_unlock(&a->mu);
	if (!d)
		return -EIO;
	if (!look(a, d, w)) {
		pthread_mutex_lock(&a->mu);
		primary_ackstate_pass(&d->state);
		pthread_mutex_unlock(&a->mu);
		return atomic_load(&a->refused) ? -EIO : 0;
	}
	if (!enter(a, d)) {
		if (on)
			return -EIO;
		late(a, d, w, "too many commits wait already");
		return 0;
	}
	end_ns = (w->since_ns ? w->since_ns : fz_mono_ns()) + limit_ns;
	for (unsigned n = 1; rc > 0; n++) {
		rc = step(a, w, on ? UINT64_MAX : end_ns);
		if (rc > 0 && n % KILLED_STEPS == 0 && killed(w->pid))
			rc = -EINTR;
		if ((rc > 0 || rc == -EAGAIN) && !on && fz_mono_ns() >= end_ns) {
			late(a, d, w,
			     w->log ? "not enough replicas hold a commit in time"
			            : "it cannot be sent to replicas yet");
			rc = 0;
		}
	}
	leave(a, d);
	return rc;
}

/* ---- status ---- */

static int add(struct cJSON *list, const struct database *d)
{
	cJSON *o = cJSON_CreateObject();

	if (!o || !cJSON_AddItemToArray(list, o))
		return -ENOMEM;
	cJSON_AddStringToObject(o, "name", d->name);
	cJSON_AddBoolToObject(o, "degraded", d->state.degraded);
	cJSON_AddNumberToObject(o, "since_ms", d->state.degraded ? (double)d->state.since_ms : 0);
	cJSON_AddNumberToObject(o, "degraded_commits", d->state.degraded ? (double)d->state.commits : 0);
	cJSON_AddNumberToObject(o, "unacknowledged_commits", (double)d->state.total);
	cJSON_AddNumberToObject(o, "waiting", d->waiting);
	return cJSON_AddNumberToObject(o, "waiting_ms", d->waiting ? (double)((fz_mono_ns() - d->since_ns) / MS_NS) : 0)
	               ? 0
	               : -ENOMEM;
}

/* Back in step without a commit that asks: who looks at the status shall see what is. */
static void look_at_all(struct primary_acks *a, struct ltx_logset *logs)
{
	struct ltx_log *log;

	for (size_t i = 0; logs && (log = ltx_logset_at(logs, i)); i++) {
		struct ltx_log_info info;
		struct database *d;

		ltx_log_info(log, &info);
		pthread_mutex_lock(&a->mu);
		for (d = a->dbs; d && strcmp(d->name, info.name) != 0; d = d->next)
			;
		pthread_mutex_unlock(&a->mu);
		if (d && !info.ended_ms)
			(void)look(a, d, &(struct primary_acks_want){.log = log, .lineage = info.lineage});
		ltx_log_put(log);
	}
}

int primary_acks_status(struct primary_acks *a, struct ltx_logset *logs, struct cJSON *object)
{
	cJSON *list = cJSON_CreateArray();
	uint64_t commits = 0;
	int64_t since_ms = 0;
	unsigned waiting;
	int rc = 0;

	look_at_all(a, logs);
	pthread_mutex_lock(&a->mu);
	for (struct database *d = a->dbs; rc == 0 && d; d = d->next) {
		rc = add(list, d);
		if (!d->state.degraded)
			continue;
		commits += d->state.commits;
		if (!since_ms || d->state.since_ms < since_ms)
			since_ms = d->state.since_ms;
	}
	waiting = a->waiting;
	pthread_mutex_unlock(&a->mu);
	cJSON_AddNumberToObject(object, "replicas", a->conf.n);
	cJSON_AddStringToObject(object, "policy", a->conf.wait ? "wait" : "degrade");
	cJSON_AddNumberToObject(object, "timeout_ms", (double)a->conf.timeout_ms);
	cJSON_AddBoolToObject(object, "degraded", since_ms != 0);
	cJSON_AddNumberToObject(object, "since_ms", (double)since_ms);
	cJSON_AddNumberToObject(object, "degraded_commits", (double)commits);
	cJSON_AddNumberToObject(object, "waiting", waiting);
	return cJSON_AddItemToObject(object, "databases", list) && rc == 0 ? 0 : -ENOMEM;
}
