#include "replica/restore.h"

#include "base/file.h"
#include "base/temp.h"
#include "ltx/dec.h"
#include "ltx/log.h"
#include "replica/origin.h"
#include "replica/pages.h"
#include "replica/plan.h"
#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define TRIES 3

/* The sum of every page of the database at a point of its history, so that each commit is proved by itself: the
 * checksum before, the old sums of the pages it changes out, the new ones in, must be the checksum after. 8 bytes a page
 * in an unlinked file: memory stays the kernel's. */
struct sums {
	int fd;
	uint64_t *v;
	size_t cap;
	uint32_t page_size, commit;
	uint64_t total;
};
struct fact {
	uint64_t txid, checksum;
};
struct verify {
	struct replica_source *source;
	const struct replica_verify_conf *conf;
	struct replica_verify_result *result;
	uint64_t total_bytes; /* of all objects */
	struct replica_meter meter;
	struct sums sums;
	uint64_t cur, checksum; /* of the chain */
	struct fact *facts;     /* what the names say, ascending */
	size_t n_facts;
};

static int sums_open(struct sums *s, const char *tmp_dir, struct fz_err *err)
{
	s->fd = fz_temp_file(tmp_dir, err);
	return s->fd < 0 ? s->fd : 0;
}

static int sums_room(struct sums *s, uint32_t pages, struct fz_err *err)
{
	size_t cap = s->cap ? s->cap : 4096;
	void *v;

	if (pages < s->cap)
		return 0;
	while (cap <= pages)
		cap *= 2;
	if (ftruncate(s->fd, (off_t)(cap * sizeof(*s->v))) < 0)
		return fz_fail_errno(err, errno, "growing a temporary file");
	v = s->v ? mremap(s->v, s->cap * sizeof(*s->v), cap * sizeof(*s->v), MREMAP_MAYMOVE)
	         : mmap(NULL, cap * sizeof(*s->v), PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);
	if (v == MAP_FAILED)
		return fz_fail_errno(err, errno, "mapping a temporary file");
	s->v = v;
	s->cap = cap;
	return 0;
}

static void sums_close(struct sums *s)
{
	if (s->v)
		munmap(s->v, s->cap * sizeof(*s->v));
	fz_close(&s->fd);
	memset(s, 0, sizeof(*s));
	s->fd = -1;
}

static void sums_reset(struct sums *s, uint32_t page_size)
{
	if (s->v)
		memset(s->v, 0, s->cap * sizeof(*s->v));
	s->page_size = page_size;
	s->commit = 0;
	s->total = 0;
}

static int check_fact(struct verify *v, uint64_t txid, uint64_t checksum, struct fz_err *err)
{
	size_t lo = 0, hi = v->n_facts;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (v->facts[mid].txid < txid)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (; lo < v->n_facts && v->facts[lo].txid == txid; lo++)
		if (checksum && v->facts[lo].checksum && v->facts[lo].checksum != checksum)
			return fz_fail(
			        err, FZ_ECHECKSUM,
			        "the database has checksum %016llx after TXID %llu, and an object's name says %016llx",
			        (unsigned long long)checksum, (unsigned long long)txid,
			        (unsigned long long)v->facts[lo].checksum);
	return 0;
}

/* Decodes one LTX file with every check. chain: it is the next one of the history and moves the sums on; otherwise it
 * repeats what is known (another level), and only its ends and, in a snapshot, its whole are compared. */
