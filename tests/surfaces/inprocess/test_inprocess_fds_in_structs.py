"""Descriptors that the kernel tells in a struct are the program's own: read, polled, duplicated, closed as others."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import select
import struct

import pytest

import pykernel
from pykernel.fs.anon import AnonInode
from pykernel.fs.vfs import File
from pykernel.kernel import Leak
from pykernel.surfaces.inprocess.descriptors import HostFdTable

UUID = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
# include/uapi/linux/vfio.h, include/uapi/linux/iommufd.h
DEVICE_FEATURE, SET_DEVICE_STATE = 0x3B75, 0x20002
RUNNING, STOP_COPY = 2, 3
FAULT_QUEUE_ALLOC, IOMMU_DESTROY = 0x3B8E, 0x3B80
STREAM = 96  # samples/vfio-mdev/mtty.c:mtty_data_size(): two ports


def lowest() -> int:
    """The number that the host gives next: it is Linux."""
    fd = os.open(os.devnull, os.O_RDONLY)
    os.close(fd)
    return fd


@pytest.fixture
def mdev():
    """A machine with mtty, its kernel patched in."""
    kernel = pykernel.boot("mdev", profile="linux-6.12")
    with kernel.patched():
        yield kernel
    kernel.shutdown()


@pytest.fixture
def card(mdev):
    """The device descriptor of an mtty card with two ports."""
    with open("/sys/class/mdev_bus/mtty/mdev_supported_types/mtty-2/create", "w") as file:
        file.write(UUID)
    fds = [os.open("/dev/vfio/vfio", os.O_RDWR), os.open("/dev/vfio/0", os.O_RDWR)]
    fcntl.ioctl(fds[1], 0x3B68, struct.pack("i", fds[0]))
    fcntl.ioctl(fds[0], 0x3B66, 3)
    told = lowest()
    fds.append(fcntl.ioctl(fds[1], 0x3B6A, bytearray(UUID.encode() + b"\0")))
    assert fds[2] == told
    yield fds[2]
    for fd in fds:
        os.close(fd)


def set_state(card: int, state: int) -> int:
    """VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE: data_fd."""
    arg = bytearray(struct.pack("<IIIi", 16, SET_DEVICE_STATE, state, -1))
    fcntl.ioctl(card, DEVICE_FEATURE, arg)
    return int(struct.unpack("<IIIi", arg)[3])


def test_the_stream_of_a_card_is_read_from_a_new_descriptor(card):
    told = lowest()
    fd = set_state(card, STOP_COPY)
    assert fd == told > 2
    assert fcntl.fcntl(fd, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
    assert not os.get_inheritable(fd)
    assert len(os.read(fd, 4096)) == STREAM
    assert os.read(fd, 4096) == b""
    os.close(fd)
    for call in (os.fstat, os.close):
        with pytest.raises(OSError, match="Bad file"):
            call(fd)
    assert lowest() == fd


def test_a_state_without_a_stream_takes_no_number(card):
    told = lowest()
    assert set_state(card, RUNNING) == -1
    assert lowest() == told


def test_python_files_and_duplicates_share_the_stream(card):
    fd = set_state(card, STOP_COPY)
    again = os.dup(fd)
    third = os.dup2(fd, lowest() + 3)
    os.close(fd)
    with open(again, "rb", buffering=0) as file:
        data = file.read(40)
    data += os.read(third, 4096)
    os.close(third)
    assert len(data) == STREAM


def test_a_fork_reads_on_and_gets_numbers_of_its_own(card):
    fd = set_state(card, STOP_COPY)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            there = len(os.read(fd, 4096)) == STREAM
            told = lowest()
            set_state(card, RUNNING)
            code = 0 if there and set_state(card, STOP_COPY) == told else 2
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0) == (pid, 0)
    os.close(fd)


def test_no_free_number_is_emfile_and_nothing_stays_open(mdev, card, raises_errno):
    told, held = lowest(), mdev.leaks()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (told, before[1]))
    try:
        raises_errno(errno.EMFILE, set_state, card, STOP_COPY)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert lowest() == told
    assert mdev.leaks() == held


def fault_queue(iommufd: int) -> tuple[int, int]:
    """IOMMU_FAULT_QUEUE_ALLOC: out_fault_id, out_fault_fd."""
    arg = bytearray(struct.pack("<4I", 16, 0, 0, 0))
    fcntl.ioctl(iommufd, FAULT_QUEUE_ALLOC, arg)
    _, _, id, fd = struct.unpack("<4I", arg)
    return id, fd


def test_a_fault_queue_is_polled_read_and_closed(mdev):
    """drivers/iommu/iommufd/fault.c: empty, it can be written to; it is busy as long as its file is open."""
    iommufd = os.open("/dev/iommu", os.O_RDWR)
    told = lowest()
    id, fd = fault_queue(iommufd)
    assert fd == told > 2
    assert os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[iommufd-pgfault]"
    poll = select.poll()
    poll.register(fd, select.POLLIN | select.POLLOUT)
    assert poll.poll(0) == [(fd, select.POLLOUT)]
    assert os.read(fd, 40) == b""
    with pytest.raises(OSError, match="busy"):
        fcntl.ioctl(iommufd, IOMMU_DESTROY, bytearray(struct.pack("<II", 8, id)))
    os.close(fd)
    fcntl.ioctl(iommufd, IOMMU_DESTROY, bytearray(struct.pack("<II", 8, id)))
    assert fault_queue(iommufd)[1] == fd
    os.close(fd)
    os.close(iommufd)


def test_the_standard_descriptors_stay_the_programs(mdev, card):
    """0 to 2 are open, so nobody is given them; one that was closed is the lowest free number, as on Linux."""
    stats = [os.fstat(fd).st_ino for fd in range(3)]
    iommufd = os.open("/dev/iommu", os.O_RDWR)
    fds = [set_state(card, STOP_COPY), *(fault_queue(iommufd)[1] for _ in range(3))]
    assert min(fds) > 2
    assert len({*fds, card, iommufd}) == 6
    assert [os.fstat(fd).st_ino for fd in range(3)] == stats
    stdin = os.dup(0)
    os.close(0)
    try:
        taken = fault_queue(iommufd)[1]
        os.close(taken)
    finally:
        os.dup2(stdin, 0)
    os.close(stdin)
    assert taken == 0
    for fd in (*fds, iommufd):
        os.close(fd)


def test_a_stream_that_stays_open_is_named_at_shutdown():
    """By the number that the program knows."""
    kernel = pykernel.boot("mdev", profile="linux-6.12")
    with kernel.patched():
        fd = fault_queue(os.open("/dev/iommu", os.O_RDWR))[1]
    with pytest.raises(Leak, match=rf"descriptor {fd} of .*iommufd-pgfault"):
        kernel.shutdown()


def test_a_call_that_fails_gives_the_number_back(mdev, raises_errno):
    """C: put_unused_fd(): here and there; until then it is nobody's file, and dup2() onto it is EBUSY."""
    before = lowest()
    table = HostFdTable()
    told = lowest()
    other = table.install(File(AnonInode(mdev, 0, "test"), os.O_RDWR))
    seen: list[int] = []

    def call() -> None:
        with table.unused_fd() as fd:
            seen.append(fd)
            raises_errno(errno.EBADF, table.get, fd)
            raises_errno(errno.EBUSY, table.dup2, other, fd)
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))

    raises_errno(errno.EFAULT, call)
    assert told == other < seen[0]
    assert lowest() == seen[0]
    table.exit()
    assert lowest() == before, "the placeholder's number is free, too"
