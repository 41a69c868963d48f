/* server.c - the table of followers and who of them is connected.
 *
 * LOCKS  mu -> a peer's mu -> a feed's mu. mu guards the table, hello and waiters. The accept thread alone puts peers into the
 *        table and takes them out; freeing (a join) happens without mu. */
#include "primary/server.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/net.h"
#include "base/worker.h"
#include "ltx/log.h"
#include "primary/accept.h"
#include "primary/peer.h"
#include "primary/serverpriv.h"

#include <errno.h>
#include <poll.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define MS_NS        UINT64_C(1000000)
#define WINDOW_BYTES (UINT64_C(4) << 20)
#define REAP_MS      50
#define FLOOR_MS     INT64_C(3600000)

/* ---- peers ---- */

/* Frees what has ended in place of the one that came. all: also what must be waited for. */
static bool reap(struct primary_server *s, bool all)
{
	bool left = false;

	for (size_t i = 0; i < s->n; i++) {
		struct primary_peer *p = NULL;

		pthread_mutex_lock(&s->mu);
		if (s->v[i].leaving && (all || primary_peer_done(s->v[i].leaving))) {
			p = s->v[i].leaving;
			s->v[i].leaving = NULL;
		}
		left |= s->v[i].leaving != NULL;
		pthread_mutex_unlock(&s->mu);
		primary_peer_free(p);
	}
	return left;
}

/* A follower has one connection: the newest, since an older one is what a dead network left behind. */
static void admit(struct primary_server *s, struct primary_slot *slot)
{
	struct primary_seat *seat = &s->v[slot->follower];
	struct primary_peer_conf conf = {.follower = &s->followers[slot->follower],
	                                 .logs = s->logs,
	                                 .server = s,
	                                 .fd = slot->fd,
	                                 .address = slot->address,
	                                 .send = slot->send,
	                                 .receive = slot->receive,
	                                 .hello = slot->hello,
	                                 .window_bytes = s->window_bytes};
	struct primary_peer *p = NULL;
	struct fz_err err = {0};

	if (seat->leaving) { /* it hangs in the disk: the replica comes again */
		primary_accept_drop(slot);
		return;
	}
	slot->fd = -1;
	pthread_mutex_lock(&s->mu);
	seat->leaving = seat->peer;
	seat->peer = NULL;
	pthread_mutex_unlock(&s->mu);
	if (seat->leaving && !primary_peer_done(seat->leaving)) {
		(void)fz_fail(&err, FZ_EBUSY, "the same key has connected again from %s", slot->address);
		primary_peer_end(seat->leaving, &err);
	}
	if (primary_peer_start(&p, &conf, &err) < 0)
		fz_log_err("a replica's connection", &err);
	sodium_memzero(&conf, sizeof(conf));
	primary_accept_drop(slot);
	pthread_mutex_lock(&s->mu);
	seat->peer = p;
	pthread_mutex_unlock(&s->mu);
}

static void run_accept(void *arg)
{
	struct primary_server *s = arg;
	struct pollfd fds[2 + PRIMARY_ACCEPT_SLOTS];

	while (!fz_worker_stopping(&s->worker)) {
		int wait_ms = primary_accept_take(&s->accept, s->listen_fd);
		bool full = wait_ms >= 0;

		if (reap(s, false) && (wait_ms < 0 || wait_ms > REAP_MS))
			wait_ms = REAP_MS;
		fds[0] = (struct pollfd){.fd = s->cancel_fd, .events = POLLIN};
		fds[1] = (struct pollfd){.fd = full ? -1 : s->listen_fd, .events = POLLIN};
		for (size_t i = 0; i < PRIMARY_ACCEPT_SLOTS; i++) {
			fds[2 + i] = (struct pollfd){.fd = s->accept.slots[i].fd, .events = POLLIN};
			if (s->accept.slots[i].fd >= 0 && (wait_ms < 0 || wait_ms > PRIMARY_ACCEPT_MS / 10))
				wait_ms = PRIMARY_ACCEPT_MS / 10;
		}
		if (poll(fds, 2 + PRIMARY_ACCEPT_SLOTS, wait_ms) > 0)
			for (size_t i = 0; i < PRIMARY_ACCEPT_SLOTS; i++)
				if (fds[2 + i].revents && primary_accept_read(&s->accept, &s->accept.slots[i]))
					admit(s, &s->accept.slots[i]);
		primary_accept_expire(&s->accept, fz_mono_ns());
	}
}

