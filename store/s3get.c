/* s3get.c - reading from S3: whole small objects, and ranges by several threads at once. */
#include "store/s3.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int store_s3_get(struct fz_store *store, const char *key, size_t max_bytes, struct fz_buf *out, struct fz_err *err)
{
	struct store_s3 *s = store_s3_of(store);
	struct store_s3_call c = {.what = "GET", .method = "GET", .out = out, .out_max = max_bytes};
	char *full = store_s3_key(s, key, err);
	int rc = -ENOMEM;

	if (full) {
		c.key = full;
		rc = store_s3_call(s, &c, err);
	}
	free(full);
	return rc;
}

/* An object behind ranged GETs. The ETag of the first answer is what all others must have: If-Match asks for it, and it
 * is compared too, for stores that ignore the condition. */
struct s3_src {
	struct fz_src src;
	struct store_s3 *s;
	char *key;
	pthread_mutex_t mu; /* guards etag */
	char etag[96];
};

static int changed(struct s3_src *r, struct fz_err *err)
{
	return fz_fail(err, FZ_ECONFLICT, "s3://%s/%s was replaced while it was read", r->s->bucket, r->key);
}

static int s3_src_read(struct fz_src *src, uint64_t off, void *data, size_t n, struct fz_err *err)
{
	struct s3_src *r = (struct s3_src *)src;
	struct store_s3_call c = {.what = "GET",
	                          .method = "GET",
	                          .key = r->key,
	                          .into = data,
	                          .into_n = n,
	                          .into_off = off,
	                          .object_size = src->size_bytes};
	char etag[sizeof(r->etag)];
	int rc = store_check_cancel(&r->s->store, err);

	if (rc < 0 || n == 0)
		return rc;
	pthread_mutex_lock(&r->mu);
	memcpy(etag, r->etag, sizeof(etag));
	pthread_mutex_unlock(&r->mu);
	if (*etag)
		c.headers[c.n_headers++] = (struct store_pair){"If-Match", etag};
	rc = store_s3_call(r->s, &c, err);
	if (rc == -FZ_ECONFLICT)
		return changed(r, err);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&r->mu);
	if (!*r->etag)
		memcpy(r->etag, c.ans.etag, sizeof(etag));
	else if (*c.ans.etag && strcmp(r->etag, c.ans.etag) != 0)
		rc = changed(r, err);
	pthread_mutex_unlock(&r->mu);
	return rc;
}

static void s3_src_close(struct fz_src *src)
{
	struct s3_src *r = (struct s3_src *)src;

	pthread_mutex_destroy(&r->mu);
	free(r->key);
	free(r);
}

int store_s3_src(struct fz_store *store, const char *key, uint64_t size_bytes, struct fz_src **out, struct fz_err *err)
{
	struct store_s3 *s = store_s3_of(store);
	struct s3_src *r = calloc(1, sizeof(*r));
	int rc = 0;

	if (!r)
		return fz_fail_errno(err, ENOMEM, "opening %s", key);
	r->src = (struct fz_src){s3_src_read, s3_src_close, size_bytes};
	r->s = s;
	pthread_mutex_init(&r->mu, NULL);
	r->key = store_s3_key(s, key, err);
	if (!r->key) {
		s3_src_close(&r->src);
		return -ENOMEM;
	}
	if (size_bytes == UINT64_MAX) {
		struct store_s3_call c = {.what = "HEAD", .method = "HEAD", .key = r->key};

		rc = store_s3_call(s, &c, err);
		if (rc == 0 && c.ans.length == UINT64_MAX)
			rc = fz_fail(err, FZ_ESTORE, "s3://%s/%s: the store does not tell the size", s->bucket, r->key);
		r->src.size_bytes = c.ans.length;
		memcpy(r->etag, c.ans.etag, sizeof(r->etag));
	}
	if (rc < 0)
		s3_src_close(&r->src);
	else
		*out = &r->src;
	return rc;
}
