#include "cmd/http.h"

#include "cmd/http_priv.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/net.h"
#include "cmd/ask.h"
#include "cmd/history.h"
#include "cmd/metrics.h"
#include "cmd/page.h"
#include "cmd/quote.h"
#include "cmd/worker.h"

#include <arpa/inet.h>
#include <cJSON.h>
#include <errno.h>
#include <poll.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define CONNECTIONS      64
#define CONNECTION_BYTES 16384
#define IDLE_S           15
#define FRESH_NS         UINT64_C(200000000)

const cJSON *cmd_http_state(struct cmd_http *h, bool fresh)
{
	uint64_t now = fz_mono_ns();
	cJSON *ask, *o;
	int fd = -1;

	if (h->state && !fresh && now - h->state_ns < FRESH_NS)
		return h->state;
	ask = cmd_request("status");
	o = cJSON_CreateObject();
	if (!ask || !o || h->w->handler.answer(&h->w->handler, ask, o, &fd, NULL) < 0) {
		cJSON_Delete(o);
		o = NULL;
	}
	cJSON_Delete(ask);
	cJSON_Delete(h->state);
	h->state = o;
	h->state_ns = now;
	return o;
}

/* ---- answers ---------------------------------------------------------------------------------------------------- */

void cmd_http_headers(const struct cmd_http *h, struct MHD_Response *r, const char *type)
{
	static const char *const always[][2] = {
	        {"X-Content-Type-Options",       "nosniff"    },
	        {"X-Frame-Options",              "DENY"       },
	        {"Referrer-Policy",              "no-referrer"},
	        {"Cross-Origin-Resource-Policy", "same-origin"},
	        {"Cross-Origin-Opener-Policy",   "same-origin"},
	        {"Cache-Control",                "no-store"   },
	};

	for (size_t i = 0; i < sizeof(always) / sizeof(always[0]); i++)
		MHD_add_response_header(r, always[i][0], always[i][1]);
	MHD_add_response_header(r, "Content-Type", type);
	MHD_add_response_header(r, "Content-Security-Policy", h->policy);
}

static enum MHD_Result send_text(struct cmd_http *h, struct MHD_Connection *c, unsigned code, const char *type,
                                 const char *text, size_t size, enum MHD_ResponseMemoryMode mode)
{
	struct MHD_Response *r = MHD_create_response_from_buffer(size, (void *)text, mode);
	enum MHD_Result rc;

	if (!r)
		return MHD_NO;
	cmd_http_headers(h, r, type);
	if (code == MHD_HTTP_METHOD_NOT_ALLOWED)
		MHD_add_response_header(r, "Allow", "GET, HEAD");
	if (code == MHD_HTTP_METHOD_NOT_ALLOWED || code == MHD_HTTP_BAD_REQUEST)
		MHD_add_response_header(r, "Connection", "close"); /* a body may follow that nobody reads */
	if (code == MHD_HTTP_SERVICE_UNAVAILABLE)
		MHD_add_response_header(r, "Retry-After", "10");
	rc = MHD_queue_response(c, code, r);
	MHD_destroy_response(r);
	return rc;
}

static enum MHD_Result send_json(struct cmd_http *h, struct MHD_Connection *c, unsigned code, const cJSON *o)
{
	char *text = o ? cmd_json(o, false) : NULL;
	enum MHD_Result rc = MHD_NO;

	if (text)
		rc = send_text(h, c, code, "application/json", text, strlen(text), MHD_RESPMEM_MUST_COPY);
	free(text);
	return rc;
}

static enum MHD_Result send_error(struct cmd_http *h, struct MHD_Connection *c, unsigned code, const char *text)
{
	cJSON *o = cJSON_CreateObject();
	enum MHD_Result rc;

	cJSON_AddStringToObject(o, "error", text);
	rc = send_json(h, c, code, o);
	cJSON_Delete(o);
	return rc;
}

static enum MHD_Result page(struct cmd_http *h, struct MHD_Connection *c)
{
	return send_text(h, c, MHD_HTTP_OK, "text/html; charset=utf-8", cmd_page, cmd_page_size(),
	                 MHD_RESPMEM_PERSISTENT);
}

static enum MHD_Result metrics(struct cmd_http *h, struct MHD_Connection *c)
{
	const cJSON *state = cmd_http_state(h, true);
	struct fz_buf out = {0};
	enum MHD_Result rc = MHD_NO;

