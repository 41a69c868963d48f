/* applier.c - the worker's end of applying. What was posted is kept here until the agent says it again: an agent that dies is replaced
 * behind the same socket, says hello, and is told everything anew. Posts are sent without waiting; what the socket does not
 * take is sent by the reading thread when it does. */
#include "replica/applier.h"

#include "replica/applierpriv.h"

#include "base/array.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/worker.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define RETRY_MS 1000

struct known {
	uint64_t wanted, sent; /* wanted 0: nothing to say */
	bool told;             /* applied is what the agent said */
	struct replica_applied applied;
};
struct request { /* on the stack of who waits */
	struct request *next;
	struct replica_applier_msg m;
	bool sent, done;
	struct fz_err err;
};
struct removal {
	struct removal *next;
	struct replica_applier_msg m;
	bool sent;
	uint64_t retry_ns; /* the agent could not: asked again then; 0 = it has not said so */
	int told;          /* code of the error that was logged last */
};
struct replica_applier {
	int fd, wake;
	struct replica_applier_events *events;
	struct fz_worker worker;
	pthread_mutex_t mu;
	pthread_cond_t cond;
	/* mu */
	struct known *known;
	size_t n, cap;
	struct request *requests;
	struct removal *removals;
	uint64_t number;
	int pid;
	bool greeted; /* the agent is there, and events->hello() has returned */
	bool blocked; /* the socket takes no more just now */
	bool gone;    /* nobody is at the other end any more */
};

static struct known *find_locked(struct replica_applier *a, const char *lineage)
{
	for (size_t i = 0; i < a->n; i++)
		if (!strcmp(a->known[i].applied.lineage, lineage))
			return &a->known[i];
	return NULL;
}

static void wake(struct replica_applier *a)
{
	uint64_t one = 1;

	if (write(a->wake, &one, sizeof(one)) < 0)
		fz_debug("the applier's thread is awake already");
}

