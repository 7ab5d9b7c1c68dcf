"""The DMA API: bus addresses, masks, lazy and strict unmapping (drivers/iommu/dma-iommu.c, kernel/dma/direct.h)."""

from __future__ import annotations

import errno
from types import SimpleNamespace

import pytest

from pykernel.iommu.dma import (
    DmaDirection,
    dma_alloc_coherent,
    dma_free_coherent,
    dma_map_page,
    dma_map_sg,
    dma_map_single,
    dma_unmap_page,
    dma_unmap_sg,
    dma_unmap_single,
)
from pykernel.pci.function import DmaFault

BIDIRECTIONAL, TO_DEVICE, FROM_DEVICE = DmaDirection.BIDIRECTIONAL, DmaDirection.TO_DEVICE, DmaDirection.FROM_DEVICE
MS = 10**6
STRICT = "iommu.strict=1"


@pytest.fixture
def frames():
    """Frames of a world, given back before it ends."""
    taken = []

    def take(w, n: int) -> int:
        taken.append((w, w.phys.alloc_pages(n), n))
        return taken[-1][1]

    def free() -> None:
        for w, pa, n in taken:
            w.phys.free_pages(pa, n)

    return SimpleNamespace(take=take, free=free)


# ---- addresses


@pytest.mark.parametrize("bits", [32, 64])
def test_addresses_come_from_the_top_of_the_32_bit_space(world, bits):
    """Downwards from 4 GiB, aligned to their size, below the interrupts' range when it is in the way."""
    w = world()
    w.dev.set_dma_mask(bits)
    buffers = [dma_alloc_coherent(w.dev, size) for size in (100, 4096, 5000, 0x4000)]
    assert [b.addr for b in buffers] == [0xFFFFF000, 0xFFFFE000, 0xFFFFC000, 0xFFFF8000]
    large = dma_alloc_coherent(w.dev, 0x1000000)
    assert large.addr == 0xBF000000, "neither the interrupts' range nor the host bridge's windows are given"
    for buffer in (*buffers, large):
        dma_free_coherent(buffer)


@pytest.mark.parametrize(
    ("bits", "addr"), [(30, 0x3FFFF000), (28, 0x0FFFF000), (24, 0x00FFF000)], ids=["1-GiB", "256-MiB", "16-MiB"]
)
def test_a_mask_limits_the_address(world, bits, addr):
    w = world()
    w.dev.set_dma_mask(bits)
    buffer = dma_alloc_coherent(w.dev, 4096)
    assert buffer.addr == addr
    w.dev.function.dma_write(buffer.addr, b"dev")
    assert buffer.read(0, 3) == b"dev"
    dma_free_coherent(buffer)


def test_no_address_is_left(world, fails):
    """With 14 bits there are three pages; page 0 is never given."""
    w = world(cmdline=STRICT)
    w.dev.set_dma_mask(14)
    buffers = [dma_alloc_coherent(w.dev, 4096) for _ in range(3)]
    assert [b.addr for b in buffers] == [0x3000, 0x2000, 0x1000]
    used = w.phys.used
    assert fails(dma_alloc_coherent, w.dev, 4096) == errno.ENOMEM
    assert w.phys.used == used
    dma_free_coherent(buffers.pop(1))
    again = dma_alloc_coherent(w.dev, 4096)
    assert again.addr == 0x2000
    for buffer in (*buffers, again):
        dma_free_coherent(buffer)


@pytest.mark.parametrize(("profile", "told"), [("linux-6.1", False), ("linux-6.12", True)])
def test_above_4_gib_when_nothing_else_is_left(world, profile, told):
    w = world(profile=profile)
    w.dev.set_dma_mask(64)
    first = dma_alloc_coherent(w.dev, 4096)
    iovad = w.group.default_domain.cookie.iovad
    iovad.reserve(1, 0xFFFFE)
    above = dma_alloc_coherent(w.dev, 4096)
    assert above.addr == (1 << 47) - 4096
    said = ["pci 0000:6a:01.0: Using 47-bit DMA addresses"] if told else []
    assert w.log("DMA addresses") == said
    for buffer in (first, above):
        dma_free_coherent(buffer)


def test_forcedac_uses_all_of_the_mask(world):
    w = world(cmdline="iommu.forcedac=1")
    w.dev.set_dma_mask(40)
    buffer = dma_alloc_coherent(w.dev, 4096)
    assert buffer.addr == (1 << 40) - 4096
    dma_free_coherent(buffer)


@pytest.mark.parametrize("how", ["", "pt"])
def test_physical_addresses(world, frames, fails, how):
    """Without an IOMMU, or with an identity domain; beyond the mask it is ENOMEM and told."""
    w = world("" if how else "enabled = false", cmdline="iommu=pt" if how else "")
    buffer = dma_alloc_coherent(w.dev, 4096)
    assert buffer.addr == buffer.pa
    pa = frames.take(w, 1)
    assert dma_map_single(w.dev, pa + 5, 10, TO_DEVICE) == pa + 5
    w.dev.set_dma_mask(12)
    assert fails(dma_map_single, w.dev, pa, 10, TO_DEVICE) == errno.ENOMEM
    assert w.log("overflow") == [f"pci 0000:6a:01.0: DMA addr 0x{pa:016x}+10 overflow (mask fff, bus limit 0)."]
    dma_free_coherent(buffer)
    frames.free()


# ---- streaming mappings


