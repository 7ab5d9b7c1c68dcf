"""Descriptors, regular files, character devices and /proc: every answer is the host kernel's."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import stat
import termios
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ALL = select.POLLIN | select.POLLOUT | select.POLLPRI | select.POLLRDNORM | select.POLLWRNORM


def call(fn: Callable[..., Any], *args: Any, **kw: Any) -> Any:
    try:
        return fn(*args, **kw)
    except OSError as e:
        return "errno", os.strerror(e.errno or 0)


def make(w: Any, name: str = "f", data: bytes = b"0123456789") -> int:
    fd: int = w.open(name, os.O_CREAT | os.O_RDWR)
    w.write(fd, data)
    w.lseek(fd, 0)
    return fd


def seek(w: Any) -> Any:
    fd = make(w)
    d = w.open(".")
    rows = [
        (0, 0),
        (5, 0),
        (-1, 0),
        (3, 1),
        (-9, 1),
        (-1, 2),
        (5, 2),
        (-11, 2),
        (0, 3),
        (9, 3),
        (10, 3),
        (-1, 3),
        (0, 4),
    ]
    rows += [(3, 4), (10, 4), (0, 5), (0, -1), ((1 << 63) - 1, 0), (1, 1), (1, 2), (0, 0)]
    out = [(off, whence, call(w.lseek, fd, off, whence)) for off, whence in rows]
    return [*out, call(w.lseek, 50, 0), call(w.lseek, d, 0), call(w.lseek, d, -1)]


def read_write(w: Any) -> Any:
    fd = make(w)
    r, x = w.open("f"), w.open("f", os.O_WRONLY)
    both_not = w.open("f", os.O_WRONLY | os.O_RDWR)
    d = w.open(".")
    return [
        call(w.read, fd, 3),
        call(w.read, fd, 0),
        call(w.read, fd, 100),
        call(w.read, fd, 1),
        call(w.pread, fd, 3, 8),
        call(w.pread, fd, 3, 10),
        call(w.pread, fd, 3, -1),
        call(w.pwrite, fd, b"x", -1),
        call(w.pwrite, fd, b"", 50),
        call(w.read, x, 1),
        call(w.write, r, b"x"),
        call(w.write, r, b""),
        call(w.read, both_not, 1),
        call(w.write, both_not, b"x"),
        call(w.write, x, b"AB"),
        call(w.read, r, 4),
        call(w.pwrite, fd, b"end", 15),
        call(w.pread, fd, 99, 0),
        call(w.lseek, fd, 30),
        call(w.write, fd, b"!"),
        w.fstat(fd).st_size,
        call(w.read, d, 1),
        call(w.pread, d, 1, 0),
        call(w.write, d, b"x"),
        call(w.fsync, fd),
        call(w.fsync, d),
        call(w.read, 77, 1),
        call(w.write, 77, b"x"),
        call(w.sendfile, x, r, None, 5),
        call(w.sendfile, x, r, 2, 5),
        call(w.sendfile, r, x, None, 5),
        call(w.pread, fd, 99, 0),
    ]


def append(w: Any) -> Any:
    fd = make(w)
    a = w.open("f", os.O_WRONLY | os.O_APPEND)
    return [
        w.write(a, b"A"),
        w.lseek(a, 0, 1),
        w.pwrite(a, b"B", 2),
        w.lseek(a, 0),
        w.write(a, b"C"),
        w.lseek(a, 0, 1),
        w.pread(fd, 99, 0),
        w.fcntl(fd, fcntl.F_SETFL, os.O_APPEND),
        w.write(fd, b"D"),
        w.pread(fd, 99, 0),
    ]


def truncate(w: Any) -> Any:
    fd = make(w)
    r = w.open("f")
    d = w.open(".")
    out = [call(w.ftruncate, fd, 4), w.pread(fd, 99, 0), call(w.ftruncate, fd, 8), w.pread(fd, 99, 0)]
    out += [call(w.ftruncate, r, 1), call(w.ftruncate, fd, -1), call(w.ftruncate, d, 0), call(w.ftruncate, 70, 0)]
    out += [call(w.truncate, "f", 2), w.fstat(fd).st_size, call(w.truncate, "f", -1), call(w.truncate, ".", 0)]
    w.close(w.open("f", os.O_TRUNC))
    return [*out, w.fstat(fd).st_size, call(w.fallocate, r, 0, 0, 5), call(w.fallocate, fd, 0, -1, 5)]


def descriptors(w: Any) -> Any:
    fd = make(w)
    out = [call(w.dup, fd), call(w.dup2, fd, 7), call(w.dup2, fd, 7), call(w.dup2, fd, fd), call(w.dup2, 60, 7)]
    out += [call(w.dup2, fd, 1024), call(w.dup2, fd, -1), call(w.dup, 60), call(w.close, 60), call(w.dup2, 60, 60)]
    out += [call(w.fcntl, fd, fcntl.F_DUPFD, 5), call(w.fcntl, fd, fcntl.F_DUPFD, 7), call(w.dup, fd)]
    out += [call(w.fcntl, fd, fcntl.F_DUPFD, 1024), call(w.fcntl, fd, fcntl.F_DUPFD, -1)]
    out += [call(w.fcntl, fd, fcntl.F_DUPFD_CLOEXEC, 20), w.fcntl(20, fcntl.F_GETFD), w.fcntl(fd, fcntl.F_GETFD)]
    out += [w.fcntl(fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC), w.fcntl(fd, fcntl.F_GETFD), w.fcntl(7, fcntl.F_GETFD)]
    out += [w.fcntl(fd, fcntl.F_SETFD, 0), w.fcntl(fd, fcntl.F_GETFD)]
    out += [w.read(fd, 2), w.read(7, 2), w.close(fd), w.read(7, 2), call(w.read, fd, 1), w.open(".")]
    out += [call(w.dup2, 7, 9, cloexec=True), w.fcntl(9, fcntl.F_GETFD), call(w.dup2, 7, 9), w.fcntl(9, fcntl.F_GETFD)]
    return [*out, call(w.fcntl, 7, 9999), call(w.fcntl, 70, fcntl.F_GETFD), call(w.fstat, 70).__class__ is tuple]


def flags(w: Any) -> Any:
    make(w)
    flags = [os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_APPEND, os.O_NONBLOCK, os.O_CLOEXEC, os.O_CREAT | os.O_TRUNC]
    flags += [os.O_NOFOLLOW, os.O_NOCTTY, os.O_SYNC, os.O_DSYNC, os.O_NOATIME, os.O_ASYNC]
    out: list[Any] = []
    for f in flags:
        fd = w.open("f", f)
        out.append((oct(f), oct(w.fcntl(fd, fcntl.F_GETFL)), w.fcntl(fd, fcntl.F_GETFD)))
    fd = w.open("f", os.O_RDWR)
    for f in (os.O_APPEND, os.O_NONBLOCK | os.O_RDONLY, os.O_ASYNC, os.O_CREAT, os.O_NOATIME, os.O_SYNC, 0):
        out.append((oct(f), call(w.fcntl, fd, fcntl.F_SETFL, f), oct(w.fcntl(fd, fcntl.F_GETFL))))
    fd = w.open(".", os.O_DIRECTORY)
    return [*out, oct(w.fcntl(fd, fcntl.F_GETFL))]


def async_flag(w: Any) -> Any:
    r, _ = w.pipe()
    a, _ = w.socketpair()
    e = w.eventfd()
    out: list[Any] = []
    for fd in (r, a, e):
        out += [call(w.fcntl, fd, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK), w.fcntl(fd, fcntl.F_GETFL)]
    return out


def path_descriptors(w: Any) -> Any:
    make(w)
    w.symlink("f", "l")
    fd = w.open("f", os.O_PATH | os.O_RDWR | os.O_TRUNC | os.O_CLOEXEC)
    d = w.open(".", os.O_PATH)
    ln = w.open("l", os.O_PATH | os.O_NOFOLLOW)
    a, _ = w.socketpair()
    buf = bytearray(4)
    return [
        oct(w.fcntl(fd, fcntl.F_GETFL)),
        w.fcntl(fd, fcntl.F_GETFD),
        oct(w.fcntl(ln, fcntl.F_GETFL)),
        stat.S_ISLNK(w.fstat(ln).st_mode),
        w.fstat(fd).st_size,
        call(w.read, fd, 1),
        call(w.write, fd, b"x"),
        call(w.pread, fd, 1, 0),
        call(w.lseek, fd, 0),
        call(w.ioctl, fd, termios.FIONREAD, buf),
        call(w.fsync, fd),
        call(w.ftruncate, fd, 0),
        call(w.fchmod, fd, 0o600),
        call(w.fcntl, fd, fcntl.F_SETFL, 0),
        call(w.fcntl, fd, fcntl.F_SETFD, 0),
        call(w.dup, fd),
        w.poll([(fd, ALL), (500, ALL)], 0),
        call(w.sendmsg, fd, b"x"),
        call(w.sendmsg, a, b"x", (fd,)),
        call(w.listdir, d),
        call(w.chdir, d),
        call(w.close, fd),
    ]


def ioctls(w: Any) -> Any:
    fd = make(w)
    w.lseek(fd, 4)
    d = w.open(".")
    r, _ = w.pipe()
    out: list[Any] = []
    for n in (fd, d, r):
        for cmd, arg in (
            (termios.FIONREAD, None),
            (termios.FIOCLEX, 0),
            (termios.FIONCLEX, 0),
            (termios.FIONBIO, b"\1\0\0\0"),
            (termios.FIONBIO, b"\0\0\0\0"),
            (termios.FIOASYNC, b"\1\0\0\0"),
            (termios.FIOASYNC, b"\0\0\0\0"),
            (2, None),
            (termios.TCGETS, 0),
            (0x1234, 0),
            (termios.FIONREAD, 8),
            (termios.FIONBIO, 8),
        ):
            buf: Any = bytearray(8) if arg is None else bytearray(arg) if isinstance(arg, bytes) else arg
            got = call(w.ioctl, n, cmd, buf)
            after = bytes(buf) if isinstance(buf, bytearray) else None
            out.append((n, hex(cmd), got, after, w.fcntl(n, fcntl.F_GETFD), oct(w.fcntl(n, fcntl.F_GETFL))))
    return [*out, call(w.ioctl, 90, termios.FIOCLEX)]


def poll(w: Any) -> Any:
    fd, d = make(w), w.open(".")
    return [
        w.poll([(fd, ALL)], 0),
        w.poll([(fd, 0)], 0),
        w.poll([(d, select.POLLIN)], -1),
        w.poll([(99, ALL), (fd, select.POLLIN)], 0),
        w.poll([(99, 0)], 0),
        w.poll([], 0),
    ]


def devices(w: Any) -> Any:
    out: list[Any] = []
    for name in ("null", "zero", "full"):
        fd = w.open(f"/dev/{name}", os.O_RDWR)
        s = w.fstat(fd)
        out += [name, oct(s.st_mode), os.major(s.st_rdev), os.minor(s.st_rdev), s.st_size]
        out += [
            call(w.read, fd, 5),
            call(w.pread, fd, 5, 100),
            call(w.write, fd, b"abc"),
            call(w.pwrite, fd, b"abc", 7),
        ]
        out += [call(w.write, fd, b""), call(w.lseek, fd, 5), call(w.lseek, fd, 5, 2), call(w.lseek, fd, 5, 9)]
        out += [call(w.ioctl, fd, 0x1234), call(w.fsync, fd), call(w.ftruncate, fd, 0), w.poll([(fd, ALL)], 0)]
        out += [call(w.truncate, f"/dev/{name}", 0), call(w.open, f"/dev/{name}", os.O_DIRECTORY)]
        out += [call(w.open, f"/dev/{name}", os.O_DIRECT), call(w.fcntl, fd, fcntl.F_SETFL, os.O_DIRECT)]
        out += [call(w.open, f"/dev/{name}/x"), call(w.fallocate, fd, 0, 0, 10), w.close(fd)]
    fd = w.open("/dev/urandom")
    out += [call(w.open, "/dev/urandom", os.O_DIRECT), call(w.open, "/dev/random", os.O_RDWR | os.O_DIRECT)]
    return [*out, len(w.read(fd, 33)), call(w.lseek, fd, 5)]


def unknown_devices(w: Any) -> Any:
    w.mknod("c", stat.S_IFCHR | 0o600, os.makedev(400, 77))
    w.mknod("null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    fd = w.open("null", os.O_RDWR)
    return [call(w.open, "c"), w.read(fd, 9), w.write(fd, b"x"), os.major(w.stat("c").st_rdev)]


def proc(w: Any) -> Any:
    fd = w.open("/proc/version")
    x = w.open("/proc/version", os.O_WRONLY)
    text = w.read(fd, 14)
    out = [text, call(w.write, x, b"x"), call(w.lseek, fd, 0, 2), call(w.lseek, fd, 6), w.read(fd, 7)]
    out += [call(w.lseek, fd, -1), call(w.lseek, fd, -3, 1), w.read(fd, 1), call(w.lseek, fd, 0, 3), call(w.fsync, fd)]
    out += [call(w.ftruncate, x, 0), w.pread(fd, 5, 0), w.pread(fd, 0, 0), w.fstat(fd).st_size]
    for name in ("mkdir", "unlink", "rmdir", "mknod"):
        out.append((name, call(getattr(w, name), "/proc/nothing")))
    out += [call(w.open, "/proc/nothing", os.O_CREAT), call(w.symlink, "x", "/proc/nothing")]
    out += [call(w.unlink, "/proc/version"), call(w.rename, "/proc/version", "/proc/nothing")]
    out += [call(w.rename, "/proc/version", "/proc/cmdline"), call(w.link, "/proc/version", "/proc/nothing")]
    out += [call(w.link, "/proc/version", "here"), call(w.rename, "/proc/version", "here"), call(w.rmdir, "/proc")]
    out += [
        call(w.access, "/proc/version", os.X_OK),
        oct(w.stat("/proc/version").st_mode),
        call(w.rename, "/proc", "/x"),
    ]
    return out


def times(w: Any) -> Any:
    fd = make(w)
    w.utime("f", (1_000_000_007, 2_000_000_009))
    s = w.stat("f")
    out = [s.st_atime_ns, s.st_mtime_ns]
    w.write(fd, b"x")
    s = w.stat("f")
    out += [s.st_atime_ns, s.st_mtime_ns > 2_000_000_009, s.st_blksize, s.st_blocks]
    w.mkdir("d")
    w.utime("d", (1, 2))
    w.mkdir("d/e")
    return [*out, w.stat("d").st_mtime_ns > 2]


SCRIPTS = [
    seek, read_write, append, truncate, descriptors, flags, async_flag, path_descriptors, ioctls, poll, devices, proc,
    times,
]  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda f: f.__name__)
def test_as_on_the_host(twins, script):
    twins.same(script)


def test_device_nodes_as_on_the_host(twins):
    if os.geteuid():
        pytest.skip("mknod needs root on the host")
    twins.same(unknown_devices)


NAMES = st.sampled_from(["a", "b", "d", "d/a", "d/b", "e", "e/a", "l", "l/a"])
OPS = st.one_of(
    st.tuples(st.just("create"), NAMES),
    st.tuples(st.just("mkdir"), NAMES),
    st.tuples(st.just("unlink"), NAMES),
    st.tuples(st.just("rmdir"), NAMES),
    st.tuples(st.just("rename"), NAMES, NAMES),
    st.tuples(st.just("link"), NAMES, NAMES),
    st.tuples(st.just("symlink"), st.sampled_from(["a", "d", "../a", "none"]), NAMES),
    st.tuples(st.just("truncate"), NAMES, st.integers(0, 9)),
    st.tuples(st.just("write"), NAMES, st.binary(max_size=5)),
    st.tuples(st.just("readlink"), NAMES),
    st.tuples(st.just("listdir"), NAMES),
)


@settings(max_examples=60)
@given(st.lists(OPS, max_size=25))
def test_any_order_of_changes_gives_the_hosts_tree(twins_any, ops):
    """Errnos, link counts, kinds, sizes and contents agree after every step."""

    def one(w: Any, op: tuple[Any, ...]) -> Any:
        if op[0] == "create":
            return w.close(w.open(op[1], os.O_CREAT | os.O_WRONLY))
        if op[0] == "write":
            fd = w.open(op[1], os.O_WRONLY | os.O_APPEND)
            n = w.write(fd, op[2])
            w.close(fd)
            return n
        return getattr(w, op[0])(*op[1:])

    def look(w: Any, name: str) -> Any:
        s = call(w.lstat, name)
        if not isinstance(s, os.stat_result):
            return s
        return oct(s.st_mode), s.st_nlink, 0 if stat.S_ISDIR(s.st_mode) else s.st_size

    def script(w: Any) -> Any:
        w.mkdir("d")
        names = ["a", "b", "d", "d/a", "d/b", "e", "e/a", "l", "l/a"]
        return [(op, call(one, w, op), [look(w, n) for n in names], call(w.listdir, "d")) for op in ops]

    twins_any.same(script)


FD = st.integers(0, 8)
FD_OPS = st.lists(
    st.one_of(
        st.tuples(st.just("open")),
        st.tuples(st.just("cloexec")),
        st.tuples(st.just("close"), FD),
        st.tuples(st.just("dup"), FD),
        st.tuples(st.just("dup2"), FD, FD),
        st.tuples(st.just("dupfd"), FD, FD),
        st.tuples(st.just("read"), FD),
        st.tuples(st.just("seek"), FD),
        st.tuples(st.just("flag"), FD),
        st.tuples(st.just("pipe")),
    ),
    max_size=30,
)


@settings(max_examples=60)
@given(FD_OPS)
def test_any_order_of_descriptor_calls(twins_any, ops):
    """Numbers, shared positions and close-on-exec marks agree after every step."""

    def script(w: Any) -> Any:
        w.close(make(w))
        do: dict[str, Callable[..., Any]] = {
            "open": lambda: w.open("f"),
            "cloexec": lambda: w.open("f", os.O_CLOEXEC),
            "close": w.close,
            "dup": w.dup,
            "dup2": w.dup2,
            "dupfd": lambda a, b: w.fcntl(a, fcntl.F_DUPFD_CLOEXEC, b),
            "read": lambda fd: w.read(fd, 1) if w.fstat(fd).st_size else None,
            "seek": lambda fd: w.lseek(fd, 1, 1),
            "flag": lambda fd: w.fcntl(fd, fcntl.F_SETFD, 1 - w.fcntl(fd, fcntl.F_GETFD)),
            "pipe": w.pipe,
        }
        return [(op, call(do[op[0]], *op[1:]), [call(w.fcntl, n, fcntl.F_GETFD) for n in range(10)]) for op in ops]

    twins_any.same(script)


def test_a_full_table_is_emfile_before_the_path_is_looked_at(kernel):
    """fs/open.c:do_sys_openat2() takes the number first; a pair of files needs two."""
    p = kernel.process()
    p.fds.limit = 3
    assert [p.open("/"), p.open("/")] == [0, 1]
    for pair in (p.pipe, p.socketpair):
        with pytest.raises(OSError, match="Too many open files"):
            pair()
    assert p.dup(0) == 2
    for fn in (lambda: p.open("/none"), lambda: p.dup(0), lambda: p.fcntl(0, fcntl.F_DUPFD, 1), p.eventfd):
        with pytest.raises(OSError, match="Too many open files"):
            fn()
    p.exit()


def test_descriptors_that_find_no_number_are_lost(kernel):
    """net/core/scm.c:scm_detach_fds(): the message comes, the files that do not fit are closed."""
    p = kernel.process()
    a, b = p.socketpair()
    r, w = p.pipe(os.O_NONBLOCK)
    p.sendmsg(a, b"x", (w, w))
    p.close(w)
    p.fds.limit = 4
    assert p.recvmsg(b, 1) == (b"x", [3], socket.MSG_CTRUNC)
    p.close(3)
    assert p.read(r, 1) == b""
    p.exit()


def test_a_file_has_its_limits(kernel):
    """EFBIG above what a file offset says, ENOSPC above what this file system holds."""
    p = kernel.process()
    fd = p.open("/tmp/big", os.O_CREAT | os.O_RDWR)
    p.lseek(fd, (1 << 63) - 1)
    with pytest.raises(OSError, match="File too large"):
        p.write(fd, b"x")
    with pytest.raises(OSError, match="No space left"):
        p.ftruncate(fd, 1 << 40)
    assert p.fstat(fd).st_size == 0
    p.exit()


def test_fork_shares_files_and_copies_the_table(kernel):
    """The position is one, numbers and marks are the child's own; exec closes what is marked."""
    p = kernel.process()
    fd = make(p, "/tmp/f")
    marked = p.open("/tmp/f", os.O_CLOEXEC)
    child = p.fork()
    assert (p.read(fd, 2), child.read(fd, 2)) == (b"01", b"23")
    child.close(fd)
    assert p.read(fd, 2) == b"45"
    child.exec("other")
    assert child.task.comm == "other"
    assert not child.fds.files
    assert p.fstat(marked).st_size == 10
    child.exit(3)
    assert child.exited == 3
    child.exit(4)
    assert child.exited == 3
    p.exit()
