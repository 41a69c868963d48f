#include "replica/incoming.h"

#include "base/clock.h"
#include "base/file.h"
#include "ltx/dec.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define AHEAD_BYTES (512 * 1024)        /* what the decoder may ask for at a time, and a page */
#define ENTRY_BYTES 20                  /* of the page index, at most: it is read in one go */
#define WRITE_BYTES (UINT64_C(4) << 20) /* goes to the disk while more comes, so that the last sync is short */

struct replica_incoming {
	int dirfd, fd;
	const char *name;
	struct ltx_wire_file file;
	uint64_t got, pushed;
	/* verification */
	struct fz_src src; /* what the decoder reads: the file as it will be */
	uint64_t asked;    /* end of what the decoder has asked for */
	struct ltx_dec *dec;
	struct ltx_header h;
	struct ltx_trailer t;
	uint64_t sum; /* of a snapshot's pages */
	uint32_t pages;
	bool whole;
};

static int src_read(struct fz_src *src, uint64_t off, void *data, size_t n, struct fz_err *err)
{
	struct replica_incoming *in =
	        (struct replica_incoming *)(void *)((char *)src - offsetof(struct replica_incoming, src));
	ssize_t got;

	if (off + n > in->got)
		return fz_fail(err, FZ_ECORRUPT, "the page index is longer than its pages allow");
	got = fz_pread(in->fd, data, n, (off_t)off);
	if (got < 0)
		return fz_fail_errno(err, (int)-got, "reading %s", in->name);
	if ((size_t)got < n)
		return fz_fail(err, FZ_ETRUNCATED, "%s is shorter than what was written", in->name);
	in->asked = off + n;
	return 0;
}