/* ---- what peers ask and tell ---- */

void primary_server_hello(struct primary_server *s, struct ltx_wire_hello *out)
{
	pthread_mutex_lock(&s->mu);
	*out = s->hello;
	pthread_mutex_unlock(&s->mu);
}

void primary_server_heard_role(struct primary_server *s, struct primary_peer *p, const struct ltx_wire_hello *h)
{
	uint32_t epoch;

	pthread_mutex_lock(&s->mu);
	epoch = s->hello.epoch;
	pthread_mutex_unlock(&s->mu);
	if (h->epoch <= epoch || !s->events || !s->events->superseded)
		return;
	if (p->follower->n_databases) /* it has not all of this host's, so it cannot be what this host is */
		fz_warn("%s says that epoch %u has begun, and may follow some databases only: it is not followed",
		        h->host, h->epoch);
	else
		s->events->superseded(s->events, p->follower->key, h);
}

bool primary_server_others(struct primary_server *s, struct ltx_wire_others *out)
{
	return s->events && s->events->others && s->events->others(s->events, out);
}

void primary_server_acked(struct primary_server *s)
{
	pthread_mutex_lock(&s->mu);
	if (s->waiters)
		pthread_cond_broadcast(&s->cond);
	pthread_mutex_unlock(&s->mu);
}

void primary_server_announce(struct primary_server *s, const struct ltx_wire_hello *h)
{
	pthread_mutex_lock(&s->mu);
	s->hello = *h;
	for (size_t i = 0; i < s->n; i++)
		if (s->v[i].peer)
			primary_peer_tell_role(s->v[i].peer);
	pthread_mutex_unlock(&s->mu);
	ltx_logset_wake(s->logs);
}

static unsigned count_locked(struct primary_server *s, const char *lineage, uint64_t txid)
{
	unsigned n = 0;

	for (size_t i = 0; i < s->n; i++)
		n += s->v[i].peer && primary_peer_durable(s->v[i].peer, lineage) >= txid;
	return n;
}

int primary_server_wait(struct primary_server *s, const char *lineage, uint64_t txid, unsigned n, int64_t timeout_ms,
                        struct fz_err *err)
{
	uint64_t end_ns = timeout_ms < 0 ? UINT64_MAX : fz_mono_ns() + (uint64_t)timeout_ms * MS_NS;
	struct timespec until = {.tv_sec = (time_t)(end_ns / 1000000000), .tv_nsec = (long)(end_ns % 1000000000)};
	unsigned have;
	int rc = 0;

	if (txid == 0)
		return 0;
	pthread_mutex_lock(&s->mu);
	s->waiters++;
	while ((have = count_locked(s, lineage, txid)) < n && !s->stopping) {
		if (end_ns == UINT64_MAX)
			pthread_cond_wait(&s->cond, &s->mu);
		else if (pthread_cond_timedwait(&s->cond, &s->mu, &until) == ETIMEDOUT)
			break;
	}
	s->waiters--;
	if (have < n)
		rc = s->stopping ? fz_fail(err, ECANCELED, "the server stops")
		                 : fz_fail(err, FZ_ETIMEOUT,
		                           "%u of %u replicas hold TXID %llu durably after %lld ms (fazt status shows "
		                           "which lag)",
		                           have, n, (unsigned long long)txid, (long long)timeout_ms);
	pthread_mutex_unlock(&s->mu);
	return rc;
}

