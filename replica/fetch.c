#include "replica/fetch.h"

#include "base/array.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/worker.h"
#include "ltx/dec.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_THREADS 32
#define RUN_BYTES   (256 * 1024) /* neighbouring pages go out in one pwrite of at most this size */
#define TICK_NS     200000000u

struct replica_pool {
	struct replica_pool_conf conf;
	struct fz_worker threads[MAX_THREADS];
	pthread_mutex_t mu;
	pthread_cond_t work, done; /* CLOCK_MONOTONIC */
	struct replica_job *head, **tail;
	unsigned queued_pages, running;
	uint64_t block_bytes; /* held by blocks, from prefetch until decoded or freed */
	bool stop;
	int rc;
	struct fz_err err;
	struct replica_object *blame;
	uint64_t last_tick_ns; /* owner's */
};

/* ---- image ---- */
int replica_image_begin(struct replica_image *im, uint32_t page_size, uint32_t commit, struct fz_err *err)
{
	uint32_t lock = ltx_lock_page(page_size);

	free(im->have);
	im->have = calloc((size_t)commit / 8 + 1, 1);
	if (!im->have)
		return fz_fail_errno(err, ENOMEM, "a restore of %u pages", commit);
	im->page_size = page_size;
	im->commit = commit;
	im->missing = commit - (commit >= lock);
	if (commit >= lock)
		im->have[lock / 8] |= (uint8_t)(1u << lock % 8);
	atomic_store(&im->checksum, 0);
	if (im->fd >= 0 && (ftruncate(im->fd, 0) < 0 || ftruncate(im->fd, (off_t)commit * page_size) < 0))
		return fz_fail_errno(err, errno, "sizing the restored file to %u pages", commit);
	return 0;
}

bool replica_image_claim(struct replica_image *im, uint32_t pgno)
{
	uint8_t bit = (uint8_t)(1u << pgno % 8);

	if (pgno == 0 || pgno > im->commit || im->have[pgno / 8] & bit)
		return false;
	im->have[pgno / 8] |= bit;
	im->missing--;
	return true;
}

void replica_image_fini(struct replica_image *im)
{
	free(im->have);
	im->have = NULL;
}

/* ---- jobs ---- */
struct replica_job *replica_job_new(struct replica_object *o, struct fz_src *src, uint64_t off_bytes,
                                    uint64_t size_bytes)
{
	struct replica_job *j = calloc(1, sizeof(*j));

	if (j) {
		j->object = o;
		j->src = src;
		j->off_bytes = off_bytes;
		j->size_bytes = size_bytes;
	}
	return j;
}

int replica_job_frame(struct replica_job *j, uint32_t pgno, uint64_t off_bytes, uint32_t size_bytes, struct fz_err *err)
{
	if (!fz_array_room(j->frames, j->n, j->cap))
		return fz_fail_errno(err, ENOMEM, "collecting frames");
	j->frames[j->n++] = (struct replica_frame){pgno, (uint32_t)off_bytes, size_bytes};
	return 0;
}

void replica_job_free(struct replica_job *j)
{
	if (!j)
		return;
	if (j->own_src)
		fz_src_close(j->src);
	fz_buf_fini(&j->data);
	free(j->frames);
	free(j);
}

/* ---- decoding, in the worker ---- */
struct run { /* consecutive pages on their way into the file */
	uint8_t *buf;
	uint32_t first, n;
};

static bool all_zero(const uint8_t *p, size_t n)
{
	return p[0] == 0 && !memcmp(p, p + 1, n - 1);
}

static int flush_run(struct replica_image *im, struct run *r, struct fz_err *err)
{
	uint64_t off = (uint64_t)(r->first - 1) * im->page_size;
	size_t n = (size_t)r->n * im->page_size;
	int rc;

	r->n = 0;
	if (!n || im->fd < 0 || all_zero(r->buf, n))
		return 0; /* the file is a hole there */
	rc = fz_pwrite(im->fd, r->buf, n, (off_t)off);
	if (rc < 0)
		return fz_fail_errno(err, -rc, "writing page %u of the restored file", r->first);
	/* start the disk now, so that the fsync at the end finds little left; single pages would be as many seeks, and
	 * the kernel joins them by then */
	if (n >= RUN_BYTES / 2)
		(void)sync_file_range(im->fd, (off_t)off, (off_t)n, SYNC_FILE_RANGE_WRITE);
	return 0;
}

static int decode(struct replica_image *im, const struct replica_job *j, const uint8_t *data, size_t size,
                  struct run *run, struct fz_err *err)
{
	const uint32_t max = RUN_BYTES / im->page_size;
	uint64_t sum = 0;
	int rc = 0;

