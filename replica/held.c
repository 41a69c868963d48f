#include "replica/held.h"

#include "base/file.h"
#include "base/log.h"
#include "ltx/dec.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define COPY_BYTES (256 * 1024)

static const char *const names[REPLICA_HELD_FILES] = {"follow-held-0.ltx", "follow-held-1.ltx"};

void replica_held_init(struct replica_held *h)
{
	*h = (struct replica_held){.now = -1, .in = -1};
	for (int i = 0; i < REPLICA_HELD_FILES; i++)
		h->files[i].fd = -1;
}

void replica_held_fini(struct replica_held *h)
{
	for (int i = 0; i < REPLICA_HELD_FILES; i++)
		fz_close(&h->files[i].fd);
	replica_held_init(h);
}

int replica_held_verify(struct ltx_dec **dec, struct fz_src *src, struct ltx_header *h, struct ltx_trailer *t,
                        uint32_t *pages, struct fz_err *err)
{
	uint64_t sum = LTX_EMPTY_DB, bytes = 0;
	const uint8_t *page = NULL;
	uint32_t pgno = 0;
	int rc = *dec ? ltx_dec_reopen(*dec, src, 0, err) : ltx_dec_open(dec, src, 0, err);

	*pages = 0;
	if (rc < 0)
		return rc;
	*h = *ltx_dec_header(*dec);
	while ((rc = ltx_dec_page(*dec, &pgno, &page, err)) == 1) {
		++*pages;
		if (ltx_is_snapshot(h))
			sum = ltx_db_checksum_swap(sum, 0, ltx_page_checksum(pgno, page, h->page_size));
	}
	if (rc < 0)
		return rc;
	*t = *ltx_dec_end(*dec, &bytes);
	if (bytes != src->size_bytes)
		return fz_fail(err, FZ_ECORRUPT, "the file has %" PRIu64 " bytes, announced were %" PRIu64, bytes,
		               src->size_bytes);
	if (h->flags)
		return fz_fail(err, FZ_ECORRUPT, "an LTX file without checksums");
	if (ltx_is_snapshot(h) && sum != t->post_checksum)
		return fz_fail(err, FZ_ECHECKSUM, "the transaction's pages have another checksum than it says");
	return 0;
}

/* One transaction that continues a position. */
static bool continues(const struct replica_held_file *f, uint64_t txid, uint64_t checksum)
{
	return f->txid && f->header.min_txid == txid + 1 && f->header.max_txid == txid + 1 &&
	       f->header.pre_checksum == (txid ? checksum : 0);
}

static int verify_file(struct replica_held_file *f, struct ltx_dec **dec, struct fz_err *err)
{
	struct fz_src *src = NULL;
	int rc = fz_src_fd(&src, f->fd, 0, f->size_bytes, false, err);

	f->txid = 0;
	if (rc == 0)
		rc = replica_held_verify(dec, src, &f->header, &f->trailer, &f->pages, err);
	fz_src_close(src);
	if (rc == 0)
		f->txid = f->header.max_txid;
	return rc;
}

/* ---- into the log ---- */

static int append(struct replica_held_file *f, struct ltx_log *log, struct fz_err *err)
{
	size_t cap = f->size_bytes < COPY_BYTES ? (size_t)f->size_bytes : COPY_BYTES;
	uint8_t *buf = malloc(cap ? cap : 1);
	struct fz_sink *sink = NULL;
	int rc = buf ? ltx_log_begin(log, &f->header, &sink, err)
	             : fz_fail_errno(err, ENOMEM, "taking a transaction into the log");

	for (uint64_t at = 0; rc == 0 && at < f->size_bytes;) {
		size_t want = f->size_bytes - at < cap ? (size_t)(f->size_bytes - at) : cap;
		ssize_t n = fz_pread(f->fd, buf, want, (off_t)at);

		if (n < 0)
			rc = fz_fail_errno(err, (int)-n, "reading a transaction that was held");
		else if ((size_t)n < want)
			rc = fz_fail(err, FZ_ETRUNCATED, "a transaction that was held ends early");
		else
			rc = fz_sink_write(sink, buf, want, err);
		at += want;
	}
	free(buf);
	if (rc == 0)
		rc = ltx_log_commit(log, f->size_bytes, f->pages, &f->trailer, false, err);
	else if (sink)
		ltx_log_abort(log);
	if (rc == 0)
		f->committed = true;
	return rc;
}

