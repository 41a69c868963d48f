#include "cmd/lease.h"

#include "cmd/lease_priv.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "fs/capture.h"
#include "fs/super_client.h"
#include "ltx/log.h"
#include "primary/candidate.h"
#include "replica/held.h"

#include <cJSON.h>
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KNOWN_FILE "lease" /* of the state directory: the url of the witness */

/* ---- what the threads share ---- */

bool cmd_lease_is_replica(struct cmd_lease *l)
{
	bool is;

	pthread_mutex_lock(&l->w->link.mu);
	is = l->w->link.role.replica;
	pthread_mutex_unlock(&l->w->link.mu);
	return is;
}

/* Nor is a lease renewed that another host has the successor of. */
static bool leaves_alone(struct cmd_lease *l)
{
	return cmd_lease_yielded(l) || cmd_link_superseded(&l->w->link);
}

static uint32_t own_epoch(struct cmd_lease *l)
{
	struct ltx_log_info info;
	uint32_t epoch;

	pthread_mutex_lock(&l->w->link.mu);
	epoch = l->w->link.role.epoch;
	pthread_mutex_unlock(&l->w->link.mu);
	for (size_t i = 0; ltx_logset_info(l->w->logs, i, &info); i++)
		if (info.epoch > epoch)
			epoch = info.epoch;
	return epoch;
}

bool cmd_lease_yielded(struct cmd_lease *l)
{
	bool is;

	pthread_mutex_lock(&l->mu);
	is = l->yield > 0;
	pthread_mutex_unlock(&l->mu);
	return is;
}

void cmd_lease_publish(struct cmd_lease *l, int rc, const struct fz_err *err)
{
	static const struct fz_err none;
	bool renewed;

	pthread_mutex_lock(&l->mu);
	renewed = l->until_ns != primary_lease_until(&l->lease);
	l->seen = l->lease;
	l->until_ns = primary_lease_until(&l->lease);
	if (renewed && l->until_ns)
		l->renewed_ms = fz_now_ms();
	if (rc < 0 && rc != l->trouble.code)
		fz_warn("lease: %s", fz_log_why(err));
	else if (rc == 0 && l->trouble.code)
		fz_info("lease: the store %s answers again", l->url);
	l->trouble = rc < 0 ? *err : none;
	pthread_mutex_unlock(&l->mu);
	if (renewed)
		fz_worker_kick(&l->warden);
}

void cmd_lease_yield(struct cmd_lease *l, bool on)
{
	if (!l->on)
		return;
	pthread_mutex_lock(&l->mu);
	l->yield += on ? 1 : -1u;
	pthread_mutex_unlock(&l->mu);
}

/* That this store had a lease once is remembered beside the role: an empty directory where a shared disk was mounted is no witness. */
static int read_known(struct cmd_lease *l, struct fz_err *err)
{
	struct fz_buf text = {0};
	int rc = fz_read_file(l->w->statefd, KNOWN_FILE, 65536, &text, NULL);

	l->lease.known = rc == 0 && !l->w->conf.take_over && !strcmp(fz_buf_str(&text), l->url);
	fz_buf_fini(&text);
	return rc == -ENOENT || rc == 0 ? 0 : fz_fail_errno(err, -rc, "reading " KNOWN_FILE);
}

static void remember(struct cmd_lease *l)
{
	struct fz_err err;

	if (l->lease.known || !*l->lease.tag)
		return;
	if (fz_write_file(l->w->statefd, KNOWN_FILE, l->url, strlen(l->url), 0600, &err) < 0)
		fz_log_err("lease", &err);
	else
		l->lease.known = true;
}

/* ---- another host's lease ---- */

/* Whoever can write to the store could name anybody: only hosts that the configuration knows are followed. */
static bool trusted(const struct cmd_conf *c, const char *key)
{
	size_t n = strlen(key);

	if (!n)
		return false;
	for (size_t i = 0; i < c->followers.n; i++)
		if (!strncmp(c->followers.v[i], key, n) && strchr(" \t", c->followers.v[i][n]))
			return true;
	return c->primary_key && !strcmp(c->primary_key, key);
}

static bool is_connected(struct cmd_link *link)
{
	cJSON *f = cJSON_CreateObject();
	bool is = cmd_link_following(link, f);

	cJSON_Delete(f);
	return is;
}

