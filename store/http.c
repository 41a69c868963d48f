#include "store/http.h"

#include "base/clock.h"

#include <curl/curl.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { IDLE_MAX = 4, TROUBLE_MAX_BYTES = 64 * 1024, SLOWEST_BYTES_PER_S = 65536 };
static const uint64_t IDLE_NS = 15ull * 1000 * 1000 * 1000;

/* One easy handle in its multi handle, and the request it carries. */
struct handle {
	struct handle *next;
	CURL *easy;
	CURLM *multi;
	uint64_t used_ns;
	/* while busy, only its thread: */
	const struct store_http_req *req;
	struct store_http_answer *ans;
	struct fz_err *err;
	uint64_t body_at, moved_ns;
	size_t out_base;
	int local_rc; /* why a callback broke the transfer off */
};

struct store_http {
	char *cacert;
	pthread_mutex_t mu;
	struct handle *idle, *busy; /* under mu; idle: most recently used first */
};

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;
static CURLcode curl_rc;

/* OpenSSL writes to sockets without MSG_NOSIGNAL: a server that hangs up must not end the process. libcurl's own way
 * around it (CURLOPT_NOSIGNAL off) changes the disposition back and forth, which threads cannot have. */
static void curl_start(void)
{
	struct sigaction old;

	if (sigaction(SIGPIPE, NULL, &old) == 0 && old.sa_handler == SIG_DFL)
		signal(SIGPIPE, SIG_IGN);
	curl_rc = curl_global_init(CURL_GLOBAL_DEFAULT);
}

int store_http_open(struct store_http **out, const char *cacert, struct fz_err *err)
{
	struct store_http *h;

	pthread_once(&curl_once, curl_start);
	if (curl_rc != CURLE_OK)
		return fz_fail(err, FZ_EINTERNAL, "libcurl does not start: %s", curl_easy_strerror(curl_rc));
	h = calloc(1, sizeof(*h));
	if (!h || (cacert && !(h->cacert = strdup(cacert)))) {
		free(h);
		return fz_fail_errno(err, ENOMEM, "starting HTTP");
	}
	pthread_mutex_init(&h->mu, NULL);
	*out = h;
	return 0;
}

static void handle_free(struct handle *c)
{
	if (!c)
		return;
	if (c->easy)
		curl_easy_cleanup(c->easy);
	if (c->multi)
		curl_multi_cleanup(c->multi);
	free(c);
}

static void free_all(struct handle *c)
{
	while (c) {
		struct handle *next = c->next;

		handle_free(c);
		c = next;
	}
}

void store_http_close(struct store_http *h)
{
	if (!h)
		return;
	free_all(h->idle);
	pthread_mutex_destroy(&h->mu);
	free(h->cacert);
	free(h);
}

static struct handle *handle_get(struct store_http *h)
{
	struct handle *c;

	pthread_mutex_lock(&h->mu);
	c = h->idle;
	if (c)
		h->idle = c->next;
	pthread_mutex_unlock(&h->mu);
	if (!c) {
		c = calloc(1, sizeof(*c));
		if (c) {
			c->easy = curl_easy_init();
			c->multi = curl_multi_init();
		}
		if (!c || !c->easy || !c->multi) {
			handle_free(c);
			return NULL;
		}
		curl_multi_setopt(c->multi, CURLMOPT_MAXCONNECTS, 1L);
	}
	pthread_mutex_lock(&h->mu);
	c->next = h->busy;
	h->busy = c;
	pthread_mutex_unlock(&h->mu);
	return c;
}

/* Cuts off the tail of the idle list that is too old or too long; the caller frees it outside the lock. */
static struct handle *cut_idle_locked(struct store_http *h, uint64_t now)
{
	struct handle **p = &h->idle, *tail;
	size_t n = 0;

	while (*p && n < IDLE_MAX && now - (*p)->used_ns < IDLE_NS) {
		p = &(*p)->next;
		n++;
	}
	tail = *p;
	*p = NULL;
	return tail;
}

