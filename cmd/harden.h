/* harden.h - what the worker gives up once it has what it needs: capabilities it has no use for, new privileges, core
 * dumps, and system calls that only an intruder would want. */
#ifndef FZ_CMD_HARDEN_H
#define FZ_CMD_HARDEN_H

#include "base/err.h"

/* Before threads are started: no core dumps, no new privileges, only the capabilities of a file server. */
int cmd_harden_early(struct fz_err *err) FZ_MUST_CHECK;
/* When all runs: a seccomp filter for every thread; execve, ptrace, mount, modules, bpf ... answer EPERM. */
int cmd_harden_late(struct fz_err *err) FZ_MUST_CHECK;

#endif
