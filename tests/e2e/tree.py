"""tree.py NATIVE MOUNT SEED STEPS - does the same to two directories, one native and one on a mount, and compares what an
application sees: results, errno, attributes, contents. First a table of named cases, then STEPS random operations.
Prints the first difference and exits 1. Run by passthrough.sh, which also kills the worker meanwhile."""
import ctypes
import ctypes.util
import errno
import fcntl
import mmap
import os
import random
import socket
import stat
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import evict  # noqa: E402

LIBC = ctypes.CDLL(ctypes.util.find_library("c") or "libc.so.6", use_errno=True)
USER = 1234  # no such user is needed
GROUP = 2345
MOUNTED = []  # the mount point


def renameat2(a, b, flags):
    if LIBC.renameat2(-100, os.fsencode(a), -100, os.fsencode(b), ctypes.c_uint(flags)):
        raise OSError(ctypes.get_errno(), "renameat2")


def forget():
    """The kernel drops what it knows of names and files that nobody uses at the moment."""
    evict(MOUNTED[0])


def outcome(f, *args):
    """A value that can be compared: the result, or the errno."""
    try:
        return f(*args)
    except OSError as e:
        return "E" + errno.errorcode.get(e.errno, str(e.errno))


def look(st, times=False):
    r = [stat.filemode(st.st_mode), st.st_nlink, st.st_uid, st.st_gid]
    if stat.S_ISREG(st.st_mode) or stat.S_ISLNK(st.st_mode):
        r.append(st.st_size)
    if times:
        r += [st.st_atime_ns, st.st_mtime_ns]
    return r


