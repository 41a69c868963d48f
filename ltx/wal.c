#include "ltx/wal.h"

#include "base/cursor.h"
#include "ltx/ltx.h"

#define WAL_MAGIC   0x377f0682u /* lowest bit: checksums read big-endian words */
#define WAL_VERSION 3007000u

void ltx_wal_sum(bool big_endian, const void *data, size_t n, uint32_t sum[static 2])
{
	const uint8_t *p = data;
	uint32_t a = sum[0], b = sum[1];

	if (big_endian) {
		for (size_t i = 0; i + 8 <= n; i += 8) {
			a += fz_be32(p + i) + b;
			b += fz_be32(p + i + 4) + a;
		}
	} else {
		for (size_t i = 0; i + 8 <= n; i += 8) {
			a += __builtin_bswap32(fz_be32(p + i)) + b;
			b += __builtin_bswap32(fz_be32(p + i + 4)) + a;
		}
	}
	sum[0] = a;
	sum[1] = b;
}

int ltx_wal_header_get(struct ltx_wal_header *h, const uint8_t in[static LTX_WAL_HEADER_SIZE], struct fz_err *err)
{
	struct fz_cur c = fz_cur(in, LTX_WAL_HEADER_SIZE);
	uint32_t magic = fz_cur_be32(&c), version = fz_cur_be32(&c), sum[2] = {0, 0};

	h->page_size = fz_cur_be32(&c);
	h->sequence = fz_cur_be32(&c);
	for (int i = 0; i < 2; i++)
		h->salt[i] = fz_cur_be32(&c);
	for (int i = 0; i < 2; i++)
		h->sum[i] = fz_cur_be32(&c);
	if ((magic & ~1u) != WAL_MAGIC)
		return fz_fail(err, FZ_ECORRUPT, "not a WAL: magic %08x", magic);
	h->big_endian = magic & 1;
	if (version != WAL_VERSION)
		return fz_fail(err, FZ_ECORRUPT, "WAL version %u is not known", version);
	if (!ltx_page_size_ok(h->page_size))
		return fz_fail(err, FZ_ECORRUPT, "WAL page size %u", h->page_size);
	ltx_wal_sum(h->big_endian, in, 24, sum);
	if (sum[0] != h->sum[0] || sum[1] != h->sum[1])
		return fz_fail(err, FZ_ECORRUPT, "WAL header: checksum differs");
	return 0;
}

void ltx_wal_frame_get(struct ltx_wal_frame *f, const uint8_t in[static LTX_WAL_FRAME_SIZE])
{
	f->pgno = fz_be32(in);
	f->commit = fz_be32(in + 4);
	for (int i = 0; i < 2; i++) {
		f->salt[i] = fz_be32(in + 8 + 4 * i);
		f->sum[i] = fz_be32(in + 16 + 4 * i);
	}
}

bool ltx_wal_frame_ok(const struct ltx_wal_header *h, const uint8_t *frame, uint32_t sum[static 2])
{
	uint32_t s[2] = {sum[0], sum[1]};
	struct ltx_wal_frame f;

	ltx_wal_frame_get(&f, frame);
	if (!f.pgno || f.salt[0] != h->salt[0] || f.salt[1] != h->salt[1])
		return false;
	ltx_wal_sum(h->big_endian, frame, 8, s);
	ltx_wal_sum(h->big_endian, frame + LTX_WAL_FRAME_SIZE, h->page_size, s);
	if (s[0] != f.sum[0] || s[1] != f.sum[1])
		return false;
	sum[0] = s[0];
	sum[1] = s[1];
	return true;
}