	if (state && cmd_metrics(state, &out, NULL) == 0)
		rc = send_text(h, c, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8", fz_buf_str(&out),
		               out.size, MHD_RESPMEM_MUST_COPY);
	fz_buf_fini(&out);
	return rc;
}

static enum MHD_Result healthz(struct cmd_http *h, struct MHD_Connection *c)
{
	static const char *const keys[] = {"name", "state", "lag_seconds", "lag_max_seconds"};
	const cJSON *state = cmd_http_state(h, true), *t;
	bool well = cJSON_IsTrue(cJSON_GetObjectItem(state, "healthy"));
	cJSON *o = cJSON_CreateObject(), *targets, *p;
	enum MHD_Result rc;

	if (!state)
		goto out;
	cJSON_AddBoolToObject(o, "healthy", well);
	cJSON_AddItemToObject(o, "problems", cJSON_Duplicate(cJSON_GetObjectItem(state, "problems"), true));
	targets = cJSON_AddArrayToObject(o, "targets");
	cJSON_ArrayForEach (t, cJSON_GetObjectItem(state, "targets")) {
		p = cJSON_CreateObject();
		for (size_t k = 0; k < sizeof(keys) / sizeof(keys[0]); k++)
			cJSON_AddItemToObject(p, keys[k], cJSON_Duplicate(cJSON_GetObjectItem(t, keys[k]), true));
		cJSON_AddItemToArray(targets, p);
	}
out:
	rc = state ? send_json(h, c, well ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE, o) : MHD_NO;
	cJSON_Delete(o);
	return rc;
}

static enum MHD_Result status(struct cmd_http *h, struct MHD_Connection *c)
{
	return send_json(h, c, MHD_HTTP_OK, cmd_http_state(h, false));
}

static int find_history(struct cmd_http *h, const char *name, cJSON *o, struct fz_err *err)
{
	int rc = cmd_history_answer(h->w, name, o, err);
	char *other = rc == -FZ_ENOTFOUND ? cmd_quote_told(name) : NULL;

	if (other && strcmp(other, name) != 0)
		rc = cmd_history_answer(h->w, other, o, err);
	free(other);
	return rc;
}

static enum MHD_Result history(struct cmd_http *h, struct MHD_Connection *c)
{
	const char *name = MHD_lookup_connection_value(c, MHD_GET_ARGUMENT_KIND, "database");
	cJSON *o = cJSON_CreateObject();
	struct fz_err err = {0};
	enum MHD_Result rc;

	if (!name)
		rc = send_error(h, c, MHD_HTTP_BAD_REQUEST, "say which: ?database=NAME");
	else if (find_history(h, name, o, &err) < 0)
		rc = send_error(h, c, err.code == -FZ_ENOTFOUND ? MHD_HTTP_NOT_FOUND : MHD_HTTP_INTERNAL_SERVER_ERROR,
		                err.text);
	else
		rc = send_json(h, c, MHD_HTTP_OK, o);
	cJSON_Delete(o);
	return rc;
}

static enum MHD_Result events(struct cmd_http *h, struct MHD_Connection *c)
{
	bool full = false;
	enum MHD_Result rc = cmd_sse_answer(h, c, &full);

	return full ? send_error(h, c, MHD_HTTP_SERVICE_UNAVAILABLE, "too many listeners") : rc;
}

static const struct route {
	const char *path;
	enum MHD_Result (*answer)(struct cmd_http *h, struct MHD_Connection *c);
} routes[] = {
        {"/",            page   },
        {"/metrics",     metrics},
        {"/healthz",     healthz},
        {"/api/status",  status },
        {"/api/history", history},
        {"/events",      events },
};

/* ---- requests --------------------------------------------------------------------------------------------------- */

/* ":PORT", or nothing. */
static bool is_port(const char *text)
{
	return !*text || (*text == ':' && text[1] && !text[1 + strspn(text + 1, "0123456789")]);
}

