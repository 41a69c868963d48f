#include "primary/candidate.h"

#include "store/store.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIST_MAX 65536
#define TRIES    5

/* The list for that version, an empty one when there is none; never NULL but for -ENOMEM. */
static int read_list(struct fz_store *store, const char *nonce, cJSON **out, char tag[static FZ_STORE_TAG],
                     struct fz_err *err)
{
	struct fz_buf text = {0};
	cJSON *o = NULL, *list = NULL;
	const char *there;
	int rc = fz_store_get_tag(store, PRIMARY_CANDIDATE_KEY, LIST_MAX, &text, tag, err);

	if (rc == -FZ_ENOTFOUND)
		rc = 0;
	else if (rc == 0)
		o = cJSON_Parse(fz_buf_str(&text));
	there = cJSON_GetStringValue(cJSON_GetObjectItem(o, "nonce"));
	if (there && !strcmp(there, nonce))
		list = cJSON_DetachItemFromObject(o, "candidates");
	if (rc == 0 && !cJSON_IsArray(list)) {
		cJSON_Delete(list);
		list = cJSON_CreateArray();
		if (!list)
			rc = fz_fail_errno(err, ENOMEM, "reading the candidates");
	}
	cJSON_Delete(o);
	fz_buf_fini(&text);
	*out = list;
	return rc;
}

static bool parse(struct primary_candidate *c, const cJSON *o)
{
	const char *node = cJSON_GetStringValue(cJSON_GetObjectItem(o, "node"));
	const char *txids = cJSON_GetStringValue(cJSON_GetObjectItem(o, "txids"));
	double epoch = cJSON_GetNumberValue(cJSON_GetObjectItem(o, "epoch"));

	if (!node || strlen(node) >= sizeof(c->node) || !txids || !(epoch >= 0 && epoch <= UINT32_MAX))
		return false;
	snprintf(c->node, sizeof(c->node), "%s", node);
	c->epoch = (uint32_t)epoch;
	c->txids = strtoull(txids, NULL, 10);
	return true;
}

static bool is_better(const struct primary_candidate *a, const struct primary_candidate *b)
{
	if (a->epoch != b->epoch)
		return a->epoch > b->epoch;
	return a->txids != b->txids ? a->txids > b->txids : strcmp(a->node, b->node) < 0;
}

/* Takes the list. */
static int put_list(struct fz_store *store, const char *nonce, cJSON *list, char tag[static FZ_STORE_TAG],
                    struct fz_err *err)
{
	cJSON *o = cJSON_CreateObject();
	char *text;
	int rc;

	cJSON_AddStringToObject(o, "nonce", nonce);
	cJSON_AddItemToObject(o, "candidates", list);
	text = cJSON_PrintUnformatted(o);
	rc = text ? fz_store_put_if(store, PRIMARY_CANDIDATE_KEY, text, strlen(text), tag, err)
	          : fz_fail_errno(err, ENOMEM, "writing the candidates");
	cJSON_free(text);
	cJSON_Delete(o);
	return rc;
}

int primary_candidate_stand(struct fz_store *store, const char *nonce, const struct primary_candidate *me,
                            struct fz_err *err)
{
	int rc = -FZ_ECONFLICT;

	for (int i = 0; rc == -FZ_ECONFLICT && i < TRIES; i++) {
		char tag[FZ_STORE_TAG] = "", txids[24];
		struct primary_candidate c;
		cJSON *list = NULL, *o;

		rc = read_list(store, nonce, &list, tag, err);
		if (rc < 0) {
			cJSON_Delete(list);
			break;
		}
		for (int k = cJSON_GetArraySize(list) - 1; k >= 0; k--)
			if (!parse(&c, cJSON_GetArrayItem(list, k)) || !strcmp(c.node, me->node))
				cJSON_DeleteItemFromArray(list, k);
		snprintf(txids, sizeof(txids), "%" PRIu64, me->txids);
		o = cJSON_CreateObject();
		cJSON_AddStringToObject(o, "node", me->node);
		cJSON_AddNumberToObject(o, "epoch", me->epoch);
		cJSON_AddStringToObject(o, "txids", txids);
		cJSON_AddItemToArray(list, o);
		rc = put_list(store, nonce, list, tag, err);
	}
	return rc;
}

int primary_candidate_rank(struct fz_store *store, const char *nonce, const struct primary_candidate *me,
                           unsigned *ahead, struct fz_err *err)
{
	char tag[FZ_STORE_TAG];
	cJSON *list = NULL, *o;
	int rc = read_list(store, nonce, &list, tag, err);

	*ahead = 0;
	cJSON_ArrayForEach (o, list) {
		struct primary_candidate c;

		if (parse(&c, o) && strcmp(c.node, me->node) != 0 && is_better(&c, me))
			++*ahead;
	}
	cJSON_Delete(list);
	return rc;
}
