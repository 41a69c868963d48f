#include "store/url.h"

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { KEY_MAX_BYTES = 1024 }; /* S3's limit, UTF-8 bytes */

static int no_memory(struct fz_err *err)
{
	return fz_fail_errno(err, ENOMEM, "reading a store URL");
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Copies text[0..n) with %XX decoded. */
static int decode(char **out, const char *what, const char *text, size_t n, struct fz_err *err)
{
	char *s = malloc(n + 1), *w = s;

	if (!s)
		return no_memory(err);
	for (size_t i = 0; i < n; i++) {
		int hi, lo;

		if (text[i] != '%') {
			*w++ = text[i];
			continue;
		}
		hi = i + 2 < n ? hex_digit(text[i + 1]) : -1;
		lo = i + 2 < n ? hex_digit(text[i + 2]) : -1;
		if (hi < 0 || lo < 0 || (hi == 0 && lo == 0)) {
			free(s);
			return fz_fail(err, FZ_EUSAGE, "store URL: %s: '%%' must be followed by two hex digits", what);
		}
		*w++ = (char)(hi << 4 | lo);
		i += 2;
	}
	*w = 0;
	*out = s;
	return 0;
}

/* Checks '/'-separated components; allow_open: the last may be empty ("a/") and the whole may be "". */
static int check_components(const char *what, const char *s, bool allow_open, struct fz_err *err)
{
	size_t total = strlen(s);

	if (total > KEY_MAX_BYTES)
		return fz_fail(err, FZ_EUSAGE, "%s of %zu bytes is longer than %d", what, total, KEY_MAX_BYTES);
	for (const char *p = s; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			return fz_fail(err, FZ_EUSAGE,
			               "%s has a control character: no store takes that, give it another name", what);
	for (const char *p = s;;) {
		size_t n = strcspn(p, "/");
		bool last = p[n] == 0;

		if (n == 0 && !(last && allow_open))
			return fz_fail(err, FZ_EUSAGE, "%s \"%s\" has an empty part", what, s);
		if ((n == 1 && p[0] == '.' && (!last || !allow_open)) ||
		    (n == 2 && p[0] == '.' && p[1] == '.' && (!last || !allow_open)))
			return fz_fail(err, FZ_EUSAGE, "%s \"%s\" has a \".\" or \"..\" part", what, s);
		if (last)
			return 0;
		p += n + 1;
	}
}

int store_key_check(const char *key, struct fz_err *err)
{
	return check_components("key", key, false, err);
}

int store_prefix_check(const char *prefix, struct fz_err *err)
{
	return check_components("prefix", prefix, true, err);
}

int store_url_endpoint(const char *endpoint, bool *https, char **host, struct fz_err *err)
{
	const char *p = endpoint, *port;
	size_t n;

	if (strncasecmp(p, "https://", 8) == 0) {
		*https = true;
		p += 8;
	} else if (strncasecmp(p, "http://", 7) == 0) {
		*https = false;
		p += 7;
	} else {
		return fz_fail(err, FZ_EUSAGE, "endpoint must begin with http:// or https://");
	}
	n = strlen(p);
	if (n > 0 && p[n - 1] == '/')
		n--;
	if (memchr(p, '@', n))
		return fz_fail(err, FZ_EUSAGE, "endpoint must not hold a user name or password");
	if (n == 0 || n > 255)
		return fz_fail(err, FZ_EUSAGE, "endpoint has no host");
	for (size_t i = 0; i < n; i++)
		if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]", p[i]))
			return fz_fail(err, FZ_EUSAGE, "endpoint must be only http[s]://host[:port]");
	port = memrchr(p, ':', n);
	if (port && memchr(port, ']', (size_t)(p + n - port)))
		port = NULL; /* a colon of an IPv6 address */
	if (port) {
		size_t digits = (size_t)(p + n - port) - 1;
		unsigned value = 0;

		for (size_t i = 1; i <= digits && digits <= 5; i++)
			value = port[i] >= '0' && port[i] <= '9' ? value * 10 + (unsigned)(port[i] - '0') : 1000000;
		if (digits == 0 || digits > 5 || value == 0 || value > 65535 || port == p)
			return fz_fail(err, FZ_EUSAGE, "endpoint has a bad port");
		if (value == (*https ? 443u : 80u)) /* what goes into Host: and the signature */
			n = (size_t)(port - p);
	}
	*host = strndup(p, n);
	if (!*host)
		return no_memory(err);
	for (char *c = *host; *c; c++)
		if (*c >= 'A' && *c <= 'Z')
			*c |= 0x20;
	return 0;
}

static int parse_param(struct store_url *u, const char *p, size_t n, struct fz_err *err)
{
	static const struct {
		const char *name;
		size_t at;
	} texts[] = {
	        {"endpoint",    offsetof(struct store_url, endpoint)   },
	        {"region",      offsetof(struct store_url, region)     },
	        {"profile",     offsetof(struct store_url, profile)    },
	        {"credentials", offsetof(struct store_url, credentials)},
	        {"cacert",      offsetof(struct store_url, cacert)     },
	};
	const char *eq = memchr(p, '=', n);
	size_t name = eq ? (size_t)(eq - p) : n;
	char *value = NULL;
	int rc;

	if (!eq || name == 0)
		return fz_fail(err, FZ_EUSAGE, "store URL: parameter \"%.*s\" is not name=value",
		               (int)(n > 40 ? 40 : n), p);
	rc = decode(&value, "parameter", eq + 1, n - name - 1, err);
	if (rc < 0)
		return rc;
	if (name == 10 && memcmp(p, "path-style", 10) == 0) {
		if (strcmp(value, "yes") == 0 || strcmp(value, "true") == 0)
			u->path_style = 1;
		else if (strcmp(value, "no") == 0 || strcmp(value, "false") == 0)
			u->path_style = 0;
		else
			rc = fz_fail(err, FZ_EUSAGE, "store URL: path-style must be yes or no");
		free(value);
		return rc;
	}
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		char **field = (void *)((char *)u + texts[i].at);

		if (strlen(texts[i].name) != name || memcmp(texts[i].name, p, name) != 0)
			continue;
		if (*field || !*value) {
			free(value);
			return fz_fail(err, FZ_EUSAGE, "store URL: %s is %s", texts[i].name,
			               *field ? "given twice" : "empty");
		}
		*field = value;
		return 0;
	}
	free(value);
	/* The value is not repeated: it may be somebody's secret in the wrong place. */
	return fz_fail(
	        err, FZ_EUSAGE,
	        "store URL: unknown parameter \"%.*s\" (known: endpoint, region, path-style, profile, credentials, "
	        "cacert; keys belong in the environment or a credentials file)",
	        (int)(name > 40 ? 40 : name), p);
}