static int check_file(struct verify *v, struct fz_src *src, uint64_t off, bool chain, struct ltx_header *head,
                      uint64_t *file_bytes, uint32_t *pages, struct fz_err *err)
{
	struct sums *s = &v->sums;
	struct ltx_dec *d = NULL;
	const struct ltx_header *h;
	const struct ltx_trailer *t;
	const uint8_t *data;
	uint64_t alone = 0;
	uint32_t pgno;
	int rc;

	*pages = 0;
	rc = ltx_dec_open(&d, src, off, err);
	if (rc < 0)
		return rc;
	h = ltx_dec_header(d);
	*head = *h;
	if (chain) {
		if (v->cur && h->min_txid == v->cur + 1 && h->pre_checksum != v->checksum) {
			rc = fz_fail(err, FZ_ECHECKSUM,
			             "TXID %llu starts from checksum %016llx, and the one before ended at %016llx",
			             (unsigned long long)h->min_txid, (unsigned long long)h->pre_checksum,
			             (unsigned long long)v->checksum);
			goto out;
		}
		if (ltx_is_snapshot(h) || h->page_size != s->page_size)
			sums_reset(s, h->page_size);
		rc = sums_room(s, h->commit > s->commit ? h->commit : s->commit, err);
	} else {
		rc = h->min_txid > 1 ? check_fact(v, h->min_txid - 1, h->pre_checksum, err) : 0;
	}
	if (rc < 0)
		goto out;
	while ((rc = ltx_dec_page(d, &pgno, &data, err)) > 0) {
		uint64_t sum = ltx_page_checksum(pgno, data, h->page_size) & ~LTX_FLAG;

		alone ^= sum;
		(*pages)++;
		if (replica_meter_stopped(&v->meter)) {
			rc = fz_fail_errno(err, ECANCELED, "verification was stopped");
			break;
		}
		if (chain) {
			s->total ^= s->v[pgno] ^ sum;
			s->v[pgno] = sum;
		}
	}
	if (rc < 0)
		goto out;
	t = ltx_dec_end(d, file_bytes);
	if (chain) {
		for (uint32_t p = h->commit + 1; p <= s->commit; p++) {
			s->total ^= s->v[p];
			s->v[p] = 0;
		}
		s->commit = h->commit;
		alone = s->total;
		v->cur = h->max_txid;
		v->checksum = t->post_checksum;
	}
	if ((chain || ltx_is_snapshot(h)) && (LTX_FLAG | alone) != t->post_checksum)
		rc = fz_fail(err, FZ_ECHECKSUM,
		             "after TXID %llu the pages give checksum %016llx, and %016llx was recorded",
		             (unsigned long long)h->max_txid, (unsigned long long)(LTX_FLAG | alone),
		             (unsigned long long)t->post_checksum);
	else
		rc = check_fact(v, h->max_txid, t->post_checksum, err);
out:
	ltx_dec_close(d);
	return rc;
}

static void note_commit(struct verify *v, const char *lineage, uint32_t epoch, const struct ltx_header *h,
                        uint32_t pages, uint64_t bytes)
{
	struct replica_commit c = {.epoch = epoch,
	                           .min_txid = h->min_txid,
	                           .txid = h->max_txid,
	                           .time_ms = h->time_ms,
	                           .pages = pages,
	                           .commit = h->commit,
	                           .size_bytes = bytes,
	                           .checksum = v->checksum};

	snprintf(c.lineage, sizeof(c.lineage), "%s", lineage);
	if (!v->result->commits++)
		v->result->first = c;
	v->result->last = c;
}

static int check_merged(struct verify *v, struct replica_object *o, struct fz_src *src, bool chain, struct fz_err *err)
{
	struct ltx_header h;
	uint64_t bytes = 0;
	uint32_t pages;
	int rc = check_file(v, src, 0, chain, &h, &bytes, &pages, err);

	if (rc < 0)
		return rc;
	if (h.min_txid != o->name.min_txid || h.max_txid != o->name.max_txid || h.time_ms != o->name.last_ms)
		return fz_fail(err, FZ_ECORRUPT, "holds TXIDs %llu to %llu: its name says otherwise",
		               (unsigned long long)h.min_txid, (unsigned long long)h.max_txid);
	if (bytes != src->size_bytes)
		return fz_fail(err, FZ_ECORRUPT, "%llu bytes follow the LTX file",
		               (unsigned long long)(src->size_bytes - bytes));
	if (chain)
		note_commit(v, o->name.lineage, o->name.epoch, &h, pages, bytes);
	return 0;
}