/* False when it must be sent later. */
static bool send_locked(struct replica_applier *a, const struct replica_applier_msg *m)
{
	if (a->gone)
		return false;
	while (send(a->fd, m, sizeof(*m), MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
		if (errno == EINTR)
			continue;
		if (errno == EAGAIN || errno == ENOBUFS) {
			a->blocked = true;
			wake(a);
		}
		return false;
	}
	return true;
}

static bool leaves_locked(const struct replica_applier *a, const char *name)
{
	const struct removal *r = a->removals;

	while (r && strcmp(r->m.text, name) != 0)
		r = r->next;
	return r != NULL;
}

static void flush_locked(struct replica_applier *a)
{
	uint64_t now = a->removals ? fz_mono_ns() : 0;

	if (!a->greeted)
		return;
	a->blocked = false;
	for (struct request *r = a->requests; r && !a->blocked; r = r->next)
		if (!r->sent && !r->done)
			r->sent = send_locked(a, &r->m);
	for (struct removal *r = a->removals; r && !a->blocked; r = r->next)
		if (!r->sent && now >= r->retry_ns)
			r->sent = send_locked(a, &r->m);
	for (size_t i = 0; i < a->n && !a->blocked; i++) {
		struct known *k = &a->known[i];
		struct replica_applier_msg m = {.version = REPLICA_APPLIER_VERSION, .type = REPLICA_APPLIER_POST};

		if (!k->wanted || k->wanted == k->sent || leaves_locked(a, k->applied.name))
			continue;
		m.txid = k->wanted;
		memcpy(m.lineage, k->applied.lineage, sizeof(m.lineage));
		memcpy(m.text, k->applied.name, strlen(k->applied.name) + 1);
		if (send_locked(a, &m))
			k->sent = k->wanted;
	}
}

/* ---- what the agent says ---- */
static void on_hello(struct replica_applier *a, int pid)
{
	pthread_mutex_lock(&a->mu);
	a->greeted = false;
	a->pid = pid;
	pthread_mutex_unlock(&a->mu);
	if (a->events && a->events->hello)
		a->events->hello(a->events, pid);
	pthread_mutex_lock(&a->mu);
	a->greeted = true;
	for (size_t i = 0; i < a->n; i++)
		a->known[i].sent = 0;
	for (struct request *r = a->requests; r; r = r->next)
		r->sent = false;
	for (struct removal *r = a->removals; r; r = r->next)
		r->sent = false;
	flush_locked(a);
	pthread_mutex_unlock(&a->mu);
}

static void on_state(struct replica_applier *a, const struct replica_applier_msg *m)
{
	struct replica_applied now;
	struct known *k;

	pthread_mutex_lock(&a->mu);
	k = find_locked(a, m->lineage);
	if (k) {
		k->told = !m->number;
		k->applied.state = m->state;
		memset(&k->applied.err, 0, sizeof(k->applied.err));
		if (m->code)
			(void)fz_fail(&k->applied.err, -m->code, "%s", m->text);
		now = k->applied;
	}
	pthread_mutex_unlock(&a->mu);
	if (k && a->events && a->events->applied)
		a->events->applied(a->events, &now);
}

/* An answer to a removal: whose it was, taken off the list when it is done. */
static struct removal *answered_locked(struct replica_applier *a, const struct replica_applier_msg *m)
{
	struct removal **at = &a->removals, *r;

	while ((r = *at) && r->m.number != m->number)
		at = &r->next;
	if (!r)
		return NULL;
	if (!m->code) {
		*at = r->next;
		pthread_cond_broadcast(&a->cond);
		flush_locked(a); /* what waited for its name */
		return r;
	}
	if (r->told != m->code)
		fz_warn("%s: the deleted database cannot be removed yet: %s", r->m.text, m->text);
	r->told = m->code;
	r->sent = false;
	r->retry_ns = fz_mono_ns() + RETRY_MS * UINT64_C(1000000);
	return NULL;
}

static void on_done(struct replica_applier *a, const struct replica_applier_msg *m)
{
	struct removal *gone;

	pthread_mutex_lock(&a->mu);
	for (struct request *r = a->requests; r; r = r->next)
		if (r->m.number == m->number && !r->done) {
			r->done = true;
			if (m->code)
				(void)fz_fail(&r->err, -m->code, "%s", m->text);
			pthread_cond_broadcast(&a->cond);
		}
	gone = answered_locked(a, m);
	pthread_mutex_unlock(&a->mu);
	if (gone && a->events && a->events->removed)
		a->events->removed(a->events, gone->m.text, gone->m.lineage);
	free(gone);
}

/* One message: 1; none now: 0; -1 when the other end is closed. */
static int receive(struct replica_applier *a)
{
	union {
		char bytes[CMSG_SPACE(sizeof(struct ucred))];
		struct cmsghdr align;
	} control;
	struct replica_applier_msg m;
	struct iovec iov = {&m, sizeof(m)};
	struct msghdr h = {
	        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(a->fd, &h, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	int pid = 0;

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	if (n == 0)
		return -1;
	if (n != sizeof(m) || m.version != REPLICA_APPLIER_VERSION) {
		fz_warn("a message of %zd bytes from the agent is of another version", n);
		return 1;
	}
	m.lineage[sizeof(m.lineage) - 1] = 0;
	m.text[sizeof(m.text) - 1] = 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&h); c; c = CMSG_NXTHDR(&h, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS) {
			struct ucred u;

			memcpy(&u, CMSG_DATA(c), sizeof(u));
			pid = u.pid;
		}
	if (m.type == REPLICA_APPLIER_HELLO)
		on_hello(a, pid);
	else if (m.type == REPLICA_APPLIER_STATE)
		on_state(a, &m);
	else if (m.type == REPLICA_APPLIER_DONE)
		on_done(a, &m);
	return 1;
}

static void run(void *arg)
{
	struct replica_applier *a = arg;

	while (!fz_worker_stopping(&a->worker)) {
		struct pollfd p[2] = {
		        {a->wake, POLLIN, 0},
                        {a->fd,   POLLIN, 0}
                };
		int rc = 1, wait_ms = -1;
		uint64_t drop;

		pthread_mutex_lock(&a->mu);
		if (a->blocked)
			p[1].events |= POLLOUT;
		if (a->gone)
			p[1].fd = -1;
		for (const struct removal *r = a->removals; r; r = r->next)
			if (!r->sent && r->retry_ns)
				wait_ms = RETRY_MS;
		pthread_mutex_unlock(&a->mu);
		if (poll(p, 2, wait_ms) < 0)
			continue;
		if (p[0].revents && read(a->wake, &drop, sizeof(drop)) < 0)
			fz_debug("nobody woke the applier's thread");
		if (p[1].revents & (POLLIN | POLLHUP | POLLERR))
			rc = receive(a);
		pthread_mutex_lock(&a->mu);
		if (rc < 0) {
			a->gone = true;
			a->pid = 0;
			pthread_cond_broadcast(&a->cond);
		} else if (p[1].revents & POLLOUT || wait_ms >= 0) {
			flush_locked(a);
		}
		pthread_mutex_unlock(&a->mu);
	}
}

/* ---- what the worker asks ---- */
static int name_it(struct replica_applier_msg *m, const char *name, const char *lineage, struct fz_err *err)
{
	if (strlen(name) >= sizeof(m->text) || strlen(lineage) >= sizeof(m->lineage))
		return fz_fail_errno(err, ENAMETOOLONG, "the database's name is too long");
	memcpy(m->text, name, strlen(name) + 1);
	memcpy(m->lineage, lineage, strlen(lineage) + 1);
	return 0;
}

int replica_applier_post(struct replica_applier *a, const char *name, const char *lineage, uint64_t txid,
                         struct fz_err *err)
{
	struct replica_applier_msg m = {0};
	struct known *k;
	int rc = name_it(&m, name, lineage, err);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&a->mu);
	k = find_locked(a, lineage);
	if (!k && !fz_array_room(a->known, a->n, a->cap)) {
		rc = fz_fail_errno(err, ENOMEM, "posting to the agent");
		goto out;
	}
	if (!k) {
		k = &a->known[a->n++];
		memset(k, 0, sizeof(*k));
		memcpy(k->applied.name, name, strlen(name) + 1);
		memcpy(k->applied.lineage, lineage, strlen(lineage) + 1);
	}
	k->wanted = txid;
	flush_locked(a);
out:
	pthread_mutex_unlock(&a->mu);
	return rc;
}

static struct timespec in_ms(int wait_ms)
{
	uint64_t end = fz_mono_ns() + (uint64_t)wait_ms * 1000000u;

	return (struct timespec){(time_t)(end / 1000000000u), (long)(end % 1000000000u)};
}

static int ask_locked(struct replica_applier *a, struct request *r, int wait_ms, struct fz_err *err)
{
	struct timespec until = in_ms(wait_ms);
	struct request **at;
	int rc = 0;

	r->m.version = REPLICA_APPLIER_VERSION;
	r->m.number = ++a->number;
	r->next = a->requests;
	a->requests = r;
	flush_locked(a);
	while (!r->done && !a->gone && rc == 0)
		rc = pthread_cond_timedwait(&a->cond, &a->mu, &until) == ETIMEDOUT ? -1 : 0;
	for (at = &a->requests; *at != r; at = &(*at)->next)
		;
	*at = r->next;
	if (!r->done)
		return a->gone ? fz_fail(err, FZ_ETIMEOUT, "the agent has gone")
		               : fz_fail(err, FZ_ETIMEOUT, "the agent has not answered within %d ms", wait_ms);
	if (r->err.code && err)
		*err = r->err;
	return r->err.code;
}

int replica_applier_remove(struct replica_applier *a, const char *name, const char *lineage, struct fz_err *err)
{
	struct removal *r = calloc(1, sizeof(*r)), **at = &a->removals;
	struct known *k;
	int rc = r ? name_it(&r->m, name, lineage, err) : fz_fail_errno(err, ENOMEM, "removing %s", name);

	if (rc < 0) {
		free(r);
		return rc;
	}
	r->m.version = REPLICA_APPLIER_VERSION;
	r->m.type = REPLICA_APPLIER_REMOVE;
	pthread_mutex_lock(&a->mu);
	k = find_locked(a, lineage);
	if (k)
		*k = a->known[--a->n];
	while (*at && strcmp((*at)->m.lineage, lineage) != 0)
		at = &(*at)->next;
	if (*at) { /* asked for already */
		free(r);
	} else {
		r->m.number = ++a->number;
		*at = r;
	}
	flush_locked(a);
	pthread_mutex_unlock(&a->mu);
	return 0;
}

int replica_applier_hold(struct replica_applier *a, const char *name, const char *lineage, int wait_ms,
                         struct fz_err *err)
{
	struct request r = {.m.type = REPLICA_APPLIER_HOLD};
	struct known *k;
	int rc = name_it(&r.m, name, lineage, err);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&a->mu);
	k = find_locked(a, lineage);
	if (k) {
		k->wanted = k->sent = 0;
		k->told = false;
	}
	rc = ask_locked(a, &r, wait_ms, err);
	k = find_locked(a, lineage);
	if (k) /* what came meanwhile was said before */
		k->told = false;
	pthread_mutex_unlock(&a->mu);
	return rc;
}

