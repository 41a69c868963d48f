#include "replica/catalog.h"

#include "base/array.h"
#include "base/buf.h"
#include "store/store.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CLAIM_MAX_BYTES 65536

int replica_catalog_add(struct replica_catalog *c, const char *key, uint64_t size_bytes, struct fz_err *err)
{
	struct ltx_name name;

	if (ltx_name_get(&name, key) < 0) {
		c->ignored++;
		return 0;
	}
	if (!fz_array_room(c->objects, c->n_objects, c->cap_objects))
		return fz_fail_errno(err, ENOMEM, "reading the listing of a store");
	c->objects[c->n_objects++] = (struct replica_object){.name = name, .size_bytes = size_bytes};
	return 0;
}

/* TXIDs and checksums are numbers or, since JSON's numbers end at 2^53, strings: 16 hex digits, otherwise decimal. */
static bool get_u64(const cJSON *o, const char *key, uint64_t *out)
{
	const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, key);
	char *end;

	if (cJSON_IsNumber(v) && v->valuedouble >= 0 && v->valuedouble <= 9007199254740992.0) {
		*out = (uint64_t)v->valuedouble;
		return true;
	}
	if (!cJSON_IsString(v) || !v->valuestring[0])
		return false;
	errno = 0;
	*out = strtoull(v->valuestring, &end, strlen(v->valuestring) == 16 ? 16 : 10);
	return errno == 0 && *end == 0;
}

int replica_catalog_add_claim(struct replica_catalog *c, const char *key, const char *json, struct fz_err *err)
{
	struct replica_claim claim = {0};
	uint64_t epoch = 0, ms = 0;
	const cJSON *lineage;
	char *end;
	cJSON *o;
	int rc = 0;

	claim.n = (uint32_t)strtoul(key + strlen("claim/"), &end, 16);
	o = cJSON_Parse(json);
	lineage = cJSON_GetObjectItemCaseSensitive(o, "lineage");
	if (*end || !cJSON_IsString(lineage) || strlen(lineage->valuestring) != 16 || !get_u64(o, "epoch", &epoch) ||
	    epoch > UINT32_MAX || !get_u64(o, "base_txid", &claim.base_txid)) {
		rc = fz_fail(err, FZ_ECORRUPT, "%s is not a claim that this version understands", key);
		goto out;
	}
	memcpy(claim.lineage, lineage->valuestring, 17);
	claim.epoch = (uint32_t)epoch;
	(void)get_u64(o, "base_checksum", &claim.base_checksum);
	if (get_u64(o, "time_ms", &ms))
		claim.time_ms = (int64_t)ms;
	if (fz_array_room(c->claims, c->n_claims, c->cap_claims))
		c->claims[c->n_claims++] = claim;
	else
		rc = fz_fail_errno(err, ENOMEM, "reading the listing of a store");
out:
	cJSON_Delete(o);
	return rc;
}

void replica_catalog_add_end(struct replica_catalog *c, const char *key, const char *json)
{
	uint32_t n = (uint32_t)strtoul(key + strlen("claim/"), NULL, 16);
	cJSON *o = cJSON_Parse(json);
	bool known = false;
	uint64_t ms;

	for (size_t i = 0; get_u64(o, "time_ms", &ms) && i < c->n_claims; i++)
		if (c->claims[i].n == n && ms && ms <= INT64_MAX) {
			c->claims[i].ended_ms = (int64_t)ms;
			known = true;
		}
	c->ignored += !known;
	cJSON_Delete(o);
}

#define CMP(a, b) (((a) > (b)) - ((a) < (b)))

static int by_lineage(const void *x, const void *y)
{
	const struct replica_object *a = x, *b = y;
	int d = strcmp(a->name.lineage, b->name.lineage);

	if (!d)
		d = CMP(a->name.max_txid, b->name.max_txid);
	if (!d)
		d = CMP(a->name.min_txid, b->name.min_txid);
	if (!d)
		d = CMP(a->name.epoch, b->name.epoch);
	return d ? d : CMP(a->name.level, b->name.level);
}

/* Claims order the lives of a database; without claims (copied by hand) the newest commit does. */
static int by_age(const void *x, const void *y)
{
	const struct replica_lineage *a = x, *b = y;
	int d = a->claim_n && b->claim_n ? CMP(a->claim_n, b->claim_n) : 0;

	if (!d)
		d = CMP(a->last_ms, b->last_ms);
	return d ? d : strcmp(a->id, b->id);
}

