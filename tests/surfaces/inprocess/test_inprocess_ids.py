"""Credentials and forks."""

from __future__ import annotations

import errno
import mmap
import os

import pytest

pytestmark = pytest.mark.kernel(machine="dsa")

NOBODY = 65534


def in_child(f):
    """What *f* returns or the errno it raises, in a forked child."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            text = repr(f())
        except OSError as e:
            text = errno.errorcode[e.errno or 0]
        os.write(w, text.encode())
        os._exit(0)
    os.waitpid(pid, 0)
    text = os.read(r, 1000).decode()
    os.close(r)
    os.close(w)
    return text


def test_root_by_default_then_nobody(kernel, wq, raises_errno):
    """seteuid() and back, as a test on a real kernel does it; access() goes by the real id."""
    real = os.stat("/proc/self").st_uid
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        assert os.geteuid() == NOBODY
        assert os.getuid() == 0
        raises_errno(errno.EACCES, os.open, f"{wq}/type", os.O_WRONLY)
        raises_errno(errno.EPERM, os.chmod, f"{wq}/type", 0o666)
        raises_errno(errno.EPERM, os.setuid, 5)
        assert os.access(f"{wq}/type", os.W_OK)
        assert not os.access(f"{wq}/type", os.W_OK, effective_ids=True)
    finally:
        os.seteuid(0)
        os.setegid(0)
    assert os.getresuid() == (0, 0, 0)
    assert os.stat("/proc/self").st_uid == real
    os.close(os.open(f"{wq}/type", os.O_WRONLY))


def test_setuid_of_root_is_for_ever(kernel, raises_errno):
    with kernel.patched():
        os.setuid(NOBODY)
        assert os.getresuid() == (NOBODY,) * 3
        raises_errno(errno.EPERM, os.seteuid, 0)


@pytest.mark.parametrize(
    ("call", "args", "result"),
    [
        ("setresuid", (1, 2, 3), (1, 2, 3)),
        ("setresuid", (-1, 2, -1), (0, 2, 0)),
        ("setreuid", (1, 2), (1, 2, 2)),
        ("setreuid", (-1, 2), (0, 2, 2)),
        ("setreuid", (1, -1), (1, 0, 0)),
    ],
)
def test_the_three_ids(kernel, call, args, result):
    """setresuid(2), setreuid(2): which follow."""
    with kernel.patched():
        getattr(os, call)(*args)
        assert os.getresuid() == result


@pytest.mark.kernel(machine="dsa", uid=1000, gid=100)
def test_a_user_from_the_start(kernel, wq):
    assert (os.getuid(), os.getgid()) == (1000, 100)
    with pytest.raises(PermissionError):
        open(f"{wq}/type", "w")  # noqa: SIM115
    with open(f"{wq}/type") as f:
        assert f.read() == "none\n"


def test_as_user(kernel, wq):
    with kernel.patched() as patched:
        with patched.as_user(1000), pytest.raises(PermissionError):
            open(f"{wq}/type", "w")  # noqa: SIM115
        with open(f"{wq}/type", "w") as f:
            f.write("user")


def test_a_child_has_the_same_open_files(kernel, wq):
    """The position is a copy's: the child's kernel is a copy of the parent's."""
    fd = os.open(f"{wq}/type", os.O_RDONLY)
    assert in_child(lambda: os.read(fd, 9)) == "b'none\\n'"
    assert in_child(lambda: os.close(fd)) == "None"
    assert os.read(fd, 9) == b"none\n"
    os.close(fd)


def test_a_child_is_another_address_space(kernel, enabled_wq):
    """drivers/dma/idxd/cdev.c: who did not open it cannot map it; a child opens for itself."""
    fd = os.open(enabled_wq, os.O_RDWR)
    assert in_child(lambda: mmap.mmap(fd, 4096)) == "EPERM"
    assert in_child(lambda: os.open(enabled_wq, os.O_RDWR)) == "EBUSY"
    mmap.mmap(fd, 4096).close()
    os.close(fd)


def test_a_child_drops_its_rights(kernel, wq):
    def nobody() -> int:
        os.setuid(NOBODY)
        return os.open(f"{wq}/type", os.O_WRONLY)

    assert in_child(nobody) == "EACCES"
    os.close(os.open(f"{wq}/type", os.O_WRONLY))
