#include "ltx/recut.h"

#include "base/file.h"
#include "ltx/dec.h"
#include "ltx/enc.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static int copy_pages(struct ltx_dec *d, struct ltx_enc *e, struct fz_sink *sink, uint64_t txid, uint64_t checksum,
                      uint64_t *size, struct fz_err *err)
{
	struct ltx_header h = *ltx_dec_header(d);
	const uint8_t *page = NULL;
	uint32_t pgno = 0;
	uint64_t bytes;
	int rc;

	h.min_txid = txid + 1;
	h.pre_checksum = checksum;
	rc = ltx_enc_begin(e, sink, &h, err);
	while (rc == 0 && (rc = ltx_dec_page(d, &pgno, &page, err)) == 1)
		rc = ltx_enc_page(e, pgno, page, err);
	return rc < 0 ? rc : ltx_enc_end(e, ltx_dec_end(d, &bytes)->post_checksum, NULL, size, err);
}

/* A file without a name; where the file system has none, one whose name goes at once (and at the next open of the log
 * if we die in between). */
static int temporary(int dirfd, struct fz_err *err)
{
	static const char name[] = "log-tmp-recut";
	int fd = openat(dirfd, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);

	if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == ENOENT)) {
		fd = openat(dirfd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (fd >= 0)
			unlinkat(dirfd, name, 0);
	}
	return fd < 0 ? fz_fail_errno(err, errno, "a temporary file for a replica") : fd;
}

int ltx_recut(struct fz_src *src, int dirfd, uint64_t txid, uint64_t checksum, struct fz_src **out, struct fz_err *err)
{
	struct fz_fd_sink sink = {.fd = -1};
	struct ltx_dec *d = NULL;
	struct ltx_enc *enc = NULL;
	uint64_t size = 0;
	int fd = temporary(dirfd, err), rc = fd;

	if (fd < 0)
		return rc;
	fz_fd_sink_init(&sink, fd, 0);
	rc = ltx_dec_open(&d, src, 0, err);
	if (rc == 0)
		rc = ltx_enc_open(&enc, err);
	if (rc == 0)
		rc = copy_pages(d, enc, &sink.sink, txid, checksum, &size, err);
	if (rc == 0)
		rc = fz_fd_sink_flush(&sink, err);
	if (rc == 0)
		rc = fz_src_fd(out, fd, 0, size, true, err);
	if (rc == 0)
		fd = -1;
	fz_fd_sink_fini(&sink);
	ltx_enc_close(enc);
	ltx_dec_close(d);
	fz_close(&fd);
	return rc;
}
