#include "primary/pack.h"

#include "base/cursor.h"
#include "ltx/log.h"

#include <errno.h>
#include <stdlib.h>

/* A run of files that lie back to back in one segment: copied with few large reads. */
struct run {
	struct ltx_log_entry first, last;
	bool any;
};

static bool joins(const struct run *r, const struct ltx_log_entry *e)
{
	return r->any && e->seg == r->last.seg && e->e.off_bytes == r->last.e.off_bytes + r->last.e.size_bytes;
}

/* Is the file at off still the one that e names? A segment may have been merged since it was looked up. */
static int check_file(struct fz_src *src, uint64_t off, const struct ltx_log_entry *e, struct fz_err *err)
{
	uint8_t b[LTX_HEADER_SIZE];
	struct ltx_header h;
	int rc = fz_src_read(src, off, b, sizeof(b), err);

	if (rc == 0)
		rc = ltx_header_get(&h, b, err);
	if (rc == 0 && h.min_txid == e->e.min_txid && h.max_txid == e->e.max_txid)
		return 0;
	return fz_fail(err, FZ_EGAP, "the local log was merged around transaction %llu meanwhile",
	               (unsigned long long)e->e.min_txid);
}

static int copy_run(struct ltx_log *log, struct run *r, struct fz_sink *sink, uint64_t *post_checksum,
                    struct fz_err *err)
{
	uint8_t trailer[LTX_TRAILER_SIZE];
	struct fz_src *src = NULL;
	int rc;

	if (!r->any)
		return 0;
	r->any = false;
	rc = ltx_log_src_range(log, &r->first, &r->last, &src, err);
	if (rc < 0)
		return rc;
	rc = check_file(src, 0, &r->first, err);
	if (rc == 0)
		rc = check_file(src, r->last.e.off_bytes - r->first.e.off_bytes, &r->last, err);
	if (rc == 0)
		rc = fz_src_copy(src, sink, err);
	if (rc == 0) /* the trailer of the last file ends the run */
		rc = fz_src_read(src, src->size_bytes - sizeof(trailer), trailer, sizeof(trailer), err);
	if (rc == 0)
		*post_checksum = fz_be64(trailer);
	fz_src_close(src);
	return rc;
}

/* Does e still belong into the pack? */
static bool fits(const struct primary_pack_limit *l, struct primary_pack_result *r, const struct ltx_log_entry *e)
{
	if (e->e.max_txid > l->max_txid || (l->before_ms && e->e.time_ms >= l->before_ms))
		return false;
	if (r->entries == 0)
		return true;
	if (l->window_ms && e->e.time_ms / l->window_ms != r->first_ms / l->window_ms)
		return false;
	r->more = r->entries >= l->max_entries || r->plain_bytes + e->e.size_bytes > l->max_bytes;
	return !r->more;
}

int primary_pack_build(struct ltx_log *log, uint64_t from_txid, const struct primary_pack_limit *limit,
                       struct fz_sink *sink, struct primary_pack_result *out, struct fz_err *err)
{
	struct ltx_pack_writer w = {0};
	struct primary_pack_result r = {.min_txid = from_txid, .max_txid = from_txid - 1};
	struct ltx_log_entry found[LTX_LOG_RUN], e;
	struct run run = {.any = false};
	int n = 0, at = 0, rc = 0;

	while (rc == 0 && r.max_txid < limit->max_txid) {
		if (at == n) {
			at = 0;
			n = rc = ltx_log_find_run(log, r.max_txid + 1, found, LTX_LOG_RUN, err);
			if (rc == -FZ_ENOTFOUND && r.entries > 0) {
				rc = 0;
				break;
			}
			if (rc < 0)
				break;
			rc = 0;
		}
		e = found[at++];
		if (e.seg == 0 || e.e.min_txid != r.max_txid + 1) {
			rc = fz_fail(err, FZ_EGAP, "the local log no longer holds transaction %llu by itself",
			             (unsigned long long)r.max_txid + 1);
			break;
		}
		if (e.e.min_txid <= limit->coarse_txid && e.e.max_txid > e.e.min_txid) { /* it ends before the range */
			if (r.entries == 0)
				rc = fz_fail(err, FZ_EGAP, "the local log has merged transactions %llu to %llu",
				             (unsigned long long)e.e.min_txid, (unsigned long long)e.e.max_txid);
			break;
		}
		if (!fits(limit, &r, &e))
			break;
		if (!joins(&run, &e)) {
			rc = copy_run(log, &run, sink, &r.post_checksum, err);
			run = (struct run){.first = e, .any = true};
		}
		run.last = e;
		if (r.entries++ == 0)
			r.first_ms = e.e.time_ms;
		r.last_ms = e.e.time_ms;
		r.max_txid = e.e.max_txid;
		r.plain_bytes += e.e.size_bytes;
		e.e.off_bytes = w.off_bytes;
		if (rc == 0)
			rc = ltx_pack_note(&w, &e.e, err);
	}
	if (rc == 0)
		rc = copy_run(log, &run, sink, &r.post_checksum, err);
	if (rc == 0 && r.entries == 0)
		rc = fz_fail(err, FZ_ENOTFOUND, "nothing to pack above transaction %llu",
		             (unsigned long long)from_txid - 1);
	if (rc == 0)
		rc = ltx_pack_finish(&w, sink, err);
	if (rc == 0)
		*out = r;
	ltx_pack_writer_fini(&w);
	return rc;
}

void primary_pack_name(struct ltx_name *name, const struct primary_pack_result *r)
{
	name->min_txid = r->min_txid;
	name->max_txid = r->max_txid;
	name->first_ms = r->first_ms;
	name->last_ms = r->last_ms;
	name->post_checksum = r->post_checksum;
}