int replica_held_commit(struct replica_held *h, struct ltx_log *log, uint64_t txid, struct fz_err *err)
{
	int rc;

	if (h->now < 0 || h->files[h->now].txid != txid)
		return fz_fail(err, FZ_EORDER, "transaction %" PRIu64 " was committed, but is not held here", txid);
	rc = append(&h->files[h->now], log, err);
	if (rc == 0)
		h->now = -1;
	return rc;
}

/* ---- from disk ---- */

static void open_file(struct replica_held_file *f, int dirfd, const char *name, struct ltx_dec **dec)
{
	struct stat st;

	fz_close(&f->fd);
	*f = (struct replica_held_file){.fd = openat(dirfd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW)};
	if (f->fd < 0 || fstat(f->fd, &st) < 0 || st.st_size == 0)
		return;
	f->size_bytes = (uint64_t)st.st_size;
	if (verify_file(f, dec, NULL) < 0)
		f->txid = 0; /* torn: it was never acknowledged */
}

int replica_held_load(struct replica_held *h, struct ltx_log *log, struct ltx_dec **dec, struct fz_err *err)
{
	struct ltx_log_info info;
	int first = -1, rc = 0;

	h->now = h->in = -1;
	ltx_log_info(log, &info);
	for (int i = 0; i < REPLICA_HELD_FILES; i++) {
		open_file(&h->files[i], ltx_log_dirfd(log), names[i], dec);
		if (continues(&h->files[i], info.tail_txid, info.tail_checksum))
			first = i;
	}
	if (first < 0)
		return 0;
	if (continues(&h->files[!first], info.tail_txid + 1, h->files[first].trailer.post_checksum)) {
		rc = append(&h->files[first], log, err);
		if (rc < 0)
			return rc;
		first = !first;
		rc = 1;
	}
	h->now = first;
	return rc;
}

/* ---- from the primary ---- */

static int sync_log(struct ltx_log *log, uint64_t *durable_txid, struct fz_err *err)
{
	struct ltx_log_info info;
	int rc = ltx_log_sync(log, err);

	ltx_log_info(log, &info);
	if (rc == 0)
		*durable_txid = info.tail_txid;
	return rc;
}

