#include "replica/restore.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "ltx/log.h"
#include "replica/output.h"
#include "replica/pages.h"
#include "replica/target.h"
#include "replica/walk.h"
#include "store/store.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ATTEMPTS 16

/* What a caller can learn from: another object may hold the same pages. */
static bool object_fault(int rc)
{
	switch (rc) {
	case -FZ_ENOTFOUND:
	case -FZ_ECORRUPT:
	case -FZ_ECHECKSUM:
	case -FZ_ECRYPT:
	case -FZ_ETRUNCATED:
	case -FZ_EGAP:
	case -FZ_ECONFLICT:
		return true;
	default:
		return false;
	}
}

static void fill_commit(struct replica_restore_result *r, const struct replica_walk_result *w)
{
	r->commit.min_txid = w->header.min_txid;
	r->commit.txid = w->header.max_txid;
	r->commit.time_ms = w->header.time_ms;
	r->commit.pages = w->file_pages;
	r->commit.commit = w->header.commit;
	r->commit.size_bytes = w->file_bytes;
	r->commit.checksum = w->checksum;
	r->page_size = w->header.page_size;
	r->pages = w->header.commit;
	r->objects = w->objects;
}

static struct replica_walk_conf walk_conf(struct replica_source *s, const struct replica_restore_conf *conf,
                                          struct replica_image *im, struct replica_meter *m)
{
	return (struct replica_walk_conf){.source = s,
	                                  .image = im,
	                                  .meter = m,
	                                  .progress = conf->progress,
	                                  .threads = conf->parallel,
	                                  .memory_bytes = conf->memory_bytes};
}

/* ---- from the store ---- */
static int plan_and_walk(struct replica_source *s, const struct replica_restore_conf *conf, struct replica_catalog *c,
                         struct replica_target *t, struct replica_image *im, struct replica_meter *m,
                         struct replica_restore_result *r, struct replica_object **blame, struct fz_err *err)
{
	struct replica_walk_conf wc = walk_conf(s, conf, im, m);
	struct replica_walk_result wr;
	struct replica_plan plan = {0};
	int rc;

	*blame = NULL;
	rc = replica_target_store(s, c, conf, m, t, &plan, blame, err);
	if (rc < 0)
		return rc;
	if (conf->dry_run) {
		rc = replica_target_describe(s, &plan, m, &r->commit, err);
		r->objects = plan.n;
		r->fetched_bytes = plan.bytes;
		r->pages = r->commit.commit;
	} else {
		wc.plan = &plan;
		rc = replica_walk(&wc, &wr, blame, err);
		if (rc == 0) {
			memcpy(r->commit.lineage, plan.lineage->id, sizeof(r->commit.lineage));
			r->commit.epoch = plan.steps[plan.n - 1].object->name.epoch;
			fill_commit(r, &wr);
		}
		if (rc == -FZ_ECHECKSUM && !*blame)
			*blame = replica_target_culprit(s, &plan, m, err);
	}
	replica_plan_fini(&plan);
	return rc;
}

/* Plans, fetches; when an object turns out to be gone or damaged, plans around it; when that fails and something was
 * gone, the listing is stale (retention went on): lists again. */
static int from_store(struct replica_source *s, const struct replica_restore_conf *conf, struct replica_image *im,
                      struct replica_meter *m, struct replica_restore_result *r, struct fz_err *err)
{
	struct replica_catalog c = {0};
	struct replica_target target = {0};
	struct fz_err first = {0};
	bool gone = false, changed = false;
	int rc;

	rc = replica_catalog_load(&c, s->store, err);
	for (int attempt = 0; rc == 0 && attempt < ATTEMPTS; attempt++) {
		struct replica_object *blame;

		rc = plan_and_walk(s, conf, &c, &target, im, m, r, &blame, err);
		if (rc == -FZ_EORDER) { /* a pack ends earlier than its name made believe: its reach is known now */
			rc = 0;
			continue;
		}
		if (blame && object_fault(rc)) {
			fz_warn("%s: trying without it", fz_log_why(err));
			if (!first.code)
				first = *err;
			gone = gone || rc == -FZ_ENOTFOUND || rc == -FZ_ECONFLICT;
			if ((rc == -FZ_ECRYPT || rc == -FZ_ETRUNCATED) &&
			    !changed) /* given other recipients meanwhile? */
				gone = changed = true;
			blame->bad = true;
			rc = 0;
			continue;
		}
		if ((rc == -FZ_EGAP || rc == -FZ_ENOCOMMIT) && gone) {
			replica_catalog_fini(&c);
			gone = false;
			rc = replica_catalog_load(&c, s->store, err);
			continue;
		}
		if ((rc == -FZ_EGAP || rc == -FZ_ENOCOMMIT) && first.code) {
			*err = first; /* the cause, not what followed from it */
			rc = first.code;
		}
		goto out;
	}
	if (rc == 0)
		rc = first.code ? (*err = first, first.code)
		                : fz_fail(err, FZ_EINTERNAL, "no plan held after %d attempts", ATTEMPTS);
out:
	if (rc < 0)
		fz_err_prefix(err, "%s", fz_store_url(s->store));
	replica_catalog_fini(&c);
	return rc;
}

/* ---- from the local log ---- */
/* The log's commit is followed by a merged range: 1 = the store has a later one that is old enough, which conf asks for from now on;
 * 0 = it has none, or cannot be asked. That it had one which cannot be read is a failure. No page is fetched for this. */
