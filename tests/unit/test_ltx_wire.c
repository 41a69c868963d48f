/* test_ltx_wire.c - messages, records and the greeting of the link: exact bytes, round trips, every truncation, every
 * limit. The bytes of `golden` are what docs/formats.md says, written down by hand. */
#include "base/buf.h"
#include "base/cursor.h"
#include "ltx/wire.h"
#include "tests/unit/ok.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct fz_err err;

#define OK(call) OK_OR(call, err)
#define N(a)     (sizeof(a) / sizeof((a)[0]))

#define LINEAGE "0123456789abcdef"
#define NODE                                                                                                           \
	{                                                                                                              \
		0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff         \
	}

/* One of each type, each field with its own value. */
static const struct golden {
	const char *hex;
	struct ltx_wire_msg m;
} golden[] = {
        {"01 000029  02 01020304 00112233445566778899aabbccddeeff 0003 767073 000d 31302e302e302e323a37303730",
         {.type = LTX_WIRE_HELLO,
          .hello = {.role = LTX_WIRE_REPLICA,
                    .epoch = 0x01020304,
                    .node = NODE,
                    .host = "vps",
                    .advertise = "10.0.0.2:7070"}}                                                                                                                                 },
        {"02 000068  00000007 0008 612f622063 2e6462 0010 30313233343536373839616263646566 00000003"
         " 0000000000000010 8000000000000011 0000000000000012 0000000000000013 0000000000000014 8000000000000015"
         " 0000000000000016 0000000000000017 00001000",                                                     {.type = LTX_WIRE_DB,
          .db = {.id = 7,
                 .name = "a/b c.db",
                 .lineage = LINEAGE,
                 .epoch = 3,
                 .epoch_txid = 0x10,
                 .epoch_checksum = LTX_FLAG | 0x11,
                 .base_txid = 0x12,
                 .first_txid = 0x13,
                 .tail_txid = 0x14,
                 .tail_checksum = LTX_FLAG | 0x15,
                 .created_ms = 0x16,
                 .ended_ms = 0x17,
                 .page_size = 4096}}                                                                               },
        {"03 000028  00000007 00000003 1122334455667788 8877665544332211 0000000000000009 000000000000000a",
         {.type = LTX_WIRE_WANT,
          .want = {.id = 7,
                   .epoch = 3,
                   .txid = 0x1122334455667788,
                   .checksum = 0x8877665544332211,
                   .base_txid = 9,
                   .base_offset = 10}}                                                                                                                                             },
        {"04 00002c  00000007 0000000000000001 0000000000000005 0000000000000400 0000000000000200 00000199a8b1c2d3",
         {.type = LTX_WIRE_FILE,
          .file = {.id = 7,
                   .min_txid = 1,
                   .max_txid = 5,
                   .size_bytes = 1024,
                   .off_bytes = 512,
                   .sent_ms = 0x199a8b1c2d3}}                                                                                                                                      },
        {"05 000007  00000007 004c54",
         {.type = LTX_WIRE_DATA, .data = {.id = 7, .bytes = (const uint8_t *)"\0LT", .n = 3}}                                                                                      },
        {"06 000014  00000007 0000000000000099 8000000000000012",
         {.type = LTX_WIRE_DIVERGED, .mark = {.id = 7, .txid = 0x99, .value = LTX_FLAG | 0x12}}                                                                                    },
        {"07 000024  00000007 0000000000000003 0000000000000002 0000000000000001 00000199a8b1c2d3",
         {.type = LTX_WIRE_ACK,
          .ack = {.id = 7, .received = 3, .durable = 2, .applied = 1, .applied_ms = 0x199a8b1c2d3}}                                                                                },
        {"08 000008  0102030405060708",                                                                              {.type = LTX_WIRE_PING, .mark = {.value = 0x0102030405060708}}},
        {"09 000008  0102030405060708",                                                                              {.type = LTX_WIRE_PONG, .mark = {.value = 0x0102030405060708}}},
        {"0a 000019  01 ffffffff 00112233445566778899aabbccddeeff 0000 0000",
         {.type = LTX_WIRE_ROLE, .hello = {.role = LTX_WIRE_PRIMARY, .epoch = UINT32_MAX, .node = NODE}}                                                                           },
        {"0b 00002c  00000007 0000000000000006 0000000000000006 0000000000000400 0000000000000000 0000000000000000",
         {.type = LTX_WIRE_PREPARED, .file = {.id = 7, .min_txid = 6, .max_txid = 6, .size_bytes = 1024}}                                                                          },
        {"0c 00000c  00000007 0000000000000006",                                                                     {.type = LTX_WIRE_COMMIT, .mark = {.id = 7, .txid = 6}}       },
        {"0d 00000c  00000007 0000000000000006",                                                                     {.type = LTX_WIRE_ABORT, .mark = {.id = 7, .txid = 6}}        },
        {"0e 000008  0000000000000003",                                                                              {.type = LTX_WIRE_HANDOFF, .mark = {.value = 3}}              },
        {"0f 00000f  0000000000000102 0005 612f622e63",
         {.type = LTX_WIRE_OTHERS, .others = {.files = 0x102, .example = "a/b.c"}}                                                                                                 },
        {"10 000014  00000007 0000000000000006 8000000000000011",
         {.type = LTX_WIRE_HELD, .mark = {.id = 7, .txid = 6, .value = LTX_FLAG | 0x11}}                                                                                           },
};