int replica_held_begin(struct replica_held *h, struct ltx_log *log, uint64_t *durable_txid, struct fz_err *err)
{
	struct replica_held_file *f;
	int at = -1, rc;

	replica_held_drop(h);
	for (int i = 0; i < REPLICA_HELD_FILES && at < 0; i++)
		if (!h->files[i].committed || h->files[i].txid <= *durable_txid)
			at = i;
	if (at < 0) { /* (1) */
		rc = sync_log(log, durable_txid, err);
		if (rc < 0)
			return rc;
		at = 0;
	}
	f = &h->files[at];
	f->txid = 0;
	f->committed = false;
	if (f->fd < 0)
		f->fd = openat(ltx_log_dirfd(log), names[at], O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (f->fd < 0)
		return fz_fail_errno(err, errno, "cannot create %s", names[at]);
	h->in = at;
	return 0;
}

int replica_held_write(struct replica_held *h, uint64_t off_bytes, const void *data, size_t n, struct fz_err *err)
{
	int rc = h->in < 0 ? -EINVAL : fz_pwrite(h->files[h->in].fd, data, n, (off_t)off_bytes);

	return rc < 0 ? fz_fail_errno(err, -rc, "writing a transaction that is to be held") : 0;
}

/* (3): the log is durable but for its last transaction, which the other file holds. */
static bool other_covers(const struct replica_held *h, int at, uint64_t tail, uint64_t durable)
{
	const struct replica_held_file *o = &h->files[!at];

	return o->committed && o->txid == tail && durable + 1 >= tail;
}

int replica_held_end(struct replica_held *h, struct ltx_log *log, uint64_t size_bytes, struct ltx_dec **dec,
                     uint64_t *durable_txid, struct fz_err *err)
{
	struct replica_held_file *f = &h->files[h->in < 0 ? 0 : h->in];
	struct ltx_log_info info;
	int at = h->in, rc;

	h->in = -1;
	if (at < 0)
		return fz_fail(err, FZ_EINTERNAL, "nothing is being received");
	ltx_log_info(log, &info);
	f->size_bytes = size_bytes;
	if (ftruncate(f->fd, (off_t)size_bytes) < 0)
		return fz_fail_errno(err, errno, "writing a transaction that is to be held");
	rc = verify_file(f, dec, err);
	if (rc == 0 && !continues(f, info.tail_txid, info.tail_checksum)) {
		f->txid = 0;
		rc = fz_fail(err, FZ_EORDER, "transaction %" PRIu64 " does not continue the log", f->header.min_txid);
	}
	if (rc == 0 && *durable_txid < info.tail_txid && !other_covers(h, at, info.tail_txid, *durable_txid))
		rc = sync_log(log, durable_txid, err);
	if (rc == 0 && fdatasync(f->fd) < 0)
		rc = fz_fail_errno(err, errno, "syncing a transaction that is to be held");
	if (rc == 0 && !h->named[at]) {
		rc = fsync(ltx_log_dirfd(log)) < 0 ? fz_fail_errno(err, errno, "syncing the log's directory") : 0;
		h->named[at] = rc == 0;
	}
	if (rc == 0)
		h->now = at;
	else
		f->txid = 0;
	return rc;
}

uint64_t replica_held_txid(const struct replica_held *h, uint64_t *checksum)
{
	if (h->now < 0)
		return 0;
	*checksum = h->files[h->now].trailer.post_checksum;
	return h->files[h->now].txid;
}

void replica_held_drop(struct replica_held *h)
{
	if (h->now >= 0)
		h->files[h->now].txid = 0;
	h->now = h->in = -1;
}

void replica_held_forget(struct replica_held *h, int dirfd)
{
	replica_held_fini(h);
	for (int i = 0; i < REPLICA_HELD_FILES; i++)
		if (unlinkat(dirfd, names[i], 0) < 0 && errno != ENOENT)
			fz_warn("cannot remove %s: %s", names[i], fz_strerror(-errno));
}

unsigned replica_held_count(struct ltx_log *log)
{
	struct replica_held h;
	struct ltx_log_info info;
	struct ltx_dec *dec = NULL;
	unsigned n = 0;

	ltx_log_info(log, &info);
	replica_held_init(&h);
	for (int i = 0; i < REPLICA_HELD_FILES; i++)
		open_file(&h.files[i], ltx_log_dirfd(log), names[i], &dec);
	for (int i = 0; i < REPLICA_HELD_FILES && n == 0; i++)
		if (continues(&h.files[i], info.tail_txid, info.tail_checksum))
			n = 1 + continues(&h.files[!i], info.tail_txid + 1, h.files[i].trailer.post_checksum);
	replica_held_fini(&h);
	ltx_dec_close(dec);
	return n;
}

int replica_held_settle(struct ltx_log *log, bool drop, struct fz_err *err)
{
	struct replica_held h;
	struct ltx_dec *dec = NULL;
	int rc, took = 0;

	replica_held_init(&h);
	rc = replica_held_load(&h, log, &dec, err);
	if (rc >= 0 && h.now >= 0 && !drop) {
		rc = append(&h.files[h.now], log, err);
		took = rc == 0;
	}
	if (rc >= 0)
		rc = ltx_log_sync(log, err);
	if (rc == 0)
		replica_held_forget(&h, ltx_log_dirfd(log));
	replica_held_fini(&h);
	ltx_dec_close(dec);
	return rc < 0 ? rc : took;
}
