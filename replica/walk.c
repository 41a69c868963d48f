#include "replica/walk.h"

#include "base/array.h"

#include "ltx/log.h"
#include "replica/pages.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SMALL_BYTES REPLICA_RANGE_BYTES /* up to here an object is fetched whole, and files are grouped */
#define GAP_BYTES   (256 * 1024)        /* unwanted bytes between two frames that are read: less than a request costs */
#define RANGE_PAGES 4096                /* frames of one job */
#define AHEAD       16                  /* units under way before their turn */

struct file {
	uint64_t off, size, min, max; /* off: in the unit's source */
};
struct unit {
	struct unit *next;
	const struct replica_step *step; /* NULL = log */
	struct replica_object *object;   /* NULL = log */
	struct fz_src *src;
	struct file *files; /* ascending; NULL = whole object, not looked at yet */
	size_t n, cap;
	uint64_t off, size;
	struct replica_job *job; /* NULL = one large file, read through its index */
};
struct walk {
	const struct replica_walk_conf *conf;
	struct replica_walk_result *result;
	struct replica_pool *pool;
	struct unit *head, **tail;
	size_t ahead;
	/* where the next unit comes from */
	size_t step;                /* steps[step - 1] is next */
	struct replica_packix pack; /* of the step being split; src != NULL while there is one */
	uint64_t entry;             /* its entries [0, entry) are still to come */
	uint64_t log_txid;          /* next entry of the log holds it; 0 = all done */
	/* sources that page jobs read: closed at the end */
	struct fz_src **open;
	size_t n_open;
	/* the chain, newest first */
	bool any;
	uint64_t next_min, next_pre;
	struct replica_pages pages;
	struct replica_object *blame;
};

static void unit_free(struct unit *u)
{
	if (u)
		free(u->files);
	free(u);
}

static int unit_add(struct unit *u, uint64_t off, uint64_t size, uint64_t min, uint64_t max, struct fz_err *err)
{
	if (!fz_array_room(u->files, u->n, u->cap))
		return fz_fail_errno(err, ENOMEM, "reading history");
	u->files[u->n++] = (struct file){off, size, min, max};
	return 0;
}

static int keep_open(struct walk *w, struct fz_src *src, struct fz_err *err)
{
	struct fz_src **v = reallocarray(w->open, w->n_open + 1, sizeof(*v));

	if (!v) {
		fz_src_close(src);
		return fz_fail_errno(err, ENOMEM, "reading history");
	}
	w->open = v;
	w->open[w->n_open++] = src;
	return 0;
}

static int blame(struct walk *w, struct replica_object *o, int rc, struct fz_err *err)
{
	char key[LTX_NAME_MAX];

	if (rc < 0 && o) {
		w->blame = o;
		if (!strstr(err->text, replica_object_key(key, o)))
			fz_err_prefix(err, "%s", key);
	}
	return rc;
}

/* ---- units of a store ---- */

/* The entries of a pack that a step needs: [first, *end). */
static int pack_range(struct replica_packix *ix, const struct replica_step *step, uint64_t *end, struct fz_err *err)
{
	struct ltx_pack_entry e = {0};
	uint64_t n;
	int rc;

	rc = replica_packix_count(ix, step->to_txid, INT64_MAX, &n, err);
	if (rc == 0 && n)
		rc = replica_packix_get(ix, n - 1, &e, err);
	if (rc < 0)
		return rc;
	if (!n || e.max_txid < step->to_txid) {
		/* its files are ranges and none ends at to_txid, or the name promised too much: plan again, knowing */
		step->object->reach = n ? e.max_txid : 0;
		if (!step->object->reach)
			step->object->bad = true;
		return fz_fail(err, FZ_EORDER, "TXID %llu is kept there only as part of a range",
		               (unsigned long long)step->to_txid);
	}
	*end = n;
	return 0;
}