static size_t unhex(uint8_t *out, size_t cap, const char *hex)
{
	size_t n;

	if (sodium_hex2bin(out, cap, hex, strlen(hex), " ", &n, NULL) < 0)
		fail_msg("not hex: %s", hex);
	return n;
}

/* Equal in what was sent: DATA points elsewhere. */
static void assert_same(const struct ltx_wire_msg *a, const struct ltx_wire_msg *b)
{
	struct ltx_wire_msg x = *a, y = *b;

	if (a->type == LTX_WIRE_DATA) {
		assert_int_equal(x.data.n, y.data.n);
		assert_memory_equal(x.data.bytes, y.data.bytes, x.data.n);
		x.data.bytes = y.data.bytes = NULL;
	}
	assert_memory_equal(&x, &y, sizeof(x));
}

static void golden_bytes(void **state)
{
	assert_int_equal(N(golden), LTX_WIRE_LAST);
	for (size_t i = 0; i < N(golden); i++) {
		struct fz_buf out = {0};
		struct ltx_wire_msg m;
		uint8_t want[256];
		size_t n = unhex(want, sizeof(want), golden[i].hex);

		assert_int_equal(golden[i].m.type, i + 1);
		OK(ltx_wire_put(&out, &golden[i].m, &err));
		assert_int_equal(out.size, n);
		assert_memory_equal(out.data, want, n);
		memset(&m, 0xee, sizeof(m));
		assert_int_equal(OK(ltx_wire_get(&m, want, n, &err)), n);
		assert_same(&m, &golden[i].m);
		fz_buf_fini(&out);
	}
}

/* Fewer bytes than the message has: wait. Fewer or more than its fields need: refuse. In memory of just that size, so that
 * AddressSanitizer sees a read beyond. */
static void truncations(void **state)
{
	for (size_t i = 0; i < N(golden); i++) {
		uint8_t full[256], *cut;
		size_t n = unhex(full, sizeof(full), golden[i].hex), body = n - 4;
		struct ltx_wire_msg m;

		for (size_t k = 0; k < n; k++) {
			cut = malloc(k ? k : 1);
			memcpy(cut, full, k);
			if (ltx_wire_get(&m, cut, k, &err) != 0)
				fail_msg("type %zu: %zu bytes of %zu", i + 1, k, n);
			free(cut);
		}
		for (size_t k = 0; k <= body + 1; k++) {
			bool data = golden[i].m.type == LTX_WIRE_DATA;
			int rc;

			cut = calloc(1, 4 + k);
			memcpy(cut, full, k < body ? 4 + k : n);
			cut[1] = 0, cut[2] = 0, cut[3] = (uint8_t)k;
			rc = ltx_wire_get(&m, cut, 4 + k, &err);
			if (rc != (k == body || (data && k > 4) ? (int)(4 + k) : -FZ_ECORRUPT))
				fail_msg("type %zu: a body of %zu bytes of %zu gives %d", i + 1, k, body, rc);
			free(cut);
		}
	}
}

