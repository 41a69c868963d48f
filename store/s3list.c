/* s3list.c - listing and deleting in S3, a thousand keys at a time. */
#include "store/s3.h"

#include "store/md5.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

enum { DELETE_ROUNDS = 4 };

int store_s3_list(struct fz_store *store, const char *prefix, const char *start_after, bool delimiter,
                  struct fz_store_list *out, struct fz_err *err)
{
	struct store_s3 *s = store_s3_of(store);
	char *full = store_s3_key(s, prefix, err), *after = NULL, *token = NULL;
	struct fz_buf xml = {0};
	size_t kept = 0;
	int rc = full ? 0 : -ENOMEM;

	if (rc == 0 && start_after && !(after = store_s3_key(s, start_after, err)))
		rc = -ENOMEM;
	while (rc == 0) {
		struct store_s3_page page = {0};
		struct store_s3_call c = {
		        .what = "list", .method = "GET", .out = &xml, .out_max = S3_XML_MAX_BYTES, .n_query = 4};

		c.query[0] = (struct store_pair){"list-type", "2"};
		c.query[1] = (struct store_pair){"max-keys", "1000"};
		c.query[2] = (struct store_pair){"prefix", full};
		c.query[3] = (struct store_pair){"encoding-type", "url"};
		if (delimiter)
			c.query[c.n_query++] = (struct store_pair){"delimiter", "/"};
		if (after)
			c.query[c.n_query++] = (struct store_pair){"start-after", after};
		if (token)
			c.query[c.n_query++] = (struct store_pair){"continuation-token", token};
		fz_buf_reset(&xml);
		rc = store_s3_call(s, &c, err);
		if (rc == 0)
			rc = store_s3xml_list(xml.data, xml.size, s->prefix, out, &page, err);
		if (rc < 0)
			break;
		if (page.next && token && strcmp(page.next, token) == 0) {
			free(page.next);
			rc = fz_fail(err, FZ_ESTORE, "s3://%s/%s: the store's listing goes in circles", s->bucket,
			             full);
			break;
		}
		free(token);
		token = page.next;
		if (!token)
			break;
	}
	for (size_t i = 0; i < out->n; i++)
		if (strncmp(out->v[i].key, S3_OWN_PREFIX, strlen(S3_OWN_PREFIX)) == 0)
			free(out->v[i].key);
		else
			out->v[kept++] = out->v[i];
	out->n = kept;
	free(full);
	free(after);
	free(token);
	fz_buf_fini(&xml);
	return rc;
}

static int add_escaped(struct fz_buf *b, const char *text)
{
	int rc = 0;

	for (; rc == 0 && *text; text++)
		switch (*text) {
		case '&':
			rc = fz_buf_add(b, "&amp;", 5);
			break;
		case '<':
			rc = fz_buf_add(b, "&lt;", 4);
			break;
		case '>':
			rc = fz_buf_add(b, "&gt;", 4);
			break;
		default:
			rc = fz_buf_add(b, text, 1);
		}
	return rc;
}

/* One DeleteObjects of keys (full names); *left takes those that are still there. */
static int delete_batch(struct store_s3 *s, char *const *keys, size_t n, struct store_s3_undeleted_list *left,
                        struct fz_err *err)
{
	struct store_s3_call c = {.what = "delete",
	                          .method = "POST",
	                          .query = {{"delete", NULL}},
	                          .n_query = 1,
	                          .out_max = S3_XML_MAX_BYTES};
	char sha256[S3_HEX_SIZE], md5_hex[S3_MD5_HEX_SIZE];
	char md5[sodium_base64_ENCODED_LEN(STORE_MD5_BYTES, sodium_base64_VARIANT_ORIGINAL)];
	uint8_t sum[STORE_MD5_BYTES];
	struct fz_buf xml = {0}, answer = {0};
	struct fz_src *src = NULL;
	struct store_md5 m;
	int rc = fz_buf_addf(&xml, "<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Quiet>true</Quiet>");

	for (size_t i = 0; rc == 0 && i < n; i++) {
		rc = fz_buf_addf(&xml, "<Object><Key>");
		if (rc == 0)
			rc = add_escaped(&xml, keys[i]);
		if (rc == 0)
			rc = fz_buf_addf(&xml, "</Key></Object>");
	}
	if (rc == 0)
		rc = fz_buf_addf(&xml, "</Delete>");
	if (rc < 0) {
		rc = fz_fail_errno(err, ENOMEM, "deleting %zu objects", n);
		goto out;
	}
	rc = fz_src_mem(&src, xml.data, xml.size, err);
	if (rc == 0)
		rc = store_s3_hash(src, 0, xml.size, sha256, md5_hex, err);
	if (rc < 0)
		goto out;
	store_md5_init(&m);
	store_md5_add(&m, xml.data, xml.size);
	store_md5_final(&m, sum);
	sodium_bin2base64(md5, sizeof(md5), sum, sizeof(sum), sodium_base64_VARIANT_ORIGINAL);
	c.headers[c.n_headers++] = (struct store_pair){"Content-MD5", md5};
	c.headers[c.n_headers++] = (struct store_pair){"Content-Type", "application/xml"};
	c.body = src;
	c.body_n = xml.size;
	c.payload_hash = sha256;
	c.out = &answer;
	rc = store_s3_call(s, &c, err);
	if (rc == 0)
		rc = store_s3xml_delete(answer.data, answer.size, left, err);
	else if (c.ans.status == 501 || c.ans.status == 405)
		rc = -ENOSYS;
out:
	fz_src_close(src);
	fz_buf_fini(&xml);
	fz_buf_fini(&answer);
	return rc;
}

