/* s3put.c - storing in S3: one PUT, or parts for large objects.
 *
 * Nothing is buffered: a part is read twice from its source, once to hash and once to send, so that memory does not grow
 * with parts and a retry simply reads again. All parts but the last are of one size (some stores insist), chosen so that
 * 10,000 suffice. A few parts are under way at once; the source is read under a lock, since it need not be thread-safe. */
#include "store/s3.h"

#include "store/md5.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/worker.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PARTS_MAX = 10000, HELPERS = 2 };
static const uint64_t SINGLE_MAX_BYTES = 16 << 20, PART_MIN_BYTES = 8 << 20, PART_STEP_BYTES = 1 << 20;
static const int64_t STALE_MS = 2 * 24 * 3600 * 1000ll;

/* Is the ETag an MD5 ("32 hex digits" in quotes)? Writes it in lower case. */
static bool etag_md5(const struct store_http_answer *a, char out[static S3_MD5_HEX_SIZE])
{
	const char *p = a->etag + (a->etag[0] == '"');

	if (a->etag_opaque || strspn(p, "0123456789abcdefABCDEF") != 32 || (p[32] != 0 && p[32] != '"'))
		return false;
	for (int i = 0; i < 32; i++)
		out[i] = (char)(p[i] >= 'A' && p[i] <= 'F' ? p[i] | 0x20 : p[i]);
	out[32] = 0;
	return true;
}

/* The payload's SHA-256 is signed, so a store that checks it (all do) has caught what the wire did. The ETag shows what
 * the store believes to have: when it differs twice for the same bytes, it is no MD5 in this store. */
int store_s3_send(struct store_s3 *s, struct store_s3_call *c, const char *md5, struct fz_err *err)
{
	for (int round = 0;; round++) {
		char etag[S3_MD5_HEX_SIZE];
		bool compare;
		int rc = store_s3_call(s, c, err);

		if (rc < 0)
			return rc;
		pthread_mutex_lock(&s->mu);
		compare = !s->no_md5_etag;
		if (compare && etag_md5(&c->ans, etag) && strcmp(etag, md5) != 0 && round == 1)
			s->no_md5_etag = true;
		pthread_mutex_unlock(&s->mu);
		if (!compare || !etag_md5(&c->ans, etag) || strcmp(etag, md5) == 0)
			return 0;
		fz_warn("%s: the ETag of %s is not the MD5 of what was sent: %s", s->store.url, c->key,
		        round == 0 ? "sending it again" : "this store's ETags are not looked at any more");
		if (round == 1)
			return 0;
	}
}

static int put_single(struct store_s3 *s, const char *key, struct fz_src *src, struct fz_err *err)
{
	char sha256[S3_HEX_SIZE], md5[S3_MD5_HEX_SIZE];
	struct store_s3_call c = {.what = "PUT",
	                          .method = "PUT",
	                          .key = key,
	                          .body = src,
	                          .body_n = src->size_bytes,
	                          .payload_hash = sha256};
	int rc = store_s3_hash(src, 0, src->size_bytes, sha256, md5, err);

	return rc < 0 ? rc : store_s3_send(s, &c, md5, err);
}

/* ---- parts -------------------------------------------------------------------------------------------------------- */

struct upload;

/* Reads the upload's source under its lock. */
struct guarded_src {
	struct fz_src src;
	struct upload *u;
};

struct upload {
	struct store_s3 *s;
	const char *key, *id;
	struct fz_src *src; /* under src_mu */
	uint64_t part_bytes;
	unsigned n_parts;
	pthread_mutex_t src_mu;
	struct guarded_src guarded;
	pthread_mutex_t mu; /* guards the rest */
	unsigned next;
	char (*md5)[S3_MD5_HEX_SIZE];
	char **etags;
	int rc;
	struct fz_err why;
};

static int guarded_read(struct fz_src *src, uint64_t off, void *data, size_t n, struct fz_err *err)
{
	struct upload *u = ((struct guarded_src *)src)->u;
	int rc;

	pthread_mutex_lock(&u->src_mu);
	rc = fz_src_read(u->src, off, data, n, err);
	pthread_mutex_unlock(&u->src_mu);
	return rc;
}

static int send_part(struct upload *u, unsigned index, struct fz_err *err)
{
	char number[16], sha256[S3_HEX_SIZE], *etag;
	uint64_t off = index * u->part_bytes, left = u->guarded.src.size_bytes - off;
	struct store_s3_call c = {
	        .what = "PUT part of",
	        .method = "PUT",
	        .key = u->key,
	        .query = {{"partNumber", number}, {"uploadId", u->id}},
	        .n_query = 2,
	        .body = &u->guarded.src,
	        .body_off = off,
	        .body_n = left < u->part_bytes ? left : u->part_bytes,
	        .payload_hash = sha256
        };
	int rc;

	snprintf(number, sizeof(number), "%u", index + 1);
	rc = store_s3_hash(&u->guarded.src, off, c.body_n, sha256, u->md5[index], err);
	if (rc == 0)
		rc = store_s3_send(u->s, &c, u->md5[index], err);
	if (rc < 0)
		return rc;
	if (!*c.ans.etag)
		return fz_fail(err, FZ_ESTORE, "PUT s3://%s/%s: the store gave part %u no ETag", u->s->bucket, u->key,
		               index + 1);
	etag = strdup(c.ans.etag);
	if (!etag)
		return fz_fail_errno(err, ENOMEM, "storing %s", u->key);
	pthread_mutex_lock(&u->mu);
	u->etags[index] = etag;
	pthread_mutex_unlock(&u->mu);
	return 0;
}

