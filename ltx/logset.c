/* logset.c - the logs of one state directory: db/<escaped name>.<lineage>/, one for each life of each database. */
#include "ltx/logpriv.h"

#include "base/array.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NEW_PREFIX ".new-" /* an escaped name never starts with a dot */

struct ltx_logset {
	int dirfd; /* of db/ */
	struct ltx_logset_conf conf;
	pthread_mutex_t mu;      /* above the logs' own */
	pthread_mutex_t wait_mu; /* below them: only for going to sleep and waking up */
	pthread_cond_t cond;
	_Atomic uint64_t gen;
	atomic_int waiters;
	/* mu */
	struct ltx_log **logs; /* by (name, created_ms); each reference is the set's */
	size_t n, cap;
};

void ltx_logset_changed(struct ltx_logset *set)
{
	if (!set)
		return;
	/* Appends come 50,000 times a second: the lock is taken only when somebody sleeps. Whoever goes to sleep counts
	 * itself before it looks at gen, we move gen before we look at the count: one of us sees the other. */
	atomic_fetch_add(&set->gen, 1);
	if (atomic_load(&set->waiters) == 0)
		return;
	pthread_mutex_lock(&set->wait_mu);
	pthread_cond_broadcast(&set->cond);
	pthread_mutex_unlock(&set->wait_mu);
}

static int order(const struct ltx_log *a, const struct ltx_log *b)
{
	int c = strcmp(a->meta.name, b->meta.name);

	if (c == 0)
		c = a->meta.created_ms < b->meta.created_ms ? -1 : a->meta.created_ms > b->meta.created_ms;
	return c ? c : strcmp(a->meta.lineage, b->meta.lineage);
}

static int add_locked(struct ltx_logset *set, struct ltx_log *log, struct fz_err *err)
{
	size_t at;

	if (!fz_array_room(set->logs, set->n, set->cap))
		return fz_fail_errno(err, ENOMEM, "listing logs");
	for (at = set->n; at > 0 && order(log, set->logs[at - 1]) < 0; at--)
		set->logs[at] = set->logs[at - 1];
	set->logs[at] = log;
	set->n++;
	return 0;
}

static bool known_locked(struct ltx_logset *set, const char *dir)
{
	const char *dot = strrchr(dir, '.');

	for (size_t i = 0; dot && i < set->n; i++)
		if (!strcmp(set->logs[i]->meta.lineage, dot + 1))
			return true;
	return false;
}