static void handle_put(struct store_http *h, struct handle *c)
{
	struct handle *old, **p;

	c->used_ns = fz_mono_ns();
	pthread_mutex_lock(&h->mu);
	for (p = &h->busy; *p != c; p = &(*p)->next)
		;
	*p = c->next;
	c->next = h->idle;
	h->idle = c;
	old = cut_idle_locked(h, c->used_ns);
	pthread_mutex_unlock(&h->mu);
	free_all(old);
}

void store_http_reap(struct store_http *h)
{
	struct handle *old;

	pthread_mutex_lock(&h->mu);
	old = cut_idle_locked(h, fz_mono_ns());
	pthread_mutex_unlock(&h->mu);
	free_all(old);
}

void store_http_wake(struct store_http *h)
{
	pthread_mutex_lock(&h->mu);
	for (struct handle *c = h->busy; c; c = c->next)
		curl_multi_wakeup(c->multi);
	pthread_mutex_unlock(&h->mu);
}

/* Breaks the transfer off for a reason of our own; what libcurl says then does not matter. */
static int break_off(struct handle *c, int rc)
{
	c->local_rc = rc;
	c->ans->fatal = true;
	return 0;
}

static void take(char *out, size_t size, const char *value, size_t n)
{
	snprintf(out, size, "%.*s", (int)n, value);
	for (char *p = out; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = ' ';
}

static uint64_t number(const char *value, size_t n, uint64_t bad)
{
	uint64_t v = 0;

	if (n == 0 || n > 18)
		return bad;
	for (size_t i = 0; i < n; i++) {
		if (value[i] < '0' || value[i] > '9')
			return bad;
		v = v * 10 + (uint64_t)(value[i] - '0');
	}
	return v;
}

static size_t on_header(char *data, size_t one, size_t n, void *arg)
{
	struct handle *c = arg;
	struct store_http_answer *a = c->ans;
	const char *colon = memchr(data, ':', n), *value;
	size_t name, len;

	c->moved_ns = fz_mono_ns();
	a->received += n;
	if (n >= 12 && strncasecmp(data, "HTTP/", 5) == 0) { /* a new answer begins (100 Continue before it is gone) */
		const char *space = memchr(data, ' ', n);
		size_t at = space ? (size_t)(space - data) + 1 : n;

		const struct store_http_answer old = *a;

		*a = (struct store_http_answer){.length = UINT64_MAX, .retry_after_s = -1};
		a->sent = old.sent;
		a->received = old.received;
		a->into_got = old.into_got;
		a->resent = old.resent;
		if (at + 3 <= n)
			a->status = (int)number(data + at, 3, 0);
		return n;
	}
	if (!colon)
		return n;
	name = (size_t)(colon - data);
	value = colon + 1;
	len = n - name - 1;
	while (len > 0 && (*value == ' ' || *value == '\t')) {
		value++;
		len--;
	}
	while (len > 0 && (value[len - 1] == '\r' || value[len - 1] == '\n' || value[len - 1] == ' '))
		len--;
#define IS(text) (name == sizeof(text) - 1 && strncasecmp(data, text, name) == 0)
	if (IS("etag"))
		take(a->etag, sizeof(a->etag), value, len);
	else if (IS("date"))
		take(a->date, sizeof(a->date), value, len);
	else if (IS("x-amz-bucket-region"))
		take(a->region, sizeof(a->region), value, len);
	else if (IS("content-range"))
		take(a->range, sizeof(a->range), value, len);
	else if (IS("content-length"))
		a->length = len <= 15 ? number(value, len, UINT64_MAX) : UINT64_MAX;
	else if (IS("retry-after"))
		a->retry_after_s = (int64_t)number(value, len, 0);
	else if (IS("x-amz-server-side-encryption") && len >= 4 && strncasecmp(value, "aws:", 4) == 0)
		a->etag_opaque = true;
	else if (IS("x-amz-server-side-encryption-customer-algorithm"))
		a->etag_opaque = true;
#undef IS
	return n;
}

static size_t on_body(char *data, size_t one, size_t n, void *arg)
{
	struct handle *c = arg;
	const struct store_http_req *r = c->req;
	struct store_http_answer *a = c->ans;

	c->moved_ns = fz_mono_ns();
	a->received += n;
	if (a->status == 206 && r->into) {
		if (n > r->into_n - a->into_got)
			return (size_t)break_off(
			        c, fz_fail(c->err, FZ_ESTORE, "the store sent more bytes than were asked for"));
		memcpy(r->into + a->into_got, data, n);
		a->into_got += n;
		return n;
	}
	if (a->status >= 200 && a->status < 300) {
		if (r->into)
			return (size_t)break_off(c, fz_fail(c->err, FZ_ESTORE,
			                                    "the store does not honour ranged reads (status %d)",
			                                    a->status));
		if (!r->out)
			return n; /* nobody asked for it */
		if (n > r->out_max - (r->out->size - c->out_base))
			return (size_t)break_off(c, fz_fail(c->err, FZ_ESTORE,
			                                    "the object is larger than the %zu bytes expected",
			                                    r->out_max));
		if (fz_buf_add(r->out, data, n) < 0)
			return (size_t)break_off(c, fz_fail_errno(c->err, ENOMEM, "receiving"));
		return n;
	}
	if (r->trouble && r->trouble->size + n <= TROUBLE_MAX_BYTES && fz_buf_add(r->trouble, data, n) < 0)
		return (size_t)break_off(c, fz_fail_errno(c->err, ENOMEM, "receiving"));
	return n;
}

static size_t on_send(char *data, size_t one, size_t n, void *arg)
{
	struct handle *c = arg;
	uint64_t left = c->req->body_n - c->body_at;
	int rc;

	c->moved_ns = fz_mono_ns();
	if (n > left)
		n = (size_t)left;
	if (n == 0)
		return 0;
	rc = fz_src_read(c->req->body, c->req->body_off + c->body_at, data, n, c->err);
	if (rc < 0) {
		break_off(c, rc);
		return CURL_READFUNC_ABORT;
	}
	c->body_at += n;
	c->ans->sent += n;
	return n;
}

/* libcurl sends a request again by itself when a kept connection ends without an answer. Nobody knows then whether the
 * first one was carried out.                         held by: tests/unit/test_store_s3.c, an_ambiguous_claim_is_read_back */
static int on_seek(void *arg, curl_off_t off, int origin)
{
	struct handle *c = arg;

	if (origin != SEEK_SET || off < 0 || (uint64_t)off > c->req->body_n)
		return CURL_SEEKFUNC_FAIL;
	c->body_at = (uint64_t)off;
	c->ans->resent = true;
	return CURL_SEEKFUNC_OK;
}

/* Header lines; NULL on -ENOMEM. */
static struct curl_slist *make_headers(const struct store_http_req *r)
{
	struct curl_slist *list = curl_slist_append(NULL, "Expect:"), *more;

	for (size_t i = 0; list && i < r->n_headers; i++) {
		char *line;

		/* "Name;" is how libcurl is told to send an empty value */
		if (asprintf(&line, r->headers[i].value[0] ? "%s: %s" : "%s;", r->headers[i].name,
		             r->headers[i].value) < 0)
			line = NULL;
		more = line ? curl_slist_append(list, line) : NULL;
		free(line);
		if (!more) {
			curl_slist_free_all(list);
			return NULL;
		}
		list = more;
	}
	return list;
}

static void set_options(struct store_http *h, struct handle *c, struct curl_slist *headers)
{
	const struct store_http_req *r = c->req;
	CURL *e = c->easy;

	curl_easy_reset(e);
	curl_easy_setopt(e, CURLOPT_URL, r->url);
	curl_easy_setopt(e, CURLOPT_PATH_AS_IS, 1L); /* what was signed is what is sent */
	curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
#if LIBCURL_VERSION_NUM >= 0x075700
	curl_easy_setopt(e, CURLOPT_QUICK_EXIT,
	                 1L); /* a request that is cancelled does not wait for a dead name server */
#endif
	curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
#if LIBCURL_VERSION_NUM >= 0x075500
	curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
#else
	curl_easy_setopt(e, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
	curl_easy_setopt(e, CURLOPT_SSL_VERIFYPEER, 1L);
	curl_easy_setopt(e, CURLOPT_SSL_VERIFYHOST, 2L);
	curl_easy_setopt(e, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	if (h->cacert)
		curl_easy_setopt(e, CURLOPT_CAINFO, h->cacert);
	curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)r->connect_ms);
	curl_easy_setopt(e, CURLOPT_MAXAGE_CONN, 30L);
	curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 1L);
	if (r->into_n >= (1 << 20))
		curl_easy_setopt(e, CURLOPT_BUFFERSIZE, 128L * 1024);
	curl_easy_setopt(e, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(e, CURLOPT_HEADERDATA, c);
	curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(e, CURLOPT_WRITEDATA, c);
	if (r->body) {
		curl_easy_setopt(e, CURLOPT_UPLOAD, 1L);
		curl_easy_setopt(e, CURLOPT_READFUNCTION, on_send);
		curl_easy_setopt(e, CURLOPT_READDATA, c);
		curl_easy_setopt(e, CURLOPT_SEEKFUNCTION, on_seek);
		curl_easy_setopt(e, CURLOPT_SEEKDATA, c);
		if (r->body_n == 0) /* nothing to seek in: it would go unnoticed */
			curl_easy_setopt(e, CURLOPT_FRESH_CONNECT, 1L);
		curl_easy_setopt(e, CURLOPT_INFILESIZE_LARGE, (curl_off_t)r->body_n);
		if (strcmp(r->method, "PUT") != 0)
			curl_easy_setopt(e, CURLOPT_CUSTOMREQUEST, r->method);
	} else if (strcmp(r->method, "HEAD") == 0) {
		curl_easy_setopt(e, CURLOPT_NOBODY, 1L);
	} else if (strcmp(r->method, "GET") != 0) {
		curl_easy_setopt(e, CURLOPT_CUSTOMREQUEST, r->method);
	}
}

/* Runs the transfer until libcurl is done with it. 0 = done, *code is libcurl's word. */
static int run(struct handle *c, CURLcode *code, struct fz_err *err)
{
	const struct store_http_req *r = c->req;
	bool silent = r->silent;

	for (;;) {
		int running = 0, left;
		uint64_t now, until, tell, deadline_ns = r->deadline_ns;
		CURLMsg *msg;

		if (r->cancelled && atomic_load(r->cancelled))
			return fz_fail(err, ECANCELED, "stopped");
		if (curl_multi_perform(c->multi, &running) != CURLM_OK)
			return fz_fail(err, FZ_ENET, "libcurl failed");
		msg = curl_multi_info_read(c->multi, &left);
		if (msg && msg->msg == CURLMSG_DONE) {
			*code = msg->data.result;
			return 0;
		}
		now = fz_mono_ns();
		if (c->ans->length < UINT64_MAX) /* now it is known how much is to come */
			deadline_ns += c->ans->length / SLOWEST_BYTES_PER_S * 1000000000;
		if (now >= deadline_ns)
			return fz_fail(err, FZ_ETIMEOUT, "no answer in time");
		until = c->moved_ns + (uint64_t)r->stall_ms * 1000000;
		if (now >= until)
			return fz_fail(err, FZ_ETIMEOUT, "nothing moved for %lld ms", (long long)r->stall_ms);
		if (until > deadline_ns)
			until = deadline_ns;
		tell = c->moved_ns + (uint64_t)r->silent_ms * 1000000;
		if (silent && now >= tell) {
			silent = false;
			r->silent(r->silent_arg);
		} else if (silent && until > tell) {
			until = tell;
		}
		until = (until - now) / 1000000 + 1;
		curl_multi_poll(c->multi, NULL, 0, until < 60000 ? (int)until : 60000, NULL);
	}
}

static int judge(struct handle *c, CURLcode code, const char *detail, struct fz_err *err)
{
	long os_errno = 0;

	if (c->local_rc < 0)
		return c->local_rc;
	switch (code) {
	case CURLE_OK:
		return c->ans->status ? 0 : fz_fail(err, FZ_ENET, "the answer is not HTTP");
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CACERT_BADFILE:
	case CURLE_SSL_CERTPROBLEM:
	case CURLE_SSL_ISSUER_ERROR:
		c->ans->fatal = true;
		return fz_fail(err, FZ_ENET,
		               "the server's certificate is not trusted (%s); name a private CA with cacert=FILE",
		               *detail ? detail : curl_easy_strerror(code));
	case CURLE_URL_MALFORMAT:
	case CURLE_UNSUPPORTED_PROTOCOL:
	case CURLE_OUT_OF_MEMORY:
		c->ans->fatal = true;
		return fz_fail(err, FZ_ENET, "%s", *detail ? detail : curl_easy_strerror(code));
	case CURLE_COULDNT_RESOLVE_HOST:
	case CURLE_COULDNT_CONNECT:
		c->ans->unreachable = true;
		curl_easy_getinfo(c->easy, CURLINFO_OS_ERRNO, &os_errno);
		return fz_fail(err, FZ_ENET, "%s%s%s", *detail ? detail : curl_easy_strerror(code),
		               os_errno ? ": " : "", os_errno ? strerror((int)os_errno) : "");
	case CURLE_OPERATION_TIMEDOUT:
		return fz_fail(err, FZ_ETIMEOUT, "no connection within %lld ms", (long long)c->req->connect_ms);
	case CURLE_PARTIAL_FILE:
		return fz_fail(err, FZ_ENET, "the connection ended in the middle of an answer");
	default:
		return fz_fail(err, FZ_ENET, "%s", *detail ? detail : curl_easy_strerror(code));
	}
}

int store_http_perform(struct store_http *h, const struct store_http_req *req, struct store_http_answer *ans,
                       struct fz_err *err)
{
	struct handle *c = handle_get(h);
	char detail[CURL_ERROR_SIZE] = "";
	struct curl_slist *headers = NULL;
	CURLcode code = CURLE_OK;
	struct fz_err why = {0};
	int rc;

	*ans = (struct store_http_answer){.length = UINT64_MAX, .retry_after_s = -1};
	if (c)
		headers = make_headers(req);
	if (!headers) {
		if (c)
			handle_put(h, c);
		ans->fatal = true;
		return fz_fail_errno(err, ENOMEM, "sending a request");
	}
	c->req = req;
	c->ans = ans;
	c->err = &why;
	c->body_at = 0;
	c->local_rc = 0;
	c->out_base = req->out ? req->out->size : 0;
	c->moved_ns = fz_mono_ns();
	set_options(h, c, headers);
	curl_easy_setopt(c->easy, CURLOPT_ERRORBUFFER, detail);
	curl_multi_add_handle(c->multi, c->easy);
	rc = run(c, &code, &why);
	curl_multi_remove_handle(c->multi, c->easy); /* in the middle of a transfer: closes the connection */
	if (rc == 0)
		rc = judge(c, code, detail, &why);
	curl_easy_setopt(c->easy, CURLOPT_ERRORBUFFER, NULL);
	curl_easy_setopt(c->easy, CURLOPT_HTTPHEADER, NULL);
	curl_slist_free_all(headers);
	handle_put(h, c);
	if (rc < 0 && err)
		*err = why;
	return rc;
}
