"""
What a request reaches: physical memory, what tables say, a real process's memory, or nothing.

Each is a ``DmaSpace`` of a slot, made by the walk to a PASID entry and kept until that is invalidated. An access that a
cache knows is one dictionary look-up away from the bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from pykernel.hw.vtd.codes import Reason, VtdFault
from pykernel.hw.vtd.iotlb import Iotlb
from pykernel.mm.phys import PhysFault
from pykernel.pci.function import DmaFault
from pykernel.pci.irq import MSI_ADDRESS

if TYPE_CHECKING:
    from pykernel.hw.vtd.iotlb import Spans
    from pykernel.hw.vtd.unit import Requester
    from pykernel.hw.vtd.walk import Walk

__all__ = ["Blocked", "Process", "Silent", "Translated"]

PAGE = 4096


def _is_message(addr: int) -> bool:
    return addr & 0xFFF00000 == MSI_ADDRESS and not addr >> 32


class Blocked:
    """Every access is a fault that the unit may record."""

    __slots__ = ("_fault", "_requester")

    def __init__(self, requester: Requester, fault: VtdFault) -> None:
        self._requester, self._fault = requester, fault

    def read(self, addr: int, n: int) -> bytes:
        """Raises DmaFault."""
        self._requester.refuse(self._fault, addr, write=False)

    def write(self, addr: int, data: bytes | memoryview) -> None:
        """Raises DmaFault."""
        self._requester.refuse(self._fault, addr, write=True)

    def view(self, addr: int, n: int, *, write: bool) -> list[memoryview] | None:
        """Raises DmaFault."""
        self._requester.refuse(self._fault, addr, write=write)


class Silent:
    """Every access is refused, and nothing is recorded."""

    __slots__ = ("_reason",)

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def read(self, addr: int, n: int) -> bytes:
        """Raises DmaFault."""
        raise DmaFault(addr, write=False, reason=self._reason)

    def write(self, addr: int, data: bytes | memoryview) -> None:
        """Raises DmaFault."""
        raise DmaFault(addr, write=True, reason=self._reason)

    def view(self, addr: int, n: int, *, write: bool) -> list[memoryview] | None:
        """Raises DmaFault."""
        raise DmaFault(addr, write, self._reason)


class Translated:
    """
    A requester whose addresses go through tables.

    Args:
        requester: whose.
        walk: the tables.
        iotlb: what the unit remembers of them.
        device: the device-TLB, when translations are the device's to remember.
    """

    __slots__ = (
        "_iotlb", "_messages", "_requester", "_walk", "arena", "device", "phys",
        "rpages", "rspans", "tlb", "wpages", "wspans",
    )  # fmt: skip

    def __init__(self, requester: Requester, walk: Walk, iotlb: Iotlb, device: Iotlb | None) -> None:
        self._requester, self._walk, self._iotlb, self.device = requester, walk, iotlb, device
        self._messages = requester.pasid is None
        self.phys = walk.phys
        self.arena = self.phys.arena
        self.tlb = tlb = iotlb if device is None else device
        self.rpages, self.wpages, self.rspans, self.wspans = tlb.rpages, tlb.wpages, tlb.rspans, tlb.wspans

    def read(self, addr: int, n: int) -> bytes:
        """Read. Raises DmaFault."""
        pa = self.rpages.get(addr >> 12)
        if pa is not None:
            pa += addr & 4095
            if (addr & 4095) + n <= 4096:
                return self.arena[pa : pa + n]
        spans = self.rspans.get((addr, n)) or self._miss(addr, n, write=False)
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
        if self._messages and _is_message(addr):
            self._requester.slot.msi_write(addr, int.from_bytes(data[:4], "little"))
            return
        spans = self.wspans.get((addr, n)) or self._miss(addr, n, write=True)
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
        pa = (self.wpages if write else self.rpages).get(addr >> 12)
        if pa is not None:
            pa += addr & 4095
            if (addr & 4095) + n <= 4096:
                return [self.phys.ram[pa : pa + n]]
        spans = (self.wspans if write else self.rspans).get((addr, n)) or self._miss(addr, n, write=write)
        views = [self.phys.view(*span) for span in spans]
        return None if None in views else views  # type: ignore[return-value]

    def _miss(self, addr: int, n: int, *, write: bool) -> Spans:
        """What no cache of the requester's knows: of a device with a TLB the unit's may."""
        single = (addr & 4095) + n <= PAGE and n > 0
        iotlb = self._iotlb
        if self.device is not None:
            spans = self._known(iotlb, addr, n, single=single, write=write)
            if spans is not None:
                self._remember(self.device, addr, n, spans, single=single, write=write)
                return spans
        try:
            spans = self._walk.extents(addr, n, write=write)
            self._look_out_for_messages(spans, addr)
        except VtdFault as e:
            self._requester.refuse(e, addr, write=write)
        if self._requester.unit.trace:
            self._requester.unit.trace("vtd_translated", addr=addr, n=n, write=write, pa=spans[0][0] if spans else 0)
        self._remember(iotlb, addr, n, spans, single=single, write=write)
        if self.device is not None:
            self._remember(self.device, addr, n, spans, single=single, write=write)
        return spans

    @staticmethod
    def _known(iotlb: Iotlb, addr: int, n: int, *, single: bool, write: bool) -> Spans | None:
        if single:
            pa = (iotlb.wpages if write else iotlb.rpages).get(addr >> 12)
            if pa is not None:
                return [(pa + (addr & 4095), n)]
        return (iotlb.wspans if write else iotlb.rspans).get((addr, n))

    def _remember(self, tlb: Iotlb, addr: int, n: int, spans: Spans, *, single: bool, write: bool) -> None:
        if single:
            page = spans[0][0] & -PAGE
            if self.phys.is_ram(page):
                tlb.remember_page(addr, page, write=write)
                return
        tlb.remember(addr, n, spans, write=write)

    def _look_out_for_messages(self, spans: Spans, addr: int) -> None:
        """No translation may lead to the range of interrupt messages (VT-d 3.14)."""
        for pa, size in spans:
            if pa < MSI_ADDRESS + 0x100000 and pa + size > MSI_ADDRESS:
                legacy = self._requester.entry is not None and self._requester.entry.legacy
                raise VtdFault(Reason.INTERRUPT_ADDRESS if legacy else Reason.SM_INTERRUPT_ADDRESS, addr)


class Process:
    """
    The memory of a process whose page tables are not in RAM: the table's frame stands for it.

    What is not there is "page not present": nothing is recorded, and nothing is remembered.
    """

    __slots__ = ("_mem",)

    def __init__(self, mem: Any) -> None:
        self._mem = mem

    def read(self, addr: int, n: int) -> bytes:
        """Read. Raises DmaFault at the first page that is not there."""
        try:
            data: bytes = self._mem.read(addr, n)
        except OSError:
            self._refuse(addr, n, write=False, reason="not readable")
        return data

    def write(self, addr: int, data: bytes | memoryview) -> None:
        """Write. Raises DmaFault."""
        try:
            self._mem.write(addr, data)
        except OSError:
            self._refuse(addr, len(data), write=True, reason="not writable")

    def view(self, addr: int, n: int, *, write: bool) -> list[memoryview] | None:
        """None: it is another process's."""
        return None

    def _refuse(self, addr: int, n: int, *, write: bool, reason: str) -> NoReturn:
        first = addr
        for page in range(addr & -PAGE, addr + n, PAGE):
            try:
                self._mem.read(max(page, addr), 1)
            except OSError:
                first = max(page, addr)
                break
        raise DmaFault(first, write, reason)
