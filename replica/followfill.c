/* followfill.c - gaps that the store fills while the link is connected: the logs that the link's follower lends, one after the
 * other. */
#include "base/clock.h"
#include "base/log.h"
#include "ltx/wire.h"
#include "replica/followstorepriv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MS_NS UINT64_C(1000000)

int replica_followstore_fill(struct replica_followstore *f, const struct ltx_wire_db *d, int wake_fd,
                             struct fz_err *err)
{
	struct replica_fill *v;

	pthread_mutex_lock(&f->hand);
	v = reallocarray(f->fills, f->n_fills + 1, sizeof(*v));
	if (v) {
		f->fills = v;
		v[f->n_fills] = (struct replica_fill){.epoch = d->epoch};
		memcpy(v[f->n_fills].name, d->name, sizeof(v->name));
		memcpy(v[f->n_fills].lineage, d->lineage, sizeof(v->lineage));
		if (!f->n_fills++)
			f->seen_ns = fz_mono_ns();
		f->fill_fd = wake_fd;
	}
	pthread_mutex_unlock(&f->hand);
	fz_worker_kick(&f->worker);
	return v ? 0 : fz_fail_errno(err, ENOMEM, "filling a gap from the store");
}

void replica_followfill_forget_locked(struct replica_followstore *f)
{
	f->n_fills = 0;
	f->filling = false;
}

bool replica_followstore_filling(struct replica_followstore *f, const char *lineage)
{
	uint64_t now = fz_mono_ns();
	bool there = false;

	pthread_mutex_lock(&f->hand);
	if (f->hands != f->hands_seen) {
		f->hands_seen = f->hands;
		f->seen_ns = now;
	}
	if (f->n_fills && now - f->seen_ns > (uint64_t)f->still_ms * MS_NS) {
		fz_warn("%s does not answer: the primary sends what is missing", replica_followstore_url(f));
		f->turns++;
		replica_followstore_close_locked(f);
		replica_followfill_forget_locked(f);
	}
	for (size_t i = 0; i < f->n_fills; i++)
		there = there || !strcmp(f->fills[i].lineage, lineage);
	pthread_mutex_unlock(&f->hand);
	return there;
}

bool replica_followfill_waits_locked(const struct replica_followstore *f)
{
	return f->n_fills > 0;
}

/* The log goes back to whoever lent it, unless that was taken from us meanwhile. A store that is away is away for all. */
static void give_back(struct replica_followstore *f, struct replica_followdb *db, bool all)
{
	uint64_t one = 1;

	pthread_mutex_lock(&f->hand);
	if (f->filling && f->turns == f->turn) {
		if (db && replica_followdb_sync(db))
			replica_followset_post(&f->set, db);
		if (db)
			replica_followdb_close(db);
		f->n_fills = all ? 0 : f->n_fills - 1;
		memmove(f->fills, f->fills + 1, f->n_fills * sizeof(*f->fills));
		f->filling = false;
		if (write(f->fill_fd, &one, sizeof(one)) < 0)
			fz_debug("an eventfd is full");
	}
	pthread_mutex_unlock(&f->hand);
	f->fill.name[0] = 0;
}

bool replica_followfill_run(struct replica_followstore *f)
{
	struct replica_followdb *db = NULL;
	struct fz_err err = {0};
	bool paused;
	int rc, at;

	pthread_mutex_lock(&f->hand);
	paused = f->paused;
	f->filling = paused && f->n_fills && f->turn == f->turns;
	if (f->filling)
		f->fill = f->fills[0];
	pthread_mutex_unlock(&f->hand);
	if (!f->fill.name[0])
		return paused;
	rc = at = replica_followstore_place(f, f->fill.name, strlen(f->fill.name), &err);
	if (at >= 0) {
		f->places[at].database = true;
		rc = replica_followvisit_full(f, &f->places[at], &err);
		db = f->places[at].db;
		f->places[at].full = true;
	}
	if (rc < 0 && rc != -ECANCELED) {
		fz_err_prefix(&err, "%s: %s", f->fill.name, replica_followstore_url(f));
		fz_log_err("the store cannot give what the primary's log no longer has", &err);
	}
	give_back(f, db, replica_followvisit_of_store(rc));
	return true;
}
