/* peer.c - the two threads of a replica's connection.
 *
 * peer-send  sleeps in the log set until something is appended, at most a second (then a PING); whatever the receiver has
 *            for it (a WANT, a window that opens) wakes the log set. It alone writes, so it never waits for its own lock.
 * peer-recv  reads, decrypts, and moves positions. It never waits for the sender, so acks arrive while the socket is full.
 * A peer is dead after DEAD_MS of silence, or BUSY_MS while it has something to make durable: a disk may take its time. */
#include "primary/peer.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "ltx/age.h"
#include "ltx/log.h"
#include "primary/feed.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define MS_NS      UINT64_C(1000000)
#define PING_MS    1000
#define DEAD_MS    3000
#define BUSY_MS    10000
#define READ_BYTES (64 * 1024)
#define UNSENT     (128 * 1024) /* in the kernel, of one peer: what is behind it is another database's commit */

static const char *peer_name(const struct primary_peer *p)
{
	return p->follower->name ? p->follower->name : p->address;
}

/* ---- sending ---- */

int primary_peer_flush(struct primary_peer *p, struct fz_err *err)
{
	uint64_t now = fz_mono_ns();
	size_t n;
	int rc;

	if (p->out.plain.size == 0)
		return 0;
	rc = ltx_wire_seal(&p->out.cipher, &p->out.plain, &p->out.sealed, err);
	if (rc == 0)
		rc = fz_net_write(p->fd, p->out.sealed.data, p->out.sealed.size, now + BUSY_MS * MS_NS, p->cancel_fd,
		                  err);
	if (rc == -FZ_ETIMEOUT)
		return fz_fail(err, FZ_ETIMEOUT, "it has read nothing for %d s: it hangs, or the network does",
		               BUSY_MS / 1000);
	n = p->out.sealed.size;
	fz_buf_reset(&p->out.sealed);
	if (rc < 0)
		return rc;
	p->out.said_ns = fz_mono_ns();
	atomic_fetch_add(&p->bytes_out, n);
	return 0;
}

void primary_peer_tell_handoff(struct primary_peer *p)
{
	pthread_mutex_lock(&p->mu);
	p->handoff_due = true;
	pthread_mutex_unlock(&p->mu);
}

bool primary_peer_is(struct primary_peer *p, const char *who)
{
	char key[LTX_AGE_RECIPIENT_SIZE];
	struct ltx_age_recipient r;
	bool is;

	memcpy(r.public_key, p->follower->key, sizeof(r.public_key));
	pthread_mutex_lock(&p->mu);
	is = !p->ended_ms && (!strcmp(who, ltx_age_recipient_format(key, &r)) || !strcmp(who, p->hello.host) ||
	                      (p->follower->name && !strcmp(who, p->follower->name)));
	pthread_mutex_unlock(&p->mu);
	return is;
}

static int put_hello(struct primary_peer *p, enum ltx_wire_type type, struct fz_err *err)
{
	struct ltx_wire_msg m = {.type = type};

	primary_server_hello(p->server, &m.hello);
	return ltx_wire_put(&p->out.plain, &m, err);
}

/* What lies beside the databases is told once, and not to whom shall know some of them only. */
static int put_others(struct primary_peer *p, struct fz_err *err)
{
	struct ltx_wire_msg m = {.type = LTX_WIRE_OTHERS};
	uint64_t now = fz_mono_ns();

	if (p->out.told_others || p->follower->n_databases || now - p->out.asked_ns < PING_MS * MS_NS)
		return 0;
	p->out.asked_ns = now;
	p->out.told_others = primary_server_others(p->server, &m.others);
	return p->out.told_others ? ltx_wire_put(&p->out.plain, &m, err) : 0;
}

/* What the other threads want said, and a PING when there was nothing else for a second. */
static int put_control(struct primary_peer *p, struct fz_err *err)
{
	struct ltx_wire_msg m = {.type = LTX_WIRE_PONG};
	bool pong, role, handoff;
	int rc = 0;

	pthread_mutex_lock(&p->mu);
	pong = p->pong_due;
	role = p->role_due;
	m.mark.value = p->pong;
	handoff = p->handoff_due;
	p->pong_due = p->role_due = p->handoff_due = false;
	pthread_mutex_unlock(&p->mu);
	if (handoff) {
		struct ltx_wire_msg over = {.type = LTX_WIRE_HANDOFF};
		struct ltx_wire_hello h;

		primary_server_hello(p->server, &h);
		over.mark.value = h.epoch;
		rc = ltx_wire_put(&p->out.plain, &over, err);
	}
	if (rc == 0 && role)
		rc = put_hello(p, LTX_WIRE_ROLE, err);
	if (rc == 0 && pong)
		rc = ltx_wire_put(&p->out.plain, &m, err);
	if (rc == 0)
		rc = put_others(p, err);
	if (rc == 0 && p->out.plain.size == 0 && fz_mono_ns() - p->out.said_ns >= PING_MS * MS_NS) {
		m.type = LTX_WIRE_PING;
		m.mark.value = fz_mono_ns();
		rc = ltx_wire_put(&p->out.plain, &m, err);
	}
	return rc;
}

