"""
The PCI core (drivers/pci/probe.c): root buses, slots and the devices that a scan finds in them.

The kernel meets silicon on this bus and nowhere else: a ``Slot`` is the port that a function is plugged into, a
``PciDev`` is the kernel's view of it, an ``Iomem`` is an ioremap()ed BAR.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable
from errno import ENODEV
from itertools import islice
from typing import TYPE_CHECKING, Any

from pykernel.base.class_ import Class
from pykernel.base.core import Device
from pykernel.errors import err
from pykernel.fs.sysfs import AttrGroup
from pykernel.lib.locking import Mutex
from pykernel.pci.dev import PciDev
from pykernel.pci.driver import PciBus, parse_ul
from pykernel.pci.function import PciFunction
from pykernel.pci.irq import Irqs
from pykernel.pci.slot import ADDRESS, DmaTranslator, Slot
from pykernel.uapi.linux import pci_regs as r

if TYPE_CHECKING:
    from pykernel.kernel import Kernel

__all__ = ["Pci", "PciBusClass", "PciBusDev"]

MMIO_32, MMIO_64 = 0xC0000000, 0x200000000000


class PciBusDev(Device):
    """A root bus as a device of class pci_bus."""

    attrs = AttrGroup("rescan", "cpuaffinity", "cpulistaffinity")

    def __init__(self, pci: Pci, name: str, bridge: Device) -> None:
        super().__init__(pci.kernel, name, parent=bridge, class_=pci.pci_bus_class)
        self.pci = pci

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


class Pci:
    """The PCI of one kernel: slots with silicon in them, and the devices that were found."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.slots: dict[str, Slot] = {}
        self.devices: dict[str, PciDev] = {}
        self.bridges: dict[str, Device] = {}
        self.rescan_remove = Mutex(kernel, "pci_rescan_remove_lock")
        self.translator: Callable[[], DmaTranslator] = _no_translator
        self._used: list[tuple[int, int]] = []  # (start, size), ascending
        self._full: dict[tuple[bool, int], int] = {}  # (window, size) -> below this no such range is free

    @property
    def bus(self) -> PciBus:
        """/sys/bus/pci."""
        return self.kernel.sub(PciBus)

    @property
    def pci_bus_class(self) -> Class:
        """/sys/class/pci_bus."""
        return self.kernel.sub(PciBusClass)

    def plug(self, address: str, function: PciFunction) -> Slot:
        """Put silicon into the slot at *address* ("0000:6a:01.0"); rescan() finds it. Raises ValueError."""
        if not ADDRESS.fullmatch(address):
            raise ValueError(f"{address!r} is no PCI address like '0000:6a:01.0'")
        if address in self.slots:
            raise ValueError(f"slot {address} is taken")
        slot = self.slots[address] = Slot(self, address, function)
        return slot

    def rescan(self) -> None:
        """Find what is in the slots, in address order. C: ``unsigned int pci_rescan_bus(struct pci_bus *)``."""
        found = []
        for address in sorted(self.slots):
            slot = self.slots[address]
            if slot.dev is None and slot.function.config_read(r.PCI_VENDOR_ID, 2) != 0xFFFF:
                found.append(self.add_function(slot, self._bridge(slot.address[:7])))
        for dev in found:
            dev.bus_add()

    def add_function(self, slot: Slot, bridge: Device, physfn: PciDev | None = None) -> PciDev:
        """Register what is in the slot; no driver gets it yet. C: ``pci_setup_device()``, ``pci_device_add()``."""
        with self.kernel.ledger.held(self.kernel.ledger.kernel):
            dev = slot.dev = PciDev(self, slot, bridge, physfn)
            self.devices[dev.name] = dev
            dev.register()
        return dev

    def _bridge(self, bus: str) -> Device:
        bridge = self.bridges.get(bus)
        if bridge is None:
            with self.kernel.ledger.held(self.kernel.ledger.kernel):
                bridge = self.bridges[bus] = Device(self.kernel, f"pci{bus}")
                bridge.register()
                PciBusDev(self, bus, bridge).register()
        return bridge

    def alloc_mmio(self, size: int, *, wide: bool) -> int:
        """An aligned range of the host bridge's window."""
        at = self._full.get((wide, size), MMIO_64 if wide else MMIO_32)
        first = max(0, bisect_left(self._used, (at, 0)) - 1)  # the one before may reach beyond *at*
        for start, used in islice(self._used, first, None):
            if start + used <= at:
                continue
            if at + size <= start:
                break
            at = -(-(start + used) // size) * size
        insort(self._used, (at, size))
        self._full[wide, size] = at + size
        return at

    def free_mmio(self, resources: Any) -> None:
        """Give ranges back."""
        gone = {(x.start, x.size) for x in resources}
        self._used = [u for u in self._used if u not in gone]
        self._full.clear()

    def intx_irq(self) -> int:
        """The pin's interrupt: one line for all, 11 as firmware likes it."""
        return self.kernel.sub(Irqs).legacy(11).irq


class PciBusClass(Class):
    """``pcibus_class``."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel, "pci_bus")
        self.register()


def _no_translator() -> DmaTranslator:
    raise err(ENODEV, "no IOMMU layer")
