#include "store/store.h"

#include "base/array.h"

#include "store/backend.h"
#include "store/url.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

int store_base_init(struct fz_store *s, const struct store_ops *ops, const char *url, struct fz_err *err)
{
	if (sodium_init() < 0)
		return fz_fail(err, FZ_EINTERNAL, "libsodium does not start");
	s->ops = ops;
	s->url = strdup(url);
	if (!s->url)
		return fz_fail_errno(err, ENOMEM, "opening %s", url);
	pthread_mutex_init(&s->mu, NULL);
	return 0;
}

void store_base_fini(struct fz_store *s)
{
	if (s->url)
		pthread_mutex_destroy(&s->mu);
	free(s->unsure_key);
	free(s->url);
	s->unsure_key = s->url = NULL;
}

int store_check_cancel(struct fz_store *s, struct fz_err *err)
{
	return atomic_load(&s->cancelled) ? fz_fail(err, ECANCELED, "%s: stopped", s->url) : 0;
}

int store_failed(struct fz_store *s, int code)
{
	if (code < 0 && code != -FZ_ENOTFOUND && code != -FZ_ECONFLICT && code != -ECANCELED)
		fz_tally_add(&s->errors, code);
	return code;
}

int fz_store_open(struct fz_store **out, const char *url, const struct fz_store_conf *conf, struct fz_err *err)
{
	static const struct fz_store_conf none;
	struct store_url parts;
	int rc = store_url_parse(&parts, url, err);

	if (rc < 0)
		return rc;
	if (!conf)
		conf = &none;
	rc = parts.kind == STORE_DIR ? store_dir_open(out, url, &parts, conf, err)
	                             : store_s3_open(out, url, &parts, conf, err);
	store_url_fini(&parts);
	return rc;
}

void fz_store_close(struct fz_store *s)
{
	if (s)
		s->ops->close(s);
}

const char *fz_store_url(const struct fz_store *s)
{
	return s->url;
}

/* What every call on a key begins with. */
static int begin(struct fz_store *s, const char *key, struct fz_err *err)
{
	int rc = store_check_cancel(s, err);

	return store_failed(s, rc == 0 && key ? store_key_check(key, err) : rc);
}

int fz_store_put(struct fz_store *s, const char *key, struct fz_src *src, struct fz_err *err)
{
	int rc = begin(s, key, err);

	return rc < 0 ? rc : store_failed(s, s->ops->put(s, key, src, err));
}

/* Was the last put_new() that failed without an answer this very one? Forgets it. */
static bool was_unsure(struct fz_store *s, const char *key, const uint8_t hash[static 32])
{
	bool yes;

	pthread_mutex_lock(&s->mu);
	yes = s->unsure_key && strcmp(s->unsure_key, key) == 0 && memcmp(s->unsure_hash, hash, 32) == 0;
	if (yes) {
		free(s->unsure_key);
		s->unsure_key = NULL;
	}
	pthread_mutex_unlock(&s->mu);
	return yes;
}

static void remember_unsure(struct fz_store *s, const char *key, const uint8_t hash[static 32])
{
	char *copy = strdup(key);

	pthread_mutex_lock(&s->mu);
	free(s->unsure_key);
	s->unsure_key = copy;
	memcpy(s->unsure_hash, hash, 32);
	pthread_mutex_unlock(&s->mu);
}

/* A caller that was told "took too long" asks again, and may meet its own object: that is success. Only bytes that this
 * process itself sent for this key before count: equal bytes of somebody else are a foe's.
 *                                                                        held by: tests/unit/test_store_fault.c */
int fz_store_put_new(struct fz_store *s, const char *key, const void *data, size_t n, struct fz_err *err)
{
	struct fz_buf there = {0};
	uint8_t hash[32];
	int rc = begin(s, key, err);

	if (rc < 0)
		return rc;
	crypto_hash_sha256(hash, data, n);
	rc = store_failed(s, s->ops->put_new(s, key, data, n, err));
	if (rc == -FZ_ECONFLICT && was_unsure(s, key, hash)) {
		int got = s->ops->get(s, key, n, &there, NULL);

		if (got == 0 && there.size == n && (n == 0 || memcmp(there.data, data, n) == 0))
			rc = 0;
		fz_buf_fini(&there);
	} else if (rc < 0 && rc != -FZ_ECONFLICT) {
		remember_unsure(s, key, hash);
	}
	return rc;
}

int fz_store_get(struct fz_store *s, const char *key, size_t max_bytes, struct fz_buf *out, struct fz_err *err)
{
	size_t before = out->size;
	int rc = begin(s, key, err);

	if (rc == 0)
		rc = store_failed(s, s->ops->get(s, key, max_bytes, out, err));
	if (rc < 0 && out->data) {
		out->size = before;
		out->data[before] = 0;
	}
	return rc;
}

