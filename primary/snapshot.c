#include "primary/snapshot.h"

#include "base/array.h"

#include "ltx/log.h"
#include "ltx/merge.h"
#include "primary/spool.h"

#include <errno.h>
#include <stdlib.h>

/* ---- inputs: plain files of the level below ---------------------------------------------------------------------- */

struct plain_list {
	struct ltx_merge_list list;
	int dirfd;
	const struct ltx_name *names;
	struct fz_src *src; /* of the last get() */
};

static int plain_get(struct ltx_merge_list *list, uint64_t i, struct ltx_merge_input *out, struct fz_err *err)
{
	struct plain_list *l = (struct plain_list *)list;
	int rc;

	fz_src_close(l->src);
	l->src = NULL;
	rc = primary_spool_open(l->dirfd, &l->names[i], true, &l->src, err);
	if (rc == 0)
		*out = (struct ltx_merge_input){l->src, 0, l->src->size_bytes};
	return rc;
}

/* How many of names, from *first on, join up from from_txid on and were committed before end_ms. */
static size_t tile(const struct ltx_name *names, size_t n, const struct ltx_name *like, uint64_t from_txid,
                   int64_t end_ms, uint64_t max_txid, size_t *first)
{
	uint64_t next = from_txid;
	size_t count = 0;

	for (size_t i = 0; i < n; i++) {
		const struct ltx_name *p = &names[i];

		if (p->level != like->level - 1 || p->epoch != like->epoch || p->min_txid != next ||
		    p->last_ms >= end_ms || p->max_txid > max_txid)
			continue;
		if (count == 0)
			*first = i;
		else if (i != *first + count)
			break;
		next = p->max_txid + 1;
		count++;
	}
	return count;
}

/* ---- inputs: the local log --------------------------------------------------------------------------------------- */

struct log_list {
	struct ltx_merge_list list;
	struct ltx_log *log;
	uint64_t from_txid;
	uint32_t *rel; /* of each input: min TXID - from_txid */
	size_t cap;
	struct fz_src *src; /* of the last get() */
};

static int log_get(struct ltx_merge_list *list, uint64_t i, struct ltx_merge_input *out, struct fz_err *err)
{
	struct log_list *l = (struct log_list *)list;
	struct ltx_log_entry e;
	int rc = ltx_log_find(l->log, l->from_txid + l->rel[i], &e, err);

	fz_src_close(l->src);
	l->src = NULL;
	if (rc == 0)
		rc = ltx_log_src(l->log, &e, &l->src, err);
	if (rc == 0)
		*out = (struct ltx_merge_input){l->src, 0, l->src->size_bytes};
	return rc;
}

static int log_note(struct log_list *l, uint64_t txid, struct fz_err *err)
{
	if (!fz_array_room(l->rel, l->list.n, l->cap))
		return fz_fail_errno(err, ENOMEM, "listing transactions to merge");
	l->rel[l->list.n++] = (uint32_t)(txid - l->from_txid);
	return 0;
}

static int log_collect(struct log_list *l, int64_t end_ms, uint64_t max_txid, struct fz_err *err)
{
	uint64_t next = l->from_txid;

	while (next <= max_txid && l->list.n < PRIMARY_MERGE_ENTRIES && next - l->from_txid < UINT32_MAX) {
		struct ltx_log_entry e;
		int rc = ltx_log_find(l->log, next, &e, err);

		if (rc == 0 && (e.seg == 0 || e.e.min_txid != next))
			rc = fz_fail(err, FZ_EGAP, "the local log no longer holds transaction %llu by itself",
			             (unsigned long long)next);
		if (rc < 0)
			return rc;
		if (e.e.time_ms >= end_ms || e.e.max_txid > max_txid)
			break;
		rc = log_note(l, next, err);
		if (rc < 0)
			return rc;
		next = e.e.max_txid + 1;
	}
	return l->list.n ? 0 : fz_fail(err, FZ_ENOTFOUND, "nothing to merge");
}

/* ---- building ---------------------------------------------------------------------------------------------------- */

