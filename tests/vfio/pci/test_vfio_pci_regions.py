"""Regions of vfio-pci: GET_INFO, REGION_INFO, reads, writes, mappings. Rows of vfio_pci_core.c and vfio_pci_rdwr.c."""

from __future__ import annotations

import mmap
from errno import EFAULT, EINVAL, EIO

import pytest
from errnos import errno_of
from vfiocard import PBA, TABLE, VECTORS, Card, rom_image
from vfioclient import capabilities

from pykernel.uapi.linux import vfio as v

READ, WRITE, MMAP, CAPS = 1, 2, 4, 8
BEHIND = (1 << 40) - 8


def info(box, index, argsz=32, cap_offset=0x55):
    buf = bytearray(bytes(v.vfio_region_info(argsz=argsz, index=index, cap_offset=cap_offset))) + bytearray(64)
    box.proc.ioctl(box.device.fd, v.VFIO_DEVICE_GET_REGION_INFO, buf)
    return v.vfio_region_info.from_bytes(bytes(buf[:32])), buf


REGIONS = [
    pytest.param(0, 0x4000, READ | WRITE | MMAP | CAPS, id="BAR0, 64 bits, MSI-X table"),
    pytest.param(1, 0, 0, id="BAR1, upper half of BAR0"),
    pytest.param(2, 0x1000, READ | WRITE | MMAP, id="BAR2, 32 bits, a page"),
    pytest.param(3, 0x100, READ | WRITE | MMAP, id="BAR3, part of a page that it has alone"),
    pytest.param(4, 0x20, READ | WRITE, id="BAR4, ports"),
    pytest.param(5, 0, 0, id="BAR5, none"),
    pytest.param(6, 0x10000, READ, id="ROM, the BAR's length"),
    pytest.param(7, 0x1000, READ | WRITE, id="CONFIG"),
]


@pytest.mark.parametrize(("index", "size", "flags"), REGIONS)
def test_region_info(box, index, size, flags):
    got, _ = info(box, index)
    assert (got.size, got.flags, got.offset, got.index) == (size, flags, index << 40, index)
    assert got.cap_offset == (0 if flags & CAPS else 0x55)  # without capabilities it is not touched
    assert got.argsz == (40 if flags & CAPS else 32)


@pytest.mark.parametrize("index", [8, 9, 10, 0xFFFFFFFF])
def test_region_that_is_not_there(box, index):
    assert errno_of(info, box, index) == EINVAL


@pytest.mark.parametrize(("argsz", "want"), [(0, EINVAL), (31, EINVAL), (32, 0), (33, 0), (4096, 0)])
def test_argsz_of_region_info(box, argsz, want):
    assert errno_of(info, box, 2, argsz) == want


def test_the_bar_with_the_msix_table_can_be_mapped_whole(box):
    got, buf = info(box, 0, argsz=40)
    assert (got.argsz, got.cap_offset) == (40, 32)
    assert capabilities(buf[:40], 32) == {v.VFIO_REGION_INFO_CAP_MSIX_MAPPABLE: b""}


def test_short_room_for_the_capability_is_told_not_refused(box):
    got, buf = info(box, 0, argsz=39)
    assert (got.argsz, got.cap_offset, got.flags & CAPS) == (40, 0, CAPS)
    assert buf[32:] == bytes(64)


@pytest.mark.parametrize(
    ("rom", "size"),
    [(rom_image(), 0x10000), (b"\xff\xff", 0), (b"", 0)],
    ids=["an image", "no signature", "no ROM"],
)
def test_rom_region(make_box, rom, size):
    box = make_box(Card(rom=rom))
    got, _ = info(box, 6)
    assert (got.size, got.flags) == (size, READ if size else 0)


def test_device_info_by_size(box, profile):
    """6.1 fills 16 bytes, or 20; later kernels as many as there is room for."""

    def ask(argsz):
        buf = bytearray(argsz.to_bytes(4, "little") + b"\xee" * 36)
        box.proc.ioctl(box.device.fd, v.VFIO_DEVICE_GET_INFO, buf)
        return buf

    head = (3).to_bytes(4, "little") + (9).to_bytes(4, "little") + (5).to_bytes(4, "little")
    filled = {
        "linux-6.1": {16: 16, 19: 16, 20: 20, 24: 20, 40: 20},
        "linux-6.12": {16: 16, 19: 19, 20: 20, 24: 24, 40: 24},
    }
    for argsz, n in filled[profile].items():
        buf = ask(argsz)
        assert buf[4:16] == head
        assert buf[16:n] == bytes(n - 16)
        assert buf[n:] == b"\xee" * (40 - n)
    assert errno_of(ask, 15) == EINVAL