int replica_applier_detach(struct replica_applier *a, int wait_ms, struct fz_err *err)
{
	struct request r = {.m.type = REPLICA_APPLIER_DETACH};
	struct timespec until = in_ms(wait_ms);
	int rc;

	pthread_mutex_lock(&a->mu);
	flush_locked(a);
	while (a->removals && !a->gone && pthread_cond_timedwait(&a->cond, &a->mu, &until) != ETIMEDOUT)
		;
	for (size_t i = 0; i < a->n; i++) /* an agent that comes now shall not attach again */
		if (a->known[i].wanted == a->known[i].sent)
			a->known[i].wanted = a->known[i].sent = 0;
	rc = a->removals ? fz_fail(err, FZ_ETIMEOUT, "%s, which was deleted, cannot be removed", a->removals->m.text)
	                 : ask_locked(a, &r, wait_ms, err);
	for (size_t i = 0; i < a->n; i++)
		a->known[i].wanted = a->known[i].sent = 0;
	pthread_mutex_unlock(&a->mu);
	return rc;
}

bool replica_applier_get(struct replica_applier *a, const char *lineage, struct replica_applied *out)
{
	struct known *k;
	bool told;

	pthread_mutex_lock(&a->mu);
	k = find_locked(a, lineage);
	told = k && k->told;
	if (told)
		*out = k->applied;
	pthread_mutex_unlock(&a->mu);
	return told;
}

