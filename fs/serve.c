/* serve.c - the threads that take requests from the kernel.
 *
 * Each reads blocking (no wake-up while idle; one request wakes one thread). Whoever takes the last idle reader's place by
 * taking a request starts another thread, so requests that block in a barrier never keep others from being served; surplus
 * threads end. */
#include "fs/session_priv.h"

#include "base/log.h"

#include <errno.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { IDLE_MAX = 8, STACK_BYTES = 512 * 1024, DEADLY = 3 };
#define WAKE_SIGNAL (SIGRTMIN + 1)

/* ---- one request ---- */

static void answer_error(struct fs_session *s, uint64_t unique, int error)
{
	struct fuse_out_header h = {.len = sizeof(h), .error = -error, .unique = unique};

	if (write(s->fusefd, &h, sizeof(h)) < 0 && errno != ENOENT)
		fz_warn("cannot answer a request: %s", fz_strerror(-errno));
}

/* A request that was in the hands of three workers when they crashed. */
static bool deadly(struct fs_session *s, uint64_t unique)
{
	for (unsigned i = 0; i < 16; i++)
		if (s->sh->suspects[i].unique == unique)
			return s->sh->suspects[i].deaths >= DEADLY;
	return false;
}

void fs_process(struct fs_session *s, struct fs_thread *me, size_t n, bool resent)
{
	const struct fuse_in_header *h = (const struct fuse_in_header *)(const void *)me->buf;
	struct fuse_buf fb = {.size = n, .mem = me->buf};

	if (n < sizeof(*h))
		return;
	me->opcode = h->opcode;
	me->pid = (int)h->pid;
	me->unique = h->unique & ~FS_RESENT;
	me->resent = resent || (h->unique & FS_RESENT);
	me->backing_id = 0;
	me->abandoned = false;
	atomic_fetch_add_explicit(&s->n_op[h->opcode % FS_OPS], 1, memory_order_relaxed);
	if (h->opcode == FUSE_INIT) { /* asked before a former worker's answer was noted */
		uint64_t unique = h->unique;

		memcpy(s->sh->init_reply + offsetof(struct fuse_out_header, unique), &unique, sizeof(unique));
		if (write(s->fusefd, s->sh->init_reply, s->sh->init_reply_bytes) < 0 && errno != ENOENT)
			fz_warn("cannot answer INIT: %s", fz_strerror(-errno));
		return;
	}
	if (me->resent) {
		atomic_fetch_add(&s->n_resent, 1);
		if (deadly(s, me->unique)) {
			fz_error("request %llu (operation %u) ended %d workers: answered with EIO",
			         (unsigned long long)me->unique, me->opcode, DEADLY);
			atomic_fetch_add(&s->n_poison, 1);
			answer_error(s, h->unique, EIO);
			return;
		}
	}
	if (h->opcode == FUSE_FORGET || h->opcode == FUSE_BATCH_FORGET)
		me->slot->answered = me->unique; /* not again after a death: counts may be too high, never too low */
	atomic_store_explicit(&me->slot->current, me->unique, memory_order_release);
	FS_CRASHPOINT(request);
	fuse_session_process_buf(s->se, &fb);
	atomic_store_explicit(&me->slot->current, 0, memory_order_release);
	FS_CRASHPOINT(request_done);
}

/* ---- threads ---- */

struct start {
	struct fs_session *s;
	unsigned slot;
	bool left; /* the slot holds a request of a former worker */
};

void fs_session_wake(struct fs_session *s)
{
	uint64_t one = 1;

	if (write(s->stopfd, &one, sizeof(one)) < 0)
		return; /* full: run() is awake already */
}

static void serve(struct fs_session *s, struct fs_thread *me, bool left)
{
	for (bool resent = left; true; resent = false) {
		ssize_t n;

		if (atomic_load(&s->stop))
			break;
		if (resent)
			n = (ssize_t)((const struct fuse_in_header *)(const void *)me->buf)->len;
		else
			n = read(s->fusefd, me->buf, FS_BUF_BYTES);
		if (n < 0) {
			if (errno == EINTR || errno == EAGAIN || errno == ENOENT)
				continue;
			if (errno != ENODEV)
				fz_error("reading /dev/fuse: %s", fz_strerror(-errno));
			atomic_store(&s->gone, true);
			fs_session_wake(s);
			break;
		}
		if (atomic_fetch_sub(&s->idle, 1) == 1)
			fs_serve_spawn(s); /* nobody reads: requests must not wait for this one */
		fs_process(s, me, (size_t)n, resent);
		if (!s->resend && !me->abandoned)
			atomic_store(&me->slot->answered, me->unique);
		if (atomic_fetch_add(&s->idle, 1) >= IDLE_MAX)
			break;
	}
	atomic_fetch_sub(&s->idle, 1);
}

