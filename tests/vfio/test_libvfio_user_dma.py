"""
libvfio-user's tests of mappings and of the log of written pages (test/py), case by case, against type 1 and VFIO.

Each test has the name of the case that it mirrors. Where libvfio-user answers otherwise than Linux, the docstring says
so and the test has Linux's answer. What logs is a device of the test's: no driver that pykernel has keeps a log.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from errno import EEXIST, EFAULT, EINVAL, ENOTTY
from typing import Any

import pytest
import vfioclient as client
from errnos import errno_of
from vfiotoy import Toy

from pykernel.base.core import Device
from pykernel.machine import Machine
from pykernel.start import boot
from pykernel.uapi.linux import vfio as v
from pykernel.vfio.main import vfio_dma_read, vfio_dma_write, vfio_register_emulated_iommu_dev

PAGE = 4096
REGIONS = 4
GET, SET = v.VFIO_DEVICE_FEATURE_GET, v.VFIO_DEVICE_FEATURE_SET
BITMAP, ALL = v.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP, v.VFIO_DMA_UNMAP_FLAG_ALL
FIRST = 0x10 * PAGE
"""Where the memory of the log's tests begins; it has 32 pages."""


class Logging(Toy):
    """A device that writes where it is told to, and keeps a log of it; it can be asked for one log at a time."""

    def __init__(self, dev: Device) -> None:
        super().__init__(dev, [])
        self.log_ops = self
        self.ranges: list[tuple[int, int]] = []
        self.written: set[int] = set()

    def log_start(self, ranges: list[tuple[int, int]], page_size: int) -> int:
        """Whatever page is asked for, this device has those of 4 KiB."""
        if self.ranges:
            raise OSError(EEXIST, "it logs")
        self.ranges = ranges
        return PAGE

    def log_stop(self) -> None:
        self.ranges, self.written = [], set()

    def log_read_and_clear(self, iova: int, length: int, page_size: int) -> list[tuple[int, int]]:
        found = sorted(at for at in self.written if iova <= at < iova + length)
        self.written -= set(found)
        return [(at, PAGE) for at in found]

    def close_device(self) -> None:
        super().close_device()
        self.log_stop()

    def write_pages(self, page: int, count: int) -> None:
        """DMA, to the memory of its user."""
        for at in range(page * PAGE, (page + count) * PAGE, PAGE):
            vfio_dma_write(self, at, b"x")
            if any(start <= at < start + length for start, length in self.ranges):
                self.written.add(at)


class Box:
    """A client with the device in a container."""

    def __init__(self, profile: str, cls: Callable[[Device], Toy] = Logging, limit: int = 65535) -> None:
        self.kernel = boot(Machine("log", modules={"vfio_iommu_type1": f"dma_entry_limit={limit}"}), profile)
        self.kernel.up()
        dev = Device(self.kernel, "log0")
        dev.register()
        self.toy: Any = cls(dev)
        vfio_register_emulated_iommu_dev(self.toy)
        self.proc = self.kernel.process()
        self.container = client.Container(self.proc)
        group = self.container.group(str(self.toy.the_group.name))
        self.fd = self.proc.ioctl(group, v.VFIO_GROUP_GET_DEVICE_FD, bytearray(b"log0\0"))
        self.memory = client.anonymous(self.proc, 64 * PAGE)

    def map(self, page: int, count: int = 1) -> str:
        return self.ask(v.VFIO_IOMMU_MAP_DMA, struct.pack("<IIQQQ", 32, 3, self.memory, page * PAGE, count * PAGE))[0]

    def ask(self, row, data):
        """The answer of the container, and the buffer afterwards."""
        buf = bytearray(data)
        return client.expect(self.proc, self.container.fd, row, buf), bytes(buf)

    def unmap(self, iova, size, flags=0, argsz=24, more=b""):
        """The answer, and how much was unmapped."""
        data = struct.pack("<IIQQ", argsz, flags, iova, size) + more
        answer, buf = self.ask(v.VFIO_IOMMU_UNMAP_DMA, data)
        return answer, struct.unpack_from("<Q", buf, 16)[0]

    def start(self, page_size=PAGE, ranges=((FIRST, 32 * PAGE),)):
        """DMA_LOGGING_START: the page size that it is; an errno is raised."""
        words = b"".join(struct.pack("<QQ", *row) for row in ranges)
        at = self.proc.mem.alloc(len(words) or 8)
        self.proc.mem.write(at, words)
        control = struct.pack("<QIIQ", page_size, len(ranges), 0, at)
        return struct.unpack_from("<Q", self.feature(SET | v.VFIO_DEVICE_FEATURE_DMA_LOGGING_START, control))[0]

    def stop(self):
        self.feature(SET | v.VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP, b"")

    def dirty(self, iova=FIRST, length=32 * PAGE, page_size=PAGE):
        """DMA_LOGGING_REPORT: the bitmap."""
        at = self.proc.mem.alloc(8)
        self.proc.mem.write(at, bytes(8))
        report = struct.pack("<QQQQ", iova, length, page_size, at)
        self.feature(GET | v.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, report)
        return int.from_bytes(self.proc.mem.read(at, 8), "little")

    def feature(self, flags, payload):
        buf = bytearray(struct.pack("<II", 8 + len(payload), flags) + payload)
        self.proc.ioctl(self.fd, v.VFIO_DEVICE_FEATURE, buf)
        return bytes(buf[8:])

    def write_to_page(self, page, count):
        self.toy.write_pages(page, count)
        return self.dirty()


