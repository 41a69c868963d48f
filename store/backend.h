/* backend.h - what a kind of store fills in: the table behind store/store.h. Private to store/.
 *
 * store.c has checked keys and arguments and counted the call before it comes here; a backend retries by itself and
 * looks at `cancelled` at least once a second. Every method may be called by several threads at once. */
#ifndef FZ_STORE_BACKEND_H
#define FZ_STORE_BACKEND_H

#include "store/store.h"

#include <pthread.h>
#include <stdatomic.h>

struct store_url;

struct store_ops {
	int (*put)(struct fz_store *s, const char *key, struct fz_src *src, struct fz_err *err);
	int (*put_new)(struct fz_store *s, const char *key, const void *data, size_t n, struct fz_err *err);
	int (*get)(struct fz_store *s, const char *key, size_t max_bytes, struct fz_buf *out, struct fz_err *err);
	int (*get_tag)(struct fz_store *s, const char *key, size_t max_bytes, struct fz_buf *out,
	               char tag[static FZ_STORE_TAG], struct fz_err *err);
	int (*put_if)(struct fz_store *s, const char *key, const void *data, size_t n, char tag[static FZ_STORE_TAG],
	              struct fz_err *err);
	int (*src)(struct fz_store *s, const char *key, uint64_t size_bytes, struct fz_src **out, struct fz_err *err);
	/* Appends to *out; may leave it unsorted, with keys outside the prefix or up to start_after: store.c sees to it. */
	int (*list)(struct fz_store *s, const char *prefix, const char *start_after, bool delimiter,
	            struct fz_store_list *out, struct fz_err *err);
	/* *failed counts; a code is returned when it is not 0. */
	int (*del)(struct fz_store *s, const char *const *keys, size_t n, size_t *failed, struct fz_err *err);
	void (*stats)(struct fz_store *s, struct fz_store_stats *out); /* adds what the counters below do not hold */
	void (*cancel)(struct fz_store *s);                            /* `cancelled` is set already; NULL = enough */
	void (*close)(struct fz_store *s);                             /* frees s, after store_base_fini() */
};

/* First member of every backend. */
struct fz_store {
	const struct store_ops *ops;
	char *url;
	atomic_bool cancelled;
	atomic_ullong requests, retries, bytes_in, bytes_out, kind[FZ_STORE_KINDS];
	struct fz_tally errors;
	pthread_mutex_t mu; /* guards unsure_* */
	/* The last put_new() that failed without telling whether the object was created. */
	char *unsure_key;
	uint8_t unsure_hash[32];
};

int store_base_init(struct fz_store *s, const struct store_ops *ops, const char *url, struct fz_err *err) FZ_MUST_CHECK;
void store_base_fini(struct fz_store *s);

/* One request is about to be made. */
static inline void store_count(struct fz_store *s, enum fz_store_kind kind)
{
	atomic_fetch_add_explicit(&s->requests, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&s->kind[kind], 1, memory_order_relaxed);
}
/* A call, or an attempt that is followed by another, has failed. Returns code. */
int store_failed(struct fz_store *s, int code);

/* -ECANCELED once fz_store_cancel() was called, else 0. */
int store_check_cancel(struct fz_store *s, struct fz_err *err) FZ_MUST_CHECK;
/* Appends a copy of key[0..n). */
int store_list_add(struct fz_store_list *l, const char *key, size_t n, uint64_t size_bytes, int64_t mtime_ms,
                   struct fz_err *err) FZ_MUST_CHECK;

int store_dir_open(struct fz_store **out, const char *url, const struct store_url *parts,
                   const struct fz_store_conf *conf, struct fz_err *err) FZ_MUST_CHECK;
int store_s3_open(struct fz_store **out, const char *url, const struct store_url *parts,
                  const struct fz_store_conf *conf, struct fz_err *err) FZ_MUST_CHECK;

#endif
