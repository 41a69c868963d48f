/* harden.h - what worker and agent give up once they have what they need: capabilities they have no use for, new privileges, core
 * dumps, root's name, and system calls that only an intruder would want. */
#ifndef FZ_CMD_HARDEN_H
#define FZ_CMD_HARDEN_H

#include "base/err.h"

#define CMD_HARDEN_USER "fazt" /* made by the package */

enum cmd_harden { CMD_HARDEN_WORKER, CMD_HARDEN_AGENT };
/* Before threads are started: no core dumps, no new privileges, only the capabilities of a file server, in the bounding set too; and another
 * user, where this machine has one of that name, so that the process is not root to signals, /proc/sys and whatever else asks for a name
 * and not for a capability. Files are made and opened as before: that is up to the ids of the filesystem, which stay. */
int cmd_harden_early(enum cmd_harden who, struct fz_err *err) FZ_MUST_CHECK;
/* When all runs: a seccomp filter for every thread; execve, ptrace, mount, modules, bpf, another user ... answer EPERM. */
int cmd_harden_late(struct fz_err *err) FZ_MUST_CHECK;

#endif