/* Each is refused at both ends. */
struct flaw {
	const char *what;
	size_t of; /* in golden: type - 1 */
	void (*spoil)(struct ltx_wire_msg *m);
};
#define SPOIL(name, statement)                                                                                         \
	static void name(struct ltx_wire_msg *m)                                                                       \
	{                                                                                                              \
		statement;                                                                                             \
	}
SPOIL(role_0, m->hello.role = 0)
SPOIL(role_3, m->hello.role = 3)
SPOIL(host_newline, m->hello.host[1] = '\n')
SPOIL(advertise_escape, m->hello.advertise[0] = 0x1b)
SPOIL(advertise_delete, m->hello.advertise[0] = 0x7f)
SPOIL(name_empty, m->db.name[0] = 0)
SPOIL(name_absolute, strcpy(m->db.name, "/etc/passwd"))
SPOIL(name_up, strcpy(m->db.name, "../a.db"))
SPOIL(name_up_inside, strcpy(m->db.name, "a/../../b.db"))
SPOIL(name_up_at_end, strcpy(m->db.name, "a/.."))
SPOIL(name_here, strcpy(m->db.name, "./a.db"))
SPOIL(name_dot, strcpy(m->db.name, "."))
SPOIL(name_slashes, strcpy(m->db.name, "a//b.db"))
SPOIL(name_slash_at_end, strcpy(m->db.name, "a/"))
SPOIL(name_state, strcpy(m->db.name, ".fazt/db/x"))
SPOIL(name_state_itself, strcpy(m->db.name, ".fazt"))
SPOIL(name_long_part, (memset(m->db.name, 'x', 256), m->db.name[256] = 0))
SPOIL(lineage_short, m->db.lineage[15] = 0)
SPOIL(lineage_capital, m->db.lineage[15] = 'F')
SPOIL(lineage_path, memcpy(m->db.lineage, "../../../../../.", 16))
SPOIL(created_early, m->db.created_ms = -1)
SPOIL(ended_early, m->db.ended_ms = INT64_MIN)
SPOIL(page_size_odd, m->db.page_size = 4095)
SPOIL(page_size_small, m->db.page_size = 256)
SPOIL(page_size_big, m->db.page_size = 131072)
SPOIL(txid_0, m->file.min_txid = 0)
SPOIL(txids_swapped, m->file.max_txid = m->file.min_txid - 1)
SPOIL(size_0, (m->file.size_bytes = 0, m->file.off_bytes = 0))
SPOIL(off_behind, m->file.off_bytes = m->file.size_bytes + 1)
SPOIL(sent_early, m->file.sent_ms = -1)
SPOIL(data_none, m->data.n = 0)
SPOIL(applied_early, m->ack.applied_ms = -1)

static const struct flaw flaws[] = {
        {"role 0",                         0,  role_0           },
        {"role 3",                         0,  role_3           },
        {"ROLE, too",                      9,  role_3           },
        {"a line break in host",           0,  host_newline     },
        {"an escape in advertise",         0,  advertise_escape },
        {"a delete in advertise",          0,  advertise_delete },
        {"no name",                        1,  name_empty       },
        {"absolute",                       1,  name_absolute    },
        {"..",                             1,  name_up          },
        {".. inside",                      1,  name_up_inside   },
        {".. at the end",                  1,  name_up_at_end   },
        {".",                              1,  name_here        },
        {". alone",                        1,  name_dot         },
        {"an empty part",                  1,  name_slashes     },
        {"an empty part at the end",       1,  name_slash_at_end},
        {"in the state directory",         1,  name_state       },
        {"the state directory",            1,  name_state_itself},
        {"a part that no file system has", 1,  name_long_part   },
        {"lineage of 15",                  1,  lineage_short    },
        {"lineage in capitals",            1,  lineage_capital  },
        {"lineage that is a path",         1,  lineage_path     },
        {"created before 1970",            1,  created_early    },
        {"ended before 1970",              1,  ended_early      },
        {"page size 4095",                 1,  page_size_odd    },
        {"page size 256",                  1,  page_size_small  },
        {"page size 131072",               1,  page_size_big    },
        {"TXID 0",                         3,  txid_0           },
        {"max below min",                  3,  txids_swapped    },
        {"PREPARED, too",                  10, txids_swapped    },
        {"no bytes",                       3,  size_0           },
        {"begins behind the end",          3,  off_behind       },
        {"sent before 1970",               3,  sent_early       },
        {"DATA without",                   4,  data_none        },
        {"applied before 1970",            6,  applied_early    },
};

