#include "replica/output.h"

#include "base/file.h"
#include "base/temp.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
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
static int refuse_busy(const struct replica_output *o, struct fz_err *err)
{
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0x40000000, .l_len = 512};
	int fd = openat(o->dirfd, o->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK), rc = 0;

	if (fd >= 0 && fcntl(fd, F_OFD_GETLK, &l) == 0 && l.l_type != F_UNLCK)
		rc = fz_fail(err, FZ_EBUSY, "%s is in use by an application: stop it, or restore with --in-place",
		             o->path);
	fz_close(&fd);
	return rc;
}

/* What of a name stands before the mark: all, unless the whole would be longer than a name can be. */
static size_t stem(const char *name)
{
	const size_t most = NAME_MAX - (sizeof(MARK KIND) - 1) - 10; /* digits of a process */
	size_t n = strlen(name);

	if (n > most)
		for (n = most; n && ((uint8_t)name[n] & 0xc0) == 0x80;) /* not within a character */
			n--;
	return n;
}

/* Whoever was killed while it wrote NAME.fazt-<pid>-journal left it: neither that process nor its lock is there. */
static void remove_litter(int dirfd, const char *name)
{
	size_t n = stem(name);
	DIR *d = fz_opendir(dirfd, ".");
	struct dirent *e;

	while (d && (e = readdir(d))) {
		const char *rest;
		int fd;

		if (strncmp(e->d_name, name, n) || strncmp(e->d_name + n, MARK, sizeof(MARK) - 1) ||
		    !fz_temp_abandoned(e->d_name + n + sizeof(MARK) - 1, &rest) || strcmp(rest, KIND))
			continue;
		fd = openat(dirfd, e->d_name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
		if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0) /* a process of another container may live */
			(void)unlinkat(dirfd, e->d_name, 0);
		fz_close(&fd);
	}
	if (d)
		closedir(d);
}

static int open_dir(struct replica_output *o, const int *dir, struct fz_err *err)
{
	const char *slash = strrchr(o->path, '/');
	char *text = slash ? strndup(o->path, (size_t)(slash - o->path) + 1) : strdup(".");

	o->name = slash ? slash + 1 : o->path;
	if (text)
		o->dirfd = dir ? fcntl(*dir, F_DUPFD_CLOEXEC, 0) : open(text, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	free(text);
	return o->dirfd < 0 ? fz_fail_errno(err, errno, "cannot create %s", o->path) : 0;
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

static int open_it(struct replica_output *o, struct fz_err *err)
{
	struct stat st;
	int rc = 0;

	if (fstatat(o->dirfd, o->name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
		if (!o->force)
			return fz_fail(err, FZ_EEXISTS, "%s exists", o->path); /* --force: not every command has it */
		if (!S_ISREG(st.st_mode))
			return fz_fail(err, FZ_EUSAGE, "%s is not a regular file", o->path);
		replica_output_like(o, &st);
		o->replaces = true;
		rc = refuse_busy(o, err);
	}
	for (size_t i = 0; rc == 0 && !o->force && i < 2; i++) {
		char *p = join(o->name, beside[i]);

		if (p && fstatat(o->dirfd, p, &st, 0) == 0 && st.st_size > 0)
			rc = fz_fail(err, FZ_EEXISTS,
			             "%s%s lies where SQLite would apply it to the new file: remove it", o->path,
			             beside[i]);
		free(p);
	}
	if (rc < 0)
		return rc;
	remove_litter(o->dirfd, o->name);
	if (asprintf(&o->tmp, "%.*s" MARK "%d" KIND, (int)stem(o->name), o->name, (int)getpid()) < 0) {
		o->tmp = NULL;
		return fz_fail_errno(err, ENOMEM, "restoring %s", o->path);
	}
	(void)unlinkat(o->dirfd, o->tmp, 0); /* of a killed process that had our number */
	o->fd = openat(o->dirfd, o->tmp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (o->fd < 0) {
		rc = fz_fail_errno(err, errno, "cannot create %s beside %s", o->tmp, o->path);
		free(o->tmp);
		o->tmp = NULL;
	} else {
		(void)flock(o->fd, LOCK_EX | LOCK_NB); /* for remove_litter() */
	}
	return rc;
}

int replica_output_open(struct replica_output *o, const char *path, const int *dir, bool force, struct fz_err *err)
{
	int rc;

	*o = (struct replica_output){.fd = -1, .dirfd = -1, .path = path, .mode = 0600, .force = force};
	rc = open_dir(o, dir, err);
	if (rc == 0)
		rc = open_it(o, err);
	if (rc < 0)
		fz_close(&o->dirfd);
	return rc;
}

/* Who owns the directory can put another file there under the temporary name: that one is not what was written and verified. */
static int still_ours(const struct replica_output *o, struct fz_err *err)
{
	struct stat ours, there;

	if (fstat(o->fd, &ours) < 0)
		return fz_fail_errno(err, errno, "finishing %s", o->path);
	if (fstatat(o->dirfd, o->tmp, &there, AT_SYMLINK_NOFOLLOW) < 0 || there.st_dev != ours.st_dev ||
	    there.st_ino != ours.st_ino)
		return fz_fail(
		        err, FZ_ECHANGED,
		        "somebody removed or replaced %s beside %s while it was written: nothing has got that name",
		        o->tmp, o->path);
	return 0;
}

int replica_output_commit(struct replica_output *o, struct fz_err *err)
{
	int rc = 0;

	if (o->give && fchown(o->fd, o->uid, o->gid) < 0 && errno != EPERM)
		return fz_fail_errno(err, errno, "restoring the owner of %s", o->path);
	if (fchmod(o->fd, o->mode) < 0 || fsync(o->fd) < 0)
		return fz_fail_errno(err, errno, "finishing %s", o->path);
	rc = still_ours(o, err);
	if (rc == 0 && o->replaces)
		rc = refuse_busy(o, err);
	for (size_t i = 0; rc == 0 && o->force && i < 3; i++) {
		char *p = join(o->name, beside[i]);

		if (!p || (unlinkat(o->dirfd, p, 0) < 0 && errno != ENOENT))
			rc = fz_fail_errno(err, p ? errno : ENOMEM, "removing %s%s", o->path, beside[i]);
		free(p);
	}
	if (rc < 0)
		return rc;
	if (!o->force) {
		rc = renameat2(o->dirfd, o->tmp, o->dirfd, o->name, RENAME_NOREPLACE) < 0 ? -errno : 0;
		if (rc == -EINVAL || rc == -ENOSYS) /* a file system without it */
			rc = linkat(o->dirfd, o->tmp, o->dirfd, o->name, 0) < 0 ? -errno
			     : unlinkat(o->dirfd, o->tmp, 0) < 0                ? -errno
			                                                        : 0;
		if (rc == -EEXIST)
			return fz_fail(err, FZ_EEXISTS, "%s was created meanwhile", o->path);
	} else {
		rc = renameat(o->dirfd, o->tmp, o->dirfd, o->name) < 0 ? -errno : 0;
	}
	if (rc < 0)
		return fz_fail_errno(err, -rc, "renaming %s to %s", o->tmp, o->path);
	free(o->tmp);
	o->tmp = NULL;
	return fsync(o->dirfd) < 0 ? fz_fail_errno(err, errno, "syncing the directory of %s", o->path) : 0;
}

void replica_output_close(struct replica_output *o)
{
	fz_close(&o->fd);
	if (o->tmp)
		(void)unlinkat(o->dirfd, o->tmp, 0);
	free(o->tmp);
	o->tmp = NULL;
	fz_close(&o->dirfd);
}
