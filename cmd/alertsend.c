#include "cmd/alertsend.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/io.h"
#include "store/http.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX   65536
#define URL_MAX    4000
#define INLINE_MAX 120 /* what the snapshot of the configuration can hold (cmd/config_format.c) */
#define TIMEOUT_MS 10000
#define LINKS_MAX  16

/* ---- what the configuration says -------------------------------------------------------------------------------- */

/* Does path, or where its symbolic links lead, lie below dir? Asks nothing of what lies there. */
static bool below(const char *path, const char *dir)
{
	char at[PATH_MAX], to[PATH_MAX];
	size_t n = strlen(dir);

	snprintf(at, sizeof(at), "%s", path);
	for (int i = 0; i < LINKS_MAX; i++) {
		char *slash = strrchr(at, '/');
		ssize_t got;

		if (!strncmp(at, dir, n) && (at[n] == '/' || dir[n - 1] == '/'))
			return true;
		got = readlink(at, to, sizeof(to) - 1);
		if (got <= 0 || !slash)
			return false;
		to[got] = 0;
		if (*to == '/')
			slash = at;
		else
			slash++;
		if (strlen(to) >= sizeof(at) - (size_t)(slash - at))
			return false;
		strcpy(slash, to);
	}
	return true; /* links that lead in a circle */
}

/* A file with secrets: nobody else may read it, and reading it may not need the mount that this process serves. */
static int read_private(const char *key, const char *path, const char *dir, struct fz_buf *out, struct fz_err *err)
{
	struct fz_err why = {0};
	struct stat st;
	int rc;

	if (dir && *dir && below(path, dir))
		return fz_fail(err, FZ_ECONFIG, "%s: %s lies below the mount %s itself", key, path, dir);
	if (stat(path, &st) < 0)
		return fz_fail(err, FZ_EKEYFILE, "%s: cannot read %s: %s", key, path, strerror(errno));
	if (!S_ISREG(st.st_mode) || (st.st_mode & 077))
		return fz_fail(err, FZ_EKEYFILE, "%s: others can read %s: chmod 600 %s", key, path, path);
	rc = fz_read_file(AT_FDCWD, path, FILE_MAX, out, &why);
	return rc < 0 ? fz_fail(err, FZ_EKEYFILE, "%s: cannot read %s: %s", key, path, strerror(-rc)) : 0;
}

/* Scheme and host; what stands before an @ is a password. */
static void show(char *out, size_t cap, const char *url)
{
	const char *host = strstr(url, "://") + 3, *at;
	size_t n = strcspn(host, "/?#");

	for (at = memchr(host, '@', n); at; at = memchr(host, '@', n)) {
		n -= (size_t)(at + 1 - host);
		host = at + 1;
	}
	snprintf(out, cap, "%.*s%.*s%s", (int)(strstr(url, "://") + 3 - url), url, (int)(n < 250 ? n : 250), host,
	         host[n] ? "/..." : "");
}

/* The URL itself stands in no message: it may be a secret. */
static int add_url(struct cmd_alertsend *s, const char *text, size_t n, const char *where, struct fz_err *err)
{
	const char *host;
	char *url;

	if (s->n_urls == CMD_ALERT_URLS)
		return fz_fail(err, FZ_ECONFIG, "alert_url: more than %d", CMD_ALERT_URLS);
	if (n > URL_MAX)
		return fz_fail(err, FZ_ECONFIG, "alert_url%s: longer than %d bytes", where, URL_MAX);
	url = strndup(text, n);
	if (!url)
		return fz_fail_errno(err, ENOMEM, "alerts");
	s->url[s->n_urls] = url;
	host = !strncasecmp(url, "https://", 8) ? url + 8 : !strncasecmp(url, "http://", 7) ? url + 7 : NULL;
	for (const char *p = url; host && *p; p++)
		if ((unsigned char)*p <= ' ' || *p == 0x7f)
			host = NULL;
	if (!host || !*host || strchr("/?#@:", *host)) {
		free(url);
		s->url[s->n_urls] = NULL;
		return fz_fail(err, FZ_ECONFIG, "alert_url%s: neither https://HOST/... nor http://HOST/...", where);
	}
	show(s->shown[s->n_urls], sizeof(s->shown[0]), url);
	s->n_urls++;
	return 0;
}

/* Calls fn for each line that holds something and is no comment. */
static int each_line(struct cmd_alertsend *s, const struct fz_buf *b, const char *path,
                     int (*fn)(struct cmd_alertsend *s, const char *text, size_t n, const char *where,
                               struct fz_err *err),
                     struct fz_err *err)
{
	char where[300];
	int rc = 0, line = 0;

