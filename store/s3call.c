/* s3call.c - carrying out one request until it is answered or hopeless.
 * Each attempt ends in one verdict (store/s3.h), which for an answer is s3judge.c's.
 * held by: tests/unit/test_store_s3.c (each row of the table in docs/design.md "Stores") */
#include "store/s3.h"

#include "store/md5.h"

#include "base/clock.h"
#include "base/log.h"

#include <curl/curl.h>
#include <errno.h>
#include <openssl/evp.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EMPTY_SHA256 "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

enum {
	BACKOFF_FIRST_MS = 100,
	BACKOFF_MAX_MS = 8000,
	FIXES_MAX = 8,
	FAREWELL_MS = 1500,
	TELL_MS = 3000,
	NOBODY_MS = 15000,
	SLOWEST_BYTES_PER_S = 65536
};

int64_t store_s3_now_ms(struct store_s3 *s)
{
	int64_t ms;

	pthread_mutex_lock(&s->mu);
	ms = s->server_ms ? s->server_ms + ((int64_t)fz_mono_ns() - s->server_mono_ns) / 1000000 : fz_now_ms();
	pthread_mutex_unlock(&s->mu);
	return ms;
}

uint64_t store_s3_deadline(const struct store_s3 *s, uint64_t bytes)
{
	uint64_t ms = (uint64_t)s->timeout_ms + bytes / SLOWEST_BYTES_PER_S * 1000;

	return fz_mono_ns() + ms * 1000000;
}

int store_s3_sleep(struct store_s3 *s, int64_t ms, struct fz_err *err)
{
	uint64_t until = fz_mono_ns() + (uint64_t)ms * 1000000;
	struct timespec ts = {.tv_sec = (time_t)(until / 1000000000), .tv_nsec = (long)(until % 1000000000)};

	pthread_mutex_lock(&s->mu);
	while (!atomic_load(&s->store.cancelled) && pthread_cond_timedwait(&s->cond, &s->mu, &ts) == 0)
		;
	pthread_mutex_unlock(&s->mu);
	return store_check_cancel(&s->store, err);
}

char *store_s3_key(struct store_s3 *s, const char *key, struct fz_err *err)
{
	char *full = NULL;

	if (asprintf(&full, "%s%s", s->prefix, key) < 0) {
		fz_fail_errno(err, ENOMEM, "naming %s", key);
		return NULL;
	}
	return full;
}

int store_s3_hash(struct fz_src *src, uint64_t off, uint64_t n, char sha256[static S3_HEX_SIZE],
                  char md5[static S3_MD5_HEX_SIZE], struct fz_err *err)
{
	enum { CHUNK_BYTES = 64 * 1024 };
	uint8_t *buf = malloc(CHUNK_BYTES), hash[32], sum[STORE_MD5_BYTES];
	EVP_MD_CTX *sha = EVP_MD_CTX_new(); /* uses the vector and SHA units that libsodium leaves idle */
	struct store_md5 m;
	int rc = buf && sha ? 0 : fz_fail_errno(err, ENOMEM, "hashing");

	if (rc == 0 && EVP_DigestInit_ex(sha, EVP_sha256(), NULL) != 1)
		rc = fz_fail(err, FZ_EINTERNAL, "libcrypto has no SHA-256");
	store_md5_init(&m);
	while (rc == 0 && n > 0) {
		size_t part = n < CHUNK_BYTES ? (size_t)n : CHUNK_BYTES;

		rc = fz_src_read(src, off, buf, part, err);
		if (rc < 0)
			break;
		if (EVP_DigestUpdate(sha, buf, part) != 1)
			rc = fz_fail(err, FZ_EINTERNAL, "libcrypto cannot hash");
		store_md5_add(&m, buf, part);
		off += part;
		n -= part;
	}
	if (rc == 0 && EVP_DigestFinal_ex(sha, hash, NULL) != 1)
		rc = fz_fail(err, FZ_EINTERNAL, "libcrypto cannot hash");
	if (rc == 0) {
		store_md5_final(&m, sum);
		sodium_bin2hex(sha256, S3_HEX_SIZE, hash, sizeof(hash));
		sodium_bin2hex(md5, S3_MD5_HEX_SIZE, sum, sizeof(sum));
	}
	EVP_MD_CTX_free(sha);
	free(buf);
	return rc;
}

/* ---- one attempt -------------------------------------------------------------------------------------------------- */

struct attempt {
	struct fz_buf url, authorization, trouble;
	char *host, *token, date[STORE_AMZ_DATE_SIZE], range[64];
	struct store_pair headers[10];
	size_t n_headers;
};