/* Merges into a plain file, and encrypts that into the spool. Day files are needed by nobody later. */
static int build(struct ltx_merge_list *list, const struct primary_place *at, struct ltx_name *name, struct fz_err *err)
{
	struct ltx_merge_result r;
	struct ltx_name plain_name;
	struct primary_spool plain, object;
	struct fz_src *src = NULL;
	int rc = primary_spool_begin(&plain, at->dirfd, PRIMARY_SPOOL_PLAIN, NULL, 0, err);

	if (rc < 0)
		return rc;
	rc = primary_spool_begin(&object, at->dirfd, PRIMARY_SPOOL_OBJECT, at->recipients, at->n_recipients, err);
	if (rc < 0)
		goto out_plain;
	rc = ltx_merge(list, plain.sink, &r, at->cancel, err);
	if (rc < 0)
		goto out;
	name->min_txid = r.header.min_txid;
	name->max_txid = r.header.max_txid;
	name->last_ms = r.header.time_ms;
	name->post_checksum = r.trailer.post_checksum;
	name->encrypted = at->n_recipients > 0;
	plain_name = *name;
	plain_name.encrypted = false;
	/* object after plain: a kill in between leaves a plain file that is built again under the same name */
	rc = primary_spool_commit(&plain, &plain_name, err);
	if (rc == 0)
		rc = primary_spool_src(&plain, &src, err);
	if (rc == 0)
		rc = fz_src_copy(src, object.sink, err);
	if (rc == 0)
		rc = primary_spool_commit(&object, name, err);
	if (rc < 0 || name->level == LTX_L_DAY)
		primary_spool_drop(at->dirfd, &plain_name, true);
	fz_src_close(src);
out:
	primary_spool_fini(&object);
out_plain:
	primary_spool_fini(&plain);
	return rc;
}

int primary_merged_build(struct ltx_log *log, const struct primary_place *at, uint64_t from_txid, int64_t first_ms,
                         int64_t end_ms, uint64_t max_txid, struct ltx_name *name, struct fz_err *err)
{
	struct plain_list pl = {.list.get = plain_get, .dirfd = at->dirfd};
	struct log_list ll = {.list.get = log_get, .log = log, .from_txid = from_txid};
	struct ltx_name *names = NULL;
	size_t n = 0, first = 0;
	int rc = 0;

	name->first_ms = first_ms;
	if (name->level > LTX_L_MINUTE) {
		rc = primary_spool_list(at->dirfd, true, false, &names, &n, err);
		if (rc < 0)
			return rc;
		pl.list.n = tile(names, n, name, from_txid, end_ms, max_txid, &first);
		pl.names = names + first;
	}
	/* The level below made everything before end_ms, so what follows a hole in its files is later than the hole: a
	 * range that ends before it is right, the next one starts there and finds out about the log. */
	if (pl.list.n > 0) {
		rc = build(&pl.list, at, name, err);
	} else {
		rc = log_collect(&ll, end_ms, max_txid, err);
		if (rc == 0)
			rc = build(&ll.list, at, name, err);
	}
	fz_src_close(pl.src);
	fz_src_close(ll.src);
	free(ll.rel);
	free(names);
	return rc;
}

void primary_plain_tidy(const struct primary_place *at, const struct ltx_name *name, uint64_t db_bytes)
{
	uint64_t limit = db_bytes > PRIMARY_PLAIN_MAX ? db_bytes : PRIMARY_PLAIN_MAX, sum = 0;
	struct ltx_name *names;
	size_t n;

	if (primary_spool_list(at->dirfd, true, false, &names, &n, NULL) < 0)
		return;
	for (size_t i = n; i-- > 0;) { /* newest first, level 4 before 3 */
		struct fz_src *src = NULL;
		bool used = names[i].level < name->level && names[i].max_txid <= name->max_txid;

		if (!used && primary_spool_open(at->dirfd, &names[i], true, &src, NULL) == 0)
			sum += src->size_bytes;
		fz_src_close(src);
		if (used || sum > limit)
			primary_spool_drop(at->dirfd, &names[i], true);
	}
	free(names);
}

int primary_snapshot_build(struct ltx_log *log, const struct primary_place *at, uint64_t txid, struct ltx_name *name,
                           struct fz_err *err)
{
	struct ltx_merge_result r;
	struct ltx_log_entry e;
	struct primary_spool s;
	int rc;

	if (txid == 0 || ltx_log_find(log, txid, &e, NULL) < 0 ||
	    e.e.max_txid != txid) { /* folded or merged meanwhile */
		struct ltx_log_info info;

		ltx_log_info(log, &info);
		txid = info.synced_txid;
	}
	rc = primary_spool_begin(&s, at->dirfd, PRIMARY_SPOOL_OBJECT, at->recipients, at->n_recipients, err);
	if (rc < 0)
		return rc;
	rc = ltx_log_snapshot(log, txid, s.sink, &r, at->cancel, err);
	if (rc == 0) {
		name->level = LTX_L_SNAPSHOT;
		name->min_txid = r.header.min_txid;
		name->max_txid = r.header.max_txid;
		name->first_ms = name->last_ms = r.header.time_ms;
		name->post_checksum = r.trailer.post_checksum;
		name->encrypted = at->n_recipients > 0;
		rc = primary_spool_commit(&s, name, err);
	}
	primary_spool_fini(&s);
	return rc;
}