static void raw_int(struct fz_buf *b, uint64_t v, size_t bytes)
{
	uint8_t be[8];

	fz_put64(be, v);
	OK(fz_buf_add(b, be + 8 - bytes, bytes));
}

static void raw_string(struct fz_buf *b, const char *text)
{
	raw_int(b, strlen(text), 2);
	OK(fz_buf_add(b, text, strlen(text)));
}

/* The bytes that a peer without our checks would send: writes m by the golden message's layout, field by field. */
static size_t spoiled_bytes(uint8_t *out, size_t cap, const struct ltx_wire_msg *m)
{
	struct fz_buf b = {0};
	size_t n;

	switch (m->type) {
	case LTX_WIRE_HELLO:
	case LTX_WIRE_ROLE:
		raw_int(&b, m->hello.role, 1);
		raw_int(&b, m->hello.epoch, 4);
		OK(fz_buf_add(&b, m->hello.node, 16));
		raw_string(&b, m->hello.host);
		raw_string(&b, m->hello.advertise);
		break;
	case LTX_WIRE_DB:
		raw_int(&b, m->db.id, 4);
		raw_string(&b, m->db.name);
		raw_string(&b, m->db.lineage);
		raw_int(&b, m->db.epoch, 4);
		raw_int(&b, m->db.epoch_txid, 8);
		raw_int(&b, m->db.epoch_checksum, 8);
		raw_int(&b, m->db.base_txid, 8);
		raw_int(&b, m->db.first_txid, 8);
		raw_int(&b, m->db.tail_txid, 8);
		raw_int(&b, m->db.tail_checksum, 8);
		raw_int(&b, (uint64_t)m->db.created_ms, 8);
		raw_int(&b, (uint64_t)m->db.ended_ms, 8);
		raw_int(&b, m->db.page_size, 4);
		break;
	case LTX_WIRE_FILE:
	case LTX_WIRE_PREPARED:
		raw_int(&b, m->file.id, 4);
		raw_int(&b, m->file.min_txid, 8);
		raw_int(&b, m->file.max_txid, 8);
		raw_int(&b, m->file.size_bytes, 8);
		raw_int(&b, m->file.off_bytes, 8);
		raw_int(&b, (uint64_t)m->file.sent_ms, 8);
		break;
	case LTX_WIRE_DATA:
		raw_int(&b, m->data.id, 4);
		break;
	case LTX_WIRE_ACK:
		raw_int(&b, m->ack.id, 4);
		raw_int(&b, m->ack.received, 8);
		raw_int(&b, m->ack.durable, 8);
		raw_int(&b, m->ack.applied, 8);
		raw_int(&b, (uint64_t)m->ack.applied_ms, 8);
		break;
	default:
		fail_msg("no layout for type %d", (int)m->type);
	}
	n = 4 + b.size;
	assert_true(n <= cap);
	fz_put32(out, (uint32_t)m->type << 24 | (uint32_t)b.size);
	memcpy(out + 4, b.data, b.size);
	fz_buf_fini(&b);
	return n;
}

static void flawed(void **state)
{
	for (size_t i = 0; i < N(flaws); i++) {
		struct ltx_wire_msg m = golden[flaws[i].of].m, got;
		struct fz_buf out = {0};
		uint8_t raw[2048];
		size_t n;

		if (m.type !=
		    LTX_WIRE_DATA) { /* unspoiled, the bytes are right: what follows is refused for the flaw */
			n = spoiled_bytes(raw, sizeof(raw), &m);
			assert_int_equal(OK(ltx_wire_get(&got, raw, n, &err)), n);
		}
		flaws[i].spoil(&m);
		if (ltx_wire_put(&out, &m, &err) != -FZ_EINTERNAL || out.size)
			fail_msg("%s: can be sent", flaws[i].what);
		n = spoiled_bytes(raw, sizeof(raw), &m);
		if (ltx_wire_get(&got, raw, n, &err) != -FZ_ECORRUPT)
			fail_msg("%s: can be received", flaws[i].what);
		fz_buf_fini(&out);
	}
}