static int open_one(struct ltx_logset *set, const char *dir, struct fz_err *err)
{
	int fd = openat(set->dirfd, dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	struct ltx_log *log = NULL;
	int rc;

	if (fd < 0)
		return fz_fail_errno(err, errno, "cannot open log %s", dir);
	rc = ltx_log_open(&log, fd, &set->conf, set, err);
	if (rc == 0)
		rc = add_locked(set, log, err);
	if (rc < 0)
		ltx_log_close(log);
	return rc;
}

/* Opens what is not open yet. A log that is damaged is told and left where it is: the others must work on, and its
 * database starts a new lineage with a new snapshot. */
static int scan_locked(struct ltx_logset *set, struct fz_err *err)
{
	DIR *d = fz_opendir(set->dirfd, ".");
	struct dirent *e;
	int rc = 0;

	if (!d)
		return fz_fail_errno(err, errno, "reading the logs' directory");
	while (rc == 0 && (e = readdir(d))) {
		struct fz_err why;

		if (e->d_name[0] == '.') {
			if (!set->conf.readonly && !strncmp(e->d_name, NEW_PREFIX, strlen(NEW_PREFIX)))
				rc = fz_remove_tree(set->dirfd, e->d_name, err);
			continue;
		}
		if (known_locked(set, e->d_name))
			continue;
		rc = open_one(set, e->d_name, &why);
		if (rc == -ENOMEM || rc == -EMFILE || rc == -ENFILE) {
			if (err)
				*err = why;
			break;
		}
		if (rc < 0)
			fz_log_err(e->d_name, &why);
		rc = 0;
	}
	closedir(d);
	return rc;
}

int ltx_logset_open(struct ltx_logset **out, int state_dirfd, const struct ltx_logset_conf *conf, struct fz_err *err)
{
	struct ltx_logset *set = calloc(1, sizeof(*set));
	pthread_condattr_t attr;
	int rc = 0;

	if (!set)
		return fz_fail_errno(err, ENOMEM, "opening the logs");
	if (conf)
		set->conf = *conf;
	pthread_mutex_init(&set->mu, NULL);
	pthread_mutex_init(&set->wait_mu, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&set->cond, &attr);
	pthread_condattr_destroy(&attr);
	set->dirfd = -1;
	if (sodium_init() < 0)
		rc = fz_fail(err, FZ_EINTERNAL, "libsodium does not start");
	if (rc == 0 && !set->conf.readonly)
		rc = fz_mkdirs(state_dirfd, "db", 0700, err);
	if (rc == 0) {
		set->dirfd = openat(state_dirfd, "db", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (set->dirfd < 0)
			rc = fz_fail_errno(err, errno, "cannot open the logs' directory");
	}
	if (rc == 0) {
		pthread_mutex_lock(&set->mu);
		rc = scan_locked(set, err);
		pthread_mutex_unlock(&set->mu);
	}
	if (rc < 0) {
		ltx_logset_close(set);
		return rc;
	}
	*out = set;
	return 0;
}

void ltx_logset_close(struct ltx_logset *set)
{
	if (!set)
		return;
	for (size_t i = 0; i < set->n; i++) {
		FZ_ASSERT(atomic_load(&set->logs[i]->refs) == 1);
		ltx_log_close(set->logs[i]);
	}
	free(set->logs);
	fz_close(&set->dirfd);
	pthread_cond_destroy(&set->cond);
	pthread_mutex_destroy(&set->wait_mu);
	pthread_mutex_destroy(&set->mu);
	free(set);
}

static int64_t ended_ms(struct ltx_log *log)
{
	int64_t ms;

	pthread_mutex_lock(&log->mu);
	ms = log->meta.ended_ms;
	pthread_mutex_unlock(&log->mu);
	return ms;
}

static struct ltx_log *living_locked(struct ltx_logset *set, const char *name)
{
	for (size_t i = set->n; i > 0; i--) /* the newest life first */
		if (!strcmp(set->logs[i - 1]->meta.name, name) && ended_ms(set->logs[i - 1]) == 0)
			return set->logs[i - 1];
	return NULL;
}

/* A new log appears under its name with everything in it, or not at all. */
static int make_locked(struct ltx_logset *set, const char *name, const char *lineage, uint32_t epoch,
                       struct fz_err *err)
{
	char tmp[64], dir[256], escaped[3 * 512];
	int fd = -1, rc;

	rc = ltx_log_escape(escaped, sizeof(escaped), name);
	if (rc < 0)
		return fz_fail_errno(err, -rc, "a database's name cannot be used");
	/* the name in full is in meta; a path component has an end */
	snprintf(dir, sizeof(dir), "%.200s.%s", escaped, lineage);
	snprintf(tmp, sizeof(tmp), NEW_PREFIX "%s", lineage);
	rc = fz_remove_tree(set->dirfd, tmp, err); /* an adopted lineage may come a second time, after a failure */
	if (rc < 0)
		return rc;
	if (mkdirat(set->dirfd, tmp, 0700) < 0)
		return fz_fail_errno(err, errno, "cannot create log %s", dir);
	fd = openat(set->dirfd, tmp, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	rc = fd < 0 ? fz_fail_errno(err, errno, "cannot open log %s", dir)
	            : ltx_log_make(fd, name, lineage, epoch, err);
	fz_close(&fd);
	if (rc == 0 && renameat(set->dirfd, tmp, set->dirfd, dir) < 0)
		rc = fz_fail_errno(err, errno, "cannot create log %s", dir);
	if (rc == 0)
		rc = fz_sync_parent(set->dirfd, dir, err);
	if (rc == 0)
		return open_one(set, dir, err);
	if (fz_remove_tree(set->dirfd, tmp, NULL) < 0)
		fz_warn("could not remove %s", tmp);
	return rc;
}

static int make_new_locked(struct ltx_logset *set, const char *name, struct fz_err *err)
{
	char lineage[17];
	uint8_t random[8];

	randombytes_buf(random, sizeof(random));
	sodium_bin2hex(lineage, sizeof(lineage), random, sizeof(random));
	return make_locked(set, name, lineage, set->conf.epoch, err);
}

int ltx_logset_get(struct ltx_logset *set, const char *name, bool create, struct ltx_log **out, struct fz_err *err)
{
	struct ltx_log *log;
	bool made = false;
	int rc = 0;

	pthread_mutex_lock(&set->mu);
	log = living_locked(set, name);
	if (!log && set->conf.readonly) /* the worker may have made it since */
		rc = scan_locked(set, err);
	else if (!log && create)
		rc = make_new_locked(set, name, err), made = rc == 0;
	if (!log && rc == 0)
		log = living_locked(set, name);
	if (rc == 0 && !log)
		rc = fz_fail(err, FZ_ENOTFOUND, "no log of a database %s", name);
	if (rc == 0) {
		atomic_fetch_add(&log->refs, 1);
		*out = log;
	}
	pthread_mutex_unlock(&set->mu);
	if (made)
		ltx_logset_changed(set);
	return rc;
}

void ltx_log_put(struct ltx_log *log)
{
	if (log && atomic_fetch_sub(&log->refs, 1) == 1)
		ltx_log_close(log);
}

struct ltx_log *ltx_logset_at(struct ltx_logset *set, size_t i)
{
	struct ltx_log *log = NULL;

	pthread_mutex_lock(&set->mu);
	if (i < set->n) {
		log = set->logs[i];
		atomic_fetch_add(&log->refs, 1);
	}
	pthread_mutex_unlock(&set->mu);
	return log;
}

bool ltx_logset_info(struct ltx_logset *set, size_t i, struct ltx_log_info *info)
{
	struct ltx_log *log = ltx_logset_at(set, i);

	if (!log)
		return false;
	ltx_log_info(log, info);
	ltx_log_put(log);
	return true;
}

struct ltx_log *ltx_logset_find(struct ltx_logset *set, const char *lineage)
{
	struct ltx_log_info info;
	struct ltx_log *log;

	for (size_t i = 0; (log = ltx_logset_at(set, i)); i++) {
		ltx_log_info(log, &info);
		if (strcmp(info.lineage, lineage) == 0)
			return log;
		ltx_log_put(log);
	}
	return NULL;
}

/* The directory's name is not kept: it is the one that ends in the lineage. */
static int find_dir(int dirfd, const char *lineage, char *out, size_t cap, struct fz_err *err)
{
	DIR *d = fz_opendir(dirfd, ".");
	struct dirent *e;
	int rc = -ENOENT;

	if (!d)
		return fz_fail_errno(err, errno, "reading the logs' directory");
	while (rc < 0 && (e = readdir(d))) {
		const char *dot = strrchr(e->d_name, '.');

		if (dot && !strcmp(dot + 1, lineage) && snprintf(out, cap, "%s", e->d_name) < (int)cap)
			rc = 0;
	}
	closedir(d);
	return rc < 0 ? fz_fail(err, FZ_ENOTFOUND, "log %s is gone", lineage) : 0;
}

int ltx_log_open_lineage(struct ltx_log **out, int state_dirfd, const char *lineage, struct fz_err *err)
{
	const struct ltx_logset_conf ro = {.readonly = true};
	int dirfd = openat(state_dirfd, "db", O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd = -1, rc;
	char dir[256];

	if (dirfd < 0)
		return fz_fail_errno(err, errno, "cannot open the logs' directory");
	rc = find_dir(dirfd, lineage, dir, sizeof(dir), err);
	if (rc == 0) {
		fd = openat(dirfd, dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
		rc = fd < 0 ? fz_fail_errno(err, errno, "cannot open log %s", dir)
		            : ltx_log_open(out, fd, &ro, NULL, err);
	}
	fz_close(&dirfd);
	return rc;
}

static struct ltx_log *of_lineage_locked(struct ltx_logset *set, const char *lineage)
{
	for (size_t i = 0; i < set->n; i++)
		if (!strcmp(set->logs[i]->meta.lineage, lineage))
			return set->logs[i];
	return NULL;
}

/* A directory of that lineage which is not in the set did not open at start. Now it does, or makes room for a new one. */
static int reopen_or_put_aside_locked(struct ltx_logset *set, const char *lineage, struct fz_err *err)
{
	char dir[256], aside[80];
	struct fz_err why;
	int rc = find_dir(set->dirfd, lineage, dir, sizeof(dir), err);

	if (rc == -FZ_ENOTFOUND)
		return 0;
	if (rc < 0)
		return rc;
	rc = open_one(set, dir, &why);
	if (rc >= 0)
		return 0;
	if (rc > -1000) { /* the system's fault, not the log's */
		if (err)
			*err = why;
		return rc;
	}
	snprintf(aside, sizeof(aside), ".damaged-%s-%lld", lineage, (long long)fz_now_ms());
	if (renameat(set->dirfd, dir, set->dirfd, aside) < 0)
		return fz_fail_errno(err, errno, "cannot put the damaged log %s aside", dir);
	fz_warn("log %s is damaged (%s) and now db/%s in the state directory: it can be deleted", dir, fz_log_why(&why),
	        aside);
	return 0;
}

int ltx_logset_adopt(struct ltx_logset *set, const char *name, const char *lineage, uint32_t epoch,
                     struct ltx_log **out, struct fz_err *err)
{
	struct ltx_log *log;
	bool made = false;
	int rc = 0;

	if (strlen(lineage) != 16 || strspn(lineage, "0123456789abcdef") != 16)
		return fz_fail(err, FZ_ECORRUPT, "not a lineage: %.32s", lineage);
	pthread_mutex_lock(&set->mu);
	log = of_lineage_locked(set, lineage);
	if (!log && living_locked(set, name)) {
		rc = fz_fail(err, FZ_EEXISTS, "the database %s has a log of another lineage", name);
	} else if (!log && set->conf.readonly) {
		rc = fz_fail_errno(err, EROFS, "cannot create a log of %s", name);
	} else if (!log) {
		rc = reopen_or_put_aside_locked(set, lineage, err);
		if (rc == 0 && !of_lineage_locked(set, lineage))
			rc = make_locked(set, name, lineage, epoch, err);
		made = rc == 0;
		log = of_lineage_locked(set, lineage);
	}
	if (rc == 0 && strcmp(log->meta.name, name))
		rc = fz_fail(err, FZ_EEXISTS, "lineage %s belongs to the database %s, not to %s", lineage,
		             log->meta.name, name);
	if (rc == 0) {
		atomic_fetch_add(&log->refs, 1);
		*out = log;
	}
	pthread_mutex_unlock(&set->mu);
	if (made)
		ltx_logset_changed(set);
	return rc;
}

int ltx_logset_remove(struct ltx_logset *set, struct ltx_log *log, struct fz_err *err)
{
	char dir[256], tmp[64];
	size_t at;
	int rc;

	pthread_mutex_lock(&set->mu);
	for (at = 0; at < set->n && set->logs[at] != log; at++)
		;
	if (at == set->n || atomic_load(&log->refs) != 2 || ended_ms(log) == 0) {
		rc = fz_fail(err, FZ_EBUSY, "log of %s is still in use", log->meta.name);
		goto out;
	}
	rc = find_dir(set->dirfd, log->meta.lineage, dir, sizeof(dir), err);
	if (rc < 0)
		goto out;
	snprintf(tmp, sizeof(tmp), NEW_PREFIX "%s", log->meta.lineage); /* litter from now on, whatever happens */
	if (renameat(set->dirfd, dir, set->dirfd, tmp) < 0) {
		rc = fz_fail_errno(err, errno, "cannot remove log %s", dir);
		goto out;
	}
	rc = fz_remove_tree(set->dirfd, tmp, err);
	set->n--;
	memmove(set->logs + at, set->logs + at + 1, (set->n - at) * sizeof(struct ltx_log *));
	ltx_log_put(log); /* the set's; the caller puts its own */
out:
	pthread_mutex_unlock(&set->mu);
	if (rc == 0)
		ltx_logset_changed(set);
	return rc;
}

uint64_t ltx_logset_wait(struct ltx_logset *set, uint64_t gen, int64_t timeout_ms)
{
	uint64_t end_ns = timeout_ms < 0 ? UINT64_MAX : fz_mono_ns() + (uint64_t)timeout_ms * 1000000;
	struct timespec until = {.tv_sec = (time_t)(end_ns / 1000000000), .tv_nsec = (long)(end_ns % 1000000000)};

	pthread_mutex_lock(&set->wait_mu);
	atomic_fetch_add(&set->waiters, 1);
	while (atomic_load(&set->gen) == gen) {
		if (end_ns == UINT64_MAX)
			pthread_cond_wait(&set->cond, &set->wait_mu);
		else if (pthread_cond_timedwait(&set->cond, &set->wait_mu, &until) == ETIMEDOUT)
			break;
	}
	atomic_fetch_sub(&set->waiters, 1);
	pthread_mutex_unlock(&set->wait_mu);
	return atomic_load(&set->gen);
}

void ltx_logset_wake(struct ltx_logset *set)
{
	ltx_logset_changed(set); /* also ends a wait that has not begun yet */
}
