/* s3.c - opening an S3 store: where it is, who asks, and the table of its methods. */
#include "store/s3.h"

#include "base/clock.h"
#include "store/url.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int dup_text(char **out, const char *text)
{
	*out = text ? strdup(text) : NULL;
	return text && !*out ? -ENOMEM : 0;
}

static void s3_stats(struct fz_store *store, struct fz_store_stats *out)
{
	static const char *const names[] = {"unknown", "native", "emulated"};
	struct store_s3 *s = store_s3_of(store);

	pthread_mutex_lock(&s->mu);
	snprintf(out->conditional_put, sizeof(out->conditional_put), "%s", names[s->conditional]);
	out->clock_known = s->server_ms != 0;
	if (out->clock_known)
		out->clock_ahead_ms =
		        s->server_ms + ((int64_t)fz_mono_ns() - s->server_mono_ns) / 1000000 - fz_now_ms();
	if (s->retrying)
		out->trouble = s->trouble;
	pthread_mutex_unlock(&s->mu);
	store_http_reap(s->http); /* status is asked for now and then: a chance to let go of connections */
}

static void s3_cancel(struct fz_store *store)
{
	struct store_s3 *s = store_s3_of(store);

	pthread_mutex_lock(&s->mu);
	pthread_cond_broadcast(&s->cond);
	pthread_mutex_unlock(&s->mu);
	store_http_wake(s->http);
}

static void wipe(const char **text)
{
	char *p = (char *)(uintptr_t)*text;

	if (p)
		sodium_memzero(p, strlen(p));
	free(p);
	*text = NULL;
}

static void s3_close(struct fz_store *store)
{
	struct store_s3 *s = store_s3_of(store);

	store_http_close(s->http);
	store_credentials_fini(&s->keys);
	wipe(&s->conf.access_key);
	wipe(&s->conf.secret_key);
	wipe(&s->conf.session_token);
	wipe(&s->conf.profile);
	wipe(&s->conf.credentials_file);
	free(s->url_file);
	free(s->url_profile);
	free(s->bucket);
	free(s->prefix);
	free(s->host);
	free(s->region);
	pthread_cond_destroy(&s->cond);
	pthread_mutex_destroy(&s->mu);
	store_base_fini(store);
	free(s);
}

/* The CA bundle: cacert=, else what curl, the AWS tools and OpenSSL look at, else libcurl's own. */
static const char *ca_bundle(const struct store_url *u)
{
	static const char *const names[] = {"AWS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"};

	if (u->cacert)
		return u->cacert;
	for (size_t i = 0; i < 3; i++) {
		const char *v = getenv(names[i]);

		if (v && *v)
			return v;
	}
	return NULL;
}

static int set_texts(struct store_s3 *s, const struct store_url *u, const struct fz_store_conf *conf)
{
	struct {
		const char **to;
		const char *from;
	} copies[] = {
	        {&s->conf.access_key,       conf->access_key      },
	        {&s->conf.secret_key,       conf->secret_key      },
	        {&s->conf.session_token,    conf->session_token   },
	        {&s->conf.profile,          conf->profile         },
	        {&s->conf.credentials_file, conf->credentials_file},
	};

	for (size_t i = 0; i < sizeof(copies) / sizeof(copies[0]); i++) {
		char *copy;

		if (dup_text(&copy, copies[i].from) < 0)
			return -ENOMEM;
		*copies[i].to = copy;
	}
	if (dup_text(&s->url_file, u->credentials) < 0 || dup_text(&s->url_profile, u->profile) < 0 ||
	    dup_text(&s->bucket, u->bucket) < 0)
		return -ENOMEM;
	return asprintf(&s->prefix, "%s%s", u->prefix, *u->prefix ? "/" : "") < 0 ? -ENOMEM : 0;
}

/* Where to: an endpoint that was named, or AWS's for the region. */
static int set_place(struct store_s3 *s, const struct store_url *u, const struct fz_store_conf *conf,
                     struct fz_err *err)
{
	const char *endpoint = conf->endpoint ? conf->endpoint : u->endpoint;
	const char *region = conf->region ? conf->region : u->region;
	char *host = NULL;
	int rc;

	if (!endpoint || !*endpoint)
		endpoint = getenv("AWS_ENDPOINT_URL_S3");
	if (!endpoint || !*endpoint)
		endpoint = getenv("AWS_ENDPOINT_URL");
	if (!region || !*region)
		region = getenv("AWS_REGION");
	if (!region || !*region)
		region = getenv("AWS_DEFAULT_REGION");
	if (!region || !*region)
		region = s->keys.region;
	if (!region || !*region)
		region = "us-east-1";
	s->aws = !endpoint || !*endpoint;
	s->https = true;
	/* The wildcard of AWS's certificate covers no bucket with a dot. */
	s->path_style = u->path_style >= 0 ? u->path_style : !s->aws || strchr(s->bucket, '.') != NULL;
	if (!s->aws) {
		rc = store_url_endpoint(endpoint, &s->https, &host, err);
		if (rc < 0)
			return rc;
		if (s->path_style) {
			s->host = host;
		} else {
			rc = asprintf(&s->host, "%s.%s", s->bucket, host);
			free(host);
			if (rc < 0) {
				s->host = NULL;
				return fz_fail_errno(err, ENOMEM, "opening %s", s->store.url);
			}
		}
	}
	return store_s3_set_region(s, region) < 0 ? fz_fail_errno(err, ENOMEM, "opening %s", s->store.url) : 0;
}

int store_s3_open(struct fz_store **out, const char *url, const struct store_url *parts,
                  const struct fz_store_conf *conf, struct fz_err *err)
{
	static const struct store_ops ops = {
	        .put = store_s3_put,
	        .put_new = store_s3_put_new,
	        .get = store_s3_get,
	        .get_tag = store_s3_get_tag,
	        .put_if = store_s3_put_if,
	        .src = store_s3_src,
	        .list = store_s3_list,
	        .del = store_s3_delete,
	        .stats = s3_stats,
	        .cancel = s3_cancel,
	        .close = s3_close,
	};
	struct store_s3 *s = calloc(1, sizeof(*s));
	pthread_condattr_t attr;
	int rc;

	if (!s)
		return fz_fail_errno(err, ENOMEM, "opening %s", url);
	pthread_mutex_init(&s->mu, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&s->cond, &attr);
	pthread_condattr_destroy(&attr);
	s->timeout_ms = conf->timeout_ms > 0 ? conf->timeout_ms : 60000;
	s->interactive = conf->interactive;
	rc = store_base_init(&s->store, &ops, url, err);
	if (rc == 0 && set_texts(s, parts, conf) < 0)
		rc = fz_fail_errno(err, ENOMEM, "opening %s", url);
	if (rc == 0)
		rc = store_credentials_load(&s->keys, &s->conf, s->url_file, s->url_profile, NULL, err);
	if (rc == 0)
		rc = set_place(s, parts, conf, err);
	if (rc == 0)
		rc = store_http_open(&s->http, ca_bundle(parts), err);
	if (rc < 0)
		s3_close(&s->store);
	else
		*out = &s->store;
	return rc;
}
