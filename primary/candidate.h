/* candidate.h - of several replicas that see a lease run out the most advanced one shall take it: each writes down how far it is, in
 * ".fazt/candidates" beside the lease, waits for the others, and the best goes first. This is for the better choice alone: that only one
 * of them wins is the lease's to see to (primary/lease.h).
 *
 * "How far" is the epoch, then the sum of all databases' TXIDs: replicas of one primary differ in nothing else. Of equals the one with the lower
 * node goes first. A candidacy is for one version of the lease, named by its nonce; what is there for another one is forgotten. */
#ifndef FZ_PRIMARY_CANDIDATE_H
#define FZ_PRIMARY_CANDIDATE_H

#include "base/err.h"

#include <stdint.h>

struct fz_store;

#define PRIMARY_CANDIDATE_KEY ".fazt/candidates"

struct primary_candidate {
	char node[33];
	uint32_t epoch;
	uint64_t txids;
};
/* Adds this host to the candidates for that version, or brings it up to date. */
int primary_candidate_stand(struct fz_store *store, const char *nonce, const struct primary_candidate *me,
                            struct fz_err *err) FZ_MUST_CHECK;
/* *ahead: how many are better than this host. */
int primary_candidate_rank(struct fz_store *store, const char *nonce, const struct primary_candidate *me,
                           unsigned *ahead, struct fz_err *err) FZ_MUST_CHECK;

#endif
