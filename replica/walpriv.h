/* walpriv.h - what walapply.c and checkpoint.c share: an attached WAL. Nobody else includes it. */
#ifndef FZ_REPLICA_WALPRIV_H
#define FZ_REPLICA_WALPRIV_H

#include "replica/walapply.h"
#include "replica/walindex.h"

#include <stdbool.h>

struct replica_wal {
	int dbfd, walfd;
	uint32_t page_size;
	struct replica_walindex x;
	bool held;    /* WRITE and CKPT stay locked */
	bool lazy;    /* a commit is not synced */
	bool writing; /* holds WRITE, between begin and its end */
	/* the transaction under way */
	uint32_t frame; /* last frame in the index or pending in the batch */
	uint32_t sum[2];
	uint8_t *batch; /* frames not written yet */
	uint32_t *batch_pgno;
	uint32_t batch_n, batch_max;
	uint8_t *last;      /* page of the newest frame, which is not in the batch yet: it may be the commit frame */
	uint32_t last_pgno; /* 0 = none */
};

#endif
