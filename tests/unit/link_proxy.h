/* link_proxy.h - a bad network between the two ends of a link: one thread that forwards, and does harm when told to. */
#ifndef FZ_TESTS_LINK_PROXY_H
#define FZ_TESTS_LINK_PROXY_H

#include "tests/unit/link_make.h"

#include <poll.h>
#include <stdatomic.h>

#define PROXY_CONNS 8
#define PROXY_BYTES 65536

enum proxy_mode {
	PROXY_PASS,
	PROXY_TRICKLE,  /* a few bytes at a time */
	PROXY_SLOW,     /* about 1 MB/s */
	PROXY_STALL,    /* connections stay, nothing goes through */
	PROXY_STALL_UP, /* nothing from the replica to the primary: half open */
	PROXY_STALL_DOWN,
};
enum proxy_harm { PROXY_NONE, PROXY_CUT, PROXY_FLIP, PROXY_INSERT, PROXY_REPLAY };

struct proxy_dir {
	int from, to;
	bool up;
	uint8_t buf[PROXY_BYTES];
	size_t at, n;
	/* records, once the handshake is over */
	uint64_t passed;
	size_t skip, left; /* of the handshake; of the record that goes through */
	uint8_t record[PROXY_BYTES + 2];
	size_t record_n;
	int half; /* first byte of a length, -1 */
};
struct proxy {
	char to[FZ_NET_ADDR], address[FZ_NET_ADDR];
	int fd, stop_fd[2];
	pthread_t thread;
	atomic_int mode, harm;
	atomic_uint connections, harms;
	atomic_ullong bytes_down;
	struct {
		bool used;
		struct proxy_dir up, down;
	} c[PROXY_CONNS];
};

static inline void proxy_close(struct proxy *p, int i)
{
	if (!p->c[i].used)
		return;
	close(p->c[i].up.from);
	close(p->c[i].up.to);
	p->c[i].used = false;
}

static inline void proxy_dir_init(struct proxy_dir *d, int from, int to, bool up)
{
	d->from = from;
	d->to = to;
	d->up = up;
	d->at = d->n = d->left = d->record_n = 0;
	d->passed = 0;
	d->half = -1;
	d->skip = LTX_WIRE_HELLO_BYTES + (up ? LTX_NOISE_MSG1 : LTX_NOISE_MSG2);
}

static inline void proxy_take(struct proxy *p)
{
	char peer[FZ_NET_ADDR];
	int a = fz_net_accept(p->fd, peer, NULL), b;

	if (a < 0)
		return;
	atomic_fetch_add(&p->connections, 1);
	b = fz_net_connect(p->to, 5000, -1, NULL);
	for (int i = 0; b >= 0 && i < PROXY_CONNS; i++)
		if (!p->c[i].used) {
			p->c[i].used = true;
			proxy_dir_init(&p->c[i].up, a, b, true);
			proxy_dir_init(&p->c[i].down, b, a, false);
			return;
		}
	close(a);
	if (b >= 0)
		close(b);
}

/* Follows the records in what goes through, so that one can be sent twice at a boundary. Returns true at the end of a record. */
static inline bool proxy_track(struct proxy_dir *d, uint8_t byte)
{
	d->passed++;
	if (d->skip) {
		d->skip--;
		return false;
	}
	if (d->left == 0) {
		if (d->half < 0) {
			d->half = byte;
			return false;
		}
		d->left = (size_t)d->half << 8 | byte;
		d->record[0] = (uint8_t)d->half;
		d->record[1] = byte;
		d->record_n = 2;
		d->half = -1;
		return d->left == 0;
	}
	d->record[d->record_n++] = byte;
	return --d->left == 0;
}

static inline bool proxy_send(struct proxy_dir *d, const uint8_t *data, size_t n)
{
	return fz_net_write(d->to, data, n, fz_mono_ns() + UINT64_C(2000000000), -1, NULL) == 0;
}

