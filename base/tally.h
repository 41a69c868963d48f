/* tally.h - how often which error came, by code. Lock-free; zero-initialised is empty and valid. */
#ifndef FZ_BASE_TALLY_H
#define FZ_BASE_TALLY_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define FZ_TALLY_CODES 12 /* different ones; the last place is for all that come later */

struct fz_tally {
	struct {
		atomic_int code; /* negative; 0 = free */
		atomic_ullong n;
	} v[FZ_TALLY_CODES];
};
void fz_tally_add(struct fz_tally *t, int code); /* a negative code */
/* The i-th code (positive, as in "FZ-1303") and its number; 0 = no more. */
int fz_tally_at(struct fz_tally *t, size_t i, uint64_t *n);

#endif
