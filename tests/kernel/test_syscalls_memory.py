"""The door: memory, paths by descriptor, and the arguments that are refused."""

from __future__ import annotations

import errno
import fcntl
import os
import stat

import pytest

import pykernel
from pykernel.syscalls import SYSCALLS, At, Pids, Process
from pykernel.uapi.struct import Struct, u32

BAR = "/sys/bus/pci/devices/0000:6a:01.0/resource0"
RW, SHARED, PRIVATE, ANON = 3, 1, 2, 0x20


class pair(Struct):  # a C name
    """Two words."""

    a: u32 = 0
    b: u32 = 0


@pytest.fixture
def p():
    k = pykernel.boot("dsa")
    k.up()
    proc = k.process()
    yield proc
    proc.exit()
    k.shutdown()


def code(fn, *args, **kw):
    try:
        return fn(*args, **kw)
    except OSError as e:
        return errno.errorcode[e.errno or 0]


def test_every_row_of_the_table_is_a_method_with_a_docstring():
    assert all(getattr(Process, row.method).__doc__ for row in SYSCALLS)
    assert len({row.name for row in SYSCALLS}) == len(SYSCALLS)


def test_loads_and_stores(p):
    addr = p.mmap(0, 4096, RW, PRIVATE | ANON)
    p.store(addr, b"abc")
    assert p.load(addr, 4) == b"abc\0"
    p.mprotect(addr, 4096, 1)
    assert (code(p.store, addr, b"x"), p.load(addr, 1)) == ("EFAULT", b"a")
    p.munmap(addr, 4096)
    assert code(p.load, addr, 1) == "EFAULT"


def test_the_64_byte_stores(p):
    """A wrong size or alignment is #GP; a page that is no portal, or no PASID, is a fault."""
    addr = p.mmap(0, 4096, RW, PRIVATE | ANON)
    p.movdir64b(addr, bytes(range(64)))
    assert p.load(addr, 64) == bytes(range(64))
    for store in (p.movdir64b, p.enqcmd):
        assert [code(store, addr, b"short"), code(store, addr + 8, bytes(64))] == ["EINVAL"] * 2
    assert code(p.enqcmd, addr, bytes(64)) == "EFAULT"
    assert code(p.enqcmd, 0, bytes(64)) == "EFAULT"


def test_mmap_asks_how_the_file_was_opened(p):
    """mm/mmap.c:do_mmap(): reading is needed always, writing for a shared writable area."""
    ro, wo, rw = (p.open(BAR, f) for f in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR))
    assert code(p.mmap, 0, 4096, 1, SHARED, wo) == "EACCES"
    assert code(p.mmap, 0, 4096, RW, SHARED, ro) == "EACCES"
    addr = p.mmap(0, 4096, 1, SHARED, ro)
    assert code(p.mprotect, addr, 4096, RW) == "EACCES"
    p.munmap(addr, 4096)
    assert code(p.mmap, 0, 0, 1, SHARED, rw) == "EINVAL"
    assert code(p.mmap, 0, 4096, 1, SHARED, p.open("/", os.O_PATH)) == "EBADF"


def test_a_mapping_holds_its_file(p):
    """Through close(), fork and exit: the file is released with its last area."""
    fd = p.open(BAR, os.O_RDWR)
    file = p.fds.get(fd)
    addr = p.mmap(0, 8192, RW, SHARED, fd)
    p.close(fd)
    assert file.refs == 1
    child = p.fork()
    assert file.refs == 2
    child.munmap(addr, 4096)
    assert file.refs == 2
    child.exit()
    assert file.refs == 1
    p.munmap(addr, 8192)
    assert file.refs == 0


def test_paths_by_descriptor(p):
    """openat() and its like: below the directory, absolute paths ignore it."""
    p.mkdir("/tmp/d")
    d = p.open("/tmp/d")
    fd = p.open(At(d, "f"), os.O_CREAT | os.O_RDWR)
    p.write(fd, b"x")
    assert p.stat(At(d, "f")).st_size == p.stat(fd).st_size == 1
    assert p.stat(At(d, "/tmp")).st_ino == p.stat("/tmp").st_ino
    p.rename(At(d, "f"), At(d, "g"))
    p.chmod(At(d, "g"), 0o600)
    assert p.listdir(d) == ["g"]
    assert [name for name, _ in p.scandir("/tmp/d")] == ["g"]
    assert [code(p.stat, At(99, "f")), code(p.stat, At(fd, "f"))] == ["EBADF", "ENOTDIR"]
    p.unlink(At(d, "g"))
    assert p.listdir("/tmp/d") == []


def test_realpath_ends(p):
    p.symlink("/tmp/loop", "/tmp/loop")
    assert code(p.realpath, "/tmp/loop") == "ELOOP"
    assert p.realpath("/sys/./../tmp//") == "/tmp"
    assert p.realpath("/") == "/"


