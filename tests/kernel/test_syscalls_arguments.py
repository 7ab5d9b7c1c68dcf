"""Wrong arguments of Python are the caller's exception, never the kernel's oops."""

from __future__ import annotations

import ctypes
import errno
import inspect
import math
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pykernel
from pykernel.calls.arguments import KINDS
from pykernel.calls.entry import At
from pykernel.syscalls import SYSCALLS, Process

WQ = "/sys/bus/dsa/devices/wq0.0"
CALLS = sorted({row.method for row in SYSCALLS} | {"load", "store", "movdir64b", "enqcmd", "scandir"})


@pytest.fixture
def p():
    k = pykernel.boot("dsa")
    proc = k.process()
    yield proc
    assert not k.oopses
    proc.exit()
    k.shutdown()


def code(fn, *args, **kw):
    """The call's errno by name, its Python exception, or what it gives."""
    try:
        return fn(*args, **kw)
    except OSError as e:
        return errno.errorcode[e.errno or 0]
    except (TypeError, ValueError) as e:
        return type(e).__name__


def test_every_call_declares_kinds_that_are_known():
    for name in CALLS:
        notes = dict(inspect.unwrap(getattr(Process, name)).__annotations__)
        del notes["return"]
        assert set(notes.values()) <= set(KINDS), name


def test_bytes_and_pathlike_paths_are_paths(p):
    """As Python's os takes and gives them."""
    assert p.listdir(b"/sys/bus/dsa") == p.listdir("/sys/bus/dsa")
    assert p.stat(b"/sys") == p.stat("/sys")
    fd = p.open(os.fsencode(WQ) + b"/state")
    assert p.read(fd, 64) == b"disabled\n"
    p.close(fd)
    p.mkdir(b"/tmp/\xe9")
    p.chdir(b"/tmp")
    d = p.open("/tmp")
    p.symlink(b"\xe9", At(d, b"link"))
    assert (p.listdir("/tmp"), p.readlink("link")) == (["\udce9", "link"], "\udce9")
    p.rename(b"link", b"other")
    p.unlink(b"other")
    p.rmdir(b"/tmp/\xe9")
    assert p.read_text(os.fsencode(WQ) + b"/state") == "disabled\n"
    assert code(p.getxattr, WQ, b"user.x") == code(p.getxattr, WQ, "user.x")
    p.close(d)


@pytest.mark.parametrize("fd", [[], "x", None, 3.0, b"3", {}, object()])
def test_a_descriptor_is_an_integer(p, fd):
    """As for Python's os: TypeError, also where 3.0 equals a descriptor that is open."""
    for _ in range(4):
        p.open("/tmp/f", os.O_RDWR | os.O_CREAT)
    calls = [
        (p.read, fd, 1), (p.write, fd, b""), (p.close, fd), (p.dup, fd), (p.fcntl, fd, 1), (p.fstat, fd),
        (p.lseek, fd, 0), (p.ioctl, fd, 0x1234), (p.mmap, 0, 4096, 1, 1, fd), (p.pread, fd, 1, 0), (p.fsync, fd),
        (p.pwrite, fd, b"", 0), (p.readv, fd, [1]), (p.writev, fd, [b""]), (p.dup2, fd, 9), (p.dup2, 0, fd),
        (p.ftruncate, fd, 0), (p.fchmod, fd, 0), (p.sendmsg, fd, b"x"), (p.recvmsg, fd, 1), (p.epoll_wait, fd),
        (p.epoll_ctl, fd, 1, 0), (p.epoll_ctl, 0, 1, fd), (p.fallocate, fd, 0, 0, 1), (p.sendfile, fd, 0, 0, 1),
        (p.poll, [(fd, 1)]),
    ]  # fmt: skip
    assert {fn.__name__: code(fn, *args) for fn, *args in calls} == {fn.__name__: "TypeError" for fn, *_ in calls}
    assert len(p.fds.files) == 4
    p.fds.exit()