/* Takes part after part until there is none left or one has failed. */
static void send_parts(void *arg)
{
	struct upload *u = arg;

	for (;;) {
		struct fz_err err = {0};
		unsigned index;
		int rc;

		pthread_mutex_lock(&u->mu);
		index = u->rc < 0 ? u->n_parts : u->next;
		if (index < u->n_parts)
			u->next++;
		pthread_mutex_unlock(&u->mu);
		if (index == u->n_parts)
			return;
		rc = send_part(u, index, &err);
		if (rc < 0) {
			pthread_mutex_lock(&u->mu);
			if (u->rc == 0) {
				u->rc = rc;
				u->why = err;
			}
			pthread_mutex_unlock(&u->mu);
		}
	}
}

static int begin_upload(struct store_s3 *s, const char *key, char **id, struct fz_err *err)
{
	struct fz_buf answer = {0};
	struct store_s3_call c = {.what = "begin",
	                          .method = "POST",
	                          .key = key,
	                          .query = {{"uploads", NULL}},
	                          .n_query = 1,
	                          .headers = {{"Content-Type", "application/octet-stream"}},
	                          .n_headers = 1,
	                          .out = &answer,
	                          .out_max = 1 << 16};
	int rc = store_s3_call(s, &c, err);

	if (rc == 0)
		rc = store_s3xml_upload_id(answer.data, answer.size, id, err);
	fz_buf_fini(&answer);
	return rc;
}

static int abort_upload(struct store_s3 *s, const char *key, const char *id, bool farewell)
{
	struct store_s3_call c = {.what = "abort",
	                          .method = "DELETE",
	                          .key = key,
	                          .query = {{"uploadId", id}},
	                          .n_query = 1,
	                          .farewell = farewell};

	return store_s3_call(s, &c, NULL);
}

/* After a completion that may have happened: is the object there, with our size and our ETag? */
static bool is_complete(struct upload *u)
{
	struct store_s3_call c = {.what = "HEAD", .method = "HEAD", .key = u->key};
	uint8_t sum[STORE_MD5_BYTES];
	char want[S3_MD5_HEX_SIZE];
	struct store_md5 m;
	const char *p;

	if (store_s3_call(u->s, &c, NULL) < 0 || c.ans.length != u->guarded.src.size_bytes)
		return false;
	store_md5_init(&m);
	for (unsigned i = 0; i < u->n_parts; i++) {
		if (sodium_hex2bin(sum, sizeof(sum), u->md5[i], 32, NULL, NULL, NULL) < 0)
			return false;
		store_md5_add(&m, sum, sizeof(sum));
	}
	store_md5_final(&m, sum);
	sodium_bin2hex(want, sizeof(want), sum, sizeof(sum));
	p = c.ans.etag + (c.ans.etag[0] == '"');
	return strncmp(p, want, 32) == 0 && p[32] == '-';
}

static int complete_upload(struct upload *u, struct fz_err *err)
{
	char sha256[S3_HEX_SIZE], md5[S3_MD5_HEX_SIZE];
	struct fz_buf xml = {0}, answer = {0};
	struct store_s3_call c = {.what = "complete",
	                          .method = "POST",
	                          .key = u->key,
	                          .query = {{"uploadId", u->id}},
	                          .n_query = 1,
	                          .headers = {{"Content-Type", "application/xml"}},
	                          .n_headers = 1,
	                          .payload_hash = sha256,
	                          .out = &answer,
	                          .out_max = 1 << 16,
	                          .error_in_200 = true,
	                          .patient = true};
	struct fz_src *src = NULL;
	int rc = fz_buf_addf(&xml, "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");

	for (unsigned i = 0; rc == 0 && i < u->n_parts; i++) {
		const char *e = u->etags[i];

		rc = fz_buf_addf(&xml, "<Part><PartNumber>%u</PartNumber><ETag>", i + 1);
		for (; rc == 0 && *e; e++)
			rc = *e == '"'   ? fz_buf_addf(&xml, "&quot;")
			     : *e == '&' ? fz_buf_addf(&xml, "&amp;")
			     : *e == '<' ? fz_buf_addf(&xml, "&lt;")
			                 : fz_buf_add(&xml, e, 1);
		if (rc == 0)
			rc = fz_buf_addf(&xml, "</ETag></Part>");
	}
	if (rc == 0)
		rc = fz_buf_addf(&xml, "</CompleteMultipartUpload>");
	if (rc < 0)
		rc = fz_fail_errno(err, ENOMEM, "storing %s", u->key);
	if (rc == 0)
		rc = fz_src_mem(&src, xml.data, xml.size, err);
	if (rc == 0)
		rc = store_s3_hash(src, 0, xml.size, sha256, md5, err);
	if (rc == 0) {
		c.body = src;
		c.body_n = xml.size;
		rc = store_s3_call(u->s, &c, err);
		if (rc == -FZ_ENOTFOUND) /* NoSuchUpload: an earlier attempt did it, or somebody aborted it */
			rc = c.ambiguous && is_complete(u)
			             ? 0
			             : fz_fail(err, FZ_ESTORE, "s3://%s/%s: the upload is gone: begin again",
			                       u->s->bucket, u->key);
	}
	fz_src_close(src);
	fz_buf_fini(&xml);
	fz_buf_fini(&answer);
	return rc;
}