/* Starts a step: a whole small object, one large file, or a large pack that is then split. */
static int begin_step(struct walk *w, struct unit *u, struct fz_err *err)
{
	const struct replica_step *step = &w->conf->plan->steps[w->step - 1];
	struct replica_object *o = step->object;
	int rc;

	w->result->objects++;
	if (o->size_bytes <= SMALL_BYTES) {
		w->step--;
		u->step = step;
		u->object = o;
		u->size = o->size_bytes;
		u->job = replica_job_new(o, NULL, 0, o->size_bytes);
		return u->job ? 1 : fz_fail_errno(err, ENOMEM, "reading history");
	}
	rc = replica_object_open(w->conf->source, o, w->conf->meter, &u->src, err);
	if (rc == 0)
		rc = keep_open(w, u->src, err);
	if (rc < 0)
		return blame(w, o, rc, err);
	u->step = step;
	u->object = o;
	if (!ltx_level_is_pack(o->name.level)) {
		w->step--;
		rc = unit_add(u, 0, u->src->size_bytes, o->name.min_txid, o->name.max_txid, err);
		return rc < 0 ? rc : 1;
	}
	rc = replica_packix_open(&w->pack, u->src, false, err);
	if (rc == 0)
		rc = pack_range(&w->pack, step, &w->entry, err);
	return blame(w, o, rc, err);
}

/* The next group of files of the pack that is being split, from its end. 0 = none left. */
static int split_pack(struct walk *w, struct unit *u, struct fz_err *err)
{
	const struct replica_step *step = &w->conf->plan->steps[w->step - 1];
	struct ltx_pack_entry e;
	uint64_t first = w->entry, end = 0;
	int rc = 0;

	u->src = w->pack.src;
	u->step = step;
	u->object = step->object;
	while (first) {
		rc = replica_packix_get(&w->pack, first - 1, &e, err);
		if (rc < 0)
			return blame(w, step->object, rc, err);
		if (e.max_txid < step->from_txid || (end && end - e.off_bytes > SMALL_BYTES))
			break;
		if (!end)
			end = e.off_bytes + e.size_bytes;
		if (end < e.off_bytes + e.size_bytes)
			return blame(w, step->object, fz_fail(err, FZ_ECORRUPT, "the pack's index is out of order"),
			             err);
		rc = unit_add(u, e.off_bytes, e.size_bytes, e.min_txid, e.max_txid, err);
		if (rc < 0)
			return rc;
		first--;
	}
	w->entry = first;
	if (!u->n) {
		w->pack.src = NULL;
		w->step--;
		return 0;
	}
	for (size_t i = 0; i < u->n / 2; i++) { /* ascending */
		struct file t = u->files[i];

		u->files[i] = u->files[u->n - 1 - i];
		u->files[u->n - 1 - i] = t;
	}
	u->off = u->files[0].off;
	u->size = end - u->off;
	if (u->n == 1 && u->size > SMALL_BYTES)
		return 1; /* large: through its index */
	for (size_t i = 0; i < u->n; i++)
		u->files[i].off -= u->off;
	u->job = replica_job_new(u->object, u->src, u->off, u->size);
	return u->job ? 1 : fz_fail_errno(err, ENOMEM, "reading history");
}

