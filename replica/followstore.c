/* followstore.c - the one thread that follows a store: where databases lie, what is new there, and how it gets into the
 * logs.
 *
 * A LOOK   visits every place: a directory of the store that is a database (it has claims), or one above databases. A database is listed from the
 *          last known object on, so that nothing new is one short answer: its packs and its claims in turn. Whatever is not as
 *          expected (another epoch, a gap, a failure, a pause) is cleared up by listing the database in full.
 * THE HAND whoever holds f->hand may touch the logs. It is never held over a call of the store, so pause() is quick; what was fetched
 *          meanwhile is dropped when f->turns has moved.
 * ERRORS   of the store end the look; those of one database hold up that one (replica/followdb.h). */
#include "replica/followstore.h"

#include "base/clock.h"
#include "base/log.h"
#include "ltx/log.h"
#include "replica/follow.h"
#include "replica/followstorepriv.h"
#include "store/store.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MS_NS        UINT64_C(1000000)
#define INTERVAL_MS  5000
#define STILL_MS     20000
#define PLACES_EVERY 12              /* visits until a database's own directory is looked through again */
#define STALE_MS     INT64_C(600000) /* packs of a store that was not seen for so long may be repacked */

/* ---- the hand ---- */

int replica_followstore_hand(struct replica_followstore *f, struct fz_err *err)
{
	pthread_mutex_lock(&f->hand);
	if ((!f->paused || f->filling) && f->turns == f->turn && !fz_worker_stopping(&f->worker)) {
		f->hands++;
		return 0;
	}
	pthread_mutex_unlock(&f->hand);
	return fz_fail(err, ECANCELED, "following the store pauses");
}

void replica_followstore_let_go(struct replica_followstore *f)
{
	pthread_mutex_unlock(&f->hand);
}

int replica_followstore_standing(struct replica_followstore *f, const struct replica_followdb *db,
                                 struct replica_standing *out, struct fz_err *err)
{
	int rc = replica_followstore_hand(f, err);

	if (rc < 0)
		return rc;
	*out = (struct replica_standing){.tail_txid = db->tail_txid,
	                                 .state = db->state,
	                                 .open = db->log != NULL,
	                                 .tail_checksum = db->tail_checksum,
	                                 .epoch = db->epoch};
	out->waits = db->state == REPLICA_FOLLOWDB_FAILED && fz_mono_ns() < db->retry_ns;
	replica_followstore_let_go(f);
	return 0;
}

/* ---- places ---- */

static bool usable_part(const char *part, size_t n)
{
	return n > 0 && n <= 255 && !(n <= 2 && !strncmp(part, "..", n)) && !(n == 5 && !strncmp(part, ".fazt", n));
}

static bool is_lineage(const char *part, size_t n)
{
	return n == 16 && strspn(part, "0123456789abcdef") >= 16;
}

int replica_followstore_place(struct replica_followstore *f, const char *path, size_t n, struct fz_err *err)
{
	struct replica_place *v;

	for (size_t i = 0; i < f->n_places; i++)
		if (strlen(f->places[i].path) == n && !strncmp(f->places[i].path, path, n))
			return (int)i;
	v = reallocarray(f->places, f->n_places + 1, sizeof(*v));
	if (v)
		f->places = v;
	if (!v || !(v[f->n_places].path = strndup(path, n)))
		return fz_fail_errno(err, ENOMEM, "following %s", fz_store_url(f->store));
	v[f->n_places] = (struct replica_place){.path = v[f->n_places].path, .full = true};
	return (int)f->n_places++;
}

/* What lies right below a place. p is an index, since places move when one is added. */
static int look_through(struct replica_followstore *f, size_t p, struct fz_err *err)
{
	struct fz_store_list list = {0};
	struct fz_buf prefix = {0};
	size_t skip;
	int rc = *f->places[p].path ? fz_buf_addf(&prefix, "%s/", f->places[p].path) : 0;

	if (rc < 0)
		rc = fz_fail_errno(err, ENOMEM, "following %s", fz_store_url(f->store));
	skip = prefix.size;
	if (rc == 0)
		rc = fz_store_list(f->store, fz_buf_str(&prefix), NULL, true, &list, err);
	for (size_t i = 0; rc == 0 && i < list.n; i++)
		if (!strcmp(list.v[i].key + skip, "claim/"))
			f->places[p].database = true;
	if (rc == 0 && f->places[p].database && !skip)
		rc = fz_fail(err, FZ_ECONFIG,
		             "%s is a database itself: what is followed is the prefix above it, with all its databases",
		             fz_store_url(f->store));
	for (size_t i = 0; rc == 0 && i < list.n; i++) {
		const char *part = list.v[i].key + skip;
		size_t n = strlen(part);

		if (n < 2 || part[n - 1] != '/' || !usable_part(part, n - 1) || skip + n > LTX_WIRE_NAME)
			continue;
		if (!f->places[p].database || (strcmp(part, "claim/") != 0 && !is_lineage(part, n - 1)))
			rc = replica_followstore_place(f, list.v[i].key, skip + n - 1, err);
		if (rc > 0)
			rc = 0;
	}
	fz_store_list_fini(&list);
	fz_buf_fini(&prefix);
	return rc;
}

