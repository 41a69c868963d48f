#include "cmd/link.h"

#include "base/clock.h"
#include "base/log.h"
#include "cmd/herald.h"
#include "cmd/lease.h"
#include "fs/capture.h"
#include "ltx/log.h"
#include "primary/acks.h"
#include "replica/leaving.h"

#include <cJSON.h>
#include <errno.h>
#include <sodium.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct cmd_link *of_applier(struct replica_applier_events *ev)
{
	return (struct cmd_link *)(void *)((char *)ev - offsetof(struct cmd_link, applier_events));
}

static struct cmd_link *of_follow(struct replica_follow_events *ev)
{
	return (struct cmd_link *)(void *)((char *)ev - offsetof(struct cmd_link, follow_events));
}

void cmd_link_hello(const struct cmd_link *l, struct ltx_wire_hello *h)
{
	const char *where = l->conf->advertise ? l->conf->advertise : l->conf->listen;

	*h = (struct ltx_wire_hello){.role = l->role.replica ? LTX_WIRE_REPLICA : LTX_WIRE_PRIMARY,
	                             .epoch = l->role.epoch};
	memcpy(h->node, l->role.node, sizeof(h->node));
	if (gethostname(h->host, sizeof(h->host) - 1) < 0)
		h->host[0] = 0;
	snprintf(h->advertise, sizeof(h->advertise), "%s", where ? where : "");
}

/* ---- a host that may be followed ---- */

static struct cmd_link *of_server(struct primary_server_events *ev)
{
	return (struct cmd_link *)(void *)((char *)ev - offsetof(struct cmd_link, server_events));
}

static void demote(void *arg)
{
	struct cmd_link *l = arg;

	l->on_superseded(l);
}

void cmd_link_supersede(struct cmd_link *l, const uint8_t key[static 32], const struct ltx_wire_hello *h)
{
	struct fz_err err;

	pthread_mutex_lock(&l->mu);
	if (h->role == LTX_WIRE_PRIMARY && h->epoch > l->role.epoch && !l->turning && l->on_superseded) {
		l->turning = true;
		if (l->ack.acks) /* who waits holds the lock that the fence needs */
			primary_acks_refuse(l->ack.acks);
		memcpy(l->superior_key, key, sizeof(l->superior_key));
		l->superior = *h;
		if (fz_worker_start(&l->demoter, "demote", demote, l, &err) < 0) {
			fz_log_err("demotion", &err);
			l->turning = false; /* it will be said again */
		}
	}
	pthread_mutex_unlock(&l->mu);
}

static void superseded(struct primary_server_events *ev, const uint8_t key[static LTX_NOISE_KEY],
                       const struct ltx_wire_hello *h)
{
	cmd_link_supersede(of_server(ev), key, h);
}

static bool others(struct primary_server_events *ev, struct ltx_wire_others *out)
{
	struct cmd_link *l = of_server(ev);
	bool replica;

	pthread_mutex_lock(&l->mu);
	replica = l->role.replica;
	pthread_mutex_unlock(&l->mu);
	*out = (struct ltx_wire_others){0};
	return !replica && fs_capture_others(l->capture, &out->files, out->example, sizeof(out->example));
}

bool cmd_link_turn(struct cmd_link *l)
{
	bool was;

	pthread_mutex_lock(&l->mu);
	was = l->turning;
	l->turning = true;
	pthread_mutex_unlock(&l->mu);
	return !was;
}

void cmd_link_turn_not(struct cmd_link *l)
{
	pthread_mutex_lock(&l->mu);
	l->turning = false;
	pthread_mutex_unlock(&l->mu);
}

bool cmd_link_superseded(struct cmd_link *l)
{
	bool is;

	pthread_mutex_lock(&l->mu);
	is = l->demoter.started;
	pthread_mutex_unlock(&l->mu);
	return is;
}

bool cmd_link_ending(struct cmd_link *l, int64_t ms)
{
	return !fz_worker_wait(&l->demoter, ms);
}

/* Who follows through this host hears of the epoch too: whoever is promoted there must begin a higher one. */
static void announce_locked(struct cmd_link *l)
{
	struct ltx_wire_hello h;

	cmd_link_hello(l, &h);
	if (l->server)
		primary_server_announce(l->server, &h);
}

