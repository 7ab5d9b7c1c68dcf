"""A machine whose remapping unit no driver touches, and tables in its RAM that are built by hand."""

from __future__ import annotations

from struct import pack
from typing import Any, cast

from pykernel.hw.vtd import regs as r
from pykernel.machine import parse
from pykernel.mm.phys import PhysMem
from pykernel.pci.config import ConfigSpace
from pykernel.pci.core import Pci
from pykernel.pci.function import PciFunction
from pykernel.pci.irq import Irqs
from pykernel.start import boot
from pykernel.uapi.linux import pci_regs

SOURCE = 0x6A08  # 6a:01.0
RW, US = 3, 4
LEGACY, SCALABLE = 0, 1
FIRST, SECOND, NESTED, PASS_THROUGH = 1, 2, 3, 4
EVENT_IRQ, PAGE_IRQ, DONE_IRQ = 90, 91, 92
GIB = 1 << 30


class Card(PciFunction):
    """A function that can only do DMA, with ATS if wanted."""

    def __init__(self, *, ats: bool) -> None:
        config = ConfigSpace(0x1234, 0x5678, 0x0B4000)
        config.add_bar(0, 0x1000)
        config.add_pcie(0x40, flags=2, devcap=0)
        if ats:
            config.add_ats(0x100)
        config.settle()
        super().__init__(config)
        if ats:
            config.put(0x100 + pci_regs.PCI_ATS_CTRL, 2, pci_regs.PCI_ATS_CTRL_ENABLE)


