/* bench_place.c - two directories on one filesystem, natively and on a mount. */
#include "cmd/bench.h"

#include "base/file.h"
#include "cmd/ask.h"
#include "ltx/age.h"

#include <cJSON.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#define NAME   ".fazt-bench-"
#define ROOM   (UINT64_C(1) << 30)
#define ASK_MS 10000

/* A filesystem of its own is mounted on dir (below fazt): then its parent lies on another one. */
static bool has_own_filesystem(const char *dir)
{
	struct fz_buf b = {0};
	char *save = NULL;
	bool own = false;

	if (fz_read_file(AT_FDCWD, "/proc/self/mounts", 16u << 20, &b, NULL) == 0)
		for (char *l = strtok_r((char *)b.data, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) {
			char point[PATH_MAX], type[64];

			own |= sscanf(l, "%*s %4095s %63s", point, type) == 2 && !strcmp(point, dir) &&
			       strcmp(type, "fuse.fazt") != 0;
		}
	fz_buf_fini(&b);
	return own;
}

static int make_dir(struct cmd_bench_place *p, char *path, struct fz_err *err)
{
	if (mkdir(path, 0700) < 0 || chown(path, p->uid, p->gid) < 0) {
		int e = errno;

		fz_fail_errno(err, e, "%s", path);
		path[0] = 0;
		return err->code;
	}
	return 0;
}

/* One that was killed leaves its mount and what it wrote. Told, and not removed: others may own the directory, and one may be at work. */
static void tell_left(const char *parent)
{
	DIR *d = opendir(parent);
	struct dirent *e;

	while (d && (e = readdir(d)))
		if (!strncmp(e->d_name, NAME, strlen(NAME)))
			fprintf(stderr,
			        "fazt bench: another one is at work in %s/%s, or was killed: then fazt umount its "
			        "mount, "
			        "and remove it\n",
			        parent, e->d_name);
	if (d)
		closedir(d);
}

static int make_base(struct cmd_bench_place *p, struct fz_err *err)
{
	char parent[PATH_MAX];
	struct statvfs vfs;

	snprintf(parent, sizeof(parent), "%s", p->scratch ? p->scratch : p->where.dir);
	if (!p->scratch && p->where.fazt) {
		char *slash = strrchr(parent, '/');

		if (has_own_filesystem(p->where.dir))
			return fz_fail(err, FZ_EUSAGE,
			               "%s is a filesystem of its own, which fazt covers: --scratch PATH names a "
			               "directory on the "
			               "disk to measure",
			               p->where.dir);
		slash[slash == parent] = 0;
	}
	tell_left(parent);
	if (snprintf(p->base, sizeof(p->base), "%s/" NAME "XXXXXX", parent) >= (int)sizeof(p->base))
		return fz_fail_errno(err, ENAMETOOLONG, "%s", parent);
	if (statvfs(parent, &vfs) == 0 && (uint64_t)vfs.f_bavail * vfs.f_frsize < ROOM) {
		p->base[0] = 0;
		return fz_fail_errno(err, ENOSPC, "%s: the benchmark needs 1 GB", parent);
	}
	if (!mkdtemp(p->base)) {
		fz_fail_errno(err, errno, "%s", p->base);
		p->base[0] = 0;
		return err->code;
	}
	return chmod(p->base, 0711) < 0 ? fz_fail_errno(err, errno, "%s", p->base) : 0;
}

/* Runs this fazt without the FAZT_* of our environment; its output is not shown. */
static int fazt(const char *const *argv, struct fz_err *err)
{
	int status = 0, null;
	pid_t pid = fork();

	if (pid == 0) {
		extern char **environ;

		for (char **e = environ; *e;) {
			char name[64];

			snprintf(name, sizeof(name), "%.*s", (int)strcspn(*e, "="), *e);
			if (!strncmp(name, "FAZT_", 5) && strncmp(name, "FAZT_TEST_", 10) != 0)
				unsetenv(name); /* moves the rest up */
			else
				e++;
		}
		null = open("/dev/null", O_RDWR | O_CLOEXEC);
		if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0)
			_exit(127);
		setpgid(0, 0); /* Ctrl-C is for us: the mount is taken away afterwards */
		execv("/proc/self/exe", (char *const *)(uintptr_t)argv);
		_exit(127);
	}
	if (pid < 0)
		return fz_fail_errno(err, errno, "starting fazt %s", argv[1]);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
	}
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0
	                                                     : fz_fail(err, FZ_EINTERNAL, "fazt %s failed", argv[1]);
}

