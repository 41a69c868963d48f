#include "fs/inuse.h"

#include "base/file.h"
#include "fs/supervisor_priv.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct query {
	const char *dir;
	size_t len;
	char *who;
	size_t cap;
	int below_mnt; /* id of the mount that fazt's covers; -1 = none */
};

/* The part of path below the directory ("" for itself); NULL when it lies elsewhere. */
static const char *below(const struct query *q, const char *path)
{
	if (strncmp(path, q->dir, q->len) != 0)
		return NULL;
	if (path[q->len] == '/')
		return path + q->len + 1;
	return path[q->len] == 0 || strcmp(path + q->len, " (deleted)") == 0 ? "" : NULL;
}

static void say(const struct query *q, int procfd, const char *pid, const char *what, const char *rest)
{
	char comm[64] = "?";
	char name[300];
	int fd;
	ssize_t n = 0;

	snprintf(name, sizeof(name), "%s/comm", pid);
	fd = openat(procfd, name, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, comm, sizeof(comm) - 1);
		close(fd);
	}
	if (n > 0)
		comm[comm[n - 1] == '\n' ? n - 1 : n] = 0;
	if (*rest)
		snprintf(q->who, q->cap, "%s[%s] has %s %s", comm, pid, rest, what);
	else
		snprintf(q->who, q->cap, "%s[%s] has the directory %s", comm, pid, what);
}

static bool link_uses(const struct query *q, int procfd, const char *pid, const char *link, const char *what)
{
	char path[PATH_MAX + 16];
	const char *rest;
	ssize_t n = readlinkat(procfd, link, path, sizeof(path) - 1);

	if (n <= 0)
		return false;
	path[n] = 0;
	rest = below(q, path);
	if (!rest)
		return false;
	say(q, procfd, pid, what, rest);
	return true;
}

/* The descriptor leads to what lies under the mount: a service manager keeps such for the next supervisor. */
static bool underneath(const struct query *q, int procfd, const char *pid, const char *fdname)
{
	char name[300], line[128];
	int fd, mnt = -2;
	FILE *f;

	snprintf(name, sizeof(name), "%.20s/fdinfo/%.20s", pid, fdname);
	fd = q->below_mnt < 0 ? -1 : openat(procfd, name, O_RDONLY | O_CLOEXEC);
	f = fd < 0 ? NULL : fdopen(fd, "r");
	while (f && mnt < 0 && fgets(line, sizeof(line), f))
		if (sscanf(line, "mnt_id: %d", &mnt) != 1)
			mnt = -2;
	if (f)
		fclose(f);
	else if (fd >= 0)
		close(fd);
	return mnt == q->below_mnt;
}

static bool fds_use(const struct query *q, int procfd, const char *pid)
{
	char name[300];
	struct dirent *d;
	bool found = false;
	DIR *dir;

	snprintf(name, sizeof(name), "%.20s/fd", pid);
	dir = fz_opendir(procfd, name);
	if (!dir)
		return false;
	while (!found && (d = readdir(dir))) {
		if (d->d_name[0] == '.')
			continue;
		snprintf(name, sizeof(name), "%.20s/fd/%.20s", pid, d->d_name);
		found = link_uses(q, procfd, pid, name, "open") && !underneath(q, procfd, pid, d->d_name);
	}
	closedir(dir);
	return found;
}

static bool maps_use(const struct query *q, int procfd, const char *pid)
{
	char name[300], *line = NULL;
	size_t cap = 0;
	bool found = false;
	FILE *f;
	int fd;

	snprintf(name, sizeof(name), "%s/maps", pid);
	fd = openat(procfd, name, O_RDONLY | O_CLOEXEC);
	f = fd < 0 ? NULL : fdopen(fd, "r");
	if (!f) {
		if (fd >= 0)
			close(fd);
		return false;
	}
	while (!found && getline(&line, &cap, f) > 0) {
		char *path = strchr(line, '/'), *end = path ? strchr(path, '\n') : NULL;
		const char *rest;

		if (!path)
			continue;
		if (end)
			*end = 0;
		rest = below(q, path);
		if (rest) {
			say(q, procfd, pid, "mapped", rest);
			found = true;
		}
	}
	free(line);
	fclose(f);
	return found;
}

static bool process_uses(const struct query *q, int procfd, const char *pid)
{
	char name[300];

	snprintf(name, sizeof(name), "%s/cwd", pid);
	if (link_uses(q, procfd, pid, name, "as its working directory"))
		return true;
	snprintf(name, sizeof(name), "%s/root", pid);
	if (link_uses(q, procfd, pid, name, "as its root"))
		return true;
	return fds_use(q, procfd, pid) || maps_use(q, procfd, pid);
}

bool fs_inuse_find(const char *dir, const pid_t *skip, size_t n_skip, char *who, size_t cap)
{
	struct query q = {dir, strlen(dir), who, cap, fs_mountpoint_below(dir)};
	bool found = false;
	struct dirent *d;
	DIR *proc = opendir("/proc");

	if (!proc)
		return false;
	while (!found && (d = readdir(proc))) {
		char *end;
		long pid = strtol(d->d_name, &end, 10);
		bool skipped = pid == getpid();

		if (*end || pid <= 0)
			continue;
		for (size_t i = 0; i < n_skip && !skipped; i++)
			skipped = pid == skip[i];
		found = !skipped && process_uses(&q, dirfd(proc), d->d_name);
	}
	closedir(proc);
	return found;
}
