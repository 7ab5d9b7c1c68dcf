"""
What a device reaches without a PASID: physical memory, what its domain's tables say, or nothing.

Each is a ``DmaSpace`` of the slot. An access that the IOTLB knows is one dictionary look-up away from the bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from pykernel.iommu.pgtable import NotMapped
from pykernel.mm.phys import PhysFault, PhysMem
from pykernel.pci.function import DmaFault
from pykernel.pci.irq import MSI_ADDRESS

if TYPE_CHECKING:
    from pykernel.iommu.iotlb import Spans
    from pykernel.iommu.paging import PagingDomain
    from pykernel.pci.slot import Slot

__all__ = ["Blocked", "Physical", "Translated"]

PAGE = 4096
Fault = Callable[..., NoReturn]  # (address, reason, *, write): tell it and raise DmaFault


def _is_message(addr: int) -> bool:
    return addr & 0xFFF00000 == MSI_ADDRESS and not addr >> 32


class Physical:
    """Bus addresses are physical: no IOMMU, or an identity domain."""

    __slots__ = ("phys", "slot")

    def __init__(self, slot: Slot, phys: PhysMem) -> None:
        self.slot = slot
        self.phys = phys

    def read(self, addr: int, n: int) -> bytes:
        """Read. Raises DmaFault: nothing is there."""
        try:
            return self.phys.read(addr, n)
        except PhysFault as e:
            raise DmaFault(e.pa, write=False, reason="nothing answers at this physical address") from e

    def write(self, addr: int, data: bytes | memoryview) -> None:
        """Write; to the local APIC's range it is an interrupt message. Raises DmaFault."""
        if _is_message(addr):
            self.slot.msi_write(addr, int.from_bytes(data[:4], "little"))
            return
        try:
            self.phys.write(addr, data)
        except PhysFault as e:
            raise DmaFault(e.pa, write=True, reason="nothing answers at this physical address") from e

    def view(self, addr: int, n: int, *, write: bool) -> list[memoryview] | None:
        """The bytes themselves, where it is all RAM."""
        view = self.phys.view(addr, n)
        return None if view is None else [view]


class Blocked:
    """A device without a domain, or in a blocked one: every access is a fault."""

    __slots__ = ("_fault", "_reason")

    def __init__(self, fault: Fault, reason: int) -> None:
        self._fault = fault
        self._reason = reason

    def read(self, addr: int, n: int) -> bytes:
        """Raises DmaFault."""
        self._fault(addr, self._reason, write=False)

    def write(self, addr: int, data: bytes | memoryview) -> None:
        """Raises DmaFault."""
        self._fault(addr, self._reason, write=True)

    def view(self, addr: int, n: int, *, write: bool) -> list[memoryview] | None:
        """Raises DmaFault."""
        self._fault(addr, self._reason, write=write)


class Translated:
    """A device in a domain with page tables."""

    __slots__ = ("_fault", "arena", "domain", "iotlb", "phys", "rpages", "rspans", "slot", "wpages", "wspans")

    def __init__(self, slot: Slot, domain: PagingDomain, fault: Fault) -> None:
        self.slot = slot
        self.domain = domain
        self.phys = domain.table.phys
        self.arena = self.phys.arena
        self.iotlb = domain.iotlb
        self.rpages, self.wpages = domain.iotlb.rpages, domain.iotlb.wpages
        self.rspans, self.wspans = domain.iotlb.rspans, domain.iotlb.wspans
        self._fault = fault

    def read(self, addr: int, n: int) -> bytes:
        """Read. Raises DmaFault."""
        pa = self.rpages.get(addr >> 12)
        if pa is not None:
            pa += addr & 4095
            if (addr & 4095) + n <= 4096:
                return self.arena[pa : pa + n]
        spans = self.rspans.get((addr, n)) or self._walk(addr, n, write=False)
        read = self.phys.read
        try:
            if len(spans) == 1:
                return read(spans[0][0], n)
            return b"".join([read(*span) for span in spans])
        except PhysFault as e:
            raise DmaFault(addr, write=False, reason=f"nothing answers at {e.pa:#x}") from e

    def write(self, addr: int, data: bytes | memoryview) -> None:
        """Write. Raises DmaFault: then nothing was written of RAM."""
        n = len(data)
        pa = self.wpages.get(addr >> 12)
        if pa is not None:
            pa += addr & 4095
            if (addr & 4095) + n <= 4096:
                self.arena[pa : pa + n] = data
                return
        if _is_message(addr):
            self.slot.msi_write(addr, int.from_bytes(data[:4], "little"))
            return
        spans = self.wspans.get((addr, n)) or self._walk(addr, n, write=True)
        self._store(addr, data, spans)

    def _store(self, addr: int, data: bytes | memoryview, spans: Spans) -> None:
        write = self.phys.write
        try:
            if len(spans) == 1:
                write(spans[0][0], data)
                return
            view = memoryview(data)
            done = 0
            for pa, size in spans:
                write(pa, view[done : done + size])
                done += size
        except PhysFault as e:
            raise DmaFault(addr, write=True, reason=f"nothing takes a write at {e.pa:#x}") from e

    def view(self, addr: int, n: int, *, write: bool) -> list[memoryview] | None:
        """The bytes themselves in pieces, where it is all RAM; a use counts as an access. Raises DmaFault."""
        spans = (self.wspans if write else self.rspans).get((addr, n)) or self._walk(addr, n, write=write)
        views = [self.phys.view(*span) for span in spans]
        return None if None in views else views  # type: ignore[return-value]

    def _walk(self, addr: int, n: int, *, write: bool) -> Spans:
        """The tables' answer, which the IOTLB remembers."""
        domain = self.domain
        if addr + n > domain.geometry.aperture_end + 1:
            self._fault(max(addr, domain.geometry.aperture_end + 1), domain.beyond, write=write)
        try:
            spans = domain.table.extents(addr, n, write=write, mark=domain.marks[write])
        except NotMapped as e:
            self._fault(max(e.addr, addr), domain.reason(e.pte, write=write), write=write)
        if (addr & 4095) + n <= PAGE and n:
            page = spans[0][0] & -PAGE
            if self.phys.is_ram(page):
                self.iotlb.remember_page(addr, page, write=write)
                return spans
        self.iotlb.remember(addr, n, spans, write=write)
        return spans
