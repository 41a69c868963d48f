#include "fs/deadman.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/worker.h"
#include "fs/locks.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define RETRY_MS 2
#define DYING_NS UINT64_C(1000000000)

struct pin {
	struct pin *next;
	int fd;
	uint64_t ino;
	bool locked, shared, told, kept;
	int killed; /* the process that was killed last, at killed_ns: dying takes a moment */
	uint64_t killed_ns;
	char path[];
};
struct fs_deadman {
	struct fz_worker worker;
	int timer_fd;       /* set to the past to wake the thread */
	pthread_mutex_t mu; /* guards all below */
	struct pin *pins;
	uint64_t soft_ns, hard_ns;
	struct fs_deadman_state state;
};

static int set_lock(int fd, short type)
{
	return fs_lock_set(fd, type, FS_LOCK_SHM_WRITE, 1);
}

/* Who keeps us from the lock: a pid, 0 = nobody, -1 = somebody without a name. */
static int holder(int fd)
{
	struct flock f = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = FS_LOCK_SHM_WRITE, .l_len = 1};

	if (fcntl(fd, F_OFD_GETLK, &f) < 0 || f.l_type == F_UNLCK)
		return 0;
	return f.l_pid > 0 ? f.l_pid : -1;
}

static void process_name(int pid, char out[static 64])
{
	char path[40];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd >= 0 ? read(fd, out, 63) : 0;
	out[n > 0 ? n : 0] = 0;
	out[strcspn(out, "\n")] = 0;
	fz_close(&fd);
}

/* The pid is looked at again once it cannot become another process's. */
static void kill_holder(struct fs_deadman *d, struct pin *p)
{
	int pid = holder(p->fd), fd;
	char name[64];

	if (pid == 0 || (pid == p->killed && fz_boot_ns() - p->killed_ns < DYING_NS))
		return;
	if (pid < 0 || pid == getpid()) {
		if (!p->told)
			fz_error("%s: the lease has run out, and a writer's lock is held by somebody who cannot be "
			         "named",
			         p->path);
		p->told = true;
		return;
	}
	fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (fd >= 0 && holder(p->fd) == pid) {
		process_name(pid, name);
		if (syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0) == 0) {
			fz_error("%s: killed process %d (%s): its transaction would have outlived this host's lease",
			         p->path, pid, name);
			d->state.killed += pid != p->killed;
			p->killed = pid;
			p->killed_ns = fz_boot_ns();
		} else if (!p->told) {
			fz_error("%s: the lease has run out, and process %d (%s) in a transaction cannot be killed: %s",
			         p->path, pid, name, fz_strerror(-errno));
			p->told = true;
		}
	}
	fz_close(&fd);
}

static void count_locked(struct fs_deadman *d)
{
	d->state.pinned = d->state.locked = 0;
	for (struct pin *p = d->pins; p; p = p->next) {
		d->state.pinned++;
		d->state.locked += p->locked;
	}
	d->state.fenced = fz_boot_ns() >= d->soft_ns && d->state.locked == d->state.pinned;
}

/* While commits are not accepted readers come and go. The one that finds nobody there begins the -shm anew, and needs the writer's lock to
 * recover; so we stay with it. Only beside somebody: what lies there when nobody has it open may be of before a power cut. */
static void keep_index(struct pin *p)
{
	struct flock f = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = FS_LOCK_SHM_DMS, .l_len = 1};

	if (p->kept || fs_lock_set(p->fd, F_RDLCK, FS_LOCK_SHM_DMS, 1) < 0)
		return;
	p->kept = fcntl(p->fd, F_OFD_GETLK, &f) == 0 && f.l_type != F_UNLCK;
	if (!p->kept)
		(void)fs_lock_set(p->fd, F_UNLCK, FS_LOCK_SHM_DMS, 1);
}

/* When to look again: 0 = not before somebody says something. */
static uint64_t step_locked(struct fs_deadman *d)
{
	uint64_t now = fz_boot_ns(), next = 0;

	if (now < d->soft_ns) {
		next = d->soft_ns;
	} else {
		for (struct pin *p = d->pins; p; p = p->next) {
			keep_index(p);
			if (!p->locked)
				p->locked = set_lock(p->fd, F_WRLCK) == 0;
			if (!p->locked && now >= d->hard_ns) {
				kill_holder(d, p);
				p->locked = set_lock(p->fd, F_WRLCK) == 0;
			}
			if (!p->locked)
				next = now + RETRY_MS * UINT64_C(1000000);
		}
	}
	count_locked(d);
	return next;
}

static void set_timer(struct fs_deadman *d, uint64_t at_ns)
{
	struct itimerspec t = {
	        .it_value = {(time_t)(at_ns / 1000000000), (long)(at_ns % 1000000000)}
        };

	if (at_ns == UINT64_MAX)
		t = (struct itimerspec){0};
	if (timerfd_settime(d->timer_fd, TFD_TIMER_ABSTIME, &t, NULL) < 0)
		fz_error("the timer of the lease: %s", fz_strerror(-errno));
}

static void run(void *arg)
{
	struct fs_deadman *d = arg;

	while (!fz_worker_stopping(&d->worker)) {
		struct pollfd p = {d->timer_fd, POLLIN, 0};
		uint64_t n;

		(void)!poll(&p, 1, -1);
		(void)!read(d->timer_fd, &n, sizeof(n));
		pthread_mutex_lock(&d->mu);
		n = step_locked(d);
		if (n)
			set_timer(d, n);
		pthread_mutex_unlock(&d->mu);
	}
}

