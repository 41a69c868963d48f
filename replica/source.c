#include "replica/source.h"

#include "base/file.h"
#include "ltx/age.h"
#include "ltx/log.h"
#include "replica/origin.h"
#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int source_new(struct replica_source **out, struct fz_err *err)
{
	struct replica_source *s = calloc(1, sizeof(*s));

	if (!s)
		return fz_fail_errno(err, ENOMEM, "opening a source");
	s->state_fd = -1;
	*out = s;
	return 0;
}

int replica_source_store(struct replica_source **out, struct fz_store *store, const struct ltx_age_identities *ids,
                         struct fz_err *err)
{
	int rc = source_new(out, err);

	if (rc < 0)
		return rc;
	(*out)->store = store;
	(*out)->ids = ids && ids->n ? ids : NULL;
	return 0;
}

int replica_source_log(struct replica_source **out, int state_dirfd, const char *name, struct fz_err *err)
{
	struct replica_source *s = NULL;
	int rc = source_new(&s, err);

	if (rc < 0)
		return rc;
	s->state_fd = fcntl(state_dirfd, F_DUPFD_CLOEXEC, 0);
	s->name = strdup(name);
	if (s->state_fd < 0 || !s->name) {
		rc = fz_fail_errno(err, s->name ? errno : ENOMEM, "opening the local log of %s", name);
		replica_source_close(s);
		return rc;
	}
	*out = s;
	return 0;
}

int replica_source_join(struct replica_source *log, struct replica_source *store, struct replica_source **out,
                        struct fz_err *err)
{
	if (log->store || !store->store || store->state_fd >= 0)
		return fz_fail(err, FZ_EINTERNAL, "only a log and a store can be joined");
	log->store = store->store;
	log->ids = store->ids;
	store->store = NULL;
	replica_source_close(store);
	*out = log;
	return 0;
}

void replica_source_close(struct replica_source *s)
{
	if (!s)
		return;
	fz_store_close(s->store);
	fz_close(&s->state_fd);
	free(s->name);
	free(s);
}

char *replica_object_key(char out[static LTX_NAME_MAX], const struct replica_object *o)
{
	return ltx_name_put(out, &o->name);
}

static const char *store_key(char out[static LTX_NAME_MAX], const struct replica_source *s,
                             const struct replica_object *o)
{
	char key[LTX_NAME_MAX];

	if (!s->below)
		return replica_object_key(out, o);
	snprintf(out, LTX_NAME_MAX, "%.*s%s", LTX_NAME_MAX / 2, s->below, replica_object_key(key, o));
	return out;
}

/* ---- one object: cipher (store) -> meter -> plain ---- */
struct opened {
	struct fz_src src;     /* what the caller reads */
	struct fz_src metered; /* what decryption reads */
	struct fz_src *raw, *plain;
	struct replica_meter *meter;
	const struct replica_object *object;
};

static int metered_read(struct fz_src *s, uint64_t off, void *data, size_t n, struct fz_err *err)
{
	struct opened *o = (struct opened *)(void *)((char *)s - offsetof(struct opened, metered));
	int rc;

	if (replica_meter_stopped(o->meter))
		return fz_fail_errno(err, ECANCELED, "restore was stopped");
	rc = fz_src_read(o->raw, off, data, n, err);
	if (rc == 0)
		atomic_fetch_add_explicit(&o->meter->fetched_bytes, n, memory_order_relaxed);
	return rc;
}

static int opened_read(struct fz_src *s, uint64_t off, void *data, size_t n, struct fz_err *err)
{
	struct opened *o = (struct opened *)s;
	char key[LTX_NAME_MAX];
	int rc = fz_src_read(o->plain, off, data, n, err);

	return rc < 0 ? fz_err_prefix(err, "%s", replica_object_key(key, o->object)) : 0;
}

static void opened_close(struct fz_src *s)
{
	struct opened *o = (struct opened *)s;

	if (o->plain != &o->metered)
		fz_src_close(o->plain);
	fz_src_close(o->raw);
	free(o);
}

static int no_key(const struct replica_object *o, struct fz_err *err)
{
	char key[LTX_NAME_MAX];

	return fz_fail(err, FZ_ENOKEY, "%s is encrypted: the identity that can open it is needed (-i KEY)",
	               replica_object_key(key, o));
}

