/* drop.h - everything that a store holds of one database goes, but for one claim and the mark of its end.
 *
 * That claim keeps its number from being given again: a host that was away, and whose cursor says that the claim of that number is its own,
 * would take a later one for it and write beside the new owner. A database of the same name claims the next number, with a lineage of
 * its own, as always. Followers of the store read in the mark that the database has gone.
 * Interrupted anywhere it can be repeated: objects go newest first, so what is left restores to an earlier commit until nothing is left; the
 * end is marked before the first object goes. */
#ifndef FZ_PRIMARY_DROP_H
#define FZ_PRIMARY_DROP_H

#include "primary/claim.h"

#include <stddef.h>

struct primary_drop {
	struct fz_store *store; /* keys begin with the database */
	const char *database;
	const char *writer_id; /* of this host, on which the database is gone; NULL = unknown */
	bool force;            /* also what was not deleted where it was written: its writer is fenced */
	const char *writer;    /* this host's name, for that claim */
	bool dry_run;
	void (*tick)(struct primary_drop *d); /* may be NULL */
	bool (*stop)(struct primary_drop *d); /* may be NULL: true = end with -ECANCELED */
	/* out */
	uint64_t objects, bytes, lives; /* what is there: objects of so many lineages */
	uint64_t deleted;               /* of them, so far */
	uint32_t claim;                 /* the one that stays; 0 = none was there */
	uint64_t others;                /* keys below the name that are not ours: they stay */
};
/* -FZ_EFENCED: it lives, as far as the store knows, and is another writer's. -FZ_ENOTFOUND: there is nothing of that name. -FZ_EEXISTS:
 * a database of that name began while the store was listed; nothing was changed. */
int primary_drop_run(struct primary_drop *d, struct fz_err *err) FZ_MUST_CHECK;

#endif
