/* source.h - where a database's history can be read: a store (URL whose last path element is the database's path), or the
 * local log of a state directory, or both joined (the log's tail is newer than what was shipped). */
#ifndef FZ_REPLICA_SOURCE_H
#define FZ_REPLICA_SOURCE_H

#include "base/io.h"
#include "ltx/ltx.h"

#include <stdbool.h>

struct fz_store;
struct ltx_age_identities;
struct replica_source;

/* store is owned; its prefix names the database itself. ids borrowed, NULL = structure only. */
int replica_source_store(struct replica_source **out, struct fz_store *store, const struct ltx_age_identities *ids,
                         struct fz_err *err) FZ_MUST_CHECK;
/* state_dirfd is duplicated; name = path below the mount. Works beside a running worker (read-only). */
int replica_source_log(struct replica_source **out, int state_dirfd, const char *name,
                       struct fz_err *err) FZ_MUST_CHECK;
/* Both at once: the log answers what it reaches, the store the rest. On success both are consumed by *out; on failure
 * neither is. */
int replica_source_join(struct replica_source *log, struct replica_source *store, struct replica_source **out,
                        struct fz_err *err) FZ_MUST_CHECK;
void replica_source_close(struct replica_source *s);

/* One restorable commit. */
struct replica_commit {
	char lineage[17];
	uint32_t epoch;
	uint64_t min_txid, txid; /* min < txid: several commits merged into one range */
	int64_t time_ms;
	uint32_t pages;      /* changed pages; 0 = unknown without a key */
	uint32_t commit;     /* database size, pages; 0 = unknown */
	uint64_t size_bytes; /* of its LTX file */
	uint64_t checksum;   /* after it; 0 = not known from the listing */
};
/* Every restorable commit, oldest first: next() returns 1, 0 at the end, or a negative code. */
struct replica_commits;
int replica_commits_open(struct replica_commits **out, struct replica_source *s, struct fz_err *err) FZ_MUST_CHECK;
int replica_commits_next(struct replica_commits *c, struct replica_commit *out, struct fz_err *err) FZ_MUST_CHECK;
/* When that life of the database was deleted or renamed; 0 = it was not, as far as is known here. */
int64_t replica_commits_ended(const struct replica_commits *c, const char *lineage);
void replica_commits_close(struct replica_commits *c);
/* The LTX file that next() told of last, from offset 0; it may begin earlier than min_txid. before: instead the snapshot
 * that ends right before it, where the log has one (-FZ_ENOTFOUND). Close it before the next next(). -FZ_ENOKEY. */
int replica_commits_file(struct replica_commits *c, bool before, struct fz_src **out, struct fz_err *err) FZ_MUST_CHECK;

#endif
