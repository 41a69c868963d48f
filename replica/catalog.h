/* catalog.h - what a store's listing says about one database: objects, claims, lineages, and how far each object counts.
 *
 * TERMS    lineage: one life of the database (a new one after deletion and re-creation). epoch: one writer's reign inside
 *          a lineage, begun by a claim that names its base (TXID, checksum). usable: what an epoch holds beyond the base
 *          of a later epoch was written by a fenced writer and counts for nothing. Source: docs/formats.md "Keys". */
#ifndef FZ_REPLICA_CATALOG_H
#define FZ_REPLICA_CATALOG_H

#include "ltx/name.h"

#include <stdbool.h>
#include <stddef.h>

struct fz_store;

struct replica_object {
	struct ltx_name name;
	uint64_t size_bytes;
	uint64_t usable_max; /* highest TXID that counts; 0 = none (a merged file that reaches into a fenced history) */
	uint64_t reach;      /* pack whose index showed that it ends earlier below the target; 0 = not known */
	bool bad;            /* gone or damaged: plan without it */
};
struct replica_claim {
	uint32_t n; /* order of claims on this name */
	char lineage[17];
	uint32_t epoch;
	uint64_t base_txid;
	uint64_t base_checksum;
	int64_t time_ms;
	int64_t ended_ms; /* the database was deleted or renamed then; 0 = it was not, or nobody has told */
};
struct replica_lineage {
	char id[17];
	size_t first, n;           /* objects[first .. first + n), ascending (max TXID, min TXID) */
	uint32_t claim_n;          /* its newest claim; 0 = none */
	int64_t last_ms, ended_ms; /* ended: of its newest claim */
};
struct replica_catalog {
	struct replica_object *objects;
	size_t n_objects, cap_objects;
	struct replica_claim *claims;
	size_t n_claims, cap_claims;
	struct replica_lineage *lineages; /* oldest first */
	size_t n_lineages;
	size_t ignored; /* keys that are no object of this format */
};

/* One key of a listing (relative to the database). Foreign keys are counted and ignored. */
int replica_catalog_add(struct replica_catalog *c, const char *key, uint64_t size_bytes,
                        struct fz_err *err) FZ_MUST_CHECK;
/* One claim: key "claim/<8 hex>" and its JSON text. -FZ_ECORRUPT when it is no claim. */
int replica_catalog_add_claim(struct replica_catalog *c, const char *key, const char *json,
                              struct fz_err *err) FZ_MUST_CHECK;
/* The end of a claim that was added before: key "claim/<8 hex>-ended" and its text. What is not understood is ignored. */
void replica_catalog_add_end(struct replica_catalog *c, const char *key, const char *json);
/* After the last add: sorts, groups into lineages, computes usable_max. */
int replica_catalog_finish(struct replica_catalog *c, struct fz_err *err) FZ_MUST_CHECK;
/* All of it from a store whose prefix is the database. -FZ_ENOTFOUND when nothing lies there. */
int replica_catalog_load(struct replica_catalog *c, struct fz_store *store, struct fz_err *err) FZ_MUST_CHECK;
/* The same from one that holds several: below is the database's path and "/". */
int replica_catalog_load_at(struct replica_catalog *c, struct fz_store *store, const char *below,
                            struct fz_err *err) FZ_MUST_CHECK;
void replica_catalog_fini(struct replica_catalog *c);

#endif
