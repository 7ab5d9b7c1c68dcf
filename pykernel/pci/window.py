"""BARs in the machine's physical address space: where a device's peer-to-peer DMA finds another device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pykernel.pci.iomem import Iomem, MappedIo
from pykernel.pci.resource import IORESOURCE_MEM, Resource

if TYPE_CHECKING:
    from pykernel.pci.core import Pci
    from pykernel.pci.dev import PciDev

__all__ = ["BarWindow", "bar_at"]

BARS = 6
PAGE_SHIFT = 12


class BarWindow:
    """One BAR as a ``Window`` of physical memory."""

    __slots__ = ("_bar", "_dev", "_io", "_resource", "base", "size")

    def __init__(self, dev: PciDev, bar: int, resource: Resource) -> None:
        self._dev, self._bar, self._resource = dev, bar, resource
        self.base = resource.start
        self.size = resource.size
        self._io = MappedIo(Iomem(dev.kernel, dev.function, bar, 0, resource.size, dev.name, resource.start))

    def stands(self, pci: Pci, pa: int) -> bool:
        """Whether it has *pa*, the device is still there, and so is its BAR: one that moves is another Resource."""
        dev = self._dev
        return (
            self.base <= pa < self.base + self.size
            and dev.resources.get(self._bar) is self._resource
            and pci.devices.get(dev.name) is dev
            and self._io.iomem.function is dev.function
        )

    def read(self, off: int, n: int) -> bytes:
        """Loads; all ones when memory decoding is off."""
        return self._io.read(off, n)

    def write(self, off: int, data: bytes) -> None:
        """Stores."""
        self._io.write(off, data)

    def dmwr(self, off: int, data: bytes) -> bool:
        """A deferrable memory write; True when accepted."""
        return self._io.enqcmd(off, data)


def bar_at(pci: Pci, pa: int) -> BarWindow | None:
    """The BAR that has physical address *pa*; who was found for a page is asked first."""
    known = pci.windows.get(pa >> PAGE_SHIFT)
    if known is not None:
        if known.stands(pci, pa):
            return known
        del pci.windows[pa >> PAGE_SHIFT]
    for dev in pci.devices.values():
        for bar, resource in dev.resources.items():
            if bar < BARS and resource.flags & IORESOURCE_MEM and resource.start <= pa <= resource.end:
                found = pci.windows[pa >> PAGE_SHIFT] = BarWindow(dev, bar, resource)
                return found
    return None
