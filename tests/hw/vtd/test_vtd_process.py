"""Processes' memory through the unit: page tables of simulated ones, and frames that stand for real ones."""

from __future__ import annotations

import mmap
from errno import EFAULT
from typing import Any

import pytest

from pykernel.errors import err
from pykernel.mm.uaccess import UserMemory
from pykernel.pci.function import DmaFault

RW, PRIVATE = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


@pytest.fixture
def shared(bench):
    """A device that shares a process's address space with PASID 201."""
    b = bench()
    b.scalable()
    b.proc = b.kernel.process()
    b.first(201, b.proc.mem.pgd())
    b.on()
    yield b
    b.proc.exit()


def test_the_pages_that_are_there(shared):
    b = shared
    addr = b.proc.mmap(0, 3 * 4096, RW, PRIVATE)
    b.proc.mem.write(addr, b"by the process")
    assert b.slot.dma_read(addr, 14, 201) == b"by the process"
    b.slot.dma_write(addr + 3, b"device", 201)
    assert b.proc.mem.read(addr, 9) == b"by device"
    (view,) = b.slot.dma_view(addr, 4096, write=True, pasid=201)
    view[:2] = b"in"
    assert b.proc.mem.read(addr, 2) == b"in"


def test_pages_that_are_not_there_and_rights(shared):
    b = shared
    addr = b.proc.mmap(0, 3 * 4096, RW, PRIVATE)
    b.proc.mem.write(addr, b"x")
    with pytest.raises(DmaFault) as e:
        b.slot.dma_write(addr + 4000, bytes(200), 201)
    assert (e.value.addr, b.fault()[0]) == (addr + 4096, 0x71)
    b.proc.mem.write(addr + 4096, b"y")
    b.slot.dma_write(addr + 4000, bytes(200), 201)
    b.proc.mprotect(addr, 4096, mmap.PROT_READ)
    b.submit((6 | 2 << 4 | 1 << 16 | 201 << 32, 0))
    assert b.slot.dma_read(addr, 1, 201) == b"x"
    with pytest.raises(DmaFault):
        b.slot.dma_write(addr, b"z", 201)
    assert b.fault()[0] == 0x85


def test_a_stale_translation_is_another_processs_memory_unless_invalidated(shared):
    """Why unmapping ends with an invalidation: the frame is somebody else's by then."""
    b = shared
    addr = b.proc.mmap(0, 4096, RW, PRIVATE)
    b.proc.mem.write(addr, b"ours")
    frame = b.proc.mem.translate(addr)
    assert b.slot.dma_read(addr, 4, 201) == b"ours"
    b.proc.munmap(addr, 4096)
    b.phys.write(frame, b"else")
    assert b.slot.dma_read(addr, 4, 201) == b"else", "stale"
    b.submit((6 | 3 << 4 | 1 << 16 | 201 << 32, addr))
    with pytest.raises(DmaFault):
        b.slot.dma_read(addr, 4, 201)


class Host(UserMemory):
    """What stands for a real process: one page, of which the second half is read-only."""

    def __init__(self, phys) -> None:
        self.phys = phys
        self.data = bytearray(4096)

    def copy_from(self, addr, buf):
        view = memoryview(buf).cast("B")
        if not 0x1000 <= addr <= addr + len(view) <= 0x2000:
            return len(view)
        view[:] = self.data[addr - 0x1000 : addr - 0x1000 + len(view)]
        return 0

    def copy_to(self, addr, data: Any):
        if not 0x1000 <= addr <= addr + len(data) <= 0x1800:
            return len(data)
        self.data[addr - 0x1000 : addr - 0x1000 + len(data)] = data
        return 0

    def pin_user_pages(self, addr, npages, *, write):
        raise err(EFAULT)


def test_a_real_processs_frame_stands_for_its_memory(bench):
    """Reads and writes go there; what fails is a page that is not there, of which nothing is recorded."""
    b = bench()
    b.scalable()
    mem = Host(b.phys)
    b.first(201, mem.pgd())
    b.on()
    b.slot.dma_write(0x1000, b"ab", 201)
    assert b.slot.dma_read(0x1000, 2, 201) == bytes(mem.data[:2]) == b"ab"
    assert b.slot.dma_view(0x1000, 2, write=False, pasid=201) is None
    with pytest.raises(DmaFault) as e:
        b.slot.dma_read(0x1FFE, 4, 201)
    assert e.value.addr == 0x2000
    with pytest.raises(DmaFault) as e:
        b.slot.dma_write(0x1FFE, b"xy", 201)
    assert e.value.addr == 0x1FFE
    assert b.fault() is None