static int put_parts(struct store_s3 *s, const char *key, struct fz_src *src, struct fz_err *err)
{
	struct upload u = {.s = s, .key = key, .src = src, .part_bytes = PART_MIN_BYTES};
	struct fz_worker helpers[HELPERS];
	char *id = NULL;
	uint64_t n;
	int rc;

	memset(helpers, 0, sizeof(helpers));
	if (src->size_bytes / PARTS_MAX >= u.part_bytes)
		u.part_bytes = (src->size_bytes / PARTS_MAX / PART_STEP_BYTES + 1) * PART_STEP_BYTES;
	n = (src->size_bytes + u.part_bytes - 1) / u.part_bytes;
	u.n_parts = (unsigned)n;
	u.guarded = (struct guarded_src){
	        {guarded_read, NULL, src->size_bytes},
                &u
        };
	pthread_mutex_init(&u.src_mu, NULL);
	pthread_mutex_init(&u.mu, NULL);
	u.md5 = calloc(u.n_parts, sizeof(*u.md5));
	u.etags = calloc(u.n_parts, sizeof(*u.etags));
	rc = u.md5 && u.etags ? begin_upload(s, key, &id, err) : fz_fail_errno(err, ENOMEM, "storing %s", key);
	if (rc < 0)
		goto out;
	u.id = id;
	for (unsigned i = 0; i < HELPERS && i + 1 < u.n_parts; i++)
		if (fz_worker_start(&helpers[i], "s3-part", send_parts, &u, NULL) < 0)
			break; /* slower, no more */
	send_parts(&u);
	for (unsigned i = 0; i < HELPERS; i++)
		fz_worker_stop(&helpers[i]);
	rc = u.rc;
	if (rc < 0 && err)
		*err = u.why;
	if (rc == 0)
		rc = complete_upload(&u, err);
	if (rc < 0)
		(void)!abort_upload(s, key, id,
		                    true); /* else the parts lie there and cost; the sweep finds what stays */
out:
	for (unsigned i = 0; u.etags && i < u.n_parts; i++)
		free(u.etags[i]);
	free(u.etags);
	free(u.md5);
	free(id);
	pthread_mutex_destroy(&u.mu);
	pthread_mutex_destroy(&u.src_mu);
	return rc;
}

/* Aborts uploads below our prefix that began two days ago: whoever began them is not at it any more. Once for an open
 * store, before its first large object; a store that does not allow it is not asked again. */
static void sweep(struct store_s3 *s)
{
	struct store_s3_upload_list l = {0};
	struct fz_buf xml = {0};
	struct store_s3_call c = {
	        .what = "list uploads",
	        .method = "GET",
	        .query = {{"uploads", NULL}, {"prefix", s->prefix}},
	        .n_query = 2,
	        .out = &xml,
	        .out_max = S3_XML_MAX_BYTES
        };
	int64_t now;
	bool again;

	pthread_mutex_lock(&s->mu);
	again = s->swept;
	s->swept = true;
	pthread_mutex_unlock(&s->mu);
	if (again || store_s3_call(s, &c, NULL) < 0)
		goto out;
	if (store_s3xml_uploads(xml.data, xml.size, &l, NULL) < 0)
		goto out;
	now = store_s3_now_ms(s);
	for (size_t i = 0; i < l.n; i++) {
		const struct store_s3_upload *u = &l.v[i];

		if (strncmp(u->key, s->prefix, strlen(s->prefix)) != 0 || now - u->started_ms < STALE_MS)
			continue;
		if (abort_upload(s, u->key, u->id, false) == 0)
			fz_info("%s: aborted an unfinished upload of %s", s->store.url, u->key);
	}
out:
	store_s3_uploads_fini(&l);
	fz_buf_fini(&xml);
}

int store_s3_put(struct fz_store *store, const char *key, struct fz_src *src, struct fz_err *err)
{
	struct store_s3 *s = store_s3_of(store);
	char *full = store_s3_key(s, key, err);
	int rc;

	if (!full)
		return -ENOMEM;
	if (src->size_bytes <= SINGLE_MAX_BYTES) {
		rc = put_single(s, full, src, err);
	} else {
		sweep(s);
		rc = put_parts(s, full, src, err);
	}
	if (rc == -FZ_ENOTFOUND) { /* "not found" is no answer to a PUT; its sentence stays */
		rc = -FZ_ESTORE;
		if (err)
			err->code = rc;
	}
	free(full);
	return rc;
}
