/* http.h - one HTTP request with a deadline, on a pool of libcurl handles.
 *
 * Each handle has a curl_multi of its own, so that a waiting request can be woken (cancel) and so that connections live
 * with the handle. An idle handle keeps its connection for some seconds; at most a few stay. No redirects are followed,
 * TLS is always verified, HTTP/1.1 only. Opening ignores SIGPIPE for the process unless somebody handles it. Thread-safe. */
#ifndef FZ_STORE_HTTP_H
#define FZ_STORE_HTTP_H

#include "store/sigv4.h"

#include "base/io.h"

#include <stdatomic.h>

struct store_http;

struct store_http_req {
	const char *method, *url;
	const struct store_pair *headers; /* sent as they are */
	size_t n_headers;
	struct fz_src *body; /* sent from off, n bytes; NULL = none */
	uint64_t body_off, body_n;
	uint8_t *into; /* takes exactly into_n bytes of a 206 answer, without copying */
	size_t into_n;
	struct fz_buf *out; /* takes the body of any other 2xx, up to out_max more bytes */
	size_t out_max;
	struct fz_buf *trouble;    /* takes the body of everything else, cut at 64 KiB */
	uint64_t deadline_ns;      /* fz_mono_ns() */
	int64_t connect_ms;        /* at most this for DNS, TCP, TLS */
	int64_t stall_ms;          /* at most this without a byte moving */
	atomic_bool *cancelled;    /* NULL = cannot be cancelled */
	void (*silent)(void *arg); /* NULL = none; called once when nothing moved for silent_ms */
	void *silent_arg;
	int64_t silent_ms;
};
struct store_http_answer {
	int status; /* 0 = none came */
	char etag[96], date[40], region[40], range[80];
	uint64_t length;       /* Content-Length, UINT64_MAX = not given */
	int64_t retry_after_s; /* -1 = not given */
	bool etag_opaque;      /* encrypted by the server with a key of KMS or the client: the ETag is no MD5 */
	size_t into_got;       /* bytes that arrived in into, after a failure too */
	uint64_t sent, received;
	bool resent; /* libcurl sent the body again by itself, on a new connection: the first may have been carried out */
	bool unreachable; /* no such host, or the connection was refused */
	bool fatal;       /* no use in trying again (certificate, source of the body, body larger than out_max) */
};

int store_http_open(struct store_http **out, const char *cacert, struct fz_err *err) FZ_MUST_CHECK;
void store_http_close(struct store_http *h);
/* 0 once a whole answer came, whatever its status. -FZ_ENET, -FZ_ETIMEOUT, -ECANCELED, or (fatal) another code. */
int store_http_perform(struct store_http *h, const struct store_http_req *req, struct store_http_answer *ans,
                       struct fz_err *err) FZ_MUST_CHECK;
/* Wakes running requests, so that they look at *cancelled. */
void store_http_wake(struct store_http *h);
/* Closes handles that were not used for a while. */
void store_http_reap(struct store_http *h);

#endif
