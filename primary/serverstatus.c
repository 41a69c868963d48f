/* serverstatus.c - who follows, and how far each is, as JSON. Figures are copied under the locks; logs are asked without. */
#include "primary/server.h"

#include "base/clock.h"
#include "ltx/age.h"
#include "ltx/log.h"
#include "primary/feed.h"
#include "primary/peer.h"
#include "primary/serverpriv.h"
#include "primary/target.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WALK_BYTES (UINT64_C(256) << 20) /* beyond it lag_bytes is a lower bound */

struct db_view {
	char name[LTX_WIRE_NAME], lineage[17];
	enum primary_feed_state state;
	uint64_t received, durable, applied;
	struct fz_err err;
	/* from the log */
	uint64_t lag_txns, lag_bytes;
	int64_t lag_ms;
};
struct peer_view {
	char host[256], address[FZ_NET_ADDR];
	int64_t since_ms, ended_ms;
	uint64_t bytes_out;
	struct fz_err err;
	struct db_view *dbs;
	size_t n_dbs;
};

static int copy_peer(struct peer_view *v, struct primary_peer *p)
{
	int rc = 0;

	pthread_mutex_lock(&p->mu);
	memcpy(v->host, p->hello.host, sizeof(v->host));
	memcpy(v->address, p->address, sizeof(v->address));
	v->since_ms = p->since_ms;
	v->ended_ms = p->ended_ms;
	v->bytes_out = atomic_load(&p->bytes_out);
	v->err = p->err;
	v->dbs = calloc(p->n_feeds + 1, sizeof(*v->dbs));
	for (size_t i = 0; v->dbs && i < p->n_feeds; i++) {
		struct primary_feed *f = p->feeds[i];
		struct db_view *d = &v->dbs[v->n_dbs];

		pthread_mutex_lock(&f->mu);
		*d = (struct db_view){.state = f->state,
		                      .received = f->received,
		                      .durable = f->durable,
		                      .applied = f->applied,
		                      .err = f->err};
		pthread_mutex_unlock(&f->mu);
		memcpy(d->name, f->name, sizeof(d->name));
		memcpy(d->lineage, f->lineage, sizeof(d->lineage));
		if (d->state != PRIMARY_FEED_IDLE || d->durable)
			v->n_dbs++;
	}
	if (!v->dbs)
		rc = -ENOMEM;
	pthread_mutex_unlock(&p->mu);
	return rc;
}

/* How far what the replica shows is behind: since when its next commit has been in the log. */
static void look_at_log(struct db_view *d, struct ltx_log *log, const struct ltx_log_info *info, int64_t now_ms)
{
	struct ltx_log_entry e;
	int64_t oldest_ms = info->created_ms; /* when the log no longer knows: not later than that */

	if (d->applied >= info->tail_txid)
		return;
	d->lag_txns = info->tail_txid - d->applied;
	if (ltx_log_find(log, d->applied + 1, &e, NULL) == 0) {
		oldest_ms = e.e.time_ms;
		d->lag_bytes = primary_log_bytes(log, e.e.min_txid - 1, info->tail_txid, WALK_BYTES);
	} else {
		d->lag_bytes = info->log_bytes;
	}
	d->lag_ms = now_ms > oldest_ms ? now_ms - oldest_ms : 0;
}

static void look_at_logs(struct primary_server *s, struct peer_view *v, int64_t now_ms)
{
	struct ltx_log *log;

	for (size_t i = 0; (log = ltx_logset_at(s->logs, i)); i++) {
		struct ltx_log_info info;

		ltx_log_info(log, &info);
		for (size_t k = 0; k < v->n_dbs; k++)
			if (strcmp(v->dbs[k].lineage, info.lineage) == 0)
				look_at_log(&v->dbs[k], log, &info, now_ms);
		ltx_log_put(log);
	}
}

static cJSON *show_db(const struct db_view *d)
{
	cJSON *o = cJSON_CreateObject();

	cJSON_AddStringToObject(o, "name", d->name);
	cJSON_AddStringToObject(o, "lineage", d->lineage);
	cJSON_AddNumberToObject(o, "received_txid", (double)d->received);
	cJSON_AddNumberToObject(o, "durable_txid", (double)d->durable);
	cJSON_AddNumberToObject(o, "applied_txid", (double)d->applied);
	cJSON_AddNumberToObject(o, "lag_ms", (double)d->lag_ms);
	cJSON_AddNumberToObject(o, "lag_txns", (double)d->lag_txns);
	cJSON_AddNumberToObject(o, "lag_bytes", (double)d->lag_bytes);
	cJSON_AddBoolToObject(o, "diverged", d->state == PRIMARY_FEED_DIVERGED);
	cJSON_AddItemToObject(o, "last_error", d->err.code ? cJSON_CreateString(d->err.text) : cJSON_CreateNull());
	return o;
}

static cJSON *show(const struct primary_follower *f, const struct peer_view *v)
{
	cJSON *o = cJSON_CreateObject(), *list;
	struct ltx_age_recipient r;
	char key[LTX_AGE_RECIPIENT_SIZE];
	int64_t lag_ms = 0;

	memcpy(r.public_key, f->key, sizeof(r.public_key));
	ltx_age_recipient_format(key, &r);
	cJSON_AddStringToObject(o, "name", f->name ? f->name : key);
	cJSON_AddStringToObject(o, "key", key);
	cJSON_AddStringToObject(o, "host", v->host);
	cJSON_AddStringToObject(o, "address", v->address);
	cJSON_AddBoolToObject(o, "connected", v->since_ms && !v->ended_ms);
	cJSON_AddNumberToObject(o, "since_ms", (double)(v->ended_ms ? v->ended_ms : v->since_ms));
	cJSON_AddNumberToObject(o, "bytes_out", (double)v->bytes_out);
	cJSON_AddItemToObject(o, "last_error", v->err.code ? cJSON_CreateString(v->err.text) : cJSON_CreateNull());
	list = cJSON_CreateArray();
	for (size_t i = 0; i < v->n_dbs; i++) {
		if (v->dbs[i].lag_ms > lag_ms)
			lag_ms = v->dbs[i].lag_ms;
		cJSON_AddItemToArray(list, show_db(&v->dbs[i]));
	}
	cJSON_AddNumberToObject(o, "lag_ms", (double)lag_ms);
	cJSON_AddItemToObject(o, "databases", list);
	return o;
}

int primary_server_status(struct primary_server *s, struct cJSON *array)
{
	int64_t now_ms = fz_now_ms();
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < s->n; i++) {
		struct peer_view v = {.host = ""};
		cJSON *o = NULL;

		pthread_mutex_lock(&s->mu);
		if (s->v[i].peer)
			rc = copy_peer(&v, s->v[i].peer);
		pthread_mutex_unlock(&s->mu);
		if (rc == 0) {
			look_at_logs(s, &v, now_ms);
			o = show(&s->followers[i], &v);
		}
		if (!o || !cJSON_AddItemToArray(array, o))
			rc = -ENOMEM;
		free(v.dbs);
	}
	return rc;
}