/* ---- units of a log ---- */
static int next_of_log(struct walk *w, struct unit *u, struct fz_err *err)
{
	struct ltx_log_entry first = {0}, last = {0}, e;
	uint64_t txid = w->log_txid;
	int rc = 0;

	while (txid) {
		rc = ltx_log_find(w->conf->log, txid, &e, err);
		if (rc < 0)
			return rc;
		if (!u->n)
			last = e;
		else if (e.seg != last.seg || e.e.off_bytes + e.e.size_bytes != first.e.off_bytes ||
		         last.e.off_bytes + last.e.size_bytes - e.e.off_bytes > SMALL_BYTES)
			break;
		first = e;
		rc = unit_add(u, e.e.off_bytes, e.e.size_bytes, e.e.min_txid, e.e.max_txid, err);
		if (rc < 0)
			return rc;
		txid = e.seg ? e.e.min_txid - 1 : 0; /* the base is a snapshot: nothing before it */
		if (!e.seg)
			break;
	}
	w->log_txid = txid;
	if (!u->n)
		return 0;
	for (size_t i = 0; i < u->n / 2; i++) {
		struct file t = u->files[i];

		u->files[i] = u->files[u->n - 1 - i];
		u->files[u->n - 1 - i] = t;
	}
	for (size_t i = 0; i < u->n; i++)
		u->files[i].off -= first.e.off_bytes;
	u->size = last.e.off_bytes + last.e.size_bytes - first.e.off_bytes;
	rc = u->n == 1 ? ltx_log_src(w->conf->log, &first, &u->src, err)
	               : ltx_log_src_range(w->conf->log, &first, &last, &u->src, err);
	if (rc < 0)
		return rc;
	if (u->size > SMALL_BYTES) {
		rc = keep_open(w, u->src, err);
		return rc < 0 ? rc : 1;
	}
	u->job = replica_job_new(NULL, u->src, 0, u->size);
	if (!u->job) {
		fz_src_close(u->src);
		return fz_fail_errno(err, ENOMEM, "reading history");
	}
	u->job->own_src = true;
	return 1;
}

/* The next older unit: 1, 0 when there is none, or a negative code. */
static int next_unit(struct walk *w, struct unit **out, struct fz_err *err)
{
	struct unit *u = NULL;
	int rc = 0;

	while (rc == 0) {
		unit_free(u);
		u = calloc(1, sizeof(*u));
		if (!u)
			return fz_fail_errno(err, ENOMEM, "reading history");
		if (w->conf->log) {
			rc = next_of_log(w, u, err);
			break;
		}
		if (w->pack.src)
			rc = split_pack(w, u, err);
		else if (w->step)
			rc = begin_step(w, u, err);
		else
			break;
	}
	if (rc > 0) {
		*out = u;
		return 1;
	}
	if (u)
		replica_job_free(u->job);
	unit_free(u);
	return rc;
}

/* ---- claiming ---- */

/* One file of a unit: its place in the chain, then its pages. into = the block that holds its bytes, NULL = large. */
static int claim_file(struct walk *w, struct unit *u, struct fz_src *src, const struct file *f,
                      struct replica_job *into, struct fz_err *err)
{
	struct replica_pages *p = &w->pages;
	struct replica_image *im = w->conf->image;
	struct replica_job *job = NULL;
	struct ltx_index_entry e;
	uint32_t n = 0;
	int rc;

