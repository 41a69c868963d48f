#include "base/temp.h"

#include "base/file.h"
#include "base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define MARK "fazt-"

const char *fz_temp_dir(void)
{
	const char *tmp = getenv("TMPDIR");

	return tmp && *tmp == '/' ? tmp : "/var/tmp";
}

int fz_temp_file(const char *dir, struct fz_err *err)
{
	int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	char path[PATH_MAX];

	if (fd < 0 && snprintf(path, sizeof(path), "%s/" MARK "XXXXXX", dir) < (int)sizeof(path)) {
		fd = mkostemp(path, O_CLOEXEC); /* a file system without O_TMPFILE */
		if (fd >= 0)
			(void)unlink(path);
	}
	return fd < 0 ? fz_fail_errno(err, errno, "cannot make a temporary file in %s (TMPDIR says where)", dir) : fd;
}

bool fz_temp_abandoned(const char *text, const char **rest)
{
	char *end;
	long pid = strtol(text, &end, 10);

	*rest = end;
	return pid > 0 && kill((pid_t)pid, 0) < 0 && errno == ESRCH;
}

/* fazt-<pid>-XXXXXX, ours, and neither that process nor its lock is there: one of another container may live. */
static void remove_litter(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *e;

	while (d && (e = readdir(d))) {
		const char *rest;
		struct stat st;
		int fd;

		if (strncmp(e->d_name, MARK, sizeof(MARK) - 1) ||
		    !fz_temp_abandoned(e->d_name + sizeof(MARK) - 1, &rest) || *rest != '-' || strlen(rest) != 7)
			continue;
		fd = openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
		if (fd >= 0 && fstat(fd, &st) == 0 && st.st_uid == geteuid() && flock(fd, LOCK_EX | LOCK_NB) == 0 &&
		    fz_remove_tree(dirfd(d), e->d_name, NULL) < 0)
			fz_debug("%s/%s could not be removed", dir, e->d_name);
		fz_close(&fd);
	}
	if (d)
		closedir(d);
}

int fz_temp_open(struct fz_temp *t, const char *dir, struct fz_err *err)
{
	t->fd = -1;
	remove_litter(dir);
	if (snprintf(t->path, sizeof(t->path), "%s/" MARK "%d-XXXXXX", dir, (int)getpid()) >= (int)sizeof(t->path))
		return fz_fail_errno(err, ENAMETOOLONG, "a directory in %s", dir);
	if (!mkdtemp(t->path))
		return fz_fail_errno(err, errno, "cannot create %s (TMPDIR says where)", t->path);
	t->fd = open(t->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (t->fd < 0) {
		int rc = fz_fail_errno(err, errno, "cannot open %s", t->path);

		(void)rmdir(t->path);
		return rc;
	}
	(void)flock(t->fd, LOCK_EX | LOCK_NB);
	return 0;
}

void fz_temp_close(struct fz_temp *t)
{
	if (t->fd >= 0 && fz_remove_tree(AT_FDCWD, t->path, NULL) < 0)
		fz_warn("%s could not be removed", t->path);
	fz_close(&t->fd);
}
