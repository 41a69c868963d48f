#include "replica/output.h"

#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* A mount that captures databases takes a name like this for the journal of one that does not exist, and leaves the file alone until it
 * gets its own name: so a restore into a mount begins one history, not two. */
#define MARK ".fazt-"
#define KIND "-journal"

static const char *const beside[] = {"-journal", "-wal", "-shm"};

static char *join(const char *path, const char *suffix)
{
	char *s;

	return asprintf(&s, "%s%s", path, suffix) < 0 ? NULL : s;
}

/* Whoever has the old file open through SQLite and reads it now, or is in WAL mode, holds a lock on its SHARED bytes. */
static int refuse_busy(const char *path, struct fz_err *err)
{
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0x40000000, .l_len = 512};
	int fd = open(path, O_RDONLY | O_CLOEXEC), rc = 0;

	if (fd >= 0 && fcntl(fd, F_OFD_GETLK, &l) == 0 && l.l_type != F_UNLCK)
		rc = fz_fail(err, FZ_EBUSY, "%s is in use by an application: stop it, or restore with --in-place",
		             path);
	fz_close(&fd);
	return rc;
}

/* What of PATH stands before the mark: all, unless the whole would be longer than a name can be. */
static size_t stem(const char *path)
{
	const size_t most = NAME_MAX - (sizeof(MARK KIND) - 1) - 10; /* digits of a process */
	const char *slash = strrchr(path, '/');
	size_t dir = slash ? (size_t)(slash - path) + 1 : 0, n = strlen(path + dir);

	if (n > most)
		for (n = most; n && ((uint8_t)path[dir + n] & 0xc0) == 0x80;) /* not within a character */
			n--;
	return dir + n;
}

/* Whoever was killed while it wrote PATH.fazt-<pid>-journal left it: neither that process nor its lock is there. */
static void remove_litter(const char *path)
{
	const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
	size_t n = stem(path) - (size_t)(base - path);
	char *dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
	DIR *d = dir ? opendir(dir) : NULL;
	struct dirent *e;

	while (d && (e = readdir(d))) {
		char *end;
		long pid;
		int fd;

		if (strncmp(e->d_name, base, n) || strncmp(e->d_name + n, MARK, sizeof(MARK) - 1))
			continue;
		pid = strtol(e->d_name + n + sizeof(MARK) - 1, &end, 10);
		if (pid <= 0 || strcmp(end, KIND) || pid == getpid() || kill((pid_t)pid, 0) == 0 || errno != ESRCH)
			continue;
		fd = openat(dirfd(d), e->d_name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
		if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0) /* a process of another container may live */
			(void)unlinkat(dirfd(d), e->d_name, 0);
		fz_close(&fd);
	}
	if (d)
		closedir(d);
	free(dir);
}

void replica_output_like(struct replica_output *o, const struct stat *like)
{
	if (o->replaces)
		return;
	o->mode = like->st_mode & 0777;
	o->uid = like->st_uid;
	o->gid = like->st_gid;
	o->give = true;
}

int replica_output_open(struct replica_output *o, const char *path, bool force, struct fz_err *err)
{
	struct stat st;
	int rc = 0;

	*o = (struct replica_output){.fd = -1, .path = path, .mode = 0600, .force = force};
	if (lstat(path, &st) == 0) {
		if (!force)
			return fz_fail(err, FZ_EEXISTS, "%s exists", path); /* --force: not every command has it */
		if (!S_ISREG(st.st_mode))
			return fz_fail(err, FZ_EUSAGE, "%s is not a regular file", path);
		replica_output_like(o, &st);
		o->replaces = true;
		rc = refuse_busy(path, err);
	}
	for (size_t i = 0; rc == 0 && !force && i < 2; i++) {
		char *p = join(path, beside[i]);

		if (p && stat(p, &st) == 0 && st.st_size > 0)
			rc = fz_fail(err, FZ_EEXISTS, "%s lies where SQLite would apply it to the new file: remove it",
			             p);
		free(p);
	}
	if (rc < 0)
		return rc;
	remove_litter(path);
	if (asprintf(&o->tmp, "%.*s" MARK "%d" KIND, (int)stem(path), path, (int)getpid()) < 0) {
		o->tmp = NULL;
		return fz_fail_errno(err, ENOMEM, "restoring %s", path);
	}
	(void)unlink(o->tmp); /* of a killed process that had our number */
	o->fd = open(o->tmp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (o->fd < 0) {
		rc = fz_fail_errno(err, errno, "cannot create %s", o->tmp);
		free(o->tmp);
		o->tmp = NULL;
	} else {
		(void)flock(o->fd, LOCK_EX | LOCK_NB); /* for remove_litter() */
	}
	return rc;
}

int replica_output_commit(struct replica_output *o, struct fz_err *err)
{
	int rc = 0;

	if (o->give && fchown(o->fd, o->uid, o->gid) < 0 && errno != EPERM)
		return fz_fail_errno(err, errno, "restoring the owner of %s", o->path);
	if (fchmod(o->fd, o->mode) < 0 || fsync(o->fd) < 0)
		return fz_fail_errno(err, errno, "finishing %s", o->tmp);
	if (o->replaces)
		rc = refuse_busy(o->path, err);
	for (size_t i = 0; rc == 0 && o->force && i < 3; i++) {
		char *p = join(o->path, beside[i]);

		if (!p || (unlink(p) < 0 && errno != ENOENT))
			rc = fz_fail_errno(err, p ? errno : ENOMEM, "removing %s%s", o->path, beside[i]);
		free(p);
	}
	if (rc < 0)
		return rc;
	if (!o->force) {
		rc = renameat2(AT_FDCWD, o->tmp, AT_FDCWD, o->path, RENAME_NOREPLACE) < 0 ? -errno : 0;
		if (rc == -EINVAL || rc == -ENOSYS) /* a file system without it */
			rc = link(o->tmp, o->path) < 0 ? -errno : unlink(o->tmp) < 0 ? -errno : 0;
		if (rc == -EEXIST)
			return fz_fail(err, FZ_EEXISTS, "%s was created meanwhile", o->path);
	} else {
		rc = rename(o->tmp, o->path) < 0 ? -errno : 0;
	}
	if (rc < 0)
		return fz_fail_errno(err, -rc, "renaming %s to %s", o->tmp, o->path);
	free(o->tmp);
	o->tmp = NULL;
	return fz_sync_parent(AT_FDCWD, o->path, err);
}

void replica_output_close(struct replica_output *o)
{
	fz_close(&o->fd);
	if (o->tmp)
		(void)unlink(o->tmp);
	free(o->tmp);
	o->tmp = NULL;
}