def test_other_kinds(p):
    """What Python's os says of the same arguments, or a C program's errno."""
    fd = p.open("/tmp/f", os.O_RDWR | os.O_CREAT)
    a, _ = p.socketpair()
    addr = p.mem.alloc(64, 64)
    type_errors = [
        (p.dup2, fd, None), (p.store, addr, "x"), (p.store, addr, 5), (p.write, fd, 5), (p.write, fd, "x"),
        (p.pwrite, fd, 5, 0), (p.writev, fd, [5]), (p.writev, fd, 5), (p.readv, fd, 5), (p.sendmsg, a, 5),
        (p.sendmsg, a, b"x", 5), (p.ioctl, fd, 1, b"x"), (p.ioctl, fd, 1, "x"), (p.ioctl, fd, None), (p.open, None),
        (p.open, 3.0), (p.open, "/tmp", "r"), (p.mkdir, 5), (p.unlink, 5), (p.rename, "/tmp/f", 5), (p.stat, 3.0),
        (p.open, fd, os.O_CREAT), (p.read, fd), (p.read, fd, 1, 2), (p.read, fd, "x"), (p.lseek, fd, 0, None),
        (p.poll, 5), (p.poll, [(fd,)]), (p.poll, [fd]), (p.poll, [], "x"), (p.utime, "/tmp/f", 5),
        (p.movdir64b, addr, 5), (p.movdir64b, addr, "x" * 64), (p.enqcmd, addr, 5), (p.load, None, 1),
        (p.load, addr, None), (p.mknod, "/tmp/y", 0o20600, None), (p.chown, "/tmp/f", None, 0), (p.setuid, "root"),
        (p.symlink, 5, "/tmp/l"), (p.symlink, "x", 5), (p.setxattr, "/tmp/f", "user.x", 5),
        (p.mmap, None, 4096, 1, 2), (p.epoll_wait, fd, None), (p.eventfd, None), (p.pipe, "x"),
        (p.chmod, "/tmp/f", None),
    ]  # fmt: skip
    assert [(fn.__name__, args) for fn, *args in type_errors if code(fn, *args) != "TypeError"] == []
    values: list[tuple[Any, ...]] = [
        (p.poll, [], math.inf), (p.poll, [], math.nan), (p.mkdir, "/tmp/a\0b"), (p.open, "/tmp/a\0b"),
        (p.open, b"/tmp/a\0b", os.O_CREAT), (p.symlink, "a\0b", "/tmp/l"), (p.stat, "/sys/\0"), (p.chdir, "\0"),
        (p.getxattr, "/tmp/f", "user.\0"),
    ]  # fmt: skip
    assert [(fn.__name__, args) for fn, *args in values if code(fn, *args) != "ValueError"] == []
    assert p.listdir("/tmp") == ["f"]
    p.fds.exit()


def test_ioctl_wants_room_before_it_does_anything(p):
    """What cannot be written back to is refused before the driver is asked."""
    fd = p.open("/dev/null")
    events = p.kernel.trace.record()
    assert code(p.ioctl, fd, 0x1234, b"1234") == "TypeError"
    assert code(p.ioctl, fd, 0x1234, bytearray(4)) == "ENOTTY"
    assert [e.name for e in events if e.name == "syscall"] == ["syscall"]
    p.close(fd)


def test_bad_addresses_are_efault_at_once(p):
    """No buffer is made for memory that is not there."""
    for n in (-1, 1 << 31, 1 << 40, 1 << 46, 1 << 47, 1 << 63, 1 << 64, 1 << 70):
        assert code(p.load, 0x1000, n) == "EFAULT"
        assert code(p.mem.read, 0x1000, n) == "EFAULT"
    addr = p.mmap(0, 3 << 20, 3, 0x22)
    p.store(addr + (2 << 20) - 2, b"abcd")
    assert p.load(addr, 3 << 20) == bytes((2 << 20) - 2) + b"abcd" + bytes((1 << 20) - 2)
    assert code(p.load, addr, (3 << 20) + 1) == "EFAULT"
    assert code(p.mprotect, addr, -4096, 1) == "ENOMEM"


