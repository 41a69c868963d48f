#include "base/tally.h"

void fz_tally_add(struct fz_tally *t, int code)
{
	size_t i = 0;

	for (; i < FZ_TALLY_CODES - 1; i++) {
		int there = 0;

		if (atomic_compare_exchange_strong(&t->v[i].code, &there, code) || there == code)
			break;
	}
	if (i == FZ_TALLY_CODES - 1) {
		int none = 0;

		(void)atomic_compare_exchange_strong(&t->v[i].code, &none, code);
	}
	atomic_fetch_add_explicit(&t->v[i].n, 1, memory_order_relaxed);
}

int fz_tally_at(struct fz_tally *t, size_t i, uint64_t *n)
{
	if (i >= FZ_TALLY_CODES)
		return 0;
	*n = atomic_load_explicit(&t->v[i].n, memory_order_relaxed);
	return -atomic_load(&t->v[i].code);
}