/* One LIST when there is nothing new. */
static int visit(struct replica_followstore *f, size_t at, struct fz_err *err)
{
	struct replica_place *p = &f->places[at];
	struct replica_standing s = {0};
	unsigned n = p->visits++;
	int rc = 0;

	if (n % (p->database ? PLACES_EVERY : 2) == 0) {
		rc = look_through(f, at, err);
		p = &f->places[at];
		if (rc < 0 || n)
			return rc;
	}
	if (!p->database || replica_followset_excluded(&f->set, p->path))
		return 0;
	if (p->ended && !p->full && n % PLACES_EVERY == 1)
		rc = replica_followvisit_claims(f, p, err);
	if (rc < 0 || (p->ended && !p->full))
		return rc;
	if (p->db)
		rc = replica_followstore_standing(f, p->db, &s, err);
	if (rc < 0 || s.waits)
		return rc;
	p->full = p->full || !s.open || s.state == REPLICA_FOLLOWDB_DIVERGED || fz_now_ms() - p->seen_ms > STALE_MS;
	if (!p->full)
		rc = n % 2 ? replica_followvisit_packs(f, p, err) : replica_followvisit_claims(f, p, err);
	if (rc == 0 && p->full)
		return replica_followvisit_full(f, p, err);
	if (rc == 0)
		p->seen_ms = fz_now_ms();
	return rc;
}

/* ---- the thread ---- */

static void note(struct replica_followstore *f, int rc, const struct fz_err *why)
{
	int64_t now_ms = fz_now_ms();

	pthread_mutex_lock(&f->set.env.mu);
	if (f->connected != (rc == 0))
		f->since_ms = now_ms;
	f->connected = rc == 0;
	if (rc == 0) {
		f->looks++;
		f->looked_ms = now_ms;
		f->err.code = 0;
	} else {
		f->err = *why;
	}
	pthread_mutex_unlock(&f->set.env.mu);
	if (rc < 0 && rc != f->told) {
		struct fz_err e = *why;

		fz_err_prefix(&e, "%s", fz_store_url(f->store));
		fz_log_err("following the store waits", &e);
	} else if (rc == 0 && f->told) {
		fz_info("%s is followed again", fz_store_url(f->store));
	}
	f->told = rc;
}

static void look(struct replica_followstore *f)
{
	struct fz_err first = {0};
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < f->n_places && !fz_worker_stopping(&f->worker); i++) {
		struct fz_err err = {0};

		rc = visit(f, i, &err);
		if (rc < 0 && !first.code)
			first = err;
		if (rc < 0)
			f->places[i].full = true;
		if (rc < 0 && !replica_followvisit_of_store(rc) && i > 0) /* this one's alone */
			rc = 0;
	}
	if (rc != -ECANCELED && first.code != -ECANCELED)
		note(f, first.code, &first);
}

/* ms until the next look; 0 = now. A pause makes everything that is known doubtful. */
static int64_t due(struct replica_followstore *f, uint64_t *next_ns)
{
	uint64_t now = fz_mono_ns();
	int64_t ms;

	pthread_mutex_lock(&f->hand);
	if (f->turn != f->turns) {
		f->turn = f->turns;
		*next_ns = 0;
		for (size_t i = 0; i < f->n_places; i++)
			f->places[i].full = true;
	}
	if (f->resume_ns > *next_ns)
		*next_ns = f->resume_ns;
	ms = f->paused         ? (replica_followfill_waits_locked(f) ? 0 : -1)
	     : *next_ns <= now ? 0
	                       : (int64_t)((*next_ns - now) / MS_NS) + 1;
	pthread_mutex_unlock(&f->hand);
	return ms;
}

