#include "fs/estate.h"

#include "base/file.h"
#include "base/log.h"
#include "base/notify.h"
#include "fs/supervisor_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HELD "held"

static const struct {
	const char *name;
	size_t at; /* of the int in struct fs_estate */
	bool must;
	int worker; /* its number there; -1 = the supervisor's alone */
} parts[] = {
        {"fuse",         offsetof(struct fs_estate, fuse),         true,  FS_FD_FUSE  },
        {"root",         offsetof(struct fs_estate, root),         true,  FS_FD_ROOT  },
        {"state",        offsetof(struct fs_estate, state),        true,  FS_FD_STATE },
        {"shared",       offsetof(struct fs_estate, shared),       true,  FS_FD_SHARED},
        {"log",          offsetof(struct fs_estate, logdir),       false, FS_FD_LOGDIR},
        {"agent-worker", offsetof(struct fs_estate, worker_agent), false, -1          },
        {"agent",        offsetof(struct fs_estate, agent_end),    false, -1          },
};
#define N_PARTS (sizeof(parts) / sizeof(parts[0]))

static int *part(struct fs_estate *e, size_t i)
{
	return (int *)(void *)((char *)e + parts[i].at);
}

void fs_estate_init(struct fs_estate *e)
{
	*e = (struct fs_estate){0};
	for (size_t i = 0; i < N_PARTS; i++)
		*part(e, i) = -1;
}

void fs_estate_close(struct fs_estate *e)
{
	for (size_t i = 0; i < N_PARTS; i++)
		fz_close(part(e, i));
	for (size_t i = 0; i < e->n_held; i++)
		fz_close(&e->held[i]);
	free(e->held);
	fs_estate_init(e);
}

void fs_estate_add(struct fs_estate *e, const char *name, int fd)
{
	int *more;

	fd = fs_child_high(fd);
	for (size_t i = 0; fd >= 0 && i < N_PARTS; i++)
		if (strcmp(parts[i].name, name) == 0) {
			fz_close(part(e, i)); /* stored twice: the later one counts */
			*part(e, i) = fd;
			return;
		}
	more = fd >= 0 && strcmp(name, HELD) == 0 ? realloc(e->held, (e->n_held + 1) * sizeof(*more)) : NULL;
	if (more) {
		e->held = more;
		e->held[e->n_held++] = fd;
		return;
	}
	fz_close(&fd);
}

/* "4711 fuse=33 root=34 held=40 held=41" */
static void take_from_exec(struct fs_estate *e)
{
	const char *text = getenv(FS_ESTATE_ENV);
	char name[16];
	int pid, n, fd;

	if (text && sscanf(text, "%d%n", &pid, &n) == 1 && pid == getpid())
		for (text += n; sscanf(text, " %15[a-z-]=%d%n", name, &fd, &n) == 2; text += n)
			fs_estate_add(e, name, fd);
	unsetenv(FS_ESTATE_ENV);
}

static void take_from_manager(struct fs_estate *e)
{
	struct fz_listen_fd fds[16];
	size_t n = fz_listen_take(fds, sizeof(fds) / sizeof(fds[0]));

	for (size_t i = 0; i < n; i++)
		fs_estate_add(e, fds[i].name, fds[i].fd);
}

void fs_estate_forget(void)
{
	for (size_t i = 0; i < N_PARTS; i++)
		(void)fz_notify_forget(parts[i].name);
}

bool fs_estate_take(struct fs_estate *e)
{
	struct pollfd p = {.events = 0};
	bool any = false, all = true;

	fs_estate_init(e);
	take_from_exec(e);
	take_from_manager(e);
	for (size_t i = 0; i < N_PARTS; i++) {
		any |= *part(e, i) >= 0;
		all &= *part(e, i) >= 0 || !parts[i].must;
	}
	p.fd = e->fuse;
	if (all && poll(&p, 1, 0) > 0 && (p.revents & (POLLERR | POLLHUP)))
		all = false; /* that mount has ended */
	if (any && !all) {
		fz_warn("what a former supervisor left is no mount any more");
		fs_estate_forget();
		fs_estate_close(e);
	}
	return any && all;
}

const char *fs_estate_name(size_t i, bool *must)
{
	for (size_t k = 0; k < N_PARTS; k++)
		if (parts[k].worker >= 0 && i-- == 0) {
			*must = parts[k].must;
			return parts[k].name;
		}
	return NULL;
}

