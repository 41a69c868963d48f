#include "primary/accept.h"

#include "base/clock.h"
#include "base/cursor.h"
#include "base/file.h"
#include "base/log.h"
#include "ltx/age.h"

#include <errno.h>
#include <sodium.h>
#include <string.h>

#define MS_NS     UINT64_C(1000000)
#define CHANCE_MS 100 /* before a slot can be taken from its holder */
#define TELL_MS   60000

void primary_accept_init(struct primary_accept *a)
{
	for (size_t i = 0; i < PRIMARY_ACCEPT_SLOTS; i++)
		a->slots[i].fd = -1;
}

void primary_accept_drop(struct primary_slot *s)
{
	fz_close(&s->fd);
	sodium_memzero(s, sizeof(*s));
	s->fd = -1;
}

void primary_accept_fini(struct primary_accept *a)
{
	for (size_t i = 0; i < PRIMARY_ACCEPT_SLOTS; i++)
		primary_accept_drop(&a->slots[i]);
}

void primary_accept_expire(struct primary_accept *a, uint64_t now_ns)
{
	for (size_t i = 0; i < PRIMARY_ACCEPT_SLOTS; i++)
		if (a->slots[i].fd >= 0 && now_ns - a->slots[i].since_ns >= PRIMARY_ACCEPT_MS * MS_NS)
			primary_accept_drop(&a->slots[i]);
}

static bool listed(const struct primary_slot *s)
{
	return s->step > PRIMARY_SLOT_MESSAGE;
}

/* A free slot; else that of the one who has had his chance for longest, of those whose key is not known to be listed first. */
static struct primary_slot *find_slot(struct primary_accept *a)
{
	uint64_t now = fz_mono_ns();
	struct primary_slot *best = NULL;

	for (size_t i = 0; i < PRIMARY_ACCEPT_SLOTS; i++) {
		struct primary_slot *s = &a->slots[i];

		if (s->fd < 0)
			return s;
		if (now - s->since_ns < CHANCE_MS * MS_NS)
			continue;
		if (!best || listed(s) < listed(best) || (listed(s) == listed(best) && s->since_ns < best->since_ns))
			best = s;
	}
	if (best)
		primary_accept_drop(best);
	return best;
}

int primary_accept_take(struct primary_accept *a, int listen_fd)
{
	for (;;) {
		struct primary_slot *s = find_slot(a);
		struct fz_err err = {0};
		int fd;

		if (!s)
			return CHANCE_MS / 4;
		fd = fz_net_accept(listen_fd, s->address, &err);
		if (fd == -EAGAIN)
			return -1;
		if (fd < 0) { /* no descriptors, no memory: others may end */
			fz_debug("%s", fz_log_why(&err));
			return PRIMARY_ACCEPT_MS / 10;
		}
		s->fd = fd;
		s->since_ns = fz_mono_ns();
		s->step = PRIMARY_SLOT_HEAD;
		s->got = 0;
		s->need = LTX_WIRE_HELLO_BYTES;
	}
}

/* All are looked at, so that time tells nothing. */
static bool find_follower(const struct primary_accept *a, const uint8_t *key, size_t *out)
{
	bool found = false;

	for (size_t i = 0; i < a->n_followers; i++)
		if (sodium_memcmp(a->followers[i].key, key, LTX_NOISE_KEY) == 0) {
			*out = i;
			found = true;
		}
	return found;
}

/* Once for each key, and once a minute: whoever knocks must not fill the log. */
static void tell_refused(struct primary_accept *a, const char *address, const uint8_t *key)
{
	struct ltx_age_recipient r;
	char text[LTX_AGE_RECIPIENT_SIZE];
	uint64_t now = fz_mono_ns();

	if (a->refused_ns && (memcmp(a->refused, key, LTX_NOISE_KEY) == 0 || now - a->refused_ns < TELL_MS * MS_NS))
		return;
	a->refused_ns = now;
	memcpy(a->refused, key, LTX_NOISE_KEY);
	memcpy(r.public_key, key, sizeof(r.public_key));
	fz_warn("%s was refused: its key %s is not among the followers (if it may follow: --follower)", address,
	        ltx_age_recipient_format(text, &r));
}

