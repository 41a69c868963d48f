/* accept.h - strangers at the door: a fixed table of connections that have not proven a key yet.
 *
 * STEPS of a slot, each with all the bytes it needs and none more:
 *   HEAD     8 bytes: a version that is spoken here (else ours is answered), the length of message 1
 *   MESSAGE  Noise message 1: the key must be in the list. It is compared with all of them in constant time; one that is not there is
 *            hung up on without a word. Then message 2 goes out.
 *   LENGTH, RECORD  the first record with the HELLO: only now is it known that message 1 was not a replay of a recorded one
 * A stranger costs a slot, up to ACCEPT_MS; when all are taken, the oldest one makes room once it had its chance (a handshake takes one
 * round trip). Nothing is allocated and no log is looked at before the HELLO. One thread. */
#ifndef FZ_PRIMARY_ACCEPT_H
#define FZ_PRIMARY_ACCEPT_H

#include "base/net.h"
#include "primary/server.h"

#include <stdbool.h>

#define PRIMARY_ACCEPT_SLOTS  16
#define PRIMARY_ACCEPT_MS     5000
#define PRIMARY_ACCEPT_RECORD 1024 /* a HELLO has 555 bytes at most */

struct primary_slot {
	int fd; /* -1 = free */
	enum primary_slot_step {
		PRIMARY_SLOT_HEAD,
		PRIMARY_SLOT_MESSAGE,
		PRIMARY_SLOT_LENGTH,
		PRIMARY_SLOT_RECORD,
		PRIMARY_SLOT_PROVEN,
	} step;
	uint64_t since_ns;
	char address[FZ_NET_ADDR];
	size_t got, need;
	uint8_t in[PRIMARY_ACCEPT_RECORD];
	uint8_t head[LTX_WIRE_HELLO_BYTES];
	/* after message 1 */
	size_t follower;
	struct ltx_noise_cipher send, receive;
	struct ltx_wire_hello hello; /* PROVEN */
};
struct primary_accept {
	const uint8_t *secret; /* borrowed, as the followers */
	const struct primary_follower *followers;
	size_t n_followers;
	struct primary_slot slots[PRIMARY_ACCEPT_SLOTS];
	uint8_t refused[LTX_NOISE_KEY]; /* the last one, so that it is told once */
	uint64_t refused_ns;
};

void primary_accept_init(struct primary_accept *a);
void primary_accept_fini(struct primary_accept *a); /* hangs up, wipes */
/* Takes in who waits at listen_fd, while there is room or can be made. Returns ms after which to look again, -1 = when
 * listen_fd is readable. */
int primary_accept_take(struct primary_accept *a, int listen_fd);
/* Reads what has come for a slot. true: it is PROVEN; the caller takes over fd (and sets it to -1) and ciphers. A slot that
 * does not keep to the steps is hung up on. */
bool primary_accept_read(struct primary_accept *a, struct primary_slot *s);
void primary_accept_drop(struct primary_slot *s);
/* Hangs up on those whose time is over. */
void primary_accept_expire(struct primary_accept *a, uint64_t now_ns);

#endif
