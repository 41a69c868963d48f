/* fetch.h - threads that fetch pieces of history, decode page frames, and put each page once into one database image.
 *
 * A job is a piece of bytes and the frames in it that are wanted. Two ways:
 *   pages   frames known beforehand (page index of a large file): submit; a thread reads the range and decodes.
 *   block   many small files at once (a pack): prefetch, wait, look at its indexes, name the frames, then submit.
 * THREADS  one owner (plans, claims pages, submits) and n workers. pool->mu guards queue, counters and the first error.
 *          A job belongs to the owner until submitted or prefetched, to a worker until replica_pool_wait() returned.
 * MEMORY   workers keep one range buffer each (at most REPLICA_RANGE_BYTES and one page more), blocks are counted against
 *          the budget: replica_pool_room(). */
#ifndef FZ_REPLICA_FETCH_H
#define FZ_REPLICA_FETCH_H

#include "replica/origin.h"
#include "replica/restore.h"

#define REPLICA_RANGE_BYTES (1024 * 1024)

/* The database being brought back. */
struct replica_image {
	int fd; /* -1 = drop the pages */
	uint32_t page_size, commit;
	uint8_t *have;          /* a bit a page: claimed by a newer file; the owner's alone */
	uint64_t missing;       /* pages not claimed yet */
	atomic_ullong checksum; /* XOR of the sums of the pages that are in place */
};
int replica_image_begin(struct replica_image *im, uint32_t page_size, uint32_t commit,
                        struct fz_err *err) FZ_MUST_CHECK;
/* True when pgno belongs into the image and no newer file had it: the caller's version is the one. */
bool replica_image_claim(struct replica_image *im, uint32_t pgno);
void replica_image_fini(struct replica_image *im); /* the descriptor stays the caller's */

struct replica_frame {
	uint32_t pgno, off_bytes, size_bytes; /* off: in the job's bytes */
};
struct replica_job {
	struct replica_object *object; /* to blame; NULL = the local log */
	struct fz_src *src;            /* where the bytes are; NULL = the whole object */
	bool own_src;                  /* closed with the job */
	uint64_t off_bytes, size_bytes;
	struct fz_buf data; /* a block's bytes once it was waited for */
	struct replica_frame *frames;
	size_t n, cap;
	/* pool's */
	struct replica_job *next;
	uint64_t counted_bytes;
	int rc;
	bool done, block;
	struct fz_err err;
};
struct replica_job *replica_job_new(struct replica_object *o, struct fz_src *src, uint64_t off_bytes,
                                    uint64_t size_bytes);
int replica_job_frame(struct replica_job *j, uint32_t pgno, uint64_t off_bytes, uint32_t size_bytes,
                      struct fz_err *err) FZ_MUST_CHECK;
void replica_job_free(struct replica_job *j); /* NULL is fine; not while a worker has it */

struct replica_pool;
struct replica_pool_conf {
	struct replica_source *source;
	struct replica_image *image;
	struct replica_meter *meter;
	struct replica_progress *progress;
	uint64_t total_bytes; /* for progress */
	unsigned threads;
	uint64_t budget_bytes; /* for blocks */
};
int replica_pool_start(struct replica_pool **out, const struct replica_pool_conf *conf,
                       struct fz_err *err) FZ_MUST_CHECK;
/* Is there room in the budget for another block of that size? Always true when no block is under way. */
bool replica_pool_room(struct replica_pool *p, uint64_t bytes);
void replica_pool_prefetch(struct replica_pool *p, struct replica_job *j);
/* Until the block is there. On failure the job is still the owner's. */
int replica_pool_wait(struct replica_pool *p, struct replica_job *j, struct fz_err *err) FZ_MUST_CHECK;
/* Takes the job over, fetched or not; waits while too many are queued. Fails with the first error of any job. */
int replica_pool_submit(struct replica_pool *p, struct replica_job *j, struct fz_err *err) FZ_MUST_CHECK;
/* Until all jobs are done; the first error and whom to blame (may be NULL). */
int replica_pool_drain(struct replica_pool *p, struct replica_object **blame, struct fz_err *err) FZ_MUST_CHECK;
/* Ends the threads; what is still queued is dropped. Prefetched jobs stay the owner's. */
void replica_pool_stop(struct replica_pool *p);

#endif