	for (const char *p = fz_buf_str(b); rc == 0 && *p;) {
		size_t n = strcspn(p, "\n"), skip = strspn(p, " \t"), end = n;

		line++;
		while (end > skip && isspace((unsigned char)p[end - 1]))
			end--;
		snprintf(where, sizeof(where), " in %.200s, line %d", path, line);
		if (skip < end && p[skip] != '#')
			rc = fn(s, p + skip, end - skip, where, err);
		p += n + (p[n] == '\n');
	}
	return rc;
}

static void wipe(struct fz_buf *b)
{
	if (b->data)
		explicit_bzero(b->data, b->size);
	fz_buf_fini(b);
}

static int read_urls(struct cmd_alertsend *s, const struct cmd_conf *c, const char *dir, struct fz_err *err)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < c->alert_url.n; i++) {
		const char *v = c->alert_url.v[i];
		struct fz_buf text = {0};

		if (*v == '/') {
			size_t before = s->n_urls;

			rc = read_private("alert_url", v, dir, &text, err);
			if (rc == 0)
				rc = each_line(s, &text, v, add_url, err);
			if (rc == 0 && s->n_urls == before)
				rc = fz_fail(err, FZ_ECONFIG, "alert_url: %s holds no URL", v);
		} else if (strlen(v) > INLINE_MAX)
			rc = fz_fail(err, FZ_ECONFIG,
			             "alert_url: longer than %d bytes: write it into a file (0600) and name that",
			             INLINE_MAX);
		else
			rc = add_url(s, v, strlen(v), "", err);
		wipe(&text);
	}
	return rc;
}

static int read_secret(struct cmd_alertsend *s, const char *path, const char *dir, struct fz_err *err)
{
	int rc = read_private("alert_secret", path, dir, &s->secret, err);

	while (rc == 0 && s->secret.size && isspace(s->secret.data[s->secret.size - 1]))
		s->secret.size--;
	if (rc == 0 && s->secret.size < 16)
		rc = fz_fail(err, FZ_EKEYFILE, "alert_secret: %s holds less than 16 characters", path);
	return rc;
}

static int add_header(struct cmd_alertsend *s, const char *text, size_t n, const char *where, struct fz_err *err)
{
	size_t k = 0, i = 0;
	char *line, *value;

	while (s->lines[k] && k < CMD_ALERT_HEADERS - 1)
		k++;
	if (s->lines[k])
		return fz_fail(err, FZ_ECONFIG, "alert_headers: more than %d", CMD_ALERT_HEADERS);
	line = strndup(text, n);
	if (!line)
		return fz_fail_errno(err, ENOMEM, "alerts");
	s->lines[k] = line;
	while (isalnum((unsigned char)line[i]) || (line[i] && strchr("-_.!~", line[i])))
		i++;
	value = line + i + (line[i] == ':');
	value += strspn(value, " \t");
	if (!i || line[i] != ':' || !*value)
		return fz_fail(err, FZ_ECONFIG, "alert_headers%s: not NAME: VALUE", where);
	line[i] = 0;
	for (const char *p = value; *p; p++)
		if (((unsigned char)*p < ' ' && *p != '\t') || *p == 0x7f)
			return fz_fail(err, FZ_ECONFIG, "alert_headers%s: a control character", where);
	s->headers[s->n_headers++] = (struct store_pair){line, value};
	return 0;
}

static int read_headers(struct cmd_alertsend *s, const char *path, const char *dir, struct fz_err *err)
{
	struct fz_buf text = {0};
	int rc = read_private("alert_headers", path, dir, &text, err);

	if (rc == 0)
		rc = each_line(s, &text, path, add_header, err);
	wipe(&text);
	return rc;
}

int cmd_alertsend_open(struct cmd_alertsend *s, const struct cmd_conf *c, const char *dir, struct fz_err *err)
{
	int rc;

	memset(s, 0, sizeof(*s));
	if (sodium_init() < 0)
		return fz_fail(err, FZ_EINTERNAL, "libsodium does not start");
	s->timeout_ms = c->alert_timeout_ms ? c->alert_timeout_ms : TIMEOUT_MS;
	s->headers[s->n_headers++] = (struct store_pair){"Content-Type", "application/json"};
	s->headers[s->n_headers++] = (struct store_pair){"User-Agent", "fazt/" FZ_VERSION};
	rc = read_urls(s, c, dir, err);
	if (rc == 0 && c->alert_secret)
		rc = read_secret(s, c->alert_secret, dir, err);
	if (rc == 0 && c->alert_headers)
		rc = read_headers(s, c->alert_headers, dir, err);
	if (rc == 0 && c->alert_cacert && access(c->alert_cacert, R_OK) < 0)
		rc = fz_fail(err, FZ_EKEYFILE, "alert_cacert: cannot read %s: %s", c->alert_cacert, strerror(errno));
	if (rc == 0 && s->n_urls)
		rc = store_http_open(&s->http, c->alert_cacert, err);
	return rc;
}

