#include "cmd/probe.h"

#include "base/file.h"
#include "fs/backing.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#define ANSWER_MS 5000

static void or32(uint8_t *p, uint32_t bits)
{
	memcpy(p, &bits, sizeof(bits));
}

static uint32_t get32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

/* struct fuse_init_in: major, minor, readahead, flags, flags2; struct fuse_init_out: the same, max_write at 20, flags2 at 32,
 * max_stack_depth at 36, 64 bytes in all (newer than the header of Debian 12). */
static int handshake(int fd, struct cmd_probe_kernel *k)
{
	uint8_t buf[FUSE_MIN_READ_BUFFER], out[sizeof(struct fuse_out_header) + 64] = {0};
	struct fuse_out_header h = {.len = sizeof(out)};
	struct fuse_in_header in;
	const uint8_t *init = buf + sizeof(in);
	uint32_t flags, flags2 = 0;
	struct pollfd p = {.fd = fd, .events = POLLIN};
	ssize_t n;

	if (poll(&p, 1, ANSWER_MS) <= 0)
		return fz_fail(&k->err, FZ_ENOFUSE, "the kernel sends no handshake");
	n = read(fd, buf, sizeof(buf));
	if (n < (ssize_t)(sizeof(in) + 16))
		return fz_fail_errno(&k->err, errno, "reading the kernel's handshake");
	memcpy(&in, buf, sizeof(in));
	k->major = get32(init);
	k->minor = get32(init + 4);
	flags = get32(init + 12);
	if ((flags & FS_INIT_EXT) && n >= (ssize_t)(sizeof(in) + 20))
		flags2 = get32(init + 16);
	k->passthrough = flags2 & FS_INIT2_PASSTHROUGH;
	k->resend = flags2 & FS_INIT2_HAS_RESEND;
	h.unique = in.unique;
	memcpy(out, &h, sizeof(h));
	uint8_t *o = out + sizeof(h);
	or32(o, k->major);
	or32(o + 4, k->minor < 40 ? k->minor : 40);
	or32(o + 8, 65536);
	or32(o + 12, flags2 ? FS_INIT_EXT : 0);
	or32(o + 20, 4096);
	or32(o + 32, flags2 & (FS_INIT2_PASSTHROUGH | FS_INIT2_HAS_RESEND));
	or32(o + 36, 1);
	if (write(fd, out, sizeof(out)) != (ssize_t)sizeof(out))
		return fz_fail_errno(&k->err, errno, "the kernel refuses the handshake");
	return 0;
}

static void try_passthrough(int fd, const char *dir, struct cmd_probe_kernel *k)
{
	int file = dir ? open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600) : -1, id;

	if (file < 0)
		file = memfd_create("fazt-probe", MFD_CLOEXEC);
	id = file < 0 ? -errno : fs_backing_own_open(fd, file);
	k->passthrough_works = id > 0;
	if (id > 0)
		(void)fs_backing_own_close(fd, id);
	else
		fz_fail(&k->err, FZ_ENOFUSE, "a file cannot be registered with the kernel: %s",
		        id == -EPERM   ? "no CAP_SYS_ADMIN in the first user namespace"
		        : id == -ELOOP ? "the filesystem lies on another one (overlay)"
		                       : fz_strerror(id));
	fz_close(&file);
}

static void try_all(const char *dir, struct cmd_probe_kernel *k)
{
	struct fuse_out_header resend = {.len = sizeof(resend), .error = FS_NOTIFY_RESEND_CODE};
	char point[] = "/tmp/fazt-probe-XXXXXX", opts[120];
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	bool made = false;

	k->device = fd >= 0;
	if (fd < 0) {
		fz_fail(&k->err, FZ_ENOFUSE, "cannot open /dev/fuse: %s", strerror(errno));
		return;
	}
	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
		fz_fail(&k->err, FZ_ENOFUSE, "cannot try a mount: %s", strerror(errno));
		goto out;
	}
	made = mkdtemp(point) != NULL;
	snprintf(opts, sizeof(opts), "fd=%d,rootmode=40000,user_id=0,group_id=0", fd);
	if (!made || mount("fazt-probe", point, "fuse.fazt-probe", MS_NOSUID | MS_NODEV, opts) < 0) {
		fz_fail(&k->err, FZ_ENOFUSE, "mounting is refused: %s", strerror(errno));
		goto out;
	}
	k->mounts = true;
	if (handshake(fd, k) < 0)
		goto out;
	if (k->passthrough)
		try_passthrough(fd, dir, k);
	if (k->resend)
		k->resend_works = write(fd, &resend, sizeof(resend)) == (ssize_t)sizeof(resend);
out:
	fz_close(&fd); /* the connection ends, and nobody waits for it */
	if (k->mounts)
		(void)umount2(point, MNT_DETACH);
	if (made)
		(void)rmdir(point);
}

void cmd_probe_kernel(const char *dir, struct cmd_probe_kernel *k)
{
	int pipefd[2] = {-1, -1};
	struct utsname u;
	ssize_t n = 0;
	pid_t pid;

	memset(k, 0, sizeof(*k));
	if (uname(&u) == 0)
		snprintf(k->release, sizeof(k->release), "%s", u.release);
	if (pipe2(pipefd, O_CLOEXEC) < 0 || (pid = fork()) < 0) {
		fz_fail_errno(&k->err, errno, "trying the kernel");
		goto out;
	}
	if (pid == 0) {
		try_all(dir, k);
		(void)!write(pipefd[1], k, sizeof(*k));
		_exit(0);
	}
	fz_close(&pipefd[1]);
	struct cmd_probe_kernel got;
	do
		n = read(pipefd[0], &got, sizeof(got));
	while (n < 0 && errno == EINTR);
	if (n == (ssize_t)sizeof(got))
		*k = got;
	else
		fz_fail(&k->err, FZ_EINTERNAL, "the child that tried the kernel died");
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
	}
out:
	fz_close(&pipefd[0]);
	fz_close(&pipefd[1]);
}