@pytest.fixture(params=["linux-6.1", "linux-6.12"])
def profile(request):
    return request.param


@pytest.fixture
def box(profile):
    return Box(profile)


@pytest.fixture
def log(box):
    """It logs all of the memory."""
    assert box.map(0x10, 32) == "0"
    assert box.start() == PAGE
    return box


# ---- test_dirty_pages.py


def test_dirty_pages_start_zero_pgsize(box):
    assert errno_of(box.start, 0) == EINVAL


def test_dirty_pages_start(box):
    """libvfio-user: a second time is fine. Linux asks the driver; this one's answer comes back, as mlx5's would."""
    box.start()
    assert errno_of(box.start) == EEXIST


@pytest.mark.parametrize("page_size", [PAGE >> 1, PAGE << 1])
def test_dirty_pages_start_different_pgsize(box, page_size):
    """A page size is a wish: Linux says which one the device took. libvfio-user: EINVAL for another one later."""
    assert box.start(page_size) == PAGE


def test_dirty_pages_get_unmodified(log):
    assert log.dirty() == 0


def test_dirty_pages_get_modified(log):
    """Reports clear. A bit can stand for more than a page; for less it is EINVAL in Linux, not in libvfio-user."""
    for page, count in ((0x10, 1), (0x16, 4)):
        log.toy.write_pages(page, count)
    assert log.dirty() == 0b0000001111000001
    for page, count in ((0x10, 1), (0x16, 4)):
        log.toy.write_pages(page, count)
    assert errno_of(log.dirty, FIRST, 32 * PAGE, PAGE >> 1) == EINVAL
    assert log.dirty(page_size=PAGE << 1) == 0b00011001
    for page, count in ((0x10, 1), (0x16, 4)):
        log.toy.write_pages(page, count)
    assert log.dirty(page_size=PAGE << 4) == 0b1
    assert log.dirty(page_size=PAGE << 4) == 0b0
    for page, count, bits in (
        (0x10, 1, 0b0000000000000001),
        (0x17, 1, 0b0000000010000000),
        (0x10, 7, 0b0000000001111111),
        (0x10, 8, 0b0000000011111111),
        (0x10, 9, 0b0000000111111111),
        (0x17, 2, 0b0000000110000000),
        (0x1F, 1, 0b1000000000000000),
        (0x27, 1, 0b100000000000000000000000),
    ):
        assert log.write_to_page(page, count) == bits
    log.toy.write_pages(0x26, 1)
    assert log.write_to_page(0x12, 2) == 0b010000000000000000001100
    assert log.dirty() == 0


def test_dirty_pages_invalid_arguments(log):
    """
    Linux does not know what is mapped, nor do reports have to be of whole ranges: nothing was written there.

    libvfio-user has ENOENT, ENOTSUP and EINVAL for such. A page size that is no power of two is EINVAL.
    """
    assert log.dirty(0xDEADBEEF) == 0
    assert log.dirty(FIRST + 1, 32 * PAGE - 1) == 0
    assert log.dirty(page_size=1 << 24) == 0
    assert log.dirty(0x40 * PAGE) == 0
    assert errno_of(log.dirty, FIRST, PAGE, 3 * PAGE) == EINVAL


def test_dirty_pages_stop(log):
    log.toy.write_pages(0x10, 1)
    log.stop()
    assert log.dirty() == 0


def test_dirty_pages_uninitialised_dma(profile):
    """A device that keeps no log has no such feature: ENOTTY in Linux, EINVAL in libvfio-user."""
    box = Box(profile, lambda dev: Toy(dev, []))
    assert errno_of(box.start) == ENOTTY
    assert errno_of(box.dirty) == ENOTTY


def test_dirty_pages_ctx_no_stop(box):
    """Unmapping does not touch the log in Linux (libvfio-user: ENOENT then). A driver ends it when it is closed."""
    assert box.map(0x10, 16) == box.map(0x30, 16) == "0"
    box.start(ranges=((0x10 * PAGE, 16 * PAGE), (0x30 * PAGE, 16 * PAGE)))
    box.toy.write_pages(0x10, 1)
    box.toy.write_pages(0x30, 1)
    assert box.unmap(0x10 * PAGE, 16 * PAGE) == ("0", 16 * PAGE)
    assert errno_of(vfio_dma_write, box.toy, 0x10 * PAGE, b"x") == EINVAL
    assert box.dirty(0x10 * PAGE, 16 * PAGE) == box.dirty(0x30 * PAGE, 16 * PAGE) == 0b1
    box.proc.close(box.fd)
    assert box.toy.ranges == []