def test_a_mapping_has_the_offset_of_the_page_and_the_direction(world, frames):
    """To the device: it may only read. The rest of the page is reachable, as on real hardware."""
    w = world()
    pa = frames.take(w, 2)
    w.phys.write(pa + 0xF80, b"payload")
    addr = dma_map_single(w.dev, pa + 0xF80, 0x100, TO_DEVICE)
    assert addr & 0xFFF == 0xF80
    assert w.dev.function.dma_read(addr, 7) == b"payload"
    with pytest.raises(DmaFault):
        w.dev.function.dma_write(addr, b"x")
    assert w.log("fault reason")[0].endswith("[fault reason 0x85] SM: No write permission for Write/AtomicOp request")
    dma_unmap_single(w.dev, addr, 0x100, TO_DEVICE)
    page = dma_map_page(w.dev, pa, 16, 32, FROM_DEVICE)
    w.dev.function.dma_write(page, b"from")
    assert w.phys.read(pa + 16, 4) == b"from"
    dma_unmap_page(w.dev, page, 32, FROM_DEVICE)
    frames.free()


def test_scatter_gather_maps_all_or_nothing(world, frames, fails):
    w = world(cmdline=STRICT)
    pa = frames.take(w, 4)
    sg = [(pa, 100), (pa + 8192, 4096)]
    mapped = dma_map_sg(w.dev, sg, BIDIRECTIONAL)
    assert [size for _, size in mapped] == [100, 4096]
    assert [w.group.default_domain.iova_to_phys(addr) for addr, _ in mapped] == [pa, pa + 8192]
    dma_unmap_sg(w.dev, mapped, BIDIRECTIONAL)
    with w.kernel.faults.fail("alloc", "dma_map*", nth=2):
        assert fails(dma_map_sg, w.dev, sg, BIDIRECTIONAL) == errno.ENOMEM
    assert [w.group.default_domain.iova_to_phys(addr) for addr, _ in mapped] == [None, None]
    frames.free()


def test_what_is_mapped_twice_has_two_addresses(world, frames):
    w = world()
    pa = frames.take(w, 1)
    a, b = (dma_map_single(w.dev, pa, 4096, BIDIRECTIONAL) for _ in "ab")
    assert a != b
    w.dev.function.dma_write(a, b"one")
    assert w.dev.function.dma_read(b, 3) == b"one"
    for addr in (a, b):
        dma_unmap_single(w.dev, addr, 4096, BIDIRECTIONAL)
    frames.free()


# ---- lazy and strict


def test_strict_unmapping_takes_effect_at_once(world):
    w = world(cmdline=STRICT)
    buffer = dma_alloc_coherent(w.dev, 4096)
    assert w.dev.function.dma_read(buffer.addr, 4) == bytes(4)
    dma_free_coherent(buffer)
    with pytest.raises(DmaFault):
        w.dev.function.dma_read(buffer.addr, 4)


def test_lazy_unmapping_lets_a_device_through_for_10_ms(world):
    """DMA-FQ: what the IOTLB knows stays usable until the flush queue's timer; the address is not given until then."""
    w = world()
    buffer = dma_alloc_coherent(w.dev, 4096)
    assert w.dev.function.dma_read(buffer.addr, 4) == bytes(4)
    dma_free_coherent(buffer)
    assert w.dev.function.dma_read(buffer.addr, 4) == bytes(4), "stale"
    other = dma_alloc_coherent(w.dev, 4096)
    assert other.addr == buffer.addr - 4096
    w.sleep(9 * MS)
    assert w.dev.function.dma_read(buffer.addr, 4) == bytes(4)
    w.sleep(1 * MS)
    with pytest.raises(DmaFault):
        w.dev.function.dma_read(buffer.addr, 4)
    again = dma_alloc_coherent(w.dev, 4096)
    assert again.addr == buffer.addr
    for freed in (other, again):
        dma_free_coherent(freed)


def test_a_full_flush_queue_is_flushed(world, frames):
    """IOVA_FQ_SIZE is 256, one place of the ring stays empty: the 256th unmapping flushes."""
    w = world()
    pa = frames.take(w, 1)
    addrs = [dma_map_single(w.dev, pa, 4096, BIDIRECTIONAL) for _ in range(256)]
    for addr in addrs:
        w.dev.function.dma_read(addr, 1)
    for addr in addrs[:255]:
        dma_unmap_single(w.dev, addr, 4096, BIDIRECTIONAL)
    w.dev.function.dma_read(addrs[0], 1)
    dma_unmap_single(w.dev, addrs[255], 4096, BIDIRECTIONAL)
    with pytest.raises(DmaFault):
        w.dev.function.dma_read(addrs[0], 1)
    frames.free()


def test_buffers_that_are_not_freed_are_leaks(world):
    w = world()
    buffer = dma_alloc_coherent(w.dev, 5000)
    assert [line.partition(" at ")[0] for line in w.kernel.leaks()] == ["5000 bytes of DMA memory"]
    dma_free_coherent(buffer)
    assert w.kernel.leaks() == []


def test_frames_and_tables_come_back(world):
    w = world(cmdline=STRICT)
    used = w.phys.used
    buffers = [dma_alloc_coherent(w.dev, 1 << 20) for _ in range(20)]
    for buffer in buffers:
        dma_free_coherent(buffer)
    table = w.group.default_domain.table
    assert w.phys.used - used == table.frames - 1, "tables above those that were covered stay, as in Linux"
    table.free_frames(table.unmap(0, (1 << 35) - 1))
    assert w.phys.used == used
