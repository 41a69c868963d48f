/* s3claim.c - creating an object only if it does not exist: by the store (If-None-Match: *), or emulated where the store
 * does not honour that.
 *
 * (1) Which it is, is found out by its deeds and not by its status: a store may accept the header and ignore it. The probe
 *     object .fazt/conditional-put is PUT with the condition until one PUT of it is refused with 412 (native: one request
 *     if it exists already, two if not) or two were accepted (emulated). 501 and 400 mean emulated too.
 * (2) Native: 412 = lost, unless an earlier attempt of this call failed ambiguously and the object holds our very bytes.
 * (3) Emulated, on a store that reads its own writes (all do today): mutual exclusion by token objects.
 *       a. PUT .fazt/claim/<hash of key>/<random>
 *       b. list that directory: alone?
 *       c. GET key: there = lost. Not there, but (b) was no: delete the own token, wait a random while, begin again.
 *       d. PUT key. e. GET key and compare. f. delete the token.
 *     Of two contenders, the one whose (b) comes later sees the other's token, since that is deleted only after (d): at
 *     most one is alone at a time, and whoever comes after sees key at (c). A token of a writer that died blocks for
 *     TOKEN_STALE_MS by the store's clock. (d) begins only within CLAIM_MAX_MS of (a), and lasts at most CLAIM_MAX_MS,
 *     so that a writer that was asleep does not act on a token that others took for dead.
 *                                                                              held by: tests/unit/test_store_s3.c */
#include "store/s3.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKEN_STALE_MS = 180 * 1000, CLAIM_MAX_MS = 45 * 1000, CLAIM_PAUSE_MS = 400 };

static const struct store_pair only_new = {"If-None-Match", "*"}, always = {NULL, NULL};

int store_s3_put_small(struct store_s3 *s, struct store_s3_call *c, const char *full, const void *data, size_t n,
                       struct store_pair condition, uint64_t deadline_ns, struct fz_err *err)
{
	char sha256[S3_HEX_SIZE], md5[S3_MD5_HEX_SIZE];
	struct fz_src *src = NULL;
	int rc = fz_src_mem(&src, data, n, err);

	if (rc == 0)
		rc = store_s3_hash(src, 0, n, sha256, md5, err);
	if (rc == 0) {
		*c = (struct store_s3_call){.what = "PUT",
		                            .method = "PUT",
		                            .key = full,
		                            .headers = {condition},
		                            .n_headers = condition.name != NULL,
		                            .body = src,
		                            .body_n = n,
		                            .payload_hash = sha256,
		                            .deadline_ns = deadline_ns};
		rc = store_s3_call(s, c, err);
	}
	c->body = NULL;
	c->payload_hash = NULL;
	fz_src_close(src);
	return rc;
}

/* 1 = the object is there and has these bytes, 0 = it has others, negative = cannot tell; -FZ_ENOTFOUND. */
static int compare(struct store_s3 *s, const char *full, const void *data, size_t n, uint64_t deadline_ns,
                   struct fz_err *err)
{
	struct fz_buf there = {0};
	struct store_s3_call c = {
	        .what = "GET", .method = "GET", .key = full, .out = &there, .out_max = n, .deadline_ns = deadline_ns};
	int rc = store_s3_call(s, &c, err);

	if (rc == -FZ_ESTORE && c.ans.status == 200) /* longer than ours */
		rc = 0;
	else if (rc == 0)
		rc = there.size == n && (n == 0 || memcmp(there.data, data, n) == 0);
	fz_buf_fini(&there);
	return rc;
}

static int lost(struct store_s3 *s, const char *full, struct fz_err *err)
{
	return fz_fail(err, FZ_ECONFLICT, "s3://%s/%s exists already", s->bucket, full);
}

static int probe(struct store_s3 *s, enum store_s3_conditional *out, uint64_t deadline_ns, struct fz_err *err)
{
	char *full = store_s3_key(s, S3_PROBE_KEY, err);
	struct store_s3_call c;
	int rc = full ? 0 : -ENOMEM;

	*out = S3_COND_EMULATED;
	for (int i = 0; rc == 0 && i < 2 && *out == S3_COND_EMULATED; i++) {
		rc = store_s3_put_small(s, &c, full, S3_PROBE_TEXT, strlen(S3_PROBE_TEXT), only_new, deadline_ns, err);
		if (rc == -FZ_ECONFLICT) {
			*out = S3_COND_NATIVE;
			rc = 0;
		} else if (rc == -FZ_ESTORE && (c.ans.status == 501 || c.ans.status == 400)) {
			rc = 0;
			break;
		}
	}
	free(full);
	return rc;
}

static int find_out(struct store_s3 *s, enum store_s3_conditional *out, uint64_t deadline_ns, struct fz_err *err)
{
	int rc;

	pthread_mutex_lock(&s->mu);
	*out = s->conditional;
	pthread_mutex_unlock(&s->mu);
	if (*out != S3_COND_UNKNOWN)
		return 0;
	rc = probe(s, out, deadline_ns, err);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&s->mu);
	s->conditional = *out;
	pthread_mutex_unlock(&s->mu);
	if (*out == S3_COND_EMULATED)
		fz_info("%s: the store does not honour If-None-Match; claims are emulated", s->store.url);
	return 0;
}

static int native(struct store_s3 *s, const char *full, const void *data, size_t n, uint64_t deadline_ns,
                  struct fz_err *err)
{
	struct store_s3_call c;
	int rc = store_s3_put_small(s, &c, full, data, n, only_new, deadline_ns, err);

	if (rc != -FZ_ECONFLICT)
		return rc;
	if (c.ambiguous) {
		rc = compare(s, full, data, n, deadline_ns, err);
		if (rc != 0)
			return rc == 1 ? 0 : rc;
	}
	return lost(s, full, err);
}

