#include "replica/source.h"

#include "base/log.h"
#include "ltx/log.h"
#include "replica/origin.h"
#include "replica/pages.h"
#include "replica/plan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define AHEAD_BYTES (1024 * 1024)

/* Small files of a pack are read one after the other: one request for many. Borrows what it reads from. */
struct ahead {
	struct fz_src src, *of;
	uint64_t off;
	struct fz_buf window;
};

static int ahead_read(struct fz_src *src, uint64_t off, void *data, size_t n, struct fz_err *err)
{
	struct ahead *a = (struct ahead *)src;
	size_t want = AHEAD_BYTES;
	int rc;

	if (off < a->off || off + n > a->off + a->window.size) {
		if (n > AHEAD_BYTES)
			return fz_src_read(a->of, off, data, n, err);
		if (want > a->of->size_bytes - off)
			want = (size_t)(a->of->size_bytes - off);
		fz_buf_reset(&a->window);
		if (!fz_buf_room(&a->window, want))
			return fz_fail_errno(err, ENOMEM, "reading history");
		rc = fz_src_read(a->of, off, a->window.data, want, err);
		if (rc < 0)
			return rc;
		a->off = off;
		a->window.size = want;
	}
	memcpy(data, a->window.data + (off - a->off), n);
	return 0;
}

static void ahead_begin(struct ahead *a, struct fz_src *of)
{
	fz_buf_reset(&a->window);
	a->of = of;
	a->off = 0;
	a->src = (struct fz_src){.read_at = ahead_read, .size_bytes = of->size_bytes};
}

/* Two halves, oldest first: what only the store has, then the local log. Both walk in the finest detail that is kept. */
struct replica_commits {
	struct replica_source *source;
	struct replica_meter meter;
	/* store */
	struct replica_catalog catalog;
	size_t lineage; /* being walked */
	uint64_t cur;   /* TXID it has come to */
	struct replica_object *object;
	struct fz_src *src;
	struct replica_packix pack;
	uint64_t entry;
	/* log */
	struct replica_logs logs;
	size_t log;
	uint64_t log_cur;
	/* what next() told of last */
	enum { NOTHING, OBJECT, PACKED, LOGGED } at;
	const struct replica_object *at_object;
	struct ltx_pack_entry at_packed;
	struct ltx_log *at_log; /* borrowed of logs */
	struct ltx_log_entry at_entry;
	struct ahead ahead; /* over src */
};

static void close_pack(struct replica_commits *c)
{
	replica_packix_fini(&c->pack);
	fz_src_close(c->src);
	c->src = NULL;
	c->object = NULL;
	c->ahead.of = NULL;
	fz_buf_reset(&c->ahead.window);
}

/* What the log itself lists is not listed from the store: TXIDs above the result; UINT64_MAX = the log has none of it. */
static uint64_t log_starts_at(struct replica_commits *c, const char *lineage)
{
	for (size_t i = 0; i < c->logs.n; i++) {
		struct ltx_log_info info;

		ltx_log_info(c->logs.v[i], &info);
		if (!strcmp(info.lineage, lineage))
			return info.base_txid ? info.base_txid : info.first_txid ? info.first_txid - 1 : UINT64_MAX;
	}
	return UINT64_MAX;
}

static void from_name(struct replica_commit *out, const struct replica_object *o, uint64_t cur)
{
	memset(out, 0, sizeof(*out));
	memcpy(out->lineage, o->name.lineage, sizeof(out->lineage));
	out->epoch = o->name.epoch;
	out->min_txid = o->name.min_txid > cur || !cur ? o->name.min_txid : cur + 1;
	out->txid = o->name.max_txid;
	out->time_ms = o->name.last_ms;
	out->size_bytes = o->size_bytes;
	out->checksum = o->name.post_checksum;
}