static bool given[N_PARTS]; /* to this worker: later the number may be another file's */

void fs_estate_begin_worker(void)
{
	for (size_t i = 0; i < N_PARTS; i++)
		given[i] = parts[i].worker >= 0 && fcntl(parts[i].worker, F_GETFD) >= 0;
}

int fs_estate_of_worker(const char *name)
{
	for (size_t i = 0; i < N_PARTS; i++)
		if (strcmp(parts[i].name, name) == 0 && given[i])
			return parts[i].worker;
	return -1;
}

/* ---- the supervisor's side ---- */

static void keep(const char *name, int fd)
{
	int rc = fz_notify_keep(name, fd);

	if (rc < 0)
		fz_warn("the service manager does not take descriptors: %s", fz_strerror(rc));
}

void fs_estate_keep(struct fs_super *s)
{
	keep("fuse", s->fusefd);
	keep("root", s->rootfd);
	keep("state", s->statefd);
	keep("shared", s->memfd);
	if (s->logdirfd >= 0)
		keep("log", s->logdirfd);
}

void fs_estate_keep_agent(struct fs_super *s)
{
	(void)fz_notify_forget("agent-worker");
	(void)fz_notify_forget("agent");
	if (s->keep_agent && s->late_agent && s->worker_agent >= 0) {
		keep("agent-worker", s->worker_agent);
		keep("agent", s->agent_end);
	}
}

int fs_estate_adopt(struct fs_super *s, struct fs_estate *e, struct fz_err *err)
{
	struct stat st;

	s->fusefd = e->fuse;
	s->rootfd = e->root;
	s->statefd = e->state;
	s->memfd = e->shared;
	s->logdirfd = e->logdir;
	s->worker_agent = e->worker_agent;
	s->agent_end = e->agent_end;
	for (size_t i = 0; i < N_PARTS; i++)
		*part(e, i) = -1;
	if ((s->worker_agent >= 0) != (s->agent_end >= 0)) {
		fz_close(&s->worker_agent);
		fz_close(&s->agent_end);
	}
	s->held = calloc(e->n_held + 1, sizeof(*s->held));
	if (!s->held)
		return fz_fail(err, -ENOMEM, "no memory");
	for (size_t i = 0; i < e->n_held; i++)
		if (fstat(e->held[i], &st) == 0) {
			s->held[s->n_held++] = (struct fs_held){st.st_dev, st.st_ino, e->held[i]};
			e->held[i] = -1;
		}
	return 0;
}

static bool pass(struct fz_buf *text, const char *name, int fd)
{
	return fd < 0 || (fcntl(fd, F_SETFD, 0) == 0 && fz_buf_addf(text, " %s=%d", name, fd) == 0);
}

static void unpass(int fd)
{
	if (fd >= 0)
		(void)fcntl(fd, F_SETFD, FD_CLOEXEC);
}

void fs_estate_exec(struct fs_super *s)
{
	const char *const argv[] = {s->conf->worker_argv[0], "resume", s->dir, NULL};
	const int fds[N_PARTS] = {s->fusefd,
	                          s->rootfd,
	                          s->statefd,
	                          s->memfd,
	                          s->logdirfd,
	                          s->keep_agent ? s->worker_agent : -1,
	                          s->keep_agent ? s->agent_end : -1};
	struct fz_buf text = {0};
	bool ok = fz_buf_addf(&text, "%d", (int)getpid()) == 0;

	for (size_t i = 0; ok && i < N_PARTS; i++)
		ok = pass(&text, parts[i].name, fds[i]);
	for (size_t i = 0; ok && i < s->n_held; i++)
		ok = pass(&text, HELD, s->held[i].fd);
	if (ok && setenv(FS_ESTATE_ENV, fz_buf_str(&text), 1) == 0)
		execv(argv[0], (char *const *)(uintptr_t)argv);
	fz_warn("cannot become %s (%s): this supervisor goes on", argv[0], strerror(errno));
	unsetenv(FS_ESTATE_ENV);
	for (size_t i = 0; i < N_PARTS; i++)
		unpass(fds[i]);
	for (size_t i = 0; i < s->n_held; i++)
		unpass(s->held[i].fd);
	fz_buf_fini(&text);
}
