/* wire.c - messages are described by tables, one row a field: writing and reading follow the same row. */
#include "ltx/wire.h"

#include "base/cursor.h"

#include <errno.h>
#include <string.h>

#define MAGIC  "FZTL"
#define HEAD   4 /* u8 type, u24 length */
#define RECORD 2 /* u16 length */

enum kind { END, U8, U32, U64, BYTES16, STRING };
struct field {
	enum kind kind;
	size_t at, cap; /* in struct ltx_wire_msg */
};
#define F(kind, member)                                                                                                \
	{                                                                                                              \
		kind, offsetof(struct ltx_wire_msg, member), sizeof(((struct ltx_wire_msg *)0)->member)                \
	}
#define FILE_FIELDS                                                                                                    \
	F(U32, file.id), F(U64, file.min_txid), F(U64, file.max_txid), F(U64, file.size_bytes),                        \
	        F(U64, file.off_bytes), F(U64, file.sent_ms)
#define HELLO_FIELDS                                                                                                   \
	F(U8, hello.role), F(U32, hello.epoch), F(BYTES16, hello.node), F(STRING, hello.host),                         \
	        F(STRING, hello.advertise)
#define MARK_FIELDS F(U32, mark.id), F(U64, mark.txid)

/* docs/formats.md, "Link", has the same rows for people. */
static const struct layout {
	const char *name;
	struct field fields[14]; /* END follows the last */
} layouts[] = {
        [LTX_WIRE_HELLO] = {"HELLO",    {HELLO_FIELDS}                                   },
        [LTX_WIRE_DB] = {"DB",
                            {F(U32, db.id), F(STRING, db.name), F(STRING, db.lineage), F(U32, db.epoch),
                          F(U64, db.epoch_txid), F(U64, db.epoch_checksum), F(U64, db.base_txid), F(U64, db.first_txid),
                          F(U64, db.tail_txid), F(U64, db.tail_checksum), F(U64, db.created_ms), F(U64, db.ended_ms),
                          F(U32, db.page_size)}                                          },
        [LTX_WIRE_WANT] = {"WANT",
                            {F(U32, want.id), F(U32, want.epoch), F(U64, want.txid), F(U64, want.checksum),
                            F(U64, want.base_txid), F(U64, want.base_offset)}            },
        [LTX_WIRE_FILE] = {"FILE",     {FILE_FIELDS}                                    },
        [LTX_WIRE_DATA] = {"DATA",     {F(U32, data.id)}                                }, /* and the rest */
        [LTX_WIRE_DIVERGED] = {"DIVERGED", {MARK_FIELDS, F(U64, mark.value)}                },
        [LTX_WIRE_ACK] = {"ACK",
                            {F(U32, ack.id), F(U64, ack.received), F(U64, ack.durable), F(U64, ack.applied),
                           F(U64, ack.applied_ms)}                                       },
        [LTX_WIRE_PING] = {"PING",     {F(U64, mark.value)}                             },
        [LTX_WIRE_PONG] = {"PONG",     {F(U64, mark.value)}                             },
        [LTX_WIRE_ROLE] = {"ROLE",     {HELLO_FIELDS}                                   },
        [LTX_WIRE_PREPARED] = {"PREPARED", {FILE_FIELDS}                                    },
        [LTX_WIRE_COMMIT] = {"COMMIT",   {MARK_FIELDS}                                    },
        [LTX_WIRE_ABORT] = {"ABORT",    {MARK_FIELDS}                                    },
        [LTX_WIRE_HANDOFF] = {"HANDOFF",  {F(U64, mark.value)}                             },
        [LTX_WIRE_OTHERS] = {"OTHERS",   {F(U64, others.files), F(STRING, others.example)}},
        [LTX_WIRE_HELD] = {"HELD",     {MARK_FIELDS, F(U64, mark.value)}                },
};
_Static_assert(sizeof(layouts) / sizeof(layouts[0]) == LTX_WIRE_LAST + 1, "each type has its row");

/* Text that goes into logs and statuses. */
static bool printable(const char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s < 0x20 || *s == 0x7f)
			return false;
	return true;
}

/* A path below the mount and nowhere else: the replica makes a file of that name. */
static bool name_ok(const char *name)
{
	const char *part = name;

	if (!strncmp(name, ".fazt", 5) && (!name[5] || name[5] == '/'))
		return false; /* the state directory */
	for (;;) {
		size_t n = strcspn(part, "/");

		if (n == 0 || n > 255 || (part[0] == '.' && (n == 1 || (n == 2 && part[1] == '.'))))
			return false;
		if (!part[n])
			return true;
		part += n + 1;
	}
}

static const char *flaw_of_db(const struct ltx_wire_db *d)
{
	if (!name_ok(d->name))
		return "no name that a database can have";
	if (strlen(d->lineage) != 16 || strspn(d->lineage, "0123456789abcdef") != 16)
		return "no lineage";
	if (d->created_ms < 0 || d->ended_ms < 0)
		return "a time before 1970";
	if (d->page_size && !ltx_page_size_ok(d->page_size))
		return "no page size";
	return NULL;
}