unsigned primary_server_holders(struct primary_server *s, const char *lineage, uint64_t txid, uint64_t checksum,
                                unsigned n, uint64_t until_ns)
{
	struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000), .tv_nsec = (long)(until_ns % 1000000000)};
	unsigned have;

	pthread_mutex_lock(&s->mu);
	s->waiters++;
	for (;;) {
		have = 0;
		for (size_t i = 0; i < s->n; i++)
			have += s->v[i].peer && primary_peer_has(s->v[i].peer, lineage, txid, checksum);
		if (have >= n || s->stopping || pthread_cond_timedwait(&s->cond, &s->mu, &until) == ETIMEDOUT)
			break;
	}
	s->waiters--;
	pthread_mutex_unlock(&s->mu);
	return have;
}

bool primary_server_durable(struct primary_server *s, const char *lineage, unsigned n, uint64_t *txid)
{
	bool have = false;

	*txid = 0;
	pthread_mutex_lock(&s->mu);
	for (size_t i = 0; i < s->n; i++) { /* the highest that n of them reach */
		uint64_t mine, other;
		unsigned count = 0;

		if (!s->v[i].peer || !primary_peer_keeps(s->v[i].peer, lineage, &mine) || (have && mine <= *txid))
			continue;
		for (size_t k = 0; k < s->n; k++)
			count += s->v[k].peer && primary_peer_keeps(s->v[k].peer, lineage, &other) && other >= mine;
		if (count >= n) {
			*txid = mine;
			have = true;
		}
	}
	pthread_mutex_unlock(&s->mu);
	return have;
}

/* Everything in the logs is durable there. */
static bool holds_all(struct primary_server *s, struct primary_peer *p)
{
	struct ltx_log_info info;
	bool all = true;

	for (size_t i = 0; all && ltx_logset_info(s->logs, i, &info); i++)
		all = info.ended_ms || primary_peer_durable(p, info.lineage) >= info.tail_txid;
	return all;
}

int primary_server_handoff(struct primary_server *s, const char *who, bool tell, int64_t timeout_ms, struct fz_err *err)
{
	uint64_t end_ns = fz_mono_ns() + (uint64_t)timeout_ms * MS_NS;
	struct timespec until = {.tv_sec = (time_t)(end_ns / 1000000000), .tv_nsec = (long)(end_ns % 1000000000)};
	struct primary_peer *p = NULL;
	int rc = 0;

	pthread_mutex_lock(&s->mu);
	s->waiters++;
	for (;;) {
		p = NULL;
		for (size_t i = 0; i < s->n && !p; i++)
			if (s->v[i].peer && primary_peer_is(s->v[i].peer, who))
				p = s->v[i].peer;
		if (!p)
			rc = fz_fail(err, FZ_ENOTFOUND,
			             "no follower %s is connected (fazt status lists them by name, key and host)", who);
		else if (p->follower->n_databases)
			rc = fz_fail(err, FZ_ECONFIG,
			             "%s may follow some databases only, so it cannot take this host's place", who);
		else if (s->stopping)
			rc = fz_fail(err, ECANCELED, "the server stops");
		if (rc < 0 || holds_all(s, p))
			break;
		if (pthread_cond_timedwait(&s->cond, &s->mu, &until) == ETIMEDOUT) {
			rc = fz_fail(err, FZ_ETIMEOUT,
			             "%s does not hold everything after %lld ms (fazt status shows its lag)", who,
			             (long long)timeout_ms);
			break;
		}
	}
	s->waiters--;
	if (rc == 0 && tell)
		primary_peer_tell_handoff(p);
	pthread_mutex_unlock(&s->mu);
	if (rc == 0 && tell)
		ltx_logset_wake(s->logs);
	return rc;
}

