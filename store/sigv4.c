#include "store/sigv4.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAC_BYTES = crypto_auth_hmacsha256_BYTES, HEX_SIZE = 2 * MAC_BYTES + 1 };

char *store_amz_date(char out[static STORE_AMZ_DATE_SIZE], int64_t ms)
{
	time_t t = (time_t)(ms / 1000);
	struct tm tm;

	gmtime_r(&t, &tm);
	if (strftime(out, STORE_AMZ_DATE_SIZE, "%Y%m%dT%H%M%SZ", &tm) == 0)
		memcpy(out, "19700101T000000Z", STORE_AMZ_DATE_SIZE); /* a clock past the year 9999 */
	return out;
}

int store_uri_encode(struct fz_buf *out, const char *text, bool keep_slash)
{
	static const char hex[] = "0123456789ABCDEF";
	uint8_t *p = fz_buf_room(out, 3 * strlen(text)), *w = p;

	if (!p)
		return -ENOMEM;
	for (const unsigned char *t = (const unsigned char *)text; *t; t++) {
		/* not isalnum(): that one asks the locale */
		if ((*t >= 'a' && *t <= 'z') || (*t >= 'A' && *t <= 'Z') || (*t >= '0' && *t <= '9') || *t == '-' ||
		    *t == '.' || *t == '_' || *t == '~' || (*t == '/' && keep_slash)) {
			*w++ = *t;
		} else {
			*w++ = '%';
			*w++ = (uint8_t)hex[*t >> 4];
			*w++ = (uint8_t)hex[*t & 15];
		}
	}
	*w = 0;
	out->size += (size_t)(w - p);
	return 0;
}

/* Encoded names and values are compared with '=' cut out, so that "a=" sorts before "a1=". */
static int by_query(const void *a, const void *b)
{
	const char *x = *(char *const *)a, *y = *(char *const *)b;
	size_t nx = strcspn(x, "="), ny = strcspn(y, "=");
	int c = memcmp(x, y, nx < ny ? nx : ny);

	if (c == 0 && nx != ny)
		c = nx < ny ? -1 : 1;
	return c ? c : strcmp(x, y);
}

static void free_texts(char **v, size_t n)
{
	for (size_t i = 0; v && i < n; i++)
		free(v[i]);
	free(v);
}

int store_uri_query(struct fz_buf *out, const struct store_pair *query, size_t n)
{
	char **v = calloc(n + 1, sizeof(*v));
	int rc = v ? 0 : -ENOMEM;

	for (size_t i = 0; rc == 0 && i < n; i++) {
		struct fz_buf b = {0};

		rc = store_uri_encode(&b, query[i].name, false);
		if (rc == 0)
			rc = fz_buf_add(&b, "=", 1);
		if (rc == 0)
			rc = store_uri_encode(&b, query[i].value ? query[i].value : "", false);
		v[i] = (char *)b.data;
	}
	if (rc == 0)
		qsort(v, n, sizeof(*v), by_query);
	for (size_t i = 0; rc == 0 && i < n; i++)
		rc = fz_buf_addf(out, "%s%s", i ? "&" : "", v[i]);
	free_texts(v, n);
	return rc;
}

/* "name:value" with the name in lower case, the value trimmed and its runs of spaces made one. */
static char *header_line(const struct store_pair *h)
{
	size_t n = strlen(h->name), at = 0;
	char *s = malloc(n + strlen(h->value) + 2);

	if (!s)
		return NULL;
	for (; at < n; at++)
		s[at] = (char)(h->name[at] >= 'A' && h->name[at] <= 'Z' ? h->name[at] | 0x20 : h->name[at]);
	s[at++] = ':';
	for (const char *p = h->value + strspn(h->value, " \t"); *p; p++)
		if ((*p != ' ' && *p != '\t') || (p[1] && p[1] != ' ' && p[1] != '\t'))
			s[at++] = *p;
	s[at] = 0;
	return s;
}

/* Header lines sorted by name; the values of a repeated name keep their order (so an insertion sort: qsort() is not
 * stable) and are joined with commas. */
