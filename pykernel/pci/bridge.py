"""Buses: root buses of host bridges, and those below a bridge, with its windows (drivers/pci/probe.c, setup-bus.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pykernel.base.core import Device
from pykernel.fs.sysfs import AttrGroup
from pykernel.pci.driver import parse_ul
from pykernel.pci.resource import IORESOURCE_MEM, IORESOURCE_MEM_64, IORESOURCE_PREFETCH, Resource
from pykernel.uapi.linux import pci_regs as r

if TYPE_CHECKING:
    from pykernel.pci.core import Pci
    from pykernel.pci.dev import PciDev

__all__ = ["BRIDGE_MEM", "BRIDGE_PREF", "PciBusDev", "Windows"]

BRIDGE_MEM, BRIDGE_PREF = 14, 15  # PCI_BRIDGE_MEM_WINDOW, PCI_BRIDGE_PREF_MEM_WINDOW
GRAIN = 1 << 20


class Window:
    """A range of addresses that a bridge passes on, and what is free of it."""

    def __init__(self, start: int, size: int) -> None:
        self.start, self.size = start, size
        self.used: dict[int, int] = {}

    def alloc(self, size: int) -> int | None:
        """An aligned range, or None."""
        at = -(-self.start // size) * size
        for start, taken in sorted(self.used.items()):
            if at + size <= start:
                break
            at = max(at, -(-(start + taken) // size) * size)
        if at + size > self.start + self.size:
            return None
        self.used[at] = size
        return at


class Windows:
    """The windows of one bridge, large enough for what is plugged in below it when it is found."""

    def __init__(self, pci: Pci, bridge: PciDev) -> None:
        self.pci, self.bridge = pci, bridge
        low, high = (bridge.function.config_read(off, 1) for off in (r.PCI_SECONDARY_BUS, r.PCI_SUBORDINATE_BUS))
        self.first, self.last = low, high
        self.rooms: dict[bool, Window] = {}
        for wide, resource in ((False, BRIDGE_MEM), (True, BRIDGE_PREF)):
            size = self._needed(wide=wide)
            if size:
                start = pci.alloc_mmio(size, wide=wide, bus=bridge.pci_bus)
                self.rooms[wide] = Window(start, size)
                flags = IORESOURCE_MEM | (IORESOURCE_PREFETCH | IORESOURCE_MEM_64 | 1 if wide else 0)
                bridge.resources[resource] = Resource(start, size, flags)
        self._program()

    def _needed(self, *, wide: bool) -> int:
        """A power of two that holds all BARs below, virtual functions' too."""
        total = 0
        for slot in self.pci.slots.values():
            if slot.domain == self.bridge.domain and self.first <= slot.bus_number <= self.last:
                total += sum(-(-size // GRAIN) * GRAIN for size in slot.function.mmio_sizes(wide=wide))
        return 1 << (total - 1).bit_length() if total else 0

    def _program(self) -> None:
        write = self.bridge.function.config_write
        low, high = self.rooms.get(False), self.rooms.get(True)
        start, end = (low.start, low.start + low.size - 1) if low else (0xFFF00000, 0)
        write(r.PCI_MEMORY_BASE, 4, (end >> 20 & 0xFFF) << 20 | (start >> 20 & 0xFFF) << 4)
        start, end = (high.start, high.start + high.size - 1) if high else (0xFFF00000, 0)
        write(r.PCI_PREF_MEMORY_BASE, 4, (end >> 20 & 0xFFF) << 20 | (start >> 20 & 0xFFF) << 4)
        write(r.PCI_PREF_BASE_UPPER32, 4, start >> 32)
        write(r.PCI_PREF_LIMIT_UPPER32, 4, end >> 32)

    def alloc(self, size: int, *, wide: bool) -> int:
        """A range for a BAR below; what came later than the bridge and has no room there gets none of it."""
        room = self.rooms.get(wide)
        at = room.alloc(size) if room is not None else None
        return self.pci.alloc_mmio(size, wide=wide) if at is None else at

    def free(self, gone: set[tuple[int, int]]) -> None:
        """Give ranges back."""
        for room in self.rooms.values():
            room.used = {start: size for start, size in room.used.items() if (start, size) not in gone}


class PciBusDev(Device):
    """
    ``struct pci_bus`` and its device of class pci_bus.

    Attributes:
        bridge: what it is below: a host bridge's device or a bridge's.
        self_: the bridge; None of a root bus. C: ``bus->self``.
        pci_devices: the functions on it, in the order in which they were found.
    """

    attrs = AttrGroup("rescan", "cpuaffinity", "cpulistaffinity")

    def __init__(self, pci: Pci, name: str, bridge: Device, self_: PciDev | None = None) -> None:
        super().__init__(pci.kernel, name, parent=bridge, class_=pci.pci_bus_class)
        self.pci, self.bridge, self.self_ = pci, bridge, self_
        self.number = int(name[5:7], 16)
        self.pci_devices: list[PciDev] = []
        self.windows = Windows(pci, self_) if self_ is not None else None

    @property
    def is_root(self) -> bool:
        """C: ``bool pci_is_root_bus(struct pci_bus *)``."""
        return self.self_ is None

    def rescan_store(self, buf: str) -> None:
        """drivers/pci/pci-sysfs.c:bus_rescan_store(). Raises EINVAL."""
        if parse_ul(buf):
            with self.pci.rescan_remove:
                self.pci.rescan()

    def cpuaffinity_show(self) -> str:
        """cpuaffinity_show()."""
        return f"{(1 << self.kernel.machine.cpus) - 1:x}\n"

    def cpulistaffinity_show(self) -> str:
        """cpulistaffinity_show()."""
        n = self.kernel.machine.cpus
        return f"0-{n - 1}\n" if n > 1 else "0\n"
