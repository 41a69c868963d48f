#include "primary/drop.h"

#include "base/clock.h"
#include "ltx/name.h"
#include "store/store.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define BATCH 500

struct item {
	uint64_t max_txid;
	const char *key;
	bool claim; /* goes last */
};

static int newest_first(const void *pa, const void *pb)
{
	const struct item *a = pa, *b = pb;

	if (a->claim != b->claim)
		return a->claim ? 1 : -1;
	return a->max_txid < b->max_txid ? 1 : a->max_txid > b->max_txid ? -1 : 0;
}

/* "claim/<8 hex>" or "claim/<8 hex>-ended": its number, else 0. */
static uint32_t claim_in(const char *rest)
{
	if (strncmp(rest, "claim/", 6) != 0 || strspn(rest + 6, "0123456789abcdef") != 8 ||
	    (rest[14] && strcmp(rest + 14, "-ended") != 0))
		return 0;
	return (uint32_t)strtoul(rest + 6, NULL, 16);
}

/* A claim that nobody holds: whoever wrote until now is fenced when it looks the next time. */
static int fence(struct primary_drop *d, struct primary_claim *top, struct fz_err *err)
{
	struct primary_claim want = {.epoch = 1, .writer_id = PRIMARY_NOBODY};
	uint64_t lineage;
	bool vanished;
	int rc;

	if (getrandom(&lineage, sizeof(lineage), 0) != (ssize_t)sizeof(lineage))
		return fz_fail_errno(err, errno, "fencing the writer of %s", d->database);
	snprintf(want.lineage, sizeof(want.lineage), "%016" PRIx64, lineage);
	snprintf(want.writer, sizeof(want.writer), "%s (fazt drop)", d->writer ? d->writer : "?");
	rc = primary_claim_hold(d->store, d->database, &want, 0, true, &vanished, err);
	if (rc == 0)
		*top = want;
	return rc;
}

/* The highest claim is one of a database that has gone, before anything of it goes. known: the highest one before the listing began. */
static int end_it(struct primary_drop *d, uint32_t known, struct fz_err *err)
{
	struct primary_claim top;
	bool ended, ours;
	char when[FZ_TIME_SIZE];
	int rc = primary_claim_top(d->store, d->database, &top, &ended, err);

	if (rc < 0)
		return rc;
	d->claim = top.n;
	ours = d->writer_id && !strcmp(top.writer_id, d->writer_id);
	if (top.n && !ended && !ours && !d->force)
		return fz_fail(err, FZ_EFENCED,
		               "%s was not deleted where it is written, by %s since %s (claim %u), as far as %s knows: "
		               "delete it "
		               "there, or --force, which fences that writer",
		               d->database, *top.writer ? top.writer : "an unknown writer",
		               fz_format_time(when, top.time_ms), top.n, fz_store_url(d->store));
	if (d->dry_run || ended)
		return 0;
	if (top.n > known) /* it lives, and may be ours: neither its end is told nor its writer fenced */
		return fz_fail(err, FZ_EEXISTS, "%s was made anew meanwhile (claim %u): what it had before stays in %s",
		               d->database, top.n, fz_store_url(d->store));
	if ((top.n && !ours) ||
	    (!top.n && d->objects)) /* without any claim, copied by hand perhaps: it begins with one */
		rc = fence(d, &top, err);
	if (rc == 0 && top.n)
		rc = primary_claim_end(d->store, d->database, &top, 0, fz_now_ms(), err);
	d->claim = top.n;
	return rc;
}

static int delete_them(struct primary_drop *d, struct item *v, size_t n, struct fz_err *err)
{
	const char *keys[BATCH];
	int rc = 0;

	qsort(v, n, sizeof(*v), newest_first);
	for (size_t at = 0; rc == 0 && at < n;) {
		size_t k = 0, failed = 0;

		if (d->stop && d->stop(d))
			return fz_fail(err, ECANCELED, "interrupted");
		for (; k < BATCH && at + k < n && (k == 0 || v[at + k].claim == v[at].claim); k++)
			keys[k] = v[at + k].key;
		rc = fz_store_delete(d->store, keys, k, &failed, err);
		d->deleted += v[at].claim ? 0 : k - failed;
		at += k;
		if (d->tick)
			d->tick(d);
	}
	return rc;
}

int primary_drop_run(struct primary_drop *d, struct fz_err *err)
{
	struct fz_store_list l = {0};
	struct fz_buf prefix = {0};
	struct item *v = NULL;
	char last[17] = "";
	size_t n = 0, n_objects;
	uint64_t claims = 0;
	struct primary_claim before;
	bool ended;
	int rc = fz_buf_addf(&prefix, "%s/", d->database) < 0 ? fz_fail_errno(err, ENOMEM, "listing a store") : 0;

	d->objects = d->bytes = d->lives = d->deleted = d->others = 0;
	d->claim = 0;
	/* The claim is looked at before the listing and after it: a life that begins meanwhile, and of which the listing may
	 * hold anything or nothing, has another one. */
	if (rc == 0)
		rc = primary_claim_top(d->store, d->database, &before, &ended, err);
	if (rc == 0)
		rc = fz_store_list(d->store, fz_buf_str(&prefix), NULL, false, &l, err);
	v = rc == 0 ? calloc(l.n ? l.n : 1, sizeof(*v)) : NULL;
	if (rc == 0 && !v)
		rc = fz_fail_errno(err, ENOMEM, "listing a store");
	for (size_t i = 0; rc == 0 && i < l.n; i++) {
		const char *rest = l.v[i].key + prefix.size;
		struct ltx_name m;

		if (ltx_name_get(&m, rest) == 0) {
			v[n++] = (struct item){m.max_txid, l.v[i].key, false};
			d->objects++;
			d->bytes += l.v[i].size_bytes;
			d->lives += strcmp(last, m.lineage) != 0;
			memcpy(last, m.lineage, sizeof(last));
		} else if (claim_in(rest)) {
			claims++;
		} else {
			d->others++;
		}
	}
	if (rc == 0 && !n && !claims)
		rc = fz_fail(err, FZ_ENOTFOUND, "%s has nothing of a database %s", fz_store_url(d->store), d->database);
	if (rc == 0)
		rc = end_it(d, before.n, err);
	n_objects = n;
	for (size_t i = 0; rc == 0 && i < l.n; i++) {
		uint32_t c = claim_in(l.v[i].key + prefix.size);

		if (c && c < d->claim)
			v[n++] = (struct item){0, l.v[i].key, true};
	}
	if (rc == 0 && !d->dry_run && (n_objects || n))
		rc = delete_them(d, v, n, err);
	free(v);
	fz_store_list_fini(&l);
	fz_buf_fini(&prefix);
	return rc;
}