static uint64_t epoch_limit(const struct replica_catalog *c, const char *lineage, uint32_t epoch)
{
	uint64_t limit = UINT64_MAX;

	for (size_t i = 0; i < c->n_claims; i++)
		if (c->claims[i].epoch > epoch && !strcmp(c->claims[i].lineage, lineage) &&
		    c->claims[i].base_txid < limit)
			limit = c->claims[i].base_txid;
	return limit;
}

int replica_catalog_finish(struct replica_catalog *c, struct fz_err *err)
{
	free(c->lineages);
	c->lineages = NULL;
	c->n_lineages = 0;
	if (!c->n_objects)
		return 0;
	qsort(c->objects, c->n_objects, sizeof(*c->objects), by_lineage);
	c->lineages = calloc(c->n_objects, sizeof(*c->lineages));
	if (!c->lineages)
		return fz_fail_errno(err, ENOMEM, "reading the listing of a store");
	for (size_t i = 0; i < c->n_objects; i++) {
		struct replica_object *o = &c->objects[i];
		struct replica_lineage *l = c->n_lineages ? &c->lineages[c->n_lineages - 1] : NULL;
		uint64_t limit;

		if (!l || strcmp(l->id, o->name.lineage)) {
			l = &c->lineages[c->n_lineages++];
			memcpy(l->id, o->name.lineage, sizeof(l->id));
			l->first = i;
		}
		l->n++;
		if (o->name.last_ms > l->last_ms)
			l->last_ms = o->name.last_ms;
		limit = epoch_limit(c, o->name.lineage, o->name.epoch);
		if (o->name.max_txid <= limit)
			o->usable_max = o->name.max_txid;
		else if (ltx_level_is_pack(o->name.level) && o->name.min_txid <= limit)
			o->usable_max = limit;
		else
			o->usable_max = 0;
	}
	for (size_t i = 0; i < c->n_claims; i++)
		for (size_t k = 0; k < c->n_lineages; k++)
			if (!strcmp(c->lineages[k].id, c->claims[i].lineage) &&
			    c->claims[i].n > c->lineages[k].claim_n) {
				c->lineages[k].claim_n = c->claims[i].n;
				c->lineages[k].ended_ms = c->claims[i].ended_ms;
			}
	qsort(c->lineages, c->n_lineages, sizeof(*c->lineages), by_age);
	return 0;
}

int replica_catalog_load_at(struct replica_catalog *c, struct fz_store *store, const char *below, struct fz_err *err)
{
	struct fz_store_list list = {0};
	size_t skip = strlen(below);
	struct fz_buf text = {0};
	int rc;

	rc = fz_store_list(store, below, NULL, false, &list, err);
	if (rc < 0)
		goto out;
	for (size_t i = 0; rc == 0 && i < list.n; i++) {
		const char *key = list.v[i].key + skip;

		if (strncmp(key, "claim/", 6)) {
			rc = replica_catalog_add(c, key, list.v[i].size_bytes, err);
			continue;
		}
		if (strspn(key + 6, "0123456789abcdef") != 8 || (key[14] && strcmp(key + 14, "-ended") != 0)) {
			c->ignored++; /* a token of a store without conditional PUT, say */
			continue;
		}
		fz_buf_reset(&text);
		rc = fz_store_get(store, list.v[i].key, CLAIM_MAX_BYTES, &text, err);
		if (rc == 0 && key[14]) /* listed right behind its claim */
			replica_catalog_add_end(c, key, fz_buf_str(&text));
		else if (rc == 0)
			rc = replica_catalog_add_claim(c, key, fz_buf_str(&text), err);
	}
	if (rc < 0)
		goto out;
	if (!c->n_objects && !c->n_claims) {
		rc = fz_fail(err, FZ_ENOTFOUND, "no database lies at %s%s%s", fz_store_url(store), skip ? "/" : "",
		             below);
		goto out;
	}
	rc = replica_catalog_finish(c, err);
out:
	fz_store_list_fini(&list);
	fz_buf_fini(&text);
	return rc;
}

int replica_catalog_load(struct replica_catalog *c, struct fz_store *store, struct fz_err *err)
{
	return replica_catalog_load_at(c, store, "", err);
}

void replica_catalog_fini(struct replica_catalog *c)
{
	free(c->objects);
	free(c->claims);
	free(c->lineages);
	memset(c, 0, sizeof(*c));
}
