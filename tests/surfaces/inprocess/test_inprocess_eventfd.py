"""eventfds of patched code are the emulated kernel's; a descriptor of the host is open, and no driver's file."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct

import pytest

import pykernel
from pykernel.machine import Cpu, IommuSpec, Machine, PciSpec


@pytest.fixture
def edu():
    """A machine with an edu function and VFIO, its kernel patched in."""
    modules: dict[str, str] = dict.fromkeys(("vfio", "vfio_iommu_type1", "vfio_pci"), "")
    machine = Machine("edu", Cpu(count=1), IommuSpec(), (PciSpec("edu", "0000:00:02.0", {}),), modules)
    kernel = pykernel.boot(machine)
    with kernel.patched():
        yield kernel
    kernel.shutdown()


@pytest.fixture
def device(edu):
    """Its device descriptor."""
    path = "/sys/bus/pci/devices/0000:00:02.0"
    for name, text in ((f"{path}/driver_override", "vfio-pci"), ("/sys/bus/pci/drivers_probe", "0000:00:02.0")):
        with open(name, "w") as file:
            file.write(text)
    fds = [os.open("/dev/vfio/vfio", os.O_RDWR)]
    fds.append(os.open(f"/dev/vfio/{os.path.basename(os.readlink(f'{path}/iommu_group'))}", os.O_RDWR))
    fcntl.ioctl(fds[1], 0x3B68, bytearray(struct.pack("i", fds[0])))
    fcntl.ioctl(fds[0], 0x3B66, 1)
    fds.append(fcntl.ioctl(fds[1], 0x3B6A, bytearray(b"0000:00:02.0\0")))
    yield fds[2]
    for fd in fds:
        os.close(fd)


def set_msi(device: int, fd: int) -> None:
    """VFIO_DEVICE_SET_IRQS."""
    fcntl.ioctl(device, 0x3B6E, bytearray(struct.pack("5Ii", 24, 0x24, 1, 0, 1, fd)))


def test_an_interrupt_reaches_an_eventfd_of_python(device):
    """os.eventfd(), its poll and its helpers; the device raises by itself."""
    fd = os.eventfd(0)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    set_msi(device, fd)
    os.pwrite(device, b"\7\0", (7 << 40) + 4)
    assert poll.poll(0) == []
    for _ in range(2):
        os.pwrite(device, b"\1\0\0\0", 0x60)
    assert poll.poll(1000) == [(fd, select.POLLIN)]
    assert os.eventfd_read(fd) == 2
    os.eventfd_write(fd, 5)
    assert os.read(fd, 8) == b"\5" + bytes(7)
    os.close(fd)


def test_flags_and_refusals_of_eventfd_are_those_of_os(edu):
    """os.eventfd(): closed at exec unless told otherwise; EAGAIN; a semaphore counts down; unknown flags are EINVAL."""
    fd = os.eventfd(2, os.EFD_SEMAPHORE | os.EFD_NONBLOCK)
    assert os.get_inheritable(fd)
    assert [os.eventfd_read(fd), os.eventfd_read(fd)] == [1, 1]
    with pytest.raises(BlockingIOError):
        os.eventfd_read(fd)
    os.close(fd)
    fd = os.eventfd(0)
    assert not os.get_inheritable(fd)
    os.close(fd)
    with pytest.raises(OSError, match="Invalid"):
        os.eventfd(0, 2)


def test_links_of_what_has_no_path_say_what_it_is(device):
    """fs/anon_inodes.c, fs/d_path.c: anon_inode:[name]."""
    fd = os.eventfd(0)
    assert [os.readlink(f"/proc/self/fd/{n}") for n in (fd, device)] == [
        "anon_inode:[eventfd]",
        "anon_inode:[vfio-device]",
    ]
    os.close(fd)


def test_parts_are_reads_of_their_own_of_a_file_without_read_iter(device):
    """fs/read_write.c:do_loop_readv_writev(): edu answers 4 bytes at once and, to 2, zeros."""
    os.pwrite(device, b"\2\0", (7 << 40) + 4)
    halves = [bytearray(2), bytearray(2)]
    assert (os.preadv(device, [bytearray(4)], 0), os.preadv(device, halves, 0)) == (4, 4)
    assert b"".join(halves) == bytes(4)
    assert os.pwritev(device, [b"\1\2", b"\3\4"], 4) == 4
    assert os.pread(device, 4, 4) == bytes(4), "the halves reached nothing"
    assert os.pwritev(device, [b"\1\2\3\4"], 4) == 4
    assert os.pread(device, 4, 4) == b"\xfe\xfd\xfc\xfb"


@pytest.mark.parametrize("kind", ["file", "pipe", "closed", "none"])
def test_a_descriptor_of_the_host_is_no_eventfd(device, kind):
    """fs/eventfd.c:eventfd_ctx_fdget(): EINVAL for other files, EBADF for none."""
    r, w = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    with open(__file__) as file:
        closed = os.dup(file.fileno())
        os.close(closed)
        fd = {"file": file.fileno(), "pipe": w, "closed": closed, "none": 1 << 20}[kind]
        with pytest.raises(OSError, match="Errno") as caught:
            set_msi(device, fd)
    assert caught.value.errno == (errno.EINVAL if kind in ("file", "pipe") else errno.EBADF)
    for n in (r, w, null):
        os.close(n)