static void run(void *arg)
{
	struct replica_followstore *f = arg;
	uint64_t next_ns = 0;

	while (!fz_worker_stopping(&f->worker)) {
		int64_t ms = due(f, &next_ns);

		if (ms != 0) {
			(void)fz_worker_wait(&f->worker, ms);
			continue;
		}
		if (replica_followfill_run(f))
			continue;
		next_ns = fz_mono_ns() + (uint64_t)f->interval_ms * MS_NS;
		look(f);
	}
}

/* ---- life ---- */

void replica_followstore_close_locked(struct replica_followstore *f)
{
	for (size_t i = 0; i < f->set.n_dbs; i++) {
		if (replica_followdb_sync(f->set.dbs[i]))
			replica_followset_post(&f->set, f->set.dbs[i]);
		replica_followdb_close(f->set.dbs[i]);
	}
}

static void free_all(struct replica_followstore *f)
{
	replica_followstore_close_locked(f);
	for (size_t i = 0; i < f->n_places; i++)
		free(f->places[i].path);
	free(f->places);
	free(f->fills);
	fz_buf_fini(&f->buf);
	replica_followset_fini(&f->set);
	fz_store_close(f->store);
	pthread_mutex_destroy(&f->hand);
	free(f);
}

int replica_followstore_start(struct replica_followstore **out, const struct replica_followstore_conf *conf,
                              struct fz_err *err)
{
	struct replica_followstore *f = calloc(1, sizeof(*f));
	int rc;

	if (!f) {
		fz_store_close(conf->store);
		return fz_fail_errno(err, ENOMEM, "following a store");
	}
	f->store = conf->store;
	f->ids = conf->ids;
	f->interval_ms = conf->interval_ms ? conf->interval_ms : INTERVAL_MS;
	f->still_ms = conf->still_ms ? conf->still_ms : STILL_MS;
	f->paused = conf->paused;
	f->since_ms = fz_now_ms();
	pthread_mutex_init(&f->hand, NULL);
	replica_followset_init(&f->set);
	f->set.logs = conf->logs;
	f->set.applier = conf->applier;
	f->set.events = conf->events;
	f->set.exclude = conf->exclude;
	f->set.n_exclude = conf->n_exclude;
	rc = replica_followstore_place(f, "", 0, err);
	if (rc == 0)
		rc = fz_worker_start(&f->worker, "follow-store", run, f, err);
	if (rc < 0) {
		free_all(f);
		return rc;
	}
	*out = f;
	return 0;
}

void replica_followstore_stop(struct replica_followstore *f)
{
	if (!f)
		return;
	fz_store_cancel(f->store);
	fz_worker_stop(&f->worker);
	free_all(f);
}

void replica_followstore_pause(struct replica_followstore *f)
{
	pthread_mutex_lock(&f->hand);
	if (!f->paused) {
		f->paused = true;
		f->turns++;
		replica_followstore_close_locked(f);
	}
	pthread_mutex_unlock(&f->hand);
}

void replica_followstore_resume(struct replica_followstore *f, int64_t delay_ms)
{
	pthread_mutex_lock(&f->hand);
	f->paused = false;
	replica_followfill_forget_locked(f); /* one under way goes on as any other visit */
	f->resume_ns = fz_mono_ns() + (uint64_t)delay_ms * MS_NS;
	pthread_mutex_unlock(&f->hand);
	fz_worker_kick(&f->worker);
}

const char *replica_followstore_url(const struct replica_followstore *f)
{
	return fz_store_url(f->store);
}

int replica_followstore_status(struct replica_followstore *f, struct cJSON *object)
{
	int64_t silent_ms;

	pthread_mutex_lock(&f->set.env.mu);
	silent_ms = f->connected || !f->looked_ms ? 0 : fz_now_ms() - f->looked_ms;
	cJSON_AddStringToObject(object, "store", fz_store_url(f->store));
	cJSON_AddBoolToObject(object, "connected", f->connected);
	cJSON_AddNumberToObject(object, "since_ms", (double)f->since_ms);
	replica_followset_add_error(object, &f->err);
	cJSON_AddNumberToObject(object, "looks", (double)f->looks);
	cJSON_AddNumberToObject(object, "bytes_in", (double)atomic_load(&f->meter.fetched_bytes));
	pthread_mutex_unlock(&f->set.env.mu);
	return replica_followset_status(&f->set, object, silent_ms);
}