void replica_incoming_look(int dirfd, uint64_t *base_txid, uint64_t *bytes)
{
	int fd = openat(dirfd, REPLICA_INCOMING_BASE, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	uint8_t raw[LTX_HEADER_SIZE];
	struct ltx_header h;
	struct stat st;

	*base_txid = *bytes = 0;
	if (fd >= 0 && fstat(fd, &st) == 0 && fz_pread(fd, raw, sizeof(raw), 0) == (ssize_t)sizeof(raw) &&
	    ltx_header_get(&h, raw, NULL) == 0 && h.min_txid == 1) {
		*base_txid = h.max_txid;
		*bytes = (uint64_t)st.st_size;
	}
	fz_close(&fd);
}

int replica_incoming_open(struct replica_incoming **out, int dirfd, const char *name, const struct ltx_wire_file *file,
                          struct fz_err *err)
{
	struct replica_incoming *in = calloc(1, sizeof(*in));
	struct stat st;
	int rc = 0;

	if (!in)
		return fz_fail_errno(err, ENOMEM, "receiving %s", name);
	in->dirfd = dirfd;
	in->name = name;
	in->file = *file;
	in->sum = LTX_EMPTY_DB;
	in->src.read_at = src_read;
	in->src.size_bytes = file->size_bytes;
	in->fd = openat(dirfd, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (in->fd < 0 || fstat(in->fd, &st) < 0) {
		rc = fz_fail_errno(err, errno, "cannot create %s", name);
	} else if (file->off_bytes > (uint64_t)st.st_size) {
		rc = fz_fail(err, FZ_EORDER, "%s has %lld bytes, the primary goes on at %" PRIu64, name,
		             (long long)st.st_size, file->off_bytes);
	} else if (ftruncate(in->fd, (off_t)file->off_bytes) < 0) {
		rc = fz_fail_errno(err, errno, "cannot shorten %s", name);
	}
	if (rc < 0) {
		replica_incoming_close(in, true);
		return rc;
	}
	in->got = in->pushed = file->off_bytes;
	*out = in;
	return 0;
}

void replica_incoming_close(struct replica_incoming *in, bool keep)
{
	if (!in)
		return;
	ltx_dec_close(in->dec);
	fz_close(&in->fd);
	if (!keep)
		unlinkat(in->dirfd, in->name, 0);
	free(in);
}

int replica_incoming_write(struct replica_incoming *in, const void *data, size_t n, struct fz_err *err)
{
	int rc;

	if (n > in->file.size_bytes - in->got)
		return fz_fail(err, FZ_ECORRUPT, "more bytes came than the file was said to have");
	rc = fz_pwrite(in->fd, data, n, (off_t)in->got);
	if (rc < 0)
		return fz_fail_errno(err, -rc, "writing %s", in->name);
	in->got += n;
	if (in->got - in->pushed >= WRITE_BYTES) {
		(void)sync_file_range(in->fd, (off_t)in->pushed, (off_t)(in->got - in->pushed), SYNC_FILE_RANGE_WRITE);
		in->pushed = in->got;
	}
	return 0;
}

bool replica_incoming_idle(const struct replica_incoming *in)
{
	uint64_t need = in->asked + AHEAD_BYTES + (in->dec ? (uint64_t)in->h.commit * ENTRY_BYTES : 0);

	return in->whole || (in->got < in->file.size_bytes && in->got < need);
}

static int begin(struct replica_incoming *in, struct fz_err *err)
{
	int rc = ltx_dec_open(&in->dec, &in->src, 0, err);

	if (rc < 0)
		return rc;
	in->h = *ltx_dec_header(in->dec);
	if (in->h.flags)
		return fz_fail(err, FZ_ECORRUPT, "an LTX file without checksums");
	if (in->h.min_txid != in->file.min_txid || in->h.max_txid != in->file.max_txid)
		return fz_fail(err, FZ_EORDER,
		               "the file holds TXIDs %" PRIu64 "-%" PRIu64 ", announced were %" PRIu64 "-%" PRIu64,
		               in->h.min_txid, in->h.max_txid, in->file.min_txid, in->file.max_txid);
	return 2;
}

static int finish(struct replica_incoming *in, struct fz_err *err)
{
	uint64_t bytes = 0;

	in->t = *ltx_dec_end(in->dec, &bytes);
	if (bytes != in->file.size_bytes)
		return fz_fail(err, FZ_ECORRUPT, "the file has %" PRIu64 " bytes, announced were %" PRIu64, bytes,
		               in->file.size_bytes);
	if (ltx_is_snapshot(&in->h) && in->sum != in->t.post_checksum)
		return fz_fail(err, FZ_ECHECKSUM, "the snapshot's pages have another checksum than it says");
	in->whole = true;
	return 1;
}

int replica_incoming_step(struct replica_incoming *in, uint64_t budget_ns, struct fz_err *err)
{
	uint64_t end_ns = fz_mono_ns() + budget_ns;
	const uint8_t *page = NULL;
	uint32_t pgno = 0;
	int rc;

	if (in->whole)
		return 1;
	while (!replica_incoming_idle(in)) {
		if (!in->dec) {
			rc = begin(in, err);
		} else {
			rc = ltx_dec_page(in->dec, &pgno, &page, err);
			if (rc == 0)
				return finish(in, err);
			if (rc == 1 && ltx_is_snapshot(&in->h))
				in->sum = ltx_db_checksum_swap(in->sum, 0,
				                               ltx_page_checksum(pgno, page, in->h.page_size));
			in->pages++;
		}
		if (rc < 0)
			return rc;
		if (in->pages % 16 == 0 && fz_mono_ns() >= end_ns)
			return 2;
	}
	return 0;
}

const struct ltx_header *replica_incoming_header(const struct replica_incoming *in)
{
	return &in->h;
}

const struct ltx_trailer *replica_incoming_trailer(const struct replica_incoming *in)
{
	return &in->t;
}

uint32_t replica_incoming_pages(const struct replica_incoming *in)
{
	return in->pages;
}

int replica_incoming_read(struct replica_incoming *in, uint64_t off, void *data, size_t n, struct fz_err *err)
{
	return src_read(&in->src, off, data, n, err);
}