/* It looks at once. */
static void wake(struct fs_deadman *d)
{
	set_timer(d, 1);
}

int fs_deadman_open(struct fs_deadman **out, struct fz_err *err)
{
	struct fs_deadman *d = calloc(1, sizeof(*d));
	int rc = 0;

	if (!d)
		return fz_fail_errno(err, ENOMEM, "the lease's timer");
	pthread_mutex_init(&d->mu, NULL);
	d->soft_ns = d->hard_ns = UINT64_MAX;
	d->state.pid = (uint32_t)getpid();
	d->timer_fd = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
	if (d->timer_fd < 0)
		rc = fz_fail_errno(err, errno, "the lease's timer");
	else if (getrandom(&d->state.id, sizeof(d->state.id), 0) != sizeof(d->state.id))
		rc = fz_fail_errno(err, errno, "the lease's timer");
	if (rc == 0)
		rc = fz_worker_start(&d->worker, "deadman", run, d, err);
	if (rc < 0) {
		fs_deadman_close(d);
		return rc;
	}
	*out = d;
	return 0;
}

static void drop(struct pin **at)
{
	struct pin *p = *at;

	*at = p->next;
	fz_close(&p->fd);
	free(p);
}

void fs_deadman_close(struct fs_deadman *d)
{
	if (!d)
		return;
	if (d->worker.started) {
		pthread_mutex_lock(&d->worker.mu);
		d->worker.stop = true;
		pthread_mutex_unlock(&d->worker.mu);
		wake(d);
		fz_worker_stop(&d->worker);
	}
	while (d->pins)
		drop(&d->pins);
	fz_close(&d->timer_fd);
	pthread_mutex_destroy(&d->mu);
	free(d);
}

static struct pin **find_locked(struct fs_deadman *d, const char *path)
{
	struct pin **at = &d->pins;

	while (*at && strcmp((*at)->path, path) != 0)
		at = &(*at)->next;
	return at;
}

int fs_deadman_pin(struct fs_deadman *d, const char *path, int fd, struct fz_err *err)
{
	struct pin *p = NULL, *old, **at;
	struct stat st;

	if (fd >= 0) {
		p = fstat(fd, &st) == 0 ? calloc(1, sizeof(*p) + strlen(path) + 1) : NULL;
		if (!p) {
			int e = errno;

			fz_close(&fd);
			return fz_fail_errno(err, e, "%s-shm", path);
		}
		strcpy(p->path, path);
		p->fd = fd;
		p->ino = st.st_ino;
	}
	pthread_mutex_lock(&d->mu);
	at = find_locked(d, path);
	old = *at;
	if (old)
		*at = old->next;
	if (p) {
		p->next = d->pins;
		d->pins = p;
		if (fz_boot_ns() >= d->soft_ns) {
			p->locked = set_lock(p->fd, F_WRLCK) == 0;
			wake(d);
		}
	}
	count_locked(d);
	pthread_mutex_unlock(&d->mu);
	if (old) /* without the lock: a close may write back what is mapped, which needs the worker */
		drop(&old);
	return 0;
}

bool fs_deadman_has(struct fs_deadman *d, const char *path, uint64_t ino)
{
	struct pin *p;
	bool has;

	pthread_mutex_lock(&d->mu);
	p = *find_locked(d, path);
	has = p && p->ino == ino;
	pthread_mutex_unlock(&d->mu);
	return has;
}

int fs_deadman_share(struct fs_deadman *d, const char *path)
{
	struct pin *p;
	int fd = -1;

	pthread_mutex_lock(&d->mu);
	p = *find_locked(d, path);
	if (p)
		fd = fcntl(p->fd, F_DUPFD_CLOEXEC, 0);
	if (fd >= 0)
		p->shared = true;
	pthread_mutex_unlock(&d->mu);
	return fd;
}

void fs_deadman_unshare(struct fs_deadman *d)
{
	pthread_mutex_lock(&d->mu);
	for (struct pin *p = d->pins; p; p = p->next)
		p->shared = false;
	pthread_mutex_unlock(&d->mu);
}

void fs_deadman_arm(struct fs_deadman *d, uint64_t soft_ns, uint64_t hard_ns)
{
	pthread_mutex_lock(&d->mu);
	d->soft_ns = soft_ns;
	d->hard_ns = hard_ns;
	for (struct pin *p = d->pins; p && fz_boot_ns() < soft_ns; p = p->next)
		if (!p->shared) { /* locked by us, or by whoever had shared it */
			p->locked = set_lock(p->fd, F_UNLCK) < 0;
			if (p->kept)
				p->kept = fs_lock_set(p->fd, F_UNLCK, FS_LOCK_SHM_DMS, 1) < 0;
			p->told = false;
		}
	count_locked(d);
	wake(d);
	pthread_mutex_unlock(&d->mu);
}

void fs_deadman_get(struct fs_deadman *d, struct fs_deadman_state *out)
{
	pthread_mutex_lock(&d->mu);
	count_locked(d);
	*out = d->state;
	pthread_mutex_unlock(&d->mu);
}
