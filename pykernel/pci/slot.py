"""Slots: the port that a piece of silicon is plugged into, and what the IOMMU layer does for its DMA."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from pykernel.mm.phys import PhysFault, PhysMem
from pykernel.pci.function import DmaFault, PciFunction
from pykernel.pci.irq import MSI_ADDRESS, Irqs

if TYPE_CHECKING:
    from pykernel.pci.core import Pci
    from pykernel.pci.dev import PciDev
    from pykernel.trace import Trace

__all__ = ["ADDRESS", "Answered", "DmaSpace", "NoSpace", "Physical", "Remapping", "Slot"]

Answered = Callable[[int], None]  # takes the code of a page response: 0 success, 1 invalid request, 15 failure
ADDRESS = re.compile(r"([0-9a-f]{4}):([0-9a-f]{2}):([01][0-9a-f])\.([0-7])")


class DmaSpace(Protocol):
    """What a function reaches without a PASID; the IOMMU layer puts one into each slot. All raise DmaFault."""

    def read(self, addr: int, n: int) -> bytes:
        """Read."""
        ...

    def write(self, addr: int, data: bytes | memoryview) -> None:
        """Write."""
        ...

    def view(self, addr: int, n: int, *, write: bool) -> list[memoryview] | None:
        """The bytes themselves, in pieces; None where they are not all RAM."""
        ...


class Remapping(Protocol):
    """The IOMMU between the slots and memory."""

    @property
    def enabled(self) -> bool:
        """Requests are translated."""
        ...

    def space(self, slot: Slot, pasid: int | None, *, priv: bool) -> DmaSpace:
        """What *slot* reaches now with *pasid*, or without one."""
        ...

    def keeps(self, space: DmaSpace) -> bool:
        """Whether the slot may keep *space* until it is told to forget it."""
        ...

    def request_page(self, slot: Slot, addr: int, write: bool, pasid: int | None, priv: bool, done: Answered) -> None:
        """PRI: *done* hears the response code."""


class Physical:
    """
    Bus addresses are physical: no IOMMU, or one that passes requests through.

    Args:
        messages: writes to the local APIC's range are interrupts.
    """

    __slots__ = ("messages", "phys", "slot")

    def __init__(self, slot: Slot, phys: PhysMem, *, messages: bool = True) -> None:
        self.slot = slot
        self.phys = phys
        self.messages = messages

    def read(self, addr: int, n: int) -> bytes:
        """Read. Raises DmaFault: nothing is there."""
        try:
            return self.phys.read(addr, n)
        except PhysFault as e:
            raise DmaFault(e.pa, write=False, reason="nothing answers at this physical address") from e

    def write(self, addr: int, data: bytes | memoryview) -> None:
        """Write; to the local APIC's range it is an interrupt message. Raises DmaFault."""
        if self.messages and addr & 0xFFF00000 == MSI_ADDRESS and not addr >> 32:
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


class NoSpace:
    """Of a slot whose function the kernel does not know, or of requests that nothing takes."""

    __slots__ = ("reason",)

    def __init__(self, reason: str = "the kernel knows no such requester") -> None:
        self.reason = reason

    def read(self, addr: int, n: int) -> bytes:
        """Raises DmaFault."""
        raise DmaFault(addr, write=False, reason=self.reason)

    def write(self, addr: int, data: bytes | memoryview) -> None:
        """Raises DmaFault."""
        raise DmaFault(addr, write=True, reason=self.reason)

    def view(self, addr: int, n: int, *, write: bool) -> list[memoryview] | None:
        """Raises DmaFault."""
        raise DmaFault(addr, write, self.reason)


class Fresh:
    """What a slot reaches is not known yet: the first access asks the IOMMU."""

    __slots__ = ("slot",)

    def __init__(self, slot: Slot) -> None:
        self.slot = slot

    def read(self, addr: int, n: int) -> bytes:
        """Raises DmaFault."""
        return self.slot.resolve().read(addr, n)

    def write(self, addr: int, data: bytes | memoryview) -> None:
        """Raises DmaFault."""
        self.slot.resolve().write(addr, data)

    def view(self, addr: int, n: int, *, write: bool) -> list[memoryview] | None:
        """Raises DmaFault."""
        return self.slot.resolve().view(addr, n, write=write)


