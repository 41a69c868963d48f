/* store_race.h - several threads claim the same objects; each must be had by one of them. */
#ifndef FZ_TESTS_STORE_RACE_H
#define FZ_TESTS_STORE_RACE_H

#include "store/store.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

struct racer {
	pthread_t thread;
	struct fz_store *s;
	int n, claims, won, failed; /* n: who it is; claims: how many objects it tries for */
};

static inline void *race(void *arg)
{
	struct racer *r = arg;

	for (int i = 0; i < r->claims; i++) {
		char key[32], mine[16];
		int rc;

		snprintf(key, sizeof(key), "race/%d/claim", i);
		snprintf(mine, sizeof(mine), "%d", r->n);
		rc = fz_store_put_new(r->s, key, mine, strlen(mine), NULL);
		r->won += rc == 0;
		r->failed += rc != 0 && rc != -FZ_ECONFLICT;
	}
	return NULL;
}

#endif
