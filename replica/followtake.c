/* followtake.c - one object of the store into the log: fetched without the hand, handed over with it. */
#include "base/cursor.h"
#include "base/file.h"
#include "ltx/log.h"
#include "ltx/recut.h"
#include "replica/followstorepriv.h"
#include "replica/pages.h"
#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

#define RUN_FILES 256
#define WORK_NS   UINT64_C(10000000) /* of verifying, while the hand is held */

/* A file of its own, or a large one in a pack, piece by piece. 1 = the database has failed, nothing more is taken. */
static int take_large(struct replica_followstore *f, struct replica_followdb *db, struct fz_src *src, uint64_t off,
                      const struct ltx_wire_file *file, struct fz_err *err)
{
	bool first = true, more = true, failed = false;
	int rc = 0;

	for (uint64_t at = file->off_bytes; !failed && (at < file->size_bytes || first); first = false) {
		uint64_t left = file->size_bytes - at;
		size_t n = left < REPLICA_RUN_BYTES ? (size_t)left : REPLICA_RUN_BYTES;

		fz_buf_reset(&f->buf);
		if (!fz_buf_room(&f->buf, n))
			return fz_fail_errno(err, ENOMEM, "reading the store");
		rc = fz_src_read(src, off + at, f->buf.data, n, err);
		if (rc == 0)
			rc = replica_followstore_hand(f, err);
		if (rc < 0)
			return rc;
		if (first)
			rc = replica_followdb_file(db, file, err);
		if (rc == 0 && n)
			rc = replica_followdb_data(db, f->buf.data, n, err);
		if (rc == 0)
			(void)replica_followdb_work(db, WORK_NS);
		failed = db->state == REPLICA_FOLLOWDB_FAILED;
		replica_followstore_let_go(f);
		if (rc < 0)
			return rc;
		at += n;
	}
	while (!failed && more) { /* verified and moved into the log, a bit at a time */
		rc = replica_followstore_hand(f, err);
		if (rc < 0)
			return rc;
		more = replica_followdb_work(db, WORK_NS);
		if (!more && replica_followdb_sync(db))
			replica_followset_post(&f->set, db);
		failed = db->state == REPLICA_FOLLOWDB_FAILED;
		replica_followstore_let_go(f);
	}
	return failed;
}

/* Neighbours in a pack with one read. 1 = the database has failed, nothing more is taken. */
static int take_run(struct replica_followstore *f, struct replica_followdb *db, struct fz_src *src,
                    const struct ltx_pack_entry *e, size_t n, struct fz_err *err)
{
	uint64_t begin = e[0].off_bytes;
	size_t bytes = (size_t)(e[n - 1].off_bytes + e[n - 1].size_bytes - begin);
	bool failed = false;
	int rc;

	fz_buf_reset(&f->buf);
	if (!fz_buf_room(&f->buf, bytes))
		return fz_fail_errno(err, ENOMEM, "reading the store");
	rc = fz_src_read(src, begin, f->buf.data, bytes, err);
	if (rc == 0)
		rc = replica_followstore_hand(f, err);
	if (rc < 0)
		return rc;
	for (size_t i = 0; rc == 0 && i < n && !failed; i++) {
		const struct ltx_wire_file file = {
		        .min_txid = e[i].min_txid, .max_txid = e[i].max_txid, .size_bytes = e[i].size_bytes};

		rc = replica_followdb_file(db, &file, err);
		if (rc == 0)
			rc = replica_followdb_data(db, f->buf.data + (e[i].off_bytes - begin), e[i].size_bytes, err);
		failed = db->state == REPLICA_FOLLOWDB_FAILED;
	}
	if (replica_followdb_sync(db))
		replica_followset_post(&f->set, db);
	replica_followstore_let_go(f);
	return rc < 0 ? rc : failed;
}

/* Entries from *i on that continue next - 1 and lie together; what is larger than a run stands alone. Returns their number. */
static int gather(struct replica_packix *ix, uint64_t *i, uint64_t usable_max, uint64_t *next,
                  struct ltx_pack_entry run[static RUN_FILES], struct fz_err *err)
{
	int n = 0;

	for (; n < RUN_FILES && *i < ix->n; n++, ++*i) {
		struct ltx_pack_entry *e = &run[n];
		int rc = replica_packix_get(ix, *i, e, err);

		if (rc < 0)
			return rc;
		if (e->max_txid > usable_max)
			break;
		if (e->min_txid != *next)
			return fz_fail(err, FZ_EGAP, "TXID %" PRIu64 " is there as a part of %" PRIu64 " to %" PRIu64,
			               *next, e->min_txid, e->max_txid);
		if (n && (e->off_bytes != e[-1].off_bytes + e[-1].size_bytes ||
		          e->off_bytes + e->size_bytes - run[0].off_bytes > REPLICA_RUN_BYTES))
			break;
		*next = e->max_txid + 1;
	}
	return n;
}