static int check_alive(struct primary_peer *p, struct fz_err *err)
{
	uint64_t now = fz_mono_ns(), heard = atomic_load(&p->heard_ns), limit_ms;

	pthread_mutex_lock(&p->mu);
	limit_ms = p->under_way ? BUSY_MS : DEAD_MS;
	pthread_mutex_unlock(&p->mu);
	if (now < heard || now - heard < limit_ms * MS_NS)
		return 0;
	return fz_fail(err, FZ_ETIMEOUT, "nothing was heard of it for %u s: the host or the network is down",
	               (unsigned)(limit_ms / 1000));
}

static int send_on(struct primary_peer *p, struct fz_err *err)
{
	int rc = put_hello(p, LTX_WIRE_HELLO, err);

	while (rc == 0 && !atomic_load(&p->stop)) {
		uint64_t gen = ltx_logset_wait(p->logs, UINT64_MAX, 0);
		int64_t wait_ms = PING_MS;
		int more = 0;

		rc = put_control(p, err);
		if (rc == 0)
			rc = more = primary_peer_round(p, &wait_ms, err);
		if (rc >= 0)
			rc = primary_peer_flush(p, err);
		if (rc == 0)
			rc = check_alive(p, err);
		if (rc == 0 && !more)
			(void)ltx_logset_wait(p->logs, gen, wait_ms);
	}
	return rc;
}

/* ---- receiving ---- */

static struct primary_feed *find_feed(struct primary_peer *p, uint32_t id)
{
	struct primary_feed *f = NULL;

	pthread_mutex_lock(&p->mu);
	if (id >= 1 && id <= p->n_feeds)
		f = p->feeds[id - 1];
	pthread_mutex_unlock(&p->mu);
	return f;
}

static int take_message(struct primary_peer *p, const struct ltx_wire_msg *m, struct fz_err *err)
{
	struct primary_feed *f = NULL;
	bool wake = false;

	switch (m->type) {
	case LTX_WIRE_WANT:
		f = find_feed(p, m->want.id);
		wake = f && primary_feed_want(f, &m->want);
		break;
	case LTX_WIRE_ACK:
		f = find_feed(p, m->ack.id);
		wake = f && primary_feed_ack(f, &m->ack);
		break;
	case LTX_WIRE_HELD:
		f = find_feed(p, m->mark.id);
		wake = f && primary_feed_held(f, &m->mark);
		break;
	case LTX_WIRE_PING:
		pthread_mutex_lock(&p->mu); /* goes out with what is said next, a second from now at the latest */
		p->pong_due = true;
		p->pong = m->mark.value;
		pthread_mutex_unlock(&p->mu);
		return 0;
	case LTX_WIRE_ROLE:
		pthread_mutex_lock(&p->mu);
		p->hello = m->hello;
		pthread_mutex_unlock(&p->mu);
		primary_server_heard_role(p->server, p, &m->hello);
		return 0;
	case LTX_WIRE_PONG:
		return 0;
	case LTX_WIRE_HELLO:
	case LTX_WIRE_DB:
	case LTX_WIRE_FILE:
	case LTX_WIRE_DATA:
	case LTX_WIRE_DIVERGED:
	case LTX_WIRE_PREPARED:
	case LTX_WIRE_COMMIT:
	case LTX_WIRE_ABORT:
	case LTX_WIRE_HANDOFF:
	case LTX_WIRE_OTHERS:
		return fz_fail(err, FZ_ECORRUPT, "it said what a replica does not say (message %d)", (int)m->type);
	default: /* of a newer version */
		return 0;
	}
	if (!f)
		return fz_fail(err, FZ_ECORRUPT, "it speaks of a database that was not announced");
	if (m->type == LTX_WIRE_ACK || m->type == LTX_WIRE_HELD)
		primary_server_acked(p->server);
	if (wake)
		ltx_logset_wake(p->logs);
	return 0;
}

static int take_messages(struct primary_peer *p, struct fz_err *err)
{
	struct fz_buf *b = &p->in.plain;
	size_t at = 0;
	int rc = 1;

	while (rc > 0) {
		struct ltx_wire_msg m;

		rc = at < b->size ? ltx_wire_get(&m, b->data + at, b->size - at, err) : 0;
		if (rc > 0) {
			int said = take_message(p, &m, err);

			at += (size_t)rc;
			if (said < 0)
				rc = said;
		}
	}
	if (at) {
		memmove(b->data, b->data + at, b->size - at);
		b->size -= at;
	}
	return rc;
}

