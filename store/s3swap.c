/* s3swap.c - replacing one known version of an object: If-Match with the ETag of the version that was read, or If-None-Match for
 * the first one (that part, with its emulation, is s3claim.c's).
 *
 * (1) A store may ignore the header: it is asked once to replace a version that never was. 412 = it honours it. Anything else: this
 *     store cannot be used for this; nothing emulates it.
 * (2) 412 = another version is there, unless an earlier attempt of this call failed ambiguously and the object holds our very bytes.
 *                                                                              held by: tests/unit/test_store_s3.c */
#include "store/s3.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int store_s3_get_tag(struct fz_store *store, const char *key, size_t max_bytes, struct fz_buf *out,
                     char tag[static FZ_STORE_TAG], struct fz_err *err)
{
	struct store_s3 *s = store_s3_of(store);
	struct store_s3_call c = {.what = "GET", .method = "GET", .out = out, .out_max = max_bytes};
	char *full = store_s3_key(s, key, err);
	int rc = -ENOMEM;

	if (full) {
		c.key = full;
		rc = store_s3_call(s, &c, err);
	}
	if (rc == 0 && !*c.ans.etag)
		rc = fz_fail(err, FZ_ESTORE, "s3://%s/%s: the store sent no ETag", s->bucket, full);
	if (rc == 0)
		memcpy(tag, c.ans.etag, sizeof(c.ans.etag));
	free(full);
	return rc;
}

static int find_out(struct store_s3 *s, uint64_t deadline_ns, struct fz_err *err)
{
	enum store_s3_conditional known;
	struct store_s3_call c = {0};
	struct fz_err why = {0};
	char *full;
	int rc;

	pthread_mutex_lock(&s->mu);
	known = s->replacing;
	pthread_mutex_unlock(&s->mu);
	if (known == S3_COND_NATIVE)
		return 0;
	full = store_s3_key(s, S3_PROBE_KEY, err);
	if (!full)
		return -ENOMEM;
	rc = store_s3_put_small(s, &c, full, S3_PROBE_TEXT, strlen(S3_PROBE_TEXT),
	                        (struct store_pair){"If-Match", "\"00000000000000000000000000000000\""}, deadline_ns,
	                        &why);
	free(full);
	/* 404: there is no object of that name yet, and the condition was looked at */
	if (rc == -FZ_ECONFLICT || (rc < 0 && c.ans.status == 404)) {
		pthread_mutex_lock(&s->mu);
		s->replacing = S3_COND_NATIVE;
		pthread_mutex_unlock(&s->mu);
		return 0;
	}
	if (rc == 0 || (rc == -FZ_ESTORE && (c.ans.status == 501 || c.ans.status == 400)))
		return fz_fail(err, FZ_ECONFIG, "%s: the store does not honour If-Match: it cannot hold a lease",
		               s->store.url);
	if (err)
		*err = why;
	return rc;
}

static int replace(struct store_s3 *s, const char *key, const char *full, const void *data, size_t n,
                   char tag[static FZ_STORE_TAG], uint64_t deadline_ns, struct fz_err *err)
{
	struct store_s3_call c = {0};
	struct fz_buf there = {0};
	int rc = store_s3_put_small(s, &c, full, data, n, (struct store_pair){"If-Match", tag}, deadline_ns, err);

	if (rc == 0 && *c.ans.etag) {
		memcpy(tag, c.ans.etag, sizeof(c.ans.etag));
		return 0;
	}
	if (rc == -FZ_ENOTFOUND) /* it was deleted */
		rc = fz_fail(err, FZ_ECONFLICT, "s3://%s/%s is gone", s->bucket, full);
	if (rc == 0 || (rc == -FZ_ECONFLICT && c.ambiguous)) {
		char now[FZ_STORE_TAG];
		int got = store_s3_get_tag(&s->store, key, n + 1024, &there, now, err);

		if (got == 0 && there.size == n && memcmp(there.data, data, n) == 0) {
			memcpy(tag, now, sizeof(now));
			rc = 0;
		} else {
			rc = got < 0 && got != -FZ_ENOTFOUND
			             ? got
			             : fz_fail(err, FZ_ECONFLICT, "s3://%s/%s has changed", s->bucket, full);
		}
	} else if (rc == -FZ_ECONFLICT) {
		rc = fz_fail(err, FZ_ECONFLICT, "s3://%s/%s has changed", s->bucket, full);
	}
	fz_buf_fini(&there);
	return rc;
}

/* The first version: made as a claim is, then read for its tag. */
static int create(struct store_s3 *s, const char *key, const void *data, size_t n, char tag[static FZ_STORE_TAG],
                  struct fz_err *err)
{
	struct fz_buf there = {0};
	int rc = store_s3_put_new(&s->store, key, data, n, err);

	if (rc == 0)
		rc = store_s3_get_tag(&s->store, key, n + 1024, &there, tag, err);
	if (rc == 0 && (there.size != n || memcmp(there.data, data, n) != 0))
		rc = fz_fail(err, FZ_ECONFLICT, "%s: %s has changed already", s->store.url, key);
	fz_buf_fini(&there);
	return rc;
}

int store_s3_put_if(struct fz_store *store, const char *key, const void *data, size_t n, char tag[static FZ_STORE_TAG],
                    struct fz_err *err)
{
	struct store_s3 *s = store_s3_of(store);
	uint64_t deadline_ns = store_s3_deadline(s, n);
	char *full = store_s3_key(s, key, err);
	int rc = full ? find_out(s, deadline_ns, err) : -ENOMEM;

	if (rc == 0)
		rc = *tag ? replace(s, key, full, data, n, tag, deadline_ns, err) : create(s, key, data, n, tag, err);
	free(full);
	return rc;
}
