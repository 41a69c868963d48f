/* peerfeed.c - a replica's databases take turns. */
#include "primary/peer.h"

#include "base/array.h"
#include "base/clock.h"
#include "ltx/log.h"
#include "primary/feed.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#define FLUSH_BYTES (64 * 1024)

static bool may_follow(const struct primary_follower *f, const char *name)
{
	for (size_t i = 0; i < f->n_databases; i++)
		if (fnmatch(f->databases[i], name, 0) == 0)
			return true;
	return f->n_databases == 0;
}

static int add_feed(struct primary_peer *p, const struct ltx_log_info *info, struct primary_feed **out,
                    struct fz_err *err)
{
	struct primary_feed *f = primary_feed_new((uint32_t)p->n_feeds + 1, info);
	int rc = f ? 0 : -ENOMEM;

	pthread_mutex_lock(&p->mu);
	if (rc == 0 && !fz_array_room(p->feeds, p->n_feeds, p->cap_feeds))
		rc = -ENOMEM;
	if (rc == 0)
		p->feeds[p->n_feeds++] = f;
	pthread_mutex_unlock(&p->mu);
	if (rc < 0) {
		primary_feed_free(f);
		return fz_fail_errno(err, ENOMEM, "a replica's databases");
	}
	*out = f;
	return 0;
}

/* hint: the logs come in the order in which they came the last time. The array is changed by this thread only. */
static struct primary_feed *feed_of(struct primary_peer *p, const char *lineage, size_t hint)
{
	for (size_t k = 0; k < p->n_feeds; k++) {
		struct primary_feed *f = p->feeds[(hint + k) % p->n_feeds];

		if (strcmp(f->lineage, lineage) == 0)
			return f;
	}
	return NULL;
}

int primary_peer_round(struct primary_peer *p, int64_t *wait_ms, struct fz_err *err)
{
	bool more = false, under_way = false;
	uint64_t now = fz_mono_ns();
	struct ltx_log *log;
	size_t hint = 0;
	int rc = 0;

	for (size_t i = 0; rc == 0 && !atomic_load(&p->stop) && (log = ltx_logset_at(p->logs, i)); i++) {
		struct primary_feed *f;
		struct ltx_log_info info;
		int64_t retry_ms;

		ltx_log_info(log, &info);
		f = may_follow(p->follower, info.name) ? feed_of(p, info.lineage, hint) : NULL;
		if (!f && may_follow(p->follower, info.name))
			rc = add_feed(p, &info, &f, err);
		if (rc == 0 && f) {
			hint = f->id;
			rc = primary_feed_turn(f, log, &info, p->window_bytes, p->out.chunk, &p->out.plain, err);
			if (f->stands)
				primary_server_acked(p->server);
			f->stands = false;
			retry_ms = primary_feed_retry_ms(f, now);
			if (retry_ms >= 0 && retry_ms < *wait_ms)
				*wait_ms = retry_ms;
			under_way |= primary_feed_under_way(f);
		}
		ltx_log_put(log);
		more |= rc > 0;
		if (rc > 0)
			rc = 0;
		if (rc == 0 && p->out.plain.size >= FLUSH_BYTES)
			rc = primary_peer_flush(p, err);
	}
	pthread_mutex_lock(&p->mu);
	p->under_way = under_way;
	pthread_mutex_unlock(&p->mu);
	return rc < 0 ? rc : more;
}

static struct primary_feed *find_locked(struct primary_peer *p, const char *lineage)
{
	for (size_t i = 0; i < p->n_feeds; i++)
		if (strcmp(p->feeds[i]->lineage, lineage) == 0)
			return p->feeds[i];
	return NULL;
}

uint64_t primary_peer_durable(struct primary_peer *p, const char *lineage)
{
	struct primary_feed *f;
	uint64_t txid = 0;

	pthread_mutex_lock(&p->mu);
	f = p->ended_ms ? NULL : find_locked(p, lineage);
	if (f)
		txid = primary_feed_durable(f);
	pthread_mutex_unlock(&p->mu);
	return txid;
}

bool primary_peer_has(struct primary_peer *p, const char *lineage, uint64_t txid, uint64_t checksum)
{
	struct primary_feed *f;
	bool has;

	pthread_mutex_lock(&p->mu);
	f = p->ended_ms ? NULL : find_locked(p, lineage);
	has = f && primary_feed_has(f, txid, checksum);
	pthread_mutex_unlock(&p->mu);
	return has;
}

bool primary_peer_keeps(struct primary_peer *p, const char *lineage, uint64_t *txid)
{
	struct primary_feed *f;
	bool keeps = false;

	pthread_mutex_lock(&p->mu);
	f = p->ended_ms ? NULL : find_locked(p, lineage);
	if (f) {
		pthread_mutex_lock(&f->mu);
		keeps = f->state == PRIMARY_FEED_STREAM && f->holds;
		*txid = f->durable;
		pthread_mutex_unlock(&f->mu);
	}
	pthread_mutex_unlock(&p->mu);
	return keeps;
}

uint64_t primary_peer_reads_from(struct primary_peer *p, const char *lineage, int64_t since_ms)
{
	struct primary_feed *f;
	uint64_t txid = UINT64_MAX;

	pthread_mutex_lock(&p->mu);
	f = p->ended_ms && p->ended_ms < since_ms ? NULL : find_locked(p, lineage);
	if (f) {
		pthread_mutex_lock(&f->mu);
		if (f->state == PRIMARY_FEED_STREAM || f->state == PRIMARY_FEED_FAILED)
			txid = f->durable;
		pthread_mutex_unlock(&f->mu);
	}
	pthread_mutex_unlock(&p->mu);
	return txid;
}
