#include "primary/cursor.h"

#include "base/file.h"

#include <stddef.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Every number of the cursor, as 64 bits: one table for writing and reading. */
struct field {
	const char *name;
	size_t at;
	size_t size;
	bool late; /* a cursor without it is whole: an earlier version's */
};
#define FIELD(name, member, late)                                                                                      \
	{                                                                                                              \
		name, offsetof(struct primary_cursor, member), sizeof(((struct primary_cursor *)0)->member), late      \
	}
#define F(name, member)    FIELD(name, member, false)
#define LATE(name, member) FIELD(name, member, true)
#define N_LATE             3
static const struct field fields[] = {
        F("epoch", epoch),
        F("claim", claim),
        F("txid", txid),
        F("checksum", checksum),
        F("held_txid", held_txid),
        F("anchor_wait", anchor_wait),
        F("retained_ms", retained_ms),
        F("from1", levels.from_txid[1]),
        F("from2", levels.from_txid[2]),
        F("from3", levels.from_txid[3]),
        F("from4", levels.from_txid[4]),
        F("from5", levels.from_txid[5]),
        F("first_ms1", levels.first_ms[1]),
        F("first_ms2", levels.first_ms[2]),
        F("first_ms3", levels.first_ms[3]),
        F("first_ms4", levels.first_ms[4]),
        F("first_ms5", levels.first_ms[5]),
        F("packs1", levels.packs[1]),
        F("packs2", levels.packs[2]),
        F("snap_txid", levels.snap_txid),
        F("snap_ms", levels.snap_ms),
        F("since_snap_bytes", levels.since_snap_bytes),
        F("need_snapshot", levels.need_snapshot),
        LATE("ended", ended),
        LATE("took", took),
        LATE("promoted", promoted),
};
#define N_FIELDS (sizeof(fields) / sizeof(fields[0]))

static uint64_t get(const struct primary_cursor *c, const struct field *f)
{
	const uint8_t *p = (const uint8_t *)c + f->at;
	uint64_t v64;
	uint32_t v32;
	bool b;

	if (f->size == sizeof(b)) {
		memcpy(&b, p, sizeof(b));
		return b;
	}
	if (f->size == sizeof(v32)) {
		memcpy(&v32, p, sizeof(v32));
		return v32;
	}
	memcpy(&v64, p, sizeof(v64));
	return v64;
}

static void set(struct primary_cursor *c, const struct field *f, uint64_t v)
{
	uint8_t *p = (uint8_t *)c + f->at;
	uint32_t v32 = (uint32_t)v;
	bool b = v != 0;

	if (f->size == sizeof(b))
		memcpy(p, &b, sizeof(b));
	else if (f->size == sizeof(v32))
		memcpy(p, &v32, sizeof(v32));
	else
		memcpy(p, &v, sizeof(v));
}

void primary_cursor_init(struct primary_cursor *c, const char *lineage)
{
	memset(c, 0, sizeof(*c));
	snprintf(c->lineage, sizeof(c->lineage), "%s", lineage);
	for (int l = 0; l < PRIMARY_LEVELS; l++)
		c->levels.first_ms[l] = -1;
}

static int parse(struct primary_cursor *c, const char *text, size_t size, struct fz_err *err)
{
	const char *crc = strstr(text, "crc="), *p = text;
	unsigned seen = 0;

	if (!crc || strlen(text) != size || strtoull(crc + 4, NULL, 16) != ltx_crc64(0, text, (size_t)(crc - text)))
		return fz_fail(err, FZ_ECORRUPT, "cursor is damaged");
	while (p < crc) {
		const char *eq = strchr(p, '='), *nl = strchr(p, '\n');

		if (!eq || !nl || eq > nl)
			return fz_fail(err, FZ_ECORRUPT, "cursor has a line that is none");
		if ((size_t)(eq - p) == 7 && memcmp(p, "lineage", 7) == 0 && nl - eq == 17) {
			memcpy(c->lineage, eq + 1, 16);
			c->lineage[16] = 0;
		}
		for (size_t i = 0; i < N_FIELDS; i++)
			if (strlen(fields[i].name) == (size_t)(eq - p) &&
			    memcmp(p, fields[i].name, (size_t)(eq - p)) == 0) {
				set(c, &fields[i], strtoull(eq + 1, NULL, 16));
				seen += !fields[i].late;
			}
		p = nl + 1;
	}
	return seen >= N_FIELDS - N_LATE ? 0 : fz_fail(err, FZ_ECORRUPT, "cursor is incomplete");
}

int primary_cursor_load(struct primary_cursor *c, int dirfd, struct fz_err *err)
{
	struct fz_buf text = {0};
	int rc = fz_read_file(dirfd, "cursor", 4096, &text, err);

	if (rc == 0)
		rc = parse(c, fz_buf_str(&text), text.size, err);
	fz_buf_fini(&text);
	return rc;
}

int primary_cursor_save(const struct primary_cursor *c, int dirfd, struct fz_err *err)
{
	struct fz_buf text = {0};
	int rc = fz_buf_addf(&text, "lineage=%s\n", c->lineage);

	for (size_t i = 0; rc == 0 && i < N_FIELDS; i++)
		rc = fz_buf_addf(&text, "%s=%" PRIx64 "\n", fields[i].name, get(c, &fields[i]));
	if (rc == 0)
		rc = fz_buf_addf(&text, "crc=%016" PRIx64 "\n", ltx_crc64(0, text.data, text.size));
	if (rc < 0)
		rc = fz_fail_errno(err, ENOMEM, "writing a cursor");
	else
		rc = fz_write_file(dirfd, "cursor", text.data, text.size, 0600, err);
	fz_buf_fini(&text);
	return rc;
}