	run->n = 0;
	for (size_t i = 0; i < j->n; i++) {
		const struct replica_frame *f = &j->frames[i];
		uint8_t *page;

		if (f->off_bytes > size || f->size_bytes > size - f->off_bytes)
			return fz_fail(err, FZ_ETRUNCATED, "page %u lies past the end", f->pgno);
		if (run->n && (run->n == max || f->pgno != run->first + run->n)) {
			rc = flush_run(im, run, err);
			if (rc < 0)
				return rc;
		}
		if (!run->n)
			run->first = f->pgno;
		page = run->buf + (size_t)run->n * im->page_size;
		rc = ltx_frame_decode(data + f->off_bytes, f->size_bytes, f->pgno, im->page_size, page, err);
		if (rc < 0)
			return rc;
		sum ^= ltx_page_checksum(f->pgno, page, im->page_size);
		run->n++;
	}
	rc = flush_run(im, run, err);
	atomic_fetch_xor(&im->checksum, sum);
	return rc;
}

static int fetch_block(struct replica_pool *p, struct replica_job *j)
{
	if (!j->src)
		return replica_object_read(p->conf.source, j->object, p->conf.meter, &j->data, &j->err);
	if (!fz_buf_room(&j->data, j->size_bytes))
		return fz_fail_errno(&j->err, ENOMEM, "fetching %llu bytes", (unsigned long long)j->size_bytes);
	j->data.size = j->size_bytes;
	return fz_src_read(j->src, j->off_bytes, j->data.data, j->size_bytes, &j->err);
}

static int name_object(const struct replica_job *j, int rc, struct fz_err *err)
{
	char key[LTX_NAME_MAX];

	if (rc < 0 && j->object && !strstr(err->text, replica_object_key(key, j->object)))
		fz_err_prefix(err, "%s", key);
	return rc;
}

static void fail_locked(struct replica_pool *p, int rc, const struct fz_err *err, struct replica_object *blame)
{
	if (p->rc < 0)
		return;
	p->rc = rc;
	p->err = *err;
	p->blame = rc == -ECANCELED ? NULL : blame; /* an object is not at fault when others end the work */
}

static void work(void *arg)
{
	struct replica_pool *p = arg;
	struct fz_buf range = {0};
	struct run run = {malloc(RUN_BYTES), 0, 0};

	pthread_mutex_lock(&p->mu);
	for (;;) {
		struct replica_job *j = p->head;
		struct fz_err err = {0};
		int rc = p->rc;

		if (p->stop)
			break;
		if (!j) {
			pthread_cond_wait(&p->work, &p->mu);
			continue;
		}
		p->head = j->next;
		if (!p->head)
			p->tail = &p->head;
		p->running++;
		pthread_mutex_unlock(&p->mu);
		if (rc == 0 && replica_meter_stopped(p->conf.meter)) /* the local log is read through no meter */
			rc = fz_fail_errno(&err, ECANCELED, "restore was stopped");
		if (!run.buf)
			rc = fz_fail_errno(&err, ENOMEM, "starting a fetching thread");
		if (j->block && !j->done) {
			if (rc < 0)
				j->err = err;
			else
				rc = fetch_block(p, j);
			rc = name_object(j, rc, &j->err);
		} else if (rc == 0) {
			const uint8_t *data = j->data.data;
			size_t size = j->data.size;

			if (!j->block) {
				fz_buf_reset(&range);
				data = fz_buf_room(&range, j->size_bytes);
				size = j->size_bytes;
				rc = data ? fz_src_read(j->src, j->off_bytes, range.data, size, &err)
				          : fz_fail_errno(&err, ENOMEM, "fetching %zu bytes", size);
			}
			if (rc == 0)
				rc = decode(p->conf.image, j, data, size, &run, &err);
			rc = name_object(j, rc, &err);
		}
		pthread_mutex_lock(&p->mu);
		p->running--;
		if (j->block && !j->done) {
			j->rc = rc;
			j->done = true; /* the owner's again */
		} else {
			if (rc < 0)
				fail_locked(p, rc, &err, j->object);
			p->queued_pages--;
			p->block_bytes -= j->counted_bytes;
			pthread_mutex_unlock(&p->mu);
			replica_job_free(j);
			pthread_mutex_lock(&p->mu);
		}
		pthread_cond_broadcast(&p->done);
	}
	pthread_mutex_unlock(&p->mu);
	fz_buf_fini(&range);
	free(run.buf);
}