# ---- test_dma_map.py


def test_dma_region_too_big(box):
    """libvfio-user has a greatest region, ENOSPC. Linux has the last address: EINVAL to go beyond it."""
    data = struct.pack("<IIQQQ", 32, 3, box.memory, 0x10 * PAGE, -PAGE % (1 << 64))
    assert box.ask(v.VFIO_IOMMU_MAP_DMA, data)[0] == "EINVAL"


def test_dma_region_too_many(profile):
    """Linux: ENOSPC at the module's dma_entry_limit. libvfio-user: EINVAL."""
    box = Box(profile, limit=REGIONS)
    assert [box.map(page) for page in range(1, REGIONS + 2)] == ["0"] * REGIONS + ["ENOSPC"]


# ---- test_dma_unmap.py


def test_dma_unmap_short_write(box):
    assert box.ask(v.VFIO_IOMMU_UNMAP_DMA, bytes(24))[0] == "EINVAL"


def test_dma_unmap_bad_argsz(box):
    assert box.unmap(PAGE, PAGE, argsz=8)[0] == "EINVAL"


def test_dma_unmap_bad_argsz2(box):
    """More room than a kernel knows what to do with is fine for Linux; libvfio-user has a limit, EINVAL."""
    assert box.map(1) == "0"
    assert box.unmap(PAGE, PAGE, argsz=(1 << 20) + 8) == ("0", PAGE)


def test_dma_unmap_dirty_bad_argsz(box):
    """A bitmap whose size makes no sense; and where it should be, nothing."""
    assert box.map(1) == "0"
    bitmap = struct.pack("<QQQ", PAGE, (1 << 64) - 48 + 8, box.memory)
    assert box.unmap(PAGE, PAGE, BITMAP, 48, bitmap)[0] == "EINVAL"
    assert box.unmap(PAGE, PAGE, BITMAP, 40, bitmap)[0] == "EINVAL"


def test_dma_unmap_dirty_not_tracking(box):
    assert box.map(1) == "0"
    assert box.unmap(PAGE, PAGE, BITMAP, 48, struct.pack("<QQQ", PAGE, 8, box.memory))[0] == "EINVAL"


def test_dma_unmap_invalid_flags(box):
    """What is 4 for libvfio-user's test is a flag of Linux, VADDR; 8 is none."""
    assert box.map(0) == "0"
    assert box.unmap(PAGE, PAGE, 8)[0] == "EINVAL"


def test_dma_unmap(box):
    assert box.map(0) == "0"
    assert box.unmap(0, PAGE) == ("0", PAGE)


def test_dma_unmap_invalid_addr(box):
    """Nothing is there: Linux unmaps as much, and that is no error. libvfio-user: ENOENT."""
    assert box.map(0) == "0"
    assert box.unmap(0x10 * PAGE, PAGE) == ("0", 0)


def test_dma_unmap_all(box):
    assert [box.map(page) for page in range(REGIONS)] == ["0"] * REGIONS
    assert box.unmap(0, 0, ALL) == ("0", REGIONS * PAGE)


def test_dma_unmap_all_invalid_addr(box):
    assert box.unmap(0x10 * PAGE, PAGE, ALL)[0] == "EINVAL"


def test_dma_unmap_all_invalid_flags(box):
    bitmap = struct.pack("<QQQ", PAGE, 8, box.memory)
    assert box.unmap(0, 0, ALL | BITMAP, 48, bitmap)[0] == "EINVAL"


# ---- test_sgl_read_write.py: a device reads and writes the memory of its user


@pytest.mark.parametrize("length", [64])
def test_dma_read_write(box, length):
    assert box.map(0x10, 4) == "0"
    data = bytes(x & 0xFF for x in range(length))
    vfio_dma_write(box.toy, 0x11 * PAGE, data)
    assert vfio_dma_read(box.toy, 0x11 * PAGE, length) == data
    assert box.proc.mem.read(box.memory + PAGE, length) == data


def test_dma_read_write_large(box):
    """Over several pages."""
    test_dma_read_write(box, 2 * PAGE + 42)


def test_dma_read_write_error(box):
    """What is not mapped is no memory. Linux: EINVAL; memory that the user gave back: EFAULT."""
    assert errno_of(vfio_dma_write, box.toy, 0, b"x") == EINVAL
    assert box.map(0) == "0"
    box.proc.munmap(box.memory, PAGE)
    assert errno_of(vfio_dma_write, box.toy, 0, b"x") == EFAULT