/* What the fields' own sizes do not say. NULL = fine. Both ends look: nobody sends what the other one refuses. */
static const char *flaw(const struct ltx_wire_msg *m)
{
	switch (m->type) {
	case LTX_WIRE_HELLO:
	case LTX_WIRE_ROLE:
		if (m->hello.role != LTX_WIRE_PRIMARY && m->hello.role != LTX_WIRE_REPLICA)
			return "no role";
		return printable(m->hello.host) && printable(m->hello.advertise) ? NULL : "control bytes in a text";
	case LTX_WIRE_DB:
		return flaw_of_db(&m->db);
	case LTX_WIRE_FILE:
	case LTX_WIRE_PREPARED:
		if (m->file.min_txid == 0 || m->file.max_txid < m->file.min_txid)
			return "no range of TXIDs";
		if (m->file.size_bytes == 0 || m->file.off_bytes > m->file.size_bytes)
			return "no place in a file";
		return m->file.sent_ms < 0 ? "a time before 1970" : NULL;
	case LTX_WIRE_DATA:
		return m->data.n ? NULL : "no bytes";
	case LTX_WIRE_OTHERS:
		if (!m->others.files)
			return "no files";
		return printable(m->others.example) ? NULL : "control bytes in a text";
	case LTX_WIRE_ACK:
		return m->ack.applied_ms < 0 ? "a time before 1970" : NULL;
	default:
		return NULL;
	}
}

static size_t field_bytes(const struct field *f, const uint8_t *at)
{
	switch (f->kind) {
	case U8:
		return 1;
	case U32:
		return 4;
	case U64:
		return 8;
	case BYTES16:
		return 16;
	case STRING:
		return 2 + strnlen((const char *)at, f->cap);
	default:
		return 0;
	}
}

static uint8_t *put_field(uint8_t *p, const struct field *f, const uint8_t *at)
{
	size_t n = field_bytes(f, at);
	uint32_t u32;
	uint64_t u64;

	switch (f->kind) {
	case U32:
		memcpy(&u32, at, sizeof(u32));
		fz_put32(p, u32);
		break;
	case U64:
		memcpy(&u64, at, sizeof(u64));
		fz_put64(p, u64);
		break;
	case STRING:
		fz_put16(p, (uint16_t)(n - 2));
		memcpy(p + 2, at, n - 2);
		break;
	default:
		memcpy(p, at, n);
		break;
	}
	return p + n;
}

/* A string that is too long or holds a NUL makes the cursor bad, as one that ends too early. */
static void get_field(struct fz_cur *c, const struct field *f, uint8_t *at)
{
	const uint8_t *p;
	uint32_t u32;
	uint64_t u64;
	size_t n;

	switch (f->kind) {
	case U32:
		u32 = fz_cur_be32(c);
		memcpy(at, &u32, sizeof(u32));
		break;
	case U64:
		u64 = fz_cur_be64(c);
		memcpy(at, &u64, sizeof(u64));
		break;
	case STRING:
		n = fz_cur_be16(c);
		p = fz_cur_bytes(c, n);
		if (!p || n >= f->cap || memchr(p, 0, n)) {
			c->bad = true;
			break;
		}
		memcpy(at, p, n);
		at[n] = 0;
		break;
	default:
		n = field_bytes(f, at);
		p = fz_cur_bytes(c, n);
		if (p)
			memcpy(at, p, n);
		break;
	}
}

int ltx_wire_put(struct fz_buf *out, const struct ltx_wire_msg *m, struct fz_err *err)
{
	const uint8_t *base = (const uint8_t *)m;
	const struct layout *l;
	const char *what;
	size_t n = 0;
	uint8_t *p;

	if (m->type < LTX_WIRE_HELLO || m->type > LTX_WIRE_LAST)
		return fz_fail(err, FZ_EINTERNAL, "there is no message %d", (int)m->type);
	l = &layouts[m->type];
	for (const struct field *f = l->fields; f->kind != END; f++) {
		if (f->kind == STRING && strnlen((const char *)base + f->at, f->cap) == f->cap)
			return fz_fail(err, FZ_EINTERNAL, "%s cannot be sent: a text without end", l->name);
		n += field_bytes(f, base + f->at);
	}
	what = flaw(m);
	if (what)
		return fz_fail(err, FZ_EINTERNAL, "%s cannot be sent: it has %s", l->name, what);
	if (m->type == LTX_WIRE_DATA)
		n += m->data.n;
	if (n > LTX_WIRE_BODY)
		return fz_fail(err, FZ_EINTERNAL, "%s cannot be sent: it has %zu bytes", l->name, n);
	p = fz_buf_room(out, HEAD + n);
	if (!p)
		return fz_fail_errno(err, ENOMEM, "writing a message");
	fz_put32(p, (uint32_t)m->type << 24 | (uint32_t)n);
	p += HEAD;
	for (const struct field *f = l->fields; f->kind != END; f++)
		p = put_field(p, f, base + f->at);
	if (m->type == LTX_WIRE_DATA)
		memcpy(p, m->data.bytes, m->data.n);
	out->size += HEAD + n;
	out->data[out->size] = 0;
	return 0;
}