int replica_applier_pid(struct replica_applier *a)
{
	int pid;

	pthread_mutex_lock(&a->mu);
	pid = a->pid;
	pthread_mutex_unlock(&a->mu);
	return pid;
}

int replica_applier_open(struct replica_applier **out, int fd, struct replica_applier_events *events,
                         struct fz_err *err)
{
	struct replica_applier *a = calloc(1, sizeof(*a));
	struct replica_applier_msg hi = {.version = REPLICA_APPLIER_VERSION, .type = REPLICA_APPLIER_HI};
	pthread_condattr_t attr;
	int one = 1, rc = 0;

	if (!a) {
		fz_close(&fd);
		return fz_fail_errno(err, ENOMEM, "talking to the agent");
	}
	a->fd = fd;
	a->events = events;
	a->number = fz_mono_ns(); /* a former worker's answers may still lie in the socket */
	pthread_mutex_init(&a->mu, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&a->cond, &attr);
	pthread_condattr_destroy(&attr);
	a->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (a->wake < 0 || setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)) < 0)
		rc = fz_fail_errno(err, errno, "talking to the agent");
	/* an agent that lives already answers; one that starts says hello by itself */
	if (rc == 0 && send(fd, &hi, sizeof(hi), MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno != EAGAIN)
		rc = fz_fail_errno(err, errno, "talking to the agent");
	if (rc == 0)
		rc = fz_worker_start(&a->worker, "applier", run, a, err);
	if (rc < 0) {
		replica_applier_close(a);
		return rc;
	}
	*out = a;
	return 0;
}

void replica_applier_close(struct replica_applier *a)
{
	if (!a)
		return;
	if (a->worker.started) {
		pthread_mutex_lock(&a->worker.mu);
		a->worker.stop = true;
		pthread_mutex_unlock(&a->worker.mu);
		wake(a);
		fz_worker_stop(&a->worker);
	}
	fz_close(&a->fd);
	fz_close(&a->wake);
	pthread_cond_destroy(&a->cond);
	pthread_mutex_destroy(&a->mu);
	for (struct removal *r; (r = a->removals); free(r))
		a->removals = r->next;
	free(a->known);
	free(a);
}
