/* mountpoint.c - where the supervisor mounts: /dev/fuse, the state directory and its lock, mount(2) over the directory. */
#include "fs/supervisor_priv.h"

#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

int fs_mountpoint_below(const char *dir)
{
	char *line = NULL, point[PATH_MAX], escaped[PATH_MAX * 4];
	size_t cap = 0, n = 0;
	int parent, below = -1;
	FILE *f = fopen("/proc/self/mountinfo", "re");

	for (const char *p = dir; *p && n < sizeof(escaped) - 5; p++) /* as the kernel escapes */
		n += (size_t)(strchr(" \t\n\\", *p) ? sprintf(escaped + n, "\\%03o", (unsigned char)*p)
		                                    : sprintf(escaped + n, "%c", *p));
	escaped[n] = 0;
	while (f && getline(&line, &cap, f) > 0) {
		const char *dash = strstr(line, " - ");

		if (sscanf(line, "%*d %d %*s %*s %4095s", &parent, point) == 2 && strcmp(point, escaped) == 0)
			below = dash && strncmp(dash, " - fuse.fazt ", 13) == 0 ? parent : -1;
	}
	free(line);
	if (f)
		fclose(f);
	return below;
}

int fs_mountpoint_open_fuse(struct fz_err *err)
{
	int fd = fs_child_high(open("/dev/fuse", O_RDWR | O_CLOEXEC)); /* blocking: workers wait in read(2) */

	if (fd >= 0)
		return fd;
	if (errno == ENOENT || errno == ENODEV || errno == ENXIO)
		return fz_fail(
		        err, FZ_ENOFUSE,
		        "there is no /dev/fuse: load the module (modprobe fuse), or give the container the device "
		        "(--device /dev/fuse --cap-add SYS_ADMIN)");
	return fz_fail(err, FZ_ENOFUSE, "cannot open /dev/fuse: %s (run as root; a container needs --device /dev/fuse)",
	               strerror(errno));
}

int fs_mountpoint_lock_state(struct fs_super *s, struct fz_err *err)
{
	s->lockfd = fs_child_high(openat(s->statefd, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
	if (s->lockfd < 0)
		return fz_fail_errno(err, errno, "cannot open the state directory's lock");
	if (fz_lock(s->lockfd) < 0)
		return fz_fail(err, FZ_EMOUNTED, "another fazt uses the state directory of %s", s->dir);
	return 0;
}

int fs_mountpoint_open_state(struct fs_super *s, struct fz_err *err)
{
	struct stat st;
	int rc;

	if (s->conf->state_dir) {
		rc = fz_mkdirs(AT_FDCWD, s->conf->state_dir, 0700, err);
		if (rc < 0)
			return rc;
		s->statefd = fs_child_high(open(s->conf->state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	} else {
		if (mkdirat(s->rootfd, ".fazt", 0700) < 0 && errno != EEXIST)
			return fz_fail_errno(err, errno, "cannot make %s/.fazt", s->dir);
		s->statefd = fs_child_high(openat(s->rootfd, ".fazt", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
	}
	if (s->statefd < 0 || fstat(s->statefd, &st) < 0)
		return fz_fail_errno(err, errno, "cannot open the state directory");
	if (st.st_uid != geteuid() || (st.st_mode & 077))
		return fz_fail(err, FZ_ECONFIG,
		               "the state directory must belong to root and be closed to others (0700)");
	return fs_mountpoint_lock_state(s, err);
}

int fs_mountpoint_mount(struct fs_super *s, struct fz_err *err)
{
	char opts[160];

	snprintf(opts, sizeof(opts), "fd=%d,rootmode=40000,user_id=0,group_id=0,default_permissions%s", s->fusefd,
	         s->conf->allow_other ? ",allow_other" : "");
	if (mount("fazt", s->dir, "fuse.fazt", MS_NOSUID | MS_NODEV, opts) < 0)
		return fz_fail(err, FZ_ENOFUSE, "cannot mount over %s: %s%s", s->dir, strerror(errno),
		               errno == EPERM ? " (needs CAP_SYS_ADMIN)" : "");
	s->mounted = true;
	return 0;
}

bool fs_mountpoint_is_gone(const struct fs_super *s)
{
	struct pollfd p = {s->fusefd, 0, 0};

	return poll(&p, 1, 0) > 0 && (p.revents & (POLLERR | POLLHUP));
}
