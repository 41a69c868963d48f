/* origin.h - what a replica_source is inside, and how its objects are opened: store -> meter -> decryption. */
#ifndef FZ_REPLICA_ORIGIN_H
#define FZ_REPLICA_ORIGIN_H

#include "replica/catalog.h"
#include "replica/source.h"

#include <stdatomic.h>

struct ltx_log;
struct ltx_logset;

struct replica_source {
	struct fz_store *store; /* owned; NULL = none */
	const char *
	        below; /* borrowed: stands before the keys of that store ("app.db/"); NULL = its prefix is the database */
	const struct ltx_age_identities *ids; /* borrowed; NULL = none */
	int state_fd;                         /* state directory of a local log; -1 = none */
	char *name;                           /* of the database in that log */
};

/* What was read so far, and whether to go on. Any thread. */
struct replica_meter {
	atomic_ullong fetched_bytes;
	atomic_bool stop;
	const volatile bool *cancel; /* of the caller; NULL = none */
};
static inline bool replica_meter_stopped(struct replica_meter *m)
{
	return atomic_load_explicit(&m->stop, memory_order_relaxed) || (m->cancel && *m->cancel);
}

/* Plain bytes of one object; thread-safe; close() ends all of it. err names the object. */
int replica_object_open(struct replica_source *s, const struct replica_object *o, struct replica_meter *m,
                        struct fz_src **out, struct fz_err *err) FZ_MUST_CHECK;
/* The whole object, decrypted, in memory (for small ones): one request. */
int replica_object_read(struct replica_source *s, const struct replica_object *o, struct replica_meter *m,
                        struct fz_buf *out, struct fz_err *err) FZ_MUST_CHECK;
/* "<lineage>/.../...ltx.age" of the object, for messages. Returns out. */
char *replica_object_key(char out[static LTX_NAME_MAX], const struct replica_object *o);

/* The logs of that name, oldest life first. */
struct replica_logs {
	struct ltx_logset *set;
	struct ltx_log **v;
	size_t n;
};
/* -FZ_ENOTFOUND when the state directory knows no such database. */
int replica_logs_open(struct replica_logs *out, struct replica_source *s, struct fz_err *err) FZ_MUST_CHECK;
void replica_logs_close(struct replica_logs *l);

#endif
