#include "cmd/branch.h"

#include "base/file.h"
#include "base/log.h"
#include "ltx/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BRANCHES "branches"

/* 1 = filled; 0 = none that can be read. */
static int look(struct cmd_branch *b, int dirfd, const char *dir)
{
	const struct ltx_logset_conf ro = {.readonly = true};
	struct ltx_logset *set = NULL;
	struct fz_buf text = {0};
	struct ltx_log_info info;
	struct ltx_log *log = NULL;
	struct fz_err err;
	const char *dot = strchr(dir, '.');
	int fd = openat(dirfd, dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW), rc = -ENOENT;

	memset(b, 0, sizeof(*b));
	if (fd >= 0 && dot && strlen(dir) < sizeof(b->dir) && strlen(dot + 1) < sizeof(b->id))
		rc = ltx_logset_open(&set, fd, &ro, &err);
	if (rc == 0)
		log = ltx_logset_at(set, 0);
	if (log) {
		ltx_log_info(log, &info);
		strcpy(b->dir, dir);
		strcpy(b->id, dot + 1);
		memcpy(b->name, info.name, sizeof(b->name));
		b->epoch = info.epoch;
		b->tail_txid = info.tail_txid;
		b->tail_time_ms = info.tail_time_ms;
		if (fz_read_file(fd, "from", 64, &text, &err) == 0)
			b->from_txid = strtoull(fz_buf_str(&text), NULL, 10);
	}
	ltx_log_put(log);
	if (set)
		ltx_logset_close(set);
	fz_buf_fini(&text);
	fz_close(&fd);
	return log != NULL;
}

int cmd_branch_each(int statefd, int (*fn)(const struct cmd_branch *b, void *arg), void *arg, struct fz_err *err)
{
	int fd = openat(statefd, BRANCHES, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;
	struct dirent **names = NULL;
	struct cmd_branch b;
	int n;

	if (fd < 0)
		return errno == ENOENT ? 0 : fz_fail_errno(err, errno, "reading the branches");
	n = scandirat(fd, ".", &names, NULL, alphasort);
	if (n < 0)
		rc = fz_fail_errno(err, errno, "reading the branches");
	for (int i = 0; i < n; i++) {
		if (rc == 0 && names[i]->d_name[0] != '.' && look(&b, fd, names[i]->d_name))
			rc = fn(&b, arg);
		free(names[i]);
	}
	free(names);
	fz_close(&fd);
	return rc;
}

struct wanted {
	const char *name, *id;
	char dir[128];
};

static int match(const struct cmd_branch *b, void *arg)
{
	struct wanted *w = arg;

	if (strcmp(b->name, w->name) || strcmp(b->id, w->id))
		return 0;
	memcpy(w->dir, b->dir, sizeof(w->dir));
	return 1;
}

int cmd_branch_open(int statefd, const char *name, const char *id, struct fz_err *err)
{
	struct wanted w = {.name = name, .id = id};
	int rc = cmd_branch_each(statefd, match, &w, err), dirfd, fd;

	if (rc == 0)
		return fz_fail(err, FZ_ENOTFOUND, "%s has no branch %s (`fazt branches` lists them)", name, id);
	if (rc < 0)
		return rc;
	dirfd = openat(statefd, BRANCHES, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	fd = dirfd < 0 ? -1 : openat(dirfd, w.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		fd = fz_fail_errno(err, errno, "cannot open the branch %s", id);
	fz_close(&dirfd);
	return fd;
}