class Bench:
    """One machine: ``unit`` its IOMMU, ``slot`` the device that asks, and builders of tables."""

    def __init__(self, iommu: str = "", *, ats: bool = False, seconds: int = 1) -> None:
        self.kernel = boot(parse(f"cmdline = 'intel_iommu=off'\nmemory = '64M'\n[iommu]\n{iommu}"))
        self.kernel.up()
        pci = self.kernel.sub(Pci)
        self.slots = [pci.plug(f"0000:6a:{n + 1:02x}.0", Card(ats=ats)) for n in range(seconds)]
        pci.rescan()
        for slot in self.slots:
            cast("Any", slot.dev).set_master()
        self.slot: Any = self.slots[0]
        self.unit: Any = self.kernel.dmar
        self.phys = self.kernel.sub(PhysMem)
        self.raised: list[int] = []
        cast("Any", self.kernel.sub(Irqs)).raise_irq = self.raised.append
        self.root = self.page()
        self.mode = SCALABLE
        self.queue = self.status = self.tail = 0

    # ---- memory

    def move_root(self, pa: int) -> None:
        """The root table is at *pa* from now on."""
        self.root = pa

    def page(self, *words: int) -> int:
        """A frame with *words* in it."""
        pa = self.phys.alloc_page()
        self.put(pa, *words)
        return pa

    def put(self, pa: int, *words: int) -> None:
        """Words of 64 bits at *pa*."""
        self.phys.write(pa, pack(f"<{len(words)}Q", *words))

    def word(self, pa: int) -> int:
        """A word of 64 bits."""
        return int.from_bytes(self.phys.read(pa, 8), "little")

    # ---- tables

    def context(self, *words: int, source: int = SOURCE) -> int:
        """The context entry of *source*: where it is."""
        at = self.root + (source >> 8) * 16
        size, devfn = 16, source & 0xFF
        if self.mode == SCALABLE:
            at, size, devfn = at + (devfn >> 7) * 8, 32, devfn & 0x7F
        if not self.word(at) & 1:
            self.put(at, self.page() | 1)
        entry = (self.word(at) & -4096) + devfn * size
        self.put(entry, *words)
        return entry

    def scalable(self, *, flags: int = 9, rid_pasid: int = 0, pds: int = 7, source: int = SOURCE) -> None:
        """A context entry with a directory of PASIDs; *flags* 9 are P and PASIDE."""
        self.directory = self.phys.alloc_pages(1 << pds - 2 if pds > 2 else 1)
        self.context(self.directory | pds << 9 | flags, rid_pasid, 0, 0, source=source)

    def pasid(self, pasid: int, *words: int) -> int:
        """The PASID-table entry of *pasid*: where it is."""
        at = self.directory + (pasid >> 6) * 8
        if not self.word(at) & 1:
            self.put(at, self.page() | 1)
        entry = (self.word(at) & -4096) + (pasid & 63) * 64
        self.put(entry, *(words + (0,) * (8 - len(words))))
        return entry

    def first(self, pasid: int, root: int, *, did: int = 1, flags: int = 0) -> int:
        """An entry with first-stage tables."""
        return self.pasid(pasid, 1 | FIRST << 6, did, root | flags)

    def second(self, pasid: int, root: int, *, did: int = 5, flags: int = 0, aw: int = 2) -> int:
        """An entry with second-stage tables."""
        return self.pasid(pasid, 1 | SECOND << 6 | aw << 2 | root | flags, did)

    def nested(self, pasid: int, gpgd: int, root: int, *, did: int = 5, low: int = 0, flags: int = 0) -> int:
        """An entry with both: *gpgd* is an address of the second stage."""
        return self.pasid(pasid, 1 | NESTED << 6 | 2 << 2 | root | low, did, gpgd | flags)

    def map(self, root: int, addr: int, entry: int, *, level: int = 1, levels: int = 4, bits: int = RW | US) -> int:
        """Put *entry* at *level* of the tables at *root*; where it is."""
        table = root
        for at_level in range(levels, level, -1):
            at = table + (addr >> 9 * at_level + 3 & 511) * 8
            if not self.word(at) & 3:
                self.put(at, self.page() | bits)
            table = self.word(at) & ((1 << 52) - 4096)
        at = table + (addr >> 9 * level + 3 & 511) * 8
        self.put(at, entry)
        return at

    # ---- the unit

    def on(self) -> None:
        """Root table, interrupts, the queue, translation."""
        unit = self.unit
        for at, irq in ((r.FECTL, EVENT_IRQ), (r.PECTL, PAGE_IRQ), (r.IECTL, DONE_IRQ)):
            unit.writel(at + 4, irq)
            unit.writel(at + 8, 0xFEE00000)
            unit.writel(at, 0)
        unit.writeq(r.RTADDR, self.root | self.mode << 10)
        unit.writel(r.GCMD, r.SRTP)
        if not self.queue:
            self.queue, self.status = self.phys.alloc_pages(2), self.page()
        unit.writeq(r.IQA, self.queue | 1 << 11 | 1)
        unit.writel(r.GCMD, r.TE | r.QIE)

    def submit(self, *descriptors: tuple[int, ...]) -> None:
        """Descriptors of 256 bits into the queue."""
        for words in descriptors:
            self.put(self.queue + self.tail, *(words + (0,) * (4 - len(words))))
            self.tail = (self.tail + 32) % 8192
        self.unit.writel(r.IQT, self.tail)

    def wait(self, value: int = 2) -> int:
        """A wait descriptor that writes *value*; what is there then."""
        self.put(self.status, 0)
        self.submit((5 | 1 << 5 | value << 32, self.status))
        return self.word(self.status)

    def fault(self) -> tuple[int, int, int, int | None, bool] | None:
        """The fault record, taken out: reason, source, page, PASID, is it a write."""
        low, high = self.unit.readq(r.FRCD), self.unit.readq(r.FRCD + 8)
        if not high >> 63:
            return None
        self.unit.writel(r.FRCD + 12, 1 << 31)
        self.unit.writel(r.FSTS, r.PFO)
        pasid = high >> 40 & 0xFFFFF if high & 1 << 31 else None
        return high >> 32 & 0xFF, high & 0xFFFF, low, pasid, not high >> 62 & 1
