/* applier_serve.c - the agent's end of applying: one thread for each database, so that none delays another; the main thread only
 * listens. An answer or a state that the socket does not take is tried again: applying never waits for the worker.
 *
 * SLACK  A database at rest has its WAL copied into it after a moment, and once a day, slowly, its pages compared with the log. */
#include "replica/applier.h"

#include "replica/applierpriv.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/worker.h"
#include "ltx/log.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LOCK_WAIT_MS  200 /* for locks that applications hold; then it is told and tried again */
#define RETRY_MS      50
#define RETRY_MAX_MS  5000
#define REST_MS       300 /* without news: the WAL is copied */
#define REST_STEP_MS  50
#define REST_MAX_MS   30000
#define SCRUB_AFTER_S 60
#define SCRUB_EACH_S  86400
#define SCRUB_PAGES   512 /* at once, each SCRUB_MS */
#define SCRUB_MS      50

struct agent;
struct db {
	struct db *next;
	struct agent *agent;
	char name[512], lineage[17];
	struct fz_worker worker;
	/* agent->mu */
	uint64_t wanted;
	uint64_t remove, detach, hold; /* numbers of the requests; 0 = none */
	bool report;                   /* the worker is new: tell the state */
	bool ended;                    /* the thread is about to end: to be joined */
	bool over;                     /* it takes no request any more */
	/* of the thread */
	struct ltx_log *log;
	struct replica_apply *apply;
	struct replica_apply_state told;
	struct fz_err err, told_err;
	bool untold;
	int64_t retry_ms;
	uint64_t rest_ns, rest_ms; /* next checkpoint at rest */
	uint64_t scrub_ns;         /* next piece of a scrub */
	bool rewind;               /* the log has been cut since */
	uint32_t scrub_pgno;
};
struct agent {
	int sock, mountfd, statefd;
	struct replica_fence *fences; /* each is its database's thread's */
	volatile bool stop;           /* written atomically */
	pthread_mutex_t mu;
	/* mu */
	struct db *dbs;
	uint64_t detach; /* the request that waits for every thread */
};

static bool tell(struct agent *g, const struct replica_applier_msg *m, int flags)
{
	ssize_t n;

	do
		n = send(g->sock, m, sizeof(*m), MSG_NOSIGNAL | flags);
	while (n < 0 && errno == EINTR);
	return n == sizeof(*m);
}

static void done(struct agent *g, uint64_t number, const struct fz_err *err)
{
	struct replica_applier_msg m = {.version = REPLICA_APPLIER_VERSION, .type = REPLICA_APPLIER_DONE};

	m.number = number;
	if (err && err->code) {
		m.code = err->code;
		memcpy(m.text, err->text, sizeof(err->text));
	}
	if (!tell(g, &m, 0) && errno != EPIPE && errno != ECONNRESET)
		fz_warn("the worker does not hear: %s", fz_strerror(-errno));
}

/* The process's credentials go with it: the kernel vouches for the pid. */
static void hello(struct agent *g)
{
	union {
		char bytes[CMSG_SPACE(sizeof(struct ucred))];
		struct cmsghdr align;
	} control = {{0}};
	struct replica_applier_msg m = {.version = REPLICA_APPLIER_VERSION, .type = REPLICA_APPLIER_HELLO};
	struct iovec iov = {&m, sizeof(m)};
	struct msghdr h = {
	        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&h);
	struct ucred u = {getpid(), geteuid(), getegid()};

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_CREDENTIALS;
	c->cmsg_len = CMSG_LEN(sizeof(u));
	memcpy(CMSG_DATA(c), &u, sizeof(u));
	if (sendmsg(g->sock, &h, MSG_NOSIGNAL) < 0 && errno != EPIPE)
		fz_warn("cannot say hello to the worker: %s", fz_strerror(-errno));
}

