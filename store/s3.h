/* s3.h - an S3 store from inside: what its parts (put, claim, get, list) share. Private to store/s3*.c.
 *
 * store_s3_call() carries out one signed request with everything that may pass: it retries with jittered backoff until
 * the deadline, corrects the clock (403 RequestTimeTooSkewed: the server's Date), follows the bucket to its region
 * (301, 307, 400 with a region), reads the credentials again when a session token expired, and goes on inside a range
 * that broke off. Source: AWS, "Error responses" and "Error retries". */
#ifndef FZ_STORE_S3_H
#define FZ_STORE_S3_H

#include "store/backend.h"
#include "store/credentials.h"
#include "store/http.h"
#include "store/s3xml.h"

enum {
	S3_PAGE_KEYS = 1000,
	S3_XML_MAX_BYTES = 16 << 20,
	S3_HEX_SIZE = 65,     /* SHA-256 in hex, NUL */
	S3_MD5_HEX_SIZE = 33, /* MD5 in hex, NUL */
};
/* What is ours and no backup: claims in the making, the probe. Hidden from listings. */
#define S3_OWN_PREFIX ".fazt/"
/* What shows whether the store looks at conditions. */
#define S3_PROBE_KEY  S3_OWN_PREFIX "conditional-put"
#define S3_PROBE_TEXT "fazt finds out here whether this store honours If-None-Match. Leave it.\n"

enum store_s3_conditional { S3_COND_UNKNOWN, S3_COND_NATIVE, S3_COND_EMULATED };

struct store_s3 {
	struct fz_store store;
	struct store_http *http;
	struct fz_store_conf conf; /* strings are ours; for reading the credentials again */
	char *url_file, *url_profile;
	char *bucket, *prefix; /* prefix: "" or "a/b/" */
	bool https, path_style, aws;
	int64_t timeout_ms;
	bool interactive;
	pthread_mutex_t mu;
	pthread_cond_t cond; /* CLOCK_MONOTONIC; cancel */
	/* under mu: */
	struct store_credentials keys;
	char *host, *region;
	int64_t skew_ms;                   /* server's clock minus ours */
	int64_t server_ms, server_mono_ns; /* last Date and when it came, 0 = none yet */
	enum store_s3_conditional conditional;
	enum store_s3_conditional replacing; /* the same of If-Match: there is no emulation */
	bool answered, told;                 /* ever; that it does not answer now */
	bool no_md5_etag, no_batch_delete, swept;
	unsigned retrying;     /* calls whose last attempt failed and which will try again */
	struct fz_err trouble; /* of the last of them */
};

struct store_s3_call {
	/* request */
	const char *what; /* for messages: "GET", "list" */
	const char *method;
	const char *key; /* with the store's prefix; NULL = the bucket itself */
	struct store_pair query[8], headers[4];
	size_t n_query, n_headers;
	struct fz_src *body; /* NULL = none */
	uint64_t body_off, body_n;
	const char *payload_hash; /* of the body; NULL = of nothing */
	uint8_t *into;            /* ranged GET: these bytes, from into_off */
	size_t into_n;
	uint64_t into_off, object_size; /* UINT64_MAX = unknown */
	struct fz_buf *out;
	size_t out_max;
	uint64_t deadline_ns; /* 0 = timeout_ms and what the bytes take at 64 KiB/s */
	bool patient;         /* the store may think for long before it answers */
	bool error_in_200;    /* CompleteMultipartUpload: a 200 may carry an <Error> */
	bool farewell;        /* once, briefly, and even when cancelled (cleaning up) */
	/* answer, of the last attempt */
	struct store_http_answer ans;
	struct store_s3_error error;
	unsigned attempts;
	bool ambiguous; /* an earlier attempt failed without telling whether it was carried out */
};