def put(path, data=b"", mode=0o644):
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, mode)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def get(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        out = b""
        while True:
            b = os.read(fd, 1 << 16)
            if not b:
                return out
            out += b
    finally:
        os.close(fd)


def as_user(uid, gid, groups, f):
    """f() in a child with other ids; its result as text."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(r)
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            os.write(w, repr(outcome(f)).encode())
        finally:
            os._exit(0)
    os.close(w)
    out = b""
    while True:
        b = os.read(r, 4096)
        if not b:
            break
        out += b
    os.close(r)
    os.waitpid(pid, 0)
    return out.decode()


# ---- the table: each case gets an empty directory of its own and returns something comparable --------------------------
CASES = []


def case(f):
    CASES.append((f.__name__, f))
    return f


@case
def create_exclusive(d):
    p = d + "/f"
    a = outcome(lambda: os.close(os.open(p, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o640)))
    b = outcome(os.open, p, os.O_CREAT | os.O_EXCL | os.O_RDWR)
    return a, b, look(os.stat(p)), get(p)


@case
def open_missing_and_wrong_kinds(d):
    os.mkdir(d + "/dir")
    put(d + "/f")
    return [outcome(os.open, d + p, fl) for p, fl in [
        ("/none", os.O_RDONLY), ("/dir", os.O_WRONLY), ("/f/x", os.O_RDONLY), ("/f", os.O_DIRECTORY),
        ("/none/x", os.O_CREAT | os.O_RDWR), ("/dir", os.O_CREAT | os.O_RDWR)]]


@case
def truncate_and_append(d):
    p = d + "/f"
    put(p, b"0123456789")
    fd = os.open(p, os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"ab")
    os.pwrite(fd, b"cd", 0)  # Linux appends
    a = get(p), os.fstat(fd).st_size
    os.close(fd)
    os.truncate(p, 4)
    b = get(p)
    os.truncate(p, 8)
    c = get(p)
    os.close(os.open(p, os.O_WRONLY | os.O_TRUNC))
    return a, b, c, get(p), os.stat(p).st_size


@case
def big_writes_and_holes(d):
    fd = os.open(d + "/f", os.O_CREAT | os.O_RDWR)
    n = os.write(fd, b"x" * 3000001)
    os.pwrite(fd, b"end", 5000000)
    r = n, os.fstat(fd).st_size, os.pread(fd, 10, 3000000), os.pread(fd, 10, 4999998), os.pread(fd, 10, 6000000)
    os.ftruncate(fd, 100)
    os.close(fd)
    return r, get(d + "/f")


@case
def unlink_while_open(d):
    p = d + "/f"
    put(p, b"hello")
    fd = os.open(p, os.O_RDWR)
    os.unlink(p)
    a = look(os.fstat(fd)), os.pread(fd, 9, 0), outcome(os.stat, p)
    os.pwrite(fd, b"HELLO world", 0)
    os.ftruncate(fd, 8)
    os.fsync(fd)
    os.fchmod(fd, 0o600)
    b = look(os.fstat(fd)), os.pread(fd, 99, 0)
    put(p, b"second")
    c = get(p), os.pread(fd, 99, 0), os.listdir(d)
    os.close(fd)
    os.unlink(p)
    return a, b, c, os.listdir(d), outcome(os.rmdir, d)


@case
def rename_over_open_file(d):
    put(d + "/old", b"old")
    put(d + "/new", b"new")
    fd = os.open(d + "/old", os.O_RDWR)
    os.rename(d + "/new", d + "/old")
    r = look(os.fstat(fd)), os.pread(fd, 9, 0), get(d + "/old"), sorted(os.listdir(d))
    os.close(fd)
    return r, look(os.stat(d + "/old"))


@case
def unlink_one_of_two_links_while_open(d):
    put(d + "/a", b"data")
    os.link(d + "/a", d + "/b")
    fd = os.open(d + "/a", os.O_RDWR)
    os.unlink(d + "/a")
    x = look(os.fstat(fd)), look(os.stat(d + "/b"))
    os.unlink(d + "/b")
    y = look(os.fstat(fd)), os.pread(fd, 9, 0), outcome(os.link, d + "/b", d + "/c"), os.listdir(d)
    os.close(fd)
    return x, y


@case
def hard_links(d):
    put(d + "/a", b"1")
    os.mkdir(d + "/s")
    os.link(d + "/a", d + "/s/b")
    put(d + "/s/b", b"22")
    st = [os.stat(d + "/a"), os.stat(d + "/s/b")]
    same = st[0].st_ino == st[1].st_ino
    x = [look(s) for s in st], same, get(d + "/a"), outcome(os.link, d + "/a", d + "/s/b"), outcome(os.link, d + "/s", d + "/t")
    os.rename(d + "/a", d + "/s/c")
    os.unlink(d + "/s/b")
    os.rename(d + "/s", d + "/u")
    return x, look(os.stat(d + "/u/c")), get(d + "/u/c"), sorted(os.listdir(d + "/u"))


@case
def rename_flags(d):
    put(d + "/a", b"a")
    put(d + "/b", b"b")
    os.mkdir(d + "/dir")
    put(d + "/dir/x", b"x")
    r = [outcome(renameat2, d + "/a", d + "/b", 1), outcome(renameat2, d + "/a", d + "/c", 1)]
    r += [outcome(renameat2, d + "/c", d + "/b", 2), get(d + "/c"), get(d + "/b")]
    r += [outcome(renameat2, d + "/c", d + "/none", 2), outcome(renameat2, d + "/c", d + "/dir", 2)]
    r += [get(d + "/c/x"), get(d + "/dir"), outcome(renameat2, d + "/b", d + "/c", 3)]
    r += [outcome(os.rename, d + "/b", d + "/c"), outcome(os.rename, d + "/c", d + "/b"), sorted(os.listdir(d))]
    return r


@case
def rename_directories(d):
    os.makedirs(d + "/a/b/c")
    put(d + "/a/b/c/f", b"deep")
    fd = os.open(d + "/a/b/c/f", os.O_RDWR)
    os.rename(d + "/a", d + "/z")
    os.rename(d + "/z/b", d + "/b2")
    os.pwrite(fd, b"DEEP", 0)
    os.fchmod(fd, 0o611)
    os.close(fd)
    os.mkdir(d + "/empty")
    return [get(d + "/b2/c/f"), look(os.stat(d + "/b2/c/f")), outcome(os.rename, d + "/z", d + "/empty"),
            outcome(os.rename, d + "/b2", d + "/b2/c/in"), outcome(os.rename, d + "/empty", d + "/b2"),
            outcome(os.rmdir, d + "/b2"), sorted(os.listdir(d)), look(os.stat(d)), look(os.stat(d + "/b2"))]


@case
def rename_over_itself(d):
    put(d + "/a", b"1")
    os.link(d + "/a", d + "/b")
    os.rename(d + "/a", d + "/a")
    os.rename(d + "/a", d + "/b")  # POSIX: nothing happens
    return sorted(os.listdir(d)), look(os.stat(d + "/a"))


@case
def symlinks(d):
    os.symlink("target", d + "/l")
    os.symlink("x" * 1000, d + "/long")
    os.symlink("/etc", d + "/abs")
    put(d + "/target", b"t")
    os.lchown(d + "/l", USER, GROUP)
    return [os.readlink(d + "/l"), os.readlink(d + "/long"), look(os.lstat(d + "/l")), get(d + "/l"), look(os.stat(d + "/target")),
            outcome(os.symlink, "y", d + "/l"), outcome(os.readlink, d + "/target"), outcome(os.open, d + "/l", os.O_NOFOLLOW),
            os.path.isdir(d + "/abs"), outcome(os.unlink, d + "/l"), sorted(os.listdir(d))]


@case
def special_files(d):
    os.mkfifo(d + "/p", 0o620)
    s = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(d)
    s.bind("sock")
    c = socket.socket(socket.AF_UNIX)
    s.listen()
    c.connect("sock")
    os.chdir(here)
    c.close()
    s.close()
    r = os.open(d + "/p", os.O_RDONLY | os.O_NONBLOCK)
    w = os.open(d + "/p", os.O_WRONLY)
    os.write(w, b"through")
    got = os.read(r, 99)
    os.close(r)
    os.close(w)
    os.mknod(d + "/reg", stat.S_IFREG | 0o604)
    return [look(os.lstat(d + "/" + n)) for n in ("p", "sock", "reg")], got, outcome(os.mkfifo, d + "/p")


@case
def modes_owners_times(d):
    p = d + "/f"
    put(p, b"x")
    os.chmod(p, 0o4755)
    a = look(os.stat(p))
    os.chown(p, USER, GROUP)  # clears set-user-id
    b = look(os.stat(p))
    os.chown(p, -1, 0)
    os.utime(p, ns=(1000000001, 2000000000000000002))
    c = look(os.stat(p), True)
    os.utime(p, ns=(-5, 123456789))
    fd = os.open(p, os.O_RDWR)
    e = look(os.fstat(fd), True)
    os.utime(fd, ns=(7, 8))
    os.close(fd)
    os.chmod(d, 0o3770)
    return a, b, c, e, look(os.stat(p), True), look(os.stat(d)), outcome(os.chmod, d + "/none", 0)


@case
def mtime_follows_writes(d):
    p = d + "/f"
    put(p, b"x")
    os.utime(p, ns=(0, 0))
    st0 = os.stat(p)
    fd = os.open(p, os.O_RDWR)
    os.write(fd, b"y")
    st1 = os.fstat(fd)
    os.ftruncate(fd, 0)
    st2 = os.fstat(fd)
    os.close(fd)
    d0 = os.stat(d).st_mtime_ns
    put(d + "/g")
    return st0.st_mtime_ns, st1.st_mtime_ns > 0, st2.st_mtime_ns >= st1.st_mtime_ns, os.stat(d).st_mtime_ns > d0 - 1, \
        os.stat(p).st_ctime_ns >= st1.st_ctime_ns


@case
def ctime_and_nlink_after_link(d):
    put(d + "/a")
    c0 = os.stat(d + "/a").st_ctime_ns
    for _ in range(2000):  # the clock of file times ticks in ms
        os.chmod(d + "/a", 0o644)
        if os.stat(d + "/a").st_ctime_ns > c0:
            break
    c1 = os.stat(d + "/a").st_ctime_ns
    os.link(d + "/a", d + "/b")
    s = os.stat(d + "/a")
    os.unlink(d + "/b")
    return c1 > c0, s.st_ctime_ns >= c1, s.st_nlink, os.stat(d + "/a").st_nlink


@case
def directories(d):
    r = [outcome(os.mkdir, d + "/x", 0o751), outcome(os.mkdir, d + "/x"), look(os.stat(d + "/x")), look(os.stat(d))]
    put(d + "/x/f")
    r += [outcome(os.rmdir, d + "/x"), outcome(os.unlink, d + "/x"), outcome(os.rmdir, d + "/x/f"), outcome(os.unlink, d + "/x/f")]
    r += [outcome(os.rmdir, d + "/x"), outcome(os.rmdir, d + "/x"), os.listdir(d), look(os.stat(d))]
    return r


@case
def removed_working_directory(d):
    os.mkdir(d + "/x")
    fd = os.open(d + "/x", os.O_RDONLY)
    os.rmdir(d + "/x")
    r = outcome(lambda: os.fstat(fd).st_nlink), outcome(lambda: os.open("y", os.O_CREAT | os.O_RDWR, dir_fd=fd)), os.listdir(fd)
    os.close(fd)
    return r


@case
def reading_while_changing(d):
    for i in range(2000):
        put("%s/%04d" % (d, i))
    seen = []
    with os.scandir(d) as it:
        for n, e in enumerate(it):
            seen.append(e.name)
            if n == 10:  # what goes and comes meanwhile may or may not be seen; all else exactly once
                for i in range(0, 2000, 2):
                    os.unlink("%s/%04d" % (d, i))
                for i in range(300):
                    put("%s/new%d" % (d, i))
    stay = [s for s in seen if not s.startswith("new") and int(s) % 2]
    return len(stay), len(set(seen)) == len(seen), len(os.listdir(d)), sorted(os.listdir(d))[:5]


@case
def types_in_readdir(d):
    os.mkdir(d + "/dir")
    put(d + "/file")
    os.symlink("x", d + "/link")
    os.mkfifo(d + "/fifo")
    with os.scandir(d) as it:
        return sorted((e.name, e.is_dir(follow_symlinks=False), e.is_file(follow_symlinks=False), e.is_symlink(),
                       e.inode() == os.lstat(e.path).st_ino) for e in it)


@case
def long_names(d):
    n = "n" * 255
    r = [outcome(put, d + "/" + n, b"x"), outcome(put, d + "/" + n + "n"), outcome(os.mkdir, d + "/" + "n" * 256),
         outcome(os.stat, d + "/" + "n" * 300), os.listdir(d)]
    here = os.getcwd()
    os.chdir(d)
    for i in range(12):
        os.mkdir("d" * 250)
        os.chdir("d" * 250)
    put("leaf", b"far down")
    r += [get("leaf"), look(os.stat("leaf"))]
    os.rename("leaf", "leaf2")
    for i in range(12):
        os.chdir("..")
    r.append(get("/".join(["d" * 250] * 12) + "/leaf2"))
    os.chdir(here)
    return r


@case
def odd_names(d):
    names = [" ", "a b", "-", "..x", "\n", "\\", "*", "\u00e4\u00f6", ".fazt", "x" + chr(127)]
    for n in names:
        os.mkdir(d + "/" + n)
        put(d + "/" + n + "/f", n.encode())
    return sorted(os.listdir(d)), [get(d + "/" + n + "/f") for n in names]


@case
def shared_maps(d):
    p = d + "/f"
    put(p, b"\0" * 10000)
    fd = os.open(p, os.O_RDWR)
    m = mmap.mmap(fd, 10000)
    m[5000:5005] = b"MAPPD"
    a = os.pread(fd, 5, 5000)
    os.pwrite(fd, b"written", 6000)
    b = bytes(m[6000:6007])
    m.flush()
    m.close()
    os.close(fd)
    fd = os.open(p, os.O_RDONLY)
    m = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    c = bytes(m[5000:5005])
    m.close()
    os.close(fd)
    return a, b, c, get(p)


@case
def posix_locks(d):
    p = d + "/f"
    put(p, b"x" * 100)
    fd = os.open(p, os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 20)

    def other():
        f = os.open(p, os.O_RDWR)
        r = [outcome(fcntl.lockf, f, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, o) for o in (0, 10, 19, 29, 30)]
        os.close(f)
        return r
    a = as_user(0, 0, [], other)
    fcntl.lockf(fd, fcntl.LOCK_UN)
    b = as_user(0, 0, [], other)
    fcntl.flock(fd, fcntl.LOCK_EX)
    c = as_user(0, 0, [], lambda: outcome(fcntl.flock, os.open(p, os.O_RDONLY), fcntl.LOCK_SH | fcntl.LOCK_NB))
    os.close(fd)
    return a, b, c


@case
def allocation(d):
    fd = os.open(d + "/f", os.O_CREAT | os.O_RDWR)
    os.posix_fallocate(fd, 0, 20000)
    a = os.fstat(fd).st_size
    os.write(fd, b"y" * 20000)
    r = LIBC.fallocate(fd, 3, ctypes.c_long(4096), ctypes.c_long(4096))
    b = r, os.fstat(fd).st_size, os.pread(fd, 4, 4094), os.pread(fd, 4, 8190)
    os.close(fd)
    return a, b


@case
def fsyncs(d):
    fd = os.open(d + "/f", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"1")
    os.fsync(fd)
    os.fdatasync(fd)
    os.close(fd)
    fd = os.open(d, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    return get(d + "/f")


@case
def permissions(d):
    os.chmod(d, 0o755)
    put(d + "/secret", b"s", 0o600)
    put(d + "/group", b"g", 0o660)
    os.chown(d + "/group", 0, GROUP)
    os.chmod(d + "/group", 0o660)
    os.mkdir(d + "/closed", 0o700)
    put(d + "/closed/f")
    r = [as_user(USER, USER, [], lambda: [outcome(get, d + "/secret"), outcome(get, d + "/group"), outcome(put, d + "/new"),
                                          outcome(os.stat, d + "/closed/f"), outcome(os.unlink, d + "/secret"),
                                          outcome(os.chmod, d + "/secret", 0o666), outcome(os.rename, d + "/secret", d + "/x"),
                                          outcome(os.access, d + "/secret", os.R_OK), outcome(os.truncate, d + "/secret", 0),
                                          outcome(os.link, d + "/group", d + "/y")]),
         as_user(USER, USER, [GROUP], lambda: [outcome(get, d + "/group"), outcome(put, d + "/group", b"new"),
                                               outcome(os.chown, d + "/group", USER, -1)])]
    return r, get(d + "/group")


@case
def created_files_belong_to_the_caller(d):
    os.chmod(d, 0o777)
    os.mkdir(d + "/sgid")
    os.chown(d + "/sgid", 0, GROUP)
    os.chmod(d + "/sgid", 0o2777)
    os.mkdir(d + "/bygroup")
    os.chown(d + "/bygroup", 0, GROUP)
    os.chmod(d + "/bygroup", 0o770)

    def make():
        os.umask(0o027)
        out = []
        for sub in ("", "/sgid", "/bygroup"):
            p = d + sub
            out.append([outcome(put, p + "/f", b"x", 0o666), outcome(os.mkdir, p + "/dir", 0o777), outcome(os.mkfifo, p + "/p", 0o666),
                        outcome(os.symlink, "t", p + "/l")])
            out.append([outcome(lambda q=q: look(os.lstat(p + q))) for q in ("/f", "/dir", "/p", "/l")])
        out.append(outcome(put, d + "/ro", b"read only", 0o444))
        out.append(outcome(get, d + "/ro"))
        out.append(outcome(put, d + "/ro", b"again"))
        return out
    return as_user(USER, USER, [GROUP], make), as_user(USER, USER, [], lambda: outcome(put, d + "/bygroup/no"))


@case
def sticky_directory(d):
    os.chmod(d, 0o1777)
    put(d + "/root")
    as_user(USER, USER, [], lambda: put(d + "/user"))
    return as_user(USER + 1, USER + 1, [], lambda: [outcome(os.unlink, d + "/root"), outcome(os.unlink, d + "/user"),
                                                    outcome(os.rename, d + "/user", d + "/mine")]), \
        as_user(USER, USER, [], lambda: outcome(os.unlink, d + "/user"))


@case
def negative_entries_end(d):
    p = d + "/late"
    r = [outcome(os.stat, p), outcome(os.access, p, os.F_OK)]
    put(p, b"1")
    r.append(get(p))
    os.unlink(p)
    r.append(outcome(os.stat, p))
    put(d + "/other", b"2")
    os.rename(d + "/other", p)
    r.append(get(p))
    os.unlink(p)
    os.symlink("x", p)
    r.append(outcome(os.stat, p))
    os.unlink(p)
    os.link(d + "/../shared-seed", p)
    r.append(get(p))
    return r


def unlinked_while_open(d):
    """An open file: p is unlinked, and nobody has looked up its other name, q."""
    put(d + "/p", b"text")
    os.link(d + "/p", d + "/q")
    forget()
    fd = os.open(d + "/p", os.O_RDWR)
    os.unlink(d + "/p")
    return fd


@case
def a_second_name_that_nobody_has_looked_up(d):
    fd = unlinked_while_open(d)
    r = [look(os.fstat(fd)), look(os.stat(d + "/q")), outcome(os.link, d + "/q", d + "/r"), look(os.stat(d + "/r"))]
    put(d + "/other", b"other")
    os.rename(d + "/other", d + "/r")
    r += [sorted(os.listdir(d)), look(os.fstat(fd)), get(d + "/r"), outcome(os.unlink, d + "/q"), sorted(os.listdir(d))]
    forget()
    r += [outcome(os.stat, d + "/q"), look(os.fstat(fd)), os.pread(fd, 9, 0)]
    os.close(fd)
    return r


@case
def a_name_that_outlives_the_open_file(d):
    fd = unlinked_while_open(d)
    r = [look(os.stat(d + "/q"))]
    os.close(fd)
    r += [look(os.stat(d + "/q")), get(d + "/q")]
    put(d + "/q", b"longer text")
    return r, look(os.stat(d + "/q")), get(d + "/q"), os.listdir(d)


@case
def the_name_left_lies_in_a_directory_that_nobody_uses(d):
    os.makedirs(d + "/far/away")
    put(d + "/p", b"text")
    os.link(d + "/p", d + "/far/away/q")
    fd = os.open(d + "/p", os.O_RDWR)
    os.unlink(d + "/p")
    forget()
    r = [look(os.fstat(fd)), os.pread(fd, 9, 0)]
    os.unlink(d + "/far/away/q")
    forget()
    r += [look(os.fstat(fd)), os.pwrite(fd, b"more", 4), os.pread(fd, 9, 0), os.listdir(d + "/far/away")]
    os.close(fd)
    return r


@case
def many_handles(d):
    put(d + "/f", b"0123456789")
    fds = [os.open(d + "/f", fl) for fl in [os.O_RDONLY, os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_APPEND] * 5]
    os.unlink(d + "/f")
    os.pwrite(fds[1], b"abc", 0)
    r = os.pread(fds[0], 20, 0), os.fstat(fds[3]).st_nlink
    for fd in fds[:-1]:
        os.close(fd)
    os.write(fds[-1], b"end")
    r += (os.fstat(fds[-1]).st_size,)
    os.close(fds[-1])
    return r


# ---- random walk -------------------------------------------------------------------------------------------------------
class Walk:
    """One side of the walk; do() carries out an operation that was chosen for both."""

    def __init__(self, root):
        self.root, self.fds = root, {}

    def path(self, p):
        return os.path.join(self.root, p)

    def do(self, op, *a):
        return outcome(getattr(self, op), *a)

    def open(self, slot, p, flags, mode):
        self.close(slot)
        self.fds[slot] = os.open(self.path(p), flags, mode)

    def close(self, slot):
        if slot in self.fds:
            os.close(self.fds.pop(slot))

    def fd(self, slot):
        if slot not in self.fds:
            raise OSError(errno.EBADF, "no such slot")
        return self.fds[slot]

    def pwrite(self, slot, data, off):
        return os.pwrite(self.fd(slot), data, off)

    def pread(self, slot, n, off):
        return os.pread(self.fd(slot), n, off)

    def ftruncate(self, slot, n):
        os.ftruncate(self.fd(slot), n)

    def fstat(self, slot):
        return look(os.fstat(self.fd(slot)))

    def fsync(self, slot):
        os.fsync(self.fd(slot))

    def fchmod(self, slot, mode):
        os.fchmod(self.fd(slot), mode)

    def forget(self):
        forget()

    def unlink(self, p):
        os.unlink(self.path(p))

    def rmdir(self, p):
        os.rmdir(self.path(p))

    def mkdir(self, p, mode):
        os.mkdir(self.path(p), mode)

    def rename(self, a, b, flags):
        renameat2(self.path(a), self.path(b), flags)

    def link(self, a, b):
        os.link(self.path(a), self.path(b))

    def symlink(self, a, b):
        os.symlink(a, self.path(b))

    def truncate(self, p, n):
        os.truncate(self.path(p), n)

    def chmod(self, p, mode):
        os.chmod(self.path(p), mode)

    def chown(self, p, u, g):
        os.chown(self.path(p), u, g, follow_symlinks=False)

    def utime(self, p, t):
        os.utime(self.path(p), ns=(t, t), follow_symlinks=False)
        st = os.lstat(self.path(p))
        # reading a link changes its time of access, unless the mount has it in its cache
        return look(st) + [st.st_mtime_ns] if stat.S_ISLNK(st.st_mode) else look(st, True)

    def stat(self, p):
        return look(os.stat(self.path(p)))

    def listdir(self, p):
        return sorted(os.listdir(self.path(p)))

    def read(self, p):
        return get(self.path(p))

    def tree(self):
        out = []
        for base, dirs, files in os.walk(self.root):
            dirs.sort()
            for n in sorted(dirs + files):
                p = os.path.join(base, n)
                st = os.lstat(p)
                out.append((os.path.relpath(p, self.root), look(st), outcome(get, p) if stat.S_ISREG(st.st_mode) else None,
                            outcome(os.readlink, p) if stat.S_ISLNK(st.st_mode) else None))
        return out

    def end(self):
        for fd in self.fds.values():
            os.close(fd)
        self.fds = {}


def choose(rng):
    names = ["a", "b", "c", "d", "e", "sub", "sub/a", "sub/b", "sub/in", "sub/in/a", "two", "two/a", "two/b"]
    p, q, slot = rng.choice(names), rng.choice(names), rng.randrange(6)
    return rng.choice([
        lambda: ("open", slot, p, rng.choice([os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_CREAT | os.O_EXCL,
                                              os.O_RDWR | os.O_CREAT | os.O_TRUNC]), rng.choice([0o600, 0o644, 0o666])),
        lambda: ("open", slot, p, os.O_RDWR | os.O_CREAT, 0o644),
        lambda: ("close", slot),
        lambda: ("pwrite", slot, bytes([rng.randrange(256)]) * rng.choice([1, 100, 5000, 70000]), rng.choice([0, 1, 4096, 100000])),
        lambda: ("pwrite", slot, os.urandom(0) + bytes(rng.randrange(256) for _ in range(20)), rng.randrange(2000)),
        lambda: ("pread", slot, 200000, 0),
        lambda: ("ftruncate", slot, rng.choice([0, 10, 5000])),
        lambda: ("fstat", slot),
        lambda: ("fsync", slot) if rng.randrange(10) == 0 else ("fstat", slot),
        lambda: ("fchmod", slot, rng.choice([0o600, 0o640])),
        lambda: ("unlink", p),
        lambda: ("unlink", p),
        lambda: ("forget",) if rng.randrange(4) == 0 else ("read", p),
        lambda: ("rmdir", p),
        lambda: ("mkdir", p, rng.choice([0o755, 0o700])),
        lambda: ("mkdir", rng.choice(["sub", "two", "sub/in"]), 0o755),
        lambda: ("rename", p, q, 0),
        lambda: ("rename", p, q, rng.choice([0, 1, 2])),
        lambda: ("link", p, q),
        lambda: ("symlink", p, q),
        lambda: ("truncate", p, rng.choice([0, 7, 9000])),
        lambda: ("chmod", p, rng.choice([0o600, 0o755])),
        lambda: ("chown", p, rng.choice([0, USER]), rng.choice([0, GROUP])),
        lambda: ("utime", p, rng.randrange(1 << 60)),
        lambda: ("stat", p),
        lambda: ("listdir", rng.choice([".", "sub", "two"])),
        lambda: ("read", p),
    ])()


def walk(native, mount, seed, steps):
    rng = random.Random(seed)
    a, b = Walk(native), Walk(mount)
    for i in range(steps):
        op = choose(rng)
        x, y = a.do(*op), b.do(*op)
        if x != y:
            return "seed %d, step %d: %s\n  native: %s\n  mount:  %s" % (seed, i, repr(op)[:300], repr(x)[:600], repr(y)[:600])
        if i % 200 == 199 or i == steps - 1:
            if i == steps - 1:
                a.end()
                b.end()
            x, y = a.tree(), b.tree()
            if x != y:
                return "seed %d, step %d: trees differ\n  native: %s\n  mount:  %s" % (
                    seed, i, repr([t for t in x if t not in y])[:600], repr([t for t in y if t not in x])[:600])
    return None


def main():
    native, mount, seed, steps = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    os.umask(0o022)
    MOUNTED.append(os.path.dirname(mount))
    differences = 0
    for root in (native, mount):
        os.makedirs(root, exist_ok=True)
        put(root + "/shared-seed", b"seed")
    for name, f in CASES:
        results = []
        for root in (native, mount):
            d = os.path.join(root, name)
            os.mkdir(d)
            results.append(outcome(f, d))
        if repr(results[0]) != repr(results[1]):
            differences += 1
            print("%s\n  native: %s\n  mount:  %s" % (name, repr(results[0])[:1500], repr(results[1])[:1500]))
    for root in (native, mount):
        os.mkdir(root + "/walk")
    said = walk(native + "/walk", mount + "/walk", seed, steps) if steps else None
    if said:
        differences += 1
        print(said)
    print("%d cases, %d steps from seed %d: %d differences" % (len(CASES), steps, seed, differences))
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
