#include "primary/prune.h"

#include "base/clock.h"
#include "primary/target.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BATCH 500

typedef struct primary_retain_object obj;

/* ---- what is lost ------------------------------------------------------------------------------------------------ */

struct range {
	uint64_t first, last;
	int64_t first_ms, last_ms;
};

static int by_first(const void *pa, const void *pb)
{
	const struct range *a = pa, *b = pb;

	return a->first < b->first ? -1 : a->first > b->first;
}

/* Each of these can be restored by itself through this object. */
static struct range range_of(const struct ltx_name *m)
{
	bool pack = ltx_level_is_pack(m->level);

	return (struct range){pack ? m->min_txid : m->max_txid, m->max_txid, pack ? m->first_ms : m->last_ms,
	                      m->last_ms};
}

static void lose(struct primary_prune *p, const char *lineage, const struct range *r, uint64_t first, uint64_t last)
{
	struct primary_prune_loss *l = p->n_lost && p->n_lost <= PRIMARY_PRUNE_LOSSES ? &p->lost[p->n_lost - 1] : NULL;

	if (l && l->last_txid + 1 == first && !strcmp(l->lineage, lineage)) {
		l->last_txid = last;
		if (r->last_ms > l->last_ms)
			l->last_ms = r->last_ms;
		return;
	}
	if (p->n_lost++ < PRIMARY_PRUNE_LOSSES) {
		l = &p->lost[p->n_lost - 1];
		memcpy(l->lineage, lineage, sizeof(l->lineage));
		l->first_txid = first;
		l->last_txid = last;
		l->first_ms = r->first_ms;
		l->last_ms = r->last_ms;
	}
}

/* v[from .. to): one lineage. gone minus kept; both are put into room for to - from ranges each. */
static void find_losses(struct primary_prune *p, const obj *v, size_t from, size_t to, struct range *gone,
                        struct range *kept)
{
	size_t n_gone = 0, n_kept = 0, k = 0;
	uint64_t done = 0;

	for (size_t i = from; i < to; i++)
		if (v[i].required)
			kept[n_kept++] = range_of(&v[i].name);
		else
			gone[n_gone++] = range_of(&v[i].name);
	qsort(gone, n_gone, sizeof(*gone), by_first);
	qsort(kept, n_kept, sizeof(*kept), by_first);
	for (size_t i = 0; i < n_gone; i++) {
		uint64_t at = gone[i].first > done ? gone[i].first : done + 1;

		while (at <= gone[i].last) {
			uint64_t end = gone[i].last;

			/* done and at only rise, so what ends below is never looked at again */
			while (k < n_kept && kept[k].last < at)
				k++;
			for (size_t j = k; j < n_kept && kept[j].first <= end; j++) {
				if (kept[j].last < at)
					continue;
				end = kept[j].first > at ? kept[j].first - 1 : at - 1;
				if (end < at) {
					at = kept[j].last + 1;
					end = at - 1;
					break;
				}
			}
			if (end < at)
				continue;
			lose(p, v[from].name.lineage, &gone[i], at, end);
			at = end + 1;
		}
		if (gone[i].last > done)
			done = gone[i].last;
	}
}

static int tell_losses(struct primary_prune *p, const obj *v, size_t n, struct fz_err *err)
{
	struct range *room = calloc(n ? 2 * n : 1, sizeof(*room));

	if (!room)
		return fz_fail_errno(err, ENOMEM, "retention");
	for (size_t from = 0, to; from < n; from = to) {
		for (to = from + 1; to < n && !strcmp(v[to].name.lineage, v[from].name.lineage);)
			to++;
		find_losses(p, v, from, to, room, room + n);
	}
	free(room);
	return 0;
}

/* ---- one database ------------------------------------------------------------------------------------------------ */

static int by_newest(const void *pa, const void *pb)
{
	const obj *a = *(obj *const *)pa, *b = *(obj *const *)pb;

	return a->name.max_txid < b->name.max_txid ? 1 : a->name.max_txid > b->name.max_txid ? -1 : 0;
}

static int delete_them(struct primary_prune *p, obj *v, size_t n, struct fz_err *err)
{
	obj **gone = malloc((n ? n : 1) * sizeof(obj *));
	const char *keys[BATCH];
	size_t count = 0;
	int rc = gone ? 0 : fz_fail_errno(err, ENOMEM, "retention");

	for (size_t i = 0; rc == 0 && i < n; i++)
		if (!v[i].required)
			gone[count++] = &v[i];
	if (rc == 0 && count > 1)
		qsort(gone, count, sizeof(*gone), by_newest);
	for (size_t at = 0; rc == 0 && at < count;) {
		size_t k = 0, failed = 0;

		if (p->watch && p->watch->stop(p->watch, p)) {
			rc = fz_fail(err, ECANCELED, "interrupted");
			break;
		}
		while (k < BATCH && at + k < count) {
			keys[k] = gone[at + k]->key;
			k++;
		}
		rc = fz_store_delete(p->store, keys, k, &failed, err);
		p->deleted += k - failed;
		at += k;
	}
	free(gone);
	return rc;
}