/* 1 = *out is the next commit of the open pack, 0 = it has no more. */
static int next_of_pack(struct replica_commits *c, struct replica_commit *out, struct fz_err *err)
{
	const struct replica_object *o = c->object;
	struct ltx_pack_entry e;
	int rc;

	while (c->entry < c->pack.n) {
		rc = replica_packix_get(&c->pack, c->entry, &e, err);
		if (rc < 0)
			return rc;
		c->entry++;
		if (e.max_txid <= c->cur)
			continue;
		if (e.max_txid > o->usable_max)
			break;
		from_name(out, o, c->cur);
		out->min_txid = e.min_txid > c->cur ? e.min_txid : c->cur + 1;
		out->txid = e.max_txid;
		out->time_ms = e.time_ms;
		out->size_bytes = e.size_bytes;
		out->pages = e.pages;
		out->commit = e.commit;
		if (e.max_txid != o->name.max_txid)
			out->checksum = 0;
		c->cur = e.max_txid;
		c->at = PACKED;
		c->at_object = o;
		c->at_packed = e;
		return 1;
	}
	return 0;
}

static int next_of_store(struct replica_commits *c, struct replica_commit *out, struct fz_err *err)
{
	while (c->lineage < c->catalog.n_lineages) {
		const struct replica_lineage *l = &c->catalog.lineages[c->lineage];
		bool gap;
		int rc;

		if (c->object) {
			rc = next_of_pack(c, out, err);
			if (rc)
				goto found;
			c->object->reach = c->cur; /* nothing more to be had from it */
			c->object->bad = !c->cur;
			close_pack(c);
		}
		c->object = replica_plan_next(&c->catalog, l, c->cur, &gap);
		if (!c->object) {
			c->lineage++;
			c->cur = 0;
			continue;
		}
		if (ltx_level_is_pack(c->object->name.level) && (!c->object->name.encrypted || c->source->ids)) {
			rc = replica_object_open(c->source, c->object, &c->meter, &c->src, err);
			if (rc == 0)
				rc = replica_packix_open(&c->pack, c->src, false, err);
			c->entry = 0;
			if (rc == -FZ_ENOTFOUND) { /* repacked or expired meanwhile */
				c->object->bad = true;
				close_pack(c);
				continue;
			}
			if (rc < 0)
				goto found;
			continue;
		}
		from_name(out, c->object, c->cur);
		if (out->txid > c->object->usable_max)
			out->txid = c->object->usable_max; /* its time is not known, its last is the best guess */
		c->cur = out->txid;
		c->at = OBJECT;
		c->at_object = c->object;
		c->object = NULL;
		rc = 1;
	found:
		if (rc < 0)
			return rc;
		if (out->txid <= log_starts_at(c, out->lineage))
			return 1;
		/* the rest of this lineage is the log's */
		close_pack(c);
		c->lineage++;
		c->cur = 0;
	}
	return 0;
}

/* Does the store list what the base of that log stands for? Then the base itself is no commit of its own. */
static bool store_has(struct replica_commits *c, const struct ltx_log_info *info)
{
	for (size_t i = 0; i < c->catalog.n_lineages; i++)
		if (!strcmp(c->catalog.lineages[i].id, info->lineage))
			return replica_plan_newest(&c->catalog, &c->catalog.lineages[i]) >= info->base_txid;
	return false;
}

static int next_of_log(struct replica_commits *c, struct replica_commit *out, struct fz_err *err)
{
	while (c->log < c->logs.n) {
		struct ltx_log *log = c->logs.v[c->log];
		struct ltx_log_entry e;
		struct ltx_log_info info;
		int rc;

		ltx_log_info(log, &info);
		if (!c->log_cur && info.base_txid && store_has(c, &info))
			c->log_cur = info.base_txid;
		if (!c->log_cur && !info.base_txid && info.first_txid)
			c->log_cur = info.first_txid - 1;
		rc = c->log_cur >= info.tail_txid ? -FZ_ENOTFOUND : ltx_log_find(log, c->log_cur + 1, &e, err);
		if (rc == -FZ_ENOTFOUND) {
			c->log++;
			c->log_cur = 0;
			continue;
		}
		if (rc < 0)
			return rc;
		memset(out, 0, sizeof(*out));
		memcpy(out->lineage, info.lineage, sizeof(out->lineage));
		out->epoch = info.epoch;
		out->min_txid = e.e.min_txid;
		out->txid = e.e.max_txid;
		out->time_ms = e.e.time_ms;
		out->pages = e.e.pages;
		out->commit = e.e.commit;
		out->size_bytes = e.e.size_bytes;
		if (out->txid == info.tail_txid)
			out->checksum = info.tail_checksum;
		c->log_cur = e.e.max_txid;
		c->at = LOGGED;
		c->at_log = log;
		c->at_entry = e;
		return 1;
	}
	return 0;
}