int cmd_link_serve(struct cmd_link *l, struct fz_err *err)
{
	struct primary_server_conf conf = {.listen = l->conf->listen, .logs = l->logs, .events = &l->server_events};
	struct primary_server *server = NULL;
	char where[FZ_NET_ADDR];
	int rc;

	if (!l->conf->listen)
		return 0;
	rc = cmd_link_followers(l->conf, &l->followers, err);
	if (rc < 0)
		return rc;
	l->n_followers = l->conf->followers.n;
	conf.followers = l->followers;
	conf.n_followers = l->n_followers;
	pthread_mutex_lock(&l->mu); /* a replica's follower runs already */
	cmd_link_hello(l, &conf.hello);
	pthread_mutex_unlock(&l->mu);
	l->server_events = (struct primary_server_events){.superseded = superseded, .others = others};
	rc = cmd_link_secret(l->conf, conf.secret, err);
	if (rc == 0)
		rc = primary_server_start(&server, &conf, err);
	sodium_memzero(conf.secret, sizeof(conf.secret));
	if (rc < 0)
		return fz_err_prefix(err, "listening for replicas");
	pthread_mutex_lock(&l->mu);
	l->server = server;
	if (l->role.epoch != conf.hello.epoch)
		announce_locked(l);
	pthread_mutex_unlock(&l->mu);
	if (l->ack.acks)
		primary_acks_serve(l->ack.acks, l->server);
	if (primary_server_address(l->server, where, NULL) == 0)
		fz_info("replicas may follow at %s", where);
	return 0;
}

/* ---- a replica ---- */

static void agent_hello(struct replica_applier_events *ev, int pid)
{
	struct cmd_link *l = of_applier(ev);

	fs_capture_trust(l->capture, pid);
}

static void applied(struct replica_applier_events *ev, const struct replica_applied *a)
{
	struct cmd_link *l = of_applier(ev);

	fs_capture_attached(l->capture, a->name, a->state.txid > 0 && !atomic_load(&l->detaching));
	pthread_mutex_lock(&l->mu);
	if (l->follow)
		replica_follow_applied(l->follow);
	pthread_mutex_unlock(&l->mu);
	cmd_positions_kick(&l->positions);
}

/* A database that ends goes when the agent can; until then nobody may write it. Its name may live again meanwhile: what removed() finds
 * and what is protected here change under one lock. */
static void database(struct replica_follow_events *ev, const char *name, const char *lineage, bool ended)
{
	struct cmd_link *l = of_follow(ev);
	struct fz_err err = {0};
	int rc;

	if (ended) {
		rc = replica_applier_remove(l->applier, name, lineage, &err);
	} else {
		pthread_mutex_lock(&l->mu);
		rc = fs_capture_protect(l->capture, name, true, &err);
		pthread_mutex_unlock(&l->mu);
	}
	if (rc < 0)
		fz_log_err(fz_log_db(name), &err);
}

static void removed(struct replica_applier_events *ev, const char *name, const char *lineage)
{
	struct cmd_link *l = of_applier(ev);
	struct fz_err err = {0};
	struct ltx_log *log;

	pthread_mutex_lock(&l->mu);
	if (ltx_logset_get(l->logs, name, false, &log, NULL) == 0)
		ltx_log_put(log);
	else if (fs_capture_protect(l->capture, name, false, &err) < 0)
		fz_log_err(fz_log_db(name), &err);
	pthread_mutex_unlock(&l->mu);
	log = ltx_logset_find(l->logs, lineage);
	if (log)
		replica_note_done(log, REPLICA_LEAVING);
	ltx_log_put(log);
}

static void promote(void *arg)
{
	struct cmd_link *l = arg;

	l->on_promote(l);
	pthread_mutex_lock(&l->mu);
	l->handing = false;
	if (!l->turning) /* it came to nothing */
		atomic_store(&l->promoter_idle, true);
	pthread_mutex_unlock(&l->mu);
}

void cmd_link_promote(struct cmd_link *l, bool handing)
{
	struct fz_err err;

	pthread_mutex_lock(&l->mu);
	if (atomic_exchange(&l->promoter_idle, false))
		fz_worker_stop(&l->promoter);
	if (!l->promoter.started && l->on_promote) {
		l->handing = handing;
		if (fz_worker_start(&l->promoter, "promote", promote, l, &err) < 0)
			fz_log_err("taking over", &err);
	}
	pthread_mutex_unlock(&l->mu);
}

static void handoff(struct replica_follow_events *ev)
{
	struct cmd_link *l = of_follow(ev);

	fz_warn("the primary %s hands over to this host", l->role.primary);
	cmd_link_promote(l, true);
}