def host_mknod(rdev):
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mknod(b"/nowhere/y", 0o20600, ctypes.c_ulong(rdev)) == -1
    return errno.errorcode[ctypes.get_errno()]


@pytest.mark.parametrize("rdev", [-1, 1 << 32, (1 << 64) - 1, 0x103])
def test_mknod_takes_32_bits(p, rdev):
    """As the C library does; the directory is not there, so a number that it takes is ENOENT."""
    assert code(p.mknod, "/nowhere/y", 0o20600, rdev) == host_mknod(rdev)


def test_mknod_of_a_number_that_c_does_not_have(p):
    assert code(p.mknod, "/tmp/y", 0o20600, 1 << 70) == "EINVAL"


def test_ids_have_32_bits(p):
    """-1 is no id (EINVAL), and leaves it as it is for chown(); more bits are cut off."""
    assert [code(p.setuid, -1), code(p.setgid, -1), code(p.setuid, (1 << 32) - 1)] == ["EINVAL"] * 3
    fd = p.open("/tmp/f", os.O_CREAT)
    p.close(fd)
    p.chown("/tmp/f", 7, 8)
    p.chown("/tmp/f", -1, (1 << 32) - 1)
    p.chown("/tmp/f", (1 << 32) + 9, -1)
    assert (p.stat("/tmp/f").st_uid, p.stat("/tmp/f").st_gid) == (9, 8)
    p.setgid((1 << 32) + 6)
    p.setuid((1 << 32) + 5)
    assert (p.task.cred.uid, p.task.cred.gid) == (5, 6)


def test_counts_are_size_t(p):
    """fs/read_write.c: a bad descriptor first, then a negative ssize_t is EINVAL, and more than 2 GiB is cut."""
    fd, out = p.open(f"{WQ}/state"), p.open("/dev/null", os.O_WRONLY)
    for n in (-1, 1 << 63, (1 << 64) - 1, 1 << 70):
        assert [code(p.read, fd, n), code(p.pread, fd, n, 0), code(p.readv, fd, [1, n])] == ["EINVAL"] * 3
        assert [code(p.read, 99, n), code(p.read, out, n), code(p.pread, out, n, 0)] == ["EBADF"] * 3
        assert code(p.sendfile, out, fd, 0, n) == "EINVAL"
    for n in (1 << 31, 1 << 40, (1 << 63) - 1):
        p.lseek(fd, 0)
        assert [p.read(fd, n), p.pread(fd, n, 0), p.sendfile(out, fd, 0, n)] == [b"disabled\n", b"disabled\n", 9]
    for at in (-1, 1 << 63, 1 << 70):
        assert [code(p.pread, fd, 1, at), code(p.pwrite, out, b"x", at)] == ["EINVAL"] * 2
    assert [code(p.readv, fd, [1] * 1025), code(p.writev, out, [b"x"] * 1025)] == ["EINVAL"] * 2
    assert p.writev(out, [b"x"] * 1024) == 1024
    p.close(fd)
    p.close(out)


def test_sizes_that_sysfs_cannot_have(p):
    """kernfs leaves s_maxbytes at 2 GiB - 1: fs/attr.c:inode_newsize_ok(), fs/open.c:vfs_fallocate()."""
    path = f"{WQ}/size"
    fd = p.open(path, os.O_RDWR)
    for size in (1 << 31, 1 << 50):
        assert [code(p.truncate, path, size), code(p.ftruncate, fd, size)] == ["EFBIG"] * 2
        assert code(p.fallocate, fd, 0, size - 1, 1) == "EFBIG"
    for size in (0, 4096, (1 << 31) - 1):
        assert [code(p.truncate, path, size), code(p.ftruncate, fd, size)] == [None] * 2
        assert code(p.fallocate, fd, 0, 0, size or 1) == "ENOTSUP"  # Python's name of EOPNOTSUPP
    assert p.fstat(fd).st_size == 4096
    p.close(fd)


