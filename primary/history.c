/* history.c - what each target can bring back of a database, as JSON: from its last listing and what was shipped since. */
#include "primary/target.h"

#include "base/clock.h"

#include <cjson/cJSON.h>
#include <string.h>

/* Not listed since this process began: it is due at once, where the database can be judged at all. */
static bool want_listing_locked(struct primary_db *db)
{
	int64_t now = fz_now_ms();

	if (db->tiers.at_ms || db->fenced || db->cur.claim == 0)
		return false;
	if (!db->judge_at_ms || db->judge_at_ms > now)
		db->judge_at_ms = now;
	return true;
}

/* What was shipped after the listing follows the commits that it showed, or are the first ones. */
static void add_shipped(struct primary_tiers *s, struct ltx_log *log, uint64_t held_txid)
{
	struct primary_tier_span *c = &s->v[PRIMARY_TIER_COMMITS];
	int64_t last_ms, first_ms;

	if (!s->at_ms || s->partial || held_txid <= s->last_txid)
		return;
	last_ms = primary_db_time(log, held_txid);
	first_ms = c->count ? c->from_ms : primary_db_time(log, s->last_txid + 1);
	if (last_ms < 0 || first_ms < 0)
		return;
	*c = (struct primary_tier_span){first_ms, last_ms, c->count + held_txid - s->last_txid};
}

static cJSON *show(const struct primary_target *t, const struct primary_tiers *s)
{
	cJSON *o = cJSON_CreateObject(), *list;

	cJSON_AddStringToObject(o, "name", t->conf.name ? t->conf.name : fz_store_url(t->store));
	cJSON_AddBoolToObject(o, "complete", s->at_ms && !s->holes && !s->partial);
	list = cJSON_AddArrayToObject(o, "tiers");
	for (enum primary_tier i = 0; i < PRIMARY_TIERS; i++) {
		cJSON *tier;

		if (!s->v[i].count)
			continue;
		tier = cJSON_CreateObject();
		cJSON_AddStringToObject(tier, "kind", primary_tier_name(i));
		cJSON_AddNumberToObject(tier, "from_ms", (double)s->v[i].from_ms);
		cJSON_AddNumberToObject(tier, "to_ms", (double)s->v[i].to_ms);
		cJSON_AddNumberToObject(tier, "count", (double)s->v[i].count);
		cJSON_AddItemToArray(list, tier);
	}
	return o;
}

int primary_ship_history(struct primary_ship *s, struct ltx_log *log, struct cJSON *array)
{
	struct ltx_log_info info;
	cJSON *o;

	ltx_log_info(log, &info);
	for (size_t i = 0; i < s->n; i++) {
		struct primary_target *t = s->targets[i];
		struct primary_tiers tiers = {.at_ms = 0};
		struct primary_db *db;
		uint64_t held = 0;
		bool want = false;

		pthread_mutex_lock(&t->mu);
		db = primary_target_db_locked(t, info.lineage, 0);
		if (db) {
			tiers = db->tiers;
			held = db->cur.held_txid;
			want = want_listing_locked(db);
		}
		pthread_mutex_unlock(&t->mu);
		if (want)
			fz_worker_kick(&t->slow);
		add_shipped(&tiers, log, held);
		o = show(t, &tiers);
		if (!cJSON_AddItemToArray(array, o))
			return -1;
	}
	return 0;
}