	rc = replica_pages_open(p, src, f->off, f->size, err);
	if (rc < 0)
		return fz_err_prefix(err, "TXID %llu", (unsigned long long)f->max);
	if (p->header.min_txid != f->min || p->header.max_txid != f->max)
		return fz_fail(err, FZ_ECORRUPT, "holds TXIDs %llu to %llu where %llu to %llu were promised",
		               (unsigned long long)p->header.min_txid, (unsigned long long)p->header.max_txid,
		               (unsigned long long)f->min, (unsigned long long)f->max);
	if (!w->any) {
		rc = replica_image_begin(im, p->header.page_size, p->header.commit, err);
		if (rc < 0)
			return rc;
		w->result->header = p->header;
		w->result->checksum = p->trailer.post_checksum;
		w->result->file_bytes = f->size;
	} else if (f->max + 1 < w->next_min) {
		return fz_fail(err, FZ_EGAP, "TXIDs %llu to %llu are missing", (unsigned long long)f->max + 1,
		               (unsigned long long)w->next_min - 1);
	} else if (f->max + 1 == w->next_min && w->next_pre && w->next_pre != p->trailer.post_checksum) {
		return fz_fail(err, FZ_ECHECKSUM, "TXID %llu ends at checksum %016llx, and the next starts at %016llx",
		               (unsigned long long)f->max, (unsigned long long)p->trailer.post_checksum,
		               (unsigned long long)w->next_pre);
	} else if (p->header.page_size != im->page_size) {
		return fz_fail(err, FZ_ECORRUPT, "has pages of %u bytes, and the newer files of %u lack %llu pages",
		               p->header.page_size, im->page_size, (unsigned long long)im->missing);
	}
	while ((rc = replica_pages_next(p, &e, err)) > 0) {
		n++;
		if (!replica_image_claim(im, e.pgno))
			continue;
		if (into) {
			rc = replica_job_frame(into, e.pgno, f->off + e.off_bytes, e.frame_bytes, err);
			if (rc < 0)
				return rc;
			continue;
		}
		if (job &&
		    (job->n == RANGE_PAGES || f->off + e.off_bytes > job->off_bytes + job->size_bytes + GAP_BYTES ||
		     f->off + e.off_bytes + e.frame_bytes - job->off_bytes > REPLICA_RANGE_BYTES)) {
			rc = replica_pool_submit(w->pool, job, err);
			job = NULL;
			if (rc < 0)
				return rc;
		}
		if (!job)
			job = replica_job_new(u->object, src, f->off + e.off_bytes, 0);
		rc = job ? replica_job_frame(job, e.pgno, f->off + e.off_bytes - job->off_bytes, e.frame_bytes, err)
		         : fz_fail_errno(err, ENOMEM, "reading history");
		if (rc < 0)
			break;
		job->size_bytes = f->off + e.off_bytes + e.frame_bytes - job->off_bytes;
	}
	if (rc == 0 && job) {
		rc = replica_pool_submit(w->pool, job, err);
		job = NULL;
	}
	replica_job_free(job);
	if (!w->any)
		w->result->file_pages = n;
	w->any = true;
	w->next_min = p->header.min_txid;
	w->next_pre = p->header.pre_checksum;
	return rc;
}

/* A small object came whole: which files of it count? */
static int look_inside(struct unit *u, struct fz_src *mem, struct fz_err *err)
{
	struct replica_packix ix = {0};
	struct ltx_pack_entry e;
	uint64_t end;
	int rc;

	if (!ltx_level_is_pack(u->object->name.level))
		return unit_add(u, 0, mem->size_bytes, u->object->name.min_txid, u->object->name.max_txid, err);
	rc = replica_packix_open(&ix, mem, true, err);
	if (rc == 0)
		rc = pack_range(&ix, u->step, &end, err);
	for (uint64_t i = 0; rc == 0 && i < end; i++) {
		rc = replica_packix_get(&ix, i, &e, err);
		if (rc == 0 && e.max_txid >= u->step->from_txid)
			rc = unit_add(u, e.off_bytes, e.size_bytes, e.min_txid, e.max_txid, err);
	}
	replica_packix_fini(&ix);
	return rc;
}

static int take_unit(struct walk *w, struct unit *u, struct fz_err *err)
{
	struct replica_job *job = u->job;
	struct fz_src *mem = NULL;
	int rc;

	if (!job)
		return blame(w, u->object, claim_file(w, u, u->src, &u->files[0], NULL, err), err);
	rc = replica_pool_wait(w->pool, job, err);
	if (rc < 0)
		return rc; /* the pool knows whom to blame */
	rc = fz_src_mem(&mem, job->data.data, job->data.size, err);
	if (rc == 0 && !u->files)
		rc = look_inside(u, mem, err);
	for (size_t i = u->n; rc == 0 && i && (!w->any || w->conf->image->missing); i--)
		rc = claim_file(w, u, mem, &u->files[i - 1], job, err);
	fz_src_close(mem);
	if (rc < 0)
		return blame(w, u->object, rc, err);
	u->job = NULL;
	return replica_pool_submit(w->pool, job, err);
}