/* Moves what is in the buffer; false: the connection is over. */
static inline bool proxy_move(struct proxy *p, struct proxy_dir *d, int mode)
{
	size_t n = d->n;
	int harm = atomic_load(&p->harm);
	uint8_t *from = d->buf + d->at;

	if (mode == PROXY_TRICKLE && n > 7)
		n = 7;
	if (mode == PROXY_SLOW && n > 4096) {
		n = 4096;
		usleep(4000);
	}
	if (harm && n && d->skip == 0 && !d->up) {
		if (harm == PROXY_FLIP || harm == PROXY_INSERT) {
			static const uint8_t junk[3] = {1, 2, 3};

			if (harm == PROXY_FLIP)
				from[n / 2] ^= 0x40;
			else if (!proxy_send(d, junk, sizeof(junk)))
				return false;
			atomic_fetch_add(&p->harms, 1);
			atomic_store(&p->harm, PROXY_NONE);
		} else if (harm == PROXY_REPLAY) { /* up to the end of a record, and that once more */
			for (size_t i = 0; i < n; i++)
				if (proxy_track(d, from[i])) {
					bool ok = proxy_send(d, from, i + 1) && proxy_send(d, d->record, d->record_n);

					d->at += i + 1;
					d->n -= i + 1;
					atomic_fetch_add(&p->harms, 1);
					atomic_store(&p->harm, PROXY_NONE);
					return ok;
				}
			d->at += n;
			d->n -= n;
			return proxy_send(d, from, n);
		}
	}
	for (size_t i = 0; i < n; i++)
		(void)proxy_track(d, from[i]);
	if (!d->up)
		atomic_fetch_add(&p->bytes_down, n);
	d->at += n;
	d->n -= n;
	return proxy_send(d, from, n);
}

static inline void *proxy_run(void *arg)
{
	struct proxy *p = arg;

	for (;;) {
		struct pollfd fds[2 + 2 * PROXY_CONNS];
		int mode = atomic_load(&p->mode);
		bool more = false;

		fds[0] = (struct pollfd){.fd = p->stop_fd[0], .events = POLLIN};
		fds[1] = (struct pollfd){.fd = p->fd, .events = POLLIN};
		for (int i = 0; i < PROXY_CONNS; i++)
			for (int k = 0; k < 2; k++) {
				struct proxy_dir *d = k ? &p->c[i].down : &p->c[i].up;
				bool held = mode == PROXY_STALL || mode == (k ? PROXY_STALL_DOWN : PROXY_STALL_UP);

				fds[2 + 2 * i + k] =
				        (struct pollfd){.fd = p->c[i].used && !held ? d->from : -1, .events = POLLIN};
				more |= p->c[i].used && !held && d->n;
			}
		poll(fds, 2 + 2 * PROXY_CONNS, more ? 0 : 20);
		if (fds[0].revents)
			break;
		if (fds[1].revents)
			proxy_take(p);
		if (atomic_load(&p->harm) == PROXY_CUT) {
			for (int i = 0; i < PROXY_CONNS; i++)
				proxy_close(p, i);
			atomic_fetch_add(&p->harms, 1);
			atomic_store(&p->harm, PROXY_NONE);
			continue;
		}
		for (int i = 0; i < PROXY_CONNS; i++)
			for (int k = 0; k < 2 && p->c[i].used; k++) {
				struct proxy_dir *d = k ? &p->c[i].down : &p->c[i].up;
				bool ok = true;

				if (mode == PROXY_STALL || mode == (k ? PROXY_STALL_DOWN : PROXY_STALL_UP))
					continue;
				if (d->n == 0 && fds[2 + 2 * i + k].fd == d->from && fds[2 + 2 * i + k].revents) {
					ssize_t n = recv(d->from, d->buf, sizeof(d->buf), 0);

					ok = n > 0 || (n < 0 && errno == EAGAIN);
					d->at = 0;
					d->n = n > 0 ? (size_t)n : 0;
				}
				if (ok && d->n)
					ok = proxy_move(p, d, mode);
				if (!ok)
					proxy_close(p, i);
			}
	}
	for (int i = 0; i < PROXY_CONNS; i++)
		proxy_close(p, i);
	return NULL;
}

/* Between l's follower and its server: call it between serve() and follow(). */
static inline struct proxy *proxy_start(struct link *l)
{
	struct proxy *p = calloc(1, sizeof(*p));

	memcpy(p->to, l->address, sizeof(p->to));
	p->fd = fz_net_listen("127.0.0.1:0", NULL);
	assert_true(p->fd >= 0);
	OK(fz_net_local(p->fd, p->address, e));
	assert_int_equal(pipe2(p->stop_fd, O_CLOEXEC), 0);
	assert_int_equal(pthread_create(&p->thread, NULL, proxy_run, p), 0);
	l->fconf.primary = p->address;
	return p;
}

static inline void proxy_stop(struct proxy *p)
{
	close(p->stop_fd[1]);
	pthread_join(p->thread, NULL);
	close(p->stop_fd[0]);
	close(p->fd);
	free(p);
}

static inline void proxy_do(struct proxy *p, enum proxy_harm harm)
{
	unsigned before = atomic_load(&p->harms);

	atomic_store(&p->harm, harm);
	UNTIL(atomic_load(&p->harms) != before);
}

#endif