/* What a pack has of what comes next. -FZ_EGAP: that does not begin a file there. */
static int take_pack(struct replica_followstore *f, struct replica_followdb *db, struct fz_src *src,
                     const struct replica_object *o, struct fz_err *err)
{
	struct ltx_pack_entry run[RUN_FILES];
	struct replica_packix ix = {0};
	struct replica_standing s;
	uint64_t i = 0, next;
	int n = 0, rc = replica_followstore_standing(f, db, &s, err);

	if (rc < 0)
		return rc;
	next = s.tail_txid + 1;
	rc = replica_packix_open(&ix, src, src->size_bytes <= REPLICA_RUN_BYTES, err);
	if (rc == 0)
		rc = replica_packix_count(&ix, next - 1, INT64_MAX, &i, err);
	while (rc == 0 && (n = gather(&ix, &i, o->usable_max, &next, run, err)) > 0) {
		const struct ltx_wire_file file = {
		        .min_txid = run[0].min_txid, .max_txid = run[0].max_txid, .size_bytes = run[0].size_bytes};

		rc = file.size_bytes > REPLICA_RUN_BYTES ? take_large(f, db, src, run[0].off_bytes, &file, err)
		                                         : take_run(f, db, src, run, (size_t)n, err);
	}
	replica_packix_fini(&ix);
	return rc < 0 ? rc : n < 0 ? n : 0;
}

static int open_object(struct replica_followstore *f, const struct replica_place *p, const struct replica_object *o,
                       struct fz_buf *whole, struct fz_src **out, struct fz_err *err)
{
	char below[LTX_WIRE_NAME + 1];
	struct replica_source source = {.store = f->store, .below = below, .ids = f->ids, .state_fd = -1};
	int rc;

	snprintf(below, sizeof(below), "%s/", p->path);
	if (o->size_bytes > REPLICA_RUN_BYTES)
		return replica_object_open(&source, o, &f->meter, out, err);
	rc = replica_object_read(&source, o, &f->meter, whole, err);
	return rc < 0 ? rc : fz_src_mem(out, whole->data, whole->size, err);
}

/* Of a merged file whose range the log's end lies in: the rest. *src is replaced. */
static int take_rest(struct replica_followstore *f, struct replica_followdb *db, struct fz_src **src,
                     struct ltx_wire_file *file, struct fz_err *err)
{
	struct replica_standing s;
	struct fz_src *rest = NULL;
	int dirfd, rc = replica_followstore_standing(f, db, &s, err);

	if (rc < 0 || file->min_txid > s.tail_txid)
		return rc;
	rc = replica_followstore_hand(f, err);
	if (rc < 0)
		return rc;
	dirfd = openat(ltx_log_dirfd(db->log), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	replica_followstore_let_go(f);
	if (dirfd < 0)
		return fz_fail_errno(err, errno, "opening the log of %s", db->name);
	rc = ltx_recut(*src, dirfd, s.tail_txid, s.tail_checksum, &rest, err);
	fz_close(&dirfd);
	if (rc < 0)
		return rc;
	fz_src_close(*src);
	*src = rest;
	file->min_txid = s.tail_txid + 1;
	return 0;
}

int replica_followtake_object(struct replica_followstore *f, const struct replica_place *p, struct replica_followdb *db,
                              const struct replica_object *o, struct fz_err *err)
{
	struct ltx_wire_file file = {.min_txid = o->name.min_txid, .max_txid = o->name.max_txid};
	struct ltx_wire_want want;
	struct fz_buf whole = {0};
	struct fz_src *src = NULL;
	int rc = open_object(f, p, o, &whole, &src, err);

	if (rc == 0 && ltx_level_is_pack(o->name.level)) {
		rc = take_pack(f, db, src, o, err);
	} else if (rc == 0) {
		if (file.min_txid > 1)
			rc = take_rest(f, db, &src, &file, err);
		if (rc == 0)
			rc = replica_followstore_hand(f, err);
		if (rc == 0) {
			replica_followdb_want(db, &want);
			replica_followstore_let_go(f);
			file.size_bytes = src->size_bytes;
			if (file.min_txid == 1 && want.base_txid == file.max_txid &&
			    want.base_offset <= file.size_bytes)
				file.off_bytes = want.base_offset; /* a part of it is here */
			rc = take_large(f, db, src, 0, &file, err);
		}
	}
	if (rc > 0)
		rc = 0; /* the state says it */
	fz_src_close(src);
	fz_buf_fini(&whole);
	return rc;
}

int replica_followtake_checksum(struct replica_followstore *f, const struct replica_place *p,
                                const struct replica_object *o, uint64_t txid, uint64_t *out, struct fz_err *err)
{
	uint8_t raw[LTX_TRAILER_SIZE];
	struct replica_packix ix = {0};
	struct ltx_pack_entry e = {0};
	struct fz_buf whole = {0};
	struct fz_src *src = NULL;
	uint64_t n = 0;
	int rc = open_object(f, p, o, &whole, &src, err);

	if (rc == 0)
		rc = replica_packix_open(&ix, src, false, err);
	if (rc == 0)
		rc = replica_packix_count(&ix, txid, INT64_MAX, &n, err);
	if (rc == 0 && n)
		rc = replica_packix_get(&ix, n - 1, &e, err);
	if (rc == 0 && (!n || e.max_txid != txid || e.size_bytes < sizeof(raw)))
		rc = fz_fail(err, FZ_ENOTFOUND, "no transaction ends at TXID %" PRIu64, txid);
	if (rc == 0)
		rc = fz_src_read(src, e.off_bytes + e.size_bytes - sizeof(raw), raw, sizeof(raw), err);
	if (rc == 0)
		*out = fz_be64(raw); /* post-checksum, file checksum */
	replica_packix_fini(&ix);
	fz_src_close(src);
	fz_buf_fini(&whole);
	return rc;
}