/* The lease is another's. A primary becomes its replica; a replica follows it instead of whom it followed. */
static void follow_holder(struct cmd_lease *l)
{
	struct cmd_link *link = &l->w->link;
	const struct primary_lease_body *b = &l->lease.body;
	struct ltx_wire_hello h = {.role = LTX_WIRE_PRIMARY, .epoch = b->epoch};
	struct ltx_age_recipient r;
	struct cmd_role next;
	struct fz_err err = {0};
	int rc;

	if (!trusted(l->w->link.conf, b->who.key) || !*b->who.address ||
	    ltx_age_recipient_parse(&r, b->who.key, NULL) < 0)
		return;
	pthread_mutex_lock(&link->mu);
	next = link->role;
	pthread_mutex_unlock(&link->mu);
	if (b->epoch > next.epoch) {
		snprintf(h.host, sizeof(h.host), "%s", b->who.host);
		snprintf(h.advertise, sizeof(h.advertise), "%s", b->who.address);
		cmd_link_supersede(link, r.public_key, &h);
		return;
	}
	/* It has heard of the epoch, but from whom it follows, and who may be gone. */
	if (!next.replica || b->epoch < next.epoch || !next.primary[0] || !strcmp(next.primary_key, b->who.key) ||
	    is_connected(link) || !cmd_link_turn(link))
		return;
	fz_warn("%s is the primary of epoch %u: this host follows it from now on", b->who.host, b->epoch);
	snprintf(next.primary, sizeof(next.primary), "%s", b->who.address);
	snprintf(next.primary_key, sizeof(next.primary_key), "%s", b->who.key);
	rc = cmd_role_save(&next, link->statefd, &err);
	if (rc == 0)
		rc = fs_super_restart(true, &err);
	if (rc < 0) {
		fz_log_err("following another primary", &err);
		cmd_link_turn_not(link);
	} else {
		cmd_lease_yield(l, true); /* this worker ends */
	}
}

/* ---- the thread that talks to the store ---- */

/* A primary. Its own lease of before a reboot, or of a copy of this host, must run out first. */
static int keep(struct cmd_lease *l, struct fz_err *err)
{
	int rc = primary_lease_renew(&l->lease, own_epoch(l), err);
	const struct primary_lease_body *b = &l->lease.body;

	if (rc != -FZ_EFENCED)
		return rc;
	if (l->lease.state == PRIMARY_LEASE_OTHERS || l->lease.state == PRIMARY_LEASE_UNKNOWN) {
		if (primary_lease_look(&l->lease, err) < 0)
			return err->code;
	}
	if ((l->lease.state == PRIMARY_LEASE_EXPIRED || l->lease.state == PRIMARY_LEASE_RELEASED) &&
	    (!strcmp(b->who.node, l->lease.self.node) || l->w->conf.take_over || b->epoch <= own_epoch(l)))
		return primary_lease_take(&l->lease, own_epoch(l), false, "", err);
	if (l->lease.state == PRIMARY_LEASE_MINE)
		return 0;
	fz_fail(err, FZ_EFENCED,
	        "%s has the lease (epoch %u), so this host accepts no commits; it becomes a replica of it when that "
	        "host "
	        "is one of its followers and says where it can be reached",
	        b->who.host, b->epoch);
	if (l->lease.state == PRIMARY_LEASE_OTHERS)
		follow_holder(l);
	return -FZ_EFENCED;
}

/* What the primary is known to have had beyond this host. */
static void say_lost(struct cmd_lease *l, char out[static 200])
{
	cJSON *f = cJSON_CreateObject();
	const cJSON *d;
	size_t at = 0;

	out[0] = 0;
	(void)cmd_link_following(&l->w->link, f);
	cJSON_ArrayForEach (d, cJSON_GetObjectItem(f, "databases")) {
		double n = cJSON_GetNumberValue(cJSON_GetObjectItem(d, "primary_txid")) -
		           cJSON_GetNumberValue(cJSON_GetObjectItem(d, "durable_txid"));
		const char *name = cJSON_GetStringValue(cJSON_GetObjectItem(d, "name"));

		if (n > 0 && name && at < 200)
			at += (size_t)snprintf(out + at, 200 - at, "%s%s: %.0f transactions", at ? ", " : "", name, n);
	}
	cJSON_Delete(f);
}

