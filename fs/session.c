/* session.c - requests in, answers out.
 *
 * HANDSHAKE  The kernel sends INIT once. The first worker saves the request and its (patched) reply in the memfd; each
 *            worker feeds the saved request to libfuse under a unique of its own and swallows the answer. States in
 *            fs/shared.h, init_state; a death in any of them is made good by the next worker.
 * HAND-OVER  settle the former worker's intents, open its files again, ask the kernel to send again what was in flight, and
 *            only then read. All of it after the former worker is gone for good: the supervisor waits for that.
 * THREADS    Each reads blocking (no wake-up while idle; one request wakes one thread). Whoever takes the last idle
 *            reader's place by taking a request starts another thread, so requests that block in a barrier never keep
 *            others from being served; surplus threads end. */
#include "fs/session.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "fs/backing.h"
#include "fs/open.h"
#include "fs/ops.h"
#include "fs/super_client.h"
#include "fs/supervisor.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/securebits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <unistd.h>

enum { BASE_THREADS = 4, IDLE_MAX = 8, STACK_BYTES = 512 * 1024, DEADLY = 3 };
#define WAKE_SIGNAL (SIGRTMIN + 1)

/* ---- the wire, where libfuse 3.14 does not know it ---- */

static size_t total(const struct iovec *v, int n)
{
	size_t bytes = 0;

	for (int i = 0; i < n; i++)
		bytes += v[i].iov_len;
	return bytes;
}

static size_t flatten(uint8_t *out, size_t cap, const struct iovec *v, int n)
{
	size_t bytes = 0;

	for (int i = 0; i < n; i++) {
		if (v[i].iov_len > cap - bytes)
			return 0;
		memcpy(out + bytes, v[i].iov_base, v[i].iov_len);
		bytes += v[i].iov_len;
	}
	return bytes;
}

#if !FS_NATIVE_PASSTHROUGH
static void or32(uint8_t *p, uint32_t bits)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	v |= bits;
	memcpy(p, &v, sizeof(v));
}

/* open_flags and backing_id of a struct fuse_open_out. */
static void patch_open(uint8_t *open_out, int32_t id)
{
	or32(open_out + 8, FS_FOPEN_PASSTHROUGH);
	memcpy(open_out + 12, &id, sizeof(id));
}

static void patch_reply(struct iovec *v, int n)
{
	struct fs_thread *me = fs_self;

	if (!me || !me->backing_id || n != 2)
		return;
	if (me->opcode == FUSE_OPEN && v[1].iov_len == sizeof(struct fuse_open_out))
		patch_open(v[1].iov_base, me->backing_id);
	if (me->opcode == FUSE_CREATE && v[1].iov_len == sizeof(struct fuse_entry_out) + sizeof(struct fuse_open_out))
		patch_open((uint8_t *)v[1].iov_base + sizeof(struct fuse_entry_out), me->backing_id);
}
#endif

/* struct fuse_init_out: flags at 12, flags2 at 32, max_stack_depth at 36 (newer than Debian 12's header). */
static void patch_init(struct fs_session *s, uint8_t *reply, size_t bytes)
{
#if !FS_NATIVE_PASSTHROUGH
	uint32_t depth = 1;

	if (!s->passthrough || bytes < sizeof(struct fuse_out_header) + 40)
		return;
	reply += sizeof(struct fuse_out_header);
	or32(reply + 12, FS_INIT_EXT);
	or32(reply + 32, FS_INIT2_PASSTHROUGH);
	memcpy(reply + 36, &depth, sizeof(depth));
#else
	(void)s, (void)reply, (void)bytes;
#endif
}

static void keep_init_reply(struct fs_session *s, const struct iovec *v, int n)
{
	struct fs_shared *sh = s->sh;

	if (sh->init_state >= 2)
		return;
	sh->init_reply_bytes = (uint32_t)flatten(sh->init_reply, sizeof(sh->init_reply), v, n);
	patch_init(s, sh->init_reply, sh->init_reply_bytes);
	memcpy(sh->init_reply + offsetof(struct fuse_out_header, unique), &sh->init_unique, sizeof(uint64_t));
	atomic_store(&sh->init_state, 2);
}

