"""
What a virtual machine finds on its bus: a function whose every access is an access of the virtual processor.

Configuration space is reached through the memory-mapped window, BARs at the addresses that the kernel wrote into them.
Who answers - the VMM after an exit, or the host's device through a mapped page - is not known here.
"""

from __future__ import annotations

from typing import Final, Protocol

from pykernel.pci.config import ConfigSpace
from pykernel.pci.function import PciFunction
from pykernel.tools.vmm.layout import ECAM_BASE, ecam_offset
from pykernel.uapi.linux import pci_regs as r

__all__ = ["GuestBus", "TrappedConfig", "VfioFunction", "Window"]

BARS: Final = 6


class GuestBus(Protocol):
    """Loads and stores to guest-physical addresses, by the virtual processor that runs."""

    def mmio_read(self, gpa: int, size: int) -> int:
        """A load of 1, 2, 4 or 8 bytes."""
        ...

    def mmio_write(self, gpa: int, size: int, value: int) -> None:
        """A store."""

    def movdir64b(self, gpa: int, data: bytes) -> None:
        """MOVDIR64B."""


class TrappedConfig(ConfigSpace):
    """Configuration space behind the bus: none of its bytes are here."""

    def __init__(self, bus: GuestBus, address: str) -> None:
        super().__init__(0xFFFF, 0xFFFF, 0)
        self._bus = bus
        self._at = ECAM_BASE + ecam_offset(address)

    def get(self, off: int, size: int) -> int:
        """The same as a read: the function itself knows no better."""
        return self.read(off, size)

    def read(self, off: int, size: int) -> int:
        """Read *size* bytes (1, 2 or 4) at *off*."""
        return self._bus.mmio_read(self._at + off, size)

    def write(self, off: int, size: int, value: int) -> None:
        """Write *size* bytes at *off*."""
        self._bus.mmio_write(self._at + off, size, value)


class VfioFunction(PciFunction):
    """The function at *address* of a virtual machine's bus."""

    def __init__(self, bus: GuestBus, address: str) -> None:
        super().__init__(TrappedConfig(bus, address))
        self._bus = bus
        self._bars: dict[int, int] = {}

    # ------------------------------------------------------------------ configuration space
    def config_read(self, off: int, size: int) -> int:
        """Configuration read of 1, 2 or 4 bytes."""
        return self.config.read(off, size)

    def config_write(self, off: int, size: int, value: int) -> None:
        """Configuration write of 1, 2 or 4 bytes; one that moves a BAR is remembered."""
        self.config.write(off, size, value)
        if off < r.PCI_BASE_ADDRESS_0 + 4 * BARS and off + size > r.PCI_BASE_ADDRESS_0:
            self._bars.clear()

    def flr(self) -> None:
        """Function-level reset, by its control register."""
        at = self._find(r.PCI_CAP_ID_EXP)
        if at:
            control = self.config_read(at + r.PCI_EXP_DEVCTL, 2)
            self.config_write(at + r.PCI_EXP_DEVCTL, 2, control | r.PCI_EXP_DEVCTL_BCR_FLR)

    def _find(self, cap: int) -> int:
        at = self.config_read(r.PCI_CAPABILITY_LIST, 1)
        while at and self.config_read(at, 1) != cap:
            at = self.config_read(at + 1, 1)
        return at

    # ------------------------------------------------------------------ memory space
    def _address(self, bar: int, off: int) -> int:
        """The guest-physical address of a byte of *bar*."""
        base = self._bars.get(bar)
        if base is None:
            at = r.PCI_BASE_ADDRESS_0 + 4 * bar
            low = self.config_read(at, 4)
            high = self.config_read(at + 4, 4) if low & r.PCI_BASE_ADDRESS_MEM_TYPE_64 else 0
            base = self._bars[bar] = high << 32 | low & r.PCI_BASE_ADDRESS_MEM_MASK & 0xFFFFFFFF
        return base + off

    def mmio_read(self, bar: int, off: int, size: int) -> int:
        """A load from *bar*."""
        return self._bus.mmio_read(self._address(bar, off), size)

    def mmio_write(self, bar: int, off: int, size: int, value: int) -> None:
        """A store to *bar*."""
        self._bus.mmio_write(self._address(bar, off), size, value)

    def posted_write(self, bar: int, off: int, data: bytes) -> None:
        """MOVDIR64B to *bar*."""
        self._bus.movdir64b(self._address(bar, off), data)


class Window:
    """Registers at a guest-physical address, as a driver has them: readl(), writeq() and so on."""

    def __init__(self, bus: GuestBus, base: int) -> None:
        self._bus, self.base = bus, base

    def readl(self, off: int) -> int:
        """C: ``u32 readl()``."""
        return self._bus.mmio_read(self.base + off, 4)

    def readq(self, off: int) -> int:
        """C: ``u64 readq()``."""
        return self._bus.mmio_read(self.base + off, 8)

    def writel(self, off: int, value: int) -> None:
        """C: ``void writel()``."""
        self._bus.mmio_write(self.base + off, 4, value)

    def writeq(self, off: int, value: int) -> None:
        """C: ``void writeq()``."""
        self._bus.mmio_write(self.base + off, 8, value)
