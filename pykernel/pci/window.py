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


class BarWindow:
    """One BAR as a ``Window`` of physical memory."""

    __slots__ = ("_io", "base", "size")

    def __init__(self, dev: PciDev, bar: int, resource: Resource) -> None:
        self.base = resource.start
        self.size = resource.size
        self._io = MappedIo(Iomem(dev.kernel, dev.function, bar, 0, resource.size, dev.name, resource.start))

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
    """The BAR that has physical address *pa*."""
    for dev in pci.devices.values():
        for bar, resource in dev.resources.items():
            if bar < BARS and resource.flags & IORESOURCE_MEM and resource.start <= pa <= resource.end:
                return BarWindow(dev, bar, resource)
    return None