static ssize_t io_writev(int fd, struct iovec *v, int n, void *userdata)
{
	struct fs_session *s = userdata;
	struct fs_thread *me = fs_self;
	const struct fuse_out_header *h = v[0].iov_base;
	ssize_t rc;

	if (h->unique == FS_SYNTHETIC) {
		keep_init_reply(s, v, n);
		return (ssize_t)total(v, n);
	}
#if !FS_NATIVE_PASSTHROUGH
	if (!h->error)
		patch_reply(v, n);
#endif
	if (me && !s->resend && h->len <= FS_REPLY_BYTES && (h->unique & ~FS_RESENT) == me->unique) {
		/* Should we die in the write, the next worker cannot know whether it arrived: it sends these bytes again
		 * and never runs the request again, which might undo what the application did since. */
		me->slot->reply_bytes = (uint32_t)flatten(me->slot->reply, FS_REPLY_BYTES, v, n);
		atomic_store(&me->slot->replying, me->unique);
	}
	FS_CRASHPOINT(reply);
	rc = writev(fd, v, n);
	FS_CRASHPOINT(replied);
	return rc;
}

static ssize_t io_read(int fd, void *buf, size_t n, void *userdata)
{
	return read(fd, buf, n);
}

/* ---- handshake ---- */

static int ask_resend(int fusefd)
{
	struct fuse_out_header h = {.len = sizeof(h), .error = FS_NOTIFY_RESEND_CODE};

	return write(fusefd, &h, sizeof(h)) == sizeof(h) ? 0 : -errno;
}

static int read_init(struct fs_session *s, struct fz_err *err)
{
	struct fs_shared *sh = s->sh;
	uint8_t *buf = fs_shared_buf(sh, 0);
	const struct fuse_in_header *h = (const struct fuse_in_header *)(const void *)buf;
	ssize_t n;

	if (sh->starts > 1)
		(void)ask_resend(s->fusefd); /* the first worker may have died with INIT in its hands */
	do {
		n = read(s->fusefd, buf, FS_BUF_BYTES);
	} while (n < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOENT));
	if (n < 0)
		return fz_fail_errno(err, errno, "no handshake with the kernel");
	if (n < (ssize_t)(sizeof(*h) + 16) || h->opcode != FUSE_INIT || (size_t)n > sizeof(sh->init))
		return fz_fail(err, FZ_EINTERNAL, "the kernel's first request is not INIT");
	memcpy(sh->init, buf, (size_t)n);
	sh->init_bytes = (uint32_t)n;
	sh->init_unique = h->unique;
	memset(buf, 0, sizeof(*h));
	atomic_store(&sh->init_state, 1);
	return 0;
}

static uint32_t init_flags2(const struct fs_shared *sh)
{
	uint32_t flags, flags2;

	memcpy(&flags, sh->init + sizeof(struct fuse_in_header) + 12, sizeof(flags));
	memcpy(&flags2, sh->init + sizeof(struct fuse_in_header) + 16, sizeof(flags2));
	return (flags & FS_INIT_EXT) && sh->init_bytes >= sizeof(struct fuse_in_header) + 20 ? flags2 : 0;
}

