"""Kills a process at a chosen system call: the child runs under ptrace and gets SIGKILL as it enters or leaves the n-th call
that reaches a file (write, sync, truncate, unlink, lock, open). n = 1, 2, ... until the child ends by itself covers
every moment that the disk, or another process, can tell apart."""
import ctypes
import os
import platform
import signal
import sys
import traceback

CALLS = {"x86_64": {1, 18, 74, 75, 77, 82, 87, 263, 72, 257},
         "aarch64": {64, 68, 82, 83, 46, 35, 25, 56}}[platform.machine()]
TRACEME, SYSCALL, SETOPTIONS, SYSCALL_INFO = 0, 24, 0x4200, 0x420E
EXITKILL_SYSGOOD = 0x100001
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
LIBC.ptrace.restype = ctypes.c_long


class Info(ctypes.Structure):
    _fields_ = [("op", ctypes.c_uint8), ("pad", ctypes.c_uint8 * 3), ("arch", ctypes.c_uint32), ("ip", ctypes.c_uint64),
                ("sp", ctypes.c_uint64), ("args", ctypes.c_uint64 * 8)]


def ptrace(request, pid, addr=None, data=None):
    r = LIBC.ptrace(request, pid, addr, data)
    if r < 0:
        raise OSError(ctypes.get_errno(), "ptrace")
    return r


def child(prepare, act):
    code = 70
    try:
        with_what = prepare()
        ptrace(TRACEME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        act(with_what)
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def killed_at(n, prepare, act):
    """Runs act(prepare()) in a child; True when it was killed at the n-th stop, False when it had ended before. The caller has
    no SQLite connection open: the child would take its locks for its own."""
    pid = os.fork()
    if pid == 0:
        child(prepare, act)
    stops, entered = 0, False
    os.waitpid(pid, 0)
    ptrace(SETOPTIONS, pid, None, EXITKILL_SYSGOOD)
    while True:
        ptrace(SYSCALL, pid)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status):
                raise RuntimeError("the child failed: exit %d" % os.WEXITSTATUS(status))
            return False
        if os.WIFSIGNALED(status):
            raise RuntimeError("the child died of signal %d" % os.WTERMSIG(status))
        if os.WSTOPSIG(status) != signal.SIGTRAP | 0x80:
            continue
        info = Info()
        ptrace(SYSCALL_INFO, pid, ctypes.sizeof(info), ctypes.addressof(info))
        if info.op == 1:
            entered = info.args[0] in CALLS
        if entered:
            stops += 1
        if stops == n:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return True
