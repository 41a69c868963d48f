/* sigv4.h - AWS Signature Version 4 as S3 wants it: the path is encoded once and not normalised, and the payload's SHA-256
 * is always there. Pure: no clock, no network. Source: AWS, "Signature Calculations for the Authorization Header".
 *                                                                            held by: tests/unit/test_store_sigv4.c */
#ifndef FZ_STORE_SIGV4_H
#define FZ_STORE_SIGV4_H

#include "base/buf.h"

#include <stdbool.h>

struct store_pair {
	const char *name, *value;
};

struct store_sigv4_key {
	const char *access_key, *secret_key, *region, *service;
};

struct store_sigv4_req {
	const char *method;
	const char *path;               /* raw bytes, begins with '/' */
	const struct store_pair *query; /* raw, any order; NULL value counts as "" */
	size_t n_query;
	const struct store_pair *headers; /* those to sign, any order, names in any case; Host is one of them */
	size_t n_headers;
	const char *payload_hash; /* 64 hex digits */
	const char *amz_date;     /* 20150830T123600Z, the same as in the header */
};

#define STORE_AMZ_DATE_SIZE 17
char *store_amz_date(char out[static STORE_AMZ_DATE_SIZE], int64_t ms);
/* Appends text percent-encoded: all but A-Z a-z 0-9 - . _ ~, and '/' when keep_slash. */
int store_uri_encode(struct fz_buf *out, const char *text, bool keep_slash) FZ_MUST_CHECK;
/* Appends the encoded query, sorted: what is signed and what is sent are the same string. */
int store_uri_query(struct fz_buf *out, const struct store_pair *query, size_t n) FZ_MUST_CHECK;
/* Appends the value of the Authorization header. -ENOMEM. */
int store_sigv4_sign(struct fz_buf *out, const struct store_sigv4_key *key,
                     const struct store_sigv4_req *req) FZ_MUST_CHECK;

#endif