def test_device_without_a_way_to_be_reset_has_no_flag(make_box):
    box = make_box(Card(flr=False))
    assert box.device.info.flags == v.VFIO_DEVICE_FLAGS_PCI
    assert errno_of(box.device.reset) == EINVAL


# ---- reads and writes

ACCESS = [
    pytest.param(0, 0, 0, 0, id="nothing"),
    pytest.param(0, 0x3FF0, 0x10, 0x10, id="up to the end"),
    pytest.param(0, 0x3FF8, 0x10, 8, id="over the end: short"),
    pytest.param(0, 0x4000, 4, EINVAL, id="behind the end"),
    pytest.param(0, BEHIND, 4, EINVAL, id="far behind the end"),
    pytest.param(1, 0, 4, EINVAL, id="no BAR"),
    pytest.param(4, 0x1E, 4, 2, id="ports, over the end"),
    pytest.param(6, 0, 4, 4, id="ROM"),
    pytest.param(6, 0xFFFE, 4, 2, id="ROM, over the end"),
    pytest.param(6, 0x10000, 4, EINVAL, id="ROM, behind the end"),
    pytest.param(7, 0xFFC, 4, 4, id="CONFIG, last word"),
    pytest.param(7, 0xFFC, 8, EFAULT, id="CONFIG, over the end: nothing"),
    pytest.param(7, 0x1000, 1, EFAULT, id="CONFIG, behind the end"),
    pytest.param(8, 0xA0000, 4, EINVAL, id="VGA, none"),
    pytest.param(9, 0, 4, EINVAL, id="no region"),
    pytest.param(99, 0, 4, EINVAL, id="no region at all"),
]


@pytest.mark.parametrize(("index", "pos", "count", "want"), ACCESS)
def test_read(box, index, pos, count, want):
    def read():
        return len(box.proc.pread(box.device.fd, count, (index << 40) + pos))

    if want in (EINVAL, EFAULT):
        assert errno_of(read) == want
    else:
        assert read() == want


@pytest.mark.parametrize(("index", "pos", "count", "want"), ACCESS)
def test_write(box, index, pos, count, want):
    def write():
        return box.proc.pwrite(box.device.fd, bytes(count), (index << 40) + pos)

    if index == 6:
        want = EINVAL
    if want in (EINVAL, EFAULT):
        assert errno_of(write) == want
    else:
        assert write() == want


WIDTHS = {
    "linux-6.1": {
        (0, 8): [(0, 4), (4, 4)],
        (3, 8): [(3, 1), (4, 4), (8, 2), (10, 1)],
        (8, 24): [(8 + 4 * i, 4) for i in range(6)],
    },
    "linux-6.12": {(0, 8): [(0, 8)], (3, 8): [(3, 1), (4, 4), (8, 2), (10, 1)], (8, 24): [(8, 8), (16, 8), (24, 8)]},
}


@pytest.mark.parametrize("way", ["r", "w"])
@pytest.mark.parametrize("piece", list(WIDTHS["linux-6.1"]), ids=str)
def test_pieces_are_naturally_aligned(box, profile, way, piece):
    pos, count = piece
    box.silicon.log.clear()
    if way == "r":
        assert box.proc.pread(box.device.fd, count, (2 << 40) + pos) == bytes(range(pos, pos + count))
    else:
        assert box.proc.pwrite(box.device.fd, bytes(count), (2 << 40) + pos) == count
    assert box.silicon.log == [(way, 2, at, size) for at, size in WIDTHS[profile][piece]]


def test_the_rom_is_read_in_words_and_is_all_ones_behind_its_image(box):
    data = box.device.region(6).read(0, 1024)
    assert data == rom_image() + b"\xff" * 512
    assert box.hw(0x30, 1) & 1 == 0  # it decodes while it is read only


def test_the_msix_table_reads_as_ones_and_cannot_be_written(box):
    region = box.device.region(0)
    size = 16 * VECTORS
    assert region.read(TABLE - 4, size + 8) == bytes(range(0xFC, 0x100)) + b"\xff" * size + bytes(
        [0x80, 0x81, 0x82, 0x83]
    )
    before = bytes(box.silicon.msix.entries)
    assert region.write(TABLE - 4, bytes(size + 8)) == size + 8
    assert bytes(box.silicon.msix.entries) == before
    assert region.read(TABLE - 4, 4) == region.read(TABLE + size, 4) == bytes(4)
    assert region.read(PBA, 8) == bytes(8)