void cmd_alertsend_close(struct cmd_alertsend *s)
{
	store_http_close(s->http);
	for (size_t i = 0; i < CMD_ALERT_URLS; i++)
		if (s->url[i]) {
			explicit_bzero(s->url[i], strlen(s->url[i]));
			free(s->url[i]);
		}
	for (size_t i = 0; i < CMD_ALERT_HEADERS; i++)
		free(s->lines[i]);
	wipe(&s->secret);
	memset(s, 0, sizeof(*s));
}

int cmd_alertsend_check(const struct cmd_conf *c, struct fz_err *err)
{
	struct cmd_alertsend s;
	int rc = cmd_alertsend_open(&s, c, NULL, err);

	if (rc == 0 && !s.n_urls && (c->alert_secret || c->alert_headers))
		rc = fz_fail(err, FZ_ECONFIG, "alert_secret and alert_headers mean nothing without alert_url");
	cmd_alertsend_close(&s);
	return rc;
}

/* ---- sending ---------------------------------------------------------------------------------------------------- */

static void sign(const struct cmd_alertsend *s, const char *body, char out[static 80])
{
	unsigned char mac[crypto_auth_hmacsha256_BYTES];
	crypto_auth_hmacsha256_state st;
	char hex[2 * sizeof(mac) + 1];

	crypto_auth_hmacsha256_init(&st, s->secret.data, s->secret.size);
	crypto_auth_hmacsha256_update(&st, (const unsigned char *)body, strlen(body));
	crypto_auth_hmacsha256_final(&st, mac);
	sodium_memzero(&st, sizeof(st));
	snprintf(out, 80, "sha256=%s", sodium_bin2hex(hex, sizeof(hex), mac, sizeof(mac)));
}

static void take_words(struct cmd_alertsend_result *r, const struct fz_buf *trouble)
{
	snprintf(r->said, sizeof(r->said), "%s", fz_buf_str(trouble));
	for (char *p = r->said; *p; p++)
		if ((unsigned char)*p < ' ' || (unsigned char)*p >= 0x7f)
			*p = ' ';
}

int cmd_alertsend_post(struct cmd_alertsend *s, size_t url, const char *body, struct cmd_alertsend_result *r,
                       struct fz_err *err)
{
	uint64_t start = fz_mono_ns();
	struct store_pair headers[CMD_ALERT_HEADERS + 3];
	struct store_http_answer a = {0};
	struct fz_src *src = NULL;
	struct fz_buf trouble = {0};
	struct fz_err why = {0};
	char signature[80];
	struct store_http_req req = {.method = "POST",
	                             .url = s->url[url],
	                             .headers = headers,
	                             .n_headers = s->n_headers,
	                             .body_n = strlen(body),
	                             .trouble = &trouble,
	                             .deadline_ns = start + (uint64_t)s->timeout_ms * 1000000,
	                             .connect_ms = s->timeout_ms,
	                             .stall_ms = s->timeout_ms,
	                             .cancelled = &s->cancelled};
	int rc;

	*r = (struct cmd_alertsend_result){.retry_after_s = -1};
	memcpy(headers, s->headers, sizeof(headers));
	if (s->secret.size) {
		sign(s, body, signature);
		headers[req.n_headers++] = (struct store_pair){"X-Fazt-Signature", signature};
	}
	rc = fz_src_mem(&src, body, strlen(body), err);
	if (rc < 0)
		return rc;
	req.body = src;
	rc = store_http_perform(s->http, &req, &a, &why);
	r->took_ms = (int64_t)((fz_mono_ns() - start) / 1000000);
	r->status = rc == 0 ? a.status : 0;
	r->retry_after_s = a.retry_after_s;
	if (rc < 0) {
		rc = fz_fail(err, why.code, "%s: %s", s->shown[url], why.text);
	} else if (a.status >= 300 && a.status < 400) {
		rc = fz_fail(err, FZ_ESTORE,
		             "%s answers with a redirect (%d), which is not followed: alert_url must name the "
		             "final address",
		             s->shown[url], a.status);
	} else if (a.status < 200 || a.status >= 300) {
		rc = fz_fail(err, FZ_ESTORE, "%s answers with status %d", s->shown[url], a.status);
	}
	if (rc < 0)
		take_words(r, &trouble);
	store_http_reap(s->http);
	fz_src_close(src);
	fz_buf_fini(&trouble);
	return rc;
}

void cmd_alertsend_cancel(struct cmd_alertsend *s)
{
	atomic_store(&s->cancelled, true);
	if (s->http)
		store_http_wake(s->http);
}