/* Names that look odd and are fine. */
static void names(void **state)
{
	static const char *const fine[] = {"a",      "...",       ".a", "..a/b..", "a b/\xc3\xa4.db",
	                                   ".fazty", "a/.fazt/b", "\n", "-wal",    "x/y/z/.../w"};

	for (size_t i = 0; i < N(fine); i++) {
		struct ltx_wire_msg m = golden[1].m, got;
		struct fz_buf out = {0};

		memset(m.db.name, 0, sizeof(m.db.name));
		strcpy(m.db.name, fine[i]);
		OK(ltx_wire_put(&out, &m, &err));
		OK(ltx_wire_get(&got, out.data, out.size, &err));
		assert_same(&m, &got);
		fz_buf_fini(&out);
	}
}

static void limits(void **state)
{
	static const struct {
		const char *what;
		uint8_t type;
		uint32_t body;
		int want; /* with 4 bytes only; 0 = more are needed */
	} heads[] = {
	        {"type 0",                        0,                 0,                 -FZ_ECORRUPT},
	        {"the largest body",              LTX_WIRE_DATA,     LTX_WIRE_BODY,     0           },
	        {"one more",                      LTX_WIRE_DATA,     LTX_WIRE_BODY + 1, -FZ_ECORRUPT},
	        {"the largest number",            LTX_WIRE_DATA,     0xffffff,          -FZ_ECORRUPT},
	        {"an unknown type",               LTX_WIRE_LAST + 1, 0,                 4           },
	        {"the last type, with a body",    255,               LTX_WIRE_BODY,     0           },
	        {"an unknown type with too much", 255,               LTX_WIRE_BODY + 1, -FZ_ECORRUPT},
	};
	uint8_t *big = malloc(4 + LTX_WIRE_BODY);
	struct fz_buf out = {0};
	struct ltx_wire_msg m, got;

	for (size_t i = 0; i < N(heads); i++) {
		uint8_t head[4];
		int rc;

		fz_put32(head, (uint32_t)heads[i].type << 24 | heads[i].body);
		rc = ltx_wire_get(&got, head, 4, &err);
		if (rc != heads[i].want)
			fail_msg("%s: %d, not %d", heads[i].what, rc, heads[i].want);
	}
	memset(big, 0x5a, 4 + LTX_WIRE_BODY);
	fz_put32(big, 0xc8u << 24 | LTX_WIRE_BODY); /* unknown: skipped by its length */
	assert_int_equal(OK(ltx_wire_get(&got, big, 4 + LTX_WIRE_BODY, &err)), 4 + LTX_WIRE_BODY);
	assert_true(got.type > LTX_WIRE_LAST);

	m = (struct ltx_wire_msg){
	        .type = LTX_WIRE_DATA, .data = {.id = 1, .bytes = big, .n = LTX_WIRE_BODY - 4}
        };
	OK(ltx_wire_put(&out, &m, &err));
	assert_int_equal(out.size, 4 + LTX_WIRE_BODY);
	OK(ltx_wire_get(&got, out.data, out.size, &err));
	assert_same(&m, &got);
	m.data.n++;
	assert_int_equal(ltx_wire_put(&out, &m, &err), -FZ_EINTERNAL);
	m.data.n = UINT32_MAX;
	assert_int_equal(ltx_wire_put(&out, &m, &err), -FZ_EINTERNAL);
	assert_int_equal(out.size, 4 + LTX_WIRE_BODY); /* a message that cannot be sent leaves nothing behind */
	for (int type = -1; type <= 256; type++) {
		m = (struct ltx_wire_msg){.type = (enum ltx_wire_type)type};
		if ((type < 1 || type > (int)LTX_WIRE_LAST) && ltx_wire_put(&out, &m, &err) != -FZ_EINTERNAL)
			fail_msg("type %d can be sent", type);
	}
	fz_buf_fini(&out);
	free(big);
}