static int finer_in_store(struct replica_source *s, struct replica_restore_conf *conf,
                          const struct replica_log_target *t, struct replica_meter *m, struct fz_err *err)
{
	struct replica_restore_conf look = *conf;
	struct replica_image none = {.fd = -1};
	struct replica_restore_result r = {0};
	struct fz_err why = {0};
	int rc;

	look.dry_run = true;
	rc = from_store(s, &look, &none, m, &r, &why);
	replica_image_fini(&none);
	if (rc == -ECANCELED || (rc != -FZ_ENOTFOUND && object_fault(rc))) {
		*err = why;
		return rc;
	}
	if (rc == 0 && r.commit.txid > t->entry.e.max_txid) {
		conf->when = REPLICA_TXID;
		conf->txid = r.commit.txid;
		return 1;
	}
	if (rc < 0 && rc != -FZ_ENOTFOUND && rc != -FZ_ENOCOMMIT)
		fz_warn("%s: the local log keeps the commits around that moment as one, and the one before is taken",
		        fz_log_why(&why));
	return 0;
}

/* On failure conf asks for the life of the database that had it, where the log knows: another one is another database; and for the very
 * commit when it was found in the store. */
static int from_log(struct replica_source *s, struct replica_restore_conf *conf, struct replica_image *im,
                    struct replica_meter *m, struct replica_restore_result *r, struct fz_err *err)
{
	struct replica_walk_conf wc = walk_conf(s, conf, im, m);
	struct replica_log_target t = {0};
	struct replica_walk_result wr;
	struct replica_object *blame;
	struct replica_logs logs = {0};
	const struct ltx_pack_entry *e = &t.entry.e;
	struct ltx_log_info info;
	int rc;

	rc = replica_logs_open(&logs, s, err);
	if (rc == 0)
		rc = replica_target_log(&logs, conf, &t, err);
	if (t.lineage[0])
		memcpy(conf->lineage, t.lineage, sizeof(conf->lineage));
	if (rc == 0 && t.coarse && s->store)
		rc = finer_in_store(s, conf, &t, m, err);
	if (rc > 0)
		rc = fz_fail(err, FZ_ENOCOMMIT, "TXID %llu is in the local log only as part of others",
		             (unsigned long long)conf->txid);
	if (rc < 0)
		goto out;
	ltx_log_info(t.log, &info);
	memcpy(r->commit.lineage, info.lineage, sizeof(r->commit.lineage));
	r->commit.epoch = info.epoch;
	if (conf->dry_run) {
		r->commit.min_txid = e->min_txid;
		r->commit.txid = e->max_txid;
		r->commit.time_ms = e->time_ms;
		r->commit.pages = e->pages;
		r->commit.commit = e->commit;
		r->commit.size_bytes = e->size_bytes;
		r->page_size = info.page_size;
		r->pages = e->commit;
		goto out;
	}
	wc.log = t.log;
	wc.txid = e->max_txid;
	rc = replica_walk(&wc, &wr, &blame, err);
	if (rc == 0)
		fill_commit(r, &wr);
	else
		fz_err_prefix(err, "local log of %s", s->name);
out:
	replica_logs_close(&logs);
	return rc;
}

int replica_restore(struct replica_source *s, const struct replica_restore_conf *conf,
                    struct replica_restore_result *result, struct fz_err *err)
{
	struct replica_output out = {.fd = -1, .dirfd = -1};
	struct replica_image im = {.fd = -1};
	struct replica_meter meter = {.cancel = conf->cancel};
	struct replica_restore_conf asked = *conf;
	uint64_t began = fz_mono_ns();
	int rc = 0;

	memset(result, 0, sizeof(*result));
	if (conf->into) {
		im.fd = *conf->into;
	} else if (!conf->dry_run && !conf->verify_only) {
		if (!conf->output)
			return fz_fail(err, FZ_EUSAGE, "restore needs the name of the file to write (-o FILE)");
		rc = replica_output_open(&out, conf->output, conf->output_dir, conf->force, err);
		if (rc < 0)
			return rc;
		if (conf->like)
			replica_output_like(&out, conf->like);
		im.fd = out.fd;
	}
	if (s->state_fd >= 0) {
		rc = from_log(s, &asked, &im, &meter, result, err);
		result->from_log = rc == 0;
		if (rc < 0 && s->store && rc != -ECANCELED) {
			struct fz_err why = *err;

			fz_debug("not from the local log: %s", fz_log_why(&why));
			memset(result, 0, sizeof(*result));
			rc = from_store(s, &asked, &im, &meter, result, err);
			if (rc == -FZ_ENOTFOUND) { /* nothing was shipped: what the log says is the answer */
				*err = why;
				rc = why.code;
			}
		}
	} else {
		rc = from_store(s, &asked, &im, &meter, result, err);
	}
	if (rc == 0 && replica_meter_stopped(&meter)) /* after the last page */
		rc = fz_fail_errno(err, ECANCELED, "restore was stopped");
	if (rc == 0 && out.fd >= 0)
		rc = replica_output_commit(&out, err);
	if (!conf->dry_run)
		result->fetched_bytes = atomic_load(&meter.fetched_bytes);
	if (rc < 0) {
		memset(&result->commit, 0, sizeof(result->commit));
		memcpy(result->commit.lineage, asked.lineage, sizeof(result->commit.lineage));
	}
	if (rc == 0 && conf->when == REPLICA_AT)
		result->distance_ms = conf->at_ms - result->commit.time_ms;
	result->elapsed_ms = (fz_mono_ns() - began) / 1000000;
	replica_output_close(&out);
	replica_image_fini(&im);
	return rc;
}
