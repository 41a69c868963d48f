#include "replica/herald.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/net.h"
#include "base/worker.h"
#include "replica/dial.h"

#include <errno.h>
#include <poll.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define MS_NS     UINT64_C(1000000)
#define ANSWER_MS 5000
#define PAUSE_MS  1000
#define PAUSE_MAX 10000

struct replica_herald {
	char *to;
	struct replica_herald_conf conf;
	struct fz_worker worker;
	int cancel_fd;
	atomic_bool stop;
};

static int say_hello(struct replica_herald *h, int fd, struct ltx_noise_cipher *cipher, struct fz_err *err)
{
	const struct ltx_wire_msg m = {.type = LTX_WIRE_HELLO, .hello = h->conf.hello};
	struct fz_buf plain = {0}, sealed = {0};
	int rc = ltx_wire_put(&plain, &m, err);

	if (rc == 0)
		rc = ltx_wire_seal(cipher, &plain, &sealed, err);
	if (rc == 0)
		rc = fz_net_write(fd, sealed.data, sealed.size, fz_mono_ns() + ANSWER_MS * MS_NS, h->cancel_fd, err);
	fz_buf_fini(&plain);
	fz_buf_fini(&sealed);
	return rc;
}

/* Reads what the peer says until it says an epoch that is ours or higher: true; or for ANSWER_MS. */
static bool hears(struct replica_herald *h, int fd, struct ltx_noise_cipher *cipher)
{
	uint64_t end = fz_mono_ns() + ANSWER_MS * MS_NS;
	struct fz_buf sealed = {0}, plain = {0};
	bool heard = false, lost = false;
	struct fz_err err;

	while (!heard && !lost && !atomic_load(&h->stop) && fz_mono_ns() < end) {
		struct pollfd p[2] = {
		        {fd,           POLLIN, 0},
                        {h->cancel_fd, POLLIN, 0}
                };
		uint8_t *room = fz_buf_room(&sealed, 4096);
		ssize_t n = 0;
		int rc = 1;

		if (poll(p, 2, 200) > 0 && p[0].revents)
			n = room ? recv(fd, room, 4096, 0) : -1;
		else
			continue;
		lost = n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
		if (n > 0) {
			sealed.size += (size_t)n;
			lost = ltx_wire_open(cipher, &sealed, &plain, &err) < 0;
		}
		while (!lost && !heard && rc > 0 && plain.size) {
			struct ltx_wire_msg m;

			rc = ltx_wire_get(&m, plain.data, plain.size, &err);
			lost = rc < 0;
			if (rc > 0)
				heard = (m.type == LTX_WIRE_HELLO || m.type == LTX_WIRE_ROLE) &&
				        m.hello.epoch >= h->conf.hello.epoch;
			if (rc > 0)
				fz_buf_drop(&plain, (size_t)rc);
		}
	}
	fz_buf_fini(&sealed);
	fz_buf_fini(&plain);
	return heard;
}

static void run(void *arg)
{
	struct replica_herald *h = arg;
	unsigned ms = PAUSE_MS;

	while (!atomic_load(&h->stop)) {
		struct replica_dial d = {.primary = h->to,
		                         .primary_key = h->conf.key,
		                         .secret = h->conf.secret,
		                         .version = LTX_WIRE_VERSION,
		                         .cancel_fd = h->cancel_fd};
		struct pollfd p = {h->cancel_fd, POLLIN, 0};
		struct fz_err err;
		bool heard = false;

		if (replica_dial(&d, &err) == 0 && say_hello(h, d.fd, &d.send, &err) == 0)
			heard = hears(h, d.fd, &d.receive);
		fz_close(&d.fd);
		sodium_memzero(&d, sizeof(d));
		if (heard) {
			fz_info("the former primary at %s knows of epoch %u", h->to, h->conf.hello.epoch);
			if (h->conf.events)
				h->conf.events->heard(h->conf.events, h->conf.key);
			break;
		}
		if (!atomic_load(&h->stop))
			(void)!poll(&p, 1, (int)(ms - randombytes_uniform(ms / 2)));
		ms = 2 * ms > PAUSE_MAX ? PAUSE_MAX : 2 * ms;
	}
}

int replica_herald_start(struct replica_herald **out, const struct replica_herald_conf *conf, struct fz_err *err)
{
	struct replica_herald *h = calloc(1, sizeof(*h));
	int rc = 0;

	if (!h)
		return fz_fail_errno(err, ENOMEM, "telling the former primary");
	h->conf = *conf;
	h->to = strdup(conf->to);
	h->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!h->to || h->cancel_fd < 0)
		rc = fz_fail_errno(err, errno, "telling the former primary");
	if (rc == 0)
		rc = fz_worker_start(&h->worker, "herald", run, h, err);
	if (rc < 0) {
		replica_herald_stop(h);
		return rc;
	}
	*out = h;
	return 0;
}

void replica_herald_stop(struct replica_herald *h)
{
	uint64_t one = 1;

	if (!h)
		return;
	atomic_store(&h->stop, true);
	if (h->cancel_fd >= 0 && write(h->cancel_fd, &one, sizeof(one)) < 0)
		fz_debug("an eventfd is full");
	fz_worker_stop(&h->worker);
	fz_close(&h->cancel_fd);
	free(h->to);
	sodium_memzero(h, sizeof(*h));
	free(h);
}
