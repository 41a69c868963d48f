/* lease_command.c - what the commands ask of the lease: promote, handoff, status. */
#include "cmd/lease_priv.h"
#include "cmd/problems.h"

#include "base/clock.h"
#include "base/log.h"

#include <cJSON.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#define TRIES 5

int cmd_lease_acquire(struct cmd_lease *l, bool force, uint32_t *epoch, struct fz_err *err)
{
	uint64_t free_ns = 0, now;
	int rc;

	if (!l->on)
		return 0;
	pthread_mutex_lock(&l->io);
	rc = primary_lease_look(&l->lease, err);
	if (rc == 0 && l->lease.state == PRIMARY_LEASE_MINE) {
		rc = primary_lease_renew(&l->lease, *epoch, err);
	} else if (rc == 0) {
		rc = -FZ_ECONFLICT;
		for (int i = 0; rc == -FZ_ECONFLICT && i < TRIES; i++) { /* beside a holder that goes on renewing */
			rc = primary_lease_look(&l->lease, err);
			if (rc == 0)
				rc = primary_lease_take(&l->lease, *epoch, force, "", err);
		}
	}
	if (rc == 0 && l->lease.body.epoch > *epoch)
		*epoch = l->lease.body.epoch;
	if (rc == 0)
		free_ns = l->lease.free_ns;
	cmd_lease_publish(l, rc, err);
	pthread_mutex_unlock(&l->io);
	if (rc < 0)
		return fz_err_prefix(err, "the lease in %s", l->url);
	now = fz_boot_ns();
	if (free_ns > now)
		fz_warn("the lease was taken by force: the former primary's may be in force for %llu ms more",
		        (unsigned long long)((free_ns - now) / MS_NS));
	for (; rc == 0 && fz_boot_ns() < free_ns; (void)!poll(NULL, 0, 20))
		if (l->w->control && cmd_control_stopping(l->w->control))
			rc = fz_fail(err, ECANCELED, "the worker is stopping");
	return rc;
}

/* The key of a follower that is named as `fazt handoff` names it. */
static void key_of(struct cmd_lease *l, const char *follower, char out[static LTX_AGE_RECIPIENT_SIZE])
{
	static const char *const names[] = {"key", "name", "host"};
	cJSON *list = cJSON_CreateArray();
	const cJSON *o;

	out[0] = 0;
	(void)primary_server_status(l->w->link.server, list);
	cJSON_ArrayForEach (o, list) {
		const char *key = cJSON_GetStringValue(cJSON_GetObjectItem(o, "key"));

		for (size_t i = 0; key && i < 3; i++) {
			const char *v = cJSON_GetStringValue(cJSON_GetObjectItem(o, names[i]));

			if (v && !strcmp(v, follower))
				snprintf(out, LTX_AGE_RECIPIENT_SIZE, "%s", key);
		}
	}
	cJSON_Delete(list);
}

int cmd_lease_release(struct cmd_lease *l, const char *follower, struct fz_err *err)
{
	char to[LTX_AGE_RECIPIENT_SIZE];
	int rc;

	if (!l->on)
		return 0;
	key_of(l, follower, to);
	pthread_mutex_lock(&l->io);
	rc = primary_lease_release(&l->lease, to, err);
	cmd_lease_publish(l, rc, err);
	pthread_mutex_unlock(&l->io);
	return rc < 0 ? fz_err_prefix(err, "giving up the lease") : 0;
}

/* ---- status ---- */

void cmd_lease_status(struct cmd_lease *l, struct cJSON *answer)
{
	static const char *const states[] = {
	        [PRIMARY_LEASE_UNKNOWN] = "unknown",   [PRIMARY_LEASE_NONE] = "none",
	        [PRIMARY_LEASE_MINE] = "mine",         [PRIMARY_LEASE_OTHERS] = "others",
	        [PRIMARY_LEASE_RELEASED] = "released", [PRIMARY_LEASE_EXPIRED] = "expired"};
	struct fz_err trouble, agent;
	struct primary_lease seen;
	uint64_t until, now;
	int64_t left, renewed;
	bool replica;
	cJSON *o;

	if (!l->on)
		return;
	replica = cmd_lease_is_replica(l);
	pthread_mutex_lock(&l->mu);
	seen = l->seen;
	until = l->until_ns;
	renewed = l->renewed_ms;
	trouble = l->trouble;
	agent = l->agent_trouble;
	pthread_mutex_unlock(&l->mu);
	now = fz_boot_ns();
	left = until > now ? (int64_t)((until - now) / MS_NS) : 0;
	o = cJSON_AddObjectToObject(answer, "lease");
	cJSON_AddStringToObject(o, "witness", l->url);
	cJSON_AddStringToObject(o, "state", states[seen.state]);
	cJSON_AddBoolToObject(o, "held", left > 0);
	cJSON_AddStringToObject(o, "holder", seen.body.who.host);
	cJSON_AddStringToObject(o, "holder_key", seen.body.who.key);
	cJSON_AddStringToObject(o, "address", seen.body.who.address);
	cJSON_AddNumberToObject(o, "epoch", seen.body.epoch);
	cJSON_AddNumberToObject(o, "term", (double)seen.body.term);
	cJSON_AddNumberToObject(o, "duration_ms", (double)l->lease.duration_ms);
	cJSON_AddNumberToObject(o, "remaining_ms",
	                        (double)(left         ? left
	                                 : seen.store ? primary_lease_left_ms(&seen)
	                                              : 0));
	cJSON_AddNumberToObject(o, "renewed_ms_ago", renewed ? (double)(fz_now_ms() - renewed) : -1);
	cJSON_AddStringToObject(o, "lost", seen.body.lost);
	cJSON_AddStringToObject(o, "last_error", trouble.code ? trouble.text : agent.code ? agent.text : "");
	if (!replica && !left)
		cmd_problem(answer, "lease", l->url, "without a lease this host accepts no commits: %s",
		            trouble.code ? trouble.text
		            : agent.code ? agent.text
		                         : "it has not been asked for yet");
	else if (!replica && left < l->lease.duration_ms / 2)
		cmd_problem(answer, "lease", l->url, "the lease could not be renewed, it ends in %lld ms: %s",
		            (long long)left,
		            trouble.code ? trouble.text
		            : agent.code ? agent.text
		                         : "the store does not answer");
	if (replica && trouble.code)
		cmd_problem(answer, "lease", l->url, "the lease's store %s: this host cannot take over: %s", l->url,
		            trouble.text);
}