static int receive(struct primary_peer *p, struct fz_err *err)
{
	struct pollfd fds[2] = {
	        {.fd = p->fd,        .events = POLLIN},
                {.fd = p->cancel_fd, .events = POLLIN}
        };
	int rc = take_messages(p, err); /* what came with the HELLO */

	while (rc == 0 && !atomic_load(&p->stop)) {
		uint8_t *room = fz_buf_room(&p->in.sealed, READ_BYTES);
		ssize_t n;

		if (!room)
			return fz_fail_errno(err, ENOMEM, "reading from a replica");
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			return fz_fail_errno(err, errno, "waiting for a replica");
		n = recv(p->fd, room, READ_BYTES, 0);
		if (n == 0)
			return fz_fail(err, ECONNRESET, "it has closed the connection");
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n < 0)
			return fz_fail_errno(err, errno, "the connection is lost");
		atomic_store(&p->heard_ns, fz_mono_ns());
		p->in.sealed.size += (size_t)n;
		rc = ltx_wire_open(&p->in.cipher, &p->in.sealed, &p->in.plain, err);
		if (rc == 0)
			rc = take_messages(p, err);
	}
	return rc;
}

/* ---- life ---- */

void primary_peer_end(struct primary_peer *p, const struct fz_err *why)
{
	uint64_t one = 1;

	pthread_mutex_lock(&p->mu);
	if (!p->err.code && why && !p->ended_ms)
		p->err = *why;
	pthread_mutex_unlock(&p->mu);
	atomic_store(&p->stop, true);
	if (write(p->cancel_fd, &one, sizeof(one)) < 0)
		fz_debug("an eventfd is full");
	ltx_logset_wake(p->logs);
}

/* The thread's last act. */
static void leave(struct primary_peer *p, int rc, const struct fz_err *why)
{
	struct fz_err err;
	bool last;

	primary_peer_end(p, rc < 0 && rc != -ECANCELED ? why : NULL);
	pthread_mutex_lock(&p->mu);
	last = atomic_load(&p->running) == 1;
	if (last) {
		p->ended_ms = fz_now_ms();
		fz_close(&p->fd);
	}
	err = p->err;
	atomic_fetch_sub(&p->running, 1);
	pthread_mutex_unlock(&p->mu);
	if (last && err.code)
		fz_warn("replica %s (%s) is no longer connected: %s", peer_name(p), p->address, fz_log_why(&err));
	else if (last)
		fz_info("replica %s (%s) is no longer connected", peer_name(p), p->address);
	if (last)
		primary_server_acked(p->server);
}

static void run_sender(void *arg)
{
	struct primary_peer *p = arg;
	struct fz_err err = {0};
	int rc = send_on(p, &err);

	leave(p, rc, &err);
}

static void run_receiver(void *arg)
{
	struct primary_peer *p = arg;
	struct fz_err err = {0};
	int rc;

	primary_server_heard_role(p->server, p, &p->hello);
	rc = receive(p, &err);
	leave(p, rc, &err);
}

int primary_peer_start(struct primary_peer **out, const struct primary_peer_conf *conf, struct fz_err *err)
{
	struct primary_peer *p = calloc(1, sizeof(*p));
	int unsent = UNSENT, fd = conf->fd, rc;

	if (!p) {
		fz_close(&fd);
		return fz_fail_errno(err, ENOMEM, "a replica's connection");
	}
	p->follower = conf->follower;
	p->logs = conf->logs;
	p->server = conf->server;
	p->window_bytes = conf->window_bytes;
	memccpy(p->address, conf->address, 0, sizeof(p->address) - 1);
	p->since_ms = fz_now_ms();
	p->fd = fd;
	p->out.cipher = conf->send;
	p->in.cipher = conf->receive;
	p->hello = conf->hello;
	p->heard_ns = p->out.said_ns = fz_mono_ns();
	pthread_mutex_init(&p->mu, NULL);
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof(unsent)); /* only makes it smoother */
	p->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (p->cancel_fd < 0) {
		rc = fz_fail_errno(err, errno, "a replica's connection");
		goto out;
	}
	fz_info("replica %s (%s, %s) is connected", peer_name(p), p->hello.host, p->address);
	p->running = 2;
	rc = fz_worker_start(&p->receiver, "peer-recv", run_receiver, p, err);
	if (rc < 0)
		goto out;
	rc = fz_worker_start(&p->sender, "peer-send", run_sender, p, err);
	if (rc < 0)
		goto out;
	*out = p;
	return 0;
out:
	if (p->cancel_fd >= 0)
		primary_peer_end(p, NULL);
	primary_peer_free(p);
	return rc;
}

bool primary_peer_done(struct primary_peer *p)
{
	return atomic_load(&p->running) == 0;
}

void primary_peer_free(struct primary_peer *p)
{
	if (!p)
		return;
	fz_worker_stop(&p->sender);
	fz_worker_stop(&p->receiver);
	for (size_t i = 0; i < p->n_feeds; i++)
		primary_feed_free(p->feeds[i]);
	free(p->feeds);
	fz_buf_fini(&p->out.plain);
	fz_buf_fini(&p->out.sealed);
	fz_buf_fini(&p->in.plain);
	fz_buf_fini(&p->in.sealed);
	fz_close(&p->fd);
	fz_close(&p->cancel_fd);
	pthread_mutex_destroy(&p->mu);
	explicit_bzero(p, sizeof(*p));
	free(p);
}

void primary_peer_tell_role(struct primary_peer *p)
{
	pthread_mutex_lock(&p->mu);
	p->role_due = true;
	pthread_mutex_unlock(&p->mu);
}