static struct primary_candidate how_far(struct cmd_lease *l)
{
	struct primary_candidate me = {.epoch = own_epoch(l)};
	struct ltx_log_info info;
	struct ltx_log *log;

	snprintf(me.node, sizeof(me.node), "%s", l->lease.self.node);
	for (size_t i = 0; (log = ltx_logset_at(l->w->logs, i)); i++) {
		ltx_log_info(log, &info);
		if (!info.ended_ms) /* and what it holds in doubt, which an application may have been told of (ack = replica) */
			me.txids += info.tail_txid + replica_held_count(log);
		ltx_log_put(log);
	}
	return me;
}

/* The lease can be had: is it for this host to take it? 1 = yes, now. A replica that has nothing, or nothing of the epoch that the lease is
 * of, would take over with an older state. Where there may be others they have half a duration to say how far they are; then the best of
 * them goes, and each other one half a duration after the one before it. */
static int is_ours(struct cmd_lease *l, struct fz_err *err)
{
	struct primary_candidate me = how_far(l);
	const struct primary_lease_body *b = &l->lease.body;
	uint64_t half = (uint64_t)l->lease.duration_ms * MS_NS / 2, now = fz_boot_ns();
	unsigned ahead;
	int rc;

	if (!me.txids || me.epoch < b->epoch)
		return 0;
	if (b->who.followers <= 1 && l->lease.self.followers <= 1)
		return 1;
	if (b->released && *b->to)
		return 1;
	if (strcmp(l->stood_for, b->nonce) != 0) {
		rc = primary_candidate_stand(l->lease.store, b->nonce, &me, err);
		if (rc < 0)
			return rc;
		snprintf(l->stood_for, sizeof(l->stood_for), "%s", b->nonce);
		l->stood_ns = now;
		return 0;
	}
	if (now < l->stood_ns + half)
		return 0;
	rc = primary_candidate_rank(l->lease.store, b->nonce, &me, &ahead, err);
	return rc < 0 ? rc : fz_boot_ns() >= l->stood_ns + half * (1 + ahead);
}

static int watch(struct cmd_lease *l, struct fz_err *err)
{
	char lost[200];
	int rc = primary_lease_look(&l->lease, err);

	if (rc < 0)
		return rc;
	if (l->lease.state == PRIMARY_LEASE_OTHERS)
		follow_holder(l);
	if (l->lease.state == PRIMARY_LEASE_EXPIRED || l->lease.state == PRIMARY_LEASE_RELEASED) {
		char from[256];

		rc = is_ours(l, err);
		if (rc <= 0)
			return rc;

		snprintf(from, sizeof(from), "%s", l->lease.body.who.host);
		say_lost(l, lost);
		rc = primary_lease_take(&l->lease, own_epoch(l) + 1, false, lost, err);
		if (rc == -FZ_ECONFLICT)
			return 0; /* another one was faster, or the primary is back: the next look tells */
		if (rc < 0)
			return rc;
		fz_warn("the lease of %s has run out: this host takes over%s%s", from,
		        *lost ? "; what the primary had and this host never got: " : "", lost);
	}
	if (l->lease.state == PRIMARY_LEASE_MINE) { /* by now, or before this process was started */
		rc = primary_lease_renew(&l->lease, own_epoch(l), err);
		if (rc == 0 && primary_lease_until(&l->lease)) {
			uint64_t now = fz_boot_ns();

			cmd_link_promote(&l->w->link, false);
			l->mine_ns = l->mine_ns ? l->mine_ns : now;
			if (now - l->mine_ns > (uint64_t)l->lease.duration_ms * MS_NS * 2)
				return fz_fail(err, FZ_ETIMEOUT,
				               "it has the lease, and has not become the primary since %llu s: its log "
				               "says why",
				               (unsigned long long)((now - l->mine_ns) / (1000 * MS_NS)));
		}
	}
	return rc;
}

/* Whether the lease may be renewed: whoever cannot be fenced must not hold it. */
static bool agent_is_well(struct cmd_lease *l)
{
	bool well;

	pthread_mutex_lock(&l->mu);
	well = l->agent_ns && fz_boot_ns() - l->agent_ns < (uint64_t)l->lease.duration_ms * MS_NS / 4;
	pthread_mutex_unlock(&l->mu);
	return well;
}