int fz_store_get_tag(struct fz_store *s, const char *key, size_t max_bytes, struct fz_buf *out,
                     char tag[static FZ_STORE_TAG], struct fz_err *err)
{
	size_t before = out->size;
	int rc = begin(s, key, err);

	tag[0] = 0;
	if (rc == 0)
		rc = store_failed(s, s->ops->get_tag(s, key, max_bytes, out, tag, err));
	if (rc < 0 && out->data) {
		out->size = before;
		out->data[before] = 0;
	}
	return rc;
}

int fz_store_put_if(struct fz_store *s, const char *key, const void *data, size_t n, char tag[static FZ_STORE_TAG],
                    struct fz_err *err)
{
	int rc = begin(s, key, err);

	return rc < 0 ? rc : store_failed(s, s->ops->put_if(s, key, data, n, tag, err));
}

int fz_store_src(struct fz_store *s, const char *key, uint64_t size_bytes, struct fz_src **out, struct fz_err *err)
{
	int rc = begin(s, key, err);

	return rc < 0 ? rc : store_failed(s, s->ops->src(s, key, size_bytes, out, err));
}

int store_list_add(struct fz_store_list *l, const char *key, size_t n, uint64_t size_bytes, int64_t mtime_ms,
                   struct fz_err *err)
{
	if (!fz_array_room(l->v, l->n, l->cap))
		return fz_fail_errno(err, ENOMEM, "listing %zu objects", l->n);
	l->v[l->n].key = strndup(key, n);
	if (!l->v[l->n].key)
		return fz_fail_errno(err, ENOMEM, "listing objects");
	l->v[l->n].size_bytes = size_bytes;
	l->v[l->n++].mtime_ms = mtime_ms;
	return 0;
}

void fz_store_list_fini(struct fz_store_list *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->v[i].key);
	free(l->v);
	memset(l, 0, sizeof(*l));
}

static int by_key(const void *a, const void *b)
{
	return strcmp(((const struct fz_store_object *)a)->key, ((const struct fz_store_object *)b)->key);
}

/* Makes the list what the header promises, whatever a server answered: sorted, each key once, within prefix and after
 * start_after. */
static void tidy(struct fz_store_list *l, const char *prefix, const char *start_after)
{
	size_t len = strlen(prefix), kept = 0;

	for (size_t i = 1; i < l->n; i++)
		if (strcmp(l->v[i - 1].key, l->v[i].key) > 0) {
			qsort(l->v, l->n, sizeof(l->v[0]), by_key);
			break;
		}
	for (size_t i = 0; i < l->n; i++) {
		const char *key = l->v[i].key;

		if (strncmp(key, prefix, len) != 0 || (start_after && strcmp(key, start_after) <= 0) ||
		    (kept > 0 && strcmp(l->v[kept - 1].key, key) == 0))
			free(l->v[i].key);
		else
			l->v[kept++] = l->v[i];
	}
	l->n = kept;
}

int fz_store_list(struct fz_store *s, const char *prefix, const char *start_after, bool delimiter,
                  struct fz_store_list *out, struct fz_err *err)
{
	struct fz_store_list l = {0};
	int rc = begin(s, NULL, err);

	if (rc == 0)
		rc = store_failed(s, store_prefix_check(prefix, err));
	if (rc == 0 && start_after && !*start_after)
		start_after = NULL;
	if (rc == 0)
		rc = store_failed(s, s->ops->list(s, prefix, start_after, delimiter, &l, err));
	if (rc < 0) {
		fz_store_list_fini(&l);
		return rc;
	}
	tidy(&l, prefix, start_after);
	*out = l;
	return 0;
}

int fz_store_delete(struct fz_store *s, const char *const *keys, size_t n, size_t *failed, struct fz_err *err)
{
	size_t dummy;
	int rc = begin(s, NULL, err);

	if (!failed)
		failed = &dummy;
	*failed = 0;
	for (size_t i = 0; rc == 0 && i < n; i++)
		rc = store_key_check(keys[i], err);
	if (rc < 0) {
		*failed = n;
		return rc;
	}
	return n > 0 ? store_failed(s, s->ops->del(s, keys, n, failed, err)) : 0;
}

void fz_store_stats(struct fz_store *s, struct fz_store_stats *out)
{
	memset(out, 0, sizeof(*out));
	out->requests = atomic_load(&s->requests);
	out->retries = atomic_load(&s->retries);
	out->bytes_in = atomic_load(&s->bytes_in);
	out->bytes_out = atomic_load(&s->bytes_out);
	for (int k = 0; k < FZ_STORE_KINDS; k++)
		out->kind[k] = atomic_load(&s->kind[k]);
	s->ops->stats(s, out);
}

struct fz_tally *fz_store_errors(struct fz_store *s)
{
	return &s->errors;
}

void fz_store_cancel(struct fz_store *s)
{
	atomic_store(&s->cancelled, true);
	if (s->ops->cancel)
		s->ops->cancel(s);
}
