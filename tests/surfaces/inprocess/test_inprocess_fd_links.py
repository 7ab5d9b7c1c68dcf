"""The links of descriptors in /proc and /dev/fd, and descriptors that are sent: never a silently empty file."""

from __future__ import annotations

import array
import errno
import os
import socket
import types
from pathlib import Path
from typing import Any

import pytest

import pykernel

pytestmark = pytest.mark.kernel(machine="dsa")

STATE = "/sys/bus/dsa/devices/dsa0/state"
LINKS = ("/proc/self/fd/{}", f"/proc/{os.getpid()}/fd/{{}}", "/proc/thread-self/fd/{}", "/dev/fd/{}")


@pytest.mark.parametrize("link", LINKS, ids=["self", "pid", "thread-self", "dev"])
def test_a_link_leads_to_the_emulated_file(kernel, link):
    """fs/proc/fd.c:proc_fd_link(): a new open file; the offset is its own."""
    fd = os.open(STATE, os.O_RDONLY)
    path = link.format(fd)
    assert os.read(fd, 3) == b"dis"
    assert Path(path).read_text() == "disabled\n"
    again = os.open(path, os.O_RDONLY)
    assert (os.read(again, 20), os.read(fd, 20)) == (b"disabled\n", b"abled\n")
    assert os.stat(path) == os.stat(STATE) == os.stat(os.fsencode(path))
    assert os.access(path, os.W_OK)
    assert os.readlink(path) == os.path.realpath(STATE) == os.path.realpath(path)
    assert os.readlink(path.encode()) == os.path.realpath(STATE).encode()
    os.close(again)
    os.close(fd)


def test_a_directorys_link(kernel):
    fd = os.open("/sys/bus/dsa", os.O_RDONLY)
    assert os.listdir(f"/proc/self/fd/{fd}") == os.listdir("/sys/bus/dsa")
    with os.scandir(f"/dev/fd/{fd}") as entries:
        assert {e.name: e.is_dir() for e in entries}["devices"]
    os.close(fd)


def test_what_has_no_name_is_enxio_and_not_empty(kernel, raises_errno):
    fd = os.open("/tmp", os.O_RDONLY)
    os.close(fd)
    os.mkdir("/dev/gone")
    fd = os.open("/dev/gone", os.O_RDONLY)
    os.rmdir("/dev/gone")
    raises_errno(errno.ENXIO, os.open, f"/proc/self/fd/{fd}", os.O_RDONLY)
    raises_errno(errno.ENXIO, open, f"/dev/fd/{fd}")
    assert os.readlink(f"/proc/self/fd/{fd}") == "/dev/gone (deleted)"
    assert os.stat(f"/proc/self/fd/{fd}").st_nlink == 0
    os.close(fd)


def test_the_hosts_descriptors_are_as_they_were(kernel, tmp_path):
    (tmp_path / "f").write_text("real")
    with open(tmp_path / "f") as f:
        for link in LINKS:
            assert Path(link.format(f.fileno())).read_text() == "real"
        assert os.readlink(f"/proc/self/fd/{f.fileno()}") == str(tmp_path / "f")


def test_no_socket_of_the_host_takes_an_emulated_descriptor(kernel, raises_errno):
    """An honest refusal, as of children; others go."""
    a, b = socket.socketpair()
    fd = os.open(STATE, os.O_RDONLY)
    with open(os.devnull) as null:
        raises_errno(errno.EOPNOTSUPP, socket.send_fds, a, [b"x"], [null.fileno(), fd])
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        raises_errno(errno.EOPNOTSUPP, a.sendmsg, [b"x"], rights)
        assert socket.send_fds(a, [b"x"], [null.fileno()]) == 1
    data, fds, _, _ = socket.recv_fds(b, 9, 9)
    assert (data, len(fds)) == (b"x", 1)
    for n in (fd, *fds):
        os.close(n)
    a.close()
    b.close()


def test_a_modules_none_stays_none():
    """Of what a class inherits nothing is in place that a module could have a name for."""
    module: Any = types.ModuleType("toy")
    module.nothing, module.read = None, os.read
    real = os.read
    with pykernel.boot("dsa").patched(modules=[module]):
        assert module.nothing is None
        assert module.read is os.read is not real
    assert (module.nothing, module.read) == (None, real)
    assert "sendmsg" not in vars(socket.socket)