static void run(void *arg)
{
	struct cmd_lease *l = arg;
	int64_t d = l->lease.duration_ms, wait = 0;

	while (fz_worker_wait(&l->thread, wait)) {
		struct fz_err err = {0};
		bool replica = cmd_lease_is_replica(l);
		uint64_t began = fz_boot_ns();
		int64_t took;
		int rc;

		wait = 50;
		if (leaves_alone(l) || (!replica && !agent_is_well(l)))
			continue;
		pthread_mutex_lock(&l->io);
		if (leaves_alone(l)) {
			pthread_mutex_unlock(&l->io);
			continue;
		}
		rc = replica ? watch(l, &err) : keep(l, &err);
		remember(l);
		cmd_lease_publish(l, rc, &err);
		pthread_mutex_unlock(&l->io);
		took = (int64_t)((fz_boot_ns() - began) / MS_NS);
		wait = rc == 0 && !replica ? d / 3 : d / 5;
		wait = wait > took + 20 ? wait - took : 20;
		if (rc == -ECANCELED)
			return;
	}
}

/* ---- start and stop ---- */

void cmd_lease_init(struct cmd_lease *l, struct cmd_serving *w)
{
	l->w = w;
	l->agent_fd = -1;
	pthread_mutex_init(&l->io, NULL);
	pthread_mutex_init(&l->mu, NULL);
}

static int describe_self(struct cmd_lease *l, struct fz_err *err)
{
	const struct cmd_conf *c = &l->w->conf;
	const char *where = c->advertise ? c->advertise : c->listen;
	struct primary_lease_host *self = &l->lease.self;
	struct ltx_age_identity id;
	struct ltx_age_recipient r;
	int rc = cmd_link_secret(c, id.secret, err);

	if (rc < 0)
		return rc;
	ltx_age_identity_recipient(&id, &r);
	sodium_memzero(&id, sizeof(id));
	ltx_age_recipient_format(self->key, &r);
	gethostname(self->host, sizeof(self->host) - 1);
	snprintf(self->address, sizeof(self->address), "%s", where ? where : "");
	self->followers = (unsigned)c->followers.n;
	return primary_lease_init(&l->lease, l->w->link.role.node, err);
}

int cmd_lease_open(struct cmd_lease *l, struct fz_err *err)
{
	int rc;

	if (!cmd_conf_failover(&l->w->conf))
		return 0;
	l->lease.duration_ms = cmd_lease_duration_ms(&l->w->conf);
	l->lease.now_ns = fz_boot_ns;
	rc = cmd_lease_witness(&l->w->conf, &l->lease.store, err);
	if (rc == 0)
		rc = describe_self(l, err);
	if (rc < 0)
		return fz_err_prefix(err, "failover");
	l->url = strdup(fz_store_url(l->lease.store));
	if (!l->url)
		return fz_fail_errno(err, ENOMEM, "failover");
	rc = read_known(l, err);
	if (rc < 0)
		return rc;
	l->on = true;
	if (l->w->link.role.replica)
		return 0;
	if (!l->w->agent)
		return fz_fail(err, FZ_ECONFIG,
		               "failover = auto needs the agent, which ends commits when the lease does");
	fs_super_keep_agent(true); /* what it holds must not depend on this process */
	fs_capture_lapse(l->w->capture, 1, 1);
	return 0;
}

int cmd_lease_start(struct cmd_lease *l, struct fz_err *err)
{
	int rc = 0;

	if (!l->on)
		return 0;
	if (!l->w->link.role.replica)
		rc = fz_worker_start(&l->warden, "warden", cmd_lease_warden, l, err);
	if (rc == 0)
		rc = fz_worker_start(&l->thread, "lease", run, l, err);
	return rc;
}

void cmd_lease_stop(struct cmd_lease *l)
{
	if (!l->on)
		return;
	fz_store_cancel(l->lease.store);
	fz_worker_stop(&l->thread);
	fz_worker_stop(&l->warden);
}

void cmd_lease_fini(struct cmd_lease *l)
{
	fz_store_close(l->lease.store);
	l->lease.store = NULL;
	l->on = false;
	fz_close(&l->agent_fd);
	free(l->url);
	l->url = NULL;
	pthread_mutex_destroy(&l->io);
	pthread_mutex_destroy(&l->mu);
}