/* ---- a database's thread ---- */
static void report(struct db *d)
{
	struct replica_applier_msg m = {.version = REPLICA_APPLIER_VERSION, .type = REPLICA_APPLIER_STATE};
	struct replica_apply_state s = d->told;

	if (d->apply)
		replica_apply_get(d->apply, &s);
	if (!d->untold && !memcmp(&s, &d->told, sizeof(s)) && d->err.code == d->told_err.code)
		return;
	memcpy(m.lineage, d->lineage, sizeof(m.lineage));
	m.number = d->rewind;
	m.state = s;
	m.code = d->err.code;
	if (d->err.code)
		memcpy(m.text, d->err.text, sizeof(d->err.text));
	d->untold = !tell(d->agent, &m, MSG_DONTWAIT);
	d->told = s;
	d->told_err = d->err;
}

static int attach(struct db *d, bool to_remove, struct fz_err *err)
{
	struct replica_apply_conf conf = {.mountfd = d->agent->mountfd, .name = d->name, .to_remove = to_remove};
	int rc = d->log ? 0 : ltx_log_open_lineage(&d->log, d->agent->statefd, d->lineage, err);

	conf.log = d->log;
	for (conf.fence = d->agent->fences; conf.fence && strcmp(conf.fence->name, d->name);)
		conf.fence = conf.fence->next;
	if (rc == 0 && !d->apply)
		rc = replica_apply_open(&d->apply, &conf, LOCK_WAIT_MS, err);
	if (rc == 0 && !d->scrub_ns)
		d->scrub_ns = fz_mono_ns() + SCRUB_AFTER_S * UINT64_C(1000000000);
	return rc;
}

static void release(struct db *d, bool checkpointed)
{
	if (d->apply)
		replica_apply_get(d->apply, &d->told);
	replica_apply_close(d->apply, checkpointed);
	d->apply = NULL;
	ltx_log_put(d->log);
	d->log = NULL;
	d->scrub_ns = 0;
	d->scrub_pgno = 0;
}

static void apply(struct db *d, uint64_t wanted)
{
	int rc = attach(d, false, &d->err);

	if (rc == 0 && d->rewind) /* which may have ended where it ends now, and be another one */
		rc = ltx_log_reload(d->log, &d->err);
	if (rc == 0 && d->rewind)
		rc = replica_apply_rewind(d->apply, &d->agent->stop, &d->err);
	if (rc == 0) {
		d->untold |= d->rewind;
		d->rewind = false;
	}
	if (rc == 0)
		rc = replica_apply_run(d->apply, wanted, &d->agent->stop, &d->err);
	if (rc < 0) {
		if (d->told_err.code != d->err.code)
			fz_log_err(fz_log_db(d->name), &d->err);
		d->retry_ms = !d->retry_ms ? RETRY_MS : d->retry_ms < RETRY_MAX_MS ? 2 * d->retry_ms : d->retry_ms;
	} else {
		d->err.code = 0;
		d->retry_ms = 0;
	}
	d->rest_ms = REST_MS;
	d->rest_ns = fz_mono_ns() + d->rest_ms * 1000000u;
	report(d);
}

/* Nothing new: returns how long to sleep. */
static int64_t at_rest(struct db *d)
{
	uint64_t now = fz_mono_ns(), next;
	struct replica_apply_state s;
	struct fz_err err;

	if (!d->apply) {
		report(d);
		return d->untold ? 5 : d->retry_ms ? d->retry_ms : -1;
	}
	replica_apply_get(d->apply, &s);
	if (now >= d->rest_ns && s.wal_bytes) {
		replica_apply_rest(d->apply);
		replica_apply_get(d->apply, &s);
		d->rest_ms = !s.readers_hold_wal        ? REST_STEP_MS
		             : d->rest_ms < REST_MAX_MS ? 2 * d->rest_ms
		                                        : d->rest_ms;
		d->rest_ns = now + d->rest_ms * 1000000u;
	}
	if (d->scrub_ns && now >= d->scrub_ns) {
		if (replica_apply_scrub(d->apply, &d->scrub_pgno, SCRUB_PAGES, &err) < 0)
			fz_log_err(fz_log_db(d->name), &err);
		d->scrub_ns = now + (d->scrub_pgno ? SCRUB_MS * 1000000u : SCRUB_EACH_S * UINT64_C(1000000000));
	}
	report(d);
	next = d->scrub_ns;
	if (s.wal_bytes && d->rest_ns < next)
		next = d->rest_ns;
	if (d->untold)
		return 5;
	if (d->retry_ms)
		return d->retry_ms;
	return next > now ? (int64_t)((next - now) / 1000000u) + 1 : 0;
}