/* Strings: as long as their field, one longer, with a NUL, without end. */
static void strings(void **state)
{
	struct ltx_wire_msg m = golden[0].m, got;
	struct fz_buf out = {0};
	const size_t most = sizeof(m.hello.host) - 1;
	uint8_t raw[1024];
	size_t at = 4 + 1 + 4 + 16;

	memset(m.hello.host, 'h', most);
	m.hello.advertise[0] = 0;
	memset(m.hello.advertise, 0, sizeof(m.hello.advertise));
	OK(ltx_wire_put(&out, &m, &err));
	OK(ltx_wire_get(&got, out.data, out.size, &err));
	assert_same(&m, &got);
	assert_int_equal(fz_be16(out.data + at), most);

	memset(raw, 'h', sizeof(raw)); /* one more */
	memcpy(raw, out.data, at);
	fz_put16(raw + at, (uint16_t)(most + 1));
	fz_put16(raw + at + 2 + most + 1, 0);
	fz_put32(raw, (uint32_t)LTX_WIRE_HELLO << 24 | (uint32_t)(out.size - 4 + 1));
	assert_int_equal(ltx_wire_get(&got, raw, out.size + 1, &err), -FZ_ECORRUPT);

	memcpy(raw, out.data, out.size);
	raw[at + 2 + 100] = 0;
	assert_int_equal(ltx_wire_get(&got, raw, out.size, &err), -FZ_ECORRUPT);
	raw[at + 2 + 100] = 'h';
	OK(ltx_wire_get(&got, raw, out.size, &err));
	fz_put16(raw + at, 0xffff);
	assert_int_equal(ltx_wire_get(&got, raw, out.size, &err), -FZ_ECORRUPT);

	memset(m.hello.host, 'h', sizeof(m.hello.host));
	assert_int_equal(ltx_wire_put(&out, &m, &err), -FZ_EINTERNAL);
	fz_buf_fini(&out);
}

/* ---- records ---- */
static void ciphers(struct ltx_noise_cipher *send, struct ltx_noise_cipher *receive)
{
	memset(send, 0, sizeof(*send));
	memset(send->key, 0x42, sizeof(send->key));
	*receive = *send;
}

/* Messages of all kinds, sealed at odd places, arrive byte by byte. */
static void sealed_byte_by_byte(void **state)
{
	struct ltx_noise_cipher send, receive;
	struct fz_buf plain = {0}, sealed = {0}, in = {0}, opened = {0};
	uint8_t *chunk = malloc(LTX_WIRE_CHUNK);
	struct ltx_wire_msg data =
	                            {
	                                    .type = LTX_WIRE_DATA,
	                                    .data = {.id = 9, .bytes = chunk, .n = LTX_WIRE_CHUNK}
        },
	                    m;
	size_t got = 0, most_sealed = 0, most_plain = 0;

	ciphers(&send, &receive);
	memset(chunk, 0xcc, LTX_WIRE_CHUNK);
	for (size_t i = 0; i < N(golden); i++) { /* between them 4 x 32 KiB: more than one record */
		OK(ltx_wire_put(&plain, &golden[i].m, &err));
		if (i % 4 == 1) {
			OK(ltx_wire_put(&plain, &data, &err));
		} else if (i % 4 == 3) {
			OK(ltx_wire_seal(&send, &plain, &sealed, &err));
			assert_int_equal(plain.size, 0);
		}
	}
	for (int i = 0; i < 4; i++)
		OK(ltx_wire_put(&plain, &data, &err));
	OK(ltx_wire_seal(&send, &plain, &sealed, &err));
	OK(ltx_wire_seal(&send, &plain, &sealed, &err)); /* nothing to say: no record */
	assert_true(send.nonce >= 6);
	for (size_t i = 0, extra = 0; i < sealed.size; i++) {
		size_t at = 0;
		int n;

		OK(fz_buf_add(&in, sealed.data + i, 1));
		OK(ltx_wire_open(&receive, &in, &opened, &err));
		most_sealed = in.size > most_sealed ? in.size : most_sealed;
		while ((n = OK(ltx_wire_get(&m, opened.data + at, opened.size - at, &err))) > 0) {
			if (m.type == LTX_WIRE_DATA && m.data.id == 9)
				assert_same(&m, &data), extra++;
			else
				assert_same(&m, &golden[got++].m);
			at += (size_t)n;
		}
		fz_buf_drop(&opened, at);
		most_plain = opened.size > most_plain ? opened.size : most_plain;
		if (i + 1 == sealed.size)
			assert_int_equal(extra, (N(golden) + 2) / 4 + 4);
	}
	assert_int_equal(got, N(golden));
	assert_int_equal(in.size, 0);
	assert_int_equal(opened.size, 0);
	assert_true(most_sealed <= LTX_NOISE_MAX + 2);
	assert_true(most_plain <= LTX_WIRE_BODY + 4);
	assert_true(receive.nonce == send.nonce);
	fz_buf_fini(&plain);
	fz_buf_fini(&sealed);
	fz_buf_fini(&in);
	fz_buf_fini(&opened);
	free(chunk);
}