static void attempt_fini(struct attempt *a)
{
	if (a->token)
		sodium_memzero(a->token, strlen(a->token));
	free(a->token);
	free(a->host);
	fz_buf_fini(&a->url);
	fz_buf_fini(&a->authorization);
	fz_buf_fini(&a->trouble);
}

static void add_header(struct attempt *a, const char *name, const char *value)
{
	FZ_ASSERT(a->n_headers < sizeof(a->headers) / sizeof(a->headers[0]));
	a->headers[a->n_headers++] = (struct store_pair){name, value};
}

/* Signs Host, Content-* and x-amz-*. Range and If-* are left out: proxies may touch them. */
static int prepare(struct store_s3 *s, const struct store_s3_call *c, struct attempt *a)
{
	struct store_sigv4_key key;
	struct store_sigv4_req req = {.method = c->method, .query = c->query, .n_query = c->n_query};
	struct store_pair sign[10];
	struct fz_buf path = {0};
	size_t n = 0;
	int rc = -ENOMEM;

	req.payload_hash = c->payload_hash ? c->payload_hash : EMPTY_SHA256;
	pthread_mutex_lock(&s->mu);
	store_amz_date(a->date, fz_now_ms() + s->skew_ms);
	a->host = strdup(s->host);
	a->token = s->keys.session_token ? strdup(s->keys.session_token) : NULL;
	if (!a->host || (s->keys.session_token && !a->token))
		goto out;
	add_header(a, "Host", a->host);
	add_header(a, "x-amz-date", a->date);
	add_header(a, "x-amz-content-sha256", req.payload_hash);
	if (a->token)
		add_header(a, "x-amz-security-token", a->token);
	for (size_t i = 0; i < c->n_headers; i++)
		add_header(a, c->headers[i].name, c->headers[i].value);
	for (size_t i = 0; i < a->n_headers; i++)
		if (strncmp(a->headers[i].name, "If-", 3) != 0)
			sign[n++] = a->headers[i];
	if (c->into) {
		snprintf(a->range, sizeof(a->range), "bytes=%llu-%llu", (unsigned long long)c->into_off,
		         (unsigned long long)c->into_off + c->into_n - 1);
		add_header(a, "Range", a->range);
	}
	rc = fz_buf_addf(&path, "%s%s%s%s", s->path_style ? "/" : "", s->path_style ? s->bucket : "",
	                 c->key || !s->path_style ? "/" : "", c->key ? c->key : "");
	if (rc < 0)
		goto out;
	req.path = fz_buf_str(&path);
	req.headers = sign;
	req.n_headers = n;
	req.amz_date = a->date;
	key = (struct store_sigv4_key){s->keys.access_key, s->keys.secret_key, s->region, "s3"};
	rc = store_sigv4_sign(&a->authorization, &key, &req);
	if (rc == 0)
		rc = fz_buf_addf(&a->url, "%s://%s", s->https ? "https" : "http", s->host);
	if (rc == 0)
		rc = store_uri_encode(&a->url, req.path, true);
	if (rc == 0 && c->n_query > 0)
		rc = fz_buf_add(&a->url, "?", 1);
	if (rc == 0)
		rc = store_uri_query(&a->url, c->query, c->n_query);
	if (rc == 0)
		add_header(a, "Authorization", fz_buf_str(&a->authorization));
out:
	pthread_mutex_unlock(&s->mu);
	fz_buf_fini(&path);
	return rc;
}

static void note_answer(struct store_s3 *s, const struct store_http_answer *ans)
{
	time_t t = *ans->date ? curl_getdate(ans->date, NULL) : -1;

	pthread_mutex_lock(&s->mu);
	if (ans->status) {
		s->answered = true;
		if (ans->status < 500)
			s->told = false;
	}
	if (t <= 0) {
		pthread_mutex_unlock(&s->mu);
		return;
	}
	s->server_ms = (int64_t)t * 1000;
	s->server_mono_ns = (int64_t)fz_mono_ns();
	pthread_mutex_unlock(&s->mu);
}

/* A 206 must be of the bytes asked for, of an object of the size known. */
static int check_range(struct store_s3 *s, const struct store_s3_call *c, struct fz_err *err)
{
	unsigned long long first = 0, last = 0, total = 0;
	int n = sscanf(c->ans.range, "bytes %llu-%llu/%llu", &first, &last, &total);

	if (n < 2 || first != c->into_off || last != c->into_off + c->into_n - 1)
		return fz_fail(err, FZ_ESTORE, "s3://%s/%s: asked for bytes %llu..%llu, the store sent \"%s\"",
		               s->bucket, c->key, (unsigned long long)c->into_off,
		               (unsigned long long)c->into_off + c->into_n - 1, c->ans.range);
	if (n == 3 && c->object_size != UINT64_MAX && total != c->object_size)
		return fz_fail(err, FZ_ECONFLICT, "s3://%s/%s has %llu bytes, not %llu: it was replaced or damaged",
		               s->bucket, c->key, total, (unsigned long long)c->object_size);
	return 0;
}

