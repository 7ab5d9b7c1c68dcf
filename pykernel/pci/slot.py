"""Slots: the port that a piece of silicon is plugged into, and what the IOMMU layer does for its DMA."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from pykernel.pci.function import DmaFault, PciFunction
from pykernel.pci.irq import MSI_ADDRESS, Irqs, message_irq

if TYPE_CHECKING:
    from pykernel.pci.core import Pci
    from pykernel.pci.dev import PciDev

__all__ = ["ADDRESS", "DmaSpace", "DmaTranslator", "NoSpace", "Slot"]

ADDRESS = re.compile(r"([0-9a-f]{4}):([0-9a-f]{2}):([01][0-9a-f])\.([0-7])")


class DmaTranslator(Protocol):
    """What the IOMMU layer gives the bus: DMA with PASIDs. All raise DmaFault."""

    def dma_read(self, pdev: PciDev, addr: int, n: int, pasid: int, priv: bool) -> bytes:
        """Read."""
        ...

    def dma_write(self, pdev: PciDev, addr: int, data: bytes | memoryview, pasid: int, priv: bool) -> None:
        """Write."""
        ...

    def dma_view(self, pdev: PciDev, addr: int, n: int, pasid: int, *, write: bool) -> list[memoryview] | None:
        """The bytes themselves."""
        ...

    def page_request(self, pdev: PciDev, addr: int, write: bool, pasid: int | None) -> bool:
        """PRI."""
        ...


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


class NoSpace:
    """Of a slot whose function the kernel does not know."""

    def read(self, addr: int, n: int) -> bytes:
        """Raises DmaFault."""
        raise DmaFault(addr, write=False, reason="the kernel knows no such requester")

    def write(self, addr: int, data: bytes | memoryview) -> None:
        """Raises DmaFault."""
        raise DmaFault(addr, write=True, reason="the kernel knows no such requester")

    def view(self, addr: int, n: int, *, write: bool) -> list[memoryview] | None:
        """Raises DmaFault."""
        raise DmaFault(addr, write, "the kernel knows no such requester")


class Slot:
    """A place on a root bus: the port of the function in it, and where its device is known."""

    def __init__(self, pci: Pci, address: str, function: PciFunction) -> None:
        self.pci = pci
        self.address = address
        self.function = function
        self.domain, self.bus_number = int(address[:4], 16), int(address[5:7], 16)
        self.dev: PciDev | None = None
        self.space: DmaSpace = NoSpace()
        function.port = self

    def _device(self, addr: int, *, write: bool) -> PciDev:
        if self.dev is None:
            raise DmaFault(addr, write, "the kernel knows no such requester")
        return self.dev

    def dma_read(self, addr: int, n: int, pasid: int | None = None, priv: bool = False) -> bytes:
        """Upstream read. Raises DmaFault."""
        if pasid is None:
            return self.space.read(addr, n)
        return self.pci.translator().dma_read(self._device(addr, write=False), addr, n, pasid, priv)

    def dma_write(self, addr: int, data: bytes | memoryview, pasid: int | None = None, priv: bool = False) -> None:
        """Upstream write. Raises DmaFault."""
        if pasid is None:
            self.space.write(addr, data)
            return
        self.pci.translator().dma_write(self._device(addr, write=True), addr, data, pasid, priv)

    def dma_view(self, addr: int, n: int, *, write: bool, pasid: int | None = None) -> list[memoryview] | None:
        """The bytes themselves, in pieces; None where there is no such thing. Raises DmaFault."""
        if pasid is None:
            return self.space.view(addr, n, write=write)
        return self.pci.translator().dma_view(self._device(addr, write=write), addr, n, pasid, write=write)

    def page_request(self, addr: int, write: bool, pasid: int | None) -> bool:
        """Page request; True when the page is there now."""
        return self.pci.translator().page_request(self._device(addr, write=write), addr, write, pasid)

    def page_request_async(
        self, addr: int, write: bool, pasid: int | None, priv: bool, done: Callable[[bool], None]
    ) -> None:
        """Page request, answered later: the silicon goes on with other things."""
        self.call_soon(lambda: done(self.page_request(addr, write, pasid)))

    def msi_write(self, address: int, data: int) -> None:
        """A message: an interrupt when it goes to the local APIC's range."""
        if address & 0xFFF00000 == MSI_ADDRESS:
            self.pci.kernel.sub(Irqs).raise_irq(message_irq(address, data))

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
