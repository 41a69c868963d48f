/* claim.h - who may write: "<database>/claim/<n>", one JSON object for each (lineage, epoch) ever begun under this name.
 *
 * A writer owns the database while the highest claim is its own; n + 1 is claimed with a put that fails when the object
 * exists (fz_store_put_new), so that of two exactly one wins. A foreign highest claim means: fenced. Then nothing is
 * uploaded or deleted any more, unless take_over was asked for, or this host was promoted since. A claim names the base: what
 * an older epoch of the same lineage holds beyond base_txid is not part of history. */
#ifndef FZ_PRIMARY_CLAIM_H
#define FZ_PRIMARY_CLAIM_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct fz_store;
struct fz_buf;

#define PRIMARY_WRITER_ID_SIZE 33 /* 32 hex digits and NUL */

/* The writer of a claim that fences whoever wrote until then, and that nobody holds (primary/drop.h). */
#define PRIMARY_NOBODY "00000000000000000000000000000000"

struct primary_claim {
	uint32_t n;
	char lineage[17];
	uint32_t epoch;
	uint64_t base_txid, base_checksum;
	char writer[256]; /* host name, for people */
	char writer_id[PRIMARY_WRITER_ID_SIZE];
	int64_t time_ms;
	bool first; /* not in the text; for hold(): this lineage was never claimed here, so it may follow PRIMARY_NOBODY's */
	bool ended; /* not in the text; for hold(): this life is over, so a later one of the same writer's may have followed */
	/* not in the text; for hold(): promoted in that epoch (0 = not), so it may follow another writer's claim, unless that is of this
	 * lineage and of this epoch or a later one: then another host has been promoted since */
	uint32_t promoted;
};
int primary_claim_format(struct fz_buf *out, const struct primary_claim *c) FZ_MUST_CHECK;
/* n is not in the text and stays. -FZ_ECORRUPT. */
int primary_claim_parse(struct primary_claim *c, const char *text, struct fz_err *err) FZ_MUST_CHECK;

/* Makes sure that the highest claim of the database is *want (n is filled in, and the base, where it was put already with
 * another one). known_n: the claim that the caller knows to be its own for this lineage and epoch; 0 = none. One LIST when that still holds. 0; -FZ_EFENCED names the owner;
 * the store's errors. *vanished is set when there is no claim at all although known_n > 0: the objects are gone as well. */
int primary_claim_hold(struct fz_store *store, const char *database, struct primary_claim *want, uint32_t known_n,
                       bool take_over, bool *vanished, struct fz_err *err) FZ_MUST_CHECK;

/* The highest claim (n = 0: there is none; one that cannot be read is an unknown writer's), and whether its end is marked. */
int primary_claim_top(struct fz_store *store, const char *database, struct primary_claim *out, bool *ended,
                      struct fz_err *err) FZ_MUST_CHECK;

/* The database that claim c->n is about has ended at ended_ms, after txid: "<database>/claim/<n>-ended" says so, unless another claim has
 * followed; that one says what is there now. Can be repeated. */
int primary_claim_end(struct fz_store *store, const char *database, const struct primary_claim *c, uint64_t txid,
                      int64_t ended_ms, struct fz_err *err) FZ_MUST_CHECK;

/* The random identity of this writer, kept as ship/writer-id below statefd. */
int primary_writer_id(int statefd, char out[static PRIMARY_WRITER_ID_SIZE], struct fz_err *err) FZ_MUST_CHECK;

#endif