struct wait {
	struct store_s3 *s;
	uint64_t deadline_ns;
};

/* Somebody waits: tell for what, once. The endpoint holds nothing secret. */
static void tell_wait(const struct wait *w, const char *why)
{
	uint64_t now = fz_mono_ns(), left = w->deadline_ns > now ? w->deadline_ns - now : 0;
	struct store_s3 *s = w->s;
	char *host = NULL;

	pthread_mutex_lock(&s->mu);
	if (s->interactive && !s->told)
		host = strdup(s->host);
	s->told = true;
	pthread_mutex_unlock(&s->mu);
	if (host)
		fz_warn("%s://%s does not answer (%s); trying on for up to %llu s", s->https ? "https" : "http", host,
		        why, (unsigned long long)((left + 999999999) / 1000000000));
	free(host);
}

static void on_silence(void *arg)
{
	tell_wait(arg, "nothing was heard so far");
}

static enum fz_store_kind kind_of(const struct store_s3_call *c)
{
	if (strcmp(c->method, "DELETE") == 0 || (strcmp(c->method, "POST") == 0 && !c->key)) /* DeleteObjects */
		return FZ_STORE_DELETE;
	if (strcmp(c->method, "PUT") == 0 || strcmp(c->method, "POST") == 0)
		return FZ_STORE_PUT;
	return c->key ? FZ_STORE_GET : FZ_STORE_LIST;
}

static enum store_s3_verdict attempt(struct store_s3 *s, struct store_s3_call *c, size_t out_base, struct fz_err *err)
{
	struct attempt a = {0};
	int64_t half = s->timeout_ms / 2 > 200 ? s->timeout_ms / 2 : 200;
	struct store_http_req req = {
	        .method = c->method,
	        .body = c->body,
	        .body_off = c->body_off,
	        .body_n = c->body_n,
	        .into = c->into,
	        .into_n = c->into_n,
	        .out = c->out,
	        .out_max = c->out_max,
	        .trouble = &a.trouble,
	        .deadline_ns = c->deadline_ns,
	        .connect_ms = half < 10000 ? half : 10000,
	        .stall_ms = c->patient     ? s->timeout_ms
	                    : half < 30000 ? half
	                                   : 30000,
	        .cancelled = c->farewell ? NULL : &s->store.cancelled,
	};
	struct wait wait = {s, c->deadline_ns};
	enum store_s3_verdict v = S3_FATAL;
	int rc;

	if (s->interactive) {
		req.silent = on_silence;
		req.silent_arg = &wait;
		req.silent_ms = TELL_MS;
	}
	memset(&c->error, 0, sizeof(c->error));
	if (c->out && c->out->data) {
		c->out->size = out_base;
		c->out->data[out_base] = 0;
	}
	if (prepare(s, c, &a) < 0) {
		fz_fail_errno(err, ENOMEM, "asking the store");
		goto out;
	}
	req.url = fz_buf_str(&a.url);
	req.headers = a.headers;
	req.n_headers = a.n_headers;
	store_count(&s->store, kind_of(c));
	rc = store_http_perform(s->http, &req, &c->ans, err);
	atomic_fetch_add(&s->store.bytes_out, c->ans.sent);
	atomic_fetch_add(&s->store.bytes_in, c->ans.received);
	note_answer(s, &c->ans);
	if (c->ans.resent)
		c->ambiguous = true;
	if (rc == 0 && c->ans.status >= 200 && c->ans.status < 300) {
		bool error = c->error_in_200 && c->out && store_s3xml_error(c->out->data, c->out->size, &c->error) != 0;

		if (error) { /* or no XML at all: it was cut */
			if (!*c->error.code)
				snprintf(c->error.code, sizeof(c->error.code), "InternalError");
			v = store_s3_judge(s, c, err);
			if (v == S3_FATAL && err && err->code == -FZ_ESTORE &&
			    strcmp(c->error.code, "InternalError") == 0)
				v = S3_RETRY;
			goto out;
		}
		v = !c->into || check_range(s, c, err) == 0 ? S3_DONE : S3_FATAL;
		if (v == S3_DONE && c->into && c->ans.into_got < c->into_n) {
			fz_fail(err, FZ_ENET, "GET s3://%s/%s: %zu of %zu bytes came", s->bucket, c->key,
			        c->ans.into_got, c->into_n);
			v = c->ans.into_got > 0 ? S3_FIXED : S3_RETRY;
		}
	} else if (rc == 0) {
		if (a.trouble.size > 0 && store_s3xml_error(a.trouble.data, a.trouble.size, &c->error) < 0)
			memset(&c->error, 0, sizeof(c->error)); /* a proxy's page */
		v = store_s3_judge(s, c, err);
	} else {
		fz_err_prefix(err, "%s s3://%s/%s", c->what, s->bucket, c->key ? c->key : s->prefix);
		v = c->ans.fatal || rc == -ECANCELED ? S3_FATAL : S3_RETRY;
		if (v == S3_RETRY && c->into && c->ans.into_got > 0)
			v = check_range(s, c, err) == 0 ? S3_FIXED : S3_FATAL;
	}
	if (v == S3_FIXED && c->into && c->ans.into_got > 0) { /* go on behind what arrived */
		c->into += c->ans.into_got;
		c->into_off += c->ans.into_got;
		c->into_n -= c->ans.into_got;
	}
out:
	attempt_fini(&a);
	return v;
}

