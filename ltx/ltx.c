#include "ltx/ltx.h"

#include "base/cursor.h"
#include "ltx/frame.h"

#include <isa-l/crc64.h>

static const uint8_t magic[4] = {'L', 'T', 'X', '1'};

bool ltx_page_size_ok(uint32_t page_size)
{
	return page_size >= 512 && page_size <= 65536 && (page_size & (page_size - 1)) == 0;
}

/* ISA-L inverts before and after by itself, so its result is the running value too. */
uint64_t ltx_crc64(uint64_t crc, const void *data, size_t n)
{
	return n ? crc64_iso_refl(crc, data, n) : crc;
}

uint64_t ltx_page_checksum(uint32_t pgno, const void *data, uint32_t page_size)
{
	uint8_t b[4];

	fz_put32(b, pgno);
	return LTX_FLAG | ltx_crc64(ltx_crc64(0, b, sizeof(b)), data, page_size);
}

void ltx_header_put(uint8_t out[static LTX_HEADER_SIZE], const struct ltx_header *h)
{
	memcpy(out, magic, sizeof(magic));
	fz_put32(out + 4, h->flags);
	fz_put32(out + 8, h->page_size);
	fz_put32(out + 12, h->commit);
	fz_put64(out + 16, h->min_txid);
	fz_put64(out + 24, h->max_txid);
	fz_put64(out + 32, (uint64_t)h->time_ms);
	fz_put64(out + 40, h->pre_checksum);
	fz_put64(out + 48, (uint64_t)h->wal_offset);
	fz_put64(out + 56, (uint64_t)h->wal_size);
	fz_put32(out + 64, h->wal_salt1);
	fz_put32(out + 68, h->wal_salt2);
	fz_put64(out + 72, h->node_id);
	memset(out + 80, 0, LTX_HEADER_SIZE - 80);
}

int ltx_header_check(const struct ltx_header *h, struct fz_err *err)
{
	if (h->flags & ~LTX_NO_CHECKSUM)
		return fz_fail(err, FZ_EVERSION, "LTX header: flags 0x%x are of another version", h->flags);
	if (!ltx_page_size_ok(h->page_size))
		return fz_fail(err, FZ_ECORRUPT, "LTX header: page size %u", h->page_size);
	if (h->commit == 0)
		return fz_fail(err, FZ_ECORRUPT, "LTX header: a database of no pages");
	if (h->min_txid == 0 || h->min_txid > h->max_txid)
		return fz_fail(err, FZ_ECORRUPT, "LTX header: TXIDs %016llx-%016llx", (unsigned long long)h->min_txid,
		               (unsigned long long)h->max_txid);
	if (h->wal_offset < 0 || h->wal_size < 0 ||
	    (h->wal_offset == 0 && (h->wal_size || h->wal_salt1 || h->wal_salt2)))
		return fz_fail(err, FZ_ECORRUPT, "LTX header: WAL range %lld+%lld", (long long)h->wal_offset,
		               (long long)h->wal_size);
	if (ltx_is_snapshot(h) || (h->flags & LTX_NO_CHECKSUM)) {
		if (h->pre_checksum != 0)
			return fz_fail(err, FZ_ECORRUPT, "LTX header: pre-apply checksum where none may be");
	} else if (!(h->pre_checksum & LTX_FLAG)) {
		return fz_fail(err, FZ_ECORRUPT, "LTX header: pre-apply checksum %016llx",
		               (unsigned long long)h->pre_checksum);
	}
	return 0;
}

int ltx_header_get(struct ltx_header *h, const uint8_t in[static LTX_HEADER_SIZE], struct fz_err *err)
{
	if (memcmp(in, magic, 3) != 0)
		return fz_fail(err, FZ_ECORRUPT, "not an LTX file");
	if (in[3] != magic[3])
		return fz_fail(err, FZ_EVERSION, "LTX file of an unknown version");
	h->flags = fz_be32(in + 4);
	h->page_size = fz_be32(in + 8);
	h->commit = fz_be32(in + 12);
	h->min_txid = fz_be64(in + 16);
	h->max_txid = fz_be64(in + 24);
	h->time_ms = (int64_t)fz_be64(in + 32);
	h->pre_checksum = fz_be64(in + 40);
	h->wal_offset = (int64_t)fz_be64(in + 48);
	h->wal_size = (int64_t)fz_be64(in + 56);
	h->wal_salt1 = fz_be32(in + 64);
	h->wal_salt2 = fz_be32(in + 68);
	h->node_id = fz_be64(in + 72);
	return ltx_header_check(h, err);
}

int ltx_trailer_get(struct ltx_trailer *t, const uint8_t in[static LTX_TRAILER_SIZE], const struct ltx_header *h,
                    struct fz_err *err)
{
	t->post_checksum = fz_be64(in);
	t->file_checksum = fz_be64(in + 8);
	if (!(t->file_checksum & LTX_FLAG))
		return fz_fail(err, FZ_ECORRUPT, "LTX trailer: file checksum %016llx",
		               (unsigned long long)t->file_checksum);
	return ltx_post_check(t->post_checksum, h, err);
}

int ltx_post_check(uint64_t post_checksum, const struct ltx_header *h, struct fz_err *err)
{
	bool ok = h->flags & LTX_NO_CHECKSUM ? post_checksum == 0 : (post_checksum & LTX_FLAG) != 0;

	return ok ? 0
	          : fz_fail(err, FZ_ECORRUPT, "LTX trailer: post-apply checksum %016llx",
	                    (unsigned long long)post_checksum);
}
