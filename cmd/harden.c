#include "cmd/harden.h"

#include "base/log.h"

#include <errno.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <pwd.h>
#include <stddef.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#endif

/* Serving files as another user would have made them needs all but the last. CAP_SYS_ADMIN is for one thing: registering
 * a backing file with the kernel, an ioctl on /dev/fuse for each file that gets its first handle. Through the supervisor
 * that is a round trip for each journal: DELETE mode then makes half as many transactions. The filter below takes away
 * what else it would allow (mounts, namespaces, BPF, swap, ...). */
static const int worker_keeps[] = {CAP_CHOWN,    CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER,
                                   CAP_FSETID,   CAP_MKNOD,        CAP_SETUID,          CAP_SETGID,
                                   CAP_IPC_LOCK, CAP_SYS_RESOURCE, CAP_SYS_ADMIN};
/* The agent is an application with every right on files; it also ends who holds a lock beyond a lease (fs/deadman.h), and finds
 * out who that is. */
static const int agent_keeps[] = {CAP_CHOWN,  CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER,
                                  CAP_FSETID, CAP_KILL,         CAP_SYS_PTRACE,      CAP_SYS_RESOURCE};

/* Both are the same user, since each ends the other when it has to (cmd/lease_warden.c, fs/deadman.c). The ids of the filesystem stay, and with
 * SECBIT_NO_SETUID_FIXUP so do capabilities. */
static void take_user(void)
{
	const struct passwd *u = geteuid() == 0 ? getpwnam(CMD_HARDEN_USER) : NULL;
	gid_t gid = getegid();

	if (!u || u->pw_uid == 0)
		return;
	if (prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP) < 0 || setgroups(0, NULL) < 0 ||
	    setresgid(u->pw_gid, u->pw_gid, u->pw_gid) < 0 || setresuid(u->pw_uid, u->pw_uid, u->pw_uid) < 0)
		fz_warn("cannot become the user " CMD_HARDEN_USER ": %s", strerror(errno));
	setfsgid(gid);
	setfsuid(0);
}

/* What a program that is started could get. Nothing is, and the filter denies it: this is the second lock. */
static int bound(const struct __user_cap_data_struct want[2], struct fz_err *err)
{
	for (int cap = 0; cap < 64 && prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		if (!(want[CAP_TO_INDEX(cap)].permitted & CAP_TO_MASK(cap)) &&
		    prctl(PR_CAPBSET_READ, cap, 0, 0, 0) == 1 && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
			return fz_fail_errno(err, errno, "the bounding set of capabilities");
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return fz_fail_errno(err, errno, "ambient capabilities");
	return 0;
}

int cmd_harden_early(enum cmd_harden who, struct fz_err *err)
{
	struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct d[2] = {{0}}, want[2] = {{0}};
	const int *keep = who == CMD_HARDEN_WORKER ? worker_keeps : agent_keeps;
	size_t n = who == CMD_HARDEN_WORKER ? sizeof(worker_keeps) / sizeof(int) : sizeof(agent_keeps) / sizeof(int);
	int rc;

	setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
	take_user();
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return fz_fail_errno(err, errno, "no_new_privs");
	if (syscall(SYS_capget, &h, d) < 0)
		return fz_fail_errno(err, errno, "capget");
	for (size_t i = 0; i < n; i++)
		want[CAP_TO_INDEX(keep[i])].permitted |= CAP_TO_MASK(keep[i]);
	rc = bound(want, err);
	if (rc < 0)
		return rc;
	for (int i = 0; i < 2; i++) {
		d[i].permitted &= want[i].permitted;
		d[i].effective &= d[i].permitted;
		d[i].inheritable = 0;
	}
	if (syscall(SYS_capset, &h, d) < 0)
		return fz_fail_errno(err, errno, "capset");
	return 0;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#undef ARCH /* the sanitizers' own runtime needs ptrace */
#endif

#ifdef ARCH
#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define NAMESPACES  0x7e020080 /* CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID, NET, TIME */
#define DENY(nr)    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM)

int cmd_harden_late(struct fz_err *err)
{
	struct sock_filter code[] = {
	        LOAD(arch),
	        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0),
	        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
	        LOAD(nr),
#ifdef __x86_64__
	        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1), /* x32 */
	        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
#endif
	        /* clone3 keeps its flags in memory, where a filter cannot see them: the C library falls back to clone */
	        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1),
	        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
	        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 4),
	        LOAD(args[0]),
	        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, NAMESPACES, 0, 1),
	        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
	        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	        /* another user: only that of the filesystem changes, with each file that is made */
	        DENY(SYS_setuid),
	        DENY(SYS_setreuid),
	        DENY(SYS_setresuid),
	        DENY(SYS_setgid),
	        DENY(SYS_setregid),
	        DENY(SYS_setresgid),
	        DENY(SYS_setgroups),
	        DENY(SYS_capset),
	        DENY(SYS_personality),
	        DENY(SYS_execve),
	        DENY(SYS_execveat),
	        DENY(SYS_ptrace),
	        DENY(SYS_process_vm_readv),
	        DENY(SYS_process_vm_writev),
	        DENY(SYS_mount),
	        DENY(SYS_umount2),
	        DENY(SYS_open_tree),
	        DENY(SYS_move_mount),
	        DENY(SYS_fsopen),
	        DENY(SYS_fsconfig),
	        DENY(SYS_fsmount),
	        DENY(SYS_fspick),
	        DENY(SYS_mount_setattr),
	        DENY(SYS_pivot_root),
	        DENY(SYS_chroot),
	        DENY(SYS_unshare),
	        DENY(SYS_setns),
	        DENY(SYS_bpf),
	        DENY(SYS_perf_event_open),
	        DENY(SYS_init_module),
	        DENY(SYS_finit_module),
	        DENY(SYS_delete_module),
	        DENY(SYS_kexec_load),
	        DENY(SYS_reboot),
	        DENY(SYS_kexec_file_load),
	        DENY(SYS_swapon),
	        DENY(SYS_swapoff),
	        DENY(SYS_sethostname),
	        DENY(SYS_setdomainname),
	        DENY(SYS_quotactl),
	        DENY(SYS_quotactl_fd),
	        DENY(SYS_syslog),
	        DENY(SYS_fanotify_init),
	        DENY(SYS_open_by_handle_at),
	        DENY(SYS_pidfd_getfd),
	        DENY(SYS_io_uring_setup), /* would go around this filter */
	        DENY(SYS_keyctl),
	        DENY(SYS_add_key),
	        DENY(SYS_request_key),
	        DENY(SYS_userfaultfd),
	        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {sizeof(code) / sizeof(code[0]), code};

	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &prog) != 0)
		return fz_fail_errno(err, errno, "seccomp");
	return 0;
}
#else
int cmd_harden_late(struct fz_err *err)
{
	(void)err;
	return 0; /* no table for this machine */
}
#endif
