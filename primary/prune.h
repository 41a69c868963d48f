/* prune.h - retention when it is asked for: judged and carried out at once, without the grace that objects have otherwise (a restore
 * that is under way plans again), and told beforehand what it takes away. The rules are primary/retain.h's. */
#ifndef FZ_PRIMARY_PRUNE_H
#define FZ_PRIMARY_PRUNE_H

#include "primary/retain.h"

struct primary_ship;

/* Commits that could be restored one by one, and cannot be any more; what is merged to minutes, hours or days may reach into it. */
struct primary_prune_loss {
	char lineage[17];
	uint64_t first_txid, last_txid;
	int64_t first_ms, last_ms; /* of the objects that hold them */
};
#define PRIMARY_PRUNE_LOSSES 64

struct primary_prune {
	struct fz_store *store; /* of the target: keys begin with the database */
	const char *database;
	const struct primary_retain_conf *conf;
	const char *lineage; /* the newest one of this name; NULL = there is none */
	bool ended;
	uint64_t held_txid; /* what can be restored now, and must be afterwards; 0 = nothing */
	unsigned cut;
	bool dry_run;
	struct primary_prune_watch *watch; /* may be NULL */
	/* out */
	uint64_t objects, bytes; /* superfluous */
	uint64_t deleted;        /* of them, so far */
	uint64_t kept_objects, kept_bytes;
	bool hole; /* held_txid cannot be restored: nothing is deleted before that is healed */
	struct primary_prune_loss lost[PRIMARY_PRUNE_LOSSES];
	size_t n_lost; /* may be more than the array holds */
};
/* Who asked. */
struct primary_prune_watch {
	/* of primary_ship_prune(): each result, or what failed */
	void (*told)(struct primary_prune_watch *w, const char *target, const struct primary_prune *p,
	             const struct fz_err *err);
	/* between batches of deletions: true = end with -ECANCELED */
	bool (*stop)(struct primary_prune_watch *w, const struct primary_prune *p);
};
/* One LIST, the decision, and DELETEs, dependents before what they rest on: interrupted anywhere, what is left restores. -ECANCELED.
 * append_only of conf is not looked at: whoever asks has decided. */
int primary_prune_run(struct primary_prune *p, int64_t now_ms, struct fz_err *err) FZ_MUST_CHECK;

/* The living worker's way: every database (name NULL), or one, of every target that this host may write, between what the lanes do. A
 * target that is append_only is judged only. -FZ_ENOTFOUND: no target knows that name. */
int primary_ship_prune(struct primary_ship *s, const char *name, bool dry_run, struct primary_prune_watch *w,
                       struct fz_err *err) FZ_MUST_CHECK;

#endif