static void *enter(void *arg)
{
	struct start *st = arg;
	struct fs_session *s = st->s;
	struct fs_thread me = {.s = s, .nslot = st->slot, .slot = &s->sh->slots[st->slot]};
	bool left = st->left;
	sigset_t only;

	free(st);
	pthread_setname_np(pthread_self(), "fs-serve");
	sigfillset(&only);
	sigdelset(&only, WAKE_SIGNAL);
	pthread_sigmask(SIG_SETMASK, &only, NULL);
	me.buf = fs_shared_buf(s->sh, me.nslot);
	/* Resident: a kill in the middle of the kernel's copy would otherwise end the request with EIO. (Sanitizers make
	 * mlock() do nothing.) */
	(void)mlock(me.buf, FS_BUF_BYTES);
	if (madvise(me.buf, FS_BUF_BYTES, 23 /* MADV_POPULATE_WRITE */) < 0 && !left)
		memset(me.buf, 0, FS_BUF_BYTES);
	me.out = me.buf;
	if (!s->resend) { /* the request must stay as it is until it is answered */
		me.out = mmap(NULL, FS_MAX_WRITE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE,
		              -1, 0);
		if (me.out == MAP_FAILED)
			fz_panic("no memory for a reply buffer");
	}
	fs_self = &me;
	serve(s, &me, left);
	fs_self = NULL;
	munlock(me.buf, FS_BUF_BYTES);
	if (me.out != me.buf)
		munmap(me.out, FS_MAX_WRITE);
	pthread_mutex_lock(&s->mu);
	s->slot_used[me.nslot] = false;
	s->threads--;
	pthread_cond_signal(&s->ended);
	pthread_mutex_unlock(&s->mu);
	return NULL;
}

/* One that nobody uses; those with a request that a former worker has left first. */
static int free_slot_locked(struct fs_session *s)
{
	int slot = -1;

	for (int i = 0; i < FS_SLOTS; i++) {
		if (s->slot_left[i])
			return i;
		if (slot < 0 && !s->slot_used[i])
			slot = i;
	}
	return slot;
}

bool fs_serve_spawn(struct fs_session *s)
{
	struct start *st = malloc(sizeof(*st));
	pthread_attr_t attr;
	int slot, rc = EAGAIN;
	bool first;

	pthread_mutex_lock(&s->mu);
	slot = free_slot_locked(s);
	if (st && slot >= 0 && !atomic_load(&s->stop)) {
		*st = (struct start){s, (unsigned)slot, s->slot_left[slot]};
		s->slot_left[slot] = false;
		pthread_attr_init(&attr);
		pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
		pthread_attr_setstacksize(&attr, STACK_BYTES);
		s->slot_used[slot] = true;
		s->threads++;
		atomic_fetch_add(&s->idle, 1);
		rc = pthread_create(&s->slot_thread[slot], &attr, enter, st);
		pthread_attr_destroy(&attr);
		if (rc) {
			s->slot_used[slot] = false;
			s->threads--;
			atomic_fetch_sub(&s->idle, 1);
		} else {
			st = NULL;
			atomic_fetch_add(&s->n_threads, 1);
		}
	}
	first = rc && !s->slots_exhausted && !atomic_load(&s->stop);
	if (first)
		s->slots_exhausted = true;
	pthread_mutex_unlock(&s->mu);
	free(st);
	if (first)
		fz_warn("no further serving thread: %u requests wait in barriers", FS_SLOTS);
	return rc == 0;
}

static void on_wake(int sig)
{
}

void fs_serve_init(void)
{
	struct sigaction sa = {.sa_handler = on_wake}; /* no SA_RESTART */

	sigaction(WAKE_SIGNAL, &sa, NULL);
}

void fs_serve_stop(struct fs_session *s)
{
	atomic_store(&s->stop, true);
	pthread_mutex_lock(&s->mu);
	while (s->threads) {
		struct timespec t;

		/* A signal that arrives between the look at stop and read(2) is lost: hence again and again. */
		for (unsigned i = 0; i < FS_SLOTS; i++)
			if (s->slot_used[i])
				pthread_kill(s->slot_thread[i], WAKE_SIGNAL);
		clock_gettime(CLOCK_REALTIME, &t);
		t.tv_nsec += 2000000;
		if (t.tv_nsec >= 1000000000) {
			t.tv_nsec -= 1000000000;
			t.tv_sec++;
		}
		pthread_cond_timedwait(&s->ended, &s->mu, &t);
	}
	pthread_mutex_unlock(&s->mu);
}