/* ---- the owner's side ---- */
int replica_pool_start(struct replica_pool **out, const struct replica_pool_conf *conf, struct fz_err *err)
{
	struct replica_pool *p = calloc(1, sizeof(*p));
	pthread_condattr_t ca;
	int rc = 0;

	if (!p)
		return fz_fail_errno(err, ENOMEM, "starting the fetching threads");
	p->conf = *conf;
	p->tail = &p->head;
	if (p->conf.threads > MAX_THREADS)
		p->conf.threads = MAX_THREADS;
	pthread_mutex_init(&p->mu, NULL);
	pthread_condattr_init(&ca);
	pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
	pthread_cond_init(&p->work, &ca);
	pthread_cond_init(&p->done, &ca);
	pthread_condattr_destroy(&ca);
	for (unsigned i = 0; rc == 0 && i < p->conf.threads; i++)
		rc = fz_worker_start(&p->threads[i], "restore", work, p, err);
	if (rc < 0) {
		replica_pool_stop(p);
		return rc;
	}
	*out = p;
	return 0;
}

static void tick(struct replica_pool *p)
{
	uint64_t now = fz_mono_ns();

	if (!p->conf.progress || now - p->last_tick_ns < TICK_NS)
		return;
	p->last_tick_ns = now;
	p->conf.progress->tick(p->conf.progress, atomic_load(&p->conf.meter->fetched_bytes), p->conf.total_bytes);
}

static void wait_locked(struct replica_pool *p)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_nsec += TICK_NS;
	if (t.tv_nsec >= 1000000000) {
		t.tv_nsec -= 1000000000;
		t.tv_sec++;
	}
	pthread_cond_timedwait(&p->done, &p->mu, &t);
	pthread_mutex_unlock(&p->mu);
	tick(p);
	pthread_mutex_lock(&p->mu);
}

static void push_locked(struct replica_pool *p, struct replica_job *j)
{
	j->next = NULL;
	*p->tail = j;
	p->tail = &j->next;
	pthread_cond_signal(&p->work);
}

bool replica_pool_room(struct replica_pool *p, uint64_t bytes)
{
	bool room;

	pthread_mutex_lock(&p->mu);
	room = !p->block_bytes || p->block_bytes + bytes <= p->conf.budget_bytes;
	pthread_mutex_unlock(&p->mu);
	return room;
}

void replica_pool_prefetch(struct replica_pool *p, struct replica_job *j)
{
	pthread_mutex_lock(&p->mu);
	j->block = true;
	j->counted_bytes = j->size_bytes;
	p->block_bytes += j->counted_bytes;
	push_locked(p, j);
	pthread_mutex_unlock(&p->mu);
}

int replica_pool_wait(struct replica_pool *p, struct replica_job *j, struct fz_err *err)
{
	int rc;

	tick(p);
	pthread_mutex_lock(&p->mu);
	while (!j->done)
		wait_locked(p);
	rc = j->rc;
	if (rc < 0) {
		fail_locked(p, rc, &j->err, j->object);
		*err = p->err;
		rc = p->rc;
	}
	pthread_mutex_unlock(&p->mu);
	return rc;
}

int replica_pool_submit(struct replica_pool *p, struct replica_job *j, struct fz_err *err)
{
	int rc;

	tick(p);
	pthread_mutex_lock(&p->mu);
	while (p->rc == 0 && p->queued_pages >= 4 * p->conf.threads)
		wait_locked(p);
	rc = p->rc;
	if (rc < 0) {
		*err = p->err;
		p->block_bytes -= j->counted_bytes;
	} else {
		p->queued_pages++;
		push_locked(p, j);
	}
	pthread_mutex_unlock(&p->mu);
	if (rc < 0)
		replica_job_free(j);
	return rc;
}

int replica_pool_drain(struct replica_pool *p, struct replica_object **blame, struct fz_err *err)
{
	int rc;

	pthread_mutex_lock(&p->mu);
	while (p->head || p->running)
		wait_locked(p);
	rc = p->rc;
	if (rc < 0)
		*err = p->err;
	*blame = p->blame;
	pthread_mutex_unlock(&p->mu);
	return rc;
}

void replica_pool_stop(struct replica_pool *p)
{
	struct replica_job *j, *next;

	if (!p)
		return;
	pthread_mutex_lock(&p->mu);
	p->stop = true;
	pthread_cond_broadcast(&p->work);
	pthread_mutex_unlock(&p->mu);
	for (unsigned i = 0; i < p->conf.threads; i++)
		fz_worker_stop(&p->threads[i]);
	for (j = p->head; j; j = next) {
		next = j->next;
		if (j->block && !j->done)
			continue; /* prefetched: the owner frees it */
		replica_job_free(j);
	}
	pthread_mutex_destroy(&p->mu);
	pthread_cond_destroy(&p->work);
	pthread_cond_destroy(&p->done);
	free(p);
}