/* Other writers' living tokens beside mine; dead ones are removed. Negative = a code. */
static int count_others(struct store_s3 *s, const char *dir, const char *mine, struct fz_err *err)
{
	struct fz_store_list l = {0};
	struct fz_buf xml = {0};
	struct store_s3_page page = {0};
	char *full = store_s3_key(s, dir, err);
	struct store_s3_call c = {
	        .what = "list",
	        .method = "GET",
	        .query = {{"list-type", "2"}, {"prefix", full}},
	        .n_query = 2,
	        .out = &xml,
	        .out_max = S3_XML_MAX_BYTES
        };
	int64_t mine_ms = -1;
	int others = 0, rc = full ? store_s3_call(s, &c, err) : -ENOMEM;

	if (rc == 0)
		rc = store_s3xml_list(xml.data, xml.size, s->prefix, &l, &page, err);
	for (size_t i = 0; rc == 0 && i < l.n; i++)
		if (strcmp(l.v[i].key, mine) == 0)
			mine_ms = l.v[i].mtime_ms;
	if (rc == 0 && page.next) /* a crowd: not alone, whoever they are */
		others++;
	else if (rc == 0 && mine_ms < 0) /* somebody took us for dead, or the store does not read its writes */
		rc = fz_fail(err, FZ_ESTORE, "s3://%s/%s%s: the token just written is not listed", s->bucket, s->prefix,
		             mine);
	for (size_t i = 0; rc == 0 && i < l.n; i++) {
		if (strcmp(l.v[i].key, mine) == 0)
			continue;
		if (mine_ms >= 0 && mine_ms - l.v[i].mtime_ms > TOKEN_STALE_MS)
			rc = store_s3_delete(&s->store, (const char *[]){l.v[i].key}, 1, &(size_t){0}, err);
		else
			others++;
	}
	free(page.next);
	free(full);
	fz_store_list_fini(&l);
	fz_buf_fini(&xml);
	return rc < 0 ? rc : others;
}

/* Step (b) to (e). -EAGAIN: not alone. */
static int claim(struct store_s3 *s, const char *dir, const char *token, const char *full, const void *data, size_t n,
                 uint64_t until_ns, struct fz_err *err)
{
	struct store_s3_call c;
	bool alone;
	int rc = count_others(s, dir, token, err);

	if (rc < 0)
		return rc;
	alone = rc == 0;
	rc = compare(s, full, data, n, until_ns, err);
	if (rc != -FZ_ENOTFOUND)
		return rc < 0 ? rc : lost(s, full, err);
	if (!alone)
		return -EAGAIN;
	if (fz_mono_ns() >= until_ns)
		return fz_fail(err, FZ_ETIMEOUT, "s3://%s/%s: claiming it took too long", s->bucket, full);
	rc = store_s3_put_small(s, &c, full, data, n, always, until_ns, err);
	if (rc == 0)
		rc = compare(s, full, data, n, until_ns, err);
	return rc < 0 ? rc : rc == 1 ? 0 : lost(s, full, err);
}

static int emulated(struct store_s3 *s, const char *key, const char *full, const void *data, size_t n,
                    uint64_t deadline_ns, struct fz_err *err)
{
	uint8_t hash[crypto_hash_sha256_BYTES], rnd[12];
	char hash_hex[33], rnd_hex[25], dir[64], token[96];
	int rc = -EAGAIN;

	crypto_hash_sha256(hash, (const uint8_t *)key, strlen(key));
	sodium_bin2hex(hash_hex, sizeof(hash_hex), hash, 16);
	snprintf(dir, sizeof(dir), S3_OWN_PREFIX "claim/%s/", hash_hex);
	while (rc == -EAGAIN) {
		uint64_t until = fz_mono_ns() + CLAIM_MAX_MS * 1000000ull;
		struct store_s3_call c;
		char *token_full;

		if (fz_mono_ns() >= deadline_ns)
			return fz_fail(err, FZ_ETIMEOUT, "s3://%s/%s: other writers want it too", s->bucket, full);
		if (until > deadline_ns)
			until = deadline_ns;
		randombytes_buf(rnd, sizeof(rnd));
		sodium_bin2hex(rnd_hex, sizeof(rnd_hex), rnd, sizeof(rnd));
		snprintf(token, sizeof(token), "%s%s", dir, rnd_hex);
		token_full = store_s3_key(s, token, err);
		if (!token_full)
			return -ENOMEM;
		rc = store_s3_put_small(s, &c, token_full, "claim\n", 6, always, until, err);
		free(token_full);
		if (rc == 0)
			rc = claim(s, dir, token, full, data, n, until, err);
		/* best effort: a token that stays is dead to others after a while */
		(void)!store_s3_delete(&s->store, (const char *[]){token}, 1, &(size_t){0}, NULL);
		if (rc == -EAGAIN) {
			int slept = store_s3_sleep(s, 20 + (int64_t)randombytes_uniform(CLAIM_PAUSE_MS), err);

			if (slept < 0)
				return slept;
		}
	}
	return rc;
}

int store_s3_put_new(struct fz_store *store, const char *key, const void *data, size_t n, struct fz_err *err)
{
	struct store_s3 *s = store_s3_of(store);
	char *full = store_s3_key(s, key, err);
	enum store_s3_conditional how;
	uint64_t deadline_ns = store_s3_deadline(s, n);
	int rc = full ? find_out(s, &how, deadline_ns, err) : -ENOMEM;

	if (rc == 0)
		rc = how == S3_COND_NATIVE ? native(s, full, data, n, deadline_ns, err)
		                           : emulated(s, key, full, data, n, deadline_ns, err);
	free(full);
	return rc;
}