static void peer(struct replica_follow_events *ev, const struct ltx_wire_hello *h)
{
	struct cmd_link *l = of_follow(ev);

	if (h->role != LTX_WIRE_PRIMARY)
		fz_info("%s is a replica itself: this host follows through it", h->host);
	pthread_mutex_lock(&l->mu);
	if (h->epoch > l->role.epoch && !l->turning) {
		struct fz_err err = {0};

		l->role.epoch = h->epoch;
		if (cmd_role_save(&l->role, l->statefd, &err) < 0)
			fz_log_err("role", &err);
		announce_locked(l);
	}
	pthread_mutex_unlock(&l->mu);
}

/* What the local logs hold may be applied, with or without a primary. */
int cmd_link_post(struct cmd_link *l, struct fz_err *err)
{
	struct ltx_log *log;
	int rc = 0;

	for (size_t i = 0; rc == 0 && (log = ltx_logset_at(l->logs, i)); i++) {
		struct ltx_log_info info;

		ltx_log_info(log, &info);
		if (!info.ended_ms && info.tail_txid) {
			rc = fs_capture_protect(l->capture, info.name, true, err);
			if (rc == 0)
				rc = ltx_log_sync(log, err);
			if (rc == 0)
				rc = replica_applier_post(l->applier, info.name, info.lineage, info.tail_txid, err);
		} else if (info.ended_ms && replica_noted(log, REPLICA_LEAVING)) {
			rc = fs_capture_protect(l->capture, info.name, true, err);
			if (rc == 0)
				rc = replica_applier_remove(l->applier, info.name, info.lineage, err);
		}
		ltx_log_put(log);
	}
	return rc;
}

int cmd_link_apply(struct cmd_link *l, int agent_fd, struct fz_err *err)
{
	int rc;

	l->applier_events =
	        (struct replica_applier_events){.applied = applied, .hello = agent_hello, .removed = removed};
	rc = replica_applier_open(&l->applier, agent_fd, &l->applier_events, err);
	return rc < 0 ? rc : cmd_link_post(l, err);
}

int cmd_link_follow(struct cmd_link *l, struct fz_err *err)
{
	struct replica_follow_conf conf = {
	        .primary = l->role.primary, .logs = l->logs, .applier = l->applier, .events = &l->follow_events};
	struct replica_follow *follow = NULL;
	struct ltx_age_recipient key;
	int rc;

	l->follow_events = (struct replica_follow_events){.database = database, .handoff = handoff, .peer = peer};
	rc = cmd_link_follow_store(l, err);
	if (rc < 0 || !l->role.primary[0])
		return rc;
	conf.store = l->store;
	conf.exclude = (const char *const *)l->conf->exclude.v;
	conf.n_exclude = l->conf->exclude.n;
	cmd_link_hello(l, &conf.hello);
	rc = ltx_age_recipient_parse(&key, l->role.primary_key, err);
	if (rc < 0)
		return fz_err_prefix(err, "primary_key");
	memcpy(conf.primary_key, key.public_key, sizeof(conf.primary_key));
	rc = cmd_link_secret(l->conf, conf.secret, err);
	if (rc == 0)
		rc = replica_follow_start(&follow, &conf, err);
	sodium_memzero(conf.secret, sizeof(conf.secret));
	pthread_mutex_lock(&l->mu);
	l->follow = follow;
	pthread_mutex_unlock(&l->mu);
	return rc;
}

void cmd_link_init(struct cmd_link *l)
{
	pthread_mutex_init(&l->mu, NULL);
}

void cmd_link_unfollow(struct cmd_link *l)
{
	struct replica_follow *follow;

	pthread_mutex_lock(&l->mu);
	follow = l->follow;
	l->follow = NULL;
	pthread_mutex_unlock(&l->mu);
	replica_follow_stop(follow);
	cmd_link_unfollow_store(l);
}

void cmd_link_stop(struct cmd_link *l)
{
	struct primary_server *server;

	fz_worker_stop(&l->demoter);
	fz_worker_stop(&l->promoter);
	cmd_herald_stop(l);
	pthread_mutex_lock(&l->mu);
	server = l->server;
	l->server = NULL;
	pthread_mutex_unlock(&l->mu);
	if (l->ack.acks)
		primary_acks_serve(l->ack.acks, NULL);
	primary_server_stop(server);
	cmd_link_unfollow(l);
	replica_applier_close(l->applier);
	cmd_link_followers_free(l->followers, l->n_followers);
	l->applier = NULL;
	l->followers = NULL;
}

