#include "ltx/pack.h"

#include "base/cursor.h"
#include "ltx/frame.h"

#include <errno.h>
#include <stdlib.h>

static const char magic[8] = {'F', 'Z', 'P', 'A', 'C', 'K', '0', '1'};

void ltx_pack_entry_put(uint8_t out[static LTX_PACK_ENTRY_SIZE], const struct ltx_pack_entry *e)
{
	fz_put64(out, e->min_txid);
	fz_put64(out + 8, e->max_txid);
	fz_put64(out + 16, (uint64_t)e->time_ms);
	fz_put64(out + 24, e->off_bytes);
	fz_put64(out + 32, e->size_bytes);
	fz_put32(out + 40, e->pages);
	fz_put32(out + 44, e->commit);
}

void ltx_pack_entry_get(struct ltx_pack_entry *e, const uint8_t in[static LTX_PACK_ENTRY_SIZE])
{
	struct fz_cur c = fz_cur(in, LTX_PACK_ENTRY_SIZE);

	e->min_txid = fz_cur_be64(&c);
	e->max_txid = fz_cur_be64(&c);
	e->time_ms = (int64_t)fz_cur_be64(&c);
	e->off_bytes = fz_cur_be64(&c);
	e->size_bytes = fz_cur_be64(&c);
	e->pages = fz_cur_be32(&c);
	e->commit = fz_cur_be32(&c);
}

/* What every pack promises; prev is NULL for the first entry. */
static int check_entry(const struct ltx_pack_entry *e, const struct ltx_pack_entry *prev, struct fz_err *err)
{
	if (e->min_txid == 0 || e->max_txid < e->min_txid || (prev && e->min_txid != prev->max_txid + 1))
		return fz_fail(err, FZ_ECORRUPT, "pack: transactions %llu-%llu after %llu",
		               (unsigned long long)e->min_txid, (unsigned long long)e->max_txid,
		               prev ? (unsigned long long)prev->max_txid : 0);
	if (e->size_bytes < LTX_FILE_MIN || e->pages > e->commit)
		return fz_fail(err, FZ_ECORRUPT, "pack: transaction %llu: %u of %u pages in %llu bytes",
		               (unsigned long long)e->min_txid, e->pages, e->commit, (unsigned long long)e->size_bytes);
	return 0;
}

int ltx_pack_note(struct ltx_pack_writer *w, const struct ltx_pack_entry *e, struct fz_err *err)
{
	struct ltx_pack_entry prev, placed = *e;
	uint8_t b[LTX_PACK_ENTRY_SIZE];
	bool first = w->entries.size == 0;
	int rc;

	if (!first)
		ltx_pack_entry_get(&prev, w->entries.data + w->entries.size - sizeof(b));
	rc = check_entry(e, first ? NULL : &prev, err);
	if (rc < 0)
		return rc;
	placed.off_bytes = w->off_bytes;
	ltx_pack_entry_put(b, &placed);
	if (fz_buf_add(&w->entries, b, sizeof(b)) < 0)
		return fz_fail_errno(err, ENOMEM, "noting a transaction of a pack");
	w->off_bytes += e->size_bytes;
	return 0;
}

int ltx_pack_finish(struct ltx_pack_writer *w, struct fz_sink *sink, struct fz_err *err)
{
	uint8_t t[LTX_PACK_TRAILER_SIZE];
	int rc;

	fz_put64(t, w->entries.size / LTX_PACK_ENTRY_SIZE);
	fz_put64(t + 8, ltx_crc64(0, w->entries.data, w->entries.size));
	memcpy(t + 16, magic, sizeof(magic));
	rc = w->entries.size ? fz_sink_write(sink, w->entries.data, w->entries.size, err) : 0;
	return rc < 0 ? rc : fz_sink_write(sink, t, sizeof(t), err);
}

void ltx_pack_writer_fini(struct ltx_pack_writer *w)
{
	fz_buf_fini(&w->entries);
	w->off_bytes = 0;
}

/* Entries in e[0..n) from raw; index_off = where the LTX files end. */
static int parse(struct ltx_pack_entry *e, uint64_t n, const uint8_t *raw, uint64_t index_off, struct fz_err *err)
{
	uint64_t off = 0;

	for (uint64_t i = 0; i < n; i++) {
		int rc;

		ltx_pack_entry_get(&e[i], raw + i * LTX_PACK_ENTRY_SIZE);
		rc = check_entry(&e[i], i ? &e[i - 1] : NULL, err);
		if (rc < 0)
			return rc;
		if (e[i].off_bytes != off || e[i].size_bytes > index_off - off)
			return fz_fail(err, FZ_ECORRUPT, "pack: transaction %llu at %llu+%llu",
			               (unsigned long long)e[i].min_txid, (unsigned long long)e[i].off_bytes,
			               (unsigned long long)e[i].size_bytes);
		off += e[i].size_bytes;
	}
	return off == index_off ? 0 : fz_fail(err, FZ_ECORRUPT, "pack: bytes that belong to no transaction");
}

int ltx_pack_index_read(struct ltx_pack_index *out, struct fz_src *src, struct fz_err *err)
{
	struct ltx_pack_entry *e = NULL;
	uint8_t t[LTX_PACK_TRAILER_SIZE], *raw = NULL;
	uint64_t n, room, index_off;
	int rc;

	*out = (struct ltx_pack_index){NULL, 0};
	if (src->size_bytes < sizeof(t)) {
		rc = fz_fail(err, FZ_ETRUNCATED, "pack of %llu bytes", (unsigned long long)src->size_bytes);
		goto out;
	}
	room = src->size_bytes - sizeof(t);
	rc = fz_src_read(src, room, t, sizeof(t), err);
	if (rc < 0)
		goto out;
	if (memcmp(t + 16, magic, 6) != 0) {
		rc = fz_fail(err, FZ_ECORRUPT, "not a pack");
		goto out;
	}
	if (memcmp(t + 16, magic, sizeof(magic)) != 0) {
		rc = fz_fail(err, FZ_EVERSION, "pack of an unknown version");
		goto out;
	}
	n = fz_be64(t);
	if (n > room / LTX_PACK_ENTRY_SIZE) {
		rc = fz_fail(err, FZ_ECORRUPT, "pack of %llu bytes with %llu transactions",
		             (unsigned long long)src->size_bytes, (unsigned long long)n);
		goto out;
	}
	index_off = room - n * LTX_PACK_ENTRY_SIZE;
	raw = malloc(n ? (size_t)n * LTX_PACK_ENTRY_SIZE : 1);
	e = calloc(n ? (size_t)n : 1, sizeof(*e));
	if (!raw || !e) {
		rc = fz_fail_errno(err, ENOMEM, "reading the index of a pack");
		goto out;
	}
	rc = fz_src_read(src, index_off, raw, (size_t)n * LTX_PACK_ENTRY_SIZE, err);
	if (rc < 0)
		goto out;
	if (ltx_crc64(0, raw, (size_t)n * LTX_PACK_ENTRY_SIZE) != fz_be64(t + 8)) {
		rc = fz_fail(err, FZ_ECHECKSUM, "pack: checksum of the index differs");
		goto out;
	}
	rc = parse(e, n, raw, index_off, err);
	if (rc < 0)
		goto out;
	*out = (struct ltx_pack_index){e, n};
	e = NULL;
out:
	free(raw);
	free(e);
	return rc;
}

void ltx_pack_index_fini(struct ltx_pack_index *ix)
{
	free(ix->e);
	*ix = (struct ltx_pack_index){NULL, 0};
}
