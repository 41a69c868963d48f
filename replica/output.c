#include "replica/output.h"

#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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

int replica_output_open(struct replica_output *o, const char *path, bool force, struct fz_err *err)
{
	struct stat st;
	mode_t mask;
	int rc = 0;

	*o = (struct replica_output){.fd = -1, .path = path, .force = force};
	mask = umask(0);
	umask(mask);
	o->mode = 0644 & ~mask;
	if (lstat(path, &st) == 0) {
		if (!force)
			return fz_fail(err, FZ_EEXISTS, "%s exists: choose another name, or replace it with --force",
			               path);
		if (!S_ISREG(st.st_mode))
			return fz_fail(err, FZ_EUSAGE, "%s is not a regular file", path);
		o->replaces = true;
		o->mode = st.st_mode & 0777;
		o->uid = st.st_uid;
		o->gid = st.st_gid;
		rc = refuse_busy(path, err);
	}
	for (size_t i = 0; rc == 0 && !force && i < 2; i++) {
		char *p = join(path, beside[i]);

		if (p && stat(p, &st) == 0 && st.st_size > 0)
			rc = fz_fail(
			        err, FZ_EEXISTS,
			        "%s lies where SQLite would apply it to the restored file: remove it, or use --force",
			        p);
		free(p);
	}
	if (rc < 0)
		return rc;
	if (asprintf(&o->tmp, "%s.fazt-%d", path, (int)getpid()) < 0) {
		o->tmp = NULL;
		return fz_fail_errno(err, ENOMEM, "restoring %s", path);
	}
	(void)unlink(o->tmp); /* of a killed process that had our number */
	o->fd = open(o->tmp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (o->fd < 0) {
		rc = fz_fail_errno(err, errno, "cannot create %s", o->tmp);
		free(o->tmp);
		o->tmp = NULL;
	}
	return rc;
}

int replica_output_commit(struct replica_output *o, struct fz_err *err)
{
	int rc = 0;

	if (o->replaces && fchown(o->fd, o->uid, o->gid) < 0 && errno != EPERM)
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
