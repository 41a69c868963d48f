#include "cmd/positions.h"

#include "base/clock.h"
#include "base/log.h"
#include "cmd/link.h"
#include "fs/capture.h"
#include "ltx/log.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SPACING_MS 2

struct cmd_position {
	char lineage[17], name[512];
	uint32_t epoch;
	uint64_t txid, checksum;
	int64_t lag_ms; /* about: a reader gets the exact one */
	bool ended;
};

static struct cmd_positions *of_events(struct fs_virtual_events *ev)
{
	return (struct cmd_positions *)(void *)((char *)ev - offsetof(struct cmd_positions, events));
}

/* Where the database of that log stands here; false: nothing is known yet. */
static bool look(struct cmd_positions *p, struct ltx_log *log, struct cmd_position *out)
{
	struct replica_applied a;
	struct ltx_log_info info;

	ltx_log_info(log, &info);
	*out = (struct cmd_position){.epoch = info.epoch,
	                             .txid = info.tail_txid,
	                             .checksum = info.tail_checksum,
	                             .ended = info.ended_ms != 0};
	memcpy(out->lineage, info.lineage, sizeof(out->lineage));
	memcpy(out->name, info.name, sizeof(out->name));
	if (!p->link->role.replica)
		return info.tail_txid > 0;
	if (!replica_applier_get(p->link->applier, info.lineage, &a)) {
		out->txid = out->checksum = 0; /* the agent has not told yet; the files are there for whoever waits */
		return info.tail_txid > 0;
	}
	out->lag_ms = a.state.txid < info.tail_txid ? fz_now_ms() - info.tail_time_ms : 0;
	out->txid = a.state.txid;
	out->checksum = a.state.checksum;
	return true;
}

static void say(struct cmd_positions *p, const struct cmd_position *at)
{
	char text[FS_VIRTUAL_TEXT];
	int rc;

	snprintf(text, sizeof(text), "%" PRIu32 "/%016" PRIx64 "/%016" PRIx64 "\n", at->epoch, at->txid, at->checksum);
	rc = fs_virtual_set(p->files, at->name, FS_VIRTUAL_POSITION, text);
	cmd_link_primary(p->link, text, sizeof(text));
	if (rc == 0)
		rc = fs_virtual_set(p->files, at->name, FS_VIRTUAL_PRIMARY, text);
	snprintf(text, sizeof(text), "%" PRId64 "\n", at->lag_ms);
	if (rc == 0)
		rc = fs_virtual_set(p->files, at->name, FS_VIRTUAL_LAG, text);
	if (rc < 0)
		fz_debug("%s: no files below .fazt: %s", at->name, fz_strerror(rc));
}

static struct cmd_position *known(struct cmd_positions *p, const char *lineage)
{
	struct cmd_position *v;

	for (size_t i = 0; i < p->n_known; i++)
		if (!strcmp(p->known[i].lineage, lineage))
			return &p->known[i];
	v = reallocarray(p->known, p->n_known + 1, sizeof(*v));
	if (!v)
		return NULL;
	p->known = v;
	v += p->n_known++;
	*v = (struct cmd_position){.ended = true};
	snprintf(v->lineage, sizeof(v->lineage), "%s", lineage);
	return v;
}

static bool same(const struct cmd_position *a, const struct cmd_position *b)
{
	return a->epoch == b->epoch && a->txid == b->txid && a->checksum == b->checksum && a->ended == b->ended &&
	       !a->lag_ms == !b->lag_ms;
}

/* Says what has changed since the last pass. */
static void pass(struct cmd_positions *p)
{
	struct cmd_position now, *was;
	struct ltx_log *log;

	for (size_t i = 0; (log = ltx_logset_at(p->logs, i)); i++) {
		bool there = look(p, log, &now);

		ltx_log_put(log);
		was = known(p, now.lineage);
		if (!was || (!there && !now.ended) || (was->ended && now.ended) || same(was, &now))
			continue;
		if (now.ended)
			fs_virtual_remove(p->files, was->name);
		else
			say(p, &now);
		*was = now;
	}
}

static void run(void *arg)
{
	struct cmd_positions *p = arg;
	uint64_t gen = 0;

	while (!fz_worker_stopping(&p->worker)) {
		pass(p);
		if (!fz_worker_wait(&p->worker, SPACING_MS))
			break;
		gen = ltx_logset_wait(p->logs, gen, -1);
	}
}

/* For one reader: what is committed now is captured first. */
static void refresh(struct fs_virtual_events *ev, const char *database)
{
	struct cmd_positions *p = of_events(ev);
	struct cmd_position now;
	struct ltx_log *log;
	struct fz_err err;
	bool there;

	if (!p->link->role.replica && fs_capture_sync(p->capture, database, &err) < 0)
		fz_debug("%s: %s", fz_log_db(database), fz_log_why(&err));
	if (ltx_logset_get(p->logs, database, false, &log, NULL) < 0)
		return;
	there = look(p, log, &now);
	ltx_log_put(log);
	if (there && p->link->role.replica)
		now.lag_ms = cmd_link_lag(p->link, database);
	if (there)
		say(p, &now);
}

int cmd_positions_start(struct cmd_positions *p, struct fz_err *err)
{
	p->events.refresh = refresh;
	fs_virtual_listen(p->files, &p->events);
	pass(p);
	return fz_worker_start(&p->worker, "positions", run, p, err);
}

void cmd_positions_kick(struct cmd_positions *p)
{
	if (p->logs)
		ltx_logset_wake(p->logs);
}

void cmd_positions_stop(struct cmd_positions *p)
{
	if (!p->worker.started)
		return;
	fs_virtual_listen(p->files, NULL);
	pthread_mutex_lock(&p->worker.mu);
	p->worker.stop = true;
	pthread_mutex_unlock(&p->worker.mu);
	ltx_logset_wake(p->logs);
	fz_worker_stop(&p->worker);
	free(p->known);
	p->known = NULL;
	p->n_known = 0;
}