class Slot:
    """
    A place on a root bus: the port of the function in it, and where its device is known.

    Attributes:
        source: bus and devfn: the requester ID.
        space: what requests without a PASID reach.
        spaces, privileged: what those with one reach, by PASID; a supervisor's.
    """

    def __init__(self, pci: Pci, address: str, function: PciFunction) -> None:
        self.pci = pci
        self.address = address
        self.function = function
        self.domain, self.bus_number = int(address[:4], 16), int(address[5:7], 16)
        self.source = self.bus_number << 8 | int(address[8:10], 16) << 3 | int(address[11])
        self.dev: PciDev | None = None
        self.space: DmaSpace = Fresh(self)
        self.spaces: dict[int, DmaSpace] = {}
        self.privileged: dict[int, DmaSpace] = {}
        function.port = self

    @property
    def gone(self) -> bool:
        """The function was pulled out."""
        return self.pci.slots.get(self.address) is not self

    @property
    def trace(self) -> Trace:
        """Where silicon that tells what it does can do so."""
        return self.pci.kernel.trace

    # ---- what the IOMMU says

    def resolve(self) -> DmaSpace:
        """What requests without a PASID reach; kept as long as the IOMMU allows."""
        if not isinstance(self.space, Fresh):  # who asks held an old one
            return self.space
        if self.dev is None:
            return NoSpace()
        unit = self.pci.remapping
        if unit is None:
            return Physical(self, self.pci.kernel.sub(PhysMem))
        space = unit.space(self, None, priv=False)
        if unit.keeps(space):
            self.space = space
        return space

    def _resolve_pasid(self, pasid: int, *, priv: bool) -> DmaSpace:
        unit = self.pci.remapping
        if self.dev is None or unit is None:
            return NoSpace("no IOMMU takes a PASID" if unit is None else "the kernel knows no such requester")
        space = unit.space(self, pasid, priv=priv)
        if unit.keeps(space):
            (self.privileged if priv else self.spaces)[pasid] = space
        return space

    def forget(self) -> None:
        """The next access asks the IOMMU again."""
        self.space = Fresh(self)
        self.spaces.clear()
        self.privileged.clear()

    def forget_pasid(self, pasid: int, *, rid: bool) -> None:
        """As forget(), of one PASID; *rid*: it is that of requests without one."""
        self.spaces.pop(pasid, None)
        self.privileged.pop(pasid, None)
        if rid:
            self.space = Fresh(self)

    # ---- the port

    def dma_read(self, addr: int, n: int, pasid: int | None = None, priv: bool = False) -> bytes:
        """Upstream read. Raises DmaFault."""
        if pasid is None:
            return self.space.read(addr, n)
        space = (self.privileged if priv else self.spaces).get(pasid)
        if space is None:
            space = self._resolve_pasid(pasid, priv=priv)
        return space.read(addr, n)

    def dma_write(self, addr: int, data: bytes | memoryview, pasid: int | None = None, priv: bool = False) -> None:
        """Upstream write. Raises DmaFault."""
        if pasid is None:
            self.space.write(addr, data)
            return
        space = (self.privileged if priv else self.spaces).get(pasid)
        if space is None:
            space = self._resolve_pasid(pasid, priv=priv)
        space.write(addr, data)

    def dma_view(
        self, addr: int, n: int, *, write: bool, pasid: int | None = None, priv: bool = False
    ) -> list[memoryview] | None:
        """The bytes themselves, in pieces; None where there is no such thing. Raises DmaFault."""
        if pasid is None:
            return self.space.view(addr, n, write=write)
        space = (self.privileged if priv else self.spaces).get(pasid)
        if space is None:
            space = self._resolve_pasid(pasid, priv=priv)
        return space.view(addr, n, write=write)

    def page_request(self, addr: int, write: bool, pasid: int | None) -> bool:
        """Page request; True when the page is there now. Waits for the response. Raises DmaFault: nobody takes it."""
        if self.dev is None:
            raise DmaFault(addr, write, "the kernel knows no such requester")
        answers: list[bool] = []
        self.page_request_async(addr, write, pasid, priv=False, done=answers.append)
        if not answers:
            self.pci.kernel.sched.idle_until(lambda: bool(answers), waits_for="a page response")
        return answers[0]

    def page_request_async(
        self, addr: int, write: bool, pasid: int | None, priv: bool, done: Callable[[bool], None]
    ) -> None:
        """Page request; *done* hears the answer: is the page there now?"""
        unit = self.pci.remapping
        if unit is not None and unit.enabled and self.dev is not None:
            unit.request_page(self, addr, write, pasid, priv, lambda code: done(code == 0))
        else:
            done(False)  # noqa: FBT003 - the answer

    def msi_write(self, address: int, data: int) -> None:
        """A message: an interrupt when it goes to the local APIC's range."""
        if address & 0xFFF00000 == MSI_ADDRESS:
            self.pci.kernel.sub(Irqs).message(address, data, self.dev)

    def intx(self, asserted: bool) -> None:
        """The interrupt pin."""
        if self.dev is not None:
            self.pci.kernel.sub(Irqs).set_level(self.dev.intx_irq, self, asserted=asserted)

    def reset_secondary(self, bus: int) -> None:
        """Reset the functions on *bus*, which the bridge in this slot has below it."""
        for slot in list(self.pci.slots.values()):
            if (slot.domain, slot.bus_number) == (self.domain, bus):
                slot.function.hot_reset()

    def call_soon(self, fn: Callable[[], None]) -> None:
        """Engine work."""
        self.pci.kernel.sched.call_soon(fn)