static int sorted_lines(char ***out, size_t *n_out, const struct store_sigv4_req *req)
{
	char **v = calloc(req->n_headers + 1, sizeof(*v));
	size_t n = 0;

	if (!v)
		return -ENOMEM;
	for (size_t i = 0; i < req->n_headers; i++) {
		char *line = header_line(&req->headers[i]);
		size_t at = n, name;

		if (!line)
			goto no_memory;
		name = strcspn(line, ":") + 1;
		while (at > 0 && strncmp(v[at - 1], line, name) > 0)
			at--;
		if (at > 0 && strncmp(v[at - 1], line, name) == 0) {
			char *joined = NULL;

			if (asprintf(&joined, "%s,%s", v[at - 1], line + name) < 0) {
				free(line);
				goto no_memory;
			}
			free(line);
			free(v[at - 1]);
			v[at - 1] = joined;
			continue;
		}
		memmove(v + at + 1, v + at, (n - at) * sizeof(*v));
		v[at] = line;
		n++;
	}
	*out = v;
	*n_out = n;
	return 0;
no_memory:
	free_texts(v, n);
	return -ENOMEM;
}

static int add_signed_names(struct fz_buf *out, char **lines, size_t n)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < n; i++)
		rc = fz_buf_addf(out, "%s%.*s", i ? ";" : "", (int)strcspn(lines[i], ":"), lines[i]);
	return rc;
}

static int canonical(struct fz_buf *out, const struct store_sigv4_req *req, char **lines, size_t n)
{
	int rc = fz_buf_addf(out, "%s\n", req->method);

	if (rc == 0)
		rc = store_uri_encode(out, req->path, true);
	if (rc == 0)
		rc = fz_buf_add(out, "\n", 1);
	if (rc == 0)
		rc = store_uri_query(out, req->query, req->n_query);
	if (rc == 0)
		rc = fz_buf_add(out, "\n", 1);
	for (size_t i = 0; rc == 0 && i < n; i++)
		rc = fz_buf_addf(out, "%s\n", lines[i]);
	if (rc == 0)
		rc = fz_buf_add(out, "\n", 1);
	if (rc == 0)
		rc = add_signed_names(out, lines, n);
	if (rc == 0)
		rc = fz_buf_addf(out, "\n%s", req->payload_hash);
	return rc;
}

static void mac(uint8_t out[static MAC_BYTES], const void *key, size_t key_n, const char *text)
{
	crypto_auth_hmacsha256_state st;

	crypto_auth_hmacsha256_init(&st, key, key_n);
	crypto_auth_hmacsha256_update(&st, (const uint8_t *)text, strlen(text));
	crypto_auth_hmacsha256_final(&st, out);
	sodium_memzero(&st, sizeof(st));
}

int store_sigv4_sign(struct fz_buf *out, const struct store_sigv4_key *key, const struct store_sigv4_req *req)
{
	struct fz_buf text = {0}, scope = {0}, secret = {0};
	uint8_t k[MAC_BYTES], hash[crypto_hash_sha256_BYTES];
	char hex[HEX_SIZE], day[9] = {0}, **lines = NULL;
	size_t n = 0;
	int rc = sorted_lines(&lines, &n, req);

	if (rc < 0)
		goto out;
	memcpy(day, req->amz_date, 8);
	rc = fz_buf_addf(&scope, "%s/%s/%s/aws4_request", day, key->region, key->service);
	if (rc == 0)
		rc = canonical(&text, req, lines, n);
	if (rc < 0)
		goto out;
	crypto_hash_sha256(hash, text.data, text.size);
	sodium_bin2hex(hex, sizeof(hex), hash, sizeof(hash));
	fz_buf_reset(&text);
	rc = fz_buf_addf(&text, "AWS4-HMAC-SHA256\n%s\n%s\n%s", req->amz_date, fz_buf_str(&scope), hex);
	if (rc == 0)
		rc = fz_buf_addf(&secret, "AWS4%s", key->secret_key);
	if (rc < 0)
		goto out;
	mac(k, secret.data, secret.size, day);
	mac(k, k, sizeof(k), key->region);
	mac(k, k, sizeof(k), key->service);
	mac(k, k, sizeof(k), "aws4_request");
	mac(k, k, sizeof(k), fz_buf_str(&text));
	sodium_bin2hex(hex, sizeof(hex), k, sizeof(k));
	rc = fz_buf_addf(out, "AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=", key->access_key, fz_buf_str(&scope));
	if (rc == 0)
		rc = add_signed_names(out, lines, n);
	if (rc == 0)
		rc = fz_buf_addf(out, ", Signature=%s", hex);
out:
	if (secret.data)
		sodium_memzero(secret.data, secret.cap);
	sodium_memzero(k, sizeof(k));
	free_texts(lines, n);
	fz_buf_fini(&text);
	fz_buf_fini(&scope);
	fz_buf_fini(&secret);
	return rc;
}