int primary_prune_run(struct primary_prune *p, int64_t now_ms, struct fz_err *err)
{
	struct fz_store_list l = {0};
	obj *v = NULL;
	size_t n = 0;
	int rc;

	p->objects = p->bytes = p->deleted = p->kept_objects = p->kept_bytes = 0;
	p->n_lost = 0;
	p->hole = false;
	rc = primary_retain_list(p->store, p->database, &l, &v, &n, err);
	if (rc < 0)
		goto out;
	primary_retain_decide(v, n, p->conf, p->ended ? NULL : p->lineage, now_ms,
	                      primary_retain_cut_age(p->conf, p->cut));
	p->hole = p->held_txid && p->lineage && !primary_retain_reaches(v, n, p->lineage, p->held_txid);
	for (size_t i = 0; i < n; i++) {
		if (p->hole)
			v[i].required = true;
		p->objects += !v[i].required;
		p->bytes += v[i].required ? 0 : v[i].size_bytes;
		p->kept_objects += v[i].required;
		p->kept_bytes += v[i].required ? v[i].size_bytes : 0;
	}
	rc = tell_losses(p, v, n, err);
	if (rc == 0 && !p->dry_run)
		rc = delete_them(p, v, n, err);
out:
	free(v);
	fz_store_list_fini(&l);
	return rc;
}

/* ---- the worker's ------------------------------------------------------------------------------------------------ */

/* The newest life of each name, from index *i on; it is pinned: nobody closes it. */
static struct primary_db *next_db(struct primary_target *t, const char *name, size_t *i)
{
	struct primary_db *db = NULL;

	pthread_mutex_lock(&t->mu);
	for (; !db && *i < t->n_dbs; (*i)++) {
		db = t->dbs[*i];
		if (name && strcmp(db->name, name) != 0)
			db = NULL;
		for (size_t k = 0; db && k < t->n_dbs; k++)
			if (t->dbs[k]->created_ms > db->created_ms && !strcmp(t->dbs[k]->name, db->name))
				db = NULL;
	}
	if (db)
		db->pins++;
	pthread_mutex_unlock(&t->mu);
	return db;
}

static int prune_db(struct primary_target *t, struct primary_db *db, struct primary_prune *p, struct fz_err *err)
{
	struct ltx_log *log = ltx_logset_find(t->ship->logs, db->lineage);
	bool asked;
	int rc = log ? primary_db_claim(t, db, log, &asked, err)
	             : fz_fail(err, FZ_EBUSY, "%s is just being removed", db->name);

	pthread_mutex_lock(&t->mu);
	p->lineage = db->lineage;
	p->ended = db->ended;
	p->held_txid = db->cur.anchor_wait ? 0 : db->cur.held_txid;
	p->cut = t->cut;
	if (rc == 0 && (db->cur.anchor_wait || db->cur.levels.need_snapshot))
		rc = fz_fail(err, FZ_EBUSY, "%s: a snapshot that heals its history at %s has to come first", db->name,
		             fz_store_url(t->store));
	pthread_mutex_unlock(&t->mu);
	if (rc == 0)
		rc = primary_prune_run(p, fz_now_ms(), err);
	if (rc == 0 && p->hole)
		rc = fz_fail(err, FZ_EGAP,
		             "%s: objects have vanished from %s; nothing is deleted before a snapshot has healed that",
		             db->name, fz_store_url(t->store));
	ltx_log_put(log);
	return rc;
}

int primary_ship_prune(struct primary_ship *s, const char *name, bool dry_run, struct primary_prune_watch *w,
                       struct fz_err *err)
{
	bool any = false;

	for (size_t k = 0; k < s->n; k++) {
		struct primary_target *t = s->targets[k];
		struct primary_db *db;

		for (size_t i = 0; (db = next_db(t, name, &i));) {
			struct primary_prune p = {.store = t->store,
			                          .database = db->name,
			                          .conf = &t->retain,
			                          .dry_run = dry_run || t->retain.append_only,
			                          .watch = w};
			struct fz_err why = {0};
			int rc = prune_db(t, db, &p, &why);

			any = true;
			w->told(w, t->conf.name ? t->conf.name : fz_store_url(t->store), &p, rc < 0 ? &why : NULL);
			pthread_mutex_lock(&t->mu);
			db->pins--;
			pthread_mutex_unlock(&t->mu);
			if (rc == -ECANCELED)
				return fz_fail(err, ECANCELED, "%s", why.text);
		}
	}
	return any || !name ? 0 : fz_fail(err, FZ_ENOTFOUND, "no target knows a database %s", name);
}