static void finish_detach(struct db *d, uint64_t number)
{
	struct agent *g = d->agent;
	uint64_t answer = 0;

	pthread_mutex_lock(&g->mu);
	if (d->detach == number)
		d->detach = 0;
	for (struct db *o = g->dbs; o; o = o->next)
		if (o->detach && !o->ended)
			number = 0;
	if (number && g->detach) {
		answer = g->detach;
		g->detach = 0;
	}
	pthread_mutex_unlock(&g->mu);
	if (answer)
		done(g, answer, NULL);
}

/* What was applied of a log that is about to be cut. */
static int give_up(struct db *d, struct fz_err *err)
{
	struct ltx_log *log = d->log;
	int rc = log ? 0 : ltx_log_open_lineage(&log, d->agent->statefd, d->lineage, err);

	if (rc == 0)
		rc = replica_apply_hold(d->apply, log, err);
	if (log != d->log)
		ltx_log_put(log);
	return rc == -FZ_ENOTFOUND ? 0 : rc;
}

/* Nothing applies that log any more: who asked for that while the thread was ending is answered too. */
static void end_holds(struct db *d)
{
	uint64_t hold;

	pthread_mutex_lock(&d->agent->mu);
	d->over = true;
	hold = d->hold;
	d->hold = 0;
	pthread_mutex_unlock(&d->agent->mu);
	if (hold)
		done(d->agent, hold, NULL);
}

static void run(void *arg)
{
	struct db *d = arg;
	struct agent *g = d->agent;
	int64_t ms = 0;

	while (fz_worker_wait(&d->worker, ms)) {
		uint64_t wanted, remove, detach, hold;

		pthread_mutex_lock(&g->mu);
		wanted = d->wanted;
		remove = d->remove;
		detach = d->detach;
		hold = d->hold;
		d->hold = 0;
		if (hold)
			wanted = d->wanted = 0;
		d->untold |= d->report;
		d->report = false;
		if (detach)
			d->wanted = 0;
		if (remove)
			d->ended = true;
		pthread_mutex_unlock(&g->mu);
		if (remove) {
			struct fz_err err = {0};
			int rc = attach(d, true, &err);

			if (rc == 0)
				rc = replica_apply_remove(d->apply, &err);
			release(d, false);
			done(g, remove, rc < 0 ? &err : NULL);
			if (detach)
				finish_detach(d, detach);
			if (hold)
				done(g, hold, rc < 0 ? &err : NULL);
			end_holds(d);
			return;
		}
		if (hold) {
			struct fz_err err = {0};
			int rc = give_up(d, &err);

			d->rewind = d->apply != NULL; /* attaching looks at every page anyway */
			if (!d->apply)
				d->told = (struct replica_apply_state){0};
			d->retry_ms = 0;
			done(g, hold, rc < 0 ? &err : NULL);
		}
		/* before it is let go the database is what the log says, or a capture would go on from what was cut off */
		if ((wanted || (detach && d->rewind)) &&
		    (!d->apply || d->rewind || d->retry_ms || d->told.txid != wanted))
			apply(d, wanted);
		if (detach) {
			release(d, true);
			d->untold = true;
			report(d);
			finish_detach(d, detach);
		}
		ms = at_rest(d);
	}
	release(d, false);
}

/* ---- messages ---- */

/* Those whose thread has ended go. */
static void reap(struct agent *g, bool all)
{
	struct db **at = &g->dbs, *d;

	pthread_mutex_lock(&g->mu);
	while ((d = *at)) {
		if (!all && !d->ended) {
			at = &d->next;
			continue;
		}
		*at = d->next;
		pthread_mutex_unlock(&g->mu);
		fz_worker_stop(&d->worker);
		free(d);
		pthread_mutex_lock(&g->mu);
		at = &g->dbs;
	}
	pthread_mutex_unlock(&g->mu);
}

