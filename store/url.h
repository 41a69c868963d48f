/* url.h - store URLs and keys taken apart, and refused by name of what is wrong. No I/O.
 *
 *   dir:/absolute/path                     taken literally: no %XX, no parameters
 *   s3://bucket/prefix?name=value&...      %XX is decoded in prefix and values
 * Parameters: endpoint (http[s]://host[:port]), region, path-style (yes|no), profile, credentials (a file), cacert (a
 * file of trusted CAs). Secrets have no place in a URL: user:password@ is refused. */
#ifndef FZ_STORE_URL_H
#define FZ_STORE_URL_H

#include "base/err.h"

#include <stdbool.h>

enum store_kind { STORE_DIR, STORE_S3 };

struct store_url {
	enum store_kind kind;
	char *path;                                               /* dir: absolute, without trailing '/' */
	char *bucket;                                             /* s3 from here on */
	char *prefix;                                             /* "" or "a/b", without leading and trailing '/' */
	char *endpoint, *region, *profile, *credentials, *cacert; /* NULL = not given */
	int path_style;                                           /* 1 yes, 0 no, -1 not given */
};

int store_url_parse(struct store_url *out, const char *url, struct fz_err *err) FZ_MUST_CHECK;
void store_url_fini(struct store_url *u);
/* scheme://host[:port] without path, query or user; *https and *host (heap, lower case, default port dropped). */
int store_url_endpoint(const char *endpoint, bool *https, char **host, struct fz_err *err) FZ_MUST_CHECK;
/* A key: not empty, at most 1024 bytes, no empty, "." or ".." component, no control characters. */
int store_key_check(const char *key, struct fz_err *err) FZ_MUST_CHECK;
/* A prefix of keys: the same, but may be empty or end in '/'. */
int store_prefix_check(const char *prefix, struct fz_err *err) FZ_MUST_CHECK;

#endif