void cmd_link_primary(struct cmd_link *l, char *out, size_t cap)
{
	char host[256] = "";

	pthread_mutex_lock(&l->mu);
	if (l->role.replica)
		snprintf(out, cap, "%s\n",
		         l->role.primary[0] ? l->role.primary
		         : l->store         ? replica_followstore_url(l->store)
		                            : "");
	else if (gethostname(host, sizeof(host) - 1) == 0)
		snprintf(out, cap, "%s\n", host);
	pthread_mutex_unlock(&l->mu);
}

int64_t cmd_link_lag(struct cmd_link *l, const char *name)
{
	cJSON *f = cJSON_CreateObject();
	const cJSON *d;
	int64_t ms = 0;

	(void)cmd_link_following(l, f);
	if (cJSON_IsFalse(cJSON_GetObjectItem(f, "connected"))) /* nothing is known of what happened there since */
		ms = fz_now_ms() - (int64_t)cJSON_GetNumberValue(cJSON_GetObjectItem(f, "since_ms"));
	cJSON_ArrayForEach (d, cJSON_GetObjectItem(f, "databases")) {
		const char *s = cJSON_GetStringValue(cJSON_GetObjectItem(d, "name"));

		if (s && !strcmp(s, name))
			ms = (int64_t)cJSON_GetNumberValue(cJSON_GetObjectItem(d, "lag_ms"));
	}
	cJSON_Delete(f);
	return ms;
}

void cmd_link_positions(struct cmd_link *l, struct cJSON *answer)
{
	cJSON *f = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(answer, "databases"), *o;
	const cJSON *d;
	struct ltx_log_info info;
	bool replica;

	pthread_mutex_lock(&l->mu);
	replica = l->role.replica;
	pthread_mutex_unlock(&l->mu);
	(void)cmd_link_following(l, f);
	cJSON_AddBoolToObject(answer, "connected", !replica || cJSON_IsTrue(cJSON_GetObjectItem(f, "connected")));
	cJSON_ArrayForEach (d, cJSON_GetObjectItem(f, "databases")) {
		const char *name = cJSON_GetStringValue(cJSON_GetObjectItem(d, "name"));

		o = cJSON_CreateObject();
		cJSON_AddStringToObject(o, "name", name ? name : "");
		cJSON_AddNumberToObject(o, "txid", cJSON_GetNumberValue(cJSON_GetObjectItem(d, "applied_txid")));
		cJSON_AddNumberToObject(o, "primary_txid",
		                        cJSON_GetNumberValue(cJSON_GetObjectItem(d, "primary_txid")));
		cJSON_AddBoolToObject(o, "agreed", cJSON_IsTrue(cJSON_GetObjectItem(d, "agreed")));
		cJSON_AddItemToArray(list, o);
	}
	cJSON_Delete(f);
	for (size_t i = 0; !replica && ltx_logset_info(l->logs, i, &info); i++) {
		if (info.ended_ms)
			continue;
		o = cJSON_CreateObject();
		cJSON_AddStringToObject(o, "name", info.name);
		cJSON_AddNumberToObject(o, "txid", (double)info.tail_txid);
		cJSON_AddNumberToObject(o, "primary_txid", (double)info.tail_txid);
		cJSON_AddTrueToObject(o, "agreed");
		cJSON_AddItemToArray(list, o);
	}
}

void cmd_link_status(struct cmd_link *l, struct cJSON *answer)
{
	char where[FZ_NET_ADDR];
	bool follows;
	cJSON *o;

	pthread_mutex_lock(&l->mu);
	cJSON_AddStringToObject(answer, "role", l->role.replica ? "replica" : "primary");
	cJSON_AddNumberToObject(answer, "epoch", l->role.epoch);
	if (l->role.replica)
		cJSON_AddStringToObject(answer, "primary", l->role.primary);
	o = l->role.n_formers ? cJSON_AddArrayToObject(answer, "not_told") : NULL;
	for (size_t i = 0; i < l->role.n_formers; i++)
		cJSON_AddItemToArray(o, cJSON_CreateString(l->role.formers[i].at));
	follows = l->follow || l->store;
	pthread_mutex_unlock(&l->mu);
	if (follows)
		(void)cmd_link_following(l, cJSON_AddObjectToObject(answer, "following"));
	if (l->server && primary_server_address(l->server, where, NULL) == 0)
		cJSON_AddStringToObject(answer, "link_address", where);
	cmd_ack_status(l, answer);
	o = cJSON_AddArrayToObject(answer, "replicas");
	if (l->server)
		(void)primary_server_status(l->server, o);
}
