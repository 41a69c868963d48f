/* wire.h - what a primary and its replicas say to each other over one TCP connection (docs/formats.md "Link").
 *
 * CONNECTION  the caller (a replica) sends "FZTL", u8 version, u8 0, u16 length, Noise message 1; the primary answers
 *             "FZTL", u8 version, u8 0, u16 length, Noise message 2. The first 6 bytes of the call are the prologue. A primary that does not speak
 *             that version answers with its own version and length 0 and hangs up; the caller tries that one when it speaks it.
 *             Then records: u16 length, that many sealed bytes (Noise transport message).
 * MESSAGES    the plain text of the records is one stream of messages: u8 type, u24 length of the body, body. A
 *             message may span records, a record holds several. A body is at most LTX_WIRE_BODY bytes; what is longer (an
 *             LTX file) goes in pieces. All integers are big-endian, all strings u16 length and bytes without NUL.
 * Thread-safe: nothing; the two directions are independent objects. Every length is checked before it is used; a peer that breaks
 * the format gets -FZ_ECORRUPT and the connection ends. Held by tests/unit/test_ltx_wire.c, tests/fuzz/fuzz_wire.c. */
#ifndef FZ_LTX_WIRE_H
#define FZ_LTX_WIRE_H

#include "base/buf.h"
#include "ltx/ltx.h"
#include "ltx/noise.h"

#define LTX_WIRE_VERSION     1
#define LTX_WIRE_VERSION_MIN 1 /* the oldest that is still spoken */
#define LTX_WIRE_HELLO_BYTES 8 /* before each handshake message */
#define LTX_WIRE_PROLOGUE    6
#define LTX_WIRE_BODY        (64 * 1024)
#define LTX_WIRE_CHUNK       (32 * 1024) /* of an LTX file, in LTX_WIRE_DATA */

enum ltx_wire_type {
	LTX_WIRE_HELLO = 1, /* both, first */
	LTX_WIRE_DB,        /* primary: a database that the replica may follow, or what changed about it */
	LTX_WIRE_WANT,      /* replica: send it from this position on */
	LTX_WIRE_FILE,      /* primary: an LTX file follows (a transaction, a merged range or a base) */
	LTX_WIRE_DATA,      /* primary: the next bytes of that database's file */
	LTX_WIRE_DIVERGED,  /* primary: that position of the replica is not part of its history */
	LTX_WIRE_ACK,       /* replica: how far it is */
	LTX_WIRE_PING,      /* both: u64 that comes back as PONG */
	LTX_WIRE_PONG,
	LTX_WIRE_ROLE,     /* both: the sender's role or epoch has changed */
	LTX_WIRE_PREPARED, /* primary: as FILE, but neither committed nor visible until COMMIT */
	LTX_WIRE_COMMIT,   /* primary: the prepared transaction (txid) is committed */
	LTX_WIRE_ABORT,    /* primary: it is not */
	LTX_WIRE_HANDOFF,  /* primary: commits have ended here, you hold all of them: take over */
	LTX_WIRE_OTHERS,   /* primary: it has files that are no database, which do not come along */
	LTX_WIRE_HELD,     /* replica: it takes PREPARED, and which one it holds */
	LTX_WIRE_LAST = LTX_WIRE_HELD
};
enum ltx_wire_role { LTX_WIRE_PRIMARY = 1, LTX_WIRE_REPLICA = 2 };