static int handshake(struct fs_session *s, struct fz_err *err)
{
	struct fs_shared *sh = s->sh;
	struct fuse_buf fb;
	uint8_t init[sizeof(sh->init)] __attribute__((aligned(8)));
	uint64_t synthetic = FS_SYNTHETIC;
	int rc;

	if (sh->init_state < 1) {
		rc = read_init(s, err);
		if (rc < 0)
			return rc;
	}
	s->passthrough = (init_flags2(sh) & FS_INIT2_PASSTHROUGH) && !sh->no_passthrough;
	s->resend = (init_flags2(sh) & FS_INIT2_HAS_RESEND) && !sh->no_resend;
	memcpy(init, sh->init, sh->init_bytes);
	memcpy(init + offsetof(struct fuse_in_header, unique), &synthetic, sizeof(synthetic));
	fb = (struct fuse_buf){.size = sh->init_bytes, .mem = init};
	fuse_session_process_buf(s->se, &fb);
	if (sh->init_state < 2 || fuse_session_exited(s->se))
		return fz_fail(err, FZ_ENOFUSE, "libfuse and this kernel do not understand each other");
	FS_CRASHPOINT(init_saved);
	if (sh->init_state < 3) {
		if (write(s->fusefd, sh->init_reply, sh->init_reply_bytes) < 0 && errno != ENOENT)
			return fz_fail_errno(err, errno, "the kernel refuses the handshake");
		FS_CRASHPOINT(init_answered);
		atomic_store(&sh->init_state, 3);
	}
	if (s->passthrough)
		s->passthrough = fs_backing_works(s->fusefd, sh);
	return 0;
}

static int prepare_hidden(struct fs_session *s, struct fz_err *err)
{
	struct stat st;
	int rc;

	if (!s->resumed) { /* what a power cut left behind belongs to nobody */
		rc = fz_remove_tree(s->rootfd, FS_HIDDEN_DIR, err);
		if (rc < 0)
			return rc;
	}
	rc = fz_mkdirs(s->rootfd, FS_HIDDEN_DIR, 0700, err);
	if (rc < 0)
		return rc;
	if (fstatat(s->rootfd, FS_HIDDEN_DIR, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISDIR(st.st_mode))
		return fz_fail(err, FZ_EINTERNAL, "%s is no directory", FS_HIDDEN_DIR);
	s->hidden_dev = st.st_dev;
	return 0;
}

int fs_session_open(struct fs_session **out, struct fz_err *err)
{
	static const struct fuse_custom_io io = {.writev = io_writev, .read = io_read};
	char name[] = "fazt";
	char *argv[] = {name, NULL};
	struct fuse_args args = FUSE_ARGS_INIT(1, argv);
	struct fs_session *s;
	int rc = -ENOMEM;

	*out = NULL;
	fs_crashpoint_init();
	umask(0);
	s = calloc(1, sizeof(*s));
	if (!s)
		return fz_fail(err, -ENOMEM, "no memory");
	s->fusefd = FS_FD_FUSE;
	s->rootfd = FS_FD_ROOT;
	s->stopfd = -1;
	pthread_mutex_init(&s->mu, NULL);
	pthread_mutex_init(&s->backing_mu, NULL);
	pthread_cond_init(&s->ended, NULL);
	fs_super_init(FS_FD_SUPER);
	rc = fs_shared_map(&s->sh, FS_FD_SHARED, err);
	if (rc < 0)
		goto out;
	s->resumed = s->sh->init_state == 3;
	rc = fs_table_init(&s->tab, s->sh, FS_FD_SHARED, err);
	if (rc < 0)
		goto out;
	s->stopfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->stopfd < 0) {
		rc = fz_fail_errno(err, errno, "cannot make an eventfd");
		goto out;
	}
	/* Files are made under the caller's ids, but with our capabilities: fs_become_caller(). */
	if (prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP) < 0) {
		rc = fz_fail_errno(err, errno, "cannot keep capabilities (is this root?)");
		goto out;
	}
	rc = prepare_hidden(s, err);
	if (rc < 0)
		goto out;
	s->se = fuse_session_new(&args, &fs_ops, sizeof(fs_ops), s);
	fuse_opt_free_args(&args);
	if (!s->se || fuse_session_custom_io(s->se, &io, s->fusefd) != 0) {
		rc = fz_fail(err, FZ_ENOFUSE, "libfuse cannot start");
		goto out;
	}
	rc = handshake(s, err);
	if (rc < 0)
		goto out;
	*out = s;
	s = NULL;
out:
	fs_session_close(s);
	return rc;
}