static int check_pack(struct verify *v, struct replica_object *o, struct fz_src *src, bool chain, struct fz_err *err)
{
	struct replica_packix ix = {0};
	uint64_t next = o->name.min_txid, off = 0, bytes = 0;
	struct ltx_pack_entry e;
	struct ltx_header h;
	uint32_t pages;
	int rc;

	rc = replica_packix_open(&ix, src, true, err);
	for (uint64_t i = 0; rc == 0 && i < ix.n; i++) {
		rc = replica_packix_get(&ix, i, &e, err);
		if (rc < 0)
			break;
		if (e.off_bytes != off || e.min_txid != next)
			rc = fz_fail(err, FZ_ECORRUPT, "entry %llu of the pack's index does not follow the one before",
			             (unsigned long long)i);
		off = e.off_bytes + e.size_bytes;
		next = e.max_txid + 1;
		if (rc == 0) {
			/* what the chain has already, or a fenced writer wrote, is checked by itself */
			bool counts = chain && e.max_txid > v->cur && e.max_txid <= o->usable_max;

			rc = check_file(v, src, e.off_bytes, counts, &h, &bytes, &pages, err);
			if (rc < 0 && e.max_txid > o->usable_max && rc == -FZ_ECHECKSUM)
				rc = 0; /* differs from the history that counts: that is what fencing is for */
			if (rc == 0 &&
			    (h.min_txid != e.min_txid || h.max_txid != e.max_txid || h.time_ms != e.time_ms ||
			     bytes != e.size_bytes || pages != e.pages || h.commit != e.commit))
				rc = fz_fail(err, FZ_ECORRUPT, "TXID %llu is not what the pack's index says",
				             (unsigned long long)e.max_txid);
			if (rc == 0 && counts)
				note_commit(v, o->name.lineage, o->name.epoch, &h, pages, bytes);
		}
	}
	if (rc == 0 && (next != o->name.max_txid + 1 || off != ix.entries_off))
		rc = fz_fail(err, FZ_ECORRUPT, "the pack does not hold what its name says");
	replica_packix_fini(&ix);
	return rc;
}

static void tell(struct verify *v)
{
	if (v->conf->progress)
		v->conf->progress->tick(v->conf->progress, v->result->bytes, v->total_bytes);
}

static int check_object(struct verify *v, struct replica_object *o, bool chain, struct fz_err *err)
{
	struct fz_src *src = NULL;
	char key[LTX_NAME_MAX];
	int rc;

	rc = replica_object_open(v->source, o, &v->meter, &src, err);
	if (rc == 0)
		rc = ltx_level_is_pack(o->name.level) ? check_pack(v, o, src, chain, err)
		                                      : check_merged(v, o, src, chain, err);
	fz_src_close(src);
	v->result->objects++;
	v->result->bytes += o->size_bytes;
	tell(v);
	if (rc < 0 && !strstr(err->text, replica_object_key(key, o)))
		fz_err_prefix(err, "%s", key);
	return rc;
}

static int by_txid(const void *a, const void *b)
{
	const struct fact *x = a, *y = b;

	return (x->txid > y->txid) - (x->txid < y->txid);
}

static int collect_facts(struct verify *v, const struct replica_catalog *c, const struct replica_lineage *l,
                         struct fz_err *err)
{
	free(v->facts);
	v->n_facts = 0;
	v->facts = calloc(l->n, sizeof(*v->facts));
	if (!v->facts)
		return fz_fail_errno(err, ENOMEM, "verifying");
	for (size_t i = l->first; i < l->first + l->n; i++) {
		const struct ltx_name *n = &c->objects[i].name;

		if (c->objects[i].usable_max == n->max_txid)
			v->facts[v->n_facts++] = (struct fact){n->max_txid, n->post_checksum};
	}
	qsort(v->facts, v->n_facts, sizeof(*v->facts), by_txid);
	for (size_t i = 0; i < v->n_facts; i++) {
		int rc = check_fact(v, v->facts[i].txid, v->facts[i].checksum, err);

		if (rc < 0)
			return rc;
	}
	return 0;
}

static void note_gap(struct verify *v, const struct replica_lineage *l, uint64_t before)
{
	struct replica_verify_result *r = v->result;

	if (r->n_gaps < REPLICA_GAPS_MAX) {
		struct replica_gap *g = &r->gaps[r->n_gaps];

		memcpy(g->lineage, l->id, sizeof(g->lineage));
		g->after = v->cur;
		g->before = before;
	}
	r->n_gaps++;
}

static int check_lineage(struct verify *v, struct replica_catalog *c, const struct replica_lineage *l,
                         struct fz_err *err)
{
	const uint64_t newest = replica_plan_newest(c, l);
	struct replica_object *o;
	bool gap, *seen = NULL;
	int rc;