#define LTX_WIRE_NAME 512 /* of a database, with NUL */
struct ltx_wire_hello {   /* HELLO, ROLE */
	uint8_t role;
	uint32_t epoch;      /* the highest this host has seen */
	uint8_t node[16];    /* random, kept in the state directory */
	char host[256];      /* for people */
	char advertise[256]; /* HOST:PORT where this host can be followed; "" = nowhere */
};
struct ltx_wire_db { /* DB */
	uint32_t id; /* on this connection; never reused */
	char name[LTX_WIRE_NAME], lineage[17];
	uint32_t epoch;
	uint64_t epoch_txid,
	        epoch_checksum; /* what this epoch builds on: older epochs hold nothing beyond it that counts */
	uint64_t base_txid, first_txid, tail_txid, tail_checksum;
	int64_t created_ms, ended_ms;
	uint32_t page_size;
};
struct ltx_wire_want { /* WANT */
	uint32_t id;
	uint32_t epoch;
	uint64_t txid, checksum;         /* what the replica's log holds; 0, 0 = nothing */
	uint64_t base_txid, base_offset; /* of a base that it has got a part of already */
};
struct ltx_wire_file { /* FILE, PREPARED */
	uint32_t id;
	uint64_t min_txid, max_txid;
	uint64_t size_bytes, off_bytes; /* off: where the DATA that follows begins (a base that is resumed) */
	int64_t sent_ms;
};
struct ltx_wire_data { /* DATA */
	uint32_t id;
	const uint8_t *bytes; /* borrowed until the next message is read */
	uint32_t n;
};
struct ltx_wire_ack { /* ACK */
	uint32_t id;
	uint64_t received, durable, applied; /* TXIDs of what is committed */
	int64_t applied_ms;                  /* the replica's clock, for people */
};
struct ltx_wire_mark { /* COMMIT, ABORT: id and txid; DIVERGED, HELD: id, txid and, as value, the database's checksum after it; PING, PONG: value; HANDOFF:
			* value is the epoch that ends */
	uint32_t id;
	uint64_t txid, value;
};
struct ltx_wire_others {             /* OTHERS */
	uint64_t files;              /* that many at least */
	char example[LTX_WIRE_NAME]; /* path of one, for people; "" = none that can be shown */
};
struct ltx_wire_msg {
	enum ltx_wire_type type;
	union {
		struct ltx_wire_hello hello;
		struct ltx_wire_db db;
		struct ltx_wire_want want;
		struct ltx_wire_file file;
		struct ltx_wire_data data;
		struct ltx_wire_ack ack;
		struct ltx_wire_mark mark;
		struct ltx_wire_others others;
	};
};

/* Appends the message (type and body), not sealed yet. -FZ_EINTERNAL for what the peer would refuse: names that are no
 * path below a mount, control bytes in host and advertise, DATA without bytes, empty or impossible ranges. */
int ltx_wire_put(struct fz_buf *out, const struct ltx_wire_msg *m, struct fz_err *err) FZ_MUST_CHECK;
/* Parses one whole message at the start of data: its length, 0 = more bytes are needed, -FZ_ECORRUPT. An unknown type is
 * skipped by the caller (m->type is then above LTX_WIRE_LAST; length is right). m->data.bytes points into data. */
int ltx_wire_get(struct ltx_wire_msg *m, const void *data, size_t size, struct fz_err *err) FZ_MUST_CHECK;

/* Sealing: takes plain message bytes (plain is emptied), appends records to sealed. After any failure of these two the
 * connection must end: the peers' nonces may differ. */
int ltx_wire_seal(struct ltx_noise_cipher *c, struct fz_buf *plain, struct fz_buf *sealed,
                  struct fz_err *err) FZ_MUST_CHECK;
/* Opening: whole records at the start of sealed are opened and appended to plain, and removed from sealed. At most
 * LTX_NOISE_MAX + 2 bytes of an unfinished record and LTX_WIRE_BODY + 4 of an unfinished message ever wait. */
int ltx_wire_open(struct ltx_noise_cipher *c, struct fz_buf *sealed, struct fz_buf *plain,
                  struct fz_err *err) FZ_MUST_CHECK;

/* The 8 bytes before a handshake message. Parsing: 0; -EAGAIN = more bytes are needed; -FZ_ECORRUPT for anything that
 * is no fazt, also before all 8 are there. */
void ltx_wire_hello_put(uint8_t out[static LTX_WIRE_HELLO_BYTES], uint8_t version, uint16_t length);
int ltx_wire_hello_get(const uint8_t *in, size_t size, uint8_t *version, uint16_t *length,
                       struct fz_err *err) FZ_MUST_CHECK;

#endif