@pytest.mark.parametrize("how", ["COMMAND", "D3hot"])
def test_memory_that_is_not_decoded(box, how):
    """Reads and writes are EIO, mapped pages bus errors, until it is decoded again; ports are not concerned."""
    region, ports = box.device.region(2), box.device.region(4)
    at = region.mmap()
    off, on = {"COMMAND": ((4, 2, 0x401), (4, 2, 0x403)), "D3hot": ((0x44, 2, 3), (0x44, 2, 0))}[how]
    assert box.proc.load(at, 4) == bytes(range(4))

    box.set_config(*off)

    assert errno_of(region.read, 0, 4) == EIO
    assert errno_of(region.write, 0, b"\1") == EIO
    assert errno_of(box.proc.load, at, 4) == EFAULT
    assert errno_of(box.proc.store, at, b"\1") == EFAULT
    if how == "COMMAND":
        assert ports.read(0, 4) == bytes(range(4))
    box.set_config(*on)
    assert box.proc.load(at, 4) == region.read(0, 4) == bytes(range(4))


MAPPINGS = [
    pytest.param(0, 0, 0x4000, mmap.MAP_SHARED, 0, id="whole, the MSI-X table too"),
    pytest.param(0, 0x1000, 0x1000, mmap.MAP_SHARED, 0, id="a page of it"),
    pytest.param(0, 0x1000, 0x4000, mmap.MAP_SHARED, EINVAL, id="over the end"),
    pytest.param(0, 0, 0x4000, mmap.MAP_PRIVATE, EINVAL, id="private"),
    pytest.param(1, 0, 0x1000, mmap.MAP_SHARED, EINVAL, id="no BAR"),
    pytest.param(3, 0, 0x1000, mmap.MAP_SHARED, 0, id="less than a page: its page"),
    pytest.param(3, 0, 0x2000, mmap.MAP_SHARED, EINVAL, id="less than a page: no more"),
    pytest.param(4, 0, 0x1000, mmap.MAP_SHARED, EINVAL, id="ports"),
    pytest.param(6, 0, 0x1000, mmap.MAP_SHARED, EINVAL, id="ROM"),
    pytest.param(7, 0, 0x1000, mmap.MAP_SHARED, EINVAL, id="CONFIG"),
    pytest.param(8, 0, 0x1000, mmap.MAP_SHARED, EINVAL, id="VGA"),
    pytest.param(9, 0, 0x1000, mmap.MAP_SHARED, EINVAL, id="no region"),
]


@pytest.mark.parametrize(("index", "pos", "size", "flags", "want"), MAPPINGS)
def test_mmap(box, index, pos, size, flags, want):
    def map_it():
        return box.proc.mmap(0, size, 3, flags, box.device.fd, (index << 40) + pos)

    assert errno_of(map_it) == want


def test_a_mapping_reaches_registers_and_portals(box):
    at = box.device.region(2).mmap()
    box.silicon.log.clear()
    box.proc.store(at + 0x10, b"\1\2\3\4")
    box.proc.movdir64b(at + 0x40, bytes(64))
    assert box.silicon.log == [("w", 2, 0x10, 4), ("64", 2, 0x40, 64)]
    assert errno_of(box.proc.enqcmd, at + 0x80, bytes(64)) == EFAULT  # no PASID for this process: #GP
    assert box.proc.load(at + 0x10, 4) == b"\1\2\3\4"


def test_a_mapping_keeps_the_device_open(box):
    at = box.device.region(2).mmap()
    box.device.close()
    assert box.attr("enable") == "1"
    box.proc.munmap(at, 0x1000)
    assert box.attr("enable") == "0"


def test_bars_are_dma_targets_at_their_physical_address(box):
    """Peer to peer: type 1 maps a mapped BAR."""
    at = box.device.region(2).mmap()
    box.container.map(at, 0x100000, 0x1000)
    box.device.enable_memory()
    assert box.silicon.dma_read(0x100010, 4) == bytes(range(0x10, 0x14))


def test_vga_ranges(make_box):
    box = make_box(Card(class_code=0x030000))
    got, _ = info(box, 8)
    assert (got.size, got.flags) == (0xC0000, READ | WRITE)
    for pos, count, want in ((0xA0000, 4, 4), (0xBFFFE, 4, 2), (0x3B0, 1, 1), (0x3BB, 4, 1), (0x3DF, 2, 1)):
        assert len(box.proc.pread(box.device.fd, count, (8 << 40) + pos)) == want
        assert box.proc.pwrite(box.device.fd, bytes(count), (8 << 40) + pos) == want
    for pos in (0, 0x3AF, 0x3BC, 0x3E0, 0x9FFFF, 0xC0000):
        assert errno_of(box.proc.pread, box.device.fd, 1, (8 << 40) + pos) == EINVAL
    assert ("r", 0xA0000, 4) in box.silicon.vga
    assert ("w", 0x3BB, 1) in box.silicon.vga


def test_disable_vga(make_box):
    box = make_box(Card(class_code=0x030000), "disable_vga=1")
    assert errno_of(info, box, 8) == EINVAL
