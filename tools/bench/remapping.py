"""What the remapping unit costs: walks and caches of tables that lie in RAM, invalidations, page requests."""

from __future__ import annotations

from collections.abc import Iterator
from struct import pack
from typing import Any

import pykernel
from pykernel.hw.vtd import regs as r
from pykernel.machine import parse
from pykernel.mm.phys import PAGE_SIZE, PhysMem
from pykernel.pci.core import Pci
from pykernel.tools.bench.measure import Row, per_call

__all__ = ["rows"]

# the driver stays away from the unit: the tables here are this file's
MACHINE = "cmdline = 'intel_iommu=off'\nmemory = '256M'\n[[pci]]\nmodel = 'edu'\naddress = '0000:00:05.0'\n"
RW, PRIVATE = 3, 0x22
TABLE = 7
SVA, NESTED = 201, 202
DID = 5
GVA = 0x10000


class _Bench:
    """The unit of a machine, with a device that has two PASIDs."""

    def __init__(self) -> None:
        self.kernel = pykernel.boot(parse(MACHINE))
        self.kernel.up()
        self.phys = self.kernel.sub(PhysMem)
        self.unit: Any = self.kernel.dmar
        dev = self.kernel.sub(Pci).devices["0000:00:05.0"]
        dev.set_master()
        self.slot = dev.slot
        self.process = self.kernel.process()
        self.addr = self.process.mmap(0, 16 * PAGE_SIZE, RW, PRIVATE)
        self.process.mem.write(self.addr, bytes(16 * PAGE_SIZE))
        self._program()

    def page(self, *words: int) -> int:
        """A frame with *words* in it."""
        pa = self.phys.alloc_page()
        self.phys.write(pa, pack(f"<{len(words)}Q", *words))
        return pa

    def _program(self) -> None:
        phys, unit = self.phys, self.unit
        directory, entries, context = phys.alloc_pages(32), self.page(), self.page()
        phys.write(context + self.slot.source % 128 * 32, pack("<Q", directory | 7 << 9 | 25))
        for pasid, words in (
            (SVA, (1 | 1 << 6, 1, self.process.mem.pgd())),
            (NESTED, (1 | 3 << 6 | 2 << 2 | self._identity(), DID, self._guest())),
        ):
            phys.write(directory + (pasid >> 6) * 8, pack("<Q", entries | 1))
            phys.write(entries + (pasid & 63) * 64, pack("<3Q", *words))
        self.queue, self.status = phys.alloc_pages(2), self.page()
        self.tail = 0
        unit.writeq(r.RTADDR, self.page(context | 1) | 1 << 10)
        unit.writel(r.GCMD, r.SRTP)
        unit.writeq(r.IQA, self.queue | 1 << 11 | 1)
        unit.writeq(r.PQA, self.page())
        unit.writel(r.GCMD, r.TE | r.QIE)

    def _identity(self) -> int:
        """Second-stage tables of 2 MiB pages for the first GiB."""
        leaves = self.page(*(n << 21 | RW | 1 << 7 for n in range(512)))
        return self.page(self.page(leaves | RW) | RW)

    def _guest(self) -> int:
        """First-stage tables with 16 pages at GVA."""
        leaf = self.page(*([0] * 16), *(self.page() | TABLE for _ in range(16)))
        return self.page(self.page(self.page(leaf | TABLE) | TABLE) | TABLE)

    def submit(self, *words: int) -> None:
        """A descriptor, and a wait descriptor behind it."""
        wait = 5 | 1 << 5 | 2 << 32
        self.phys.write(self.queue + self.tail, pack("<8Q", *words, 0, 0, wait, self.status, 0, 0))
        self.tail = (self.tail + 64) % 8192
        self.unit.writel(r.IQT, self.tail)


def rows() -> Iterator[Row]:
    """Of the group "sva"."""
    b = _Bench()
    slot, addr = b.slot, b.addr

    def forget() -> None:
        b.submit(6 | 2 << 4 | 1 << 16 | SVA << 32, 0)

    def cold() -> None:
        forget()
        slot.dma_view(addr, PAGE_SIZE, write=False, pasid=SVA)

    def cold_nested() -> None:
        b.submit(2 | 2 << 4 | DID << 16, 0)
        slot.dma_read(GVA, 64, NESTED)

    def cold_entry() -> None:
        b.submit(7 | 1 << 4 | 1 << 16 | SVA << 32, 0)
        slot.dma_read(addr, 64, SVA)

    def request() -> None:
        at = b.unit.readl(r.PQH)
        b.unit.request_page(slot, addr, write=False, pasid=SVA, priv=False, done=lambda _code: None)
        group = b.phys.words[(b.unit.readq(r.PQA) + at >> 3) + 1] & 0xFF8
        b.unit.writel(r.PQH, (at + 32) % PAGE_SIZE)
        b.submit(9 | 1 << 4 | slot.source << 16 | SVA << 32, group | 4)

    def view() -> object:
        return slot.dma_view(addr, PAGE_SIZE, write=False, pasid=SVA)

    yield Row("SVA: a page's view, in the IOTLB", per_call(view, calls=5000), 3e-6)
    yield Row("SVA: 64 bytes read, in the IOTLB", per_call(lambda: slot.dma_read(addr, 64, SVA), calls=5000), 2e-6)
    yield Row("nested: 64 bytes read, in the IOTLB", per_call(lambda: slot.dma_read(GVA, 64, NESTED), calls=5000), 2e-6)
    floor = "an invalidation and its wait descriptor"
    yield Row(floor, per_call(forget, calls=1000))
    yield Row("SVA: a page's view, invalidated before", per_call(cold), None, floor)
    yield Row("SVA: 64 bytes read, PASID cache invalidated before", per_call(cold_entry), None, floor)
    yield Row("nested: 64 bytes read, invalidated before", per_call(cold_nested), None, floor)
    yield Row("a page request and its response", per_call(request), None, floor)
    b.process.exit()
    b.kernel.shutdown()