/* How an attempt ends. */
enum store_s3_verdict {
	S3_DONE,  /* 2xx */
	S3_FIXED, /* the cause is gone (clock, region, credentials, part of a range arrived): again at once */
	S3_RETRY, /* it may pass (transport, 408, 409, 429, 5xx, and 400s that are about the wire): again after a pause */
	S3_FATAL /* asking again gives the same answer */
};
/* Of c->ans and c->error, which are no success.                                                               (s3judge.c) */
enum store_s3_verdict store_s3_judge(struct store_s3 *s, struct store_s3_call *c, struct fz_err *err);
/* 0 for 2xx. -FZ_ENOTFOUND 404, -FZ_ECONFLICT 412, -FZ_EAUTH, -FZ_ENET, -FZ_ETIMEOUT, -FZ_ESTORE, -ENOSPC, -ECANCELED. */
int store_s3_call(struct store_s3 *s, struct store_s3_call *c, struct fz_err *err) FZ_MUST_CHECK;
/* Another region, and for AWS its host. Requires s->mu (or that nobody else knows s yet). */
int store_s3_set_region(struct store_s3 *s, const char *region) FZ_MUST_CHECK;
/* key with the store's prefix in front, heap; NULL on -ENOMEM (err set). */
char *store_s3_key(struct store_s3 *s, const char *key, struct fz_err *err);
/* SHA-256 and MD5, in hex, of n bytes at off. */
int store_s3_hash(struct fz_src *src, uint64_t off, uint64_t n, char sha256[static S3_HEX_SIZE],
                  char md5[static S3_MD5_HEX_SIZE], struct fz_err *err) FZ_MUST_CHECK;
/* PUTs a small object where condition, a header, holds; its name NULL: always. c gives the answer.           (s3claim.c) */
int store_s3_put_small(struct store_s3 *s, struct store_s3_call *c, const char *full, const void *data, size_t n,
                       struct store_pair condition, uint64_t deadline_ns, struct fz_err *err) FZ_MUST_CHECK;
/* PUTs n bytes at off and compares the ETag, when it is one, with the MD5. c: query, key and headers are set. */
int store_s3_send(struct store_s3 *s, struct store_s3_call *c, const char *md5, struct fz_err *err) FZ_MUST_CHECK;
uint64_t store_s3_deadline(const struct store_s3 *s, uint64_t bytes);
/* The store's clock, as far as known. */
int64_t store_s3_now_ms(struct store_s3 *s);
/* Sleeps; -ECANCELED when woken by cancel. */
int store_s3_sleep(struct store_s3 *s, int64_t ms, struct fz_err *err) FZ_MUST_CHECK;

static inline struct store_s3 *store_s3_of(struct fz_store *s)
{
	return (struct store_s3 *)s;
}

/* the methods */
int store_s3_put(struct fz_store *s, const char *key, struct fz_src *src, struct fz_err *err) FZ_MUST_CHECK;
int store_s3_put_new(struct fz_store *s, const char *key, const void *data, size_t n, struct fz_err *err) FZ_MUST_CHECK;
int store_s3_get(struct fz_store *s, const char *key, size_t max_bytes, struct fz_buf *out,
                 struct fz_err *err) FZ_MUST_CHECK;
int store_s3_get_tag(struct fz_store *s, const char *key, size_t max_bytes, struct fz_buf *out,
                     char tag[static FZ_STORE_TAG], struct fz_err *err) FZ_MUST_CHECK;
int store_s3_put_if(struct fz_store *s, const char *key, const void *data, size_t n, char tag[static FZ_STORE_TAG],
                    struct fz_err *err) FZ_MUST_CHECK;
int store_s3_src(struct fz_store *s, const char *key, uint64_t size_bytes, struct fz_src **out,
                 struct fz_err *err) FZ_MUST_CHECK;
int store_s3_list(struct fz_store *s, const char *prefix, const char *start_after, bool delimiter,
                  struct fz_store_list *out, struct fz_err *err) FZ_MUST_CHECK;
int store_s3_delete(struct fz_store *s, const char *const *keys, size_t n, size_t *failed,
                    struct fz_err *err) FZ_MUST_CHECK;

#endif