static bool reply(struct primary_slot *s, const void *data, size_t n)
{
	return send(s->fd, data, n, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)n; /* an empty buffer takes so few bytes */
}

static bool take_head(struct primary_slot *s)
{
	uint8_t version = 0;
	uint16_t length = 0;

	if (ltx_wire_hello_get(s->in, s->got, &version, &length, NULL) < 0)
		return false;
	if (version < LTX_WIRE_VERSION_MIN || version > LTX_WIRE_VERSION) {
		uint8_t ours[LTX_WIRE_HELLO_BYTES];

		ltx_wire_hello_put(ours, LTX_WIRE_VERSION, 0);
		(void)reply(s, ours, sizeof(ours));
		return false;
	}
	memcpy(s->head, s->in, sizeof(s->head));
	s->need = length;
	return length == LTX_NOISE_MSG1;
}

static bool take_message(struct primary_accept *a, struct primary_slot *s)
{
	uint8_t payload[LTX_NOISE_MAC], out[LTX_WIRE_HELLO_BYTES + LTX_NOISE_MSG2];
	struct ltx_noise n;
	bool ok = false;
	int rc;

	rc = ltx_noise_init(&n, false, a->secret, NULL, s->head, LTX_WIRE_PROLOGUE, NULL);
	if (rc == 0)
		rc = ltx_noise_read(&n, s->in, s->got, payload, sizeof(payload), NULL);
	if (rc < 0)
		goto out;
	if (!find_follower(a, ltx_noise_remote(&n), &s->follower)) {
		tell_refused(a, s->address, ltx_noise_remote(&n));
		goto out;
	}
	ltx_wire_hello_put(out, s->head[4], LTX_NOISE_MSG2);
	rc = ltx_noise_write(&n, NULL, 0, out + LTX_WIRE_HELLO_BYTES, LTX_NOISE_MSG2, NULL);
	if (rc < 0 || ltx_noise_split(&n, &s->send, &s->receive, NULL) < 0)
		goto out;
	ok = reply(s, out, sizeof(out));
	s->need = 2;
out:
	ltx_noise_fini(&n);
	return ok;
}

static bool take_length(struct primary_slot *s)
{
	s->need = fz_be16(s->in);
	return s->need > LTX_NOISE_MAC && s->need <= sizeof(s->in);
}

/* The HELLO, the whole HELLO and nothing but the HELLO. */
static bool take_record(struct primary_slot *s)
{
	size_t n = s->got - LTX_NOISE_MAC;
	struct ltx_wire_msg m;
	int rc = ltx_noise_open(&s->receive, s->in, s->got, s->in, NULL);

	if (rc >= 0)
		rc = ltx_wire_get(&m, s->in, n, NULL);
	if (rc <= 0 || (size_t)rc != n || m.type != LTX_WIRE_HELLO)
		return false;
	s->hello = m.hello;
	return true;
}

/* All the bytes of a step are there. */
static bool next_step(struct primary_accept *a, struct primary_slot *s)
{
	bool ok = false;

	switch (s->step) {
	case PRIMARY_SLOT_HEAD:
		ok = take_head(s);
		break;
	case PRIMARY_SLOT_MESSAGE:
		ok = take_message(a, s);
		break;
	case PRIMARY_SLOT_LENGTH:
		ok = take_length(s);
		break;
	case PRIMARY_SLOT_RECORD:
		ok = take_record(s);
		break;
	case PRIMARY_SLOT_PROVEN:
		break;
	}
	s->step++;
	s->got = 0;
	return ok;
}

bool primary_accept_read(struct primary_accept *a, struct primary_slot *s)
{
	while (s->fd >= 0 && s->step != PRIMARY_SLOT_PROVEN) {
		ssize_t n = recv(s->fd, s->in + s->got, s->need - s->got, MSG_DONTWAIT);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return false;
		s->got += n > 0 ? (size_t)n : 0;
		if (n <= 0 || (s->got == s->need && !next_step(a, s)))
			primary_accept_drop(s);
	}
	return s->fd >= 0;
}