	v->cur = 0;
	sums_reset(&v->sums, 0);
	rc = collect_facts(v, c, l, err);
	if (rc < 0)
		return rc;
	seen = calloc(l->n, sizeof(*seen));
	if (!seen)
		return fz_fail_errno(err, ENOMEM, "verifying");
	while (rc == 0 && (o = replica_plan_next(c, l, v->cur, &gap))) {
		uint64_t before = v->cur;

		if (gap)
			note_gap(v, l, o->usable_max);
		seen[o - &c->objects[l->first]] = true;
		if (v->result->structure_only) {
			struct ltx_header h = {.min_txid = o->name.min_txid > v->cur ? o->name.min_txid : v->cur + 1,
			                       .max_txid = o->usable_max,
			                       .time_ms = o->name.last_ms};

			v->cur = o->usable_max;
			v->checksum = o->usable_max == o->name.max_txid ? o->name.post_checksum : 0;
			v->result->objects++;
			v->result->bytes += o->size_bytes;
			note_commit(v, l->id, o->name.epoch, &h, 0, o->size_bytes);
		} else {
			rc = check_object(v, o, true, err);
		}
		if (rc == 0 && v->cur == before) { /* nothing in it counts */
			o->reach = before;
			o->bad = !before;
		}
	}
	for (size_t i = 0; rc == 0 && i < l->n; i++) {
		o = &c->objects[l->first + i];
		if (seen[i] || !o->usable_max)
			continue;
		if (v->result->structure_only) {
			v->result->objects++;
			v->result->bytes += o->size_bytes;
		} else {
			rc = check_object(v, o, false, err);
		}
	}
	if (rc == 0 && v->cur < newest && l == &c->lineages[c->n_lineages - 1])
		rc = fz_fail(
		        err, FZ_EGAP,
		        "lineage %s: TXID %llu is in no object, and the newest, %llu, cannot be restored without it",
		        l->id, (unsigned long long)v->cur + 1, (unsigned long long)newest);
	else if (rc == 0 && v->cur < newest) /* an earlier life of the database */
		note_gap(v, l, newest + 1);
	free(seen);
	return rc;
}

static int check_store(struct verify *v, struct fz_err *err)
{
	struct replica_catalog c = {0};
	int rc;

	memset(v->result, 0, sizeof(*v->result));
	rc = replica_catalog_load(&c, v->source->store, err);
	v->total_bytes = 0;
	for (size_t i = 0; rc == 0 && i < c.n_objects; i++) {
		if (c.objects[i].name.encrypted && !v->source->ids)
			v->result->structure_only = true;
		v->total_bytes += c.objects[i].size_bytes;
	}
	if (rc == 0 && !c.n_lineages)
		rc = fz_fail(err, FZ_ENOCOMMIT, "nothing has been shipped yet that could be verified");
	for (size_t i = 0; rc == 0 && i < c.n_lineages; i++)
		rc = check_lineage(v, &c, &c.lineages[i], err);
	replica_catalog_fini(&c);
	return rc;
}

static int check_logs(struct verify *v, struct fz_err *err)
{
	struct replica_logs logs = {0};
	int rc = replica_logs_open(&logs, v->source, err);

	memset(v->result, 0, sizeof(*v->result));
	for (size_t i = 0; rc == 0 && i < logs.n; i++) {
		struct ltx_log_info info;

		ltx_log_info(logs.v[i], &info);
		v->total_bytes += info.log_bytes + info.base_bytes;
		v->n_facts = 0;
		v->cur = 0;
		sums_reset(&v->sums, 0);
		while (rc == 0 && v->cur < info.tail_txid) {
			struct ltx_log_entry e;
			struct ltx_header h;
			struct fz_src *src = NULL;
			uint64_t bytes = 0;
			uint32_t pages;

			rc = ltx_log_find(logs.v[i], v->cur + 1, &e, err);
			if (rc == 0)
				rc = ltx_log_src(logs.v[i], &e, &src, err);
			if (rc == 0)
				rc = check_file(v, src, 0, true, &h, &bytes, &pages, err);
			fz_src_close(src);
			if (rc == 0 && h.max_txid != e.e.max_txid)
				rc = fz_fail(err, FZ_ECORRUPT, "index and segment differ");
			if (rc < 0) {
				fz_err_prefix(err, "local log of %s, lineage %s, TXID %llu", info.name, info.lineage,
				              (unsigned long long)v->cur + 1);
				break;
			}
			v->result->objects++;
			v->result->bytes += bytes;
			tell(v);
			if (replica_meter_stopped(&v->meter)) {
				rc = fz_fail(err, ECANCELED, "interrupted");
				break;
			}
			note_commit(v, info.lineage, info.epoch, &h, pages, bytes);
		}
	}
	replica_logs_close(&logs);
	return rc;
}