static int64_t pause_ms(const struct store_s3_call *c, unsigned tries)
{
	int64_t ms = tries < 7 ? (int64_t)BACKOFF_FIRST_MS << tries : BACKOFF_MAX_MS;

	if (ms > BACKOFF_MAX_MS)
		ms = BACKOFF_MAX_MS;
	ms = ms / 2 + (int64_t)randombytes_uniform((uint32_t)(ms / 2) + 1);
	if (c->ans.retry_after_s > 0 && c->ans.retry_after_s * 1000 > ms)
		ms = c->ans.retry_after_s < 30 ? c->ans.retry_after_s * 1000 : 30000;
	return ms;
}

/* Status shows an outage while the deadline, which is long, still runs. */
static void in_trouble(struct store_s3 *s, bool *was, const struct fz_err *why)
{
	pthread_mutex_lock(&s->mu);
	s->retrying += (why && !*was);
	s->retrying -= (!why && *was);
	if (why)
		s->trouble = *why;
	pthread_mutex_unlock(&s->mu);
	*was = why;
}

static bool was_answered(struct store_s3 *s)
{
	bool answered;

	pthread_mutex_lock(&s->mu);
	answered = s->answered;
	pthread_mutex_unlock(&s->mu);
	return answered;
}

int store_s3_call(struct store_s3 *s, struct store_s3_call *c, struct fz_err *err)
{
	size_t out_base = c->out ? c->out->size : 0;
	unsigned fixes = 0, pauses = 0;
	uint64_t began = fz_mono_ns();
	struct fz_err why = {0};
	bool trouble = false;

	if (!c->deadline_ns)
		c->deadline_ns =
		        c->farewell ? began + FAREWELL_MS * 1000000ull : store_s3_deadline(s, c->body_n + c->into_n);
	c->attempts = 0;
	c->ambiguous = false;
	for (;;) {
		enum store_s3_verdict v;
		int64_t ms = 0;
		int rc;

		c->attempts++;
		v = attempt(s, c, out_base, &why);
		if (v == S3_DONE) {
			in_trouble(s, &trouble, NULL);
			return 0;
		}
		if (v == S3_FIXED && c->into && c->ans.into_got > 0)
			fixes = 0; /* there is progress; the deadline still holds */
		if (v == S3_FATAL || c->farewell || (v == S3_FIXED && ++fixes > FIXES_MAX))
			break;
		/* A refusal was not carried out; silence, 5xx (a proxy's?) and a broken 200 do not tell. */
		if (c->ans.status < 300 || c->ans.status >= 500 || c->ans.status == 408)
			c->ambiguous = true;
		if (v == S3_RETRY)
			ms = pause_ms(c, pauses++);
		if (s->interactive && c->ans.unreachable && !was_answered(s) &&
		    began + NOBODY_MS * 1000000ull < c->deadline_ns)
			c->deadline_ns = began + NOBODY_MS * 1000000ull; /* more likely a wrong name than an outage */
		if (fz_mono_ns() + (uint64_t)ms * 1000000 >= c->deadline_ns) {
			fz_err_prefix(&why, "gave up after %u attempts in %llu s", c->attempts,
			              (unsigned long long)((fz_mono_ns() - began) / 1000000000));
			break;
		}
		atomic_fetch_add(&s->store.retries, 1);
		(void)store_failed(&s->store, why.code);
		fz_debug("%s (attempt %u, again in %lld ms)", fz_log_why(&why), c->attempts, (long long)ms);
		in_trouble(s, &trouble, &why);
		if (fz_mono_ns() + (uint64_t)ms * 1000000 >= began + TELL_MS * 1000000ull)
			tell_wait(&(struct wait){s, c->deadline_ns}, why.text);
		rc = store_s3_sleep(s, ms, &why);
		if (rc < 0)
			break;
	}
	in_trouble(s, &trouble, NULL);
	if (err)
		*err = why;
	return why.code;
}
