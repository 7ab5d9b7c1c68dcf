"""mmap, ioctl, fcntl and descriptors of work: a DSA used by a Python program."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import struct
import termios

import pytest

pytestmark = pytest.mark.kernel(machine="dsa")

PCI = "/sys/bus/pci/devices/0000:6a:01.0"
# include/uapi/linux/idxd.h
OPCODE_NOOP, OPCODE_MEMMOVE = 0, 3
FLAG_CRAV, FLAG_RCR, FLAG_CC = 0x0008, 0x0004, 0x0100


def aligned(size: int, align: int) -> tuple[ctypes.Array[ctypes.c_char], int]:
    """A buffer of this process that holds *size* bytes at a multiple of *align*."""
    buffer = ctypes.create_string_buffer(size + align)
    return buffer, -ctypes.addressof(buffer) % align


def memmove(record: int, src: int, dst: int, size: int) -> bytes:
    """``struct dsa_hw_desc`` of a memory move."""
    head = (OPCODE_MEMMOVE << 56) | (FLAG_CRAV | FLAG_RCR | FLAG_CC) << 32
    return struct.pack("<QQQQI", head, record, src, dst, size).ljust(64, b"\0")


def test_registers_of_a_bar(kernel):
    """resource0: GENCAP at 0x10, read as words."""
    with open(f"{PCI}/resource0", "r+b", buffering=0) as f, mmap.mmap(f.fileno(), 0x1000) as bar:
        gencap = struct.unpack("<Q", bar[0x10:0x18])[0]
        assert gencap not in (0, (1 << 64) - 1)
        assert struct.unpack("<I", bar[0x10:0x14])[0] == gencap & 0xFFFFFFFF
        bar.seek(0x10)
        assert struct.unpack("<Q", bar.read(8))[0] == gencap
        assert bar[0x10] == gencap & 0xFF
        assert (len(bar), bar.size(), bar.tell()) == (0x1000, 0x10000, 0x18)
        assert isinstance(bar, mmap.mmap)
        assert type(bar).__name__ == "mmap"
    assert bar.closed
    with pytest.raises(ValueError, match="closed"):
        bar[0]


def test_a_descriptor_by_movdir64b(kernel, enabled_wq):
    """64 bytes in one slice are a submission; the engine moves this process's memory."""
    src, dst = (ctypes.create_string_buffer(4096) for _ in range(2))
    src.raw = bytes(range(256)) * 16
    hold, at = aligned(32, 32)
    record = ctypes.addressof(hold) + at
    fd = os.open(enabled_wq, os.O_RDWR)
    portal = mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_WRITE)
    os.close(fd)
    portal[0:64] = memmove(record, ctypes.addressof(src), ctypes.addressof(dst), 4096)
    assert hold[at] == b"\x01"
    assert dst.raw == src.raw
    portal.close()


def test_a_bad_address_is_a_status_and_no_crash(kernel, enabled_wq):
    hold, at = aligned(32, 32)
    dst = ctypes.create_string_buffer(64)
    fd = os.open(enabled_wq, os.O_RDWR)
    with mmap.mmap(fd, 4096) as portal:
        portal[64:128] = memmove(ctypes.addressof(hold) + at, 8, ctypes.addressof(dst), 64)
    os.close(fd)
    assert hold[at][0] & 0x3F not in (0, 1)


def test_a_mapping_is_no_buffer(kernel, enabled_wq):
    fd = os.open(enabled_wq, os.O_RDWR)
    with mmap.mmap(fd, 4096) as portal:
        with pytest.raises(TypeError):
            memoryview(portal)
        with pytest.raises(TypeError):
            ctypes.c_char.from_buffer(portal)
        with pytest.raises(IndexError):
            portal[0:64] = b"short"
        with pytest.raises(IndexError):
            portal[4096]
    os.close(fd)


@pytest.mark.parametrize(
    ("size", "flags", "prot", "code"),
    [(8192, mmap.MAP_SHARED, mmap.PROT_READ, errno.EINVAL), (4096, 0, mmap.PROT_READ, errno.EINVAL)],
)
def test_mmap_errors_of_the_driver(kernel, enabled_wq, raises_errno, size, flags, prot, code):
    fd = os.open(enabled_wq, os.O_RDWR)
    raises_errno(code, mmap.mmap, fd, size, flags, prot)
    os.close(fd)


def test_mmap_of_what_cannot_be_mapped(kernel, wq, raises_errno):
    with open(f"{wq}/type") as f:
        raises_errno(errno.ENODEV, mmap.mmap, f.fileno(), 4096, prot=mmap.PROT_READ)
        with pytest.raises(ValueError, match="greater than file size"):
            mmap.mmap(f.fileno(), 8192, prot=mmap.PROT_READ)


def test_real_mappings_stay_real(kernel, tmp_path):
    (tmp_path / "f").write_bytes(b"abcd")
    with open(tmp_path / "f", "r+b") as f, mmap.mmap(f.fileno(), 0) as m:
        assert bytes(memoryview(m)[:2]) == b"ab"
        assert isinstance(m, mmap.mmap)
    with mmap.mmap(-1, 4096) as anonymous:
        anonymous[0:3] = b"xyz"
        assert anonymous.find(b"z") == 2


def test_ioctl(kernel, wq, raises_errno):
    with open(f"{wq}/type") as f:
        for arg in (0, b"1234", bytearray(8), (ctypes.c_char * 4)()):
            raises_errno(errno.ENOTTY, fcntl.ioctl, f, 0x1234, arg)
        raises_errno(errno.ENOTTY, fcntl.ioctl, f.fileno(), termios.TCGETS, bytes(60))
        assert not os.isatty(f.fileno())
        with pytest.raises(OverflowError):
            fcntl.ioctl(f, 0x1234, 1 << 40)


def test_fcntl(kernel, wq, raises_errno):
    fd = os.open(f"{wq}/type", os.O_RDONLY | os.O_NONBLOCK)
    assert fcntl.fcntl(fd, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
    assert not os.get_blocking(fd)
    os.set_blocking(fd, True)
    assert os.get_blocking(fd)
    high = fcntl.fcntl(fd, fcntl.F_DUPFD, 200)
    assert high >= 200
    assert os.read(high, 9) == b"none\n"
    os.close(high)
    raises_errno(errno.EINVAL, fcntl.fcntl, fd, 9999)
    os.close(fd)


def test_flock(kernel, wq, raises_errno):
    """Two opens of one file exclude each other, a duplicate does not; the last close gives the lock back."""
    one, two = (os.open(f"{wq}/type", os.O_RDONLY) for _ in range(2))
    fcntl.flock(one, fcntl.LOCK_EX)
    raises_errno(errno.EAGAIN, fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB)
    copy = os.dup(one)
    fcntl.flock(copy, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(one)
    raises_errno(errno.EAGAIN, fcntl.flock, two, fcntl.LOCK_SH | fcntl.LOCK_NB)
    os.close(copy)
    fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(two)


@pytest.mark.kernel(machine="dsa", profile="linux-7.2")
def test_write_of_a_descriptor(kernel, enabled_wq):
    """A descriptor by write() works where the driver has it."""
    fd = os.open(enabled_wq, os.O_RDWR)
    assert os.write(fd, bytes(64)) == 64
    os.close(fd)