static struct db *find_or_start(struct agent *g, const struct replica_applier_msg *m, struct fz_err *err)
{
	struct db *d;

	for (d = g->dbs; d; d = d->next)
		if (!strcmp(d->lineage, m->lineage))
			return d;
	d = calloc(1, sizeof(*d));
	if (!d) {
		(void)fz_fail_errno(err, ENOMEM, "applying to %s", m->text);
		return NULL;
	}
	d->agent = g;
	memcpy(d->name, m->text, sizeof(m->text));
	memcpy(d->lineage, m->lineage, sizeof(m->lineage));
	if (fz_worker_start(&d->worker, "apply", run, d, err) < 0) {
		free(d);
		return NULL;
	}
	pthread_mutex_lock(&g->mu);
	d->next = g->dbs;
	g->dbs = d;
	pthread_mutex_unlock(&g->mu);
	return d;
}

static void on_message(struct agent *g, const struct replica_applier_msg *m)
{
	struct fz_err err = {0};
	struct db *d = NULL;
	bool held = false;

	reap(g, false);
	if (m->type == REPLICA_APPLIER_POST || m->type == REPLICA_APPLIER_REMOVE || m->type == REPLICA_APPLIER_HOLD) {
		d = find_or_start(g, m, &err);
		if (!d) {
			fz_log_err("applying", &err);
			if (m->number)
				done(g, m->number, &err);
			return;
		}
	}
	if (m->type == REPLICA_APPLIER_HI)
		hello(g);
	pthread_mutex_lock(&g->mu);
	if (m->type == REPLICA_APPLIER_POST) {
		d->wanted = m->txid;
		d->report = true; /* also when there is nothing to do: a new worker wants to hear it */
	} else if (m->type == REPLICA_APPLIER_REMOVE) {
		d->remove = m->number;
	} else if (m->type == REPLICA_APPLIER_HOLD) {
		held = d->over;
		d->hold = held ? 0 : m->number;
	} else if (m->type == REPLICA_APPLIER_DETACH) {
		g->detach = m->number;
	}
	for (struct db *o = g->dbs; o; o = o->next) {
		if (m->type == REPLICA_APPLIER_DETACH && !o->ended)
			o->detach = m->number;
		if (m->type == REPLICA_APPLIER_HI)
			o->report = true;
		if (o == d || m->type == REPLICA_APPLIER_DETACH || m->type == REPLICA_APPLIER_HI)
			fz_worker_kick(&o->worker);
	}
	pthread_mutex_unlock(&g->mu);
	if (held)
		done(g, m->number, NULL);
	if (m->type == REPLICA_APPLIER_DETACH) { /* nobody to wait for? */
		struct db nobody = {.agent = g};

		finish_detach(&nobody, m->number);
	}
}

int replica_applier_serve(int sock, int mountfd, int statefd, struct replica_fence *fences, struct fz_err *err)
{
	struct agent g = {.sock = sock, .mountfd = mountfd, .statefd = statefd, .fences = fences};
	int rc = 0;

	pthread_mutex_init(&g.mu, NULL);
	hello(&g);
	for (;;) {
		struct replica_applier_msg m;
		struct pollfd p = {sock, POLLIN, 0};
		ssize_t n;

		if (poll(&p, 1, -1) < 0)
			continue;
		n = recv(sock, &m, sizeof(m), MSG_DONTWAIT);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n < 0 && errno != ECONNRESET)
			rc = fz_fail_errno(err, errno, "cannot hear the worker");
		if (n <= 0)
			break;
		if (n != sizeof(m) || m.version != REPLICA_APPLIER_VERSION) {
			fz_warn("a message of %zd bytes from the worker is of another version", n);
			continue;
		}
		m.lineage[sizeof(m.lineage) - 1] = 0;
		m.text[sizeof(m.text) - 1] = 0;
		on_message(&g, &m);
	}
	__atomic_store_n(&g.stop, true, __ATOMIC_RELAXED);
	reap(&g, true);
	pthread_mutex_destroy(&g.mu);
	return rc;
}