def test_no_direct_io_of_attributes_and_character_devices(p):
    """fs/open.c:do_dentry_open(): without FMODE_CAN_ODIRECT it is EINVAL, and what was opened is closed."""
    for path in (f"{WQ}/state", "/dev/null", "/dev/kmsg"):
        assert code(p.open, path, os.O_DIRECT) == "EINVAL"
    assert not p.fds.files


def test_dup3_of_a_descriptor_to_itself(p):
    """EINVAL, open or not; dup2() gives it back."""
    fd = p.open("/tmp")
    assert [code(p.dup2, fd, fd, cloexec=True), code(p.dup2, 99, 99, cloexec=True)] == ["EINVAL"] * 2
    assert [p.dup2(fd, fd), code(p.dup2, 99, 99)] == [fd, "EBADF"]
    p.close(fd)


def test_scm_max_fd(p):
    """253 descriptors go with a message, 254 are EINVAL."""
    a, b = p.socketpair()
    assert code(p.sendmsg, a, b"x", [a] * 254) == "EINVAL"
    assert p.sendmsg(a, b"x", [a] * 253) == 1
    assert len(p.recvmsg(b, 1)[1]) == 253
    p.fds.exit()


def test_a_bug_of_a_driver_is_still_an_oops(monkeypatch):
    """Right arguments and a TypeError, a ValueError, ...: the kernel's fault."""
    k = pykernel.boot("dsa")
    p = k.process()
    fd = p.open("/dev/null")
    for bug in (TypeError, ValueError, OverflowError, KeyError, AssertionError):

        def ioctl(*_args, bug=bug):
            raise bug("a bug")

        monkeypatch.setattr(type(p.fds.get(fd)), "ioctl", ioctl)
        assert code(p.ioctl, fd, 1) == "EIO"
    assert [type(e) for e in k.oopses] == [TypeError, ValueError, OverflowError, KeyError, AssertionError]
    p.exit()
    k.shutdown()


def test_no_memory_for_a_buffer_is_enomem(p, monkeypatch):
    """Python's MemoryError is no bug of the driver's."""

    def pread(*_args):
        raise MemoryError

    fd = p.open("/dev/zero")
    monkeypatch.setattr(type(p.fds.get(fd)), "pread", pread)
    assert code(p.read, fd, 1 << 30) == "ENOMEM"
    p.close(fd)


VALUES = st.one_of(
    st.none(), st.integers(), st.integers(-3, 12), st.floats(), st.text(max_size=3), st.binary(max_size=64),
    st.lists(st.integers(-2, 9), max_size=3), st.lists(st.tuples(st.integers(-2, 9), st.integers(0, 9)), max_size=2),
    st.sampled_from(["/tmp/f", "/sys", b"/dev/null", "/tmp/d", 1 << 63, 1 << 64, bytearray(8)]),
    st.builds(At, st.integers(-2, 5), st.text(max_size=2)), st.builds(object),
)  # fmt: skip
SLEEPS = {"poll", "epoll_wait", "read", "write", "readv", "writev", "recvmsg", "sendfile", "exit", "exec", "sendmsg"}


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(set(CALLS) - SLEEPS)), st.lists(VALUES, max_size=5))
def test_no_arguments_make_an_oops(p, name, args):
    """Whatever is given: a result, an errno that is not an oops's, TypeError or ValueError."""
    p.fds.exit()
    for path in ("/dev/null", "/tmp/f"):
        p.open(path, os.O_RDWR | os.O_CREAT)
    p.pipe(os.O_NONBLOCK)
    p.socketpair(os.O_NONBLOCK)
    p.epoll_create()
    try:
        result = getattr(p, name)(*args)
        if isinstance(result, Process):
            result.exit()
    except (OSError, TypeError, ValueError):
        pass
    assert not p.kernel.oopses, (name, args, p.kernel.oopses)
    p.fds.exit()