def test_refused_arguments(p):
    null = p.open("/dev/null", os.O_RDWR)
    f = p.open("/tmp/f", os.O_CREAT | os.O_RDWR)
    r, _ = p.pipe()
    assert {
        "read": code(p.read, null, -1),
        "pread": code(p.pread, null, 1, -1),
        "socketpair": code(p.socketpair, 1),
        "O_DIRECT": code(p.fcntl, f, fcntl.F_SETFL, os.O_DIRECT),
        "open O_DIRECT": code(p.open, "/tmp/f", os.O_DIRECT),
        "directory": code(p.open, "/tmp/new", os.O_CREAT | os.O_DIRECTORY),
        "tmpfile": code(p.open, "/tmp", os.O_TMPFILE),
        "tmpfile of a file": code(p.open, "/tmp/f", os.O_TMPFILE | os.O_RDWR),
        "mknod": code(p.mknod, "/tmp/x", stat.S_IFLNK | 0o777),
        "symlink": code(p.symlink, "", "/tmp/x"),
        "fallocate": code(p.fallocate, r, 0, 0, 1),
        "fallocate of nothing": code(p.fallocate, f, 0, 0, 0),
        "FIOQSIZE of a device": code(p.ioctl, null, 0x5460, bytearray(8)),
        "chdir": code(p.chdir, "/tmp/f"),
    } == {
        "read": "EINVAL", "pread": "EINVAL", "socketpair": "EINVAL", "O_DIRECT": "EINVAL", "open O_DIRECT": "EINVAL",
        "directory": "EINVAL", "tmpfile": "EINVAL", "tmpfile of a file": "ENOTDIR", "mknod": "EINVAL",
        "symlink": "ENOENT", "fallocate": "EBADF", "fallocate of nothing": "EINVAL", "FIOQSIZE of a device": "ENOTTY",
        "chdir": "ENOTDIR",
    }  # fmt: skip


def test_ioctl_with_a_buffer_or_a_struct(p):
    """It goes to this process's memory and comes back."""
    f = p.open("/tmp/f", os.O_CREAT | os.O_RDWR)
    p.write(f, bytes(5000))
    buf = bytearray(8)
    assert p.ioctl(f, 0x5460, buf) == 0
    assert int.from_bytes(buf, "little") == p.fstat(f).st_blocks * 512 == 8192
    p.lseek(f, 0)
    both = pair(a=1, b=7)
    assert p.ioctl(f, 0x541B, both) == 0
    assert (both.a, both.b) == (5000, 7)


def test_the_set_group_id_bit_needs_the_group(p):
    """fs/attr.c:setattr_prepare(): who is not in the file's group and has no CAP_FSETID loses the bit silently."""
    p.open("/tmp/f", os.O_CREAT, 0o644)
    p.chown("/tmp/f", 1000, 50)
    user = p.kernel.process(uid=1000, gid=1000)
    user.chmod("/tmp/f", 0o2755)
    assert oct(p.stat("/tmp/f").st_mode) == "0o100755"
    fd = user.open("/tmp/f")
    user.fchmod(fd, 0o700)
    assert code(user.fcntl, fd, fcntl.F_SETFL, os.O_NOATIME) == 0
    other = p.kernel.process(uid=5)
    p.chmod("/tmp/f", 0o644)
    fd = other.open("/tmp/f")
    assert code(other.fcntl, fd, fcntl.F_SETFL, os.O_NOATIME) == "EPERM"
    p.chmod("/tmp/f", 0o4755)
    assert code(other.link, "/tmp/f", "/tmp/g") == "EPERM"
    p.chmod("/tmp/f", 0o600)
    assert code(other.link, "/tmp/f", "/tmp/g") == "EPERM"
    user.exit()
    other.exit()


def test_a_directory_with_the_bit_gives_its_group(p):
    """fs/inode.c:inode_init_owner()."""
    p.mkdir("/tmp/d")
    p.chown("/tmp/d", 0, 77)
    p.chmod("/tmp/d", 0o2775)
    p.mkdir("/tmp/d/sub")
    p.open("/tmp/d/f", os.O_CREAT)
    assert (p.stat("/tmp/d/f").st_gid, p.stat("/tmp/d/sub").st_gid) == (77, 77)
    assert p.stat("/tmp/d/sub").st_mode & stat.S_ISGID


def test_pids_are_not_given_twice(p):
    pids = p.kernel.sub(Pids)
    other = p.kernel.process()
    pids.last = p.pid - 1
    third = p.kernel.process()
    assert len({p.pid, other.pid, third.pid}) == 3
    other.exit()
    third.exit()
