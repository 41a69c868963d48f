/* session.c - the worker's side of the mount from its start to its end.
 *
 * HAND-OVER  settle the former worker's intents, open its files again, ask the kernel to send again what was in flight, and
 *            only then read. All of it after the former worker is gone for good: the supervisor waits for that. */
#include "fs/session.h"

#include "base/file.h"
#include "base/log.h"
#include "fs/backing.h"
#include "fs/open.h"
#include "fs/session_priv.h"
#include "fs/super_client.h"
#include "fs/supervisor.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/securebits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BASE_THREADS = 4 };

static int prepare_hidden(struct fs_session *s, struct fz_err *err)
{
	const char *name = basename(FS_HIDDEN_DIR);
	struct stat st;
	int fd, rc = fz_mkdirs(s->rootfd, ".fazt", 0700, err);

	if (rc < 0)
		return rc;
	fd = fz_open_parent(s->rootfd, FS_HIDDEN_DIR,
	                    O_PATH); /* itself: the directory's owner could have put a link there */
	if (fd < 0)
		return fz_fail_errno(err, errno, "cannot open %s", FS_HIDDEN_DIR);
	if (!s->resumed) /* what a power cut left behind belongs to nobody */
		rc = fz_remove_tree(fd, name, err);
	if (rc == 0)
		rc = fz_mkdirs(fd, name, 0700, err);
	if (rc == 0 && (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISDIR(st.st_mode)))
		rc = fz_fail(err, FZ_EINTERNAL, "%s is no directory", FS_HIDDEN_DIR);
	if (rc == 0)
		s->hidden_dev = st.st_dev;
	fz_close(&fd);
	return rc;
}

/* libfuse asks for one; the serving threads read themselves. */
static ssize_t read_request(int fd, void *buf, size_t n, void *userdata)
{
	return read(fd, buf, n);
}

int fs_session_open(struct fs_session **out, struct fz_err *err)
{
	static const struct fuse_custom_io io = {.writev = fs_reply_writev, .read = read_request};
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
	rc = fs_virtual_open(&s->virtual, s->sh, s->fusefd, err);
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
	rc = fs_handshake(s, err);
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
	fs_virtual_close(s->virtual);
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

struct fs_virtual *fs_session_virtual(struct fs_session *s)
{
	return s->virtual;
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
		uint8_t reply[FS_REPLY_BYTES];

		me.slot = slot;
		me.buf = fs_shared_buf(s->sh, i);
		me.nslot = i;
		if (h->len < sizeof(*h) || h->len > FS_BUF_BYTES || (h->unique & ~FS_RESENT) == slot->answered)
			continue;
		if (slot->replying == (h->unique & ~FS_RESENT)) {
			/* From resident memory: a kill in the middle of the kernel's copy ends the request with EIO. */
			memcpy(reply, slot->reply, slot->reply_bytes);
			if (write(s->fusefd, reply, slot->reply_bytes) < 0 && errno != ENOENT)
				fz_warn("cannot repeat an answer: %s", fz_strerror(-errno));
		} else if (h->opcode == FUSE_FSYNC) { /* may wait for replicas: by a thread of its own */
			s->slot_left[i] = true;
			continue;
		} else {
			fs_process(s, &me, h->len, true);
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
	fs_virtual_take_over(s->virtual);
	if (s->resend) {
		rc = fs_ask_resend(s->fusefd);
		if (rc < 0 && rc != -ENODEV)
			return fz_fail_errno(err, -rc, "the kernel does not send requests again");
	} else {
		replay_slots(s);
	}
	return 0;
}

static int left_requests(const struct fs_session *s)
{
	int n = 0;

	for (unsigned i = 0; i < FS_SLOTS; i++)
		n += s->slot_left[i];
	return n;
}

int fs_session_run(struct fs_session *s, struct fs_capture *capture, void (*ready)(void *arg), void *arg,
                   struct fz_err *err)
{
	struct pollfd p[2] = {
	        {s->stopfd,   POLLIN, 0},
                {FS_FD_SUPER, 0,      0}
        };
	int rc, threads;

	s->capture = capture;
	fs_serve_init();
	rc = take_over(s, err);
	if (rc < 0)
		goto out;
	if (capture)
		fs_capture_release(capture);
	threads = BASE_THREADS + left_requests(s);
	for (int i = 0; i < threads; i++)
		if (!fs_serve_spawn(s) && !atomic_load(&s->stop)) {
			rc = fz_fail(err, -EAGAIN, "cannot start serving threads");
			goto out;
		}
	if (ready)
		ready(arg);
	fs_super_ready();
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
	fs_capture_interrupt(capture);
	fs_serve_stop(s);
	fs_open_abandon(s);
	s->capture = NULL;
	return rc;
}

void fs_session_stop(struct fs_session *s)
{
	atomic_store(&s->stop, true);
	fs_session_wake(s);
}

bool fs_session_orphan(const struct fs_session *s)
{
	return s->sh->supervisor_pid == 0;
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
        [FUSE_POLL] = "poll",
};

unsigned fs_session_fixed(struct fs_session *s)
{
	const struct fs_cell *c = (const struct fs_cell *)(const void *)((const uint8_t *)s->sh + FS_CELL_OFF);
	unsigned n = 0;

	fs_table_lock(&s->tab);
	for (uint32_t i = 0; i < s->sh->cells; i++)
		if (c[i].id && c[i].node == c[i].id)
			n += c[i].nfixed;
	fs_table_unlock(&s->tab);
	return n;
}

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