static int fill(struct walk *w, struct fz_err *err)
{
	while (w->ahead < AHEAD) {
		struct unit *u = NULL;
		int rc;

		/* the size of the next one is not known yet: room for the largest */
		if (w->head && !replica_pool_room(w->pool, SMALL_BYTES))
			return 0;
		rc = next_unit(w, &u, err);
		if (rc <= 0)
			return rc;
		*w->tail = u;
		w->tail = &u->next;
		w->ahead++;
		if (!u->job)
			return 0; /* its own jobs will keep the threads busy */
		replica_pool_prefetch(w->pool, u->job);
	}
	return 0;
}

static int finish(struct walk *w, struct fz_err *err)
{
	struct replica_image *im = w->conf->image;
	uint64_t sum;
	uint32_t pgno = 1;

	if (!w->any)
		return fz_fail(err, FZ_EINTERNAL, "nothing was planned");
	if (im->missing) {
		while (pgno < im->commit && im->have[pgno / 8] & (1u << pgno % 8))
			pgno++;
		return fz_fail(err, FZ_ECORRUPT, "page %u of %u is in none of the files", pgno, im->commit);
	}
	sum = LTX_FLAG | atomic_load(&im->checksum);
	if (!(w->result->header.flags & 2) && sum != w->result->checksum)
		return fz_fail(err, FZ_ECHECKSUM,
		               "the database restored to TXID %llu has checksum %016llx, and %016llx was recorded",
		               (unsigned long long)w->result->header.max_txid, (unsigned long long)sum,
		               (unsigned long long)w->result->checksum);
	return 0;
}

int replica_walk(const struct replica_walk_conf *conf, struct replica_walk_result *result,
                 struct replica_object **blamed, struct fz_err *err)
{
	struct replica_pool_conf pc = {.source = conf->source,
	                               .image = conf->image,
	                               .meter = conf->meter,
	                               .progress = conf->progress,
	                               .total_bytes = conf->plan ? conf->plan->bytes : 0,
	                               .threads = conf->threads ? conf->threads : 4,
	                               .budget_bytes = (conf->memory_bytes ? conf->memory_bytes : 24 << 20) / 2};
	struct walk w = {.conf = conf, .result = result, .log_txid = conf->log ? conf->txid : 0};
	struct replica_object *pool_blame = NULL;
	struct fz_err late = {0};
	struct unit *u;
	int rc, rc2;

	*blamed = NULL;
	memset(result, 0, sizeof(*result));
	w.tail = &w.head;
	w.step = conf->plan ? conf->plan->n : 0;
	rc = replica_pool_start(&w.pool, &pc, err);
	while (rc == 0 && (!w.any || conf->image->missing)) {
		rc = fill(&w, err);
		u = w.head;
		if (rc < 0 || !u)
			break;
		rc = take_unit(&w, u, err);
		w.head = u->next;
		if (!w.head)
			w.tail = &w.head;
		w.ahead--;
		if (u->job) { /* failed before the pool had it back */
			u->next = w.head;
			w.head = u;
			break;
		}
		unit_free(u);
	}
	if (w.pool) {
		if (rc < 0)
			atomic_store(&conf->meter->stop, true);
		rc2 = replica_pool_drain(w.pool, &pool_blame, &late);
		if (rc == 0 && rc2 < 0) {
			rc = rc2;
			*err = late;
		}
		if (pool_blame && !w.blame)
			w.blame = pool_blame;
	}
	replica_pool_stop(w.pool);
	atomic_store(&conf->meter->stop, false);
	while ((u = w.head)) {
		w.head = u->next;
		replica_job_free(u->job);
		unit_free(u);
	}
	for (size_t i = 0; i < w.n_open; i++)
		fz_src_close(w.open[i]);
	free(w.open);
	replica_pages_fini(&w.pages);
	replica_packix_fini(&w.pack);
	if (rc == 0)
		rc = finish(&w, err);
	*blamed = w.blame;
	return rc;
}