void fs_session_close(struct fs_session *s)
{
	if (!s)
		return;
	fs_super_init(-1);
	if (s->se)
		fuse_session_destroy(s->se);
	fs_table_fini(&s->tab);
	fs_shared_unmap(s->sh);
	fz_close(&s->stopfd);
	pthread_mutex_destroy(&s->mu);
	pthread_mutex_destroy(&s->backing_mu);
	pthread_cond_destroy(&s->ended);
	free(s);
}

void fs_session_info(const struct fs_session *s, struct fs_session_info *out)
{
	*out = (struct fs_session_info){.resumed = s->resumed,
	                                .passthrough = s->passthrough,
	                                .resend = s->resend,
	                                .restarts = s->sh->starts ? s->sh->starts - 1 : 0,
	                                .supervisor_pid = s->sh->supervisor_pid};
}

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

static void process(struct fs_session *s, struct fs_thread *me, size_t n, bool resent)
{
	const struct fuse_in_header *h = (const struct fuse_in_header *)(const void *)me->buf;
	struct fuse_buf fb = {.size = n, .mem = me->buf};

	if (n < sizeof(*h))
		return;
	me->opcode = h->opcode;
	me->unique = h->unique & ~FS_RESENT;
	me->resent = resent || (h->unique & FS_RESENT);
	me->backing_id = 0;
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
};

static void wake_run(struct fs_session *s)
{
	uint64_t one = 1;

	if (write(s->stopfd, &one, sizeof(one)) < 0)
		return; /* full: run() is awake already */
}

static bool spawn(struct fs_session *s);