int replica_object_open(struct replica_source *s, const struct replica_object *o, struct replica_meter *m,
                        struct fz_src **out, struct fz_err *err)
{
	struct opened *op = NULL;
	char key[LTX_NAME_MAX];
	int rc;

	if (o->name.encrypted && !s->ids)
		return no_key(o, err);
	op = calloc(1, sizeof(*op));
	if (!op)
		return fz_fail_errno(err, ENOMEM, "opening an object");
	op->meter = m;
	op->object = o;
	rc = fz_store_src(s->store, store_key(key, s, o), o->size_bytes, &op->raw, err);
	if (rc < 0)
		goto fail;
	op->metered = (struct fz_src){metered_read, NULL, op->raw->size_bytes};
	op->plain = &op->metered;
	if (o->name.encrypted) {
		op->plain = NULL;
		rc = ltx_age_src(&op->plain, &op->metered, s->ids, err);
		if (rc < 0)
			goto fail;
	}
	op->src = (struct fz_src){opened_read, opened_close, op->plain->size_bytes};
	*out = &op->src;
	return 0;
fail:
	fz_err_prefix(err, "%s", key);
	if (op->plain != &op->metered)
		fz_src_close(op->plain);
	fz_src_close(op->raw);
	free(op);
	return rc;
}

int replica_object_read(struct replica_source *s, const struct replica_object *o, struct replica_meter *m,
                        struct fz_buf *out, struct fz_err *err)
{
	struct fz_src *mem = NULL, *plain = NULL;
	char key[LTX_NAME_MAX];
	struct fz_buf cipher = {0};
	int rc = -ENOMEM;

	if (o->name.encrypted && !s->ids)
		return no_key(o, err);
	if (replica_meter_stopped(m))
		return fz_fail_errno(err, ECANCELED, "restore was stopped");
	rc = fz_store_get(s->store, store_key(key, s, o), o->size_bytes, o->name.encrypted ? &cipher : out, err);
	if (rc < 0)
		goto out;
	atomic_fetch_add_explicit(&m->fetched_bytes, o->size_bytes, memory_order_relaxed);
	if (!o->name.encrypted)
		goto out;
	rc = fz_src_mem(&mem, cipher.data, cipher.size, err);
	if (rc == 0)
		rc = ltx_age_src(&plain, mem, s->ids, err);
	if (rc < 0)
		goto out;
	if (!fz_buf_room(out, plain->size_bytes)) {
		rc = fz_fail_errno(err, ENOMEM, "reading an object");
		goto out;
	}
	rc = fz_src_read(plain, 0, out->data, plain->size_bytes, err);
	if (rc == 0)
		out->size = plain->size_bytes;
out:
	if (rc < 0)
		fz_err_prefix(err, "%s", key);
	fz_src_close(plain);
	fz_src_close(mem);
	fz_buf_fini(&cipher);
	return rc;
}

/* ---- the local log ---- */
int replica_logs_open(struct replica_logs *out, struct replica_source *s, struct fz_err *err)
{
	const struct ltx_logset_conf conf = {.readonly = true};
	struct ltx_log *log;
	int rc;

	memset(out, 0, sizeof(*out));
	rc = ltx_logset_open(&out->set, s->state_fd, &conf, err);
	if (rc == -ENOENT)
		rc = fz_fail(err, FZ_ENOTFOUND, "the state directory has no log of any database");
	for (size_t i = 0; rc == 0 && (log = ltx_logset_at(out->set, i)); i++) {
		struct ltx_log_info info;
		struct ltx_log **v;

		ltx_log_info(log, &info);
		if (strcmp(info.name, s->name) || !info.tail_txid) {
			ltx_log_put(log);
			continue;
		}
		v = reallocarray(out->v, out->n + 1, sizeof(*v));
		if (!v) {
			ltx_log_put(log);
			rc = fz_fail_errno(err, ENOMEM, "opening the local log of %s", s->name);
			break;
		}
		out->v = v;
		out->v[out->n++] = log;
	}
	if (rc == 0 && !out->n)
		rc = fz_fail(err, FZ_ENOTFOUND, "the local log knows no database %s", s->name);
	if (rc < 0)
		replica_logs_close(out);
	return rc;
}

void replica_logs_close(struct replica_logs *l)
{
	for (size_t i = 0; i < l->n; i++)
		ltx_log_put(l->v[i]);
	free(l->v);
	if (l->set)
		ltx_logset_close(l->set);
	memset(l, 0, sizeof(*l));
}