/* Exactly as much as one record holds, one more, and several at once. */
static void record_sizes(void **state)
{
	static const struct {
		size_t plain, records;
	} cases[] = {
	        {1,	                 1},
	        {LTX_NOISE_PAYLOAD - 1,     1},
	        {LTX_NOISE_PAYLOAD,         1},
	        {LTX_NOISE_PAYLOAD + 1,     2},
	        {2 * LTX_NOISE_PAYLOAD,     2},
	        {3 * LTX_NOISE_PAYLOAD + 7, 4},
	};

	for (size_t i = 0; i < N(cases); i++) {
		struct ltx_noise_cipher send, receive;
		struct fz_buf plain = {0}, sealed = {0}, opened = {0};
		uint8_t *bytes = malloc(cases[i].plain);

		ciphers(&send, &receive);
		randombytes_buf(bytes, cases[i].plain);
		OK(fz_buf_add(&plain, bytes, cases[i].plain));
		OK(ltx_wire_seal(&send, &plain, &sealed, &err));
		assert_int_equal(sealed.size, cases[i].plain + cases[i].records * (2 + LTX_NOISE_MAC));
		OK(fz_buf_add(&sealed, "\xff", 1)); /* the next one has begun */
		OK(ltx_wire_open(&receive, &sealed, &opened, &err));
		assert_int_equal(opened.size, cases[i].plain);
		assert_memory_equal(opened.data, bytes, opened.size);
		assert_int_equal(sealed.size, 1);
		assert_int_equal(sealed.data[0], 0xff);
		fz_buf_fini(&plain);
		fz_buf_fini(&sealed);
		fz_buf_fini(&opened);
		free(bytes);
	}
}

static void broken_records(void **state)
{
	struct ltx_noise_cipher send, receive, fresh;
	struct fz_buf plain = {0}, good = {0}, in = {0}, opened = {0};

	ciphers(&send, &fresh);
	OK(ltx_wire_put(&plain, &golden[7].m, &err));
	OK(ltx_wire_seal(&send, &plain, &good, &err));
	for (size_t i = 0; i < 8 * good.size; i++) { /* any bit: refused, or more bytes are awaited; never a message */
		int rc;

		receive = fresh;
		fz_buf_reset(&in);
		fz_buf_reset(&opened);
		OK(fz_buf_add(&in, good.data, good.size));
		in.data[i / 8] ^= (uint8_t)(1 << i % 8);
		rc = ltx_wire_open(&receive, &in, &opened, &err);
		if (opened.size || (rc != -FZ_ECRYPT && rc != -FZ_ECORRUPT && !(rc == 0 && i < 16)))
			fail_msg("bit %zu: %d, %zu bytes", i, rc, opened.size);
	}
	for (uint16_t n = 0; n <= LTX_NOISE_MAC; n++) { /* too short for anything: refused before its bytes come */
		uint8_t head[2];

		receive = fresh;
		fz_put16(head, n);
		fz_buf_reset(&in);
		OK(fz_buf_add(&in, head, 2));
		assert_int_equal(ltx_wire_open(&receive, &in, &opened, &err), -FZ_ECORRUPT);
	}
	receive = fresh; /* a good one, and the same again: the first counts, the second is refused */
	fz_buf_reset(&in);
	OK(fz_buf_add(&in, good.data, good.size));
	OK(fz_buf_add(&in, good.data, good.size));
	assert_int_equal(ltx_wire_open(&receive, &in, &opened, &err), -FZ_ECRYPT);
	assert_int_equal(opened.size, 4 + 8);
	assert_int_equal(in.size, good.size);

	send.nonce = UINT64_MAX;
	OK(ltx_wire_put(&plain, &golden[7].m, &err));
	fz_buf_reset(&good);
	assert_int_equal(ltx_wire_seal(&send, &plain, &good, &err), -FZ_ECRYPT);
	assert_int_equal(good.size, 0);
	fz_buf_fini(&plain);
	fz_buf_fini(&good);
	fz_buf_fini(&in);
	fz_buf_fini(&opened);
}