static int delete_one(struct store_s3 *s, const char *key, struct fz_err *err)
{
	struct store_s3_call c = {.what = "DELETE", .method = "DELETE", .key = key};
	int rc = store_s3_call(s, &c, err);

	return rc == -FZ_ENOTFOUND ? 0 : rc;
}

static bool may_pass(const char *code)
{
	return strcmp(code, "InternalError") == 0 || strcmp(code, "SlowDown") == 0 ||
	       strcmp(code, "ServiceUnavailable") == 0 || strcmp(code, "OperationAborted") == 0;
}

/* Deletes up to S3_PAGE_KEYS keys; those that could not be deleted are counted, and *err tells about the first. */
static int delete_page(struct store_s3 *s, char **keys, size_t n, size_t *failed, struct fz_err *err)
{
	struct fz_err why = {0};
	int rc = 0;

	for (int round = 0; n > 0; round++) {
		struct store_s3_undeleted_list left = {0};
		size_t again = 0;

		rc = delete_batch(s, keys, n, &left, err);
		for (size_t i = 0; rc == 0 && i < left.n; i++) {
			const struct store_s3_undeleted *u = &left.v[i];
			size_t k = 0;

			if (strcmp(u->error.code, "NoSuchKey") == 0)
				continue;
			while (k < n && strcmp(keys[k], u->key) != 0)
				k++;
			if (k < again)
				continue; /* named twice */
			if (k < n && may_pass(u->error.code) && round + 1 < DELETE_ROUNDS) {
				char *swap = keys[again];

				keys[again++] = keys[k];
				keys[k] = swap;
				continue;
			}
			++*failed;
			if (!why.code)
				fz_fail(&why, strcmp(u->error.code, "AccessDenied") == 0 ? FZ_EAUTH : FZ_ESTORE,
				        "deleting s3://%s/%s: the store answered %s: %s", s->bucket, u->key,
				        u->error.code, u->error.message);
		}
		store_s3_undeleted_fini(&left);
		if (rc < 0) {
			if (rc != -ENOSYS)
				*failed += n;
			return rc;
		}
		n = again;
		if (n > 0 && (rc = store_s3_sleep(s, 100 << round, err)) < 0) {
			*failed += n;
			return rc;
		}
	}
	if (why.code && err)
		*err = why;
	return why.code;
}

int store_s3_delete(struct fz_store *store, const char *const *keys, size_t n, size_t *failed, struct fz_err *err)
{
	struct store_s3 *s = store_s3_of(store);
	char *full[S3_PAGE_KEYS];
	struct fz_err why = {0};
	int rc = 0;

	for (size_t at = 0; at < n;) {
		size_t page = n - at < S3_PAGE_KEYS ? n - at : S3_PAGE_KEYS, have = 0;
		struct fz_err e = {0};
		bool single;
		int got = 0;

		pthread_mutex_lock(&s->mu);
		single = s->no_batch_delete;
		pthread_mutex_unlock(&s->mu);
		for (; have < page && got == 0; have++) {
			full[have] = store_s3_key(s, keys[at + have], &e);
			got = full[have] ? 0 : -ENOMEM;
		}
		if (got < 0)
			*failed += page;
		else if (!single)
			got = delete_page(s, full, page, failed, &e);
		if (got == -ENOSYS) { /* not every store knows DeleteObjects */
			pthread_mutex_lock(&s->mu);
			s->no_batch_delete = single = true;
			pthread_mutex_unlock(&s->mu);
			got = 0;
		}
		for (size_t i = 0; got != -ENOMEM && single && i < page; i++) {
			struct fz_err one = {0};

			if (delete_one(s, full[i], &one) < 0) {
				++*failed;
				if (got == 0) {
					e = one;
					got = one.code;
				}
			}
		}
		for (size_t i = 0; i < have; i++)
			free(full[i]);
		at += page;
		if (got < 0 && rc == 0) {
			rc = got;
			why = e;
		}
		if (got == -ECANCELED || got == -FZ_ENET || got == -FZ_ETIMEOUT) { /* the rest would fare no better */
			*failed += n - at;
			break;
		}
	}
	if (rc < 0 && err)
		*err = why;
	return rc;
}
