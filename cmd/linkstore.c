/* linkstore.c - a replica that follows a store: alone, or while its primary cannot be reached. The link always comes first:
 * from the moment it is connected the store's follower touches nothing but what it is asked for (replica/follow.h). */
#include "cmd/link.h"

#include "base/log.h"
#include "cmd/keys.h"
#include "cmd/wire.h"
#include "store/store.h"

#include <cJSON.h>
#include <stdio.h>
#include <string.h>

#define AWAY_MS 5000 /* without the primary, until the store is asked */

/* The store that is followed: with the access of the target of that url, if there is one. */
static int open_store(const struct cmd_conf *c, struct fz_store **out, struct fz_err *err)
{
	struct fz_store_conf conf = {0};

	for (size_t i = 0; i < c->n_targets; i++)
		if (!strcmp(c->targets[i].url, c->follow))
			cmd_target_access(&conf, &c->targets[i]);
	return fz_store_open(out, c->follow, &conf, err);
}

int cmd_link_check_store(const struct cmd_conf *c, struct fz_err *err)
{
	struct ltx_age_identities ids = {0};
	struct fz_store *store = NULL;
	int rc;

	if (!c->follow)
		return 0;
	rc = open_store(c, &store, err);
	fz_store_close(store);
	if (rc < 0) {
		fz_err_prefix(err, "follow");
		return rc == -FZ_EUSAGE ? -FZ_ECONFIG : rc;
	}
	rc = cmd_key_identities(&ids, NULL, c, NULL, err); /* that it can be read, and by nobody else */
	ltx_age_identities_free(&ids);
	return rc;
}

int cmd_link_follow_store(struct cmd_link *l, struct fz_err *err)
{
	struct replica_followstore_conf conf = {.ids = &l->follow_ids,
	                                        .logs = l->logs,
	                                        .applier = l->applier,
	                                        .events = &l->follow_events,
	                                        .exclude = (const char *const *)l->conf->exclude.v,
	                                        .n_exclude = l->conf->exclude.n,
	                                        .interval_ms = l->conf->follow_interval_ms,
	                                        .paused = true};
	struct replica_followstore *store = NULL;
	char state[64];
	int rc;

	if (!l->conf->follow)
		return 0;
	snprintf(state, sizeof(state), "/proc/self/fd/%d", l->statefd);
	rc = cmd_key_identities(&l->follow_ids, NULL, l->conf, state, err);
	if (rc == 0)
		rc = open_store(l->conf, &conf.store, err);
	if (rc == 0)
		rc = replica_followstore_start(&store, &conf, err);
	if (rc < 0)
		return fz_err_prefix(err, "follow");
	if (!l->follow_ids.n)
		fz_info("no identity (-i KEY): only what lies unencrypted in %s can be followed",
		        replica_followstore_url(store));
	pthread_mutex_lock(&l->mu);
	l->store = store;
	pthread_mutex_unlock(&l->mu);
	replica_followstore_resume(store, l->role.primary[0] ? AWAY_MS : 0);
	return 0;
}

void cmd_link_unfollow_store(struct cmd_link *l)
{
	struct replica_followstore *store;

	pthread_mutex_lock(&l->mu);
	store = l->store;
	l->store = NULL;
	pthread_mutex_unlock(&l->mu);
	replica_followstore_stop(store);
	ltx_age_identities_free(&l->follow_ids);
}

bool cmd_link_following(struct cmd_link *l, struct cJSON *o)
{
	bool link = false;

	pthread_mutex_lock(&l->mu);
	if (l->follow) {
		(void)replica_follow_status(l->follow, o);
		link = cJSON_IsTrue(cJSON_GetObjectItem(o, "connected"));
	}
	if (l->store && !link) {
		cJSON_DeleteItemFromObject(o, "connected");
		cJSON_DeleteItemFromObject(o, "since_ms");
		cJSON_DeleteItemFromObject(o, "last_error");
		cJSON_DeleteItemFromObject(o, "bytes_in");
		cJSON_DeleteItemFromObject(o, "databases");
		(void)replica_followstore_status(l->store, o);
	}
	if (l->follow || l->store)
		cJSON_AddStringToObject(o, "source", l->store && !link ? "store" : "link");
	pthread_mutex_unlock(&l->mu);
	return link;
}
