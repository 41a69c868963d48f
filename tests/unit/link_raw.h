/* link_raw.h - one end of the link that a test plays itself, message by message. */
#ifndef FZ_TESTS_LINK_RAW_H
#define FZ_TESTS_LINK_RAW_H

#include "tests/unit/link_make.h"

#include <poll.h>

struct raw {
	int fd;
	struct ltx_noise_cipher send, receive;
	struct fz_buf sealed, plain;
};

static inline uint64_t soon(void)
{
	return fz_mono_ns() + LIMIT_S * UINT64_C(1000000000);
}

/* The called end: takes one caller, whoever it is, up to its HELLO. */
static inline void raw_answer(struct raw *r, int listen_fd, struct link *l)
{
	uint8_t in[LTX_WIRE_HELLO_BYTES + LTX_NOISE_MSG1], out[LTX_WIRE_HELLO_BYTES + LTX_NOISE_MSG2], none[1];
	struct pollfd p = {.fd = listen_fd, .events = POLLIN};
	char peer[FZ_NET_ADDR];
	struct ltx_noise n;

	memset(r, 0, sizeof(*r));
	assert_int_equal(poll(&p, 1, LIMIT_S * 1000), 1);
	OK(r->fd = fz_net_accept(listen_fd, peer, e));
	OK(fz_net_read(r->fd, in, sizeof(in), soon(), -1, e));
	OK(ltx_noise_init(&n, false, l->p.id.secret, NULL, in, LTX_WIRE_PROLOGUE, e));
	OK(ltx_noise_read(&n, in + LTX_WIRE_HELLO_BYTES, LTX_NOISE_MSG1, none, sizeof(none), e));
	ltx_wire_hello_put(out, LTX_WIRE_VERSION, LTX_NOISE_MSG2);
	OK(ltx_noise_write(&n, NULL, 0, out + LTX_WIRE_HELLO_BYTES, LTX_NOISE_MSG2, e));
	OK(fz_net_write(r->fd, out, sizeof(out), soon(), -1, e));
	OK(ltx_noise_split(&n, &r->send, &r->receive, e));
	ltx_noise_fini(&n);
}

static inline void raw_say(struct raw *r, const struct ltx_wire_msg *m)
{
	struct fz_buf plain = {0}, sealed = {0};

	OK(ltx_wire_put(&plain, m, e));
	OK(ltx_wire_seal(&r->send, &plain, &sealed, e));
	OK(fz_net_write(r->fd, sealed.data, sealed.size, soon(), -1, e));
	fz_buf_fini(&plain);
	fz_buf_fini(&sealed);
}

/* The next message; m's data is borrowed until the next call. */
static inline void raw_hear(struct raw *r, struct ltx_wire_msg *m, size_t *used)
{
	int rc;

	if (*used)
		memmove(r->plain.data, r->plain.data + *used, r->plain.size - *used);
	r->plain.size -= *used;
	for (;;) {
		struct pollfd p = {.fd = r->fd, .events = POLLIN};
		ssize_t n;

		OK(rc = r->plain.size ? ltx_wire_get(m, r->plain.data, r->plain.size, e) : 0);
		if (rc > 0)
			break;
		assert_int_equal(poll(&p, 1, LIMIT_S * 1000), 1);
		n = recv(r->fd, fz_buf_room(&r->sealed, 65536), 65536, 0);
		assert_true(n > 0);
		r->sealed.size += (size_t)n;
		OK(ltx_wire_open(&r->receive, &r->sealed, &r->plain, e));
	}
	*used = (size_t)rc;
}

static inline void raw_close(struct raw *r)
{
	close(r->fd);
	fz_buf_fini(&r->plain);
	fz_buf_fini(&r->sealed);
}

#endif
