/* fault.c - a store in front of another that makes the n-th call fail, before or after it was carried out. Each method
 * and each read of a source counts as one call. So a test can walk n = 1, 2, ... until nothing fails any more.
 *                                                                            held by: tests/unit/test_store_fault.c */
#include "store/backend.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct fault_store {
	struct fz_store store;
	struct fz_store *inner;
	uint64_t nth;
	int code; /* negative */
	bool after;
	bool *fired; /* set atomically; NULL = nobody asks */
};

static struct fault_store *fault_of(struct fz_store *s)
{
	return (struct fault_store *)s;
}

/* Counts a call and tells whether it is the one. */
static bool hit(struct fault_store *f)
{
	bool yes = atomic_fetch_add(&f->store.requests, 1) + 1 == f->nth;

	if (yes && f->fired)
		__atomic_store_n(f->fired, true, __ATOMIC_SEQ_CST);
	return yes;
}

static int fail(struct fault_store *f, const char *what, struct fz_err *err)
{
	return fz_fail(err, f->code, "%s: call %llu (%s) was made to fail %s it was carried out", f->store.url,
	               (unsigned long long)f->nth, what, f->after ? "after" : "before");
}

static int fault_put(struct fz_store *s, const char *key, struct fz_src *src, struct fz_err *err)
{
	struct fault_store *f = fault_of(s);
	bool now = hit(f);
	int rc = now && !f->after ? 0 : fz_store_put(f->inner, key, src, err);

	return now ? fail(f, "put", err) : rc;
}

static int fault_put_new(struct fz_store *s, const char *key, const void *data, size_t n, struct fz_err *err)
{
	struct fault_store *f = fault_of(s);
	bool now = hit(f);
	int rc = now && !f->after ? 0 : fz_store_put_new(f->inner, key, data, n, err);

	/* "exists already" is an answer and no fault of the wire: losing it must not turn into a victory later */
	return now && rc != -FZ_ECONFLICT ? fail(f, "put_new", err) : rc;
}

static int fault_get(struct fz_store *s, const char *key, size_t max_bytes, struct fz_buf *out, struct fz_err *err)
{
	struct fault_store *f = fault_of(s);
	bool now = hit(f);
	int rc = now && !f->after ? 0 : fz_store_get(f->inner, key, max_bytes, out, err);

	return now ? fail(f, "get", err) : rc;
}

static int fault_get_tag(struct fz_store *s, const char *key, size_t max_bytes, struct fz_buf *out,
                         char tag[static FZ_STORE_TAG], struct fz_err *err)
{
	struct fault_store *f = fault_of(s);
	bool now = hit(f);
	int rc = now && !f->after ? 0 : fz_store_get_tag(f->inner, key, max_bytes, out, tag, err);

	return now ? fail(f, "get_tag", err) : rc;
}

static int fault_put_if(struct fz_store *s, const char *key, const void *data, size_t n, char tag[static FZ_STORE_TAG],
                        struct fz_err *err)
{
	struct fault_store *f = fault_of(s);
	bool now = hit(f);
	char new_tag[FZ_STORE_TAG];
	int rc = 0;

	memcpy(new_tag, tag, sizeof(new_tag));
	if (!now || f->after)
		rc = fz_store_put_if(f->inner, key, data, n, new_tag, err);
	if (now && rc != -FZ_ECONFLICT) /* whoever does not hear the answer does not learn the tag */
		return fail(f, "put_if", err);
	memcpy(tag, new_tag, sizeof(new_tag));
	return rc;
}

struct fault_src {
	struct fz_src src;
	struct fz_src *inner;
	struct fault_store *f;
};

static int fault_src_read(struct fz_src *src, uint64_t off, void *data, size_t n, struct fz_err *err)
{
	struct fault_src *r = (struct fault_src *)src;

	return hit(r->f) ? fail(r->f, "read", err) : fz_src_read(r->inner, off, data, n, err);
}

static void fault_src_close(struct fz_src *src)
{
	struct fault_src *r = (struct fault_src *)src;

	fz_src_close(r->inner);
	free(r);
}

static int fault_src(struct fz_store *s, const char *key, uint64_t size_bytes, struct fz_src **out, struct fz_err *err)
{
	struct fault_store *f = fault_of(s);
	struct fault_src *r;
	int rc;

	if (hit(f))
		return fail(f, "src", err);
	r = calloc(1, sizeof(*r));
	if (!r)
		return fz_fail_errno(err, ENOMEM, "opening %s", key);
	rc = fz_store_src(f->inner, key, size_bytes, &r->inner, err);
	if (rc < 0) {
		free(r);
		return rc;
	}
	r->src = (struct fz_src){fault_src_read, fault_src_close, r->inner->size_bytes};
	r->f = f;
	*out = &r->src;
	return 0;
}

static int fault_list(struct fz_store *s, const char *prefix, const char *start_after, bool delimiter,
                      struct fz_store_list *out, struct fz_err *err)
{
	struct fault_store *f = fault_of(s);
	bool now = hit(f);
	int rc = now && !f->after ? 0 : fz_store_list(f->inner, prefix, start_after, delimiter, out, err);

	return now ? fail(f, "list", err) : rc;
}

static int fault_delete(struct fz_store *s, const char *const *keys, size_t n, size_t *failed, struct fz_err *err)
{
	struct fault_store *f = fault_of(s);
	bool now = hit(f);
	int rc = now && !f->after ? 0 : fz_store_delete(f->inner, keys, n, failed, err);

	if (now)
		*failed = n;
	return now ? fail(f, "delete", err) : rc;
}

static void fault_stats(struct fz_store *s, struct fz_store_stats *out)
{
	fz_store_stats(fault_of(s)->inner, out);
}

static void fault_cancel(struct fz_store *s)
{
	fz_store_cancel(fault_of(s)->inner);
}

static void fault_close(struct fz_store *s)
{
	fz_store_close(fault_of(s)->inner);
	store_base_fini(s);
	free(s);
}

int fz_store_fault(struct fz_store **out, struct fz_store *inner, uint64_t nth, int code, bool after, bool *fired,
                   struct fz_err *err)
{
	static const struct store_ops ops = {
	        .put = fault_put,
	        .put_new = fault_put_new,
	        .get = fault_get,
	        .get_tag = fault_get_tag,
	        .put_if = fault_put_if,
	        .src = fault_src,
	        .list = fault_list,
	        .del = fault_delete,
	        .stats = fault_stats,
	        .cancel = fault_cancel,
	        .close = fault_close,
	};
	struct fault_store *f = calloc(1, sizeof(*f));
	int rc;

	if (!f)
		return fz_fail_errno(err, ENOMEM, "wrapping %s", fz_store_url(inner));
	rc = store_base_init(&f->store, &ops, fz_store_url(inner), err);
	if (rc < 0) {
		free(f);
		return rc;
	}
	f->inner = inner;
	f->nth = nth;
	f->code = code > 0 ? -code : code;
	f->after = after;
	f->fired = fired;
	if (fired)
		*fired = false;
	*out = &f->store;
	return 0;
}