int ltx_wire_get(struct ltx_wire_msg *m, const void *data, size_t size, struct fz_err *err)
{
	struct fz_cur c = fz_cur(data, size);
	uint32_t head = fz_cur_be32(&c), type = head >> 24, n = head & 0xffffff;
	const struct layout *l;
	const char *what;

	if (!fz_cur_ok(&c))
		return 0;
	if (type == 0 || n > LTX_WIRE_BODY) /* at once: the rest may never come */
		return fz_fail(err, FZ_ECORRUPT, "the peer sent a message of type %u and %u bytes", type, n);
	if (fz_cur_left(&c) < n)
		return 0;
	memset(m, 0, sizeof(*m));
	m->type = (enum ltx_wire_type)type;
	if (type > LTX_WIRE_LAST)
		return (int)(HEAD + n);
	l = &layouts[type];
	c = fz_cur(c.p, n);
	for (const struct field *f = l->fields; f->kind != END; f++)
		get_field(&c, f, (uint8_t *)m + f->at);
	if (type == LTX_WIRE_DATA) {
		m->data.n = (uint32_t)fz_cur_left(&c);
		m->data.bytes = fz_cur_bytes(&c, m->data.n);
	}
	if (!fz_cur_ok(&c) || fz_cur_left(&c))
		return fz_fail(err, FZ_ECORRUPT, "the peer sent a %s that does not fit its %u bytes", l->name, n);
	what = flaw(m);
	if (what)
		return fz_fail(err, FZ_ECORRUPT, "the peer sent a %s that has %s", l->name, what);
	return (int)(HEAD + n);
}

int ltx_wire_seal(struct ltx_noise_cipher *c, struct fz_buf *plain, struct fz_buf *sealed, struct fz_err *err)
{
	for (size_t at = 0, n; at < plain->size; at += n) {
		uint8_t *p;
		int rc;

		n = plain->size - at < LTX_NOISE_PAYLOAD ? plain->size - at : LTX_NOISE_PAYLOAD;
		p = fz_buf_room(sealed, RECORD + n + LTX_NOISE_MAC);
		if (!p)
			return fz_fail_errno(err, ENOMEM, "sealing messages");
		rc = ltx_noise_seal(c, plain->data + at, n, p + RECORD, err);
		if (rc < 0)
			return rc;
		fz_put16(p, (uint16_t)(n + LTX_NOISE_MAC));
		sealed->size += RECORD + n + LTX_NOISE_MAC;
		sealed->data[sealed->size] = 0;
	}
	fz_buf_reset(plain);
	return 0;
}

int ltx_wire_open(struct ltx_noise_cipher *c, struct fz_buf *sealed, struct fz_buf *plain, struct fz_err *err)
{
	size_t at = 0;
	int rc = 0;

	while (sealed->size - at >= RECORD) {
		size_t n = fz_be16(sealed->data + at);
		uint8_t *p;

		if (n <= LTX_NOISE_MAC) {
			rc = fz_fail(err, FZ_ECORRUPT, "the peer sent a record of %zu bytes", n);
			break;
		}
		if (sealed->size - at - RECORD < n)
			break;
		p = fz_buf_room(plain, n - LTX_NOISE_MAC);
		if (!p) {
			rc = fz_fail_errno(err, ENOMEM, "opening messages");
			break;
		}
		rc = ltx_noise_open(c, sealed->data + at + RECORD, n, p, err);
		if (rc < 0)
			break;
		plain->size += n - LTX_NOISE_MAC;
		plain->data[plain->size] = 0;
		at += RECORD + n;
	}
	fz_buf_drop(sealed, at);
	return rc;
}

void ltx_wire_hello_put(uint8_t out[static LTX_WIRE_HELLO_BYTES], uint8_t version, uint16_t length)
{
	memcpy(out, MAGIC, 4);
	out[4] = version;
	out[5] = 0;
	fz_put16(out + 6, length);
}

int ltx_wire_hello_get(const uint8_t *in, size_t size, uint8_t *version, uint16_t *length, struct fz_err *err)
{
	if ((size && memcmp(in, MAGIC, size < 4 ? size : 4)) || (size > 4 && in[4] == 0) || (size > 5 && in[5] != 0))
		return fz_fail(err, FZ_ECORRUPT, "the other end does not speak fazt's protocol: is the port right?");
	if (size < LTX_WIRE_HELLO_BYTES)
		return fz_fail(err, EAGAIN, "the greeting has not come yet");
	*version = in[4];
	*length = fz_be16(in + 6);
	return 0;
}