/* ---- the greeting ---- */
static void greeting(void **state)
{
	static const struct {
		const char *what, *bytes;
		int want;
	} cases[] = {
	        {"ours",              "FZTL\x01\0\0\x60",         0           },
	        {"a later version",   "FZTL\x07\0\x12\x34",       0           },
	        {"not that version",  "FZTL\x01\0\0\0",           0           },
	        {"version 0",         "FZTL\0\0\0\x60",           -FZ_ECORRUPT},
	        {"the reserved byte", "FZTL\x01\x01\0\x60",       -FZ_ECORRUPT},
	        {"a browser",         "GET / HT",                 -FZ_ECORRUPT},
	        {"TLS",               "\x16\x03\x01\x02\0\x01\0", -FZ_ECORRUPT},
	        {"SSH",               "SSH-2.0-",                 -FZ_ECORRUPT},
	        {"almost",            "FZTM\x01\0\0\x60",         -FZ_ECORRUPT},
	};
	uint8_t out[LTX_WIRE_HELLO_BYTES], version;
	uint16_t length;

	for (size_t i = 0; i < N(cases); i++) {
		const uint8_t *b = (const uint8_t *)cases[i].bytes;
		bool refused = false;

		for (size_t n = 0; n <= LTX_WIRE_HELLO_BYTES; n++) { /* once refused, more bytes do not help */
			int rc = ltx_wire_hello_get(n ? b : NULL, n, &version, &length, &err);

			if (refused || n == LTX_WIRE_HELLO_BYTES ? rc != cases[i].want
			                                         : rc != -EAGAIN && rc != -FZ_ECORRUPT)
				fail_msg("%s, %zu bytes: %d", cases[i].what, n, rc);
			refused = rc == -FZ_ECORRUPT;
		}
		if (cases[i].want < 0)
			continue;
		assert_int_equal(version, b[4]);
		assert_int_equal(length, b[6] << 8 | b[7]);
		ltx_wire_hello_put(out, version, length);
		assert_memory_equal(out, b, sizeof(out));
	}
	/* a stranger is refused by its first byte */
	assert_int_equal(ltx_wire_hello_get((const uint8_t *)"G", 1, &version, &length, &err), -FZ_ECORRUPT);
	assert_int_equal(ltx_wire_hello_get((const uint8_t *)"FZTL\0", 5, &version, &length, &err), -FZ_ECORRUPT);
}

/* The version that was called is what both ends authenticate: changed on the way, the handshake fails. */
static void version_is_bound(void **state)
{
	static const uint8_t a[32] = {1}, b[32] = {2};
	uint8_t b_pub[32], call[LTX_WIRE_HELLO_BYTES], m1[LTX_NOISE_MSG1], none[1];

	crypto_scalarmult_curve25519_base(b_pub, b);
	for (int lied = 0; lied < 2; lied++) {
		struct ltx_noise init, resp;
		int rc;

		ltx_wire_hello_put(call, LTX_WIRE_VERSION + 1, LTX_NOISE_MSG1);
		OK(ltx_noise_init(&init, true, a, b_pub, call, LTX_WIRE_PROLOGUE, &err));
		OK(ltx_noise_write(&init, NULL, 0, m1, sizeof(m1), &err));
		if (lied)
			call[4] = LTX_WIRE_VERSION;
		OK(ltx_noise_init(&resp, false, b, NULL, call, LTX_WIRE_PROLOGUE, &err));
		rc = ltx_noise_read(&resp, m1, sizeof(m1), none, 0, &err);
		assert_int_equal(rc, lied ? -FZ_ECRYPT : 0);
		ltx_noise_fini(&init);
		ltx_noise_fini(&resp);
	}
}

static int group_setup(void **state)
{
	return sodium_init() < 0 ? -1 : 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(golden_bytes),
	        cmocka_unit_test(truncations),
	        cmocka_unit_test(flawed),
	        cmocka_unit_test(names),
	        cmocka_unit_test(limits),
	        cmocka_unit_test(strings),
	        cmocka_unit_test(sealed_byte_by_byte),
	        cmocka_unit_test(record_sizes),
	        cmocka_unit_test(broken_records),
	        cmocka_unit_test(greeting),
	        cmocka_unit_test(version_is_bound),
	};

	return cmocka_run_group_tests(tests, group_setup, NULL);
}