static void serve(struct fs_session *s, struct fs_thread *me)
{
	for (;;) {
		ssize_t n;

		if (atomic_load(&s->stop))
			break;
		n = read(s->fusefd, me->buf, FS_BUF_BYTES);
		if (n < 0) {
			if (errno == EINTR || errno == EAGAIN || errno == ENOENT)
				continue;
			if (errno != ENODEV)
				fz_error("reading /dev/fuse: %s", fz_strerror(-errno));
			atomic_store(&s->gone, true);
			wake_run(s);
			break;
		}
		if (atomic_fetch_sub(&s->idle, 1) == 1)
			spawn(s); /* nobody reads: requests must not wait for this one */
		process(s, me, (size_t)n, false);
		if (!s->resend)
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
	sigset_t only;

	free(st);
	pthread_setname_np(pthread_self(), "fs-serve");
	sigfillset(&only);
	sigdelset(&only, WAKE_SIGNAL);
	pthread_sigmask(SIG_SETMASK, &only, NULL);
	me.buf = fs_shared_buf(s->sh, me.nslot);
	/* Resident: a kill in the middle of the kernel's copy would otherwise end the request with EIO. */
	if (mlock(me.buf, FS_BUF_BYTES) < 0 && madvise(me.buf, FS_BUF_BYTES, 23 /* MADV_POPULATE_WRITE */) < 0)
		memset(me.buf, 0, FS_BUF_BYTES);
	me.out = me.buf;
	if (!s->resend) { /* the request must stay as it is until it is answered */
		me.out = mmap(NULL, FS_MAX_WRITE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE,
		              -1, 0);
		if (me.out == MAP_FAILED)
			fz_panic("no memory for a reply buffer");
	}
	fs_self = &me;
	serve(s, &me);
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

static int free_slot_locked(struct fs_session *s)
{
	for (int i = 0; i < FS_SLOTS; i++)
		if (!s->slot_used[i])
			return i;
	return -1;
}

/* Starts a thread, counted as idle from now on. */
static bool spawn(struct fs_session *s)
{
	struct start *st = malloc(sizeof(*st));
	pthread_attr_t attr;
	int slot, rc = EAGAIN;
	bool first;

	pthread_mutex_lock(&s->mu);
	slot = free_slot_locked(s);
	if (st && slot >= 0 && !atomic_load(&s->stop)) {
		*st = (struct start){s, (unsigned)slot};
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

/* Ends all serving threads: each finishes its request first. */
static void stop_threads(struct fs_session *s)
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

/* ---- taking over ---- */

/* Who was being worked at when the former worker crashed. */
static void count_suspects(struct fs_session *s)
{
	struct fs_shared *sh = s->sh;
	bool crashed = atomic_exchange(&sh->crashed, 0);

	for (unsigned i = 0; i < FS_SLOTS; i++) {
		uint64_t unique = atomic_exchange(&sh->slots[i].current, 0);
		struct fs_suspect *at = NULL;

		for (unsigned k = 0; unique && crashed && k < 16; k++) {
			if (sh->suspects[k].unique == unique) {
				at = &sh->suspects[k];
				break;
			}
			if (!at || sh->suspects[k].deaths < at->deaths)
				at = &sh->suspects[k];
		}
		if (!at)
			continue;
		if (at->unique != unique)
			*at = (struct fs_suspect){unique, 0};
		at->deaths++;
	}
}

/* Kernels without RESEND: what lies unanswered in the former worker's slots, one after the other. */
static void replay_slots(struct fs_session *s)
{
	struct fs_thread me = {.s = s};

	me.out = malloc(FS_MAX_WRITE);
	if (!me.out)
		fz_panic("no memory to take over");
	fs_self = &me;
	for (unsigned i = 0; i < FS_SLOTS; i++) {
		const struct fuse_in_header *h = (const struct fuse_in_header *)(const void *)fs_shared_buf(s->sh, i);
		struct fs_slot *slot = &s->sh->slots[i];

		me.slot = slot;
		me.buf = fs_shared_buf(s->sh, i);
		me.nslot = i;
		if (h->len < sizeof(*h) || h->len > FS_BUF_BYTES || (h->unique & ~FS_RESENT) == slot->answered)
			continue;
		if (slot->replying == (h->unique & ~FS_RESENT)) {
			if (write(s->fusefd, slot->reply, slot->reply_bytes) < 0 && errno != ENOENT)
				fz_warn("cannot repeat an answer: %s", fz_strerror(-errno));
		} else {
			process(s, &me, h->len, true);
		}
		slot->answered = h->unique & ~FS_RESENT;
	}
	fs_self = NULL;
	free(me.out);
}

static int take_over(struct fs_session *s, struct fz_err *err)
{
	int rc;

	count_suspects(s);
	rc = fs_redo_all(&s->tab, s->rootfd, err);
	if (rc < 0)
		return rc;
	FS_CRASHPOINT(redone);
	if (s->passthrough)
		fs_backing_sweep(s->fusefd, &s->tab);
	rc = fs_open_resume(s, err);
	if (rc < 0)
		return rc;
	FS_CRASHPOINT(reopened);
	if (!s->resumed)
		return 0;
	if (s->resend) {
		rc = ask_resend(s->fusefd);
		if (rc < 0 && rc != -ENODEV)
			return fz_fail_errno(err, -rc, "the kernel does not send requests again");
	} else {
		replay_slots(s);
	}
	return 0;
}

int fs_session_run(struct fs_session *s, struct fs_capture *capture, void (*ready)(void *arg), void *arg,
                   struct fz_err *err)
{
	struct sigaction sa = {.sa_handler = on_wake}; /* no SA_RESTART */
	struct pollfd p[2] = {
	        {s->stopfd,   POLLIN, 0},
                {FS_FD_SUPER, 0,      0}
        };
	int rc;

	s->capture = capture;
	sigaction(WAKE_SIGNAL, &sa, NULL);
	rc = take_over(s, err);
	if (rc < 0)
		goto out;
	for (int i = 0; i < BASE_THREADS; i++)
		if (!spawn(s) && !atomic_load(&s->stop)) {
			rc = fz_fail(err, -EAGAIN, "cannot start serving threads");
			goto out;
		}
	fs_super_ready();
	if (ready)
		ready(arg);
	while (!atomic_load(&s->stop) && !atomic_load(&s->gone)) {
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			break;
		if (p[1].revents) {
			fz_warn("the supervisor is gone: serving on, but nobody replaces this worker should it die");
			s->sh->supervisor_pid = 0;
			p[1].fd = -1;
			p[1].revents = 0;
		}
	}
out:
	stop_threads(s);
	fs_open_abandon(s);
	s->capture = NULL;
	return rc;
}

void fs_session_stop(struct fs_session *s)
{
	atomic_store(&s->stop, true);
	wake_run(s);
}

int fs_session_request_umount(struct fs_session *s, struct fz_err *err)
{
	return fs_super_umount(err);
}

/* ---- status ---- */

static const char *const op_names[FS_OPS] = {
        [FUSE_LOOKUP] = "lookup",       [FUSE_FORGET] = "forget",
        [FUSE_GETATTR] = "getattr",     [FUSE_SETATTR] = "setattr",
        [FUSE_READLINK] = "readlink",   [FUSE_SYMLINK] = "symlink",
        [FUSE_MKNOD] = "mknod",         [FUSE_MKDIR] = "mkdir",
        [FUSE_UNLINK] = "unlink",       [FUSE_RMDIR] = "rmdir",
        [FUSE_RENAME] = "rename",       [FUSE_LINK] = "link",
        [FUSE_OPEN] = "open",           [FUSE_READ] = "read",
        [FUSE_WRITE] = "write",         [FUSE_STATFS] = "statfs",
        [FUSE_RELEASE] = "release",     [FUSE_FSYNC] = "fsync",
        [FUSE_GETXATTR] = "getxattr",   [FUSE_FLUSH] = "flush",
        [FUSE_INIT] = "init",           [FUSE_OPENDIR] = "opendir",
        [FUSE_READDIR] = "readdir",     [FUSE_RELEASEDIR] = "releasedir",
        [FUSE_FSYNCDIR] = "fsyncdir",   [FUSE_CREATE] = "create",
        [FUSE_INTERRUPT] = "interrupt", [FUSE_BATCH_FORGET] = "batch_forget",
        [FUSE_FALLOCATE] = "fallocate", [FUSE_RENAME2] = "rename2",
};

int fs_session_status(struct fs_session *s, cJSON *object)
{
	cJSON *ops = cJSON_AddObjectToObject(object, "requests");
	unsigned threads, nodes;

	if (!ops)
		return -ENOMEM;
	for (unsigned i = 0; i < FS_OPS; i++) {
		unsigned long long n = atomic_load_explicit(&s->n_op[i], memory_order_relaxed);
		char other[16];

		if (!n)
			continue;
		snprintf(other, sizeof(other), "op%u", i);
		cJSON_AddNumberToObject(ops, op_names[i] ? op_names[i] : other, (double)n);
	}
	cJSON_AddNumberToObject(object, "fsyncs", (double)atomic_load(&s->n_fsync));
	cJSON_AddNumberToObject(object, "resent", (double)atomic_load(&s->n_resent));
	cJSON_AddNumberToObject(object, "repeated", (double)atomic_load(&s->n_repeated));
	cJSON_AddNumberToObject(object, "poisoned", (double)atomic_load(&s->n_poison));
	pthread_mutex_lock(&s->mu);
	threads = s->threads;
	pthread_mutex_unlock(&s->mu);
	fs_table_lock(&s->tab);
	nodes = s->tab.used;
	fs_table_unlock(&s->tab);
	cJSON_AddNumberToObject(object, "supervisor_pid", (double)s->sh->supervisor_pid); /* 0: it is gone */
	cJSON_AddNumberToObject(object, "threads", (double)threads);
	cJSON_AddNumberToObject(object, "threads_started", (double)atomic_load(&s->n_threads));
	cJSON_AddNumberToObject(object, "nodes", (double)nodes);
	cJSON_AddBoolToObject(object, "passthrough", s->passthrough);
	cJSON_AddBoolToObject(object, "resend", s->resend);
	return 0;
}