uint64_t primary_server_floor(struct primary_server *s, const char *lineage)
{
	int64_t since_ms = fz_now_ms() - FLOOR_MS;
	uint64_t floor = UINT64_MAX;

	pthread_mutex_lock(&s->mu);
	for (size_t i = 0; i < s->n; i++) {
		uint64_t txid = s->v[i].peer ? primary_peer_reads_from(s->v[i].peer, lineage, since_ms) : UINT64_MAX;

		if (txid < floor)
			floor = txid;
	}
	pthread_mutex_unlock(&s->mu);
	return floor;
}

/* ---- start and stop ---- */

static int check_conf(const struct primary_server_conf *conf, struct fz_err *err)
{
	for (size_t i = 0; i < conf->n_followers; i++)
		for (size_t k = 0; k < i; k++)
			if (memcmp(conf->followers[i].key, conf->followers[k].key, LTX_NOISE_KEY) == 0)
				return fz_fail(err, FZ_ECONFIG, "follower %zu has the same key as follower %zu", i + 1,
				               k + 1);
	return 0;
}

int primary_server_start(struct primary_server **out, const struct primary_server_conf *conf, struct fz_err *err)
{
	struct primary_server *s;
	pthread_condattr_t attr;
	int rc = check_conf(conf, err);

	if (rc < 0)
		return rc;
	s = calloc(1, sizeof(*s));
	if (!s)
		return fz_fail_errno(err, ENOMEM, "listening for replicas");
	s->followers = conf->followers;
	s->logs = conf->logs;
	s->events = conf->events;
	s->hello = conf->hello;
	s->window_bytes = conf->window_bytes ? conf->window_bytes : WINDOW_BYTES;
	memcpy(s->secret, conf->secret, sizeof(s->secret));
	pthread_mutex_init(&s->mu, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&s->cond, &attr);
	pthread_condattr_destroy(&attr);
	s->accept.secret = s->secret;
	s->accept.followers = conf->followers;
	s->accept.n_followers = conf->n_followers;
	primary_accept_init(&s->accept);
	s->listen_fd = -1;
	s->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->v = calloc(conf->n_followers + 1, sizeof(*s->v));
	if (s->cancel_fd < 0 || !s->v) {
		rc = fz_fail_errno(err, errno, "listening for replicas");
		goto out;
	}
	s->n = conf->n_followers;
	rc = s->listen_fd = fz_net_listen(conf->listen, err);
	if (rc < 0)
		goto out;
	rc = fz_worker_start(&s->worker, "link-accept", run_accept, s, err);
	if (rc < 0)
		goto out;
	*out = s;
	return 0;
out:
	primary_server_stop(s);
	return rc;
}

void primary_server_stop(struct primary_server *s)
{
	uint64_t one = 1;

	if (!s)
		return;
	pthread_mutex_lock(&s->mu);
	s->stopping = true;
	pthread_cond_broadcast(&s->cond);
	pthread_mutex_unlock(&s->mu);
	if (s->worker.started) {
		pthread_mutex_lock(&s->worker.mu);
		s->worker.stop = true; /* before the eventfd, so that it is seen */
		pthread_mutex_unlock(&s->worker.mu);
		if (write(s->cancel_fd, &one, sizeof(one)) < 0)
			fz_debug("an eventfd is full");
	}
	fz_worker_stop(&s->worker);
	for (size_t i = 0; i < s->n; i++)
		if (s->v[i].peer)
			primary_peer_end(s->v[i].peer, NULL);
	reap(s, true);
	for (size_t i = 0; i < s->n; i++) {
		s->v[i].leaving = s->v[i].peer;
		s->v[i].peer = NULL;
	}
	reap(s, true);
	primary_accept_fini(&s->accept);
	fz_close(&s->listen_fd);
	fz_close(&s->cancel_fd);
	free(s->v);
	pthread_cond_destroy(&s->cond);
	pthread_mutex_destroy(&s->mu);
	sodium_memzero(s, sizeof(*s));
	free(s);
}

int primary_server_address(struct primary_server *s, char out[static FZ_NET_ADDR], struct fz_err *err)
{
	return fz_net_local(s->listen_fd, out, err);
}
