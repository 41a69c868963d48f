/* s3judge.c - what an answer that is no success means for the request, and removing its cause: the clock, the region, keys that were renewed.
 * held by: tests/unit/test_store_s3.c (each row of the table in docs/design.md "Stores") */
#include "store/s3.h"

#include "base/clock.h"
#include "base/log.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Signs with the server's clock from now on. */
static bool fix_clock(struct store_s3 *s, const char *date)
{
	time_t t = *date ? curl_getdate(date, NULL) : -1;
	int64_t skew = (int64_t)t * 1000 - fz_now_ms();

	if (t <= 0)
		return false;
	pthread_mutex_lock(&s->mu);
	s->skew_ms = skew;
	pthread_mutex_unlock(&s->mu);
	fz_warn("%s: this machine's clock differs from the store's by %lld s; signing with the store's", s->store.url,
	        (long long)(skew / 1000));
	return true;
}

static bool name_ok(const char *region)
{
	return *region && strspn(region, "abcdefghijklmnopqrstuvwxyz0123456789-") == strlen(region);
}

int store_s3_set_region(struct store_s3 *s, const char *region)
{
	char *copy = strdup(region), *host = NULL;

	if (!copy)
		return -ENOMEM;
	if (s->aws) {
		const char *tld = strncmp(region, "cn-", 3) == 0 ? ".cn" : "";
		int n = s->path_style ? asprintf(&host, "s3.%s.amazonaws.com%s", region, tld)
		                      : asprintf(&host, "%s.s3.%s.amazonaws.com%s", s->bucket, region, tld);

		if (n < 0) {
			free(copy);
			return -ENOMEM;
		}
		free(s->host);
		s->host = host;
	}
	free(s->region);
	s->region = copy;
	return 0;
}

static bool fix_region(struct store_s3 *s, const char *region)
{
	bool moved = false;

	if (!name_ok(region))
		return false;
	pthread_mutex_lock(&s->mu);
	if (strcmp(region, s->region) != 0)
		moved = store_s3_set_region(s, region) == 0;
	pthread_mutex_unlock(&s->mu);
	if (moved)
		fz_info("%s: the bucket is in region %s", s->store.url, region);
	return moved;
}

/* Session tokens are renewed in the file by whoever manages them. */
static bool fix_credentials(struct store_s3 *s)
{
	struct store_credentials fresh = {0};
	bool changed;

	if (store_credentials_load(&fresh, &s->conf, s->url_file, s->url_profile, NULL, NULL) < 0)
		return false;
	pthread_mutex_lock(&s->mu);
	changed = strcmp(fresh.access_key, s->keys.access_key) != 0 ||
	          strcmp(fresh.secret_key, s->keys.secret_key) != 0 ||
	          strcmp(fresh.session_token ? fresh.session_token : "",
	                 s->keys.session_token ? s->keys.session_token : "") != 0;
	if (changed) {
		struct store_credentials old = s->keys;

		s->keys = fresh;
		fresh = old;
	}
	pthread_mutex_unlock(&s->mu);
	store_credentials_fini(&fresh);
	return changed;
}

static bool one_of(const char *code, const char *const *list)
{
	for (; *list; list++)
		if (strcmp(code, *list) == 0)
			return true;
	return false;
}

/* The sentence of a refusal. */
static int refuse(struct store_s3 *s, const struct store_s3_call *c, int code, struct fz_err *err)
{
	const struct store_s3_error *e = &c->error;

	return fz_fail(err, code, "%s s3://%s/%s: the store answered %d%s%s%s%s", c->what, s->bucket,
	               c->key ? c->key : s->prefix, c->ans.status, *e->code ? " " : "", e->code,
	               *e->message ? ": " : "", e->message);
}

enum store_s3_verdict store_s3_judge(struct store_s3 *s, struct store_s3_call *c, struct fz_err *err)
{
	static const char *const skewed[] = {"RequestTimeTooSkewed", "RequestExpired", NULL};
	static const char *const expired[] = {"ExpiredToken", "TokenRefreshRequired", "ExpiredTokenException", NULL};
	static const char *const passing[] = {"RequestTimeout",
	                                      "SlowDown",
	                                      "InternalError",
	                                      "ServiceUnavailable",
	                                      "Throttling",
	                                      "ThrottlingException",
	                                      "RequestLimitExceeded",
	                                      "BandwidthLimitExceeded",
	                                      "IncompleteBody",
	                                      "BadDigest",
	                                      "OperationAborted",
	                                      "XAmzContentSHA256Mismatch",
	                                      "ConditionalRequestConflict",
	                                      "RequestTimeoutException",
	                                      NULL};
	static const char *const full[] = {"QuotaExceeded",
	                                   "XMinioStorageFull",
	                                   "InsufficientStorage",
	                                   "EntityTooLarge_Quota",
	                                   "XMinioAdminBucketQuotaExceeded",
	                                   NULL};
	static const char *const denied[] = {
	        "NoSuchBucket",   "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken",       "AccessDenied",
	        "AccountProblem", "AllAccessDisabled",  "InvalidBucketName",     "XAdminUserNotFound", NULL};
	int status = c->ans.status;
	const char *code = c->error.code;

	if (one_of(code, skewed) && fix_clock(s, c->ans.date)) {
		refuse(s, c, FZ_EAUTH, err);
		return S3_FIXED;
	}
	if (one_of(code, expired) && fix_credentials(s)) {
		refuse(s, c, FZ_EAUTH, err);
		return S3_FIXED;
	}
	if ((status == 301 || status == 307 || status == 400 || status == 403) &&
	    (fix_region(s, c->error.region) || fix_region(s, c->ans.region))) {
		refuse(s, c, FZ_ESTORE, err);
		return S3_FIXED;
	}
	if (one_of(code, full) || status == 507) {
		refuse(s, c, ENOSPC, err);
		return S3_FATAL;
	}
	if (one_of(code, passing)) {
		refuse(s, c, FZ_ESTORE, err);
		return S3_RETRY;
	}
	if (one_of(code, denied) || one_of(code, skewed) || one_of(code, expired)) {
		refuse(s, c, FZ_EAUTH, err);
		return S3_FATAL;
	}
	switch (status) {
	case 401:
	case 403:
		refuse(s, c, FZ_EAUTH, err);
		return S3_FATAL;
	case 404:
		if (!c->key)
			refuse(s, c, FZ_EAUTH, err); /* there is no such bucket */
		else
			refuse(s, c, FZ_ENOTFOUND, err);
		return S3_FATAL;
	case 412:
		refuse(s, c, FZ_ECONFLICT, err);
		return S3_FATAL;
	case 301:
	case 308:
		fz_fail(err, FZ_ESTORE, "s3://%s: the bucket is in another region: name it with region=", s->bucket);
		return S3_FATAL;
	case 501:
	case 505:
		refuse(s, c, FZ_ESTORE, err);
		return S3_FATAL;
	default:
		refuse(s, c, FZ_ESTORE, err);
		return status >= 500 || status == 408 || status == 409 || status == 429 || status == 307 ? S3_RETRY
		                                                                                         : S3_FATAL;
	}
}