int replica_commits_open(struct replica_commits **out, struct replica_source *s, struct fz_err *err)
{
	struct replica_commits *c = calloc(1, sizeof(*c));
	int rc = 0;

	if (!c)
		return fz_fail_errno(err, ENOMEM, "listing commits");
	c->source = s;
	if (s->state_fd >= 0)
		rc = replica_logs_open(&c->logs, s, err);
	if (s->store && (rc == 0 || rc == -FZ_ENOTFOUND)) {
		rc = replica_catalog_load(&c->catalog, s->store, err);
		if (rc < 0 && c->logs.n) {
			if (rc != -FZ_ENOTFOUND) /* else: nothing shipped yet */
				fz_warn("%s: only the local log is listed", fz_log_why(err));
			replica_catalog_fini(&c->catalog);
			rc = 0;
		}
	}
	if (rc < 0)
		replica_commits_close(c);
	else
		*out = c;
	return rc;
}

int replica_commits_next(struct replica_commits *c, struct replica_commit *out, struct fz_err *err)
{
	int rc;

	c->at = NOTHING;
	rc = next_of_store(c, out, err);
	return rc ? rc : next_of_log(c, out, err);
}

/* One file of its own in the store: read through the window as well. */
struct whole {
	struct ahead ahead;
	struct fz_src *object;
};

static void whole_close(struct fz_src *src)
{
	struct whole *w = (struct whole *)src;

	fz_src_close(w->object);
	fz_buf_fini(&w->ahead.window);
	free(w);
}

static int open_whole(struct replica_commits *c, struct fz_src **out, struct fz_err *err)
{
	struct whole *w = calloc(1, sizeof(*w));
	int rc;

	if (!w)
		return fz_fail_errno(err, ENOMEM, "reading history");
	rc = replica_object_open(c->source, c->at_object, &c->meter, &w->object, err);
	if (rc < 0) {
		free(w);
		return rc;
	}
	ahead_begin(&w->ahead, w->object);
	w->ahead.src.close = whole_close;
	*out = &w->ahead.src;
	return 0;
}

int replica_commits_file(struct replica_commits *c, bool before, struct fz_src **out, struct fz_err *err)
{
	struct ltx_log_entry e = c->at_entry;
	int rc = 0;

	if (before && c->at == LOGGED && e.seg)
		rc = ltx_log_find(c->at_log, e.e.min_txid - 1, &e, err);
	if (before && (c->at != LOGGED || (rc == 0 && (e.seg || e.e.max_txid != c->at_entry.e.min_txid - 1))))
		rc = fz_fail(err, FZ_ENOTFOUND, "no snapshot ends there");
	if (rc < 0)
		return rc;
	switch (c->at) {
	case LOGGED:
		return ltx_log_src(c->at_log, &e, out, err);
	case OBJECT:
		return open_whole(c, out, err);
	case PACKED:
		if (c->ahead.of != c->src)
			ahead_begin(&c->ahead, c->src);
		return fz_src_slice(out, &c->ahead.src, c->at_packed.off_bytes, c->at_packed.size_bytes, err);
	case NOTHING:
		break;
	}
	return fz_fail(err, FZ_EINTERNAL, "no commit was told of");
}

int64_t replica_commits_ended(const struct replica_commits *c, const char *lineage)
{
	for (size_t i = 0; i < c->logs.n; i++) {
		struct ltx_log_info info;

		ltx_log_info(c->logs.v[i], &info);
		if (!strcmp(info.lineage, lineage) && info.ended_ms)
			return info.ended_ms;
	}
	for (size_t i = 0; i < c->catalog.n_lineages; i++)
		if (!strcmp(c->catalog.lineages[i].id, lineage))
			return c->catalog.lineages[i].ended_ms;
	return 0;
}

void replica_commits_close(struct replica_commits *c)
{
	if (!c)
		return;
	close_pack(c);
	fz_buf_fini(&c->ahead.window);
	replica_logs_close(&c->logs);
	replica_catalog_fini(&c->catalog);
	free(c);
}