static int make_mount(struct cmd_bench_place *p, struct fz_err *err)
{
	char conf[PATH_MAX + 16], key[PATH_MAX + 16], target[PATH_MAX + 32], recipient[LTX_AGE_RECIPIENT_SIZE];
	const char *argv[] = {"fazt",        "mount",   "--config", conf, "--target", target,
	                      "--recipient", recipient, p->mount,   NULL, NULL};
	struct ltx_age_recipient r;
	int rc;

	snprintf(p->mount, sizeof(p->mount), "%s/mount", p->base);
	rc = make_dir(p, p->mount, err);
	if (rc < 0)
		return rc;
	snprintf(conf, sizeof(conf), "%s/fazt.conf", p->base);
	snprintf(key, sizeof(key), "%s/key", p->base);
	snprintf(target, sizeof(target), "dir:%s/store", p->base);
	rc = ltx_age_keygen(key, &r, err);
	if (rc == 0)
		rc = fz_write_file(AT_FDCWD, conf, "", 0, 0600, err);
	if (rc < 0)
		return rc;
	ltx_age_recipient_format(recipient, &r);
	if (p->no_passthrough) {
		argv[8] = "--no-passthrough";
		argv[9] = p->mount;
	}
	rc = fazt(argv, err);
	p->mounted = rc == 0;
	return rc;
}

static int look(struct cmd_bench_place *p, const char *dir, struct fz_err *err)
{
	struct cmd_where w;
	cJSON *status = NULL;
	int rc = cmd_ask(dir, cmd_request("status"), ASK_MS, &w, &status, err);

	p->passthrough = cJSON_IsTrue(cJSON_GetObjectItem(status, "passthrough"));
	cJSON_Delete(status);
	return rc;
}

int cmd_bench_enter(struct cmd_bench_place *p, struct fz_err *err)
{
	struct stat st;
	int rc = cmd_where_find(&p->where, p->dir, err);

	p->base[0] = p->native[0] = p->mount[0] = 0;
	p->mounted = false;
	if (rc < 0)
		return rc;
	if (p->live && !p->where.fazt)
		return fz_fail(err, FZ_ENOTMOUNTED, "%s is not mounted by fazt", p->where.dir);
	if (geteuid() != 0 && !p->live)
		return fz_fail_errno(err, EPERM, "mounting needs root (try sudo)");
	if (stat(p->where.dir, &st) < 0)
		return fz_fail_errno(err, errno, "%s", p->where.dir);
	p->uid = st.st_uid;
	p->gid = st.st_gid;
	rc = make_base(p, err);
	if (rc < 0)
		return rc;
	snprintf(p->native, sizeof(p->native), "%s/native", p->base);
	rc = make_dir(p, p->native, err);
	if (rc < 0)
		return rc;
	if (!p->live) {
		rc = make_mount(p, err);
		return rc < 0 ? rc : look(p, p->mount, err);
	}
	snprintf(p->mount, sizeof(p->mount), "%.4000s/" NAME "XXXXXX", p->where.dir);
	if (!mkdtemp(p->mount)) {
		fz_fail_errno(err, errno, "%s", p->mount);
		p->mount[0] = 0;
		return err->code;
	}
	if (chown(p->mount, p->uid, p->gid) < 0)
		return fz_fail_errno(err, errno, "%s", p->mount);
	return look(p, p->where.dir, err);
}

int cmd_bench_leave(struct cmd_bench_place *p, struct fz_err *err)
{
	const char *argv[] = {"fazt", "umount", p->mount, NULL};
	int rc = p->mounted ? fazt(argv, err) : 0;

	if (rc < 0) /* what is below must not be removed through a mount that still ships it */
		return fz_err_prefix(err, "%s is still mounted; umount and remove %s", p->mount, p->base);
	p->mounted = false;
	if (p->live && p->mount[0])
		rc = fz_remove_tree(AT_FDCWD, p->mount, err);
	if (p->base[0] && rc == 0)
		rc = fz_remove_tree(AT_FDCWD, p->base, err);
	return rc;
}