/* The name in a Host header: an address cannot be made to point elsewhere, a name can. */
static bool host_allowed(const struct cmd_http *h, const char *text)
{
	const struct cmd_list *more = &h->w->conf.http_hosts;
	uint8_t address[16];
	char name[256];
	size_t n;

	if (*text == '[') {
		n = strcspn(++text, "]");
		if (n >= sizeof(name) || text[n] != ']' || !is_port(text + n + 1))
			return false;
		memcpy(name, text, n);
		name[n] = 0;
		return inet_pton(AF_INET6, name, address) == 1;
	}
	n = strcspn(text, ":");
	if (n >= sizeof(name) || !is_port(text + n))
		return false;
	memcpy(name, text, n);
	name[n] = 0;
	if (inet_pton(AF_INET, name, address) == 1 || !strcasecmp(name, "localhost") ||
	    (*h->host && !strcasecmp(name, h->host)))
		return true;
	for (size_t i = 0; i < more->n; i++)
		if (!strcasecmp(name, more->v[i]))
			return true;
	return false;
}

static bool has_body(struct MHD_Connection *c)
{
	const char *size = MHD_lookup_connection_value(c, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);

	return (size && strcmp(size, "0")) ||
	       MHD_lookup_connection_value(c, MHD_HEADER_KIND, MHD_HTTP_HEADER_TRANSFER_ENCODING);
}

static enum MHD_Result handle(void *cls, struct MHD_Connection *c, const char *url, const char *method,
                              const char *version, const char *upload, size_t *upload_bytes, void **state)
{
	const char *host = MHD_lookup_connection_value(c, MHD_HEADER_KIND, MHD_HTTP_HEADER_HOST);
	struct cmd_http *h = cls;

	(void)upload;
	(void)upload_bytes;
	if (!host && strcmp(version, MHD_HTTP_VERSION_1_0))
		return send_error(h, c, MHD_HTTP_BAD_REQUEST, "a request names its host");
	if (host && !host_allowed(h, host))
		return send_error(h, c, MHD_HTTP_FORBIDDEN,
		                  "this name is not one that is served here ([http] hosts in fazt.conf)");
	if (strcmp(method, MHD_HTTP_METHOD_GET) && strcmp(method, MHD_HTTP_METHOD_HEAD))
		return send_error(h, c, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET and HEAD");
	if (!*state && has_body(c))
		return send_error(h, c, MHD_HTTP_BAD_REQUEST, "a request has no body here");
	if (!*state) { /* an answer now would end the connection */
		*state = h;
		return MHD_YES;
	}
	for (size_t i = 0; i < sizeof(routes) / sizeof(routes[0]); i++)
		if (!strcmp(url, routes[i].path))
			return routes[i].answer(h, c);
	return send_error(h, c, MHD_HTTP_NOT_FOUND, "there is nothing here");
}

static void notice_end(void *cls, struct MHD_Connection *c, void **socket_state,
                       enum MHD_ConnectionNotificationCode what)
{
	struct cmd_http *h = cls;

	(void)c;
	(void)socket_state;
	if (what == MHD_CONNECTION_NOTIFY_CLOSED)
		h->ended = true;
}

/* At its limit of connections the daemon looks at its socket no more, and when some have ended only its next round does so again:
 * with nobody else left, nothing would wake it for that. */
static void serve(struct cmd_http *h)
{
	do {
		h->ended = false;
		MHD_run(h->daemon);
	} while (h->ended);
}

static void run(void *arg)
{
	struct cmd_http *h = arg;
	int epoll = MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
	struct pollfd p[2] = {
	        {.fd = epoll,     .events = POLLIN},
                {.fd = h->stopfd, .events = POLLIN}
        };

	for (;;) {
		int wait = cmd_sse_run(h);
		MHD_UNSIGNED_LONG_LONG ms;

		if (MHD_get_timeout(h->daemon, &ms) == MHD_YES && (wait < 0 || ms < (unsigned)wait))
			wait = (int)ms;
		if (poll(p, 2, wait) < 0 && errno != EINTR)
			break;
		if (p[1].revents)
			break;
		serve(h);
	}
}

/* ---- start and stop --------------------------------------------------------------------------------------------- */

/* Only scripts that are in the page may run in it. */
static int make_policy(struct cmd_http *h, struct fz_err *err)
{
	static const char open[] = "<script>", close[] = "</script>";
	const char *p = cmd_page, *end = cmd_page_end, *to;
	struct fz_buf b = {0};
	int rc = fz_buf_addf(&b, "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
	                         "connect-src 'self'; img-src 'self' data:; style-src 'unsafe-inline'; script-src");

	for (int n = 0; rc == 0; n++) {
		char hash[sodium_base64_ENCODED_LEN(32, sodium_base64_VARIANT_ORIGINAL)];
		uint8_t sum[32];

		p = memmem(p, (size_t)(end - p), open, sizeof(open) - 1);
		if (!p) {
			rc = n ? 0 : fz_buf_addf(&b, " 'none'");
			break;
		}
		p += sizeof(open) - 1;
		to = memmem(p, (size_t)(end - p), close, sizeof(close) - 1);
		if (!to)
			break;
		crypto_hash_sha256(sum, (const uint8_t *)p, (size_t)(to - p));
		rc = fz_buf_addf(
		        &b, " 'sha256-%s'",
		        sodium_bin2base64(hash, sizeof(hash), sum, sizeof(sum), sodium_base64_VARIANT_ORIGINAL));
		p = to;
	}
	if (rc == 0 && b.size >= sizeof(h->policy))
		rc = fz_fail(err, FZ_EINTERNAL, "the page has too many scripts");
	if (rc == 0)
		memcpy(h->policy, b.data, b.size + 1);
	fz_buf_fini(&b);
	return rc;
}

/* ":PORT" is loopback. */
static int address(const char *listen, char out[static FZ_NET_ADDR], char host[static 256], struct fz_err *err)
{
	char port[8];
	int rc = fz_net_split(listen, host, port, err);

	if (rc == 0)
		snprintf(out, FZ_NET_ADDR, "%s%s", *host ? "" : "127.0.0.1", listen);
	return rc;
}

int cmd_http_check(const struct cmd_conf *c, struct fz_err *err)
{
	char text[FZ_NET_ADDR], host[256];
	int rc = c->http_listen ? address(c->http_listen, text, host, err) : 0;

	if (rc < 0)
		return fz_fail(err, FZ_ECONFIG, "[http] listen: %.300s", err ? err->text : "");
	return 0;
}

/* The thread is not started yet. */
static int listen_at(struct cmd_http *h, const char *text, struct fz_err *err)
{
	int fd = fz_net_listen(text, err);

	if (fd < 0)
		return fz_err_prefix(err, "[http] listen");
	h->daemon = MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, handle, h,
	                             MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS,
	                             MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_BYTES,
	                             MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_S, MHD_OPTION_NOTIFY_CONNECTION,
	                             notice_end, h, MHD_OPTION_END);
	if (!h->daemon) {
		fz_close(&fd);
		return fz_fail(err, FZ_EINTERNAL, "libmicrohttpd does not start");
	}
	return 0;
}