static int parse_s3(struct store_url *u, const char *p, struct fz_err *err)
{
	size_t end = strcspn(p, "?"), bucket = strcspn(p, "/?");
	size_t first = bucket, last = end;
	bool https;
	char *host = NULL;
	int rc;

	if (memchr(p, '@', bucket))
		return fz_fail(err, FZ_EUSAGE,
		               "store URL: keys do not belong in the URL: use the environment or a file");
	if (bucket < 3 || bucket > 255)
		return fz_fail(err, FZ_EUSAGE, "store URL: the bucket's name must have 3 to 63 characters");
	for (size_t i = 0; i < bucket; i++)
		if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_", p[i]))
			return fz_fail(err, FZ_EUSAGE,
			               "store URL: the bucket's name has a character that S3 does not allow");
	if (strspn(p, ".") > 0)
		return fz_fail(err, FZ_EUSAGE, "store URL: the bucket's name must not begin with a dot");
	u->bucket = strndup(p, bucket);
	if (!u->bucket)
		return no_memory(err);
	if (first < last && p[first] == '/')
		first++;
	if (last > first && p[last - 1] == '/')
		last--;
	rc = decode(&u->prefix, "prefix", p + first, last - first, err);
	if (rc == 0 && *u->prefix)
		rc = check_components("store URL: prefix", u->prefix, false, err);
	p += end;
	while (rc == 0 && *p) {
		size_t n = strcspn(++p, "&");

		if (n > 0)
			rc = parse_param(u, p, n, err);
		p += n;
	}
	if (rc == 0 && u->endpoint) {
		rc = store_url_endpoint(u->endpoint, &https, &host, err);
		free(host);
		if (rc < 0)
			return fz_err_prefix(err, "store URL");
	}
	if (rc == 0 && u->region &&
	    strspn(u->region, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != strlen(u->region))
		return fz_fail(err, FZ_EUSAGE, "store URL: region has a character that no region has");
	return rc;
}

static int parse_dir(struct store_url *u, const char *p, struct fz_err *err)
{
	size_t n = strlen(p);

	if (n >= 2 && p[0] == '/' && p[1] == '/') /* dir:///path */
		while (n > 1 && p[1] == '/') {
			p++;
			n--;
		}
	if (p[0] != '/')
		return fz_fail(err, FZ_EUSAGE, "store URL: dir: needs an absolute path, as in dir:/backup");
	while (n > 1 && p[n - 1] == '/')
		n--;
	u->path = strndup(p, n);
	return u->path ? 0 : no_memory(err);
}

int store_url_parse(struct store_url *out, const char *url, struct fz_err *err)
{
	struct store_url u = {.path_style = -1};
	int rc;

	if (strncmp(url, "dir:", 4) == 0) {
		u.kind = STORE_DIR;
		rc = parse_dir(&u, url + 4, err);
	} else if (strncmp(url, "s3://", 5) == 0) {
		u.kind = STORE_S3;
		rc = parse_s3(&u, url + 5, err);
	} else {
		rc = fz_fail(err, FZ_EUSAGE, "store URL must begin with dir:/ or s3://");
	}
	if (rc < 0)
		store_url_fini(&u);
	else
		*out = u;
	return rc;
}

void store_url_fini(struct store_url *u)
{
	free(u->path);
	free(u->bucket);
	free(u->prefix);
	free(u->endpoint);
	free(u->region);
	free(u->profile);
	free(u->credentials);
	free(u->cacert);
	memset(u, 0, sizeof(*u));
}