/* "file:PATH?immutable=1"; heap. */
static char *uri_of(const char *path)
{
	struct fz_buf b = {0};
	int rc = fz_buf_addf(&b, "file:");
	char *out;

	for (; rc >= 0 && *path; path++)
		rc = strchr("%?#", *path) ? fz_buf_addf(&b, "%%%02X", (unsigned char)*path) : fz_buf_add(&b, path, 1);
	if (rc >= 0)
		rc = fz_buf_addf(&b, "?immutable=1");
	out = rc >= 0 ? strdup(fz_buf_str(&b)) : NULL;
	fz_buf_fini(&b);
	return out;
}

static int stop_sqlite(void *cancel)
{
	return *(const volatile bool *)cancel;
}

int replica_integrity(const char *path, const volatile bool *cancel, struct fz_err *err)
{
	sqlite3_stmt *st = NULL;
	sqlite3 *db = NULL;
	char head[16] = "", *uri = NULL;
	int fd = open(path, O_RDONLY | O_CLOEXEC), rc = 0;

	if (fd < 0 || fz_pread(fd, head, sizeof(head), 0) != sizeof(head) || memcmp(head, "SQLite format 3", 16)) {
		fz_close(&fd);
		return 0; /* opaque pages: only their checksums can be judged */
	}
	fz_close(&fd);
	/* immutable: neither WAL nor locks are wanted beside a file of our own */
	uri = uri_of(path);
	if (!uri)
		return fz_fail_errno(err, ENOMEM, "checking %s", path);
	rc = sqlite3_open_v2(uri, &db, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, NULL);
	if (rc == SQLITE_OK && cancel)
		sqlite3_progress_handler(db, 10000, stop_sqlite, (void *)cancel);
	if (rc != SQLITE_OK || sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &st, NULL) != SQLITE_OK ||
	    sqlite3_step(st) != SQLITE_ROW)
		rc = cancel && *cancel
		             ? fz_fail(err, ECANCELED, "interrupted")
		             : fz_fail(err, FZ_EVERIFY, "SQLite cannot read the database: %s", sqlite3_errmsg(db));
	else if (strcmp((const char *)sqlite3_column_text(st, 0), "ok"))
		rc = fz_fail(err, FZ_EVERIFY, "SQLite's integrity_check of the database: %s",
		             sqlite3_column_text(st, 0));
	sqlite3_finalize(st);
	sqlite3_close(db);
	free(uri);
	return rc;
}

static int restore_and_check(struct replica_source *s, const char *tmp_dir, const volatile bool *cancel,
                             struct fz_err *err)
{
	struct replica_restore_conf conf = {.when = REPLICA_LATEST, .cancel = cancel};
	struct replica_restore_result r;
	char path[PATH_MAX + 16];
	struct fz_temp tmp;
	int rc = fz_temp_open(&tmp, tmp_dir, err);

	if (rc < 0)
		return rc;
	snprintf(path, sizeof(path), "%s/db", tmp.path);
	conf.output = path;
	rc = replica_restore(s, &conf, &r, err);
	if (rc == 0)
		rc = replica_integrity(path, cancel, err);
	fz_temp_close(&tmp);
	return rc;
}

int replica_verify(struct replica_source *s, const struct replica_verify_conf *conf,
                   struct replica_verify_result *result, struct fz_err *err)
{
	struct verify v = {.source = s, .conf = conf, .result = result, .meter.cancel = conf->cancel, .sums.fd = -1};
	const char *tmp_dir = conf->tmp_dir;
	bool store;
	int rc;

	if (!tmp_dir)
		tmp_dir = fz_temp_dir();
	memset(result, 0, sizeof(*result));
	rc = sums_open(&v.sums, tmp_dir, err);
	store = rc == 0 && s->store && s->state_fd < 0;
	if (rc == 0 && s->state_fd >= 0) {
		rc = check_logs(&v, err);
		store = rc == -FZ_ENOTFOUND && s->store;
	}
	if (store) {
		/* an object that is gone since the listing was repacked or expired: look at the present state */
		for (int i = 0; i < TRIES; i++) {
			rc = check_store(&v, err);
			if (rc != -FZ_ENOTFOUND || !result->objects)
				break;
		}
		if (rc == -FZ_ENOTFOUND && result->objects) {
			fz_err_prefix(err, "is listed but cannot be read");
			err->code = rc = -FZ_EVERIFY;
		}
	}
	sums_close(&v.sums);
	free(v.facts);
	if (rc == 0 && conf->full && !result->structure_only)
		rc = restore_and_check(s, tmp_dir, conf->cancel, err);
	if (rc < 0 && store)
		fz_err_prefix(err, "%s", fz_store_url(s->store));
	return rc;
}