int cmd_http_start(struct cmd_http **out, struct cmd_serving *w, struct fz_err *err)
{
	char text[FZ_NET_ADDR];
	struct cmd_http *h;
	int rc;

	if (!w->conf.http_listen)
		return 0;
	h = calloc(1, sizeof(*h));
	if (!h)
		return fz_fail_errno(err, ENOMEM, "starting the status page");
	h->w = w;
	h->stopfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rc = h->stopfd < 0 ? fz_fail_errno(err, errno, "eventfd") : make_policy(h, err);
	if (rc == 0)
		rc = address(w->conf.http_listen, text, h->host, err);
	if (rc == 0)
		rc = listen_at(h, text, err);
	if (rc == 0)
		rc = fz_worker_start(&h->thread, "http", run, h, err);
	if (rc == 0) {
		*out = h;
		return 0;
	}
	cmd_http_stop(h);
	if (w->info.resumed && rc != -ENOMEM) { /* applications live on: a port is no reason to leave them alone */
		fz_log_err("the status page is not served", err);
		w->http_err = *err;
		*err = (struct fz_err){0};
		rc = 0;
	}
	return rc;
}

void cmd_http_stop(struct cmd_http *h)
{
	if (!h)
		return;
	if (h->stopfd >= 0)
		(void)!write(h->stopfd, &(uint64_t){1}, sizeof(uint64_t));
	fz_worker_stop(&h->thread);
	cmd_sse_end(h);
	if (h->daemon)
		MHD_stop_daemon(h->daemon);
	cmd_sse_fini(h);
	cJSON_Delete(h->state);
	fz_close(&h->stopfd);
	free(h);
}
